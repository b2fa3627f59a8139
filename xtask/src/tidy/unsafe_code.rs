//! Unsafe code stands in two crates, and says there why it is sound.
//!
//! The compiler's lint says the same, but a crate can allow it for itself; this rule reads the code.

use proc_macro2::{Delimiter, Span};
use syn::visit::{self, Visit};
use syn::{Attribute, ExprUnsafe, Item, ItemForeignMod, ItemImpl, ItemTrait, Macro, Meta};
use syn::{Signature, Stmt, spanned::Spanned};

use super::Finding;
use super::macro_tokens::{each_level, is_group, is_word};
use super::tree::Tree;

/// The directories that may hold unsafe code.
const HOMES: [&str; 2] = ["crates/datapath/", "crates/xdp/"];
/// What a comment on an unsafe block or `impl` has in it.
const REASON: &str = "SAFETY:";

/// Finds unsafe code outside its homes, and unsafe code without a reason in them.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, rust) in tree.rust_files() {
        let mut reader = Reader {
            path: &file.path,
            lines: file.text.lines().collect(),
            is_home: HOMES.iter().any(|home| file.path.starts_with(home)),
            statement: 0,
            findings: &mut findings,
        };
        reader.visit_file(rust);
    }
    findings
}

struct Reader<'a> {
    path: &'a str,
    lines: Vec<&'a str>,
    is_home: bool,
    /// The line where the innermost statement or item around the current place begins.
    statement: usize,
    findings: &'a mut Vec<Finding>,
}

impl Reader<'_> {
    fn report(&mut self, line: usize, message: String) {
        self.findings.push(Finding::new(self.path, line, message));
    }

    /// Something unsafe: fine in the crates made for it.
    fn see(&mut self, what: &str, span: Span) {
        if !self.is_home {
            let message = format!("{what}, expected only in {}", HOMES.join(" and "));
            self.report(span.start().line, message);
        }
    }

    /// Something unsafe that needs a reason, too.
    fn see_claim(&mut self, what: &str, span: Span) {
        self.see(what, span);
        let line = span.start().line;
        if self.is_home && !self.has_reason_above(line) && !self.has_reason_above(self.statement) {
            self.report(
                line,
                format!("{what} without a reason, expected a {REASON} comment above"),
            );
        }
    }

    /// Whether the comments and attributes right above `line` (from 1) give a reason.
    fn has_reason_above(&self, line: usize) -> bool {
        let above = self.lines.iter().take(line.saturating_sub(1)).rev().map(|text| text.trim());
        above
            .take_while(|text| text.starts_with("//") || text.starts_with('#'))
            .any(|text| text.contains(REASON))
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_stmt(&mut self, statement: &'ast Stmt) {
        let outer = std::mem::replace(&mut self.statement, statement.span().start().line);
        visit::visit_stmt(self, statement);
        self.statement = outer;
    }

    fn visit_item(&mut self, item: &'ast Item) {
        let outer = std::mem::replace(&mut self.statement, item.span().start().line);
        visit::visit_item(self, item);
        self.statement = outer;
    }

    fn visit_expr_unsafe(&mut self, block: &'ast ExprUnsafe) {
        self.see_claim("an unsafe block", block.unsafe_token.span);
        visit::visit_expr_unsafe(self, block);
    }

    fn visit_item_impl(&mut self, item: &'ast ItemImpl) {
        if let Some(keyword) = item.unsafety {
            self.see_claim("an unsafe impl", keyword.span);
        }
        visit::visit_item_impl(self, item);
    }

    fn visit_item_trait(&mut self, item: &'ast ItemTrait) {
        if let Some(keyword) = item.unsafety {
            self.see("an unsafe trait", keyword.span);
        }
        visit::visit_item_trait(self, item);
    }

    fn visit_item_foreign_mod(&mut self, item: &'ast ItemForeignMod) {
        self.see("an extern block", item.abi.extern_token.span);
        visit::visit_item_foreign_mod(self, item);
    }

    fn visit_signature(&mut self, signature: &'ast Signature) {
        if let Some(keyword) = signature.unsafety {
            self.see("an unsafe fn", keyword.span);
        }
        visit::visit_signature(self, signature);
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        let is_unsafe = attribute.path().is_ident("unsafe");
        if is_unsafe || lifts_the_lint(attribute) {
            self.see("an attribute for unsafe code", attribute.span());
        }
    }

    fn visit_macro(&mut self, item: &'ast Macro) {
        each_level(&item.tokens, &mut |tokens| {
            for (at, token) in
                tokens.iter().enumerate().filter(|(_, token)| is_word(token, "unsafe"))
            {
                match tokens.get(at + 1) {
                    Some(next) if is_group(next, Delimiter::Brace) || is_word(next, "impl") => {
                        self.see_claim("unsafe code in a macro", token.span());
                    }
                    _ => self.see("unsafe code in a macro", token.span()),
                }
            }
        });
    }
}

