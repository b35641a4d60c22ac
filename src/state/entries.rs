//! Entries in a hash table: the one representation that the base of a table and its overlays share.

use hashbrown::{HashTable, hash_table};

/// One entry. The hash is kept: growing and ordering need no second look at the key.
#[derive(Clone)]
pub(super) struct Entry<K, V> {
    pub(super) hash: u64,
    pub(super) key: K,
    pub(super) value: V,
}

/// The plain table below all overlays.
pub(super) type Base<K, V> = HashTable<Entry<K, V>>;

/// The hash that places an entry. Its high bits choose the key group, so within a subtask they hardly differ; `hashbrown`
/// takes its tags from the high bits. Shifting mixes lower bits in.
#[inline]
pub(super) fn place(hash: u64) -> u64 {
    hash ^ (hash << 25)
}

#[inline]
pub(super) fn find<'t, K: Eq, V>(table: &'t HashTable<Entry<K, V>>, key: &K, hash: u64) -> Option<&'t V> {
    table.find(place(hash), |entry| entry.hash == hash && entry.key == *key).map(|entry| &entry.value)
}

#[inline]
pub(super) fn find_mut<'t, K: Eq, V>(
    table: &'t mut HashTable<Entry<K, V>>,
    key: &K,
    hash: u64,
) -> Option<&'t mut V> {
    let found = table.find_mut(place(hash), |entry| entry.hash == hash && entry.key == *key);
    found.map(|entry| &mut entry.value)
}

#[inline]
pub(super) fn slot<'t, K: Eq, V>(
    table: &'t mut HashTable<Entry<K, V>>,
    key: &K,
    hash: u64,
) -> hash_table::Entry<'t, Entry<K, V>> {
    table.entry(place(hash), |entry| entry.hash == hash && entry.key == *key, |entry| place(entry.hash))
}

#[inline]
pub(super) fn delete<K: Eq, V>(table: &mut HashTable<Entry<K, V>>, key: &K, hash: u64) -> Option<V> {
    let found = table.find_entry(place(hash), |entry| entry.hash == hash && entry.key == *key);
    found.ok().map(|entry| entry.remove().0.value)
}
