//! What an operator does to a cluster, and what becomes of it.

mod world;

use std::time::Duration;

use testudo_coordinator::{
    Coordinator, Hard, Image, Kind, MessageError, Output, Place, ProposeError, Raft, Record,
    Settings, StateMachine, Static, Stored,
};
use testudo_packet::bucket::{Nanos, NodeId};
use world::book::Book;
use world::{CALM, Disk, ROUGH, Weather, World};

fn voters(world: &World, node: u8) -> Vec<u8> {
    world.node(node).machine().voters().iter().map(|voter| voter.0).collect()
}

fn lines(world: &World, node: u8) -> usize {
    world.node(node).machine().lines.len()
}

/// A calm cluster in which all vote, and its leader.
fn cluster(nodes: u8) -> (World, u8) {
    let all: Vec<u8> = (0..nodes).collect();
    let mut world = World::new(1, nodes, &all, CALM);
    world.run_until("a leader", |world| world.leader().is_some());
    let leader = world.leader().expect("just seen");
    (world, leader)
}

/// Lets all running nodes catch up.
fn settle(world: &mut World) {
    let equal = |world: &World| {
        let running = world.running();
        running.iter().all(|&node| world.node(node).machine().lines == world.agreed)
    };
    world.run_until("all machines are equal", equal);
}

#[test]
fn five_voters_lose_one_after_the_other_until_one_stands_and_all_come_back() {
    let (mut world, _) = cluster(5);
    for dead in [4, 3, 2] {
        world.stop(dead, true);
        world.agree(&format!("-{dead}"));
        world.agree(&format!("without {dead}"));
    }
    // A majority of two is both: the vote has to be taken while the node still lives.
    world.agree("-1");
    world.stop(1, true);
    world.agree("alone");
    assert_eq!((world.leader(), voters(&world, 0)), (Some(0), vec![0]));
    for back in [4, 1, 3, 2] {
        world.start(back);
        world.agree(&format!("+{back}"));
    }
    settle(&mut world);
    for node in 0..5 {
        assert_eq!(voters(&world, node), [0, 1, 2, 3, 4], "as node {node} sees it");
    }
    // All five count again: two may be missing, three may not.
    world.stop(0, true);
    world.stop(1, true);
    world.agree("three of five");
    world.stop(2, true);
    world.run(Duration::from_secs(5));
    assert_eq!(world.leader(), None);
}

#[test]
fn a_node_far_behind_catches_up_by_a_snapshot() {
    let (mut world, leader) = cluster(3);
    let late = (leader + 1) % 3;
    world.stop(late, true);
    for number in 0..40 {
        world.agree(&format!("line {number}"));
    }
    assert!(world.node(leader).counters().snapshots > 0);
    world.start(late);
    settle(&mut world);
    assert_eq!((lines(&world, late), world.node(late).counters().restored), (40, 1));
}

#[test]
fn a_voter_that_lost_its_disk_is_filled_up_under_the_same_leader() {
    let (mut world, leader) = cluster(3);
    let unlucky = (leader + 1) % 3;
    for count in [3, 30] {
        // With 3 lines the entries are still in the log, with 30 they are in a snapshot.
        for number in 0..count {
            world.agree(&format!("{number} of {count}"));
        }
        let term = world.node(leader).term();
        world.stop(unlucky, true);
        world.disks[usize::from(unlucky)] = Disk::default();
        world.start(unlucky);
        settle(&mut world);
        assert_eq!(world.node(leader).term(), term);
    }
    assert_eq!(world.node(leader).counters().lost_logs, 2);
}

#[test]
fn the_same_inputs_give_the_same_outputs() {
    let trace = |seed| {
        let mut world = World::new(seed, 3, &[0, 1, 2], ROUGH);
        world.keep_trace = true;
        for number in 0..20 {
            let node = world.random.below(3) as u8;
            world.propose(node, &format!("line {number}"));
            world.run(Duration::from_millis(700));
        }
        world.trace
    };
    let first = trace(3);
    assert!(first.len() > 500, "{} outputs", first.len());
    for _ in 0..5 {
        assert!(trace(3) == first, "another run");
    }
    assert!(trace(4) != first, "another seed");
}