/// Whether this is `allow(unsafe_code)` or a weaker form of the lint.
fn lifts_the_lint(attribute: &Attribute) -> bool {
    let Meta::List(list) = &attribute.meta else { return false };
    let is_weaker = ["allow", "expect", "warn", "cfg_attr"].iter().any(|w| list.path.is_ident(w));
    let tokens: Vec<_> = list.tokens.clone().into_iter().collect();
    let mut names_lint = false;
    each_level(&tokens.into_iter().collect(), &mut |tokens| {
        names_lint |= tokens.iter().any(|token| is_word(token, "unsafe_code"));
    });
    is_weaker && names_lint
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        check(&Tree::planted(&[(path, text)])).iter().map(|finding| finding.line).collect()
    }

    const OUTSIDE: &str = "crates/cluster/src/lib.rs";
    const HOME: &str = "crates/datapath/src/lib.rs";

    #[test]
    fn every_form_is_found_outside_its_homes() {
        let forms = [
            "fn f() { unsafe { g() } }",
            "unsafe fn f() {}",
            "trait T { unsafe fn f(); }",
            "unsafe impl Send for S {}",
            "unsafe trait T {}",
            "unsafe extern \"C\" { fn f(); }",
            "#[allow(unsafe_code)] fn f() {}",
            "#![cfg_attr(unix, allow(unsafe_code))]",
            "#[unsafe(no_mangle)] fn f() {}",
            "fn f() { assert!(unsafe { g() }); }",
        ];
        for form in forms {
            assert_eq!(lines(OUTSIDE, &format!("//! Header.\n{form}")), [2], "{form}");
        }
    }

    #[test]
    fn safe_code_that_speaks_of_it_passes() {
        let text = "#![forbid(unsafe_code)]\n#![deny(unsafe_code)]\n// unsafe\nconst S: &str = \"unsafe\";";
        assert!(lines(OUTSIDE, text).is_empty());
    }

    #[test]
    fn a_block_without_a_reason_is_found_at_home() {
        assert_eq!(lines(HOME, "fn f() {\n let a = unsafe { g() };\n}"), [2]);
        assert_eq!(lines(HOME, "unsafe impl Send for S {}"), [1]);
        assert_eq!(lines(HOME, "fn f() {\n // SAFETY: far away.\n\n unsafe { g() }\n}"), [4]);
        assert_eq!(lines(HOME, "fn f() { m!(unsafe { g() }); }"), [1]);
    }

    #[test]
    fn a_reason_above_the_block_or_its_statement_is_enough() {
        let forms = [
            "fn f() {\n // SAFETY: g asks for nothing.\n let a = unsafe { g() };\n}",
            "fn f() {\n // SAFETY: so.\n let a =\n  unsafe { g() };\n}",
            "fn f() {\n let a =\n // SAFETY: so,\n // and so.\n unsafe { g() };\n}",
            "// SAFETY: no fields.\n#[cfg(unix)]\nunsafe impl Send for S {}",
            "fn f() {\n // SAFETY: so.\n m!(unsafe { g() });\n}",
        ];
        for form in forms {
            assert!(lines(HOME, form).is_empty(), "{form}");
        }
    }
}
