//! Both ends of the control socket together, and the JSON between them.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;
use testudo_packet::bucket::{BucketId, Epoch};
use testudo_packet::entry::{FlowRecord, FlowState};
use testudo_packet::flow::{Endpoint, FlowKey, Protocol};
use testudo_packet::tracking::Phase;

use super::client::{Client, ClientError};
use super::protocol::*;
use super::server::{MAX_CLIENTS, Server, SocketError};
use super::session::PATIENCE;

const LIMIT: Duration = Duration::from_secs(20);

/// A directory of one test's own, which goes when it is dropped.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("testudo-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("n1.sock")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn status_json() -> serde_json::Value {
    json!({
        "node": "n1", "cluster": "lab", "mode": "shared", "role": "member",
        "tls": {"valid_until": "2027-12-27 03:14 UTC", "days_left": 397, "refused": null,
                "authorities": ["CN=Testudo authority 01020304 of lab"]},
        "lease": {"held": true, "remaining_ms": 87},
        "buckets": {"total": 256, "owned": 86, "loading": 0},
        "node_table": {"entries": 334, "capacity": 262_144, "foreign": 0, "not_replicated": 0},
        "common_table": {"entries": 1000, "digest": "0123456789abcdef"},
        "copies": {"replicas": "1", "kept": 171, "taken_without": 0},
        "peers": [
            {"name": "n2", "state": "alive", "heard_ms": 3,
             "sync": sync_json(true, 12, 0)},
            {"name": "n3", "state": "fenced", "heard_ms": null,
             "sync": sync_json(false, 0, 7)},
        ],
        "takeovers": 1, "takeover": {"first_packet_micros": 900}, "buckets_taken": 43,
        "counters": {"forwarded": 12, "drop_no_rule": 0},
    })
}

fn sync_json(connected: bool, sent: u64, pending: u64) -> serde_json::Value {
    json!({
        "connected": connected, "sent": sent, "acknowledged": sent, "pending": pending,
        "lag_us": 0, "delay_p50_us": 420, "delay_p99_us": null, "coalesced": 3, "resyncs": 0,
        "bytes_sent": 64 * sent, "bytes_received": 0,
        "rejected": {"older": 2, "not_owner": 0, "full": 0, "no_such_bucket": 0, "unknown": 0,
                     "not_kept": 0},
        "comparison": {
            "equal": 9, "caught_up": 1, "diverged": 1, "repaired": 1, "resent": 40,
            "last": {"bucket": 17, "ago_ms": 5200,
                     "repair": {"took_us": 2100, "snapshots": 1, "records": 4}}},
    })
}

fn record() -> FlowRecord {
    let v4 = |a: [u8; 4], port| Endpoint { address: std::net::IpAddr::from(a).into(), port };
    FlowRecord {
        translation: None,
        bucket: BucketId(7),
        epoch: Epoch(2),
        key: FlowKey {
            initiator: v4([10, 10, 0, 9], 40_000),
            responder: v4([10, 20, 0, 9], 443),
            protocol: Protocol::TCP,
        },
        state: FlowState { phase: Phase::Established, confirmed: true, rule: 3, sequence: 4 },
    }
}

fn answer(request: Request) -> Reply {
    match request {
        Request::Status {} => Reply::Status(serde_json::from_value(status_json()).unwrap()),
        Request::Buckets { bucket } => Reply::error(format!("bucket {bucket:?} is not known")),
        Request::Flows { limit, .. } => Reply::Flows(Flows {
            flows: vec![Flow::new(&record(), None); limit as usize],
            truncated: true,
        }),
        Request::Drain { node, dry_run } => {
            Reply::Plan(Plan { dry_run, ..plan(&format!("{node} is drained")) })
        }
        Request::Health {} => Reply::Health(health()),
        other => Reply::error(format!("{other:?} is not known")),
    }
}

fn plan(reason: &str) -> Plan {
    Plan {
        dry_run: false,
        moves: vec![Move { bucket: 7, from: Some("n2".into()), to: "n1".into() }],
        shares: vec![Share {
            node: "n1".into(),
            buckets_before: 85,
            buckets_after: 86,
            percent_before: 20.5,
            percent_after: 21.0,
        }],
        can_carry: true,
        reason: reason.into(),
    }
}

fn health() -> Health {
    let item = HealthItem {
        name: "link in0".into(),
        state: HealthState::Bad,
        reason: "it is set down".into(),
        for_ms: 40,
    };
    Health { node: "n1".into(), fit: false, items: vec![item] }
}

