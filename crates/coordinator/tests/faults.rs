//! Clusters under faults that a seed draws: crash with and without loss of power, partition, one-way
//! loss, reordering, doubling, slow disks, changes of voters at the wrong moment.
//!
//! A failure names its seed; `COORDINATOR_SEED=n cargo test -p testudo-coordinator --test faults`
//! replays it alone, `COORDINATOR_SEEDS=a..b` runs others.

mod world;

use std::ops::Range;
use std::time::Duration;

use testudo_coordinator::{Coordinator, StateMachine};
use testudo_packet::bucket::NodeId;
use world::{CALM, ROUGH, Random, Weather, World};

fn seeds() -> Range<u64> {
    let number = |text: &str| text.parse::<u64>().expect("a number");
    if let Ok(seed) = std::env::var("COORDINATOR_SEED") {
        return number(&seed)..number(&seed) + 1;
    }
    match std::env::var("COORDINATOR_SEEDS") {
        Ok(range) => {
            let (from, to) = range.split_once("..").expect("a range a..b");
            number(from)..number(to)
        }
        Err(_) => 0..300,
    }
}

#[derive(Default, Debug)]
struct Done {
    crashes: u64,
    power_losses: u64,
    blackouts: u64,
    partitions: u64,
    vote_changes: u64,
    transfers: u64,
    snapshots_taken: u64,
    lines: u64,
}

/// One thing that goes wrong, or that is asked for.
fn disturb(world: &mut World, number: u64, done: &mut Done) {
    let running = world.running();
    let count = world.nodes.len() as u64;
    let node = world.random.below(count) as u8;
    match world.random.below(20) {
        0 if running.contains(&node) => {
            let power = world.random.below(2) == 0;
            done.crashes += 1;
            done.power_losses += u64::from(power);
            world.stop(node, power);
        }
        1 | 2 if !running.contains(&node) => world.start(node),
        3 => {
            done.partitions += 1;
            world.cut_off(node, true);
        }
        4 => {
            done.partitions += 1;
            let other = world.random.below(count) as usize;
            world.blocked[usize::from(node)][other] = true;
        }
        5 | 6 => world.blocked.iter_mut().for_each(|row| row.fill(false)),
        7 | 8 if running.contains(&node) => {
            let voter = world.random.below(count);
            let votes = world.node(node).machine().voters().contains(&NodeId(voter as u8));
            let sign = if votes { world.random.pick(&["-", "="]) } else { "+" };
            done.vote_changes += u64::from(world.propose(node, &format!("{sign}{voter}")));
        }
        9 if running.contains(&node) => {
            let to = NodeId(world.random.below(count) as u8);
            done.transfers += u64::from(world.node(node).leads());
            world.with(node, |raft, now| raft.transfer(now, to));
        }
        10 if world.random.below(3) == 0 => {
            done.blackouts += 1;
            running.iter().for_each(|&node| world.stop(node, true));
            (0..count as u8).for_each(|node| world.start(node));
        }
        _ if running.contains(&node) => {
            world.propose(node, &format!("line {number}"));
        }
        _ => {}
    }
}

fn survive(seed: u64, done: &mut Done) {
    let mut random = Random(seed);
    let nodes = 1 + random.below(5) as u8;
    let voters: Vec<u8> = (0..1 + random.below(nodes.into()) as u8).collect();
    let weather = Weather { delay_ms: (0, 1 + random.below(120)), ..ROUGH };
    let mut world = World::new(random.next(), nodes, &voters, weather);
    for number in 0..120 {
        disturb(&mut world, number, done);
        let wait = world.random.below(400);
        world.run(Duration::from_millis(wait));
    }
    world.weather = CALM;
    world.blocked.iter_mut().for_each(|row| row.fill(false));
    for node in 0..nodes {
        if !world.running().contains(&node) {
            world.start(node);
        }
    }
    let promised = world.agreed.clone();
    world.agree("the last line");
    assert_eq!(world.agreed[..promised.len()], promised[..], "an applied command is lost");
    let complete =
        |world: &World| (0..nodes).all(|node| world.node(node).machine().lines == world.agreed);
    world.run_until("all machines are equal", complete);
    done.lines += world.agreed.len() as u64;
    done.snapshots_taken += (0..nodes).map(|n| world.node(n).counters().restored).sum::<u64>();
}

#[test]
fn whatever_happens_all_nodes_apply_the_same_commands_and_lose_none() {
    let mut done = Done::default();
    for seed in seeds() {
        let run = std::panic::AssertUnwindSafe(|| survive(seed, &mut done));
        if let Err(panic) = std::panic::catch_unwind(run) {
            eprintln!(
                "replay: COORDINATOR_SEED={seed} cargo test -p testudo-coordinator --test faults"
            );
            std::panic::resume_unwind(panic);
        }
    }
    println!("{done:?}");
    if seeds().end - seeds().start >= 100 {
        let all =
            [done.crashes, done.power_losses, done.blackouts, done.partitions, done.vote_changes];
        let others = [done.transfers, done.snapshots_taken, done.lines];
        assert!(all.iter().chain(&others).all(|&count| count > 0), "untested: {done:?}");
    }
}
