//! A function fits a screen: from its signature to its closing brace, wherever it stands.
//!
//! Methods, default methods, nested functions, tests and functions inside macros count like any
//! other. Attributes and comments above the signature don't count.

use proc_macro2::{Delimiter, Span, TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Block, ImplItemFn, ItemFn, Macro, Signature, TraitItemFn};

use super::Finding;
use super::macro_tokens::{each_level, is_group, is_punct, is_word};
use super::tree::Tree;

/// The most lines that a function may have.
const MAX_LINES: usize = 70;

/// Finds the functions that are longer.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, rust) in tree.rust_files() {
        let mut functions = Functions { path: &file.path, findings: &mut findings };
        functions.visit_file(rust);
    }
    findings
}

struct Functions<'a> {
    path: &'a str,
    findings: &'a mut Vec<Finding>,
}

impl Functions<'_> {
    fn measure_block(&mut self, signature: &Signature, block: &Block) {
        let name = signature.ident.to_string();
        self.measure(&name, signature.fn_token.span, block.brace_token.span.close());
    }

    fn measure(&mut self, name: &str, first: Span, last: Span) {
        let start = first.start().line;
        let lines = last.end().line - start + 1;
        if lines > MAX_LINES {
            let message =
                format!("the function `{name}` has {lines} lines, expected at most {MAX_LINES}");
            self.findings.push(Finding::new(self.path, start, message));
        }
    }

    fn measure_in_macro(&mut self, stream: &TokenStream) {
        each_level(stream, &mut |tokens| {
            for (at, token) in tokens.iter().enumerate() {
                let after = &tokens[at + 1..];
                if is_word(token, "fn")
                    && let Some(body) = body(after)
                {
                    let name = after[0].to_string();
                    self.measure(&name, token.span(), body.span_close());
                }
            }
        });
    }
}

/// The body of the function whose tokens after `fn` these are; a pointer type has none.
fn body(after: &[TokenTree]) -> Option<&proc_macro2::Group> {
    if after.first().is_none_or(|token| is_group(token, Delimiter::Parenthesis)) {
        return None;
    }
    let end =
        after.iter().position(|token| is_punct(token, ';') || is_group(token, Delimiter::Brace))?;
    match &after[end] {
        TokenTree::Group(group) => Some(group),
        _ => None,
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        self.measure_block(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        self.measure_block(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast TraitItemFn) {
        if let Some(block) = &item.default {
            self.measure_block(&item.sig, block);
        }
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_macro(&mut self, item: &'ast Macro) {
        self.measure_in_macro(&item.tokens);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A function of `lines` lines.
    fn function(lines: usize) -> String {
        format!("fn f() {{\n{}}}\n", "    ;\n".repeat(lines - 2))
    }

    fn lines_of_findings(text: &str) -> Vec<usize> {
        check(&Tree::planted(&[("a.rs", text)])).iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn the_longest_function_allowed_passes_and_one_more_line_is_found() {
        assert!(check(&Tree::planted(&[("a.rs", &function(MAX_LINES))])).is_empty());
        let found = check(&Tree::planted(&[("a.rs", &function(MAX_LINES + 1))]));
        let message = "the function `f` has 71 lines, expected at most 70";
        assert_eq!(found, [Finding::new("a.rs", 1, message)]);
    }

    #[test]
    fn methods_defaults_nested_functions_and_tests_count() {
        let long = function(MAX_LINES + 1);
        assert_eq!(lines_of_findings(&format!("impl S {{\n{long}}}")), [2]);
        assert_eq!(lines_of_findings(&format!("trait T {{\nfn g();\n{long}}}")), [3]);
        assert_eq!(lines_of_findings(&format!("fn g() {{\n{long}}}")), [1, 2]);
        assert_eq!(lines_of_findings(&format!("mod tests {{\n#[test]\n{long}}}")), [3]);
    }

    #[test]
    fn functions_inside_macros_count() {
        let long = function(MAX_LINES + 1);
        assert_eq!(lines_of_findings(&format!("proptest! {{\n#[test]\n{long}}}")), [3]);
        assert!(lines_of_findings("m! { type F = fn(u8) -> u8; fn g(); { 1 } }").is_empty());
    }

    #[test]
    fn attributes_and_comments_above_do_not_count() {
        let text = format!("/// {}\n#[inline]\n{}", "\n///".repeat(9), function(MAX_LINES));
        assert!(lines_of_findings(&text).is_empty());
    }
}
