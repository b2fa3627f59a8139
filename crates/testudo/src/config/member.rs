//! `[[member]]`: the nodes of the cluster, in the order that gives them their numbers.

use std::net::SocketAddr;

use testudo_packet::bucket::NodeId;

use super::document::{Section, Value};
use super::error::Fault;
use super::{names, prefix};

/// The keys of the section.
pub(super) const KEYS: &[&str] = &["name", "sync", "weight", "witness"];

/// The most nodes of a cluster: [`NodeId::NONE`] is no node, and neither is the number before it,
/// so that a count of members fits a byte with room to spare.
pub const MAX_MEMBERS: usize = NodeId::NONE.0 as usize - 1;

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name. Required; no two members share one.
    pub name: String,
    /// Where it hears its peers: TCP for entries, UDP for heartbeats. Required; an address of the
    /// node's own, not one of the cluster's; no two members share one.
    pub sync: SocketAddr,
    /// Its share of the buckets, in proportion to the weights of the others: from 1 to 1,000, by
    /// default 100. Recommended: in proportion to what the machines can carry.
    pub weight: u16,
    /// Whether it votes and owns nothing; by default not. Not every member may be one. Recommended
    /// for a third machine beside a cluster of two, which then survives the death of either.
    pub witness: bool,
}

/// The weight of a member whose section does not say one.
pub const DEFAULT_WEIGHT: u16 = 100;

/// Reads and checks all sections.
pub(super) fn read(file: &Section<'_>, sections: &[Section<'_>]) -> Result<Vec<Member>, Fault> {
    let expected = format!("1 to {MAX_MEMBERS} sections [[member]]");
    if sections.is_empty() {
        return Err(file.refuse("has no [[member]]", expected));
    }
    let mut members: Vec<Member> = Vec::new();
    for section in sections {
        if members.len() == MAX_MEMBERS {
            return Err(section.refuse(format!("number {}", MAX_MEMBERS + 1), expected));
        }
        section.only(KEYS)?;
        let member = Member {
            name: name(&section.required("name", names::EXPECTED)?, &members)?,
            sync: sync(&section.required("sync", SYNC)?, &members)?,
            weight: section.number("weight", 1..=1000, DEFAULT_WEIGHT.into())? as u16,
            witness: section.value("witness").map_or(Ok(false), |value| value.truth())?,
        };
        members.push(member);
    }
    if members.iter().all(|member| member.witness)
        && let Some(witness) = sections.last().and_then(|section| section.value("witness"))
    {
        let why = "as that of all others, and nobody handles packets";
        return Err(witness.refuse_because(why, "a member that is no witness"));
    }
    Ok(members)
}

fn name(value: &Value<'_>, before: &[Member]) -> Result<String, Fault> {
    let name = names::read(value)?;
    match before.iter().position(|member| member.name == name) {
        None => Ok(name),
        Some(at) => {
            let why = format!("as that of [[member]] number {}", at + 1);
            Err(value.refuse_because(&why, "a name of its own"))
        }
    }
}

const SYNC: &str = r#"an address and a port such as "10.99.0.1:7400" or "[fd99::1]:7400""#;

fn sync(value: &Value<'_>, before: &[Member]) -> Result<SocketAddr, Fault> {
    let sync: SocketAddr = value.text(SYNC)?.parse().map_err(|_| value.refuse(SYNC))?;
    let loopback = sync.ip().is_loopback();
    if sync.port() == 0 || !(prefix::is_station(sync.ip()) || loopback) {
        return Err(value.refuse_because("which no peer can reach", SYNC));
    }
    if let Some(other) = before.iter().find(|member| member.sync == sync) {
        let why = format!("as that of {}", other.name);
        return Err(value.refuse_because(&why, "an address and port of its own"));
    }
    if let Some(other) = before.iter().find(|member| member.sync.is_ipv4() != sync.is_ipv4()) {
        let why = format!("but that of {} is {}", other.name, other.sync);
        return Err(value.refuse_because(&why, "addresses of one family for all members"));
    }
    Ok(sync)
}
