//! The pages of a table, with their entries and indices.

use super::page::{Entry, Head, Index, Page, rehash};
use super::word::{PLACES, tag};
use crate::state::raw::{BLOCK, ElementId, Slab, StableVec, element_id, prefetch_at};
use crate::state::{Key, StateValue};

/// Where an entry is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    word: usize,
    slot: u32,
    pub(super) place: usize,
    pub(super) id: ElementId,
}

/// Pages by number; their entries are in blocks, so that none moves as a page grows.
#[derive(Debug)]
pub(super) struct Pages<K, V> {
    pages: StableVec<Page<K>>,
    /// By page.
    heads: Vec<Head>,
    /// By page.
    indices: StableVec<Index>,
    entries: Slab<Entry<K, V>>,
    /// By block, the page that has it.
    owners: Vec<u32>,
}

impl<K: Key, V: StateValue> Default for Pages<K, V> {
    fn default() -> Self {
        Self {
            pages: StableVec::default(),
            heads: Vec::new(),
            indices: StableVec::default(),
            entries: Slab::default(),
            owners: Vec::new(),
        }
    }
}

impl<K: Key, V: StateValue> Pages<K, V> {
    /// Number of pages.
    pub(super) fn len(&self) -> usize {
        self.pages.len()
    }

    pub(super) fn add(&mut self, head: Head, page: Page<K>) {
        self.heads.push(head);
        self.pages.push(page);
        self.indices.push(Index::default());
    }

    #[inline]
    pub(super) fn head(&self, at: usize) -> Option<Head> {
        self.heads.get(at).copied()
    }

    fn len_of(&self, at: usize) -> usize {
        self.heads.get(at).map_or(0, |head| head.len())
    }

    /// Snapshots frozen up to this one have all of a page, and nothing has changed since.
    pub(super) fn make_clean(&mut self, at: usize, epoch: u32) {
        if let (Some(head), Some(page)) = (self.heads.get_mut(at), self.pages.get_mut(at)) {
            head.clean = epoch;
            page.forget_saved();
        }
    }

    #[inline]
    pub(super) fn page(&self, at: usize) -> Option<&Page<K>> {
        self.pages.get(at)
    }

    #[inline]
    pub(super) fn page_mut(&mut self, at: usize) -> Option<&mut Page<K>> {
        self.pages.get_mut(at)
    }

    #[inline]
    pub(super) fn entry(&self, id: ElementId) -> Option<&Entry<K, V>> {
        self.entries.get(id)
    }

    #[inline]
    pub(super) fn entry_mut(&mut self, id: ElementId) -> Option<&mut Entry<K, V>> {
        self.entries.get_mut(id)
    }

    /// The blocks of a page, in order.
    fn blocks_of(&self, at: usize) -> impl Iterator<Item = u32> {
        let page = self.pages.get(at);
        let first = self.indices.get(at).into_iter().flat_map(|index| index.blocks);
        let more = page.into_iter().flat_map(|page| page.more.iter().copied());
        first.chain(more).take(self.len_of(at).div_ceil(BLOCK))
    }

    /// The number of the entry at a place of a page, if there is one.
    fn id_at(&self, at: usize, place: usize) -> Option<ElementId> {
        match place.checked_sub(PLACES) {
            None => Some(self.indices.get(at)?.id(place)),
            Some(beyond) => Some(element_id(*self.pages.get(at)?.more.get(beyond / BLOCK)?, place)),
        }
    }

    /// The entries of a page, in the order of their places.
    pub(super) fn entries_of(&self, at: usize) -> impl Iterator<Item = &Entry<K, V>> {
        let next = self.blocks_of(at).skip(1).map(Some).chain([None]);
        self.blocks_of(at).zip(next).flat_map(|(block, next)| {
            next.into_iter().for_each(|next| self.entries.prefetch_block(next));
            self.entries.block(block)
        })
    }

    /// The keys of all entries.
    pub(super) fn keys(&self) -> impl Iterator<Item = &K> {
        (0..self.pages.len()).flat_map(|at| self.entries_of(at)).map(|entry| &entry.key)
    }

