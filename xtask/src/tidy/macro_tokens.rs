//! Looking into the arguments of macros, which the parser leaves as tokens.
//!
//! Without this, whatever stands inside `proptest!` or `assert!` would escape the rules.

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Calls `look` with the tokens of `stream` and with those of each group in it, however deep.
pub fn each_level(stream: &TokenStream, look: &mut impl FnMut(&[TokenTree])) {
    let tokens: Vec<TokenTree> = stream.clone().into_iter().collect();
    look(&tokens);
    for token in &tokens {
        if let TokenTree::Group(group) = token {
            each_level(&group.stream(), look);
        }
    }
}

/// Whether `token` is the identifier or keyword `word`.
pub fn is_word(token: &TokenTree, word: &str) -> bool {
    matches!(token, TokenTree::Ident(ident) if ident == word)
}

/// Whether `token` is a group in this kind of brackets.
pub fn is_group(token: &TokenTree, delimiter: Delimiter) -> bool {
    matches!(token, TokenTree::Group(group) if group.delimiter() == delimiter)
}

/// Whether `token` is this punctuation character.
pub fn is_punct(token: &TokenTree, character: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == character)
}
