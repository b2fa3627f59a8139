//! Nothing in `packet`, `cluster` and `coordinator` reads a clock, opens a socket or a file, starts a
//! thread, draws randomness by itself, or is async.
//!
//! That is what lets one driver run the code on a network and another one on virtual time. The rule
//! reads names: it resolves `use std::time as t` and looks into macros, but a function of another
//! crate that reads a clock for its caller it can't see. The dependencies of these crates are few.

use std::collections::HashMap;

use proc_macro2::{Span, TokenStream, TokenTree};
use syn::UseTree;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{ExprAsync, ExprAwait, ExprClosure, ImplItem, Item, ItemUse, Macro, Path, Signature};

use super::Finding;
use super::macro_tokens::{each_level, is_punct, is_word};
use super::test_code::{self, TestFiles, is_test_only};
use super::tree::Tree;

/// The sources that the rule is about.
const SOURCES: [&str; 3] = ["crates/packet/src/", "crates/cluster/src/", "crates/coordinator/src/"];

/// Paths that reach outside, and everything below them; with what they reach.
const FORBIDDEN: [(&str, &str); 23] = [
    ("async_std", "async"),
    ("fastrand", "ambient randomness"),
    ("futures", "async"),
    ("getrandom", "ambient randomness"),
    ("libc", "the operating system"),
    ("mio", "sockets"),
    ("nix", "the operating system"),
    ("rand::random", "ambient randomness"),
    ("rand::rng", "ambient randomness"),
    ("rand::rngs::OsRng", "ambient randomness"),
    ("rand::thread_rng", "ambient randomness"),
    ("std::collections::hash_map::RandomState", "ambient randomness"),
    ("std::env", "the environment"),
    ("std::fs", "files"),
    ("std::net::TcpListener", "sockets"),
    ("std::net::TcpStream", "sockets"),
    ("std::net::ToSocketAddrs", "name servers"),
    ("std::net::UdpSocket", "sockets"),
    ("std::os", "the operating system"),
    ("std::process", "processes"),
    ("std::thread", "threads"),
    ("std::time::Instant", "a clock"),
    ("std::time::SystemTime", "a clock"),
];
/// Like [`FORBIDDEN`]; these are checked by their first part alone.
const FORBIDDEN_CRATES: [(&str, &str); 2] = [("tokio", "async"), ("smol", "async")];

/// Finds what reaches outside in code that is not for tests.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let test_files = TestFiles::of(tree);
    let mut findings = Vec::new();
    for (file, rust) in tree.rust_files() {
        let is_source = SOURCES.iter().any(|source| file.path.starts_with(source));
        if is_source && !test_files.contain(&file.path) {
            let mut imports = Imports::default();
            imports.visit_file(rust);
            let mut reader =
                Reader { path: &file.path, imports: &imports.0, findings: &mut findings };
            reader.visit_file(rust);
        }
    }
    findings
}

/// What the path of these parts reaches, if it reaches outside; a glob reaches all below it.
fn reached(parts: &[String], is_glob: bool) -> Option<&'static str> {
    let path = parts.join("::");
    let is_at_or_below = |path: &str, above: &str| {
        path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    FORBIDDEN
        .iter()
        .chain(&FORBIDDEN_CRATES)
        .find(|(forbidden, _)| {
            is_at_or_below(&path, forbidden) || (is_glob && is_at_or_below(forbidden, &path))
        })
        .map(|(_, what)| *what)
}

/// The names that a file's `use` items bring in, with the paths that they stand for.
#[derive(Default)]
struct Imports(HashMap<String, Vec<String>>);

impl<'ast> Visit<'ast> for Imports {
    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        each_import(&item.tree, &mut Vec::new(), &mut |parts, name, _| {
            if let Some(name) = name {
                self.0.insert(name.to_owned(), parts.to_vec());
            }
        });
    }
}

