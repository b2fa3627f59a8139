//! Orders on their way to the coordinator's thread and back.

use std::path::Path;
use std::thread;

use testudo_cluster::config::{Replicas, Settings, Timing};

use super::*;
use crate::node::health::{Parts, Watcher};
use crate::node::mailbox::Mailbox;
use order::{Change, Map, Node, Plan, Share};

fn cluster() -> Arc<Cluster> {
    let settings = Settings {
        name: "lab".into(),
        secret: [1; 16],
        members: ["n1", "n2", "w"].map(str::to_owned).to_vec(),
        weights: vec![100; 3],
        witnesses: [NodeId(2)].into_iter().collect(),
        min_voters: 2,
        node: NodeId(0),
        buckets: 4,
        replicas: Replicas::All,
        timing: Timing::default(),
        max_flows: 16,
        label: String::new(),
    };
    Arc::new(Cluster::new(settings).unwrap())
}

fn watcher() -> Watcher {
    let watcher = Watcher::start(Parts {
        interfaces: vec!["nothere0".to_owned()],
        probes: Vec::new(),
        health: crate::config::parse(Path::new("f"), include_str!("../../../../../docs/node.toml"))
            .unwrap()
            .health,
        certificate: false,
        on_change: Box::new(|_| {}),
    });
    watcher.unwrap()
}

fn plan() -> Plan {
    let share = |node, buckets, percent| Share { node: NodeId(node), buckets, percent };
    Plan {
        moves: vec![(BucketId(2), Some(NodeId(1)), NodeId(0)), (BucketId(3), None, NodeId(0))],
        shares: vec![share(0, (1, 3), (10.0, 30.0)), share(1, (3, 0), (30.0, 0.0))],
        can_carry: true,
        reason: "as it is".into(),
    }
}

/// Somebody who answers one order, on a thread of its own, as the coordinator's does.
fn answered(answer: impl FnOnce(order::Request) + Send + 'static) -> Operator {
    let (sender, mailbox) = Mailbox::new(1).unwrap();
    thread::spawn(move || {
        loop {
            if let Some(coordination::Input::Order(request)) = mailbox.take() {
                return answer(request);
            }
            thread::sleep(Duration::from_millis(1));
        }
    });
    Operator::new(cluster(), sender, watcher().handle())
}

#[test]
fn what_is_not_there_is_refused_before_anybody_is_asked() {
    let (sender, mailbox) = Mailbox::new(1).unwrap();
    let operator = Operator::new(cluster(), sender, watcher().handle());
    assert_eq!(
        operator.drain("n9", false).unwrap_err().to_string(),
        "no member is named \"n9\"; expected one of n1, n2, w; nothing has changed"
    );
    assert_eq!(
        operator.move_bucket(4, "n1", false).unwrap_err().to_string(),
        "bucket 4 does not exist; expected one below 4; nothing has changed"
    );
    let long = operator.undrain(&"x".repeat(60_000), false).unwrap_err().to_string();
    assert!(long.len() < 200, "{long}");
    assert!(mailbox.take().is_none());
}

#[test]
fn a_drain_is_answered_in_names() {
    let operator = answered(|request| match request {
        order::Request::Drain { node: NodeId(1), dry_run: true, answers } => {
            answers.give(Ok(plan()));
        }
        other => panic!("{other:?}"),
    });
    let told = operator.drain("n2", true).unwrap();
    assert!(told.dry_run && told.can_carry);
    let from = told.moves.iter().map(|step| (step.bucket, step.from.as_deref(), &*step.to));
    assert_eq!(from.collect::<Vec<_>>(), [(2, Some("n2"), "n1"), (3, None, "n1")]);
    assert_eq!((&*told.shares[1].node, told.shares[1].buckets_before), ("n2", 3));
    assert_eq!((told.shares[0].percent_before, told.shares[0].percent_after), (10.0, 30.0));
}

#[test]
fn a_refusal_is_told_in_its_words() {
    let operator = answered(|request| match request {
        order::Request::Move { bucket: BucketId(3), to: NodeId(2), dry_run: false, answers } => {
            answers.give(Err(Refusal::new("w is a witness", "a member that owns buckets")));
        }
        other => panic!("{other:?}"),
    });
    let words = "w is a witness; expected a member that owns buckets; nothing has changed";
    assert_eq!(operator.move_bucket(3, "w", false).unwrap_err().to_string(), words);
}

#[test]
fn nobody_is_waited_for_for_ever() {
    let (sender, mailbox) = Mailbox::new(1).unwrap();
    let operator = Operator::new(cluster(), sender, watcher().handle());
    // Kept, but not answered.
    assert_eq!(operator.undrain("n1", false).unwrap_err(), OperateError::Late);
    assert_eq!(operator.undrain("n1", false).unwrap_err(), OperateError::Full);
    let Some(coordination::Input::Order(order::Request::Undrain {
        node: NodeId(0),
        dry_run: false,
        answers,
    })) = mailbox.take()
    else {
        panic!("the order is gone, or another");
    };
    // Nobody waits any more, and that is no fault.
    answers.give(Ok(plan()));
    drop(mailbox);
    assert_eq!(operator.undrain("n1", false).unwrap_err(), OperateError::Full);
    // An asked thread that drops the way back is told of as late at once.
    let dropping = answered(drop);
    assert_eq!(dropping.restart().unwrap_err(), OperateError::Late);
}

#[test]
fn a_map_and_its_history_are_told_in_names() {
    let node = |node, witness| Node {
        node: NodeId(node),
        weight: 100,
        witness,
        voter: true,
        admitted: Some(1),
        drained: false,
    };
    let map = Map {
        version: 7,
        coordinator: "embedded",
        leader: Some(NodeId(2)),
        nodes: vec![node(0, false), node(1, false), node(2, true)],
        ranks: vec![
            vec![NodeId(0), NodeId(1)],
            vec![NodeId(1), NodeId(0)],
            vec![NodeId(1)],
            vec![],
        ],
    };
    let operator = answered(|request| match request {
        order::Request::Map(answers) => answers.give(Ok(map)),
        other => panic!("{other:?}"),
    });
    let told = operator.map().unwrap();
    assert_eq!((told.version, told.leader.as_deref()), (7, Some("w")));
    assert_eq!(told.nodes.iter().map(|node| node.buckets).collect::<Vec<_>>(), [1, 2, 0]);
    assert_eq!(told.ranks[0], ["n1", "n2"]);
    let operator = answered(|request| match request {
        order::Request::History { limit: 10_000, answers } => {
            let change = Change { version: 7, change: "c".into(), reason: "r".into() };
            answers.give(Ok((vec![change], true)));
        }
        other => panic!("{other:?}"),
    });
    let told = operator.history(u32::MAX).unwrap();
    assert!(told.truncated && told.changes[0].version == 7);
}

#[test]
fn a_restart_names_the_process_that_goes() {
    let operator = answered(|request| match request {
        order::Request::Restart(answers) => answers.give(Ok(())),
        other => panic!("{other:?}"),
    });
    assert_eq!(operator.restart().unwrap().process, std::process::id());
}

#[test]
fn health_is_what_the_watcher_finds() {
    let watcher = watcher();
    let (sender, _mailbox) = Mailbox::new(1).unwrap();
    let operator = Operator::new(cluster(), sender, watcher.handle());
    let names = operator.health().items.into_iter().map(|item| item.name);
    assert_eq!(names.collect::<Vec<_>>(), ["link nothere0", "overload", "sync", "coordinator"]);
}
