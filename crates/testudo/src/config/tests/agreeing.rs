//! Who agrees with whom: coordinators, voters, witnesses, modes.

use super::super::agreement::{Balance, Coordinator};
use super::super::etcd::{Etcd, Identity};
use super::*;
use testudo_cluster::config::Replicas;

const LEASE: &str = "lease_ms = 100";
const SECOND: &str = "[[member]]\nname = \"n2\"\nsync = \"10.99.0.2:7400\"\n";
const ADDRESSES: &str = "addresses = [\"10.10.0.1\", \"fd10::1\"]\n";
const MAC: &str = "mac = \"02:74:65:73:00:01\"\n";

fn set(keys: &str) -> Result<Config, ConfigError> {
    changed(LEASE, &format!("{LEASE}\n{keys}"))
}

/// The first line of the refusal of a whole text.
fn said(text: &str) -> String {
    let error = parse(Path::new("f"), text).expect_err("it is refused").to_string();
    error.lines().next().unwrap_or("").to_owned()
}

#[test]
fn the_coordinator_goes_with_the_number_of_members() {
    let agreement = |text| changed(SECOND, text).unwrap().agreement;
    assert_eq!(agreement("").coordinator, Coordinator::Static);
    assert_eq!(agreement("").min_voters, 1);
    assert_eq!(agreement(SECOND).coordinator, Coordinator::Embedded);
    let alone = GOOD.replace(SECOND, "").replace(LEASE, "coordinator = \"embedded\"");
    let alone = parse(Path::new("f"), &alone).unwrap();
    assert_eq!(alone.agreement.coordinator, Coordinator::Embedded);
    let set = |value: &str| format!("{LEASE}\ncoordinator = {value}");
    refused(&[
        (
            LEASE,
            &set("\"static\""),
            "f:7:15: coordinator is \"static\", but there are 2 members, who have to agree; \
             expected \"embedded\" or \"etcd\"",
        ),
        (
            LEASE,
            &set("\"raft\""),
            "f:7:15: coordinator is \"raft\"; expected \"static\", \"embedded\" or \"etcd\"",
        ),
        (
            LEASE,
            &set("\"by default\""),
            "f:7:15: coordinator is \"by default\"; expected \"static\", \"embedded\" or \"etcd\"",
        ),
        (
            LEASE,
            &set("\"etcd\""),
            "f:7:15: coordinator is \"etcd\", without one; expected a section [cluster.etcd]",
        ),
        (
            LEASE,
            &format!("{LEASE}\n[cluster.etcd]\nendpoints = [\"http://10.0.0.5:2379\"]"),
            "f:7:1: [cluster.etcd] beside another coordinator; expected coordinator = \"etcd\" in \
             [cluster]",
        ),
    ]);
}

#[test]
fn an_etcd_is_reached_as_it_is_written() {
    let etcd = |keys: &str| format!("coordinator = \"etcd\"\n[cluster.etcd]\n{keys}");
    let read = |keys: &str| match set(&etcd(keys)).unwrap().agreement.coordinator {
        Coordinator::Etcd(etcd) => etcd,
        other => panic!("{other:?}"),
    };
    let plain = read("endpoints = [\"http://10.0.0.5:2379\", \"http://[fd00::5]:2379\"]");
    let endpoints = ["http://10.0.0.5:2379", "http://[fd00::5]:2379"].map(str::to_owned).to_vec();
    let prefix = "/testudo".to_owned();
    assert_eq!(plain, Etcd { endpoints, prefix, ca: None, identity: None });
    let keys = "endpoints = [\"https://e:2379\"]\nca = \"/c\"\ncert = \"/x\"\nkey = \"/k\"\n\
                prefix = \"/a/b\"";
    let identity = Some(Identity { cert: "/x".into(), key: "/k".into() });
    let secured = read(keys);
    assert_eq!((secured.ca, secured.identity), (Some("/c".into()), identity));
    assert_eq!(secured.prefix, "/a/b");
    let https = "endpoints = [\"https://e:2379\"]\n";
    let http = "endpoints = [\"http://e:2379\"]\n";
    for (keys, expected) in [
        ("", "f:8:1: [cluster.etcd] without endpoints; expected a list of 1 to 16 endpoints"),
        (
            "endpoints = []",
            "f:9:13: endpoints is a list of 0; expected a list of 1 to 16 endpoints",
        ),
        (
            "endpoints = [\"e:2379\"]",
            "f:9:14: endpoints has \"e:2379\"; expected endpoints such as \"http://10.0.0.5:2379\"",
        ),
        (
            "endpoints = [\"http://root:pw@e:2379\"]",
            "f:9:14: endpoints has one with a '@' in it; expected endpoints such as \
             \"http://10.0.0.5:2379\"",
        ),
        (
            "endpoints = [\"http://e:1\", \"http://e:1\"]",
            "f:9:28: endpoints has \"http://e:1\", listed twice; expected each once",
        ),
        (
            "endpoints = [\"http://e:1\", \"https://f:1\"]",
            "f:9:28: endpoints has \"https://f:1\", beside http://e:1; expected all endpoints http, \
             or all https",
        ),
        (
            https,
            "f:8:1: [cluster.etcd] without ca, with https endpoints; expected a file of \
             certificates",
        ),
        (
            &format!("{https}ca = \"/c\"\ncert = \"/x\""),
            "f:8:1: [cluster.etcd] with cert, without key; expected both or none",
        ),
        (
            &format!("{http}ca = \"/c\""),
            "f:10:6: ca is \"/c\", but endpoints are http; expected https endpoints",
        ),
        (
            &format!("{https}ca = \"c\""),
            "f:10:6: ca is \"c\"; expected an absolute path of at most 1024 bytes",
        ),
        (
            &format!("{http}prefix = \"/\""),
            "f:10:10: prefix is \"/\"; expected a key such as \"/testudo\", of at most 256 \
             printable characters",
        ),
    ] {
        let error = set(&etcd(keys)).unwrap_err().to_string();
        assert_eq!(error.lines().next().unwrap(), expected);
    }
}

