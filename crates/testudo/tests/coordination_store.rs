//! The agreed log on a disk that is full: a small file system of the test's own, in a mount namespace
//! of its own thread.
//!
//! Needs root; ignored, with the reason, without it.

#[path = "../../datapath/tests/privileged/mod.rs"]
mod privileged;
#[path = "../src/node/coordination/store/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the daemon uses the rest")]
mod store;

use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use store::{Owner, Store, StoreError};
use testudo_coordinator::{Batch, Image, Kind, Place, Record, Stored};
use testudo_packet::bucket::NodeId;

/// Mounts a file system of 6 MiB that only this thread sees and that goes with it.
fn mount_small(directory: &Path) {
    let nowhere = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS).expect("a mount namespace");
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(nowhere, "/", nowhere, private, nowhere).expect("a private view");
    mount(nowhere, directory, Some("tmpfs"), MsFlags::empty(), Some("size=6m")).expect("a tmpfs");
}

/// Entries, and every now and then a snapshot that grows.
fn batch(number: u64) -> Batch {
    let place = Place { index: number, term: 1 };
    let record = Record { place, kind: Kind::Command, command: vec![7; 50_000] };
    let hard = testudo_coordinator::Hard { term: 1, vote: None, commit: number };
    let data = vec![9; 10_000 * number as usize];
    let image = Image { place, voters: vec![NodeId(0)], data };
    let image = number.is_multiple_of(8).then_some(image);
    Batch { durable: true, entries: vec![record], hard: Some(hard), image, ..Batch::default() }
}

fn fill(directory: &Path) {
    mount_small(directory);
    let owner = Owner { cluster: [1; 16], node: NodeId(0) };
    let store = Store::open(directory, owner).expect("there is room at first");
    let mut written = Stored::default();
    let error = (1..1000)
        .find_map(|number| {
            let answer = store.write(&batch(number));
            if answer.is_ok() {
                written.write(&batch(number));
            }
            answer.err()
        })
        .expect("6 MiB hold less than 1,000 entries of 50 kB");
    assert!(matches!(error, StoreError::Full(_)), "{error:?}");
    assert!(error.to_string().ends_with("the disk is full; the node can promise nothing more"));
    drop(store);
    // What was promised is there, and the batch that failed at most as a whole.
    let seen = Store::open(directory, owner).and_then(|store| store.load());
    let seen = seen.expect("a full disk can be read");
    let mut with_failed = written.clone();
    with_failed.write(&batch(written.last().index + 1));
    assert!(seen == written || seen == with_failed, "it ends at {:?}", seen.last());
}

fn a_full_disk_loses_nothing_that_was_promised() {
    let directory = std::env::temp_dir().join(format!("testudo-full-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let place = directory.clone();
    let result = std::thread::spawn(move || fill(&place)).join();
    std::fs::remove_dir_all(&directory).expect("the file system went with its thread");
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

fn main() -> std::process::ExitCode {
    privileged::run(
        &[(
            "a_full_disk_loses_nothing_that_was_promised",
            a_full_disk_loses_nothing_that_was_promised,
        )],
        &[],
    )
}
