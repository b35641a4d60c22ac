//! The keyed table on the heap.
//!
//! Entries are kept in *pages*, each for a range of hashes, found through a directory over the high bits of the hash (extendible
//! hashing, Fagin et al. 1979). A full page is split in two; the directory doubles when it must. So no step is proportional to the
//! number of entries, and the order of pages is that of key groups.
//!
//! A [freeze](Table::freeze) only counts an *epoch* up. The subtask that owns the table writes the snapshot itself, beside its
//! records: it [sweeps](Table::sweep) page after page, and **encodes an entry before it first changes it**. So a snapshot shares no
//! memory with the table: there is nothing to copy, nothing to lock, nothing to merge back, and what a change costs more while a
//! snapshot is pending is one encoding of the old value. Whether a snapshot needs an entry says, from the cheapest look to the most
//! exact: the page's `clean` epoch, the page's `touched` epoch, the entry's bit.

mod hints;
mod page;
mod pending;
mod word;

use super::handover::{Frozen, Room, handover};
use super::raw::prefetch;
use super::{Key, StateValue};
use crate::types::MaxParallelism;
use hints::Hints;
use page::{Entry, Found, Page};
use pending::{Pending, range};
use std::fmt;
use std::task::Context as TaskContext;

/// Bytes of entries that are taken to be in the processor's own cache.
const CACHED: usize = 512 << 10;

/// Values of one state, by key. Every method takes the key's stable hash beside the key.
pub struct Table<K, V> {
    /// The page for each value of the hashes' high `depth` bits.
    directory: Vec<u32>,
    depth: u32,
    pages: Vec<Page<K, V>>,
    hints: Hints,
    /// The pages of the keys that were last said to be used later.
    ahead: Vec<usize>,
    len: usize,
    /// Counts freezes.
    epoch: u32,
    /// Oldest first.
    pending: Vec<Pending>,
}

impl<K: Key, V: StateValue> Default for Table<K, V> {
    fn default() -> Self {
        Self {
            directory: vec![0],
            depth: 0,
            pages: vec![Page::new(0, 0)],
            hints: Hints::default(),
            ahead: Vec::new(),
            len: 0,
            epoch: 0,
            pending: Vec::new(),
        }
    }
}

impl<K, V> fmt::Debug for Table<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("len", &self.len).finish_non_exhaustive()
    }
}

