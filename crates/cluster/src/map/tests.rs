//! What commands do to a map.

use super::*;

const fn node(number: u8) -> NodeId {
    NodeId(number)
}

fn assign(basis: u64, settled: u64, bucket: u16, ranks: &[u8]) -> Command {
    Command::Assign {
        basis: Version(basis),
        settled: Version(settled),
        lists: vec![(BucketId(bucket), ranks.iter().map(|&n| node(n)).collect())],
        reason: Reason::Balance,
    }
}

fn admit(basis: u64, lives: &[(u8, u64)]) -> Command {
    let lives = lives.iter().map(|&(n, life)| (node(n), Incarnation(life))).collect();
    Command::Admit { basis: Version(basis), lives }
}

fn all(nodes: &[u8]) -> NodeSet {
    nodes.iter().map(|&n| node(n)).collect()
}

/// Three nodes, admitted at version 1.
fn map() -> Map {
    let mut map = Map::new(6, 3, all(&[0, 1, 2]));
    map.apply(&admit(0, &[(0, 10), (1, 11), (2, 12)])).unwrap();
    map
}

#[test]
fn a_command_changes_what_it_names_and_nothing_else() {
    let mut map = map();
    map.apply(&assign(1, 0, 2, &[0, 1, 2])).unwrap();
    assert_eq!(map.version(), Version(2));
    assert_eq!(map.ranks(BucketId(2)), [node(0), node(1), node(2)]);
    assert_eq!(map.ranks(BucketId(1)), []);
    assert_eq!(map.shares(), [1, 0, 0]);
    let last = map.history().next_back().unwrap();
    assert_eq!((last.version, last.reason.clone(), last.buckets), (Version(2), Reason::Balance, 1));
    let moving = map.buckets().any(|bucket| map.older(bucket).next().is_some());
    assert!(map.is_formed() && !moving, "the first list has nothing before it");
}

#[test]
fn a_plan_for_an_older_map_changes_nothing() {
    let mut map = map();
    map.apply(&assign(1, 0, 2, &[0, 1, 2])).unwrap();
    let before = map.clone();
    let (bucket, basis) = (BucketId(2), Version(1));
    let seen = map.apply(&assign(1, 0, 2, &[1, 0, 2]));
    assert_eq!(seen, Err(Outdated::Bucket { bucket, since: Version(2), basis }));
    map.apply(&Command::Drain { node: node(7) }).unwrap_err();
    map.apply(&assign(2, 0, 9, &[1])).unwrap_err();
    let hole = map.apply(&assign(2, 0, 1, &[])).unwrap_err().to_string();
    assert_eq!(hole, "bucket 1 would be nobody's; expected a list of at least one node");
    assert_eq!(map, before);
}

#[test]
fn a_list_stays_until_everyone_has_settled_the_next() {
    let mut map = map();
    map.apply(&assign(1, 0, 2, &[0, 1])).unwrap();
    map.apply(&assign(2, 0, 2, &[1, 0])).unwrap();
    map.apply(&assign(3, 2, 2, &[2, 0])).unwrap();
    let older: Vec<_> = map.older(BucketId(2)).map(|(list, next)| (list.since.0, next.0)).collect();
    assert_eq!(older, [(2, 3), (3, 4)], "nobody is known to have settled version 3");
    map.apply(&assign(4, 3, 2, &[2, 1])).unwrap();
    let older: Vec<_> = map.older(BucketId(2)).map(|(list, _)| list.since.0).collect();
    assert_eq!(older, [3, 4]);
    map.apply(&assign(5, 5, 2, &[2])).unwrap();
    let older: Vec<_> = map.older(BucketId(2)).map(|(list, _)| list.since.0).collect();
    assert_eq!(older, [5]);
}

#[test]
fn unsettled_lists_are_bounded() {
    let mut map = map();
    for round in 0..=MAX_OLDER as u64 {
        map.apply(&assign(1 + round, 0, 2, &[(round % 2) as u8])).unwrap();
    }
    let bucket = BucketId(2);
    let version = map.version();
    let seen = map.apply(&assign(version.0, 0, 2, &[2]));
    assert_eq!(seen, Err(Outdated::Unsettled { bucket }));
    map.apply(&assign(version.0, version.0, 2, &[2])).unwrap();
}

#[test]
fn a_new_life_is_a_stranger_to_older_lists() {
    let mut map = map();
    map.apply(&assign(1, 0, 0, &[1, 0])).unwrap();
    let since = map.list(BucketId(0)).unwrap().since;
    assert!(map.stands_in(node(1), since));
    map.apply(&admit(2, &[(1, 99)])).unwrap();
    assert_eq!(map.apply(&admit(3, &[(1, 99)])), Err(Outdated::NothingNew));
    assert!(!map.stands_in(node(1), since) && map.stands_in(node(0), since));
    let seen = map.apply(&assign(2, 0, 1, &[1, 0]));
    let (admitted, basis) = (Some(Version(3)), Version(2));
    assert_eq!(seen, Err(Outdated::Admitted { node: node(1), since: admitted, basis }));
    map.apply(&assign(3, 0, 1, &[1, 0])).unwrap();
}

#[test]
fn voters_change_one_at_a_time_and_after_everyone_knows() {
    let mut map = map();
    let voters = |acknowledged, nodes: &[u8]| Command::Voters {
        acknowledged: Version(acknowledged),
        voters: all(nodes),
    };
    assert_eq!(map.apply(&voters(1, &[0])), Err(Outdated::VoterCount { count: 1, changes: 2 }));
    map.apply(&voters(1, &[0, 1])).unwrap();
    assert_eq!(map.majority(), 2);
    let seen = map.apply(&voters(1, &[0]));
    assert_eq!(seen, Err(Outdated::Voters { since: Version(2), basis: Version(1) }));
    map.apply(&voters(2, &[0])).unwrap();
    let seen = map.apply(&voters(3, &[]));
    assert_eq!(seen, Err(Outdated::VoterCount { count: 0, changes: 1 }));
    let stale = map.apply(&admit(2, &[(2, 77)]));
    assert_eq!(stale, Err(Outdated::Voters { since: Version(3), basis: Version(2) }));
}
