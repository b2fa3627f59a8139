//! Numbered packets, one way of one flow: what was sent when, and what of it arrived.
//!
//! Invariant: nothing is estimated. A packet is lost if no copy of it arrived by the end of the run,
//! doubled once for each copy beyond the first, and reordered if its first copy came after one of a
//! higher number. Whether a packet belongs to a window is told by when it was *sent*, so a loss falls
//! into the window of what caused it.
//!
//! Two bytes and a time are kept a packet: a run of minutes is some tens of megabytes.

use serde::Serialize;

/// The time of a packet that was not sent.
const NEVER: u64 = u64::MAX;
/// No flow sends more packets than this: days at the lab's paces. A number beyond is not one of ours.
const MOST: u32 = 100_000_000;

/// What was sent. Times are in microseconds on the run's clock.
#[derive(Debug, Clone, Default)]
pub struct Sent {
    at: Vec<u64>,
}

/// What arrived.
#[derive(Debug, Clone, Default)]
pub struct Arrived {
    copies: Vec<u8>,
    overtaken: Vec<bool>,
    highest: Option<u32>,
    /// When packets arrived for the first time, in order.
    pub times: Vec<u64>,
    /// Packets that were not what was sent.
    pub corrupt: u32,
}

/// One way of one flow.
#[derive(Debug, Clone, Default)]
pub struct Way {
    /// What was sent.
    pub sent: Sent,
    /// What arrived.
    pub arrived: Arrived,
}

/// Packets in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Sent.
    pub sent: u64,
    /// Of these, arrived.
    pub received: u64,
    /// Of these, never arrived.
    pub lost: u64,
    /// Copies beyond the first.
    pub doubled: u64,
    /// Arrived after one that was sent later.
    pub reordered: u64,
}

impl Sent {
    /// The number of the next packet of a sender that numbers them itself.
    pub fn next(&self) -> u32 {
        self.at.len() as u32
    }

    /// Packet `number` was sent now.
    pub fn note(&mut self, number: u32, now: u64) {
        let index = number as usize;
        if index >= self.at.len() {
            self.at.resize(index + 1, NEVER);
        }
        self.at[index] = now;
    }
}

impl Arrived {
    /// Packet `number` arrived now. Says whether it was the first copy.
    pub fn note(&mut self, number: u32, now: u64) -> bool {
        if number >= MOST {
            self.corrupt += 1;
            return false;
        }
        let index = number as usize;
        if index >= self.copies.len() {
            self.copies.resize(index + 1, 0);
            self.overtaken.resize(index + 1, false);
        }
        let first = self.copies[index] == 0;
        self.copies[index] = self.copies[index].saturating_add(1);
        if first {
            self.overtaken[index] = self.highest.is_some_and(|highest| highest > number);
            self.highest = self.highest.max(Some(number));
            self.times.push(now);
        }
        first
    }

    /// Add what arrived elsewhere. The order between the places is not known, so nothing counts as
    /// reordered by it.
    pub fn merge(&mut self, other: &Arrived) {
        let length = self.copies.len().max(other.copies.len());
        self.copies.resize(length, 0);
        self.overtaken.resize(length, false);
        for (copies, more) in self.copies.iter_mut().zip(&other.copies) {
            *copies = copies.saturating_add(*more);
        }
        self.times.extend_from_slice(&other.times);
        self.times.sort_unstable();
        self.corrupt += other.corrupt;
    }

    fn copies(&self, number: usize) -> u64 {
        self.copies.get(number).copied().unwrap_or_default().into()
    }
}

impl Way {
    /// What became of the packets that were sent in `from..until`.
    pub fn count(&self, from: u64, until: u64) -> Counts {
        let mut counts = Counts::default();
        for (number, sent) in self.sent.at.iter().enumerate() {
            if !(from..until).contains(sent) || *sent == NEVER {
                continue;
            }
            let copies = self.arrived.copies(number);
            counts.sent += 1;
            counts.received += u64::from(copies > 0);
            counts.lost += u64::from(copies == 0);
            counts.doubled += copies.saturating_sub(1);
            let overtaken = self.arrived.overtaken.get(number).copied().unwrap_or_default();
            counts.reordered += u64::from(overtaken);
        }
        counts
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.sent += other.sent;
        self.received += other.received;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.reordered += other.reordered;
    }
}

impl std::iter::Sum for Counts {
    fn sum<I: Iterator<Item = Counts>>(counts: I) -> Counts {
        counts.fold(Counts::default(), |mut sum, counts| {
            sum += counts;
            sum
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(sent: &[(u32, u64)], arrived: &[u32]) -> Way {
        let mut way = Way::default();
        sent.iter().for_each(|(number, at)| way.sent.note(*number, *at));
        for (index, number) in arrived.iter().enumerate() {
            way.arrived.note(*number, index as u64);
        }
        way
    }

    #[test]
    fn each_packet_is_lost_doubled_or_reordered_by_itself() {
        let sent = [(0, 10), (1, 20), (2, 30), (3, 40), (4, 50)];
        let way = way(&sent, &[0, 2, 1, 2, 2, 4]);
        let all = way.count(0, 100);
        assert_eq!(
            all,
            Counts { sent: 5, received: 4, lost: 1, doubled: 2, reordered: 1 },
            "3 is lost, 2 came three times, 1 came after 2"
        );
        assert_eq!(way.arrived.times, [0, 1, 2, 5], "copies are no arrivals");
    }

    #[test]
    fn a_window_holds_the_packets_that_were_sent_in_it() {
        let way = way(&[(0, 10), (1, 20), (3, 40)], &[0]);
        let lost = |from, until| way.count(from, until).lost;
        assert_eq!((lost(0, 20), lost(20, 40), lost(20, 41)), (0, 1, 2));
        assert_eq!(way.count(0, u64::MAX).sent, 3, "2 was never sent");
        assert_eq!(Sent::default().next(), 0);
        assert_eq!(way.sent.next(), 4);
    }

    #[test]
    fn two_places_that_got_a_packet_doubled_it() {
        let mut first = way(&[(0, 10), (1, 20), (2, 30)], &[0, 1]);
        let second = way(&[], &[1]);
        first.arrived.merge(&second.arrived);
        let expected = Counts { sent: 3, received: 2, lost: 1, doubled: 1, reordered: 0 };
        assert_eq!(first.count(0, 100), expected);
        assert_eq!(first.arrived.times, [0, 0, 1]);
    }

    #[test]
    fn a_number_that_nobody_sends_takes_no_memory() {
        let mut arrived = Arrived::default();
        assert!(!arrived.note(u32::MAX, 1));
        assert_eq!((arrived.corrupt, arrived.copies.len()), (1, 0));
    }
}
