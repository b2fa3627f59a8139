//! SYNs that name larger segments than an interface takes, by both builds, by known and unknown flows, in the kernel and
//! in user space. Needs root and ip(8); ignored, with the reason, without root.

#[allow(dead_code, reason = "some of it is for other tests")]
mod link;
mod owner;
mod privileged;

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use link::{Tap, in_namespaces, site};
use owner::{SOON, now, set_all, set_up, settings};
use testudo_datapath::Datapath;
use testudo_datapath::kernel::KernelDatapath;
use testudo_datapath::user::UserDatapath;
use testudo_packet::bucket::BucketState;
use testudo_packet::mss::MostBytes;
use testudo_packet::reception::Mode;
use testudo_packet::rule::Prefix;
use testudo_packet::verdict::Verdict;

const TCP: u8 = 6;
const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;
/// What the interfaces inside and outside take.
const INSIDE: MostBytes = MostBytes { v4: 1400, v6: 1220 };
const OUTSIDE: MostBytes = MostBytes { v4: 1300, v6: 1380 };

/// The sum of RFC 1071, not folded.
fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum()
}

/// A TCP header with its checksum, over the pseudo-header too (RFC 9293 §3.1).
fn segment(ends: [IpAddr; 2], ports: [u16; 2], flags: u8, options: &[u8]) -> Vec<u8> {
    let mut header = ports.map(u16::to_be_bytes).concat();
    header.extend([0, 0, 0, 1, 0, 0, 0, u8::from(flags == SYN_ACK) * 2]);
    header.extend([(5 + options.len() as u8 / 4) << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    header.extend(options);
    let addresses = ends.map(|end| match end {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    });
    let mut total = sum(&addresses.concat()) + 6 + header.len() as u32 + sum(&header);
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    header[16..18].copy_from_slice(&(!(total as u16)).to_be_bytes());
    header
}

/// A segment as a packet.
fn packet(ends: [IpAddr; 2], segment: &[u8]) -> Vec<u8> {
    owner::packet(ends, TCP, segment)
}

/// What is behind the IP header of a frame without options.
fn transport(frame: &[u8]) -> &[u8] {
    &frame[if frame[12] == 8 { 34 } else { 54 }..]
}

/// Options as they come and as they go; `true`: by IPv6.
const TABLE: [(&str, bool, &[u8], &[u8]); 10] = [
    ("the smaller of two counts", false, &[2, 4, 5, 0xb4], &[2, 4, 5, 0x14]),
    ("smaller already", false, &[2, 4, 5, 0x13], &[2, 4, 5, 0x13]),
    ("none is named", false, &[], &[]),
    (
        "across two words of the checksum",
        false,
        &[1, 2, 4, 5, 0xb4, 1, 1, 0],
        &[1, 2, 4, 5, 0x14, 1, 1, 0],
    ),
    (
        "behind others",
        false,
        &[4, 2, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 3, 3, 7, 1, 2, 4, 255, 255],
        &[4, 2, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 3, 3, 7, 1, 2, 4, 5, 0x14],
    ),
    (
        "behind one without a length",
        false,
        &[8, 1, 1, 1, 2, 4, 5, 0xb4],
        &[8, 1, 1, 1, 2, 4, 5, 0xb4],
    ),
    ("behind the end", false, &[0, 0, 0, 0, 2, 4, 5, 0xb4], &[0, 0, 0, 0, 2, 4, 5, 0xb4]),
    ("of another length", false, &[2, 3, 5, 0xb4], &[2, 3, 5, 0xb4]),
    ("cut short", false, &[1, 1, 2, 4], &[1, 1, 2, 4]),
    ("of IPv6", true, &[2, 4, 5, 0xa0], &[2, 4, 4, 0xc4]),
];

fn ends(v6: bool) -> [IpAddr; 2] {
    let text = if v6 { ["fd10::2:1", "fd20::2:1"] } else { ["10.10.2.1", "10.20.2.1"] };
    text.map(|text| text.parse().expect("an address"))
}

fn a_syn_names_no_larger_segments_than_its_links_take() {
    in_namespaces(|_| {
        let [mut inside, mut outside] = site();
        let numbers = [inside.number(), outside.number()];
        let clamps = HashMap::from([(numbers[0], INSIDE), (numbers[1], OUTSIDE)]);
        let mut kernel = KernelDatapath::load(settings(Mode::Shared)).expect("a datapath");
        let mut user = UserDatapath::new(settings(Mode::Shared)).expect("a datapath");
        let route = |network: &str, interface| {
            let network: IpAddr = network.parse().expect("an address");
            (Prefix::new(network.into(), 16).expect("a prefix"), interface)
        };
        user.set_routes(vec![route("10.20.0.0", numbers[1]), route("fd20::", numbers[1])]);
        set_up(&mut kernel);
        kernel.set_mss_clamps(&clamps).expect("clamps");
        set_up(&mut user);
        user.set_mss_clamps(&clamps).expect("clamps");
        kernel.attach(inside.name()).expect("attached");
        kernel.attach(outside.name()).expect("attached");
        let mut port = 40_000;
        for state in [BucketState::Active, BucketState::Loading] {
            set_all(&mut kernel, 0, state);
            for (what, v6, options, expected) in TABLE {
                port += 1;
                let (ends, ports) = (ends(v6), [port, 443]);
                let [mut frame, expected] = [options, expected]
                    .map(|options| packet(ends, &segment(ends, ports, SYN, options)));
                inside.comes_in(&frame);
                let seen = wait_for(&mut kernel, &mut outside, port);
                assert_eq!(seen, transport(&expected), "{what}, {state:?}, in the kernel's build");
                assert_eq!(user.handle(&mut frame, numbers[0], now()), Verdict::Forward);
                assert_eq!(transport(&frame), transport(&expected), "{what}, in memory");
            }
        }
        answers_too(&mut kernel, (&mut inside, &mut outside), port + 1);
        // Nobody asks any more.
        kernel.set_mss_clamps(&HashMap::new()).expect("no clamps");
        let (ends, ports) = (ends(false), [port + 2, 443]);
        let frame = packet(ends, &segment(ends, ports, SYN, &[2, 4, 5, 0xb4]));
        inside.comes_in(&frame);
        assert_eq!(wait_for(&mut kernel, &mut outside, port + 2), transport(&frame));
    });
}

/// The answer belongs to a flow that is known.
fn answers_too(kernel: &mut KernelDatapath, (inside, outside): (&mut Tap, &mut Tap), port: u16) {
    set_all(kernel, 0, BucketState::Active);
    let there = ends(false);
    let back = [there[1], there[0]];
    inside.comes_in(&packet(there, &segment(there, [port, 443], SYN, &[])));
    wait_for(kernel, outside, port);
    let answer = |size: u16| {
        let [high, low] = size.to_be_bytes();
        packet(back, &segment(back, [443, port], SYN_ACK, &[2, 4, high, low]))
    };
    outside.comes_in(&answer(9000));
    assert_eq!(wait_for(kernel, inside, port), transport(&answer(OUTSIDE.v4)));
}

/// The segment from or to a port that goes out by an interface.
fn wait_for(kernel: &mut KernelDatapath, link: &mut Tap, port: u16) -> Vec<u8> {
    let begin = Instant::now();
    while begin.elapsed() < SOON {
        kernel.handle_upcalls(now(), &mut |_, _| None);
        let ours = |frame: &Vec<u8>| {
            let is_ip = frame.len() >= 54 && matches!(frame[12..14], [8, 0] | [0x86, 0xdd]);
            is_ip
                && transport(frame).len() >= 20
                && transport(frame)[..4].windows(2).any(|at| at == port.to_be_bytes())
        };
        if let Some(frame) = link.gone_out().into_iter().find(ours) {
            return transport(&frame).to_vec();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("nothing of port {port} has gone out by {}", link.name());
}

fn main() -> std::process::ExitCode {
    let test = a_syn_names_no_larger_segments_than_its_links_take as fn();
    privileged::run(&[("a_syn_names_no_larger_segments_than_its_links_take", test)], &[])
}
