//! Play a scenario: open, settle, let something fail, run on, check, judge.
//!
//! Invariant: every wait has a limit, and what was not reached when it ran out goes into the report
//! as a failure; only what makes a report impossible is an error.

use std::time::Duration;

use anyhow::{Result, bail};

use super::Scenario;
use super::fault::{Fault, inflict};
use super::interrupt::Interrupt;
use super::narrator::Narrator;
use super::random::Random;
use super::report::{Facts, Report};
use super::running::Lab;
use super::samples::{Sampler, Seen};
use super::traffic::{Load, Phase, Traffic};
use crate::control::protocol::Status;

/// How long opening may take, beyond what the number of connections asks for.
const OPEN: Duration = Duration::from_secs(20);
/// Under load, before the fault.
const SETTLE: Duration = Duration::from_secs(2);
/// How long a fault that ends lasts.
const FAULT: Duration = Duration::from_secs(2);
/// How long a node that comes back may take to notice what it has missed.
const NOTICE: Duration = Duration::from_millis(500);
/// Under load, after the fault.
const RUN_ON: Duration = Duration::from_secs(4);
/// How long a connection may take to carry data both ways at the end.
const CHECK: Duration = Duration::from_secs(10);
/// What is under way arrives or is lost.
const DRAIN: Duration = Duration::from_millis(500);
/// How long the common tables may take to agree after the traffic.
const AGREE: Duration = Duration::from_secs(3);

impl Scenario {
    /// What happens, and how it ends.
    fn faults(self) -> Option<(Fault, Option<Fault>)> {
        match self {
            Scenario::Kill => Some((Fault::Kill, None)),
            Scenario::Pause => Some((Fault::Pause, Some(Fault::Resume))),
            Scenario::Cut => Some((Fault::Cut, Some(Fault::Heal))),
            Scenario::None => None,
        }
    }
}

/// Play `scenario` in a lab whose nodes run.
pub fn play(
    lab: &Lab,
    scenario: Scenario,
    load: Load,
    interrupt: &Interrupt,
    narrator: &Narrator,
) -> Result<Report> {
    let stage = Stage {
        lab,
        sampler: Sampler::start(&lab.state().nodes, narrator),
        traffic: Traffic::start(lab.topology(), load)?,
        interrupt,
        narrator,
    };
    stage.open(load)?;
    stage.traffic.enter(Phase::Steady);
    let steady = stage.traffic.micros();
    stage.pass(SETTLE)?;

    let before = stage.sampler.now();
    let mut event = steady;
    if let Some((fault, end)) = scenario.faults() {
        let nodes = lab.state().nodes.len() as u64;
        let victim = Random::new(load.seed).between(0, nodes) as usize;
        event = stage.traffic.micros();
        stage.fail(victim, fault, end)?;
    }
    stage.pass(RUN_ON)?;
    stage.check()?;
    let quiet = stage.traffic.micros();
    stage.traffic.enter(Phase::Quiet);
    stage.pass(DRAIN)?;
    let (after, agree) = stage.agree()?;

    let alive = lab.state().nodes.iter().map(|node| node.process.is_some_and(|p| p.alive()));
    let alive: Vec<bool> = alive.collect();
    let watched: Vec<bool> = (0..alive.len()).map(|node| stage.sampler.watches(node)).collect();
    let Stage { traffic, sampler, .. } = stage;
    drop(sampler);
    let (tcp, udp) = traffic.finish()?;
    Ok(Report::judge(&Facts {
        scenario,
        load,
        state: lab.state(),
        before: &before,
        after: &after,
        alive: &alive,
        watched: &watched,
        agree,
        window: (event, quiet),
        tcp: &tcp,
        udp: &udp,
    }))
}

struct Stage<'a> {
    lab: &'a Lab,
    sampler: Sampler,
    traffic: Traffic,
    interrupt: &'a Interrupt,
    narrator: &'a Narrator,
}

impl Stage<'_> {
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

    fn fail(&self, victim: usize, fault: Fault, end: Option<Fault>) -> Result<()> {
        let state = self.lab.state();
        let name = &state.nodes[victim].name;
        // A node that is cut off still answers here, and has to.
        self.sampler.watch(victim, fault == Fault::Cut);
        inflict(state, victim, fault)?;
        self.narrator.say(&format!("{name} is {fault}"));
        if let Some(end) = end {
            self.pass(FAULT)?;
            inflict(state, victim, end)?;
            self.narrator.say(&format!("{name} is {end}"));
            self.pass(NOTICE)?;
            self.sampler.watch(victim, true);
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
        let mut seen = self.sampler.now();
        let buckets = self.lab.state().buckets;
        let agreed = self.wait(AGREE, || {
            seen = self.sampler.now();
            self.settled(&seen, buckets)
        })?;
        Ok((seen, agreed))
    }

    fn settled(&self, seen: &Seen, buckets: u32) -> bool {
        let watched = seen.latest.iter().enumerate();
        let watched = watched.filter(|(node, _)| self.sampler.watches(*node));
        let Some(nodes) = watched.map(|(_, status)| status.as_ref()).collect::<Option<Vec<_>>>()
        else {
            return false;
        };
        let owned: u32 = nodes.iter().map(|status| status.buckets.owned).sum();
        let same = |pair: &[&Status]| pair[0].common_table.digest == pair[1].common_table.digest;
        owned == buckets && nodes.windows(2).all(same)
    }
}
