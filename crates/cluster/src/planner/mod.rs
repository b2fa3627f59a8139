//! What the leader proposes: who is admitted, who votes, which bucket goes where.
//!
//! The planner looks at the agreed map and at what the membership knows of each node, and names the
//! next command, one at a time: it waits until the map has changed, or for a while, before it names
//! another. Everything that it says of nodes in a command (who is dead, what is settled) stays true once
//! it is true, so a command is harmless however late it is agreed on; what has changed meanwhile is
//! refused by [`Map::apply`].
//!
//! Order of concern: a cluster that nobody is in charge of is formed first; then newcomers are admitted;
//! then the voters are kept to the living; then every bucket gets living successors; then buckets move.
//! Only the first two are done without a lease.
//!
//! Invariant: no bucket is given to a node whose common table is not complete, but for the first of all
//! lists, when nobody has anything.
//!
//! Limits: buckets move in rounds of [`MOVES`], so a drain of a large cluster takes as many rounds; those
//! of a node that is not fit move all at once.

mod by_hand;
mod lists;
mod placing;

use std::sync::Arc;
use std::time::Duration;

use testudo_packet::bucket::{BucketId, Nanos, NodeId};

use crate::config::{Cluster, MAX_VOTERS};
use crate::heartbeat::Incarnation;
use crate::map::{Command, Map, Reason, Version};
use crate::membership::Standing;
use crate::node_set::NodeSet;
use crate::plan::{self, BalanceSettings, Change, Lately, Moved};
use crate::time::after;

pub use by_hand::{ByHandError, move_bucket};
pub use lists::{Lists, candidates};

/// How many buckets are on their way at once at most.
pub const MOVES: usize = 16;

/// The most lists in one command.
const MAX_LISTS: usize = 4096;

/// How long a command may take to be agreed on before it is named again.
const RETRY: Duration = Duration::from_millis(500);

/// How long buckets stay where they are for the sake of an owner that catches up.
const CATCH_UP: Duration = Duration::from_secs(10);

/// The leader's plans.
#[derive(Debug)]
pub struct Planner {
    cluster: Arc<Cluster>,
    balance: BalanceSettings,
    leading_since: Option<Nanos>,
    /// The version for which a command was named, and until when it is waited for.
    waiting: (Version, Nanos),
    gone_since: Vec<Option<Nanos>>,
    counted: Option<plan::Settled>,
    moved: Vec<Moved>,
    costs: Vec<f64>,
    peak: Option<f64>,
    /// Since when an owner catches up.
    waited_since: Option<Nanos>,
    waits: placing::Waits,
    elephants: Vec<(BucketId, f64)>,
}

/// What is known when a plan is made.
#[derive(Clone, Copy)]
struct Scene<'a> {
    cluster: &'a Cluster,
    now: Nanos,
    map: &'a Map,
    standings: &'a [Standing],
}

impl Planner {
    /// A planner that has planned nothing yet.
    #[must_use]
    pub fn new(cluster: Arc<Cluster>, balance: BalanceSettings) -> Self {
        let nodes = cluster.members().len();
        Self {
            cluster,
            balance,
            leading_since: None,
            waiting: (Version(0), Nanos(0)),
            gone_since: vec![None; nodes],
            counted: None,
            moved: Vec::new(),
            costs: Vec::new(),
            peak: None,
            waited_since: None,
            waits: placing::Waits::default(),
            elephants: Vec::new(),
        }
    }

    /// What each bucket costs now, as [`plan::Rates`] have it.
    pub fn set_costs(&mut self, costs: Vec<f64>) {
        self.costs = costs;
    }

    /// What each bucket costs; empty while nothing was measured.
    #[must_use]
    pub fn costs(&self) -> &[f64] {
        &self.costs
    }

    /// The most that a node has carried so far for each unit of its weight.
    #[must_use]
    pub fn peak(&self) -> Option<f64> {
        self.peak
    }

    /// Takes note of what each node carries.
    fn note_peak(&mut self, scene: &Scene<'_>) {
        let mut carried = vec![0.0; scene.cluster.members().len()];
        for (bucket, cost) in scene.map.buckets().zip(&self.costs) {
            if let Some(owner) = scene.map.ranks(bucket).first() {
                carried[usize::from(owner.0)] += cost;
            }
        }
        for (node, carried) in scene.cluster.nodes().zip(carried) {
            let level = carried / f64::from(scene.cluster.weight(node).max(1));
            if level > self.peak.unwrap_or(0.0) {
                self.peak = Some(level);
            }
        }
    }

