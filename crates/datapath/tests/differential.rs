//! The same packets through both builds of the pipeline: equal verdicts, bytes, flows, events.
//!
//! The kernel build runs through `BPF_PROG_TEST_RUN`, in a network namespace of its own without
//! routes, so that a packet to forward is left to the stack. Needs root; ignored, with the reason, without it.

mod privileged;

mod traffic;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use aya::programs::{TestRun, TestRunOptions, Xdp};
use testudo_datapath::kernel::KernelDatapath;
use testudo_datapath::likenesses::Likenesses;
use testudo_datapath::mapping::{Kind, Mapping};
use testudo_datapath::pools::Pool;
use testudo_datapath::user::UserDatapath;
use testudo_datapath::{
    Answer, BucketLoad, Datapath, LoadedSet, NodeTable, PrefixSet, Released, Settings, Station,
};
use testudo_packet::bucket::{BucketId, BucketSlot, BucketState, Epoch, Nanos, NodeId};
use testudo_packet::entry::{FlowRecord, FlowState};
use testudo_packet::env::Mac;
use testudo_packet::event::Occurrence;
use testudo_packet::flow::{Address, Endpoint, FlowKey, Protocol};
use testudo_packet::packet_hash::PacketHash;
use testudo_packet::placement::Grounds;
use testudo_packet::reception::Mode;
use testudo_packet::rule::{Action, Commit, Ports, Prefix, Rule};
use testudo_packet::stage::STAGES;
use testudo_packet::tracking::Phase;
use testudo_packet::verdict::Verdict;

const BUCKETS: u32 = 64;
/// The interface that a test run gives a packet: the loopback of the namespace.
const LOOPBACK: u32 = 1;
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;

fn settings(mode: Mode) -> Settings {
    let own = Mac::from_bytes([2, 0, 0, 0, 1, 1]);
    let answer = |address| Answer { interface: LOOPBACK, address, own };
    Settings {
        node: NodeId(1),
        secret: *b"a cluster secret",
        buckets: BUCKETS,
        grounds: Grounds::default(),
        cluster_mac: Mac::from_bytes(traffic::CLUSTER_MAC),
        table_slots: 1024,
        answers: vec![
            answer(Address::v4(u32::from_be_bytes(traffic::CLUSTER_V4))),
            answer(Address::from_bytes(traffic::CLUSTER_V6)),
        ],
        mode,
        pools: pools(),
        likenesses: likenesses().into(),
    }
}

/// Another source; another source and destination; and the two kinds of mappings.
fn pools() -> Vec<Pool> {
    let sources = ["192.0.2.1", "2001:db8::1"].map(address).to_vec();
    let backends = service().concat();
    let [plain, neutral] =
        mappings().map(|mapping| Pool { mapping: Some(mapping), ..Pool::default() });
    vec![
        Pool::of_sources(sources.clone()),
        Pool { sources, backends, mapping: None },
        plain,
        neutral,
    ]
}

/// A server of the traffic and those that it stands for, of each family.
fn service() -> [Vec<Endpoint>; 2] {
    let end = |(text, port)| Endpoint { address: address(text), port };
    let v4 = [("10.20.2.1", 80), ("10.20.2.77", 8080), ("10.20.2.78", 80)].map(end);
    [v4.to_vec(), [("fd20::1", 80), ("fd20::77", 8080)].map(end).to_vec()]
}

fn mappings() -> [Mapping; 2] {
    [
        ("10.10.2.0", "198.51.100.0", 96 + 24, Kind::Plain),
        ("fd10::", "2001:db8:77:1::", 64, Kind::Neutral),
    ]
    .map(|(inside, outside, length, kind)| {
        let (inside, outside) = (address(inside), address(outside));
        Mapping { inside, outside, length, kind }
    })
}

fn likenesses() -> Likenesses {
    Likenesses::new(&service(), &mappings())
}

/// A rule about two of the three clients and one of their ports.
fn of_two_clients(source: &str, length: u8, protocol: Protocol, pool: u16) -> Rule {
    Rule {
        protocol: Some(protocol),
        source: Prefix::new(address(source), length).expect("no host bits"),
        source_ports: Ports { first: 40_011, last: 40_011 },
        source_pool: pool,
        ..Rule::any(Action::Accept)
    }
}

