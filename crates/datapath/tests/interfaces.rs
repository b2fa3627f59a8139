//! The kernel backend on interfaces: what comes in by one, what goes out by another, and what is left
//! when the daemon goes and comes again. Needs root; ignored, with the reason, without it.

#[allow(dead_code, reason = "some of it is for other tests")]
mod link;
#[allow(dead_code, reason = "some of it is for other tests")]
mod owner;
mod privileged;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use link::{Tap, in_namespaces};
use owner::{BUCKETS, SENDER, SHARED, SOON, now, set_all, set_up, settings};
use testudo_datapath::kernel::{KernelDatapath, pinning};
use testudo_datapath::likenesses::Likenesses;
use testudo_datapath::{Answer, Datapath, Error, NodeTable, Released, Settings, Station};
use testudo_packet::bucket::{BucketId, BucketState, Epoch, NodeId};
use testudo_packet::env::Mac;
use testudo_packet::flow::{Address, Endpoint};
use testudo_packet::placement::Grounds;
use testudo_packet::reception::Mode;
use testudo_packet::stage::Stage;

const OWN: [u8; 6] = [2, 0, 0, 0, 1, 0];
const PEER: [u8; 6] = [2, 0, 0, 0, 1, 1];

/// A UDP packet of one of a few flows, with a number in it.
fn packet(to: [u8; 6], number: u32) -> Vec<u8> {
    let mut frame = [&to[..], &SENDER, &[8, 0]].concat();
    frame.extend([0x45, 0, 0, 60, 0, 0, 0, 0, 64, 17, 0, 0, 10, 10, 2, 1, 10, 20, 2, 1]);
    frame.extend([0x40, number as u8 % 8, 0, 53, 0, 40, 0, 0]);
    frame.extend(number.to_be_bytes());
    frame.extend([0x55; 28]);
    frame
}

/// An ICMP error about that packet, as which another stage decides it.
fn error_about(to: [u8; 6], number: u32) -> Vec<u8> {
    let mut frame = [&to[..], &SENDER, &[8, 0]].concat();
    frame.extend([0x45, 0, 0, 88, 0, 0, 0, 0, 64, 1, 0, 0, 10, 20, 9, 9, 10, 10, 2, 1]);
    frame.extend([3, 3, 0, 0, 0, 0, 0, 0]);
    frame.extend(&packet(to, number)[14..]);
    frame
}

fn number_of(frame: &[u8]) -> Option<u32> {
    let at = match frame.len() {
        74 => 42,
        102 => 70,
        _ => return None,
    };
    let ours = frame[12..14] == [8, 0];
    ours.then(|| u32::from_be_bytes(frame[at..at + 4].try_into().expect("four bytes")))
}

/// The frames of ours that have gone out, once there are as many as are expected.
fn wait_for(tap: &mut Tap, expected: usize) -> Vec<Vec<u8>> {
    let (begin, mut frames) = (Instant::now(), Vec::new());
    while frames.len() < expected && begin.elapsed() < SOON {
        frames.extend(tap.gone_out().into_iter().filter(|frame| number_of(frame).is_some()));
        std::thread::sleep(Duration::from_millis(1));
    }
    frames
}

/// Takes packets that came up until there are as many as are expected.
fn collect(datapath: &mut KernelDatapath, expected: usize) {
    let (begin, mut taken) = (Instant::now(), 0);
    while taken < expected && begin.elapsed() < SOON {
        taken += datapath.handle_upcalls(now(), &mut |_, _| None);
    }
    assert_eq!(taken, expected);
}

fn a_packet_of_another_nodes_bucket_goes_out_again_to_that_node() {
    in_namespaces(|_| {
        let mut tap = Tap::new("inside");
        let mut datapath = KernelDatapath::load(settings(Mode::Steered)).expect("a datapath");
        set_up(&mut datapath);
        set_all(&mut datapath, 1, BucketState::Active);
        let interface = tap.number();
        let station =
            |node, mac| Station { interface, node: NodeId(node), mac: Mac::from_bytes(mac) };
        datapath.set_peers(&[station(0, OWN), station(1, PEER)]).expect("two stations");
        datapath.attach(tap.name()).expect("attached");
        for number in 0..20 {
            tap.comes_in(&packet(OWN, number));
        }
        let passed = wait_for(&mut tap, 20);
        assert_eq!(passed.len(), 20);
        for (number, frame) in (0..).zip(&passed) {
            let expected = packet(PEER, number);
            assert_eq!((&frame[..6], &frame[6..12]), (&PEER[..], &OWN[..]));
            assert_eq!(frame[12..], expected[12..], "nothing but the link changes");
        }
        let counters: BTreeMap<_, _> = datapath.counters().into_iter().collect();
        assert_eq!((counters["passed"], counters["forwarded"]), (20, 0));

        // What waited here while the bucket came and went is passed on from user space.
        set_all(&mut datapath, 0, BucketState::Loading);
        tap.comes_in(&packet(OWN, 77));
        std::thread::sleep(Duration::from_millis(20));
        set_all(&mut datapath, 1, BucketState::Active);
        collect(&mut datapath, 1);
        let passed = wait_for(&mut tap, 1);
        assert_eq!(passed, [[&PEER[..], &OWN, &packet(OWN, 77)[12..]].concat()]);
    });
}