    /// Buckets that are heavier than the fair share of a node: moving them would move the peak.
    #[must_use]
    pub fn elephants(&self) -> &[(BucketId, f64)] {
        &self.elephants
    }

    /// The next command to propose, if there is one. `standings` has one for each node, in order.
    pub fn plan(
        &mut self,
        now: Nanos,
        leads: bool,
        map: &Map,
        standings: &[Standing],
    ) -> Option<Command> {
        let cluster = self.cluster.clone();
        let scene = Scene { cluster: &cluster, now, map, standings };
        self.note_peak(&scene);
        if !leads {
            self.leading_since = None;
            self.counted = None;
            self.gone_since.fill(None);
            return None;
        }
        self.leading_since.get_or_insert(now);
        self.note_gone(&scene);
        let (version, until) = self.waiting;
        if version == map.version() && now < until {
            return None;
        }
        let command = self.next(&scene)?;
        self.waiting = (map.version(), after(now, RETRY));
        if let Command::Assign { lists, reason, .. } = &command {
            self.note_moves(&scene, lists, *reason == Reason::Balance);
        }
        Some(command)
    }

    /// The command that was named last could not be proposed: another may be named at once.
    pub fn not_proposed(&mut self) {
        self.waiting.1 = Nanos(0);
    }

    fn note_gone(&mut self, scene: &Scene<'_>) {
        for (standing, since) in scene.standings.iter().zip(&mut self.gone_since) {
            *since = standing.gone.then(|| since.unwrap_or(scene.now));
        }
    }

    fn note_moves(
        &mut self,
        scene: &Scene<'_>,
        lists: &[(BucketId, Vec<NodeId>)],
        for_balance: bool,
    ) {
        plan::forget(&mut self.moved, &self.balance, scene.now);
        for (bucket, ranks) in lists {
            if scene.map.ranks(*bucket).first() != ranks.first() {
                self.moved.push(Moved { bucket: *bucket, at: scene.now, for_balance });
            }
        }
    }

    fn next(&mut self, scene: &Scene<'_>) -> Option<Command> {
        let in_charge = scene.standings.iter().any(|standing| standing.lease);
        if !in_charge {
            return self.form(scene);
        }
        if let Some(command) = scene.admit(scene.newcomers()) {
            return Some(command);
        }
        let own = scene.standings.get(usize::from(scene.cluster.node().0))?;
        if !own.lease {
            return None;
        }
        self.voters(scene).or_else(|| self.lists(scene))
    }

    /// Whether the cluster has waited long enough for those who have not shown themselves.
    fn has_waited(&self, now: Nanos) -> bool {
        let formation = self.cluster.timing().formation;
        self.leading_since.is_some_and(|since| now >= after(since, formation))
    }

    /// Nobody is in charge: all who are there are admitted together, so that they can support each
    /// other's first leases.
    fn form(&self, scene: &Scene<'_>) -> Option<Command> {
        let newcomers = scene.newcomers();
        let voters = scene.map.voters();
        let enough =
            newcomers.iter().filter(|life| voters.contains(life.0)).count() >= scene.map.majority();
        let all = newcomers.len() == scene.cluster.members().len();
        (enough && (all || self.has_waited(scene.now))).then(|| scene.admit(newcomers)).flatten()
    }

    fn voters(&self, scene: &Scene<'_>) -> Option<Command> {
        let acknowledged = scene.least(|standing| standing.version);
        if acknowledged < scene.map.voters_since() {
            return None;
        }
        let mut voters = scene.map.voters();
        if let Some(node) = self.leaving_voter(scene, &voters) {
            voters.remove(node);
        } else {
            voters.insert(self.coming_voter(scene, &voters)?);
        }
        Some(Command::Voters { acknowledged, voters })
    }

    fn leaving_voter(&self, scene: &Scene<'_>, voters: &NodeSet) -> Option<NodeId> {
        let removal = self.cluster.timing().removal;
        let least = self.cluster.min_voters();
        let dead = voters.iter().find(|node| {
            let since = self.gone_since.get(usize::from(node.0)).copied().flatten();
            since.is_some_and(|since| scene.now >= after(since, removal))
        });
        if voters.len() > least && dead.is_some() {
            return dead;
        }
        // Of the last two, the preferred one decides alone.
        let last_two = least == 1 && voters.len() == 2 && scene.living().count() == 2;
        if last_two { voters.iter().nth(1) } else { None }
    }

