//! Play a scenario: open, settle, let something happen, run on, check, judge.
//!
//! Invariant: every wait has a limit, and what was not reached when it ran out goes into the report
//! as a failure; only what makes a report impossible is an error.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};

use super::analyser::Analysers;
use super::args::{RunArgs, Scenario};
use super::interrupt::Interrupt;
use super::narrator::Narrator;
use super::plan::Mode;
use super::prefill;
use super::report::Report;
use super::report::facts::{Facts, Played};
use super::router::Monitor;
use super::running::Lab;
use super::samples::{Sampler, Seen};
use super::traffic::{Load, Phase, Traffic};
use crate::control::protocol::Status;
use hardship::Hardship;

mod crash;
mod hardship;
mod planned;

/// How long opening may take, beyond what the number of connections asks for.
const OPEN: Duration = Duration::from_secs(20);
/// Under load, before the event.
const SETTLE: Duration = Duration::from_secs(2);
/// How long a connection may take to carry data both ways at the end.
const CHECK: Duration = Duration::from_secs(20);
/// What is under way arrives or is lost.
const DRAIN: Duration = Duration::from_millis(500);
/// How long the common tables may take to agree after the traffic.
const AGREE: Duration = Duration::from_secs(10);
/// Between two looks of all nodes at once, when each costs them a walk over a large table.
const RARELY: Duration = Duration::from_secs(2);

/// Play what `args` asks for in a lab whose nodes run.
pub fn play(
    lab: &mut Lab,
    args: &RunArgs,
    load: Load,
    interrupt: &Interrupt,
    narrator: &Narrator,
) -> Result<Report> {
    let _prefilled = match args.prefill {
        0 => None,
        flows => Some(prefill::fill(lab, flows, interrupt, narrator)?),
    };
    let mut stage = Stage::set(lab, args, load, interrupt, narrator)?;
    stage.open(load)?;
    stage.traffic.enter(Phase::Steady);
    stage.pass(SETTLE)?;

    let burning = Burn::start(args.burn);
    let before = stage.sampler.now();
    let event = stage.traffic.begin_event();
    stage.begin_hardship()?;
    match args.scenario {
        Scenario::Stall => stage.stall()?,
        Scenario::Kill => stage.kills()?,
        Scenario::Pause | Scenario::Cut | Scenario::CutData => stage.passing_fault()?,
        Scenario::KillTwo => stage.kill_two()?,
        Scenario::Moves => stage.moves()?,
        Scenario::Drain => stage.drain_all()?,
        Scenario::Join => stage.join()?,
        Scenario::Restart => stage.restart_all()?,
        Scenario::None => {}
    }
    stage.pass(Duration::from_secs(args.hold.into()))?;
    stage.measure_held()?;
    stage.end_hardship()?;
    stage.check()?;
    let quiet = stage.traffic.micros();
    drop(burning);
    stage.traffic.enter(Phase::Quiet);
    stage.pass(DRAIN)?;
    let (after, agree) = stage.agree()?;
    stage.end((event, quiet), before, after, agree)
}

struct Stage<'a> {
    lab: &'a mut Lab,
    args: &'a RunArgs,
    seed: u64,
    sampler: Sampler,
    traffic: Traffic,
    monitor: Option<Monitor>,
    analysers: Option<Analysers>,
    hardship: Hardship,
    interrupt: &'a Interrupt,
    narrator: &'a Narrator,
    /// How long the nodes' logs were when the last fault began.
    log_marks: Vec<u64>,
    played: Played,
}

