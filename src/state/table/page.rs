//! A page of a table: the entries of a range of hashes.

use super::word::{PLACES, Word, tag};
use crate::state::{Key, StateValue};
use crate::types::stable_hash;

/// How many entries a page holds before it is split in two.
const PAGE: usize = PLACES;

/// How many high bits of a hash the directory can tell apart: 16 Mi pages. Pages of that depth are not split.
pub(super) const DEPTH: u32 = 24;

/// How many entries there are for so many words of the index: fewer make searches shorter, more make it smaller.
const LOAD: (usize, usize) = (2, 1);

#[derive(Debug)]
pub(super) struct Entry<K, V> {
    pub(super) key: K,
    pub(super) value: V,
}

/// Where an entry is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    word: usize,
    slot: u32,
    pub(super) place: usize,
}

/// Entries, densely, and how they are found.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Page<K, V> {
    pub(super) entries: Vec<Entry<K, V>>,
    index: Box<[Word]>,
    /// Slots of the index that do not end a search any more.
    used: u32,
    /// How many high bits its hashes share.
    pub(super) depth: u32,
    /// Every snapshot frozen up to this one has all it needs from here.
    pub(super) clean: u32,
    /// The newest freeze before something here changed.
    pub(super) touched: u32,
    notes: Option<Box<Notes<K>>>,
}

/// What is known of a page beside its entries: in one piece elsewhere, so that a page without is one line of the cache.
#[derive(Debug)]
struct Notes<K> {
    /// The places whose entries the snapshot of freeze `touched` has, or must not have, as bits.
    saved: [u64; PLACES / 64],
    /// If the table tracks changes and there was one.
    changes: Option<Changes<K>>,
}

/// When what has changed.
#[derive(Debug)]
struct Changes<K> {
    /// By place, the newest freeze before its entry last changed. For places beyond the end it is 0.
    stamps: Vec<u32>,
    /// The keys that were removed, with the newest freeze before.
    removed: Vec<(u32, K)>,
    /// The newest freeze before any change.
    newest: u32,
}

impl<K> Default for Notes<K> {
    fn default() -> Self {
        Self { saved: [0; PLACES / 64], changes: None }
    }
}

impl<K> Default for Changes<K> {
    fn default() -> Self {
        Self { stamps: Vec::new(), removed: Vec::new(), newest: 0 }
    }
}

impl<K> Changes<K> {
    fn stamp(&self, place: usize) -> u32 {
        self.stamps.get(place).copied().unwrap_or_default()
    }

    fn set_stamp(&mut self, place: usize, epoch: u32) {
        if self.stamps.len() <= place {
            self.stamps.resize(place + 1, 0);
        }
        if let Some(stamp) = self.stamps.get_mut(place) {
            *stamp = epoch;
        }
        self.newest = self.newest.max(epoch);
    }
}

impl<K: Key, V: StateValue> Page<K, V> {
    pub(super) fn new(depth: u32, clean: u32) -> Self {
        let (entries, index) = (Vec::new(), Box::default());
        Self { entries, index, used: 0, depth, clean, touched: clean, notes: None }
    }

    /// The word at which the search for a hash begins.
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // 32 bits of the hash, and less than the number of words
    fn home(&self, hash: u64) -> usize {
        ((u64::from((hash >> 8) as u32) * self.index.len() as u64) >> 32) as usize
    }

    /// The place of an entry, if the first word leads to it: nearly always.
    #[inline]
    pub(super) fn find_at_home(&self, key: &K, hash: u64) -> Option<usize> {
        let word = self.word(hash)?;
        let mut matching = word.matching(tag(hash));
        loop {
            let place = word.place(matching.first()?);
            if self.entries.get(place)?.key == *key {
                return Some(place);
            }
            matching = matching.rest();
        }
    }

