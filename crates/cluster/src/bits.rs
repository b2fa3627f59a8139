//! A set of small numbers, a bit each.
//!
//! It grows with the largest number that was put in, and never shrinks by itself: whoever has done with
//! it replaces it by a new one.

#[derive(Debug, Default)]
pub(crate) struct Bits(Vec<u64>);

const fn place(number: u32) -> (usize, u64) {
    (number as usize / 64, 1 << (number % 64))
}

impl Bits {
    /// Puts a number in; says whether it is new.
    pub(crate) fn insert(&mut self, number: u32) -> bool {
        let (word, bit) = place(number);
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        let new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        new
    }

    /// Takes a number out; says whether it was in.
    pub(crate) fn remove(&mut self, number: u32) -> bool {
        let (word, bit) = place(number);
        let Some(word) = self.0.get_mut(word) else { return false };
        let old = *word & bit != 0;
        *word &= !bit;
        old
    }

    /// Whether a number is in.
    pub(crate) fn contains(&self, number: u32) -> bool {
        let (word, bit) = place(number);
        self.0.get(word).is_some_and(|word| word & bit != 0)
    }

    /// Takes all out, and keeps the memory for what comes.
    pub(crate) fn clear(&mut self) {
        self.0.fill(0);
    }

    /// How many bytes it has taken from the system.
    pub(crate) fn memory(&self) -> usize {
        self.0.capacity() * size_of::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_a_set(steps: Vec<(bool, u16)>) {
            let (mut bits, mut set) = (Bits::default(), BTreeSet::new());
            for (put, number) in steps {
                let number = u32::from(number);
                prop_assert_eq!(bits.contains(number), set.contains(&number));
                match put {
                    true => prop_assert_eq!(bits.insert(number), set.insert(number)),
                    false => prop_assert_eq!(bits.remove(number), set.remove(&number)),
                }
            }
            prop_assert!(set.iter().all(|&number| bits.contains(number)));
            bits.clear();
            prop_assert!(!set.iter().any(|&number| bits.contains(number)));
        }
    }
}
