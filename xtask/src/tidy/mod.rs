//! `cargo xtask tidy`: the rules of style and layout that no compiler checks, one a file.
//!
//! The rules have no exemptions and no configuration: what a rule should allow, the rule says. Each
//! is a function from the tree to its findings, and has tests that plant violations, so that a rule
//! that no longer finds anything is noticed. The whole runs as a test of this crate, too.

use std::fmt;
use std::path::Path;

use anyhow::{Result, bail};

use tree::Tree;

mod dependencies;
mod file_length;
mod file_name;
mod function_length;
mod machine_names;
mod macro_tokens;
mod marker_words;
mod module_header;
mod packet_attributes;
mod sans_io;
mod test_code;
mod tree;
mod unsafe_code;

/// All rules.
const RULES: [fn(&Tree) -> Vec<Finding>; 11] = [
    syntax,
    file_length::check,
    function_length::check,
    file_name::check,
    module_header::check,
    marker_words::check,
    unsafe_code::check,
    packet_attributes::check,
    dependencies::check,
    sans_io::check,
    machine_names::check,
];

/// A place where the tree breaks a rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    /// Relative to the root.
    path: String,
    /// Counted from 1.
    line: usize,
    /// What was seen, and what was expected.
    message: String,
}

impl Finding {
    fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.message)
    }
}

/// Prints the findings in the tree below `root`; any is an error.
pub fn run(root: &Path) -> Result<()> {
    let tree = Tree::load(root)?;
    let findings = findings(&tree);
    for finding in &findings {
        println!("{finding}");
    }
    if !findings.is_empty() {
        bail!("tidy: {} findings, expected none", findings.len());
    }
    println!("tidy: {} files, no findings", tree.files().len());
    Ok(())
}

fn findings(tree: &Tree) -> Vec<Finding> {
    let mut findings: Vec<_> = RULES.iter().flat_map(|rule| rule(tree)).collect();
    findings.sort();
    findings.dedup();
    findings
}

/// Files that don't parse, which the other rules therefore can't see into.
fn syntax(tree: &Tree) -> Vec<Finding> {
    let errors = tree.files().iter().filter_map(|file| Some((file, file.parse_error.as_ref()?)));
    errors
        .map(|(file, error)| {
            let message = format!("does not parse as it should: {}", error.message);
            Finding::new(&file.path, error.line, message)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root::workspace_root;

    #[test]
    fn this_tree_is_tidy() {
        let tree = Tree::load(&workspace_root()).unwrap();
        let lines: Vec<_> = findings(&tree).iter().map(Finding::to_string).collect();
        assert!(lines.is_empty(), "{}", lines.join("\n"));
    }

    #[test]
    fn a_file_that_does_not_parse_is_found() {
        let tree = Tree::planted(&[("a.rs", "//! Two words.\nfn f( {}"), ("Cargo.toml", "[")]);
        let places: Vec<_> = syntax(&tree).into_iter().map(|f| (f.path, f.line)).collect();
        assert_eq!(places, [("a.rs".to_owned(), 2), ("Cargo.toml".to_owned(), 1)]);
    }

    #[test]
    fn a_finding_reads_as_a_place_that_editors_know() {
        assert_eq!(
            Finding::new("a/b.rs", 7, "seen, expected").to_string(),
            "a/b.rs:7: seen, expected"
        );
    }
}
