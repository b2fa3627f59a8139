//! The recorded attack set: what somebody may do to the streams by which entries are replicated, and that
//! nothing comes of it.
//!
//! `set/` has one attack a file: who does what, the bytes, and what is expected ([`file`]). Each is
//! replayed against a node that holds flows of its own and of both its peers ([`scene`]): its session ends
//! with the error that the file names, or its counters rise by as much as the file says, and its flows,
//! digests, slots and the stream with the honest peer are as they were. There is nothing for the driver to
//! do but to close the stream. Afterwards all three nodes go on, and come to know the same.
//!
//! The bytes are what real replicas say, with what the attacker changes. `recipes.rs` makes them; after a
//! change of the protocol
//!
//! ```sh
//! TESTUDO_RECORD=1 cargo test -p testudo-cluster --test attacks
//! ```
//!
//! records the set anew, and the difference is to be read. What a member can do by lying, and floods, are
//! in [`limits`] and [`floods`].

mod file;
mod floods;
mod forged;
mod limits;
mod recipes;
mod scene;
#[path = "../two_nodes/mod.rs"]
mod two_nodes;

use std::collections::BTreeMap;
use std::path::PathBuf;

use testudo_cluster::heartbeat::Incarnation;
use testudo_cluster::replica::{Effect, Rejected, Side};
use testudo_cluster::sync::layout::{HEAD_BYTES, Head, Item, kind};
use testudo_packet::bucket::NodeId;

use file::{Attack, Delivery, Place};
use scene::{HONEST, NOW, PEER, Scene, VICTIM};

fn frame(kind: u8, items: &[&[u8]]) -> Vec<u8> {
    let head = Head { kind, size: items[0].len() as u8, count: items.len() as u16 };
    head.to_bytes().into_iter().chain(items.concat()).collect()
}

fn item(item: &Item) -> Vec<u8> {
    let mut bytes = Vec::new();
    item.put(&mut bytes);
    frame(item.kind(), &[&bytes])
}

/// The items of a batch, each with the head of its frame.
fn strip(mut bytes: &[u8]) -> Vec<(Head, &[u8])> {
    let mut items = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<HEAD_BYTES>() {
        let head = Head::from_bytes(*head);
        let size = usize::from(head.size);
        let (all, rest) = rest.split_at(size * usize::from(head.count));
        items.extend(all.chunks(size).map(|item| (head, item)));
        bytes = rest;
    }
    items
}

/// How often a batch asks for all of a bucket.
fn wants(bytes: &[u8]) -> usize {
    strip(bytes).iter().filter(|(head, _)| head.kind == kind::WANT).count()
}

fn counters(before: Rejected, after: Rejected, asked: usize) -> BTreeMap<String, u64> {
    let counters = [
        ("older", after.older - before.older),
        ("not_owner", after.not_owner - before.not_owner),
        ("full", after.full - before.full),
        ("no_such_bucket", after.no_such_bucket - before.no_such_bucket),
        ("unknown", after.unknown - before.unknown),
        ("asked_the_owner", asked as u64),
    ];
    let risen = counters.into_iter().filter(|(_, count)| *count > 0);
    risen.map(|(name, count)| (name.to_owned(), count)).collect()
}

/// Replays an attack on a scene, as far as `bytes` go; gives the error that the session ended with.
fn strike(scene: &mut Scene, attack: &Attack, bytes: &[u8]) -> Option<String> {
    let connection = match attack.place {
        Place::New => scene.open(Side::Accepted),
        Place::Vouched => scene.open(Side::Vouched(NodeId(PEER as u8))),
        Place::Dialled => scene.open(Side::Dialled(NodeId(HONEST as u8))),
        Place::Peer => scene.connection(PEER),
    };
    let open_before = scene.nodes[VICTIM].is_open(connection);
    let mut error = scene.hears(connection, bytes).err().map(|error| error.to_string());
    let opened = scene.nodes[VICTIM].is_open(connection) && !open_before;
    assert!(!opened, "a stream to the attacker is open");
    match attack.delivery {
        Delivery::Whole => {}
        Delivery::Cut | Delivery::Closed => scene.nodes[VICTIM].handle_closed(connection),
        Delivery::Silent => {
            scene.nodes[VICTIM].handle_tick(NOW.plus_millis(2999));
            assert!(scene.effects(VICTIM).is_empty(), "it has three seconds");
            scene.nodes[VICTIM].handle_tick(NOW.plus_millis(3000));
        }
    }
    for effect in scene.effects(VICTIM) {
        match effect {
            // The driver is told to close it, or that it is closed.
            Effect::Close { connection: of, error: why } if of == connection => {
                error = Some(why.to_string());
            }
            Effect::PeerClosed { peer }
                if attack.place == Place::Peer && closes(attack, &error) =>
            {
                assert_eq!(peer, NodeId(PEER as u8));
            }
            other => panic!("the driver is to do {other:?}"),
        }
    }
    if closes(attack, &error) {
        assert!(!scene.nodes[VICTIM].is_open(connection));
        assert!(scene.hears(connection, &[0; 4]).is_err(), "nothing more is read");
    }
    error
}

