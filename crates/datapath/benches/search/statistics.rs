//! Medians with their range.

/// The values of one thing over all rounds.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Adds the value of a round.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
        self.0.sort_by(f64::total_cmp);
    }

    /// The value in the middle.
    pub fn median(&self) -> f64 {
        let (Some(low), Some(high)) =
            (self.0.get((self.0.len().max(1) - 1) / 2), self.0.get(self.0.len() / 2))
        else {
            return f64::NAN;
        };
        (low + high) / 2.0
    }

    /// The smallest and the largest value.
    pub fn range(&self) -> (f64, f64) {
        let end = |value: Option<&f64>| value.copied().unwrap_or(f64::NAN);
        (end(self.0.first()), end(self.0.last()))
    }
}
