//! What a file translates is what sections of the configuration would.

use std::path::Path;

use super::super::{Known, Lines, Surroundings, parse};
use crate::config;
use crate::config::interface::Interface;
use crate::config::mapping::Mapping;
use crate::config::service::Service;

/// Those of docs/node.toml.
pub fn interfaces() -> [Interface; 2] {
    [("in0", ["10.10.0.1", "fd10::1"]), ("out0", ["10.20.0.1", "fd20::1"])].map(
        |(name, addresses)| Interface {
            name: name.to_owned(),
            addresses: addresses.map(|text| text.parse().expect("an address")).to_vec(),
            rp_check: Default::default(),
            mss_clamp: None,
        },
    )
}

pub const fn known<'a>(
    interfaces: &'a [Interface],
    services: &'a [Service],
    mappings: &'a [Mapping],
) -> Known<'a> {
    Known { interfaces, services, mappings }
}

/// The documented example of translations, after the interfaces of docs/node.toml.
fn example() -> config::Config {
    let node = include_str!("../../../../../docs/node.toml");
    let example = include_str!("../../../../../docs/examples/services.toml");
    let (head, _) = node.split_once("# Nobody opens a mail").expect("rules");
    config::parse(Path::new("f"), &format!("{head}{example}")).expect("a configuration")
}

fn read(source: &str) -> Result<Lines, String> {
    let config = example();
    parse(Path::new("f"), source, config.surroundings()).map_err(|error| error.to_string())
}

/// The sections of the example, one line each.
const LINES: &str = "\
iif out0 proto tcp dnat web accept
dnat \"web\" proto tcp iif in0 accept snat interface in0
saddr 10.30.0.0/24 mapping site accept
proto tcp daddr 192.0.2.25 dport 25 mapping \"site\" accept
saddr fd30:1:2::/48 mapping home accept
iif in0 saddr 10.10.0.0/16 proto udp snat interface out0 accept
";

#[test]
fn lines_say_what_sections_say() {
    let lines = read(LINES).expect("lines");
    let sections = example().lines;
    assert_eq!(lines.0.len(), sections.0.len());
    for (line, section) in lines.0.iter().zip(&sections.0) {
        assert_eq!(line.says, section.says, "{}", line.text);
    }
}

#[test]
fn what_is_printed_of_translations_is_read_as_the_same() {
    let both = "proto tcp snat { 192.0.2.1, 192.0.2.2, 2001:db8::1 } accept count comment \"x\"\n";
    for line in read(&format!("{LINES}{both}")).expect("lines").0 {
        let printed = line.says.to_string();
        let again = read(&printed).expect("a line").0.remove(0);
        assert_eq!((&again.says, again.says.to_string()), (&line.says, printed));
    }
}

#[test]
fn sources_are_of_the_families_that_the_line_is_about() {
    for (line, addresses) in [
        ("proto tcp oif out0 masquerade accept", "10.20.0.1 fd20::1"),
        ("proto tcp oif out0 saddr 10.0.0.0/8 masquerade accept", "10.20.0.1"),
        (
            "proto tcp oif out0 saddr { 10.0.0.0/8, fd10::/64 } masquerade accept",
            "10.20.0.1 fd20::1",
        ),
        ("proto udp oif { out0 } daddr fd99::/64 masquerade accept", "fd20::1"),
        ("proto icmp oif out0 masquerade accept", "10.20.0.1"),
        ("proto icmpv6 type echo-request snat interface \"in0\" accept", "fd10::1"),
        ("zone outer = { out0 }\nproto tcp oif @outer masquerade accept", "10.20.0.1 fd20::1"),
        ("proto tcp snat 192.0.2.7 accept", "192.0.2.7"),
        ("proto tcp snat { 192.0.2.7, fd99::7 } accept", "192.0.2.7 fd99::7"),
        ("proto tcp dnat web saddr fd10::/64 snat interface in0 accept", "fd10::1"),
    ] {
        let lines = read(line).expect(line);
        let says: Vec<_> = lines.0[0].says.snat.iter().map(ToString::to_string).collect();
        assert_eq!(says.join(" "), addresses, "{line}");
    }
}

