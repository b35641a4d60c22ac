//! A page of a table: the entries of a range of hashes, and what of them snapshots have.

use super::word::{PLACES, Word, tag};
use crate::state::Key;
use crate::state::raw::{BLOCK, ElementId, element_id, prefetch_line};
use crate::types::stable_hash;

/// How many high bits of a hash the directory can tell apart: 16 Mi pages. Pages of that depth are not split.
pub(super) const DEPTH: u32 = 24;

/// How many words an index has.
const WORDS: usize = 1 << WORD_BITS;
const WORD_BITS: u32 = 9;

/// How many slots of an index may be used before it is made anew without those whose entries were removed.
const MOST_USED: u16 = 1280;

#[derive(Debug)]
pub(super) struct Entry<K, V> {
    pub(super) key: K,
    pub(super) value: V,
}

/// How the entries of a page are found.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Index {
    /// Where the entries are that slots lead to, in the order of their places. Blocks beyond the last entry say anything.
    pub(super) blocks: [u32; PLACES / BLOCK],
    words: [Word; WORDS],
}

impl Default for Index {
    fn default() -> Self {
        Self { blocks: [0; PLACES / BLOCK], words: [Word::default(); WORDS] }
    }
}

impl Index {
    /// The number of the entry at a place.
    #[inline]
    pub(super) fn id(&self, place: usize) -> ElementId {
        element_id(self.blocks[(place / BLOCK) & (PLACES / BLOCK - 1)], place)
    }

    /// The word at which the search for a hash begins: by bits that are neither a page's nor a tag's.
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // as many bits as there are words
    fn home(hash: u64) -> usize {
        (hash >> (64 - DEPTH - WORD_BITS)) as usize & (WORDS - 1)
    }

    #[inline]
    pub(super) fn home_word(&self, hash: u64) -> Word {
        self.words[Self::home(hash)]
    }

    /// Brings near what a search for a hash looks at.
    #[inline]
    pub(super) fn prefetch(&self, hash: u64) {
        prefetch_line(&self.words[Self::home(hash)]);
        prefetch_line(&self.blocks);
    }

    /// All words, with their numbers, in the order of a search.
    pub(super) fn search(&self, hash: u64) -> impl Iterator<Item = (usize, Word)> {
        let (before, from) = self.words.split_at(Self::home(hash));
        (Self::home(hash)..).zip(from).chain((0..).zip(before)).map(|(at, word)| (at, *word))
    }

    #[inline]
    pub(super) fn word_mut(&mut self, at: usize) -> &mut Word {
        &mut self.words[at & (WORDS - 1)]
    }

    /// Makes a slot lead to a place; gives whether it was never used before.
    pub(super) fn lead(&mut self, hash: u64, place: usize) -> bool {
        let free = match self.home_word(hash).free() {
            Some(slot) => Some((Self::home(hash), slot)),
            None => self.search(hash).find_map(|(at, word)| Some((at, word.free()?))),
        };
        free.is_some_and(|(at, slot)| self.word_mut(at).put(slot, tag(hash), place as u64))
    }

    /// Forgets all entries.
    pub(super) fn clear(&mut self) {
        self.words = [Word::default(); WORDS];
    }
}

/// What is looked at most often of a page: so little that those of all pages stay in the cache.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    /// Number of entries.
    pub(super) len: u32,
    /// Every snapshot frozen up to this one has all it needs from here.
    pub(super) clean: u32,
    /// Slots of the index that do not end a search any more.
    pub(super) used: u16,
    /// How many high bits its hashes share.
    pub(super) depth: u8,
}

/// What snapshots have of the entries of a range of hashes.
#[derive(Debug)]
pub(super) struct Page<K> {
    /// The blocks beyond those that slots of the index lead to.
    pub(super) more: Vec<u32>,
    /// The least of its hashes there may be.
    pub(super) first: u64,
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

impl Head {
    pub(super) fn new(depth: u8, clean: u32) -> Self {
        Self { len: 0, clean, used: 0, depth }
    }

    #[inline]
    pub(super) fn depth(self) -> u32 {
        self.depth.into()
    }

    #[inline]
    pub(super) fn len(self) -> usize {
        self.len as usize
    }

    /// Whether a further entry is beyond what slots can lead to, and what can be noted of single entries. More than that stay together only
    /// if their hashes are all but the same.
    #[inline]
    pub(super) fn is_full(self) -> bool {
        self.len() >= PLACES
    }

