//! Packets of many flows, made and counted in the kernel.
//!
//! `crates/xdp/src/traffic.rs` has the programs. One processor makes the packets, in batches, with live frames of
//! `BPF_PROG_TEST_RUN`; the gateway handles a batch on the same processor before the next one is made. So the
//! processor time of the calling thread is the generator's, the gateway's and the sink's. A call sleeps at its end, so
//! time on the clock says nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::maps::{Map, PerCpuArray};
use aya::programs::xdp::XdpMode;
use aya::programs::{TestRun, TestRunAttrs, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use testudo_datapath::Words;

use crate::measure;
use crate::processors;
use crate::site::{END_LINKS, Site};

static OBJECT: &[u8] = include_bytes_aligned!("../../../xdp/objects/traffic.bpf.o");

/// Frames of which none waits for what becomes of another; a veth's ring has 256.
const BATCH: u32 = 64;
/// Words of a flow.
const FLOW_WORDS: usize = 2;
/// The words of the control map; `crates/xdp/src/traffic.rs` has the other half.
mod control {
    pub const NEXT: usize = 0;
    pub const FLOWS: usize = 1;
    pub const LINK: usize = 2;
    pub const HEAD: usize = 3;
    pub const WORDS: usize = 8;
}

/// The bytes of a frame, Ethernet header included.
const FRAME: usize = 64;
/// RFC 791 §3.1: the length of a header without options, its version and length, its time to live.
const IP_HEADER: usize = 20;
const VERSION: u8 = 0x45;
const HOPS: u8 = 64;

/// What packets are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// UDP datagrams without a checksum.
    Datagrams,
    /// TCP segments that ask for a connection.
    Syns,
}

impl Kind {
    fn protocol(self) -> u8 {
        match self {
            Kind::Datagrams => 17,
            Kind::Syns => 6,
        }
    }
}

/// A flow, as its packets in one direction spell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Source and destination.
    pub addresses: [[u8; 4]; 2],
    /// Source and destination.
    pub ports: [u16; 2],
}

impl Flow {
    /// Flow `number` of a client; no two are the same.
    pub fn of(number: u32) -> Self {
        let [_, _, high, low] = (number >> 14).to_be_bytes();
        let port = 20_000 + (number & 0x3fff) as u16;
        Self { addresses: [[10, 11, 0, 1], [10, 21, high, low]], ports: [port, 53] }
    }

    /// The same, the other way.
    pub fn reversed(self) -> Self {
        let ([source, destination], [from, to]) = (self.addresses, self.ports);
        Self { addresses: [destination, source], ports: [to, from] }
    }

    fn words(self, kind: Kind) -> [u64; FLOW_WORDS] {
        let [[a, b, c, d], [e, f, g, h]] = self.addresses;
        let [from, to] = self.ports.map(u16::to_be_bytes);
        let checksum = self.checksum(kind).to_be_bytes();
        let rest = [from[0], from[1], to[0], to[1], checksum[0], checksum[1], 0, 0];
        [u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes(rest)]
    }

    /// RFC 1071, over the header that [`frame`] makes.
    fn checksum(self, kind: Kind) -> u16 {
        let total = (FRAME - 14) as u32;
        let mut sum = u32::from(u16::from_be_bytes([VERSION, 0])) + total;
        sum += u32::from(u16::from_be_bytes([HOPS, kind.protocol()]));
        for [a, b, c, d] in self.addresses {
            sum += u32::from(u16::from_be_bytes([a, b])) + u32::from(u16::from_be_bytes([c, d]));
        }
        sum = (sum & 0xffff) + (sum >> 16);
        !((sum & 0xffff) + (sum >> 16)) as u16
    }
}

/// A frame, but for what the generator writes.
fn frame(kind: Kind) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14] = VERSION;
    frame[16..18].copy_from_slice(&((FRAME - 14) as u16).to_be_bytes());
    frame[22..24].copy_from_slice(&[HOPS, kind.protocol()]);
    let transport = &mut frame[14 + IP_HEADER..];
    match kind {
        Kind::Datagrams => {
            let bytes = (FRAME - 14 - IP_HEADER) as u16;
            transport[4..6].copy_from_slice(&bytes.to_be_bytes());
        }
        Kind::Syns => {
            // Sequence 1, a header of five words, SYN, a window of 64 kB.
            transport[7] = 1;
            transport[12..16].copy_from_slice(&[0x50, 0x02, 0xff, 0xff]);
        }
    }
    frame
}

/// What became of packets.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// Processor time of generator, gateway and sink.
    pub busy: Duration,
    /// How many arrived at the far end.
    pub arrived: u64,
}

/// The generator and the sinks.
pub struct Traffic {
    programs: Ebpf,
    flows: Words,
    room: usize,
    control: Words,
    links: [u32; 2],
    kind: Kind,
}

