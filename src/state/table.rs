//! The keyed table on the heap.
//!
//! At rest it is one hash table, owned by value: no reference counts and no locks on the path of a record. A
//! [freeze](Table::freeze) moves that table behind an `Arc` which the snapshot shares, and from then on writes go to an
//! *overlay*: the first write to a frozen entry clones that one value. When every snapshot has been released the overlays
//! are merged back a few entries at a time. So no step is proportional to the table, with two exceptions that belong to
//! `hashbrown`: growing (it moves all entries at once), and returning the memory of a large overlay.
//!
//! What it costs: while a snapshot is pending, the first write to an entry looks in two places and clones its value, and
//! memory grows by what is written meanwhile, at most once the table's size per pending snapshot.

use super::entries::{Base, Entry, delete, find, find_mut, slot};
use super::frozen::Frozen;
use super::overlay::{Overlay, Shared};
use super::{Key, StateValue};
use crate::types::MaxParallelism;
use hashbrown::HashTable;
use hashbrown::hash_table;
use std::fmt;
use std::mem;
use std::sync::Arc;

/// Buckets of an overlay that one write moves back, per overlay: more catches up sooner, fewer disturb less.
const STEP: usize = 16;

/// What lies above the base.
enum Layers<K, V> {
    /// Nothing: no snapshot is pending.
    Rest,
    /// Snapshots read the base, which lives here meanwhile.
    Shared(Box<Shared<K, V>>),
    /// Released overlays, oldest first, on their way back into the base. A key's newest entry counts.
    Settling(Vec<Overlay<K, V>>),
}

/// Values of one state, by key. Every method takes the key's stable hash beside the key.
pub struct Table<K, V> {
    base: Base<K, V>,
    layers: Layers<K, V>,
    len: usize,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { base: HashTable::new(), layers: Layers::Rest, len: 0 }
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

