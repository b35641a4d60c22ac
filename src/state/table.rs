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
//!
//! A table may also track what changes: each entry is then stamped with the epoch in which it changed last, and removed keys are noted with
//! theirs. So what has changed since *any* freeze can be told, and nothing has to be undone when a snapshot comes to nothing. (Versions of
//! entries are from Flink's FLIP-151.) A table that tracks nothing pays nothing for it.

mod hints;
mod page;
mod pages;
mod pending;
mod word;

use super::handover::{Frozen, Room, handover};
use super::raw::ElementId;
use super::{Key, StateValue};
use crate::types::MaxParallelism;
use hints::Hints;
use page::{Entry, Head, Page};
use pages::Pages;
pub(super) use pending::Since;
use pending::{Pending, range};
use std::fmt;
use std::task::Context as TaskContext;
use word::PLACES;

/// Bytes of entries that are taken to be in the processor's own cache.
const CACHED: usize = 512 << 10;

/// How many removed keys are noted at least before so many are thought too many.
const REMOVED: usize = 1024;

/// Values of one state, by key. Every method takes the key's stable hash beside the key.
pub struct Table<K, V> {
    /// The page for each value of the hashes' high `depth` bits.
    directory: Vec<u32>,
    depth: u32,
    pages: Pages<K, V>,
    hints: Hints,
    /// The pages of the keys that were last said to be used later.
    ahead: Vec<u32>,
    len: usize,
    /// How many entries there will be for every 2^64 hashes; 0 if nobody knows.
    expected: u64,
    /// Counts freezes.
    epoch: u32,
    /// A page that is `clean` since this epoch is changed without further ado: the newest one, or none if changes are tracked.
    quiet: u32,
    /// Whether anything may be changed without further ado: no snapshot is pending, and changes are not tracked.
    at_rest: bool,
    /// The freeze since which changes are known; `None` if they are not tracked.
    tracked: Option<u32>,
    /// Removed keys that are noted.
    removed: usize,
    /// Oldest first.
    pending: Vec<Pending>,
}

impl<K: Key, V: StateValue> Default for Table<K, V> {
    fn default() -> Self {
        let mut pages = Pages::default();
        pages.add(Head::new(0, 0), Page::new(0, 0));
        Self {
            directory: vec![0],
            depth: 0,
            pages,
            hints: Hints::default(),
            ahead: Vec::new(),
            len: 0,
            expected: 0,
            epoch: 0,
            quiet: 0,
            at_rest: true,
            tracked: None,
            removed: 0,
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

    /// All keys, in no particular order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.pages.keys()
    }

    /// Bytes of memory that it holds, without what keys and values own beside themselves, and what is noted of changes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.pages.bytes() + self.directory.len() * size_of::<u32>() + self.hints.bytes()
    }

    /// Bytes of memory that hold what is encoded for snapshots and not yet written.
    pub(super) fn snapshot_bytes(&self) -> usize {
        self.pending.iter().map(Pending::held).sum()
    }

    /// The entry that a hint leads to, if it has the key.
    #[inline]
    fn hinted(&self, key: &K, hash: u64) -> Option<ElementId> {
        let id = self.hints.get(hash)?;
        (self.pages.entry(id)?.key == *key).then_some(id)
    }

    /// The value of `key`.
    #[inline]
    #[must_use]
    pub fn get(&self, key: &K, hash: u64) -> Option<&V> {
        let id = match self.hinted(key, hash) {
            Some(id) => id,
            None => {
                let at = self.page_of(hash);
                match self.pages.find_at_home(at, key, hash) {
                    Some((_, id)) => id,
                    None => self.pages.find(at, key, hash)?.id,
                }
            }
        };
        Some(&self.pages.entry(id)?.value)
    }

