//! Rules and timeouts that are read and that are refused.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use testudo_cluster::replica::Replicate;
use testudo_packet::flow::Protocol;
use testudo_packet::rule::{self as packet, Action, Commit, MAX_RULES, Ports};

use super::{GOOD, TLS, changed, parse, refusal, refused};
use crate::config::rule::Rule;
use crate::config::translation;
use crate::rules::{Lines, compiled};

/// What packets are compared with for a section.
fn compile<E>(rule: &Rule, number: impl Fn(&str) -> Result<u32, E>) -> Result<packet::Rule, E> {
    let lines = Lines::of_sections(std::slice::from_ref(rule));
    let mut compiled = compiled::compile(&lines, |_| 0, number, |_| panic!("a set"))?;
    assert_eq!(compiled.rules.len(), 1);
    Ok(compiled.rules.remove(0))
}

#[test]
fn a_rule_becomes_what_packets_are_compared_with() {
    let config = changed("protocol = \"tcp\"", "protocol = 17\nsource_ports = \"1024-65535\"");
    let rule = &config.unwrap().rules[0];
    let prefix = |a: [u8; 4]| packet::Prefix::new(IpAddr::from(a).into(), 16).unwrap();
    let compiled = packet::Rule {
        source_set: None,
        destination_set: None,
        egress: None,
        action: Action::Accept,
        commit: Commit::Async,
        protocol: Some(Protocol::UDP),
        source: prefix([10, 10, 0, 0]),
        destination: prefix([10, 20, 0, 0]),
        source_ports: Ports { first: 1024, last: 65_535 },
        destination_ports: Ports { first: 80, last: 80 },
        interface: Some(7),
        source_pool: 0,
        reports: false,
        mark: 0,
    };
    assert_eq!(compile(rule, |name| Ok::<_, ()>(if name == "in0" { 7 } else { 0 })), Ok(compiled));
    assert_eq!(compile(rule, |_| Err("no such device")), Err("no such device"));
}

#[test]
fn what_a_rule_does_not_name_is_any() {
    let (before, _) = GOOD.split_once("protocol =").unwrap();
    let rule = parse(Path::new("f"), &format!("{before}{TLS}")).unwrap().rules.remove(0);
    assert_eq!(compile(&rule, |_| Err(())), Ok(packet::Rule::any(Action::Accept)));
}

#[test]
fn a_rule_says_whether_first_packets_wait_for_the_peers() {
    let action = "action = \"accept\"";
    let with = |more: &str| changed(action, &format!("{action}\n{more}")).unwrap().rules.remove(0);
    for (more, commit, milliseconds) in [
        ("", Commit::Async, 50),
        ("commit = \"async\"", Commit::Async, 50),
        ("commit = \"sync\"", Commit::Sync, 50),
        ("commit = \"sync\"\ncommit_timeout_ms = 1000", Commit::Sync, 1000),
    ] {
        let rule = with(more);
        let seen = (rule.commit, rule.commit_timeout);
        assert_eq!(seen, (commit, Duration::from_millis(milliseconds)), "{more}");
        assert_eq!(compile(&rule, |_| Ok::<_, ()>(7)).unwrap().commit, commit);
    }
    refused(&[
        (
            action,
            "action = \"accept\"\ncommit = \"both\"",
            "f:22:10: commit is \"both\"; expected \"async\" or \"sync\"",
        ),
        (
            action,
            "action = \"drop\"\ncommit = \"sync\"",
            "f:22:10: commit is \"sync\", but the rule lets no flow begin; expected a rule that \
             accepts",
        ),
        (
            action,
            "action = \"accept\"\ncommit_timeout_ms = 5",
            "f:22:21: commit_timeout_ms is 5, but nothing waits; expected it beside commit = \
             \"sync\" only",
        ),
        (
            action,
            "action = \"accept\"\ncommit = \"sync\"\ncommit_timeout_ms = 1001",
            "f:23:21: commit_timeout_ms is 1001; expected 1 to 1000 milliseconds",
        ),
    ]);
}