impl<K: Key, V: StateValue> Table<K, V> {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of memory that it holds, without what keys and values own beside themselves.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let pages = self.pages.iter().map(Page::bytes).sum::<usize>();
        pages + self.directory.len() * size_of::<u32>() + self.hints.bytes()
    }

    /// The value of `key`.
    #[inline]
    #[must_use]
    pub fn get(&self, key: &K, hash: u64) -> Option<&V> {
        if let Some((at, place)) = self.hints.get(hash)
            && let Some(entry) = self.pages.get(at).and_then(|page| page.entries.get(place))
            && entry.key == *key
        {
            return Some(&entry.value);
        }
        let page = self.pages.get(self.page_of(hash))?;
        let place = match page.find_at_home(key, hash) {
            Some(place) => place,
            None => page.find(key, hash)?.place,
        };
        Some(&page.entries.get(place)?.value)
    }

    /// The value of `key`, to be changed in place.
    #[inline]
    pub fn get_mut(&mut self, key: &K, hash: u64) -> Option<&mut V> {
        let at = self.page_of(hash);
        let page = self.pages.get(at)?;
        let place = match page.find_at_home(key, hash) {
            Some(place) if page.clean == self.epoch => place,
            _ => {
                let found = page.find(key, hash)?;
                if page.clean != self.epoch {
                    self.before_change(at, hash, found);
                }
                found.place
            }
        };
        self.hints.set(hash, at, place);
        Some(&mut self.pages.get_mut(at)?.entries.get_mut(place)?.value)
    }

    /// Puts `value` in place of what was there; gives whether nothing was.
    #[inline]
    pub fn insert(&mut self, key: &K, hash: u64, value: V) -> bool {
        match self.get_mut(key, hash) {
            Some(old) => {
                *old = value;
                false
            }
            None => {
                self.insert_new(key, hash, value);
                true
            }
        }
    }

    /// Changes the value of `key` in place, made by `new` if there is none: one search.
    #[inline]
    pub fn update<R>(
        &mut self,
        key: &K,
        hash: u64,
        new: impl FnOnce() -> V,
        f: impl FnOnce(&mut V) -> R,
    ) -> R {
        if let Some((at, place)) = self.hints.get(hash)
            && let Some(page) = self.pages.get_mut(at)
            && page.clean == self.epoch
            && let Some(entry) = page.entries.get_mut(place)
            && entry.key == *key
        {
            return f(&mut entry.value);
        }
        let at = self.page_of(hash);
        if let Some(page) = self.pages.get_mut(at)
            && page.clean == self.epoch
            && let Some(place) = page.find_at_home(key, hash)
            && let Some(entry) = page.entries.get_mut(place)
        {
            self.hints.set(hash, at, place);
            return f(&mut entry.value);
        }
        self.update_or_insert(key, hash, new, f)
    }

    #[cold]
    fn update_or_insert<R>(
        &mut self,
        key: &K,
        hash: u64,
        new: impl FnOnce() -> V,
        f: impl FnOnce(&mut V) -> R,
    ) -> R {
        if let Some(value) = self.get_mut(key, hash) {
            return f(value);
        }
        let mut value = new();
        let result = f(&mut value);
        self.insert_new(key, hash, value);
        result
    }

    /// Removes the value of `key` and gives it.
    pub fn take(&mut self, key: &K, hash: u64) -> Option<V> {
        let at = self.page_of(hash);
        let page = self.pages.get(at)?;
        let found = page.find(key, hash)?;
        if page.clean != self.epoch {
            self.before_change(at, hash, found);
        }
        let page = self.pages.get_mut(at)?;
        let entry = page.remove(found);
        self.len -= 1;
        if page.entries.len() * 8 < page.entries.capacity() && page.entries.capacity() >= 64 {
            self.complete(at, hash, self.epoch);
            self.pages.get_mut(at)?.shrink();
        }
        Some(entry.value)
    }

    /// Removes the value of `key`; gives whether there was one.
    pub fn remove(&mut self, key: &K, hash: u64) -> bool {
        self.take(key, hash).is_some()
    }

    /// Brings near what is kept under keys that are used soon, and what leads to it for those that are used after them; so the processor
    /// waits for the memory of many of them at the same time. The keys of `soon` are those that were `later` in the call before. Does
    /// nothing while the table fits the cache.
    pub fn touch(&mut self, soon: &[u64], later: &[u64]) {
        if self.len <= CACHED / size_of::<Entry<K, V>>().max(1) {
            return;
        }
        let mut ahead = std::mem::take(&mut self.ahead);
        // A page may have been split in between: then the way is the long one, for those few.
        for (hash, at) in soon.iter().zip(&ahead) {
            if let Some((place, entry)) = self.pages.get(*at).and_then(|page| page.likely(*hash)) {
                prefetch(entry);
                self.hints.set(*hash, *at, place);
            }
        }
        ahead.clear();
        ahead.extend(later.iter().map(|hash| {
            let at = self.page_of(*hash);
            if let Some(word) = self.pages.get(at).and_then(|page| page.word(*hash)) {
                prefetch(word);
            }
            at
        }));
        self.ahead = ahead;
    }

    #[cold]
    fn insert_new(&mut self, key: &K, hash: u64, value: V) {
        let mut at = self.page_of(hash);
        while self.pages.get(at).is_some_and(|page| !page.has_room()) {
            // Entries are about to move.
            self.complete(at, hash, self.epoch);
            let splits = self.pages.get(at).is_some_and(Page::wants_split);
            if splits {
                self.split(at, hash);
            } else if let Some(page) = self.pages.get_mut(at) {
                page.grow();
            }
            at = self.page_of(hash);
        }
        let hidden =
            self.pages.get(at).is_some_and(|page| page.clean != self.epoch) && self.prepare(at, hash);
        let Some(page) = self.pages.get_mut(at) else { return };
        let place = page.put(hash, key.clone(), value);
        self.len += 1;
        self.hints.fit(self.len);
        // No pending snapshot knows it.
        if hidden {
            page.set_saved(place, true);
        }
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation)] // at most `DEPTH` bits
    fn page_of(&self, hash: u64) -> usize {
        // Twice, since no shift is by 64 bits.
        let high = (hash >> 1) >> (63 - self.depth);
        self.directory.get(high as usize).map_or(usize::MAX, |page| *page as usize)
    }

    fn split(&mut self, at: usize, hash: u64) {
        let Some(page) = self.pages.get_mut(at) else { return };
        if page.depth == self.depth {
            self.directory = self.directory.iter().flat_map(|page| [*page, *page]).collect();
            self.depth += 1;
        }
        let Ok(new) = u32::try_from(self.pages.len()) else { return };
        let (Some(page), depth) = (self.pages.get_mut(at), self.depth) else { return };
        let upper = page.split();
        let (first, last) = range(hash, page.depth - 1);
        let middle = first + (last - first) / 2 + 1;
        self.pages.push(upper);
        let of = |hash: u64| usize::try_from((hash >> 1) >> (63 - depth)).unwrap_or(usize::MAX);
        if let Some(pages) = self.directory.get_mut(of(middle)..=of(last)) {
            pages.fill(new);
        }
    }
}