#[test]
fn a_leader_that_is_to_lose_its_vote_hands_over_first() {
    let (mut world, leader) = cluster(3);
    let command = format!("-{leader}").into_bytes();
    let answer = world.with(leader, |raft, now| raft.propose(now, command));
    assert!(matches!(answer, Err(ProposeError::LeaderLeaves { .. })), "{answer:?}");
    assert!(!world.node(leader).leads());
    world.run(Duration::from_millis(100));
    let heir = world.leader().expect("within a few round trips");
    assert_ne!(heir, leader);
    world.agree(&format!("-{leader}"));
    assert_eq!(world.leader(), Some(heir));
    settle(&mut world);
    assert_eq!(voters(&world, leader).len(), 2);
}

#[test]
fn leadership_is_given_away_and_only_to_a_voter() {
    let mut world = World::new(1, 4, &[0, 1, 2], CALM);
    world.run_until("a leader", |world| world.leader().is_some());
    let leader = world.leader().unwrap();
    world.with(leader, |raft, now| raft.transfer(now, NodeId(3)));
    assert_eq!(world.leader(), Some(leader));
    let to = (leader + 1) % 3;
    world.with(leader, |raft, now| raft.transfer(now, NodeId(to)));
    world.run(Duration::from_millis(100));
    assert_eq!(world.leader(), Some(to));
    assert_eq!(world.node(3).leader(), Some(NodeId(to)));
}

#[test]
fn what_the_machine_refuses_is_not_even_proposed() {
    let (mut world, leader) = cluster(3);
    let mut answer = |command: &str| {
        let command = command.as_bytes().to_vec();
        world.with(leader, |raft, now| raft.propose(now, command)).unwrap_err()
    };
    assert_eq!(answer("!no"), ProposeError::Refused("!no".to_owned()));
    let two = answer("-1 -2").to_string();
    assert_eq!(two, "the command is refused: it changes 2 voters, expected at most one");
    let stranger = answer("+9").to_string();
    assert_eq!(stranger, "the command is refused: voter 9 is no node of the cluster");
    assert!(matches!(answer(""), ProposeError::Length { length: 0, .. }));
    let long = "x".repeat(2 << 20);
    assert!(matches!(answer(&long), ProposeError::Length { max: 1_048_576, .. }));
    world.run(Duration::from_secs(1));
    assert!(world.agreed.is_empty() && world.refusals.is_empty());
}

#[test]
fn a_change_that_was_overtaken_takes_no_effect_anywhere() {
    let (mut world, leader) = cluster(5);
    let [a, b] = [(leader + 1) % 5, (leader + 2) % 5];
    let gone = (leader + 3) % 5;
    // Both ask before either knows of the other's wish.
    assert!(world.propose(a, &format!("-{gone}")));
    world.run_until("the first is agreed on", |world| world.agreed.len() == 1);
    // This node has not heard that the first was agreed on.
    assert_eq!(lines(&world, b), 0);
    assert!(world.propose(b, &format!("={gone}")));
    settle(&mut world);
    world.run(Duration::from_secs(1));
    assert_eq!(world.agreed.len(), 1);
    assert_eq!(world.refusals.len(), 5, "{:?}", world.refusals);
    let why = format!(
        "a change of voters at 3 of term 1 is refused: it came as RemoveVoter(NodeId({gone})), but by \
         now it would be Command"
    );
    assert_eq!(world.refusals[0], why);
    // Four vote: two of them are no majority, three are.
    world.stop(gone, true);
    world.stop(a, true);
    world.agree("three of four");
}

#[test]
fn a_minority_agrees_on_nothing_and_its_leader_steps_down() {
    let (mut world, leader) = cluster(5);
    world.cut_off(leader, true);
    world.propose(leader, "never");
    world.run(Duration::from_secs(3));
    assert!(!world.node(leader).leads());
    assert_eq!(lines(&world, leader), 0);
    world.agree("the others go on");
    world.cut_off(leader, false);
    settle(&mut world);
    assert_eq!(world.agreed, ["the others go on"]);
}

