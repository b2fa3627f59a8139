//! Every module file begins with words on what it is for.

use super::Finding;
use super::tree::Tree;

/// The fewest words that can say something.
const MIN_WORDS: usize = 2;

/// Finds the Rust files without a header, or with one that is only a placeholder.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let files = tree.files().iter().filter(|file| file.is_rust());
    files
        .filter_map(|file| {
            let message = missing(&file.text)?;
            Some(Finding::new(&file.path, 1, message))
        })
        .collect()
}

fn missing(text: &str) -> Option<String> {
    let first = text.lines().next().unwrap_or_default();
    if !first.starts_with("//!") {
        return Some(format!(
            "the file begins with `{first}`, expected a header that begins with //!"
        ));
    }
    let header = text.lines().map_while(|line| line.strip_prefix("//!"));
    let words = header
        .flat_map(str::split_whitespace)
        .filter(|word| word.contains(char::is_alphanumeric))
        .count();
    (words < MIN_WORDS)
        .then(|| format!("the header has {words} words, expected the module's purpose"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_and_empty_headers_are_found() {
        let tree = Tree::planted(&[
            ("good.rs", "//! The flow key.\n"),
            ("none.rs", "use std::fmt;\n"),
            ("late.rs", "\n//! The flow key.\n"),
            ("outer.rs", "/// The flow key.\nstruct Key;"),
            ("placeholder.rs", "//! .\n"),
            ("empty.rs", ""),
        ]);
        let found: Vec<_> = check(&tree).into_iter().map(|finding| finding.path).collect();
        assert_eq!(found, ["none.rs", "late.rs", "outer.rs", "placeholder.rs", "empty.rs"]);
    }
}
