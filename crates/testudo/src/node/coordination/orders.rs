//! What operators ask of the agreement, carried out.
//!
//! Any node takes orders: it looks at the map and at the nodes as it knows them, and proposes. The
//! operator is answered when that is agreed on ([`super::wishes`]).

use testudo_cluster::map::{Change, Command, Map};
use testudo_cluster::plan::{Capacity, DrainReport, DrainVerdict, drain_report};
use testudo_cluster::planner::{Lists, candidates, move_bucket};
use testudo_packet::bucket::{BucketId, Nanos, NodeId};

use super::Coordination;
use super::wishes::Wanted;
use crate::operate::order::{self, Answers, Refusal, Request};

/// How much of the highest load seen so far a node may be filled to by a drain, in percent.
const FILL: f64 = 80.0;

impl Coordination {
    pub(super) fn handle_order(&mut self, now: Nanos, request: Request) {
        match request {
            Request::Drain { node, dry_run, answers } => {
                let plan = self.known().map(|()| self.drain_plan(node));
                self.answer(now, plan, (!dry_run).then_some(Wanted::Drained(node)), answers);
            }
            Request::Undrain { node, dry_run, answers } => {
                let plan = self.undrain_plan(node);
                self.answer(now, plan, (!dry_run).then_some(Wanted::Undrained(node)), answers);
            }
            Request::Move { bucket, to, dry_run, answers } => {
                let plan = self.move_plan(bucket, to);
                self.answer(now, plan, (!dry_run).then_some(Wanted::Owner(bucket, to)), answers);
            }
            Request::Map(answers) => answers.give(Ok(self.show_map())),
            Request::History { limit, answers } => {
                let map = self.parts.coordinator.machine();
                let name = |node| self.parts.cluster.member(node).to_owned();
                let all: Vec<_> = map.history().map(|change| show_change(change, name)).collect();
                let first = map.history().next().map_or(1, |change| change.version.0);
                let cut = all.len().saturating_sub(limit);
                let truncated = cut > 0 || first > 1;
                answers.give(Ok((all[cut..].to_vec(), truncated)));
            }
            Request::Restart(answers) => {
                self.step_down(now);
                self.parts.restart.begin(answers);
            }
        }
    }

    fn known(&self) -> Result<(), Refusal> {
        if self.standings.is_empty() {
            return Err(Refusal::new(
                "this node knows nothing of the others yet",
                "to be asked again",
            ));
        }
        // Of an etcd, only the leader itself knows that it leads.
        if self.parts.kind == "embedded" && self.parts.coordinator.leader().is_none() {
            return Err(Refusal::new(
                "nobody leads the agreement",
                "a majority of the voters that hear each other",
            ));
        }
        Ok(())
    }

    /// Tells what would move, or has it done before that is told.
    fn answer(
        &mut self,
        now: Nanos,
        plan: Result<order::Plan, Refusal>,
        wanted: Option<Wanted>,
        answers: Answers<order::Plan>,
    ) {
        match (plan, wanted) {
            (Ok(plan), Some(wanted)) => self.want(now, wanted, plan, answers),
            (plan, _) => answers.give(plan),
        }
    }

    fn drain_plan(&self, node: NodeId) -> order::Plan {
        let map = self.parts.coordinator.machine();
        let candidates = candidates(&self.parts.cluster, map, &self.standings);
        let lists = Lists::new(map, &self.standings);
        let capacity = Capacity { per_weight: self.planner.peak(), percent: FILL };
        let costs = self.planner.costs();
        let ranks = self.parts.cluster.replicas().ranks();
        let report = drain_report(&lists.held(), &candidates, ranks, costs, node, &capacity);
        show_report(&report)
    }

    fn undrain_plan(&self, node: NodeId) -> Result<order::Plan, Refusal> {
        self.known()?;
        let name = self.parts.cluster.member(node).to_owned();
        if !self.parts.coordinator.machine().drained().contains(node) {
            return Err(Refusal::new(format!("{name} is not drained"), "a drained node"));
        }
        let reason = format!("{name} may own again; it gets its share in rounds");
        Ok(order::Plan { moves: Vec::new(), shares: Vec::new(), can_carry: true, reason })
    }

    pub(super) fn move_command(&self, bucket: BucketId, to: NodeId) -> Result<Command, Refusal> {
        let map = self.parts.coordinator.machine();
        move_bucket(&self.parts.cluster, map, &self.standings, bucket, to)
            .map_err(|error| Refusal::new(error.to_string(), "another bucket or node"))
    }

    fn move_plan(&self, bucket: BucketId, to: NodeId) -> Result<order::Plan, Refusal> {
        self.known()?;
        self.move_command(bucket, to)?;
        let from = self.parts.coordinator.machine().ranks(bucket).first().copied();
        let reason = "by an operator's hand".to_owned();
        let moves = vec![(bucket, from, to)];
        Ok(order::Plan { moves, shares: Vec::new(), can_carry: true, reason })
    }

    fn show_map(&self) -> order::Map {
        let map: &Map = self.parts.coordinator.machine();
        let cluster = &self.parts.cluster;
        let node = |node: NodeId| order::Node {
            node,
            weight: cluster.weight(node) as u16,
            witness: cluster.is_witness(node),
            voter: map.voters().contains(node),
            admitted: map.admission(node).map(|admission| admission.since.0),
            drained: map.drained().contains(node),
        };
        order::Map {
            version: map.version().0,
            coordinator: self.parts.kind,
            leader: self.parts.coordinator.leader(),
            nodes: cluster.nodes().map(node).collect(),
            ranks: map.buckets().map(|bucket| map.ranks(bucket).to_vec()).collect(),
        }
    }
}

fn show_change(change: &Change, name: impl Fn(NodeId) -> String) -> order::Change {
    let moved = match change.buckets {
        0 => "no bucket moved".to_owned(),
        1 => "1 bucket moved".to_owned(),
        many => format!("{many} buckets moved"),
    };
    order::Change { version: change.version.0, change: moved, reason: change.reason.describe(name) }
}

fn show_report(report: &DrainReport) -> order::Plan {
    let percent = |load: f64, limit: Option<f64>| match limit {
        Some(limit) if limit > 0.0 => load / limit * FILL,
        _ => 0.0,
    };
    let share = |share: &testudo_cluster::plan::Share| order::Share {
        node: share.node,
        buckets: (share.buckets.0 as u32, share.buckets.1 as u32),
        percent: (percent(share.load.0, share.limit), percent(share.load.1, share.limit)),
    };
    let (can_carry, reason) = match &report.verdict {
        DrainVerdict::Carries => (true, "the others stay below what they have carried".to_owned()),
        DrainVerdict::Overloads(nodes) => {
            let count = nodes.len();
            (false, format!("{count} of the others would carry more than they ever have"))
        }
        DrainVerdict::CapacityUnknown => {
            (true, "nothing was measured yet, so nothing speaks against it".to_owned())
        }
        DrainVerdict::NobodyElse => (false, "no other node may own: the buckets stay".to_owned()),
        DrainVerdict::NotThere => (true, "it owns nothing".to_owned()),
    };
    order::Plan {
        moves: report.moves.iter().map(|m| (m.bucket, Some(m.from), m.to)).collect(),
        shares: report.shares.iter().map(share).collect(),
        can_carry,
        reason,
    }
}
