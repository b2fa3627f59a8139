//! The heartbeat thread: it drives [`Membership`] and writes the lease.
//!
//! Invariant: nothing here waits for anything but the clock and its own socket. Loading a million
//! entries, a slow peer or a curious client must not cost a node its lease, so bulk work is another
//! thread's, and what goes there goes through a mailbox that never blocks.
//!
//! The thread runs in a real-time class where that is permitted. A nice value would not do: the
//! kernel weighs it within the session or control group only, and other groups that are busy then
//! hold the thread back for tens of milliseconds. So it rests after each flood of datagrams.
//!
//! It also watches the engine: a node that keeps its lease while its engine hangs would own buckets
//! and replicate nothing, so the process is ended instead and a successor takes them.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use testudo_cluster::config::Cluster;
use testudo_cluster::heartbeat::{HEARTBEAT_BYTES, HeartbeatError, Incarnation, Role};
use testudo_cluster::map::{Map, Version};
use testudo_cluster::membership::{
    Cause, Counters, Frozen, Membership, Notice, Output, PeerStatus, Unsettled,
};
use testudo_datapath::kernel::LeaseHandle;
use testudo_datapath::realtime;
use testudo_packet::bucket::{BucketId, Epoch, Nanos, NodeId};

use super::clock;
use super::coordination;
use super::engine;
use super::health::Handle;
use super::mailbox::{Mailbox, Sender};
use super::throttle::Throttle;
use super::watchdog::Watchdog;

/// What the heartbeat thread is told and asked.
#[derive(Debug)]
pub enum Input {
    /// The slots no longer name this node for what it gave up before this life.
    Released(Incarnation),
    /// This was agreed on.
    Map(Arc<Map>),
    /// Whether this node is fit to own buckets.
    Fit(bool),
    /// Whether the common table is complete, and by which version of the map.
    Synced(Option<Version>),
    /// A peer has handed a bucket over to this node.
    HandedOver {
        /// Which bucket.
        bucket: BucketId,
        /// Which peer.
        from: NodeId,
        /// By which version of the map.
        since: Version,
    },
    /// A bucket that is to be another's is not handled here any more.
    GivenUp {
        /// Which bucket.
        bucket: BucketId,
        /// The epoch under which its next owner will own it.
        epoch: Epoch,
    },
    /// Its next owner knows all of it.
    Delivered {
        /// Which bucket.
        bucket: BucketId,
        /// The epoch under which its next owner owns it.
        epoch: Epoch,
    },
    /// The process is to be replaced: ask the others to keep its place for so long.
    Pause(Duration),
    /// It is not, after all.
    PauseEnded,
    /// Is a pause asked for, and is it granted?
    AskPause(SyncSender<(bool, bool)>),
    /// Say nothing any more, and do nothing, until `held` is let go.
    Freeze {
        /// The way back.
        answers: SyncSender<Result<Frozen, Unsettled>>,
        /// What ends with the attempt.
        held: Receiver<()>,
    },
    /// How is the node? The answer goes back this way.
    Ask(SyncSender<View>),
}

/// A node's part in the cluster at one moment.
#[derive(Debug)]
pub struct View {
    /// What it is to the cluster.
    pub role: Role,
    /// How long its lease lasts, if it has one.
    pub lease: Option<Duration>,
    /// The agreed map that it goes by.
    pub map: Arc<Map>,
    /// The others.
    pub peers: Vec<PeerStatus>,
    /// How often things happened.
    pub counters: Counters,
}

/// How many datagrams are taken between two ticks at most: about what a socket's buffer holds, so
/// that all that had come is handled before silence is judged, and a flood can't put that off.
const MAX_DATAGRAMS: usize = 512;

/// How often the planner is told how all nodes stand.
const STANDINGS: Duration = Duration::from_millis(20);

/// How long the thread rests when there were more.
const REST: Duration = Duration::from_millis(1);

/// The shortest wait, so that something that is due and never done can't make the thread spin at its
/// high priority. A lease ends by the kernel's clock, not by this thread's being in time.
const LEAST_WAIT: Duration = Duration::from_micros(100);

/// One byte more than a heartbeat, so that a longer datagram does not pass for one.
const BUFFER: usize = HEARTBEAT_BYTES + 1;

/// The heartbeat thread.
pub struct Heartbeats {
    cluster: Arc<Cluster>,
    membership: Membership,
    socket: UdpSocket,
    addresses: Vec<SocketAddr>,
    lease: Option<LeaseHandle>,
    engine: Sender<engine::Input>,
    coordination: Sender<coordination::Input>,
    mailbox: Mailbox<Input>,
    watchdog: Watchdog,
    health: Handle,
    standings_due: Nanos,
    rejected: Throttle,
    unsent: Throttle,
    late: Throttle,
}

