//! What an operator does: moves, drains, joins, restarts. Nothing may be lost by it.
//!
//! Invariant: the next step begins when the cluster says that the one before is done, and never by the
//! clock alone; a step that is not done in time is a failure of the run, and the run goes on.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::Stage;
use crate::control::client::Client;
use crate::control::protocol::{BucketState, Role};
use crate::lab::operator;
use crate::lab::report::facts::{Balance, Step};
use crate::lab::running::ask;
use crate::lab::samples::Seen;

/// How long a bucket may take to move.
const MOVE: Duration = Duration::from_secs(20);
/// How long a node may take to give all its buckets away, or to get its share.
const SHARE: Duration = Duration::from_secs(60);
/// How long a daemon may take to hand itself over.
const RESTART: Duration = Duration::from_secs(60);
/// Between two steps that concern whole nodes.
const REST: Duration = Duration::from_millis(500);
/// How long the load is measured.
const MEASURE: Duration = Duration::from_secs(3);
/// Steps that failed, after which the rest is not tried.
const PATIENCE: usize = 5;

impl Stage<'_> {
    /// One bucket after the other goes to the next node.
    pub(super) fn moves(&mut self) -> Result<()> {
        let buckets = self.lab.state().buckets;
        let nodes = usize::from(self.lab.state().plan.nodes);
        for turn in 0..self.args.count {
            let bucket = (turn % buckets) as u16;
            let owner = self.owner(bucket);
            let round = (turn / buckets) as usize + usize::from(bucket);
            let target = (0..nodes)
                .map(|step| self.lab.state().nodes[(round + step) % nodes].name.clone())
                .find(|name| Some(name) != owner.as_ref());
            let Some(target) = target else { return Ok(()) };
            let begun = Instant::now();
            let command = ["bucket", "move", &bucket.to_string(), &target];
            let told = self.tell_first(&command);
            let there = |stage: &Self| stage.serves(bucket, &target);
            if self.step(told, &format!("bucket {bucket} is {target}'s"), MOVE, there)? {
                let millis = begun.elapsed().as_secs_f64() * 1e3;
                self.played.steps.push(Step { what: "move", millis });
            }
            if self.played.complaints.len() >= PATIENCE {
                self.complain(format!("{} of {} moves were tried", turn + 1, self.args.count));
                break;
            }
        }
        let moved = self.played.steps.len();
        self.narrator.say(&format!("{moved} of {} buckets were moved", self.args.count));
        Ok(())
    }

    /// Every node gives all its buckets away and gets its share back.
    pub(super) fn drain_all(&mut self) -> Result<()> {
        let plan = self.lab.state().plan;
        let share = self.lab.state().buckets / u32::from(plan.nodes);
        for index in 0..usize::from(plan.nodes) {
            let name = self.lab.state().nodes[index].name.clone();
            for (verb, goal) in [("drain", 0), ("undrain", share)] {
                let begun = Instant::now();
                let told = self.tell_first(&["node", verb, &name]);
                let done = move |stage: &Self| {
                    stage.owned(index).is_some_and(|owned| match goal {
                        0 => owned == 0,
                        share => owned >= share,
                    })
                };
                if self.step(told, &format!("{name}: {verb}"), SHARE, done)? {
                    let what = if goal == 0 { "drain" } else { "undrain" };
                    let millis = begun.elapsed().as_secs_f64() * 1e3;
                    self.played.steps.push(Step { what, millis });
                    self.narrator.say(&format!("{name}: {verb} took {millis:.0} ms"));
                }
                self.pass(REST)?;
            }
        }
        Ok(())
    }

    /// The last node starts, and gets its share.
    pub(super) fn join(&mut self) -> Result<()> {
        let plan = self.lab.state().plan;
        let newcomer = usize::from(plan.nodes) - 1;
        let (name, buckets) =
            (self.lab.state().nodes[newcomer].name.clone(), self.lab.state().buckets);
        let share = buckets / u32::from(plan.nodes);
        let before = self.measure(newcomer)?;
        let begun = Instant::now();
        self.lab.start_node(plan.nodes)?;
        self.narrator.say(&format!("{name} is started"));
        let member = |stage: &Self| stage.role(newcomer) == Some(Role::Member);
        if self.step(Ok(()), &format!("{name} is a member"), SHARE, member)? {
            self.sampler.watch(newcomer, true);
        }
        let owns = |stage: &Self| stage.owned(newcomer).is_some_and(|owned| owned >= share);
        if self.step(Ok(()), &format!("{name} has its share"), SHARE, owns)? {
            let millis = begun.elapsed().as_secs_f64() * 1e3;
            self.played.steps.push(Step { what: "join", millis });
            self.narrator.say(&format!("{name} has its share after {millis:.0} ms"));
        }
        let mut moved = None;
        self.wait(SHARE, || {
            // One more bucket may be on its way just now.
            moved = self.owned(newcomer);
            moved.is_some()
        })?;
        let moved = moved.unwrap_or_default();
        let most = buckets.div_ceil(plan.nodes.into());
        if moved > most {
            self.complain(format!("{moved} buckets moved to {name}; expected at most {most}"));
        }
        let after = self.measure(usize::MAX)?;
        self.played.balance = Some(Balance { moved, before, after, held: after });
        Ok(())
    }

    /// How the load is spread once the cluster has had time to balance it.
    pub(super) fn measure_held(&mut self) -> Result<()> {
        if self.played.balance.is_some() {
            let held = self.measure(usize::MAX)?;
            self.played.balance = self.played.balance.map(|balance| Balance { held, ..balance });
        }
        Ok(())
    }

    /// Every daemon hands itself over to a new process.
    pub(super) fn restart_all(&mut self) -> Result<()> {
        for index in 0..usize::from(self.lab.state().plan.nodes) {
            let node = self.lab.state().nodes[index].clone();
            let owned = self.owned(index).unwrap_or_default();
            let sent = self.heartbeats(index).unwrap_or_default();
            let begun = Instant::now();
            let told = operator::tell(&node, &["node", "restart"]).map(drop);
            let back = |stage: &Self| {
                // Counters begin anew with the process.
                stage.heartbeats(index).is_some_and(|now| now < sent)
                    && stage.role(index) == Some(Role::Member)
                    // Balancing may take a few of its buckets meanwhile; a new life would own none.
                    && stage.owned(index).is_some_and(|now| now > 0 || owned == 0)
            };
            if !self.step(told, &format!("{} restarted", node.name), RESTART, back)? {
                continue;
            }
            let millis = begun.elapsed().as_secs_f64() * 1e3;
            self.played.steps.push(Step { what: "restart", millis });
            let found = self.lab.find_process(index)?;
            let new = match found {
                None => "its process is not known".to_owned(),
                Some(process) if Some(process) == node.process => {
                    format!("process {} has replaced itself", process.pid)
                }
                Some(process) => format!("process {} has taken over", process.pid),
            };
            self.narrator.say(&format!("{}: restart took {millis:.0} ms; {new}", node.name));
            self.pass(REST)?;
        }
        Ok(())
    }

    /// Wait for what a command was to bring about. A command that failed, and a result that does not
    /// come, are complaints.
    fn step(
        &mut self,
        told: Result<()>,
        what: &str,
        limit: Duration,
        done: impl Fn(&Self) -> bool,
    ) -> Result<bool> {
        if let Err(error) = told {
            self.complain(format!("{error:#}"));
            return Ok(false);
        }
        let reached = self.wait(limit, || done(self))?;
        if !reached {
            self.complain(format!("expected within {} s: {what}", limit.as_secs()));
        }
        Ok(reached)
    }

    fn tell_first(&self, command: &[&str]) -> Result<()> {
        operator::tell(&self.lab.state().nodes[0], command).map(drop)
    }

    fn owned(&self, node: usize) -> Option<u32> {
        let status = ask(&self.lab.state().nodes[node].control).ok()?;
        (status.buckets.loading == 0).then_some(status.buckets.owned)
    }

    fn heartbeats(&self, node: usize) -> Option<u64> {
        let status = ask(&self.lab.state().nodes[node].control).ok()?;
        status.counters.get("heartbeats_sent").copied()
    }

    fn role(&self, node: usize) -> Option<Role> {
        let status = ask(&self.lab.state().nodes[node].control).ok()?;
        status.lease.held.then_some(status.role)
    }

    fn owner(&self, bucket: u16) -> Option<String> {
        let mut client = Client::connect(&self.lab.state().nodes[0].control, MOVE).ok()?;
        client.buckets(Some(bucket)).ok()?.buckets.into_iter().next()?.owner
    }

    /// Whether `node` itself says that it owns the bucket and has all of it.
    fn serves(&self, bucket: u16, node: &str) -> bool {
        let serves = || -> Option<bool> {
            let state = self.lab.state();
            let control = &state.nodes[state.node(node).ok()?].control;
            let mut client = Client::connect(control, MOVE).ok()?;
            let bucket = client.buckets(Some(bucket)).ok()?.buckets.into_iter().next()?;
            Some(bucket.owner.as_deref() == Some(node) && bucket.state == BucketState::Active)
        };
        serves().unwrap_or_default()
    }

    /// The most loaded node's packets over the mean of all nodes but `without`, for a while.
    fn measure(&self, without: usize) -> Result<f64> {
        let before = self.sampler.now();
        self.pass(MEASURE)?;
        let after = self.sampler.now();
        let nodes = 0..usize::from(self.lab.state().plan.nodes);
        let rates = nodes
            .filter(|node| *node != without)
            .map(|node| forwarded(&after, node).saturating_sub(forwarded(&before, node)));
        Ok(most_over_mean(&rates.collect::<Vec<_>>()))
    }
}

fn forwarded(seen: &Seen, node: usize) -> u64 {
    let counters = seen.latest[node].as_ref().map(|status| &status.counters);
    counters.and_then(|counters| counters.get("forwarded").copied()).unwrap_or_default()
}

fn most_over_mean(rates: &[u64]) -> f64 {
    let sum: u64 = rates.iter().sum();
    let most = rates.iter().copied().max().unwrap_or_default();
    if sum == 0 { 0.0 } else { most as f64 * rates.len() as f64 / sum as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_load_has_the_ratio_one() {
        assert_eq!(most_over_mean(&[7, 7, 7]), 1.0);
        assert_eq!(most_over_mean(&[9, 0, 0]), 3.0);
        assert_eq!(most_over_mean(&[]), 0.0);
    }
}
