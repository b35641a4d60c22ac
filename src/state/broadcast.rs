//! A map that every subtask has a copy of.

use super::handle::{Slot, plain_handle};
use super::map::{Entries, UserKey};
use super::{BroadcastAccess, OperatorAccess, StateValue};
use std::marker::PhantomData;

/// A map of which every subtask keeps a copy (Flink's broadcast state): rules, prices, settings that come in on a broadcast stream and
/// are looked up for each record. Declare it with `broadcast_state`.
///
/// It is read from every context, and written only in [`BroadcastHandler::handle_broadcast`](crate::BroadcastHandler): every
/// subtask is given the same broadcast records, so the copies stay equal as long as what is written depends on nothing but those records.
/// Records of one broadcasting subtask come in order everywhere; those of several come in no order between them, so broadcast from
/// one subtask (`.parallelism(1)`), or write what does not depend on the order.
///
/// Every subtask stores its copy with each checkpoint, and gets it back at a restart; at another parallelism the copies are dealt out in
/// turn, one to each subtask. It is encoded while the subtask waits: keep it small. Iteration is in no order to rely on, not even
/// the same in two subtasks.
pub struct BroadcastState<A, B> {
    slot: Slot,
    types: PhantomData<fn() -> (A, B)>,
}

plain_handle!(BroadcastState < A, B > (Slot));

impl<A: UserKey, B: StateValue> BroadcastState<A, B> {
    fn entries<'c, C: OperatorAccess>(&self, ctx: &'c C) -> Option<&'c Entries<A, B>> {
        ctx.store().broadcast_entries(self.slot)
    }

    /// A copy of the value under `key`.
    pub fn get<C: OperatorAccess>(&self, ctx: &C, key: &A) -> Option<B> {
        self.peek(ctx, key).cloned()
    }

    /// The value under `key`, in place.
    pub fn peek<'c, C: OperatorAccess>(&self, ctx: &'c C, key: &A) -> Option<&'c B> {
        self.entries(ctx)?.get(key)
    }

    /// Whether there is a value under `key`.
    pub fn contains<C: OperatorAccess>(&self, ctx: &C, key: &A) -> bool {
        self.peek(ctx, key).is_some()
    }

    /// All pairs.
    pub fn iter<'c, C: OperatorAccess>(
        &self,
        ctx: &'c C,
    ) -> impl Iterator<Item = (&'c A, &'c B)> + use<'c, C, A, B> {
        self.entries(ctx).into_iter().flatten()
    }

    /// Number of pairs.
    pub fn len<C: OperatorAccess>(&self, ctx: &C) -> usize {
        self.entries(ctx).map_or(0, Entries::len)
    }

    /// Whether there are none.
    pub fn is_empty<C: OperatorAccess>(&self, ctx: &C) -> bool {
        self.len(ctx) == 0
    }

    /// Puts a value under `key` and gives the old one.
    pub fn insert<C: BroadcastAccess>(&self, ctx: &mut C, key: A, value: B) -> Option<B> {
        ctx.store_mut().broadcast_entries_mut(self.slot)?.insert(key, value)
    }

    /// Changes the value under `key` in place, starting from `B::default()` if there is none.
    pub fn update<C: BroadcastAccess, R>(&self, ctx: &mut C, key: A, f: impl FnOnce(&mut B) -> R) -> R
    where
        B: Default,
    {
        match ctx.store_mut().broadcast_entries_mut::<A, B>(self.slot) {
            Some(entries) => f(entries.entry(key).or_default()),
            None => f(&mut B::default()),
        }
    }

    /// Removes the value under `key` and gives it.
    pub fn remove<C: BroadcastAccess>(&self, ctx: &mut C, key: &A) -> Option<B> {
        ctx.store_mut().broadcast_entries_mut::<A, B>(self.slot)?.remove(key)
    }

    /// Removes all pairs.
    pub fn clear<C: BroadcastAccess>(&self, ctx: &mut C) {
        if let Some(entries) = ctx.store_mut().broadcast_entries_mut::<A, B>(self.slot) {
            entries.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::state::test_context::Fake;

    #[test]
    fn pairs_do_not_depend_on_the_key_of_the_stream() {
        let mut ctx = Fake::<u64>::new();
        let rules = ctx.store.broadcast::<String, u32>("rules").unwrap();
        assert_eq!(rules.insert(ctx.at(1), "a".to_owned(), 1), None);
        assert_eq!(rules.insert(ctx.at(2), "a".to_owned(), 2), Some(1));
        rules.update(&mut ctx, "b".to_owned(), |limit| *limit += 5);
        assert_eq!((rules.get(&ctx, &"a".to_owned()), rules.get(&ctx, &"b".to_owned())), (Some(2), Some(5)));
        assert!(rules.contains(ctx.at(3), &"b".to_owned()));
        assert_eq!((rules.len(&ctx), rules.iter(&ctx).map(|(_, limit)| limit).sum::<u32>()), (2, 7));
        assert_eq!(rules.remove(&mut ctx, &"a".to_owned()), Some(2));
        rules.clear(&mut ctx);
        assert!(rules.is_empty(&ctx));
    }
}
