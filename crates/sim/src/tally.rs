//! What happened in a run, counted by name.

use std::collections::BTreeMap;
use std::fmt;

/// Counts by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    /// Counts one more.
    pub fn count(&mut self, what: &'static str) {
        self.add(what, 1);
    }

    /// Counts so many more.
    pub fn add(&mut self, what: &'static str, many: u64) {
        *self.0.entry(what).or_default() += many;
    }

    /// Keeps the largest.
    pub fn most(&mut self, what: &'static str, seen: u64) {
        let most = self.0.entry(what).or_default();
        *most = seen.max(*most);
    }

    /// How often something happened.
    #[must_use]
    pub fn of(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    /// Adds what happened in another run; of what begins with "most", the larger stays.
    pub fn merge(&mut self, other: &Self) {
        for (&what, &many) in &other.0 {
            if what.starts_with("most") {
                self.most(what, many);
            } else {
                self.add(what, many);
            }
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, many) in &self.0 {
            writeln!(f, "{many:>12}  {what}")?;
        }
        Ok(())
    }
}