#[test]
fn copies_are_all_or_as_many_as_lists_can_name() {
    let replicas = |keys: &str| set(keys).unwrap().agreement.replicas;
    assert_eq!(replicas(""), Replicas::All);
    assert_eq!(replicas("replicas = \"all\""), Replicas::All);
    assert_eq!(replicas("replicas = 8"), Replicas::Successors(8));
    let buckets =
        GOOD.lines().find(|line| line.starts_with("buckets")).expect("a number of buckets");
    for (value, number, most) in [
        ("0", 64, 8),
        ("9", 64, 8),
        ("\"both\"", 64, 8),
        ("true", 64, 8),
        ("8", 32_768, 7),
        ("4", 65_536, 3),
    ] {
        let text = GOOD.replace(buckets, &format!("buckets = {number}"));
        let text = text.replace(LEASE, &format!("{LEASE}\nreplicas = {value}"));
        assert_eq!(
            said(&text),
            format!(
                "f:7:12: replicas is {value}; expected \"all\", or a number from 1 to {most} with \
                 {number} buckets"
            )
        );
    }
}

#[test]
fn a_password_in_an_endpoint_is_not_repeated() {
    let keys = "coordinator = \"etcd\"\n[cluster.etcd]\nendpoints = [\"http://root:pw@e:2379\"]";
    let error = set(keys).unwrap_err().to_string();
    assert!(!error.contains("pw"), "{error}");
}

#[test]
fn waits_and_counts_have_bounds() {
    let read = set("min_voters = 1\nremoval_ms = 260\nhandover_ms = 10\noverlap_ms = 0\n\
                    comparison_ms = 100\naudit_ms = 3600000\nbalance_percent = 5\n\
                    balance_moves_per_minute = 0");
    let agreement = read.unwrap().agreement;
    assert_eq!((agreement.min_voters, agreement.removal.as_millis()), (1, 260));
    assert_eq!(agreement.handover.as_millis(), 10);
    assert_eq!(agreement.overlap.as_millis(), 0);
    assert_eq!((agreement.comparison.as_millis(), agreement.audit.as_secs()), (100, 3600));
    assert_eq!(agreement.balance, Balance { percent: 5, moves_per_minute: 0 });
    for (keys, expected) in [
        (
            "min_voters = 0",
            "16: min_voters is 0; expected a number from 1 to 2, the number of members",
        ),
        (
            "min_voters = 3",
            "16: min_voters is 3; expected a number from 1 to 2, the number of members",
        ),
        (
            "removal_ms = 259",
            "16: removal_ms is 259 and takeover_ms 260; expected removal_ms of at least 260",
        ),
        ("handover_ms = 9", "17: handover_ms is 9; expected milliseconds from 10 to 60000"),
        ("overlap_ms = 1001", "17: overlap_ms is 1001; expected milliseconds from 0 to 1000"),
        (
            "comparison_ms = 99",
            "19: comparison_ms is 99; expected milliseconds from 100 to 3600000",
        ),
        ("audit_ms = 99", "14: audit_ms is 99; expected milliseconds from 100 to 3600000"),
        ("balance_percent = 4", "21: balance_percent is 4; expected a number from 5 to 1000"),
        (
            "balance_moves_per_minute = 6001",
            "30: balance_moves_per_minute is 6001; expected a number from 0 to 6000",
        ),
    ] {
        let at = format!("f:7:{}", keys.find('=').unwrap() + 3);
        let error = set(keys).unwrap_err().to_string();
        let (_, words) = expected.split_once(": ").unwrap();
        assert_eq!(error.lines().next().unwrap(), format!("{at}: {words}"));
    }
    let late = "takeover_ms = 4000";
    assert_eq!(
        set(late).unwrap_err().to_string().lines().next().unwrap(),
        "f:7:15: removal_ms is 3000 and takeover_ms 4000; expected removal_ms of at least 4000"
    );
}

