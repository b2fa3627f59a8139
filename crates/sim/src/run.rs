//! One run: a cluster that is drawn from a seed, goes through what the seed has for it, and then has to
//! come right.
//!
//! Invariant: safety is checked at every instant of a run, and a run ends with a phase in which nothing
//! fails any more and everything has to come right within a bound.

use std::panic::{self, AssertUnwindSafe};
use std::time::Duration;

use testudo_cluster::config::Replicas;
use testudo_cluster::replica::Replicate;
use testudo_packet::bucket::NodeId;

use crate::checkers::{healed, tables_agree, takeover_time};
use crate::fault;
use crate::options::{MS, Mode, Options};
use crate::rng::Rng;
use crate::tally::Tally;
use crate::world::World;

/// The longest way back to a working cluster: an election or two, out of patience, quarantine,
/// formation with the dead missing, filling, and moves in rounds; some of it twice.
const RECOVERY_MILLIS: u64 = 10_000;

/// How long a map stays as it is when there is nothing more to plan: longer than a proposal is waited
/// for.
const QUIET: u64 = 700 * MS;

/// What became of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What it followed from.
    pub seed: u64,
    /// What happened.
    pub tally: Tally,
    /// What was wrong.
    pub error: Option<String>,
}

/// Runs what follows from a seed.
#[must_use]
pub fn run(seed: u64, translate: bool, verbose: bool) -> Outcome {
    let mut options = options(seed);
    options.hears_at_once = translate;
    options.translates = translate && Rng::new(seed ^ 0x7a45_1a7e).chance(600);
    let mut world = World::dark(options, seed);
    world.verbose = verbose;
    if verbose {
        println!("{:#?}", world.options);
    }
    let lived = panic::catch_unwind(AssertUnwindSafe(|| live(&mut world)));
    let result = lived.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("a panic: {}", text.unwrap_or("without words")))
    });
    world.gather();
    let tally = std::mem::take(&mut world.tally);
    Outcome { seed, tally, error: result.err() }
}

fn options(seed: u64) -> Options {
    let mut rng = Rng::new(seed ^ 0x0b75_1015);
    let nodes = match rng.within(0..100) {
        0..10 => 2,
        10..55 => 3,
        55..67 => 4,
        67..85 => 5,
        85..98 => 6 + rng.index(4),
        _ => 10 + rng.index(23),
    };
    let mut options = Options::of(nodes);
    options.witnesses = usize::from(rng.chance(250));
    options.min_voters = 1 + rng.index(3.min(nodes));
    options.mode = rng.pick(&[Mode::Shared, Mode::Steered]);
    options.buckets = rng.pick(&[8, 16, 32, 64]);
    options.flows = rng.within(2 * u64::from(options.buckets)..400);
    options.disk = rng.pick(&[1, 5, 30]) * MS;
    options.balance = rng.chance(200);
    if rng.chance(500) {
        let rules = 1 + rng.index(4);
        options.policies = (0..rules).map(|_| policy(&mut rng)).collect();
    }
    // Drawn apart, so that all else of a seed is as it was before there was a choice.
    let copies = [Replicas::All, Replicas::Successors(1), Replicas::Successors(2)];
    options.replicas = Rng::new(seed ^ 0x4e91_1ca5).pick(&copies);
    options
}

fn policy(rng: &mut Rng) -> Replicate {
    match rng.index(4) {
        0 => Replicate::FirstPacket,
        1 => Replicate::Established,
        2 => Replicate::After(Duration::from_millis(rng.pick(&[5, 40, 300]))),
        _ => Replicate::Never,
    }
}

fn live(world: &mut World) -> Result<(), String> {
    switch_on(world)?;
    if world.rng.chance(400) {
        planned(world)?;
    }
    faults(world)?;
    recover(world)?;
    if world.rng.chance(300) {
        clean_death(world)?;
        recover(world)?;
    }
    Ok(())
}

/// Lets time pass, at least until a checker finds something.
fn pass(world: &mut World, span: u64) -> Result<(), String> {
    world.run_unchecked(span);
    world.violation.clone().map_or(Ok(()), Err)
}

/// Machines are switched on one after the other, and some not at all for now.
fn switch_on(world: &mut World) -> Result<(), String> {
    let late = world.rng.chance(200);
    for node in 0..world.machines.len() {
        if !late || world.rng.chance(700) {
            world.start(node);
        } else {
            world.tally.count("members that join later");
        }
        if world.rng.chance(500) {
            let span = world.rng.within(0..60 * MS);
            pass(world, span)?;
        }
    }
    let calm = world.rng.within(0..1500 * MS);
    pass(world, calm)
}

