//! One build of the eBPF crate, which gives the same bytes wherever the checkout is.
//!
//! The compiler's flags stand in the crate's own cargo configuration, so that a build by hand has
//! them too. They are read from there and passed on together with the path remappings, which only
//! this program can know; cargo takes flags from one source, so a second source would hide the first.
//!
//! The debug sections are removed from the objects: they are most of the bytes and the kernel reads
//! none of them. The type information (`.BTF`, `.BTF.ext`), which it reads, stays.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use toml::{Table, Value};

use super::toolchain::Toolchain;
use super::{CRATE, Object, rustc_wrapper};
use crate::process;

/// The end of a committed object's name.
pub const OBJECT_SUFFIX: &str = ".bpf.o";

const TARGET: &str = "bpfel-unknown-none";
/// Cargo's separator in `CARGO_ENCODED_RUSTFLAGS`.
const FLAG_SEPARATOR: &str = "\x1f";

/// Builds the crate into `target_dir` and returns its objects, sorted by name.
///
/// With `locked`, a lock file that doesn't fit the manifests is an error; else cargo updates it.
pub fn objects(
    root: &Path,
    tools: &Toolchain,
    target_dir: &Path,
    locked: bool,
) -> Result<Vec<Object>> {
    let directory = root.join(CRATE);
    let mut names = program_names(&read_toml(&directory.join("Cargo.toml"))?)?;
    names.sort();
    let mut flags = configured_flags(&read_toml(&directory.join(".cargo/config.toml"))?)?;
    flags.extend(remappings(root, target_dir));

    let wrapper = env::current_exe().context("cannot tell this program's own path")?;
    let mut cargo = tools.cargo(&directory);
    cargo
        .args(["build", "--release", "--bins", "-Z", "build-std=core", "--target", TARGET])
        .args(locked.then_some("--locked"))
        .env("CARGO_TARGET_DIR", target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join(FLAG_SEPARATOR))
        .env("RUSTC_WRAPPER", wrapper)
        .env(rustc_wrapper::VARIABLE, root)
        // The bindings know the machine that loads a program; the host that builds must not matter.
        .env("AYA_BPF_TARGET_ARCH", "x86_64");
    process::run(&mut cargo)?;

    let built = target_dir.join(TARGET).join("release");
    names.iter().map(|name| stripped(tools, &built, name)).collect()
}

fn stripped(tools: &Toolchain, built: &Path, name: &str) -> Result<Object> {
    let file_name = format!("{name}{OBJECT_SUFFIX}");
    let copy = built.join(&file_name);
    process::run(tools.strip().arg("--strip-debug").arg(built.join(name)).arg("-o").arg(&copy))?;
    let bytes = fs::read(&copy).with_context(|| format!("cannot read {}", copy.display()))?;
    ensure!(
        !can_panic(&bytes),
        "the program {name} has code that panics, expected none: the kernel can't unwind, and \
         loaders resolve calls into the section of cold code wrongly"
    );
    Ok(Object { file_name, bytes })
}

/// Whether an object without debug sections has a function of `core::panicking`, whose mangled name
/// holds this in every mangling scheme.
fn can_panic(object: &[u8]) -> bool {
    const NAME: &[u8] = b"4core9panicking";
    object.windows(NAME.len()).any(|bytes| bytes == NAME)
}

fn read_toml(path: &Path) -> Result<Table> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    text.parse().with_context(|| format!("{} is not valid TOML", path.display()))
}

/// The name of each `[[bin]]`.
fn program_names(manifest: &Table) -> Result<Vec<String>> {
    let programs = manifest.get("bin").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let names: Vec<String> = programs
        .iter()
        .filter_map(|program| program.get("name")?.as_str().map(str::to_owned))
        .collect();
    ensure!(!names.is_empty(), "{CRATE}/Cargo.toml names no programs, expected [[bin]] tables");
    Ok(names)
}

/// The flags in the crate's cargo configuration, for the target or for every build.
fn configured_flags(config: &Table) -> Result<Vec<String>> {
    let for_target = config.get("target").and_then(|targets| targets.get(TARGET)?.get("rustflags"));
    let for_all = config.get("build").and_then(|build| build.get("rustflags"));
    let flags = match (for_target, for_all) {
        (Some(flags), None) | (None, Some(flags)) => flags,
        (None, None) => bail!(
            "{CRATE}/.cargo/config.toml has no rustflags, expected [target.{TARGET}] rustflags"
        ),
        (Some(_), Some(_)) => bail!(
            "{CRATE}/.cargo/config.toml has rustflags under [build] and under [target.{TARGET}]; \
             cargo would ignore the former, expected one of them"
        ),
    };
    let words: Option<Vec<String>> = match flags {
        Value::String(text) => Some(text.split_whitespace().map(str::to_owned).collect()),
        Value::Array(items) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
        _ => None,
    };
    words.with_context(|| format!("rustflags are {flags}, expected a string or a list of strings"))
}

/// Flags that replace the machine's own paths by fixed ones; the compiler takes the last that fits.
fn remappings(root: &Path, target_dir: &Path) -> Vec<String> {
    let core = PathBuf::from("/usr/lib/rustlib/src/rust");
    let mut pairs = vec![(root.to_path_buf(), "/testudo"), (target_dir.to_path_buf(), "/target")];
    if let Some(home) = cargo_home() {
        pairs.push((home, "/cargo"));
    }
    // Distributions put a symbolic link there; the compiler records either end.
    if let Ok(behind_link) = core.canonicalize() {
        pairs.push((behind_link, "/rust"));
    }
    pairs.push((core, "/rust"));
    pairs.iter().map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display())).collect()
}

fn cargo_home() -> Option<PathBuf> {
    let by_default = || env::home_dir().map(|home| home.join(".cargo"));
    env::var_os("CARGO_HOME").map(PathBuf::from).or_else(by_default)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> Table {
        text.parse().unwrap()
    }

    #[test]
    fn flags_come_from_the_target_or_from_the_build_table() {
        let expected = ["-C", "target-cpu=v3"];
        let list = r#"rustflags = ["-C", "target-cpu=v3"]"#;
        for head in ["[target.bpfel-unknown-none]", "[build]"] {
            let config = table(&format!("{head}\n{list}"));
            assert_eq!(configured_flags(&config).unwrap(), expected);
        }
        let text = table("[build]\nrustflags = \"-C target-cpu=v3\"");
        assert_eq!(configured_flags(&text).unwrap(), expected);
    }

    #[test]
    fn no_flags_and_two_sets_of_flags_are_errors() {
        let none = configured_flags(&table("")).unwrap_err().to_string();
        assert!(none.contains("has no rustflags"), "{none}");
        let two = table("build.rustflags = []\ntarget.bpfel-unknown-none.rustflags = []");
        let two = configured_flags(&two).unwrap_err().to_string();
        assert!(two.contains("expected one of them"), "{two}");
    }

    #[test]
    fn a_panic_that_is_left_in_a_program_is_found() {
        assert!(can_panic(b"\0_RNvNtCsiEHDzxyzcHT_4core9panicking9panic_fmt\0"));
        assert!(!can_panic(b"\0_RNvCs2fMBIsHnEZf_7testudo6helper\0"));
    }

    #[test]
    fn programs_are_the_bin_tables() {
        let manifest = table("[[bin]]\nname = \"testudo\"\n[[bin]]\nname = \"bench\"");
        assert_eq!(program_names(&manifest).unwrap(), ["testudo", "bench"]);
        assert!(program_names(&table("[package]\nname = \"xdp\"")).is_err());
    }
}