#[test]
fn a_rule_says_from_when_on_its_flows_are_replicated() {
    let action = "action = \"accept\"";
    for (more, replicate) in [
        ("", Replicate::FirstPacket),
        ("replicate = \"first-packet\"", Replicate::FirstPacket),
        ("commit = \"sync\"\nreplicate = \"first-packet\"", Replicate::FirstPacket),
        ("replicate = \"established\"", Replicate::Established),
        ("replicate = \"never\"", Replicate::Never),
        (
            "replicate = \"after\"\nreplicate_after_ms = 600000",
            Replicate::After(Duration::from_secs(600)),
        ),
    ] {
        let config = changed(action, &format!("{action}\n{more}")).unwrap();
        assert_eq!(config.rules[0].replicate, replicate, "{more}");
    }
    let only = "but nothing waits for a time; expected it beside replicate = \"after\" only";
    let expected = "expected \"first-packet\", \"established\", \"after\" or \"never\"";
    let accept = |more: &str| format!("{action}\n{more}");
    let (always, lonely) = (accept("replicate = \"always\""), accept("replicate = \"after\""));
    let stray = accept("replicate_after_ms = 5");
    let other = accept("replicate = \"never\"\nreplicate_after_ms = 5");
    let long = accept("replicate = \"after\"\nreplicate_after_ms = 600001");
    let sync = accept("commit = \"sync\"\nreplicate = \"established\"");
    refused(&[
        (action, &always, &format!("f:22:13: replicate is \"always\"; {expected}")),
        (
            action,
            &lonely,
            "f:22:13: replicate is \"after\", but nothing says after what time; expected \
             replicate_after_ms beside it",
        ),
        (action, &stray, &format!("f:22:22: replicate_after_ms is 5, {only}")),
        (action, &other, &format!("f:23:22: replicate_after_ms is 5, {only}")),
        (action, &long, "f:23:22: replicate_after_ms is 600001; expected 1 to 600000 milliseconds"),
        (
            action,
            &sync,
            "f:23:13: replicate is \"established\", but commit = \"sync\" has the first packet wait \
             for the other nodes; expected \"first-packet\"",
        ),
        (
            action,
            "action = \"drop\"\nreplicate = \"never\"",
            "f:22:13: replicate is \"never\", but the rule lets no flow begin; expected a rule that \
             accepts",
        ),
    ]);
}

#[test]
fn what_nobody_answers_is_never_established() {
    let without_ports = GOOD.replace("destination_ports = \"80\"\n", "");
    for (protocol, fits) in [("esp", false), ("ah", false), ("udp", true)] {
        let text = format!("replicate = \"established\"\nprotocol = \"{protocol}\"");
        let text = without_ports.replace("protocol = \"tcp\"", &text);
        let read = parse(Path::new("f"), &text);
        assert_eq!(read.is_ok(), fits, "{protocol}");
        if let Err(error) = read {
            let nobody = format!("but nobody answers a flow of {protocol}");
            assert!(error.to_string().contains(&nobody), "{error}");
        }
    }
}

#[test]
fn protocols_go_by_name_or_number() {
    let expected = "expected tcp, udp, icmp, icmpv6, esp, ah or a number from 0 to 255";
    let protocol = "protocol = \"tcp\"";
    let without_ports = GOOD.replace("destination_ports = \"80\"\n", "");
    for (text, number) in [("\"esp\"", 50), ("47", 47), ("\"47\"", 47), ("\"icmp\"", 1)] {
        let text = without_ports.replace("\"tcp\"", text);
        let config = parse(Path::new("f"), &text).unwrap();
        assert_eq!(config.rules[0].protocol, Some(Protocol(number)));
    }
    refused(&[
        (protocol, "protocol = \"TCP\"", &format!("f:22:12: protocol is \"TCP\"; {expected}")),
        (protocol, "protocol = \"256\"", &format!("f:22:12: protocol is \"256\"; {expected}")),
        (protocol, "protocol = 256", &format!("f:22:12: protocol is 256; {expected}")),
        (protocol, "protocol = [6]", &format!("f:22:12: protocol is [6]; {expected}")),
        (
            protocol,
            "protocol = \"icmpv6\"",
            "f:22:12: protocol is \"icmpv6\", but the rule is about 10.10.0.0/16; expected icmp \
             with IPv4, icmpv6 with IPv6",
        ),
    ]);
}

