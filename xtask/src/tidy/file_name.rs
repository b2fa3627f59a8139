//! No file, directory or module has a name that could hold anything.
//!
//! Such a module has no reason to refuse a thing, so it grows, and its name tells a reader nothing.

use proc_macro2::Span;
use syn::ItemMod;
use syn::visit::{self, Visit};

use super::Finding;
use super::tree::Tree;

/// The names that say nothing.
const EMPTY_NAMES: [&str; 7] = ["utils", "util", "common", "helpers", "helper", "types", "misc"];

/// Finds the names that say nothing.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files().iter().filter(|file| file.is_rust()) {
        let stem = file.path.trim_end_matches(".rs");
        if let Some(name) = stem.split('/').find(|part| EMPTY_NAMES.contains(part)) {
            findings.push(Finding::new(&file.path, 1, message("the path", name)));
        }
    }
    for (file, rust) in tree.rust_files() {
        let mut modules = InlineModules { path: &file.path, findings: &mut findings };
        modules.visit_file(rust);
    }
    findings
}

fn message(what: &str, name: &str) -> String {
    format!("{what} has the name `{name}`, expected one that says what is in it")
}

/// Modules with a body; the others are found by their files.
struct InlineModules<'a> {
    path: &'a str,
    findings: &'a mut Vec<Finding>,
}

impl<'ast> Visit<'ast> for InlineModules<'_> {
    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        let name = item.ident.to_string();
        if item.content.is_some() && EMPTY_NAMES.contains(&name.as_str()) {
            let line = Span::start(&item.ident.span()).line;
            self.findings.push(Finding::new(self.path, line, message("the module", &name)));
        }
        visit::visit_item_mod(self, item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_directories_and_modules_are_found() {
        let tree = Tree::planted(&[
            ("crates/a/src/utils.rs", ""),
            ("crates/a/tests/common/mod.rs", ""),
            ("crates/types/src/lib.rs", ""),
            ("crates/a/src/lib.rs", "mod flow;\nmod helpers {}"),
            ("crates/a/src/common_table.rs", "mod misconfiguration {}"),
        ]);
        let places: Vec<_> = check(&tree).into_iter().map(|f| (f.path, f.line)).collect();
        let expected = [
            ("crates/a/src/utils.rs", 1),
            ("crates/a/tests/common/mod.rs", 1),
            ("crates/types/src/lib.rs", 1),
            ("crates/a/src/lib.rs", 2),
        ];
        assert_eq!(places, expected.map(|(path, line)| (path.to_owned(), line)));
    }
}