fn address(text: &str) -> Address {
    text.parse::<std::net::IpAddr>().expect("an address").into()
}

/// Two sets: a third of the clients among thousands of others, and the servers.
fn sets() -> [PrefixSet; 2] {
    let prefix = |text: &str, length| Prefix::new(address(text), length).expect("a prefix");
    let others =
        (0..4000u32).map(|n| Prefix::new(Address::v4(0x1400_0000 + n * 0x300), 24 + (n % 9) as u8));
    let clients = [prefix("10.10.2.3", 32), prefix("fd10::3", 128)];
    let servers = [prefix("10.20.0.0", 16), prefix("fd20::", 16)];
    [PrefixSet::new(others.flatten().chain(clients)), PrefixSet::new(servers)]
}

fn rules(sets: &[LoadedSet]) -> Vec<Rule> {
    let to_port_80 = Ports { first: 80, last: 80 };
    let rules = vec![
        Rule { protocol: Some(Protocol(47)), ..Rule::any(Action::Drop) },
        of_two_clients("10.10.2.2", 31, Protocol::TCP, 2),
        of_two_clients("fd10::2", 127, Protocol::TCP, 2),
        of_two_clients("10.10.2.2", 31, Protocol::UDP, 3),
        of_two_clients("fd10::2", 127, Protocol::UDP, 4),
        Rule {
            source_ports: Ports { first: 40_010, last: 40_011 },
            source_pool: 1,
            ..Rule::any(Action::Accept)
        },
        Rule { protocol: Some(Protocol::ICMP), source_pool: 1, ..Rule::any(Action::Accept) },
        Rule {
            commit: Commit::Sync,
            source_ports: Ports { first: 40_009, last: 40_009 },
            source_pool: 1,
            ..Rule::any(Action::Accept)
        },
        Rule {
            commit: Commit::Sync,
            source_ports: Ports { first: 40_001, last: 40_007 },
            ..Rule::any(Action::Accept)
        },
        Rule {
            source_set: Some(sets[0].id()),
            destination_set: Some(sets[1].id()),
            source_ports: Ports { first: 40_008, last: 40_008 },
            ..Rule::any(Action::Drop)
        },
        Rule {
            protocol: Some(Protocol::TCP),
            destination_ports: to_port_80,
            ..Rule::any(Action::Accept)
        },
        // Not so many that the bound of a second is met, for the builds have other clocks.
        Rule {
            protocol: Some(Protocol::TCP),
            destination_ports: Ports { first: 40_004, last: 40_006 },
            reports: true,
            ..Rule::any(Action::Drop)
        },
        Rule { protocol: Some(Protocol::TCP), ..Rule::any(Action::Drop) },
        Rule { source_ports: Ports { first: 0, last: 40_010 }, ..Rule::any(Action::Accept) },
    ];
    let numbered = (0..).zip(rules).map(|(number, rule)| Rule { mark: number, ..rule });
    numbered.collect()
}

/// Three quarters of the buckets are this node's, in every state; the others are its peers' or
/// nobody's, and of one of them it has been the owner.
fn slot(bucket: u16) -> BucketSlot {
    let owner = match bucket % 16 {
        0 | 4 => NodeId(0),
        8 => NodeId(2),
        12 if bucket == 12 => NodeId::NONE,
        12 => NodeId(9),
        _ => NodeId(1),
    };
    let state = match bucket % 16 {
        1 => BucketState::Loading,
        2 => BucketState::Holding,
        3 | 5 => BucketState::Yielding,
        _ => BucketState::Active,
    };
    let previous = if bucket % 16 == 4 { NodeId(1) } else { NodeId::NONE };
    BucketSlot { owner, previous, state, epoch: Epoch(5) }
}

/// The kernel's clock, by which datagrams in fragments make room for others.
fn now() -> Nanos {
    let clock = nix::time::ClockId::CLOCK_MONOTONIC;
    Nanos(Duration::from(nix::time::clock_gettime(clock).expect("a clock")).as_nanos() as u64)
}

