//! Which package may know which.
//!
//! `packet`, `cluster` and `coordinator` decide and do no I/O; a dependency on a sibling that does
//! would let it in through the back door. And nothing depends on the program, which stands at the top.
//! Tests may use what they like, so development dependencies are free, except on the program.

use std::collections::BTreeSet;

use toml::{Table, Value};

use super::Finding;
use super::tree::{File, Tree};

/// For each package that is restricted: the siblings that it may know.
const ALLOWED: [(&str, &[&str]); 3] = [
    ("testudo-packet", &[]),
    ("testudo-cluster", &["testudo-packet"]),
    ("testudo-coordinator", &["testudo-cluster", "testudo-packet"]),
];
/// The package on which none depends.
const PROGRAM: &str = "testudo";
/// The tables whose dependencies are part of what a package is.
const BUILDING: [&str; 2] = ["dependencies", "build-dependencies"];
const TESTING: &str = "dev-dependencies";

/// Finds the dependencies that should not be.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let packages: BTreeSet<&str> =
        tree.manifests().filter_map(|(_, manifest)| package_name(manifest)).collect();
    let mut findings = Vec::new();
    for (file, manifest) in tree.manifests() {
        let Some(package) = package_name(manifest) else { continue };
        let allowed = ALLOWED.iter().find(|(name, _)| *name == package).map(|(_, list)| *list);
        for dependency in dependencies(manifest) {
            let wanted = dependency.package;
            let sibling = packages.contains(wanted) && dependency.table != TESTING;
            let refused = allowed.is_some_and(|list| sibling && !list.contains(&wanted));
            if wanted == PROGRAM || refused {
                findings.push(finding(file, package, &dependency, allowed));
            }
        }
    }
    findings
}

fn finding(
    file: &File,
    package: &str,
    dependency: &Dependency<'_>,
    allowed: Option<&[&str]>,
) -> Finding {
    let Dependency { key, package: wanted, table } = dependency;
    let expected = match allowed {
        Some([]) => "no package of this workspace".to_owned(),
        Some(list) => format!("of this workspace only {}", list.join(", ")),
        None => "a library".to_owned(),
    };
    let message = format!("{package} has {wanted} in its {table}, expected {expected}");
    Finding::new(&file.path, line_of_key(&file.text, key), message)
}

struct Dependency<'a> {
    /// The key in the manifest, which may be a new name for the package.
    key: &'a str,
    /// The package's own name.
    package: &'a str,
    table: &'a str,
}

fn package_name(manifest: &Table) -> Option<&str> {
    manifest.get("package")?.get("name")?.as_str()
}

/// The dependencies of a manifest, for every platform.
fn dependencies(manifest: &Table) -> Vec<Dependency<'_>> {
    let platforms = manifest.get("target").and_then(Value::as_table);
    let platforms = platforms.into_iter().flat_map(Table::values).filter_map(Value::as_table);
    let mut found = Vec::new();
    for section in std::iter::once(manifest).chain(platforms) {
        for table in BUILDING.into_iter().chain([TESTING]) {
            let entries = section.get(table).and_then(Value::as_table);
            for (key, value) in entries.into_iter().flatten() {
                let package = value.get("package").and_then(Value::as_str).unwrap_or(key);
                found.push(Dependency { key, package, table });
            }
        }
    }
    found
}

/// The first line that begins with `key` as a whole, or names it in a table's head.
fn line_of_key(text: &str, key: &str) -> usize {
    let is_key = |line: &str| {
        let line = line.trim_start();
        let head = line.strip_prefix('[').and_then(|head| head.split_once(']'));
        line.strip_prefix(key).is_some_and(|rest| rest.starts_with(['.', ' ', '=']))
            || head.is_some_and(|(head, _)| head.ends_with(&format!(".{key}")))
    };
    text.lines().position(is_key).map_or(1, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, rest: &str) -> String {
        format!("[package]\nname = \"{name}\"\n{rest}")
    }

    /// The line of each finding in a manifest of this package among its siblings.
    fn lines(name: &str, rest: &str) -> Vec<usize> {
        let path = "checked/Cargo.toml";
        let tree = Tree::planted(&[
            (path, &package(name, rest)),
            ("packet/Cargo.toml", &package("testudo-packet", "")),
            ("datapath/Cargo.toml", &package("testudo-datapath", "")),
            ("program/Cargo.toml", &package("testudo", "")),
        ]);
        check(&tree).into_iter().filter(|f| f.path == path).map(|f| f.line).collect()
    }

    #[test]
    fn cluster_knows_packet_alone() {
        let text = "[dependencies]\ntestudo-packet.workspace = true\nthiserror = \"2\"\n";
        assert!(lines("testudo-cluster", text).is_empty());
        let text = format!("{text}testudo-datapath.workspace = true");
        assert_eq!(lines("testudo-cluster", &text), [6]);
    }

    #[test]
    fn coordinator_knows_cluster_and_packet_alone() {
        let text = "[dependencies]\ntestudo-packet.workspace = true\nraft = \"0.7\"\n";
        assert!(lines("testudo-coordinator", text).is_empty());
        let text = format!("{text}testudo-datapath.workspace = true");
        assert_eq!(lines("testudo-coordinator", &text), [6]);
    }

    #[test]
    fn packet_knows_no_sibling() {
        let datapath = "testudo-datapath = { path = \"../datapath\" }";
        for table in ["dependencies", "build-dependencies", "target.'cfg(loom)'.dependencies"] {
            assert_eq!(lines("testudo-packet", &format!("[{table}]\n{datapath}")), [4], "{table}");
        }
        assert!(lines("testudo-packet", &format!("[dev-dependencies]\n{datapath}")).is_empty());
        assert_eq!(lines("testudo-packet", "[dependencies.testudo-datapath]\npath = \"x\""), [3]);
    }

    #[test]
    fn a_new_name_does_not_hide_a_package() {
        let text =
            "[dependencies]\nio = { package = \"testudo-datapath\", path = \"../datapath\" }";
        assert_eq!(lines("testudo-cluster", text), [4]);
    }

    #[test]
    fn nothing_depends_on_the_program() {
        for table in ["dependencies", "dev-dependencies"] {
            let text = format!("[{table}]\ntestudo = {{ path = \"../program\" }}");
            assert_eq!(lines("testudo-sim", &text), [4], "{table}");
        }
    }
}
