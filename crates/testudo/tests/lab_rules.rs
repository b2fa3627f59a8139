//! A file of rules, with the real program and the real kernel: what each line lets in is counted, a file that is
//! refused changes nothing, and one that is taken keeps what is established.
//!
//! Needs root; ignored, with the reason, without it.

#[path = "../../datapath/tests/privileged/mod.rs"]
mod privileged;
#[allow(dead_code, reason = "each file of tests uses its part")]
mod standing;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use standing::Standing;

const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// How many connections there are: each node has some of them.
const CONNECTIONS: u64 = 40;
const PATIENCE: Duration = Duration::from_secs(10);
const PORT: u16 = 7200;
const OTHER_PORT: u16 = 7201;
const KEPT_PORT: u16 = 7205;

const FIRST: &str = "\
# what the test begins with
set client = { 10.10.0.0/16, fd10::/64 }
iif \"in0\" oif \"out0\" saddr @client proto tcp dport { 7200, 7205-7209, 7300-7310 } accept replicate established count
proto tcp dport 7201 reject
proto udp dport 7201 log \"udp\" reject
";

const SECOND: &str = "\
drop iif \"in0\" proto tcp dport 7300-7310
proto tcp dport 7201 reject
proto tcp dport 7200 drop
";

fn testudo(standing: &Standing, node: &str, arguments: &[&str]) -> Output {
    let socket = standing.file(&format!("{node}.sock"));
    let mut testudo = Command::new(env!("CARGO_BIN_EXE_testudo"));
    testudo.args(arguments).arg("--socket").arg(socket).output().expect("start testudo")
}

/// The configuration with a file in the place of its rules.
fn with_file(text: &str, file: &Path) -> String {
    let (before, rules) = text.split_once("\n[[rule]]").expect("rules");
    let after = rules
        .split_once("\n[timeouts]")
        .map_or(String::new(), |(_, rest)| format!("\n[timeouts]{rest}"));
    let key = format!("[node]\nrules = \"{}\"", file.display());
    before.replacen("[node]", &key, 1) + &after
}

/// The lines in force on a node.
fn lines(standing: &Standing, node: &str) -> Vec<Value> {
    let rules = standing.ask(node, &["rule", "show"]).expect("rules");
    rules["lines"].as_array().expect("a list").clone()
}

/// How many flows a line has let in or refused on all nodes, by its place.
fn flows(standing: &Standing, line: usize) -> u64 {
    NODES.iter().filter_map(|node| lines(standing, node)[line]["flows"].as_u64()).sum()
}

/// The same of all lines, each node's.
fn shown(standing: &Standing) -> Vec<Vec<Value>> {
    NODES.iter().map(|node| lines(standing, node)).collect()
}

fn serve(listener: &TcpListener) {
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { return };
        thread::spawn(move || {
            let mut bytes = [0; 8];
            while stream.read_exact(&mut bytes).is_ok() && stream.write_all(&bytes).is_ok() {}
        });
    }
}

fn echo(mut stream: &TcpStream) {
    let mut bytes = [0; 8];
    stream.set_read_timeout(Some(PATIENCE)).expect("a stream");
    stream.write_all(b"all well").expect("room to send");
    stream.read_exact(&mut bytes).expect("an echo");
    assert_eq!(&bytes, b"all well");
}

fn connect(port: u16, patience: Duration) -> std::io::Result<TcpStream> {
    TcpStream::connect_timeout(&SocketAddr::from(([10, 20, 2, 1], port)), patience)
}

/// What comes back for a datagram to a port that is rejected.
fn datagram() -> ErrorKind {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    socket.connect(SocketAddr::from(([10, 20, 2, 1], OTHER_PORT))).expect("a route");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    socket.send(b"anybody?").expect("room to send");
    socket.recv(&mut [0; 8]).expect_err("nobody answers").kind()
}