/// Operators move buckets and drain nodes, members join, and no packet may be lost or doubled.
fn planned(world: &mut World) -> Result<(), String> {
    let voters = world.machines[0].cluster.first_voters();
    let owners = world.machines.len() - world.options.witnesses;
    let none = !world.machines[..owners].iter().any(|machine| machine.on);
    for node in 0..world.machines.len() {
        if (none || voters.contains(NodeId(node as u8))) && !world.machines[node].on {
            world.start(node);
        }
    }
    world.wait(RECOVERY_MILLIS, healed).map_err(|error| format!("never formed: {error}"))?;
    world.traffic.gap = Some(MS / 4);
    world.traffic.exact = true;
    world.forget_translations();
    for _ in 0..world.rng.within(2..8) {
        let absent = (0..world.machines.len()).find(|&node| !world.machines[node].on);
        match absent.filter(|_| world.rng.chance(300)) {
            Some(node) => {
                world.tally.count("planned: joins");
                world.start(node);
            }
            None => fault::wish(world),
        }
        let span = world.rng.within(MS..200 * MS);
        pass(world, span)?;
    }
    world.wait(RECOVERY_MILLIS, healed)?;
    world.traffic.exact = false;
    world.traffic.gap = Some(2 * MS);
    // Until all of them are settled.
    let rest = world.longest_wait() + 20 * MS;
    pass(world, rest)?;
    world.tally.count("planned phases without a packet lost or doubled");
    Ok(())
}

fn faults(world: &mut World) -> Result<(), String> {
    if world.rng.chance(400) {
        world.options.delay = world.rng.pick(&[2, 10, 40]) * MS;
        world.options.loss = world.rng.pick(&[0, 20, 100, 300]);
        world.options.doubled = world.rng.pick(&[0, 100]);
        world.options.late = world.rng.pick(&[0, 5, 30]);
    }
    for _ in 0..world.rng.within(2..12) {
        fault::inject(world);
        let longest = world.rng.pick(&[20, 60, 60, 400, 1200]);
        let span = world.rng.within(0..longest * MS);
        pass(world, span)?;
    }
    Ok(())
}

/// The faults stop, and everything has to come right.
fn recover(world: &mut World) -> Result<(), String> {
    world.heal();
    world.options.balance = false;
    world.options.loss = 0;
    world.options.late = 0;
    world.options.delay = 2 * MS;
    for node in 0..world.machines.len() {
        world.resume(node);
        if world.machines[node].daemon.is_none() {
            world.start(node);
        }
        world.tell(node, crate::machine::Input::Fitness(true));
    }
    let began = world.now;
    world.wait(RECOVERY_MILLIS, healed)?;
    let took = (world.now - began) / MS;
    world.tally.most("most milliseconds of a recovery", took);
    rest(world)?;
    world.traffic.gap = None;
    world.wait(1500, tables_agree)?;
    pass(world, 200 * MS)?;
    healed(world).map_err(|error| format!("it does not stay that way: {error}"))?;
    tables_agree(world).map_err(|error| format!("it does not stay that way: {error}"))?;
    world.traffic.gap = Some(2 * MS);
    pass(world, 200 * MS)
}

/// The planner comes to an end: the map stays as it is.
fn rest(world: &mut World) -> Result<(), String> {
    let began = world.now;
    loop {
        let before = world.version();
        pass(world, QUIET)?;
        world.wait(RECOVERY_MILLIS, healed)?;
        if world.version() == before {
            return Ok(());
        }
        if world.now > began + RECOVERY_MILLIS * MS {
            return Err(format!("the plans find no end; {}", world.describe()));
        }
    }
}

/// With everything as it should be, one node dies.
fn clean_death(world: &mut World) -> Result<(), String> {
    let Some(daemon) = &world.machines[0].daemon else { return Ok(()) };
    let map = daemon.membership.map().clone();
    let victim = world.rng.index(world.machines.len());
    let left = map.voters().iter().filter(|&node| node != NodeId(victim as u8)).count();
    let owners = (0..world.machines.len()).filter(|&node| node != victim);
    let witnesses = world.options.witnesses();
    let heirs = owners.filter(|&node| !witnesses.contains(NodeId(node as u8))).count();
    if left < map.majority() || heirs == 0 {
        return Ok(());
    }
    world.tally.count("clean deaths succeeded within the bound");
    world.kill(victim);
    let takeover = world.options.timing.takeover;
    takeover_time(world, takeover)?;
    let calm = world.rng.within(0..1000 * MS);
    pass(world, calm)
}

impl World {
    /// Adds what the machines count themselves.
    fn gather(&mut self) {
        for machine in &self.machines {
            let Some(daemon) = &machine.daemon else { continue };
            let moves = daemon.replica.move_counters();
            self.tally.add("moves: forced", moves.forced);
            self.tally.add("moves: withdrawn", moves.withdrawn);
            self.tally.add("moves: held in vain", moves.held_in_vain);
            for peer in 0..self.machines.len() {
                let comparisons = daemon.replica.peer(NodeId(peer as u8)).comparisons;
                self.tally.add("copies of buckets found equal", comparisons.equal);
                self.tally.add("copies of buckets that had to catch up", comparisons.caught_up);
                self.tally.add("divergences found", comparisons.diverged);
            }
            self.tally.add("snapshots of the map taken over", daemon.raft.counters().restored);
        }
        self.tally.count("runs");
        self.tally.add("simulated milliseconds", self.now / MS);
    }
}
