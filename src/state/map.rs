//! A map per key.

use super::handle::plain_handle;
use super::map_head::Head;
use super::row::{Row, RowedSlot};
use super::{Key, KeyedAccess, KeyedState, StateStore, StateValue, Table};
use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{BuildHasherDefault, Hash};
use std::marker::PhantomData;

/// Pairs of a key. The hasher has no random seed: the same history gives the same order of iteration.
pub(super) type Entries<UK, V> = HashMap<UK, V, BuildHasherDefault<DefaultHasher>>;

/// What the second key of a [`MapState`] must be. Every type with these bounds is one. As with every [`Key`], two are equal if and only if their serde
/// forms are: otherwise a large map may hold one twice.
pub trait UserKey: Key + Hash {}

impl<T: Key + Hash> UserKey for T {}

/// Values by a second key, per key (Flink's `MapState`). Declare it with `map_state`; every method works on the current
/// key. Iteration is in no order to rely on.
///
/// What a change costs does not depend on how many pairs there are, also while a checkpoint is being written: a map of more than 32 pairs is kept in rows
/// of about 16, and a change encodes one row or three, for an incremental checkpoint too. [`clear`](Self::clear) and iteration take as long as there
/// are pairs. If second keys cannot be hashed by their serde form, as those with floats, maps of any size stay in one piece, and a change encodes that. A map from a checkpoint that is older than this is put into rows when a pair is first put into it.
pub struct MapState<UK, V> {
    slot: RowedSlot<Head<UK, V>, Entries<UK, V>>,
    types: PhantomData<fn() -> (UK, V)>,
}

plain_handle!(MapState<UK, V>(RowedSlot<Head<UK, V>, Entries<UK, V>>));

impl<K: Key, UK: UserKey, V: StateValue> KeyedState<K> for MapState<UK, V> {
    fn keys_in<'s>(&self, store: &'s StateStore<K>) -> impl Iterator<Item = &'s K> + use<'s, K, UK, V>
    where
        K: 's,
    {
        store.table(self.slot.heads).into_iter().flat_map(Table::keys)
    }
}

