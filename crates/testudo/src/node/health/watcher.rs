//! The thread that watches a node's health, and the way to it for the other threads.
//!
//! Invariant: whoever reports or measures never waits for this thread. Reports go through a mailbox that
//! may be full, measurements are words of memory; both may come from the heartbeat thread. What is
//! published is read under a lock that is held for the copy of one pointer.
//!
//! A link's change is judged when the kernel announces it; an unanswered probe when its time is up; load
//! once a second. So whatever this thread is late by, [`Snapshot`]s are late by.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use testudo_packet::bucket::Nanos;

use super::echo::{Echo, Mark};
use super::judge::Judge;
use super::links::Links;
use super::overload::{Overload, Sample};
use super::pinger::Pinger;
use super::{Finding, Name, Snapshot, State, machine};
use crate::config::health::Health;
use crate::config::probe::Probe;
use crate::node::clock;
use crate::node::mailbox::{Mailbox, Sender, Undelivered};

/// How far apart samples of the load are, and looks at links that the kernel announced nothing of.
const SAMPLE_MS: u64 = 1000;

/// How far apart looks at links are at least: announcements may come in floods, of interfaces that
/// nobody here cares for.
const LEAST_LOOK_MS: u64 = 5;

/// How many reports may wait.
const MAILBOX: usize = 64;

/// How long the thread rests when it can't wait for its descriptors.
const REST: Duration = Duration::from_millis(100);

/// What is told of a change of fitness, with all items.
pub type OnChange = Box<dyn FnMut(&Snapshot) + Send>;

/// What is to be watched.
pub struct Parts {
    /// Interfaces by name, in the network namespace of the calling thread.
    pub interfaces: Vec<String>,
    /// Whom to reach.
    pub probes: Vec<Probe>,
    /// What is good health.
    pub health: Health,
    /// Whether the node has a certificate to watch over.
    pub certificate: bool,
    /// Told, in the watcher's thread, when the node gets fit or unfit. It must not wait for long: no
    /// change is noticed meanwhile.
    pub on_change: OnChange,
}

/// Why health can't be watched. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[error("the node's health can't be watched: {what}: {source}")]
pub struct WatchError {
    what: &'static str,
    source: io::Error,
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> WatchError {
    move |source| WatchError { what, source }
}

/// A watcher at work. It ends when this is dropped.
#[derive(Debug)]
pub struct Watcher {
    handle: Handle,
    /// Closing it wakes the thread for the last time.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Watches from now on.
    pub fn start(parts: Parts) -> Result<Self, WatchError> {
        let now = clock::now();
        let links = Links::open(parts.interfaces.iter().cloned())
            .map_err(failed("changes of links are not announced"))?;
        let (reports, mailbox) = Mailbox::new(MAILBOX)
            .map_err(|errno| failed("no descriptor to wake a thread by")(errno.into()))?;
        let (stop, stopped) =
            UnixStream::pair().map_err(failed("no pair of sockets to end a thread by"))?;
        let mut token = [0; 8];
        getrandom::fill(&mut token)
            .map_err(|error| failed("no random number")(io::Error::other(error.to_string())))?;
        let token = u64::from_ne_bytes(token);
        let targets: Vec<_> = (0..)
            .zip(parts.probes)
            .map(|(number, probe)| Target::new(now, number, probe, token))
            .collect();
        let names = parts.interfaces.into_iter().map(Name::Link);
        let names = names.chain(targets.iter().map(|target| target.name.clone()));
        let names = names.chain([Name::Overload, Name::Sync, Name::Coordinator]);
        let names = names.chain(parts.certificate.then_some(Name::Certificate));
        let judge = Judge::new(now, names, parts.health.recovery);
        let handle = Handle {
            published: Arc::new(Mutex::new(Arc::new(judge.snapshot()))),
            reports,
            measured: Arc::default(),
        };
        let watching = Watching {
            links,
            look_due: now,
            look_again: now,
            targets,
            overload: Overload::new(parts.health),
            sample_due: now,
            judge,
            mailbox,
            stopped,
            handle: handle.clone(),
            fit: true,
            on_change: parts.on_change,
        };
        let thread = thread::Builder::new()
            .name("health".to_owned())
            .spawn(move || watching.run())
            .map_err(failed("no thread"))?;
        Ok(Self { handle, stop: Some(stop), thread: Some(thread) })
    }

    /// The way to it.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // If it panicked, that was told when it happened.
            let _ = thread.join();
        }
    }
}

/// The way to the watcher for other threads. Nothing here waits for it.
#[derive(Clone, Debug)]
pub struct Handle {
    published: Arc<Mutex<Arc<Snapshot>>>,
    reports: Sender<(Name, Finding)>,
    measured: Arc<Measured>,
}

/// What other threads measure.
#[derive(Debug, Default)]
struct Measured {
    late_micros: AtomicU64,
    table_percent: AtomicU64,
    losses: AtomicU64,
}

