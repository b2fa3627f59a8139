//! What all nodes of a cluster have agreed on before they start.
//!
//! [`Cluster::new`] checks [`Settings`] once; what it returns is valid and shared by all state
//! machines of a node. The part that must be the same everywhere (names, buckets, times) has a
//! fingerprint that every message between nodes is bound to: two nodes that differ in it reject each
//! other's messages, instead of agreeing on who may fence whom after different times.
//!
//! Invariant: `takeover ≥ lease + margin(lease)`. It is what keeps two nodes from owning one bucket.

use crate::keys::Keys;
use crate::map::Map;
use crate::node_set::NodeSet;
use std::time::Duration;
use testudo_packet::bucket::{MAX_BUCKETS, NodeId};

mod replicas;
mod timing;

pub use replicas::{LEAST_RANKS, MAX_REPLICAS, Replicas};
pub use timing::{MAX_PAUSE, Timing};

/// What a node is told of its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The cluster's name.
    pub name: String,
    /// What every member knows and no stranger.
    pub secret: [u8; 16],
    /// The names of all nodes, in the same order on all of them.
    pub members: Vec<String>,
    /// What each of them can carry, relative to the others; as many as members.
    pub weights: Vec<u32>,
    /// Those that vote and own nothing.
    pub witnesses: NodeSet,
    /// Dead voters are removed while more than so many are left. With 1, the last two leave the say
    /// to the first of them.
    pub min_voters: usize,
    /// Which of them this node is.
    pub node: NodeId,
    /// The number of buckets, a power of two.
    pub buckets: u32,
    /// Who keeps copies of a bucket's flows.
    pub replicas: Replicas,
    /// Times.
    pub timing: Timing,
    /// How many flows the common table can hold.
    pub max_flows: usize,
    /// What else the driver wants all nodes to agree on, in any spelling: how packets reach the nodes,
    /// who puts commands in order. Nothing here reads it.
    pub label: String,
}

/// Settings that no cluster can run with. The operator's to correct; nothing has been touched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Too few or too many members.
    #[error("{seen} members; expected 1 to {MAX_NODES}")]
    MemberCount {
        /// The number given.
        seen: usize,
    },
    /// A name is used twice.
    #[error("two members are named \"{name}\"; expected a name of its own for each")]
    DuplicateMember {
        /// The name.
        name: String,
    },
    /// A name that does not fit.
    #[error("the name \"{name}\" has {} bytes; expected 1 to {MAX_NAME}", name.len())]
    Name {
        /// The name.
        name: String,
    },
    /// This node is none of the members.
    #[error("this node is number {} of {members} members; expected a number below that", node.0)]
    NotAMember {
        /// The number given.
        node: NodeId,
        /// The number of members.
        members: usize,
    },
    /// Not a weight for each member, or one that is no weight.
    #[error("weights {seen:?} for {members} members; expected one of 1 to {MAX_WEIGHT} for each")]
    Weights {
        /// The weights given.
        seen: Vec<u32>,
        /// The number of members.
        members: usize,
    },
    /// Witnesses that are no members, or nobody else.
    #[error(
        "{witnesses} witnesses among {members} members; expected members, and one that is none"
    )]
    Witnesses {
        /// How many were given.
        witnesses: usize,
        /// The number of members.
        members: usize,
    },
    /// Too few or too many voters are to be left.
    #[error("min_voters is {seen}; expected 1 to {members}, the number of members")]
    MinVoters {
        /// The number given.
        seen: usize,
        /// The number of members.
        members: usize,
    },
    /// An impossible number of buckets.
    #[error("{seen} buckets; expected a power of two from 2 to {MAX_BUCKETS}")]
    Buckets {
        /// The number given.
        seen: u32,
    },
    /// More copies than lists can name.
    #[error(
        "replicas is {seen}; expected all, or 1 to {most} with {buckets} buckets: a longer map is \
         more than a node is sent at once"
    )]
    Replicas {
        /// The number given.
        seen: u8,
        /// The most.
        most: u8,
        /// The number of buckets.
        buckets: u32,
    },
    /// A time below its least value.
    #[error("{what} is {seen:?}; expected at least {least:?}")]
    TooShort {
        /// Which time.
        what: &'static str,
        /// The time given.
        seen: Duration,
        /// The least that works with the other times.
        least: Duration,
    },
    /// A time that is more likely a slip of the pen.
    #[error("a wait of {seen:?}; expected at most {most:?}")]
    TooLong {
        /// The time given.
        seen: Duration,
        /// The most.
        most: Duration,
    },
    /// Successors would act before the owner has stopped.
    #[error(
        "takeover is {takeover:?} with a lease of {lease:?}; expected at least {least:?}, or two \
         nodes could own one bucket"
    )]
    TakeoverBeforeLease {
        /// The wait given.
        takeover: Duration,
        /// The lease given.
        lease: Duration,
        /// The shortest wait that is safe with this lease.
        least: Duration,
    },
    /// A table that can hold nothing, or more than its 32-bit slot numbers.
    #[error("room for {seen} flows; expected 1 to {MAX_FLOWS}")]
    Flows {
        /// The number given.
        seen: usize,
    },
}

