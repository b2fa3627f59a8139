//! The hash over everything that the committed objects are made from.
//!
//! It covers the sources and manifests of the eBPF crate and of the packet crate, the lock file and
//! the compiler flags. Each file counts with its path, its length and its content, in the order of
//! the paths; the lengths keep two different trees from hashing the same string of bytes.
//!
//! Limits: tests inside those sources count too, though no object holds them, so a change to one
//! asks for a rebuild that changes nothing. The root manifest doesn't count, since nearly every
//! change to it is about other crates; if its edition changes, `cargo xtask bpf --check` notices.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::{CRATE, INPUTS_FILE};

/// Directories of which every file is an input.
const DIRECTORIES: [&str; 2] = ["crates/packet/src", "crates/xdp/src"];
/// Single files that are inputs.
const FILES: [&str; 4] = [
    "crates/packet/Cargo.toml",
    "crates/xdp/.cargo/config.toml",
    "crates/xdp/Cargo.lock",
    "crates/xdp/Cargo.toml",
];
/// An input if it exists.
const BUILD_SCRIPT: &str = "crates/xdp/build.rs";

/// The hash over the inputs below `root`, in hexadecimal.
pub fn digest(root: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    for path in paths(root)? {
        let content = fs::read(root.join(&path)).with_context(|| format!("cannot read {path}"))?;
        for part in [path.as_bytes(), &content] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    Ok(hex(&hash.finalize()))
}

/// Fails unless the committed hash is the hash over the inputs as they are now.
pub fn check_fresh(root: &Path) -> Result<()> {
    let committed = fs::read_to_string(root.join(INPUTS_FILE)).with_context(|| {
        format!("{INPUTS_FILE} cannot be read, expected a hash: run `cargo xtask bpf`")
    })?;
    let now = digest(root)?;
    if committed.trim() != now {
        bail!(
            "the objects of {CRATE} are older than their inputs: {INPUTS_FILE} says {}, \
             the inputs now hash to {now}: run `cargo xtask bpf`",
            committed.trim()
        );
    }
    Ok(())
}

/// The SHA-256 of `bytes`, in hexadecimal.
pub fn hex_sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The inputs' paths relative to `root`, sorted, with `/` between their parts.
fn paths(root: &Path) -> Result<Vec<String>> {
    let mut paths: Vec<String> = FILES.map(str::to_owned).into();
    if root.join(BUILD_SCRIPT).exists() {
        paths.push(BUILD_SCRIPT.to_owned());
    }
    let mut directories: Vec<String> = DIRECTORIES.map(str::to_owned).into();
    while let Some(directory) = directories.pop() {
        let entries = fs::read_dir(root.join(&directory))
            .with_context(|| format!("cannot read the directory {directory}"))?;
        for entry in entries {
            let entry = entry?;
            let path = format!("{directory}/{}", entry.file_name().to_string_lossy());
            let list = if entry.file_type()?.is_dir() { &mut directories } else { &mut paths };
            list.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::ScratchDir;

    fn planted() -> ScratchDir {
        let scratch = ScratchDir::new();
        for path in FILES {
            scratch.write(path, path);
        }
        scratch.write("crates/packet/src/lib.rs", "lib");
        scratch.write("crates/packet/src/flow/key.rs", "key");
        scratch.write("crates/xdp/src/main.rs", "main");
        scratch
    }

    #[test]
    fn every_input_counts() {
        let scratch = planted();
        let before = digest(scratch.path()).unwrap();
        for path in paths(scratch.path()).unwrap() {
            let content = fs::read_to_string(scratch.path().join(&path)).unwrap();
            scratch.write(&path, "changed");
            assert_ne!(digest(scratch.path()).unwrap(), before, "{path}");
            scratch.write(&path, &content);
        }
        assert_eq!(digest(scratch.path()).unwrap(), before);
    }

    #[test]
    fn a_file_that_moves_or_appears_counts() {
        let scratch = planted();
        let before = digest(scratch.path()).unwrap();
        scratch.write(BUILD_SCRIPT, "");
        let with_build_script = digest(scratch.path()).unwrap();
        assert_ne!(before, with_build_script);
        let old = scratch.path().join("crates/packet/src/flow/key.rs");
        fs::rename(&old, old.with_file_name("keys.rs")).unwrap();
        assert_ne!(digest(scratch.path()).unwrap(), with_build_script);
    }

    #[test]
    fn a_missing_input_is_named() {
        let scratch = planted();
        fs::remove_file(scratch.path().join("crates/xdp/Cargo.lock")).unwrap();
        let error = digest(scratch.path()).unwrap_err().to_string();
        assert_eq!(error, "cannot read crates/xdp/Cargo.lock");
    }

    #[test]
    fn a_stale_object_is_reported_with_both_hashes() {
        let scratch = planted();
        let hash = digest(scratch.path()).unwrap();
        scratch.write(INPUTS_FILE, &format!("{hash}\n"));
        check_fresh(scratch.path()).unwrap();

        scratch.write("crates/xdp/src/main.rs", "main, changed");
        let error = check_fresh(scratch.path()).unwrap_err().to_string();
        assert!(error.contains("older than their inputs"), "{error}");
        assert!(error.contains(&hash), "{error}");
        assert!(error.contains(&digest(scratch.path()).unwrap()), "{error}");
    }
}