impl Handle {
    /// How everything is.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        // A pointer is whole whatever became of who wrote it.
        self.published.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn sample(&self) -> Sample {
        let Measured { late_micros, table_percent, losses } = &*self.measured;
        Sample {
            late: Duration::from_micros(late_micros.swap(0, Ordering::Relaxed)),
            table_percent: table_percent.load(Ordering::Relaxed),
            drops: machine::softnet_drops().saturating_add(losses.load(Ordering::Relaxed)),
            cpu: machine::cpu_ticks(),
        }
    }
}

impl Handle {
    /// Reports how the exchange of entries is. It is unknown until then.
    pub fn report_sync(&self, finding: Finding) -> Result<(), Undelivered> {
        self.reports.send((Name::Sync, finding))
    }

    /// Reports how the agreement is. It is unknown until then.
    pub fn report_coordinator(&self, finding: Finding) -> Result<(), Undelivered> {
        self.reports.send((Name::Coordinator, finding))
    }

    /// Reports how the certificates are. It is unknown until then.
    pub fn report_certificate(&self, finding: Finding) -> Result<(), Undelivered> {
        self.reports.send((Name::Certificate, finding))
    }

    /// The heartbeat thread was let run too late by so much.
    pub fn measure_lateness(&self, late: Duration) {
        self.measured.late_micros.fetch_max(late.as_micros() as u64, Ordering::Relaxed);
    }

    /// So many slots of the node table are in use.
    pub fn measure_table(&self, used: u64, slots: u64) {
        let percent = used.saturating_mul(100).checked_div(slots).unwrap_or(0);
        self.measured.table_percent.store(percent, Ordering::Relaxed);
    }

    /// So many events and packets found no room on their way to the daemon since the start.
    pub fn measure_losses(&self, losses: u64) {
        self.measured.losses.store(losses, Ordering::Relaxed);
    }
}

/// A target, the way to it, and what is known of it.
struct Target {
    name: Name,
    probe: Probe,
    mark: Mark,
    pinger: Pinger,
    /// Made anew after each miss: routes, addresses and interfaces may have changed.
    echo: Option<Echo>,
}

impl Target {
    fn new(now: Nanos, number: u16, probe: Probe, token: u64) -> Self {
        let identifier = (std::process::id() as u16).wrapping_add(number);
        Self {
            name: Name::Probe(probe.target, probe.interface.clone()),
            mark: Mark { identifier, token: token.wrapping_add(number.into()) },
            pinger: Pinger::new(now, probe.interval, probe.lost),
            echo: None,
            probe,
        }
    }

    /// Takes answers in, asks if it is time, and says what is known.
    fn advance(&mut self, now: Nanos) -> Option<Finding> {
        for sequence in self.echo.iter().flat_map(Echo::receive) {
            self.pinger.handle_answer(sequence);
        }
        // What is known is read before the next question makes it unknown.
        let known = self.pinger.finding();
        if let Some(sequence) = self.pinger.handle_tick(now) {
            if let Err(error) = self.ask(sequence) {
                self.pinger.handle_unsent(error.to_string());
            }
            return self.pinger.finding().or(known);
        }
        known
    }

    fn ask(&mut self, sequence: u16) -> io::Result<()> {
        if self.pinger.missing() > 0 {
            self.echo = None;
        }
        let interface = self.probe.interface.as_deref();
        let echo = match self.echo.take() {
            Some(echo) => echo,
            None => Echo::open(self.probe.target, interface, self.mark)?,
        };
        self.echo.insert(echo).send(sequence)
    }
}

struct Watching {
    links: Links,
    look_due: Nanos,
    /// Until then announcements are left where they are.
    look_again: Nanos,
    targets: Vec<Target>,
    overload: Overload,
    sample_due: Nanos,
    judge: Judge,
    mailbox: Mailbox<(Name, Finding)>,
    stopped: UnixStream,
    handle: Handle,
    fit: bool,
    on_change: OnChange,
}

/// Which descriptors have something.
struct Ready {
    stop: bool,
    links: bool,
}

impl Watching {
    fn run(mut self) {
        let mut ready = Ready { stop: false, links: true };
        while !ready.stop {
            let now = clock::now();
            self.look(now, ready.links);
            self.read_mail(now);
            for target in &mut self.targets {
                if let Some(finding) = target.advance(now) {
                    self.judge.handle_finding(now, &target.name, finding);
                }
            }
            self.sample(now);
            self.judge.handle_tick(now);
            self.publish();
            ready = self.wait();
        }
    }

    fn wait(&self) -> Ready {
        let now = clock::now();
        let due = self.targets.iter().map(|target| target.pinger.next_wakeup());
        let due = due.chain([self.look_due, self.sample_due]).chain(self.judge.next_wakeup());
        let resting = now < self.look_again;
        let due = due.chain(resting.then_some(self.look_again)).min().unwrap_or(self.sample_due);
        let timeout = clock::between(now, due);
        let interest = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let announced = if resting { PollFlags::empty() } else { PollFlags::POLLIN };
        let links = PollFd::new(self.links.as_fd(), announced);
        let mut fds = vec![interest(self.stopped.as_fd()), links, interest(self.mailbox.as_fd())];
        fds.extend(
            self.targets.iter().filter_map(|t| t.echo.as_ref()).map(|e| interest(e.as_fd())),
        );
        match ppoll(&mut fds, Some(TimeSpec::from_duration(timeout)), None) {
            Ok(_) => {
                let any = |at: usize| fds.get(at).is_some_and(|fd| fd.any().unwrap_or(true));
                Ready { stop: any(0), links: any(1) }
            }
            Err(Errno::EINTR) => Ready { stop: false, links: false },
            // Only ENOMEM is left.
            Err(error) => {
                tracing::error!(%error, "the health thread could not wait");
                thread::sleep(REST);
                Ready { stop: false, links: true }
            }
        }
    }