    /// The value of `key`, to be changed in place.
    #[inline]
    pub fn get_mut(&mut self, key: &K, hash: u64) -> Option<&mut V> {
        let at = self.page_of(hash);
        let (place, id) = match self.pages.find_at_home(at, key, hash) {
            Some(found) => found,
            None => {
                let found = self.pages.find(at, key, hash)?;
                (found.place, found.id)
            }
        };
        if !self.at_rest && self.pages.head(at)?.clean != self.quiet {
            self.before_change(at, hash, place, id);
        }
        self.hints.found(hash, id);
        Some(&mut self.pages.entry_mut(id)?.value)
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
        if self.at_rest
            && let Some(id) = self.hints.get(hash)
            && let Some(entry) = self.pages.entry_mut(id)
            && entry.key == *key
        {
            return f(&mut entry.value);
        }
        let at = self.page_of(hash);
        if let Some((_, id)) = self.pages.find_at_home(at, key, hash)
            && (self.at_rest || self.pages.head(at).is_some_and(|head| head.clean == self.quiet))
            && let Some(entry) = self.pages.entry_mut(id)
        {
            self.hints.found(hash, id);
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
        let found = self.pages.find(at, key, hash)?;
        if self.pages.head(at)?.clean != self.quiet {
            self.before_change(at, hash, found.place, found.id);
        }
        let entry = self.pages.remove(at, found)?;
        self.len -= 1;
        if self.tracked.is_some_and(|since| since <= self.epoch) {
            self.pages.page_mut(at)?.note_removed(self.epoch, key.clone());
            self.removed += 1;
            if self.removed > REMOVED.max(self.len / 2) {
                self.forget_removed();
            }
        }
        self.merge_if_small(at);
        Some(entry.value)
    }

    /// Removes the value of `key`; gives whether there was one.
    pub fn remove(&mut self, key: &K, hash: u64) -> bool {
        self.take(key, hash).is_some()
    }

    /// Whether it is too large for the cache, so that [`touch`](Self::touch) does something.
    pub(super) fn wants_touch(&self) -> bool {
        self.len > CACHED / size_of::<Entry<K, V>>().max(1)
    }

    /// Brings near what is kept under keys that are used soon, and what leads to it for those that are used after them; so the processor
    /// waits for the memory of many of them at the same time. The keys of `soon` are those that were `later` in the call before. Does
    /// nothing while the table fits the cache.
    pub fn touch(&mut self, soon: &[u64], later: &[u64]) {
        if !self.wants_touch() {
            return;
        }
        let mut hints = self.hints.writer();
        // A page may have been split in between: then the way is the long one, for those few.
        for (hash, at) in soon.iter().zip(&self.ahead) {
            if let Some(id) = self.pages.prefetch_entry(*at as usize, *hash) {
                hints.set(*hash, id);
            }
        }
        let (directory, depth, pages) = (&*self.directory, self.depth, &self.pages);
        self.ahead.clear();
        self.ahead.extend(later.iter().map(|hash| {
            let at = page_number(directory, depth, *hash);
            pages.prefetch_index(at as usize, *hash);
            at
        }));
    }

    /// So many entries will come for every 2^64 hashes: pages are made as small, and with as much room, as they will be then, so that
    /// entries are not moved as they come. 0: nobody knows. A wrong number costs time or memory, and nothing else.
    pub(super) fn expect(&mut self, entries_per_all_hashes: u64) {
        self.expected = entries_per_all_hashes;
    }

    /// Splits an empty page for what will come, as far as that is known.
    fn prepare_for_expected(&mut self, hash: u64) {
        let (mut at, all) = (self.page_of(hash), self.expected);
        let too_many =
            |head: Head| head.can_be_smaller_than(usize::try_from(all >> head.depth()).unwrap_or(usize::MAX));
        while self.pages.head(at).is_some_and(too_many) {
            self.complete(at, hash, self.epoch);
            self.split(at, hash);
            at = self.page_of(hash);
        }
    }

    #[cold]
    fn insert_new(&mut self, key: &K, hash: u64, value: V) {
        if self.expected > 0 {
            self.prepare_for_expected(hash);
        }
        let mut at = self.page_of(hash);
        while let Some(head) = self.pages.head(at).filter(|head| !head.has_room()) {
            if head.wants_split() {
                // Entries are about to move.
                self.complete(at, hash, self.epoch);
                self.split(at, hash);
            } else {
                self.pages.rebuild(at);
            }
            at = self.page_of(hash);
        }
        let hidden =
            self.pages.head(at).is_some_and(|head| head.clean != self.epoch) && self.prepare(at, hash);
        let Some((place, id)) = self.pages.put(at, hash, Entry { key: key.clone(), value }) else { return };
        self.len += 1;
        self.hints.fit(self.len);
        self.hints.found(hash, id);
        if !hidden && self.tracked.is_none() {
            return;
        }
        let Some(page) = self.pages.page_mut(at) else { return };
        // No pending snapshot knows it.
        if hidden {
            page.set_saved(place, true);
        }
        if self.tracked.is_some() {
            page.set_stamp(place, self.epoch);
        }
    }

    #[inline]
    fn page_of(&self, hash: u64) -> usize {
        page_number(&self.directory, self.depth, hash) as usize
    }

    /// Makes one page of two that have become all but empty.
    #[inline]
    fn merge_if_small(&mut self, at: usize) {
        if self.pages.head(at).is_some_and(|head| head.len() < PLACES / 16 && head.depth > 0) {
            self.merge(at);
        }
    }

    #[cold]
    fn merge(&mut self, at: usize) {
        let (Some(head), Some(page)) = (self.pages.head(at), self.pages.page(at)) else { return };
        let (depth, bit) = (head.depth(), 1 << (64 - head.depth()));
        let (lower, upper) = (page.first & !bit, page.first | bit);
        let other = self.page_of(page.first ^ bit);
        if !self.pages.head(other).is_some_and(|other| head.wants_merge(other)) {
            return;
        }
        // Entries are about to move.
        for hash in [lower, upper] {
            self.complete(self.page_of(hash), hash, self.epoch);
        }
        let last = self.pages.len() - 1;
        let (to, from) = (self.page_of(lower), self.page_of(upper));
        let moved = self.pages.page(last).zip(self.pages.head(last));
        let moved = moved.map(|(page, head)| range(page.first, head.depth()));
        if self.pages.merge(to, from).is_none() {
            return;
        }
        if let Some(moved) = moved.filter(|_| from != last) {
            self.lead(moved, from);
        }
        self.lead(range(lower, depth - 1), if to == last { from } else { to });
    }

    /// All hashes of a range are on a page.
    fn lead(&mut self, (first, last): (u64, u64), page: usize) {
        let of = |hash: u64| usize::try_from((hash >> 1) >> (63 - self.depth)).unwrap_or(usize::MAX);
        let (range, Ok(page)) = (of(first)..=of(last), u32::try_from(page)) else { return };
        if let Some(pages) = self.directory.get_mut(range) {
            pages.fill(page);
        }
    }

    fn split(&mut self, at: usize, hash: u64) {
        let (Some(head), Ok(new)) = (self.pages.head(at), u32::try_from(self.pages.len())) else { return };
        let ((first, last), depth) = (range(hash, head.depth()), self.depth.max(head.depth() + 1));
        if depth > self.depth {
            self.directory = self.directory.iter().flat_map(|page| [*page, *page]).collect();
            self.depth = depth;
        }
        self.pages.split(at);
        let middle = first + (last - first) / 2 + 1;
        self.lead((middle, last), new as usize);
    }
}

/// The page that a directory over the high `depth` bits has for a hash.
#[inline]
#[allow(clippy::cast_possible_truncation)] // at most `DEPTH` bits
fn page_number(directory: &[u32], depth: u32, hash: u64) -> u32 {
    // Twice, since no shift is by 64 bits.
    let high = (hash >> 1) >> (63 - depth);
    directory.get(high as usize).map_or(u32::MAX, |page| *page)
}

/// Snapshots.
impl<K: Key, V: StateValue> Table<K, V> {
    /// Fixes the table as it is now for a snapshot, and goes on. Takes the same time at any size. The snapshot gets its content as the
    /// table is [swept](Self::sweep) and changed; it ends when it has all of it, or when the result is dropped. Any number may be
    /// pending.
    pub fn freeze(&mut self, max_parallelism: MaxParallelism) -> Frozen {
        self.freeze_since(max_parallelism, None, usize::MAX)
    }

