//! `testudo replay` on captures made here: exact counts, every format, every kind of damage.

#[path = "replay/files.rs"]
mod files;
#[path = "replay/packets.rs"]
mod packets;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use files::{PLAIN, Pcap, Timed, pcap, pcapng};
use packets::{connection, end, mixed, udp};
use serde_json::{Value, json};

const SECOND: u64 = 1_000_000_000;
/// When captures begin: in 2026.
const BEGIN: u64 = 1_780_000_000 * SECOND;

/// One packet a millisecond.
fn timed(frames: Vec<Vec<u8>>) -> Timed {
    (0..).map(|n| BEGIN + n * 1_000_000).zip(frames).collect()
}

/// A file of this name among those that tests may write.
fn write(name: &str, bytes: &[u8]) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, bytes).expect("the directory for tests can be written");
    path
}

fn replay(file: &Path, options: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_testudo"));
    command.arg("replay").arg(file).args(options).output().expect("testudo runs")
}

/// What the replay of these bytes reports, with its exit code and what it said of errors.
fn report(name: &str, bytes: &[u8], nodes: &str) -> (Value, Option<i32>, String) {
    let output = replay(&write(name, bytes), &["--nodes", nodes, "--slots", "1024", "--json"]);
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    let report = serde_json::from_slice(&output.stdout);
    (report.unwrap_or_else(|error| panic!("{error}: {said}")), output.status.code(), said)
}

/// The sum of a number over the nodes.
fn sum(report: &Value, pointer: &str) -> u64 {
    let nodes = report["nodes"].as_array().expect("nodes");
    nodes.iter().map(|node| node.pointer(pointer).and_then(Value::as_u64).expect(pointer)).sum()
}

/// The outcomes of [`mixed`].
fn mixed_outcomes() -> Value {
    json!([
        { "outcome": "forwarded", "packets": 11 },
        { "outcome": "stack", "packets": 1 },
        { "outcome": "drop.not-first", "packets": 1 },
        { "outcome": "drop.fragment-early", "packets": 1 },
    ])
}

#[test]
fn every_packet_is_handled_by_one_node_however_many_there_are() {
    let file = pcap(PLAIN, &timed(mixed()));
    for nodes in ["1", "2", "3", "7", "254"] {
        let (report, code, said) = report("mixed.pcap", &file, nodes);
        assert_eq!((code, said.as_str()), (Some(0), ""));
        assert_eq!(report["outcomes"], mixed_outcomes());
        assert_eq!(report["capture"]["packets"], 14);
        assert_eq!(report["capture"]["seconds"], 0.013);
        assert_eq!(sum(&report, "/buckets"), 256);
        assert_eq!(sum(&report, "/packets"), 12);
        assert_eq!(sum(&report, "/dropped"), 1);
        assert_eq!(sum(&report, "/flows"), 3);
        let without_flow = [13, 12];
        let bytes: usize = mixed().iter().map(Vec::len).sum();
        let bytes = without_flow.iter().fold(bytes, |bytes, &n| bytes - mixed()[n].len());
        assert_eq!(sum(&report, "/bytes"), bytes as u64);
        assert_eq!(sum(&report, "/node_table/entries"), 3);
        for node in report["nodes"].as_array().unwrap() {
            assert_eq!(node["common_table"]["entries"], 3);
        }
    }
}

#[test]
fn every_format_gives_the_same() {
    let packets = timed(mixed());
    let (expected, ..) = report("plain.pcap", &pcap(PLAIN, &packets), "3");
    let formats = [
        ("be.pcap", pcap(Pcap { big_endian: true, ..PLAIN }, &packets)),
        ("ns.pcap", pcap(Pcap { nanoseconds: true, ..PLAIN }, &packets)),
        ("be-ns.pcap", pcap(Pcap { big_endian: true, nanoseconds: true, ..PLAIN }, &packets)),
        ("le.pcapng", pcapng(false, 1, &packets)),
        ("be.pcapng", pcapng(true, 1, &packets)),
    ];
    for (name, file) in formats {
        let (report, code, said) = report(name, &file, "3");
        assert_eq!((code, said.as_str()), (Some(0), ""), "{name}");
        assert_eq!(report["nodes"], expected["nodes"], "{name}");
        assert_eq!(report["outcomes"], expected["outcomes"], "{name}");
        assert_eq!(report["capture"]["seconds"], expected["capture"]["seconds"], "{name}");
    }
}