fn an_analyser_sees_the_packets_of_owned_buckets_as_they_were() {
    in_namespaces(|_| {
        let (mut tap, mut analyser) = (Tap::new("mirror"), Tap::new("analyser"));
        let mode = Mode::Tap { interface: analyser.number() };
        let mut datapath = KernelDatapath::load(settings(mode)).expect("a datapath");
        set_up(&mut datapath);
        datapath.attach(tap.name()).expect("attached");
        let frames: Vec<_> = (0..20).map(|number| packet([2, 0, 0, 0, 9, 9], number)).collect();
        frames.iter().for_each(|frame| tap.comes_in(frame));
        assert_eq!(wait_for(&mut analyser, 20), frames);

        // Held packets are shown once the bucket has come, in their order, but for those shown elsewhere.
        set_all(&mut datapath, 0, BucketState::Holding);
        frames.iter().for_each(|frame| tap.comes_in(frame));
        collect(&mut datapath, 20);
        set_all(&mut datapath, 0, BucketState::Active);
        let mut total = Released::default();
        let mut asked = 0;
        for bucket in (0..BUCKETS as u16).map(BucketId) {
            let mut elsewhere = |_| {
                asked += 1;
                asked % 4 == 0
            };
            let released = datapath.release_held(now(), bucket, &mut elsewhere, &mut |_, _| None);
            total.sent += released.sent;
            total.skipped += released.skipped;
            total.dropped += released.dropped;
        }
        assert_eq!(total, Released { sent: 15, skipped: 5, dropped: 0 });
        assert_eq!(wait_for(&mut analyser, 15).len(), 15);
        assert!(tap.gone_out().iter().all(|frame| number_of(frame).is_none()));
    });
}

/// Sends numbered packets until told to stop, and then says how many. Once all flows have begun, every
/// other packet is an error about one.
fn talk(tap: &mut Tap, stop: &AtomicBool) -> u32 {
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            return number;
        }
        let is_error = number >= 8 && number % 2 == 1;
        tap.comes_in(&if is_error { error_about(SHARED, number) } else { packet(SHARED, number) });
        std::thread::sleep(Duration::from_micros(100));
    }
    unreachable!("a test of days")
}

fn names(pins: &Path) -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(pins).expect("pins");
    entries.map(|entry| entry.expect("a pin").file_name().to_string_lossy().into_owned())
}

fn maps_of_stages(pins: &Path) -> usize {
    names(pins).filter(|name| name.starts_with("stages_")).count()
}

/// What an analyser gets while daemons come and go; the last one takes everything away.
fn restart(directory: &Path, mode: Mode, interface: &str) {
    let pins = directory.join("cluster-node");
    let mut first = KernelDatapath::load(settings(mode)).expect("a datapath");
    set_up(&mut first);
    first.attach(interface).expect("attached");
    first.pin(&pins).expect("pinned");
    first.pin(&pins).expect("pinned already");
    std::thread::sleep(Duration::from_millis(100));
    let flows = first.table().len();
    let mut told = 0;
    told += first.drain_events(&mut |_| {}).events;
    drop(first);
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(100));
        let mut next = KernelDatapath::adopt(&pins, settings(mode)).expect("adopted");
        next.attach(interface).expect("attached already");
        assert_eq!(maps_of_stages(&pins), 1, "the last one's has gone with its programs");
        assert_eq!((flows, next.table().len()), (8, flows));
        let slot = next.bucket(BucketId(3));
        assert_eq!((slot.owner, slot.epoch), (NodeId(0), Epoch(1)));
        let drained = next.drain_events(&mut |_| {});
        told += drained.events;
        assert_eq!(drained.lost, 0);
        next.set_lease(now().plus_millis(60_000));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(told, 8, "each flow was told once");
}