/// Checks refusals: the line, the words above the carets, and what is said.
fn refused(cases: &[(&str, &str, &str)]) {
    for (line, word, said) in cases {
        let at = line.find(word).expect("the word");
        let (indent, carets) = (" ".repeat(at), "^".repeat(word.len()));
        let expected = format!("f:1:{}: {said}\n 1 | {line}\n   | {indent}{carets}", at + 1);
        assert_eq!(read(line).map(|_| "accepted"), Err(expected));
    }
}

#[test]
fn what_can_not_stand_in_for_a_source_is_refused() {
    let beside = "expected it beside proto tcp, udp, icmp or icmpv6 only";
    refused(&[
        (
            "proto tcp snat 192.0.2.1 drop",
            "192.0.2.1",
            "snat, but the line lets no flow begin; expected it beside accept only",
        ),
        (
            "proto tcp oif out0 masquerade reject",
            "masquerade",
            "masquerade, but the line lets no flow begin; expected it beside accept only",
        ),
        (
            "snat 192.0.2.1 accept",
            "192.0.2.1",
            &format!("snat, but the line names no protocol; {beside}"),
        ),
        (
            "proto esp oif out0 masquerade accept",
            "masquerade",
            &format!("masquerade, but protocol esp has no ports; {beside}"),
        ),
        (
            "proto tcp masquerade accept",
            "masquerade",
            "masquerade, but oif names 0 interfaces; expected oif with one interface beside it, or snat interface NAME",
        ),
        (
            "proto tcp oif { in0, out0 } masquerade accept",
            "masquerade",
            "masquerade, but oif names 2 interfaces; expected oif with one interface beside it, or snat interface NAME",
        ),
        (
            "proto tcp snat interface out9 accept",
            "interface out9",
            "snat, the interface out9; expected one of in0, out0",
        ),
        (
            "proto tcp snat out0 accept",
            "out0",
            "out0; expected an address that packets can come from, such as 192.0.2.1",
        ),
        (
            "proto tcp snat { 192.0.2.1, 127.0.0.1 } accept",
            "127.0.0.1",
            "127.0.0.1; expected an address that packets can come from, such as 192.0.2.1",
        ),
        (
            "proto tcp saddr 10.0.0.0/8 snat fd99::1 accept",
            "fd99::1",
            "fd99::1, but the line is about IPv4; expected addresses of its family",
        ),
        (
            "proto tcp snat { fd99::1, 192.0.2.1, fd99:0::1 } accept",
            "fd99:0::1",
            "fd99::1, listed twice; expected each address once",
        ),
        (
            "proto tcp snat 192.0.2.1 oif out0 masquerade accept",
            "masquerade",
            "masquerade, for the second time; expected each part once a line",
        ),
    ]);
}

