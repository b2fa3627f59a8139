//! Moving buckets away from nodes that carry too much.
//!
//! A node's *level* is what it carries for its weight. Nodes whose level is more than the hysteresis
//! above the mean give up buckets, until they are within half the hysteresis. The gap between
//! beginning and end is what keeps noise from moving buckets to and fro.
//!
//! Invariant: a move never makes its target as high as its source was; a plan takes no node's last
//! bucket, moves no bucket that rests, and no more than the window of a minute allows.
//!
//! A bucket can be heavier than a node's whole share (an *elephant*). Its node can't be brought to the
//! mean: moving the elephant only moves the peak. So its node is asked only to be rid of the rest, and
//! the others are measured against the mean without it.
//!
//! Why greedy and not an optimum: packing is hard, and the fewest moves matter more than the last
//! percent. For each node the smallest single bucket that is enough is looked for, else the largest
//! that is not, and so on down its buckets, each looked at once.
//!
//! Limits: a bucket cannot be split. Where only a heavy bucket's move helps, its target can become a
//! source in the same plan, so a few moves more than the fewest are possible.

use super::roster::{NUMBERS, Roster};
use super::rows::{Row, changes, kept};
use super::{Candidate, Change, Held, level};
use crate::time::since;
use std::time::Duration;
use testudo_packet::bucket::{BucketId, Nanos, NodeId};

/// The window for which moves are capped.
const WINDOW: Duration = Duration::from_secs(60);

/// When to balance, and how much.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BalanceSettings {
    /// How far above the mean a node may be before buckets are moved away from it, in percent. Must
    /// exceed the noise of a node's measured load; 20 is a good value.
    pub hysteresis_percent: f64,
    /// How long a bucket stays where it was moved to. Must exceed the time that a measured rate needs
    /// to follow a move.
    pub rest: Duration,
    /// The most moves for balance in any minute.
    pub per_minute: usize,
}

/// A move made lately. A list of them is kept by the caller; [`forget`] bounds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Which bucket.
    pub bucket: BucketId,
    /// When.
    pub at: Nanos,
    /// Whether it was made for balance, and counts towards the cap. A bucket rests whatever it was
    /// moved for.
    pub for_balance: bool,
}

/// What was done lately, seen from now.
#[derive(Clone, Copy, Debug)]
pub struct Lately<'a> {
    /// The moves that count still, in any order.
    pub moved: &'a [Moved],
    /// The time now.
    pub now: Nanos,
}

impl Lately<'_> {
    fn in_window(&self) -> usize {
        let counts = |moved: &&Moved| moved.for_balance && since(self.now, moved.at) < WINDOW;
        self.moved.iter().filter(counts).count()
    }

    /// Which buckets stay where they are.
    fn rests(&self, buckets: usize, settings: &BalanceSettings) -> Vec<bool> {
        let mut rests = vec![false; buckets];
        for moved in self.moved.iter().filter(|m| since(self.now, m.at) < settings.rest) {
            if let Some(rests) = rests.get_mut(usize::from(moved.bucket.0)) {
                *rests = true;
            }
        }
        rests
    }
}

/// What balancing would do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadPlan {
    /// The moves.
    pub changes: Vec<Change>,
    /// Buckets heavier than the fair share of their node, heaviest first, with how many times that
    /// share they are.
    pub elephants: Vec<(BucketId, f64)>,
    /// The highest level by the mean, before. 1 if there is no load.
    pub before: f64,
    /// The same after the moves, if the load stays.
    pub after: f64,
    /// Whether a cap or resting buckets have kept moves back that were wanted.
    pub held_back: bool,
}

/// Drops moves that no longer count, so that the list is no longer than the cap allows for the time.
pub fn forget(moved: &mut Vec<Moved>, settings: &BalanceSettings, now: Nanos) {
    moved.retain(|m| since(now, m.at) < settings.rest.max(WINDOW));
}

