//! `replicas`: which nodes keep a copy of a bucket's flows.
//!
//! Invariant: who keeps a bucket follows from the map and this setting alone, so nodes that go by one
//! version name the same keepers ([`crate::map::Map::keepers`]).
//!
//! Limits: lists of nodes are as long as the keepers need, and a map is sent whole to a node that is far
//! behind. So more buckets leave room for fewer copies: no map becomes longer than one of
//! [`MAX_BUCKETS`] buckets with lists of [`LEAST_RANKS`] nodes.

use std::fmt;

use testudo_packet::bucket::MAX_BUCKETS;

use super::ConfigError;

/// The most copies that can be asked for by number, with the fewest buckets.
pub const MAX_REPLICAS: u8 = 8;

/// How many nodes a list names, if there are so many and copies need no more: so many deaths in a row are
/// survived without a new plan.
pub const LEAST_RANKS: usize = 4;

/// Who keeps a copy of a bucket's flows, besides the owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replicas {
    /// All other nodes, witnesses included.
    #[default]
    All,
    /// The first so many successors in the bucket's list.
    Successors(u8),
}

impl Replicas {
    /// Whether some nodes do not keep some buckets.
    #[must_use]
    pub const fn is_limited(self) -> bool {
        matches!(self, Self::Successors(_))
    }

    /// How many nodes of a bucket's list keep its flows, the first one included.
    #[must_use]
    pub const fn keepers(self) -> usize {
        match self {
            Self::All => usize::MAX,
            Self::Successors(count) => count as usize + 1,
        }
    }

    /// How many nodes a list names, if there are so many.
    #[must_use]
    pub fn ranks(self) -> usize {
        match self {
            Self::All => LEAST_RANKS,
            Self::Successors(_) => LEAST_RANKS.max(self.keepers()),
        }
    }

    /// How many copies can be asked for by number in a cluster of so many buckets.
    #[must_use]
    pub fn most(buckets: u32) -> u8 {
        let ranks = u64::from(MAX_BUCKETS) * LEAST_RANKS as u64 / u64::from(buckets.max(1));
        (ranks - 1).min(u64::from(MAX_REPLICAS)) as u8
    }

    pub(super) fn check(self, buckets: u32) -> Result<(), ConfigError> {
        let most = Self::most(buckets);
        match self {
            Self::Successors(seen) if !(1..=most).contains(&seen) => {
                Err(ConfigError::Replicas { seen, most, buckets })
            }
            _ => Ok(()),
        }
    }

    /// Appends what nodes have to agree on. Builds that know only "all" append nothing.
    pub(super) fn mark(self, text: &mut Vec<u8>) {
        if let Self::Successors(count) = self {
            text.extend_from_slice(b"\0replicas");
            text.push(count);
        }
    }
}

impl fmt::Display for Replicas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Successors(count) => write!(f, "{count}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_buckets_leave_room_for_fewer_copies() {
        let most = [2, 16_384, 32_768, MAX_BUCKETS].map(Replicas::most);
        assert_eq!(most, [8, 8, 7, 3]);
        let error = Replicas::Successors(4).check(MAX_BUCKETS).unwrap_err().to_string();
        assert_eq!(
            error,
            "replicas is 4; expected all, or 1 to 3 with 65536 buckets: a longer map is more than a \
             node is sent at once"
        );
        assert!(Replicas::Successors(0).check(2).is_err());
        assert!(Replicas::Successors(8).check(16_384).is_ok());
    }

    #[test]
    fn a_list_has_room_for_all_that_keep() {
        assert_eq!(Replicas::All.ranks(), LEAST_RANKS);
        assert_eq!([1, 3, 4, 8].map(|k| Replicas::Successors(k).ranks()), [4, 4, 5, 9]);
    }
}