fn a_daemon_that_comes_again_finds_its_packets_handled_to_the_last() {
    in_namespaces(|directory| {
        pinning::mount_file_system(directory).expect("a BPF file system");
        pinning::mount_file_system(directory).expect("there already");
        let (mut tap, mut analyser) = (Tap::new("mirror"), Tap::new("analyser"));
        let mode = Mode::Tap { interface: analyser.number() };
        let stop = AtomicBool::new(false);
        let interface = tap.name().to_owned();
        let mut seen: BTreeMap<u32, usize> = BTreeMap::new();
        let mut note = |analyser: &mut Tap| {
            for number in analyser.gone_out().iter().filter_map(|frame| number_of(frame)) {
                *seen.entry(number).or_default() += 1;
            }
        };
        let sent = std::thread::scope(|scope| {
            let restarting = scope.spawn(|| {
                // The sender begins when the first program is there.
                restart(directory, mode, &interface);
            });
            std::thread::sleep(Duration::from_millis(1));
            while !restarting.is_finished() && !is_attached(directory) {
                std::thread::sleep(Duration::from_millis(1));
            }
            let sending = scope.spawn(|| talk(&mut tap, &stop));
            while !restarting.is_finished() {
                note(&mut analyser);
                std::thread::sleep(Duration::from_millis(1));
            }
            stop.store(true, Ordering::Relaxed);
            let sent = sending.join().expect("the sender");
            restarting.join().expect("the restarts");
            sent
        });
        std::thread::sleep(Duration::from_millis(50));
        note(&mut analyser);
        assert!(sent > 1000, "only {sent} packets");
        assert_eq!(seen.len(), sent as usize, "packets were lost");
        assert!(seen.values().all(|&count| count == 1), "packets were doubled");

        // What was left is taken away, and nothing is handled any more.
        let pins = directory.join("cluster-node");
        KernelDatapath::unpin(&pins).expect("unpinned");
        assert!(!pins.exists());
        // The kernel lets go of a link in its own time.
        let begin = Instant::now();
        while is_handled(&mut tap, &mut analyser) {
            assert!(begin.elapsed() < SOON, "packets are handled still");
        }
        unmount(directory);
    });
}

fn what_was_verified_before_a_daemon_came_again_is_not_verified_anew() {
    in_namespaces(|directory| {
        pinning::mount_file_system(directory).expect("a BPF file system");
        let (mut tap, mut analyser) = (Tap::new("mirror"), Tap::new("analyser"));
        let mode = Mode::Tap { interface: analyser.number() };
        let pins = directory.join("cluster-node");
        let mut first = KernelDatapath::load(settings(mode)).expect("a datapath");
        set_up(&mut first);
        first.attach(tap.name()).expect("attached");
        first.lend(&pins).expect("lent");
        let error = first.lend(&pins).expect_err("lent twice").to_string();
        assert!(error.contains("File exists"), "{error}");
        // What is lent alone is not to be gone on with.
        assert!(refusal(&pins, settings(mode)).contains("whether it is complete is 0x0"));
        let other = Settings { buckets: 32, ..settings(mode) };
        let error = KernelDatapath::prepare(&pins, &other).expect_err("prepared").to_string();
        assert!(error.contains("number of buckets is 0x10"), "{error}");
        KernelDatapath::prepare(&pins, &settings(mode)).expect("prepared");
        assert!(is_handled(&mut tap, &mut analyser), "nothing has changed");
        first.pin(&pins).expect("pinned where it was lent");
        drop(first);

        // Under other settings the programs would be other ones.
        let other = Settings { cluster_mac: Mac(0x0200_0000_0777), ..settings(mode) };
        let ready = |pins: &Path| names(pins).filter(|name| name.starts_with("ready_")).count();
        assert_eq!(ready(&pins), 3);
        let mut next = KernelDatapath::adopt(&pins, settings(mode)).expect("adopted");
        let error = next.stage_program(Stage::Open).expect_err("not verified here").to_string();
        assert!(error.contains("verified by another process"), "{error}");
        assert_eq!((ready(&pins), maps_of_stages(&pins)), (0, 1));
        assert!(is_handled(&mut tap, &mut analyser));
        drop(next);
        // As another stage decides.
        tap.comes_in(&error_about(SHARED, 9));
        assert_eq!(wait_for(&mut analyser, 1).len(), 1);
        let mut last = KernelDatapath::adopt(&pins, settings(mode)).expect("adopted");
        last.stage_program(Stage::Open).expect("verified here");
        let spare = directory.join("spare");
        last.lend(&spare).expect("lent");
        KernelDatapath::prepare(&spare, &settings(mode)).expect("prepared");
        last.pin(&spare).expect("pinned");
        drop(last);
        let mut last = KernelDatapath::adopt(&spare, other).expect("adopted");
        last.stage_program(Stage::Open).expect("what was ready is not for these settings");
        assert_eq!((ready(&spare), maps_of_stages(&spare)), (0, 1));
        drop(last);
        for pins in [pins, spare] {
            KernelDatapath::unpin(&pins).expect("unpinned");
        }
        unmount(directory);
    });
}

