//! A list per key.

use super::handle::{keyed_state, plain_handle};
use super::raw::TableId;
use super::{KeyedAccess, StateValue};
use std::marker::PhantomData;

/// Values in order of adding, per key (Flink's `ListState`). Declare it with `list_state`; every method works on the
/// current key. An empty list and no list are the same.
///
/// The first change to a list while a checkpoint is being written encodes the list as it was. Keep long histories in a
/// [`MapState`](super::MapState) or cut them by key.
pub struct ListState<T> {
    slot: TableId<Vec<T>>,
    types: PhantomData<fn() -> T>,
}

plain_handle!(ListState<T>(TableId<Vec<T>>));
keyed_state!(ListState<T: StateValue>);

impl<T: StateValue> ListState<T> {
    /// Appends a value.
    #[inline]
    pub fn add<C: KeyedAccess>(&self, ctx: &mut C, value: T) {
        let (store, key, hash) = ctx.states_mut();
        if let Some(table) = store.table_mut(self.slot) {
            table.update(key, hash, Vec::new, |list| list.push(value));
        }
    }

    /// Appends values in order; none leave everything as it is.
    pub fn add_all<C: KeyedAccess>(&self, ctx: &mut C, values: impl IntoIterator<Item = T>) {
        let mut values = values.into_iter().peekable();
        if values.peek().is_none() {
            return;
        }
        let (store, key, hash) = ctx.states_mut();
        if let Some(table) = store.table_mut(self.slot) {
            table.update(key, hash, Vec::new, |list| list.extend(values));
        }
    }

    /// Replaces the list; by nothing is to clear it.
    pub fn set<C: KeyedAccess>(&self, ctx: &mut C, values: impl IntoIterator<Item = T>) {
        let values: Vec<T> = values.into_iter().collect();
        let (store, key, hash) = ctx.states_mut();
        if let Some(table) = store.table_mut(self.slot) {
            if values.is_empty() {
                table.remove(key, hash);
            } else {
                table.insert(key, hash, values);
            }
        }
    }

    /// Changes the list in place.
    pub fn update<C: KeyedAccess, R>(&self, ctx: &mut C, f: impl FnOnce(&mut Vec<T>) -> R) -> R {
        let (store, key, hash) = ctx.states_mut();
        let Some(table) = store.table_mut(self.slot) else { return f(&mut Vec::new()) };
        let (result, empty) = table.update(key, hash, Vec::new, |list| (f(list), list.is_empty()));
        if empty {
            table.remove(key, hash);
        }
        result
    }

    /// The values, in order of adding.
    #[inline]
    pub fn get<'c, C: KeyedAccess>(&self, ctx: &'c C) -> &'c [T] {
        let (store, key, hash) = ctx.states();
        store.table(self.slot).and_then(|table| table.get(key, hash)).map_or(&[], Vec::as_slice)
    }

    /// Number of values.
    #[inline]
    pub fn len<C: KeyedAccess>(&self, ctx: &C) -> usize {
        self.get(ctx).len()
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty<C: KeyedAccess>(&self, ctx: &C) -> bool {
        self.get(ctx).is_empty()
    }

    /// Removes all values.
    #[inline]
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
    fn s15_2_empty_set_clears_and_empty_add_all_does_nothing() {
        let mut ctx = Fake::<u64>::new();
        let list = ctx.store.list::<String>("l").unwrap();
        let ctx = ctx.at(1);
        list.add_all(ctx, Vec::new());
        assert_eq!(ctx.entries("l"), 0);
        list.add_all(ctx, ["a".to_owned(), "b".to_owned()]);
        list.add(ctx, "c".to_owned());
        list.add_all(ctx, Vec::new());
        assert_eq!(list.get(ctx), ["a", "b", "c"]);
        assert_eq!(list.len(ctx), 3);
        list.set(ctx, ["z".to_owned()]);
        assert_eq!(list.get(ctx), ["z"]);
        list.set(ctx, Vec::new());
        assert!(list.is_empty(ctx));
        assert_eq!(ctx.entries("l"), 0);
    }

    #[test]
    fn a_list_emptied_in_place_is_gone() {
        let mut ctx = Fake::<u64>::new();
        let list = ctx.store.list::<u8>("l").unwrap();
        let ctx = ctx.at(1);
        list.add_all(ctx, [1, 2, 3]);
        assert_eq!(list.update(ctx, Vec::pop), Some(3));
        assert_eq!(list.get(ctx), [1, 2]);
        list.update(ctx, Vec::clear);
        assert_eq!(ctx.entries("l"), 0);
        list.add(ctx, 9);
        list.clear(ctx);
        assert_eq!((list.get(ctx).len(), ctx.entries("l")), (0, 0));
    }
}