fn load_everywhere(standing: &Standing, text: &str) -> Vec<Output> {
    let load = |node: &&str| {
        let file = standing.file(&format!("{node}.rules"));
        fs::write(&file, text).expect("a file of rules");
        testudo(standing, node, &["rule", "load", &file.display().to_string()])
    };
    NODES.iter().map(load).collect()
}

fn a_successor_knows_lines_by_the_numbers_that_flows_have() {
    let (standing, streams) = up();
    for output in load_everywhere(&standing, SECOND) {
        assert!(output.status.success(), "{output:?}");
    }
    let numbers = || -> Option<Vec<u64>> {
        let shown = standing.ask("n1", &["rule", "show"])?;
        shown["lines"].as_array()?.iter().map(|line| line["number"].as_u64()).collect()
    };
    assert_eq!(numbers(), Some(vec![3, 1, 4]));
    standing.settled();
    // One line more in the file that the successor reads, before all that were there.
    let more = format!("proto tcp dport 7209 accept\n{SECOND}");
    fs::write(standing.file("n1.rules"), more).expect("a file of rules");
    assert!(standing.tell("n1", &["node", "restart"]));
    standing.await_line("n1", &["goes on where the one before has stopped"]);
    standing.until("it answers", || numbers().is_some_and(|numbers| numbers.len() == 4));
    let [new, rest @ ..] = &numbers().expect("rules")[..] else { panic!("no lines") };
    assert_eq!(rest, [3, 1, 4]);
    // The flows of a line that is gone are there, and nobody else has their number.
    assert_eq!(*new, 2);
    streams.iter().for_each(echo);
}

fn flows_end_that_would_not_be_let_in_when_that_is_asked_for() {
    let (standing, streams) = up();
    let kept = standing.inside("client", || connect(KEPT_PORT, PATIENCE).expect("a connection"));
    echo(&kept);
    let text = "iif in0 proto tcp dport 7205 accept\nproto udp dport 7200 accept\n";
    for node in NODES {
        let file = standing.file(&format!("{node}.rules"));
        fs::write(&file, text).expect("a file of rules");
        let load = ["rule", "load", "--flush", &file.display().to_string()].map(str::to_owned);
        let load: Vec<_> = load.iter().map(String::as_str).collect();
        assert!(testudo(&standing, node, &load).status.success());
    }
    let flushed = || NODES.iter().map(|n| standing.counter(n, "engine_flows_flushed")).sum::<u64>();
    standing.until("the flows are ended", || flushed() >= CONNECTIONS);
    assert_eq!(flushed(), CONNECTIONS);
    let left = || -> Vec<u64> {
        let of = |node: &&str| {
            standing.ask(node, &["flow", "show", "--table", "common"]).expect("flows")
        };
        let all = NODES.iter().map(of);
        all.map(|shown| shown["flows"].as_array().expect("a list").len() as u64).collect()
    };
    standing.until("all nodes know only the one that stays", || left() == [1, 1, 1]);
    echo(&kept);
    for mut stream in &streams {
        stream.write_all(b"is there").expect("room to send");
    }
    thread::sleep(Duration::from_secs(2));
    for mut stream in &streams {
        stream.set_nonblocking(true).expect("a stream");
        let heard = stream.read(&mut [0; 8]).map_err(|error| error.kind());
        assert_eq!(heard, Err(ErrorKind::WouldBlock));
    }
    for node in NODES {
        assert!(standing.tell(node, &["sync", "verify"]), "{node}");
        assert_eq!(standing.counter(node, "engine_flows_put_right"), 0, "{node}");
    }
}