impl<UK: UserKey, V: StateValue> MapState<UK, V> {
    /// The map, if it is small, or its size.
    pub(super) fn head<'c, C: KeyedAccess>(&self, ctx: &'c C) -> Option<&'c Head<UK, V>> {
        let (store, key, hash) = ctx.states();
        store.table(self.slot.heads)?.get(key, hash)
    }

    /// One row of a large map.
    fn row<'c, C: KeyedAccess>(&self, ctx: &'c C, number: u32) -> Option<&'c Entries<UK, V>> {
        let (store, key, hash) = ctx.states();
        let row = Row::of(key, hash, number, store.max_parallelism());
        store.rows(self.slot.rows)?.get(&row, row.place)
    }

    /// A copy of the value under `user_key`.
    pub fn get<C: KeyedAccess>(&self, ctx: &C, user_key: &UK) -> Option<V> {
        self.peek(ctx, user_key).cloned()
    }

    /// The value under `user_key`, in place.
    pub fn peek<'c, C: KeyedAccess>(&self, ctx: &'c C, user_key: &UK) -> Option<&'c V> {
        match self.head(ctx)? {
            Head::Small(entries) => entries.get(user_key),
            Head::Large(size) => self.row(ctx, size.row_of(user_key))?.get(user_key),
        }
    }

    /// Whether there is a value under `user_key`.
    pub fn contains<C: KeyedAccess>(&self, ctx: &C, user_key: &UK) -> bool {
        self.peek(ctx, user_key).is_some()
    }

    /// Puts a value under `user_key` and gives the old one.
    pub fn insert<C: KeyedAccess>(&self, ctx: &mut C, user_key: UK, value: V) -> Option<V> {
        let (store, key, hash) = ctx.states_mut();
        store.rowed(self.slot, key, hash)?.insert(user_key, value)
    }

    /// Puts several values.
    pub fn insert_all<C: KeyedAccess>(&self, ctx: &mut C, values: impl IntoIterator<Item = (UK, V)>) {
        let (store, key, hash) = ctx.states_mut();
        if let Some(mut maps) = store.rowed(self.slot, key, hash) {
            for (user_key, value) in values {
                maps.insert(user_key, value);
            }
        }
    }

    /// Changes the value under `user_key` in place, starting from `V::default()` if there is none.
    pub fn update<C: KeyedAccess, R>(&self, ctx: &mut C, user_key: UK, f: impl FnOnce(&mut V) -> R) -> R
    where
        V: Default,
    {
        let (store, key, hash) = ctx.states_mut();
        match store.rowed(self.slot, key, hash) {
            Some(mut maps) => maps.update(user_key, f),
            None => f(&mut V::default()),
        }
    }

    /// Removes the value under `user_key` and gives it. With its last value the key itself is removed.
    pub fn remove<C: KeyedAccess>(&self, ctx: &mut C, user_key: &UK) -> Option<V> {
        if !self.contains(ctx, user_key) {
            return None; // without encoding for a snapshot a map that stays as it is
        }
        let (store, key, hash) = ctx.states_mut();
        store.rowed(self.slot, key, hash)?.remove(user_key)
    }

    /// All pairs.
    pub fn iter<'c, C: KeyedAccess>(
        &self,
        ctx: &'c C,
    ) -> impl Iterator<Item = (&'c UK, &'c V)> + use<'c, C, UK, V> {
        let (small, rows) = match self.head(ctx) {
            Some(Head::Small(entries)) => (Some(entries), 0),
            Some(Head::Large(size)) => (None, size.rows),
            None => (None, 0),
        };
        let this = *self;
        let rows = (0..rows).filter_map(move |number| this.row(ctx, number));
        small.into_iter().chain(rows).flatten()
    }

    /// All second keys.
    pub fn keys<'c, C: KeyedAccess>(&self, ctx: &'c C) -> impl Iterator<Item = &'c UK> + use<'c, C, UK, V> {
        self.iter(ctx).map(|(user_key, _)| user_key)
    }

    /// All values.
    pub fn values<'c, C: KeyedAccess>(&self, ctx: &'c C) -> impl Iterator<Item = &'c V> + use<'c, C, UK, V> {
        self.iter(ctx).map(|(_, value)| value)
    }

    /// Number of pairs.
    pub fn len<C: KeyedAccess>(&self, ctx: &C) -> usize {
        match self.head(ctx) {
            Some(Head::Small(entries)) => entries.len(),
            Some(Head::Large(size)) => usize::try_from(size.len).unwrap_or(usize::MAX),
            None => 0,
        }
    }

    /// Whether there are none.
    pub fn is_empty<C: KeyedAccess>(&self, ctx: &C) -> bool {
        self.len(ctx) == 0
    }

    /// Removes all pairs.
    pub fn clear<C: KeyedAccess>(&self, ctx: &mut C) {
        let (store, key, hash) = ctx.states_mut();
        if let Some(mut maps) = store.rowed(self.slot, key, hash) {
            maps.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::state::test_context::Fake;

    #[test]
    fn s15_3_removing_the_last_pair_removes_the_key() {
        let mut ctx = Fake::<u64>::new();
        let map = ctx.store.map::<String, u64>("m").unwrap();
        let ctx = ctx.at(1);
        map.insert_all(ctx, Vec::new());
        assert_eq!(ctx.entries("m"), 0);
        assert_eq!(map.insert(ctx, "a".to_owned(), 1), None);
        assert_eq!(map.insert(ctx, "a".to_owned(), 2), Some(1));
        map.update(ctx, "b".to_owned(), |v| *v += 5);
        assert_eq!(ctx.entries("m"), 1);
        assert_eq!(map.remove(ctx, &"x".to_owned()), None);
        assert_eq!(map.remove(ctx, &"a".to_owned()), Some(2));
        assert_eq!(ctx.entries("m"), 1);
        assert_eq!(map.remove(ctx, &"b".to_owned()), Some(5));
        assert_eq!(ctx.entries("m"), 0);
        assert!(map.is_empty(ctx));
    }

    #[test]
    fn reads_see_the_current_key_only() {
        let mut ctx = Fake::<u64>::new();
        let map = ctx.store.map::<u8, Option<u8>>("m").unwrap();
        map.insert_all(ctx.at(1), [(1, None), (2, Some(2))]);
        map.insert(ctx.at(2), 9, Some(9));
        let ctx = ctx.at(1);
        let mut keys: Vec<_> = map.keys(ctx).copied().collect();
        keys.sort_unstable();
        assert_eq!(keys, [1, 2]);
        assert_eq!((map.len(ctx), map.values(ctx).flatten().count()), (2, 1));
        assert_eq!(map.get(ctx, &1), Some(None), "a value that is `None` is a value");
        assert!(!map.contains(ctx, &9));
        map.clear(ctx);
        assert_eq!(map.iter(ctx).count(), 0);
        assert_eq!(ctx.entries("m"), 1);
    }
}
