//! The time of one packet of a known flow through the whole program, by the state of its bucket.
//!
//! `cargo bench -p testudo-datapath --bench packet`, as root. The packets run through
//! `BPF_PROG_TEST_RUN` in `tap` mode, so that no route is looked up: what is measured is headers,
//! bucket, lease, load, table and state. Rounds of all states alternate, and the median of each is
//! printed, so that a noisy moment hits all alike.

use anyhow::{Context, Result};
use aya::programs::{TestRun, TestRunOptions};
use testudo_datapath::kernel::KernelDatapath;
use testudo_datapath::{Datapath, Settings};
use testudo_packet::bucket::{BucketId, BucketSlot, BucketState, Epoch, Nanos, NodeId};
use testudo_packet::env::Mac;
use testudo_packet::placement::Grounds;
use testudo_packet::reception::Mode;
use testudo_packet::rule::{Action, Rule};

const BUCKETS: u32 = 16;
const ROUNDS: usize = 41;
/// As many as the ring of events has room to report.
const PACKETS: u32 = 50_000;

fn set_all(datapath: &mut KernelDatapath, owner: u8, state: BucketState) {
    let slot = BucketSlot { owner: NodeId(owner), previous: NodeId::NONE, state, epoch: Epoch(1) };
    for bucket in 0..BUCKETS as u16 {
        datapath.set_bucket(BucketId(bucket), slot);
    }
}

fn packet() -> Vec<u8> {
    let mut frame = [2, 0, 0, 0, 1, 0, 2, 0, 0, 0, 0, 9, 8, 0].to_vec();
    frame.extend([0x45, 0, 0, 128, 0, 0, 0, 0, 64, 17, 0, 0, 10, 10, 2, 1, 10, 20, 2, 1]);
    frame.extend([0x40, 7, 0, 53, 0, 108, 0, 0]);
    frame.extend([0x55; 100]);
    frame
}

/// Nanoseconds a packet, on average over a run.
fn run(datapath: &mut KernelDatapath, frame: &[u8], packets: u32) -> Result<u64> {
    let mut options = TestRunOptions::new();
    options.data_in = Some(frame);
    options.repeat = packets;
    let result = datapath.program()?.test_run(options).context("a test run")?;
    Ok(result.duration.as_nanos() as u64)
}

fn main() -> Result<()> {
    let quick = !std::env::args().any(|argument| argument == "--bench");
    if !nix::unistd::geteuid().is_root() {
        println!("not measured: needs root for BPF");
        return Ok(());
    }
    let (rounds, packets) = if quick { (3, 1000) } else { (ROUNDS, PACKETS) };
    let mut datapath = KernelDatapath::load(Settings {
        node: NodeId(0),
        secret: *b"a cluster secret",
        buckets: BUCKETS,
        grounds: Grounds::default(),
        cluster_mac: Mac(2),
        table_slots: 1024,
        pools: Vec::new(),
        likenesses: Default::default(),
        answers: Vec::new(),
        mode: Mode::Tap { interface: 1 },
    })?;
    datapath.set_lease(Nanos(u64::MAX));
    datapath.set_rules(&[Rule::any(Action::Accept)])?;
    let states = [
        ("owned, active", 0, BucketState::Active),
        ("owned, yielding: each packet is reported", 0, BucketState::Yielding),
        ("another node's", 1, BucketState::Active),
    ];
    let mut times = vec![Vec::new(); states.len()];
    let frame = packet();
    for _ in 0..rounds {
        for (&(_, owner, state), times) in states.iter().zip(&mut times) {
            set_all(&mut datapath, owner, state);
            run(&mut datapath, &frame, 1)?;
            datapath.drain_events(&mut |_| {});
            times.push(run(&mut datapath, &frame, packets)?);
        }
    }
    for ((name, ..), times) in states.iter().zip(&mut times) {
        times.sort_unstable();
        let [low, median, high] = [rounds / 10, rounds / 2, rounds * 9 / 10].map(|at| times[at]);
        println!("{name}: {median} ns a packet (p10 {low}, p90 {high}; {rounds} runs)");
    }
    Ok(())
}
