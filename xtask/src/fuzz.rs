//! `cargo xtask fuzz`: libFuzzer on each target of the fuzz crate, for a bounded time.
//!
//! The crate has cargo-fuzz's layout, so that program works on it too, but isn't needed: it would
//! mean a nightly toolchain or a sanitizer of one. The flags below are the coverage part of what it
//! passes, and a stable compiler takes them. Without a sanitizer a fuzzer here still finds what
//! these targets look for: panics, failed assertions, overflow, hangs, and memory without bound.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use toml::{Table, Value};

use crate::{process, root};

/// Coverage feedback for libFuzzer, and the checks of a debug build in an optimised one.
const RUSTFLAGS: &str = "--cfg fuzzing -Ccodegen-units=1 -Cdebug-assertions -Coverflow-checks \
    -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares";
/// What a target may take beyond its fuzzing time, to replay its corpus and to end.
const GRACE: Duration = Duration::from_secs(120);
/// The longest that a single input may take.
const INPUT_LIMIT: &str = "-timeout=10";

/// Options of `cargo xtask fuzz`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How long to run each target.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Run only this target.
    #[arg(long)]
    target: Option<String>,
    /// Run the target on this one file, to replay a finding.
    #[arg(long, requires = "target")]
    input: Option<PathBuf>,
}

impl Args {
    /// Every target for `seconds`.
    pub fn all_for(seconds: u64) -> Self {
        Self { seconds, target: None, input: None }
    }
}

/// Builds the targets and runs them one after the other; a finding is an error.
pub fn run(root: &Path, args: &Args) -> Result<()> {
    let directory = root.join("fuzz");
    let manifest_path = directory.join("Cargo.toml");
    if !manifest_path.exists() {
        println!("no fuzz crate, nothing to run");
        return Ok(());
    }
    let manifest: Table = fs::read_to_string(&manifest_path)?.parse()?;
    let mut targets = target_names(&manifest);
    check_all_declared(&targets, &source_names(&directory.join("fuzz_targets"))?)?;
    if let Some(wanted) = &args.target {
        let known = targets.join(", ");
        ensure!(targets.contains(wanted), "no fuzz target {wanted}, expected one of {known}");
        targets.retain(|target| target == wanted);
    }
    let programs = build(root, &directory)?;
    for target in &targets {
        run_target(&directory, &programs.join(target), target, args)?;
    }
    Ok(())
}

fn build(root: &Path, directory: &Path) -> Result<PathBuf> {
    // An explicit target keeps the flags away from build scripts, which lack libFuzzer's functions.
    let host = host_target(root)?;
    let target_dir = root::target_dir(root).join("fuzz");
    let mut cargo = process::cargo(directory);
    cargo
        .args(["build", "--release", "--bins", "--target", &host])
        .env("CARGO_TARGET_DIR", &target_dir)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("RUSTFLAGS", RUSTFLAGS);
    process::run(&mut cargo)?;
    Ok(target_dir.join(host).join("release"))
}

fn host_target(root: &Path) -> Result<String> {
    let text = process::output(Command::new("rustc").arg("-vV").current_dir(root))?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV has no line `host: …`")?.to_owned())
}

fn run_target(directory: &Path, program: &Path, target: &str, args: &Args) -> Result<()> {
    let mut command = Command::new(program);
    command.current_dir(directory).arg(INPUT_LIMIT);
    let limit = match &args.input {
        Some(input) => {
            let input = input.canonicalize();
            command.arg(input.with_context(|| format!("cannot find {:?}", args.input))?);
            GRACE
        }
        None => {
            // libFuzzer writes to the first directory of a corpus and only reads the others.
            let corpus = format!("corpus/{target}");
            let artifacts = format!("artifacts/{target}/");
            fs::create_dir_all(directory.join(&corpus))?;
            fs::create_dir_all(directory.join(&artifacts))?;
            let seeds = format!("seeds/{target}");
            command
                .arg(format!("-max_total_time={}", args.seconds))
                .arg(format!("-artifact_prefix={artifacts}"))
                .args(["-verbosity=0", "-print_final_stats=1", &corpus])
                .args(directory.join(&seeds).is_dir().then_some(&seeds));
            Duration::from_secs(args.seconds) + GRACE
        }
    };
    println!("fuzz target {target}");
    process::run_within(&mut command, limit).with_context(|| {
        format!(
            "fuzz target {target} failed; to replay it: \
             cargo xtask fuzz --target {target} --input fuzz/artifacts/{target}/<the file named above>"
        )
    })
}

/// The name of each `[[bin]]`.
fn target_names(manifest: &Table) -> Vec<String> {
    let programs = manifest.get("bin").and_then(Value::as_array);
    let names = programs.into_iter().flatten().filter_map(|program| program.get("name")?.as_str());
    names.map(str::to_owned).collect()
}

/// The name of each source file of a target.
fn source_names(directory: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let entries =
        fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.push(path.file_stem().unwrap_or_default().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// A source that the manifest doesn't name would never run, and nobody would notice.
fn check_all_declared(declared: &[String], sources: &[String]) -> Result<()> {
    for source in sources {
        ensure!(
            declared.contains(source),
            "fuzz/fuzz_targets/{source}.rs is not a target, expected a [[bin]] named {source}"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_the_bin_tables() {
        let manifest = "[[bin]]\nname = \"parse\"\n[[bin]]\nname = \"wire\"".parse().unwrap();
        assert_eq!(target_names(&manifest), ["parse", "wire"]);
        assert!(target_names(&Table::new()).is_empty());
    }

    #[test]
    fn a_source_without_a_target_is_found() {
        let names = |list: &[&str]| list.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        check_all_declared(&names(&["a", "b"]), &names(&["a"])).unwrap();
        let error = check_all_declared(&names(&["a"]), &names(&["a", "b"])).unwrap_err();
        assert!(error.to_string().contains("fuzz_targets/b.rs is not a target"), "{error}");
    }
}
