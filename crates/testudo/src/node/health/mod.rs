//! What a node lives by: its links, whom it has to reach, its own load, its peers, its coordinator.
//!
//! Each is an [`Item`] with a name, a state and a reason in words. A node is *fit* while no item is bad;
//! one that is not fit should give its buckets away. [`judge`] turns what is found into states,
//! [`pinger`] and [`overload`] decide what is found, all without I/O; [`links`], [`echo`] and
//! [`machine`] look and send, and the [`watcher`] thread drives them all.
//!
//! Invariant: bad at once, good only after a rest. An item that was bad is good again when nothing was
//! wrong with it for a whole recovery time, so fitness changes at most twice in that time, however a
//! link flaps. The opposite (good at once, bad after a while) would keep a dead link in use.
//!
//! Limits: what is found is what the node itself sees. Whether a link that is up leads anywhere only a
//! probe can tell.

pub mod echo;
pub mod judge;
pub mod links;
pub mod machine;
pub mod overload;
pub mod pinger;
pub mod watcher;

use std::fmt;
use std::net::IpAddr;

use testudo_packet::bucket::Nanos;

pub use watcher::{Handle, Parts, WatchError, Watcher};

/// What an item is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// A configured interface.
    Link(String),
    /// Somebody to be reached, and by which interface, if that is given.
    Probe(IpAddr, Option<String>),
    /// The node's own load.
    Overload,
    /// The exchange of entries with the peers.
    Sync,
    /// The agreement with the peers.
    Coordinator,
    /// What the node proves who it is by.
    Certificate,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(name) => write!(f, "link {name}"),
            Self::Probe(target, None) => write!(f, "probe {target}"),
            Self::Probe(target, Some(interface)) => write!(f, "probe {target}%{interface}"),
            Self::Overload => f.write_str("overload"),
            Self::Sync => f.write_str("sync"),
            Self::Coordinator => f.write_str("coordinator"),
            Self::Certificate => f.write_str("certificate"),
        }
    }
}

/// How an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// As it should be.
    Good,
    /// As it should be for now; an operator is to look at it.
    Warning,
    /// A reason to give buckets away.
    Bad,
    /// Nothing is known yet.
    Unknown,
}

/// One thing that a node lives by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What it is about.
    pub name: Name,
    /// How it is.
    pub state: State,
    /// Why, in words.
    pub reason: String,
    /// Since when it is so, not counting changes of the reason.
    pub since: Nanos,
}

/// What was found of an item, with a reason in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Nothing is wrong.
    Well(String),
    /// Something will be, unless somebody does something.
    Doubtful(String),
    /// Something is.
    Wrong(String),
}

/// All items at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Whether no item is bad.
    pub fit: bool,
    /// Each by its name, in a fixed order.
    pub items: Vec<Item>,
}
