//! Why a configuration is refused, and where in the file the reason stands.
//!
//! Invariant: every refusal has one form, `FILE:LINE:COL: what was seen; expected what`, so that
//! editors and scripts find the place. The cluster's secret never gets into a message: a line that
//! may hold it is not quoted.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A configuration that is refused. Nothing on the machine has been touched; the file is at fault.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read at all.
    #[error("{}: {source}; expected a readable file", file.display())]
    Unreadable {
        /// The file as it was named.
        file: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file was read, and something in it is wrong.
    #[error("{}:{place}: {seen}; expected {expected}{}", file.display(), Quoted(quote))]
    Invalid {
        /// The file as it was named.
        file: PathBuf,
        /// Where the wrong word begins.
        place: Place,
        /// What stands there.
        seen: String,
        /// What may stand there.
        expected: String,
        /// The line, unless it may hold the secret.
        quote: Option<Box<Quote>>,
    },
}

/// A place in a text, both numbers from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// A line of the file with carets under the wrong word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    line: usize,
    text: String,
    /// Blanks and tabs that put the carets under the word, whatever the width of a tab.
    indent: String,
    carets: usize,
}

impl fmt::Display for Quote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        let carets = "^".repeat(self.carets);
        write!(f, " {number} | {}\n {margin} | {}{carets}", self.text, self.indent)
    }
}

/// A quote on lines of its own, or nothing.
struct Quoted<'a>(&'a Option<Box<Quote>>);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(quote) => write!(f, "\n{quote}"),
            None => Ok(()),
        }
    }
}

/// A refusal by one of the checks, which know bytes of the text but neither file nor lines.
#[derive(Debug)]
pub struct Fault {
    /// The bytes of the wrong word.
    pub span: Range<usize>,
    /// What stands there.
    pub seen: String,
    /// What may stand there.
    pub expected: String,
}

impl Fault {
    /// The refusal with its place in the file.
    pub fn locate(self, file: &Path, source: &str) -> ConfigError {
        self.locate_unless(file, source, may_hold_secret)
    }

    /// The same in a file without secrets: the line is always quoted.
    pub fn locate_open(self, file: &Path, source: &str) -> ConfigError {
        self.locate_unless(file, source, |_| false)
    }

    fn locate_unless(
        self,
        file: &Path,
        source: &str,
        is_secret: impl Fn(&str) -> bool,
    ) -> ConfigError {
        let start = floor(source, self.span.start);
        let end = floor(source, self.span.end).max(start);
        let line_start = source[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let before = &source[line_start..start];
        let place = Place {
            line: source[..start].matches('\n').count() + 1,
            column: before.chars().count() + 1,
        };
        let line = source[line_start..].lines().next().unwrap_or("");
        let word = source[start..end].lines().next().unwrap_or("");
        let quote = Quote {
            line: place.line,
            text: line.trim_end().to_owned(),
            indent: before.chars().map(|c| if c == '\t' { '\t' } else { ' ' }).collect(),
            carets: word.chars().count().max(1),
        };
        let quote = (!is_secret(line)).then(|| Box::new(quote));
        let file = file.to_owned();
        ConfigError::Invalid { file, place, seen: self.seen, expected: self.expected, quote }
    }
}

/// Whether a line mentions the secret or has a word that looks like one, under a misspelt key, or has
/// a URL with a password.
fn may_hold_secret(line: &str) -> bool {
    let mut words = line.split(|c: char| !c.is_ascii_hexdigit());
    line.contains("secret") || line.contains("@") || words.any(|word| word.len() >= 16)
}

/// The last character boundary of `source` at or before `index`.
fn floor(source: &str, index: usize) -> usize {
    let mut index = index.min(source.len());
    while !source.is_char_boundary(index) {
        index -= 1;
    }
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    fn located(source: &str, span: Range<usize>) -> String {
        let fault = Fault { span, seen: "this".into(), expected: "that".into() };
        fault.locate(Path::new("f"), source).to_string()
    }

    #[test]
    fn carets_stand_under_the_word() {
        assert_eq!(
            located("a = 1\n\tbé = 22\n", 13..15),
            "f:2:7: this; expected that\n 2 | \tbé = 22\n   | \t     ^^"
        );
    }

    #[test]
    fn a_word_at_the_end_of_the_file_has_a_place() {
        assert_eq!(located("a = ", 4..4), "f:1:5: this; expected that\n 1 | a =\n   |     ^");
        assert_eq!(located("a\n", 99..99), "f:2:1: this; expected that\n 2 | \n   | ^");
        assert_eq!(located("", 0..0), "f:1:1: this; expected that\n 1 | \n   | ^");
    }

    #[test]
    fn a_line_with_the_secret_is_not_quoted() {
        assert_eq!(located("secret = \"0011\"", 9..15), "f:1:10: this; expected that");
        assert_eq!(located("sacret = \"0123456789abcdef\"", 0..6), "f:1:1: this; expected that");
    }
}
