//! What is printed is read as the same again.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::select;

use super::*;

fn v4() -> impl Strategy<Value = Prefix> {
    (any::<u32>(), 0..=32u8).prop_map(|(bits, length)| {
        let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
        prefix(&format!("{}/{length}", Ipv4Addr::from(bits & mask)))
    })
}

fn v6() -> impl Strategy<Value = Prefix> {
    (any::<u64>(), 3..=64u8).prop_map(|(bits, length)| {
        let high = (bits & 0x1fff_ffff_ffff_ffff | 1 << 61) & (u64::MAX << (64 - length));
        prefix(&format!("{}/{length}", Ipv6Addr::from(u128::from(high) << 64)))
    })
}

fn unique(list: Vec<Prefix>) -> Vec<Prefix> {
    let mut kept: Vec<Prefix> = Vec::new();
    list.into_iter().for_each(|prefix| {
        if !kept.contains(&prefix) {
            kept.push(prefix);
        }
    });
    kept
}

fn addresses() -> impl Strategy<Value = (Vec<Prefix>, Vec<Prefix>)> {
    let list4 = || prop::collection::vec(v4(), 0..4).prop_map(unique);
    let list6 = || prop::collection::vec(v6(), 0..4).prop_map(unique);
    let mixed = || {
        (list4(), list6()).prop_map(|(mut four, six)| {
            four.extend(six);
            four
        })
    };
    prop_oneof![(list4(), list4()), (list6(), list6()), (mixed(), Just(Vec::new()))]
}

fn port_list() -> impl Strategy<Value = Vec<Ports>> {
    let one = any::<[u16; 2]>().prop_map(|[a, b]| ports(a.min(b), a.max(b)));
    prop::collection::vec(one, 0..4)
}

fn text() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9 #,{}=@é-]{1,64}"
}

fn protocol() -> impl Strategy<Value = Option<Protocol>> {
    let known = [Protocol::TCP, Protocol::UDP, Protocol::ESP, Protocol(47)];
    prop::option::of(select(known.to_vec()))
}

fn replicate() -> impl Strategy<Value = Replicate> {
    prop_oneof![
        Just(Replicate::FirstPacket),
        Just(Replicate::Never),
        (1..=600_000u64).prop_map(|millis| Replicate::After(Duration::from_millis(millis))),
    ]
}

fn names() -> impl Strategy<Value = Vec<String>> {
    prop::collection::btree_set("[a-z][a-z0-9.@-]{0,14}", 0..3).prop_map(Vec::from_iter)
}

prop_compose! {
    fn statement()(
        inputs in names(),
        outputs in names(),
        (sources, destinations) in addresses(),
        protocol in protocol(),
        source_ports in port_list(),
        destination_ports in port_list(),
        action in select(vec![Action::Accept, Action::Drop, Action::Reject]),
        replicate in replicate(),
        waits in prop::option::of(1..=1000u64),
        log in prop::option::of(prop_oneof![Just(String::new()), text()]),
        comment in prop::option::of(text()),
        count in any::<bool>(),
        snat in prop::collection::btree_set(1..=3u8, 0..3),
    ) -> Statement {
        let mut says = Statement { inputs, outputs, sources: Addresses::few(sources), destinations: Addresses::few(destinations), protocol, log, comment, count, ..Statement::any(action) };
        if matches!(protocol, Some(Protocol::TCP | Protocol::UDP)) {
            (says.source_ports, says.destination_ports) = (source_ports, destination_ports);
            let v4 = says.pairs().all(|(from, to)| from.ipv4().or(to.ipv4()) != Some(false));
            if action == Action::Accept && v4 {
                says.snat = snat.into_iter().map(|last| [192, 0, 2, last].into()).collect();
            }
        }
        match (action, waits) {
            (Action::Accept, Some(millis)) => {
                says.commit = Commit::Sync;
                says.commit_timeout = Duration::from_millis(millis);
            }
            (Action::Accept, None) => says.replicate = replicate,
            _ => {}
        }
        says
    }
}

proptest! {
    #[test]
    fn a_printed_line_is_read_as_the_same(statement in statement()) {
        let printed = statement.to_string();
        let lines = match parse(Path::new("f"), &printed, Surroundings::default()) {
            Ok(lines) => lines.0,
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        };
        prop_assert_eq!(lines.len(), 1);
        prop_assert_eq!(&lines[0].says, &statement);
        prop_assert_eq!(lines[0].says.to_string(), printed);
        let made = compile(&Lines(lines, Vec::new()), |_| 0, |_| Ok::<_, ()>(1), |_| Err(())).expect("an interface");
        prop_assert_eq!(made.rules.len(), statement.size());
    }

    /// Whatever stands in a file, it is read or refused, at a place that the file has.
    #[test]
    fn no_text_is_too_strange(source in "([a-z@{},=\"# 0-9/.:-]|accept |saddr |set |\n|é){0,60}") {
        if let Err(error) = parse(Path::new("f"), &source, Surroundings::default()) {
            prop_assert!(error.to_string().starts_with("f:"), "{}", error);
        }
    }
}
