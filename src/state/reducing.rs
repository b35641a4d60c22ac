//! All that was added, folded into one value of the same type.

use super::handle::{keyed_state, plain_handle};
use super::raw::TableId;
use super::{KeyedAccess, StateValue};
use std::marker::PhantomData;

/// A function that folds a value into another. It lives in the store, so that the handle is a plain number.
pub(super) type Reduce<V> = Box<dyn Fn(&mut V, V) + Send>;

/// Per key, all values added, folded into one (Flink's `ReducingState`). Declare it with `reducing_state`; every method
/// works on the current key.
pub struct ReducingState<V> {
    slot: TableId<V>,
    types: PhantomData<fn() -> V>,
}

plain_handle!(ReducingState<V>(TableId<V>));
keyed_state!(ReducingState<V: StateValue>);

impl<V: StateValue> ReducingState<V> {
    /// Adds a value: the first is stored as it is, later ones are folded in.
    #[inline]
    pub fn add<C: KeyedAccess>(&self, ctx: &mut C, value: V) {
        let (store, key, hash) = ctx.states_mut();
        if let Some((table, reduce)) = store.table_with_function::<V, Reduce<V>>(self.slot) {
            match table.get_mut(key, hash) {
                Some(all) => reduce(all, value),
                None => {
                    table.insert(key, hash, value);
                }
            }
        }
    }

    /// A copy of the folded value; `None` if nothing was added.
    #[inline]
    pub fn get<C: KeyedAccess>(&self, ctx: &C) -> Option<V> {
        let (store, key, hash) = ctx.states();
        store.table(self.slot)?.get(key, hash).cloned()
    }

    /// Forgets all that was added.
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
    fn the_first_value_is_stored_as_it_is_and_later_ones_are_folded_in() {
        let mut ctx = Fake::<u64>::new();
        let text = ctx
            .store
            .reducing::<String>("text", |all, next| {
                all.push('+');
                all.push_str(&next);
            })
            .unwrap();
        text.add(ctx.at(1), "a".to_owned());
        assert_eq!(text.get(&ctx).as_deref(), Some("a"));
        text.add(ctx.at(2), "x".to_owned());
        text.add(ctx.at(1), "b".to_owned());
        assert_eq!(text.get(&ctx).as_deref(), Some("a+b"));
        text.clear(&mut ctx);
        assert_eq!(text.get(&ctx), None);
        assert_eq!(text.get(ctx.at(2)).as_deref(), Some("x"));
    }
}
