//! Lines that are read and lines that are refused, with the exact words of every refusal.

mod printed;
mod refused;
mod sets;
mod translated;

use std::path::Path;
use std::time::Duration;

use testudo_cluster::replica::Replicate;
use testudo_packet::flow::Protocol;
use testudo_packet::rule::{self as packet, Action, Commit, MAX_RULES, Ports};

use super::addresses::Addresses;
use super::compiled::{Compiled, compile};
use super::line::Statement;
use super::{Lines, Surroundings, parse};
use crate::config::prefix::Prefix;

fn read(source: &str) -> Lines {
    match parse(Path::new("f"), source, Surroundings::default()) {
        Ok(lines) => lines,
        Err(error) => panic!("{error}"),
    }
}

fn says(source: &str) -> Statement {
    let mut lines = read(source).0;
    assert_eq!(lines.len(), 1, "{source:?}");
    lines.remove(0).says
}

fn prefix(text: &str) -> Prefix {
    Prefix::parse(text).expect("a prefix")
}

fn few(prefixes: &[&str]) -> Addresses {
    Addresses::Few(prefixes.iter().map(|text| prefix(text)).collect())
}

fn ports(first: u16, last: u16) -> Ports {
    Ports { first, last }
}

#[test]
fn lines_say_what_they_say() {
    let accept = || Statement::any(Action::Accept);
    let tcp = || Statement { protocol: Some(Protocol::TCP), ..accept() };
    let after = |millis| Replicate::After(Duration::from_millis(millis));
    let cases = [
        ("accept", accept()),
        ("drop", Statement::any(Action::Drop)),
        ("reject # no more", Statement::any(Action::Reject)),
        ("iif in0 accept", Statement { inputs: vec!["in0".into()], ..accept() }),
        ("iif \"in0\" accept", Statement { inputs: vec!["in0".into()], ..accept() }),
        (
            "iif { in0, \"out0\" } oif in1 accept",
            Statement {
                inputs: vec!["in0".into(), "out0".into()],
                outputs: vec!["in1".into()],
                ..accept()
            },
        ),
        ("accept proto tcp", tcp()),
        ("proto 47 accept", Statement { protocol: Some(Protocol(47)), ..accept() }),
        (
            "saddr 10.0.0.0/8 daddr { 192.0.2.1, 198.51.100.0/24 } accept",
            Statement {
                sources: few(&["10.0.0.0/8"]),
                destinations: few(&["192.0.2.1/32", "198.51.100.0/24"]),
                ..accept()
            },
        ),
        (
            "proto tcp sport 1024-65535 dport { 22,\n 443, # of the web\n 8000-8099 } accept",
            Statement {
                source_ports: vec![ports(1024, 65_535)],
                destination_ports: vec![ports(22, 22), ports(443, 443), ports(8000, 8099)],
                ..tcp()
            },
        ),
        (
            "proto icmp type echo-request accept",
            Statement { protocol: Some(Protocol::ICMP), echo: true, ..accept() },
        ),
        ("accept replicate after 2s", Statement { replicate: after(2000), ..accept() }),
        ("accept replicate after 500ms", Statement { replicate: after(500), ..accept() }),
        ("replicate never accept", Statement { replicate: Replicate::Never, ..accept() }),
        ("accept replicate first-packet commit async", accept()),
        ("accept commit sync", Statement { commit: Commit::Sync, ..accept() }),
        (
            "accept commit sync timeout 20ms",
            Statement {
                commit: Commit::Sync,
                commit_timeout: Duration::from_millis(20),
                ..accept()
            },
        ),
        ("log drop", Statement { log: Some(String::new()), ..Statement::any(Action::Drop) }),
        (
            "log \"the # last\" drop count comment \"a, b\"",
            Statement {
                log: Some("the # last".into()),
                count: true,
                comment: Some("a, b".into()),
                ..Statement::any(Action::Drop)
            },
        ),
    ];
    for (source, expected) in cases {
        assert_eq!(says(source), expected, "{source:?}");
    }
}

#[test]
fn lines_have_the_places_that_they_have_in_the_file() {
    let lines =
        read("# none\nset a = { 10.0.0.0/8,\n 192.0.2.0/24 }\n\nsaddr  @a\taccept # x\ndrop");
    let seen: Vec<_> = lines.0.iter().map(|line| (line.at, line.text.as_str())).collect();
    assert_eq!(seen, [(5, "saddr @a accept"), (6, "drop")]);
    assert_eq!(lines.0[0].says.sources, few(&["10.0.0.0/8", "192.0.2.0/24"]));
    assert_eq!(read("  \n# nothing\n").0, []);
}

#[test]
fn sets_may_have_other_sets_and_be_one_item_of_several() {
    let lines = "set a = { 10.0.0.0/8 }\nset b = { @a, fd00::/8 }\nsaddr { @b, 192.0.2.0/24 } drop";
    let sources = few(&["10.0.0.0/8", "fd00::/8", "192.0.2.0/24"]);
    assert_eq!(read(lines).0[0].says.sources, sources);
}