    pub(super) fn find(&self, key: &K, hash: u64) -> Option<Found> {
        let tag = tag(hash);
        let mut at = self.home(hash);
        for _ in 0..self.index.len() {
            let word = *self.index.get(at)?;
            let mut matching = word.matching(tag);
            while let Some(slot) = matching.first() {
                let place = word.place(slot);
                if self.entries.get(place).is_some_and(|entry| entry.key == *key) {
                    return Some(Found { word: at, slot, place });
                }
                matching = matching.rest();
            }
            if word.ends_search() {
                break;
            }
            at = if at + 1 == self.index.len() { 0 } else { at + 1 };
        }
        if self.is_full() { self.find_beyond(key) } else { None }
    }

    /// The word at which the search for a hash begins.
    #[inline]
    pub(super) fn word(&self, hash: u64) -> Option<&Word> {
        self.index.get(self.home(hash))
    }

    /// The entry that a search for this hash will most likely look at first.
    #[inline]
    pub(super) fn likely(&self, hash: u64) -> Option<(usize, &Entry<K, V>)> {
        let place = self.word(hash)?.likely(tag(hash));
        Some((place, self.entries.get(place)?))
    }

    /// Looks through the entries that no slot leads to.
    #[cold]
    fn find_beyond(&self, key: &K) -> Option<Found> {
        let beyond = self.entries.get(PLACES..)?.iter().position(|entry| entry.key == *key)?;
        Some(Found { word: usize::MAX, slot: 0, place: PLACES + beyond })
    }