    /// The entries of a page that the snapshot of a freeze does not have yet, with their places.
    pub(super) fn missing(&self, at: usize, epoch: u32) -> impl Iterator<Item = (usize, &Entry<K, V>)> {
        let some_saved = self.pages.get(at).filter(|page| page.touched == epoch);
        let entries = self.entries_of(at).enumerate();
        entries.filter(move |(place, _)| some_saved.is_none_or(|page| !page.is_saved(*place)))
    }

    /// Brings near what a search for a hash looks at before entries.
    #[inline]
    pub(super) fn prefetch_index(&self, at: usize, hash: u64) {
        if let Some(index) = self.indices.get(at) {
            index.prefetch(hash);
        }
    }

    /// Brings the entry near that a search for a hash will most likely look at first; gives its number.
    #[inline]
    pub(super) fn prefetch_entry(&self, at: usize, hash: u64) -> Option<ElementId> {
        let index = self.indices.get(at)?;
        let id = index.id(index.home_word(hash).likely(tag(hash)));
        prefetch_at(self.entries.address(id));
        Some(id)
    }

    /// The place of an entry, if the first word leads to it: nearly always.
    #[inline]
    pub(super) fn find_at_home(&self, at: usize, key: &K, hash: u64) -> Option<(usize, ElementId)> {
        let index = self.indices.get(at)?;
        let word = index.home_word(hash);
        let mut matching = word.matching(tag(hash));
        loop {
            let place = word.place(matching.first()?);
            let id = index.id(place);
            if self.entries.get(id)?.key == *key {
                return Some((place, id));
            }
            matching = matching.rest();
        }
    }

    pub(super) fn find(&self, at: usize, key: &K, hash: u64) -> Option<Found> {
        let (tag, index, head) = (tag(hash), self.indices.get(at)?, self.heads.get(at)?);
        let home = index.home_word(hash);
        if home.matching(tag).first().is_none() && home.ends_search() && !head.is_full() {
            return None;
        }
        for (nth, word) in index.search(hash) {
            let mut matching = word.matching(tag);
            while let Some(slot) = matching.first() {
                let place = word.place(slot);
                let id = index.id(place);
                if self.entries.get(id).is_some_and(|entry| entry.key == *key) {
                    return Some(Found { word: nth, slot, place, id });
                }
                matching = matching.rest();
            }
            if word.ends_search() {
                break;
            }
        }
        if head.is_full() { self.find_beyond(at, key) } else { None }
    }

    /// Looks through the entries that no slot leads to.
    #[cold]
    fn find_beyond(&self, at: usize, key: &K) -> Option<Found> {
        let beyond = (PLACES..).step_by(BLOCK).zip(&self.pages.get(at)?.more);
        beyond.take_while(|(first, _)| *first < self.len_of(at)).find_map(|(first, block)| {
            let nth = self.entries.block(*block).iter().position(|entry| entry.key == *key)?;
            let place = first + nth;
            Some(Found { word: usize::MAX, slot: 0, place, id: element_id(*block, place) })
        })
    }

    /// Puts a new entry into a page that has room; gives its place and its number.
    pub(super) fn put(&mut self, at: usize, hash: u64, entry: Entry<K, V>) -> Option<(usize, ElementId)> {
        let (place, id) = self.push(at, entry)?;
        self.lead(at, hash, place);
        Some((place, id))
    }

    /// Puts an entry at the end of a page.
    fn push(&mut self, at: usize, entry: Entry<K, V>) -> Option<(usize, ElementId)> {
        let place = self.heads.get(at)?.len();
        let id = if place.is_multiple_of(BLOCK) {
            let block = self.entries.begin(entry);
            let owner = u32::try_from(at).ok()?;
            match self.owners.get_mut(block as usize) {
                Some(is) => *is = owner,
                None => self.owners.push(owner),
            }
            match self.indices.get_mut(at)?.blocks.get_mut(place / BLOCK) {
                Some(is) => *is = block,
                None => self.pages.get_mut(at)?.more.push(block),
            }
            element_id(block, 0)
        } else {
            let id = self.id_at(at, place)?;
            self.entries.push(id / BLOCK as u32, entry).ok()?;
            id
        };
        self.heads.get_mut(at)?.len += 1;
        Some((place, id))
    }

