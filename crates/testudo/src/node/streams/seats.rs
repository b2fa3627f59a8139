//! Who has to make room when streams that have proved nothing yet are too many.
//!
//! Whoever comes last is let in, and the oldest of its kind goes: a stranger that says nothing for the
//! three seconds that it may would otherwise keep members out. Streams from the address of a member
//! are a kind of their own for each address, so a flood from anywhere else takes no place of theirs;
//! members dial from the address that they listen at.
//!
//! Invariant: streams that have proved nothing are at most [`STRANGERS`], and [`FROM_MEMBER`] for each
//! member's address.

use std::net::{IpAddr, SocketAddr};

use testudo_packet::bucket::Nanos;

/// How many there may be from addresses that are no member's.
pub const STRANGERS: usize = 16;

/// How many there may be from the address of a member: more than it dials at once.
pub const FROM_MEMBER: usize = 4;

/// The addresses of members.
#[derive(Debug)]
pub struct Seats {
    members: Vec<IpAddr>,
}

/// Of which kind a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Stranger,
    FromMember(IpAddr),
}

impl Seats {
    /// Seats for the peers that listen there.
    pub fn new(members: impl Iterator<Item = SocketAddr>) -> Self {
        Self { members: members.map(|address| address.ip()).collect() }
    }

    fn kind(&self, address: IpAddr) -> Kind {
        match self.members.contains(&address) {
            true => Kind::FromMember(address),
            false => Kind::Stranger,
        }
    }

    /// How many there may be of the kind that comes from an address.
    pub fn limit(&self, address: IpAddr) -> usize {
        match self.kind(address) {
            Kind::Stranger => STRANGERS,
            Kind::FromMember(_) => FROM_MEMBER,
        }
    }

    /// Which of those that have proved nothing has to go for one that comes from an address. Each is
    /// told by where it is, whence it comes and since when.
    pub fn leaves(
        &self,
        address: IpAddr,
        unproved: impl Iterator<Item = (usize, IpAddr, Nanos)>,
    ) -> Option<usize> {
        let kind = self.kind(address);
        let same: Vec<_> = unproved.filter(|(_, from, _)| self.kind(*from) == kind).collect();
        if same.len() < self.limit(address) {
            return None;
        }
        same.iter().min_by_key(|(at, _, since)| (*since, *at)).map(|(at, _, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        [10, 99, 0, last].into()
    }

    #[test]
    fn a_flood_takes_no_place_of_a_member() {
        let seats = Seats::new([1, 2].map(|last| SocketAddr::new(address(last), 7400)).into_iter());
        let flood: Vec<_> =
            (0..16).map(|at| (at, address(100 + at as u8), Nanos(50 - at as u64))).collect();
        let leaves =
            |from, all: &[(usize, IpAddr, Nanos)]| seats.leaves(address(from), all.iter().copied());
        assert_eq!(leaves(9, &flood[..15]), None);
        assert_eq!(leaves(9, &flood), Some(15), "the oldest goes");
        assert_eq!(leaves(1, &flood), None);
        let mut all = flood;
        all.extend((16..20).map(|at| (at, address(1), Nanos(at as u64))));
        assert_eq!(leaves(1, &all), Some(16), "it makes room for itself");
        assert_eq!(leaves(2, &all), None);
        assert_eq!(leaves(9, &all), Some(15));
    }
}
