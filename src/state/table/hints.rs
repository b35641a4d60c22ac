//! Where entries are to be looked for first: where those of a small table were found last, and where those of a large one will be that
//! are used next. Most searches end at the first look.
//!
//! A slot may say anything: what it leads to counts only if it has the key. So nothing has to be kept up to date when entries move, and two
//! keys that share a slot only cost each other the short way.

/// How many slots there are at most: the processor's cache should hold them.
const MOST: usize = 1 << 16;

/// How many there are when that would be too few: room for the keys that are used next.
const NEXT: usize = 1 << 11;

/// The least, once there are any.
const LEAST: usize = 64;

/// How many slots there are for each entry if there may be so many: each key that shares one with another costs a wrong guess.
const SPARE: usize = 16;

/// How many there are for each entry at least: with fewer, looking there first does not pay.
const TIGHT: usize = 4;

/// For each value of some bits of a hash, a page and a place in it.
#[derive(Debug, Default)]
pub(super) struct Hints {
    slots: Box<[u32]>,
    /// One less than there are slots; 0 without any.
    mask: usize,
}

/// Of a place: as many bits as a page has places that slots of an index can lead to.
const PLACE_BITS: u32 = super::word::PLACES.trailing_zeros();

impl Hints {
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // as many bits as there are slots
    fn slot(&self, hash: u64) -> usize {
        // Bits that are neither a page's nor a tag's.
        (hash >> 20) as usize & self.mask
    }

    /// The page and the place to look at first.
    #[inline]
    pub(super) fn get(&self, hash: u64) -> Option<(usize, usize)> {
        let hint = *self.slots.get(self.slot(hash))?;
        Some(((hint >> PLACE_BITS) as usize, hint as usize & (super::word::PLACES - 1)))
    }

    /// An entry was found there.
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // what does not fit leads nowhere, or to another key
    pub(super) fn set(&mut self, hash: u64, page: usize, place: usize) {
        let slot = self.slot(hash);
        if let Some(hint) = self.slots.get_mut(slot) {
            *hint = (page << PLACE_BITS | place & (super::word::PLACES - 1)) as u32;
        }
    }

    /// The table has so many entries now.
    #[inline]
    pub(super) fn fit(&mut self, entries: usize) {
        let slots = self.slots.len();
        if entries * SPARE > slots && (slots == MOST) == (entries > MOST / TIGHT) {
            self.resize(entries);
        }
    }

    #[cold]
    fn resize(&mut self, entries: usize) {
        let slots = (entries * SPARE).next_power_of_two().clamp(LEAST, MOST);
        self.slots = vec![0; if entries > MOST / TIGHT { NEXT } else { slots }].into();
        self.mask = self.slots.len() - 1;
    }

    /// Bytes of memory that it holds.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.slots)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_gives_what_was_put_in_last() {
        let mut hints = Hints::default();
        assert_eq!(hints.get(5 << 20), None, "nothing before the first entry");
        hints.fit(1);
        hints.set(5 << 20, 3, 1023);
        assert_eq!(hints.get(5 << 20), Some((3, 1023)));
        assert_eq!(hints.get((5 + LEAST as u64) << 20), Some((3, 1023)), "shared");
        assert_eq!(hints.get(6 << 20), Some((0, 0)));
    }

    #[test]
    fn room_grows_with_the_table_and_is_small_for_a_large_one() {
        let mut hints = Hints::default();
        for entries in 1..=MOST / TIGHT {
            hints.fit(entries);
            assert!((MOST.min(SPARE * entries)..=MOST).contains(&hints.slots.len()));
        }
        assert_eq!(hints.bytes(), MOST * 4);
        for entries in [MOST / TIGHT + 1, 2 * MOST, 1 << 30] {
            hints.fit(entries);
            assert_eq!(hints.bytes(), NEXT * 4);
        }
    }
}