/// Snapshots.
impl<K: Key, V: StateValue> Table<K, V> {
    /// Fixes the table as it is now for a snapshot, and goes on. Takes the same time at any size. The snapshot gets its content as the
    /// table is [swept](Self::sweep) and changed; it ends when it has all of it, or when the result is dropped. Any number may be
    /// pending.
    pub fn freeze(&mut self, max_parallelism: MaxParallelism) -> Frozen {
        self.epoch += 1;
        let (giver, frozen) = handover(self.len);
        self.pending.push(Pending::new(self.epoch, giver, max_parallelism));
        frozen
    }

    /// Encodes for the oldest pending snapshot what nothing has changed since, about `budget` entries. Gives whether there is more to
    /// do at once; if there is no room, the task will be woken.
    pub fn sweep(&mut self, budget: usize, task: &TaskContext<'_>) -> bool {
        self.pending.retain(|pending| !pending.to.is_given_up());
        let mut left = budget;
        while let Some(pending) = self.pending.first_mut() {
            if pending.to.room(task) != Room::Some {
                return false;
            }
            if left == 0 {
                return true;
            }
            let hash = pending.next;
            let high = (hash >> 1) >> (63 - self.depth);
            let Some(page) = usize::try_from(high)
                .ok()
                .and_then(|high| self.directory.get(high))
                .and_then(|page| self.pages.get_mut(*page as usize))
            else {
                return false;
            };
            if page.clean < pending.epoch {
                let before = pending.bytes;
                pending.encode(page, hash);
                page.make_clean(pending.epoch);
                // Large entries take longer.
                left = left.saturating_sub(page.entries.len().max((pending.bytes - before) / 32));
            }
            left = left.saturating_sub(1);
            if pending.passed(range(hash, page.depth).1) {
                self.pending.remove(0).end();
            }
        }
        false
    }

    /// Whether no snapshot is pending.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.pending.is_empty()
    }

    /// Before an entry of a page that is not clean changes: the snapshots get what they need of it.
    #[cold]
    fn before_change(&mut self, at: usize, hash: u64, found: Found) {
        if !self.prepare(at, hash) {
            return;
        }
        let Some(page) = self.pages.get_mut(at) else { return };
        if !page.is_saved(found.place) {
            page.set_saved(found.place, true);
            if let (Some(newest), Some(entry)) = (self.pending.last_mut(), page.entries.get(found.place)) {
                newest.encode_one(hash, entry);
            }
        }
    }

    /// Before something changes in a page that is not clean: older snapshots get all they need of it, and what is saved of it is for the
    /// newest. Gives whether that one is still pending; otherwise the page is clean.
    fn prepare(&mut self, at: usize, hash: u64) -> bool {
        let newest = self.pending.last().is_some_and(|newest| newest.epoch == self.epoch);
        if !newest || self.pages.get(at).is_some_and(Page::is_full) {
            self.complete(at, hash, self.epoch);
            return false;
        }
        if self.pages.get(at).is_some_and(|page| page.touched != self.epoch) {
            self.complete(at, hash, self.epoch - 1);
            if let Some(page) = self.pages.get_mut(at) {
                page.touch_first(self.epoch);
            }
        }
        true
    }

    /// Gives all snapshots frozen up to `epoch` what they do not have of a page.
    fn complete(&mut self, at: usize, hash: u64, epoch: u32) {
        let Some(page) = self.pages.get_mut(at).filter(|page| page.clean < epoch) else { return };
        for pending in self.pending.iter_mut().filter(|p| page.clean < p.epoch && p.epoch <= epoch) {
            pending.encode(page, hash);
        }
        page.make_clean(epoch);
    }
}

#[cfg(test)]
mod tests;
