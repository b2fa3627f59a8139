//! The reverse-path check by the kernel's own routes, packet by packet, and by the user-space build that is told the same
//! routes. Needs root and ip(8); ignored, with the reason, without root.

#[allow(dead_code, reason = "some of it is for other tests")]
mod link;
#[allow(dead_code, reason = "some of it is for other tests")]
mod owner;
mod privileged;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use link::{in_namespaces, site};
use owner::{SOON, now, set_all, set_up, settings};
use testudo_datapath::kernel::KernelDatapath;
use testudo_datapath::user::UserDatapath;
use testudo_datapath::{Datapath, NodeTable};
use testudo_packet::bucket::BucketState;
use testudo_packet::reception::Mode;
use testudo_packet::reverse_path::ReversePath::{self, Loose, Off, Strict};
use testudo_packet::rule::Prefix;
use testudo_packet::verdict::{DropReason, Verdict};

/// A UDP packet from a port of its own, so that it begins a flow.
fn packet(from: &str, to: &str, port: u16) -> Vec<u8> {
    let ends = [from, to].map(|text| text.parse().expect("an address"));
    let datagram = [&port.to_be_bytes()[..], &[0, 53, 0, 12, 0, 0, 1, 2, 3, 4]].concat();
    owner::packet(ends, 17, &datagram)
}

fn count(datapath: &impl Datapath, name: &str) -> u64 {
    let counters: BTreeMap<_, _> = datapath.counters().into_iter().collect();
    counters[name]
}

/// The routes that [`site`] makes, for the interfaces inside and outside. The node's own address is routed by none.
fn routes([inside, outside]: [u32; 2]) -> Vec<(Prefix, u32)> {
    let route = |network: &str, length, interface| {
        let network: IpAddr = network.parse().expect("an address");
        (Prefix::new(network.into(), length).expect("a prefix"), interface)
    };
    vec![
        route("10.10.0.9", 32, 0),
        route("fd10::9", 128, 0),
        route("10.10.0.0", 16, inside),
        route("fd10::", 16, inside),
        route("10.20.0.0", 16, outside),
        route("fd20::", 16, outside),
    ]
}

/// What by the interface inside is refused, by the check there.
const TABLE: [(&str, &str, [bool; 3]); 9] = [
    // Source, what it is, and whether it is refused without a check, by the loose and by the strict one.
    ("10.10.2.1", "of the network inside", [false, false, false]),
    ("10.20.2.1", "of that outside", [false, false, true]),
    ("10.20.2.9", "of that outside, and of no known neighbour", [false, false, true]),
    ("10.30.2.1", "of none", [false, true, true]),
    ("10.66.2.1", "of one that must not be", [false, true, true]),
    ("10.10.0.9", "the node's own", [false, true, true]),
    ("fd10::2:1", "of the network inside", [false, false, false]),
    ("fd20::2:1", "of that outside", [false, false, true]),
    ("fd30::2:1", "of none", [false, true, true]),
];

fn a_source_is_routed_back_as_its_interface_asks() {
    in_namespaces(|_| {
        let [mut inside, outside] = site();
        let numbers = [inside.number(), outside.number()];
        let mut kernel = KernelDatapath::load(settings(Mode::Shared)).expect("a datapath");
        let mut user = UserDatapath::new(settings(Mode::Shared)).expect("a datapath");
        user.set_routes(routes(numbers));
        set_up(&mut kernel);
        set_up(&mut user);
        kernel.attach(inside.name()).expect("attached");
        kernel.attach(outside.name()).expect("attached");
        let mut port = 40_000;
        for (place, check) in [Off, Loose, Strict].into_iter().enumerate() {
            let checks: HashMap<u32, ReversePath> = HashMap::from([(numbers[0], check)]);
            kernel.set_reverse_paths(&checks).expect("a check");
            user.set_reverse_paths(&checks).expect("a check");
            for state in [BucketState::Active, BucketState::Loading] {
                set_all(&mut kernel, 0, state);
                for (source, what, refused) in TABLE {
                    port += 1;
                    let to = if source.contains(':') { "fd20::77" } else { "10.20.2.77" };
                    let mut frame = packet(source, to, port);
                    let expected = refused[place];
                    let before = (count(&kernel, "drop.reverse-path"), kernel.table().len());
                    inside.comes_in(&frame);
                    let decided =
                        (before.0 + u64::from(expected), before.1 + usize::from(!expected));
                    let seen = wait_for(&mut kernel, decided);
                    assert_eq!(seen, decided, "{source}, {what}, {check:?}, {state:?}");
                    let verdict = user.handle(&mut frame, numbers[0], now());
                    let dropped = Verdict::Drop(DropReason::ReversePath);
                    assert_eq!(verdict == dropped, expected, "{source}, {what}, {check:?}");
                }
            }
        }
        assert_eq!(count(&kernel, "drop.no-rule"), 0);
        // A flow that is known goes on, though its source would be refused by now.
        kernel.set_reverse_paths(&HashMap::from([(numbers[0], Off)])).expect("a check");
        set_all(&mut kernel, 0, BucketState::Active);
        let stranger = packet("10.20.2.1", "10.20.2.77", 50_000);
        let flows = kernel.table().len();
        inside.comes_in(&stranger);
        let refused = count(&kernel, "drop.reverse-path");
        assert_eq!(wait_for(&mut kernel, (refused, flows + 1)), (refused, flows + 1));
        kernel.set_reverse_paths(&HashMap::from([(numbers[0], Strict)])).expect("a check");
        inside.comes_in(&stranger);
        inside.comes_in(&packet("10.20.2.1", "10.20.2.77", 50_001));
        assert_eq!(wait_for(&mut kernel, (refused + 1, flows + 1)), (refused + 1, flows + 1));
    });
}

/// How many packets were refused and how many flows there are, once they are as many as is expected.
fn wait_for(kernel: &mut KernelDatapath, expected: (u64, usize)) -> (u64, usize) {
    let begin = Instant::now();
    loop {
        kernel.handle_upcalls(now(), &mut |_, _| None);
        let seen = (count(kernel, "drop.reverse-path"), kernel.table().len());
        if seen == expected || begin.elapsed() > SOON {
            return seen;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn main() -> std::process::ExitCode {
    let test = a_source_is_routed_back_as_its_interface_asks as fn();
    privileged::run(&[("a_source_is_routed_back_as_its_interface_asks", test)], &[])
}
