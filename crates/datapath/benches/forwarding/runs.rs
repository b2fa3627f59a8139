//! What is measured of each gateway.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::gateway::{CLUSTER_MAC, Testudo};
use crate::interrupt;
use crate::linux::{Linux, Listener};
use crate::site::{GATEWAY_LINKS, Site};
use crate::traffic::{Flow, Kind as Packets, Relay, Traffic};

/// How many first packets are sent before a daemon's work is done; its ring of packets has room for so many.
const CHUNK: u32 = 1024;

/// How much is measured.
pub struct Plan {
    /// How often.
    pub rounds: usize,
    /// Packets of a run.
    pub packets: u32,
    /// Which known flows they are of.
    pub known: Vec<Known>,
    /// How many flows begin in a run.
    pub new_flows: u32,
    /// With so many rules.
    pub rules: Vec<u32>,
}

/// Known flows whose packets are measured, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Known {
    /// Whether they are translated.
    pub translated: bool,
    /// With how many rules.
    pub rules: u32,
    /// Whether their packets come in the order in which they began, and not in one of chance.
    pub in_order: bool,
    /// How many flows.
    pub flows: u32,
}

impl Known {
    /// Flows under one rule, in any order.
    pub const fn flows(flows: u32) -> Self {
        Self { translated: false, rules: 1, in_order: false, flows }
    }

    /// The order of its packets.
    fn sort(self, flows: &mut [Flow]) {
        let mut state = 1u64;
        for at in (1..flows.len()).rev().filter(|_| !self.in_order) {
            // Knuth's MMIX; the order is the same in each run.
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            flows.swap(at, (state >> 33) as usize % (at + 1));
        }
    }
}

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Kind {
    /// An XDP program that sends each packet on as it is.
    Redirect,
    /// nftables with connection tracking.
    Nftables,
    /// Testudo.
    Testudo,
}

impl Kind {
    /// All, in the order of the report.
    pub const ALL: [Self; 3] = [Self::Redirect, Self::Nftables, Self::Testudo];

    /// The name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Redirect => "empty redirect",
            Self::Nftables => "nftables",
            Self::Testudo => "Testudo",
        }
    }
}

/// Packets of known flows.
#[derive(Clone, Debug, Serialize)]
pub struct Forwarding {
    /// Through what.
    pub kind: Kind,
    /// Of what.
    #[serde(flatten)]
    pub known: Known,
    /// Processor time of a packet, generator and sink included, in nanoseconds.
    pub nanos: f64,
}

/// First packets.
#[derive(Clone, Debug, Serialize)]
pub struct Opening {
    /// Through what.
    pub kind: Kind,
    /// With how many rules.
    pub rules: u32,
    /// Processor time of a flow, generator and sink included, in nanoseconds.
    pub nanos: f64,
    /// Of that, whoever reads the events.
    pub reader_nanos: f64,
    /// Events that were lost, if that is known.
    pub lost: Option<u64>,
}

fn each(busy: Duration, count: u32) -> f64 {
    busy.as_nanos() as f64 / f64::from(count)
}

/// Known flows, all the numbers of a plan.
pub fn forwarding(
    site: &Site,
    traffic: &mut Traffic,
    plan: &Plan,
    kind: Kind,
) -> Result<Vec<Forwarding>> {
    let mut all = Vec::new();
    for &shape in &plan.known {
        interrupt::check()?;
        let busy = match kind {
            // It has neither.
            Kind::Redirect if shape.translated || shape.rules > 1 => continue,
            Kind::Redirect => by_relay(site, traffic, plan.packets, shape)?,
            Kind::Nftables => by_linux(site, traffic, plan.packets, shape)?,
            Kind::Testudo => by_testudo(site, traffic, plan.packets, shape)?,
        };
        let nanos = each(busy, plan.packets);
        eprintln!("{}: {shape:?}: {nanos:.0} ns", kind.name());
        all.push(Forwarding { kind, known: shape, nanos });
    }
    Ok(all)
}

/// Sends packets of known flows and demands that all arrive.
fn known(site: &Site, traffic: &mut Traffic, packets: u32) -> Result<Duration> {
    let sent = traffic.send(site, packets)?;
    ensure!(sent.arrived == u64::from(packets), "{} of {packets} packets arrived", sent.arrived);
    Ok(sent.busy)
}

/// The flows of a shape, in the order of their packets.
fn flows_of(shape: Known) -> impl Iterator<Item = Flow> {
    let mut flows: Vec<Flow> = (0..shape.flows).map(Flow::of).collect();
    shape.sort(&mut flows);
    flows.into_iter()
}

fn by_relay(site: &Site, traffic: &mut Traffic, packets: u32, shape: Known) -> Result<Duration> {
    let _relay = Relay::start(site, GATEWAY_LINKS)?;
    traffic.set(Packets::Datagrams, 0, CLUSTER_MAC, flows_of(shape))?;
    known(site, traffic, packets)
}

