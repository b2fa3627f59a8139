//! What goes wrong by itself: daemons that die or hang, cables that are pulled, power that fails.
//!
//! Invariant: from the moment of a fault to that of its end the victim is not asked about what it can
//! not know, and every packet of the load that it lets through while it has no majority is counted.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::Stage;
use crate::config;
use crate::control::protocol::Role;
use crate::lab::args::Scenario;
use crate::lab::fault::{self, Fault, inflict};
use crate::lab::nodes::Timing;
use crate::lab::operator;
use crate::lab::plan::{Host, Mode};
use crate::lab::random::Random;
use crate::lab::report::facts::Event;
use crate::lab::running::ask;
use crate::lab::sniffer::Counter;

/// How long a fault that ends lasts.
const FAULT: Duration = Duration::from_secs(2);
/// How long a node that comes back may take to notice what it has missed.
const NOTICE: Duration = Duration::from_millis(500);
/// How long after a kill its blackout is looked for, when the node comes back.
const BLACKOUT: Duration = Duration::from_millis(1500);
/// How long a machine lives whose daemon is dead.
const ORPHANED: Duration = Duration::from_millis(600);
/// Between two powers that fail: time for the cluster to agree that the first dead no longer votes.
const SHRINK: Duration = Duration::from_secs(6);
/// How long a node that comes back may take to be a member again, and to own buckets again.
const RETURN: Duration = Duration::from_secs(60);
const SHARE: Duration = Duration::from_secs(60);
/// How late a kernel may notice that a lease has run out, and what it has let through may arrive.
const LATE: Duration = Duration::from_millis(30);

