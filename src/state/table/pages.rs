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

/// Entries on their way to a page, with their hashes, and their stamps if there are any.
struct Part<K, V> {
    entries: Vec<Entry<K, V>>,
    hashes: Vec<u64>,
    stamps: Vec<u32>,
}

impl<K, V> Part<K, V> {
    fn with_capacity(entries: usize) -> Self {
        Self { entries: Vec::with_capacity(entries), hashes: Vec::with_capacity(entries), stamps: Vec::new() }
    }
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

    /// Brings the entry near that a search for a hash will most likely look at first, or where one would be put if there is none; gives its
    /// number.
    #[inline]
    pub(super) fn prefetch_entry(&self, at: usize, hash: u64) -> Option<ElementId> {
        let (index, end) = (self.indices.get(at)?, self.heads.get(at)?.len());
        let id = index.id(index.home_word(hash).likely(tag(hash)).unwrap_or(end));
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
            self.own(u32::try_from(at).ok()?, block);
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
            self.give_back(at, place, block);
        }
        Some(entry)
    }

    /// Takes the entries of the last block of a page; gives the place of the first of them.
    fn pop_block(&mut self, at: usize, into: &mut Vec<Entry<K, V>>) -> Option<usize> {
        let first = self.heads.get(at)?.len().checked_sub(1)? / BLOCK * BLOCK;
        let block = self.id_at(at, first)? / BLOCK as u32;
        self.entries.take_all(block, into);
        let head = self.heads.get_mut(at)?;
        head.len = u32::try_from(first).ok()?;
        self.give_back(at, first, block);
        Some(first)
    }

    /// The block of a page from this place on is empty, and the last.
    fn give_back(&mut self, at: usize, first: usize, block: u32) {
        if first >= PLACES
            && let Some(page) = self.pages.get_mut(at)
        {
            page.more.pop();
        }
        if let Some((from, to)) = self.entries.give_back(block) {
            self.moved(from, to);
        }
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
        let hashes: Vec<u64> = self.entries_of(at).map(|entry| rehash(&entry.key)).collect();
        let (Some(head), Some(page)) = (self.heads.get_mut(at), self.pages.get_mut(at)) else { return };
        let hashes_of_removed = page.hashes_of_removed();
        head.depth += 1;
        let (bit, upper) = (64 - head.depth(), Head::new(head.depth, head.clean));
        let mut above = Page::new(page.first | 1 << bit, upper.clean);
        let stamps = page.take_stamps();
        page.split_removed(&hashes_of_removed, &mut above, bit);
        let new = self.pages.len();
        self.add(upper, above);
        // All of them leave, block by block from the last on, and come back where they belong.
        let (mut block, mut parts) =
            (Vec::with_capacity(BLOCK), [(); 2].map(|()| Part::with_capacity(hashes.len())));
        while let Some(first) = self.pop_block(at, &mut block) {
            for (place, entry) in (first..).zip(block.drain(..)) {
                let hash = hashes.get(place).copied().unwrap_or_default();
                let [below, above] = &mut parts;
                let part = if hash >> bit & 1 == 0 { below } else { above };
                part.entries.push(entry);
                part.hashes.push(hash);
                if !stamps.is_empty() {
                    part.stamps.push(stamps.get(place).copied().unwrap_or_default());
                }
            }
        }
        for (at, part) in [at, new].into_iter().zip(parts) {
            self.fill(at, part);
        }
    }

    /// Puts entries into a page that has none.
    fn fill(&mut self, at: usize, part: Part<K, V>) {
        let (Ok(owner), Some(page)) = (u32::try_from(at), self.pages.get_mut(at)) else { return };
        page.set_stamps(part.stamps);
        let mut entries = part.entries.into_iter();
        while let Some((block, len)) = self.entries.begin_with(&mut entries) {
            self.own(owner, block);
            let Some(head) = self.heads.get_mut(at) else { return };
            head.len += u32::try_from(len).unwrap_or_default();
        }
        self.rebuild_with(at, &part.hashes);
    }

    /// A block is the next one of a page.
    fn own(&mut self, owner: u32, block: u32) {
        let at = owner as usize;
        match self.owners.get_mut(block as usize) {
            Some(is) => *is = owner,
            None => self.owners.push(owner),
        }
        let first = self.len_of(at) / BLOCK;
        match self.indices.get_mut(at).and_then(|index| index.blocks.get_mut(first)) {
            Some(is) => *is = block,
            None => self.pages.get_mut(at).into_iter().for_each(|page| page.more.push(block)),
        }
    }

    /// Puts an entry from another page, with its stamp.
    fn put_stamped(&mut self, at: usize, hash: u64, entry: Entry<K, V>, stamp: u32) {
        if let Some((place, _)) = self.put(at, hash, entry)
            && stamp > 0
            && let Some(page) = self.pages.get_mut(at)
        {
            page.set_stamp(place, stamp);
        }
    }

    /// Makes one page of the two halves of its hashes: `upper` is no more, and the last page has its number. All snapshots must have what they
    /// need of both.
    pub(super) fn merge(&mut self, lower: usize, upper: usize) -> Option<()> {
        // First what calls the key's own serde.
        let hashes: Vec<u64> = self.entries_of(upper).map(|entry| rehash(&entry.key)).collect();
        for (last, hash) in hashes.into_iter().enumerate().rev() {
            let stamp = self.pages.get(upper)?.stamp(last);
            let entry = self.pop(upper)?;
            self.put_stamped(lower, hash, entry, stamp);
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

    /// Bytes that they hold, without what keys and values own beside themselves, and without notes.
    pub(super) fn bytes(&self) -> usize {
        self.pages.len() * (size_of::<Page<K>>() + size_of::<Index>())
            + self.entries.bytes()
            + self.heads.capacity() * size_of::<Head>()
            + self.owners.capacity() * size_of::<u32>()
    }
}
