//! The etcd coordinator against a real etcd that each test starts on loopback ports of its own.
//!
//! Ignored, with the reason, where there is no `etcd` program (Debian: etcd-server).

#[path = "etcd/certificates.rs"]
mod certificates;
#[path = "../src/node/coordination/etcd/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the daemon uses the rest")]
mod etcd;
#[path = "etcd/server.rs"]
mod server;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use etcd::{Answer, Etcd, Request, Settings, Tls};
use libtest_mimic::{Arguments, Completion, Trial};
use server::Server;
use testudo_coordinator::StateMachine;
use testudo_packet::bucket::NodeId;

/// Its value is all commands that it took, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Book(Vec<String>);

impl StateMachine for Book {
    /// `!...` is refused, also if it was taken before: `once N` is taken once.
    fn apply(&mut self, command: &[u8]) -> Result<(), String> {
        let line = String::from_utf8(command.to_vec()).map_err(|error| error.to_string())?;
        if line.starts_with('!') || self.0.contains(&line) {
            return Err(format!("{line} again"));
        }
        self.0.push(line);
        Ok(())
    }

    fn voters(&self) -> Vec<NodeId> {
        vec![NodeId(0)]
    }

    fn encode(&self) -> Vec<u8> {
        self.0.join("\n").into_bytes()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
        let text = std::str::from_utf8(snapshot).map_err(|error| error.to_string())?;
        self.0 = text.lines().map(str::to_owned).collect();
        Ok(())
    }
}

const LEASE: Duration = Duration::from_secs(4);

/// A node, and what it has been told.
struct Node {
    etcd: Etcd<Book>,
    lines: Vec<String>,
    leads: bool,
    troubles: Vec<String>,
}

impl Node {
    fn start(server: &Server, node: u8) -> Self {
        Self::of(Self::settings(server, node))
    }

    fn settings(server: &Server, node: u8) -> Settings {
        Settings {
            prefix: "/testudo".to_owned(),
            cluster: "test".to_owned(),
            node: NodeId(node),
            // The first is never there: a member of etcd that is down.
            endpoints: vec![server.url_of_nobody(), server.url()],
            tls: server.tls(),
            lease: LEASE,
            snapshot_after: 5,
        }
    }

    fn of(settings: Settings) -> Self {
        let etcd = Etcd::start(settings, Book(Vec::new())).expect("good settings");
        Self { etcd, lines: Vec::new(), leads: false, troubles: Vec::new() }
    }

    fn propose(&self, line: &str) {
        self.etcd.ask(Request::Propose(line.as_bytes().to_vec())).expect("there is room");
    }

    fn listen(&mut self) {
        while let Ok(answer) = self.etcd.answers().recv_timeout(Duration::from_millis(10)) {
            match answer {
                Answer::Changed(Book(lines)) => {
                    assert!(lines.starts_with(&self.lines), "{:?} to {lines:?}", self.lines);
                    self.lines = lines;
                }
                Answer::Leads(leads) => self.leads = leads,
                Answer::Trouble(trouble) => self.troubles.push(trouble),
            }
        }
    }
}

/// Listens to all until something holds.
fn until(what: &str, nodes: &mut [Node], mut holds: impl FnMut(&[Node]) -> bool) {
    let begun = Instant::now();
    while !holds(nodes) {
        nodes.iter_mut().for_each(Node::listen);
        let told: Vec<_> = nodes.iter().map(|n| (n.lines.len(), n.leads, &n.troubles)).collect();
        assert!(begun.elapsed() < Duration::from_secs(60), "still not: {what}; {told:?}");
    }
}

fn leaders(nodes: &[Node]) -> usize {
    nodes.iter().filter(|node| node.leads).count()
}

fn start(server: &Server, count: u8) -> Vec<Node> {
    let mut nodes: Vec<Node> = (0..count).map(|node| Node::start(server, node)).collect();
    until("one leads", &mut nodes, |nodes| leaders(nodes) == 1);
    nodes
}

/// Among other things: on a busy machine etcd may be silent for a moment.
fn was_told(node: &Node, expected: &str) -> bool {
    node.troubles.iter().any(|trouble| trouble == expected)
}

fn all_have(nodes: &[Node], count: usize) -> bool {
    nodes.iter().all(|node| node.lines.len() == count && node.lines == nodes[0].lines)
}

fn racing_nodes_agree_on_one_order() {
    let server = Server::start();
    let mut nodes = start(&server, 3);
    for round in 0..6 {
        for (name, node) in nodes.iter().enumerate() {
            node.propose(&format!("{round} of {name}"));
            // All want this; one gets it.
            node.propose(&format!("{round} once"));
        }
    }
    until("all lines everywhere", &mut nodes, |nodes| all_have(nodes, 24));
    assert_eq!(leaders(&nodes), 1);
    for (name, node) in nodes.iter().enumerate() {
        let mine = format!("of {name}");
        let mine: Vec<_> = node.lines.iter().filter(|line| line.ends_with(&mine)).collect();
        assert!(mine.is_sorted(), "{mine:?}");
    }
}

