//! Notices new files, and puts them in force if they are good.
//!
//! Each [`LOOK`] the keeper looks at the files. When one has changed and then rested for a look, so that
//! a certificate and its key can be copied one after the other, or at once after a SIGHUP, all are read
//! anew. Good ones are in force from then on, for new handshakes; [`Handle::generation`] tells the
//! streams that there is something new. Bad ones are told in the log, in `testudo health` and
//! `testudo status`, and what was in force stays.
//!
//! Invariant: there are credentials in force at every moment, and only whole ones.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::{CredentialError, Credentials, Identity};
use crate::config::tls::Files;
use crate::node::health::{self, Finding};
use crate::pki::facts::Moment;

/// How far apart looks at the files are.
const LOOK: Duration = Duration::from_secs(1);

/// How far apart looks at whether a signal has come are.
const STEP: Duration = Duration::from_millis(100);

/// How far apart lines in the log about one certificate's end are.
const REMIND: Duration = Duration::from_secs(6 * 3600);

/// What is in force, for whoever needs it.
#[derive(Clone, Debug)]
pub struct Handle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    current: Mutex<Arc<Credentials>>,
    generation: AtomicU64,
    refused: Mutex<Option<String>>,
    refusals: AtomicU64,
}

impl Handle {
    /// The credentials that are in force.
    pub fn current(&self) -> Arc<Credentials> {
        self.shared.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Which credentials these are: a number that grows with each new ones.
    pub fn generation(&self) -> u64 {
        self.shared.generation.load(Ordering::Acquire)
    }

    /// Why the files that are there now are not in force, if they are not.
    pub fn refused(&self) -> Option<String> {
        self.shared.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often files were refused.
    pub fn refusals(&self) -> u64 {
        self.shared.refusals.load(Ordering::Relaxed)
    }

    fn put_in_force(&self, credentials: Credentials) {
        let shared = &self.shared;
        *shared.current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(credentials);
        *shared.refused.lock().unwrap_or_else(PoisonError::into_inner) = None;
        shared.generation.fetch_add(1, Ordering::Release);
    }

    fn refuse(&self, error: &CredentialError) {
        let shared = &self.shared;
        *shared.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
        shared.refusals.fetch_add(1, Ordering::Relaxed);
    }
}

/// What of a file tells that it has changed: when, how long, which.
type Mark = Option<(i64, i64, u64, u64)>;

fn mark(file: &Path) -> Mark {
    let seen = fs::metadata(file).ok()?;
    Some((seen.mtime(), seen.mtime_nsec(), seen.size(), seen.ino()))
}

/// Looks after the files.
pub struct Keeper {
    files: Files,
    identity: Identity,
    handle: Handle,
    /// What was read last, good or not.
    read: [Mark; 3],
    /// What the last look has seen.
    seen: [Mark; 3],
}

impl Keeper {
    /// Reads the files for the first time.
    pub fn open(files: Files, identity: Identity) -> Result<Self, CredentialError> {
        // Marks first: what changes while it is read is read again.
        let read = marks(&files);
        let credentials = Credentials::load(&files, &identity, Moment::now())?;
        tell_left_out(&credentials);
        let shared = Shared {
            current: Mutex::new(Arc::new(credentials)),
            generation: AtomicU64::new(1),
            refused: Mutex::default(),
            refusals: AtomicU64::new(0),
        };
        let handle = Handle { shared: Arc::new(shared) };
        Ok(Self { files, identity, handle, read, seen: read })
    }

    /// The way to what is in force.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Looks at the files once. `asked`: read them whether or not they have changed. Says whether
    /// they were read.
    pub fn look(&mut self, asked: bool, now: Moment) -> bool {
        let found = marks(&self.files);
        let rested = found == std::mem::replace(&mut self.seen, found);
        let ended = self.handle.current().ends() < now && self.handle.refused().is_none();
        if !asked && !ended && (found == self.read || !rested) {
            return false;
        }
        self.read = found;
        match Credentials::load(&self.files, &self.identity, now) {
            Ok(credentials) => {
                let (own, trusted) = (&credentials.own, credentials.authorities.len());
                tracing::info!(until = %own.not_after, trusted, "new certificates are in force");
                tell_left_out(&credentials);
                self.handle.put_in_force(credentials);
            }
            Err(error) => {
                tracing::error!(%error, "new certificates are refused; those before stay in force");
                self.handle.refuse(&error);
            }
        }
        true
    }

    /// How the certificates are, for health.
    pub fn finding(&self, now: Moment) -> Finding {
        let current = self.handle.current();
        let refused = self.handle.refused();
        let refused = refused.map(|why| format!("new certificates are refused: {why}"));
        match refused.into_iter().chain(current.warning(now)).collect::<Vec<_>>() {
            none if none.is_empty() => {
                let (until, trusted) = (current.own.not_after, current.authorities.len());
                Finding::Well(format!("valid until {until}; authorities trusted: {trusted}"))
            }
            warnings => Finding::Doubtful(warnings.join("; ")),
        }
    }

    /// Looks for as long as the process lives, in a thread of its own: reading files may wait.
    pub fn run(mut self, hangup: &AtomicBool, health: &health::Handle) {
        let mut reminder = Reminder::default();
        let mut rest = Duration::ZERO;
        loop {
            let asked = hangup.swap(false, Ordering::AcqRel);
            if asked || rest.is_zero() {
                rest = LOOK;
                let now = Moment::now();
                self.look(asked, now);
                reminder.remind(self.handle.current().warning(now));
                // If there is no room for it, the next look says it again.
                let _ = health.report_certificate(self.finding(now));
            }
            thread::sleep(STEP);
            rest = rest.saturating_sub(STEP);
        }
    }
}

/// Peers whose certificates are by these authorities are going to be refused.
fn tell_left_out(credentials: &Credentials) {
    for authority in &credentials.left_out {
        tracing::warn!(authority, "an authority is not trusted, though it is in the file");
    }
}

fn marks(files: &Files) -> [Mark; 3] {
    [&files.ca, &files.certificate, &files.key].map(|file| mark(file))
}

/// Tells of an end that is near, and again now and then.
#[derive(Default)]
struct Reminder {
    told: Duration,
}

impl Reminder {
    fn remind(&mut self, warning: Option<String>) {
        let Some(warning) = warning else {
            self.told = Duration::ZERO;
            return;
        };
        if self.told.is_zero() {
            tracing::warn!("{warning}");
            self.told = REMIND;
        }
        self.told = self.told.saturating_sub(LOOK);
    }
}
