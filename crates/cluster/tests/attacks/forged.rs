//! How the attacks of the set are recorded, which are made on a stream that is open: by somebody who can put
//! bytes into it (`tls = "off"`), or by a member that lies or has a build that is not right.

use testudo_cluster::heartbeat::Incarnation;
use testudo_cluster::map::Version;
use testudo_cluster::sync::comparing::Verdict;
use testudo_cluster::sync::determining::Answer;
use testudo_cluster::sync::frame::Frame;
use testudo_cluster::sync::layout::{HEAD_BYTES, Head, Item, kind};
use testudo_cluster::sync::references::Reference;
use testudo_packet::bucket::{BucketId, Epoch};
use testudo_packet::entry::FlowRecord;
use testudo_packet::tracking::Phase;

use crate::file::{Delivery, Part, Place, Recording};
use crate::recipes::part;
use crate::scene::{PEER, Scene, VICTIM, epoch, flow};
use crate::{frame, item};

/// A number that no flow of the scene has.
const UNUSED: u32 = 70_000;

pub fn all() -> Vec<Recording> {
    let sets = [
        replayed(),
        truncated(),
        short(),
        reordered(),
        unasked(),
        forged(),
        forged_otherwise(),
        meaningless(),
    ];
    sets.into_iter().flatten().collect()
}

fn inside(name: &'static str, prose: &'static str, parts: Vec<Part>) -> Recording {
    let (place, delivery) = (Place::Peer, Delivery::Whole);
    Recording { name, prose, place, delivery, parts, error: None, counters: &[] }
}

fn refused(
    name: &'static str,
    prose: &'static str,
    parts: Vec<Part>,
    error: &'static str,
) -> Recording {
    Recording { error: Some(error.to_owned()), ..inside(name, prose, parts) }
}

fn counted(
    name: &'static str,
    prose: &'static str,
    parts: Vec<Part>,
    counters: &'static [(&'static str, u64)],
) -> Recording {
    Recording { counters, ..inside(name, prose, parts) }
}

fn says(meaning: &str, said: Frame) -> Part {
    part(meaning, item(&Item::Frame(said)))
}

fn named(bucket: u16, epoch: Epoch) -> Part {
    let bucket = BucketId(bucket);
    part(format!("bucket {} under {epoch:?}", bucket.0), item(&Item::Epoch { bucket, epoch }))
}

fn introduce(meaning: &str, record: FlowRecord) -> Part {
    part(meaning, item(&Item::Introduce { reference: Reference::new(UNUSED), record }))
}

fn snapshot(meaning: &str, record: FlowRecord) -> Part {
    part(meaning, item(&Item::Snapshot { reference: Reference::new(UNUSED), record }))
}

fn begin(bucket: u16, epoch: Epoch) -> Part {
    says("all of a bucket follows", Frame::Begin { bucket: BucketId(bucket), epoch })
}

fn end(bucket: u16) -> Part {
    says("that was all of it", Frame::End { bucket: BucketId(bucket) })
}

/// The frames that node 2 has said to the victim: head and items.
fn frames() -> Vec<(Head, Vec<u8>)> {
    const HANDSHAKE: usize = 32 + 16 + 168;
    let said = Scene::new().said(PEER, VICTIM).concat();
    let mut bytes = &said[HANDSHAKE..];
    let mut frames = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<HEAD_BYTES>() {
        let head = Head::from_bytes(*head);
        let (_, after) = rest.split_at(usize::from(head.size) * usize::from(head.count));
        frames.push((head, bytes[..bytes.len() - after.len()].to_vec()));
        bytes = after;
    }
    frames
}

fn replayed() -> Vec<Recording> {
    let frames = frames();
    let is_acknowledgement = |head: &Head| head.kind == kind::ACKNOWLEDGE;
    let first = frames.iter().find(|(head, _)| is_acknowledgement(head)).expect("one of them");
    let rest = frames.iter().filter(|(head, _)| !is_acknowledgement(head));
    let rest = rest.map(|(head, bytes)| {
        part(format!("{} of kind {:02x}", head.count, head.kind), bytes.clone())
    });
    vec![
        counted(
            "replayed-records",
            "Somebody puts into the stream of node 2 what node 2 has said on it before: beginnings and
            changes of flows, and what its buckets summed up to then.
            Made: all frames but acknowledgements that node 2 said while the scene was set.",
            rest.collect(),
            &[("older", 6)],
        ),
        refused(
            "replayed-acknowledgement",
            "Somebody puts an acknowledgement of earlier times into the stream of node 2.
            Made: the first one that node 2 said while the scene was set.",
            vec![part("an acknowledgement", first.1.clone())],
            "a acknowledgement that is out of place: an acknowledgement of frames that were sent",
        ),
    ]
}