#[test]
fn services_and_mappings_are_those_of_the_configuration() {
    let flows = "but the line is about other flows, too; expected saddr within";
    refused(&[
        (
            "proto tcp dnat wbe accept",
            "wbe",
            "wbe, which there is not; expected the name of a [[service]]: one of web",
        ),
        (
            "saddr 10.30.0.0/24 mapping home2 accept",
            "home2",
            "home2, which there is not; expected the name of a [[mapping]]: one of site, home",
        ),
        (
            "dnat web accept",
            "web",
            "web, but the line names no protocol; expected it beside proto tcp, udp or sctp only",
        ),
        (
            "proto icmp dnat web accept",
            "web",
            "web, but proto is icmp; expected it beside proto tcp, udp or sctp only",
        ),
        (
            "proto tcp dnat web dport 80 accept",
            "80",
            "dport, but dnat says where the flows go that the line is about; expected no dport beside dnat",
        ),
        (
            "proto tcp daddr 10.0.0.1 dnat web accept",
            "10.0.0.1",
            "daddr, but dnat says where the flows go that the line is about; expected no daddr beside dnat",
        ),
        (
            "proto tcp dnat web oif in0 masquerade accept",
            "web",
            "web, but the line has masquerade as well, and its flows go out elsewhere; expected snat interface NAME in its place",
        ),
        (
            "proto tcp saddr 10.30.0.0/24 snat 192.0.2.1 mapping site accept",
            "site",
            "mapping, but the line has snat as well; expected one of them",
        ),
        (
            "saddr 10.0.0.0/8 mapping site accept",
            "site",
            &format!(
                "site, {flows} 10.30.0.0/24, or daddr within 192.0.2.0/24, of at most 8 prefixes"
            ),
        ),
        (
            "saddr { 10.30.0.0/25, 10.31.0.0/25 } mapping site accept",
            "site",
            &format!(
                "site, {flows} 10.30.0.0/24, or daddr within 192.0.2.0/24, of at most 8 prefixes"
            ),
        ),
        (
            "proto esp saddr 10.30.0.0/24 mapping site accept",
            "site",
            "mapping, but protocol esp has no ports; expected it beside proto tcp, udp, icmp or icmpv6, or without proto",
        ),
    ]);
}

#[test]
fn without_a_configuration_nobody_knows_what_names_stand_for() {
    for (line, name, section) in [
        ("proto tcp dnat web accept", "web", "[[service]]"),
        ("saddr 10.30.0.0/24 mapping site accept", "site", "[[mapping]]"),
        ("proto tcp snat interface out0 accept", "out0", "[[interface]]"),
        ("proto tcp oif out0 masquerade accept", "out0", "[[interface]]"),
    ] {
        let error = parse(Path::new("f"), line, Surroundings::default()).expect_err(line);
        let said = format!(
            "{name}, but no configuration is known; expected a configuration with a section \
             {section} of that name (--config FILE)\n"
        );
        assert!(error.to_string().contains(&said), "{error}");
    }
}

#[test]
fn an_analyser_is_shown_packets_as_they_are() {
    let config = example();
    let surroundings = Surroundings { tap: true, ..config.surroundings() };
    for (line, word) in [
        ("proto tcp snat 192.0.2.1 accept", "snat"),
        ("proto tcp oif out0 masquerade accept", "masquerade"),
        ("proto tcp dnat web accept", "dnat"),
        ("saddr 10.30.0.0/24 mapping site accept", "mapping"),
    ] {
        let error = parse(Path::new("f"), line, surroundings).expect_err(line).to_string();
        let said =
            format!("{word}, in tap mode, where packets are shown as they are; expected a line");
        assert!(error.contains(&said), "{error}");
    }
}

#[test]
fn lines_share_lists_and_all_lists_have_a_limit() {
    let line = |port: u16, third: u16| {
        let list: Vec<_> = (1..=64).map(|last| format!("192.0.{third}.{last}")).collect();
        format!("proto tcp dport {port} snat {{ {} }} accept\n", list.join(", "))
    };
    let full: String = (1..=8).map(|port| line(port, port % 4)).collect();
    let lines = read(&full).expect("four lists of 64, each in two lines");
    assert_eq!(config::translation::pools(&lines).len(), 4);
    let error = read(&format!("{full}proto udp snat 192.0.9.1 accept")).expect_err("one more");
    let said = "f:9:1: snat with 257 addresses in all lines up to here; expected at most 256;";
    assert!(error.starts_with(said), "{error}");
    let long = line(1, 1).replace("192.0.1.64", "192.0.1.64, 192.0.1.65");
    let error = read(&long).expect_err("65 in a line");
    assert!(error.contains("a list of 65 addresses; expected at most 64 of one line"), "{error}");
}
