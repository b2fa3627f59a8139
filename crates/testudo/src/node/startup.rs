//! From a configuration to a working node, step by step.
//!
//! Invariant: a step that fails leaves nothing behind. What the steps before it made is held by
//! values of this process (sockets, maps, programs on interfaces), and dropping them undoes it. The
//! steps that others notice come last: before the programs are attached nothing meets a packet, and
//! before the threads run no peer hears of this node.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use mio::Poll;
use mio::net::TcpListener;
use signal_hook::consts::SIGHUP;
use testudo_cluster::config::{Cluster, MAX_FLOWS, Settings, Timing};
use testudo_cluster::replica::Replica;
use testudo_datapath::{Sets, SharedTable, realtime};
use testudo_packet::bucket::NodeId;

use super::agreement::{Agreement, AgreementError};
use super::answers::Answerer;
use super::beginning::{self, Beginning};
use super::coordination::{self, Coordination};
use super::credentials::keeper::{self, Keeper};
use super::credentials::{CredentialError, Identity};
use super::engine::{self, Engine};
use super::handover::Successor;
use super::health::{self, WatchError, Watcher};
use super::heartbeat::{self, Heartbeats};
use super::interfaces::{InterfaceError, Links};
use super::mailbox::{Mailbox, Sender};
use super::requirements::{self, RequirementError};
use super::restart::Restarter;
use super::streams::{self, Streams};
use super::watchdog::{Turns, Watchdog};
use super::ways::Ways;
use crate::config::error::ConfigError;
use crate::config::{self, Config};
use crate::control::server::{Server, SocketError};
use crate::netlink;
use crate::operate::Operator;
use crate::rules::ruling::RulingError;

/// How many messages a thread may be behind with. Changes of ownership are folded by their sender,
/// and clients ask one question after the other, so tens would do.
const MAILBOX: usize = 1024;

/// Why a configuration is refused. Nothing has been touched.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The file is wrong in itself.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No cluster can run with what it says.
    #[error("{}: {source}", file.display())]
    Cluster {
        /// The file as it was named.
        file: PathBuf,
        /// What is wrong.
        source: testudo_cluster::config::ConfigError,
    },
}