    /// Whether one more entry can be put in as it is.
    #[inline]
    pub(super) fn has_room(self) -> bool {
        if self.is_full() { !self.wants_split() } else { self.used < MOST_USED }
    }

    /// Whether more room is made by a split.
    pub(super) fn wants_split(self) -> bool {
        self.is_full() && self.depth() < DEPTH
    }

    /// Whether it and the other half of the page that both would be are better one page: with so few entries that it is not split again soon.
    pub(super) fn wants_merge(self, other: Self) -> bool {
        self.depth == other.depth && self.len() + other.len() <= PLACES / 8
    }

    /// Whether it is better split now, while it is empty, as so many entries will come.
    pub(super) fn can_be_smaller_than(self, entries: usize) -> bool {
        self.len == 0 && self.depth() < DEPTH && entries > PLACES / 8 * 7
    }
}

/// What pending snapshots have of a page.
impl<K: Key> Page<K> {
    pub(super) fn new(first: u64, clean: u32) -> Self {
        Self { more: Vec::new(), first, touched: clean, notes: None }
    }

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

    /// Forgets what snapshots have: all of them have all.
    pub(super) fn forget_saved(&mut self) {
        self.notes.take_if(|notes| notes.changes.is_none());
    }

    /// The last entry moves to `place`, and what is known of it with it.
    #[inline]
    pub(super) fn note_moved(&mut self, last: usize, place: usize) {
        if self.notes.is_some() {
            self.move_notes(last, place);
        }
    }

    fn move_notes(&mut self, last: usize, place: usize) {
        if last != place {
            let saved = self.is_saved(last);
            self.set_saved(place, saved);
        }
        if let Some(changes) = self.changes_mut() {
            let stamp = changes.stamp(last);
            if changes.stamp(place) != stamp {
                changes.set_stamp(place, stamp);
            }
            changes.stamps.truncate(last);
        }
    }

    /// Takes over the removed keys of the page that had the other half of its hashes.
    pub(super) fn merge_removed(&mut self, mut other: Self) {
        if let Some(theirs) = other.changes_mut() {
            let changes = self.changes_or_new();
            changes.removed.append(&mut theirs.removed);
            changes.newest = changes.newest.max(theirs.newest);
        }
    }

    /// When entries changed, by place.
    pub(super) fn set_stamps(&mut self, stamps: Vec<u32>) {
        if stamps.iter().any(|stamp| *stamp > 0) {
            let changes = self.changes_or_new();
            changes.newest = stamps.iter().copied().max().unwrap_or_default().max(changes.newest);
            changes.stamps = stamps;
        }
    }

    /// When entries changed, by place; forgotten here.
    pub(super) fn take_stamps(&mut self) -> Vec<u32> {
        self.changes_mut().map(|changes| std::mem::take(&mut changes.stamps)).unwrap_or_default()
    }

    /// The hashes of the removed keys.
    pub(super) fn hashes_of_removed(&self) -> Vec<u64> {
        self.changes().into_iter().flat_map(|changes| &changes.removed).map(|(_, key)| rehash(key)).collect()
    }

    /// Gives the removed keys of the upper half of its hashes, those with this bit, to the page that has these from now on.
    pub(super) fn split_removed(&mut self, hashes: &[u64], upper: &mut Self, bit: u32) {
        let Some(changes) = self.changes_mut() else { return };
        let newest = changes.newest;
        let (mut above, mut below) = (Vec::new(), Vec::new());
        for (removed, hash) in std::mem::take(&mut changes.removed).into_iter().zip(hashes) {
            if hash >> bit & 1 == 1 { above.push(removed) } else { below.push(removed) }
        }
        changes.removed = below;
        *upper.changes_or_new() = Changes { stamps: Vec::new(), removed: above, newest };
    }
}

/// What has changed, where that is tracked.
impl<K: Key> Page<K> {
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

    /// Forgets what was removed, but for that of some freezes. Gives how many keys that were.
    pub(super) fn retain_removed(&mut self, is_needed: impl Fn(u32) -> bool) -> usize {
        let Some(changes) = self.changes_mut().filter(|changes| !changes.removed.is_empty()) else {
            return 0;
        };
        let all = changes.removed.len();
        changes.removed.retain(|(at, _)| is_needed(*at));
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
