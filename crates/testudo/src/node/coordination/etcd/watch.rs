//! A thread that says when there may be something new.
//!
//! It holds a watch on all keys of the cluster and takes every byte of it as a hint: that the watch
//! stands (what came before it is to be read), that a key changed, that the watch was cancelled.
//! A hint carries nothing, so there is never more than one waiting.

use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;
use ureq::tls::TlsConfig;

use super::keys::Keys;
use super::{Flags, Request, Settings, client};

/// A watch that has been silent for so long is renewed: a member that is cut off says nothing.
const SILENCE: Duration = Duration::from_secs(3);
/// Between two attempts at a watch.
const PAUSE: Duration = Duration::from_millis(200);

/// Starts the thread. It ends by itself within [`SILENCE`] after `stop` was set.
pub fn start(
    settings: &Settings,
    tls: Option<TlsConfig>,
    requests: SyncSender<Request>,
    flags: Arc<Flags>,
) -> std::io::Result<()> {
    let endpoints = settings.endpoints.clone();
    let (first, end) = Keys::new(&settings.prefix, &settings.cluster).all();
    let range = json!({ "key": BASE64.encode(first), "range_end": BASE64.encode(end) });
    let body = json!({ "create_request": range }).to_string();
    let work = move || {
        let agent = client::agent(tls, None, SILENCE);
        for endpoint in endpoints.iter().cycle() {
            if flags.stop.load(Ordering::Relaxed) {
                return;
            }
            if let Ok(answer) = agent.post(format!("{endpoint}/v3/watch")).send(&body) {
                let mut hints = answer.into_body().into_reader();
                let mut bytes = [0; 4096];
                while !flags.stop.load(Ordering::Relaxed)
                    && hints.read(&mut bytes).is_ok_and(|count| count > 0)
                {
                    if !flags.hinted.swap(true, Ordering::AcqRel)
                        && requests.try_send(Request::Look).is_err()
                    {
                        // The worker is busy; it looks before each command that it writes.
                        flags.hinted.store(false, Ordering::Release);
                    }
                }
            }
            thread::sleep(PAUSE);
        }
    };
    thread::Builder::new().name("etcd-watch".to_owned()).spawn(work).map(|_| ())
}