    fn look(&mut self, now: Nanos, announced: bool) {
        if !announced && now < self.look_due {
            return;
        }
        self.look_due = now.plus_millis(SAMPLE_MS);
        self.look_again = now.plus_millis(LEAST_LOOK_MS);
        self.links.acknowledge();
        for (name, finding) in self.links.look() {
            self.judge.handle_finding(now, &Name::Link(name.to_owned()), finding);
        }
    }

    fn read_mail(&mut self, now: Nanos) {
        self.mailbox.acknowledge();
        for _ in 0..MAILBOX {
            let Some((name, finding)) = self.mailbox.take() else { return };
            self.judge.handle_finding(now, &name, finding);
        }
    }

    fn sample(&mut self, now: Nanos) {
        if now < self.sample_due {
            return;
        }
        self.sample_due = now.plus_millis(SAMPLE_MS);
        let overloaded = self.judge.state(&Name::Overload) == State::Bad;
        if let Some(finding) = self.overload.handle_sample(now, self.handle.sample(), overloaded) {
            self.judge.handle_finding(now, &Name::Overload, finding);
        }
    }

    fn publish(&mut self) {
        if !self.judge.take_changed() {
            return;
        }
        let snapshot = Arc::new(self.judge.snapshot());
        let published = &self.handle.published;
        *published.lock().unwrap_or_else(PoisonError::into_inner) = snapshot.clone();
        if snapshot.fit != self.fit {
            self.fit = snapshot.fit;
            (self.on_change)(&snapshot);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Instant;

    use super::*;
    use crate::node::health::Item;

    fn parts(interfaces: &[&str], on_change: OnChange) -> Parts {
        let health = Health {
            recovery: Duration::from_millis(200),
            overload: Duration::from_secs(1),
            table_percent: 75,
            steal_percent: 100,
            late: Duration::from_secs(1000),
            drops_per_second: 1_000_000_000,
        };
        let interfaces = interfaces.iter().map(|&name| name.to_owned()).collect();
        Parts { interfaces, probes: Vec::new(), health, certificate: false, on_change }
    }

    /// Waits until an item is as expected, for some seconds at most.
    fn wait_for(handle: &Handle, name: &Name, state: State) -> Item {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let snapshot = handle.snapshot();
            let item = snapshot.items.iter().find(|item| item.name == *name).expect("the item");
            if item.state == state {
                return item.clone();
            }
            assert!(Instant::now() < end, "{name} does not get {state:?}: {item:?}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_change_of_fitness_is_told_once() {
        let (told, changes) = mpsc::channel();
        let on_change: OnChange = Box::new(move |snapshot| told.send(snapshot.fit).unwrap());
        let watcher = Watcher::start(parts(&[], on_change)).unwrap();
        let handle = watcher.handle();
        wait_for(&handle, &Name::Overload, State::Good);
        handle.report_sync(Finding::Wrong("no peer".into())).unwrap();
        let reason = wait_for(&handle, &Name::Sync, State::Bad).reason;
        assert_eq!(reason, "no peer");
        handle.report_coordinator(Finding::Wrong("no leader".into())).unwrap();
        wait_for(&handle, &Name::Coordinator, State::Bad);
        handle.report_sync(Finding::Well("in step".into())).unwrap();
        handle.report_coordinator(Finding::Well("led by n1".into())).unwrap();
        wait_for(&handle, &Name::Sync, State::Good);
        wait_for(&handle, &Name::Coordinator, State::Good);
        drop(watcher);
        assert_eq!(changes.iter().collect::<Vec<_>>(), [false, true]);
        // Whoever still reports is told that nobody listens.
        assert!(handle.report_sync(Finding::Well(String::new())).is_err());
    }

    #[test]
    fn what_is_measured_makes_an_overload() {
        let watcher = Watcher::start(parts(&["nothere0"], Box::new(|_| {}))).unwrap();
        let handle = watcher.handle();
        let reason = wait_for(&handle, &Name::Link("nothere0".into()), State::Bad).reason;
        assert_eq!(reason, "there is no such interface");
        handle.measure_table(90, 100);
        handle.measure_lateness(Duration::from_secs(2000));
        handle.measure_losses(1);
        let reason = wait_for(&handle, &Name::Overload, State::Bad).reason;
        assert!(reason.contains("the node table is full to 90 %; expected at most"), "{reason}");
        handle.measure_table(0, 0);
        wait_for(&handle, &Name::Overload, State::Good);
    }
}