    /// Whether a further entry is beyond what slots can lead to, and what can be noted of single entries. More than that stay together only
    /// if their hashes are all but the same.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.entries.len() >= PLACES
    }

    /// Whether one more entry can be put in as it is.
    #[inline]
    pub(super) fn has_room(&self) -> bool {
        self.entries.len() < self.entries.capacity()
            && if self.is_full() { !self.wants_split() } else { self.has_slots() }
    }

    /// Whether the index can take one more without searches becoming long.
    #[inline]
    fn has_slots(&self) -> bool {
        (self.used as usize * LOAD.1) < self.index.len() * LOAD.0
    }

    /// Whether more room is made by a split.
    pub(super) fn wants_split(&self) -> bool {
        self.entries.len() >= PAGE && self.depth < DEPTH
    }

    /// Puts in a new entry, for which there must be room; gives its place.
    pub(super) fn put(&mut self, hash: u64, key: K, value: V) -> usize {
        let place = self.entries.len();
        self.entries.push(Entry { key, value });
        self.claim(hash, place);
        place
    }

    /// Makes a slot lead to a place.
    fn claim(&mut self, hash: u64, place: usize) {
        if place >= PLACES {
            return;
        }
        let home = self.home(hash);
        let (before, from) = self.index.split_at_mut(home);
        for word in from.iter_mut().chain(before) {
            if let Some(slot) = word.free() {
                self.used += u32::from(word.put(slot, tag(hash), place as u64));
                return;
            }
        }
    }

    /// Takes an entry out. The last one moves to its place.
    pub(super) fn remove(&mut self, found: Found) -> Entry<K, V> {
        let last = self.entries.len() - 1;
        let moved = self.entries.get(last).filter(|_| found.place != last).map(|moved| {
            let hash = rehash(&moved.key);
            (hash, self.find(&moved.key, hash))
        });
        if let Some(word) = self.index.get_mut(found.word) {
            self.used -= u32::from(!word.remove(found.slot));
        }
        if let Some((hash, at)) = moved {
            match at.and_then(|at| Some((self.index.get_mut(at.word)?, at.slot))) {
                Some((word, slot)) => word.redirect(slot, found.place as u64),
                // It was beyond, and may come within.
                None => self.claim(hash, found.place),
            }
            let saved = self.is_saved(last);
            self.set_saved(found.place, saved);
        }
        if let Some(changes) = self.changes_mut() {
            let stamp = changes.stamp(last);
            if changes.stamp(found.place) != stamp {
                changes.set_stamp(found.place, stamp);
            }
            changes.stamps.truncate(last);
        }
        self.entries.swap_remove(found.place)
    }

    /// Makes room: by a quarter more, and for small pages by as much again.
    pub(super) fn grow(&mut self) {
        let len = self.entries.len();
        // Close to full, giving removed slots back would not last.
        if len + len / 8 >= self.entries.capacity() {
            let next = match len {
                0..256 => (2 * len).max(4),
                _ if len < PAGE && len + len / 4 > PAGE / 8 * 7 => PAGE,
                _ => len + len / 4,
            };
            self.entries.reserve_exact(next - len);
        }
        if !self.has_slots() {
            self.rebuild();
        }
    }

    /// Whether it is better split now, while it is empty, as so many entries will come.
    pub(super) fn can_be_smaller_than(&self, entries: usize) -> bool {
        self.entries.is_empty() && self.depth < DEPTH && entries > PAGE / 8 * 7
    }

    /// Makes room in an empty page for so many, and for some more, as the hashes are never quite even.
    pub(super) fn reserve(&mut self, entries: usize) {
        self.entries.reserve_exact((entries + entries / 16 + 4).min(PAGE));
        self.rebuild();
    }

    /// Sees to it that few entries do not hold the room of many.
    pub(super) fn shrink(&mut self) {
        self.entries.shrink_to(self.entries.len() * 2);
        self.rebuild();
    }

    fn rebuild(&mut self) {
        let hashes: Vec<u64> = self.entries.iter().take(PLACES).map(|entry| rehash(&entry.key)).collect();
        self.rebuild_with(&hashes);
    }

    /// Makes the index anew, for entries with these hashes and for as many more as there is room for, or twice that: the index costs more time
    /// than memory to make, the entries the other way round.
    fn rebuild_with(&mut self, hashes: &[u64]) {
        let places = self.entries.capacity().min(PLACES).next_power_of_two();
        self.index = vec![Word::default(); (places * LOAD.1).div_ceil(LOAD.0).max(1)].into_boxed_slice();
        self.used = 0;
        for (place, hash) in hashes.iter().enumerate() {
            self.claim(*hash, place);
        }
    }

    /// Gives the upper half of its hashes to a new page. All snapshots must have what they need.
    pub(super) fn split(&mut self) -> Self {
        self.depth += 1;
        let mut upper = Self::new(self.depth, self.clean);
        let bit = 64 - self.depth;
        let hashes: Vec<u64> = self.entries.iter().map(|entry| rehash(&entry.key)).collect();
        // The first splits of a subtask that owns a small part of all hashes leave one side empty.
        let (to_upper, to_lower): (Vec<u64>, Vec<u64>) =
            hashes.iter().partition(|hash| *hash >> bit & 1 == 1);
        let room = |entries: usize| entries + entries / 4;
        let mut lower = Vec::with_capacity(room(to_lower.len()));
        upper.entries.reserve_exact(room(to_upper.len()));
        let changes = self.notes.take().and_then(|notes| notes.changes);
        if let Some(Changes { removed, newest, .. }) = &changes {
            let (above, below) = removed.iter().cloned().partition(|(_, key)| rehash(key) >> bit & 1 == 1);
            for (page, removed) in [(&mut upper, above), (&mut *self, below)] {
                *page.changes_or_new() = Changes { stamps: Vec::new(), removed, newest: *newest };
            }
        }
        for (place, (entry, hash)) in std::mem::take(&mut self.entries).into_iter().zip(&hashes).enumerate() {
            let is_upper = hash >> bit & 1 == 1;
            let to = if is_upper { &mut upper.entries } else { &mut lower };
            to.push(entry);
            if let Some(changes) = &changes {
                let (stamp, place) = (changes.stamp(place), to.len() - 1);
                let page = if is_upper { &mut upper } else { &mut *self };
                page.set_stamp(place, stamp);
            }
        }
        self.entries = lower;
        self.rebuild_with(&to_lower);
        upper.rebuild_with(&to_upper);
        upper
    }

    /// Bytes that it holds, without what keys and values own beside themselves, and without its notes.
    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.index) + self.entries.capacity() * size_of::<Entry<K, V>>()
    }
}