/// Calls `see` with each path of a `use` tree and the name that it gets; a glob gives no name.
fn each_import(
    tree: &UseTree,
    above: &mut Vec<String>,
    see: &mut impl FnMut(&[String], Option<&str>, Span),
) {
    let depth = above.len();
    match tree {
        UseTree::Path(path) => {
            above.push(path.ident.to_string());
            each_import(&path.tree, above, see);
        }
        UseTree::Group(group) => group.items.iter().for_each(|item| each_import(item, above, see)),
        UseTree::Glob(glob) => see(above, None, glob.span()),
        UseTree::Name(name) if name.ident == "self" => {
            see(above, above.last().map(String::as_str), name.ident.span());
        }
        UseTree::Name(name) => {
            above.push(name.ident.to_string());
            see(above, above.last().map(String::as_str), name.ident.span());
        }
        UseTree::Rename(rename) => {
            if rename.ident != "self" {
                above.push(rename.ident.to_string());
            }
            see(above, Some(&rename.rename.to_string()), rename.ident.span());
        }
    }
    above.truncate(depth);
}

struct Reader<'a> {
    path: &'a str,
    imports: &'a HashMap<String, Vec<String>>,
    findings: &'a mut Vec<Finding>,
}

impl Reader<'_> {
    fn report(&mut self, span: Span, seen: &str, what: &str) {
        let message = format!(
            "{seen} reaches {what}, expected none here: time and randomness are arguments, \
             input and output are values"
        );
        self.findings.push(Finding::new(self.path, span.start().line, message));
    }

    /// Looks at a path in the code, whose first part an import may stand for.
    fn look_at(&mut self, parts: Vec<String>, span: Span) {
        let parts = match parts.first().and_then(|first| self.imports.get(first)) {
            // The `use` item itself was reported already.
            Some(imported) if reached(imported, false).is_some() => return,
            Some(imported) => [imported.as_slice(), &parts[1..]].concat(),
            None => parts,
        };
        if let Some(what) = reached(&parts, false) {
            self.report(span, &format!("`{}`", parts.join("::")), what);
        }
    }

    fn look_at_tokens(&mut self, stream: &TokenStream) {
        each_level(stream, &mut |tokens| {
            let mut rest = tokens;
            while let Some((first, after)) = rest.split_first() {
                rest = after;
                if is_word(first, "async") || is_word(first, "await") {
                    self.report(first.span(), &format!("`{first}`"), "an executor");
                }
                let parts = leading_path(first, &mut rest);
                if parts.len() > 1 {
                    self.look_at(parts, first.span());
                }
            }
        });
    }
}

/// Takes `::part` after `part` from `rest` for as long as there is one.
fn leading_path(first: &TokenTree, rest: &mut &[TokenTree]) -> Vec<String> {
    let TokenTree::Ident(ident) = first else { return Vec::new() };
    let mut parts = vec![ident.to_string()];
    while let [colon, second_colon, TokenTree::Ident(part), after @ ..] = *rest
        && is_punct(colon, ':')
        && is_punct(second_colon, ':')
    {
        parts.push(part.to_string());
        *rest = after;
    }
    parts
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_test_only(test_code::attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        if !is_test_only(test_code::impl_attributes(item)) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        each_import(&item.tree, &mut Vec::new(), &mut |parts, name, span| {
            if let Some(what) = reached(parts, name.is_none()) {
                self.report(span, &format!("`use {}`", parts.join("::")), what);
            }
        });
    }

    fn visit_path(&mut self, path: &'ast Path) {
        let parts = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.look_at(parts, path.span());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast Macro) {
        self.look_at_tokens(&item.tokens);
        visit::visit_macro(self, item);
    }

    fn visit_signature(&mut self, signature: &'ast Signature) {
        if let Some(keyword) = signature.asyncness {
            self.report(keyword.span, "`async fn`", "an executor");
        }
        visit::visit_signature(self, signature);
    }

    fn visit_expr_async(&mut self, expression: &'ast ExprAsync) {
        self.report(expression.async_token.span, "`async`", "an executor");
        visit::visit_expr_async(self, expression);
    }

    fn visit_expr_await(&mut self, expression: &'ast ExprAwait) {
        self.report(expression.await_token.span, "`.await`", "an executor");
        visit::visit_expr_await(self, expression);
    }

    fn visit_expr_closure(&mut self, expression: &'ast ExprClosure) {
        if let Some(keyword) = expression.asyncness {
            self.report(keyword.span, "`async` closure", "an executor");
        }
        visit::visit_expr_closure(self, expression);
    }
}

#[cfg(test)]
mod tests;
