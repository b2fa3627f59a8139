//! Which changes of one bucket's list are made at once, and whose copy is made first. One copy besides the
//! owner's is kept; node 3 keeps none at first.

use super::*;
use crate::config::{Cluster, Replicas, Settings, Timing};
use crate::heartbeat::Incarnation;
use crate::map::Map;
use crate::membership::Standing;
use crate::node_set::NodeSet;
use crate::planner::{Lists, candidates};

const BUCKET: BucketId = BucketId(0);

struct Table {
    cluster: Cluster,
    map: Map,
    standings: Vec<Standing>,
}

fn nodes(numbers: &[u8]) -> Vec<NodeId> {
    numbers.iter().copied().map(NodeId).collect()
}

impl Table {
    /// Four nodes that have all that they keep of a bucket with this list.
    fn new(ranks: &[u8]) -> Self {
        let settings = Settings {
            name: "lab".into(),
            secret: [7; 16],
            members: ["n0", "n1", "n2", "n3"].map(String::from).into(),
            weights: vec![100; 4],
            witnesses: NodeSet::default(),
            min_voters: 1,
            node: NodeId(0),
            buckets: 2,
            replicas: Replicas::Successors(1),
            timing: Timing::default(),
            max_flows: 10,
            label: String::new(),
        };
        let cluster = Cluster::new(settings).expect("settings that work");
        let mut map = cluster.first_map();
        let lives = cluster.nodes().map(|node| (node, Incarnation(7))).collect();
        map.apply(&Command::Admit { basis: Version(0), lives }).expect("new lives");
        let mut table = Self { cluster, map, standings: Vec::new() };
        table.assign(ranks);
        table
    }

    /// Everyone goes by the present map, and has all.
    fn catch_up(&mut self) {
        let standing = |node| Standing {
            node,
            life: Some(Incarnation(7)),
            ready: true,
            lease: true,
            fit: true,
            synced: true,
            gone: false,
            version: self.map.version(),
            settled: self.map.version(),
        };
        self.standings = self.cluster.nodes().map(standing).collect();
    }

    fn assign(&mut self, ranks: &[u8]) {
        let (basis, settled, reason) = (self.map.version(), self.map.version(), Reason::Balance);
        let lists = vec![(BUCKET, nodes(ranks)), (BucketId(1), nodes(ranks))];
        self.map.apply(&Command::Assign { basis, settled, lists, reason }).expect("a list");
        self.catch_up();
    }

    fn invite(&mut self, guests: &[u8]) {
        let (basis, reason) = (self.map.version(), Reason::Copies);
        let guests = vec![(BUCKET, nodes(guests))];
        self.map.apply(&Command::Invite { basis, guests, reason }).expect("an invitation");
    }

    fn fit(&self, ranks: &[u8], urgent: bool) -> Fit {
        let Self { cluster, map, standings } = self;
        let scene = Scene { cluster, now: Nanos(0), map, standings };
        let lists = Lists::new(map, standings);
        let candidates = candidates(cluster, map, standings);
        let change = Change { bucket: BUCKET, ranks: nodes(ranks) };
        scene.fit(change, (&lists.held()[0], urgent), &candidates)
    }
}

fn now(ranks: &[u8]) -> Fit {
    Fit::Now(Change { bucket: BUCKET, ranks: nodes(ranks) })
}

fn fill(guests: &[u8]) -> Fit {
    Fit::Fill(BUCKET, nodes(guests))
}

#[test]
fn among_those_who_keep_it_a_bucket_moves_at_once() {
    let table = Table::new(&[0, 1, 2, 3]);
    assert_eq!(table.fit(&[1, 0, 2, 3], false), now(&[1, 0, 2, 3]));
    assert_eq!(table.fit(&[0, 1, 3, 2], false), now(&[0, 1, 3, 2]), "reserves have nothing");
}

