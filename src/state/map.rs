//! A map per key.

use super::handle::{keyed_state, plain_handle};
use super::raw::TableId;
use super::{Key, KeyedAccess, StateValue};
use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{BuildHasherDefault, Hash};
use std::marker::PhantomData;

/// What a key's entry holds. The hasher has no random seed: the same history gives the same order of iteration.
pub(super) type Entries<UK, V> = HashMap<UK, V, BuildHasherDefault<DefaultHasher>>;

/// What the second key of a [`MapState`] must be. Every type with these bounds is one.
pub trait UserKey: Key + Hash {}

impl<T: Key + Hash> UserKey for T {}

/// Values by a second key, per key (Flink's `MapState`). Declare it with `map_state`; every method works on the current
/// key. Iteration is in no order to rely on.
///
/// The first change to a key's map while a checkpoint is being written encodes that map as it was. A map with very many entries is
/// better made the key: `key_by` on both.
pub struct MapState<UK, V> {
    slot: TableId<Entries<UK, V>>,
    types: PhantomData<fn() -> (UK, V)>,
}

plain_handle!(MapState<UK, V>(TableId<Entries<UK, V>>));
keyed_state!(MapState<UK: UserKey, V: StateValue>);

impl<UK: UserKey, V: StateValue> MapState<UK, V> {
    fn entries<'c, C: KeyedAccess>(&self, ctx: &'c C) -> Option<&'c Entries<UK, V>> {
        let (store, key, hash) = ctx.states();
        store.table(self.slot)?.get(key, hash)
    }

    /// A copy of the value under `user_key`.
    pub fn get<C: KeyedAccess>(&self, ctx: &C, user_key: &UK) -> Option<V> {
        self.peek(ctx, user_key).cloned()
    }

    /// The value under `user_key`, in place.
    pub fn peek<'c, C: KeyedAccess>(&self, ctx: &'c C, user_key: &UK) -> Option<&'c V> {
        self.entries(ctx)?.get(user_key)
    }

    /// Whether there is a value under `user_key`.
    pub fn contains<C: KeyedAccess>(&self, ctx: &C, user_key: &UK) -> bool {
        self.peek(ctx, user_key).is_some()
    }

    /// Puts a value under `user_key` and gives the old one.
    pub fn insert<C: KeyedAccess>(&self, ctx: &mut C, user_key: UK, value: V) -> Option<V> {
        let (store, key, hash) = ctx.states_mut();
        let table = store.table_mut(self.slot)?;
        table.update(key, hash, Entries::default, |entries| entries.insert(user_key, value))
    }

    /// Puts several values.
    pub fn insert_all<C: KeyedAccess>(&self, ctx: &mut C, values: impl IntoIterator<Item = (UK, V)>) {
        let mut values = values.into_iter().peekable();
        if values.peek().is_none() {
            return;
        }
        let (store, key, hash) = ctx.states_mut();
        if let Some(table) = store.table_mut(self.slot) {
            table.update(key, hash, Entries::default, |entries| entries.extend(values));
        }
    }

    /// Changes the value under `user_key` in place, starting from `V::default()` if there is none.
    pub fn update<C: KeyedAccess, R>(&self, ctx: &mut C, user_key: UK, f: impl FnOnce(&mut V) -> R) -> R
    where
        V: Default,
    {
        let (store, key, hash) = ctx.states_mut();
        match store.table_mut(self.slot) {
            Some(table) => {
                table.update(key, hash, Entries::default, |entries| f(entries.entry(user_key).or_default()))
            }
            None => f(&mut V::default()),
        }
    }

    /// Removes the value under `user_key` and gives it. With its last value the key itself is removed.
    pub fn remove<C: KeyedAccess>(&self, ctx: &mut C, user_key: &UK) -> Option<V> {
        if !self.contains(ctx, user_key) {
            return None; // without encoding for a snapshot a map that stays as it is
        }
        let (store, key, hash) = ctx.states_mut();
        let table = store.table_mut(self.slot)?;
        let entries = table.get_mut(key, hash)?;
        let removed = entries.remove(user_key);
        if entries.is_empty() {
            table.remove(key, hash);
        }
        removed
    }

    /// All pairs.
    pub fn iter<'c, C: KeyedAccess>(
        &self,
        ctx: &'c C,
    ) -> impl Iterator<Item = (&'c UK, &'c V)> + use<'c, C, UK, V> {
        self.entries(ctx).into_iter().flatten()
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
        self.entries(ctx).map_or(0, HashMap::len)
    }

    /// Whether there are none.
    pub fn is_empty<C: KeyedAccess>(&self, ctx: &C) -> bool {
        self.len(ctx) == 0
    }

    /// Removes all pairs.
    pub fn clear<C: KeyedAccess>(&self, ctx: &mut C) {
        let (store, key, hash) = ctx.states_mut();
        if let Some(table) = store.table_mut(self.slot) {
            table.remove(key, hash);
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