/// The longest name of a cluster or a node, in bytes.
pub const MAX_NAME: usize = 64;

/// The most that a member can weigh.
pub const MAX_WEIGHT: u32 = 1000;

/// The largest number of nodes of a cluster: two numbers of a byte are taken, one of them by
/// [`NodeId::NONE`].
pub const MAX_NODES: usize = 254;

/// How many members vote at most: more make each heartbeat round longer and the cluster no safer.
pub const MAX_VOTERS: usize = 7;

/// The most flows that a common table can be asked to hold.
pub const MAX_FLOWS: usize = 1 << 30;

/// A cluster as one of its nodes knows it: checked settings and what follows from them.
#[derive(Debug)]
pub struct Cluster {
    settings: Settings,
    keys: Keys,
    fingerprint: u64,
}

impl Cluster {
    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// The first setting that does not work.
    pub fn new(settings: Settings) -> Result<Self, ConfigError> {
        settings.timing.check()?;
        Self::with_any_timing(settings)
    }

    /// As [`Cluster::new`], for settings whose times are *not* checked: with a takeover wait below
    /// the lease, two nodes can own one bucket. For showing that a checker notices.
    ///
    /// # Errors
    ///
    /// The first other setting that does not work.
    #[doc(hidden)]
    pub fn with_any_timing(settings: Settings) -> Result<Self, ConfigError> {
        let members = settings.members.len();
        if !(1..=MAX_NODES).contains(&members) {
            return Err(ConfigError::MemberCount { seen: members });
        }
        for (index, name) in settings.members.iter().enumerate() {
            if settings.members[..index].contains(name) {
                return Err(ConfigError::DuplicateMember { name: name.clone() });
            }
        }
        let names = settings.members.iter().chain([&settings.name]);
        if let Some(name) = names.into_iter().find(|name| !(1..=MAX_NAME).contains(&name.len())) {
            return Err(ConfigError::Name { name: name.clone() });
        }
        if usize::from(settings.node.0) >= members {
            return Err(ConfigError::NotAMember { node: settings.node, members });
        }
        check_votes(&settings)?;
        let seen = settings.buckets;
        if !seen.is_power_of_two() || !(2..=MAX_BUCKETS).contains(&seen) {
            return Err(ConfigError::Buckets { seen });
        }
        settings.replicas.check(seen)?;
        if !(1..=MAX_FLOWS).contains(&settings.max_flows) {
            return Err(ConfigError::Flows { seen: settings.max_flows });
        }
        let keys = Keys::new(&settings.secret);
        let fingerprint = fingerprint(&settings, &keys);
        Ok(Self { settings, keys, fingerprint })
    }

    /// The cluster's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// The names of all nodes, in the order of their numbers.
    #[must_use]
    pub fn members(&self) -> &[String] {
        &self.settings.members
    }

    /// The name of a node; empty if there is none of that number.
    #[must_use]
    pub fn member(&self, node: NodeId) -> &str {
        self.settings.members.get(usize::from(node.0)).map_or("", String::as_str)
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.settings.node
    }