#[test]
fn who_has_no_copy_gets_one_before_it_stands_for_one_that_has() {
    let mut table = Table::new(&[0, 1, 2, 3]);
    assert_eq!(table.fit(&[3, 0, 1, 2], false), fill(&[3]), "as the owner");
    assert_eq!(table.fit(&[0, 3, 1, 2], false), fill(&[3]), "as the successor");
    table.invite(&[3]);
    assert_eq!(table.fit(&[3, 0, 1, 2], false), fill(&[3]), "nobody goes by it yet");
    table.catch_up();
    table.standings[3].synced = false;
    assert_eq!(table.fit(&[3, 0, 1, 2], false), fill(&[3]), "it fills up");
    table.standings[3].synced = true;
    assert_eq!(table.fit(&[3, 0, 1, 2], false), now(&[3, 0, 1, 2]));
    assert_eq!(table.fit(&[2, 3, 0, 1], false), fill(&[2, 3]), "who has it stays invited");
}

#[test]
fn after_a_death_lists_are_repaired_with_the_copies_that_are_left() {
    let mut table = Table::new(&[0, 1, 2, 3]);
    table.standings[1].gone = true;
    assert_eq!(table.fit(&[0, 3, 2], true), now(&[0, 3, 2]), "there is no other copy");
    // One that was invited has it, and comes first.
    let mut table = Table::new(&[0, 1, 2, 3]);
    table.invite(&[3]);
    table.catch_up();
    table.standings[1].gone = true;
    assert_eq!(table.fit(&[0, 2, 3], true), now(&[0, 3, 2]));
    assert_eq!(table.fit(&[0, 2, 3], false), fill(&[2, 3]), "what is not urgent waits");
}

#[test]
fn who_gives_a_bucket_away_stands_before_those_who_have_no_copy() {
    let mut table = Table::new(&[0, 1, 2, 3]);
    table.invite(&[2]);
    table.catch_up();
    assert_eq!(
        table.fit(&[1, 2, 3, 0], false),
        now(&[1, 2, 0, 3]),
        "drained, it would be the last"
    );
    assert_eq!(table.fit(&[1, 2, 3], false), now(&[1, 2, 0, 3]), "or not named at all");
    // Both of the next keepers could die before it has let go: it counts until it has settled.
    table.assign(&[1, 2, 0, 3]);
    table.standings[0].settled = Version(table.map.version().0 - 1);
    table.standings[2].gone = true;
    assert_eq!(table.fit(&[1, 3, 0], true), now(&[1, 0, 3]), "there is no other copy");
    table.standings[0].settled = table.map.version();
    assert_eq!(table.fit(&[1, 3, 0], true), now(&[1, 3, 0]));
}

#[test]
fn where_nobody_keeps_a_bucket_those_are_preferred_who_did_before() {
    let mut table = Table::new(&[2, 1, 0, 3]);
    let (basis, life) = (table.map.version(), Incarnation(8));
    let lives = table.cluster.nodes().map(|node| (node, life)).collect();
    table.map.apply(&Command::Admit { basis, lives }).expect("new lives");
    table.standings.iter_mut().for_each(|standing| standing.gone = true);
    assert_eq!(table.fit(&[0, 3, 1, 2], true), now(&[0, 3, 1, 2]), "they can't own yet");
    table.catch_up();
    table.standings.iter_mut().for_each(|standing| standing.life = Some(life));
    // They live, and keep it by their numbers; nobody owns it.
    assert_eq!(table.fit(&[0, 3, 1, 2], true), now(&[2, 1, 0, 3]));
}

#[test]
fn with_all_keeping_all_nothing_waits() {
    let mut table = Table::new(&[0, 1, 2, 3]);
    let settings = Settings {
        name: "lab".into(),
        secret: [7; 16],
        members: ["n0", "n1", "n2", "n3"].map(String::from).into(),
        weights: vec![100; 4],
        witnesses: NodeSet::default(),
        min_voters: 1,
        node: NodeId(0),
        buckets: 2,
        replicas: Replicas::All,
        timing: Timing::default(),
        max_flows: 10,
        label: String::new(),
    };
    table.cluster = Cluster::new(settings).expect("settings that work");
    assert_eq!(table.fit(&[3, 0, 1, 2], false), now(&[3, 0, 1, 2]));
}
