//! Questions and answers about which flows may begin.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The rules in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// The node's name.
    pub node: String,
    /// The file that they are from; `null` if they are sections of the configuration.
    pub file: Option<PathBuf>,
    /// The lines, in their order.
    pub lines: Vec<RuleLine>,
    /// The sets with a name, in the order of their lines.
    #[serde(default)]
    pub sets: Vec<RuleSet>,
}

/// A set of prefixes of the rules in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleSet {
    /// Its name.
    pub name: String,
    /// The line of the file where it stands, from 1.
    pub line: u64,
    /// How many prefixes it lists.
    pub listed: u64,
    /// How many of them are within no other.
    pub prefixes: u64,
    /// The file that they are from; `null` if they stand in the rules.
    pub file: Option<PathBuf>,
}

/// A line of the rules in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleLine {
    /// The line of the file, or the place among the sections, from 1.
    pub line: u64,
    /// What flows that it has let in show as their rule.
    pub number: u16,
    /// With how many rules packets are compared for it.
    pub rules: u64,
    /// How many flows it has let in or refused since it came into force, or since the daemon has
    /// started. A line that stays when others are loaded goes on counting.
    pub flows: u64,
    /// What it says.
    pub text: String,
}

/// Rules that have come into force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// The node's name.
    pub node: String,
    /// How many lines there are.
    pub lines: u64,
    /// Of these, how many were in force before.
    pub kept: u64,
    /// With how many rules packets are compared.
    pub rules: u64,
    /// The file that the node reads when it starts, if that is another one; `null` if it is this.
    pub configured: Option<PathBuf>,
    /// Whether the node reads this file when it starts.
    pub lasting: bool,
}
