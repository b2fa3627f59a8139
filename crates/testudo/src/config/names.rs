//! Names of clusters and nodes. They become parts of file names and of lines that scripts read, so
//! they hold nothing that either would trip over.

use super::document::Value;
use super::error::Fault;

/// What a name has to be, for messages.
pub(super) const EXPECTED: &str =
    "a name of 1 to 63 letters, digits, '-', '_' or '.', beginning with a letter or digit";

/// Reads a name.
pub(super) fn read(value: &Value<'_>) -> Result<String, Fault> {
    let name = value.text(EXPECTED)?;
    let begins = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    let inner = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if begins && inner && name.len() <= 63 {
        Ok(name.to_owned())
    } else {
        Err(value.refuse(EXPECTED))
    }
}
