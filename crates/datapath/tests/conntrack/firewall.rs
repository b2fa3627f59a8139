//! Linux as the gateway between two links: what its connection tracker lets through, frame by frame.

use std::io::Write;
use std::process::{Command, Stdio};

use super::frames::{Ends, GATEWAY, Load, Packet, core};
use super::link::Tap;

const RULES: &str = "
table inet gateway {
    chain forward {
        type filter hook forward priority filter; policy drop;
        ct state established,related accept
        ct state new tcp flags & (syn|ack|rst|fin) == syn accept
        ct state new meta l4proto { udp, icmp, ipv6-icmp } accept
        ct state new sctp chunk init exists accept
        ct state new sctp chunk heartbeat exists accept
        drop
    }
}";

/// Written in the namespace of the test alone; the tracker's are there once a rule asks it.
const SETTINGS: [(&str, &str); 6] = [
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/netfilter/nf_conntrack_tcp_be_liberal", "0"),
    ("net/netfilter/nf_conntrack_tcp_loose", "0"),
    ("net/netfilter/nf_conntrack_checksum", "1"),
];

pub struct Firewall {
    links: [Tap; 2],
    marker: (Ends, u16),
}

fn run(program: &str, input: &str, arguments: &[&str]) {
    let mut command = Command::new(program);
    let child = command.args(arguments).stdin(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{program}: {error}"));
    let mut pipe = child.stdin.take().expect("a pipe");
    pipe.write_all(input.as_bytes()).expect("input");
    drop(pipe);
    let status = child.wait().expect("an end");
    assert!(status.success(), "{program} {arguments:?} with {input}: {status}");
}

fn set(name: &str, value: &str) {
    std::fs::write(format!("/proc/sys/{name}"), value)
        .unwrap_or_else(|error| panic!("{name} = {value}: {error}"));
}

impl Firewall {
    /// In the calling thread's network namespace.
    pub fn new(ends: [&Ends; 2], marker: Ends) -> Self {
        set("net/ipv6/conf/default/disable_ipv6", "0");
        set("net/ipv6/conf/default/accept_dad", "0");
        set("net/ipv4/conf/default/rp_filter", "0");
        let links = ["left", "right"].map(Tap::new);
        let mac = |bytes: [u8; 6]| bytes.map(|byte| format!("{byte:02x}")).join(":");
        let mut commands = String::new();
        for (side, network) in [(0, "10"), (1, "20")] {
            let name = links[side].name();
            commands += &format!("link set {name} address {}\n", mac(GATEWAY));
            commands += &format!("address add 10.{network}.0.254/16 dev {name}\n");
            commands += &format!("address add fd{network}::fe/64 dev {name} nodad\n");
            for ends in ends {
                let (to, at) = (ends.addresses[side], mac(super::frames::ENDS));
                commands +=
                    &format!("neighbour replace {to} lladdr {at} dev {name} nud permanent\n");
            }
        }
        run("ip", &commands, &["-batch", "-"]);
        run("nft", RULES, &["-f", "-"]);
        for (name, value) in SETTINGS {
            set(name, value);
        }
        Self { links, marker: (marker, 0) }
    }

    /// Whether what comes in on one side goes out on the other. Behind a frame that does not, one is sent that does,
    /// so that a slow kernel is not taken for a strict one.
    pub fn forwards(&mut self, from: usize, frame: &[u8]) -> bool {
        self.links[from].comes_in(frame);
        if self.comes_out(1 - from, &core(frame)) {
            return true;
        }
        let (ends, number) = &mut self.marker;
        *number = number.wrapping_add(1);
        let marker = Packet { what: "marker", from, load: Load::Udp(4) }.frame(ends, *number);
        self.links[from].comes_in(&marker);
        let (frame, marker) = (core(frame), core(&marker));
        for _ in 0..2000 {
            let out: Vec<_> =
                self.links[1 - from].gone_out().iter().map(|frame| core(frame)).collect();
            if out.contains(&frame) {
                return true;
            }
            if out.contains(&marker) {
                return false;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        panic!("a datagram of an accepted flow was not forwarded");
    }

    fn comes_out(&mut self, side: usize, wanted: &[u8]) -> bool {
        self.links[side].gone_out().iter().any(|frame| core(frame) == wanted)
    }
}