/// The node's own addresses on the link and those of its peers, of which one is not known.
fn stations() -> Vec<Station> {
    let station = |node: u8| {
        let mac = Mac::from_bytes(traffic::node_mac(node));
        Station { interface: LOOPBACK, node: NodeId(node), mac }
    };
    [0, 1, 2].map(station).to_vec()
}

/// Returns the sets of the rules, to be held.
fn set_up(datapath: &mut impl Datapath, lease: Nanos) -> Vec<LoadedSet> {
    let load = |set| datapath.sets().load(Arc::new(set)).expect("room for a set");
    let sets: Vec<_> = sets().into_iter().map(load).collect();
    for bucket in 0..BUCKETS as u16 {
        datapath.set_bucket(BucketId(bucket), slot(bucket));
    }
    datapath.set_lease(lease);
    datapath.set_rules(&rules(&sets)).expect("few rules");
    datapath.set_peers(&stations()).expect("few stations");
    let local = ["10.10.2.3", "fd20::1"].map(|text| text.parse().expect("an address"));
    datapath.set_local_addresses(&local).expect("few addresses");
    sets
}

/// Runs `test` in a network namespace of its own.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a network namespace");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn run_in_kernel(kernel: &mut KernelDatapath, frame: &[u8]) -> (u32, Vec<u8>) {
    let mut out = vec![0; frame.len() + 64];
    let mut options = TestRunOptions::new();
    options.data_in = Some(frame);
    options.data_out = Some(&mut out);
    let result = kernel.program().expect("loaded").test_run(options).expect("a test run");
    out.truncate(result.data_size_out as usize);
    if result.return_value == XDP_PASS && out.starts_with(b"testudo\0") {
        // What is left to the stack on purpose is marked.
        out.drain(..8);
    }
    (result.return_value, out)
}

/// Gives a packet to both builds, which do the same with it.
fn run_in_both(
    kernel: &mut KernelDatapath,
    user: &mut UserDatapath,
    mode: Mode,
    frame: &[u8],
    which: &str,
) {
    let (kernel_action, kernel_bytes) = run_in_kernel(kernel, frame);
    let mut user_bytes = frame.to_vec();
    let verdict = user.handle(&mut user_bytes, LOOPBACK, now());
    assert_eq!(
        (kernel_action, &kernel_bytes),
        (action(mode, verdict), &user_bytes),
        "{which}, {verdict:?} in user space: {frame:02x?}"
    );
}

/// The keys that replies of translated flows carry.
fn replies(table: &impl NodeTable) -> Vec<FlowKey> {
    let mut replies = Vec::new();
    table.scan(&mut |view| {
        replies.extend(view.record.translation.map(|_| view.record.reply_key()));
    });
    replies
}

fn action(mode: Mode, verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Forward if !mode.is_inline() => XDP_REDIRECT,
        Verdict::Drop(_) | Verdict::Upcall(_) => XDP_DROP,
        Verdict::Forward | Verdict::Stack => XDP_PASS,
        Verdict::Answer | Verdict::Pass(_) => XDP_REDIRECT,
        Verdict::Stage(_) => panic!("a stage that nobody ran"),
    }
}

/// Everything that both builds keep of flows; times are the backends' own.
type Flows = BTreeMap<String, (u64, u64, u64, u64)>;

fn flows(table: &impl NodeTable) -> Flows {
    let mut flows = Flows::new();
    table.scan(&mut |view| {
        let counts =
            (view.original_packets, view.original_bytes, view.reply_packets, view.reply_bytes);
        flows.insert(format!("{:?}", view.record), counts);
    });
    flows
}

fn events(datapath: &mut impl Datapath) -> Vec<Occurrence> {
    let mut events = Vec::new();
    let drained = datapath.drain_events(&mut |event| events.push(event));
    assert_eq!((drained.lost, drained.lost_handled), (0, 0));
    assert_eq!(drained.events + drained.handled, events.len());
    events
}

/// The counters, but for what differs without routes: the kernel's build leaves what is to be
/// forwarded to the stack, and can't send on what came up.
fn counters(datapath: &impl Datapath) -> BTreeMap<&'static str, u64> {
    let mut counters: BTreeMap<_, _> = datapath.counters().into_iter().collect();
    for other in ["forwarded-by-stack", "passed", "drop.no-route"] {
        let count = counters.remove(other).unwrap_or(0);
        *counters.entry("forwarded").or_default() += count;
    }
    counters
}