fn a_refused_command_changes_nothing_anywhere() {
    let server = Server::start();
    let mut nodes = start(&server, 2);
    nodes[0].propose("!no");
    let expected = "a command may not have been agreed on: the command is refused: !no again";
    until("told", &mut nodes, |nodes| was_told(&nodes[0], expected));
    nodes[1].propose("yes");
    until("the next one", &mut nodes, |nodes| all_have(nodes, 1));
}

fn etcd_that_is_restarted_or_away_for_seconds_costs_only_time() {
    let mut server = Server::start();
    let mut nodes = start(&server, 2);
    nodes[0].propose("before");
    until("the first line", &mut nodes, |nodes| all_have(nodes, 1));
    server.kill();
    server.restart();
    nodes[1].propose("after a restart");
    until("the second line", &mut nodes, |nodes| all_have(nodes, 2));

    server.kill();
    let killed = Instant::now();
    until("nobody leads", &mut nodes, |nodes| leaders(nodes) == 0);
    assert!(killed.elapsed() < LEASE, "it led for {:?}", killed.elapsed());
    nodes[0].propose("lost");
    until("told", &mut nodes, |nodes| nodes.iter().all(|node| !node.troubles.is_empty()));
    std::thread::sleep(Duration::from_secs(3));
    server.restart();
    until("one leads again", &mut nodes, |nodes| leaders(nodes) == 1);
    nodes[0].propose("after some seconds");
    let last = |node: &Node| node.lines.last().is_some_and(|line| line == "after some seconds");
    until("the third line", &mut nodes, |nodes| nodes.iter().all(last));
}

fn a_leader_that_steps_down_or_stops_is_succeeded_at_once() {
    let server = Server::start();
    let mut nodes = start(&server, 2);
    let leader = nodes.iter().position(|node| node.leads).expect("one leads");
    nodes[leader].etcd.ask(Request::StepDown).unwrap();
    let asked = Instant::now();
    until("the other leads", &mut nodes, |nodes| nodes[1 - leader].leads && !nodes[leader].leads);
    assert!(asked.elapsed() < Duration::from_secs(2), "it took {:?}", asked.elapsed());
    let gone = nodes.remove(1 - leader);
    drop(gone);
    until("the first one again", &mut nodes, |nodes| nodes[0].leads);
    assert!(asked.elapsed() < 2 * LEASE + Duration::from_secs(2), "it took {:?}", asked.elapsed());
}

fn a_late_node_begins_with_the_snapshot_also_after_a_compaction() {
    let server = Server::start();
    let mut nodes = start(&server, 1);
    for number in 0..24 {
        nodes[0].propose(&format!("line {number}"));
    }
    until("all lines", &mut nodes, |nodes| all_have(nodes, 24));
    until("the log is cut", &mut nodes, |_| server.count("log/", "log0") <= 10);
    server.compact();
    nodes.push(Node::start(&server, 1));
    until("the late one has all", &mut nodes, |nodes| all_have(nodes, 24));
    nodes[1].propose("from the late one");
    until("both go on", &mut nodes, |nodes| all_have(nodes, 25));
}

fn a_node_that_was_paused_over_a_compaction_goes_on() {
    let mut server = Server::start();
    let mut nodes = start(&server, 2);
    nodes[0].propose("first");
    until("the first line", &mut nodes, |nodes| all_have(nodes, 1));
    // Both watches break; what happens meanwhile, and its history, they can't see.
    server.kill();
    server.restart();
    let other = Node::start(&server, 2);
    for number in 0..30 {
        other.propose(&format!("line {number}"));
    }
    server.compact();
    let mut others = [other];
    until("the writer is done", &mut others, |nodes| all_have(nodes, 31));
    nodes.extend(others);
    until("all have all", &mut nodes, |nodes| all_have(nodes, 31));
}

fn an_etcd_that_lost_the_log_is_noticed() {
    let server = Server::start();
    let mut nodes = start(&server, 1);
    nodes[0].propose("first");
    until("the first line", &mut nodes, |nodes| all_have(nodes, 1));
    server.delete("log/", "log0");
    let expected = "the keys in etcd are not as Testudo writes them: command 1 is gone";
    until("told", &mut nodes, |nodes| was_told(&nodes[0], expected));
    nodes[0].propose("second");
    let expected = format!("a command may not have been agreed on: {expected}");
    until("told again", &mut nodes, |nodes| was_told(&nodes[0], &expected));
    assert_eq!(server.count("log/", "log0"), 0);
}

