//! The packet crate compiles for the kernel: it declares that it needs no `std` and no `unsafe`.

use quote::ToTokens;

use super::Finding;
use super::tree::Tree;

const CRATE_ROOT: &str = "crates/packet/src/lib.rs";
/// The attributes, as tokens print.
const EXPECTED: [(&str, &str); 2] =
    [("no_std", "#![no_std]"), ("forbid (unsafe_code)", "#![forbid(unsafe_code)]")];

/// Finds which of the attributes the crate's root lacks.
///
/// They must be unconditional: under a `cfg_attr`, some build would go without.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let Some((_, rust)) = tree.rust_files().find(|(file, _)| file.path == CRATE_ROOT) else {
        return Vec::new();
    };
    let seen: Vec<String> =
        rust.attrs.iter().map(|attribute| attribute.meta.to_token_stream().to_string()).collect();
    let absent = EXPECTED.iter().filter(|(printed, _)| !seen.iter().any(|text| text == printed));
    absent
        .map(|(_, written)| {
            let message = format!("the crate root lacks an attribute, expected {written}");
            Finding::new(CRATE_ROOT, 1, message)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(text: &str) -> usize {
        check(&Tree::planted(&[(CRATE_ROOT, text)])).len()
    }

    #[test]
    fn each_attribute_is_needed_without_conditions() {
        assert_eq!(findings("#![no_std]\n#![forbid(unsafe_code)]"), 0);
        assert_eq!(findings("#![no_std]"), 1);
        assert_eq!(findings("#![no_std]\n#![deny(unsafe_code)]"), 1);
        assert_eq!(findings("#![cfg_attr(not(test), no_std)]\n#![forbid(unsafe_code)]"), 1);
        assert_eq!(findings(""), 2);
    }
}
