//! All that was added, folded into an accumulator of another type.

use super::handle::keyed_state;
use super::raw::TableId;
use super::{KeyedAccess, StateValue};
use std::fmt;
use std::marker::PhantomData;

/// How to fold records into an accumulator, and what to make of it (Flink's `AggregateFunction`). Keep it free of state:
/// it is cloned for every subtask, and only the accumulator is checkpointed.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not aggregate records of type `{In}`",
    note = "write `impl Aggregate<{In}> for {Self}`"
)]
pub trait Aggregate<In>: Clone + Send + 'static {
    /// What is kept.
    type Acc: StateValue;
    /// What comes out.
    type Out: 'static;

    /// The accumulator of nothing.
    fn create(&self) -> Self::Acc;

    /// Folds a record in.
    fn add(&self, acc: &mut Self::Acc, record: In);

    /// What the accumulator amounts to.
    fn result(&self, acc: &Self::Acc) -> Self::Out;

    /// Folds another accumulator in: the same as if all its records had been added after those of `into`.
    fn merge(&self, into: &mut Self::Acc, other: Self::Acc);
}

/// Per key, all records added, folded by an [`Aggregate`] (Flink's `AggregatingState`). Declare it with
/// `aggregating_state`; every method works on the current key.
pub struct AggregatingState<In, A: Aggregate<In>> {
    slot: TableId<A::Acc>,
    aggregate: A,
    types: PhantomData<fn(In)>,
}

impl<In, A: Aggregate<In>> Clone for AggregatingState<In, A> {
    fn clone(&self) -> Self {
        Self { slot: self.slot, aggregate: self.aggregate.clone(), types: PhantomData }
    }
}

impl<In, A: Aggregate<In> + Copy> Copy for AggregatingState<In, A> {}

impl<In, A: Aggregate<In>> fmt::Debug for AggregatingState<In, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AggregatingState")
    }
}

keyed_state!(AggregatingState<In, A: Aggregate<In>>);

impl<In, A: Aggregate<In>> AggregatingState<In, A> {
    pub(super) fn new(slot: TableId<A::Acc>, aggregate: A) -> Self {
        Self { slot, aggregate, types: PhantomData }
    }

    /// Adds a record.
    #[inline]
    pub fn add<C: KeyedAccess>(&self, ctx: &mut C, record: In) {
        let (store, key, hash) = ctx.states_mut();
        if let Some(table) = store.table_mut(self.slot) {
            table.update(key, hash, || self.aggregate.create(), |acc| self.aggregate.add(acc, record));
        }
    }

    /// The result so far; `None` if nothing was added.
    #[inline]
    pub fn get<C: KeyedAccess>(&self, ctx: &C) -> Option<A::Out> {
        let (store, key, hash) = ctx.states();
        let acc = store.table(self.slot)?.get(key, hash)?;
        Some(self.aggregate.result(acc))
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
    use super::*;
    use crate::state::test_context::Fake;

    #[derive(Clone, Copy)]
    struct Mean;

    impl Aggregate<u32> for Mean {
        type Acc = (u64, u64);
        type Out = f64;
        fn create(&self) -> (u64, u64) {
            (0, 0)
        }
        fn add(&self, acc: &mut (u64, u64), record: u32) {
            *acc = (acc.0 + 1, acc.1 + u64::from(record));
        }
        #[allow(clippy::cast_precision_loss)]
        fn result(&self, acc: &(u64, u64)) -> f64 {
            acc.1 as f64 / acc.0 as f64
        }
        fn merge(&self, into: &mut (u64, u64), other: (u64, u64)) {
            *into = (into.0 + other.0, into.1 + other.1);
        }
    }

    #[test]
    fn the_first_add_makes_the_accumulator() {
        let mut ctx = Fake::<u64>::new();
        let mean = ctx.store.aggregating::<u32, _>("mean", Mean).unwrap();
        let ctx = ctx.at(1);
        assert_eq!(mean.get(ctx), None);
        mean.add(ctx, 1);
        mean.add(ctx, 4);
        assert_eq!(mean.get(ctx), Some(2.5));
        mean.clear(ctx);
        assert_eq!(mean.get(ctx), None);
        assert_eq!(ctx.entries("mean"), 0);
    }
}