fn truncated() -> Vec<Recording> {
    let cut =
        |name, prose, parts| Recording { delivery: Delivery::Cut, ..inside(name, prose, parts) };
    vec![
        cut(
            "truncated-introduction",
            "The stream of node 2 ends within the beginning of a flow, after each byte of it.",
            vec![named(5, epoch(5)), introduce("a flow", flow(21, Phase::SynSent, 1))],
        ),
        cut(
            "truncated-departure",
            "The stream of node 2 ends within the end of a flow that is there, after each byte of it.",
            vec![says("flow 6 is gone", Frame::Remove(flow(6, Phase::Established, 2)))],
        ),
        cut(
            "truncated-snapshot",
            "The stream of node 2 ends while it sends all of bucket 5, before the last byte of the end: the
            second of its two flows was not sent, and is not gone for that.",
            vec![
                begin(5, epoch(5)),
                snapshot("the first flow, as it is", flow(5, Phase::Established, 2)),
                end(5),
            ],
        ),
    ]
}

fn short() -> Vec<Recording> {
    vec![
        refused(
            "short-check",
            "An item that is a byte shorter than its kind.",
            vec![part("a check of 17 bytes", frame(kind::CHECK, &[&[5; 17]]))],
            "items of kind 9 with 17 bytes; expected 18 at least",
        ),
        refused(
            "short-nothing",
            "65,535 items without a byte, which would cost more to read than to send.",
            vec![part("a head", [0x3f, 0, 0xff, 0xff])],
            "items of kind 63 with 0 bytes; expected 1 at least",
        ),
        refused(
            "short-hashes",
            "Says that five hashes follow, and sends four.",
            vec![part("handled", frame(kind::HANDLED, &[&[&[5, 0, 5][..], &[7; 32]].concat()]))],
            "a frame of kind 15 with contents that mean nothing",
        ),
        refused(
            "short-letter",
            "Says that 48 bytes of a letter follow, and sends ten.",
            vec![part("a letter", frame(kind::LETTER, &[&[&[48, 1][..], b"ten bytes."].concat()]))],
            "a frame of kind 18 with contents that mean nothing",
        ),
    ]
}

fn reordered() -> Vec<Recording> {
    const PART: &str = "a snapshot's part that is out of place: the beginning of a snapshot of the same \
                        bucket";
    const BEFORE: &str =
        "a snapshot's beginning that is out of place: the end of the snapshot before";
    const EPOCH: &str = "a flow that is out of place: the epoch of its bucket first";
    let flow_5 = flow(5, Phase::Established, 2);
    vec![
        refused(
            "reordered-part",
            "A part of a snapshot comes before its beginning.",
            vec![snapshot("a flow", flow(21, Phase::SynSent, 1)), begin(5, epoch(5)), end(5)],
            PART,
        ),
        refused(
            "reordered-end",
            "The end of a snapshot comes, which would take all flows of the bucket, and no beginning.",
            vec![end(5)],
            PART,
        ),
        refused(
            "reordered-buckets",
            "Within the snapshot of a bucket comes the end of another's.",
            vec![begin(5, epoch(5)), snapshot("flow 5, as it is", flow_5), end(6)],
            PART,
        ),
        refused(
            "reordered-beginnings",
            "A second snapshot begins within the first.",
            vec![begin(5, epoch(5)), begin(6, epoch(6))],
            BEFORE,
        ),
        refused(
            "reordered-epoch",
            "A flow comes before the epoch of its bucket.",
            vec![introduce("a flow of bucket 7", flow(7, Phase::SynSent, 1)), named(7, epoch(7))],
            EPOCH,
        ),
    ]
}

