//! A list per key.

use super::handle::plain_handle;
use super::list_rows::Head;
use super::row::{Row, RowedSlot};
use super::{Key, KeyedAccess, KeyedState, StateStore, StateValue, Table};
use std::marker::PhantomData;

/// Values in order of adding, per key (Flink's `ListState`). Declare it with `list_state`; every method works on the
/// current key. An empty list and no list are the same.
///
/// What [`add`](Self::add) costs does not depend on how long the list is, also while a checkpoint is being written: all but the last values of a list of
/// more than 64 are kept in rows of 64 that do not change, and an incremental checkpoint writes those that are new. Reading takes as long as what is read,
/// [`set`](Self::set), [`update`](Self::update) and [`clear`](Self::clear) as long as the list. A list from a checkpoint that is older than this is put into
/// rows when it is first added to.
pub struct ListState<T> {
    slot: RowedSlot<Head<T>, Vec<T>>,
    types: PhantomData<fn() -> T>,
}

plain_handle!(ListState<T>(RowedSlot<Head<T>, Vec<T>>));

impl<K: Key, T: StateValue> KeyedState<K> for ListState<T> {
    fn keys_in<'s>(&self, store: &'s StateStore<K>) -> impl Iterator<Item = &'s K> + use<'s, K, T>
    where
        K: 's,
    {
        store.table(self.slot.heads).into_iter().flat_map(Table::keys)
    }
}

impl<T: StateValue> ListState<T> {
    fn head<'c, C: KeyedAccess>(&self, ctx: &'c C) -> Option<&'c Head<T>> {
        let (store, key, hash) = ctx.states();
        store.table(self.slot.heads)?.get(key, hash)
    }

    /// Appends a value.
    #[inline]
    pub fn add<C: KeyedAccess>(&self, ctx: &mut C, value: T) {
        let (store, key, hash) = ctx.states_mut();
        if let Some(mut lists) = store.rowed(self.slot, key, hash) {
            lists.push(value);
        }
    }

    /// Appends values in order; none leave everything as it is.
    pub fn add_all<C: KeyedAccess>(&self, ctx: &mut C, values: impl IntoIterator<Item = T>) {
        let mut values = values.into_iter().peekable();
        if values.peek().is_none() {
            return;
        }
        let (store, key, hash) = ctx.states_mut();
        if let Some(mut lists) = store.rowed(self.slot, key, hash) {
            lists.extend(values);
        }
    }

    /// Replaces the list; by nothing is to clear it.
    pub fn set<C: KeyedAccess>(&self, ctx: &mut C, values: impl IntoIterator<Item = T>) {
        let values: Vec<T> = values.into_iter().collect();
        let (store, key, hash) = ctx.states_mut();
        if let Some(mut lists) = store.rowed(self.slot, key, hash) {
            lists.set(values);
        }
    }

    /// Changes the list as one piece. Of one that is in rows a copy is made, which then replaces it: for appending, [`add`](Self::add) is better.
    pub fn update<C: KeyedAccess, R>(&self, ctx: &mut C, f: impl FnOnce(&mut Vec<T>) -> R) -> R {
        let (store, key, hash) = ctx.states_mut();
        match store.rowed(self.slot, key, hash) {
            Some(mut lists) => lists.update(f),
            None => f(&mut Vec::new()),
        }
    }

    /// A copy of the values, in order of adding.
    pub fn get<C: KeyedAccess>(&self, ctx: &C) -> Vec<T> {
        self.iter(ctx).cloned().collect()
    }

    /// The values in place, in order of adding; from the last to the first with `rev`.
    pub fn iter<'c, C: KeyedAccess>(
        &self,
        ctx: &'c C,
    ) -> impl DoubleEndedIterator<Item = &'c T> + use<'c, C, T> {
        let rows = self.slot.rows;
        Head::values(self.head(ctx), move |number| {
            let (store, key, hash) = ctx.states();
            let row = Row::of(key, hash, number, store.max_parallelism());
            store.rows(rows)?.get(&row, row.place)
        })
    }

    /// Number of values.
    #[inline]
    pub fn len<C: KeyedAccess>(&self, ctx: &C) -> usize {
        self.head(ctx).map_or(0, Head::len)
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty<C: KeyedAccess>(&self, ctx: &C) -> bool {
        self.head(ctx).is_none()
    }

    /// Removes all values.
    #[inline]
    pub fn clear<C: KeyedAccess>(&self, ctx: &mut C) {
        let (store, key, hash) = ctx.states_mut();
        if let Some(mut lists) = store.rowed(self.slot, key, hash) {
            lists.clear();
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
