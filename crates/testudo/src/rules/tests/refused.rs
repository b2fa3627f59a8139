//! Every refusal, with the line and the carets.

use std::path::Path;

use super::super::{Surroundings, parse};
use super::translated::{interfaces, known};

fn refusal(source: &str) -> String {
    let interfaces = interfaces();
    let surroundings = Surroundings { known: Some(known(&interfaces, &[], &[])), tap: true };
    match parse(Path::new("f"), source, surroundings) {
        Ok(_) => format!("{source:?} is accepted"),
        Err(error) => error.to_string(),
    }
}

/// Checks refusals: the line, the words of it that stand above the carets, and what is said. The place is found
/// by these words, which the line has once.
fn refused(cases: &[(&str, &str, &str)]) {
    for (line, word, said) in cases {
        let at = if word.is_empty() { line.len() } else { line.find(word).expect("the word") };
        let indent = " ".repeat(line[..at].chars().count());
        let carets = "^".repeat(word.chars().count().max(1));
        let expected =
            format!("f:2:{}: {said}\n 2 | {line}\n   | {indent}{carets}", indent.len() + 1);
        assert_eq!(refusal(&format!("# first\n{line}\n")), expected);
    }
}

const PARTS: &str = "expected iif, oif, saddr, daddr, proto, type, sport, dport, accept, drop, reject, \
                     replicate, commit, log, count, snat, masquerade, dnat, mapping or comment";
const PREFIX: &str = "expected a prefix such as 10.10.0.0/16 or fd10::/64";

#[test]
fn what_is_no_part_of_a_line_is_refused() {
    refused(&[
        ("source 10.0.0.0/8 accept", "source", &format!("source; {PARTS}")),
        ("\"accept\"", "\"accept\"", &format!("\"accept\"; {PARTS}")),
        ("accept, drop", ",", &format!("a comma; {PARTS}")),
        ("proto tcp", "", "the end of the line; expected accept, drop or reject"),
        (
            "accept drop",
            "drop",
            "drop, but the line has said already; expected accept, drop or reject, once a line",
        ),
    ]);
    let twice = refusal("iif in0 accept iif out0");
    assert!(
        twice.starts_with("f:1:16: iif, for the second time; expected each part once a line\n")
    );
}

#[test]
fn addresses_are_prefixes_sets_or_lists() {
    let list = "expected a prefix such as 10.10.0.0/16 or fd10::/64, @SET, or a list in braces";
    refused(&[
        ("saddr 10.10 accept", "10.10", &format!("10.10; {PREFIX}")),
        ("saddr = accept", "=", &format!("=; {list}")),
        (
            "saddr 10.10.0.1/16 accept",
            "10.10.0.1/16",
            "10.10.0.1/16, with host bits set; expected 10.10.0.0/16",
        ),
        (
            "daddr 10.10.0.0/33 accept",
            "10.10.0.0/33",
            &format!("10.10.0.0/33, longer than the 32 bits of an address; {PREFIX}"),
        ),
        (
            "saddr ::/0 accept",
            "::/0",
            "::/0, which takes in IPv4 in its mapped form; expected prefixes such as 2000::/3 and \
             fc00::/7",
        ),
        (
            "saddr @admins accept",
            "@admins",
            "@admins, a set that there is not; expected a line `set NAME = { … }` before it",
        ),
        (
            "saddr { 10.0.0.0/8 172.16.0.0/12 } accept",
            "172.16.0.0/12",
            "172.16.0.0/12; expected a comma, or } at the end",
        ),
        ("saddr { 10.0.0.0/8, } accept", "}", "}; expected an item of the list"),
        (
            "saddr { 10.0.0.0/8, 10.0.0.1, 10.0.0.1/32 } accept",
            "10.0.0.1/32",
            "10.0.0.1/32, listed twice; expected each prefix once",
        ),
        (
            "saddr 10.0.0.0/8 daddr fd00::/8 accept",
            "fd00::/8",
            "addresses of another family than saddr; expected saddr and daddr of one family",
        ),
        (
            "saddr 10.0.0.0/8 proto icmpv6 accept",
            "10.0.0.0/8",
            "addresses of the other family than proto; expected icmp with IPv4, icmpv6 with IPv6",
        ),
    ]);
}