#[test]
fn a_node_whose_disk_is_stuck_neither_leads_nor_stands_for_election() {
    let stuck = Weather { disk_ms: (100_000, 100_000), ..CALM };
    let (mut world, leader) = cluster(3);
    world.weather = stuck;
    world.propose(leader, "stuck");
    world.weather = CALM;
    let stood = world.node(leader).counters().elections;
    world.run(Duration::from_secs(5));
    let heir = world.leader().expect("the others' disks work");
    assert_ne!(heir, leader);
    assert_eq!(world.node(leader).counters().elections, stood);
    world.agree("without the stuck one");
}

/// A node alone in its cluster of two, which gets messages from the test.
fn lonely() -> (Raft<Book>, Vec<u8>) {
    let nodes = vec![NodeId(0), NodeId(1)];
    let book = Book::new(&[0, 1]);
    let settings = |node| Settings::new(NodeId(node), nodes.clone(), 1);
    let mut peer = Raft::new(settings(1), book.clone(), Stored::default(), Nanos(0)).unwrap();
    let mut now = Nanos(0);
    let message = loop {
        match peer.poll_output() {
            Some(Output::Send { bytes, .. }) => break bytes,
            Some(Output::Persist { ticket, .. }) => peer.handle_persisted(now, ticket),
            Some(_) => {}
            None => {
                now = peer.next_wakeup();
                peer.handle_tick(now);
            }
        }
    };
    (Raft::new(settings(0), book, Stored::default(), Nanos(0)).unwrap(), message)
}

#[test]
fn strangers_and_noise_are_refused_with_a_reason() {
    let (mut raft, message) = lonely();
    for stranger in [0, 2, 255] {
        let answer = raft.handle_message(Nanos(1), NodeId(stranger), &message);
        assert_eq!(answer, Err(MessageError::Stranger(NodeId(stranger))));
    }
    let answer = raft.handle_message(Nanos(1), NodeId(1), &[1, 2, 3]);
    assert!(matches!(answer, Err(MessageError::Unreadable(_))), "{answer:?}");
    let answer = raft.handle_message(Nanos(1), NodeId(1), &vec![0; 5 << 20]).unwrap_err();
    let expected = "a message that can't be read: 5242880 bytes, expected at most 4194304";
    assert_eq!(answer.to_string(), expected);
    assert_eq!(raft.handle_message(Nanos(1), NodeId(1), &message), Ok(()));
}

#[test]
fn a_driver_that_overslept_does_not_take_its_peers_for_dead() {
    let (mut raft, _) = lonely();
    raft.handle_tick(Nanos(0).plus_millis(60_000));
    assert_eq!(raft.counters().elections, 0);
    assert_eq!(raft.next_wakeup(), Nanos(0).plus_millis(60_025));
}

#[test]
fn messages_wait_for_the_disk_up_to_a_bound() {
    let (mut raft, message) = lonely();
    let mut now = Nanos(0);
    let ticket = loop {
        match raft.poll_output() {
            Some(Output::Persist { ticket, .. }) => break ticket,
            Some(_) => {}
            None => {
                // A vote that it grants has to be on disk.
                raft.handle_message(now, NodeId(1), &message).unwrap();
                now = raft.next_wakeup();
                raft.handle_tick(now);
                let mut vote = message.clone();
                vote[1] = 4;
                raft.handle_message(now, NodeId(1), &vote).unwrap();
            }
        }
    };
    while raft.poll_output().is_some() {}
    for _ in 0..256 {
        raft.handle_message(now, NodeId(1), &message).unwrap();
    }
    let answer = raft.handle_message(now, NodeId(1), &message);
    assert_eq!(answer, Err(MessageError::Busy { waiting: 256 }));
    assert_eq!(raft.poll_output(), None);
    assert_eq!(raft.propose(now, vec![1]), Err(ProposeError::Busy("a write to disk")));
    raft.handle_persisted(now, ticket);
    assert!(matches!(raft.poll_output(), Some(Output::Send { .. })));
    assert_eq!(raft.handle_message(now, NodeId(1), &message), Ok(()));
}

