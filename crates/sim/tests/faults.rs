//! What nobody thought of: mixed faults from many seeds, a phase in which only safety counts, then
//! one in which the faults stop and everything has to come right.

#[allow(dead_code, reason = "each file of tests uses its part of the harness")]
mod harness;

use harness::checkers::{every_bucket_owned, tables_agree, takeover_time};
use harness::options::{MS, Options};
use harness::world::World;
use harness::{for_each_seed, seeds};

const BASE: u64 = 0x7e57_0d00;
const SEEDS: usize = 300;

/// The longest way back to a working cluster: out of patience, quarantine, formation with the dead
/// missing, takeover, filling; some of it twice.
const RECOVERY_MILLIS: u64 = 4000;

#[test]
fn whatever_fails_there_are_never_two_owners_and_all_comes_right() {
    let seeds = seeds(BASE, SEEDS);
    println!("{} seeds from {BASE:#x}", seeds.len());
    for_each_seed(&seeds, |seed| {
        let mut world = World::new(options(seed), seed);
        let calm = world.rng.within(0..900 * MS);
        world.run(calm);
        for _ in 0..world.rng.within(2..9) {
            fault(&mut world);
            let longest = if world.rng.chance(300) { 400 } else { 60 };
            let span = world.rng.within(0..longest);
            world.run(span * MS);
        }
        recover(&mut world);
    });
}

#[test]
fn a_death_at_any_moment_is_succeeded_within_the_bound() {
    for_each_seed(&seeds(BASE + 1, 60), |seed| {
        let mut world = World::formed(Options::of(3 + 2 * usize::from(seed % 8 == 0)), seed);
        let calm = world.rng.within(0..200 * MS);
        world.run(calm);
        let victim = world.rng.index(world.nodes.len());
        world.kill(victim);
        let takeover = world.options.timing.takeover;
        takeover_time(&mut world, takeover).unwrap_or_else(|error| panic!("{error}"));
    });
}

fn options(seed: u64) -> Options {
    let nodes = [3, 3, 3, 3, 3, 4, 5, 2][seed as usize % 8];
    let mut options = Options::of(nodes);
    let rough = seed >> 8;
    options.delay = [2, 2, 10, 60][rough as usize % 4] * MS;
    options.loss = [0, 20, 100, 300][(rough >> 2) as usize % 4];
    options.doubled = [0, 100][(rough >> 4) as usize % 2];
    options
}

/// One of everything that can happen to a cluster.
fn fault(world: &mut World) {
    let nodes = world.nodes.len();
    let node = world.rng.index(nodes);
    let other = (node + 1 + world.rng.index(nodes - 1)) % nodes;
    let running = world.nodes[node].daemon.is_some();
    match world.rng.index(10) {
        0 | 1 if running => world.kill(node),
        2 if running => world.kill_daemon(node),
        0..=2 => world.start(node),
        3 | 4 if running && world.nodes[node].is_up() => world.pause(node),
        3..=5 => world.resume(node),
        6 => world.cut_both_ways(node, other),
        7 => world.cut[node][other] = true,
        8 => world.isolate(node),
        _ => world.heal(),
    }
}

fn recover(world: &mut World) {
    world.heal();
    world.options.loss = 0;
    world.options.delay = 2 * MS;
    let nodes = world.nodes.len();
    let mut spare = (nodes - 1) / 2;
    for node in 0..nodes {
        world.resume(node);
        if world.nodes[node].daemon.is_none() {
            if spare > 0 && world.rng.chance(500) {
                spare -= 1;
            } else {
                world.start(node);
            }
        }
    }
    world.until(RECOVERY_MILLIS, every_bucket_owned);
    world.run(50 * MS);
    world.traffic = false;
    world.until(1000, tables_agree);
    world.run(200 * MS);
    every_bucket_owned(world).expect("it stays that way");
    tables_agree(world).expect("it stays that way");
}
