//! `[node]`: what is this node's own.

use std::path::{Path, PathBuf};

use super::cluster::{Cluster, Mode};
use super::document::{Section, Value};
use super::error::Fault;
use super::{interface, names};

/// The keys of the section.
pub(super) const KEYS: &[&str] =
    &["name", "control", "table_entries", "state", "tap", "pins", "rules", "tcp_window"];

/// The key of the file of rules.
pub(super) const RULES: &str = "rules";

/// The section within this one.
pub(super) const TLS: &str = "tls";

/// The directory that control sockets are in unless a file says otherwise.
pub const CONTROL_DIRECTORY: &str = "/run/testudo";

/// The directory that nodes keep their logs below unless a file says otherwise.
const PINS_DIRECTORY: &str = "/sys/fs/bpf/testudo";
pub const STATE_DIRECTORY: &str = "/var/lib/testudo";

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
    /// The directory of the coordinator's log: an absolute path; by default
    /// `/var/lib/testudo/CLUSTER/NAME`. With the embedded coordinator it has to last as long as the
    /// node is a member: a voter that forgets may vote twice.
    pub state: PathBuf,
    /// The interface that the packets of owned buckets go out by, to an analyser. Required in `tap`
    /// mode, unless this node is a witness, and refused in others; none of the [`Interface`]s.
    ///
    /// [`Interface`]: super::interface::Interface
    pub tap: Option<String>,
    /// The directory of a BPF file system in which the programs on the interfaces have names, so that
    /// they outlive a daemon that is killed, and drop what is the cluster's until it is there again. An
    /// absolute path; in `steered` mode by default `/sys/fs/bpf/testudo/CLUSTER/NAME`, for there the
    /// machine would forward packets itself. In the other modes nobody else takes them, and the default
    /// is none.
    pub pins: Option<PathBuf>,
    /// The file of the rules: an absolute path; by default none, and the sections `[[rule]]` are the rules.
    pub rules: Option<PathBuf>,
    /// Whether segments of TCP that can't be of their connection are dropped: `"strict"` (so by default), or
    /// `"liberal"`.
    pub strict_windows: bool,
}

/// Reads and checks the section.
pub(super) fn read(section: &Section<'_>, cluster: &Cluster) -> Result<Node, Fault> {
    section.only(&[KEYS, &[TLS]].concat())?;
    let name = names::read(&section.required("name", names::EXPECTED)?)?;
    let control = match section.value("control") {
        Some(value) => control(&value)?,
        None => Path::new(CONTROL_DIRECTORY).join(format!("{name}.sock")),
    };
    let table_entries = section.value("table_entries").map_or(Ok(1 << 18), |v| entries(&v))?;
    let state = match section.value("state") {
        Some(value) => value.absolute_path()?,
        None => Path::new(STATE_DIRECTORY).join(&cluster.name).join(&name),
    };
    let pins = match section.value("pins") {
        Some(value) => Some(value.absolute_path()?),
        None if cluster.mode == Mode::Steered => {
            Some(Path::new(PINS_DIRECTORY).join(&cluster.name).join(&name))
        }
        None => None,
    };
    let tap = tap(section, cluster.mode)?;
    let rules = section.value(RULES).map(|value| value.absolute_path()).transpose()?;
    let strict_windows = section.value("tcp_window").map_or(Ok(true), |v| strictness(&v))?;
    Ok(Node { name, control, table_entries, state, tap, pins, rules, strict_windows })
}

fn strictness(value: &Value<'_>) -> Result<bool, Fault> {
    let expected = "\"strict\" or \"liberal\"";
    match value.text(expected)? {
        "strict" => Ok(true),
        "liberal" => Ok(false),
        _ => Err(value.refuse(expected)),
    }
}

/// Whether it is missing is not known here: a witness needs none.
fn tap(section: &Section<'_>, mode: Mode) -> Result<Option<String>, Fault> {
    let Some(value) = section.value("tap") else { return Ok(None) };
    if mode != Mode::Tap {
        let why = format!("which mode {} has no use for", mode.name());
        return Err(value.refuse_because(&why, "no tap, or mode = \"tap\""));
    }
    interface::device(&value).map(Some)
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