/// What answers something that was not said, or goes on with it.
fn unasked() -> Vec<Recording> {
    let reference = Reference::new(UNUSED).expect("below the bound");
    let change = Item::Change { reference, phase: Phase::Reset, confirmed: true, sequence: 9 };
    let (bucket, since) = (BucketId(5), Version(9));
    let mut packets = [0; 5];
    packets[0] = 77;
    vec![
        counted(
            "reordered-change",
            "A flow changes, and leaves, before it was introduced. The victim asks for the introduction.",
            vec![
                part("a change", item(&change)),
                part("a departure", item(&Item::Leave { reference })),
            ],
            &[("unknown", 1)],
        ),
        refused(
            "reordered-acknowledgement",
            "Acknowledges more than was ever sent.",
            vec![says("an acknowledgement", Frame::Acknowledge { frames: 1 << 40 })],
            "a acknowledgement that is out of place: an acknowledgement of frames that were sent",
        ),
        counted(
            "reordered-move",
            "Hands a bucket over that was never to be moved, in words that come after others: packets that
            were handled, the release, the withdrawal. And says that it holds the packets of a bucket of the
            victim's, which nobody asked it to.",
            vec![
                says("handled", Frame::Handled { bucket, count: 1, packets }),
                says("released", Frame::Released { bucket, since }),
                says("withdrawn", Frame::Withdrawn { bucket, since }),
                says("holding", Frame::Holding { bucket: BucketId(2), since }),
            ],
            &[],
        ),
        counted(
            "reordered-answers",
            "Answers what it was not asked: a comparison, a request to let a flow in, a reference.",
            vec![
                says("differs", Frame::Compared {
                    bucket: BucketId(2),
                    check: 1,
                    verdict: Verdict::Differs,
                }),
                says("placed", Frame::Determined { number: 1, answer: Answer::Placed, copies: 2 }),
                part("forgotten", item(&Item::Forgotten { reference })),
            ],
            &[],
        ),
    ]
}

/// What is said of a bucket that is not node 2's: of a new flow, of one that is there, of one that is to
/// go, and of all of them. `here` and `gone` are flows that the bucket has.
fn lies(bucket: u16, epoch: Epoch, new: u16, here: u16, gone: u16) -> Vec<Part> {
    let under = |record: FlowRecord| FlowRecord { epoch, ..record };
    let check = Frame::Check { bucket: BucketId(bucket), epoch, digest: 7, count: 1 };
    vec![
        named(bucket, epoch),
        introduce("a flow that there is not", under(flow(new, Phase::Established, 1))),
        introduce("a flow that is there, reset", under(flow(here, Phase::Reset, 900))),
        says("one that is there is gone", Frame::Remove(under(flow(gone, Phase::Reset, 900)))),
        says("what it sums up to", check),
        begin(bucket, epoch),
        snapshot("the new flow alone", under(flow(new, Phase::Established, 1))),
        end(bucket),
    ]
}

fn forged() -> Vec<Recording> {
    let stale = |number| FlowRecord { epoch: Epoch(1), ..flow(number, Phase::Reset, 900) };
    vec![
        counted(
            "forged-bucket-of-another",
            "Node 2 speaks for a bucket of node 0, under the epoch that node 0 has it in. The victim asks
            node 0, for it might be that it does not know yet what node 2 knows.",
            lies(0, epoch(0), 24, 0, 8),
            &[("not_owner", 4), ("asked_the_owner", 1)],
        ),
        counted(
            "forged-bucket-of-another-before",
            "The same under an epoch of earlier times.",
            lies(0, Epoch(5), 24, 0, 8),
            &[("not_owner", 4), ("asked_the_owner", 1)],
        ),
        counted(
            "forged-bucket-of-the-victim",
            "Node 2 speaks for a bucket of the victim's, under the epoch that the victim has it in.",
            lies(2, epoch(2), 26, 2, 10),
            &[("not_owner", 4)],
        ),
        counted(
            "forged-older-epoch",
            "Node 2 speaks for its own bucket, under an epoch of earlier times: of a flow that is there,
            and of its end.",
            vec![
                named(5, Epoch(1)),
                introduce("a flow that is there, reset", stale(5)),
                says("it is gone", Frame::Remove(stale(5))),
            ],
            &[("older", 2)],
        ),
    ]
}

