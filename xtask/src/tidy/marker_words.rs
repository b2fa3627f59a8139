//! No notes to self: what is left to do stands in the tracker, not in the tree.

use super::Finding;
use super::tree::Tree;

/// The markers, in halves so that this file doesn't hold one.
const MARKERS: [[&str; 2]; 3] = [["TO", "DO"], ["FIX", "ME"], ["XX", "X"]];
/// Files that machines write; their words are not ours.
const GENERATED: [&str; 2] = ["Cargo.lock", "package-lock.json"];

/// Finds the markers, as whole words, in every text file.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let markers = MARKERS.map(|halves| halves.concat());
    let ours = tree.files().iter().filter(|file| !GENERATED.iter().any(|g| file.path.ends_with(g)));
    for file in ours {
        for (at, line) in file.text.lines().enumerate() {
            let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            if let Some(word) = words.find(|word| markers.iter().any(|marker| marker == word)) {
                let message = format!("the line says {word}, expected nothing left to do");
                findings.push(Finding::new(&file.path, at + 1, message));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_marker_is_found_as_a_word() {
        for marker in MARKERS.map(|halves| halves.concat()) {
            let text = format!("a\n// {marker}(me): later\n// {marker}S X{marker}\n");
            let tree = Tree::planted(&[("a.rs", &text), ("Cargo.lock", &text)]);
            let found: Vec<_> = check(&tree).into_iter().map(|f| (f.path, f.line)).collect();
            assert_eq!(found, [("a.rs".to_owned(), 2)]);
        }
    }
}