    /// Number of entries, exact at any time.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether no snapshot is pending and nothing is left to merge.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        matches!(self.layers, Layers::Rest)
    }

    /// The value of `key`.
    #[inline]
    #[must_use]
    pub fn get(&self, key: &K, hash: u64) -> Option<&V> {
        match &self.layers {
            Layers::Rest => find(&self.base, key, hash),
            layers => Self::get_layered(layers, &self.base, key, hash),
        }
    }

    #[cold]
    fn get_layered<'t>(layers: &'t Layers<K, V>, base: &'t Base<K, V>, key: &K, hash: u64) -> Option<&'t V> {
        match layers {
            Layers::Rest => find(base, key, hash),
            Layers::Shared(shared) => shared.get(key, hash),
            Layers::Settling(overlays) => overlays
                .iter()
                .rev()
                .find_map(|overlay| overlay.get(key, hash))
                .map_or_else(|| find(base, key, hash), Option::as_ref),
        }
    }

    /// The value of `key`, to be changed in place.
    #[inline]
    pub fn get_mut(&mut self, key: &K, hash: u64) -> Option<&mut V> {
        self.prepare(key, hash);
        match &mut self.layers {
            Layers::Shared(shared) => shared.get_mut(key, hash),
            _ => find_mut(&mut self.base, key, hash),
        }
    }

    /// Puts `value` in place of what was there; gives whether nothing was.
    #[inline]
    pub fn insert(&mut self, key: &K, hash: u64, value: V) -> bool {
        self.prepare(key, hash);
        let new = match &mut self.layers {
            Layers::Shared(shared) => shared.insert(key, hash, value),
            _ => match slot(&mut self.base, key, hash) {
                hash_table::Entry::Occupied(mut entry) => {
                    entry.get_mut().value = value;
                    false
                }
                hash_table::Entry::Vacant(slot) => {
                    slot.insert(Entry { hash, key: key.clone(), value });
                    true
                }
            },
        };
        self.len += usize::from(new);
        new
    }

    /// Changes the value of `key` in place, made by `new` if there is none: one probe.
    #[inline]
    pub fn update<R>(
        &mut self,
        key: &K,
        hash: u64,
        new: impl FnOnce() -> V,
        f: impl FnOnce(&mut V) -> R,
    ) -> R {
        if self.is_at_rest()
            && let Some(value) = find_mut(&mut self.base, key, hash)
        {
            return f(value);
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
        self.prepare(key, hash);
        let value = match &mut self.layers {
            Layers::Shared(shared) => {
                let (value, added) = shared.get_or_insert(key, hash, new);
                self.len += usize::from(added);
                value
            }
            _ => match slot(&mut self.base, key, hash) {
                hash_table::Entry::Occupied(entry) => &mut entry.into_mut().value,
                hash_table::Entry::Vacant(slot) => {
                    self.len += 1;
                    &mut slot.insert(Entry { hash, key: key.clone(), value: new() }).into_mut().value
                }
            },
        };
        f(value)
    }

    /// Removes the value of `key` and gives it.
    #[inline]
    pub fn take(&mut self, key: &K, hash: u64) -> Option<V> {
        self.prepare(key, hash);
        let taken = match &mut self.layers {
            Layers::Shared(shared) => shared.delete(key, hash, |value| value, V::clone),
            _ => delete(&mut self.base, key, hash),
        };
        self.len -= usize::from(taken.is_some());
        taken
    }

    /// Removes the value of `key`; gives whether there was one.
    #[inline]
    pub fn remove(&mut self, key: &K, hash: u64) -> bool {
        self.prepare(key, hash);
        let removed = match &mut self.layers {
            Layers::Shared(shared) => shared.delete(key, hash, drop, |_| ()).is_some(),
            _ => delete(&mut self.base, key, hash).is_some(),
        };
        self.len -= usize::from(removed);
        removed
    }

    /// Fixes the table as it is now for a snapshot, and goes on. Takes the same time at any size. The snapshot ends when
    /// the result is dropped or read to its end. Any number may be pending.
    pub fn freeze(&mut self, max_parallelism: MaxParallelism) -> Frozen<K, V> {
        let shared = match mem::replace(&mut self.layers, Layers::Rest) {
            Layers::Rest => Box::new(Shared::new(mem::take(&mut self.base), Vec::new())),
            Layers::Settling(overlays) => Box::new(Shared::new(mem::take(&mut self.base), overlays)),
            Layers::Shared(mut shared) => {
                shared.push();
                shared
            }
        };
        let frozen = Frozen::new(Arc::clone(&shared.base), shared.frozen.clone(), self.len, max_parallelism);
        self.layers = Layers::Shared(shared);
        frozen
    }

    /// Merges back up to `budget` buckets of overlays whose snapshots have been released. Call it now and then, a batch of
    /// records is a good measure: a table that is only read would never come to rest otherwise.
    pub fn maintain(&mut self, budget: usize) {
        self.unshare();
        match &mut self.layers {
            Layers::Rest => {}
            Layers::Shared(shared) => shared.merge(budget),
            Layers::Settling(_) => self.settle(budget),
        }
    }

    /// Before any write to `key`: afterwards it is written in the base, or through [`Shared`] while that is there.
    #[inline]
    fn prepare(&mut self, key: &K, hash: u64) {
        if !self.is_at_rest() {
            self.prepare_layered(key, hash);
        }
    }

    #[cold]
    fn prepare_layered(&mut self, key: &K, hash: u64) {
        self.unshare();
        if let Layers::Settling(overlays) = &mut self.layers {
            // The newest entry wins and goes home; older ones of this key are void.
            let mut newest = None;
            for overlay in overlays.iter_mut().rev() {
                let removed = delete(&mut overlay.entries, key, hash);
                newest = newest.or(removed);
            }
            if let Some(value) = newest {
                settle_entry(&mut self.base, Entry { hash, key: key.clone(), value });
            }
            let overlays = overlays.len();
            self.settle(STEP * overlays);
        }
    }

    /// Takes base and overlays back once no snapshot reads them.
    fn unshare(&mut self) {
        if !matches!(&self.layers, Layers::Shared(shared) if shared.is_released()) {
            return;
        }
        if let Layers::Shared(shared) = mem::replace(&mut self.layers, Layers::Rest) {
            let (base, overlays) = shared.into_parts();
            self.base = base;
            if !overlays.is_empty() {
                self.layers = Layers::Settling(overlays);
            }
        }
    }

    /// Moves entries from the oldest overlay into the base, looking at up to `budget` buckets.
    fn settle(&mut self, budget: usize) {
        let Layers::Settling(overlays) = &mut self.layers else { return };
        let mut budget = budget;
        while let Some(oldest) = overlays.first_mut() {
            while let Some(entry) = oldest.drain_one(&mut budget) {
                settle_entry(&mut self.base, entry);
            }
            if !oldest.entries.is_empty() {
                return;
            }
            overlays.remove(0);
        }
        self.layers = Layers::Rest;
    }
}

/// Lets an overlay's entry take effect in the base.
fn settle_entry<K: Eq, V>(base: &mut Base<K, V>, entry: Entry<K, Option<V>>) {
    let Entry { hash, key, value } = entry;
    match (slot(base, &key, hash), value) {
        (hash_table::Entry::Occupied(mut old), Some(value)) => old.get_mut().value = value,
        (hash_table::Entry::Occupied(old), None) => drop(old.remove()),
        (hash_table::Entry::Vacant(slot), Some(value)) => drop(slot.insert(Entry { hash, key, value })),
        (hash_table::Entry::Vacant(_), None) => {}
    }
}

#[cfg(test)]
mod tests;
