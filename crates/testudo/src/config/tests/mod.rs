//! Files that are read and files that are refused, with the exact words of every refusal.

mod agreeing;
mod fitness;
mod rules;
mod translations;
mod trusting;

use std::net::IpAddr;
use std::time::Duration;

use super::cluster::{Mode, Timing};
use super::*;

/// What each refusal below changes one thing of. Its line numbers are in the refusals.
const GOOD: &str = r#"[cluster]
name = "lab"
secret = "000102030405060708090a0b0c0d0e0f"
buckets = 64
mac = "02:74:65:73:00:01"
lease_ms = 100
[node]
name = "n1"
control = "/run/testudo/n1.sock"
table_entries = 4096
[[member]]
name = "n1"
sync = "10.99.0.1:7400"
[[member]]
name = "n2"
sync = "10.99.0.2:7400"
[[interface]]
name = "in0"
addresses = ["10.10.0.1", "fd10::1"]
[[rule]]
action = "accept"
protocol = "tcp"
source = "10.10.0.0/16"
destination = "10.20.0.0/16"
destination_ports = "80"
interface = "in0"
[timeouts]
unreplied = 30
[node.tls]
ca = "/etc/testudo/tls/ca.pem"
certificate = "/etc/testudo/tls/n1.pem"
key = "/etc/testudo/tls/n1.key"
"#;

/// What [`GOOD`] ends with.
const TLS: &str = r#"[node.tls]
ca = "/etc/testudo/tls/ca.pem"
certificate = "/etc/testudo/tls/n1.pem"
key = "/etc/testudo/tls/n1.key"
"#;

/// Parses [`GOOD`] with its only `old` replaced by `new`.
fn changed(old: &str, new: &str) -> Result<Config, ConfigError> {
    assert_eq!(GOOD.matches(old).count(), 1, "{old:?} is not unique");
    parse(Path::new("f"), &GOOD.replace(old, new))
}

/// The first line of the refusal of [`changed`].
fn refusal(old: &str, new: &str) -> String {
    match changed(old, new) {
        Ok(_) => format!("{new:?} for {old:?} is accepted"),
        Err(error) => error.to_string().lines().next().unwrap_or("").to_owned(),
    }
}

/// Checks refusals: what to replace, by what, and what is said.
fn refused(cases: &[(&str, &str, &str)]) {
    for (old, new, expected) in cases {
        assert_eq!(refusal(old, new), *expected, "{new:?} for {old:?}");
    }
}

#[test]
fn the_documented_example_is_read_whole() {
    let text = include_str!("../../../../../docs/node.toml");
    let config = parse(Path::new("docs/node.toml"), text).unwrap();
    assert_eq!(config.cluster.name, "lab");
    assert_eq!(config.cluster.mode, Mode::Shared);
    assert_eq!(config.cluster.mac.to_bytes(), [0x02, 0x74, 0x65, 0x73, 0x00, 0x01]);
    assert_eq!(config.cluster.secret.bytes()[..2], [0x5f, 0x0e]);
    assert_eq!(config.cluster.timing, Timing::default());
    assert_eq!(config.own_id(), NodeId(0));
    assert_eq!(config.own_member().sync, "10.99.0.1:7400".parse().unwrap());
    assert_eq!(config.members.len(), 3);
    assert_eq!(config.interfaces[1].addresses[1], "fd20::1".parse::<IpAddr>().unwrap());
    assert_eq!(config.rules.len(), 5);
    assert_eq!(config.timeouts, Timeouts::default());
    assert!(config.node.strict_windows);
}

#[test]
fn every_key_is_documented() {
    let documentation = include_str!("../../../../../docs/configuration.md");
    let sections = [cluster::KEYS, node::KEYS, member::KEYS, interface::KEYS, rule::KEYS];
    let sections = [sections.concat(), etcd::KEYS.to_vec(), probe::KEYS.to_vec()];
    let sections = [sections.concat(), health::KEYS.to_vec(), tls::KEYS.to_vec()];
    let sections = [sections.concat(), service::KEYS.to_vec(), mapping::KEYS.to_vec()];
    let rest = timeouts::keys().into_iter().chain(limits::KEYS);
    for key in sections.concat().into_iter().chain(rest) {
        assert!(documentation.contains(&format!("| `{key}` |")), "{key} is not documented");
    }
}

