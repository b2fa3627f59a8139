//! `[cluster]`: what all nodes agree on.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use testudo_packet::bucket::MAX_BUCKETS;
use testudo_packet::env::Mac;

use super::document::{Section, Value};
use super::error::Fault;
use super::{mac, names, tls};

/// The keys of the section.
pub(super) const KEYS: &[&str] = &[
    "name",
    "secret",
    "buckets",
    "mode",
    "mac",
    "lease_ms",
    "takeover_ms",
    "heartbeat_ms",
    "formation_ms",
    "coordinator",
    "min_voters",
    "replicas",
    "removal_ms",
    "handover_ms",
    "overlap_ms",
    "comparison_ms",
    "audit_ms",
    "balance_percent",
    "balance_moves_per_minute",
    "tls",
];

/// The section within this one.
const ETCD: &str = "etcd";

/// What all nodes of a cluster agree on. A node with another secret is refused by its peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// The cluster's name, for people. Required.
    pub name: String,
    /// What packets are hashed with and what peers prove to each other. Required.
    pub secret: Secret,
    /// How many buckets packets are hashed to: a power of two from 2 to 65,536, by default 256.
    /// More buckets spread load more evenly and make takeovers and maps longer; 64 a node and more
    /// are enough. It can't change while the cluster runs.
    pub buckets: u32,
    /// How packets reach the cluster. By default `shared`.
    pub mode: Mode,
    /// The MAC address that all nodes answer with for the cluster's addresses: unicast, and best
    /// locally administered (`02:…`). Required in `shared` mode, possible in `steered` mode, refused
    /// in `tap` mode. Zero, to which nobody sends, if there is none.
    pub mac: Mac,
    /// `tls`: whether streams between nodes are encrypted and begin with certificates; `"on"` or
    /// `"off"`, by default on. Off, whoever can read the wire reads the flows of the cluster, and whoever
    /// can write to it can change them.
    pub tls: bool,
    /// The cluster's clockwork.
    pub timing: Timing,
}

/// How long nodes believe in themselves and in each other.
///
/// Invariant: `takeover ≥ lease + margin(lease)`, so that a silent node has certainly stopped when
/// another takes over; and `lease ≥ 3 · heartbeat`, so that the loss of one heartbeat ends nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// `heartbeat_ms`: how often a node tells the others that it lives. In milliseconds from 1 to
    /// 10,000, at most a third of the lease; by default 20, recommended a tenth of the lease.
    pub heartbeat: Duration,
    /// `lease_ms`: how long a node handles packets after it last heard from a majority. In
    /// milliseconds from 10 to 60,000; by default 200. Longer tolerates a busier network, shorter
    /// shortens a takeover.
    pub lease: Duration,
    /// `takeover_ms`: how long a peer has to be silent before its buckets are taken over. In
    /// milliseconds from 10 to 120,000, at least [`Timing::margin`] more than the lease; by default
    /// 260, recommended three heartbeats more than the lease.
    pub takeover: Duration,
    /// `formation_ms`: how long a cluster that starts waits for a node that has not shown itself
    /// before its buckets are taken. In milliseconds from 10 to 3,600,000, at least the takeover;
    /// by default 5,000, recommended what the slowest node takes to boot later than the first.
    pub formation: Duration,
}

impl Timing {
    /// The least time between the end of a lease and a takeover: the tick of the coarsest clock
    /// that the kernel checks leases by, and a hundredth for clocks that run apart.
    pub fn margin(lease: Duration) -> Duration {
        testudo_cluster::config::Timing::margin(lease)
    }
}

impl Default for Timing {
    fn default() -> Self {
        let testudo_cluster::config::Timing { heartbeat, lease, takeover, formation, .. } =
            testudo_cluster::config::Timing::default();
        Self { heartbeat, lease, takeover, formation }
    }
}

/// How packets reach the nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Every node sees every packet and handles those of its buckets.
    #[default]
    Shared,
    /// A router or switch picks a node by a hash of its own; a packet of another node's bucket is
    /// passed to that node once.
    Steered,
    /// Not inline: every node sees a copy of every packet and hands those of its buckets to an
    /// analyser.
    Tap,
}

impl Mode {
    /// The mode as it is written in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Steered => "steered",
            Self::Tap => "tap",
        }
    }
}

/// The cluster's secret. It is never shown, not even by `{:?}`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret([u8; 16]);