    fn coming_voter(&self, scene: &Scene<'_>, voters: &NodeSet) -> Option<NodeId> {
        let comes = |standing: &&Standing| {
            let complete = standing.synced || scene.cluster.is_witness(standing.node);
            // One that is in quarantine grants nothing: all leases would run out.
            let able = complete && standing.ready;
            !voters.contains(standing.node) && able && scene.is_there(standing)
        };
        let pair = self.cluster.min_voters() == 1 && scene.living().count() == 2;
        if voters.len() >= MAX_VOTERS || pair {
            return None;
        }
        scene.living().find(comes).map(|standing| standing.node)
    }

    /// Lists that should be others: the first ones, successors of the dead, moves.
    fn lists(&mut self, scene: &Scene<'_>) -> Option<Command> {
        let candidates = candidates(scene.cluster, scene.map, scene.standings);
        if !scene.map.is_formed() {
            return self.first_lists(scene, &candidates);
        }
        if self.is_lagging(scene) {
            return None;
        }
        let lists = Lists::new(scene.map, scene.standings);
        let held = lists.held();
        let mut changes = plan::succeed(&held, &candidates, scene.ranks());
        changes.retain(|change| !scene.is_on_its_way(change.bucket));
        let (known, mut waiting) = ((&held[..], &candidates[..]), Vec::new());
        let succession = (Reason::Succession, true);
        if let Some(command) = Self::place(scene, (changes, &mut waiting), known, succession) {
            return Some(command);
        }
        let overtaken = self.overtaken(scene);
        if !overtaken.is_empty() {
            return scene.assign(overtaken, Reason::Succession);
        }
        // A bucket that is on its way is not sent elsewhere: its packets wait at the next owner.
        if scene.least(|standing| standing.settled) < scene.map.latest_move() {
            return None;
        }
        if let Some(command) = self.wished(scene) {
            return Some(command);
        }
        if self.is_waited_for(scene) {
            return None;
        }
        let moves = self.moves(scene, &held, &candidates);
        let (changes, reason) = moves.unwrap_or((Vec::new(), Reason::Copies));
        Self::place(scene, (changes, &mut waiting), known, (reason, false))
    }

    /// Whether an owner catches up, as after its process was replaced, or, where not all nodes keep all,
    /// anybody. It is given nothing before it
    /// knows all, and nothing is taken from it either, unless that takes too long.
    fn is_waited_for(&mut self, scene: &Scene<'_>) -> bool {
        let limited = scene.cluster.replicas().is_limited();
        let catches_up = |standing: &Standing| {
            let waited = limited || lists::owns(scene.map, standing.node);
            !standing.synced && scene.is_there(standing) && waited
        };
        if !scene.standings.iter().any(catches_up) {
            self.waited_since = None;
            return false;
        }
        let since = *self.waited_since.get_or_insert(scene.now);
        scene.now < after(since, CATCH_UP)
    }

    fn first_lists(&self, scene: &Scene<'_>, candidates: &[plan::Candidate]) -> Option<Command> {
        let owners = candidates.iter().filter(|candidate| candidate.may_own).count();
        let able = scene.cluster.nodes().filter(|&node| !scene.cluster.is_witness(node)).count();
        if owners == 0 || owners < able && !self.has_waited(scene.now) {
            return None;
        }
        let lists = plan::spread(scene.cluster.buckets(), candidates, scene.ranks());
        scene.assign(lists, Reason::Formed)
    }