    /// Takes the last entry of a page.
    fn pop(&mut self, at: usize) -> Option<Entry<K, V>> {
        let place = self.heads.get(at)?.len().checked_sub(1)?;
        let block = self.id_at(at, place)? / BLOCK as u32;
        let entry = self.entries.pop(block)?;
        self.heads.get_mut(at)?.len -= 1;
        if place.is_multiple_of(BLOCK) {
            if place >= PLACES {
                self.pages.get_mut(at)?.more.pop();
            }
            if let Some((from, to)) = self.entries.give_back(block) {
                self.moved(from, to);
            }
        }
        Some(entry)
    }

    /// A block has got another number.
    #[cold]
    fn moved(&mut self, from: u32, to: u32) {
        let Some(owner) = self.owners.get(from as usize).copied() else { return };
        if let Some(is) = self.owners.get_mut(to as usize) {
            *is = owner;
        }
        let at = owner as usize;
        let nth = self.blocks_of(at).position(|block| block == from);
        let blocks = self.indices.get_mut(at).into_iter().flat_map(|index| &mut index.blocks);
        let more = self.pages.get_mut(at).into_iter().flat_map(|page| &mut page.more);
        if let Some(block) = nth.and_then(|nth| blocks.chain(more).nth(nth)) {
            *block = to;
        }
    }

    /// Makes a slot lead to a place.
    fn lead(&mut self, at: usize, hash: u64, place: usize) {
        if place >= PLACES {
            return;
        }
        let (Some(head), Some(index)) = (self.heads.get_mut(at), self.indices.get_mut(at)) else { return };
        head.used += u16::from(index.lead(hash, place));
    }

    /// Takes an entry out of a page. The last one moves to its place.
    pub(super) fn remove(&mut self, at: usize, found: Found) -> Option<Entry<K, V>> {
        let last = self.heads.get(at)?.len().checked_sub(1)?;
        let moved = (found.place != last).then(|| {
            let moved = self.entries.get(self.id_at(at, last)?)?;
            let hash = rehash(&moved.key);
            Some((hash, self.find(at, &moved.key, hash)))
        });
        let (head, index) = (self.heads.get_mut(at)?, self.indices.get_mut(at)?);
        if found.place < PLACES {
            head.used -= u16::from(!index.word_mut(found.word).remove(found.slot));
        }
        self.pages.get_mut(at)?.note_moved(last, found.place);
        if let Some((hash, moved)) = moved.flatten() {
            match moved.filter(|moved| moved.place < PLACES) {
                Some(moved) => index.word_mut(moved.word).redirect(moved.slot, found.place as u64),
                // It was beyond, and may come within.
                None => self.lead(at, hash, found.place),
            }
        }
        let last = self.pop(at)?;
        self.replace(at, found.place, last)
    }

    /// Puts what was the last entry of a page to its place, and gives what was there.
    fn replace(&mut self, at: usize, place: usize, last: Entry<K, V>) -> Option<Entry<K, V>> {
        if place == self.len_of(at) {
            return Some(last);
        }
        // Not from before: blocks may have moved.
        let id = self.id_at(at, place)?;
        Some(std::mem::replace(self.entries.get_mut(id)?, last))
    }

    /// Makes a page's index anew, without slots whose entries were removed.
    pub(super) fn rebuild(&mut self, at: usize) {
        let hashes: Vec<u64> = self.entries_of(at).take(PLACES).map(|entry| rehash(&entry.key)).collect();
        self.rebuild_with(at, &hashes);
    }