/// Whether a packet that comes in goes out.
fn is_handled(tap: &mut Tap, analyser: &mut Tap) -> bool {
    tap.comes_in(&packet(SHARED, 1));
    std::thread::sleep(Duration::from_millis(20));
    analyser.gone_out().iter().any(|frame| number_of(frame).is_some())
}

fn is_attached(directory: &Path) -> bool {
    let entries = std::fs::read_dir(directory.join("cluster-node"));
    entries.is_ok_and(|mut entries| {
        entries.any(|entry| {
            entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("packets_"))
        })
    })
}

fn unmount(directory: &Path) {
    nix::mount::umount(directory).expect("unmounted");
}

fn what_a_daemon_left_stops_when_its_lease_ends() {
    in_namespaces(|directory| {
        pinning::mount_file_system(directory).expect("a BPF file system");
        let (mut tap, mut analyser) = (Tap::new("mirror"), Tap::new("analyser"));
        let mode = Mode::Tap { interface: analyser.number() };
        let pins = directory.join("cluster-node");
        let mut datapath = KernelDatapath::load(settings(mode)).expect("a datapath");
        set_up(&mut datapath);
        datapath.attach(tap.name()).expect("attached");
        datapath.pin(&pins).expect("pinned");
        datapath.set_lease(now().plus_millis(300));
        drop(datapath);
        tap.comes_in(&packet(SHARED, 1));
        assert_eq!(wait_for(&mut analyser, 1).len(), 1);
        std::thread::sleep(Duration::from_millis(350));
        tap.comes_in(&packet(SHARED, 2));
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(wait_for(&mut analyser, 0).len(), 0);
        // A lease alone can be renewed at once.
        let lease = KernelDatapath::pinned_lease(&pins, &settings(mode)).expect("a lease");
        lease.set(now().plus_millis(60_000));
        tap.comes_in(&packet(SHARED, 3));
        assert_eq!(wait_for(&mut analyser, 1).len(), 1);
        let datapath = KernelDatapath::adopt(&pins, settings(mode)).expect("adopted");
        let counters: BTreeMap<_, _> = datapath.counters().into_iter().collect();
        assert_eq!((counters["forwarded"], counters["drop.no-lease"]), (2, 1));
        drop(datapath);
        KernelDatapath::unpin(&pins).expect("unpinned");
        unmount(directory);
    });
}

fn a_guarded_interface_is_never_without_programs_until_someone_wants_it() {
    in_namespaces(|directory| {
        let (mut tap, mut analyser) = (Tap::new("mirror"), Tap::new("analyser"));
        let mode = Mode::Tap { interface: analyser.number() };
        let pins = directory.join("cluster-node");
        let mut first = KernelDatapath::load(settings(mode)).expect("a datapath");
        let error =
            first.guard(&pins).and_then(|()| first.attach(tap.name())).expect_err("guarded");
        assert!(error.to_string().contains("BPF file system"), "{error}");
        std::fs::remove_dir_all(&pins).expect("removed");
        pinning::mount_file_system(directory).expect("a BPF file system");
        let mut first = KernelDatapath::load(settings(mode)).expect("a datapath");
        set_up(&mut first);
        first.guard(&pins).expect("guarded");
        first.attach(tap.name()).expect("attached");
        first.set_lease(now().plus_millis(300));
        // What begins no flow the main program decides by itself, and goes on when the stages have gone.
        assert!(is_handled(&mut tap, &mut analyser), "the first packet of a flow");
        drop(first);
        assert!(is_handled(&mut tap, &mut analyser), "the programs went with their process");
        std::thread::sleep(Duration::from_millis(350));
        assert!(!is_handled(&mut tap, &mut analyser), "the lease has ended");

        // The next one begins with nothing, in the same links.
        let mut next = KernelDatapath::load(settings(mode)).expect("a datapath");
        set_up(&mut next);
        next.guard(&pins).expect("guarded");
        next.attach(tap.name()).expect("attached");
        assert_eq!(next.table().len(), 0);
        assert!(is_handled(&mut tap, &mut analyser));
        assert_eq!(next.table().len(), 1);

        next.stand_down().expect("taken off");
        assert!(!pins.exists());
        assert!(!is_handled(&mut tap, &mut analyser), "nobody is there");
        drop(next);
        unmount(directory);
    });
}

