//! TOML as the checks read it: sections of keys and values, each with its place in the text.
//!
//! Why not derive the reading with serde: its messages name Rust types, and a missing or unknown
//! key and a bad value then come in three styles, not all of them with a place. Here every refusal
//! is a [`Fault`] with the bytes that caused it.

use std::borrow::Cow;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::error::Fault;

/// The longest piece of the file that a message repeats, in characters.
const MAX_REPEATED: usize = 60;

/// Reads a text as TOML.
pub(super) fn parse(source: &str) -> Result<Spanned<DeTable<'_>>, Fault> {
    DeTable::parse(source).map_err(|error| {
        let (seen, expected) = match error.message() {
            seen @ "duplicate key" => (seen, "each key once"),
            message => match message.split_once(", expected ") {
                // Said of every bare word, also where no string may stand.
                Some((seen @ "string values must be quoted", _)) => (seen, "a value"),
                Some((seen, expected)) => (seen, expected),
                None => (message, "TOML 1.0"),
            },
        };
        let end = source.len();
        Fault {
            span: error.span().unwrap_or(end..end),
            seen: seen.to_owned(),
            expected: expected.to_owned(),
        }
    })
}

/// A table of the file: the whole of it, or a section under a header.
#[derive(Clone)]
pub(super) struct Section<'d> {
    source: &'d str,
    title: &'static str,
    span: Range<usize>,
    table: &'d DeTable<'d>,
}

impl<'d> Section<'d> {
    /// The whole file.
    pub fn root(source: &'d str, table: &'d DeTable<'d>) -> Self {
        Self { source, title: "the file", span: 0..0, table }
    }

    /// The table under `[title]`, if it is there.
    pub fn section(&self, key: &str, title: &'static str) -> Result<Option<Self>, Fault> {
        let Some((_, value)) = self.table.get_key_value(key) else { return Ok(None) };
        self.table_of(value, title).map(Some)
    }

    /// The tables under `[[title]]`, in the order of the file.
    pub fn sections(&self, key: &str, title: &'static str) -> Result<Vec<Self>, Fault> {
        let Some((_, value)) = self.table.get_key_value(key) else { return Ok(Vec::new()) };
        match value.get_ref() {
            DeValue::Array(tables) => tables.iter().map(|t| self.table_of(t, title)).collect(),
            _ => Err(self.not_a_table(value, title)),
        }
    }

    fn table_of(
        &self,
        value: &'d Spanned<DeValue<'d>>,
        title: &'static str,
    ) -> Result<Self, Fault> {
        match value.get_ref() {
            DeValue::Table(table) => {
                Ok(Self { source: self.source, title, span: value.span(), table })
            }
            _ => Err(self.not_a_table(value, title)),
        }
    }

    fn not_a_table(&self, value: &Spanned<DeValue<'_>>, title: &str) -> Fault {
        Fault {
            span: value.span(),
            seen: excerpt(self.source, value.span()).into_owned(),
            expected: format!("a table under {title}"),
        }
    }

    /// Refuses the first key that is none of `keys`.
    pub fn only(&self, keys: &[&str]) -> Result<(), Fault> {
        let unknown = self.table.iter().map(|(key, _)| key);
        let unknown = unknown.filter(|key| !keys.contains(&key.get_ref().as_ref()));
        let Some(key) = unknown.min_by_key(|key| key.span().start) else { return Ok(()) };
        Err(Fault {
            span: key.span(),
            seen: format!("{} has the key {}", self.title, excerpt(self.source, key.span())),
            expected: format!("one of {}", keys.join(", ")),
        })
    }