    fn rebuild_with(&mut self, at: usize, hashes: &[u64]) {
        let (Some(head), Some(index)) = (self.heads.get_mut(at), self.indices.get_mut(at)) else { return };
        head.used = 0;
        index.clear();
        for (place, hash) in hashes.iter().enumerate() {
            self.lead(at, *hash, place);
        }
    }

    /// Gives the upper half of a page's hashes to a new page, the last one. All snapshots must have what they need of it.
    pub(super) fn split(&mut self, at: usize) {
        // First what calls the key's own serde: a panic in there must leave all as it is.
        let mut hashes: Vec<u64> = self.entries_of(at).map(|entry| rehash(&entry.key)).collect();
        let (Some(head), Some(page)) = (self.heads.get_mut(at), self.pages.get_mut(at)) else { return };
        let hashes_of_removed = page.hashes_of_removed();
        head.depth += 1;
        let (bit, upper) = (64 - head.depth(), Head::new(head.depth, head.clean));
        let mut above = Page::new(page.first | 1 << bit, upper.clean);
        page.split_removed(&hashes_of_removed, &mut above, bit);
        let new = self.pages.len();
        self.add(upper, above);
        // From the end, so that what moves to a place has been looked at.
        for place in (0..hashes.len()).rev() {
            let hash = hashes.get(place).copied().unwrap_or_default();
            if hash >> bit & 1 == 0 {
                continue;
            }
            hashes.swap_remove(place);
            let Some((entry, stamp)) = self.swap_remove(at, place) else { return };
            if let Some((place, _)) = self.put(new, hash, entry)
                && stamp > 0
                && let Some(upper) = self.pages.get_mut(new)
            {
                upper.set_stamp(place, stamp);
            }
        }
        self.rebuild_with(at, &hashes);
    }

    /// Makes one page of the two halves of its hashes: `upper` is no more, and the last page has its number. All snapshots must have what they
    /// need of both.
    pub(super) fn merge(&mut self, lower: usize, upper: usize) -> Option<()> {
        // First what calls the key's own serde.
        let hashes: Vec<u64> = self.entries_of(upper).map(|entry| rehash(&entry.key)).collect();
        for (last, hash) in hashes.into_iter().enumerate().rev() {
            let stamp = self.pages.get(upper)?.stamp(last);
            let entry = self.pop(upper)?;
            let (place, _) = self.put(lower, hash, entry)?;
            if stamp > 0 {
                self.pages.get_mut(lower)?.set_stamp(place, stamp);
            }
        }
        let (mut gone, mut index) = (self.pages.pop()?, self.indices.pop()?);
        self.heads.swap_remove(upper);
        if upper < self.pages.len() {
            std::mem::swap(self.pages.get_mut(upper)?, &mut gone);
            std::mem::swap(self.indices.get_mut(upper)?, &mut index);
            let owner = u32::try_from(upper).ok()?;
            let blocks: Vec<u32> = self.blocks_of(upper).collect();
            for block in blocks {
                *self.owners.get_mut(block as usize)? = owner;
            }
        }
        let lower = if lower == self.pages.len() { upper } else { lower };
        self.heads.get_mut(lower)?.depth -= 1;
        self.pages.get_mut(lower)?.merge_removed(gone);
        Some(())
    }

    /// Takes out an entry with its stamp. The last one moves to its place; the index is as it was.
    fn swap_remove(&mut self, at: usize, place: usize) -> Option<(Entry<K, V>, u32)> {
        let last = self.heads.get(at)?.len().checked_sub(1)?;
        let page = self.pages.get_mut(at)?;
        let stamp = page.stamp(place);
        page.note_moved(last, place);
        let last = self.pop(at)?;
        Some((self.replace(at, place, last)?, stamp))
    }

    /// Bytes that they hold, without what keys and values own beside themselves, and without notes.
    pub(super) fn bytes(&self) -> usize {
        self.pages.len() * (size_of::<Page<K>>() + size_of::<Index>())
            + self.entries.bytes()
            + self.heads.capacity() * size_of::<Head>()
            + self.owners.capacity() * size_of::<u32>()
    }
}