impl Traffic {
    /// For up to so many flows; the sinks are on the ends' links.
    pub fn new(site: &Site, room: u32) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        loader.map_max_entries("FLOWS", room);
        let mut programs = loader.load(OBJECT).context("the generator's maps")?;
        for name in ["generate", "sink"] {
            xdp(&mut programs, name)?.load().with_context(|| format!("program {name}"))?;
        }
        let mut links = [0; 2];
        for (number, link) in links.iter_mut().zip(END_LINKS) {
            *number = site.number("ends", link)?;
            let attach =
                || xdp(&mut programs, "sink").map(|sink| sink.attach(link, XdpMode::default()));
            site.namespace("ends")?.run(attach)??.with_context(|| format!("a sink on {link}"))?;
        }
        let room = room as usize;
        let flows = words(&mut programs, "FLOWS", room * FLOW_WORDS)?;
        let control = words(&mut programs, "CONTROL", control::WORDS)?;
        Ok(Self { programs, flows, room, control, links, kind: Kind::Datagrams })
    }

    /// What the next packets are of, which end sends them (0 or 1), and the MAC that they are sent to.
    pub fn set(
        &mut self,
        kind: Kind,
        end: usize,
        gateway: [u8; 6],
        flows: impl Iterator<Item = Flow>,
    ) -> Result<()> {
        let mut count = 0;
        for flow in flows {
            ensure!(count < self.room, "more flows than the generator has room for");
            for (word, value) in
                self.flows.as_slice()[count * FLOW_WORDS..].iter().zip(flow.words(kind))
            {
                word.store(value, Ordering::Relaxed);
            }
            count += 1;
        }
        let [a, b, c, d, e, f] = gateway;
        let head = [a, b, c, d, e, f, 2, 0, 0, 0, 0, 0xfc, 8, 0, VERSION, 0];
        let (first, second) = head.split_at(8);
        let number = |bytes: &[u8]| bytes.try_into().map(u64::from_ne_bytes).unwrap_or_default();
        self.kind = kind;
        for (at, value) in [
            (control::NEXT, 0),
            (control::FLOWS, count as u64),
            (control::LINK, u64::from(self.links[end])),
            (control::HEAD, number(first)),
            (control::HEAD + 1, number(second)),
        ] {
            self.word(at).store(value, Ordering::Relaxed);
        }
        Ok(())
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        &self.control.as_slice()[at]
    }

    /// Sends so many packets, each of the flow after the last one's.
    pub fn send(&mut self, site: &Site, packets: u32) -> Result<Sent> {
        let before = self.arrived()?;
        let frame = frame(self.kind);
        let program = xdp(&mut self.programs, "generate")?;
        let busy = site.namespace("ends")?.run(|| -> Result<Duration> {
            processors::keep_to(processors::PACKETS)?;
            let begun = measure::thread()? + measure::softirq_threads()?;
            let mut options = TestRunOptions::new();
            options.data_in = Some(&frame);
            options.repeat = packets;
            options.attrs = TestRunAttrs::new().xdp_live_frames(BATCH);
            program.test_run(options).context("generate packets")?;
            Ok((measure::thread()? + measure::softirq_threads()?).saturating_sub(begun))
        })??;
        Ok(Sent { busy, arrived: self.arrived()? - before })
    }

    fn arrived(&self) -> Result<u64> {
        let map = self.programs.map("ARRIVED").context("the object has no map ARRIVED")?;
        let map = PerCpuArray::<_, [u64; 2]>::try_from(map)?;
        Ok(map.get(&0, 0)?.iter().map(|[packets, _]| packets).sum())
    }
}

/// A gateway that does nothing: what comes in by one link goes out by the other.
pub struct Relay(#[allow(dead_code, reason = "holds the programs on their links")] Vec<Ebpf>);

impl Relay {
    /// Puts it in.
    pub fn start(site: &Site, links: [&str; 2]) -> Result<Self> {
        let mut all = Vec::new();
        for (near, far) in [(links[0], links[1]), (links[1], links[0])] {
            let out = u64::from(site.number("gateway", far)?);
            let mut loader = EbpfLoader::new();
            loader.override_global("RELAY_LINK", &out, true);
            let mut programs = loader.load(OBJECT).context("the relay")?;
            let relay = xdp(&mut programs, "relay")?;
            relay.load().context("program relay")?;
            let attached =
                site.namespace("gateway")?.run(|| relay.attach(near, XdpMode::default()))?;
            attached.with_context(|| format!("a relay on {near}"))?;
            all.push(programs);
        }
        Ok(Self(all))
    }
}

fn xdp<'a>(programs: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = programs.program_mut(name).with_context(|| format!("no program {name}"))?;
    Ok(program.try_into()?)
}

/// Maps the values of an array into this process.
fn words(programs: &mut Ebpf, map: &str, count: usize) -> Result<Words> {
    match programs.take_map(map) {
        Some(Map::Array(data)) => Ok(Words::map(data.fd(), count)?),
        _ => anyhow::bail!("the object has no array {map}"),
    }
}
