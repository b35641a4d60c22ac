//! Where the entries of a small table were found last: most searches end at the first look.
//!
//! A slot may say anything: what it leads to counts only if it has the key. So nothing has to be kept up to date when entries move, and two
//! keys that share a slot only cost each other the short way.

/// How many slots there are at most: beyond, looking here would cost more than it saves, for the processor's cache would not hold them.
const MOST: usize = 1 << 16;

/// The least, once there are any.
const LEAST: usize = 64;

/// How many slots there are for each entry at least: with fewer, too many keys share one.
const SPARE: usize = 4;

/// For each value of some bits of a hash, a page and a place in it. Empty for a large table.
#[derive(Debug, Default)]
pub(super) struct Hints {
    slots: Box<[u32]>,
}

/// Of a place: as many bits as a page has places that slots of an index can lead to.
const PLACE_BITS: u32 = super::word::PLACES.trailing_zeros();

impl Hints {
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // as many bits as there are slots
    fn slot(&self, hash: u64) -> usize {
        // Bits that are neither a page's nor a tag's.
        (hash >> 20) as usize & self.slots.len().wrapping_sub(1)
    }

    /// The page and the place to look at first, if this table has hints.
    #[inline]
    pub(super) fn get(&self, hash: u64) -> Option<(usize, usize)> {
        let hint = *self.slots.get(self.slot(hash))?;
        Some(((hint >> PLACE_BITS) as usize, hint as usize & (super::word::PLACES - 1)))
    }

    /// An entry was found there.
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // a small table has few pages
    pub(super) fn set(&mut self, hash: u64, page: usize, place: usize) {
        let slot = self.slot(hash);
        if let Some(hint) = self.slots.get_mut(slot) {
            *hint = (page << PLACE_BITS | place & (super::word::PLACES - 1)) as u32;
        }
    }

    /// The table has so many entries now.
    #[inline]
    pub(super) fn fit(&mut self, entries: usize) {
        if entries * SPARE > self.slots.len() && !(self.slots.is_empty() && entries > MOST / SPARE) {
            self.grow(entries);
        }
    }

    #[cold]
    fn grow(&mut self, entries: usize) {
        let slots = (entries * SPARE * 2).next_power_of_two().max(LEAST);
        self.slots = if entries * SPARE > MOST { Box::default() } else { vec![0; slots.min(MOST)].into() };
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
    fn room_grows_with_the_table_and_is_given_up_for_a_large_one() {
        let mut hints = Hints::default();
        for entries in 1..=MOST / SPARE {
            hints.fit(entries);
            assert!((SPARE * entries..=MOST).contains(&hints.slots.len()) || hints.slots.len() == LEAST);
        }
        assert_eq!(hints.bytes(), MOST * 4);
        for entries in [MOST / SPARE + 1, 2 * MOST, 1 << 30] {
            hints.fit(entries);
            assert_eq!((hints.bytes(), hints.get(7)), (0, None));
        }
    }
}