#[test]
fn a_list_ends() {
    let said = "f:2:7: a list that does not end; expected a } behind its last item\n \
                2 | saddr { 10.0.0.0/8\n   |       ^";
    assert_eq!(refusal("drop\nsaddr { 10.0.0.0/8\naccept\n"), said);
}

#[test]
fn sets_have_names_of_their_own() {
    refused(&[
        ("set a.b = { 10.0.0.0/8 }", "a.b", "a.b; expected a name of letters, digits, - and _"),
        (
            "set a { 10.0.0.0/8 }",
            "{",
            "{; expected set NAME = { PREFIX, … } or set NAME = file \"PATH\"",
        ),
        (
            "set a = 10.0.0.0/8",
            "10.0.0.0/8",
            "10.0.0.0/8; expected set NAME = { PREFIX, … } or set NAME = file \"PATH\"",
        ),
        ("set a = { 10.0.0.0/8 } accept", "accept", "accept; expected the end of the line"),
        (
            "set a = { @b }",
            "@b",
            "@b, a set that there is not; expected a line `set NAME = { … }` before it",
        ),
    ]);
    let twice = refusal("set a = { 10.0.0.0/8 }\nset a = { fd00::/8 }");
    assert!(twice.starts_with("f:2:5: a, a set that there is already; expected each name once\n"));
    let other = refusal("set a = { 10.0.0.0/8 }\nset b = { fd00::/8 }\nsaddr @c drop");
    assert!(
        other.starts_with("f:3:7: @c, a set that there is not; expected one of @a, @b\n"),
        "{other}"
    );
}

#[test]
fn ports_and_messages_stand_beside_protocols_that_have_them() {
    let ports = "expected ports beside proto tcp, udp or sctp only";
    let port = "expected a port or a range such as 80 or 1024-65535";
    refused(&[
        (
            "proto TCP accept",
            "TCP",
            "TCP; expected tcp, udp, icmp, icmpv6, esp, ah or a number from 0 to 255",
        ),
        ("dport 80 accept", "80", &format!("dport, but the line names no protocol; {ports}")),
        (
            "proto esp sport 80 accept",
            "80",
            &format!("sport, but protocol esp has no ports; {ports}"),
        ),
        ("proto tcp dport 65536 accept", "65536", &format!("65536; {port}")),
        ("proto tcp dport { 80, +81 } accept", "+81", &format!("+81; {port}")),
        (
            "proto tcp dport 443-80 accept",
            "443-80",
            "443-80, a range that ends before it begins; expected 80-443",
        ),
        (
            "proto tcp type echo-request accept",
            "echo-request",
            "type, but the line is not about ICMP; expected it beside proto icmp or proto icmpv6 only",
        ),
        (
            "proto icmp type echo-reply accept",
            "echo-reply",
            "echo-reply, which begins no flow but passes with its request's; expected echo-request",
        ),
        (
            "proto icmp type redirect accept",
            "redirect",
            "redirect, but no flow begins with that message; expected echo-request; with it echo-reply \
             passes",
        ),
    ]);
}

#[test]
fn options_are_those_of_flows_that_begin() {
    refused(&[
        (
            "drop replicate never",
            "never",
            "replicate, but the line lets no flow begin; expected it beside accept only",
        ),
        (
            "commit sync drop",
            "sync",
            "commit, but the line lets no flow begin; expected it beside accept only",
        ),
        (
            "accept replicate always",
            "always",
            "always; expected first-packet, established, after TIME or never",
        ),
        ("accept replicate after 500", "500", "500; expected a time such as 500ms or 2s"),
        ("accept replicate after", "", "the end of the line; expected a time such as 500ms or 2s"),
        ("accept replicate after 601s", "601s", "601s; expected 1ms to 600000ms"),
        ("accept commit both", "both", "both; expected async or sync"),
        (
            "accept commit async timeout 5ms",
            "timeout",
            "timeout, but nothing waits; expected it behind commit sync only",
        ),
        ("accept commit sync timeout 1001ms", "1001ms", "1001ms; expected 1ms to 1000ms"),
        (
            "accept commit sync replicate never",
            "never",
            "another time, but commit sync has the first packet wait for the other nodes; expected \
             first-packet",
        ),
        (
            "proto esp accept replicate established",
            "established",
            "established, but nobody answers a flow of esp; expected first-packet, after TIME or never",
        ),
    ]);
}

