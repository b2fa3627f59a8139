//! Real files in a directory of the test's own.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use testudo_coordinator::Kind;

/// A directory that goes with the test.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("testudo-store-{}-{number}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    fn file(&self) -> PathBuf {
        self.0.join(FILE)
    }

    fn open(&self) -> Result<Store, StoreError> {
        Store::open(&self.0, OWNER)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const OWNER: Owner = Owner { cluster: [0xab; 16], node: NodeId(2) };

fn record(index: u64, term: u64) -> Record {
    let kind = if index == 3 { Kind::RemoveVoter(NodeId(1)) } else { Kind::Command };
    Record { place: Place { index, term }, kind, command: vec![index as u8; 100] }
}

/// Batches of every kind, with the store that they should make.
fn batches() -> Vec<Batch> {
    let image = |index, term| {
        let place = Place { index, term };
        Some(Image { place, voters: vec![NodeId(0), NodeId(2)], data: vec![5; 3000] })
    };
    let hard = |term, vote, commit| Some(Hard { term, vote, commit });
    let entries = |range: std::ops::RangeInclusive<u64>, term| {
        range.map(|index| record(index, term)).collect()
    };
    let base = |index, term| Some(Place { index, term });
    vec![
        Batch { hard: hard(1, Some(NodeId(2)), 0), durable: true, ..Batch::default() },
        Batch { entries: entries(1..=6, 1), durable: true, ..Batch::default() },
        Batch { hard: hard(1, Some(NodeId(2)), 4), ..Batch::default() },
        Batch { entries: entries(5..=8, 2), hard: hard(2, None, 4), ..Batch::default() },
        Batch { image: image(4, 1), base: base(2, 1), durable: true, ..Batch::default() },
        Batch { entries: entries(7..=7, 3), durable: true, ..Batch::default() },
        Batch {
            image: image(20, 3),
            clear: true,
            base: base(20, 3),
            hard: hard(3, None, 20),
            durable: true,
            ..Batch::default()
        },
        Batch { entries: entries(21..=22, 3), durable: true, ..Batch::default() },
    ]
}

#[test]
fn a_store_that_is_opened_again_holds_what_was_written() {
    let directory = Directory::new();
    let mut expected = Stored::default();
    assert_eq!(directory.open().unwrap().load().unwrap(), expected);
    for batch in batches() {
        let store = directory.open().unwrap();
        store.write(&batch).unwrap();
        expected.write(&batch);
        assert_eq!(store.load().unwrap(), expected);
        drop(store);
        assert_eq!(directory.open().unwrap().load().unwrap(), expected);
    }
    assert_eq!((expected.base.index, expected.entries.len()), (20, 2));
}

#[test]
fn what_was_durable_survives_the_loss_of_everything_after_it() {
    let directory = Directory::new();
    let store = directory.open().unwrap();
    let [first, second, third, ..] = &batches()[..] else { panic!("there are more") };
    store.write(first).unwrap();
    store.write(second).unwrap();
    // The file as it would be after a loss of power: what only memory holds is not in it.
    let power = Directory::new();
    fs::create_dir_all(&power.0).unwrap();
    store.write(third).unwrap();
    fs::copy(directory.file(), power.file()).unwrap();
    let mut expected = Stored::default();
    expected.write(first);
    expected.write(second);
    assert_eq!(power.open().unwrap().load().unwrap(), expected);
}

#[test]
fn a_second_process_is_refused() {
    let directory = Directory::new();
    let store = directory.open().unwrap();
    let error = directory.open().unwrap_err();
    assert!(matches!(error, StoreError::Locked(_)), "{error}");
    assert!(
        error.to_string().ends_with("another process uses it; expected one node a state directory")
    );
    drop(store);
    directory.open().unwrap();
}

#[test]
fn another_cluster_s_and_another_node_s_log_are_refused() {
    let directory = Directory::new();
    directory.open().unwrap();
    let digits = |digit: &str| digit.repeat(16);
    for (owner, expected) in [
        (Owner { cluster: [1; 16], ..OWNER }, format!("node 2 of cluster {}", digits("01"))),
        (Owner { node: NodeId(0), ..OWNER }, format!("node 0 of cluster {}", digits("ab"))),
    ] {
        let error = Store::open(&directory.0, owner).unwrap_err().to_string();
        let end = format!(
            "it is the log of node 2 of cluster {}, expected that of {expected}",
            digits("ab")
        );
        assert!(error.ends_with(&end), "{error}");
    }
    directory.open().unwrap();
}

#[test]
fn a_file_that_is_no_log_is_refused_and_left_as_it_is() {
    let directory = Directory::new();
    fs::create_dir_all(&directory.0).unwrap();
    let noise: Vec<u8> = (0..100_000_u32).map(|at| (at * 7) as u8).collect();
    fs::write(directory.file(), &noise).unwrap();
    let error = directory.open().unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    assert_eq!(fs::read(directory.file()).unwrap(), noise);
}

#[test]
fn every_damaged_page_is_noticed_or_harmless() {
    let directory = Directory::new();
    let store = directory.open().unwrap();
    let mut expected = Stored::default();
    for batch in batches() {
        store.write(&batch).unwrap();
        expected.write(&batch);
    }
    drop(store);
    let whole = fs::read(directory.file()).unwrap();
    let mut noticed = 0;
    for at in (0..whole.len()).step_by(509) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x55;
        fs::write(directory.file(), &damaged).unwrap();
        match directory.open().and_then(|store| store.load()) {
            Ok(stored) => assert_eq!(stored, expected, "with byte {at} changed"),
            Err(StoreError::Corrupt { .. }) => noticed += 1,
            Err(other) => panic!("with byte {at} changed: {other}"),
        }
    }
    assert!(noticed > 5, "only {noticed} of {} changes noticed", whole.len() / 509);
}

#[test]
fn a_cut_file_is_refused() {
    let directory = Directory::new();
    directory.open().unwrap().write(&batches()[1]).unwrap();
    let whole = fs::read(directory.file()).unwrap();
    fs::write(directory.file(), &whole[..whole.len() / 2]).unwrap();
    let error = directory.open().and_then(|store| store.load()).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
}