/// Decides the packets that went up, on both; one flow in two is known elsewhere.
fn handle_upcalls(kernel: &mut KernelDatapath, user: &mut UserDatapath) {
    let mut known = |bucket: BucketId, key: &FlowKey| {
        let state = FlowState { phase: Phase::Established, confirmed: true, rule: 9, sequence: 40 };
        let record = FlowRecord { translation: None, bucket, epoch: Epoch(4), key: *key, state };
        (key.initiator.port.is_multiple_of(2) && key.responder.port == 80).then_some(record)
    };
    assert_eq!(events(kernel), events(user));
    let now = now();
    let handled = kernel.handle_upcalls(now, &mut known);
    assert_eq!(handled, user.handle_upcalls(now, &mut known));
    assert_eq!(events(kernel), events(user));
}

/// The packets go on that wait for the peers to know their flows, on both; says how many they were.
fn commit(kernel: &mut KernelDatapath, user: &mut UserDatapath) -> usize {
    let mut packets = 0;
    while let Some(record) = user.poll_commit() {
        assert_eq!(kernel.poll_commit(), Some(record));
        let mut known = |_: BucketId, _: &FlowKey| Some(record);
        let now = now();
        let there = kernel.release_committed(now, &record.key, &mut known);
        let here = user.release_committed(now, &record.key, &mut known);
        // Nothing can be sent from this namespace.
        assert_eq!(there.sent + there.dropped, here.sent + here.dropped);
        packets += here.sent;
    }
    assert_eq!(kernel.poll_commit(), None);
    packets
}

/// The packets that wait for each bucket are decided, on both; every other one was handled elsewhere.
fn release(kernel: &mut KernelDatapath, user: &mut UserDatapath) -> usize {
    assert_eq!(events(kernel), events(user));
    let mut held = 0;
    let mut elsewhere = |hash: PacketHash| hash.0.is_multiple_of(2);
    for bucket in (0..BUCKETS as u16).filter(|&bucket| slot(bucket).state == BucketState::Holding) {
        let id = BucketId(bucket);
        assert_eq!(kernel.held(id), user.held(id), "bucket {bucket}");
        held += user.held(id);
        let arrived = BucketSlot { state: BucketState::Loading, ..slot(bucket) };
        kernel.set_bucket(id, arrived);
        user.set_bucket(id, arrived);
        let now = now();
        let there = kernel.release_held(now, id, &mut elsewhere, &mut |_, _| None);
        let here = user.release_held(now, id, &mut elsewhere, &mut |_, _| None);
        // Nothing can be sent from this namespace; what waits for the peers counts as sent on both.
        let decided = |released: Released| (released.skipped, released.dropped + released.sent);
        assert_eq!(decided(there), decided(here));
        kernel.set_bucket(id, slot(bucket));
        user.set_bucket(id, slot(bucket));
    }
    assert_eq!(events(kernel), events(user));
    held
}

fn loads(datapath: &impl Datapath) -> Vec<BucketLoad> {
    let mut loads = vec![BucketLoad::default(); BUCKETS as usize];
    datapath.loads(&mut loads);
    loads
}

/// What happens about a hundred times or more in each run of 20,000 packets, whatever the seed.
fn usual(mode: Mode) -> &'static [&'static str] {
    match mode {
        Mode::Shared => &[
            "answered",
            "drop.bad-flags",
            "drop.bad-state",
            "drop.fragment-early",
            "drop.fragment-overlap",
            "drop.fragment-tiny",
            "drop.not-first",
            "drop.not-owner",
            "drop.out-of-window",
            "drop.rule",
            "drop.truncated",
            "drop.unrelated",
            "forwarded",
            "skipped",
            "stack",
            "upcall",
        ],
        Mode::Steered => &[
            "answered",
            "drop.bad-flags",
            "drop.bad-state",
            "drop.fragment-early",
            "drop.fragment-overlap",
            "drop.fragment-tiny",
            "drop.no-peer",
            "drop.not-first",
            "drop.not-owner",
            "drop.out-of-window",
            "drop.passed-twice",
            "drop.rule",
            "drop.truncated",
            "forwarded",
            "skipped",
            "stack",
            "upcall",
        ],
        Mode::Tap { .. } => &[
            "drop.bad-address",
            "drop.bad-flags",
            "drop.fragment-early",
            "drop.fragment-overlap",
            "drop.fragment-tiny",
            "drop.not-owner",
            "drop.rule",
            "drop.truncated",
            "drop.unsupported",
            "forwarded",
            "skipped",
            "upcall",
        ],
    }
}