#[test]
fn what_is_left_out_has_its_default() {
    let text = GOOD.replace("buckets = 64\n", "").replace("lease_ms = 100\n", "");
    let text = text.replace("control = \"/run/testudo/n1.sock\"\ntable_entries = 4096\n", "");
    let text = text.replace("addresses = [\"10.10.0.1\", \"fd10::1\"]\n", "");
    let (text, _) = text.split_once("[[rule]]").unwrap();
    let text = format!("{text}{TLS}");
    let config = parse(Path::new("f"), &text).unwrap();
    assert_eq!(config.cluster.buckets, 256);
    assert_eq!(config.cluster.mode, Mode::Shared);
    assert_eq!(config.cluster.timing.takeover, Duration::from_millis(260));
    assert_eq!(config.node.control, Path::new("/run/testudo/n1.sock"));
    assert_eq!(config.node.table_entries, 262_144);
    assert_eq!(config.node.pins, None);
    let steered = text.replace("[cluster]\n", "[cluster]\nmode = \"steered\"\n");
    let pins = parse(Path::new("f"), &steered).unwrap().node.pins;
    assert_eq!(pins.as_deref(), Some(Path::new("/sys/fs/bpf/testudo/lab/n1")));
    assert_eq!(config.interfaces[0].addresses, [] as [IpAddr; 0]);
    assert_eq!(config.rules, []);
    assert_eq!(config.timeouts, Timeouts::default());
    assert_eq!(config.limits, limits::usual());
    assert_eq!(config.agreement.coordinator, agreement::Coordinator::Embedded);
    assert_eq!(config.agreement.min_voters, 2);
    assert_eq!(config.agreement.removal, Duration::from_secs(3));
    assert_eq!(config.agreement.handover, Duration::from_secs(1));
    assert_eq!(config.agreement.overlap, Duration::from_millis(20));
    assert_eq!(config.agreement.balance, agreement::Balance::default());
    assert_eq!(config.node.state, Path::new("/var/lib/testudo/lab/n1"));
    assert_eq!((config.members[0].weight, config.members[0].witness), (100, false));
    assert_eq!(config.probes, []);
    assert_eq!(config.health.late, Duration::from_millis(100));
}

#[test]
fn the_secret_is_never_shown() {
    let config = format!("{:?}", changed("buckets = 64", "buckets = 128").unwrap());
    assert!(!config.contains("0a0b0c0d"), "{config}");
    for new in ["0a0b0c0d0e", "0a0b0c0d0e0f0f", "\"", "0a0b0c0d0e0g"] {
        let error = changed("0a0b0c0d0e0f", new).unwrap_err().to_string();
        assert!(!error.contains("0a0b0c0d") && !error.contains("00010203"), "{error}");
    }
}

#[test]
fn the_line_is_shown_under_the_message() {
    let error = changed("buckets = 64", "buckets = 100  # a round number").unwrap_err();
    let text = "f:4:11: buckets is 100; expected a power of two from 2 to 65536\n 4 | \
                buckets = 100  # a round number\n   |           ^^^";
    assert_eq!(error.to_string(), text);
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = load(Path::new("/nonexistent/node.toml")).unwrap_err().to_string();
    let text =
        "/nonexistent/node.toml: No such file or directory (os error 2); expected a readable";
    assert_eq!(error, format!("{text} file"));
}

#[test]
fn a_file_without_end_is_refused() {
    let error = load(Path::new("/dev/zero")).unwrap_err().to_string();
    assert!(error.starts_with("/dev/zero:1:1: more than 4194304 bytes; expected a configuration"));
}

#[test]
fn a_file_that_is_not_text_is_refused() {
    let file = std::env::temp_dir().join(format!("testudo-config-{}.toml", std::process::id()));
    std::fs::write(&file, b"[cluster]\nname = \"\xff\"\n").unwrap();
    let error = load(&file).unwrap_err().to_string();
    std::fs::remove_file(&file).unwrap();
    let place = format!("{}:2:9: the byte 0xff; expected UTF-8\n", file.display());
    assert!(error.starts_with(&place), "{error}");
}

