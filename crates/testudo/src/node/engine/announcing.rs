//! When the hosts around are told of the cluster's addresses: as this node begins to own buckets, and once more
//! two seconds later (RFC 5227 §1.1, `ANNOUNCE_NUM` and `ANNOUNCE_INTERVAL`).
//!
//! Not at each takeover: the address on the link stays the cluster's, whoever handles what is sent there.

use testudo_packet::bucket::Nanos;

const INTERVAL_MS: u64 = 2000;

/// How far the announcing has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Announcing {
    /// This node has owned nothing yet.
    #[default]
    Waiting,
    /// It is due at once.
    First,
    /// It is due once more then.
    Second(Nanos),
    /// It is done.
    Done,
}

impl Announcing {
    /// This node owns buckets.
    pub fn begin(&mut self) {
        if *self == Self::Waiting {
            *self = Self::First;
        }
    }

    /// Whether it is time; if so, the next time is another.
    pub fn is_due(&mut self, now: Nanos) -> bool {
        match *self {
            Self::First => *self = Self::Second(now.plus_millis(INTERVAL_MS)),
            Self::Second(due) if now >= due => *self = Self::Done,
            _ => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_done_twice_and_not_again() {
        let mut announcing = Announcing::default();
        let at = |ms: u64| Nanos(0).plus_millis(ms);
        assert!(!announcing.is_due(at(0)));
        announcing.begin();
        let seen = [1, 2, 2000, 2001, 9000].map(|ms| announcing.is_due(at(ms)));
        assert_eq!(seen, [true, false, false, true, false]);
        announcing.begin();
        assert!(!announcing.is_due(at(10_000)));
    }
}
