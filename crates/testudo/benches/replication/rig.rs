//! What is compared: a pair of gateways of which one is to know the other's flows. And one run of it.
//!
//! Invariant: a run whose tables are not as they should be at its end gives no figures, only what was
//! wrong.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::cluster::Cluster;
use crate::conntrackd::{Conntrackd, Mode};
use crate::generator;
use crate::interrupt;
use crate::measure;
use crate::site::{END_LINKS, GATEWAYS, SYNC_LINK, Site, Traffic};

/// How long the second gateway may still be catching up when the last connection is open, for a rate to
/// count as one that it keeps up with.
const CAUGHT_UP: Duration = Duration::from_millis(500);
/// How long it may make no progress before the rest counts as lost.
const STALLED: Duration = Duration::from_secs(3);
/// How long it has to be told nothing more before it is believed to know all.
const QUIET: Duration = Duration::from_millis(400);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(20);
/// How long the daemons are watched while nothing happens.
const IDLE: Duration = Duration::from_secs(1);
/// What a segment's headers take on the wire, and the largest frame.
const HEADERS: u64 = 14 + 20 + 32;
const LARGEST: u64 = 1514;

/// A pair of gateways. The first carries the traffic.
pub trait Rig {
    /// The MACs that frames for the first are sent to, from the client's side and the server's.
    fn gateway(&self) -> Result<[[u8; 6]; 2]>;
    /// The daemons.
    fn processes(&self) -> [u32; 2];
    /// How far the second has got.
    fn known(&mut self) -> Result<Known>;
    /// What was lost on the way, by the rig's own count; it may have been repaired.
    fn losses(&mut self) -> Result<Vec<(String, u64)>>;
    /// Within how many milliseconds the second had half of the changes, and 99 of 100, by the first's count.
    fn delays_ms(&mut self) -> Result<Option<[f64; 2]>> {
        Ok(None)
    }
    /// What is wrong with the tables, which should have so many established connections.
    fn complaint(&mut self, count: u32) -> Result<Option<String>>;
    /// The first is gone: so many entries have to be what the second handles packets with.
    fn fail_over(&mut self, count: u32) -> Result<Effective>;
}

/// How far the second gateway has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// How many connections it knows.
    pub entries: u64,
    /// How many changes it was told of, where `entries` does not show whether all have come.
    pub changes: u64,
}

/// How long entries took to become effective on the survivor, from its decision.
#[derive(Clone, Copy, Debug)]
pub struct Effective {
    /// When packets were handled, with entries looked up one by one as they are needed.
    pub flipped: Option<Duration>,
    /// When all entries were in the table that packets are handled with.
    pub all: Duration,
    /// The survivor's processor time.
    pub busy: Duration,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// conntrackd in one of its modes.
    Conntrackd(Mode),
    /// Testudo, as it is by default.
    Testudo,
    /// Testudo, with streams that are not encrypted.
    InClear,
}

/// Everything, in the order of the report.
pub const KINDS: [Kind; 5] = [
    Kind::Conntrackd(Mode::Ftfw),
    Kind::Conntrackd(Mode::FtfwEstablished),
    Kind::Conntrackd(Mode::NoTrack),
    Kind::Testudo,
    Kind::InClear,
];

impl Kind {
    /// The name for people.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Conntrackd(Mode::Ftfw) => "conntrackd FTFW",
            Kind::Conntrackd(Mode::FtfwEstablished) => "conntrackd FTFW, established only",
            Kind::Conntrackd(Mode::NoTrack) => "conntrackd NOTRACK",
            Kind::Testudo => "Testudo",
            Kind::InClear => "Testudo, in clear",
        }
    }

    /// Starts it.
    pub fn start(self, site: &Site, flows: u32) -> Result<Box<dyn Rig + '_>> {
        Ok(match self {
            Kind::Conntrackd(mode) => Box::new(Conntrackd::start(site, mode)?),
            Kind::Testudo => Box::new(Cluster::start(site, flows, true)?),
            Kind::InClear => Box::new(Cluster::start(site, flows, false)?),
        })
    }
}

