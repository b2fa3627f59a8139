//! `testudo replay FILE.pcap`: a capture through a cluster in user space, without root.
//!
//! It answers, before anything is bought or built, how even a cluster would share this traffic and
//! how large its tables would be. Invariant: the packets go through the pipeline that the kernel
//! runs, over the bucket map that the daemons use; nothing is modelled beside them.
//!
//! Exit codes: 0 fine, 1 the file could not be read to its end (what was read is reported), 2 asked
//! wrongly.

mod capture;
mod cluster;
mod link_type;
mod record;
mod report;
mod window;

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use testudo_cluster::config::MAX_NODES;
use testudo_datapath::MAX_TABLE_SLOTS;
use testudo_packet::bucket::{MAX_BUCKETS, Nanos};

use capture::{Capture, CaptureError, Fault, Packet};
use cluster::{Broken, CLUSTER_MAC, Cluster, Size};
use link_type::NotUnderstood;
use report::{Read, Report};

/// Run a capture through a cluster in user space and show how its nodes share it
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A pcap or pcapng file
    file: PathBuf,
    /// How many nodes the cluster has
    #[arg(short, long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=MAX_NODES as i64))]
    nodes: u8,
    /// How many buckets the cluster has: a power of two
    #[arg(short, long, default_value_t = 256, value_parser = power_of_two::<MAX_BUCKETS>)]
    buckets: u32,
    /// How many slots each node table has: a power of two, 32 at least
    #[arg(long, default_value_t = 262_144, value_parser = power_of_two::<MAX_TABLE_SLOTS>)]
    slots: u32,
    /// Print JSON
    #[arg(short, long)]
    json: bool,
}

fn power_of_two<const MOST: u32>(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|n: &u32| n.is_power_of_two() && (2..=MOST).contains(n));
    number.ok_or_else(|| format!("expected a power of two from 2 to {MOST}"))
}

/// Why there is no report, or none of the whole file.
#[derive(Debug, thiserror::Error)]
enum ReplayError {
    #[error("{file}: {error}")]
    Capture { file: String, error: CaptureError },
    #[error("packet {packet}: {broken}; this is a mistake in testudo")]
    Broken { packet: u64, broken: Broken },
    #[error(transparent)]
    Datapath(#[from] testudo_datapath::Error),
    #[error("can't print: {0}")]
    Output(#[from] io::Error),
}

/// `testudo replay`
pub fn run(args: &Args) -> ExitCode {
    match replay(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("testudo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn replay(args: &Args) -> Result<(), ReplayError> {
    let file = args.file.display().to_string();
    let opened = File::open(&args.file).map_err(|source| ReplayError::Capture {
        file: file.clone(),
        error: CaptureError { offset: 0, packets: 0, fault: Fault::Unreadable(source) },
    })?;
    let size = Size { nodes: args.nodes, buckets: args.buckets, slots: args.slots };
    let mut play = Play {
        cluster: Cluster::new(size)?,
        read: Read { file: file.clone(), ..Read::default() },
        span: None,
        frame: Vec::new(),
    };
    let mut capture = Capture::new(opened);
    let ended = play.all(&mut capture)?;
    play.read.packets = play.cluster.outcomes().values().sum();
    play.cluster.finish().map_err(|broken| play.broken(broken))?;
    play.read.error = ended.as_ref().map(ToString::to_string);
    let report = Report::new(play.read, &play.cluster);
    print(&if args.json {
        serde_json::to_string(&report).map_err(io::Error::from)? + "\n"
    } else {
        report.to_text()
    })?;
    ended.map_or(Ok(()), |error| Err(ReplayError::Capture { file, error }))
}

/// Captured packets are handled at the length that they had. Packets of which less than this was
/// captured are not: their headers may be cut, and a header made up of zeros would pass for theirs.
/// Ethernet, IPv6 and the TCP flags fit.
const LEAST_SNAPSHOT: usize = 68;
/// No packet is longer, offloads included.
const MAX_LENGTH: u32 = 1 << 18;

/// A replay under way.
struct Play {
    cluster: Cluster,
    read: Read,
    /// The earliest and the latest time seen.
    span: Option<(u64, u64)>,
    frame: Vec<u8>,
}

impl Play {
    /// Plays all that can be read; gives what ended it, unless it was the file's end.
    fn all(&mut self, capture: &mut Capture<File>) -> Result<Option<CaptureError>, ReplayError> {
        loop {
            let packet = match capture.next() {
                Ok(Some(packet)) => packet,
                Ok(None) => return Ok(None),
                Err(error) => return Ok(Some(error)),
            };
            let (number, link) = (packet.number, packet.link);
            match self.one(&packet) {
                Ok(Ok(())) => {}
                Ok(Err(NotUnderstood)) => {
                    return Ok(Some(capture.refuse_last(Fault::LinkType { link })));
                }
                Err(broken) => return Err(ReplayError::Broken { packet: number, broken }),
            }
        }
    }

    fn one(&mut self, packet: &Packet<'_>) -> Result<Result<(), NotUnderstood>, Broken> {
        let &Packet { time, link, bytes, length, .. } = packet;
        if let Err(error) = link_type::write_frame(link, bytes, CLUSTER_MAC, &mut self.frame) {
            return Ok(Err(error));
        }
        let missing = (length.min(MAX_LENGTH) as usize).saturating_sub(bytes.len());
        if missing > 0 {
            self.read.cut_short += 1;
            if bytes.len() >= LEAST_SNAPSHOT {
                self.frame.resize(self.frame.len() + missing, 0);
            }
        }
        if let Some(time) = time {
            let (first, last) = self.span.unwrap_or((time, time));
            let (first, last) = (first.min(time), last.max(time));
            self.span = Some((first, last));
            self.read.seconds = (last - first) as f64 / 1e9;
        }
        let now = self.span.map_or(0, |(_, last)| last);
        self.cluster.handle(&mut self.frame, Nanos(now)).map(Ok)
    }

    fn broken(&self, broken: Broken) -> ReplayError {
        ReplayError::Broken { packet: self.read.packets, broken }
    }
}

fn print(text: &str) -> io::Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        // `| head` has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}