#[test]
fn texts_and_names_are_such_as_can_be_shown() {
    let long = "x".repeat(65);
    refused(&[
        ("accept comment web", "web", "web; expected a text between quotes"),
        (
            &format!("accept comment \"{long}\""),
            &format!("\"{long}\""),
            &format!("\"{long}\"; expected 1 to 64 characters that can be printed"),
        ),
        (
            "accept comment \"web",
            "\"web",
            "quotes that do not end on their line; expected a \" at the end of the text",
        ),
        ("iif a/b accept", "a/b", "a/b; expected the name of an interface, such as \"in0\""),
    ]);
}

#[test]
fn what_the_node_has_not_is_refused() {
    refused(&[
        ("iif in1 accept", "in1", "the interface in1; expected one of in0, out0"),
        ("iif \"in1\" accept", "\"in1\"", "the interface in1; expected one of in0, out0"),
        ("reject", "reject", "reject, in tap mode, where nothing is answered; expected drop"),
    ]);
}

#[test]
fn zones_have_names_of_their_own_and_interfaces_that_there_are() {
    let list = "expected the name of an interface, such as \"in0\", @ZONE, or a list in braces";
    refused(&[
        ("zone a = in0", "in0", "in0; expected zone NAME = { INTERFACE, … }"),
        ("zone a.b = { in0 }", "a.b", "a.b; expected a name of letters, digits, - and _"),
        ("zone a = { in1 }", "in1", "the interface in1; expected one of in0, out0"),
        ("zone a = { in0, \"in0\" }", "\"in0\"", "in0, listed twice; expected each interface once"),
        ("zone a = { in0 } drop", "drop", "drop; expected the end of the line"),
        ("iif = drop", "=", &format!("=; {list}")),
        (
            "iif @a drop",
            "@a",
            "@a, a zone that there is not; expected a line `zone NAME = { … }` before it",
        ),
        ("oif in1 drop", "in1", "the interface in1; expected one of in0, out0"),
        (
            "oif in0 drop",
            "oif",
            "oif, in tap mode, where nothing is forwarded; expected a line without it",
        ),
    ]);
    let twice = refusal("zone a = { in0 }\nzone a = { out0 }");
    assert!(twice.starts_with("f:2:6: a, a zone that there is already; expected each name once\n"));
    let other = refusal("zone a = { in0 }\nset b = { fd00::/8 }\niif @b drop");
    assert!(
        other.starts_with("f:3:5: @b, a zone that there is not; expected one of @a\n"),
        "{other}"
    );
}

#[test]
fn more_rules_than_packets_are_compared_with_are_refused() {
    let list = |count: u32| (1..=count).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
    let wide = format!("proto tcp sport {{ {} }} dport {{ {} }} drop", list(32), list(31));
    let source = format!("{wide}\ndrop\n{wide}");
    let said = refusal(&source);
    let first = said.lines().next().unwrap_or_default();
    assert_eq!(
        first,
        "f:3:1: a line that comes to 992 rules, 1985 with those before it; expected at most 1024 rules \
         in all: one for each combination of what a line lists"
    );
    // No list is gone through to find that out.
    let numbers = list(60_000);
    let ports = format!("proto tcp sport {{ {numbers} }} dport {{ {numbers} }} drop");
    assert!(refusal(&ports).starts_with("f:1:1: a line that comes to 3600000000 rules"));
}