fn sources_are_translated_by_rules_that_are_loaded_while_packets_go() {
    let (standing, streams) = up();
    let bind = || TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], 7300)));
    let listener = standing.inside("server", bind).expect("a listener");
    // A connection, its end at the server, and whom the server takes it to be from.
    let begin = || {
        let stream = standing.inside("client", || connect(7300, PATIENCE)).expect("a connection");
        let (mut served, from) = listener.accept().expect("a connection");
        thread::spawn(move || {
            let mut bytes = [0; 8];
            while served.read_exact(&mut bytes).is_ok() && served.write_all(&bytes).is_ok() {}
        });
        echo(&stream);
        (stream, from)
    };
    let (plain, from) = begin();
    assert_eq!(from, plain.local_addr().expect("an address"));

    let masquerade = "iif in0 oif out0 proto tcp dport 7300 masquerade accept\n";
    for output in load_everywhere(&standing, masquerade) {
        assert!(output.status.success(), "{output:?}");
    }
    let translated: Vec<_> = (0..8).map(|_| begin()).collect();
    for (stream, from) in &translated {
        assert_eq!(from.ip().to_string(), "10.20.0.1", "{stream:?}");
    }
    let told = standing.ask("n1", &["explain", "10.10.2.1", "10.20.2.1", "tcp", "7300"]);
    let told = told.expect("an explanation");
    let seen = &told["decisions"][0]["translation"]["source"]["address"];
    assert_eq!(seen, "10.20.0.1", "{told}");

    // What is refused changes nothing.
    let before = shown(&standing);
    for output in load_everywhere(&standing, "proto tcp dnat nobody accept\n") {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(":1:16: nobody, which there is not; expected a section"), "{said}");
    }
    assert_eq!(shown(&standing), before);

    // Other addresses take the place of those, and flows keep what they have.
    let other = "iif in0 proto tcp dport 7300 snat 10.20.0.7 accept\n";
    for output in load_everywhere(&standing, other) {
        assert!(output.status.success(), "{output:?}");
    }
    let told = standing.ask("n1", &["explain", "10.10.2.1", "10.20.2.1", "tcp", "7300"]);
    let told = told.expect("an explanation");
    assert_eq!(told["decisions"][0]["translation"]["source"]["address"], "10.20.0.7", "{told}");
    let all = translated.iter().map(|(stream, _)| stream).chain([&plain]).chain(&streams);
    all.for_each(echo);
}

/// A cluster with a file of rules, and connections through it that have been echoed on.
fn up() -> (Standing, Vec<TcpStream>) {
    let standing = Standing::bare("rules", 3, &[]);
    for node in NODES {
        let file = standing.file(&format!("{node}.rules"));
        fs::write(&file, FIRST).expect("a file of rules");
        standing.edit(node, |text| with_file(&text, &file));
        standing.order("start", node);
    }
    standing.await_owners(&[1, 2, 3]);
    for port in [PORT, OTHER_PORT, KEPT_PORT] {
        let bind = || TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port)));
        let listener = standing.inside("server", bind).expect("a listener");
        thread::spawn(move || serve(&listener));
    }
    let streams: Vec<_> = standing.inside("client", || {
        (0..CONNECTIONS).map(|_| connect(PORT, PATIENCE).expect("a connection")).collect()
    });
    streams.iter().for_each(echo);
    (standing, streams)
}

/// All nodes say the same of a packet but whose it is, and its owner knows the flow.
fn a_packet_is_told_what_it_would_meet(standing: &Standing, streams: &[TcpStream]) {
    let from = streams[0].local_addr().expect("an address");
    let (source, ports) = (from.ip().to_string(), format!("{}:{PORT}", from.port()));
    let ask = |node, more: &[&str]| {
        let question = [&["explain", &source, "10.20.2.1", "tcp"], more].concat();
        standing.ask(node, &question).expect("an explanation")
    };
    let told = NODES.map(|node| ask(node, &[&ports]));
    let owner = told[0]["bucket"]["owner"].as_str().expect("an owner").to_owned();
    for (node, told) in NODES.iter().zip(&told) {
        assert_eq!(told["bucket"]["owner"], owner, "{told}");
        assert_eq!(told["place"]["bucket"], told["bucket"]["bucket"], "{told}");
        assert_eq!(told["flow"]["phase"], "established", "{told}");
        assert_eq!(told["flow"].get("activity").is_some(), *node == owner, "{told}");
        let [by_in0, by_out0] = &told["decisions"].as_array().expect("a list")[..] else {
            panic!("{told}")
        };
        assert_eq!(
            (&by_in0["interfaces"][0], &by_in0["outcome"]),
            (&"in0".into(), &"forward".into())
        );
        assert_eq!(
            (&by_in0["rule"]["line"], &by_in0["replicate"]),
            (&3.into(), &"established".into())
        );
        assert_eq!(
            (&by_out0["outcome"], &by_out0["drop"]),
            (&"drop".into(), &"drop.no-rule".into())
        );
    }
    assert_eq!(told[0]["next_hop"]["interface"], "out0", "{}", told[0]);
    let refused = ask("n1", &["7201", "--iif", "in0"]);
    assert_eq!(
        (&refused["flow"], &refused["decisions"][0]["outcome"]),
        (&Value::Null, &"reject".into())
    );
    let nothing = testudo(standing, "n1", &["explain", "10.10.2.1", "10.20.2.1", "tcp", "x"]);
    assert_eq!(nothing.status.code(), Some(1));
    let said = String::from_utf8_lossy(&nothing.stderr).into_owned();
    assert!(said.contains("\"x\" for protocol tcp; expected a port such as 443"), "{said}");
}

