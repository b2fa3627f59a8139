//! What one source may ask of the kernel's half: flows that nobody has answered, and packets that go up. Needs root;
//! ignored, with the reason, without it.

#[allow(dead_code, reason = "some of it is for other tests")]
mod owner;
mod privileged;

use std::net::IpAddr;

use aya::programs::{TestRun, TestRunOptions};
use owner::{now, packet, set_up, settings};
use testudo_datapath::kernel::KernelDatapath;
use testudo_datapath::pools::Pool;
use testudo_datapath::{Datapath, Limits, NodeTable};
use testudo_packet::event::Occurrence;
use testudo_packet::meter::Limit;
use testudo_packet::reception::Mode;
use testudo_packet::rule::{Action, Rule};

const UDP: u8 = 17;
const SERVER: &str = "10.20.0.9";

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A datagram between ports.
fn datagram(from: (&str, u16), to: (&str, u16)) -> Vec<u8> {
    let ports = [from.1, to.1].map(u16::to_be_bytes).concat();
    packet([address(from.0), address(to.0)], UDP, &[&ports[..], &[0, 8, 0, 0]].concat())
}

/// Has the programs handle a packet that comes from nowhere.
fn run(kernel: &mut KernelDatapath, frame: &[u8]) {
    let mut out = vec![0; frame.len() + 64];
    let mut options = TestRunOptions::new();
    options.data_in = Some(frame);
    options.data_out = Some(&mut out);
    kernel.program().expect("loaded").test_run(options).expect("a test run");
}

fn count(kernel: &KernelDatapath, name: &str) -> u64 {
    kernel.counters().into_iter().find(|(known, _)| *known == name).expect("a counter").1
}

fn a_flood_of_one_source_leaves_room_for_others_to_go_up() {
    let pool = Pool::of_sources(vec![address("192.0.2.1").into()]);
    let pools = vec![pool];
    let mut kernel = KernelDatapath::load(owner_settings(pools)).expect("a datapath");
    set_up(&mut kernel);
    kernel.set_rules(&[Rule { source_pool: 1, ..Rule::any(Action::Accept) }]).expect("a rule");
    // One in ten minutes: no time passes.
    let upcalls = Limit::new(8, 600_000_000_000);
    kernel.set_limits(Limits { upcalls, ..Limits::default() });
    for port in 1..=2000 {
        run(&mut kernel, &datagram(("10.10.2.7", port), (SERVER, 53)));
    }
    let (up, refused) = (count(&kernel, "upcall"), count(&kernel, "drop.upcall-limit"));
    assert_eq!((up + refused, count(&kernel, "drop.upcall-full")), (2000, 0));
    // A quarter of 4 MB, each packet with room for 2 kB; and eight more.
    assert!((480..540).contains(&up), "{up} went up");
    for port in 1..=8 {
        run(&mut kernel, &datagram(("10.10.2.8", port), (SERVER, 53)));
    }
    assert_eq!(count(&kernel, "upcall"), up + 8, "others find room");
    while kernel.handle_upcalls(now(), &mut |_, _| None) > 0 {}
    let before = count(&kernel, "upcall");
    run(&mut kernel, &datagram(("10.10.2.7", 60_000), (SERVER, 53)));
    assert_eq!(count(&kernel, "upcall"), before + 1, "who waits for nobody is not counted");
}

fn owner_settings(pools: Vec<Pool>) -> testudo_datapath::Settings {
    testudo_datapath::Settings { pools, table_slots: 4096, ..settings(Mode::Shared) }
}

fn the_kernel_refuses_a_source_that_nobody_answers() {
    let mut kernel = KernelDatapath::load(owner_settings(Vec::new())).expect("a datapath");
    set_up(&mut kernel);
    let half_open = Limit::new(5, 600_000_000_000);
    kernel.set_limits(Limits { half_open, ..Limits::default() });
    for port in 1..=9 {
        run(&mut kernel, &datagram(("10.10.2.7", port), (SERVER, 53)));
    }
    assert_eq!((kernel.table().len(), count(&kernel, "drop.half-open-limit")), (5, 4));
    run(&mut kernel, &datagram((SERVER, 53), ("10.10.2.7", 1)));
    let mut events = 0;
    kernel.drain_events(&mut |occurrence| {
        events += u32::from(matches!(occurrence, Occurrence::Flow(_)))
    });
    assert_eq!(events, 6);
    for port in 10..=12 {
        run(&mut kernel, &datagram(("10.10.2.7", port), (SERVER, 53)));
    }
    assert_eq!((kernel.table().len(), count(&kernel, "drop.half-open-limit")), (6, 6));
}

fn main() -> std::process::ExitCode {
    let tests: [(&str, fn()); 2] = [
        (
            "a_flood_of_one_source_leaves_room_for_others_to_go_up",
            a_flood_of_one_source_leaves_room_for_others_to_go_up,
        ),
        (
            "the_kernel_refuses_a_source_that_nobody_answers",
            the_kernel_refuses_a_source_that_nobody_answers,
        ),
    ];
    privileged::run(&tests, &[])
}
