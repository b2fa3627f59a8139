//! `[node]`: what is this node's own.

use std::path::{Path, PathBuf};

use super::document::{Section, Value};
use super::error::Fault;
use super::names;

/// The keys of the section.
pub(super) const KEYS: &[&str] = &["name", "control", "table_entries"];

/// The directory that control sockets are in unless a file says otherwise.
pub const CONTROL_DIRECTORY: &str = "/run/testudo";

/// What is this node's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Which of the members this node is. Required.
    pub name: String,
    /// The Unix socket that the node answers on: an absolute path of at most 107 bytes; by default
    /// `/run/testudo/NAME.sock`.
    pub control: PathBuf,
    /// The slots of the node table: a power of two from 1,024 to 2²⁶ (67,108,864); by default
    /// 262,144. It is locked in kernel memory. Recommended: four times the flows that the whole
    /// cluster has at its busiest, divided by its nodes less one.
    pub table_entries: u32,
}

/// Reads and checks the section.
pub(super) fn read(section: &Section<'_>) -> Result<Node, Fault> {
    section.only(KEYS)?;
    let name = names::read(&section.required("name", names::EXPECTED)?)?;
    let control = match section.value("control") {
        Some(value) => control(&value)?,
        None => Path::new(CONTROL_DIRECTORY).join(format!("{name}.sock")),
    };
    let table_entries = section.value("table_entries").map_or(Ok(1 << 18), |v| entries(&v))?;
    Ok(Node { name, control, table_entries })
}

fn control(value: &Value<'_>) -> Result<PathBuf, Fault> {
    // The kernel's `sun_path` has 108 bytes, the last of them NUL.
    let expected = "an absolute path of at most 107 bytes";
    let path = value.text(expected)?;
    let fits = path.starts_with('/') && !path.ends_with('/') && path.len() <= 107;
    if fits && !path.contains('\0') { Ok(path.into()) } else { Err(value.refuse(expected)) }
}

fn entries(value: &Value<'_>) -> Result<u32, Fault> {
    let expected = "a power of two from 1024 to 67108864";
    let entries = value.integer(1 << 10..=1 << 26, expected)?;
    if entries.is_power_of_two() { Ok(entries) } else { Err(value.refuse(expected)) }
}
