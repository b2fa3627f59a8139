//! Packets of translated flows that are larger than the node's own next link takes: their senders are told, by the packets
//! as they were sent; what may be cut is cut. Needs root and ip(8); ignored, with the reason, without root.

#[allow(dead_code, reason = "some of it is for other tests")]
mod link;
#[allow(dead_code, reason = "some of it is for other tests")]
mod owner;
mod privileged;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use link::{Tap, in_namespaces, ip, site};
use owner::{SENDER, SHARED, SOON, now, set_up, settings};
use testudo_datapath::kernel::KernelDatapath;
use testudo_datapath::pools::Pool;
use testudo_datapath::{Datapath, NodeTable, Settings};
use testudo_packet::reception::Mode;
use testudo_packet::rule::{Action, Rule};

const UDP: u8 = 17;
/// What the links take.
const INSIDE: usize = 1420;
const OUTSIDE: usize = 1300;
const CUT_NOT: u8 = 0x40;

#[derive(Clone, Copy)]
struct Family {
    client: &'static str,
    server: &'static str,
    outside: &'static str,
    header: usize,
}

const FAMILIES: [Family; 2] = [
    Family { client: "10.10.2.1", server: "10.20.2.1", outside: "10.20.0.200", header: 20 },
    Family { client: "fd10::2:1", server: "fd20::2:1", outside: "fd20::200", header: 40 },
];

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A datagram of so many bytes with its IP header. Nobody looks at its checksum.
fn datagram(from: (&str, u16), to: (&str, u16), bytes: usize, flags: u8) -> Vec<u8> {
    let (kind, head) = match (address(from.0), address(to.0)) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let [high, low] = (bytes as u16).to_be_bytes();
            let head = [0x45, 0, high, low, 0, 9, flags, 0, 64, UDP, 0, 0];
            let mut head = [&head[..], &from.octets(), &to.octets()].concat();
            let mut sum: u32 =
                head.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
            while sum > 0xffff {
                sum = (sum & 0xffff) + (sum >> 16);
            }
            head[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
            ([8, 0], head)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let [high, low] = ((bytes - 40) as u16).to_be_bytes();
            let head = [0x60, 0, 0, 0, high, low, UDP, 64];
            ([0x86, 0xdd], [&head[..], &from.octets(), &to.octets()].concat())
        }
        mixed => panic!("{mixed:?} are of two families"),
    };
    let data = bytes - head.len();
    let mut packet = [from.1, to.1, data as u16, 0x1234].map(u16::to_be_bytes).concat();
    packet.resize(data, 0x5a);
    [&SHARED[..], &SENDER, &kind, &head, &packet].concat()
}

