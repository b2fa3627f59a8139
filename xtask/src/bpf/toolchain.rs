//! The tools that build the eBPF objects: a compiler with its core sources, a linker, a stripper.
//!
//! The compiler is the distribution's: it comes with the matching core sources and the LLVM that the
//! linker is built against, all by package name, so two machines get the same bytes. A nightly
//! toolchain builds the crate too, but other bytes, which is why this verb doesn't look for one.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::process;
use crate::tools::BPF_LINKER;

const RUSTC: &str = "/usr/bin/rustc";
const CARGO: &str = "/usr/bin/cargo";
const CORE_SOURCES: &str = "/usr/lib/rustlib/src/rust/library/core/src/lib.rs";
const STRIP: &str = "/usr/lib/llvm-22/bin/llvm-strip";

/// What must exist, and the Debian package that brings it.
const NEEDED: [(&str, &str); 4] = [
    (RUSTC, "rustc-web"),
    (CARGO, "cargo-web"),
    (CORE_SOURCES, "rust-web-src"),
    (STRIP, "llvm-22-dev"),
];

/// The tools, all known to exist.
pub struct Toolchain {
    linker: PathBuf,
}

/// Finds the tools; the linker is installed if no place has it.
pub fn find(root: &Path) -> Result<Toolchain> {
    let missing = missing(|path| Path::new(path).exists());
    if !missing.is_empty() {
        bail!(
            "the eBPF toolchain is not complete:\n{}\ninstall the Debian packages \
             rustc-web cargo-web rust-web-src llvm-22-dev libpolly-22-dev",
            missing.join("\n")
        );
    }
    Ok(Toolchain { linker: BPF_LINKER.find_or_install(root)? })
}

fn missing(exists: impl Fn(&str) -> bool) -> Vec<String> {
    let absent = NEEDED.iter().filter(|(path, _)| !exists(path));
    absent.map(|(path, package)| format!("  {path} is missing, expected from {package}")).collect()
}

impl Toolchain {
    /// The program that copies objects without their debug sections.
    pub fn strip(&self) -> Command {
        Command::new(STRIP)
    }

    /// Cargo in `dir`, with this compiler and linker and with nothing in its environment that could
    /// choose other ones or add flags.
    pub fn cargo(&self, dir: &Path) -> Command {
        let linker_dir = self.linker.parent().unwrap_or(Path::new("/"));
        let inherited = std::env::var_os("PATH").unwrap_or_default();
        let mut path = linker_dir.as_os_str().to_owned();
        path.push(":/usr/bin:");
        path.push(inherited);

        let mut command = Command::new(CARGO);
        process::remove_variables(&mut command, changes_a_build);
        command.current_dir(dir).env("PATH", path).env("RUSTC", RUSTC).env("RUSTC_BOOTSTRAP", "1");
        command
    }

    /// The versions that decide an object's bytes, one a line.
    pub fn describe(&self) -> Result<String> {
        let rustc = process::output(Command::new(RUSTC).arg("--version"))?;
        let linker = process::output(Command::new(&self.linker).arg("--version"))?;
        Ok(rustc + &linker)
    }
}

/// Whether a variable of this name can change what cargo or the compiler makes.
///
/// `LD_LIBRARY_PATH` is among them because `cargo run` points it at its own toolchain's libraries.
fn changes_a_build(name: &str) -> bool {
    const NAMES: [&str; 5] =
        ["CARGO", "CARGO_ENCODED_RUSTFLAGS", "CARGO_INCREMENTAL", "LD_LIBRARY_PATH", "RUSTFLAGS"];
    const PREFIXES: [&str; 8] = [
        "CARGO_BUILD_",
        "CARGO_CFG_",
        "CARGO_MANIFEST_",
        "CARGO_PKG_",
        "CARGO_PROFILE_",
        "CARGO_TARGET_",
        "RUSTC",
        "RUSTUP_",
    ];
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tool_is_named_with_its_package() {
        let found = missing(|path| path != CORE_SOURCES);
        assert_eq!(found, [format!("  {CORE_SOURCES} is missing, expected from rust-web-src")]);
        assert!(missing(|_| true).is_empty());
    }

    #[test]
    fn flags_from_outside_do_not_reach_the_build() {
        for name in ["RUSTFLAGS", "RUSTC_WRAPPER", "CARGO_PROFILE_RELEASE_LTO", "RUSTUP_TOOLCHAIN"]
        {
            assert!(changes_a_build(name), "{name}");
        }
        for name in ["CARGO_HOME", "CARGO_NET_OFFLINE", "HOME", "PATH"] {
            assert!(!changes_a_build(name), "{name}");
        }
    }
}
