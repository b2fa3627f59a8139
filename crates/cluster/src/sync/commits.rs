//! Which changes of a stream the peer is known to have handled, for those who wait for it.
//!
//! A change is known by its place: how many changes had been noted when it was. They are sent in that order,
//! and the peer acknowledges by frame, so it is enough to remember how many places had been sent by which
//! frame.
//!
//! Invariant: a place is reached only when a frame is acknowledged that was sent after the change itself
//! was. What was dropped because too much waited is never reached: nobody can say by which frame it went.
//!
//! Limits: so many frames are remembered. Where there is no room for one, its places join those of the
//! newest, and are reached later than they could be, never sooner.

use std::collections::VecDeque;

/// How many frames are remembered.
const FRAMES: usize = 1024;

/// What of a stream's changes somebody waits for.
#[derive(Debug, Default)]
pub(crate) struct Commits {
    /// The last place that somebody waits for.
    wanted: u64,
    /// How many places were sent by which frame.
    sent: VecDeque<(u64, u64)>,
    /// How many places the peer has handled.
    reached: u64,
    /// Up to which place changes were dropped.
    dropped: u64,
}

impl Commits {
    /// Somebody waits for this place.
    pub(crate) fn want(&mut self, place: u64) {
        self.wanted = self.wanted.max(place);
    }

    /// So many places have been sent, the last of them in this frame.
    pub(crate) fn sent(&mut self, places: u64, frame: u64) {
        let noted = self.sent.back().map_or(self.reached, |&(places, _)| places);
        if noted >= self.wanted || places <= noted {
            return;
        }
        if self.sent.len() >= FRAMES {
            self.sent.pop_back();
        }
        self.sent.push_back((places, frame));
    }

    /// The peer has handled so many frames.
    pub(crate) fn acknowledged(&mut self, frames: u64) {
        while let Some((places, _)) = self.sent.pop_front_if(|(_, frame)| *frame <= frames) {
            self.reached = places;
        }
    }

    /// All changes up to this place were dropped, if they had not been sent.
    pub(crate) fn dropped(&mut self, place: u64) {
        self.dropped = place;
    }

    /// Whether the peer has handled the change of this place.
    pub(crate) fn is_reached(&self, place: u64) -> bool {
        (self.dropped + 1..=self.reached).contains(&place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_reached_by_the_frame_that_carried_it_and_no_earlier_one() {
        let mut commits = Commits::default();
        commits.want(3);
        commits.sent(2, 10);
        commits.sent(4, 12);
        commits.acknowledged(11);
        assert_eq!([1, 2, 3].map(|place| commits.is_reached(place)), [true, true, false]);
        commits.acknowledged(12);
        assert!(commits.is_reached(3) && commits.is_reached(4) && !commits.is_reached(5));
    }

    #[test]
    fn what_was_dropped_is_never_reached_and_what_comes_later_is() {
        let mut commits = Commits::default();
        commits.want(3);
        commits.dropped(3);
        commits.sent(3, 5);
        commits.want(4);
        commits.sent(4, 6);
        commits.acknowledged(9);
        assert_eq!([3, 4].map(|place| commits.is_reached(place)), [false, true]);
    }

    #[test]
    fn nothing_is_remembered_that_nobody_waits_for_and_never_too_much() {
        let mut commits = Commits::default();
        (1..100).for_each(|n| commits.sent(n, n));
        assert!(commits.sent.is_empty());
        commits.want(u64::MAX);
        (100..3000).for_each(|n| commits.sent(n, n));
        assert_eq!(commits.sent.len(), FRAMES);
        commits.acknowledged(2998);
        assert!(commits.is_reached(1000) && !commits.is_reached(2999));
        commits.acknowledged(2999);
        assert!(commits.is_reached(2999));
    }
}
