//! A file fits a sitting.

use super::Finding;
use super::tree::Tree;

/// The most lines that a Rust file may have.
const MAX_LINES: usize = 600;

/// Finds the files that are longer.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let sizes = tree
        .files()
        .iter()
        .filter(|file| file.is_rust())
        .map(|file| (file, file.text.lines().count()));
    sizes
        .filter(|(_, lines)| *lines > MAX_LINES)
        .map(|(file, lines)| {
            let message = format!("the file has {lines} lines, expected at most {MAX_LINES}");
            Finding::new(&file.path, MAX_LINES + 1, message)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_too_many_is_found() {
        let full = "\n".repeat(MAX_LINES);
        assert!(check(&Tree::planted(&[("a.rs", &full), ("a.md", &full.repeat(2))])).is_empty());

        let found = check(&Tree::planted(&[("a.rs", &(full + "//"))]));
        let message = "the file has 601 lines, expected at most 600";
        assert_eq!(found, [Finding::new("a.rs", 601, message)]);
    }
}
