//! Which code exists only in tests.
//!
//! A rule about what a library does must not speak about its tests. Test code is an item under
//! `#[cfg(test)]` or `#[test]`, and a file that only such an item brings in.

use proc_macro2::{TokenStream, TokenTree};
use syn::{Attribute, ImplItem, Item, Meta};

use super::macro_tokens::is_word;
use super::tree::Tree;

/// Whether an item with these attributes exists only in tests.
pub fn is_test_only(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::Path(path) => path.is_ident("test"),
        Meta::List(list) => list.path.is_ident("cfg") && needs_test(list.tokens.clone()),
        Meta::NameValue(_) => false,
    })
}

/// Whether a `cfg` predicate can hold only in tests.
fn needs_test(predicate: TokenStream) -> bool {
    let tokens: Vec<TokenTree> = predicate.into_iter().collect();
    match tokens.as_slice() {
        [word] => is_word(word, "test"),
        [word, TokenTree::Group(group)] => {
            let mut parts = parts(group.stream()).into_iter();
            match word {
                word if is_word(word, "all") => parts.any(needs_test),
                word if is_word(word, "any") => parts.len() > 0 && parts.all(needs_test),
                _ => false,
            }
        }
        _ => false,
    }
}

/// The parts of a list between its commas.
fn parts(list: TokenStream) -> Vec<TokenStream> {
    let tokens: Vec<TokenTree> = list.into_iter().collect();
    tokens
        .split(|token| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ','))
        .filter(|part| !part.is_empty())
        .map(|part| part.iter().cloned().collect())
        .collect()
}

/// The attributes of an item; of kinds that the rules need not tell apart, none.
pub fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// The attributes of an item of an `impl` block.
pub fn impl_attributes(item: &ImplItem) -> &[Attribute] {
    match item {
        ImplItem::Const(item) => &item.attrs,
        ImplItem::Fn(item) => &item.attrs,
        ImplItem::Type(item) => &item.attrs,
        ImplItem::Macro(item) => &item.attrs,
        _ => &[],
    }
}

/// The files that only test code brings in, as path prefixes.
pub struct TestFiles(Vec<String>);

impl TestFiles {
    /// Looks for the modules without a body that are declared for tests only.
    pub fn of(tree: &Tree) -> Self {
        let mut prefixes = Vec::new();
        for (file, rust) in tree.rust_files() {
            let directory = module_directory(&file.path);
            for item in &rust.items {
                if let Item::Mod(module) = item
                    && module.content.is_none()
                    && is_test_only(&module.attrs)
                {
                    prefixes.push(format!("{directory}{}", module.ident));
                }
            }
        }
        Self(prefixes)
    }

    /// Whether the file at `path` is one of them or below one.
    pub fn contain(&self, path: &str) -> bool {
        let below = |prefix: &String| {
            path.strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        };
        self.0.iter().any(below)
    }
}

/// Where the modules that the file at `path` declares are, with a `/` at the end.
fn module_directory(path: &str) -> String {
    let (directory, name) = path.rsplit_once('/').unwrap_or((".", path));
    match name {
        "lib.rs" | "main.rs" | "mod.rs" => format!("{directory}/"),
        _ => format!("{directory}/{}/", name.trim_end_matches(".rs")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_test(attribute: &str) -> bool {
        let item: Item = syn::parse_str(&format!("{attribute} fn f() {{}}")).unwrap();
        is_test_only(attributes(&item))
    }

    #[test]
    fn a_condition_is_for_tests_only_if_it_needs_test() {
        for attribute in ["#[test]", "#[cfg(test)]", "#[cfg(all(unix, test))]"] {
            assert!(is_test(attribute), "{attribute}");
        }
        let others = ["#[cfg(not(test))]", "#[cfg(any(test, unix))]", "#[inline]", "#[cfg(unix)]"];
        for attribute in others {
            assert!(!is_test(attribute), "{attribute}");
        }
    }

    #[test]
    fn files_of_test_modules_are_test_code() {
        let tree = Tree::planted(&[
            ("a/src/lib.rs", "#[cfg(test)] mod tests; mod flow;"),
            ("a/src/flow.rs", "#[cfg(test)] mod stories;"),
        ]);
        let files = TestFiles::of(&tree);
        for path in ["a/src/tests.rs", "a/src/tests/deep.rs", "a/src/flow/stories.rs"] {
            assert!(files.contain(path), "{path}");
        }
        for path in ["a/src/lib.rs", "a/src/flow.rs", "a/src/testsuite.rs", "a/src/stories.rs"] {
            assert!(!files.contain(path), "{path}");
        }
    }
}