/// A hundred thousand prefixes, with the server among them or not, and rules that let in what is not listed.
fn list(standing: &Standing, with_server: bool) {
    let mut list: String = (0..100_000)
        .map(|n| format!("{}.{}.{}.0/25\n", 30 + n / 65_536, n / 256 % 256, n % 256))
        .collect();
    if with_server {
        list.push_str("10.20.2.1 # the server\n");
    }
    fs::write(standing.file("bad.list"), list).expect("a list");
}

const LISTED: &str = "set bad = file \"bad.list\"
daddr @bad reject
zone inside = { in0 }
oif @inside drop
iif @inside proto tcp dport 7200-7209 accept
";

fn load_list(standing: &Standing, with_server: bool) {
    list(standing, with_server);
    for output in load_everywhere(standing, LISTED) {
        assert!(output.status.success(), "{output:?}");
    }
}

/// Whether a new connection is let in; else it is refused at once.
fn is_let_in(standing: &Standing) -> bool {
    match standing.inside("client", || connect(PORT, PATIENCE)) {
        Ok(stream) => {
            echo(&stream);
            true
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
            false
        }
    }
}

fn a_list_of_a_hundred_thousand_prefixes_is_put_in_force_while_packets_go() {
    let (standing, streams) = up();
    list(&standing, false);
    let begun = Instant::now();
    load_list(&standing, false);
    println!("three nodes have loaded a list of 100,000 prefixes in {:?}", begun.elapsed());
    assert!(is_let_in(&standing));
    let rules = standing.ask("n1", &["rule", "show"]).expect("rules");
    let set = &rules["sets"][0];
    assert_eq!(
        (&set["name"], &set["listed"], &set["line"]),
        (&"bad".into(), &100_000.into(), &1.into())
    );
    let numbers = |node| -> Vec<Option<u64>> {
        lines(&standing, node).iter().map(|line| line["number"].as_u64()).collect()
    };
    let before = numbers("n1");

    // The line is the same when what is on the list changes, and established flows stay.
    load_list(&standing, true);
    assert!(!is_let_in(&standing));
    assert_eq!(numbers("n1"), before);
    streams.iter().for_each(echo);
    let told =
        standing.ask("n2", &["explain", "10.10.2.1", "10.20.2.1", "tcp", "7200", "--iif", "in0"]);
    let told = told.expect("an explanation");
    assert_eq!(
        (&told["decisions"][0]["rule"]["line"], &told["decisions"][0]["outcome"]),
        (&2.into(), &"reject".into())
    );

    // A successor reads the list anew, and takes out what was loaded before.
    standing.settled();
    assert!(standing.tell("n1", &["node", "restart"]));
    standing.await_line("n1", &["goes on where the one before has stopped"]);
    standing.until("it answers", || standing.ask("n1", &["rule", "show"]).is_some());
    for _ in 0..8 {
        assert!(!is_let_in(&standing));
    }
    load_list(&standing, false);
    for _ in 0..8 {
        assert!(is_let_in(&standing));
    }
    streams.iter().for_each(echo);
    for node in NODES {
        assert_eq!(standing.counter(node, "leases_lost"), 0, "{node}");
        assert!(!standing.log(node).contains("could not be taken out"), "{node}");
    }
}