/// What the heartbeat thread works with.
pub struct Parts {
    /// The cluster.
    pub cluster: Arc<Cluster>,
    /// This node's part in the cluster: at its beginning, or as another process has left it.
    pub membership: Membership,
    /// Bound to the node's sync address.
    pub socket: UdpSocket,
    /// Where the members hear heartbeats, in their order.
    pub addresses: Vec<SocketAddr>,
    /// The kernel's lease; a witness handles no packets.
    pub lease: Option<LeaseHandle>,
    /// The engine's mailbox.
    pub engine: Sender<engine::Input>,
    /// The coordination thread's.
    pub coordination: Sender<coordination::Input>,
    /// Where it is told how late this thread was.
    pub health: Handle,
    /// This thread's own.
    pub mailbox: Mailbox<Input>,
    /// What the engine shows its life by.
    pub watchdog: Watchdog,
}

impl Heartbeats {
    /// The heartbeats of a node that has just started.
    pub fn new(parts: Parts) -> Self {
        Self {
            membership: parts.membership,
            cluster: parts.cluster,
            socket: parts.socket,
            addresses: parts.addresses,
            lease: parts.lease,
            engine: parts.engine,
            coordination: parts.coordination,
            mailbox: parts.mailbox,
            watchdog: parts.watchdog,
            health: parts.health,
            standings_due: Nanos(0),
            rejected: Throttle::default(),
            unsent: Throttle::default(),
            late: Throttle::default(),
        }
    }

    /// Goes on until the process ends.
    pub fn run(mut self) -> ! {
        if let Err(error) = realtime::run_before_ordinary_threads() {
            tracing::warn!(
                %error,
                "heartbeats run like ordinary threads; expected CAP_SYS_NICE; on a busy machine \
                 the node may lose its lease"
            );
        }
        loop {
            self.wait();
            self.receive();
            self.read_mail();
            let now = clock::now();
            self.membership.handle_tick(now);
            self.carry_out();
            self.tell_standings(now);
            self.watchdog.check(now);
        }
    }

