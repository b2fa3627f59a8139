//! Sets of addresses that rules name: loaded before the rules that name them, gone after them.
//!
//! A set is loaded by whoever makes rules, in a thread of its own: a hundred thousand prefixes take the kernel a tenth of
//! a second, which the thread that handles packets does not have. It stays as long as somebody holds its
//! [`LoadedSet`]; what nobody holds is taken out by the next [`Sets::sweep`].
//!
//! Invariant: a set that rules in force name is never changed or taken out. Numbers are never given twice, by this
//! process or those before it on the same memory; and a sweep waits until no packet can be under way any more that met
//! rules before those in force.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use testudo_packet::flow::Address;
use testudo_packet::rule::Prefix;
use testudo_packet::set::{self, MAX_PREFIXES, SetId};

use crate::Error;
use crate::kernel::trie::Trie;
use crate::memory::Words;

/// Addresses, as the fewest prefixes: none of them is within another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixSet(Box<[Prefix]>);

impl PrefixSet {
    /// The addresses of all of these.
    pub fn new(prefixes: impl IntoIterator<Item = Prefix>) -> Self {
        let mut members = Vec::from_iter(prefixes);
        // What takes others in stands right before them.
        members.sort_unstable();
        members.dedup_by(|next, kept| kept.contains(next.address()));
        Self(members.into())
    }

    /// How many prefixes there are.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the address is among them.
    pub fn contains(&self, address: Address) -> bool {
        let behind = self.0.partition_point(|member| member.address() <= address);
        behind.checked_sub(1).is_some_and(|at| self.0[at].contains(address))
    }

    /// The keys of all prefixes in the trie, by the number of the set.
    pub(crate) fn keys(&self, set: SetId) -> impl Iterator<Item = set::TrieKey> + '_ {
        self.0.iter().map(move |member| set::TrieKey {
            length: 32 + u32::from(member.length()),
            words: set::key(set.0.get(), member.address()),
        })
    }
}

/// All sets of a node's packet handling. A clone is another handle.
#[derive(Clone)]
pub struct Sets(Arc<All>);

struct All {
    /// The sets that packets can be compared with, by number.
    known: RwLock<BTreeMap<u32, Arc<PrefixSet>>>,
    /// What nobody holds any more.
    left: Mutex<Vec<SetId>>,
    place: Place,
}

/// Where they are besides.
enum Place {
    /// Nowhere; this is the last number that was given.
    Here(AtomicU64),
    /// In the kernel. Loading and taking out exclude each other.
    Kernel(Mutex<Trie>, Arc<Words>),
}

impl Default for Sets {
    /// For packets that are handled here alone.
    fn default() -> Self {
        Self::at(Place::Here(AtomicU64::new(0)))
    }
}

impl fmt::Debug for Sets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sets").field(&self.known().len()).finish()
    }
}

/// A set that packets can be compared with, as long as this or a clone of it is there.
#[derive(Clone, Debug)]
pub struct LoadedSet(Arc<Held>);

#[derive(Debug)]
struct Held {
    id: SetId,
    set: Arc<PrefixSet>,
    sets: Sets,
}

impl LoadedSet {
    /// What rules name it by.
    pub fn id(&self) -> SetId {
        self.0.id
    }

    /// What is in it.
    pub fn set(&self) -> &Arc<PrefixSet> {
        &self.0.set
    }
}

