//! The names of the keys, and how numbers stand in them.

/// The keys of a cluster.
#[derive(Clone, Debug)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    pub fn new(prefix: &str, cluster: &str) -> Self {
        Self { prefix: format!("{prefix}/{cluster}/") }
    }

    /// The first key of all, and the first after all.
    pub fn all(&self) -> (String, String) {
        // '0' follows on '/'.
        (self.prefix.clone(), format!("{}0", &self.prefix[..self.prefix.len() - 1]))
    }

    pub fn leader(&self) -> String {
        format!("{}leader", self.prefix)
    }

    pub fn snapshot(&self) -> String {
        format!("{}snapshot", self.prefix)
    }

    /// Zeros in front make the order of names the order of numbers.
    pub fn entry(&self, index: u64) -> String {
        format!("{}log/{index:020}", self.prefix)
    }

    /// The first key after all entries.
    pub fn entries_end(&self) -> String {
        format!("{}log0", self.prefix)
    }

    /// The index of an entry's key.
    pub fn index(&self, key: &[u8]) -> Option<u64> {
        let digits = std::str::from_utf8(key).ok()?.strip_prefix(&self.prefix)?;
        digits.strip_prefix("log/")?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_as_their_numbers_and_lie_in_their_range() {
        let keys = Keys::new("/testudo", "a");
        let names = [9, 10, 99, u64::MAX].map(|index| keys.entry(index));
        assert!(names.is_sorted());
        assert_eq!(keys.index(names[1].as_bytes()), Some(10));
        assert_eq!(keys.index(keys.leader().as_bytes()), None);
        let (first, end) = keys.all();
        for key in names.iter().chain(&[keys.leader(), keys.snapshot()]) {
            assert!(*key >= first && *key < end, "{key}");
        }
        assert!(names[3] < keys.entries_end());
        assert!(
            Keys::new("/testudo", "a-b").leader() > end
                || Keys::new("/testudo", "a-b").leader() < first
        );
    }
}
