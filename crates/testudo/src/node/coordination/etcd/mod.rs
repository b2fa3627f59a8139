//! A coordinator that is a real etcd: the log, its snapshot and the leader are keys.
//!
//! | key below `<prefix>/<cluster>/` | value |
//! | --- | --- |
//! | `log/<index, 20 digits>` | a command |
//! | `snapshot` | index of the last command in it, 8 bytes, then the machine |
//! | `leader` | the number of the node that leads; it goes with the node's lease |
//!
//! Invariants: a command is written at an index only if nothing stands there, the command before it
//! stands there (or the snapshot ends there), and the snapshot is the one that the writer knows; so
//! the log has no hole, and what a snapshot has replaced is never written again. All nodes apply the
//! keys in the order of their indices, so all machines are equal after equally many commands.
//!
//! Why reading does not follow the watch: a watch only says *that* something happened ([`watch`]);
//! what, is always read from the next index on. So a reconnect, a lost event, an etcd that was
//! restarted and a compaction of its history are all the same case, and none needs code.
//!
//! Why the JSON gateway and not the gRPC client: the gateway is part of every etcd from 3.4 on, and
//! three blocking calls over it need no async runtime in the daemon and no `protoc` on the machines
//! that build it.
//!
//! Leadership is told to end before the lease does: after `lease` less two calls without an answer
//! from etcd. It decides who plans; that two nodes plan at once for a moment would do no harm.
//!
//! Limits: no user names; who may do what is told by certificates, or by who reaches the etcd.
//! A machine of more than [`MAX_MACHINE`] bytes is refused, because etcd takes 1.5 MiB at most.
//! etcd's own history is the operator's to compact (`--auto-compaction-retention`).

mod client;
mod keys;
mod leadership;
mod log;
mod tls;
mod watch;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread;
use std::time::Duration;

use testudo_coordinator::StateMachine;
use testudo_packet::bucket::NodeId;
pub use tls::Tls;

/// The longest encoded machine.
pub const MAX_MACHINE: usize = 1 << 20;
/// How many requests of the node wait.
const MAX_REQUESTS: usize = 256;
/// How many answers wait for the node. Of those that don't fit, the latest machine and the latest
/// word on leadership are kept, and as many troubles.
const MAX_ANSWERS: usize = 64;
/// The longest time for one request to one member of etcd.
const CALL: Duration = Duration::from_secs(1);
/// The shortest lease: four calls, two of which are kept back.
const MIN_LEASE: Duration = Duration::from_secs(4);

/// What has to be known.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Below which key everything is, without the slash at its end.
    pub prefix: String,
    /// What no two clusters share; letters, digits, `-`, `_` and `.`.
    pub cluster: String,
    /// This node.
    pub node: NodeId,
    /// Where etcd's members listen for clients: `http://host:port`, or `https://host:port` for all.
    pub endpoints: Vec<String>,
    /// What https needs.
    pub tls: Option<Tls>,
    /// How long a leader that is gone still counts as one; whole seconds.
    pub lease: Duration,
    /// How many commands are kept behind a snapshot; after as many more the next one is made.
    pub snapshot_after: u64,
}

/// What the node asks for.
#[derive(Debug)]
pub enum Request {
    /// Bring this command to all machines. It may get lost.
    Propose(Vec<u8>),
    /// Don't lead for the next two leases.
    StepDown,
    /// Something may have changed: of the watch.
    #[doc(hidden)]
    Look,
}

/// What the node learns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<M> {
    /// The machine after the commands so far.
    Changed(M),
    /// Whether this node leads.
    Leads(bool),
    /// Something that an operator wants to know; the coordinator goes on.
    Trouble(String),
}

/// Why the coordinator can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The operator's fault.
    #[error("the settings for etcd can't be used: {0}")]
    Settings(String),
    /// The operator's fault.
    #[error("{}: {why}; expected PEM of certificates, or of one key", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The system refuses a thread.
    #[error("a thread can't be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// What the threads tell each other besides requests.
#[derive(Debug, Default)]
struct Flags {
    /// All have to end.
    stop: AtomicBool,
    /// The watch's request to look is on its way.
    hinted: AtomicBool,
}

/// The requests of the node are full: etcd does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_REQUESTS} requests wait for etcd already")]
pub struct Full;

/// A node's connection to etcd, on a thread of its own. Dropping it stops it.
#[derive(Debug)]
pub struct Etcd<M> {
    requests: SyncSender<Request>,
    answers: Receiver<Answer<M>>,
    flags: Arc<Flags>,
    worker: Option<thread::JoinHandle<()>>,
}

impl<M: StateMachine + Send + 'static> Etcd<M> {
    /// Starts. `machine` is the value before the first command.
    ///
    /// # Errors
    ///
    /// If the settings make no sense. That etcd can't be reached is a [`Answer::Trouble`].
    pub fn start(settings: Settings, machine: M) -> Result<Self, StartError> {
        check(&settings)?;
        let tls = settings.tls.as_ref().map(Tls::load).transpose()?;
        let (requests, inbox) = mpsc::sync_channel(MAX_REQUESTS);
        let (outbox, answers) = mpsc::sync_channel(MAX_ANSWERS);
        let flags = Arc::new(Flags::default());
        watch::start(&settings, tls.clone(), requests.clone(), flags.clone())?;
        let work = worker::Worker::new(settings, tls, machine, outbox);
        let shared = flags.clone();
        let worker = thread::Builder::new().name("etcd".to_owned()).spawn(move || {
            work.run(&inbox, &shared);
        })?;
        Ok(Self { requests, answers, flags, worker: Some(worker) })
    }
}

impl<M> Etcd<M> {
    /// Asks for something.
    ///
    /// # Errors
    ///
    /// If too much is asked for already. Nothing has happened.
    pub fn ask(&self, request: Request) -> Result<(), Full> {
        match self.requests.try_send(request) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => Err(Full),
        }
    }

    /// Where the answers come.
    pub fn answers(&self) -> &Receiver<Answer<M>> {
        &self.answers
    }
}

impl<M> Drop for Etcd<M> {
    fn drop(&mut self) {
        self.flags.stop.store(true, Ordering::Relaxed);
        let _ = self.ask(Request::Look);
        if let Some(worker) = self.worker.take() {
            // It ends after at most the call that it is in and the one that gives back the lease.
            let _ = worker.join();
        }
    }
}

fn check(settings: &Settings) -> Result<(), StartError> {
    let Settings { cluster, endpoints, tls, lease, snapshot_after, .. } = settings;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let refuse = |why: String| Err(StartError::Settings(why));
    if cluster.is_empty() || !cluster.chars().all(plain) {
        return refuse(format!(
            "the cluster is called {cluster:?}, expected letters, digits, -, _ or ."
        ));
    }
    if endpoints.is_empty() {
        return refuse("no endpoint".to_owned());
    }
    let scheme = if tls.is_some() { "https://" } else { "http://" };
    if let Some(other) = endpoints.iter().find(|endpoint| !endpoint.starts_with(scheme)) {
        return refuse(format!("the endpoint is {other:?}, expected {scheme}host:port"));
    }
    if *lease < MIN_LEASE || *snapshot_after == 0 {
        return refuse(format!(
            "a lease of {lease:?} and snapshots after {snapshot_after} commands, expected at \
             least {MIN_LEASE:?} and 1"
        ));
    }
    Ok(())
}