/// Other rules count from nothing, twice in turn, on both; packets whose flows wait are not let go on.
fn count_anew(kernel: &mut KernelDatapath, user: &mut UserDatapath, seed: u64, sets: &[LoadedSet]) {
    for round in 1..3 {
        let mut others = rules(sets);
        others.rotate_left(round);
        // What has begun is not let in anew: other endpoints' packets are few.
        others.insert(0, Rule { protocol: Some(Protocol::UDP), ..Rule::any(Action::Drop) });
        kernel.set_rules(&others).expect("few rules");
        user.set_rules(&others).expect("few rules");
        assert!(kernel.rule_hits().iter().all(|&flows| flows == 0), "{:?}", kernel.rule_hits());
        for frames in traffic::packets(seed.wrapping_add(round as u64), 2000).chunks(200) {
            for frame in frames {
                run_in_kernel(kernel, frame);
                user.handle(&mut frame.clone(), LOOPBACK, now());
            }
            handle_upcalls(kernel, user);
        }
        assert_eq!(kernel.rule_hits(), user.rule_hits());
        assert!(user.rule_hits().iter().sum::<u64>() > 0, "no rule was met");
        handle_upcalls(kernel, user);
    }
}

fn compare(mode: Mode, seed: u64, count: usize) {
    println!("seed {seed}: TESTUDO_SEED={seed} cargo test -p testudo-datapath --test differential");
    let mut kernel = KernelDatapath::load(settings(mode)).expect("the kernel backend");
    let mut user = UserDatapath::new(settings(mode)).expect("the user-space backend");
    let sets = set_up(&mut kernel, Nanos(u64::MAX));
    // Both give the same numbers, so the rules are the same.
    let here = set_up(&mut user, Nanos(u64::MAX));
    assert_eq!(sets, here);
    let (mut held, mut committed, mut answered) = (0, 0, 0);
    for (index, mut frame) in traffic::packets(seed, count).into_iter().enumerate() {
        if mode == Mode::Steered {
            traffic::steer(&mut frame, seed.wrapping_add(index as u64));
        }
        let which = format!("packet {index} of seed {seed}");
        run_in_both(&mut kernel, &mut user, mode, &frame, &which);
        if index % 100 == 99 {
            handle_upcalls(&mut kernel, &mut user);
            committed += commit(&mut kernel, &mut user);
            for reply in replies(user.table()) {
                let told = [traffic::answer(&reply), traffic::error_to(&reply.reversed())];
                for mut frame in told {
                    if mode == Mode::Steered {
                        frame[..6].copy_from_slice(&traffic::node_mac(1));
                    }
                    let which = format!("a reply or error after packet {index} of seed {seed}");
                    run_in_both(&mut kernel, &mut user, mode, &frame, &which);
                }
                answered += 1;
            }
        }
        if index % 1000 == 950 {
            held += release(&mut kernel, &mut user);
            // Fragments wait no longer.
            let later = now().plus_millis(1000);
            let handled = kernel.handle_upcalls(later, &mut |_, _| None);
            assert_eq!(handled, user.handle_upcalls(later, &mut |_, _| None));
            assert_eq!(events(&mut kernel), events(&mut user));
        }
    }
    assert_eq!(loads(&kernel), loads(&user));
    assert_eq!(kernel.rules(), user.rules());
    assert_eq!(kernel.rule_hits(), user.rule_hits());
    // Few flows are of one of the other pools alone, so few that another node may have them all.
    let (other, common): (Vec<_>, Vec<_>) =
        user.rules().iter().zip(user.rule_hits()).partition(|(rule, _)| rule.source_pool > 1);
    assert!(common.iter().all(|(_, flows)| *flows > 0), "{:?}", user.rule_hits());
    assert!(other.iter().map(|(_, flows)| flows).sum::<u64>() > 0, "{:?}", user.rule_hits());
    let mut refused = 0;
    while let Some(flow) = user.poll_refused() {
        assert_eq!(kernel.poll_refused(), Some(flow));
        refused += 1;
    }
    assert!(refused > 0, "nothing was refused that is to be told");
    assert_eq!(counters(&kernel), counters(&user));
    let flows = (flows(kernel.table()), flows(user.table()));
    assert_eq!(flows.0, flows.1);
    assert_eq!(kernel.table().len(), flows.0.len());
    count_anew(&mut kernel, &mut user, seed, &sets);
    // The run was worth something: it met flows and most reasons.
    assert!(flows.0.len() > 20, "{} flows", flows.0.len());
    let met: BTreeSet<_> = counters(&user).into_iter().filter(|&(_, n)| n > 0).collect();
    assert!(held > 100, "{held} held");
    println!("{mode:?}: {held} held, {committed} committed, {answered} answered");
    assert!(committed > 10, "{committed} committed");
    assert!(answered > 10, "{answered} replies to translated flows");
    for reason in usual(mode) {
        assert!(met.iter().any(|(met, _)| met == reason), "no {reason} in {met:?}");
    }
}

