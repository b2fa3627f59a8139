//! Keeps what a stranger or a broken peer can cause from filling the log.

use testudo_packet::bucket::Nanos;

/// How far apart lines of one kind are, in milliseconds.
const INTERVAL: u64 = 1000;

/// Lets one line of a kind through per second and counts the rest.
#[derive(Debug, Default)]
pub struct Throttle {
    next: Nanos,
    held_back: u64,
}

impl Throttle {
    /// Whether a line may be written now; if so, how many were held back since the last.
    pub fn admit(&mut self, now: Nanos) -> Option<u64> {
        if now < self.next {
            self.held_back += 1;
            return None;
        }
        self.next = now.plus_millis(INTERVAL);
        Some(std::mem::take(&mut self.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_line_waits_and_is_counted() {
        let mut throttle = Throttle::default();
        let start = Nanos(5_000_000_000);
        assert_eq!(throttle.admit(start), Some(0));
        assert_eq!(throttle.admit(start), None);
        assert_eq!(throttle.admit(start.plus_millis(INTERVAL - 1)), None);
        assert_eq!(throttle.admit(start.plus_millis(INTERVAL)), Some(2));
        assert_eq!(throttle.admit(start.plus_millis(2 * INTERVAL)), Some(0));
    }
}
