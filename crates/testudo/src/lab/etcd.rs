//! The etcd of a lab whose nodes agree by one.
//!
//! Invariant: it is in a network namespace of its own, on the sync segment alone, with its data in the
//! lab's directory; what it has agreed on is gone with the lab.

use std::fs::File;
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Unable;
use super::plan::{Host, etcd_endpoint};
use super::process::Process;
use super::state::State;
use super::topology::Topology;

/// How long it may take to listen.
const LISTEN: Duration = Duration::from_secs(30);

/// Start the lab's etcd, the first time or again on its data; it listens when this returns.
pub fn start(state: &mut State, topology: &Topology) -> Result<Child> {
    let Some(etcd) = &mut state.etcd else { bail!("lab {} has no etcd", state.name) };
    let log = File::options().create(true).append(true).open(&etcd.log);
    let log = log.with_context(|| format!("open {}", etcd.log.display()))?;
    let clients = format!("http://{}", etcd_endpoint());
    // Alone, it has no peers to listen for.
    let peers = "http://127.0.0.1:2380";
    let mut command = Command::new("etcd");
    command
        .arg("--data-dir")
        .arg(&etcd.data)
        .args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients])
        .args(["--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers])
        .args(["--initial-cluster", &format!("default={peers}")])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0);
    let namespace = topology.namespace(Host::Etcd)?;
    let child = namespace.run(|| command.spawn())?.map_err(|error| {
        Unable(format!("needs the program etcd (Debian: etcd-server): {error}"))
    })?;
    etcd.process = Process::of(child.id() as i32).ok();
    let (process, log) = (etcd.process, etcd.log.clone());
    state.save()?;
    let begun = Instant::now();
    let patience = Duration::from_secs(1);
    while namespace.run(|| TcpStream::connect_timeout(&etcd_endpoint(), patience))?.is_err() {
        let ended = process.is_none_or(|process| !process.alive());
        if ended || begun.elapsed() > LISTEN {
            bail!("etcd does not listen on {}; what it wrote: {}", etcd_endpoint(), log.display());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(child)
}