    fn moves(
        &mut self,
        scene: &Scene<'_>,
        held: &[plan::Held<'_>],
        candidates: &[plan::Candidate],
    ) -> Option<(Vec<Change>, Reason)> {
        let counted = self.counted.get_or_insert_with(|| plan::Settled::assume(held, candidates));
        if counted.is_due(held, candidates) {
            // What is owned by a node that can't forward waits for nothing.
            let broken = |standing: &Standing| !standing.gone && !standing.fit;
            let all = scene.standings.iter().any(broken);
            let most = if all { MAX_LISTS } else { MOVES };
            let changes = plan::rebalance(held, candidates, scene.ranks(), most);
            if !changes.is_empty() {
                let reason = scene.reason(&changes, candidates);
                return Some((changes, reason));
            }
            counted.reached(candidates);
        }
        let changes = plan::even_successors(held, candidates, scene.ranks(), MAX_LISTS);
        if !changes.is_empty() {
            return Some((changes, Reason::Succession));
        }
        if self.balance.per_minute == 0 || self.costs.is_empty() {
            return None;
        }
        plan::forget(&mut self.moved, &self.balance, scene.now);
        let lately = Lately { moved: &self.moved, now: scene.now };
        let load_plan = plan::by_load(
            held,
            candidates,
            scene.ranks(),
            &self.costs,
            &self.balance,
            lately,
            MOVES,
        );
        self.elephants = load_plan.elephants;
        (!load_plan.changes.is_empty()).then_some((load_plan.changes, Reason::Balance))
    }
}

impl Scene<'_> {
    /// How many nodes a list names at most.
    fn ranks(&self) -> usize {
        self.cluster.replicas().ranks()
    }

    /// Members that are not dead.
    fn living(&self) -> impl Iterator<Item = &Standing> {
        self.standings.iter().filter(|standing| !standing.gone)
    }

    /// Whether the life that a place belongs to speaks.
    fn is_there(&self, standing: &Standing) -> bool {
        let admitted = self.map.admission(standing.node);
        !standing.gone && admitted.is_some_and(|admission| Some(admission.life) == standing.life)
    }

    /// Whether a bucket is on its way to its next owner, and everyone is there who has to do with it.
    /// What changes its list then would take the move back, and packets would be lost.
    fn is_on_its_way(&self, bucket: BucketId) -> bool {
        let Some(list) = self.map.list(bucket) else { return false };
        let moving = self.map.older(bucket).next().is_some();
        let there = |node: &NodeId| self.living().any(|standing| standing.node == *node);
        moving
            && self.least(|standing| standing.settled) < list.since
            && list.ranks.iter().all(|node| there(node) && self.map.stands_in(*node, list.since))
    }

    /// What no living member is behind.
    fn least(&self, version: impl Fn(&Standing) -> Version) -> Version {
        self.living().map(version).min().unwrap_or(Version(0))
    }

    /// Lives that wait for a place whose life before is dead.
    fn newcomers(&self) -> Vec<(NodeId, Incarnation)> {
        let waiting =
            self.standings.iter().filter(|standing| standing.gone && standing.is_new(self.map));
        waiting.filter_map(|standing| Some((standing.node, standing.life?))).collect()
    }

    fn admit(&self, lives: Vec<(NodeId, Incarnation)>) -> Option<Command> {
        (!lives.is_empty()).then(|| Command::Admit { basis: self.map.version(), lives })
    }

    fn assign(&self, changes: Vec<Change>, reason: Reason) -> Option<Command> {
        let lists: Vec<_> = changes
            .into_iter()
            .take(MAX_LISTS)
            .map(|Change { bucket, ranks }| (bucket, ranks))
            .collect();
        let settled = self.least(|standing| standing.settled);
        let basis = self.map.version();
        (!lists.is_empty()).then_some(Command::Assign { basis, settled, lists, reason })
    }

    /// Why buckets are counted out anew.
    fn reason(&self, changes: &[Change], candidates: &[plan::Candidate]) -> Reason {
        let may_own = |node: NodeId| candidates.iter().any(|c| c.node == node && c.may_own);
        let from = changes.iter().filter_map(|change| self.map.ranks(change.bucket).first());
        if let Some(&node) = from.clone().find(|&&node| !may_own(node)) {
            let drained = self.map.drained().contains(node);
            return if drained { Reason::Drained(node) } else { Reason::Unfit(node) };
        }
        let shares = self.map.shares();
        let to = changes.iter().filter_map(|change| change.ranks.first());
        let newcomer = to.min_by_key(|node| shares.get(usize::from(node.0)).copied());
        newcomer.map_or(Reason::Balance, |&node| Reason::Joined(node))
    }
}

impl Standing {
    /// Whether another life than the admitted one speaks, and is ready.
    fn is_new(&self, map: &Map) -> bool {
        let admitted = map.admission(self.node).map(|admission| admission.life);
        self.life.is_some() && self.life != admitted
    }
}