/// What pending snapshots have of a page.
impl<K: Key, V: StateValue> Page<K, V> {
    /// From here on, what is saved is for the snapshot of this freeze.
    pub(super) fn touch_first(&mut self, epoch: u32) {
        self.touched = epoch;
        self.notes.get_or_insert_default().saved = [0; PLACES / 64];
    }

    pub(super) fn is_saved(&self, place: usize) -> bool {
        let bits = self.notes.as_ref().and_then(|notes| notes.saved.get(place / 64));
        bits.is_some_and(|bits| bits >> (place % 64) & 1 == 1)
    }

    pub(super) fn set_saved(&mut self, place: usize, saved: bool) {
        if let Some(bits) = self.notes.as_mut().and_then(|notes| notes.saved.get_mut(place / 64)) {
            *bits = *bits & !(1 << (place % 64)) | u64::from(saved) << (place % 64);
        }
    }

    /// Snapshots frozen up to this one have all of it, and nothing has changed since.
    pub(super) fn make_clean(&mut self, epoch: u32) {
        self.clean = epoch;
        self.notes.take_if(|notes| notes.changes.is_none());
    }

    /// The entries that the snapshot of a freeze does not have yet, with their places.
    pub(super) fn missing(&self, epoch: u32) -> impl Iterator<Item = (usize, &Entry<K, V>)> {
        let some_saved = self.touched == epoch;
        let entries = self.entries.iter().enumerate();
        entries.filter(move |(place, _)| !some_saved || !self.is_saved(*place))
    }
}

/// What has changed, where that is tracked.
impl<K: Key, V: StateValue> Page<K, V> {
    fn changes(&self) -> Option<&Changes<K>> {
        self.notes.as_ref()?.changes.as_ref()
    }

    fn changes_mut(&mut self) -> Option<&mut Changes<K>> {
        self.notes.as_mut()?.changes.as_mut()
    }

    fn changes_or_new(&mut self) -> &mut Changes<K> {
        self.notes.get_or_insert_default().changes.get_or_insert_default()
    }

    /// The newest freeze before an entry last changed.
    #[inline]
    pub(super) fn stamp(&self, place: usize) -> u32 {
        self.changes().map_or(0, |changes| changes.stamp(place))
    }

    pub(super) fn set_stamp(&mut self, place: usize, epoch: u32) {
        self.changes_or_new().set_stamp(place, epoch);
    }

    /// Whether anything has changed since a freeze.
    pub(super) fn has_changed_since(&self, epoch: u32) -> bool {
        self.changes().is_some_and(|changes| changes.newest >= epoch)
    }

    pub(super) fn note_removed(&mut self, epoch: u32, key: K) {
        let changes = self.changes_or_new();
        changes.removed.push((epoch, key));
        changes.newest = changes.newest.max(epoch);
    }

    /// The keys that were removed after one freeze and before another.
    pub(super) fn removed(&self, since: u32, until: u32) -> impl Iterator<Item = &K> {
        let removed = self.changes().into_iter().flat_map(|changes| &changes.removed);
        removed.filter(move |(at, _)| (since..until).contains(at)).map(|(_, key)| key)
    }

    /// Forgets what was removed before a freeze. Gives how many keys that were.
    pub(super) fn forget_removed(&mut self, before: u32) -> usize {
        let Some(changes) = self.changes_mut().filter(|changes| !changes.removed.is_empty()) else {
            return 0;
        };
        let all = changes.removed.len();
        changes.removed.retain(|(at, _)| *at >= before);
        if changes.removed.is_empty() {
            changes.removed = Vec::new();
        }
        all - changes.removed.len()
    }
}

/// The hash of a key that has been hashed before.
#[inline]
pub(super) fn rehash<K: Key>(key: &K) -> u64 {
    stable_hash(key).unwrap_or_default()
}
