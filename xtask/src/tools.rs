//! The tools that the verbs need beside the toolchain, each in one fixed version.
//!
//! A version is fixed because the committed objects depend on the linker's, and because a check that
//! changes its mind overnight teaches nobody anything. A tool of that version is taken from `PATH`
//! or from the usual places; else it is built into the target directory, never into the user's home.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{process, root};

/// A tool from the crates registry.
pub struct Tool {
    /// The name of the package and of its program.
    pub name: &'static str,
    /// The one version that will do.
    pub version: &'static str,
    /// What `cargo install` needs besides name and version.
    install_args: &'static [&'static str],
    /// `RUSTFLAGS` for the installation.
    rustflags: &'static str,
    /// Directories outside the checkout in which the tool may stand, besides `PATH`.
    places: &'static [&'static str],
    /// A variable that names the tool's root (its program is in `bin` there).
    root_variable: Option<&'static str>,
    /// A path that must exist before the tool can be built, and the packages that bring it.
    needs: Option<(&'static str, &'static str)>,
}

/// Links LLVM bitcode into eBPF objects. It has to know the LLVM of the compiler that it serves.
pub const BPF_LINKER: Tool = Tool {
    name: "bpf-linker",
    version: "0.13.0",
    install_args: &["--no-default-features", "--features", "llvm-22"],
    rustflags: "-L native=/usr/lib/llvm-22/lib",
    places: &["/opt/bpf-linker/bin"],
    root_variable: Some("BPF_LINKER_ROOT"),
    needs: Some(("/usr/lib/llvm-22/lib/libPolly.a", "llvm-22-dev libpolly-22-dev")),
};

/// Checks licences, sources and duplicates of the dependencies.
pub const CARGO_DENY: Tool = Tool {
    name: "cargo-deny",
    version: "0.20.2",
    install_args: &["--locked"],
    rustflags: "",
    places: &[],
    root_variable: None,
    needs: None,
};

/// Makes every tool available.
pub fn install_all(root: &Path) -> Result<()> {
    for tool in [&BPF_LINKER, &CARGO_DENY] {
        let program = tool.find_or_install(root)?;
        println!("{} {}: {}", tool.name, tool.version, program.display());
    }
    Ok(())
}

impl Tool {
    /// The tool's program, which is installed first if no place has the right version.
    pub fn find_or_install(&self, root: &Path) -> Result<PathBuf> {
        if let Some(found) = self.find(root) {
            return Ok(found);
        }
        if let Some((path, packages)) = self.needs {
            ensure!(
                Path::new(path).exists(),
                "{} {} is not installed and cannot be built: {path} is missing; \
                 install the Debian packages {packages}",
                self.name,
                self.version,
            );
        }
        self.install(root)?;
        self.find(root).with_context(|| {
            format!("installed {} {}, but it does not start", self.name, self.version)
        })
    }

    fn find(&self, root: &Path) -> Option<PathBuf> {
        let path = env::var_os("PATH").unwrap_or_default();
        let named_root = self.root_variable.and_then(env::var_os).map(PathBuf::from);
        named_root
            .map(|dir| dir.join("bin"))
            .into_iter()
            .chain([self.own_root(root).join("bin")])
            .chain(env::split_paths(&path))
            .chain(self.places.iter().map(PathBuf::from))
            .map(|dir| dir.join(self.name))
            .find(|program| self.has_right_version(program))
    }

    fn has_right_version(&self, program: &Path) -> bool {
        program.is_file()
            && process::output(Command::new(program).arg("--version"))
                .is_ok_and(|text| reports_version(&text, self.version))
    }

    /// Where this checkout keeps its own copy.
    fn own_root(&self, root: &Path) -> PathBuf {
        root::target_dir(root).join(self.name)
    }

    fn install(&self, root: &Path) -> Result<()> {
        println!("installing {} {}", self.name, self.version);
        let mut cargo = process::cargo(root);
        cargo
            .args(["install", self.name, "--version", self.version])
            .args(self.install_args)
            .arg("--force")
            .arg("--root")
            .arg(self.own_root(root))
            .env_remove("CARGO_TARGET_DIR")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env("RUSTFLAGS", self.rustflags);
        process::run(&mut cargo)
    }
}

/// Whether the answer to `--version` has `version` as one of its words.
fn reports_version(answer: &str, version: &str) -> bool {
    answer.split_whitespace().any(|word| word == version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_longer_version_is_another_version() {
        assert!(reports_version("cargo-deny 0.20.2\n", "0.20.2"));
        assert!(!reports_version("cargo-deny 0.20.21\n", "0.20.2"));
        assert!(!reports_version("", "0.20.2"));
    }
}