impl PartialEq for LoadedSet {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl Eq for LoadedSet {}

impl Drop for Held {
    fn drop(&mut self) {
        locked(&self.sets.0.left).push(self.id);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sets {
    /// For packets that the kernel handles, too. The last number that was given stands in a word of the memory that
    /// processes share.
    pub(crate) fn in_kernel(trie: Trie, shared: Arc<Words>) -> Self {
        Self::at(Place::Kernel(Mutex::new(trie), shared))
    }

    fn at(place: Place) -> Self {
        let (known, left) = (RwLock::default(), Mutex::default());
        Self(Arc::new(All { known, left, place }))
    }

    fn known(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<u32, Arc<PrefixSet>>> {
        self.0.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn known_mut(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<u32, Arc<PrefixSet>>> {
        self.0.known.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Loads a set. After an error nothing of it is there, or what the next [`Self::sweep`] takes out.
    pub fn load(&self, set: Arc<PrefixSet>) -> Result<LoadedSet, Error> {
        if set.len() > MAX_PREFIXES as usize {
            let (what, most) = ("prefixes in a set", MAX_PREFIXES as usize);
            return Err(Error::TooMany { what, seen: set.len(), most });
        }
        let id = self.next_number()?;
        // From here on it is taken out again, whatever happens.
        let held = Held { id, set: set.clone(), sets: self.clone() };
        // Known before it is in the kernel: a sweep of what is unknown may run meanwhile.
        self.known_mut().insert(id.0.get(), set.clone());
        if let Place::Kernel(trie, _) = &self.0.place
            && let Err(error) = locked(trie).insert(&set.keys(id).collect::<Vec<_>>())
        {
            // What is there of it, the sweep has to look for.
            self.known_mut().remove(&id.0.get());
            return Err(error);
        }
        Ok(LoadedSet(Arc::new(held)))
    }

    fn next_number(&self) -> Result<SetId, Error> {
        let last = match &self.0.place {
            Place::Here(last) => last,
            Place::Kernel(_, shared) => &shared.as_slice()[crate::kernel::LAST_SET],
        };
        let next = last.fetch_add(1, Ordering::AcqRel) + 1;
        let (what, most) = ("sets were loaded since the machine has started", u32::MAX as usize);
        let id = u32::try_from(next).ok().and_then(SetId::new);
        id.ok_or(Error::TooMany { what, seen: next as usize, most })
    }

    /// Takes out what nobody holds any more. The rules that named it have been replaced before. It waits for packets
    /// that are under way, some tens of milliseconds, and takes its time for large sets.
    pub fn sweep(&self) -> Result<(), Error> {
        let left = std::mem::take(&mut *locked(&self.0.left));
        if left.is_empty() {
            return Ok(());
        }
        let mut known = self.known_mut();
        let gone: Vec<_> = left.iter().map(|id| (*id, known.remove(&id.0.get()))).collect();
        drop(known);
        let Place::Kernel(trie, _) = &self.0.place else { return Ok(()) };
        let trie = locked(trie);
        trie.wait_for_packets()?;
        for (id, set) in gone {
            match set {
                Some(set) => trie.remove(&set.keys(id).collect::<Vec<_>>())?,
                // Its loading has failed in the middle.
                None => trie.remove_sets(&|number| number == id.0.get())?,
            }
        }
        Ok(())
    }

    /// Takes out the sets of processes before this one, which must have put its own rules in force.
    pub fn sweep_others(&self) -> Result<(), Error> {
        let Place::Kernel(trie, _) = &self.0.place else { return Ok(()) };
        let trie = locked(trie);
        trie.wait_for_packets()?;
        let left: Vec<u32> = locked(&self.0.left).iter().map(|id| id.0.get()).collect();
        let known = self.known();
        trie.remove_sets(&|number| !known.contains_key(&number) && !left.contains(&number))
    }
}

impl set::Sets for Sets {
    fn contains(&self, set: u32, address: Address) -> bool {
        self.known().get(&set).is_some_and(|set| set.contains(address))
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;
    use testudo_packet::set::Sets as _;

    use super::*;

    fn prefix(text: &str) -> Prefix {
        let (address, length) = text.split_once('/').expect("a length");
        let address = address.parse::<IpAddr>().expect("an address").into();
        Prefix::new(address, length.parse().expect("a length")).expect("a prefix")
    }

    fn set(texts: &[&str]) -> PrefixSet {
        PrefixSet::new(texts.iter().map(|text| prefix(text)))
    }

    fn has(set: &PrefixSet, text: &str) -> bool {
        set.contains(text.parse::<IpAddr>().expect("an address").into())
    }

    #[test]
    fn what_is_within_another_prefix_is_not_kept() {
        let all = set(&[
            "10.1.0.0/16",
            "10.0.0.0/8",
            "fd00::/8",
            "10.0.0.0/8",
            "fd00::1/128",
            "11.0.0.0/8",
        ]);
        assert_eq!(all.len(), 3);
        assert_eq!(all, set(&["fd00::/8", "11.0.0.0/8", "10.0.0.0/8"]));
        for (text, inside) in [
            ("10.255.0.1", true),
            ("11.0.0.0", true),
            ("12.0.0.0", false),
            ("9.255.255.255", false),
            ("fdff::", true),
            ("fe00::", false),
            ("::10.0.0.1", false),
        ] {
            assert_eq!(has(&all, text), inside, "{text}");
        }
        assert!(!has(&set(&[]), "10.0.0.1"));
        assert!(has(&set(&["0.0.0.0/0"]), "10.0.0.1") && !has(&set(&["0.0.0.0/0"]), "fd00::1"));
    }

    proptest! {
        #[test]
        fn an_address_is_in_a_set_if_one_of_its_prefixes_has_it(
            prefixes in prop::collection::vec((any::<u32>(), 0..=32u8), 0..40),
            near in any::<prop::sample::Index>(), off in -2i64..3, far: u32,
        ) {
            let cut = |(bits, length): &(u32, u8)| {
                let mask = u32::MAX.checked_shl(32 - u32::from(*length)).unwrap_or(0);
                (bits & mask, mask)
            };
            let made = PrefixSet::new(prefixes.iter().map(|one| {
                Prefix::new(Address::v4(cut(one).0), one.1).expect("a prefix")
            }));
            let mut asked = vec![far];
            if !prefixes.is_empty() {
                let (first, mask) = cut(&prefixes[near.index(prefixes.len())]);
                asked.extend([first, first | !mask].map(|edge| (i64::from(edge) + off) as u32));
            }
            for address in asked {
                let expected = prefixes.iter().map(cut).any(|(first, mask)| address & mask == first);
                prop_assert_eq!(made.contains(Address::v4(address)), expected, "{:x}", address);
            }
        }
    }

    #[test]
    fn a_set_is_there_as_long_as_it_is_held_and_its_number_is_its_own() {
        let sets = Sets::default();
        let host: Address = "10.0.0.1".parse::<IpAddr>().unwrap().into();
        let first = sets.load(Arc::new(set(&["10.0.0.0/8"]))).expect("room");
        let number = first.id().0.get();
        sets.sweep().expect("nothing");
        assert!(sets.contains(number, host) && !sets.contains(number + 1, host));
        let other = first.clone();
        drop(first);
        sets.sweep().expect("nothing");
        assert!(sets.contains(number, host));
        drop(other);
        sets.sweep().expect("one");
        assert!(!sets.contains(number, host));
        let second = sets.load(Arc::new(set(&["10.0.0.0/8"]))).expect("room");
        assert_ne!(second.id().0.get(), number);
        let many =
            (0..=MAX_PREFIXES).map(|n| Prefix::new(Address::v4(n << 1), 32).expect("a host"));
        let refused = sets.load(Arc::new(PrefixSet::new(many))).expect_err("too many");
        assert_eq!(
            refused.to_string(),
            "524289 prefixes in a set; expected at most 524288; those in force stay"
        );
    }
}
