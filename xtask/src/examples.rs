//! The part of `cargo xtask ci` that runs every example, so that none rots.
//!
//! An example is a program in `crates/*/examples` that ends by itself, with success.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use toml::Table;

use crate::process;

/// The longest that an example may run.
const LIMIT: Duration = Duration::from_secs(120);

/// Builds all examples and runs each.
pub fn run(root: &Path) -> Result<()> {
    process::run(process::cargo(root).args(["build", "--workspace", "--examples"]))?;
    for example in find(root)? {
        println!("example {} of {}", example.name, example.package);
        let mut cargo = process::cargo(root);
        cargo.args(["run", "--quiet", "--package", &example.package, "--example", &example.name]);
        process::run_within(&mut cargo, LIMIT)?;
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Example {
    package: String,
    name: String,
}

/// The examples of the crates, sorted.
fn find(root: &Path) -> Result<Vec<Example>> {
    let mut examples = Vec::new();
    for krate in fs::read_dir(root.join("crates")).context("cannot read the directory crates")? {
        let krate = krate?.path();
        let directory = krate.join("examples");
        if !directory.is_dir() {
            continue;
        }
        let manifest: Table = fs::read_to_string(krate.join("Cargo.toml"))?.parse()?;
        let package = manifest.get("package").and_then(|package| package.get("name")?.as_str());
        let package = package.with_context(|| format!("{} has no name", krate.display()))?;
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            let is_file = path.extension().is_some_and(|extension| extension == "rs");
            if is_file || path.join("main.rs").is_file() {
                let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                examples.push(Example { package: package.to_owned(), name });
            }
        }
    }
    examples.sort();
    Ok(examples)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::ScratchDir;

    #[test]
    fn files_and_directories_are_examples_and_data_is_not() {
        let scratch = ScratchDir::new();
        scratch.write("crates/flow/Cargo.toml", "[package]\nname = \"testudo-flow\"");
        scratch.write("crates/flow/examples/one.rs", "");
        scratch.write("crates/flow/examples/two/main.rs", "");
        scratch.write("crates/flow/examples/capture.pcap", "");
        scratch.write("crates/bare/Cargo.toml", "");

        let found = find(scratch.path()).unwrap();
        let example = |name: &str| Example { package: "testudo-flow".into(), name: name.into() };
        assert_eq!(found, [example("one"), example("two")]);
    }
}
