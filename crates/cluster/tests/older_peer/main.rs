//! A peer of the release before, which speaks version 2 of the sync protocol.
//!
//! `version-2.stream` is what two nodes of that release have said to each other while they lived through
//! the story in `story.rs`. Here a node of this release takes the place of either of them, and the
//! record speaks for the other. It must understand all that is said, and say the very same.
//!
//! Two things differ, both in places that a build of version 2 does not read: the newest version in the
//! greeting, and its repetition in the identity, with the code over that.

mod story;
#[path = "../two_nodes/mod.rs"]
mod two_nodes;

use std::ops::Range;

use story::{Story, flow, split};
use testudo_cluster::replica::Effect;
use testudo_packet::bucket::{BucketId, Epoch};
use testudo_packet::entry::FlowRecord;
use testudo_packet::tracking::Phase;

const RECORD: &[u8] = include_bytes!("version-2.stream");

const PROOF: usize = 16;
const BODY: usize = 152;
/// Where the greeting names the newest version.
const NEWEST: Range<usize> = 10..12;

/// What version 2 does not read, made equal.
fn blank(turn: usize, message: &mut [u8]) {
    let identity = match turn {
        0 | 1 => return message[NEWEST].fill(0),
        // The acceptor's follows its proof; the dialler's is followed by frames.
        3 => PROOF,
        4 => 0,
        _ => return,
    };
    message[identity + 3] = 0;
    message[identity + BODY..identity + BODY + PROOF].fill(0);
}

fn check(node: usize) {
    let mut live = [false; 2];
    live[node] = true;
    let mut story = Story::new(live, RECORD);
    story.run();
    let record = split(RECORD);
    assert_eq!(story.said.len(), record.len());
    for (turn, (said, recorded)) in story.said.iter().zip(&record).enumerate() {
        let (mut said, mut recorded) = (said.clone(), recorded.clone());
        blank(turn, &mut said);
        blank(turn, &mut recorded);
        assert_eq!(said, recorded, "turn {turn}");
    }
    let table = story.replica(node).expect("a live node").table();
    let mut seen: Vec<_> = table.iter().collect();
    let mut expected: Vec<_> = (4..17)
        .filter(|&number| number != 5)
        .map(|number| match number {
            16 => flow(number, Phase::Unreplied, 70_000),
            _ => flow(number, Phase::Established, 2),
        })
        .chain([18, 19].map(|number| flow(number, Phase::Unreplied, 70_000)))
        .collect();
    // Handed over, and changed by the next owner.
    expected.push(FlowRecord { epoch: Epoch(0x900), ..flow(17, Phase::Replied, 70_002) });
    let by_port = |record: &FlowRecord| record.key.initiator.port;
    seen.sort_by_key(by_port);
    expected.sort_by_key(by_port);
    assert_eq!(seen, expected);
    let effects = &story.effects[node];
    let told = |what: fn(&Effect) -> bool| effects.iter().any(what);
    assert!(told(|effect| matches!(effect, Effect::Letter { .. })));
    if node == 0 {
        let handled = (1..=7).map(|hash| hash << 50).collect();
        assert!(effects.contains(&Effect::ReleaseHeld { bucket: BucketId(1), handled }));
        assert!(effects.contains(&Effect::DiscardHeld { bucket: BucketId(3) }));
    } else {
        assert!(told(|effect| matches!(effect, Effect::Delivered { .. })));
    }
}

#[test]
fn a_new_node_that_is_dialled_by_an_older_one_speaks_as_that() {
    check(0);
}

#[test]
fn a_new_node_that_dials_an_older_one_speaks_as_that() {
    check(1);
}

/// With two nodes of this release the same story ends the same.
#[test]
fn the_story_does_not_depend_on_the_version() {
    let mut story = Story::new([true; 2], &[]);
    story.run();
    let [a, b] = [0, 1].map(|node| story.replica(node).expect("a live node").table());
    assert_eq!((a.len(), a.digest()), (b.len(), b.digest()));
    let older: usize = split(RECORD).iter().map(Vec::len).sum();
    let newer: usize = story.said.iter().map(Vec::len).sum();
    assert!(newer < older / 2, "{newer} bytes; {older} in version 2");
}