impl Secret {
    /// The secret itself.
    pub const fn bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Reads and checks the section.
pub(super) fn read(section: &Section<'_>) -> Result<Cluster, Fault> {
    section.only(&[KEYS, &[ETCD]].concat())?;
    let name = names::read(&section.required("name", names::EXPECTED)?)?;
    let secret = secret(&section.required("secret", SECRET)?)?;
    let buckets = section.value("buckets").map_or(Ok(256), |value| buckets(&value))?;
    let mode = section.value("mode").map_or(Ok(Mode::default()), |value| mode(&value))?;
    let mac = shared_mac(section, mode)?;
    let tls = tls::is_on(section)?;
    Ok(Cluster { name, secret, buckets, mode, mac, tls, timing: timing(section)? })
}

const SECRET: &str = "a string of 32 hexadecimal digits";

fn secret(value: &Value<'_>) -> Result<Secret, Fault> {
    let refused = |seen: String| value.refuse_as(format!("secret is {seen}"), SECRET);
    let text = value.text(SECRET).map_err(|_| refused(format!("of type {}", value.type_name())))?;
    let length = text.chars().count();
    if length != 32 {
        return Err(refused(format!("a string of {length} characters")));
    }
    if !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(refused("a string with other characters in it".to_owned()));
    }
    match u128::from_str_radix(text, 16) {
        Ok(0) => Err(refused("zero, which anybody guesses".to_owned())),
        Ok(number) => Ok(Secret(number.to_be_bytes())),
        Err(error) => Err(refused(error.to_string())),
    }
}

fn buckets(value: &Value<'_>) -> Result<u32, Fault> {
    let expected = "a power of two from 2 to 65536";
    let buckets = value.integer(2..=MAX_BUCKETS, expected)?;
    if buckets.is_power_of_two() { Ok(buckets) } else { Err(value.refuse(expected)) }
}

fn mode(value: &Value<'_>) -> Result<Mode, Fault> {
    let expected = r#""shared", "steered" or "tap""#;
    match value.text(expected)? {
        "shared" => Ok(Mode::Shared),
        "steered" => Ok(Mode::Steered),
        "tap" => Ok(Mode::Tap),
        _ => Err(value.refuse(expected)),
    }
}

const MAC: &str = r#"a unicast MAC address such as "02:74:65:73:00:01""#;

fn shared_mac(section: &Section<'_>, mode: Mode) -> Result<Mac, Fault> {
    match (mode, section.value("mac")) {
        (Mode::Shared, _) => mac(&section.required("mac", MAC)?),
        (Mode::Tap, Some(value)) => {
            Err(value.refuse_because("but in tap mode nobody answers", "no mac"))
        }
        (_, Some(value)) => mac(&value),
        (_, None) => Ok(Mac::default()),
    }
}

fn mac(value: &Value<'_>) -> Result<Mac, Fault> {
    let mac = mac::parse(value.text(MAC)?).ok_or_else(|| value.refuse(MAC))?;
    if mac::is_unicast(mac) {
        return Ok(mac);
    }
    Err(value.refuse_because("which no single station can have", MAC))
}

fn timing(section: &Section<'_>) -> Result<Timing, Fault> {
    let default = Timing::default();
    let timing = Timing {
        heartbeat: section.milliseconds("heartbeat_ms", 1..=10_000, default.heartbeat)?,
        lease: section.milliseconds("lease_ms", 10..=60_000, default.lease)?,
        takeover: section.milliseconds("takeover_ms", 10..=120_000, default.takeover)?,
        formation: section.milliseconds("formation_ms", 10..=3_600_000, default.formation)?,
    };
    let Timing { heartbeat, lease, takeover, formation } = timing;
    let longest = lease / 3;
    if heartbeat > longest {
        let bound = format!("at most {}", longest.as_millis());
        return Err(mismatch(section, ("heartbeat_ms", heartbeat), ("lease_ms", lease), &bound));
    }
    at_least(section, ("takeover_ms", takeover), ("lease_ms", lease), Timing::margin(lease))?;
    let formation = ("formation_ms", formation);
    at_least(section, formation, ("takeover_ms", takeover), Duration::ZERO)?;
    Ok(timing)
}

/// A key and what it is set to.
pub(super) type Setting = (&'static str, Duration);

/// Refuses a time that is not longer than another by a margin.
pub(super) fn at_least(
    section: &Section<'_>,
    time: Setting,
    other: Setting,
    margin: Duration,
) -> Result<(), Fault> {
    let least = other.1 + margin;
    if time.1 >= least {
        return Ok(());
    }
    let least = least.as_micros().div_ceil(1000);
    Err(mismatch(section, time, other, &format!("at least {least}")))
}

/// The refusal of a time that does not go with another. If the file leaves it to its default, it is
/// the other that stands in the file and is refused.
fn mismatch(section: &Section<'_>, time: Setting, other: Setting, bound: &str) -> Fault {
    let ((key, seen), (other_key, other_seen)) = (time, other);
    let (seen, other_seen) = (seen.as_millis(), other_seen.as_millis());
    let seen = format!("{key} is {seen} and {other_key} {other_seen}");
    let expected = format!("{key} of {bound}");
    match section.value(key).or(section.value(other_key)) {
        Some(value) => value.refuse_as(seen, expected),
        None => section.refuse(format!("says that {seen}"), expected),
    }
}
