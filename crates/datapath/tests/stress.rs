//! The node table under load: packets on two CPUs in the kernel, and the daemon writing.
//!
//! The table is small, so that flows compete for every slot and windows fill. Whatever the order of
//! things, every flow that is seen must be whole, and at rest each must be there once and be found.
//! Needs root; ignored, with the reason, without it.

mod privileged;

#[allow(dead_code, reason = "some of it is for other tests")]
mod traffic;

use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use testudo_datapath::kernel::KernelDatapath;
use testudo_datapath::{BucketSet, Datapath, NodeTable, Settings, SharedTable};
use testudo_packet::bucket::{BucketId, BucketSlot, BucketState, Epoch, Nanos, NodeId};
use testudo_packet::entry::{FlowRecord, FlowState};
use testudo_packet::env::Mac;
use testudo_packet::placement::{AS_THEMSELVES, Grounds, Identifiers, PacketType, Placer};
use testudo_packet::reception::Mode;
use testudo_packet::rule::{Action, Rule};
use testudo_packet::tracking::{Phase, Timeouts};

const BUCKETS: u32 = 16;
const PACKETS: usize = 60_000;

fn settings() -> Settings {
    Settings {
        node: NodeId(0),
        secret: *b"a cluster secret",
        buckets: BUCKETS,
        grounds: Grounds::default(),
        cluster_mac: Mac::from_bytes(traffic::CLUSTER_MAC),
        table_slots: 64,
        pools: Vec::new(),
        likenesses: Default::default(),
        answers: Vec::new(),
        mode: Mode::Shared,
    }
}

/// Runs the program on one packet, on the CPU that the calling thread is on.
fn test_run(program: RawFd, frame: &[u8]) {
    /// The part of `union bpf_attr` that `BPF_PROG_TEST_RUN` reads.
    #[repr(C)]
    #[derive(Default)]
    struct Attributes {
        program: u32,
        result: u32,
        bytes_in: u32,
        bytes_out: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        duration: u32,
        context: [u64; 3],
        batch: u64,
    }
    const BPF_PROG_TEST_RUN: libc::c_long = 10;
    let mut attributes = Attributes {
        program: program as u32,
        bytes_in: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        repeat: 1,
        ..Attributes::default()
    };
    // SAFETY: the attributes are as long as is said, and point to a frame that outlives the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_TEST_RUN,
            &raw mut attributes,
            size_of::<Attributes>(),
        )
    };
    assert_eq!(done, 0, "a test run: {}", std::io::Error::last_os_error());
}

fn stay_on(cpu: usize) {
    let mut set = nix::sched::CpuSet::new();
    set.set(cpu).expect("a CPU number");
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set).expect("this CPU");
}

/// The TCP packets of a run: no others reach the table through the same key twice.
fn flow_packets(seed: u64) -> Vec<Vec<u8>> {
    let mut packets = traffic::packets(seed, 4000);
    packets.retain(|frame| frame.len() >= 54);
    packets
}

fn check_whole(placer: &Placer, record: &FlowRecord) {
    let packet_type = match record.key.protocol.0 {
        6 => PacketType::Tcp,
        // Other types are placed by what the record does not hold.
        _ => return,
    };
    let placed = placer.place(&record.key, packet_type, Identifiers::default(), AS_THEMSELVES);
    assert_eq!(placed.bucket, record.bucket, "parts of two flows: {record:?}");
}

/// What the daemon does to the table, over and over.
fn daemon(table: &SharedTable, placer: &Placer, seen: &[FlowRecord], round: usize) {
    let now = Nanos(u64::MAX / 2);
    match round % 8 {
        0 => {
            let mut buckets = BucketSet::new(BUCKETS);
            buckets.insert(BucketId((round / 8) as u16 % BUCKETS as u16));
            table.clear(&buckets);
        }
        1 => {
            table.expire(now, &Timeouts::default(), &mut |record| check_whole(placer, record));
        }
        2 | 3 => {
            let newer = |record: &FlowRecord| FlowRecord {
                epoch: record.epoch.next(),
                state: FlowState { phase: Phase::Established, ..record.state },
                ..*record
            };
            let records: Vec<_> = seen.iter().map(newer).collect();
            table.install(&records, now);
        }
        _ => table.scan(&mut |view| check_whole(placer, &view.record)),
    }
}

fn check_at_rest(table: &SharedTable) {
    let mut keys = BTreeSet::new();
    let mut views = Vec::new();
    table.scan(&mut |view| views.push(*view));
    for view in &views {
        assert!(keys.insert(view.record.key), "twice: {:?}", view.record);
        assert!(!keys.contains(&view.record.key.reversed()), "both ways: {:?}", view.record);
        let found = table.get(&view.record.key).expect("a flow that a scan shows is found");
        assert_eq!(found.record, view.record);
    }
    assert_eq!(table.len(), views.len(), "the count of flows");
    assert_eq!(table.break_locks(), 0, "a lock was left");
}

fn packets_on_two_cpus_and_a_writing_daemon_never_tear_a_flow() {
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let mut kernel = KernelDatapath::load(settings()).expect("the kernel backend");
    kernel.set_rules(&[Rule::any(Action::Accept)]).expect("one rule");
    kernel.set_lease(Nanos(u64::MAX));
    for bucket in 0..BUCKETS as u16 {
        let slot = BucketSlot {
            owner: NodeId(0),
            previous: NodeId::NONE,
            state: BucketState::Active,
            epoch: Epoch(1),
        };
        kernel.set_bucket(BucketId(bucket), slot);
    }
    let program = kernel.program().expect("loaded").fd().expect("loaded").as_fd().as_raw_fd();
    let (table, placer) = (kernel.table().clone(), settings().placer());
    let cpus = std::thread::available_parallelism().map_or(1, usize::from).min(2);
    let (running, rounds) = (AtomicBool::new(true), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let packets = (0..2).map(|cpu| {
            scope.spawn(move || {
                stay_on(cpu % cpus);
                // Both CPUs see packets of the same flows.
                let frames = flow_packets(seed);
                let turns = frames.iter().cycle().skip(cpu * frames.len() / 3);
                turns.take(PACKETS).for_each(|frame| test_run(program, frame));
            })
        });
        let packets: Vec<_> = packets.collect();
        scope.spawn(|| {
            let mut seen = Vec::new();
            while running.load(Ordering::Relaxed) {
                let round = rounds.fetch_add(1, Ordering::Relaxed);
                daemon(&table, &placer, &seen, round);
                seen.clear();
                table.scan(&mut |view| seen.push(view.record));
            }
        });
        let results: Vec<_> = packets.into_iter().map(|thread| thread.join()).collect();
        running.store(false, Ordering::Relaxed);
        results.into_iter().for_each(|result| result.expect("packets"));
    });
    check_at_rest(&table);
    let counters: std::collections::BTreeMap<_, _> = kernel.counters().into_iter().collect();
    assert!(rounds.into_inner() > 1000, "the daemon hardly ran");
    assert!(counters["drop.table-full"] > 0, "no window was ever full: {counters:?}");
    println!("{counters:?}");
}

fn main() -> std::process::ExitCode {
    privileged::run(
        &[(
            "packets_on_two_cpus_and_a_writing_daemon_never_tear_a_flow",
            packets_on_two_cpus_and_a_writing_daemon_never_tear_a_flow,
        )],
        &[],
    )
}
