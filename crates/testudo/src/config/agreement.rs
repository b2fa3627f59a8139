//! `[cluster]`, how the nodes agree: by which coordinator, for whom they wait and how long, and when
//! buckets move to even out load.
//!
//! Invariant: the section is the same in every node's file, so all that is checked here is checked
//! alike on all nodes.

use std::time::Duration;

use testudo_cluster::config::{Replicas, Timing};

use super::cluster::{Cluster, at_least};
use super::document::Section;
use super::error::Fault;
use super::etcd::{self, Etcd};
use super::member::Member;

/// How the nodes agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// Who puts the changes of the bucket map in order. By default `static` for a cluster of one
    /// member, and `embedded` for all others.
    pub coordinator: Coordinator,
    /// `min_voters`: how few voters there may be left when dead ones are removed: from 1 to the
    /// number of members; by default 2, or 1 in a cluster of one.
    ///
    /// Voters that stay dead are removed by agreement while more than this many remain, so that a
    /// majority of the rest is a majority again. With 2, when one of the last two dies everything
    /// stops, safely. With 1, of the last two only the first listed votes, the preference: the
    /// cluster survives the death of the other, but not of the preferred one. Recommended: 2, and a
    /// witness in a cluster of two.
    pub min_voters: u8,
    /// `replicas`: who keeps a copy of a bucket's flows besides its owner: `"all"` other nodes, or the
    /// first so many of its successors, from 1 to 8 (fewer with more than 16,384 buckets); by default
    /// all. More than there are nodes means all that can own. Fewer copies cost the nodes less memory and
    /// the links less traffic, and that many deaths within the time in which a copy is made are survived.
    pub replicas: Replicas,
    /// `removal_ms`: how long a voter has to be dead before it is removed. In milliseconds from 10 to
    /// 3,600,000, at least the takeover; by default 3,000. Recommended more than a restart of the
    /// daemon takes.
    pub removal: Duration,
    /// `handover_ms`: how long a planned move may wait for the new owner before it is forced. In
    /// milliseconds from 10 to 60,000; by default 1,000.
    pub handover: Duration,
    /// `overlap_ms`: by how much two nodes may be apart in what they have seen of the packets that both
    /// get; a planned move waits for it twice, and no packet waits with it. In milliseconds from 0 to
    /// 1,000; by default 20. Of no effect in `steered` mode, in which each packet reaches one node.
    pub overlap: Duration,
    /// `comparison_ms`: how long it takes until each peer's copy of each bucket has been compared with
    /// its owner's. In milliseconds from 100 to 3,600,000; by default 10,000. Shorter finds a copy that
    /// differs sooner, and costs two short messages for each bucket and peer.
    pub comparison: Duration,
    /// `audit_ms`: how long it takes until each flow in the memory that packets are handled with has
    /// been compared with what the node has told of it. In milliseconds from 100 to 3,600,000; by
    /// default 60,000. When events of the kernel are lost, this is done at once in any case.
    pub audit: Duration,
    /// When buckets move to even out load.
    pub balance: Balance,
}

/// Who puts the changes of the bucket map in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Coordinator {
    /// Nobody: the only member decides.
    Static,
    /// The nodes themselves, by Raft.
    Embedded,
    /// An etcd cluster.
    Etcd(Etcd),
}

/// When buckets move to even out load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Balance {
    /// `balance_percent`: by how much the most loaded node may be above the mean, its weight taken
    /// into account, before buckets move. From 5 to 1,000; by default 20.
    pub percent: u32,
    /// `balance_moves_per_minute`: how many buckets move for that in a minute at most. From 0, which
    /// is never, to 6,000; by default 12.
    pub moves_per_minute: u32,
}

impl Default for Balance {
    fn default() -> Self {
        Self { percent: 20, moves_per_minute: 12 }
    }
}

/// Reads and checks this part of the section.
pub(super) fn read(
    section: &Section<'_>,
    cluster: &Cluster,
    members: &[Member],
) -> Result<Agreement, Fault> {
    let Timing { removal, handover, overlap, comparison, audit, .. } = Timing::default();
    let removal = section.milliseconds("removal_ms", 10..=3_600_000, removal)?;
    let takeover = ("takeover_ms", cluster.timing.takeover);
    at_least(section, ("removal_ms", removal), takeover, Duration::ZERO)?;
    let balance = Balance::default();
    Ok(Agreement {
        coordinator: coordinator(section, members)?,
        min_voters: min_voters(section, members)?,
        replicas: replicas(section, cluster)?,
        removal,
        handover: section.milliseconds("handover_ms", 10..=60_000, handover)?,
        overlap: section.milliseconds("overlap_ms", 0..=1000, overlap)?,
        comparison: section.milliseconds("comparison_ms", 100..=3_600_000, comparison)?,
        audit: section.milliseconds("audit_ms", 100..=3_600_000, audit)?,
        balance: Balance {
            percent: section.number("balance_percent", 5..=1000, balance.percent)?,
            moves_per_minute: section.number(
                "balance_moves_per_minute",
                0..=6000,
                balance.moves_per_minute,
            )?,
        },
    })
}

fn coordinator(section: &Section<'_>, members: &[Member]) -> Result<Coordinator, Fault> {
    let expected = r#""static", "embedded" or "etcd""#;
    let etcd = section.section("etcd", "[cluster.etcd]")?;
    let value = section.value("coordinator");
    let name = value.as_ref().map_or(Ok("by default"), |value| value.text(expected))?;
    if let Some(etcd) = etcd.as_ref().filter(|_| name != "etcd") {
        let seen = "beside another coordinator";
        return Err(etcd.refuse(seen, r#"coordinator = "etcd" in [cluster]"#));
    }
    let Some(value) = value else {
        let alone = members.len() == 1;
        return Ok(if alone { Coordinator::Static } else { Coordinator::Embedded });
    };
    match (name, etcd) {
        ("static", _) if members.len() > 1 => {
            let why = format!("but there are {} members, who have to agree", members.len());
            Err(value.refuse_because(&why, r#""embedded" or "etcd""#))
        }
        ("static", _) => Ok(Coordinator::Static),
        ("embedded", _) => Ok(Coordinator::Embedded),
        ("etcd", Some(etcd)) => etcd::read(&etcd).map(Coordinator::Etcd),
        ("etcd", None) => Err(value.refuse_because("without one", "a section [cluster.etcd]")),
        _ => Err(value.refuse(expected)),
    }
}

fn min_voters(section: &Section<'_>, members: &[Member]) -> Result<u8, Fault> {
    let most = members.len().min(usize::from(u8::MAX)) as u8;
    let Some(value) = section.value("min_voters") else { return Ok(most.min(2)) };
    let expected = format!("a number from 1 to {most}, the number of members");
    value.integer(1..=most.into(), &expected).map(|number| number as u8)
}

fn replicas(section: &Section<'_>, cluster: &Cluster) -> Result<Replicas, Fault> {
    let Some(value) = section.value("replicas") else { return Ok(Replicas::All) };
    let most = Replicas::most(cluster.buckets);
    let expected =
        format!("\"all\", or a number from 1 to {most} with {} buckets", cluster.buckets);
    if value.text(&expected).is_ok_and(|text| text == "all") {
        return Ok(Replicas::All);
    }
    value.integer(1..=most.into(), &expected).map(|count| Replicas::Successors(count as u8))
}
