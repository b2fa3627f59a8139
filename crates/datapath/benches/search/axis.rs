//! A logarithmic axis of a picture; the benchmarks of other crates include this file too.

/// Where values lie on a picture, from `start` to `end`.
pub struct Axis {
    pub low: f64,
    pub high: f64,
    pub start: f64,
    pub end: f64,
}

impl Axis {
    /// Where a value lies.
    pub fn at(&self, value: f64) -> f64 {
        let part = (value / self.low).ln() / (self.high / self.low).ln();
        self.start + part * (self.end - self.start)
    }

    /// The powers of ten on the axis.
    pub fn decades(&self) -> impl Iterator<Item = f64> {
        let (low, high) = (self.low.log10().ceil() as i32, self.high.log10().floor() as i32);
        (low..=high).map(|power| 10f64.powi(power))
    }
}