/// Moves as few buckets as it can, at most `max_moves`, so that no node carries much more than the
/// mean for its weight.
///
/// `loads` has a cost for each bucket ([`super::Rates`]); what is missing, negative or no number counts
/// as no load. Nodes that may not own are left to [`super::rebalance()`].
#[must_use]
pub fn by_load(
    lists: &[Held<'_>],
    candidates: &[Candidate],
    length: usize,
    loads: &[f64],
    settings: &BalanceSettings,
    lately: Lately<'_>,
    max_moves: usize,
) -> LoadPlan {
    let (roster, length) = (Roster::new(candidates), length.max(1));
    let mut rows = kept(lists, &roster, length);
    let mut nodes = Nodes::new(&rows, &roster, loads, settings);
    let rests = lately.rests(rows.len(), settings);
    let mut plan = LoadPlan {
        elephants: nodes.elephants(&rows),
        before: nodes.imbalance(),
        ..LoadPlan::default()
    };
    let mut moves = max_moves.min(settings.per_minute.saturating_sub(lately.in_window()));
    while let Some(source) = nodes.hottest() {
        nodes.relieve(source, &mut rows, &rests, &roster, &mut moves, &mut plan.held_back);
    }
    plan.after = nodes.imbalance();
    level::fill(&mut rows, &roster, length);
    plan.changes = changes(&rows, lists, &roster, length);
    plan
}

/// A load that can be reckoned with.
pub(super) fn load_of(loads: &[f64], bucket: BucketId) -> f64 {
    loads
        .get(usize::from(bucket.0))
        .copied()
        .filter(|load| load.is_finite())
        .map_or(0.0, |load| load.max(0.0))
}

/// A node that may own, and what it carries.
struct Node {
    node: NodeId,
    weight: f64,
    load: f64,
    /// Its buckets as indices of rows, heaviest first, as they were before the plan.
    buckets: Vec<usize>,
    /// How many buckets it owns now.
    count: usize,
    /// What it can be brought down to: its share, or its elephant.
    floor: f64,
    done: bool,
}

struct Nodes {
    nodes: Vec<Node>,
    index: [Option<usize>; NUMBERS],
    loads: Vec<f64>,
    /// The mean for each unit of weight, elephants and their nodes left out.
    level: f64,
    start: f64,
    stop: f64,
}

impl Nodes {
    fn new(rows: &[Row], roster: &Roster, loads: &[f64], settings: &BalanceSettings) -> Self {
        let hysteresis = settings.hysteresis_percent.max(0.0) / 100.0;
        let mut index = [None; NUMBERS];
        let mut nodes: Vec<Node> = Vec::new();
        for member in &roster.owners {
            index[usize::from(member.node.0)] = Some(nodes.len());
            let (node, weight) = (member.node, member.weight as f64);
            let buckets = Vec::new();
            nodes.push(Node {
                node,
                weight,
                load: 0.0,
                buckets,
                count: 0,
                floor: 0.0,
                done: false,
            });
        }
        let loads: Vec<f64> = rows.iter().map(|row| load_of(loads, row.bucket)).collect();
        for (row, owner) in rows.iter().enumerate().filter_map(|(i, r)| Some((i, r.head.first()?)))
        {
            if let Some(at) = index[usize::from(owner.0)] {
                nodes[at].load += loads[row];
                nodes[at].buckets.push(row);
                nodes[at].count += 1;
            }
        }
        for node in &mut nodes {
            node.buckets.sort_by(|&a, &b| loads[b].total_cmp(&loads[a]));
        }
        let (start, stop) = (1.0 + hysteresis, 1.0 + hysteresis / 2.0);
        let mut all = Self { nodes, index, loads, level: 0.0, start, stop };
        all.set_floors();
        all
    }

    /// The mean level of all nodes.
    fn mean(&self) -> f64 {
        let load: f64 = self.nodes.iter().map(|node| node.load).sum();
        let weight: f64 = self.nodes.iter().map(|node| node.weight).sum();
        if weight > 0.0 { load / weight } else { 0.0 }
    }

    fn imbalance(&self) -> f64 {
        let highest = self.nodes.iter().map(|node| node.load / node.weight).fold(0.0, f64::max);
        let mean = self.mean();
        if mean > 0.0 { highest / mean } else { 1.0 }
    }

    /// Takes out nodes that an elephant holds above the level, each of which lowers it for the others.
    /// An elephant is one that no node has room for in its share.
    fn set_floors(&mut self) {
        let strongest = self.nodes.iter().map(|node| node.weight).fold(0.0, f64::max);
        let heaviest: Vec<f64> = self
            .nodes
            .iter()
            .map(|node| node.buckets.first().map_or(0.0, |&row| self.loads[row]))
            .collect();
        let mut load: f64 = self.nodes.iter().map(|node| node.load).sum();
        let mut weight: f64 = self.nodes.iter().map(|node| node.weight).sum();
        let mut order: Vec<usize> = (0..self.nodes.len()).collect();
        order.sort_by(|&a, &b| heaviest[b].total_cmp(&heaviest[a]));
        self.level = if weight > 0.0 { load / weight } else { 0.0 };
        for at in order {
            let own = self.nodes[at].weight;
            if heaviest[at] <= self.level * strongest || weight - own < 0.5 {
                break;
            }
            self.nodes[at].floor = heaviest[at];
            (load, weight) = (load - heaviest[at], weight - own);
            self.level = load.max(0.0) / weight;
        }
        for node in &mut self.nodes {
            node.floor = node.floor.max(self.level * node.weight);
        }
    }

    fn elephants(&self, rows: &[Row]) -> Vec<(BucketId, f64)> {
        let mean = self.mean();
        let heavy = self.nodes.iter().flat_map(|node| {
            let share = mean * node.weight;
            let bucket = move |&row: &usize| (rows[row].bucket, self.loads[row] / share);
            node.buckets.iter().take_while(move |&&row| self.loads[row] > share).map(bucket)
        });
        let mut elephants: Vec<_> = heavy.collect();
        elephants.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        elephants
    }

    /// Of the nodes above what starts balancing the one that is highest above its floor, each once.
    fn hottest(&self) -> Option<usize> {
        let above = |at: usize| self.nodes[at].load / self.nodes[at].floor;
        let hot = |&at: &usize| {
            !self.nodes[at].done && self.nodes[at].load > 0.0 && above(at) > self.start
        };
        (0..self.nodes.len()).filter(hot).max_by(|&a, &b| above(a).total_cmp(&above(b)))
    }

    /// Moves buckets away from a node until it has come down, walking down its buckets once.
    fn relieve(
        &mut self,
        source: usize,
        rows: &mut [Row],
        rests: &[bool],
        roster: &Roster,
        moves: &mut usize,
        held_back: &mut bool,
    ) {
        self.nodes[source].done = true;
        let buckets = std::mem::take(&mut self.nodes[source].buckets);
        for (place, &row) in buckets.iter().enumerate() {
            let (node, load) = (&self.nodes[source], self.loads[row]);
            let excess = node.load - node.floor * self.stop;
            if excess <= 0.0 || load <= 0.0 || node.count <= 1 {
                break;
            }
            let enough = |&row: &usize| self.loads[row] >= excess;
            let share = self.level * node.weight;
            let pinned = place == 0 && node.floor > share;
            if pinned || buckets.get(place + 1).is_some_and(enough) {
                continue;
            }
            if rests[row] || *moves == 0 {
                *held_back = true;
                continue;
            }
            let Some(target) = self.target(source, &rows[row], load) else {
                // Too heavy for everyone: the node can't come below it.
                let floor = &mut self.nodes[source].floor;
                *floor = if load > share { floor.max(load) } else { *floor };
                continue;
            };
            rows[row].move_to(self.nodes[target].node, roster);
            self.nodes[source].load -= load;
            self.nodes[source].count -= 1;
            self.nodes[target].load += load;
            self.nodes[target].count += 1;
            *moves -= 1;
        }
    }

    /// Where a bucket should go: the first of its successors that stays below the mean with it, or the
    /// node with the lowest level if that does; else, in the same order, one that it does not make hot,
    /// or at least leaves much lower than the source was.
    /// The mean first, so that a target keeps some distance from becoming the next source.
    fn target(&self, source: usize, row: &Row, load: f64) -> Option<usize> {
        let level = |at: usize| self.nodes[at].load / self.nodes[at].weight;
        let coldest = (0..self.nodes.len()).min_by(|&a, &b| level(a).total_cmp(&level(b)));
        let before = level(source);
        let find = |limit: f64| {
            let has_room = |&at: &usize| {
                let after = (self.nodes[at].load + load) / self.nodes[at].weight;
                at != source && after <= limit
            };
            let known = row.head.iter().skip(1).filter_map(|node| self.index[usize::from(node.0)]);
            known.chain(coldest).find(has_room)
        };
        let much_better = before * (2.0 - self.stop);
        find(self.level).or_else(|| find(self.level * self.stop)).or_else(|| find(much_better))
    }
}