impl Stage<'_> {
    /// A node dies; with `--kills`, it comes back and another one dies.
    pub(super) fn kills(&mut self) -> Result<()> {
        let mut random = Random::new(self.seed);
        for kill in 1..=self.args.kills {
            if self.args.connects > 0 {
                // Connections are under way, and the node dies at any moment of theirs.
                self.pass(Duration::from_micros(random.between(300_000, 1_000_000)))?;
            }
            let Some(victim) = self.pick(&mut random)? else { return Ok(()) };
            let at = self.die(victim)?;
            if self.args.kills == 1 {
                self.pass(BLACKOUT)?;
                self.note_takeover(victim, at, u64::MAX);
                return self.check_connects();
            }
            self.pass(BLACKOUT)?;
            let until = self.traffic.micros();
            self.note_takeover(victim, at, until);
            self.check_connects()?;
            self.bring_back(victim)?;
            self.narrator.say(&format!("kill {kill} of {} is over", self.args.kills));
        }
        Ok(())
    }

    /// Two nodes lose power, one after the other.
    pub(super) fn kill_two(&mut self) -> Result<()> {
        let mut random = Random::new(self.seed);
        for turn in 0..2 {
            let Some(victim) = self.pick(&mut random)? else { return Ok(()) };
            let at = self.power_off(victim)?;
            self.pass(if turn == 0 { SHRINK } else { BLACKOUT })?;
            let until = if turn == 0 { self.traffic.micros() } else { u64::MAX };
            self.note_takeover(victim, at, until);
        }
        Ok(())
    }

    /// A fault that ends while the run goes on.
    pub(super) fn passing_fault(&mut self) -> Result<()> {
        let (fault, end) = match self.args.scenario {
            Scenario::Pause => (Fault::Pause, Fault::Resume),
            Scenario::CutData => (Fault::CutData, Fault::HealData),
            _ => (Fault::Cut, Fault::Heal),
        };
        let Some(victim) = self.pick(&mut Random::new(self.seed))? else { return Ok(()) };
        let name = self.name(victim);
        // A node that is cut off still answers here, and has to; a stopped one can not.
        self.sampler.watch(victim, fault != Fault::Pause);
        self.mark_logs();
        let begun = Instant::now();
        let at = self.traffic.micros();
        inflict(self.lab.state(), victim, fault)?;
        self.narrator.say(&format!("{name} is {fault}"));
        if fault == Fault::CutData {
            // It keeps its majority: it has nothing to stop for, and no packet can reach it.
            self.pass(FAULT)?;
        } else {
            self.played.minority = Some(self.count_without_lease(victim, begun, FAULT)?);
        }
        inflict(self.lab.state(), victim, end)?;
        self.narrator.say(&format!("{name} is {end}"));
        self.note_takeover(victim, at, u64::MAX);
        self.pass(NOTICE)?;
        self.sampler.watch(victim, true);
        Ok(())
    }

    /// Waits until a node's lease has ended, and counts what it lets through from then on to the end of
    /// a span that began earlier.
    fn count_without_lease(
        &mut self,
        victim: usize,
        begun: Instant,
        span: Duration,
    ) -> Result<(usize, u64, u64, u64)> {
        let configured = self.args.cluster.timing.map(|Timing { lease, .. }| lease);
        let lease = configured.map_or(config::cluster::Timing::default().lease, |milliseconds| {
            Duration::from_millis(milliseconds.into())
        });
        self.pass((lease + LATE).saturating_sub(begun.elapsed()))?;
        let from = self.traffic.micros();
        let counter = self.count_forwarded(victim)?;
        self.pass(span.saturating_sub(begun.elapsed()))?;
        let until = self.traffic.micros();
        Ok((victim, from, until, counter.finish()?))
    }

    /// The load's packets that come out of a node's data links from now on.
    fn count_forwarded(&self, victim: usize) -> Result<Counter> {
        let state = self.lab.state();
        let links = state.plan.data().iter().map(|segment| fault::port(state, victim, *segment));
        Counter::start(&self.lab.topology().namespace(Host::Switch)?, links.collect())
    }

    /// A node of those that own buckets now.
    fn pick(&mut self, random: &mut Random) -> Result<Option<usize>> {
        let seen = self.sampler.now();
        let owners: Vec<usize> = (0..seen.latest.len())
            .filter(|node| self.sampler.watches(*node) && !self.lab.state().nodes[*node].witness)
            .filter(|node| seen.latest[*node].as_ref().is_some_and(|s| s.buckets.owned > 0))
            .collect();
        if owners.is_empty() || (owners.len() == 1 && self.args.kills > 1) {
            self.complain(format!("{} nodes own buckets: nobody could go on", owners.len()));
            return Ok(None);
        }
        Ok(Some(owners[random.between(0, owners.len() as u64) as usize]))
    }

    fn name(&self, node: usize) -> String {
        self.lab.state().nodes[node].name.clone()
    }

    /// Routers go on sending to a machine whose daemon is dead, until it loses power: meanwhile its
    /// kernel has to let nothing through.
    fn die(&mut self, victim: usize) -> Result<u64> {
        let look_away = |stage: &Self, away| {
            stage.monitor.iter().for_each(|monitor| monitor.look_away(victim, away));
        };
        look_away(self, true);
        let begun = Instant::now();
        let at = self.strike(victim, Fault::Kill)?;
        if self.lab.state().plan.mode == Mode::Steered {
            let counted = self.count_without_lease(victim, begun, ORPHANED)?;
            self.played.minority = Some(counted);
            look_away(self, false);
            for cable in [Fault::Cut, Fault::CutData] {
                inflict(self.lab.state(), victim, cable)?;
                self.narrator.say(&format!("{} is {cable}", self.name(victim)));
            }
        }
        Ok(at)
    }

    fn power_off(&mut self, victim: usize) -> Result<u64> {
        self.strike(victim, Fault::PowerOff)
    }

    fn strike(&mut self, victim: usize, fault: Fault) -> Result<u64> {
        self.sampler.watch(victim, false);
        self.mark_logs();
        let at = self.traffic.micros();
        inflict(self.lab.state(), victim, fault)?;
        self.narrator.say(&format!("{} is {fault}", self.name(victim)));
        Ok(at)
    }

    fn bring_back(&mut self, victim: usize) -> Result<()> {
        if self.lab.state().plan.mode == Mode::Steered {
            inflict(self.lab.state(), victim, Fault::PowerOn)?;
        }
        self.lab.start_node(victim as u8 + 1)?;
        let (name, control) = (self.name(victim), self.lab.state().nodes[victim].control.clone());
        let member =
            || ask(&control).is_ok_and(|status| status.role == Role::Member && status.lease.held);
        self.demand(&format!("{name} is a member again"), RETURN, member)?;
        self.sampler.watch(victim, true);
        let owns = || ask(&control).is_ok_and(|s| s.buckets.owned > 0 && s.buckets.loading == 0);
        self.demand(&format!("{name} owns buckets again"), SHARE, owns)?;
        self.pass(NOTICE)
    }

    /// What the nodes write from now on is about what happens now.
    fn mark_logs(&mut self) {
        let nodes = self.lab.state().nodes.iter();
        let lengths = nodes.map(|node| fs::metadata(&node.log).map_or(0, |log| log.len()));
        self.log_marks = lengths.collect();
    }

    /// Keep what the survivors say of a takeover: how long it took from the decision on.
    fn note_takeover(&mut self, victim: usize, at: u64, until: u64) {
        let nodes = self.lab.state().nodes.iter().zip(&self.log_marks).enumerate();
        let survivors: Vec<_> = nodes
            .filter(|(index, (node, _))| {
                *index != victim && !node.witness && self.sampler.watches(*index)
            })
            .map(|(_, node)| node)
            .collect();
        let most = |values: Vec<Option<f64>>| values.into_iter().flatten().reduce(f64::max);
        let logged = |line: &str| {
            most(
                survivors.iter().map(|(node, mark)| last_micros(&node.log, **mark, line)).collect(),
            )
        };
        let event = Event {
            node: self.name(victim),
            at,
            until,
            first_packet_micros: most(
                survivors
                    .iter()
                    .map(|(node, _)| operator::number(node, "/takeover/first_packet_micros"))
                    .collect(),
            ),
            flipped_micros: logged("all slots flipped"),
            loaded_micros: logged("all entries installed"),
        };
        self.played.events.push(event);
    }
}

/// The `micros=` of the last line of a log, behind `mark`, that says `what`.
fn last_micros(log: &Path, mark: u64, what: &str) -> Option<f64> {
    let bytes = fs::read(log).ok()?;
    let text = String::from_utf8_lossy(bytes.get(mark as usize..)?);
    let line = text.lines().rev().find(|line| line.contains(what))?;
    micros(line)
}

fn micros(line: &str) -> Option<f64> {
    let (_, rest) = line.rsplit_once("micros")?;
    // A terminal's colours may stand between the name and the number.
    let rest = rest.rsplit_once('=').map_or(rest, |(_, value)| value);
    let digits = rest.trim_start_matches(|c: char| !c.is_ascii_digit());
    let digits: String = digits.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logged_time_is_read() {
        assert_eq!(micros("x buckets=3 from=\"n2\" micros=417"), Some(417.0));
        assert_eq!(micros("x buckets=3"), None);
    }
}