    /// As [`freeze`](Self::freeze), for a snapshot that holds only what has changed since an earlier freeze, if one is given: see
    /// [`can_tell_since`](Self::can_tell_since). It fails if more than `memory` bytes of it wait.
    pub(super) fn freeze_since(
        &mut self,
        max_parallelism: MaxParallelism,
        since: Option<Since>,
        memory: usize,
    ) -> Frozen {
        self.epoch += 1;
        self.quiet = if self.tracked.is_some() { u32::MAX } else { self.epoch };
        self.at_rest = false;
        let (giver, frozen) = handover(self.len);
        self.pending.push(Pending::new(self.epoch, giver, max_parallelism, since, memory));
        frozen
    }

    /// Freezes nothing, but begins to track changes if they are not tracked yet: what has changed since this moment can be told from now on.
    /// Gives its epoch.
    pub(super) fn track(&mut self) -> u32 {
        self.epoch += 1;
        self.tracked.get_or_insert(self.epoch);
        self.quiet = u32::MAX;
        self.at_rest = false;
        self.epoch
    }

    /// The number of freezes so far.
    pub(super) fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Whether all that has changed since this freeze is known. It is not if changes were not tracked, or if more keys were removed than are
    /// worth noting.
    pub(super) fn can_tell_since(&self, epoch: u32) -> bool {
        self.tracked.is_some_and(|since| since <= epoch)
    }