#[test]
fn a_rule_that_means_nothing_is_refused() {
    refused(&[
        (
            "\"accept\"",
            "\"allow\"",
            "f:21:10: action is \"allow\"; expected \"accept\" or \"drop\"",
        ),
        (
            "interface = \"in0\"",
            "interface = \"in1\"",
            "f:26:13: interface is \"in1\"; expected one of in0",
        ),
        (
            "\"10.20.0.0/16\"",
            "\"fd20::/64\"",
            "f:24:15: destination is \"fd20::/64\", but source is 10.10.0.0/16; expected prefixes \
             of one family",
        ),
    ]);
}

#[test]
fn prefixes_have_no_host_bits() {
    let prefix = "expected a prefix such as \"10.10.0.0/16\" or \"fd10::/64\"";
    let source = "source = \"10.10.0.0/16\"";
    refused(&[
        (source, "source = \"10.10\"", &format!("f:23:10: source is \"10.10\"; {prefix}")),
        (
            source,
            "source = \"10.10.0.1/16\"",
            "f:23:10: source is \"10.10.0.1/16\", with host bits set; expected 10.10.0.0/16",
        ),
        (
            source,
            "source = \"10.10.0.0/33\"",
            &format!(
                "f:23:10: source is \"10.10.0.0/33\", longer than the 32 bits of an address; \
                 {prefix}"
            ),
        ),
        (
            source,
            "source = \"::ffff:10.0.0.0/104\"",
            &format!(
                "f:23:10: source is \"::ffff:10.0.0.0/104\", an IPv4-mapped address, which no \
                 packet may carry; {prefix}"
            ),
        ),
        (
            source,
            "source = \"::/0\"",
            "f:23:10: source is \"::/0\", which takes in IPv4 in its mapped form; expected \
             prefixes such as \"2000::/3\" and \"fc00::/7\"",
        ),
    ]);
}

#[test]
fn ports_stand_beside_protocols_that_have_them() {
    let expected = "expected a port or a range such as \"80\" or \"1024-65535\"";
    let beside = "expected ports beside protocol = \"tcp\", \"udp\" or \"sctp\" only";
    let ports = "destination_ports = \"80\"";
    let number = changed(ports, "destination_ports = 443").unwrap().rules[0].destination_ports;
    assert_eq!(number, Some(Ports { first: 443, last: 443 }));
    refused(&[
        (
            ports,
            "destination_ports = \"443-80\"",
            "f:25:21: destination_ports is \"443-80\", a range that ends before it begins; \
             expected 80-443",
        ),
        (
            ports,
            "destination_ports = \"80-\"",
            &format!("f:25:21: destination_ports is \"80-\"; {expected}"),
        ),
        (ports, "source_ports = \"+80\"", &format!("f:25:16: source_ports is \"+80\"; {expected}")),
        (
            ports,
            "destination_ports = \"65536\"",
            &format!("f:25:21: destination_ports is \"65536\"; {expected}"),
        ),
        (
            ports,
            "destination_ports = 65536",
            &format!("f:25:21: destination_ports is 65536; {expected}"),
        ),
        (
            "protocol = \"tcp\"",
            "protocol = \"esp\"",
            &format!(
                "f:25:21: destination_ports is \"80\", but protocol esp has no ports; {beside}"
            ),
        ),
        (
            "protocol = \"tcp\"\n",
            "",
            &format!(
                "f:24:21: destination_ports is \"80\", but the rule names no protocol; {beside}"
            ),
        ),
    ]);
}

#[test]
fn rules_are_bounded() {
    let rules = |count: u32| "[[rule]]\naction = \"drop\"\n".repeat(count as usize) + "[timeouts]";
    let most = changed("[timeouts]", &rules(MAX_RULES - 1)).unwrap();
    assert_eq!(most.rules.len(), 1024);
    let said = refusal("[timeouts]", &rules(MAX_RULES));
    assert_eq!(said, "f:2073:1: [[rule]] number 1025; expected at most 1024 sections [[rule]]");
}