/// Whatever is done to a file, it is read or refused at a place that it has.
#[test]
fn every_refusal_has_a_place_in_the_file() {
    let refusal = |text: &str| match parse(Path::new("f"), text) {
        Ok(_) => {}
        Err(ConfigError::Invalid { place, .. }) => {
            let lines = text.matches('\n').count() + 1;
            assert!((1..=lines).contains(&place.line), "{place} in {text:?}");
            let line = text.split('\n').nth(place.line - 1).unwrap_or("");
            assert!((1..=line.chars().count() + 1).contains(&place.column), "{place} in {text:?}");
        }
        Err(error) => panic!("{error}"),
    };
    for good in [GOOD, &everything()] {
        assert!(parse(Path::new("f"), good).is_ok());
        for at in 0..good.len() {
            refusal(&good[..at]);
            for wrong in ["", "\"", "[", "]", "\n", "=", ".", "#", "9", "é", "\0", "\r", "\t"] {
                refusal(&format!("{}{wrong}{}", &good[..at], &good[at + 1..]));
            }
        }
    }
}

/// [`GOOD`] with the sections and keys that it lacks.
fn everything() -> String {
    let cluster = "lease_ms = 100\nmin_voters = 1\nremoval_ms = 500\nhandover_ms = 50\n\
                   balance_percent = 30\nbalance_moves_per_minute = 6\ncoordinator = \"etcd\"\n\
                   [cluster.etcd]\nendpoints = [\"https://e:2379\"]\nca = \"/c\"\ncert = \"/x\"\n\
                   key = \"/k\"\nprefix = \"/t\"";
    let node = "table_entries = 4096\nstate = \"/s\"";
    let member = "sync = \"10.99.0.2:7400\"\nweight = 50\nwitness = true";
    let rest = "unreplied = 30\n[[probe]]\ntarget = \"fe80::1\"\ninterface = \"in0\"\nlost = 2\n\
                [health]\nrecovery_ms = 100\nlate_ms = 9";
    let text = GOOD.replace("lease_ms = 100", cluster).replace("table_entries = 4096", node);
    text.replace("sync = \"10.99.0.2:7400\"", member).replace("unreplied = 30", rest)
}

#[test]
fn broken_toml_is_refused() {
    refused(&[
        ("[cluster]", "[cluster", "f:1:9: unclosed table; expected `]`"),
        ("name = \"lab\"", "name = \"lab", "f:2:12: invalid basic string; expected `\"`"),
        (
            "buckets = 64",
            "buckets = 64\nbuckets = 2",
            "f:5:1: duplicate key; expected each key once",
        ),
        ("buckets = 64", "buckets = ", "f:4:11: string values must be quoted; expected a value"),
        ("buckets = 64", "buckets 64", "f:4:9: key with no value; expected `=`"),
    ]);
}

#[test]
fn sections_and_keys_are_known_and_complete() {
    let name =
        "a name of 1 to 63 letters, digits, '-', '_' or '.', beginning with a letter or digit";
    let without = |at: &str, key: &str| format!("f:{at}:1: {key} without name; expected {name}");
    refused(&[
        (
            "[timeouts]",
            "[timeout]",
            "f:27:2: the file has the key timeout; expected one of cluster, node, member, \
             interface, service, mapping, rule, probe, health, timeouts, limits",
        ),
        (
            "table_entries =",
            "table_size =",
            "f:10:1: [node] has the key table_size; expected one of name, control, \
             table_entries, state, tap, pins, rules, tcp_window, tls",
        ),
        ("[[rule]]", "[rule]\nx = 1\n[[rule]]", "f:22:3: duplicate key; expected each key once"),
        ("name = \"lab\"\n", "", &without("1", "[cluster]")),
        ("[node]\nname = \"n1\"\n", "[node]\n", &without("7", "[node]")),
        ("name = \"n2\"\n", "", &without("14", "[[member]]")),
        (
            "sync = \"10.99.0.2:7400\"\n",
            "",
            "f:14:1: [[member]] without sync; expected an address and a port such as \
             \"10.99.0.1:7400\" or \"[fd99::1]:7400\"",
        ),
        (
            "action = \"accept\"\n",
            "",
            "f:20:1: [[rule]] without action; expected \"accept\" or \"drop\"",
        ),
    ]);
    let missing = |text: &str| parse(Path::new("f"), text).unwrap_err().to_string();
    let cluster = "f:1:1: the file has no [cluster]; expected a section [cluster]";
    assert!(missing("").starts_with(cluster));
    let (before, _) = GOOD.split_once("[node]").unwrap();
    assert!(missing(before).starts_with("f:1:1: the file has no [node]; expected a section"));
    let (before, _) = GOOD.split_once("[[member]]").unwrap();
    assert!(missing(before).contains("has no [[member]]; expected 1 to 254 sections [[member]]"));
    let (before, _) = GOOD.split_once("[[interface]]").unwrap();
    let before = format!("{before}{TLS}");
    assert!(missing(&before).contains("no [[interface]]; expected 1 to 64 sections [[interface]]"));
}

