//! Services, mappings and the rules that name them.

use testudo_datapath::Sets;
use testudo_datapath::mapping::Kind;
use testudo_packet::flow::Endpoint;
use testudo_packet::rule::Links;

use super::*;
use crate::config::translation;
use crate::rules::compiled;

const RULE: &str = "[[rule]]\naction = \"accept\"\nprotocol = \"tcp\"\nsource = \"10.10.0.0/16\"\n\
    destination = \"10.20.0.0/16\"\ndestination_ports = \"80\"\ninterface = \"in0\"\n";
const WEB: &str = r#"[[service]]
name = "web"
addresses = ["198.51.100.1", "2001:db8::1"]
port = 443
backends = ["10.20.0.9:8443", "[fd20::9]:8443", "10.20.0.10"]
"#;
const SITE: &str = r#"[[mapping]]
name = "site"
inside = "10.30.0.0/24"
outside = "192.0.2.0/24"
"#;

/// The file with these sections in the place of its rule, from line 22 on.
fn with(sections: &str) -> Result<Config, ConfigError> {
    changed(RULE, sections)
}

/// What is said of these sections.
fn said(sections: &str) -> String {
    let error = with(sections).expect_err("it is refused").to_string();
    error.lines().next().unwrap_or("").to_owned()
}

fn end(text: &str, port: u16) -> Endpoint {
    Endpoint { address: text.parse::<IpAddr>().unwrap().into(), port }
}

#[test]
fn a_rule_that_names_a_service_is_about_its_endpoints() {
    let rule = "[[rule]]\naction = \"accept\"\nprotocol = \"tcp\"\ndnat = \"web\"\n";
    let hairpin = format!("{rule}interface = \"in0\"\nsnat = [\"192.0.2.1\", \"2001:db8::2\"]\n");
    let config = with(&format!("{WEB}{rule}{hairpin}")).unwrap();
    let pools = translation::pools(&config.lines);
    let backends = [end("10.20.0.9", 8443), end("fd20::9", 8443), end("10.20.0.10", 443)];
    assert_eq!(pools.iter().map(|pool| pool.sources.len()).collect::<Vec<_>>(), [0, 2]);
    assert!(pools.iter().all(|pool| pool.backends == backends));
    let compiled =
        compiled::compile(&config.lines, |_| 0, |_| Ok::<_, ()>(7), |_| Err(())).unwrap().rules;
    assert_eq!(compiled.iter().map(|rule| rule.source_pool).collect::<Vec<_>>(), [1, 1, 2, 2]);
    let key = |to| testudo_packet::flow::FlowKey {
        initiator: end("203.0.113.1", 5),
        responder: to,
        protocol: testudo_packet::flow::Protocol::TCP,
    };
    assert!(compiled[0].matches(&Sets::default(), &key(end("198.51.100.1", 443)), Links::input(1)));
    assert!(!compiled[0].matches(&Sets::default(), &key(end("198.51.100.1", 80)), Links::input(1)));
    assert!(!compiled[0].matches(
        &Sets::default(),
        &key(end("198.51.100.2", 443)),
        Links::input(1)
    ));
    // All ends of a family are placed as one of them, the first in their order.
    let alike = config.likenesses();
    for at in [end("198.51.100.1", 443), end("10.20.0.10", 443)] {
        assert_eq!(alike.stand_in(at), Some(end("10.20.0.9", 8443)));
    }
    assert_eq!(alike.stand_in(end("fd20::9", 8443)), Some(end("2001:db8::1", 443)));
    assert_eq!(config.lines.0[0].text.split_once(" accept").unwrap().1, " dnat web");
}

#[test]
fn a_rule_that_names_a_mapping_has_one_end_in_it() {
    let rules = "[[rule]]\naction = \"accept\"\nsource = \"10.30.0.128/25\"\nmapping = \"site\"\n\
        [[rule]]\naction = \"accept\"\nprotocol = \"tcp\"\ndestination = \"192.0.2.7\"\n\
        mapping = \"site\"\n";
    let config = with(&format!("{SITE}{rules}")).unwrap();
    let pools = translation::pools(&config.lines);
    let [pool] = &pools[..] else { panic!("{pools:?}") };
    let mapping = pool.mapping.expect("a mapping");
    assert_eq!((mapping.kind, mapping.length), (Kind::Plain, 96 + 24));
    assert_eq!(mapping.outward(end("10.30.0.7", 0).address), Some(end("192.0.2.7", 0).address));
    let placed = config.likenesses().stand_in(end("192.0.2.7", 22));
    assert_eq!(placed, Some(end("10.30.0.7", 22)));
    let nptv6 =
        SITE.replace("10.30.0.0/24", "fd30:1:2::/48").replace("192.0.2.0/24", "2001:db8:3::/48")
            + "kind = \"nptv6\"\n";
    assert_eq!(with(&nptv6).unwrap().mappings[0].kind, Kind::Neutral);
}

