//! The files that the rules look at, read and parsed once.
//!
//! These are the files that git would track: all below the root but those that `.gitignore` names.
//! Git itself isn't asked, so that the rules also work in an exported tree and on files not yet added.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use ignore::WalkBuilder;

/// Every text file of the checkout.
pub struct Tree {
    files: Vec<File>,
}

/// One text file.
pub struct File {
    /// Relative to the root, with `/` between its parts.
    pub path: String,
    pub text: String,
    /// The syntax tree of a Rust file that parses.
    pub rust: Option<syn::File>,
    /// The content of a TOML file that parses.
    pub toml: Option<toml::Table>,
    /// Why there is no syntax tree.
    pub parse_error: Option<ParseError>,
}

/// What a parser said.
pub struct ParseError {
    pub line: usize,
    pub message: String,
}

impl Tree {
    /// Reads the tree below `root`.
    pub fn load(root: &Path) -> Result<Self> {
        let mut walk = WalkBuilder::new(root);
        // Only this tree's own rules count, not those of the user or of a directory above.
        walk.hidden(false).parents(false).ignore(false).git_global(false).git_exclude(false);
        walk.require_git(false).filter_entry(|entry| entry.file_name() != ".git");
        walk.sort_by_file_path(Path::cmp);

        let mut files = Vec::new();
        for entry in walk.build() {
            let entry = entry?;
            if !entry.file_type().is_some_and(|kind| kind.is_file()) {
                continue;
            }
            let bytes = fs::read(entry.path())
                .with_context(|| format!("cannot read {}", entry.path().display()))?;
            let path = entry.path().strip_prefix(root)?.to_string_lossy().into_owned();
            // What isn't text is data: there is nothing in it for these rules.
            if let Ok(text) = String::from_utf8(bytes) {
                files.push(File::new(path, text));
            }
        }
        Ok(Self { files })
    }

    /// A tree of these paths and texts.
    #[cfg(test)]
    pub fn planted(files: &[(&str, &str)]) -> Self {
        let file = |(path, text): &(&str, &str)| File::new((*path).to_owned(), (*text).to_owned());
        Self { files: files.iter().map(file).collect() }
    }

    /// All files, sorted by path when loaded.
    pub fn files(&self) -> &[File] {
        &self.files
    }

    /// The Rust files that parse.
    pub fn rust_files(&self) -> impl Iterator<Item = (&File, &syn::File)> {
        self.files.iter().filter_map(|file| Some((file, file.rust.as_ref()?)))
    }

    /// The packages' manifests that parse.
    pub fn manifests(&self) -> impl Iterator<Item = (&File, &toml::Table)> {
        self.files
            .iter()
            .filter(|file| file.path == "Cargo.toml" || file.path.ends_with("/Cargo.toml"))
            .filter_map(|file| Some((file, file.toml.as_ref()?)))
    }
}

impl File {
    fn new(path: String, text: String) -> Self {
        let mut file = Self { path, text, rust: None, toml: None, parse_error: None };
        if file.path.ends_with(".rs") {
            match syn::parse_file(&file.text) {
                Ok(rust) => file.rust = Some(rust),
                Err(error) => {
                    let (line, message) = (error.span().start().line, error.to_string());
                    file.parse_error = Some(ParseError { line, message });
                }
            }
        } else if file.path.ends_with(".toml") {
            match file.text.parse() {
                Ok(table) => file.toml = Some(table),
                Err(error) => file.parse_error = Some(toml_error(&file.text, &error)),
            }
        }
        file
    }

    /// Whether this is a Rust file, parsed or not.
    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }
}

fn toml_error(text: &str, error: &toml::de::Error) -> ParseError {
    let offset = error.span().map_or(0, |span| span.start);
    let before = text.get(..offset).unwrap_or_default();
    ParseError { line: before.matches('\n').count() + 1, message: error.message().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::ScratchDir;

    #[test]
    fn ignored_files_and_binaries_are_left_out_and_hidden_ones_are_not() {
        let scratch = ScratchDir::new();
        scratch.write(".gitignore", "/target\n");
        scratch.write(".git/HEAD", "ref");
        scratch.write("target/debug/a.rs", "");
        scratch.write(".ci/run", "cargo test");
        scratch.write("crates/a/src/lib.rs", "//! A.");
        fs::write(scratch.path().join("object.o"), [0xff, 0xfe]).unwrap();

        let tree = Tree::load(scratch.path()).unwrap();
        let paths: Vec<_> = tree.files().iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, [".ci/run", ".gitignore", "crates/a/src/lib.rs"]);
    }
}
