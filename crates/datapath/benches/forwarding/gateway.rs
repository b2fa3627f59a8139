//! Testudo's datapath as a gateway: the programs on the links, and a thread that does a daemon's work with flows.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testudo_datapath::kernel::KernelDatapath;
use testudo_datapath::pools::Pool;
use testudo_datapath::{BucketSet, Datapath, NodeTable, Settings};
use testudo_packet::bucket::{BucketId, BucketSlot, BucketState, Epoch, Nanos, NodeId};
use testudo_packet::env::Mac;
use testudo_packet::flow::{Address, Endpoint, FlowKey, Protocol};
use testudo_packet::placement::Grounds;
use testudo_packet::reception::Mode;
use testudo_packet::rule::{Action, Prefix, Rule};

use crate::measure;
use crate::processors;
use crate::site::{GATEWAY_LINKS, OUTSIDE, Site};
use crate::traffic::Flow;

const BUCKETS: u32 = 256;
/// The MAC that packets are sent to.
pub const CLUSTER_MAC: [u8; 6] = [2, 0, 0, 0, 1, 0];

/// A node that owns all buckets.
pub struct Testudo {
    datapath: KernelDatapath,
}

impl Testudo {
    /// Starts it with room for so many flows and so many rules, of which the last lets flows begin.
    pub fn start(site: &Site, flows: u32, rules: u32, snat: bool) -> Result<Self> {
        let settings = Settings {
            node: NodeId(0),
            secret: *b"a cluster secret",
            buckets: BUCKETS,
            grounds: Grounds::default(),
            cluster_mac: Mac::from_bytes(CLUSTER_MAC),
            // Twice the flows, and a translated flow takes two.
            table_slots: ((2 + 2 * u32::from(snat)) * flows).next_power_of_two().max(1024),
            pools: vec![Pool::of_sources(vec![Address::v4(u32::from_be_bytes(OUTSIDE))])],
            likenesses: Default::default(),
            answers: Vec::new(),
            mode: Mode::Shared,
        };
        let start = || -> Result<KernelDatapath> {
            let mut datapath = KernelDatapath::load(settings)?;
            for link in GATEWAY_LINKS {
                datapath.attach(link)?;
            }
            Ok(datapath)
        };
        let mut datapath = site.namespace("gateway")?.run(start)??;
        for bucket in 0..BUCKETS as u16 {
            let slot = BucketSlot {
                owner: NodeId(0),
                previous: NodeId::NONE,
                state: BucketState::Active,
                epoch: Epoch(1),
            };
            datapath.set_bucket(BucketId(bucket), slot);
        }
        datapath.set_rules(&rule_set(rules, snat)?)?;
        datapath.set_lease(Nanos(u64::MAX));
        Ok(Self { datapath })
    }

    /// How many flows it knows.
    pub fn flows(&self) -> u64 {
        self.datapath.table().len() as u64
    }

    /// Forgets all flows.
    pub fn forget(&mut self) -> Result<()> {
        let mut all = BucketSet::new(BUCKETS);
        (0..BUCKETS as u16).for_each(|bucket| all.insert(BucketId(bucket)));
        self.datapath.table().clear(&all);
        self.work();
        ensure!(self.flows() == 0, "flows are left");
        Ok(())
    }

    /// What a daemon does each millisecond: packets that came up, events. Says how many events were read or lost.
    pub fn work(&mut self) -> (u64, u64) {
        while self.datapath.handle_upcalls(now(), &mut |_, _| None) > 0 {}
        let drained = self.datapath.drain_events(&mut |_| {});
        (drained.events as u64, drained.lost)
    }

    /// Whether it knows a flow by its first packet.
    pub fn knows(&self, flow: Flow) -> bool {
        let [initiator, responder] = [0, 1].map(|end: usize| Endpoint {
            address: Address::v4(u32::from_be_bytes(flow.addresses[end])),
            port: flow.ports[end],
        });
        self.datapath
            .table()
            .get(&FlowKey { initiator, responder, protocol: Protocol::UDP })
            .is_some()
    }

    /// The flows as their replies spell them.
    pub fn replies(&self) -> Vec<Flow> {
        let mut replies = Vec::new();
        self.datapath.table().scan(&mut |entry| {
            let key = entry.record.reply_key();
            let bytes = |address: Address| address.as_v4().unwrap_or_default().to_be_bytes();
            replies.push(Flow {
                addresses: [bytes(key.initiator.address), bytes(key.responder.address)],
                ports: [key.initiator.port, key.responder.port],
            });
        });
        replies
    }

    /// Does a daemon's work on another processor until `done`; gives the processor time and the events.
    pub fn work_until(&mut self, done: &AtomicBool) -> Result<(Duration, u64, u64)> {
        processors::keep_to(processors::daemons())?;
        let begun = measure::thread()?;
        let (mut read, mut lost) = (0, 0);
        loop {
            let last = done.load(Ordering::Acquire);
            let (more, missed) = self.work();
            (read, lost) = (read + more, lost + missed);
            if last {
                return Ok((measure::thread()?.saturating_sub(begun), read, lost));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// What was counted of packets, where it is not 0.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        self.datapath.counters().into_iter().filter(|(_, count)| *count > 0).collect()
    }
}

/// Rules that no packet matches, and one behind them that all do.
fn rule_set(count: u32, snat: bool) -> Result<Vec<Rule>> {
    let mut rules = Vec::new();
    for number in 1..count {
        let source = Address::v4(u32::from_be_bytes([192, 0, 0, 0]) + number);
        let source = Prefix::new(source, 32).context("a prefix of one address")?;
        rules.push(Rule { source, ..Rule::any(Action::Drop) });
    }
    rules.push(Rule { source_pool: u16::from(snat), ..Rule::any(Action::Accept) });
    Ok(rules)
}

fn now() -> Nanos {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    time.map_or(Nanos(0), |time| Nanos(std::time::Duration::from(time).as_nanos() as u64))
}