#[test]
fn timeouts_are_seconds_and_never_zero() {
    let expected = "expected seconds from 1 to 31536000";
    let unreplied = "unreplied = 30";
    assert_eq!(changed(unreplied, "tcp_reset = 1").unwrap().timeouts.tcp_reset, 1);
    refused(&[
        (unreplied, "unreplied = 0", &format!("f:28:13: unreplied is 0; {expected}")),
        (unreplied, "replied = -1", &format!("f:28:11: replied is -1; {expected}")),
        (unreplied, "replied = \"2m\"", &format!("f:28:11: replied is \"2m\"; {expected}")),
        (
            unreplied,
            "tcp_established = 31536001",
            &format!("f:28:19: tcp_established is 31536001; {expected}"),
        ),
        (
            unreplied,
            "udp = 30",
            "f:28:1: [timeouts] has the key udp; expected one of tcp_opening, tcp_established, \
             tcp_closing, tcp_time_wait, tcp_reset, sctp_opening, sctp_established, sctp_closing, \
             icmp, gre_unreplied, gre_replied, ipsec, unreplied, replied",
        ),
    ]);
}

#[test]
fn limits_are_counts_and_never_zero() {
    let section = |text: &str| format!("[limits]\n{text}\n[timeouts]");
    let read = |text: &str| changed("[timeouts]", &section(text)).unwrap().limits;
    assert_eq!(read("half_open_per_source = 600").half_open.interval, 100_000_000);
    assert_eq!(read("upcalls_per_source = 50").upcalls.interval, 20_000_000);
    assert_eq!(read("translated_per_source = 9").translated, 9);
    let flows = "expected a number of flows from 1 to 1000000";
    let said = refusal("[timeouts]", &section("half_open_per_source = 0"));
    assert_eq!(said, format!("f:28:24: half_open_per_source is 0; {flows}"));
    let said = refusal("[timeouts]", &section("upcalls_per_source = \"many\""));
    let packets = "expected a number of packets a second from 1 to 1000000";
    assert_eq!(said, format!("f:28:22: upcalls_per_source is \"many\"; {packets}"));
    let said = refusal("[timeouts]", &section("flows = 1"));
    let keys = "half_open_per_source, upcalls_per_source, translated_per_source";
    assert_eq!(said, format!("f:28:1: [limits] has the key flows; expected one of {keys}"));
}

#[test]
fn sources_are_translated_by_pools_that_rules_with_the_same_addresses_share() {
    let interface = "interface = \"in0\"";
    let one = |snat: &str| format!("{interface}\nsnat = {snat}");
    let config = changed(interface, &one(r#"["192.0.2.1", "192.0.2.2"]"#)).unwrap();
    let mut rules = config.rules.clone();
    rules.push(rules[0].clone());
    rules.push(super::super::rule::Rule {
        snat: vec!["192.0.2.9".parse().unwrap()],
        ..rules[0].clone()
    });
    rules.push(super::super::rule::Rule { snat: Vec::new(), ..rules[0].clone() });
    let lines = Lines::of_sections(&rules);
    let pools = translation::pools(&lines);
    assert_eq!(pools.iter().map(|pool| pool.sources.len()).collect::<Vec<_>>(), [2, 1]);
    let compiled = compiled::compile(&lines, |_| 0, |_| Ok::<_, ()>(7), |_| Err(())).unwrap();
    let numbers = compiled.rules.iter().map(|rule| rule.source_pool);
    assert_eq!(numbers.collect::<Vec<_>>(), [1, 1, 2, 0]);
}

#[test]
fn an_interface_stands_for_the_clusters_addresses_on_it() {
    let interface = "interface = \"in0\"";
    let snat = |protocol: &str, destination: &str| {
        let rule = format!("{interface}\nsnat = \"in0\"");
        let text = GOOD
            .replace(interface, &rule)
            .replace("protocol = \"tcp\"", &format!("protocol = {protocol}"))
            .replace("source = \"10.10.0.0/16\"\n", "")
            .replace("destination = \"10.20.0.0/16\"\n", destination)
            .replace("destination_ports = \"80\"\n", "");
        parse(Path::new("f"), &text).unwrap().rules.remove(0).snat
    };
    let addresses = |texts: &[&str]| -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    };
    assert_eq!(snat("\"tcp\"", ""), addresses(&["10.10.0.1", "fd10::1"]));
    assert_eq!(snat("\"icmpv6\"", ""), addresses(&["fd10::1"]));
    let v4 = "destination = \"10.20.0.0/16\"\n";
    assert_eq!(snat("\"udp\"", v4), addresses(&["10.10.0.1"]));
    let nowhere = changed(interface, &format!("{interface}\nsnat = \"out9\"")).unwrap_err();
    assert!(nowhere.to_string().contains("the name of an [[interface]]"), "{nowhere}");
}

#[test]
fn nothing_is_translated_where_packets_are_only_shown() {
    let text = GOOD
        .replace("mac = \"02:74:65:73:00:01\"\n", "mode = \"tap\"\n")
        .replace("addresses = [\"10.10.0.1\", \"fd10::1\"]\n", "")
        .replace("table_entries = 4096", "table_entries = 4096\ntap = \"ids0\"")
        .replace("interface = \"in0\"", "interface = \"in0\"\nsnat = [\"192.0.2.1\"]");
    let error = parse(Path::new("f"), &text).unwrap_err().to_string();
    assert!(error.contains("in tap mode packets are shown as they are"), "{error}");
}

#[test]
fn addresses_that_can_stand_in_for_no_source_are_refused() {
    let interface = "interface = \"in0\"";
    for snat in [
        "\"192.0.2.1\"",
        "[]",
        "[\"192.0.2\"]",
        "[\"0.0.0.0\"]",
        "[\"::ffff:192.0.2.1\"]",
        "[\"224.0.0.1\"]",
        "[\"2001:db8::1\"]",
        "[\"192.0.2.1\", \"192.0.2.1\"]",
    ] {
        let error = changed(interface, &format!("{interface}\nsnat = {snat}")).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("snat") && text.contains('^'), "{snat}: {text}");
    }
    let drop = changed("action = \"accept\"", "action = \"drop\"\nsnat = [\"192.0.2.1\"]");
    assert!(drop.unwrap_err().to_string().contains("lets no flow begin"));
}

