//! What makes replication hard while the load goes on: new flows all the time, sync links that lose and
//! delay, a peer that reads nothing.
//!
//! Invariant: it ends before the tables are compared, so what is judged is whether they have become equal
//! again, and forwarding is judged all the while.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::Result;

use super::Stage;
use crate::lab::connects::Connects;
use crate::lab::impair::{Impaired, Impairment};
use crate::lab::prefill::Churn;
use crate::lab::random::Random;
use crate::lab::report::facts::{Memory, Step};

/// Flows of the churn have numbers that no other made-up flow has.
const FIRST_FLOW: u32 = 4_000_001;

/// What is under way.
#[derive(Debug, Default)]
pub(super) struct Hardship {
    impaired: Option<Impaired>,
    churn: Option<Churn>,
    connects: Option<Connects>,
    /// What the daemons had needed before, in KiB.
    before: BTreeMap<String, u64>,
}

impl Stage<'_> {
    /// Begins what was asked for.
    pub(super) fn begin_hardship(&mut self) -> Result<()> {
        let args = self.args;
        self.hardship.before = self.peaks();
        if args.is_impaired() {
            let impaired = Impaired::insert(self.lab.topology(), self.lab.state(), self.seed)?;
            impaired.set_all(Impairment {
                loss: args.sync_loss * 10,
                delay: Duration::from_millis(args.sync_delay.into()),
                no_streams: false,
            });
            self.hardship.impaired = Some(impaired);
        }
        if args.churn > 0 {
            self.hardship.churn = Some(Churn::start(self.lab, FIRST_FLOW, args.churn)?);
            self.narrator.say(&format!("{} new flows a second", args.churn));
        }
        if args.connects > 0 {
            let topology = self.lab.topology();
            let server = topology.plan().server()[0];
            self.hardship.connects = Some(Connects::start(topology, server, args.connects)?);
            self.narrator.say(&format!("{} new connections a second", args.connects));
        }
        Ok(())
    }

    /// Every connection that was answered is known to those that live.
    pub(super) fn check_connects(&mut self) -> Result<()> {
        let Some(connects) = &self.hardship.connects else { return Ok(()) };
        let lost = connects.check(self.interrupt)?;
        if lost > 0 {
            self.narrator.say(&format!("{lost} answered connections were lost so far"));
        }
        Ok(())
    }

    /// A peer takes nothing from the streams for a while, and gives nothing; its heartbeats go on.
    pub(super) fn stall(&mut self) -> Result<()> {
        let nodes = self.lab.state().nodes.len() as u64;
        let victim = Random::new(self.seed).between(0, nodes) as usize;
        let name = self.lab.state().nodes[victim].name.clone();
        let Some(impaired) = &self.hardship.impaired else { return Ok(()) };
        impaired.set(victim, Impairment { no_streams: true, ..Impairment::default() });
        self.narrator.say(&format!("the streams of {name} stand still"));
        let time = Duration::from_secs(self.args.stall.into());
        self.pass(time)?;
        if let Some(impaired) = &self.hardship.impaired {
            impaired.set(victim, Impairment::default());
        }
        self.narrator.say(&format!("the streams of {name} go on"));
        self.played.steps.push(Step { what: "stall", millis: time.as_secs_f64() * 1e3 });
        Ok(())
    }

    /// Ends it. The relays stay where they are, as links that do nothing to their frames.
    pub(super) fn end_hardship(&mut self) -> Result<()> {
        self.check_connects()?;
        if let Some(connects) = self.hardship.connects.take() {
            self.played.connects = connects.finish()?;
        }
        if let Some(churn) = self.hardship.churn.take() {
            let opened = churn.finish()?;
            self.played.opened = opened;
            self.narrator.say(&format!("{opened} flows were opened meanwhile"));
        }
        if let Some(impaired) = &mut self.hardship.impaired {
            impaired.set_all(Impairment::default());
            if let Some(failure) = impaired.failure() {
                self.complain(failure);
            }
        }
        let before = std::mem::take(&mut self.hardship.before);
        let peaks = self.peaks().into_iter();
        self.played.memory = peaks
            .map(|(node, peak_kib)| {
                let before_kib = before.get(&node).copied().unwrap_or_default();
                Memory { node, before_kib, peak_kib }
            })
            .collect();
        Ok(())
    }

    /// The most memory that each daemon has had so far, in KiB (proc_pid_status(5), `VmHWM`).
    fn peaks(&self) -> BTreeMap<String, u64> {
        let nodes = self.lab.state().nodes.iter();
        let peaks = nodes.filter_map(|node| {
            let path = format!("/proc/{}/status", node.process?.pid);
            let text = fs::read_to_string(path).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
            let peak = line.trim().trim_end_matches("kB").trim().parse().ok()?;
            Some((node.name.clone(), peak))
        });
        peaks.collect()
    }
}