fn by_linux(site: &Site, traffic: &mut Traffic, packets: u32, shape: Known) -> Result<Duration> {
    let Known { flows, translated, rules, .. } = shape;
    let linux = Linux::start(site, rules, translated)?;
    let macs = [site.mac(GATEWAY_LINKS[0])?, site.mac(GATEWAY_LINKS[1])?];
    traffic.set(Packets::Datagrams, 0, macs[0], (0..flows).map(Flow::of))?;
    known(site, traffic, flows)?;
    // The source port is kept where it is free, and here each is for its destination.
    let seen = |number| match (Flow::of(number).reversed(), translated) {
        (flow, false) => flow,
        (flow, true) => Flow { addresses: [flow.addresses[0], crate::site::OUTSIDE], ..flow },
    };
    traffic.set(Packets::Datagrams, 1, macs[1], (0..flows).map(seen))?;
    known(site, traffic, flows)?;
    ensure!(linux.flows()? == u64::from(flows), "{} flows instead of {flows}", linux.flows()?);
    traffic.set(Packets::Datagrams, 0, macs[0], flows_of(shape))?;
    known(site, traffic, flows)?;
    known(site, traffic, packets)
}

fn by_testudo(site: &Site, traffic: &mut Traffic, packets: u32, shape: Known) -> Result<Duration> {
    let mut testudo = Testudo::start(site, shape.flows, shape.rules, shape.translated)?;
    let mut known_flows = begin(site, traffic, &mut testudo, shape.flows)?;
    let count = known_flows.len() as u32;
    traffic.set(Packets::Datagrams, 1, CLUSTER_MAC, testudo.replies().into_iter())?;
    for first in (0..count).step_by(100 * CHUNK as usize) {
        known(site, traffic, (100 * CHUNK).min(count - first))?;
        testudo.work();
    }
    shape.sort(&mut known_flows);
    traffic.set(Packets::Datagrams, 0, CLUSTER_MAC, known_flows.into_iter())?;
    known(site, traffic, count)?;
    known(site, traffic, packets)
        .map_err(|error| error.context(format!("{:?}", testudo.counters())))
}

/// Begins flows, and gives those that are known then. First packets may go up, and from there arrive a little later.
fn begin(
    site: &Site,
    traffic: &mut Traffic,
    testudo: &mut Testudo,
    flows: u32,
) -> Result<Vec<Flow>> {
    traffic.set(Packets::Datagrams, 0, CLUSTER_MAC, (0..flows).map(Flow::of))?;
    for first in (0..flows).step_by(CHUNK as usize) {
        interrupt::check()?;
        traffic.send(site, CHUNK.min(flows - first))?;
        testudo.work();
    }
    let all: Vec<Flow> = (0..flows).map(Flow::of).filter(|&flow| testudo.knows(flow)).collect();
    // One in some hundred thousand finds no room near its place.
    let seen = all.len();
    ensure!(
        seen as f64 >= 0.9999 * f64::from(flows),
        "{seen} flows instead of {flows}: {:?}",
        testudo.counters()
    );
    Ok(all)
}

/// New flows, with all the numbers of rules of a plan.
pub fn opening(
    site: &Site,
    traffic: &mut Traffic,
    plan: &Plan,
    kind: Kind,
) -> Result<Vec<Opening>> {
    let mut all = Vec::new();
    for &rules in &plan.rules {
        interrupt::check()?;
        let count = plan.new_flows;
        let (busy, reader, lost) = match kind {
            Kind::Redirect => return Ok(all),
            Kind::Nftables => open_by_linux(site, traffic, count, rules)?,
            Kind::Testudo => open_by_testudo(site, traffic, count, rules)?,
        };
        let opening = Opening {
            kind,
            rules,
            nanos: each(busy + reader, count),
            reader_nanos: each(reader, count),
            lost,
        };
        eprintln!("{}: {rules} rules: {:.0} ns a new flow", kind.name(), opening.nanos);
        all.push(opening);
    }
    Ok(all)
}

type Cost = (Duration, Duration, Option<u64>);

fn open_by_linux(site: &Site, traffic: &mut Traffic, count: u32, rules: u32) -> Result<Cost> {
    let linux = Linux::start(site, rules, false)?;
    let mac = site.mac(GATEWAY_LINKS[0])?;
    traffic.set(Packets::Syns, 0, mac, (0..count).map(Flow::of))?;
    let listener = Listener::start(site)?;
    let before = listener.busy()?;
    let busy = known(site, traffic, count)?;
    // It has its own time to print what it has read.
    let mut last = before;
    loop {
        std::thread::sleep(Duration::from_millis(200));
        let now = listener.busy()?;
        if now == last {
            break;
        }
        last = now;
    }
    ensure!(linux.flows()? == u64::from(count), "{} flows instead of {count}", linux.flows()?);
    Ok((busy, last.saturating_sub(before), None))
}

fn open_by_testudo(site: &Site, traffic: &mut Traffic, count: u32, rules: u32) -> Result<Cost> {
    let mut testudo = Testudo::start(site, count, rules, false)?;
    traffic.set(Packets::Syns, 0, CLUSTER_MAC, (0..count).map(Flow::of))?;
    let done = AtomicBool::new(false);
    let (busy, worked) = std::thread::scope(|scope| {
        let reader = scope.spawn(|| testudo.work_until(&done));
        let busy = known(site, traffic, count);
        done.store(true, Ordering::Release);
        (busy, reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let (reader, read, lost) = worked?;
    ensure!(read + lost == u64::from(count), "{read} events and {lost} lost, of {count} flows");
    ensure!(testudo.flows() == u64::from(count), "{} flows instead of {count}", testudo.flows());
    testudo.forget()?;
    Ok((busy?, reader, Some(lost)))
}