#[test]
fn a_section_is_a_table() {
    let refusal = |text| parse(Path::new("f"), text).unwrap_err().to_string();
    let first = |text| refusal(text).lines().next().unwrap().to_owned();
    assert_eq!(first("cluster = 5"), "f:1:11: 5; expected a table under [cluster]");
    let text = GOOD.replace("[timeouts]", "[[timeouts]]");
    assert_eq!(first(&text), "f:27:1: [[timeouts]]; expected a table under [timeouts]");
}

#[test]
fn a_cluster_that_can_not_be_is_refused() {
    let buckets = "expected a power of two from 2 to 65536";
    let secret = "expected a string of 32 hexadecimal digits";
    let mac = "expected a unicast MAC address such as \"02:74:65:73:00:01\"";
    let name = "expected a name of 1 to 63 letters, digits, '-', '_' or '.', beginning with a \
                letter or digit";
    let digits = "\"000102030405060708090a0b0c0d0e0f\"";
    let shared_mac = "\"02:74:65:73:00:01\"";
    refused(&[
        ("\"lab\"", "\"\"", &format!("f:2:8: name is \"\"; {name}")),
        ("\"lab\"", "\"my lab\"", &format!("f:2:8: name is \"my lab\"; {name}")),
        ("\"lab\"", "7", &format!("f:2:8: name is 7; {name}")),
        ("= 64", "= 100", &format!("f:4:11: buckets is 100; {buckets}")),
        ("= 64", "= 1", &format!("f:4:11: buckets is 1; {buckets}")),
        ("= 64", "= 131072", &format!("f:4:11: buckets is 131072; {buckets}")),
        ("= 64", "= -2", &format!("f:4:11: buckets is -2; {buckets}")),
        ("= 64", "= \"64\"", &format!("f:4:11: buckets is \"64\"; {buckets}")),
        ("= 64", "= 64.0", &format!("f:4:11: buckets is 64.0; {buckets}")),
        (digits, "12", &format!("f:3:10: secret is of type integer; {secret}")),
        (digits, "\"00\"", &format!("f:3:10: secret is a string of 2 characters; {secret}")),
        (
            "0e0f",
            "0e0g",
            &format!("f:3:10: secret is a string with other characters in it; {secret}"),
        ),
        (
            digits,
            "\"00000000000000000000000000000000\"",
            &format!("f:3:10: secret is zero, which anybody guesses; {secret}"),
        ),
        (shared_mac, "\"02:74\"", &format!("f:5:7: mac is \"02:74\"; {mac}")),
        (
            shared_mac,
            "\"01:00:5e:00:00:01\"",
            &format!(
                "f:5:7: mac is \"01:00:5e:00:00:01\", which no single station can have; {mac}"
            ),
        ),
        (
            "lease_ms",
            "mode = \"routed\"\nlease_ms",
            "f:6:8: mode is \"routed\"; expected \"shared\", \"steered\" or \"tap\"",
        ),
    ]);
}

#[test]
fn a_lease_ends_well_before_a_takeover() {
    let lease = "lease_ms = 100";
    let accepted = |text| changed(lease, text).unwrap().cluster.timing;
    assert_eq!(accepted("lease_ms = 148").lease, Duration::from_millis(148));
    assert_eq!(accepted("takeover_ms = 212").takeover, Duration::from_millis(212));
    assert_eq!(accepted("heartbeat_ms = 66").heartbeat, Duration::from_millis(66));
    assert_eq!(accepted("formation_ms = 260").formation, Duration::from_millis(260));
    refused(&[
        (lease, "lease_ms = 0", "f:6:12: lease_ms is 0; expected milliseconds from 10 to 60000"),
        (
            lease,
            "takeover_ms = 211",
            "f:6:15: takeover_ms is 211 and lease_ms 200; expected takeover_ms of at least 212",
        ),
        (
            lease,
            "lease_ms = 300",
            "f:6:12: takeover_ms is 260 and lease_ms 300; expected takeover_ms of at least 313",
        ),
        (
            lease,
            "heartbeat_ms = 67",
            "f:6:16: heartbeat_ms is 67 and lease_ms 200; expected heartbeat_ms of at most 66",
        ),
        (
            lease,
            "lease_ms = 59",
            "f:6:12: heartbeat_ms is 20 and lease_ms 59; expected heartbeat_ms of at most 19",
        ),
        (
            lease,
            "formation_ms = 259",
            "f:6:16: formation_ms is 259 and takeover_ms 260; expected formation_ms of at least \
             260",
        ),
        (
            lease,
            "takeover_ms = 6000",
            "f:6:15: formation_ms is 5000 and takeover_ms 6000; expected formation_ms of at least \
             6000",
        ),
        (
            lease,
            "heartbeat_ms = true",
            "f:6:16: heartbeat_ms is true; expected milliseconds from 1 to 10000",
        ),
    ]);
}

