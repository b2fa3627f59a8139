//! A set of buckets.

use testudo_packet::bucket::BucketId;

/// A set of buckets, one bit each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketSet {
    words: Vec<u64>,
}

impl BucketSet {
    /// The empty set of a cluster with this many buckets.
    pub fn new(buckets: u32) -> Self {
        Self { words: vec![0; buckets.div_ceil(64) as usize] }
    }

    /// Puts a bucket into the set. A bucket beyond the cluster's count is not put in.
    pub fn insert(&mut self, bucket: BucketId) {
        if let Some(word) = self.words.get_mut(usize::from(bucket.0) / 64) {
            *word |= 1 << (bucket.0 % 64);
        }
    }

    /// Whether the bucket is in the set.
    pub fn contains(&self, bucket: BucketId) -> bool {
        let word = self.words.get(usize::from(bucket.0) / 64);
        word.is_some_and(|word| word >> (bucket.0 % 64) & 1 == 1)
    }

    /// How many buckets are in the set.
    pub fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether no bucket is in the set.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|&word| word == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_was_put_in_and_nothing_beyond_its_end() {
        let mut set = BucketSet::new(128);
        for bucket in [0, 63, 64, 127, 128, 65_535] {
            set.insert(BucketId(bucket));
        }
        assert_eq!(set.len(), 4);
        assert!(set.contains(BucketId(127)) && !set.contains(BucketId(128)));
        assert!(BucketSet::new(2).is_empty());
    }
}