#[test]
fn rules_are_in_a_file_or_in_sections() {
    let control = "control = \"/run/testudo/n1.sock\"";
    let with = |key: &str| format!("{control}\n{key}");
    refused(&[
        (
            control,
            &with("rules = \"/etc/testudo/n1.rules\""),
            "f:21:1: [[rule]] beside rules in [node]; expected a file of rules or sections [[rule]], not \
             both",
        ),
        (
            control,
            &with("rules = \"n1.rules\""),
            "f:10:9: rules is \"n1.rules\"; expected an absolute path of at most 1024 bytes",
        ),
    ]);
    let (before, rest) = GOOD.split_once("[[rule]]").unwrap();
    let (_, after) = rest.split_once("[timeouts]").unwrap();
    let text = format!("{before}[timeouts]{after}").replace(control, &with("rules = \"/r\""));
    let config = parse(Path::new("f"), &text).unwrap();
    assert_eq!(config.node.rules.as_deref(), Some(Path::new("/r")));
    assert_eq!((config.rules.len(), config.lines.0.len()), (0, 0));
}

#[test]
fn a_file_of_rules_is_read_with_the_configuration_that_names_it() {
    let directory = std::env::temp_dir();
    let file = |name: &str| directory.join(format!("testudo-{}-{name}", std::process::id()));
    let (config, rules) = (file("n1.toml"), file("n1.rules"));
    let (before, rest) = GOOD.split_once("[[rule]]").unwrap();
    let (_, after) = rest.split_once("[timeouts]").unwrap();
    let key = format!("table_entries = 4096\nrules = \"{}\"", rules.display());
    let text = format!("{before}[timeouts]{after}").replace("table_entries = 4096", &key);
    std::fs::write(&config, text).unwrap();
    let read = |text: &str| {
        std::fs::write(&rules, text).unwrap();
        crate::config::load(&config)
    };
    let lines = read("iif in0 proto tcp dport { 80, 443 } accept\ndrop").unwrap().lines;
    assert_eq!((lines.0.len(), lines.size()), (2, 3));
    let error = read("drop\niif in1 accept").unwrap_err().to_string();
    let said =
        format!("{}:2:5: the interface in1; expected one of in0\n 2 | iif in1", rules.display());
    assert!(error.starts_with(&said), "{error}");
    std::fs::remove_file(&rules).unwrap();
    let missing = crate::config::load(&config).unwrap_err().to_string();
    assert!(missing.starts_with(&format!("{}: ", rules.display())), "{missing}");
    std::fs::remove_file(&config).unwrap();
}