fn both_builds_agree_on_every_packet() {
    let seed = match std::env::var("TESTUDO_SEED") {
        Ok(seed) => seed.parse().expect("TESTUDO_SEED is a number"),
        Err(_) => u64::from(std::process::id()),
    };
    for mode in [Mode::Shared, Mode::Steered, Mode::Tap { interface: LOOPBACK }] {
        in_namespace(move || compare(mode, seed, 20_000));
    }
}

fn a_node_whose_lease_has_run_out_handles_nothing() {
    in_namespace(|| {
        let mut kernel = KernelDatapath::load(settings(Mode::Shared)).expect("the kernel backend");
        let _sets = set_up(&mut kernel, Nanos(1));
        for frame in traffic::packets(7, 500) {
            let (action, bytes) = run_in_kernel(&mut kernel, &frame);
            // What is not for the cluster goes to the stack as ever.
            assert!(action == XDP_DROP || action == XDP_PASS, "{action}");
            assert_eq!(bytes, frame);
        }
        assert_eq!(kernel.table().len(), 0);
        let counters = counters(&kernel);
        assert!(counters["drop.no-lease"] > 100, "{counters:?}");
        assert_eq!((counters["forwarded"], counters["answered"]), (0, 0));
    });
}

/// The verifier gives up at a million instructions of a program; what it needs is watched, so that the next
/// change of a stage does not find it used up.
fn the_verifier_has_work_left_in_every_mode() {
    const MOST: u32 = 600_000;
    in_namespace(|| {
        for mode in [Mode::Shared, Mode::Steered, Mode::Tap { interface: LOOPBACK }] {
            let mut kernel = KernelDatapath::load(settings(mode)).expect("the kernel backend");
            let count = |program: &mut Xdp| {
                let info = program.info().expect("the program's info");
                info.verified_instruction_count().expect("a kernel that says so")
            };
            let mut counts = vec![("testudo", count(kernel.program().expect("loaded")))];
            for stage in STAGES {
                let program = kernel.stage_program(stage).expect("loaded");
                counts.push((stage.program(), count(program)));
            }
            for (program, seen) in counts {
                println!("{mode:?}: the verifier followed {seen} instructions of {program}");
                assert!(seen < MOST, "{seen} instructions of {program} in {mode:?}");
            }
        }
    });
}

fn main() -> std::process::ExitCode {
    privileged::run(
        &[
            ("both_builds_agree_on_every_packet", both_builds_agree_on_every_packet),
            ("the_verifier_has_work_left_in_every_mode", the_verifier_has_work_left_in_every_mode),
            (
                "a_node_whose_lease_has_run_out_handles_nothing",
                a_node_whose_lease_has_run_out_handles_nothing,
            ),
        ],
        &[],
    )
}
