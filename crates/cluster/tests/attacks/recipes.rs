//! How the attacks of the set are recorded: what outsiders do. What is said on the stream of a member is in
//! [`crate::forged`].

use testudo_cluster::config::Settings;
use testudo_cluster::heartbeat::Incarnation;
use testudo_cluster::replica::{Side, SyncError};
use testudo_packet::bucket::NodeId;

use crate::file::{Delivery, Part, Place, Recording};
use crate::forged;
use crate::scene::{HONEST, PEER, Scene, VICTIM, VICTIM_NONCE, cluster, handshake, settings};

pub const PROOF: &str = "the peer could not prove that it knows the cluster's secret";

pub fn part(meaning: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Part {
    Part { meaning: meaning.into(), bytes: bytes.into(), times: 1 }
}

/// The whole set.
pub fn all() -> Vec<Recording> {
    let sets = [replayed(), truncated(), impostors(), liars(), between(), strange(), forged::all()];
    sets.into_iter().flatten().collect()
}

fn outside(name: &'static str, prose: &'static str, parts: Vec<Part>) -> Recording {
    let (place, delivery) = (Place::New, Delivery::Whole);
    Recording { name, prose, place, delivery, parts, error: None, counters: &[] }
}

/// What node 2 would say on a new stream with these settings, as this life.
fn greeted(settings: Settings, life: u64) -> Vec<Part> {
    named(handshake(settings, Incarnation(life), |_, _, _| {}))
}

fn named(messages: Vec<Vec<u8>>) -> Vec<Part> {
    let names = ["hello", "proof", "identity"];
    messages.into_iter().zip(names).map(|(bytes, name)| part(name, bytes)).collect()
}

const LIFE: u64 = PEER as u64 + 11;

fn replayed() -> Vec<Recording> {
    let scene = Scene::new();
    let told = |from, to| -> Vec<Part> {
        let said = scene.said(from, to).iter().enumerate();
        said.map(|(turn, bytes)| part(format!("message {}", turn + 1), bytes.clone())).collect()
    };
    let ours = handshake_of_the_victim();
    vec![
        Recording {
            error: Some(PROOF.into()),
            ..outside(
                "replayed-session",
                "Somebody has recorded a whole session of node 2, knows nothing else, and says all of it
                again on a new stream. The victim's nonce is another one, so the proof fits no more.
                Made: all that node 2 said to the victim while the scene was set.",
                told(PEER, VICTIM),
            )
        },
        Recording {
            place: Place::Dialled,
            error: Some(PROOF.into()),
            ..outside(
                "replayed-acceptor",
                "Somebody sits where node 0 listens, and answers the victim that dials with what node 0
                has once said.
                Made: all that node 0 said to the victim while the scene was set.",
                told(HONEST, VICTIM),
            )
        },
        Recording {
            place: Place::Dialled,
            error: Some(PROOF.into()),
            ..outside(
                "replayed-mirror",
                "Somebody who knows nothing sits where node 0 listens, and says what the victim says: its
                hello, nonce included, and then its own proof.
                Made: what the victim says to such a mirror.",
                ours,
            )
        },
    ]
}

/// What the victim says to whoever says it back.
fn handshake_of_the_victim() -> Vec<Part> {
    let mut scene = Scene::new();
    let side = Side::Dialled(NodeId(HONEST as u8));
    let connection = scene.open(side);
    let mut parts = Vec::new();
    for name in ["the victim's own hello", "the victim's own proof"] {
        let mut bytes = Vec::new();
        scene.nodes[VICTIM].poll_transmit(crate::NOW, connection, &mut bytes, 1 << 16);
        let _refused = scene.hears(connection, &bytes).is_err();
        parts.push(part(name, bytes));
    }
    assert!(parts[0].bytes.ends_with(&VICTIM_NONCE));
    parts
}

fn truncated() -> Vec<Recording> {
    let late = "the peer did not finish its handshake in time";
    let mut begun = greeted(settings(PEER), LIFE);
    begun.truncate(2);
    vec![
        Recording {
            delivery: Delivery::Cut,
            ..outside(
                "truncated-handshake",
                "The stream of a good member ends within the handshake, after each of its bytes.
                Made: what a replica of node 2 says on a new stream.",
                greeted(settings(PEER), LIFE),
            )
        },
        Recording {
            delivery: Delivery::Silent,
            error: Some(late.into()),
            ..outside(
                "truncated-silence",
                "Somebody proves that it knows the secret, says nothing more, and keeps the stream open.
                Made: hello and proof of a replica of node 2.",
                begun,
            )
        },
    ]
}

fn impostors() -> Vec<Recording> {
    let other_secret = Settings { secret: *b"another secret!!", ..settings(PEER) };
    let other_cluster = Settings { name: "another".into(), ..settings(PEER) };
    let other_buckets = Settings { buckets: 16, ..settings(PEER) };
    let other_members = Settings {
        members: ["n0", "n1", "n2", "n3"].map(str::to_owned).to_vec(),
        weights: vec![100; 4],
        ..settings(PEER)
    };
    let fingerprint = |settings| cluster(settings).fingerprint();
    let (theirs, ours) = (fingerprint(other_members.clone()), fingerprint(settings(VICTIM)));
    let differ = SyncError::Settings { theirs, ours };
    let mut recordings = Vec::new();
    let mut refused = |name, prose, parts, error: &str| {
        let error = Some(error.to_owned());
        recordings.push(Recording { error, ..outside(name, prose, parts) });
    };
    refused(
        "forged-proof",
        "Somebody who does not know the secret guesses another one.
        Made: a replica of node 2 with another secret; it gets no further than its proof.",
        greeted(other_secret, LIFE),
        PROOF,
    );
    refused(
        "forged-cluster",
        "A member of another cluster that has the same secret.
        Made: a replica of node 2 with another name of the cluster.",
        greeted(other_cluster, LIFE),
        "the peer is of cluster \"another\"; this node is of \"attacked\"",
    );
    refused(
        "forged-buckets",
        "Somebody who knows the secret, and has another number of buckets.
        Made: a replica of node 2 with 16 buckets.",
        greeted(other_buckets, LIFE),
        "the peer has 16 buckets; this node has 8",
    );
    refused(
        "forged-settings",
        "Somebody who knows the secret, and has a member more.
        Made: a replica of node 2 with four members.",
        greeted(other_members.clone(), LIFE),
        &differ.to_string(),
    );
    recordings
}

/// Who knows the secret, and says that it is somebody that it is not.
fn liars() -> Vec<Recording> {
    let other_members = Settings {
        members: ["n0", "n1", "n2", "n3"].map(str::to_owned).to_vec(),
        weights: vec![100; 4],
        ..settings(PEER)
    };
    let unknown = Settings { node: NodeId(3), ..other_members };
    let mut recordings = Vec::new();
    let mut refused = |name, prose, parts, error: &str| {
        let error = Some(error.to_owned());
        recordings.push(Recording { error, ..outside(name, prose, parts) });
    };
    refused(
        "forged-stranger",
        "Somebody who knows the secret calls itself node 3, which there is not.
        Made: a replica of node 3 of four.",
        greeted(unknown, LIFE),
        "the peer is \"n3\", node 3; expected one of the members: n0, n1, n2",
    );
    refused(
        "forged-self",
        "Somebody who knows the secret says that it is the victim itself.
        Made: a replica of node 1.",
        greeted(settings(VICTIM), LIFE),
        "the peer is \"n1\", node 1; expected another node than \"n1\", which is this one",
    );
    refused(
        "forged-direction",
        "Somebody who knows the secret says that it is node 0, which is dialled and never dials.
        Made: a replica of node 0 that dials.",
        greeted(settings(HONEST), LIFE),
        "the peer is \"n0\", node 0; expected a node with a higher number, for the higher one dials",
    );
    refused(
        "forged-life",
        "A process that ran as node 2 before, and does not know that it is over. It is told why, and
        nobody else would be.
        Made: a replica of node 2 of life 5; the victim hears the heartbeats of life 13.",
        greeted(settings(PEER), 5),
        "node 2 spoke as life 0000000000000005; its heartbeats are of life 000000000000000d; if that goes \
         on, two processes run as one node",
    );
    recordings.push(Recording {
        place: Place::Vouched,
        error: Some(
            "the peer is \"n0\", node 0; expected \"n2\", node 2, whom its certificate names"
                .into(),
        ),
        ..outside(
            "forged-identity",
            "Node 2, by its own certificate, says inside that it is node 0. It knows the secret.
            Made: a replica of node 0 that dials.",
            greeted(settings(HONEST), LIFE),
        )
    });
    recordings
}

/// Somebody between two honest nodes changes their handshake.
fn between() -> Vec<Recording> {
    const NEWEST: std::ops::Range<usize> = 10..12;
    const LIFE_IN_IDENTITY: usize = 16;
    let flipped = |message: usize, at: usize| {
        let mut messages = handshake(settings(PEER), Incarnation(LIFE), |_, _, _| {});
        messages[message][at] ^= 1;
        named(messages)
    };
    let older = handshake(settings(PEER), Incarnation(LIFE), |_, turn, bytes| {
        if turn == 0 {
            bytes[NEWEST].fill(0);
        }
    });
    let one_way = handshake(settings(PEER), Incarnation(LIFE), |speaker, turn, bytes| {
        if (speaker, turn) == (0, 0) {
            bytes[NEWEST].fill(0);
        }
    });
    let mut recordings = Vec::new();
    let mut refused = |name, prose, parts, error: &str| {
        let error = Some(error.to_owned());
        recordings.push(Recording { error, ..outside(name, prose, parts) });
    };
    refused(
        "changed-proof",
        "Somebody between two honest nodes flips a bit of the proof.
        Made: what a replica of node 2 says, and one bit.",
        flipped(1, 3),
        PROOF,
    );
    refused(
        "changed-identity",
        "Somebody between two honest nodes makes a node look like another life of it.
        Made: what a replica of node 2 says, and one bit of its life.",
        flipped(2, LIFE_IN_IDENTITY),
        PROOF,
    );
    refused(
        "changed-nonce",
        "Somebody between two honest nodes flips a bit of the nonce.
        Made: what a replica of node 2 says, and one bit of its hello.",
        flipped(0, 20),
        PROOF,
    );
    refused(
        "changed-versions",
        "Somebody between two honest nodes makes both look as if they spoke version 2 alone, to have them
        speak that: the newest version in both hellos is changed. The identity says it once more.
        Made: what a replica of node 2 says to a victim that it takes for an older one.",
        named(older),
        "the peer's greeting named 0 as its newest version, and the peer says 3: somebody between has \
         changed the greeting",
    );
    refused(
        "changed-versions-one-way",
        "The same with one of the hellos: the two do not agree on what is to be proved.
        Made: what a replica of node 2 says, whose hello is changed on the way.",
        named(one_way),
        PROOF,
    );
    refused(
        "reordered-handshake",
        "Somebody between two honest nodes sends the identity before the proof.
        Made: what a replica of node 2 says, in another order.",
        [0, 2, 1].map(|message| greeted(settings(PEER), LIFE)[message].clone()).to_vec(),
        PROOF,
    );
    recordings
}

fn magic(bytes: &[u8]) -> String {
    let seen = *bytes.first_chunk().expect("as long as that");
    SyncError::Magic { seen, expected: *b"TESTUDOS" }.to_string()
}

/// Who does not speak the protocol.
fn strange() -> Vec<Recording> {
    let mut later = greeted(settings(PEER), LIFE);
    later.truncate(1);
    later[0].bytes[8..12].copy_from_slice(&[9, 0, 9, 0]);
    let web = b"GET / HTTP/1.1\r\nHost: testudo\r\n\r\n".to_vec();
    let session = Scene::new().said(PEER, VICTIM).to_vec();
    let frames = session.last().expect("it has said something").clone();
    vec![
        Recording {
            error: Some(
                "the peer speaks version 9 of the sync protocol; this node speaks 2 to 3".into(),
            ),
            ..outside(
                "strange-version",
                "A build that has no version in common with the victim.
                Made: a hello of node 2, with other versions.",
                later,
            )
        },
        Recording {
            error: Some(magic(&web)),
            ..outside("strange-protocol", "Somebody takes the victim for a web server.", vec![
                part("a request", web.clone()),
            ])
        },
        Recording {
            error: Some(magic(&frames)),
            ..outside(
                "reordered-frames-first",
                "Somebody sends frames where a handshake should be.
                Made: the last message of node 2 to the victim, as often as makes a hello's length.",
                vec![part("frames", frames.repeat(32 / frames.len() + 1))],
            )
        },
    ]
}
