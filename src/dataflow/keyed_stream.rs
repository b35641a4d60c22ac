//! Streams partitioned by a key, and the operators that keep state for it.

use super::Stream;
use super::functions::{AggregateOperator, MapWithState, Reduce};
use super::graph::{Draft, OperatorKind};
use super::pipe::{KeyedPipe, Pipe};
use crate::error::Result;
use crate::operator::{Handler, Keyer, Operator, Setup};
use crate::state::{Aggregate, Key, StateValue};
use crate::types::OperatorId;
use std::fmt;

/// A stream of records of type `T`, partitioned by a key of type `K`.
///
/// What follows is an operator: it is always the head of its chain, so it gets its records in batches and its keys before
/// them. Plain stages go before `key_by` or after the operator.
#[must_use = "a stream that leads nowhere is an error when the job starts: process it, and end it with a sink"]
pub struct KeyedStream<K, T> {
    pub(super) draft: Draft,
    pub(super) keyer: Box<dyn Keyer<T, K>>,
}

impl<K: Key, T: Send + 'static> KeyedStream<K, T> {
    /// Runs an operator. `factory` makes one instance per subtask and restart, and declares its states; `uid` names it: its
    /// state is matched by that.
    pub fn process<O, F>(mut self, uid: &str, factory: F) -> Stream<O::Out, impl Pipe<Out = O::Out>>
    where
        O: Operator<Key = K> + Handler<T>,
        F: Fn(&mut Setup<'_, K>) -> Result<O> + Clone + Send + 'static,
    {
        let id = OperatorId::from(uid);
        self.draft.name(&id, OperatorKind::Operator);
        Stream::new(self.draft, KeyedPipe { id, keyer: self.keyer, factory })
    }

    /// Folds the records of each key into one of the same type, and emits the running result for every record. The first record
    /// of a key is the first result. State: a value named `reduce`.
    pub fn reduce<F>(self, uid: &str, f: F) -> Stream<T, impl Pipe<Out = T>>
    where
        T: StateValue,
        F: Fn(&mut T, T) + Clone + Send + 'static,
    {
        self.process(uid, move |setup| Ok(Reduce::<K, T, F>::new(setup.value_state("reduce")?, f.clone())))
    }

    /// Folds the records of each key into an accumulator, and emits the running result for every record. State: an
    /// accumulator named `aggregate`.
    pub fn aggregate<A>(self, uid: &str, aggregate: A) -> Stream<A::Out, impl Pipe<Out = A::Out>>
    where
        A: Aggregate<T>,
    {
        self.process(uid, move |setup| {
            Ok(AggregateOperator::<K, T, A>::new(setup.aggregating_state("aggregate", aggregate.clone())?))
        })
    }

    /// Makes one record of each, with the key's state: `f` is given the state, or `None` for a key without, and returns the new
    /// one, or `None` to forget the key. State: a value named `state`.
    pub fn map_with_state<S, U, F>(self, uid: &str, f: F) -> Stream<U, impl Pipe<Out = U>>
    where
        S: StateValue,
        U: 'static,
        F: Fn(T, Option<S>) -> (U, Option<S>) + Clone + Send + 'static,
    {
        self.process(uid, move |setup| {
            Ok(MapWithState::<K, T, S, U, F>::new(setup.value_state("state")?, f.clone()))
        })
    }
}

impl<K, T> fmt::Debug for KeyedStream<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyedStream")
    }
}