#[test]
fn packets_without_an_ethernet_header_are_the_same_packets() {
    let flow = connection(end("10.0.0.1", 40_000), end("10.1.0.1", 80));
    let with = |head: &[u8]| -> Timed {
        timed(flow.iter().map(|frame| [head, &frame[14..]].concat()).collect())
    };
    let (expected, ..) = report("ethernet.pcap", &pcap(PLAIN, &timed(flow.clone())), "3");
    let cooked = [&[0; 14][..], &[8, 0]].concat();
    let cooked_2 = [&[8, 0][..], &[0; 18]].concat();
    for (link, head) in [(101, &[][..]), (0, &[2, 0, 0, 0]), (113, &cooked), (276, &cooked_2)] {
        let file = pcap(Pcap { link, ..PLAIN }, &with(head));
        let (report, code, _) = report(&format!("link-{link}.pcap"), &file, "3");
        assert_eq!(code, Some(0), "link type {link}");
        assert_eq!(report["nodes"], expected["nodes"], "link type {link}");
    }
}

#[test]
fn a_link_type_that_is_not_understood_is_named() {
    let file = pcap(Pcap { link: 105, ..PLAIN }, &timed(mixed()));
    let (report, code, said) = report("radio.pcap", &file, "3");
    assert_eq!(code, Some(1));
    assert!(
        said.contains("byte 24, after 0 packets: a packet of link type 105 (IEEE802_11)"),
        "{said}"
    );
    assert_eq!(report["capture"]["packets"], 0);
    assert_eq!(report["balance"], json!({ "packets": null, "flows": null }));
}

#[test]
fn a_file_that_ends_too_early_counts_up_to_there() {
    let packets = timed(mixed());
    for (name, file) in
        [("cut.pcap", pcap(PLAIN, &packets)), ("cut.pcapng", pcapng(false, 1, &packets))]
    {
        let (report, code, said) = report(name, &file[..file.len() - 100], "3");
        assert_eq!(code, Some(1), "{name}");
        assert!(said.contains("after 13 packets: the file ends"), "{said}");
        let error = report["capture"]["error"].as_str().expect("an error");
        assert!(said.contains(error), "{said}");
        assert_eq!(report["capture"]["packets"], 13);
        assert_eq!(sum(&report, "/packets"), 12);
    }
}

