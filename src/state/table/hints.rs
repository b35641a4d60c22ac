//! Where entries are to be looked for first: where those of a small table were found last, and where those of a large one will be that
//! are used next. Most searches end at the first look.
//!
//! A slot may say anything: what it leads to counts only if it has the key. So nothing has to be kept up to date when entries move, and two
//! keys that share a slot only cost each other the short way.

use crate::state::raw::ElementId;

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

/// For each value of some bits of a hash, the number of an entry.
#[derive(Debug, Default)]
pub(super) struct Hints {
    slots: Box<[ElementId]>,
    /// One less than there are slots; 0 without any.
    mask: usize,
    /// Whether they are for the keys that are used next.
    is_for_next: bool,
}

/// Hints to be set, many in a row.
#[derive(Debug)]
pub(super) struct Writer<'h> {
    slots: &'h mut [ElementId],
    mask: usize,
}

impl Writer<'_> {
    /// The entry is there, or will be looked for there first.
    #[inline]
    pub(super) fn set(&mut self, hash: u64, id: ElementId) {
        if let Some(hint) = self.slots.get_mut(slot(hash, self.mask)) {
            *hint = id;
        }
    }
}

#[inline]
#[allow(clippy::cast_possible_truncation)] // as many bits as there are slots
fn slot(hash: u64, mask: usize) -> usize {
    // Bits that are neither a page's nor a tag's.
    (hash >> 20) as usize & mask
}

impl Hints {
    /// The entry to look at first.
    #[inline]
    pub(super) fn get(&self, hash: u64) -> Option<ElementId> {
        self.slots.get(slot(hash, self.mask)).copied()
    }

    #[inline]
    pub(super) fn writer(&mut self) -> Writer<'_> {
        Writer { slots: &mut self.slots, mask: self.mask }
    }

    /// An entry was found there. Of a large table it is not kept: the next entry to be looked for will be another, and a wrong guess costs
    /// what a miss of the cache does.
    #[inline]
    pub(super) fn found(&mut self, hash: u64, id: ElementId) {
        if !self.is_for_next {
            self.writer().set(hash, id);
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
        self.is_for_next = entries > MOST / TIGHT;
        self.slots = vec![0; if self.is_for_next { NEXT } else { slots }].into();
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
        hints.found(5 << 20, 1023);
        assert_eq!(hints.get(5 << 20), Some(1023));
        assert_eq!(hints.get((5 + LEAST as u64) << 20), Some(1023), "shared");
        assert_eq!(hints.get(6 << 20), Some(0));
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
            hints.found(9 << 20, 7);
            assert_eq!(hints.get(9 << 20), Some(0), "only what is used next");
            hints.writer().set(9 << 20, 7);
            assert_eq!(hints.get(9 << 20), Some(7));
            hints.writer().set(9 << 20, 0);
        }
    }
}
