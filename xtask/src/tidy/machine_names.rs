//! Nothing in the tree knows the machine that it was written on: no home directory, no mirror.
//!
//! The names below are in pieces so that this file doesn't hold them.

use super::Finding;
use super::tree::Tree;

/// Beginnings of paths that exist only on somebody's machine.
const PATHS: [[&str; 2]; 5] =
    [["/wo", "rk/"], ["/ho", "me/"], ["/ro", "ot/"], ["/Us", "ers/"], ["/tmp/con", "tract"]];
/// Words in the addresses of package mirrors.
const MIRRORS: [[&str; 2]; 3] =
    [["arti", "factory"], ["/api/", "npm"], ["index.crates.io", ":443"]];
/// The one source that a lock file may name.
const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Finds paths of machines and addresses of mirrors in every text file.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let paths = PATHS.map(|halves| halves.concat());
    let mirrors = MIRRORS.map(|halves| halves.concat());
    let mut findings = Vec::new();
    for file in tree.files() {
        let is_lock = file.path.ends_with("Cargo.lock");
        for (at, line) in file.text.lines().enumerate() {
            let mut report = |message| findings.push(Finding::new(&file.path, at + 1, message));
            if let Some(path) = paths.iter().find(|path| begins_a_path(line, path)) {
                report(format!("a path of one machine, {path}…; expected none"));
            }
            if let Some(mirror) = mirrors.iter().find(|mirror| line.contains(mirror.as_str())) {
                report(format!("an address of a package mirror, …{mirror}…; expected none"));
            }
            if let Some(source) = line.strip_prefix("source = ")
                && is_lock
                && source.trim_matches('"') != CRATES_IO
            {
                report(format!("the source {source}, expected \"{CRATES_IO}\""));
            }
        }
    }
    findings
}

/// Whether `prefix` stands in `line` as the beginning of a path, not inside one or inside a URL.
fn begins_a_path(line: &str, prefix: &str) -> bool {
    line.match_indices(prefix).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '}' | '*'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, line: &str) -> usize {
        check(&Tree::planted(&[(path, line)])).len()
    }

    #[test]
    fn paths_of_a_machine_are_found() {
        for path in PATHS.map(|halves| halves.concat()) {
            assert_eq!(findings("a.md", &format!("see {path}me/file")), 1, "{path}");
            assert_eq!(findings("a.rs", &format!("\"{path}me\"")), 1, "{path}");
            assert_eq!(findings("a.rs", &format!("https://example.org{path}me")), 0, "{path}");
            assert_eq!(findings("a.rs", &format!("crates{path}me")), 0, "{path}");
        }
        assert_eq!(findings("a.rs", "/run/testudo /tmp/testudo /usr/bin"), 0);
    }

    #[test]
    fn mirrors_are_found() {
        for mirror in MIRRORS.map(|halves| halves.concat()) {
            assert_eq!(findings("ci.toml", &format!("https://host/{mirror}/x")), 1, "{mirror}");
        }
    }

    #[test]
    fn a_lock_file_names_one_registry() {
        assert_eq!(findings("Cargo.lock", &format!("source = \"{CRATES_IO}\"")), 0);
        assert_eq!(findings("fuzz/Cargo.lock", "source = \"git+https://example.org/a\""), 1);
    }
}