fn compiled(source: &str) -> Compiled {
    compile(&read(source), |place| place as u64 + 70, |_| Ok::<_, ()>(7), |_| Err(()))
        .expect("an interface")
}

#[test]
fn a_zone_is_short_for_its_interfaces() {
    let text = "zone inside = { in0, \"in1\" }\nzone all = { @inside, out0 }\n\
                iif @all oif { out0, @inside } proto tcp dport { 1, 2 } drop\niif @inside accept";
    let lines = read(text);
    let says = &lines.0[0].says;
    assert_eq!(
        (says.inputs.concat(), says.outputs.concat()),
        ("in0in1out0".into(), "out0in0in1".into())
    );
    assert_eq!((says.size(), lines.size()), (18, 20));
    assert_eq!(lines.0[1].says.to_string(), "iif { \"in0\", \"in1\" } accept");
    let number = |name: &str| Ok::<u32, ()>(name.bytes().map(u32::from).sum());
    let made = compile(&lines, |_| 0, number, |_| Err(())).expect("rules");
    let links: Vec<_> = made.rules[18..].iter().map(|rule| (rule.interface, rule.egress)).collect();
    assert_eq!(links, [(number("in0").ok(), None), (number("in1").ok(), None)]);
    assert!(made.rules[..18].iter().all(|rule| rule.interface.is_some() && rule.egress.is_some()));
}

#[test]
fn a_line_with_lists_is_a_rule_for_each_combination() {
    let made = compiled(
        "drop\niif in0 saddr { 10.0.0.0/8, fd00::/8 } proto tcp dport { 22, 80-90 } log accept commit sync",
    );
    let prefix = |text: &str, length| {
        packet::Prefix::new(text.parse::<std::net::IpAddr>().unwrap().into(), length).unwrap()
    };
    let rule = |source, first, last| packet::Rule {
        commit: Commit::Sync,
        protocol: Some(Protocol::TCP),
        source,
        destination_ports: ports(first, last),
        interface: Some(7),
        reports: true,
        mark: 71,
        ..packet::Rule::any(Action::Accept)
    };
    let [v4, v6] = [prefix("10.0.0.0", 8), prefix("fd00::", 8)];
    let expected = [
        packet::Rule { mark: 70, ..packet::Rule::any(Action::Drop) },
        rule(v4, 22, 22),
        rule(v4, 80, 90),
        rule(v6, 22, 22),
        rule(v6, 80, 90),
    ];
    assert_eq!(made.rules, expected);
    assert_eq!(made.lines, [0, 1, 1, 1, 1]);
    let failed =
        compile(&read("iif in0 drop"), |_| 0, |name| Err(name.to_owned()), |_| Err(String::new()));
    assert_eq!(failed, Err("in0".to_owned()));
}

#[test]
fn only_addresses_of_one_family_are_combined() {
    let both = "{ 10.0.0.0/8, 172.16.0.0/12, fd00::/8 }";
    for (source, size) in [
        (format!("saddr {both} daddr {both} accept"), 5),
        (format!("saddr {both} daddr 192.0.2.0/24 accept"), 2),
        (format!("saddr {both} proto icmp accept"), 2),
        (format!("daddr {both} proto icmpv6 accept"), 1),
        ("proto icmpv6 accept".to_owned(), 1),
        (
            format!(
                "saddr {both} daddr {both} proto udp sport {{ 1, 2 }} dport {{ 3, 4, 5 }} drop"
            ),
            30,
        ),
    ] {
        let lines = read(&source);
        assert_eq!(lines.size(), size, "{source}");
        assert_eq!(compiled(&source).rules.len(), size, "{source}");
    }
}

#[test]
fn as_many_rules_as_there_is_room_for_are_taken() {
    let list = |count: u32| (1..=count).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
    let source = format!("proto tcp sport {{ {} }} dport {{ {} }} drop", list(32), list(32));
    assert_eq!(read(&source).size(), MAX_RULES as usize);
}

#[test]
fn the_documented_example_is_read_whole() {
    let text = include_str!("../../../../../docs/examples/gateway.rules");
    let interfaces = translated::interfaces();
    let known = Some(translated::known(&interfaces, &[], &[]));
    let surroundings = Surroundings { known, tap: false };
    let lines = match parse(Path::new("docs/examples/gateway.rules"), text, surroundings) {
        Ok(lines) => lines,
        Err(error) => panic!("{error}"),
    };
    let actions: Vec<_> = lines.0.iter().map(|line| line.says.action).collect();
    for action in [Action::Accept, Action::Drop, Action::Reject] {
        assert!(actions.contains(&action), "no {action:?}");
    }
    assert_eq!(lines.size(), 18);
    let masquerades: Vec<_> = lines.0.iter().map(|line| line.says.snat.len()).collect();
    assert_eq!(masquerades.iter().sum::<usize>(), 2, "{masquerades:?}");
}
