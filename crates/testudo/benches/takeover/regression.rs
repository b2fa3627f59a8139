//! A straight line through points, and how sure its slope is.

/// `y = start + slope * x` by least squares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    /// At x = 0.
    pub start: f64,
    /// For each x.
    pub slope: f64,
    /// Half the width of the slope's 95 % interval, by the normal distribution.
    pub margin: f64,
}

/// The line through at least three points that are not all above one another.
pub fn line(points: &[(f64, f64)]) -> Option<Line> {
    let count = points.len() as f64;
    let mean = |part: fn(&(f64, f64)) -> f64| points.iter().map(part).sum::<f64>() / count;
    let (middle_x, middle_y) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = points.iter().map(|(x, _)| (x - middle_x).powi(2)).sum();
    if points.len() < 3 || spread == 0.0 {
        return None;
    }
    let product: f64 = points.iter().map(|(x, y)| (x - middle_x) * (y - middle_y)).sum();
    let slope = product / spread;
    let start = middle_y - slope * middle_x;
    let rest: f64 = points.iter().map(|(x, y)| (y - start - slope * x).powi(2)).sum();
    let error = (rest / (count - 2.0) / spread).sqrt();
    Some(Line { start, slope, margin: 1.96 * error })
}
