//! Sets that stand in files of their own, a prefix a line, as lists of addresses are published.
//!
//! `#` begins a comment. A prefix may be there twice, and within another: those who publish lists do not look.

use std::path::{Path, PathBuf};

use super::MAX_FILE;
use super::addresses::MOST;
use crate::config::error::{ConfigError, Fault};
use crate::config::prefix::Prefix;
use crate::config::source;

/// The file that is meant: beside the file of the rules, unless its path is absolute.
pub fn beside(rules: &Path, named: &str) -> PathBuf {
    rules.parent().unwrap_or(Path::new("")).join(named)
}

/// Reads the prefixes of a file.
pub fn read(file: &Path) -> Result<Vec<Prefix>, ConfigError> {
    let source = source::read(file, MAX_FILE, "a file of prefixes", Fault::locate_open)?;
    prefixes(&source).map_err(|fault| fault.locate_open(file, &source))
}

fn prefixes(source: &str) -> Result<Vec<Prefix>, Fault> {
    let mut prefixes = Vec::new();
    let mut begins = 0;
    for line in source.split_inclusive('\n') {
        let says = line.split('#').next().unwrap_or("");
        let word = says.trim();
        if !word.is_empty() {
            let at = begins + (says.len() - says.trim_start().len());
            prefixes.push(super::parser::prefix(at..at + word.len(), word)?);
        }
        begins += line.len();
        if prefixes.len() > MOST {
            let (seen, expected) = (format!("more than {MOST} prefixes"), "fewer".to_owned());
            return Err(Fault { span: begins - line.len()..begins, seen, expected });
        }
    }
    match prefixes.is_empty() {
        true => Err(Fault {
            span: 0..0,
            seen: "a file without a prefix".to_owned(),
            expected: "one a line, such as 10.10.0.0/16".to_owned(),
        }),
        false => Ok(prefixes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_prefix_a_comment_or_nothing() {
        let read = prefixes("# a list\n\n10.0.0.0/8 # inside\r\n fd00::/8\n10.0.0.1\n10.0.0.0/8");
        let read: Vec<_> = read.expect("prefixes").iter().map(Prefix::to_string).collect();
        assert_eq!(read, ["10.0.0.0/8", "fd00::/8", "10.0.0.1/32", "10.0.0.0/8"]);
    }

    #[test]
    fn what_is_none_is_told_at_its_place() {
        let said = |source: &str| {
            let fault = prefixes(source).expect_err("no prefixes");
            fault.locate_open(Path::new("bad"), source).to_string()
        };
        assert_eq!(
            said("10.0.0.0/8\n\t10.0.0.1/8 # é\n"),
            "bad:2:2: 10.0.0.1/8, with host bits set; expected 10.0.0.0/8\n 2 | \t10.0.0.1/8 # é\n   | \t^^^^^^^^^^"
        );
        assert!(
            said("10.0.0.0/8, 11.0.0.0/8\n")
                .starts_with("bad:1:1: 10.0.0.0/8, 11.0.0.0/8; expected")
        );
        assert!(
            said("# none\n").starts_with("bad:1:1: a file without a prefix; expected one a line")
        );
        assert!(said("::/0").contains("mapped form"));
    }

    #[test]
    fn a_file_stands_beside_that_of_the_rules() {
        assert_eq!(
            beside(Path::new("/etc/testudo/a.rules"), "bad.list"),
            Path::new("/etc/testudo/bad.list")
        );
        assert_eq!(beside(Path::new("/etc/a.rules"), "/srv/bad"), Path::new("/srv/bad"));
        assert_eq!(beside(Path::new("a.rules"), "bad"), Path::new("bad"));
    }
}