/// What a run that counts has given.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Connections a second that were opened.
    pub sent_per_second: f64,
    /// Connections a second from the first to the last that the second gateway knew.
    pub replicated_per_second: f64,
    /// How long it was still catching up after the last, in milliseconds.
    pub behind_ms: f64,
    /// Processor time of the daemons, in microseconds a connection: first and second, user and system.
    pub daemons: [[f64; 2]; 2],
    /// What both daemons take of a processor while nothing happens, in percent.
    pub idle_percent: f64,
    /// Processor time of the generator with the first gateway's packets, and of the kernel's packet
    /// threads, in microseconds a connection.
    pub packets: f64,
    /// Processor time of the whole machine, in microseconds a connection.
    pub machine: f64,
    /// Bytes and frames on the wire between the gateways, a connection.
    pub wire_bytes: f64,
    /// Frames a connection.
    pub wire_frames: f64,
    /// Memory of the daemons, in bytes an entry.
    pub memory: [f64; 2],
    /// What was lost on the way and repaired.
    pub losses: Vec<(String, u64)>,
    /// Within how many milliseconds the second had half of the changes, and 99 of 100; nothing if that is
    /// not counted.
    pub delays_ms: Option<[f64; 2]>,
}

/// One run.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// Whose.
    pub name: &'static str,
    /// Connections a second that were asked for.
    pub rate: u32,
    /// How many connections.
    pub connections: u32,
    /// The figures, if the run counts.
    pub figures: Option<Figures>,
    /// Why it does not count.
    pub complaint: Option<String>,
}

impl Run {
    /// Whether everything was replicated, as fast as it came, and nothing had to be repaired.
    pub fn kept_up(&self) -> bool {
        let quick = |figures: &Figures| {
            Duration::from_secs_f64(figures.behind_ms / 1e3) <= CAUGHT_UP
                && figures.losses.iter().all(|(_, lost)| *lost == 0)
        };
        self.figures.as_ref().is_some_and(quick)
    }

    /// Whether connections were opened as fast as was asked for. If not, the processor that sends them
    /// and has the first gateway's packets was too slow.
    pub fn reached(&self) -> bool {
        let figures = self.figures.as_ref();
        figures.is_some_and(|f| f.sent_per_second >= 0.9 * f64::from(self.rate))
    }

    /// Processor time of both daemons, in microseconds a connection.
    pub fn cost(&self) -> Option<f64> {
        self.figures.as_ref().map(|figures| figures.daemons.as_flattened().iter().sum())
    }
}

/// The runs of the highest rate that was kept up with in every round.
pub fn best<'a>(runs: &'a [Run], name: &str) -> Vec<&'a Run> {
    let of = || runs.iter().filter(|run| run.name == name);
    let failed = of().filter(|run| !run.kept_up()).map(|run| run.rate).min();
    let below = of().filter(|run| failed.is_none_or(|failed| run.rate < failed));
    let rate = below.map(|run| run.rate).max();
    of().filter(|run| Some(run.rate) == rate).collect()
}

/// What is looked at before and after.
struct Look {
    daemons: [measure::Busy; 2],
    softirq: Duration,
    machine: Duration,
    wire: Traffic,
    memory: [u64; 2],
    ends: [Traffic; 2],
    at: Instant,
}

impl Look {
    fn now(site: &Site, rig: &dyn Rig) -> Result<Self> {
        let [first, second] = rig.processes();
        Ok(Self {
            memory: [measure::memory(first)?, measure::memory(second)?],
            wire: site.traffic(GATEWAYS[0], SYNC_LINK)?,
            ends: [site.traffic("client", END_LINKS[0])?, site.traffic("server", END_LINKS[1])?],
            daemons: [measure::process(first)?, measure::process(second)?],
            softirq: measure::softirq_threads()?,
            machine: measure::machine()?,
            at: Instant::now(),
        })
    }
}

/// Opens connections through a pair of gateways and waits until the second knows them, or does not
/// get on.
pub fn run(site: &Site, kind: Kind, rate: u32, connections: u32) -> Result<Run> {
    interrupt::check()?;
    let mut rig = kind.start(site, connections)?;
    let (figures, complaint) = match measure_run(site, rig.as_mut(), rate, connections)? {
        Ok(figures) => (Some(figures), None),
        Err(complaint) => (None, Some(complaint)),
    };
    Ok(Run { name: kind.name(), rate, connections, figures, complaint })
}