impl<'a> Stage<'a> {
    fn set(
        lab: &'a mut Lab,
        args: &'a RunArgs,
        load: Load,
        interrupt: &'a Interrupt,
        narrator: &'a Narrator,
    ) -> Result<Stage<'a>> {
        let mode = lab.topology().plan().mode;
        let monitor = match mode {
            Mode::Steered => Some(Monitor::start(lab.topology(), lab.state())?),
            Mode::Shared | Mode::Tap => None,
        };
        let traffic = Traffic::start(lab.topology(), load)?;
        let analysers = match mode {
            Mode::Tap => Some(Analysers::start(lab.topology(), load, traffic.start_instant())?),
            Mode::Shared | Mode::Steered => None,
        };
        let sampler = Sampler::start(&lab.state().nodes, narrator, args.prefill > 0);
        for (index, node) in lab.state().nodes.iter().enumerate() {
            sampler.watch(index, node.process.is_some());
        }
        Ok(Stage {
            lab,
            args,
            seed: load.seed,
            sampler,
            traffic,
            monitor,
            analysers,
            hardship: Hardship::default(),
            interrupt,
            narrator,
            log_marks: Vec::new(),
            played: Played::default(),
        })
    }

    /// Let time pass, as long as all threads of the traffic work.
    fn pass(&self, time: Duration) -> Result<()> {
        self.wait(time, || false).map(drop)
    }

    fn wait(&self, limit: Duration, mut done: impl FnMut() -> bool) -> Result<bool> {
        let done = self.interrupt.wait(limit, || self.traffic.broken() || done())?;
        if self.traffic.broken() {
            bail!("a traffic thread ended before the run did");
        }
        Ok(done)
    }

    /// Wait for what has to come; if it does not, that is a failure of the run.
    fn demand(&mut self, what: &str, limit: Duration, done: impl FnMut() -> bool) -> Result<bool> {
        let done = self.wait(limit, done)?;
        if !done {
            self.complain(format!("expected within {} s: {what}", limit.as_secs()));
        }
        Ok(done)
    }

    /// A failure of the run.
    fn complain(&mut self, complaint: String) {
        self.narrator.say(&complaint);
        self.played.complaints.push(complaint);
    }

    fn open(&self, load: Load) -> Result<()> {
        let limit = OPEN + Duration::from_millis(load.connections.into());
        self.wait(limit, || {
            let progress = self.traffic.progress();
            progress.opened + progress.failed >= load.connections
        })?;
        let opened = self.traffic.progress().opened;
        self.narrator.say(&format!("{opened} of {} connections are open", load.connections));
        if opened == 0 {
            bail!("no connection could be opened through the cluster within {limit:?}");
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        self.traffic.enter(Phase::Checking);
        self.wait(CHECK, || {
            let progress = self.traffic.progress();
            progress.checked + progress.failed >= progress.opened
        })?;
        let progress = self.traffic.progress();
        self.narrator.say(&format!(
            "{} of {} connections carried data both ways",
            progress.checked, progress.opened
        ));
        Ok(())
    }

    /// Wait until the watched nodes' common tables agree and every bucket has one owner again.
    fn agree(&self) -> Result<(Seen, bool)> {
        let (limit, pause) = match self.args.prefill {
            0 => (AGREE, Duration::ZERO),
            _ => (8 * RARELY, RARELY),
        };
        let mut seen = self.sampler.now();
        let agreed = self.wait(limit, || {
            thread::sleep(pause);
            seen = self.sampler.now();
            self.settled(&seen)
        })?;
        Ok((seen, agreed))
    }

    fn settled(&self, seen: &Seen) -> bool {
        let state = self.lab.state();
        let watched = state.nodes.iter().zip(&seen.latest).enumerate();
        let watched =
            watched.filter(|(index, (node, _))| self.sampler.watches(*index) && !node.witness);
        let statuses = watched.map(|(_, (_, status))| status.as_ref());
        let Some(nodes) = statuses.collect::<Option<Vec<_>>>() else { return false };
        let owned: u32 = nodes.iter().map(|status| status.buckets.owned).sum();
        let same = |pair: &[&Status]| pair[0].common_table.digest == pair[1].common_table.digest;
        let replicas = self.args.cluster.replicas;
        if !replicas.is_limited() {
            return owned == state.buckets && nodes.windows(2).all(same);
        }
        // Each bucket, and each flow, is with so many nodes.
        let copies = replicas.keepers().min(nodes.len()) as u64;
        let kept: u64 = nodes.iter().map(|status| u64::from(status.copies.kept)).sum();
        let known: u64 = nodes.iter().map(|status| status.common_table.entries).sum();
        let flows: u64 = nodes.iter().map(|status| status.node_table.entries).sum();
        let whole = (kept, known) == (copies * u64::from(owned), copies * flows);
        owned == state.buckets && whole
    }

    /// End the traffic and judge.
    fn end(mut self, window: (u64, u64), before: Seen, after: Seen, agree: bool) -> Result<Report> {
        if let Some(failure) = self.monitor.as_mut().and_then(Monitor::failure) {
            self.complain(failure);
        }
        let Stage { lab, args, seed, sampler, traffic, monitor, analysers, mut played, .. } = self;
        let alive = lab.state().nodes.iter().map(|node| node.process.is_some_and(|p| p.alive()));
        let alive: Vec<bool> = alive.collect();
        let watched: Vec<bool> = (0..alive.len()).map(|node| sampler.watches(node)).collect();
        drop(sampler);
        if let Some(monitor) = monitor {
            let changes = monitor.changes().into_iter();
            played.routers = changes.map(|change| (change, traffic.micros_at(change.at))).collect();
        }
        let (tcp, udp) = traffic.finish()?;
        let analysed = analysers.map(Analysers::finish).transpose()?;
        Ok(Report::judge(&Facts {
            args,
            seed,
            state: lab.state(),
            before: &before,
            after: &after,
            alive: &alive,
            watched: &watched,
            agree,
            window,
            played: &played,
            tcp: &tcp,
            udp: &udp,
            analysed: analysed.as_deref(),
        }))
    }
}

/// Threads that do nothing, as fast as they can.
struct Burn(Arc<AtomicBool>);

impl Burn {
    fn start(threads: u32) -> Burn {
        let stop = Arc::new(AtomicBool::new(false));
        for _ in 0..threads {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        Burn(stop)
    }
}

impl Drop for Burn {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