/// Why a node could not start, or go on. What it had set up is undone.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The machine is not set up for it.
    #[error(transparent)]
    Requirement(#[from] RequirementError),
    /// A configured interface can't be used.
    #[error(transparent)]
    Interface(#[from] InterfaceError),
    /// Changes of routes would not be heard of.
    #[error("changes of routes and neighbours can't be heard of: {0}")]
    Ways(#[from] netlink::Error),
    /// There is no control socket.
    #[error(transparent)]
    Control(#[from] SocketError),
    /// There is no packet handling.
    #[error(transparent)]
    Datapath(#[from] testudo_datapath::Error),
    /// The node's own sync address can't be used.
    #[error(
        "no {protocol} socket on {address}, this node's sync address: {source}; expected an address \
         of this machine that no other process uses"
    )]
    Sync {
        /// UDP or TCP.
        protocol: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// The operating system refuses something that it has for everybody.
    #[error("{what}: {source}")]
    Os {
        /// What can't be done.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// Nobody could say whether this node is fit.
    #[error(transparent)]
    Health(#[from] WatchError),
    /// There is no agreement to take part in.
    #[error(transparent)]
    Agreement(#[from] AgreementError),
    /// The node could prove to nobody who it is.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// The rules can't come into force.
    #[error(transparent)]
    Rules(#[from] RulingError<InterfaceError>),
    /// There are no random numbers.
    #[error("no random number: {0}")]
    Random(#[from] getrandom::Error),
    /// The engine could not go on.
    #[error("the engine can't wait for its work: {0}")]
    Engine(io::Error),
}

/// What a configuration comes to.
pub struct Plan {
    config: Config,
    cluster: Arc<Cluster>,
}

impl Plan {
    /// Reads the certificates that the configuration names.
    pub fn credentials(&self) -> Result<Option<Keeper>, CredentialError> {
        let Some(files) = self.config.tls.clone() else { return Ok(None) };
        let members = self.config.members.iter().map(|member| member.name.clone()).collect();
        Keeper::open(files, Identity { members, own: self.config.own_id() }).map(Some)
    }
}

/// A node whose heartbeats have begun.
pub struct Started {
    /// To be run.
    pub engine: Engine,
    /// Answers while it is kept.
    pub server: Server,
    /// Watches while it is kept.
    pub health: Watcher,
}

/// Reads a configuration and checks it whole.
pub fn plan(file: &Path) -> Result<Plan, PlanError> {
    let config = config::load(file)?;
    let config::cluster::Timing { heartbeat, lease, takeover, formation } = config.cluster.timing;
    let config::agreement::Agreement { removal, handover, comparison, audit, min_voters, .. } =
        config.agreement;
    let overlap = match config.cluster.mode {
        config::cluster::Mode::Steered => Duration::ZERO,
        _ => config.agreement.overlap,
    };
    let witnesses = (0..).map(NodeId).zip(&config.members).filter(|(_, member)| member.witness);
    let settings = Settings {
        name: config.cluster.name.clone(),
        secret: *config.cluster.secret.bytes(),
        members: config.members.iter().map(|member| member.name.clone()).collect(),
        weights: config.members.iter().map(|member| member.weight.into()).collect(),
        witnesses: witnesses.map(|(node, _)| node).collect(),
        min_voters: min_voters.into(),
        node: config.own_id(),
        buckets: config.cluster.buckets,
        replicas: config.agreement.replicas,
        timing: Timing {
            heartbeat,
            lease,
            takeover,
            formation,
            removal,
            handover,
            overlap,
            comparison,
            audit,
        },
        max_flows: max_flows(&config),
        label: label(&config),
    };
    let refused = |source| PlanError::Cluster { file: file.to_owned(), source };
    let cluster = Arc::new(Cluster::new(settings).map_err(refused)?);
    Ok(Plan { config, cluster })
}

/// What all nodes have to have in common besides. Two keys in one etcd would be two agreements; and a packet would have
/// two owners, or none, among nodes that place it by different services or mappings.
fn label(config: &Config) -> String {
    let agreement = match &config.agreement.coordinator {
        config::agreement::Coordinator::Static => "static",
        config::agreement::Coordinator::Embedded => "embedded",
        config::agreement::Coordinator::Etcd(at) => &format!("etcd {}", at.prefix),
    };
    let placed = match config.likenesses().digest() {
        0 => String::new(),
        digest => format!(" {digest:016x}"),
    };
    format!("{} {agreement}{placed}", config.cluster.mode.name())
}

/// As many flows as all node tables have slots, so that no flow that some node has is refused.
fn max_flows(config: &Config) -> usize {
    (config.node.table_entries as usize).saturating_mul(config.members.len()).min(MAX_FLOWS)
}

/// The mailboxes of the threads, both ends.
struct Mail {
    engine: (Sender<engine::Input>, Mailbox<engine::Input>),
    heartbeats: (Sender<heartbeat::Input>, Mailbox<heartbeat::Input>),
    coordination: (Sender<coordination::Input>, Mailbox<coordination::Input>),
}

impl Mail {
    fn new() -> Result<Self, StartError> {
        let failed =
            |errno: nix::errno::Errno| os("no descriptor to wake a thread by")(errno.into());
        Ok(Self {
            engine: Mailbox::new(MAILBOX).map_err(failed)?,
            heartbeats: Mailbox::new(MAILBOX).map_err(failed)?,
            coordination: Mailbox::new(MAILBOX).map_err(failed)?,
        })
    }
}

/// Prepares what would take a node time that goes on where another process stops, over what that has lent under this
/// number. Nothing else is touched, and others who want the processor come first.
pub fn prepare(plan: &Plan, number: i32) -> Result<(), StartError> {
    realtime::give_way().map_err(os("this process can't give way to others"))?;
    requirements::raise_limits();
    let links = Links::resolve(&plan.config.interfaces)?;
    beginning::prepare(&plan.config, &links, number)
}

/// Starts a node. It is no member and has no buckets yet, and the others admit it; or it goes on where
/// the process before has stopped, if that can be done.
pub fn start(plan: Plan, resume: Option<i32>) -> Result<Started, StartError> {
    let keeper = plan.credentials()?;
    let credentials = keeper.as_ref().map(Keeper::handle);
    let Plan { config, cluster } = plan;
    requirements::check()?;
    requirements::raise_limits();
    let links = Links::resolve(&config.interfaces)?;
    let mail = Mail::new()?;
    let table = Arc::new(OnceLock::new());
    let health = watch(&config, &mail)?;
    let known = (table.clone(), credentials.clone());
    let server = serve(&config, &cluster, &mail, known, (links.clone(), health.handle()))?;
    let agreement = Agreement::prepare(&config, &cluster)?;
    let beginning = Beginning::find(&config, &cluster, &links, resume)?;
    let own = config.own_member().sync;
    let (datagrams, listener) = (datagram_socket(own)?, stream_socket(own)?);
    let turns = Turns::default();
    let heartbeats = heartbeat::Parts {
        cluster: cluster.clone(),
        membership: beginning.membership,
        socket: datagrams,
        addresses: config.members.iter().map(|member| member.sync).collect(),
        lease: beginning.lease,
        engine: mail.engine.0.clone(),
        coordination: mail.coordination.0.clone(),
        health: health.handle(),
        mailbox: mail.heartbeats.1,
        watchdog: Watchdog::new(turns.clone()),
    };
    let successor = Successor::find().map_err(os("this program does not know its own path"))?;
    let restart = Restarter::new(successor, mail.engine.0.clone(), mail.heartbeats.0.clone());
    let coordination = agreement.parts(
        &config,
        cluster.clone(),
        mail.coordination.1,
        (mail.engine.0, mail.heartbeats.0.clone()),
        (health.handle(), restart),
    );
    let poll = Poll::new().map_err(os("no descriptor to wait with"))?;
    let streams = streams(&config, &poll, listener, (&beginning.replica, credentials))?;
    let shared: SharedTable = beginning.datapath.table().clone();
    let sets = beginning.datapath.sets().clone();
    let mut engine = Engine::new(engine::Parts {
        stations: beginning.stations,
        cluster,
        datapath: beginning.datapath,
        replica: beginning.replica,
        streams,
        poll,
        mailbox: mail.engine.1,
        heartbeats: mail.heartbeats.0,
        coordination: mail.coordination.0,
        health: health.handle(),
        timeouts: config.timeouts,
        ruling: beginning.ruling,
        turns,
    })
    .map_err(os("the engine's mailbox can't be waited for"))?;
    if beginning.resumed {
        go_on(&mut engine, sets)?;
    }
    spawn("heartbeat", move || Heartbeats::new(heartbeats).run())?;
    if let Some(keeper) = keeper {
        keep(keeper, health.handle())?;
    }
    spawn("coordination", move || Coordination::new(coordination).run())?;
    // Nobody else sets it; from here on questions have somebody to answer them.
    let _ = table.set(shared);
    Ok(Started { engine, server, health })
}

/// Takes up what the process before knew of flows, and takes out its sets: its rules are in force no more.
fn go_on(engine: &mut Engine, sets: Sets) -> Result<(), StartError> {
    let flows = engine.recollect();
    tracing::info!(flows, "this process goes on where the one before has stopped");
    spawn("sets", move || {
        if let Err(error) = sets.sweep_others() {
            tracing::warn!(%error, "sets of prefixes that no rule names could not be taken out");
        }
    })
}

/// Has this node's health watched, and the ways that its kernel sends packets.
fn watch(config: &Config, mail: &Mail) -> Result<Watcher, StartError> {
    let ways = Ways::listen(mail.engine.0.clone())?;
    spawn("ways", move || ways.run())?;
    let heartbeats = mail.heartbeats.0.clone();
    let tap = config.node.tap.iter().cloned();
    let names = config.interfaces.iter().map(|interface| interface.name.clone());
    Ok(Watcher::start(health::Parts {
        interfaces: names.chain(tap).collect(),
        probes: config.probes.clone(),
        health: config.health,
        certificate: config.tls.is_some(),
        on_change: Box::new(move |snapshot| {
            tracing::warn!(fit = snapshot.fit, "this node's fitness has changed");
            // If there is no room for it, the next change says more.
            let _ = heartbeats.send(heartbeat::Input::Fit(snapshot.fit));
        }),
    })?)
}

/// Looks after the certificates from now on, and at once when it is told to.
fn keep(keeper: Keeper, health: health::Handle) -> Result<(), StartError> {
    let hangup = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGHUP, hangup.clone()).map_err(os("a signal can't be handled"))?;
    spawn("certificates", move || keeper.run(&hangup, &health))
}

/// Begins a thread that ends with the process.
fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), StartError> {
    let builder = thread::Builder::new().name(name.to_owned());
    builder.spawn(work).map_err(os("no thread"))?;
    Ok(())
}

fn serve(
    config: &Config,
    cluster: &Arc<Cluster>,
    mail: &Mail,
    (table, credentials): (Arc<OnceLock<SharedTable>>, Option<keeper::Handle>),
    (links, health): (Links, health::Handle),
) -> Result<Server, StartError> {
    let operator = Operator::new(cluster.clone(), mail.coordination.0.clone(), health);
    let answerer = Answerer {
        cluster: cluster.clone(),
        mode: config.cluster.mode,
        table,
        credentials,
        engine: mail.engine.0.clone(),
        heartbeats: mail.heartbeats.0.clone(),
        operator,
        links,
        interfaces: config.interfaces.clone(),
        services: config.services.clone(),
        mappings: config.mappings.clone(),
        configured: config.node.rules.clone(),
        scanned: Mutex::default(),
    };
    Ok(Server::start(&config.node.control, move |request| answerer.answer(request))?)
}

fn datagram_socket(address: SocketAddr) -> Result<UdpSocket, StartError> {
    let failed = |source| StartError::Sync { protocol: "UDP", address, source };
    let socket = UdpSocket::bind(address).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    Ok(socket)
}

fn stream_socket(address: SocketAddr) -> Result<TcpListener, StartError> {
    let protocol = "TCP";
    TcpListener::bind(address).map_err(|source| StartError::Sync { protocol, address, source })
}

fn streams(
    config: &Config,
    poll: &Poll,
    listener: TcpListener,
    (replica, credentials): (&Replica, Option<keeper::Handle>),
) -> Result<Streams, StartError> {
    let registry = poll.registry().try_clone().map_err(os("no descriptor to wait with"))?;
    let members = &config.members;
    let peers = replica.connects_to().map(|peer| (peer, members[usize::from(peer.0)].sync));
    let parts = streams::Parts {
        registry,
        listener,
        own: config.own_member().sync,
        members: members.iter().map(|member| member.sync).collect(),
        peers: peers.collect(),
        credentials,
    };
    Streams::new(parts).map_err(os("streams can't be waited for"))
}

fn os(what: &'static str) -> impl FnOnce(io::Error) -> StartError {
    move |source| StartError::Os { what, source }
}