#[test]
fn a_machine_that_would_not_fit_into_a_message_refuses_to_grow() {
    let nodes = vec![NodeId(0)];
    let settings = Settings { max_message: 4096, ..Settings::new(NodeId(0), nodes, 1) };
    let mut raft = Raft::new(settings, Book::new(&[0]), Stored::default(), Nanos(0)).unwrap();
    let mut refused = None;
    for number in 0..200_u64 {
        let now = Nanos(number * 100_000_000);
        raft.handle_tick(now);
        if raft.leads() {
            refused = raft.propose(now, vec![b'x'; 100]).err().or(refused);
        }
        while let Some(output) = raft.poll_output() {
            if let Output::Persist { ticket, .. } = output {
                raft.handle_persisted(now, ticket);
            }
        }
    }
    let why = refused.expect("more than fits was proposed").to_string();
    assert!(why.contains("bytes to send all that is agreed, of 3584"), "{why}");
    assert_eq!(raft.machine().lines.len(), 35);
}

#[test]
fn a_node_alone_agrees_with_itself_at_once() {
    let mut alone = Static::new(NodeId(0), Book::new(&[0]));
    assert_eq!(alone.poll_output(), Some(Output::Leader(Some(NodeId(0)))));
    assert_eq!(alone.propose(Nanos(0), b"first".to_vec()), Ok(()));
    let refused = alone.propose(Nanos(0), b"!no".to_vec());
    assert_eq!(refused, Err(ProposeError::Refused("!no".to_owned())));
    assert_eq!((alone.poll_output(), alone.poll_output()), (Some(Output::Changed), None));
    assert_eq!(alone.machine().lines, ["first"]);
    assert!(alone.leads());
    let answer = alone.handle_message(Nanos(0), NodeId(1), &[]);
    assert_eq!(answer, Err(MessageError::NoPeers));
}

#[test]
fn settings_and_stores_that_make_no_sense_are_refused() {
    let nodes = vec![NodeId(0), NodeId(1)];
    let good = Settings::new(NodeId(0), nodes, 1);
    let start = |settings: Settings, stored| {
        Raft::new(settings, Book::new(&[0, 1]), stored, Nanos(0)).err().map(|e| e.to_string())
    };
    assert_eq!(start(good.clone(), Stored::default()), None);
    let bad = [
        Settings { node: NodeId(7), ..good.clone() },
        Settings { nodes: vec![NodeId(0)], ..good.clone() },
        Settings { election: Duration::from_millis(200), ..good.clone() },
        Settings { heartbeat: Duration::ZERO, ..good.clone() },
        Settings { snapshot_after: 0, ..good.clone() },
    ];
    for settings in bad {
        let why = start(settings, Stored::default()).expect("refused");
        assert!(why.starts_with("the settings can't be used: "), "{why}");
    }
    let mut stored = Stored::default();
    stored.hard.commit = 3;
    let expected = "the stored log can't be used: agreed up to 3, but the log ends at 0";
    assert_eq!(start(good.clone(), stored).as_deref(), Some(expected));

    let record = |index| Record {
        place: Place { index, term: 1 },
        kind: Kind::Command,
        command: b"line".to_vec(),
    };
    let with = |entries: &[u64], image: Option<u64>, base: u64| {
        let place = |index| Place { index, term: 1 };
        let image = image.map(|at| Image {
            place: place(at),
            voters: vec![NodeId(0), NodeId(1)],
            data: vec![],
        });
        let entries = entries.iter().map(|&index| record(index)).collect();
        let hard = Hard { term: 1, vote: None, commit: 3 };
        start(good.clone(), Stored { hard, image, base: place(base), entries })
    };
    assert_eq!(with(&[1, 2, 3], None, 0), None);
    for (hole, why) in [
        (with(&[1, 3], None, 0), "entry 3 stands where 2 was expected"),
        (with(&[2, 3], None, 0), "entry 2 stands where 1 was expected"),
        (with(&[3, 4], None, 2), "the snapshot is at 0, the log from 2 to 4"),
        (with(&[3, 4], Some(1), 2), "the snapshot is at 1, the log from 2 to 4"),
    ] {
        assert_eq!(hole, Some(format!("the stored log can't be used: {why}")));
    }
}