#[test]
fn what_is_no_capture_is_refused_with_a_reason() {
    let code = |output: &Output| {
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (status, said) = code(&replay(&write("text.pcap", b"hello, world"), &[]));
    assert_eq!(status, Some(1));
    assert!(
        said.contains("the file begins with 0x68656c6c6f2c2077; expected pcap or pcapng"),
        "{said}"
    );
    let (status, said) = code(&replay(Path::new("/nonexistent.pcap"), &[]));
    assert_eq!(status, Some(1));
    assert!(said.contains("/nonexistent.pcap") && said.contains("No such file"), "{said}");
    let file = write("good.pcap", &pcap(PLAIN, &timed(mixed())));
    for wrong in [["--nodes", "0"], ["--nodes", "255"], ["--buckets", "100"], ["--slots", "0"]] {
        assert_eq!(replay(&file, &wrong).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn a_packet_cut_short_by_the_capture_counts_whole() {
    let packets = timed(mixed());
    let (whole, ..) = report("whole.pcap", &pcap(PLAIN, &packets), "3");
    let (short, code, _) =
        report("short.pcap", &pcap(Pcap { snapshot: 80, ..PLAIN }, &packets), "3");
    assert_eq!(code, Some(0));
    assert_eq!(short["nodes"], whole["nodes"]);
    let longer = mixed().iter().filter(|frame| frame.len() > 80).count();
    assert_eq!(short["capture"]["cut_short"], longer);
    // Too little of a packet to tell its flow is a packet that ends too early.
    let (shorter, ..) =
        report("shorter.pcap", &pcap(Pcap { snapshot: 40, ..PLAIN }, &packets), "3");
    assert_eq!(sum(&shorter, "/flows"), 0);
}

#[test]
fn silent_flows_leave_the_tables_by_the_time_of_the_capture() {
    let flow = |n: u16| udp(end("10.0.0.1", n), end("10.1.0.1", 53), 10);
    let at = |seconds: u64, n| (BEGIN + seconds * SECOND, flow(n));
    let packets = vec![at(0, 1), at(20, 2), at(32, 3), at(33, 1)];
    let (report, ..) = report("silent.pcap", &pcap(PLAIN, &packets), "1");
    // The first has been silent for more than 30 seconds, and begins anew.
    assert_eq!(report["nodes"][0]["flows"], 4);
    assert_eq!(report["nodes"][0]["node_table"], json!({ "entries": 3, "most_entries": 3 }));
    assert_eq!(report["nodes"][0]["common_table"], json!({ "entries": 3 }));
}

#[test]
fn a_full_table_drops_new_flows_and_says_so() {
    let flow = |n: u16| udp(end("10.0.0.1", n), end("10.1.0.1", 53), 10);
    let file = write("many.pcap", &pcap(PLAIN, &timed((0..100).map(flow).collect())));
    let output = replay(&file, &["--nodes=1", "--slots=32", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let outcomes = json!([
        { "outcome": "forwarded", "packets": 32 },
        { "outcome": "drop.table-full", "packets": 68 },
    ]);
    assert_eq!(report["outcomes"], outcomes);
    assert_eq!(report["nodes"][0]["node_table"]["entries"], 32);
}

/// The capture in the documentation: 40 clients of a web server, and their questions for its name.
fn example() -> Vec<u8> {
    let mut frames = Vec::new();
    for client in 1..=40u16 {
        let (here, there) = (format!("10.10.2.{client}"), "10.20.2.1");
        let asking = end(&format!("fd10::2:{client:x}"), 40_000 + client);
        frames.extend([udp(asking, end("fd20::53", 53), 24), udp(end("fd20::53", 53), asking, 40)]);
        if client % 8 == 0 {
            frames.extend(
                connection(end(&here, 50_000 + client), end(there, 443)).into_iter().skip(2),
            );
        } else if client % 3 == 0 {
            frames.extend(connection(end(&here, 50_000 + client), end(there, 443)));
        }
    }
    pcap(PLAIN, &(0..).map(|n| BEGIN + n * 31_000_000).zip(frames).collect())
}

#[test]
fn the_example_in_the_documentation_is_as_shown() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/examples/web.pcap");
    if std::env::var_os("TESTUDO_BLESS").is_some() {
        fs::write(&path, example()).expect("docs/examples can be written");
    }
    let bytes = fs::read(&path).expect("docs/examples/web.pcap");
    assert!(bytes == example(), "TESTUDO_BLESS=1 cargo test -p testudo --test replay");
    assert!(bytes.len() < 20 << 10, "{} bytes", bytes.len());
    let output = replay(&write("web.pcap", &bytes), &["--nodes", "3"]);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let (_, shown) = text.split_once("web.pcap: ").expect("the file's name");
    assert_eq!(shown, EXAMPLE);
}

const EXAMPLE: &str = "\
189 packets in 5.828 s

NODE  BUCKETS  PACKETS  BYTES  DROPPED  FLOWS  NODE-TABLE  AT-MOST  COMMON-TABLE
n1         86       59   4606       10     17          17       17            52
n2         85       41   3274        5     13          13       13            52
n3         85       89   6546       10     22          22       22            52

balance (most/mean): packets 1.413, flows 1.269

OUTCOME         PACKETS
forwarded           164
drop.not-first       25
";