fn measure_run(
    site: &Site,
    rig: &mut dyn Rig,
    rate: u32,
    connections: u32,
) -> Result<Result<Figures, String>> {
    let rest = Look::now(site, rig)?;
    thread::sleep(IDLE);
    let before = Look::now(site, rig)?;
    let sent = generator::open(site, rig.gateway()?, connections, rate)?;
    let opened = Instant::now();
    let known = settle(rig, connections)?;
    let after = Look::now(site, rig)?;
    let frames = [0, 1].map(|end: usize| after.ends[end].frames_in - before.ends[end].frames_in);
    let expected = [u64::from(connections), 2 * u64::from(connections)];
    if frames != expected {
        return Ok(Err(format!("{frames:?} frames came through instead of {expected:?}")));
    }
    if let Some(complaint) = rig.complaint(connections)? {
        return Ok(Err(format!("{complaint}; losses {:?}", rig.losses()?)));
    }
    let losses = rig.losses()?;
    let idle: Duration =
        [0, 1].map(|of: usize| before.daemons[of].since(rest.daemons[of]).total).iter().sum();
    let each = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(connections);
    let daemon = |of: usize| {
        let busy = after.daemons[of].since(before.daemons[of]);
        [each(busy.user), each(busy.total.saturating_sub(busy.user))]
    };
    let memory = [0, 1].map(|of: usize| {
        after.memory[of].saturating_sub(before.memory[of]) as f64 / f64::from(connections)
    });
    let (wire_bytes, wire_frames) = wire(&before, &after);
    let behind = known.saturating_duration_since(opened);
    Ok(Ok(Figures {
        sent_per_second: f64::from(connections) / sent.took.as_secs_f64(),
        replicated_per_second: f64::from(connections) / (sent.took + behind).as_secs_f64(),
        behind_ms: behind.as_secs_f64() * 1e3,
        daemons: [daemon(0), daemon(1)],
        idle_percent: idle.as_secs_f64() / before.at.duration_since(rest.at).as_secs_f64() * 100.0,
        packets: each(sent.busy + after.softirq.saturating_sub(before.softirq)),
        machine: each(after.machine.saturating_sub(before.machine)),
        wire_bytes: wire_bytes / f64::from(connections),
        wire_frames: wire_frames / f64::from(connections),
        memory,
        losses,
        delays_ms: rig.delays_ms()?,
    }))
}

/// Waits until the second gateway knows all and is told no more, or gets no further; says when that was.
fn settle(rig: &mut dyn Rig, connections: u32) -> Result<Instant> {
    let (mut last, mut since) = (Known::default(), Instant::now());
    loop {
        let known = rig.known()?;
        if known != last {
            (last, since) = (known, Instant::now());
        }
        let enough = if known.entries >= u64::from(connections) { QUIET } else { STALLED };
        if since.elapsed() >= enough {
            return Ok(since);
        }
        interrupt::check()?;
        thread::sleep(LOOK);
    }
}

/// Bytes and frames both ways. A frame that is larger than a wire carries counts as the segments that it
/// would be cut into, each with its headers.
fn wire(before: &Look, after: &Look) -> (f64, f64) {
    let bytes = after.wire.bytes - before.wire.bytes;
    let frames = after.wire.frames_in + after.wire.frames_out
        - before.wire.frames_in
        - before.wire.frames_out;
    let segments = (bytes / LARGEST).max(frames);
    ((bytes + (segments - frames) * HEADERS) as f64, segments as f64)
}

/// Fills both gateways' tables, lets the first die, and says how long the survivor took.
pub fn fail_over(site: &Site, kind: Kind, connections: u32, rate: u32) -> Result<Effective> {
    let mut rig = kind.start(site, connections)?;
    generator::open(site, rig.gateway()?, connections, rate)?;
    settle(rig.as_mut(), connections)?;
    if let Some(complaint) = rig.complaint(connections)? {
        bail!("{} before the failure: {complaint}", kind.name());
    }
    rig.fail_over(connections)
}

/// Waits for something, so long at most.
pub fn wait(most: Duration, mut happened: impl FnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !happened()? {
        interrupt::check()?;
        if begun.elapsed() > most {
            bail!("waited {most:?} in vain");
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// A directory of a rig's own, which goes with it.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes it.
    pub fn new(name: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("replication-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(Self(path))
    }

    /// A file in it.
    pub fn path(&self, file: &str) -> PathBuf {
        self.0.join(file)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{} is left: {error}", self.0.display());
        }
    }
}