#[test]
fn a_node_that_can_not_be_is_refused() {
    let entries = "expected a power of two from 1024 to 67108864";
    let control = "expected an absolute path of at most 107 bytes";
    let socket = "\"/run/testudo/n1.sock\"";
    let long = format!("\"/{}\"", "x".repeat(107));
    let cut = format!("\"/{}…", "x".repeat(58));
    refused(&[
        ("= 4096", "= 4095", &format!("f:10:17: table_entries is 4095; {entries}")),
        ("= 4096", "= 512", &format!("f:10:17: table_entries is 512; {entries}")),
        ("= 4096", "= 134217728", &format!("f:10:17: table_entries is 134217728; {entries}")),
        (socket, "\"n1.sock\"", &format!("f:9:11: control is \"n1.sock\"; {control}")),
        (socket, &long, &format!("f:9:11: control is {cut}; {control}")),
        (
            "[node]\nname = \"n1\"",
            "[node]\nname = \"n9\"",
            "f:8:8: name is \"n9\", which no [[member]] has; expected one of n1, n2",
        ),
    ]);
}

#[test]
fn members_are_told_apart() {
    let sync = "expected an address and a port such as \"10.99.0.1:7400\" or \"[fd99::1]:7400\"";
    let second = "\"10.99.0.2:7400\"";
    refused(&[
        (
            "\"n2\"",
            "\"n1\"",
            "f:15:8: name is \"n1\", as that of [[member]] number 1; expected a name of its own",
        ),
        (
            second,
            "\"10.99.0.1:7400\"",
            "f:16:8: sync is \"10.99.0.1:7400\", as that of n1; expected an address and port of \
             its own",
        ),
        (second, "\"10.99.0.2\"", &format!("f:16:8: sync is \"10.99.0.2\"; {sync}")),
        (
            second,
            "\"10.99.0.2:0\"",
            &format!("f:16:8: sync is \"10.99.0.2:0\", which no peer can reach; {sync}"),
        ),
        (
            second,
            "\"0.0.0.0:7400\"",
            &format!("f:16:8: sync is \"0.0.0.0:7400\", which no peer can reach; {sync}"),
        ),
        (
            second,
            "\"[fd99::2]:7400\"",
            "f:16:8: sync is \"[fd99::2]:7400\", but that of n1 is 10.99.0.1:7400; expected \
             addresses of one family for all members",
        ),
    ]);
}

#[test]
fn members_fill_a_byte_and_no_more() {
    let member = |n: usize| format!("[[member]]\nname = \"m{n}\"\nsync = \"10.98.0.{n}:7400\"\n");
    let more = |count: usize| (1..=count).map(member).collect::<String>() + "[[interface]]";
    assert_eq!(changed("[[interface]]", &more(252)).unwrap().members.len(), 254);
    let said = refusal("[[interface]]", &more(253));
    assert_eq!(said, "f:773:1: [[member]] number 255; expected 1 to 254 sections [[member]]");
}

