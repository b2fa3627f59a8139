//! `cargo xtask bpf`: the eBPF objects that are committed beside their sources.
//!
//! The objects are committed so that everybody else builds with a stable toolchain alone. That is
//! safe as long as two things hold, and each has its check:
//!
//! * An object is never older than its inputs. A hash over the inputs is committed with it, and a
//!   plain test ([`inputs`]) recomputes it; the test needs no eBPF toolchain.
//! * An object is what its inputs give. `--check` builds again from nothing and compares bytes, so
//!   the build must not depend on where the checkout is ([`build`], [`rustc_wrapper`]).

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::root;

mod build;
#[cfg(test)]
mod freshness;
mod inputs;
pub mod rustc_wrapper;
mod toolchain;

/// The directory of the eBPF crate.
const CRATE: &str = "crates/xdp";
/// The directory of the committed objects.
const OBJECTS: &str = "crates/xdp/objects";
/// The file that holds the hash over the inputs of the committed objects.
const INPUTS_FILE: &str = "crates/xdp/objects/inputs.sha256";
/// The file that names the tools that built the committed objects.
const TOOLCHAIN_FILE: &str = "crates/xdp/objects/toolchain.txt";

/// Options of `cargo xtask bpf`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Build into a scratch directory and compare with the committed objects; write none.
    #[arg(long)]
    check: bool,
}

impl Args {
    /// Compare, don't write.
    pub fn checking() -> Self {
        Self { check: true }
    }
}

/// One eBPF program file.
struct Object {
    /// Its name as committed.
    file_name: String,
    bytes: Vec<u8>,
}

/// Builds the objects, and commits them to the tree or compares them with it.
pub fn run(root: &Path, args: Args) -> Result<()> {
    if args.check { check(root) } else { update(root) }
}

fn update(root: &Path) -> Result<()> {
    let tools = toolchain::find(root)?;
    let objects = build::objects(root, &tools, &root::target_dir(root).join("bpf"), false)?;
    let directory = root.join(OBJECTS);
    fs::create_dir_all(&directory)?;
    for old in committed_objects(root)? {
        fs::remove_file(directory.join(old.file_name))?;
    }
    for object in &objects {
        fs::write(directory.join(&object.file_name), &object.bytes)?;
        println!("{OBJECTS}/{}: {} bytes", object.file_name, object.bytes.len());
    }
    fs::write(root.join(TOOLCHAIN_FILE), tools.describe()?)?;
    fs::write(root.join(INPUTS_FILE), inputs::digest(root)? + "\n")?;
    Ok(())
}

fn check(root: &Path) -> Result<()> {
    inputs::check_fresh(root)?;
    let tools = toolchain::find(root)?;
    let scratch = root::target_dir(root).join("bpf-check");
    if scratch.exists() {
        fs::remove_dir_all(&scratch)?;
    }
    let built = build::objects(root, &tools, &scratch, true)?;
    let committed = committed_objects(root)?;
    if let Some(difference) = difference(&committed, &built) {
        let here = tools.describe()?;
        let there = fs::read_to_string(root.join(TOOLCHAIN_FILE)).unwrap_or_default();
        bail!(
            "{difference}\nthe committed objects were built by\n{there}the build here is by\n{here}\
             If the tools are the same, run `cargo xtask bpf` and commit {OBJECTS}."
        );
    }
    println!("{} objects in {OBJECTS} are what their inputs give", built.len());
    Ok(())
}

fn committed_objects(root: &Path) -> Result<Vec<Object>> {
    let directory = root.join(OBJECTS);
    let mut objects = Vec::new();
    for entry in fs::read_dir(&directory).with_context(|| format!("cannot read {OBJECTS}"))? {
        let path = entry?.path();
        let file_name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if file_name.ends_with(build::OBJECT_SUFFIX) {
            objects.push(Object { file_name, bytes: fs::read(&path)? });
        }
    }
    objects.sort_by(|a, b| a.file_name.cmp(&b.file_name));
    Ok(objects)
}

/// What differs between the committed objects and those just built, both sorted by name.
fn difference(committed: &[Object], built: &[Object]) -> Option<String> {
    let names = |objects: &[Object]| {
        objects.iter().map(|object| object.file_name.clone()).collect::<Vec<_>>()
    };
    if names(committed) != names(built) {
        let (seen, expected) = (names(committed).join(", "), names(built).join(", "));
        return Some(format!("committed objects: {seen}; expected: {expected}"));
    }
    let (old, new) = committed.iter().zip(built).find(|(old, new)| old.bytes != new.bytes)?;
    let agree = old.bytes.iter().zip(&new.bytes).take_while(|(a, b)| a == b).count();
    Some(format!(
        "{OBJECTS}/{name}: committed {old_length} bytes, sha256 {old_digest}; \
         built {new_length} bytes, sha256 {new_digest}; they differ from byte {agree} on",
        name = old.file_name,
        old_length = old.bytes.len(),
        old_digest = inputs::hex_sha256(&old.bytes),
        new_length = new.bytes.len(),
        new_digest = inputs::hex_sha256(&new.bytes),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(file_name: &str, bytes: &[u8]) -> Object {
        Object { file_name: file_name.to_owned(), bytes: bytes.to_vec() }
    }

    #[test]
    fn equal_objects_do_not_differ() {
        assert_eq!(difference(&[object("a", b"12")], &[object("a", b"12")]), None);
    }

    #[test]
    fn a_changed_byte_is_named_with_both_sides() {
        let text = difference(&[object("a", b"12")], &[object("a", b"13")]).unwrap();
        assert!(text.contains("differ from byte 1 on"), "{text}");
        assert!(text.contains(&inputs::hex_sha256(b"12")), "{text}");
        assert!(text.contains(&inputs::hex_sha256(b"13")), "{text}");
    }

    #[test]
    fn a_missing_object_is_named() {
        let text = difference(&[object("a", b"")], &[object("a", b""), object("b", b"")]).unwrap();
        assert_eq!(text, "committed objects: a; expected: a, b");
    }
}