fn closes(attack: &Attack, error: &Option<String>) -> bool {
    error.is_some() || matches!(attack.delivery, Delivery::Cut | Delivery::Closed)
}

/// Replays an attack, and sees that it has done nothing but what its file says.
fn check(attack: &Attack, bytes: &[u8]) {
    let mut scene = Scene::new();
    let (before, rejected) = (scene.seen(VICTIM), scene.rejected());
    let error = strike(&mut scene, attack, bytes);
    assert_eq!(error, attack.error, "the error");
    let now = scene.seen(VICTIM);
    let asked = scene.talk_among_the_honest();
    assert_eq!(counters(rejected, scene.rejected(), asked), attack.counters, "the counters");
    // Whoever has to ask the owner is incomplete meanwhile; flows and slots stay in any case.
    assert!(now.is_but_for_doubts(&before), "{now:#?}\nbefore: {before:#?}");
    assert_eq!(scene.seen(VICTIM), before);
    assert!(scene.effects(VICTIM).is_empty());
    scene.check_that_all_goes_on();
    let after = counters(rejected, scene.rejected(), asked);
    assert_eq!(after, attack.counters, "the counters, when the peer is there again");
}

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/attacks/set")
}

/// All files of the set, by name.
fn set() -> BTreeMap<String, String> {
    let files = std::fs::read_dir(directory()).expect("a directory");
    let files = files.map(|file| file.expect("a file").path());
    files
        .map(|path| {
            let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            (name, std::fs::read_to_string(&path).expect("text"))
        })
        .collect()
}

#[test]
fn every_recorded_attack_is_refused_and_counted_and_changes_nothing() {
    let set = set();
    assert!(set.len() >= 40, "{} attacks", set.len());
    let mut harmful = Vec::new();
    for (name, text) in set {
        println!("{name}");
        let attack = Attack::parse(&text);
        assert!(!attack.bytes.is_empty());
        let whole = attack.bytes.len();
        let lengths = match attack.delivery {
            Delivery::Cut => 1..whole,
            _ => whole..whole + 1,
        };
        let replayed = std::panic::catch_unwind(|| {
            lengths.for_each(|length| check(&attack, &attack.bytes[..length]));
        });
        if replayed.is_err() {
            harmful.push(name);
        }
    }
    assert!(harmful.is_empty(), "{harmful:?}: see above");
}

#[test]
fn the_same_words_without_an_attack_open_a_stream() {
    let life = Incarnation(PEER as u64 + 11);
    let said = scene::handshake(scene::settings(PEER), life, |_, _, _| {});
    let mut scene = Scene::new();
    let connection = scene.open(Side::Vouched(NodeId(PEER as u8)));
    assert_eq!(scene.hears(connection, &said.concat()), Ok(()));
    assert!(scene.nodes[VICTIM].is_open(connection));
}

#[test]
fn the_set_is_what_nodes_of_this_build_say() {
    let recordings = recipes::all();
    if std::env::var_os("TESTUDO_RECORD").is_some() {
        set().keys().for_each(|name| {
            std::fs::remove_file(directory().join(format!("{name}.txt"))).expect("a file");
        });
        for recording in &recordings {
            let path = directory().join(format!("{}.txt", recording.name));
            std::fs::write(path, recording.text()).expect("a file");
        }
    }
    let set = set();
    let recorded: BTreeMap<_, _> =
        recordings.iter().map(|recording| (recording.name.to_owned(), recording.text())).collect();
    assert!(set.keys().eq(recorded.keys()), "one file for each attack: see the head of main.rs");
    for (name, text) in recorded {
        assert_eq!(set[&name], text, "{name} would be recorded otherwise: see the head of main.rs");
    }
}
