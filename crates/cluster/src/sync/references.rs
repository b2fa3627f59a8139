//! Numbers that stand for flows, so that a flow's key is sent once and not with each change.
//!
//! The sender uses the number of the slot in its table. The receiver keeps, for each number, the place
//! of the flow in its own table. Both begin anew with each stream.
//!
//! Invariant: a reference leads to the flow that was introduced by it, or to none. The receiver's slot
//! may hold another flow meanwhile (the flow was taken out, for whatever reason); its generation shows
//! that. A reference that leads nowhere is answered, and the sender introduces the flow again.
//!
//! Why the slot and not a number drawn for the purpose: the sender would need a table from slots to
//! numbers for each peer.
//!
//! Limits: numbers below [`MAX_REFERENCES`]; flows in slots beyond are sent in full each time. The
//! dictionary grows in pages with the numbers that a peer has used, so a peer can make it as large as
//! that many entries and no larger. A slot that was used again exactly 2²⁴ times would be taken for
//! unchanged; the comparison of buckets would show what came of it.

use crate::common_table::{Place, SlotId};

/// The number of a flow on one stream: of a slot in the sender's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reference(u32);

/// References are below this, to fit three bytes; the last of those stands for none.
pub const MAX_REFERENCES: u32 = (1 << 24) - 1;

impl Reference {
    /// The reference of this number, if it is one.
    #[must_use]
    pub fn new(number: u32) -> Option<Self> {
        (number < MAX_REFERENCES).then_some(Self(number))
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0
    }

    /// The slot in this node's table, if it was this node that drew it.
    pub(crate) fn slot(self) -> SlotId {
        SlotId(self.0)
    }
}

const PAGE: usize = 1024;

/// What a peer's references lead to.
#[derive(Debug, Default)]
pub(crate) struct Dictionary {
    pages: Vec<Option<Box<[Place; PAGE]>>>,
}

impl Dictionary {
    pub(crate) fn get(&self, reference: Reference) -> Option<Place> {
        let number = reference.0 as usize;
        let place = self.pages.get(number / PAGE)?.as_ref()?[number % PAGE];
        (place != Place::NOWHERE).then_some(place)
    }

    pub(crate) fn set(&mut self, reference: Reference, place: Option<Place>) {
        let number = reference.0 as usize;
        if number / PAGE >= self.pages.len() {
            if place.is_none() {
                return;
            }
            self.pages.resize_with(number / PAGE + 1, || None);
        }
        let page = &mut self.pages[number / PAGE];
        if page.is_none() && place.is_none() {
            return;
        }
        let page = page.get_or_insert_with(|| Box::new([Place::NOWHERE; PAGE]));
        page[number % PAGE] = place.unwrap_or(Place::NOWHERE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(number: u32) -> Reference {
        Reference::new(number).expect("a number below the bound")
    }

    #[test]
    fn a_reference_leads_to_what_it_was_set_to_last() {
        let mut dictionary = Dictionary::default();
        let place = |slot| Place { slot: SlotId(slot), generation: 3 };
        for number in [0, 5, 1023, 1024, MAX_REFERENCES - 1] {
            assert_eq!(dictionary.get(reference(number)), None);
            dictionary.set(reference(number), Some(place(number + 1)));
            assert_eq!(dictionary.get(reference(number)), Some(place(number + 1)));
        }
        dictionary.set(reference(5), None);
        assert_eq!(dictionary.get(reference(5)), None);
        assert_eq!(dictionary.get(reference(0)), Some(place(1)));
    }

    #[test]
    fn only_pages_that_are_used_take_memory() {
        let mut dictionary = Dictionary::default();
        dictionary.set(reference(MAX_REFERENCES - 1), None);
        assert!(dictionary.pages.is_empty());
        dictionary.set(reference(70_000), Some(Place { slot: SlotId(1), generation: 0 }));
        dictionary.set(reference(3), None);
        assert_eq!(dictionary.pages.iter().flatten().count(), 1);
        assert_eq!(Reference::new(MAX_REFERENCES), None);
    }
}