/// Why adopting fails.
fn refusal(pins: &Path, settings: Settings) -> String {
    let lease = KernelDatapath::pinned_lease(pins, &settings).expect_err("a lease").to_string();
    match KernelDatapath::adopt(pins, settings) {
        Ok(_) => panic!("adopted"),
        Err(error) => {
            assert_eq!(error.to_string(), lease);
            lease
        }
    }
}

fn what_means_something_else_is_not_adopted_and_goes_on() {
    in_namespaces(|directory| {
        let (mut tap, mut analyser) = (Tap::new("mirror"), Tap::new("analyser"));
        let mode = Mode::Tap { interface: analyser.number() };
        let pins = directory.join("cluster-node");
        let mut datapath = KernelDatapath::load(settings(mode)).expect("a datapath");
        set_up(&mut datapath);
        datapath.attach(tap.name()).expect("attached");
        // Not a BPF file system: nothing is left there, and packets are handled as before.
        let error = datapath.pin(&pins).expect_err("pinned").to_string();
        assert!(error.contains("expected a directory of a BPF file system"), "{error}");
        assert!(!pins.exists());
        assert!(matches!(KernelDatapath::unpin(&pins), Err(Error::NothingPinned { .. })));
        assert!(refusal(&pins, settings(mode)).contains("holds no packet handling"));

        pinning::mount_file_system(directory).expect("a BPF file system");
        datapath.pin(&pins).expect("pinned");
        drop(datapath);
        for (what, other) in [
            ("node's number is 0x0, expected 0x1", Settings { node: NodeId(1), ..settings(mode) }),
            (
                "table slots is 0x400, expected 0x800",
                Settings { table_slots: 2048, ..settings(mode) },
            ),
            ("number of buckets is 0x10", Settings { buckets: 32, ..settings(mode) }),
            ("placed by", Settings { grounds: Grounds(0), ..settings(mode) }),
            ("placed by", Settings { likenesses: likenesses().into(), ..settings(mode) }),
            ("hash of its secret", Settings { secret: [7; 16], ..settings(mode) }),
        ] {
            let error = refusal(&pins, other);
            assert!(error.contains(what), "{error}");
        }
        tap.comes_in(&packet(SHARED, 1));
        assert_eq!(wait_for(&mut analyser, 1).len(), 1);

        // The cluster's addresses may change; the new ones are in force at once.
        let answer = Answer { interface: 1, address: Address::v4(7), own: Mac(9) };
        let other = Settings { answers: vec![answer], ..settings(mode) };
        drop(KernelDatapath::adopt(&pins, other).expect("adopted"));
        tap.comes_in(&packet(SHARED, 2));
        assert_eq!(wait_for(&mut analyser, 1).len(), 1);

        std::fs::remove_file(pins.join("LOADS")).expect("removed");
        assert!(refusal(&pins, settings(mode)).contains("number of maps is 0x14, expected 0x15"));
        KernelDatapath::unpin(&pins).expect("unpinned");
        unmount(directory);
    });
}

/// A service with one backend.
fn likenesses() -> Likenesses {
    let ends = [7, 8].map(|address| Endpoint { address: Address::v4(address), port: 80 });
    Likenesses::new(&[ends.to_vec()], &[])
}

macro_rules! tests {
    ($($name:ident)*) => { &[$((stringify!($name), $name as fn()),)*] };
}

fn main() -> std::process::ExitCode {
    let root = tests! {
        a_packet_of_another_nodes_bucket_goes_out_again_to_that_node
        an_analyser_sees_the_packets_of_owned_buckets_as_they_were
        a_daemon_that_comes_again_finds_its_packets_handled_to_the_last
        what_was_verified_before_a_daemon_came_again_is_not_verified_anew
        what_a_daemon_left_stops_when_its_lease_ends
        a_guarded_interface_is_never_without_programs_until_someone_wants_it
        what_means_something_else_is_not_adopted_and_goes_on
    };
    privileged::run(root, &[])
}