#[test]
fn interfaces_and_addresses_are_listed_once() {
    let name = "expected an interface name of 1 to 15 bytes";
    let address =
        "expected addresses such as \"10.10.0.1\" or \"fd10::1\", without a prefix length";
    let [first, second] = ["[\"10.10.0.1\"", "\"fd10::1\"]"];
    let another = |rest: &str| format!("\"fd10::1\"]\n[[interface]]\nname = {rest}");
    let broadcast = "\"255.255.255.255\"]";
    refused(&[
        (second, &another("\"a b\""), &format!("f:21:8: name is \"a b\"; {name}")),
        (
            second,
            &another("\"abcdefghijklmnop\""),
            &format!("f:21:8: name is \"abcdefghijklmnop\"; {name}"),
        ),
        (
            second,
            &another("\"in0\""),
            "f:21:8: name is \"in0\", listed twice; expected each interface once",
        ),
        (
            second,
            &another("\"out0\"\naddresses = [\"10.10.0.1\"]"),
            "f:22:14: addresses has \"10.10.0.1\", which in0 has; expected each address once",
        ),
        (
            second,
            "\"10.10.0.1\"]",
            "f:19:27: addresses has \"10.10.0.1\", which in0 has; expected each address once",
        ),
        (second, "\"10.10\"]", &format!("f:19:27: addresses has \"10.10\"; {address}")),
        (second, "7]", &format!("f:19:27: addresses has 7; {address}")),
        (
            first,
            "[\"10.10.0.1/16\"",
            &format!("f:19:14: addresses has \"10.10.0.1/16\"; {address}"),
        ),
        (
            second,
            broadcast,
            &format!(
                "f:19:27: addresses has \"255.255.255.255\", which no single station can have; \
                 {address}"
            ),
        ),
        (
            "[\"10.10.0.1\", \"fd10::1\"]",
            "\"10.10.0.1\"",
            "f:19:13: addresses is \"10.10.0.1\"; expected a list of at most 64 addresses",
        ),
    ]);
    let link_local = another("\"out0\"\naddresses = [\"fe80::1\"]");
    let text = GOOD.replace(second, &link_local).replace("10.10.0.1\"", "fe80::1\"");
    assert!(parse(Path::new("f"), &text).is_ok());
}

#[test]
fn an_interface_asks_for_a_way_back_by_one_of_three_words() {
    use testudo_packet::reverse_path::ReversePath::{Loose, Off, Strict};
    let name = "name = \"in0\"\n";
    let asks = |word: &str| format!("{name}rp_check = {word}\n");
    for (word, check) in [("\"off\"", Off), ("\"loose\"", Loose), ("\"strict\"", Strict)] {
        assert_eq!(changed(name, &asks(word)).unwrap().interfaces[0].rp_check, check);
    }
    assert_eq!(parse(Path::new("f"), GOOD).unwrap().interfaces[0].rp_check, Off);
    let expected = "expected \"off\", \"loose\" or \"strict\"";
    refused(&[
        (name, &asks("\"on\""), &format!("f:19:12: rp_check is \"on\"; {expected}")),
        (name, &asks("1"), &format!("f:19:12: rp_check is 1; {expected}")),
    ]);
}

#[test]
fn an_interface_says_how_large_segments_may_be() {
    use super::interface::MssClamp::{Bytes, Mtu};
    let name = "name = \"in0\"\n";
    let asks = |value: &str| format!("{name}mss_clamp = {value}\n");
    for (value, clamp) in [("536", Bytes(536)), ("65495", Bytes(65_495)), ("\"mtu\"", Mtu)] {
        assert_eq!(changed(name, &asks(value)).unwrap().interfaces[0].mss_clamp, Some(clamp));
    }
    assert_eq!(parse(Path::new("f"), GOOD).unwrap().interfaces[0].mss_clamp, None);
    let expected = "expected a number from 536 to 65495, or \"mtu\"";
    refused(&[
        (name, &asks("535"), &format!("f:19:13: mss_clamp is 535; {expected}")),
        (name, &asks("\"pmtu\""), &format!("f:19:13: mss_clamp is \"pmtu\"; {expected}")),
        (name, &asks("true"), &format!("f:19:13: mss_clamp is true; {expected}")),
    ]);
}

#[test]
fn interfaces_and_addresses_are_bounded() {
    let interfaces: String =
        (1..=64).map(|n| format!("[[interface]]\nname = \"e{n}\"\n")).collect::<String>();
    let said = refusal("[[rule]]", &(interfaces + "[[rule]]"));
    assert_eq!(said, "f:146:1: [[interface]] number 65; expected 1 to 64 sections [[interface]]");
    let list: Vec<String> = (1..=64).map(|n| format!("\"10.10.1.{n}\"")).collect();
    let said = refusal("\"fd10::1\"]", &(list.join(", ") + "]"));
    assert_eq!(said, "f:19:13: addresses is a list of 65; expected a list of at most 64 addresses");
}
