//! A compiler wrapper that makes the names in an object independent of where the checkout is.
//!
//! Cargo hashes the absolute path of a path dependency outside the eBPF crate's own workspace (the
//! packet crate is one) into `-C metadata`, and the compiler mangles that hash into every symbol.
//! `--remap-path-prefix` changes paths, not this hash, so two checkouts would give two objects. The
//! wrapper replaces it, for packages of this checkout only, by the names of package and crate. These
//! are unique inside one build, which is all that the hash is for; file names keep cargo's own hash.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

/// Set, to the root of the checkout, when cargo starts this program in the compiler's place.
pub const VARIABLE: &str = "TESTUDO_XTASK_RUSTC_WRAPPER";

/// Becomes the compiler if [`VARIABLE`] asks for it; returns only if it doesn't, or on failure.
pub fn run_if_asked() -> Option<ExitCode> {
    let root = env::var_os(VARIABLE)?;
    let mut arguments = env::args_os().skip(1);
    let Some(compiler) = arguments.next() else {
        eprintln!("error: {VARIABLE} is set, expected a compiler's path as the first argument");
        return Some(ExitCode::FAILURE);
    };
    let mut arguments: Vec<OsString> = arguments.collect();
    let package_dir = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
    if Path::new(&package_dir).starts_with(&root) {
        let package = env::var("CARGO_PKG_NAME").unwrap_or_default();
        fix_metadata(&mut arguments, &package);
    }
    let error = Command::new(&compiler).args(arguments).exec();
    eprintln!("error: cannot start {}: {error}", compiler.display());
    Some(ExitCode::FAILURE)
}

/// Replaces the value of `-C metadata` by the names of `package` and crate.
fn fix_metadata(arguments: &mut [OsString], package: &str) {
    let name_flag = arguments.iter().position(|argument| argument == "--crate-name");
    let crate_name = name_flag.and_then(|at| arguments.get(at + 1)).cloned().unwrap_or_default();
    for argument in arguments {
        if argument.as_encoded_bytes().starts_with(b"metadata=") {
            *argument = format!("metadata={package}:{}", crate_name.display()).into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_metadata_changes() {
        let mut arguments = ["--crate-name", "flow", "-C", "metadata=12ab", "-C", "opt-level=3"]
            .map(OsString::from)
            .to_vec();
        fix_metadata(&mut arguments, "testudo-flow");
        let expected =
            ["--crate-name", "flow", "-C", "metadata=testudo-flow:flow", "-C", "opt-level=3"];
        assert_eq!(arguments, expected.map(OsString::from));
    }
}