#[test]
fn services_that_say_less_or_too_much_are_refused() {
    let changed = |old: &str, new: &str| said(&WEB.replace(old, new));
    for (old, new, expected) in [
        ("name = \"web\"\n", "", "[[service]] without name; expected"),
        ("198.51.100.1", "224.0.0.1", "addresses is \"224.0.0.1\"; expected an address"),
        ("443", "0", "port is 0; expected a port from 1 to 65535"),
        ("10.20.0.10", "10.20.0.9:8443", "backends is \"10.20.0.9:8443\", listed twice"),
        ("10.20.0.9:8443", "10.20.0.9:", "backends is \"10.20.0.9:\"; expected"),
        ("\"[fd20::9]:8443\", ", "", "but the service has an IPv6 address"),
        (", \"2001:db8::1\"", "", "but the service has no IPv6 address"),
    ] {
        let seen = changed(old, new);
        assert!(seen.contains(expected), "{new:?} for {old:?}: {seen}");
    }
    let twice = said(&format!("{WEB}{WEB}"));
    assert!(twice.contains("which another [[service]] has"), "{twice}");
}

#[test]
fn mappings_that_would_give_an_address_two_counterparts_are_refused() {
    let other = SITE.replace("site", "other");
    for (sections, expected) in [
        (SITE.replace("192.0.2.0/24", "192.0.2.0/25"), "two prefixes of one family and length"),
        (SITE.replace("192.0.2.0/24", "10.30.0.0/24"), "which overlaps 10.30.0.0/24"),
        (format!("{SITE}kind = \"nptv6\"\n"), "IPv6 prefixes of 1 to 64 bits"),
        (format!("{SITE}kind = \"both\"\n"), "expected \"static\" or \"nptv6\""),
        (format!("{SITE}{SITE}"), "which another [[mapping]] has"),
        (
            format!("{SITE}{}", other.replace("10.30.0.0/24", "10.31.0.0/24")),
            "which overlaps 192.0.2.0/24",
        ),
        (
            format!("{WEB}{}", SITE.replace("10.30.0.0/24", "10.20.0.0/24")),
            "where service web has 10.20.0.9",
        ),
    ] {
        let seen = said(&sections);
        assert!(seen.contains(expected), "{sections}: {seen}");
    }
}

#[test]
fn rules_that_name_what_they_can_not_use_are_refused() {
    let rule = |keys: &str| format!("{WEB}{SITE}[[rule]]\naction = \"accept\"\n{keys}\n");
    for (keys, expected) in [
        ("protocol = \"tcp\"\ndnat = \"wbe\"", "expected the name of a [[service]]"),
        ("protocol = \"icmp\"\ndnat = \"web\"", "but protocol is icmp"),
        ("dnat = \"web\"", "but the rule names no protocol"),
        ("protocol = \"tcp\"\ndnat = \"web\"\ndestination = \"10.0.0.1\"", "no destination beside"),
        (
            "protocol = \"tcp\"\ndnat = \"web\"\ndestination_ports = \"443\"",
            "no destination_ports beside dnat",
        ),
        ("mapping = \"site\"", "source within 10.30.0.0/24, or destination within 192.0.2.0/24"),
        ("mapping = \"site\"\nsource = \"10.30.0.0/23\"", "but the rule is about other flows, too"),
        ("mapping = \"web\"\nsource = \"10.30.0.0/24\"", "expected the name of a [[mapping]]"),
        ("mapping = \"site\"\nsource = \"10.30.0.1\"\nprotocol = \"esp\"", "has no ports"),
        (
            "mapping = \"site\"\nsource = \"10.30.0.1\"\nprotocol = \"tcp\"\nsnat = [\"192.0.2.1\"]",
            "but the rule has snat as well",
        ),
    ] {
        let seen = said(&rule(keys));
        assert!(seen.contains(expected), "{keys}: {seen}");
    }
    let dropped =
        said(&format!("{WEB}[[rule]]\naction = \"drop\"\nprotocol = \"tcp\"\ndnat = \"web\"\n"));
    assert!(dropped.contains("but the rule lets no flow begin"), "{dropped}");
}

#[test]
fn the_example_of_translations_is_read_whole() {
    let node = include_str!("../../../../../docs/node.toml");
    let example = include_str!("../../../../../docs/examples/services.toml");
    let (head, rules) = node.split_once("# Nobody opens a mail").unwrap();
    let text = format!("{head}{example}# Nobody opens a mail{rules}");
    let config = parse(Path::new("docs/examples/services.toml"), &text).unwrap();
    assert_eq!((config.services.len(), config.mappings.len()), (1, 2));
    assert_eq!(translation::pools(&config.lines).len(), 5);
}

/// Names are for people; what the sections say is compared.
#[test]
fn what_is_placed_alike_has_a_digest_that_order_and_names_are_not_part_of() {
    let digest = |sections: &str| with(sections).unwrap().likenesses().digest();
    let other = WEB.replace("web", "www").replace(
        "\"10.20.0.9:8443\", \"[fd20::9]:8443\", \"10.20.0.10\"",
        "\"[fd20::9]:8443\", \"10.20.0.10\", \"10.20.0.9:8443\"",
    );
    assert_eq!(digest(WEB), digest(&other));
    assert_eq!(digest(""), 0);
    assert_ne!(digest(WEB), digest(&WEB.replace("443\nb", "444\nb")));
    assert_ne!(digest(WEB), digest(&format!("{WEB}{SITE}")));
}