    /// The value of a key, if it is there.
    pub fn value(&self, key: &'static str) -> Option<Value<'d>> {
        let (_, value) = self.table.get_key_value(key)?;
        Some(Value { source: self.source, key, value })
    }

    /// The value of a key that has to be there.
    pub fn required(&self, key: &'static str, expected: &str) -> Result<Value<'d>, Fault> {
        self.value(key).ok_or_else(|| self.refuse(format!("without {key}"), expected))
    }

    /// The time under a key, in milliseconds within a range, or its default.
    pub fn milliseconds(
        &self,
        key: &'static str,
        range: RangeInclusive<u32>,
        default: Duration,
    ) -> Result<Duration, Fault> {
        let Some(value) = self.value(key) else { return Ok(default) };
        let expected = format!("milliseconds from {} to {}", range.start(), range.end());
        value.integer(range, &expected).map(|ms| Duration::from_millis(ms.into()))
    }

    /// The number under a key, within a range, or its default.
    pub fn number(
        &self,
        key: &'static str,
        range: RangeInclusive<u32>,
        default: u32,
    ) -> Result<u32, Fault> {
        let Some(value) = self.value(key) else { return Ok(default) };
        let expected = format!("a number from {} to {}", range.start(), range.end());
        value.integer(range, &expected)
    }

    /// Refuses the section as a whole: the refusal stands at its header.
    pub fn refuse(&self, seen: impl AsRef<str>, expected: impl Into<String>) -> Fault {
        let header = self.source[self.span.clone()].find('\n');
        Fault {
            span: self.span.start..header.map_or(self.span.end, |at| self.span.start + at),
            seen: format!("{} {}", self.title, seen.as_ref()),
            expected: expected.into(),
        }
    }
}

/// A value with its key and its place.
#[derive(Clone)]
pub(super) struct Value<'d> {
    source: &'d str,
    key: &'static str,
    value: &'d Spanned<DeValue<'d>>,
}

impl<'d> Value<'d> {
    /// Refuses the value, repeating it as it stands in the file.
    pub fn refuse(&self, expected: impl Into<String>) -> Fault {
        self.refuse_as(format!("{} is {}", self.key, self.spelled()), expected)
    }

    /// Refuses the value, with a clause that says what is wrong about it.
    pub fn refuse_because(&self, why: &str, expected: impl Into<String>) -> Fault {
        self.refuse_as(format!("{} is {}, {why}", self.key, self.spelled()), expected)
    }

    /// Refuses the value in words that don't repeat it.
    pub fn refuse_as(&self, seen: String, expected: impl Into<String>) -> Fault {
        Fault { span: self.value.span(), seen, expected: expected.into() }
    }

    /// The value as it stands in the file.
    pub fn spelled(&self) -> Cow<'d, str> {
        excerpt(self.source, self.value.span())
    }

    /// The name of the value's TOML type.
    pub fn type_name(&self) -> &'static str {
        self.value.get_ref().type_str()
    }

    /// The value as a string.
    pub fn text(&self, expected: &str) -> Result<&'d str, Fault> {
        match self.value.get_ref() {
            DeValue::String(text) => Ok(text),
            _ => Err(self.refuse(expected)),
        }
    }

    /// The value as an integer within a range.
    pub fn integer(&self, range: RangeInclusive<u32>, expected: &str) -> Result<u32, Fault> {
        let DeValue::Integer(digits) = self.value.get_ref() else {
            return Err(self.refuse(expected));
        };
        let number = u32::from_str_radix(digits.as_str(), digits.radix()).ok();
        number.filter(|n| range.contains(n)).ok_or_else(|| self.refuse(expected))
    }

    /// The value as a truth.
    pub fn truth(&self) -> Result<bool, Fault> {
        match self.value.get_ref() {
            DeValue::Boolean(truth) => Ok(*truth),
            _ => Err(self.refuse("true or false")),
        }
    }

    /// The value as the path of something that may not exist yet.
    pub fn absolute_path(&self) -> Result<PathBuf, Fault> {
        let expected = "an absolute path of at most 1024 bytes";
        let path = self.text(expected)?;
        let fits = path.starts_with('/') && path.len() <= 1024 && !path.contains('\0');
        if fits { Ok(path.into()) } else { Err(self.refuse(expected)) }
    }

    /// Whether the value is a string.
    pub fn is_text(&self) -> bool {
        matches!(self.value.get_ref(), DeValue::String(_))
    }

    /// Whether the value is an integer, whatever its size.
    pub fn is_integer(&self) -> bool {
        matches!(self.value.get_ref(), DeValue::Integer(_))
    }

    /// The value as a list.
    pub fn items(&self, expected: &str) -> Result<Vec<Self>, Fault> {
        let DeValue::Array(items) = self.value.get_ref() else {
            return Err(self.refuse(expected));
        };
        let items: &'d DeArray<'d> = items;
        Ok(items.iter().map(|value| Self { source: self.source, key: self.key, value }).collect())
    }
}

/// A piece of the file, cut to one line of moderate length.
fn excerpt(source: &str, span: Range<usize>) -> Cow<'_, str> {
    let whole = source.get(span).unwrap_or("");
    let line = whole.lines().next().unwrap_or("");
    match line.char_indices().nth(MAX_REPEATED) {
        Some((end, _)) => Cow::Owned(format!("{}…", &line[..end])),
        None if line.len() < whole.len() => Cow::Owned(format!("{line}…")),
        None => Cow::Borrowed(line),
    }
}
