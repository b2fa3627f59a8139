//! What a member can do by lying, and what it can't: nobody but a majority could tell which of two members
//! that claim a bucket is right, and the sync protocol has only the epoch. Who can put bytes into the stream of
//! a member can do the same.

use testudo_cluster::ownership::Ownership;
use testudo_packet::bucket::{BucketId, BucketSlot, BucketState, Epoch, NodeId};
use testudo_packet::entry::FlowRecord;
use testudo_packet::tracking::Phase;

use crate::item;
use crate::scene::{BUCKETS, HONEST, PEER, Scene, VICTIM, epoch, flow, owner};
use testudo_cluster::sync::frame::Frame;
use testudo_cluster::sync::layout::Item;

const CLAIMED: Epoch = Epoch(0x9902);

/// Node 2 claims a bucket under an epoch that nobody has agreed on, and tells of a flow of it and of the end of
/// another.
fn claim(bucket: u16, new: FlowRecord, gone: FlowRecord) -> Vec<u8> {
    let under = |record| FlowRecord { epoch: CLAIMED, ..record };
    let bucket = BucketId(bucket);
    [
        item(&Item::Epoch { bucket, epoch: CLAIMED }),
        item(&Item::Introduce { reference: None, record: under(new) }),
        item(&Item::Frame(Frame::Remove(under(gone)))),
    ]
    .concat()
}

/// Who owns what as the victim is told, with one bucket under another epoch.
fn agreed(bucket: u16, epoch: Epoch) -> Ownership {
    let owner = NodeId(owner(bucket) as u8);
    let slot = BucketSlot { owner, previous: owner, state: BucketState::Loading, epoch };
    Ownership::OwnerChanged { buckets: vec![(BucketId(bucket), slot)] }
}

#[test]
fn a_member_that_claims_a_bucket_is_believed_until_a_newer_epoch_is_agreed_on() {
    let mut scene = Scene::new();
    let before = scene.seen(VICTIM);
    let (new, gone) = (flow(24, Phase::Established, 1), flow(8, Phase::Reset, 900));
    let peer = scene.connection(PEER);
    assert_eq!(scene.hears(peer, &claim(0, new, gone)), Ok(()));
    // The copy of that bucket is what node 2 says. No slot is changed, nothing is to be done, and no other
    // bucket is touched: who owns what is for the membership to say.
    let claimed = FlowRecord { epoch: CLAIMED, ..new };
    let now = scene.seen(VICTIM);
    assert_eq!(now.flows_of(0), [flow(0, Phase::Established, 2), claimed]);
    for bucket in 1..BUCKETS {
        assert_eq!(now.flows_of(bucket), before.flows_of(bucket));
    }
    assert_eq!(now.slots, before.slots);
    assert_eq!(scene.effects(VICTIM), []);
    // The owner is not believed any more, which is counted as its fault.
    scene.event(flow(0, Phase::FinOriginal, 3));
    scene.talk_among_the_honest();
    assert!(scene.seen(VICTIM).flows_of(0).contains(&flow(0, Phase::Established, 2)));
    let honest = scene.nodes[VICTIM].peer(NodeId(HONEST as u8)).rejected;
    assert_eq!(honest.not_owner, 1);
    // A newer list of owners ends it: the victim asks whoever owns the bucket by that.
    let newer = Epoch(CLAIMED.0 + 0x100);
    for node in [VICTIM, PEER, HONEST] {
        scene.nodes[node].handle_ownership(agreed(0, newer));
    }
    scene.talk_among_the_honest();
    let known = |node: usize| scene.seen(node).flows_of(0);
    assert_eq!(known(VICTIM), known(HONEST));
    assert!(!known(VICTIM).contains(&claimed));
}

#[test]
fn a_member_that_claims_a_bucket_of_the_victim_does_not_get_it() {
    let mut scene = Scene::new();
    let before = scene.seen(VICTIM);
    let (new, gone) = (flow(26, Phase::Established, 1), flow(10, Phase::Reset, 900));
    let peer = scene.connection(PEER);
    assert_eq!(scene.hears(peer, &claim(2, new, gone)), Ok(()));
    // The copy of the bucket suffers; slots and the node table, which packets are handled by, do not. What is
    // in the node table and not in the copy, the audit brings back.
    let now = scene.seen(VICTIM);
    let claimed = FlowRecord { epoch: CLAIMED, ..new };
    assert_eq!(now.flows_of(2), [flow(2, Phase::Established, 2), claimed]);
    assert_eq!(now.slots, before.slots);
    assert_eq!(scene.effects(VICTIM), []);
    scene.event(flow(10, Phase::FinOriginal, 3));
    scene.talk_among_the_honest();
    for node in [VICTIM, HONEST] {
        assert!(scene.seen(node).flows_of(2).contains(&flow(10, Phase::FinOriginal, 3)));
        assert_eq!(scene.nodes[node].slot(BucketId(2)).epoch, epoch(2));
    }
}

#[test]
fn the_beginning_of_a_flow_that_is_gone_brings_it_back_until_the_bucket_is_compared() {
    let mut scene = Scene::new();
    let before = scene.seen(VICTIM);
    let turns = scene.said(PEER, VICTIM).len();
    scene.event(flow(29, Phase::SynSent, 1));
    scene.talk();
    let beginning = scene.said(PEER, VICTIM)[turns].clone();
    scene.nodes[PEER].handle_expired(&flow(29, Phase::SynSent, 1)).expect("an own flow");
    scene.talk();
    assert_eq!(scene.seen(VICTIM), before);
    // Somebody puts what node 2 has said into its stream.
    let peer = scene.connection(PEER);
    assert_eq!(scene.hears(peer, &beginning), Ok(()));
    assert!(scene.seen(VICTIM).flows_of(5).contains(&flow(29, Phase::SynSent, 1)));
    scene.peer_comes_back();
    assert_eq!(scene.seen(VICTIM), before);
}
