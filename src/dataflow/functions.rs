//! The operators behind `reduce`, `aggregate`, `map_with_state` and `flat_map_with_state`: written with the public API, like any user's.

use crate::error::Result;
use crate::operator::{Context, Handler, Operator};
use crate::state::{Aggregate, AggregatingState, Key, StateValue, ValueState};
use std::marker::PhantomData;

pub(super) struct Reduce<K, T, F> {
    value: ValueState<T>,
    f: F,
    key: PhantomData<fn(K)>,
}

impl<K, T, F> Reduce<K, T, F> {
    pub(super) fn new(value: ValueState<T>, f: F) -> Self {
        Self { value, f, key: PhantomData }
    }
}

impl<K: Key, T: StateValue, F: Fn(&mut T, T) + 'static> Operator for Reduce<K, T, F> {
    type Key = K;
    type Out = T;
}

impl<K: Key, T: StateValue, F: Fn(&mut T, T) + 'static> Handler<T> for Reduce<K, T, F> {
    #[inline]
    fn handle(&mut self, record: T, ctx: &mut Context<'_, Self>) -> Result {
        let reduced = match self.value.take(ctx) {
            Some(mut value) => {
                (self.f)(&mut value, record);
                value
            }
            None => record,
        };
        self.value.set(ctx, reduced.clone());
        ctx.emit(reduced);
        Ok(())
    }
}

pub(super) struct AggregateOperator<K, In, A: Aggregate<In>> {
    state: AggregatingState<In, A>,
    key: PhantomData<fn(K)>,
}

impl<K, In, A: Aggregate<In>> AggregateOperator<K, In, A> {
    pub(super) fn new(state: AggregatingState<In, A>) -> Self {
        Self { state, key: PhantomData }
    }
}

impl<K: Key, In: 'static, A: Aggregate<In>> Operator for AggregateOperator<K, In, A> {
    type Key = K;
    type Out = A::Out;
}

impl<K: Key, In: 'static, A: Aggregate<In>> Handler<In> for AggregateOperator<K, In, A> {
    #[inline]
    fn handle(&mut self, record: In, ctx: &mut Context<'_, Self>) -> Result {
        self.state.add(ctx, record);
        if let Some(result) = self.state.get(ctx) {
            ctx.emit(result);
        }
        Ok(())
    }
}

pub(super) struct MapWithState<K, T, S, U, F> {
    state: ValueState<S>,
    f: F,
    types: PhantomData<fn(K, T) -> U>,
}

impl<K, T, S, U, F> MapWithState<K, T, S, U, F> {
    pub(super) fn new(state: ValueState<S>, f: F) -> Self {
        Self { state, f, types: PhantomData }
    }
}

impl<K, T, S, U, F> Operator for MapWithState<K, T, S, U, F>
where
    K: Key,
    T: 'static,
    S: StateValue,
    U: 'static,
    F: Fn(T, Option<S>) -> (U, Option<S>) + 'static,
{
    type Key = K;
    type Out = U;
}

impl<K, T, S, U, F> Handler<T> for MapWithState<K, T, S, U, F>
where
    K: Key,
    T: 'static,
    S: StateValue,
    U: 'static,
    F: Fn(T, Option<S>) -> (U, Option<S>) + 'static,
{
    #[inline]
    fn handle(&mut self, record: T, ctx: &mut Context<'_, Self>) -> Result {
        let (out, state) = (self.f)(record, self.state.get(ctx));
        match state {
            Some(state) => self.state.set(ctx, state),
            None => self.state.clear(ctx),
        }
        ctx.emit(out);
        Ok(())
    }
}

/// How many records of one iterator are taken at once. For more it is put into a box and pulled as there is room.
const FEW: usize = 8;

pub(super) struct FlatMapWithState<K, T, S, I, F> {
    state: ValueState<S>,
    f: F,
    types: PhantomData<fn(K, T) -> I>,
}

impl<K, T, S, I, F> FlatMapWithState<K, T, S, I, F> {
    pub(super) fn new(state: ValueState<S>, f: F) -> Self {
        Self { state, f, types: PhantomData }
    }
}

impl<K, T, S, I, F> Operator for FlatMapWithState<K, T, S, I, F>
where
    K: Key,
    T: 'static,
    S: StateValue,
    I: IntoIterator<Item: 'static, IntoIter: 'static> + 'static,
    F: Fn(T, Option<S>) -> (I, Option<S>) + 'static,
{
    type Key = K;
    type Out = I::Item;
}

impl<K, T, S, I, F> Handler<T> for FlatMapWithState<K, T, S, I, F>
where
    K: Key,
    T: 'static,
    S: StateValue,
    I: IntoIterator<Item: 'static, IntoIter: 'static> + 'static,
    F: Fn(T, Option<S>) -> (I, Option<S>) + 'static,
{
    #[inline]
    fn handle(&mut self, record: T, ctx: &mut Context<'_, Self>) -> Result {
        let (records, state) = (self.f)(record, self.state.take(ctx));
        if let Some(state) = state {
            self.state.set(ctx, state);
        }
        let mut records = records.into_iter();
        for _ in 0..FEW {
            let Some(record) = records.next() else { return Ok(()) };
            ctx.emit(record);
        }
        ctx.emit_iter(records);
        Ok(())
    }
}