fn other_rules_keep_what_is_established_and_wrong_ones_change_nothing() {
    let (standing, streams) = up();
    assert_eq!(flows(&standing, 0), CONNECTIONS);
    let counted = NODES.iter().map(|node| standing.counter(node, "rule_3"));
    assert_eq!(counted.sum::<u64>(), CONNECTIONS);

    a_packet_is_told_what_it_would_meet(&standing, &streams);

    // Who is rejected hears of it, and at once.
    let refused =
        standing.inside("client", || connect(OTHER_PORT, PATIENCE).expect_err("no connection"));
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(standing.inside("client", datagram), ErrorKind::HostUnreachable);
    assert_eq!((flows(&standing, 1), flows(&standing, 2)), (1, 1));
    standing.until("the log says so", || {
        NODES.iter().any(|node| standing.log(node).contains("udp: a flow was refused"))
    });

    let before = shown(&standing);
    for output in load_everywhere(&standing, &format!("{SECOND}proto tcp dport 80- drop\n")) {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        let words = [
            "rules:4:17: 80-; expected",
            " 4 | proto tcp dport 80- drop\n",
            "the rules in force stay",
        ];
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    }
    assert_eq!(shown(&standing), before);

    // The first line is gone, the second one moves and goes on counting.
    for output in load_everywhere(&standing, SECOND) {
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains("3 lines, 1 of them as before, 3 rules"), "{said}");
    }
    let after = lines(&standing, "n1");
    let numbers: Vec<_> = after.iter().map(|line| line["number"].as_u64()).collect();
    assert_eq!(numbers, [Some(3), Some(1), Some(4)]);
    assert_eq!((flows(&standing, 0), flows(&standing, 1)), (0, 1));
    streams.iter().for_each(echo);
    let dropped = standing.inside("client", || connect(PORT, Duration::from_millis(500)));
    assert_eq!(dropped.expect_err("no connection").kind(), ErrorKind::TimedOut);
    assert!(flows(&standing, 2) > 0);

    // The flows are still those of the line that has let them in, and told of as it says.
    let all = |node| standing.ask(node, &["flow", "show"]).expect("flows");
    let mut seen = 0;
    for node in NODES {
        let of_port = |flow: &&Value| flow["responder"]["port"] == PORT;
        for flow in all(node)["flows"].as_array().expect("a list").iter().filter(of_port) {
            assert_eq!((&flow["rule"], &flow["replicated"]), (&Value::from(0), &Value::from(true)));
            seen += 1;
        }
        assert!(standing.tell(node, &["sync", "verify"]), "{node}");
    }
    assert_eq!(seen, CONNECTIONS);
}

fn main() -> std::process::ExitCode {
    privileged::run(
        &[
            (
                "other_rules_keep_what_is_established_and_wrong_ones_change_nothing",
                other_rules_keep_what_is_established_and_wrong_ones_change_nothing,
            ),
            (
                "a_list_of_a_hundred_thousand_prefixes_is_put_in_force_while_packets_go",
                a_list_of_a_hundred_thousand_prefixes_is_put_in_force_while_packets_go,
            ),
            (
                "a_successor_knows_lines_by_the_numbers_that_flows_have",
                a_successor_knows_lines_by_the_numbers_that_flows_have,
            ),
            (
                "sources_are_translated_by_rules_that_are_loaded_while_packets_go",
                sources_are_translated_by_rules_that_are_loaded_while_packets_go,
            ),
            (
                "flows_end_that_would_not_be_let_in_when_that_is_asked_for",
                flows_end_that_would_not_be_let_in_when_that_is_asked_for,
            ),
        ],
        &[],
    )
}