    /// Waits for a datagram, a message or the next thing to do. `ppoll` takes nanoseconds; the
    /// timeout of a socket is rounded up to the kernel's tick, several milliseconds on some.
    ///
    /// It never waits longer than a heartbeat, so that a lease that needs nobody else is renewed as
    /// often as others are, and never less than [`LEAST_WAIT`].
    fn wait(&mut self) {
        let begun = clock::now();
        let heartbeat = self.cluster.timing().heartbeat;
        let due = Duration::from_nanos(self.membership.next_wakeup().0.saturating_sub(begun.0));
        let wait = due.min(heartbeat).max(LEAST_WAIT);
        let mut fds = [
            PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.mailbox.as_fd(), PollFlags::POLLIN),
        ];
        match ppoll(&mut fds, Some(TimeSpec::from_duration(wait)), None) {
            Ok(_) | Err(Errno::EINTR) => {}
            // Only ENOMEM is left. Going on at once is right: there is a lease to keep.
            Err(error) => tracing::error!(%error, "the heartbeat thread could not wait"),
        }
        self.tell_lateness(begun, wait + heartbeat);
    }

    /// A thread that was not let run looks to its peers like a dead one. That is the machine's doing,
    /// and an operator who reads it need not look for it in the network.
    fn tell_lateness(&mut self, begun: Nanos, tolerated: Duration) {
        let now = clock::now();
        let waited = clock::between(begun, now);
        self.health.measure_lateness(waited.saturating_sub(tolerated));
        if waited > tolerated
            && let Some(held_back) = self.late.admit(now)
        {
            let ms = waited.as_millis();
            tracing::warn!(
                ms,
                held_back,
                "the heartbeat thread was not let run for too long: the machine is overloaded, or \
                 was stopped"
            );
        }
    }

    /// Takes in what has come. After more than a turn's share the thread rests, and the kernel drops
    /// what its socket can't hold: a real-time thread that never sleeps would take a whole CPU.
    fn receive(&mut self) {
        let mut buffer = [0; BUFFER];
        for _ in 0..MAX_DATAGRAMS {
            let (length, from) = match self.socket.recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // An ICMP error that an earlier datagram caused, or an interruption.
                Err(_) => continue,
            };
            // The clock is read after the datagram was: it must not look older than it is.
            let now = clock::now();
            if let Err(error) = self.membership.handle_datagram(now, &buffer[..length]) {
                self.rejected(now, from, &error);
            }
            self.carry_out();
        }
        thread::sleep(REST);
    }

    fn rejected(&mut self, now: Nanos, from: SocketAddr, error: &HeartbeatError) {
        // What was overtaken on its way is everyday life, and counted.
        if matches!(error, HeartbeatError::Late { .. }) {
            return;
        }
        if let Some(held_back) = self.rejected.admit(now) {
            tracing::warn!(%from, %error, held_back, "a heartbeat was rejected");
        }
    }

    fn read_mail(&mut self) {
        self.mailbox.acknowledge();
        while let Some(input) = self.mailbox.take() {
            let (now, membership) = (clock::now(), &mut self.membership);
            match input {
                Input::Released(incarnation) => membership.handle_released(now, incarnation),
                Input::Map(map) => {
                    membership.handle_map(now, map);
                    self.standings_due = now;
                }
                Input::Fit(fit) => membership.handle_fitness(now, fit),
                Input::Synced(version) => membership.handle_synced(now, version),
                Input::HandedOver { bucket, from, since } => {
                    membership.handle_handed_over(now, bucket, from, since);
                }
                Input::GivenUp { bucket, epoch } => membership.handle_given_up(now, bucket, epoch),
                Input::Delivered { bucket, epoch } => {
                    membership.handle_delivered(now, bucket, epoch);
                }
                Input::Pause(ask) => membership.handle_pause(now, ask),
                Input::PauseEnded => membership.handle_pause_ended(now),
                Input::AskPause(reply) => {
                    let granted = membership.paused_until(now).is_some();
                    let _ = reply.try_send((membership.is_pausing(), granted));
                }
                Input::Freeze { answers, held } => self.freeze(&answers, &held),
                Input::Ask(reply) => {
                    // Who asked may have given up meanwhile.
                    let _ = reply.try_send(self.view());
                }
            }
            self.carry_out();
        }
    }

    /// Rests while the process is replaced. There is no limit to that: to go on while somebody might
    /// still leave this membership to another process would be to have two of it. Its lease ends in time.
    fn freeze(&mut self, answers: &SyncSender<Result<Frozen, Unsettled>>, held: &Receiver<()>) {
        let frozen = self.membership.freeze(clock::now());
        let rests = frozen.is_ok();
        if answers.try_send(frozen).is_ok() && rests {
            // Nothing is ever sent: it ends when the other side is dropped.
            let _ = held.recv();
        }
    }

    /// Tells the planner of all nodes. It may be behind with its mail; the next news say all.
    fn tell_standings(&mut self, now: Nanos) {
        if now < self.standings_due {
            return;
        }
        self.standings_due = Nanos(now.0 + STANDINGS.as_nanos() as u64);
        let standings = self.membership.standings();
        let _ = self.coordination.send(coordination::Input::Standings(standings));
    }

    fn view(&self) -> View {
        let now = clock::now();
        View {
            role: self.membership.role(),
            lease: self.membership.lease_remaining(now),
            map: self.membership.map().clone(),
            peers: self.membership.peers(now).collect(),
            counters: self.membership.counters(),
        }
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.membership.poll_output() {
            match output {
                Output::SetLease(deadline) => {
                    if let Some(lease) = &self.lease {
                        lease.set(deadline);
                    }
                }
                Output::Send { to, datagram } => self.send(to, &datagram),
                Output::Ownership(change) => {
                    let decided = clock::now();
                    let sent = self.engine.send(engine::Input::Ownership { change, decided });
                    // The buckets would be nobody's: this node believes that it owns them.
                    sent.expect("the engine takes changes of ownership in time");
                }
                Output::Notice(notice) => self.tell(notice),
            }
        }
    }

    fn send(&mut self, to: NodeId, datagram: &[u8]) {
        let Some(&address) = self.addresses.get(usize::from(to.0)) else { return };
        let Err(error) = self.socket.send_to(datagram, address) else { return };
        if let Some(held_back) = self.unsent.admit(clock::now()) {
            let peer = self.cluster.member(to);
            tracing::warn!(peer, %address, %error, held_back, "a heartbeat could not be sent");
        }
    }

    fn tell(&self, notice: Notice) {
        let name = |node| self.cluster.member(node);
        match notice {
            Notice::Admitted => tracing::info!("this node is a member now"),
            Notice::LeaseGained => tracing::info!("lease gained: a majority supports this node"),
            Notice::LeaseLost => {
                tracing::warn!("lease lost: no majority heard; this node has stopped");
            }
            Notice::Suspected(node) => tracing::warn!(peer = name(node), "peer is silent"),
            Notice::HeardAgain(node) => tracing::info!(peer = name(node), "peer is heard again"),
            Notice::Fenced(node) => {
                tracing::warn!(peer = name(node), "peer is fenced: not supported any more");
            }
            Notice::Dead(node) => {
                tracing::warn!(peer = name(node), "peer is dead: a majority has fenced it");
            }
            Notice::Doubled(node) => tracing::error!(
                peer = name(node),
                "two processes speak as this peer; expected one; stop one of them"
            ),
            Notice::Impersonated { heard_by, life } => tracing::error!(
                peer = name(heard_by),
                %life,
                "the peer hears another process that runs as this node, and not this one; expected \
                 one process; stop one of them"
            ),
            Notice::Restarted { incarnation, cause } => {
                let cause = match cause {
                    Cause::Fenced => "the others have fenced it",
                    Cause::NoLease => "a majority is heard, but does not support it",
                    Cause::Superseded => "another life has its place",
                };
                tracing::warn!(%incarnation, cause, "this node begins anew");
            }
        }
    }
}