fn an_etcd_is_believed_by_its_certificate_and_asks_for_one() {
    let server = Server::start_encrypted();
    let mut nodes = start(&server, 2);
    nodes[0].propose("in secret");
    until("the line", &mut nodes, |nodes| all_have(nodes, 1));

    // Somebody else's authority, and nobody's certificate: neither gets a word through.
    let other = Server::start_encrypted();
    let with = |tls: Option<Tls>| {
        let node = Node::of(Settings { tls, ..Node::settings(&server, 2) });
        node.propose("from a stranger");
        node
    };
    let trust = server.tls().expect("certificates");
    let deceived = Tls { ca: other.tls().expect("certificates").ca, ..trust.clone() };
    let nameless = Tls { identity: None, ..trust };
    let mut strangers = [with(Some(deceived)), with(Some(nameless))];
    until("both told", &mut strangers, |nodes| nodes.iter().all(|n| !n.troubles.is_empty()));
    let told = strangers.each_ref().map(|node| node.troubles[0].clone());
    assert!(told[0].contains("certificate"), "{told:?}");
    assert!(strangers.iter().all(|node| node.lines.is_empty() && !node.leads), "{told:?}");
    nodes[1].propose("still in secret");
    until("the next line", &mut nodes, |nodes| all_have(nodes, 2));
}

fn files_that_make_no_sense_are_refused() {
    let nothing = std::env::temp_dir().join(format!("testudo-nothing-{}", std::process::id()));
    let settings = Settings {
        prefix: "/testudo".to_owned(),
        cluster: "a".to_owned(),
        node: NodeId(0),
        endpoints: vec!["https://127.0.0.1:2379".to_owned()],
        tls: Some(Tls { ca: nothing.clone(), identity: None }),
        lease: LEASE,
        snapshot_after: 1,
    };
    let refused = |why: &str| {
        let error = Etcd::start(settings.clone(), Book(Vec::new())).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}: ", nothing.display())), "{error}");
        assert!(error.contains(why), "{error}");
    };
    refused("No such file");
    std::fs::write(&nothing, "nothing").expect("a file");
    refused("no certificate in it");
    std::fs::remove_file(&nothing).expect("the file");
}

fn settings_that_make_no_sense_are_refused() {
    let good = Settings {
        prefix: "/testudo".to_owned(),
        cluster: "a".to_owned(),
        node: NodeId(0),
        endpoints: vec!["http://127.0.0.1:2379".to_owned()],
        tls: None,
        lease: LEASE,
        snapshot_after: 1,
    };
    let bad = [
        Settings { cluster: "a/b".to_owned(), ..good.clone() },
        Settings { endpoints: Vec::new(), ..good.clone() },
        Settings { endpoints: vec!["https://127.0.0.1:1".to_owned()], ..good.clone() },
        Settings { lease: Duration::from_secs(3), ..good.clone() },
        Settings { snapshot_after: 0, ..good.clone() },
    ];
    for settings in bad {
        let error = Etcd::start(settings, Book(Vec::new())).unwrap_err().to_string();
        assert!(error.starts_with("the settings for etcd can't be used: "), "{error}");
    }
}

fn main() -> ExitCode {
    let with_etcd: [(&str, fn()); 8] = [
        ("racing_nodes_agree_on_one_order", racing_nodes_agree_on_one_order),
        ("a_refused_command_changes_nothing_anywhere", a_refused_command_changes_nothing_anywhere),
        (
            "etcd_that_is_restarted_or_away_for_seconds_costs_only_time",
            etcd_that_is_restarted_or_away_for_seconds_costs_only_time,
        ),
        (
            "a_leader_that_steps_down_or_stops_is_succeeded_at_once",
            a_leader_that_steps_down_or_stops_is_succeeded_at_once,
        ),
        (
            "a_late_node_begins_with_the_snapshot_also_after_a_compaction",
            a_late_node_begins_with_the_snapshot_also_after_a_compaction,
        ),
        (
            "a_node_that_was_paused_over_a_compaction_goes_on",
            a_node_that_was_paused_over_a_compaction_goes_on,
        ),
        (
            "an_etcd_is_believed_by_its_certificate_and_asks_for_one",
            an_etcd_is_believed_by_its_certificate_and_asks_for_one,
        ),
        ("an_etcd_that_lost_the_log_is_noticed", an_etcd_that_lost_the_log_is_noticed),
    ];
    let missing = Server::missing();
    let guarded = |(name, test): (&str, fn())| {
        let missing = missing.clone();
        Trial::ignorable_test(name, move || match missing {
            Some(why) => Ok(Completion::ignored_with(why)),
            None => {
                test();
                Ok(Completion::Completed)
            }
        })
    };
    let mut trials: Vec<Trial> = with_etcd.into_iter().map(guarded).collect();
    trials.push(Trial::test("settings_that_make_no_sense_are_refused", || {
        settings_that_make_no_sense_are_refused();
        Ok(())
    }));
    trials.push(Trial::test("files_that_make_no_sense_are_refused", || {
        files_that_make_no_sense_are_refused();
        Ok(())
    }));
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(1);
    libtest_mimic::run(&arguments, trials).exit_code()
}