    /// So many keys were removed that the table is better written whole: they are not noted any more until the next freeze. What pending
    /// snapshots still need stays, and that does not grow: it is of the time before they were frozen.
    #[cold]
    fn forget_removed(&mut self) {
        let is_needed = |at| self.pending.iter().any(|pending| pending.asks_for_removed(at));
        for at in 0..self.pages.len() {
            if let Some(page) = self.pages.page_mut(at) {
                self.removed -= page.retain_removed(is_needed);
            }
        }
        self.tracked = Some(self.epoch + 1);
    }

    /// Encodes for the oldest pending snapshot what nothing has changed since, about `budget` entries. Gives whether there is more to
    /// do at once; if there is no room, the task will be woken.
    pub fn sweep(&mut self, budget: usize, task: &TaskContext<'_>) -> bool {
        self.pending.retain(|pending| !pending.to.is_given_up());
        let mut left = budget;
        while let Some(pending) = self.pending.first_mut() {
            match pending.to.room(task) {
                Room::Some => {}
                Room::None => return false,
                // It will wake nobody for the others.
                Room::GivenUp => {
                    self.pending.remove(0);
                    continue;
                }
            }
            if left == 0 {
                return true;
            }
            let hash = pending.next;
            let high = (hash >> 1) >> (63 - self.depth);
            let at = usize::try_from(high)
                .ok()
                .and_then(|high| self.directory.get(high))
                .map(|page| *page as usize);
            let Some((at, head)) = at.and_then(|at| Some((at, self.pages.head(at)?))) else { return false };
            let (depth, is_clean) = (head.depth(), head.clean >= pending.epoch);
            if !is_clean {
                let before = pending.bytes;
                pending.encode(&self.pages, at, hash);
                // Large entries take longer, and it is quicker to see that one has not changed.
                let looked_at = head.len() / if pending.since() > 0 { 8 } else { 1 };
                left = left.saturating_sub(looked_at.max((pending.bytes - before) / 32));
            }
            if !is_clean {
                self.pages.make_clean(at, pending.epoch);
            }
            if let Some(page) = self.pages.page_mut(at) {
                let since = pending.since();
                self.removed -= page.retain_removed(|at| at >= since);
            }
            left = left.saturating_sub(1);
            if pending.passed(range(hash, depth).1) {
                self.pending.remove(0).end();
            }
        }
        self.at_rest = self.tracked.is_none();
        false
    }

    /// Whether no snapshot is pending.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.pending.is_empty()
    }

    /// Before an entry of a page that is not clean changes: the snapshots get what they need of it, and it is stamped if changes are
    /// tracked.
    #[cold]
    fn before_change(&mut self, at: usize, hash: u64, place: usize, id: ElementId) {
        let (Some(head), Some(page)) = (self.pages.head(at), self.pages.page(at)) else { return };
        let (is_clean, tracks) = (head.clean == self.epoch, self.tracked.is_some());
        if tracks && page.stamp(place) == self.epoch {
            return; // not the first change
        }
        let wanted = !is_clean && self.prepare(at, hash);
        let Some(page) = self.pages.page_mut(at) else { return };
        if wanted && !page.is_saved(place) {
            page.set_saved(place, true);
            let stamp = page.stamp(place);
            if let (Some(newest), Some(entry)) = (self.pending.last_mut(), self.pages.entry(id)) {
                newest.encode_one(hash, entry, stamp);
                newest.check_memory();
            }
        }
        let Some(page) = self.pages.page_mut(at) else { return };
        if tracks {
            page.set_stamp(place, self.epoch);
        }
    }

    /// Before something changes in a page that is not clean: older snapshots get all they need of it, and what is saved of it is for the
    /// newest. Gives whether that one is still pending; otherwise the page is clean.
    fn prepare(&mut self, at: usize, hash: u64) -> bool {
        let newest = self.pending.last().is_some_and(|newest| newest.epoch == self.epoch);
        if !newest || self.pages.head(at).is_some_and(Head::is_full) {
            self.complete(at, hash, self.epoch);
            return false;
        }
        if self.pages.page(at).is_some_and(|page| page.touched != self.epoch) {
            self.complete(at, hash, self.epoch - 1);
            if let Some(page) = self.pages.page_mut(at) {
                page.touch_first(self.epoch);
            }
        }
        true
    }

    /// Gives all snapshots frozen up to `epoch` what they do not have of a page.
    fn complete(&mut self, at: usize, hash: u64, epoch: u32) {
        let Some(head) = self.pages.head(at).filter(|head| head.clean < epoch) else { return };
        for pending in self.pending.iter_mut().filter(|p| head.clean < p.epoch && p.epoch <= epoch) {
            pending.encode(&self.pages, at, hash);
            pending.check_memory();
        }
        self.pages.make_clean(at, epoch);
    }
}

#[cfg(test)]
mod tests;