fn forged_otherwise() -> Vec<Recording> {
    let (bucket, since) = (BucketId(9), Version(9));
    let no_such = FlowRecord { bucket, ..flow(9, Phase::Reset, 900) };
    vec![
        refused(
            "forged-no-bucket",
            "Speaks for a bucket that there is not.",
            vec![named(9, Epoch(0x102)), introduce("a flow of it", no_such)],
            "a epoch of a bucket that is out of place: a bucket that there is",
        ),
        refused(
            "forged-no-bucket-begins",
            "Sends all of a bucket that there is not.",
            vec![begin(9, Epoch(0x102))],
            "a epoch of a bucket that is out of place: a bucket that there is",
        ),
        counted(
            "forged-no-bucket-otherwise",
            "Says all else that names a bucket, of one that there is not.",
            vec![
                says("check", Frame::Check { bucket, epoch: Epoch(0x102), digest: 7, count: 1 }),
                says("remove", Frame::Remove(no_such)),
                says("want", Frame::Want { bucket }),
                says("prepare", Frame::Prepare { bucket, since, epoch: Epoch(0x902) }),
                says("holding", Frame::Holding { bucket, since }),
                says("released", Frame::Released { bucket, since }),
                says("withdrawn", Frame::Withdrawn { bucket, since }),
                says("compared", Frame::Compared { bucket, check: 1, verdict: Verdict::Equal }),
            ],
            &[("no_such_bucket", 1), ("not_owner", 1)],
        ),
        counted(
            "forged-move",
            "Node 2 has the victim prepare for buckets that are not node 2's: one of node 0's, and one of
            the victim's own.",
            vec![
                says("prepare", Frame::Prepare { bucket: BucketId(0), since, epoch: Epoch(0x901) }),
                says("released", Frame::Released { bucket: BucketId(0), since }),
                says("prepare", Frame::Prepare { bucket: BucketId(2), since, epoch: Epoch(0x901) }),
                says("released", Frame::Released { bucket: BucketId(2), since }),
                says("want", Frame::Want { bucket: BucketId(0) }),
            ],
            &[],
        ),
        refused(
            "forged-other-life",
            "Says that it hears the heartbeats of another life of the victim.",
            vec![says("other life", Frame::OtherLife { heard: Incarnation(99) })],
            "the peer hears the heartbeats of life 0000000000000063 of this node, which is life \
             000000000000000c; if that goes on, another process runs as this node; stop one of them",
        ),
    ]
}

fn meaningless() -> Vec<Recording> {
    let mut no_phase = Vec::new();
    Item::Introduce { reference: None, record: flow(6, Phase::Established, 9) }.put(&mut no_phase);
    no_phase[3] = 99;
    let letter = part("a part", frame(kind::LETTER, &[&[&[48, 0][..], &[0x61; 48]].concat()]));
    vec![
        refused(
            "meaningless-critical-kind",
            "A kind that the victim does not know, and must not skip.",
            vec![part("kind bf", frame(0xbf, &[&[1; 9]]))],
            "items of kind 191 with 9 bytes, to be understood as a whole; this node knows 0 of them",
        ),
        refused(
            "meaningless-critical-field",
            "A kind that the victim knows, with a field that it does not know, and must not skip.",
            vec![part("want", frame(kind::WANT | 0x80, &[&[5, 0, 1]]))],
            "items of kind 138 with 3 bytes, to be understood as a whole; this node knows 2 of them",
        ),
        refused(
            "meaningless-hashes",
            "Says that six hashes follow, of which a frame has five at most, and sends six.",
            vec![part("handled", frame(kind::HANDLED, &[&[&[5, 0, 6][..], &[7; 48]].concat()]))],
            "a frame of kind 15 with contents that mean nothing",
        ),
        refused(
            "meaningless-phase",
            "A flow in a phase that there is not.",
            vec![named(6, epoch(6)), part("a flow", frame(kind::INTRODUCE_4, &[&no_phase]))],
            "a frame of kind 1 with contents that mean nothing",
        ),
        refused(
            "meaningless-reference",
            "A change of the flow that has no reference.",
            vec![part("a change", frame(kind::CHANGE, &[&[0xff, 0xff, 0xff, 3, 9, 0, 0, 0]]))],
            "a frame of kind 3 with contents that mean nothing",
        ),
        refused(
            "meaningless-verdict",
            "A comparison with a verdict that there is not.",
            vec![part("compared", frame(kind::COMPARED, &[&[2, 0, 9, 1, 0, 0, 0, 0, 0, 0, 0]]))],
            "a frame of kind 21 with contents that mean nothing",
        ),
        refused(
            "endless-letter",
            "A letter that never ends, to fill the victim's memory: it is read up to 1.5 MiB.",
            vec![Part { times: 32_769, ..letter }],
            "a letter's part that is out of place: the end of a letter",
        ),
    ]
}
