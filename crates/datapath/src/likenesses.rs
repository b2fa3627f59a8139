//! Which endpoints of a cluster are placed alike, and how user space places packets by that.
//!
//! What a likeness is, and why there are any, stands in [`testudo_packet::likeness`]. Endpoints that belong together
//! are given in groups; groups that share an endpoint are one. Prefixes that are translated into each other are
//! alike address by address.
//!
//! Invariant: the order of groups and of endpoints within them means nothing, so files that say the same are the
//! same ([`Likenesses::digest`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use testudo_packet::bucket::BucketId;
use testudo_packet::flow::{Address, Endpoint, FlowKey};
use testudo_packet::likeness::{LIKENESS_WORDS, Likeness};
use testudo_packet::placement::{Identifiers, PacketType, Placement, Placer};
use testudo_packet::siphash::{HashKey, hash18};

use crate::mapping::{Kind, Mapping};

/// The most endpoints that others stand in for.
pub const MAX_ENDPOINTS: usize = 4096;

/// The most prefixes that are placed as others.
pub const MAX_PREFIXES: usize = 128;

/// A prefix of 128-bit addresses.
pub(crate) type Prefix = (Address, u8);

/// All of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Likenesses {
    endpoints: BTreeMap<Endpoint, Likeness>,
    /// The longest ones first.
    prefixes: Vec<(Prefix, Likeness)>,
}

impl Likenesses {
    /// Of groups of endpoints, each of which is one to placement, and of prefixes.
    #[must_use]
    pub fn new(groups: &[Vec<Endpoint>], mappings: &[Mapping]) -> Self {
        let mut endpoints = BTreeMap::new();
        for group in joined(groups) {
            let mut all = group.into_iter();
            let Some(first) = all.next() else { continue };
            endpoints.extend(all.map(|endpoint| (endpoint, Likeness::to(first))));
        }
        let mut prefixes = BTreeSet::new();
        for mapping in mappings {
            let likeness = mapping.likeness();
            prefixes.insert(((mapping.outside, mapping.length), likeness));
            if mapping.kind == Kind::Neutral {
                prefixes.insert(((mapping.inside, mapping.length), likeness));
            }
        }
        let mut prefixes = Vec::from_iter(prefixes);
        prefixes.sort_by_key(|((_, length), _)| std::cmp::Reverse(*length));
        Self { endpoints, prefixes }
    }

    /// What an endpoint is placed as, if not as itself.
    #[must_use]
    pub fn stand_in(&self, endpoint: Endpoint) -> Option<Endpoint> {
        let of_prefix = || {
            let mut prefixes = self.prefixes.iter();
            let found = prefixes.find(|((prefix, length), _)| {
                let differs = prefix.to_bits() ^ endpoint.address.to_bits();
                differs.leading_zeros() >= u32::from(*length)
            });
            found.map(|(_, likeness)| *likeness)
        };
        let likeness = self.endpoints.get(&endpoint).copied().or_else(of_prefix)?;
        Some(Likeness::stand_in(&likeness.to_words(), endpoint))
    }

    /// Endpoints with what is like them, as the kernel's map has them.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = ([u64; 3], [u64; LIKENESS_WORDS])> {
        self.endpoints.iter().map(|(Endpoint { address, port }, likeness)| {
            ([address.high, address.low, u64::from(*port)], likeness.to_words())
        })
    }

    /// Prefixes with what is like them.
    pub(crate) fn prefixes(&self) -> impl Iterator<Item = (Prefix, [u64; LIKENESS_WORDS])> {
        self.prefixes.iter().map(|(prefix, likeness)| (*prefix, likeness.to_words()))
    }

    /// Whether there are endpoints, and prefixes, as bits 0 and 1.
    pub(crate) fn kinds(&self) -> u64 {
        u64::from(!self.endpoints.is_empty()) | u64::from(!self.prefixes.is_empty()) << 1
    }

    /// Whether every endpoint is placed as itself.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kinds() == 0
    }

    /// A number that differs where placement does; 0 if every endpoint is placed as itself.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let endpoints = self.endpoints().flat_map(|(key, words)| key.into_iter().chain(words));
        let prefixes = self.prefixes().flat_map(|((prefix, length), words)| {
            [prefix.high, prefix.low, length.into()].into_iter().chain(words)
        });
        let words = endpoints.chain(prefixes);
        words.fold(0, |sum, word| hash18(HashKey::default(), sum, word, 1))
    }
}

