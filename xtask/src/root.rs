//! Where the checkout is, and where it may write.
//!
//! Nothing else in this crate computes a path from outside the checkout, so that the verbs work from
//! any directory and with any target directory.

use std::env;
use std::path::{Path, PathBuf};

/// The directory of the workspace's manifest.
///
/// Cargo sets `CARGO_MANIFEST_DIR` when it runs the program; the value at compile time serves when
/// the program is started by hand. The first goes first because a shared target directory may hold a
/// program that another checkout built.
pub fn workspace_root() -> PathBuf {
    let manifest_dir = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    match manifest_dir.parent() {
        Some(root) => root.to_path_buf(),
        None => manifest_dir,
    }
}

/// The directory for everything that is built and not committed.
pub fn target_dir(root: &Path) -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root.join(dir),
        None => root.join("target"),
    }
}