/// What one request line is answered with.
fn ask(socket: &Path, line: &str) -> serde_json::Value {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(line.as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    serde_json::from_str(&reply).unwrap()
}

#[test]
fn requests_are_the_lines_that_scripts_write() {
    let read = |line| serde_json::from_str::<Request>(line).unwrap();
    assert_eq!(read(r#"{"cmd":"status"}"#), Request::Status {});
    assert_eq!(read(r#"{"cmd":"buckets"}"#), Request::Buckets { bucket: None });
    let flows = Request::Flows { table: Table::Common, bucket: None, limit: 10 };
    assert_eq!(read(r#"{"cmd":"flows","table":"common","limit":10}"#), flows);
    let flows = Request::Flows { table: Table::Node, bucket: Some(3), limit: DEFAULT_FLOWS };
    assert_eq!(read(r#"{"cmd":"flows","bucket":3}"#), flows);
    for wrong in [
        r#"{"cmd":"status","x":1}"#,
        r#"{"cmd":"flows","table":"other"}"#,
        r#"{"cmd":"flows","limit":-1}"#,
        r#"{"cmd":"buckets","bucket":65536}"#,
    ] {
        assert!(serde_json::from_str::<Request>(wrong).is_err(), "{wrong}");
    }
    let written = serde_json::to_string(&Request::Buckets { bucket: None }).unwrap();
    assert_eq!(written, r#"{"cmd":"buckets"}"#);
}

#[test]
fn replies_are_the_objects_that_scripts_read() {
    let status: Status = serde_json::from_value(status_json()).unwrap();
    let written = serde_json::to_value(Reply::Status(Box::new(status))).unwrap();
    assert_eq!(written, status_json());
    let bucket = Bucket {
        bucket: 0,
        owner: Some("n1".into()),
        successors: vec!["n2".into(), "n3".into()],
        epoch: 1,
        state: BucketState::Active,
        entries: 3,
    };
    assert_eq!(
        serde_json::to_value(Reply::Buckets(Buckets { buckets: vec![bucket] })).unwrap(),
        json!({"buckets": [{"bucket": 0, "owner": "n1", "successors": ["n2", "n3"], "epoch": 1,
                            "state": "active", "entries": 3}]})
    );
    let flow = json!({
        "protocol": "tcp",
        "initiator": {"address": "10.10.0.9", "port": 40_000},
        "responder": {"address": "10.20.0.9", "port": 443},
        "phase": "established", "confirmed": true, "rule": 3, "bucket": 7, "epoch": 2,
        "sequence": 4,
    });
    assert_eq!(serde_json::to_value(Flow::new(&record(), None)).unwrap(), flow);
    assert_eq!(serde_json::to_value(Reply::error("no")).unwrap(), json!({"error": "no"}));
}

#[test]
fn orders_are_the_lines_that_scripts_write() {
    let read = |line| serde_json::from_str::<Request>(line).unwrap();
    let node = || "n2".to_owned();
    let drain = Request::Drain { node: node(), dry_run: false };
    assert_eq!(read(r#"{"cmd":"drain","node":"n2"}"#), drain);
    let undrain = Request::Undrain { node: node(), dry_run: true };
    assert_eq!(read(r#"{"cmd":"undrain","node":"n2","dry_run":true}"#), undrain);
    let moving = Request::Move { bucket: 7, node: node(), dry_run: false };
    assert_eq!(read(r#"{"cmd":"move","bucket":7,"node":"n2"}"#), moving);
    assert_eq!(read(r#"{"cmd":"history"}"#), Request::History { limit: DEFAULT_CHANGES });
    for order in [
        drain,
        undrain,
        moving,
        Request::Map {},
        Request::History { limit: 3 },
        Request::Health {},
        Request::Restart {},
    ] {
        let line = serde_json::to_string(&order).unwrap();
        assert_eq!(serde_json::from_str::<Request>(&line).unwrap(), order, "{line}");
    }
    // Half an order is none: a misspelt dry_run must not become a drain.
    for wrong in [
        r#"{"cmd":"drain","node":"n2","dryrun":true}"#,
        r#"{"cmd":"drain"}"#,
        r#"{"cmd":"move","bucket":7}"#,
        r#"{"cmd":"restart","now":true}"#,
    ] {
        assert!(serde_json::from_str::<Request>(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn what_operators_are_told_are_the_objects_that_scripts_read() {
    assert_eq!(
        serde_json::to_value(Reply::Plan(plan("as it is"))).unwrap(),
        json!({"dry_run": false, "moves": [{"bucket": 7, "from": "n2", "to": "n1"}],
               "shares": [{"node": "n1", "buckets_before": 85, "buckets_after": 86,
                           "percent_before": 20.5, "percent_after": 21.0}],
               "can_carry": true, "reason": "as it is"})
    );
    assert_eq!(
        serde_json::to_value(Reply::Health(health())).unwrap(),
        json!({"node": "n1", "fit": false, "items": [
            {"name": "link in0", "state": "bad", "reason": "it is set down", "for_ms": 40}]})
    );
    let map = json!({
        "version": 3, "coordinator": "embedded", "leader": null,
        "nodes": [{"node": "n1", "weight": 100, "witness": false, "voter": true, "admitted": null,
                   "drained": false, "buckets": 2}],
        "ranks": [["n1", "n2"], []],
    });
    let read: Map = serde_json::from_value(map.clone()).unwrap();
    assert_eq!(serde_json::to_value(Reply::Map(read)).unwrap(), map);
    let history = json!({"truncated": false,
                         "changes": [{"version": 3, "change": "c", "reason": "r"}]});
    let read: History = serde_json::from_value(history.clone()).unwrap();
    assert_eq!(serde_json::to_value(Reply::History(read)).unwrap(), history);
    let restarting = Restarting { node: "n1".into(), process: 12 };
    let written = serde_json::to_value(Reply::Restarting(restarting)).unwrap();
    assert_eq!(written, json!({"node": "n1", "process": 12}));
}

#[test]
fn orders_go_over_the_socket_and_back() {
    let directory = Directory::new("orders");
    let server = Server::start(&directory.socket(), answer).unwrap();
    let mut client = Client::connect(server.path(), LIMIT).unwrap();
    let order = Request::Drain { node: "n2".into(), dry_run: true };
    let told = client.plan(&order).unwrap();
    assert_eq!(told, Plan { dry_run: true, ..plan("n2 is drained") });
    assert_eq!(client.health().unwrap(), health());
    let refused = client.restart().unwrap_err().to_string();
    assert!(refused.ends_with("refused: Restart is not known"), "{refused}");
}

#[test]
fn a_node_answers_its_owner_only() {
    let directory = Directory::new("answers");
    let server = Server::start(&directory.socket(), answer).unwrap();
    let mode = fs::metadata(server.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut client = Client::connect(server.path(), LIMIT).unwrap();
    for _ in 0..3 {
        assert_eq!(serde_json::to_value(client.status().unwrap()).unwrap(), status_json());
    }
    let refused = client.buckets(Some(9)).unwrap_err().to_string();
    assert!(refused.ends_with("refused: bucket Some(9) is not known"), "{refused}");
    assert_eq!(ask(server.path(), "{\"cmd\":\"status\"}"), status_json());
    drop(server);
    assert!(!directory.socket().exists());
}

#[test]
fn the_largest_reply_arrives_whole() {
    let directory = Directory::new("large");
    let server = Server::start(&directory.socket(), answer).unwrap();
    let mut client = Client::connect(server.path(), Duration::from_secs(20)).unwrap();
    let flows = client.flows(Table::Node, None, MAX_FLOWS).unwrap();
    assert_eq!(flows.flows.len(), MAX_FLOWS as usize);
    let activity = Activity {
        original_packets: u64::MAX,
        original_bytes: u64::MAX,
        reply_packets: u64::MAX,
        reply_bytes: u64::MAX,
        idle_ms: u64::MAX,
    };
    let address = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff0".parse().unwrap();
    let endpoint = super::protocol::Endpoint { address, port: u16::MAX };
    let window = Window { sent: u32::MAX, room: u32::MAX, shift: Some(14), strict: false };
    let widest = Flow {
        initiator: endpoint,
        responder: endpoint,
        translation: Some(Translation { source: endpoint, destination: endpoint }),
        phase: "syn-received".into(),
        protocol: "icmpv6".into(),
        bucket: u16::MAX,
        epoch: u32::MAX,
        sequence: u32::MAX,
        rule: u16::MAX,
        confirmed: false,
        activity: Some(activity),
        replicated: Some(false),
        learned: Some(Learned::Windows([window; 2])),
    };
    let bytes = serde_json::to_string(&widest).unwrap().len() + 1;
    assert!(bytes * MAX_FLOWS as usize + 64 < MAX_REPLY, "a flow can take {bytes} bytes");
}

#[test]
fn a_client_that_keeps_still_holds_nobody() {
    let directory = Directory::new("still");
    let server = Server::start(&directory.socket(), answer).unwrap();
    let mut greedy = UnixStream::connect(server.path()).unwrap();
    greedy.write_all(b"{\"cmd\":\"flows\",\"limit\":50000}\n").unwrap();
    let mut silent = UnixStream::connect(server.path()).unwrap();
    silent.write_all(b"{\"cmd\":").unwrap();
    let begun = Instant::now();
    Client::connect(server.path(), LIMIT).unwrap().status().unwrap();
    silent.set_read_timeout(Some(PATIENCE * 2)).unwrap();
    assert_eq!(silent.read(&mut [0]).unwrap(), 0, "it is let go");
    assert!(begun.elapsed() >= PATIENCE - Duration::from_millis(100));
    greedy.set_read_timeout(Some(LIMIT)).unwrap();
    let mut rest = Vec::new();
    let _ = greedy.read_to_end(&mut rest);
    assert!(!rest.ends_with(b"\n"), "the reply was read by nobody and so is not whole");
}

#[test]
fn one_client_too_many_is_told_so() {
    let directory = Directory::new("many");
    let server = Server::start(&directory.socket(), answer).unwrap();
    let mut clients: Vec<Client> =
        (0..MAX_CLIENTS).map(|_| Client::connect(server.path(), LIMIT).unwrap()).collect();
    for client in &mut clients {
        client.status().unwrap();
    }
    let refused = Client::connect(server.path(), LIMIT).unwrap().status().unwrap_err();
    let words = "refused: 16 clients are served already; try again later";
    assert!(refused.to_string().ends_with(words), "{refused}");
    drop(clients.pop());
    let begun = Instant::now();
    while Client::connect(server.path(), LIMIT).unwrap().status().is_err() {
        assert!(begun.elapsed() < LIMIT, "a place that is free is given again");
    }
    clients[0].status().unwrap();
}

#[test]
fn a_running_node_keeps_its_socket() {
    let directory = Directory::new("running");
    let server = Server::start(&directory.socket(), answer).unwrap();
    let error = Server::start(server.path(), answer).unwrap_err();
    assert!(matches!(error, SocketError::InUse { .. }));
    let words = format!("node n1 of cluster lab answers on {} already", server.path().display());
    assert!(error.to_string().starts_with(&words), "{error}");
    Client::connect(server.path(), LIMIT).unwrap().status().unwrap();
}

#[test]
fn a_stopped_node_keeps_its_socket_too() {
    let directory = Directory::new("stopped");
    let _listener = UnixListener::bind(directory.socket()).unwrap();
    let error = Server::start(&directory.socket(), answer).unwrap_err();
    assert!(error.to_string().starts_with("a node that does not say who it is answers"), "{error}");
    let limit = Duration::from_millis(50);
    let late = Client::connect(&directory.socket(), limit).unwrap().status().unwrap_err();
    assert!(matches!(late, ClientError::Late { .. }), "{late}");
}

#[test]
fn a_full_backlog_is_a_late_answer() {
    let directory = Directory::new("backlog");
    let _listener = UnixListener::bind(directory.socket()).unwrap();
    let limit = Duration::from_millis(20);
    let mut waiting = Vec::new();
    let late = loop {
        match Client::connect(&directory.socket(), limit) {
            Ok(client) => waiting.push(client),
            Err(error) => break error,
        }
        assert!(waiting.len() < 10_000, "the backlog has no end");
    };
    assert!(matches!(late, ClientError::Late { .. }), "{late}");
}

#[test]
fn a_dead_nodes_socket_is_replaced() {
    let directory = Directory::new("dead");
    drop(UnixListener::bind(directory.socket()).unwrap());
    let dead = Client::connect(&directory.socket(), LIMIT).unwrap_err().to_string();
    assert!(dead.contains("Connection refused") && dead.contains("`testudo node`"), "{dead}");
    let server = Server::start(&directory.socket(), answer).unwrap();
    Client::connect(server.path(), LIMIT).unwrap().status().unwrap();
}

#[test]
fn what_is_no_socket_is_left_alone() {
    let directory = Directory::new("file");
    fs::write(directory.socket(), "precious").unwrap();
    let error = Server::start(&directory.socket(), answer).unwrap_err();
    assert!(matches!(error, SocketError::NotASocket { .. }), "{error}");
    assert_eq!(fs::read_to_string(directory.socket()).unwrap(), "precious");
}

#[test]
fn a_server_removes_its_own_socket_only() {
    let directory = Directory::new("own");
    let first = Server::start(&directory.socket(), answer).unwrap();
    fs::remove_file(directory.socket()).unwrap();
    let second = Server::start(&directory.socket(), answer).unwrap();
    drop(first);
    Client::connect(second.path(), LIMIT).unwrap().status().unwrap();
}

#[test]
fn of_nodes_that_start_at_once_one_gets_the_socket() {
    let directory = Directory::new("race");
    for _ in 0..20 {
        drop(UnixListener::bind(directory.socket()).unwrap());
        let start = || Server::start(&directory.socket(), answer);
        let started = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(start)).collect();
            threads.into_iter().filter_map(|thread| thread.join().unwrap().ok()).collect::<Vec<_>>()
        });
        assert_eq!(started.len(), 1);
        Client::connect(&directory.socket(), LIMIT).unwrap().status().unwrap();
    }
}

#[test]
fn a_socket_that_is_not_there_is_named() {
    let error = Client::connect(Path::new("/nonexistent/n1.sock"), LIMIT).unwrap_err().to_string();
    let words = "no node answers on /nonexistent/n1.sock: No such file or directory (os error 2); \
                 expected a running `testudo node`";
    assert_eq!(error, words);
}