/// Groups of which no two share an endpoint.
fn joined(groups: &[Vec<Endpoint>]) -> Vec<BTreeSet<Endpoint>> {
    let mut joined: Vec<BTreeSet<Endpoint>> = Vec::new();
    for group in groups {
        let mut group = BTreeSet::from_iter(group.iter().copied());
        joined.retain(|other| {
            let apart = group.is_disjoint(other);
            if !apart {
                group.extend(other);
            }
            apart
        });
        joined.push(group);
    }
    joined
}

/// How a cluster places packets, whole.
#[derive(Clone, Debug)]
pub struct Placing {
    /// By which hash, secret and grounds.
    pub placer: Placer,
    /// What is placed as something else.
    pub likenesses: Arc<Likenesses>,
}

impl Placing {
    /// One in which every endpoint is placed as itself.
    #[must_use]
    pub fn plain(placer: Placer) -> Self {
        Self { placer, likenesses: Arc::default() }
    }

    /// The class of an endpoint, before it is cut to size.
    pub(crate) fn whole_class(&self, endpoint: Endpoint) -> u64 {
        self.placer.class(self.likenesses.stand_in(endpoint).unwrap_or(endpoint))
    }

    /// The class of an endpoint, cut to size.
    #[must_use]
    pub fn class(&self, endpoint: Endpoint) -> u16 {
        self.whole_class(endpoint) as u16 & self.placer.bucket_mask
    }

    /// Where a packet of this flow and type belongs.
    #[must_use]
    pub fn place(&self, key: &FlowKey, packet_type: PacketType, ids: Identifiers) -> Placement {
        self.placer.place(key, packet_type, ids, Some(|end| self.whole_class(end)))
    }

    /// The bucket of a flow whose endpoints alone tell it.
    #[must_use]
    pub fn bucket(&self, key: &FlowKey) -> BucketId {
        self.place(key, PacketType::of(key.protocol), Identifiers::default()).bucket
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn end(text: &str, port: u16) -> Endpoint {
        Endpoint { address: text.parse::<IpAddr>().expect("an address").into(), port }
    }

    #[test]
    fn groups_with_a_common_endpoint_are_one_and_their_order_means_nothing() {
        let (web, alt) = (end("192.0.2.1", 443), end("192.0.2.1", 8443));
        let (one, two, mail) = (end("10.0.0.1", 443), end("10.0.0.2", 443), end("10.0.0.3", 25));
        let groups = [vec![web, one], vec![mail], vec![alt, two], vec![two, one]];
        let all = Likenesses::new(&groups, &[]);
        let stands_in = all.stand_in(web).expect("the first of the group");
        assert_eq!(stands_in, one);
        for other in [alt, two] {
            assert_eq!(all.stand_in(other), Some(stands_in));
        }
        for itself in [one, mail, end("192.0.2.1", 80)] {
            assert_eq!(all.stand_in(itself), None);
        }
        let again = Likenesses::new(&[vec![two, alt], vec![one, two], vec![one, web]], &[]);
        assert_eq!((&again, again.digest()), (&all, all.digest()));
        assert_ne!(Likenesses::new(&groups[..1], &[]).digest(), all.digest());
        assert_eq!(Likenesses::new(&[vec![mail]], &[]).digest(), Likenesses::default().digest());
    }

    #[test]
    fn the_longest_prefix_counts_and_an_endpoint_before_any() {
        let mapping = |inside: &str, outside: &str, length: u8| Mapping {
            inside: end(inside, 0).address,
            outside: end(outside, 0).address,
            length: 96 + length,
            kind: Kind::Plain,
        };
        let mappings = [mapping("10.1.0.0", "192.0.2.0", 24), mapping("10.9.9.9", "192.0.2.7", 32)];
        let service = end("192.0.2.8", 80);
        let all = Likenesses::new(&[vec![service, end("10.0.0.1", 80)]], &mappings);
        assert_eq!(all.stand_in(end("192.0.2.6", 5)), Some(end("10.1.0.6", 5)));
        assert_eq!(all.stand_in(end("192.0.2.7", 5)), Some(end("10.9.9.9", 5)));
        assert_eq!(all.stand_in(service), Some(end("10.0.0.1", 80)));
        assert_eq!(all.stand_in(end("10.1.0.6", 5)), None);
        assert_eq!(all.kinds(), 3);
    }
}
