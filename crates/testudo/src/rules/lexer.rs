//! A rule file as words: what stands between blanks, with its place.
//!
//! A statement is a line. Within braces a line may break, so that long lists can be read. `#` begins a
//! comment, to the end of the line, but within quotes.

use std::ops::Range;

use crate::config::error::Fault;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind<'s> {
    /// Characters without blanks: a keyword, a name, a number, a prefix.
    Word(&'s str),
    /// What stands between quotes, without them.
    Text(&'s str),
    /// `{`
    Open,
    /// `}`
    Close,
    /// `,`
    Comma,
    /// `=`
    Equals,
}

/// A token and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token<'s> {
    /// Its bytes in the file.
    pub span: Range<usize>,
    /// What it is.
    pub kind: Kind<'s>,
}

/// The tokens of one line, at least one.
pub type Statement<'s> = Vec<Token<'s>>;

/// The statements of a file, in their order.
pub fn statements(source: &str) -> Result<Vec<Statement<'_>>, Fault> {
    let mut statements = Vec::new();
    let mut current = Vec::new();
    let mut open = None;
    let mut at = 0;
    while let Some(next) = source[at..].chars().next() {
        let end = at + next.len_utf8();
        match next {
            '\n' if open.is_none() => {
                statements.push(std::mem::take(&mut current));
                at = end;
            }
            '#' => at = source[at..].find('\n').map_or(source.len(), |newline| at + newline),
            _ if next.is_whitespace() => at = end,
            _ => {
                let token = token(source, at)?;
                match token.kind {
                    Kind::Open => open = Some(token.span.clone()),
                    Kind::Close => open = None,
                    _ => {}
                }
                at = token.span.end;
                current.push(token);
            }
        }
    }
    if let Some(span) = open {
        let seen = "a list that does not end".to_owned();
        return Err(Fault { span, seen, expected: "a } behind its last item".to_owned() });
    }
    statements.push(current);
    statements.retain(|statement| !statement.is_empty());
    Ok(statements)
}

/// The token that begins at `at`, where no blank is.
fn token(source: &str, at: usize) -> Result<Token<'_>, Fault> {
    let rest = &source[at..];
    let sign = |kind| Ok(Token { span: at..at + 1, kind });
    match rest.as_bytes()[0] {
        b'{' => sign(Kind::Open),
        b'}' => sign(Kind::Close),
        b',' => sign(Kind::Comma),
        b'=' => sign(Kind::Equals),
        b'"' => text(source, at),
        _ => {
            let ends = |c: char| c.is_whitespace() || "{},=\"#".contains(c);
            let length = rest.find(ends).unwrap_or(rest.len());
            Ok(Token { span: at..at + length, kind: Kind::Word(&rest[..length]) })
        }
    }
}

fn text(source: &str, at: usize) -> Result<Token<'_>, Fault> {
    let within = &source[at + 1..];
    let line = within.lines().next().unwrap_or("");
    let Some(length) = line.find('"') else {
        let span = at..at + 1 + line.len();
        let seen = "quotes that do not end on their line".to_owned();
        return Err(Fault { span, seen, expected: "a \" at the end of the text".to_owned() });
    };
    Ok(Token { span: at..at + length + 2, kind: Kind::Text(&within[..length]) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(source: &str) -> Vec<Vec<Kind<'_>>> {
        let statements = statements(source).expect("tokens");
        statements.iter().map(|s| s.iter().map(|token| token.kind).collect()).collect()
    }

    #[test]
    fn lines_are_statements_and_lists_may_break() {
        use Kind::{Close, Comma, Equals, Open, Text, Word};
        assert_eq!(
            kinds("set a={ 1,\n # of it\n 2 }\n\n# none\nlog \"a # b\"accept#x"),
            [
                vec![Word("set"), Word("a"), Equals, Open, Word("1"), Comma, Word("2"), Close],
                vec![Word("log"), Text("a # b"), Word("accept")],
            ]
        );
        assert!(kinds(" \n\r\n# nothing").is_empty());
    }

    #[test]
    fn what_is_not_closed_is_told_where_it_begins() {
        let open = statements("drop\nset a = { 1,\n2\n").expect_err("not closed");
        assert_eq!(open.span, 13..14);
        let quotes = statements("log \"abc\ndrop \"x\"").expect_err("not closed");
        assert_eq!(quotes.span, 4..8);
    }
}