    /// All nodes, this one included.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.settings.members.len()).map(|node| NodeId(node as u8))
    }

    /// All nodes but this one.
    pub fn peers(&self) -> impl Iterator<Item = NodeId> + use<> {
        let me = self.node();
        self.nodes().filter(move |&node| node != me)
    }

    /// Whether a node votes and owns nothing.
    #[must_use]
    pub fn is_witness(&self, node: NodeId) -> bool {
        self.settings.witnesses.contains(node)
    }

    /// What a node can carry, relative to the others.
    #[must_use]
    pub fn weight(&self, node: NodeId) -> u32 {
        self.settings.weights.get(usize::from(node.0)).copied().unwrap_or(0)
    }

    /// How many voters are left at least.
    #[must_use]
    pub fn min_voters(&self) -> usize {
        self.settings.min_voters
    }

    /// Who votes before anything has been agreed on: witnesses, then the first members, at most
    /// [`MAX_VOTERS`]. Of two members that may become one, only the first: it is preferred.
    #[must_use]
    pub fn first_voters(&self) -> NodeSet {
        let witnesses = self.nodes().filter(|&node| self.is_witness(node));
        let others = self.nodes().filter(|&node| !self.is_witness(node));
        let count = match (self.settings.members.len(), self.settings.min_voters) {
            (2, 1) => 1,
            _ => MAX_VOTERS,
        };
        witnesses.chain(others).take(count).collect()
    }

    /// The map that all begin with.
    #[must_use]
    pub fn first_map(&self) -> Map {
        Map::new(self.buckets(), self.settings.members.len(), self.first_voters())
    }

    /// The number of buckets.
    #[must_use]
    pub fn buckets(&self) -> u32 {
        self.settings.buckets
    }

    /// Who keeps copies of a bucket's flows.
    #[must_use]
    pub fn replicas(&self) -> Replicas {
        self.settings.replicas
    }

    /// Times.
    #[must_use]
    pub fn timing(&self) -> &Timing {
        &self.settings.timing
    }

    /// How many flows the common table can hold.
    #[must_use]
    pub fn max_flows(&self) -> usize {
        self.settings.max_flows
    }

    /// The keys derived from the secret.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Equal on nodes whose settings agree where they must.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}

fn check_votes(settings: &Settings) -> Result<(), ConfigError> {
    let members = settings.members.len();
    let seen = &settings.weights;
    if seen.len() != members || !seen.iter().all(|weight| (1..=MAX_WEIGHT).contains(weight)) {
        return Err(ConfigError::Weights { seen: seen.clone(), members });
    }
    let witnesses = settings.witnesses.len();
    let strangers = settings.witnesses.iter().any(|node| usize::from(node.0) >= members);
    if strangers || witnesses >= members {
        return Err(ConfigError::Witnesses { witnesses, members });
    }
    let seen = settings.min_voters;
    if (1..=members).contains(&seen) {
        Ok(())
    } else {
        Err(ConfigError::MinVoters { seen, members })
    }
}