#[test]
fn members_have_weights_and_some_only_vote() {
    let second = |keys: &str| changed(SECOND, &format!("{SECOND}{keys}\n"));
    let members = second("weight = 1000\nwitness = true").unwrap().members;
    assert_eq!((members[1].weight, members[1].witness), (1000, true));
    assert_eq!((members[0].weight, members[0].witness), (100, false));
    let with = |keys: &str| format!("{SECOND}{keys}\n");
    refused(&[
        (SECOND, &with("weight = 0"), "f:17:10: weight is 0; expected a number from 1 to 1000"),
        (
            SECOND,
            &with("weight = 1001"),
            "f:17:10: weight is 1001; expected a number from 1 to 1000",
        ),
        (SECOND, &with("witness = 1"), "f:17:11: witness is 1; expected true or false"),
    ]);
    let first = "sync = \"10.99.0.1:7400\"\n";
    let all = GOOD.replace(first, &format!("{first}witness = true\n"));
    let all = all.replace(SECOND, &with("witness = true"));
    assert_eq!(
        said(&all),
        "f:18:11: witness is true, as that of all others, and nobody handles packets; expected a \
         member that is no witness"
    );
}

#[test]
fn a_witness_handles_no_packets() {
    let witness = GOOD.replace("[node]\nname = \"n1\"", "[node]\nname = \"n2\"");
    let witness = witness.replace(SECOND, &format!("{SECOND}witness = true\n"));
    assert_eq!(
        said(&witness),
        "f:18:1: [[interface]] in the file of a witness, which handles no packets; expected no \
         [[interface]]"
    );
    let (before, behind) = witness.split_once("[[interface]]").unwrap();
    let (_, rules) = behind.split_once("[[rule]]").unwrap();
    assert_eq!(
        said(&format!("{before}[[rule]]{rules}")),
        "f:18:1: [[rule]] in the file of a witness, which handles no packets; expected no [[rule]]"
    );
    let before = format!("{before}{TLS}");
    let config = parse(Path::new("f"), &before).unwrap();
    assert!(config.interfaces.is_empty() && config.own_member().witness);
    let tap = before.replace(MAC, "mode = \"tap\"\n");
    assert_eq!(parse(Path::new("f"), &tap).unwrap().node.tap, None);
}

#[test]
fn only_who_answers_has_a_mac_and_addresses() {
    let steered = GOOD.replace(LEASE, "mode = \"steered\"");
    assert_eq!(parse(Path::new("f"), &steered).unwrap().cluster.mode, Mode::Steered);
    let without = GOOD.replace(MAC, "");
    let mac = "a unicast MAC address such as \"02:74:65:73:00:01\"";
    assert_eq!(said(&without), format!("f:1:1: [cluster] without mac; expected {mac}"));
    let steered = GOOD.replace(MAC, "mode = \"steered\"\n");
    assert_eq!(
        said(&steered),
        "f:19:13: addresses is [\"10.10.0.1\", \"fd10::1\"], but the cluster has no mac to answer \
         with for them; expected no addresses"
    );
    let steered = parse(Path::new("f"), &steered.replace(ADDRESSES, "")).unwrap();
    assert_eq!(steered.cluster.mac.to_bytes(), [0; 6]);
    assert_eq!(
        said(&GOOD.replace(LEASE, "mode = \"tap\"")),
        "f:5:7: mac is \"02:74:65:73:00:01\", but in tap mode nobody answers; expected no mac"
    );
}

#[test]
fn a_tap_goes_to_an_interface_of_its_own() {
    let expected = "expected the analyser's interface, which is no [[interface]]";
    let tap = GOOD.replace(MAC, "mode = \"tap\"\n").replace(ADDRESSES, "");
    assert_eq!(said(&tap), format!("f:7:1: [node] without tap, in tap mode; {expected}"));
    let with = |name: &str| {
        tap.replace(
            "[[member]]\nname = \"n1\"",
            &format!("tap = {name}\n[[member]]\nname = \"n1\""),
        )
    };
    let config = parse(Path::new("f"), &with("\"ids0\"")).unwrap();
    assert_eq!((config.node.tap.as_deref(), config.cluster.mode), (Some("ids0"), Mode::Tap));
    assert_eq!(
        said(&with("\"in0\"")),
        format!("f:11:7: tap is \"in0\", where packets come in; {expected}")
    );
    assert_eq!(
        said(&with("\"a/b\"")),
        "f:11:7: tap is \"a/b\"; expected an interface name of 1 to 15 bytes"
    );
    refused(&[(
        "table_entries = 4096",
        "tap = \"ids0\"",
        "f:10:7: tap is \"ids0\", which mode shared has no use for; expected no tap, or mode = \
         \"tap\"",
    )]);
}

#[test]
fn the_state_directory_is_absolute() {
    let entries = "table_entries = 4096";
    let node = |text| changed(entries, text).unwrap();
    assert_eq!(node("state = \"/var/s\"").node.state, Path::new("/var/s"));
    refused(&[(
        entries,
        "state = \"s\"",
        "f:10:9: state is \"s\"; expected an absolute path of at most 1024 bytes",
    )]);
}
