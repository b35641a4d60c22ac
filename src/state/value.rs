//! One value per key.

use super::handle::{keyed_state, plain_handle};
use super::raw::TableId;
use super::{KeyedAccess, StateValue};
use std::marker::PhantomData;

/// One value per key (Flink's `ValueState`). Declare it with `value_state`; every method works on the current key.
///
/// The handle is a number: it may be copied, and used with no other operator's context. There it would find nothing, and
/// writes would be lost; debug builds panic.
pub struct ValueState<V> {
    slot: TableId<V>,
    types: PhantomData<fn() -> V>,
}

plain_handle!(ValueState<V>(TableId<V>));
keyed_state!(ValueState<V: StateValue>);

impl<V: StateValue> ValueState<V> {
    /// A copy of the value; `None` if there is none.
    #[inline]
    pub fn get<C: KeyedAccess>(&self, ctx: &C) -> Option<V> {
        self.peek(ctx).cloned()
    }

    /// The value in place; `None` if there is none.
    #[inline]
    pub fn peek<'c, C: KeyedAccess>(&self, ctx: &'c C) -> Option<&'c V> {
        let (store, key, hash) = ctx.states();
        store.table(self.slot)?.get(key, hash)
    }

    /// Whether there is a value.
    #[inline]
    pub fn exists<C: KeyedAccess>(&self, ctx: &C) -> bool {
        self.peek(ctx).is_some()
    }

    /// Puts a value in place of the old one.
    #[inline]
    pub fn set<C: KeyedAccess>(&self, ctx: &mut C, value: V) {
        let (store, key, hash) = ctx.states_mut();
        if let Some(table) = store.table_mut(self.slot) {
            table.insert(key, hash, value);
        }
    }

    /// Removes the value.
    #[inline]
    pub fn clear<C: KeyedAccess>(&self, ctx: &mut C) {
        let (store, key, hash) = ctx.states_mut();
        if let Some(table) = store.table_mut(self.slot) {
            table.remove(key, hash);
        }
    }

    /// Removes the value and gives it.
    #[inline]
    pub fn take<C: KeyedAccess>(&self, ctx: &mut C) -> Option<V> {
        let (store, key, hash) = ctx.states_mut();
        store.table_mut(self.slot)?.take(key, hash)
    }

    /// Changes the value in place, starting from `V::default()` if there is none. The fastest way to count or to sum.
    #[inline]
    pub fn update<C: KeyedAccess, R>(&self, ctx: &mut C, f: impl FnOnce(&mut V) -> R) -> R
    where
        V: Default,
    {
        self.update_or(ctx, V::default, f)
    }

    /// Changes the value in place, starting from `new()` if there is none.
    #[inline]
    pub fn update_or<C: KeyedAccess, R>(
        &self,
        ctx: &mut C,
        new: impl FnOnce() -> V,
        f: impl FnOnce(&mut V) -> R,
    ) -> R {
        let (store, key, hash) = ctx.states_mut();
        match store.table_mut(self.slot) {
            Some(table) => table.update(key, hash, new, f),
            None => f(&mut new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::state::test_context::Fake;

    /// What user code looks like: `ctx` is a variable of type `&mut Context`.
    fn handle(sum: crate::state::ValueState<(u64, u64)>, ctx: &mut Fake<u64>, value: u64) -> Option<u64> {
        let (count, total) = sum.get(ctx).unwrap_or_default();
        match (count + 1, total + value) {
            (2, total) => {
                sum.clear(ctx);
                Some(total / 2)
            }
            next => {
                sum.set(ctx, next);
                None
            }
        }
    }

    #[test]
    fn averages_of_two_leave_one_pair_in_state() {
        let mut ctx = Fake::<u64>::new();
        let sum = ctx.store.value::<_>("sum").unwrap();
        ctx.at(1);
        let averages: Vec<_> = [3, 5, 7, 4, 2].into_iter().filter_map(|v| handle(sum, &mut ctx, v)).collect();
        assert_eq!(averages, [4, 5]);
        assert_eq!(sum.peek(&ctx), Some(&(1, 2)));
    }

    #[test]
    fn s15_1_a_default_never_leaks_into_other_keys() {
        let mut ctx = Fake::<u64>::new();
        let list = ctx.store.value::<Vec<u8>>("list").unwrap();
        list.update(ctx.at(1), |list| list.push(7));
        assert_eq!(list.get(ctx.at(2)), None);
        assert_eq!(list.update(ctx.at(2), |list| list.clone()), Vec::<u8>::new());
        assert_eq!(list.get(ctx.at(1)), Some(vec![7]));
    }

    #[test]
    fn every_way_to_change_a_value() {
        let mut ctx = Fake::<String>::new();
        let value = ctx.store.value::<u64>("v").unwrap();
        let ctx = ctx.at("k".to_owned());
        assert!(!value.exists(ctx));
        assert_eq!(value.take(ctx), None);
        assert_eq!(value.update_or(ctx, || 10, |v| std::mem::replace(v, 11)), 10);
        assert_eq!(value.update(ctx, |v| *v + 1), 12);
        assert_eq!(value.take(ctx), Some(11));
        assert!(!value.exists(ctx));
        value.set(ctx, 5);
        value.clear(ctx);
        assert_eq!(value.get(ctx), None);
    }
}
