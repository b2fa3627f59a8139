//! From what is found to what is so. No I/O; the time is an argument.

use std::time::Duration;

use testudo_packet::bucket::Nanos;

use super::{Finding, Item, Name, Snapshot, State};

/// Holds every item and judges findings. To be called: `handle_*` with what happened, then
/// [`Judge::snapshot`] if [`Judge::take_changed`], and again at [`Judge::next_wakeup`].
#[derive(Debug)]
pub struct Judge {
    recovery: Duration,
    items: Vec<Tracked>,
    changed: bool,
}

#[derive(Debug)]
struct Tracked {
    item: Item,
    /// Of a bad item: since when nothing was found wrong with it.
    well_since: Option<Nanos>,
}

/// The reason of an item of which nothing is known.
const NOT_FOUND_OUT: &str = "nothing is known yet";

impl Judge {
    /// Items of which nothing is known.
    pub fn new(now: Nanos, names: impl IntoIterator<Item = Name>, recovery: Duration) -> Self {
        let item =
            |name| Item { name, state: State::Unknown, reason: NOT_FOUND_OUT.into(), since: now };
        let tracked = |name| Tracked { item: item(name), well_since: None };
        Self { recovery, items: names.into_iter().map(tracked).collect(), changed: true }
    }

    /// Takes in what was found of an item. An item that there is not is ignored.
    pub fn handle_finding(&mut self, now: Nanos, name: &Name, finding: Finding) {
        let recovery = self.recovery;
        let Some(tracked) = self.items.iter_mut().find(|tracked| tracked.item.name == *name) else {
            return;
        };
        self.changed |= tracked.handle(now, finding, recovery);
    }

    /// Lets time pass: what has been well for long enough is good again.
    pub fn handle_tick(&mut self, now: Nanos) {
        for tracked in &mut self.items {
            self.changed |= tracked.recover(now, self.recovery);
        }
    }

    /// When [`Judge::handle_tick`] has something to do next.
    pub fn next_wakeup(&self) -> Option<Nanos> {
        let millis = self.recovery.as_millis() as u64;
        let wells = self.items.iter().filter_map(|tracked| tracked.well_since);
        wells.min().map(|since| since.plus_millis(millis))
    }

    /// How an item is.
    pub fn state(&self, name: &Name) -> State {
        let found = self.items.iter().find(|tracked| tracked.item.name == *name);
        found.map_or(State::Unknown, |tracked| tracked.item.state)
    }

    /// Whether something has changed since this was last asked.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// All items as they are.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            fit: self.items.iter().all(|tracked| tracked.item.state != State::Bad),
            items: self.items.iter().map(|tracked| tracked.item.clone()).collect(),
        }
    }
}

impl Tracked {
    /// Whether something has changed by it.
    fn handle(&mut self, now: Nanos, finding: Finding, recovery: Duration) -> bool {
        match finding {
            Finding::Wrong(reason) => {
                self.well_since = None;
                self.become_so(now, State::Bad, reason)
            }
            Finding::Well(reason) if self.item.state != State::Bad => {
                self.become_so(now, State::Good, reason)
            }
            Finding::Well(reason) if self.well_since.is_none() => {
                self.well_since = Some(now);
                let before = std::mem::take(&mut self.item.reason);
                self.item.reason = format!("{reason}, but not for {recovery:?} yet; was: {before}");
                true
            }
            Finding::Well(_) => self.recover(now, recovery),
            Finding::Doubtful(reason) => {
                self.well_since = None;
                self.become_so(now, State::Warning, reason)
            }
        }
    }

    fn recover(&mut self, now: Nanos, recovery: Duration) -> bool {
        let rested = |since| now.millis_since(since) >= recovery.as_millis() as u64;
        if !self.well_since.is_some_and(rested) {
            return false;
        }
        self.well_since = None;
        self.become_so(now, State::Good, format!("well for {recovery:?}"))
    }

    fn become_so(&mut self, now: Nanos, state: State, reason: String) -> bool {
        if self.item.state != state {
            self.item.since = now;
        } else if self.item.reason == reason {
            return false;
        }
        (self.item.state, self.item.reason) = (state, reason);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Nanos = Nanos(1_000_000_000);

    fn judge() -> Judge {
        let mut judge = Judge::new(
            START,
            [Name::Link("in0".into()), Name::Overload],
            Duration::from_millis(500),
        );
        assert!(judge.take_changed());
        judge
    }

    fn find(judge: &mut Judge, ms: u64, finding: Finding) -> bool {
        judge.handle_finding(START.plus_millis(ms), &Name::Link("in0".into()), finding);
        judge.take_changed()
    }

    fn well() -> Finding {
        Finding::Well("up".into())
    }

    fn wrong() -> Finding {
        Finding::Wrong("down".into())
    }

    #[test]
    fn what_is_unknown_is_no_reason_to_go() {
        let judge = judge();
        assert!(judge.snapshot().fit);
        assert_eq!(judge.snapshot().items[0].state, State::Unknown);
    }

    #[test]
    fn bad_at_once_and_good_after_a_rest() {
        let mut judge = judge();
        assert!(find(&mut judge, 0, well()));
        assert!(!find(&mut judge, 1, well()), "nothing is new");
        assert!(find(&mut judge, 10, wrong()));
        assert!(!judge.snapshot().fit);
        let item = judge.snapshot().items[0].clone();
        let (reason, since) = ("down".to_owned(), START.plus_millis(10));
        assert_eq!(item, Item { state: State::Bad, reason, since, ..item.clone() });
        assert_eq!(judge.next_wakeup(), None);
        assert!(find(&mut judge, 20, well()));
        assert_eq!(judge.next_wakeup(), Some(START.plus_millis(520)));
        assert_eq!(judge.snapshot().items[0].reason, "up, but not for 500ms yet; was: down");
        judge.handle_tick(START.plus_millis(519));
        assert!(!judge.take_changed() && !judge.snapshot().fit);
        judge.handle_tick(START.plus_millis(520));
        assert!(judge.take_changed() && judge.snapshot().fit);
        assert_eq!(judge.snapshot().items[0].since, START.plus_millis(520));
        assert_eq!(judge.next_wakeup(), None);
    }

    #[test]
    fn what_flaps_is_bad_all_the_time() {
        let mut judge = judge();
        for flap in 0..100 {
            find(&mut judge, flap * 400, wrong());
            find(&mut judge, flap * 400 + 200, well());
            judge.handle_tick(START.plus_millis(flap * 400 + 399));
            assert!(!judge.snapshot().fit, "{flap}");
        }
        judge.handle_tick(START.plus_millis(99 * 400 + 700));
        assert!(judge.snapshot().fit);
    }

    #[test]
    fn a_warning_is_no_reason_to_go() {
        let mut judge = judge();
        assert!(find(&mut judge, 0, Finding::Doubtful("soon".into())));
        assert!(judge.snapshot().fit);
        assert_eq!(judge.snapshot().items[0].state, State::Warning);
        assert!(find(&mut judge, 1, well()));
        assert_eq!(judge.snapshot().items[0].state, State::Good);
    }

    #[test]
    fn each_item_is_judged_alone_and_strangers_are_ignored() {
        let mut judge = judge();
        judge.handle_finding(START, &Name::Overload, wrong());
        judge.handle_finding(START, &Name::Sync, wrong());
        let states: Vec<_> = judge.snapshot().items.iter().map(|item| item.state).collect();
        assert_eq!(states, [State::Unknown, State::Bad]);
        assert_eq!(judge.state(&Name::Overload), State::Bad);
        assert_eq!(judge.state(&Name::Sync), State::Unknown);
    }
}