/// The first frame that goes out by a link and is meant, behind its Ethernet header.
fn goes_out(
    kernel: &mut KernelDatapath,
    link: &mut Tap,
    what: &str,
    is_meant: impl Fn(&[u8]) -> bool,
) -> Vec<u8> {
    let begin = Instant::now();
    while begin.elapsed() < SOON {
        kernel.handle_upcalls(now(), &mut |_, _| None);
        let packets = link.gone_out().into_iter().filter(|frame| frame.len() > 54);
        if let Some(frame) = packets.map(|frame| frame[14..].to_vec()).find(|p| is_meant(p)) {
            return frame;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("no {what} has gone out by {}: {:?}", link.name(), kernel.counters());
}

/// Whether this is an error that says how large a packet may be.
fn says_limit(packet: &[u8], family: Family, limit: usize) -> bool {
    let error = &packet[family.header..];
    let (protocol, kind) =
        if family.header == 20 { (packet[9], [3, 4]) } else { (packet[6], [2, 0]) };
    let number = u32::from_be_bytes(error[4..8].try_into().expect("four bytes"));
    matches!(protocol, 1 | 58) && error[..2] == kind && number as usize == limit
}

fn node() -> KernelDatapath {
    let outside = FAMILIES.map(|family| address(family.outside).into());
    let pools = vec![Pool::of_sources(outside.to_vec())];
    let mut kernel =
        KernelDatapath::load(Settings { pools, ..settings(Mode::Shared) }).expect("a datapath");
    set_up(&mut kernel);
    kernel.set_rules(&[Rule { source_pool: 1, ..Rule::any(Action::Accept) }]).expect("a rule");
    kernel
}

fn senders_hear_how_large_a_packet_may_be() {
    in_namespaces(|_| {
        let [mut inside, mut outside] = site();
        ip(&format!("link set inside mtu {INSIDE}"));
        ip(&format!("link set outside mtu {OUTSIDE}"));
        let mut kernel = node();
        kernel.attach(inside.name()).expect("attached");
        kernel.attach(outside.name()).expect("attached");
        for family in FAMILIES {
            let Family { client, server, header, .. } = family;
            let (from, to) = ((client, 4000), (server, 53));
            // The first one chooses what the source is translated to, the second learns the next hop.
            for _ in 0..2 {
                inside.comes_in(&datagram(from, to, 100, CUT_NOT));
                goes_out(&mut kernel, &mut outside, "small one", |packet| packet.len() == 100);
            }
            let key = kernel_flow(&kernel, client);
            let seen = (family.outside, key);
            let large = datagram(from, to, 1400, CUT_NOT);
            inside.comes_in(&large);
            let told = |packet: &[u8]| says_limit(packet, family, OUTSIDE);
            let error = goes_out(&mut kernel, &mut inside, "error", told);
            let quoted = &error[header + 8..];
            assert_eq!(quoted, &large[14..14 + quoted.len()], "the packet as it was sent");
            assert!(quoted.len() >= header + 8);
            // Of what comes back the outer sender is told, by the endpoints that it knows.
            let back = (server, 53);
            outside.comes_in(&datagram(back, seen, 200, CUT_NOT));
            goes_out(&mut kernel, &mut inside, "answer", |packet| packet.len() == 200);
            let large = datagram(back, seen, 1440, CUT_NOT);
            outside.comes_in(&large);
            let told = |packet: &[u8]| says_limit(packet, family, INSIDE);
            let error = goes_out(&mut kernel, &mut outside, "error outside", told);
            assert_eq!(error[header + 8..], large[14..14 + error.len() - header - 8]);
        }
        // A next hop that is forgotten by now is learned by a large packet, too; the one after it is told of.
        std::thread::sleep(Duration::from_millis(2500));
        let (family, from, to) = (FAMILIES[0], ("10.10.2.1", 4000), ("10.20.2.1", 53));
        inside.comes_in(&datagram(from, to, 1400, CUT_NOT));
        std::thread::sleep(Duration::from_millis(50));
        inside.comes_in(&datagram(from, to, 1400, CUT_NOT));
        let told = |packet: &[u8]| says_limit(packet, family, OUTSIDE);
        goes_out(&mut kernel, &mut inside, "error about the second", told);
        // One that routers may cut goes on in pieces, translated.
        let from = ("10.10.2.1", 4000);
        inside.comes_in(&datagram(from, ("10.20.2.1", 53), 1400, 0));
        let first = |packet: &[u8]| packet[0] == 0x45 && packet[6] & 0x20 != 0;
        let piece = goes_out(&mut kernel, &mut outside, "piece", first);
        assert_eq!(piece[12..16], [10, 20, 0, 200]);
        assert!(piece.len() <= OUTSIDE);
        let counters = kernel.counters();
        let count = |name| counters.iter().find(|(known, _)| *known == name).map(|(_, n)| *n);
        assert_eq!((count("answered"), count("drop.too-large")), (Some(5), Some(0)));
    });
}

/// The port that the client's flow has outside.
fn kernel_flow(kernel: &KernelDatapath, client: &str) -> u16 {
    let mut port = None;
    kernel.table().scan(&mut |view| {
        if view.record.key.initiator.address == address(client).into() {
            port = view.record.translation.map(|translation| translation.source.port);
        }
    });
    port.expect("a translated flow")
}

fn main() -> std::process::ExitCode {
    let test = senders_hear_how_large_a_packet_may_be as fn();
    privileged::run(&[("senders_hear_how_large_a_packet_may_be", test)], &[])
}