/// Of what would let two nodes act on one bucket, or never act, if they differed in it. Weights and the
/// other times decide when and by whom something is proposed, and a proposal is agreed on by all.
fn fingerprint(settings: &Settings, keys: &Keys) -> u64 {
    let mut text = Vec::new();
    for name in [&settings.name].into_iter().chain(&settings.members) {
        // Names are at most MAX_NAME long, so one byte of length keeps the borders.
        text.push(name.len() as u8);
        text.extend_from_slice(name.as_bytes());
    }
    let Timing { lease, takeover, .. } = settings.timing;
    for time in [lease, takeover] {
        text.extend_from_slice(&time.as_nanos().to_le_bytes());
    }
    text.extend_from_slice(&settings.buckets.to_le_bytes());
    text.extend_from_slice(&(settings.min_voters as u64).to_le_bytes());
    settings.witnesses.encode(&mut text);
    text.extend_from_slice(settings.label.as_bytes());
    settings.replicas.mark(&mut text);
    let tag = keys.configuration.tag(&[&text]);
    u64::from_le_bytes(*tag.first_chunk().expect("a tag has 16 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            name: "lab".into(),
            secret: [7; 16],
            members: ["n1", "n2", "n3"].map(String::from).into(),
            weights: vec![100; 3],
            witnesses: NodeSet::default(),
            min_voters: 2,
            node: NodeId(1),
            buckets: 256,
            replicas: Replicas::All,
            timing: Timing::default(),
            max_flows: 1000,
            label: "shared".into(),
        }
    }

    fn error(change: impl FnOnce(&mut Settings)) -> String {
        let mut settings = settings();
        change(&mut settings);
        Cluster::new(settings).expect_err("bad settings").to_string()
    }

    #[test]
    fn a_wait_as_short_as_the_lease_is_refused() {
        assert_eq!(
            error(|s| s.timing.takeover = s.timing.lease),
            "takeover is 200ms with a lease of 200ms; expected at least 212ms, or two nodes could \
             own one bucket"
        );
    }

    #[test]
    fn every_bad_setting_says_what_was_expected() {
        let ms = Duration::from_millis;
        assert!(error(|s| s.members.clear()).starts_with("0 members; expected 1 to 254"));
        assert!(error(|s| s.members[1] = "n1".into()).contains("named \"n1\""));
        assert!(error(|s| s.members[1] = String::new()).contains("0 bytes"));
        assert!(error(|s| s.node = NodeId(3)).contains("number 3 of 3"));
        assert!(error(|s| s.weights[1] = 0).contains("expected one of 1 to 1000 for each"));
        assert!(error(|s| s.weights.truncate(2)).contains("for 3 members"));
        let everyone: NodeSet = [0, 1, 2].map(NodeId).into_iter().collect();
        assert!(error(|s| s.witnesses = everyone).contains("3 witnesses among 3"));
        assert!(error(|s| s.min_voters = 4).contains("min_voters is 4; expected 1 to 3"));
        assert!(error(|s| s.timing.removal = ms(10)).contains("removal is 10ms"));
        assert!(error(|s| s.timing.handover = ms(1)).contains("handover is 1ms"));
        assert!(error(|s| s.buckets = 100).contains("power of two"));
        assert!(error(|s| s.max_flows = 0).contains("0 flows"));
        assert!(error(|s| s.timing.heartbeat = ms(0)).contains("at least 1ms"));
        assert!(error(|s| s.timing.lease = ms(30)).contains("at least 60ms"));
        assert!(error(|s| s.timing.formation = ms(10)).contains("at least 260ms"));
        assert!(error(|s| s.timing.formation = ms(9_000_000)).contains("at most 3600s"));
    }

    #[test]
    fn fingerprints_tell_what_must_agree_from_what_need_not() {
        let print = |change: fn(&mut Settings)| {
            let mut settings = settings();
            change(&mut settings);
            Cluster::new(settings).unwrap().fingerprint()
        };
        let plain = print(|_| ());
        assert_eq!(print(|s| s.node = NodeId(2)), plain);
        assert_eq!(print(|s| s.max_flows = 5), plain);
        assert_eq!(print(|s| s.weights[0] = 50), plain);
        assert_eq!(print(|s| s.timing.removal *= 2), plain);
        assert_eq!(print(|s| s.timing.handover *= 2), plain);
        assert_eq!(print(|s| s.timing.overlap *= 2), plain);
        assert_eq!(print(|s| s.timing.formation *= 2), plain);
        assert_eq!(print(|s| s.timing.heartbeat /= 2), plain);
        assert_ne!(print(|s| s.label = "steered".into()), plain);
        assert_ne!(print(|s| s.timing.lease -= Duration::from_millis(10)), plain);
        assert_ne!(print(|s| s.min_voters = 1), plain);
        assert_ne!(print(|s| s.witnesses = [NodeId(0)].into_iter().collect()), plain);
        assert_ne!(print(|s| s.name = "other".into()), plain);
        assert_ne!(print(|s| s.buckets = 512), plain);
        let [one, two] = [1, 2].map(|k| {
            let settings = Settings { replicas: Replicas::Successors(k), ..settings() };
            Cluster::new(settings).unwrap().fingerprint()
        });
        assert!(one != plain && two != plain && one != two);
        assert_ne!(print(|s| s.members.swap(0, 1)), plain);
        assert_ne!(print(|s| s.timing.takeover *= 2), plain);
        assert_ne!(print(|s| s.secret = [8; 16]), plain);
    }

    #[test]
    fn the_first_voters_are_few_and_witnesses_come_first() {
        let voters = |nodes: u8, witnesses: &[u8], min_voters| -> Vec<u8> {
            let mut settings = settings();
            settings.members = (0..nodes).map(|n| n.to_string()).collect();
            settings.weights = vec![100; usize::from(nodes)];
            settings.witnesses = witnesses.iter().map(|&n| NodeId(n)).collect();
            settings.min_voters = min_voters;
            settings.node = NodeId(0);
            let cluster = Cluster::new(settings).unwrap();
            cluster.first_voters().iter().map(|node| node.0).collect()
        };
        assert_eq!(voters(3, &[], 2), [0, 1, 2]);
        assert_eq!(voters(10, &[9], 2), [0, 1, 2, 3, 4, 5, 9]);
        assert_eq!(voters(2, &[], 1), [0]);
        assert_eq!(voters(2, &[], 2), [0, 1]);
    }
}
