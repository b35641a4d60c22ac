//! Four slots of a page's index in one word: where entries are found, four comparisons at a time.
//!
//! A slot has six bits of hash, the *tag*, above ten bits of place. Tag 0 is no entry: place 0 of it a slot that was never used, where a
//! search ends; place 1 one whose entry was removed, where it goes on.

/// The number of slots in a word.
pub(super) const SLOTS: usize = 4;

/// How many entries slots can lead to.
pub(super) const PLACES: usize = 1 << PLACE_BITS;

const PLACE_BITS: u32 = 10;
const SLOT_BITS: u32 = 16;
const SLOT: u64 = (1 << SLOT_BITS) - 1;
const EMPTY: u64 = 0;
const REMOVED: u64 = 1;

/// The lowest bit of each slot.
const LOW: u64 = 0x0001_0001_0001_0001;
/// The highest bit of each slot.
const HIGH: u64 = LOW << (SLOT_BITS - 1);
/// The tags.
const TAGS: u64 = LOW * (SLOT & !(PLACES as u64 - 1));

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Word(u64);

/// Slots of a word, as their highest bits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Matches(u64);

impl Matches {
    /// The first of them.
    #[inline]
    pub(super) fn first(self) -> Option<u32> {
        (self.0 != 0).then(|| self.0.trailing_zeros() / SLOT_BITS)
    }

    /// Without the first.
    #[inline]
    pub(super) fn rest(self) -> Self {
        Self(self.0 & self.0.wrapping_sub(1))
    }
}

/// What a slot keeps of a hash: its lowest bits, which place nothing.
#[inline]
pub(super) fn tag(hash: u64) -> u64 {
    (hash & 63).max(1)
}

/// The slots in which all bits are zero, if in every other one a bit above the lowest is set. (After Mycroft's test for a zero byte: no
/// borrow reaches the highest bit of such a slot.)
#[inline]
fn zero_slots(bits: u64) -> Matches {
    Matches(bits.wrapping_sub(LOW) & !bits & HIGH)
}

impl Word {
    /// The slots with this tag.
    #[inline]
    pub(super) fn matching(self, tag: u64) -> Matches {
        zero_slots((self.0 ^ (LOW * (tag << PLACE_BITS))) & TAGS)
    }

    /// Where the entry of a slot is.
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // ten bits
    pub(super) fn place(self, slot: u32) -> usize {
        (self.0 >> (slot * SLOT_BITS) & (PLACES as u64 - 1)) as usize
    }

    /// Where the first entry with this tag is.
    #[inline]
    pub(super) fn likely(self, tag: u64) -> Option<usize> {
        let matching = self.matching(tag).0;
        let place = self.place((matching.trailing_zeros() / SLOT_BITS) & (SLOTS as u32 - 1));
        (matching != 0).then_some(place)
    }

    /// Whether an entry that is not here can be in no later word.
    #[inline]
    pub(super) fn ends_search(self) -> bool {
        self.slots().any(|slot| slot == EMPTY)
    }

    /// A slot that can take an entry.
    #[inline]
    pub(super) fn free(self) -> Option<u32> {
        zero_slots(self.0 & TAGS).first()
    }

    fn slots(self) -> impl Iterator<Item = u64> {
        (0..SLOTS as u32).map(move |slot| self.0 >> (slot * SLOT_BITS) & SLOT)
    }

    fn set(&mut self, slot: u32, to: u64) -> u64 {
        let shift = slot * SLOT_BITS;
        let old = self.0 >> shift & SLOT;
        self.0 ^= (old ^ to) << shift;
        old
    }

    /// Makes a free slot lead to a place; gives whether it was never used before.
    pub(super) fn put(&mut self, slot: u32, tag: u64, place: u64) -> bool {
        self.set(slot, tag << PLACE_BITS | place) == EMPTY
    }

    /// Makes a slot lead to another place.
    pub(super) fn redirect(&mut self, slot: u32, place: u64) {
        let tag = self.0 >> (slot * SLOT_BITS + PLACE_BITS) & 63;
        self.set(slot, tag << PLACE_BITS | place);
    }

    /// Frees a slot; gives whether it must be kept from ending searches.
    pub(super) fn remove(&mut self, slot: u32) -> bool {
        // Where a search ends anyway, no entry lies beyond that this slot could hide.
        let keeps = !self.ends_search();
        self.set(slot, if keeps { REMOVED } else { EMPTY });
        keeps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(word: Word, tag: u64) -> Vec<usize> {
        let each = std::iter::successors(Some(word.matching(tag)), |matches| Some(matches.rest()));
        each.map_while(Matches::first).map(|slot| word.place(slot)).collect()
    }

    #[test]
    fn exactly_the_slots_with_the_tag_are_found() {
        for a in 1..64 {
            for b in (1..64).filter(|b| *b != a) {
                for mask in 0..16_u32 {
                    let mut word = Word::default();
                    for slot in 0..4 {
                        let tag = if mask >> slot & 1 == 1 { a } else { b };
                        assert!(word.put(slot, tag, u64::from(1023 - slot)));
                    }
                    let expected: Vec<usize> =
                        (0..4).filter(|slot| mask >> slot & 1 == 1).map(|slot| 1023 - slot).collect();
                    assert_eq!(found(word, a), expected);
                    if mask != 0 {
                        assert_eq!(word.likely(a), Some(expected[0]));
                    }
                    assert!(!word.ends_search());
                }
            }
        }
        assert_eq!(tag(0), 1);
        assert!((0..1000).all(|hash| (1..64).contains(&tag(hash))));
    }

    #[test]
    fn no_entry_is_found_in_a_free_slot() {
        let mut word = Word::default();
        word.put(1, 63, 0);
        assert!((1..63).all(|tag| found(word, tag).is_empty()));
        for slot in [0, 2, 3] {
            word.put(slot, 1, 1);
        }
        word.remove(1);
        assert!((2..64).all(|tag| found(word, tag).is_empty()));
        assert_eq!(word.free(), Some(1));
    }

    #[test]
    fn a_removed_slot_ends_a_search_only_if_one_did_before() {
        let mut word = Word::default();
        for slot in 0..4 {
            word.put(slot, 9, 7);
        }
        assert!(word.remove(2));
        assert!(!word.ends_search());
        assert!(!word.put(2, 9, 7), "it had been used");
        word.redirect(3, 1000);
        assert_eq!(found(word, 9), [7, 7, 7, 1000]);
        let mut word = Word::default();
        word.put(0, 9, 5);
        assert!(!word.remove(0));
        assert_eq!(word, Word::default());
    }
}
