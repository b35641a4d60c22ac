//! What a table writes to while snapshots read what is below.

use super::entries::{Base, Entry, delete, find, slot};
use super::{Key, StateValue};
use hashbrown::HashTable;
use hashbrown::hash_table;
use std::sync::Arc;

/// Changes over what lies below: a new value, or `None` where the key was removed.
#[derive(Clone)]
pub(super) struct Overlay<K, V> {
    pub(super) entries: HashTable<Entry<K, Option<V>>>,
    /// Buckets below this one are empty: they have been moved down. Only holds while nothing is inserted.
    drained: usize,
}

impl<K, V> Default for Overlay<K, V> {
    fn default() -> Self {
        Self { entries: HashTable::new(), drained: 0 }
    }
}

impl<K: Eq, V> Overlay<K, V> {
    /// What this overlay says about `key`: nothing, removed, or a value.
    pub(super) fn get(&self, key: &K, hash: u64) -> Option<&Option<V>> {
        find(&self.entries, key, hash)
    }

    /// Takes some entry out; `None` when all are out or the budget of buckets to look at is used up.
    pub(super) fn drain_one(&mut self, budget: &mut usize) -> Option<Entry<K, Option<V>>> {
        while *budget > 0 && !self.entries.is_empty() {
            *budget -= 1;
            let bucket = self.drained;
            self.drained += 1;
            if let Ok(entry) = self.entries.get_bucket_entry(bucket) {
                return Some(entry.remove().0);
            }
        }
        None
    }
}

/// A table while at least one snapshot reads it.
///
/// A snapshot shares the base and the overlays that were frozen with it or before it. So an overlay can be unshared while
/// one below it is not (a long savepoint under short checkpoints), never the other way round.
pub(super) struct Shared<K, V> {
    pub(super) base: Arc<Base<K, V>>,
    /// Oldest first.
    pub(super) frozen: Vec<Arc<Overlay<K, V>>>,
    /// Where writes go; no snapshot knows it.
    top: Overlay<K, V>,
}

impl<K: Key, V: StateValue> Shared<K, V> {
    pub(super) fn new(base: Base<K, V>, overlays: Vec<Overlay<K, V>>) -> Self {
        Self {
            base: Arc::new(base),
            frozen: overlays.into_iter().map(Arc::new).collect(),
            top: Overlay::default(),
        }
    }

    /// Freezes the top too.
    pub(super) fn push(&mut self) {
        if !self.top.entries.is_empty() {
            self.frozen.push(Arc::new(std::mem::take(&mut self.top)));
        }
    }

    /// Whether no snapshot reads it any more. Whoever holds an overlay holds the base, and drops it last.
    pub(super) fn is_released(&self) -> bool {
        Arc::strong_count(&self.base) == 1
    }

    /// Base and overlays, oldest first. Call it when released.
    pub(super) fn into_parts(self) -> (Base<K, V>, Vec<Overlay<K, V>>) {
        // The base first: taking it synchronises with the snapshot's release of the overlays before.
        let base = Arc::unwrap_or_clone(self.base);
        let mut overlays: Vec<_> = self.frozen.into_iter().map(Arc::unwrap_or_clone).collect();
        if !self.top.entries.is_empty() {
            overlays.push(self.top);
        }
        (base, overlays)
    }

    pub(super) fn get(&self, key: &K, hash: u64) -> Option<&V> {
        match self.top.get(key, hash) {
            Some(value) => value.as_ref(),
            None => below(&self.base, &self.frozen, key, hash),
        }
    }

    pub(super) fn get_mut(&mut self, key: &K, hash: u64) -> Option<&mut V> {
        match slot(&mut self.top.entries, key, hash) {
            hash_table::Entry::Occupied(entry) => entry.into_mut().value.as_mut(),
            hash_table::Entry::Vacant(slot) => {
                let value = Some(below(&self.base, &self.frozen, key, hash)?.clone());
                slot.insert(Entry { hash, key: key.clone(), value }).into_mut().value.as_mut()
            }
        }
    }

    /// Gives whether there was no value.
    pub(super) fn insert(&mut self, key: &K, hash: u64, value: V) -> bool {
        match slot(&mut self.top.entries, key, hash) {
            hash_table::Entry::Occupied(mut entry) => entry.get_mut().value.replace(value).is_none(),
            hash_table::Entry::Vacant(slot) => {
                slot.insert(Entry { hash, key: key.clone(), value: Some(value) });
                below(&self.base, &self.frozen, key, hash).is_none()
            }
        }
    }

    /// The value of `key`, made by `new` if there is none, and whether there was none.
    pub(super) fn get_or_insert(&mut self, key: &K, hash: u64, new: impl FnOnce() -> V) -> (&mut V, bool) {
        let value = match slot(&mut self.top.entries, key, hash) {
            hash_table::Entry::Occupied(entry) => &mut entry.into_mut().value,
            hash_table::Entry::Vacant(slot) => {
                let value = below(&self.base, &self.frozen, key, hash).cloned();
                &mut slot.insert(Entry { hash, key: key.clone(), value }).into_mut().value
            }
        };
        let added = value.is_none();
        (value.get_or_insert_with(new), added)
    }

    /// Removes `key` and gives what `owned` or `shared` makes of its value, if it had one.
    pub(super) fn delete<R>(
        &mut self,
        key: &K,
        hash: u64,
        owned: impl FnOnce(V) -> R,
        shared: impl FnOnce(&V) -> R,
    ) -> Option<R> {
        let old = below(&self.base, &self.frozen, key, hash);
        if old.is_none() {
            return delete(&mut self.top.entries, key, hash).flatten().map(owned);
        }
        match slot(&mut self.top.entries, key, hash) {
            hash_table::Entry::Occupied(mut entry) => entry.get_mut().value.take().map(owned),
            hash_table::Entry::Vacant(slot) => {
                slot.insert(Entry { hash, key: key.clone(), value: None });
                old.map(shared)
            }
        }
    }

    /// Joins neighbouring overlays that no snapshot reads any more, looking at up to `budget` buckets, so that their number
    /// follows the number of pending snapshots, not of those ever taken.
    pub(super) fn merge(&mut self, budget: usize) {
        let mut budget = budget;
        let mut upper = self.frozen.len();
        while upper > 1 && budget > 0 {
            upper -= 1;
            let Some([lower, higher]) = self.frozen.get_disjoint_mut([upper - 1, upper]).ok() else { return };
            let (Some(lower), Some(higher)) = (Arc::get_mut(lower), Arc::get_mut(higher)) else { continue };
            lower.drained = 0;
            while let Some(entry) = higher.drain_one(&mut budget) {
                match slot(&mut lower.entries, &entry.key, entry.hash) {
                    hash_table::Entry::Occupied(mut old) => old.get_mut().value = entry.value,
                    hash_table::Entry::Vacant(slot) => drop(slot.insert(entry)),
                }
            }
            if higher.entries.is_empty() {
                self.frozen.remove(upper);
            }
        }
    }
}

/// The value that snapshots see.
fn below<'t, K: Eq, V>(
    base: &'t Base<K, V>,
    frozen: &'t [Arc<Overlay<K, V>>],
    key: &K,
    hash: u64,
) -> Option<&'t V> {
    match frozen.iter().rev().find_map(|overlay| overlay.get(key, hash)) {
        Some(value) => value.as_ref(),
        None => find(base, key, hash),
    }
}
