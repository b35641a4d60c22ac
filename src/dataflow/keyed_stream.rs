//! Streams partitioned by a key, and the operators that keep state for it.

use super::functions::{AggregateOperator, FlatMapWithState, MapWithState, Reduce};
use super::graph::Draft;
use super::operator_pipe::OperatorPipe;
use super::pipe::Pipe;
use super::{BroadcastStream, Connected, Stream};
use crate::error::Result;
use crate::operator::{BroadcastInput, Handler, KeyedInput, Operator, Setup};
use crate::state::{Aggregate, Key, StateValue};
use std::fmt;
use std::marker::PhantomData;

/// A stream of records of type `T`, partitioned by a key of type `K`, which a function of type `F` selects.
///
/// What follows is an operator: it is always the head of its chain, so it gets its records in batches, and what it keeps for their keys is
/// brought near before it is asked for. Plain stages go before `key_by` or after the operator.
///
/// In signatures: `KeyedStream<K, T, impl Fn(&T) -> K + Clone + Send + 'static>`; or, if `key_by` was given a `fn`, `KeyedStream<K, T>`.
#[must_use = "a stream that leads nowhere is an error when the job starts: process it, and end it with a sink"]
pub struct KeyedStream<K, T, F = fn(&T) -> K> {
    pub(super) draft: Draft,
    pub(super) key: F,
    types: PhantomData<fn(T) -> K>,
}

impl<K, T, F> KeyedStream<K, T, F> {
    pub(super) fn new(draft: Draft, key: F) -> Self {
        Self { draft, key, types: PhantomData }
    }
}

impl<K: Key, T: Send + 'static, By: Fn(&T) -> K + Clone + Send + 'static> KeyedStream<K, T, By> {
    /// Runs an operator. `factory` makes one instance per subtask and restart, and declares its states; `uid` names it: its
    /// state is matched by that.
    pub fn process<O, F>(
        self,
        uid: &str,
        factory: F,
    ) -> Stream<O::Out, impl OperatorPipe<Out = O::Out, Operator = O>>
    where
        O: Operator<Key = K> + Handler<T>,
        F: Fn(&mut Setup<'_, K>) -> Result<O> + Clone + Send + 'static,
    {
        self.alone().process(uid, factory)
    }

    /// Joins another stream with the same type of key: for an operator that has a [`Handler`] for the records of each, and one state
    /// for both. All records of one key, of both streams, go to one subtask; between the streams there is no order. More streams can
    /// be connected to the result. Has the job's parallelism, unless [`parallelism`](Self::parallelism) was called on either.
    ///
    /// Streams are told apart by the types of their records. Two of one type cannot be: map one to a newtype.
    ///
    /// ```
    /// use serde::{Deserialize, Serialize};
    /// use strandline::prelude::*;
    ///
    /// #[derive(Clone, Serialize, Deserialize)]
    /// struct Order { id: u64, amount: u32 }
    /// #[derive(Clone, Serialize, Deserialize)]
    /// struct Payment { order: u64 }
    ///
    /// /// Emits (order, amount) when both the order and its payment are there, in whatever order they come.
    /// struct Pay {
    ///     amount: ValueState<u32>,
    ///     paid: ValueState<bool>,
    /// }
    ///
    /// impl Operator for Pay {
    ///     type Key = u64;
    ///     type Out = (u64, u32);
    /// }
    ///
    /// impl Handler<Order> for Pay {
    ///     fn handle(&mut self, order: Order, ctx: &mut Context<'_, Self>) -> Result {
    ///         match self.paid.take(ctx) {
    ///             Some(_) => ctx.emit((order.id, order.amount)),
    ///             None => self.amount.set(ctx, order.amount),
    ///         }
    ///         Ok(())
    ///     }
    /// }
    ///
    /// impl Handler<Payment> for Pay {
    ///     fn handle(&mut self, payment: Payment, ctx: &mut Context<'_, Self>) -> Result {
    ///         match self.amount.take(ctx) {
    ///             Some(amount) => ctx.emit((payment.order, amount)),
    ///             None => self.paid.set(ctx, true),
    ///         }
    ///         Ok(())
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result {
    /// # let env = Environment::builder().parallelism(2).build()?;
    /// # let paid = Collect::new();
    /// let orders = env.source("orders", Iter::new([(1, 10), (2, 20)])).map(|(id, amount)| Order { id, amount });
    /// let payments = env.source("payments", Iter::new([2, 3])).map(|order| Payment { order });
    /// orders
    ///     .key_by(|order| order.id)
    ///     .connect(payments.key_by(|payment| payment.order))
    ///     .process("pay", |setup| {
    ///         Ok(Pay { amount: setup.value_state("amount")?, paid: setup.value_state("paid")? })
    ///     })
    ///     .sink("paid", paid.clone());
    /// # env.execute("connect").await?;
    /// # assert_eq!(paid.records(), [(2, 20)]);
    /// # Ok(())
    /// # }
    /// ```
    #[allow(clippy::type_complexity)] // a list, spelled out
    pub fn connect<U, G>(
        self,
        other: KeyedStream<K, U, G>,
    ) -> Connected<K, (KeyedInput<U, K, G>, (KeyedInput<T, K, By>, ()))>
    where
        U: Send + 'static,
        G: Fn(&U) -> K + Clone + Send + 'static,
    {
        self.alone().connect(other)
    }

    /// Joins a broadcast stream: for an operator that has a [`Handler`] for the records of this stream and a
    /// [`BroadcastHandler`](crate::BroadcastHandler) for those of the other, of which every subtask gets every one. Between the
    /// streams there is no order. What is to be kept of the other, and to outlast a restart, goes into
    /// [`BroadcastState`](crate::BroadcastState).
    ///
    /// ```
    /// use strandline::prelude::*;
    ///
    /// /// Counts the payments of each account, and raises an alarm at the limits that come in.
    /// struct Alarms {
    ///     payments: ValueState<u32>,
    ///     limits: BroadcastState<String, u32>,
    /// }
    ///
    /// impl Operator for Alarms {
    ///     type Key = u64;
    ///     type Out = String;
    /// }
    ///
    /// impl Handler<(u64, u32)> for Alarms {
    ///     fn handle(&mut self, (account, _): (u64, u32), ctx: &mut Context<'_, Self>) -> Result {
    ///         let payments = self.payments.get(ctx).unwrap_or(0) + 1;
    ///         self.payments.set(ctx, payments);
    ///         let hit = self.limits.iter(ctx).filter(|(_, limit)| **limit == payments);
    ///         let alarms: Vec<String> = hit.map(|(name, _)| format!("{name}: {account}")).collect();
    ///         ctx.emit_iter(alarms);
    ///         Ok(())
    ///     }
    /// }
    ///
    /// impl BroadcastHandler<(String, u32)> for Alarms {
    ///     fn handle_broadcast(
    ///         &mut self,
    ///         (name, limit): (String, u32),
    ///         ctx: &mut BroadcastContext<'_, Self>,
    ///     ) -> Result {
    ///         self.limits.insert(ctx, name, limit); // the same in every subtask
    ///         Ok(())
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result {
    /// # let env = Environment::builder().parallelism(2).build()?;
    /// let limits = env.source("limits", Iter::new([("often".to_owned(), 2)])).broadcast();
    /// env.source("payments", Iter::new([(7, 100), (7, 50), (8, 10)]))
    ///     .key_by(|(account, _)| *account)
    ///     .connect_broadcast(limits)
    ///     .process("alarms", |setup| {
    ///         Ok(Alarms {
    ///             payments: setup.value_state("payments")?,
    ///             limits: setup.broadcast_state("limits")?,
    ///         })
    ///     })
    ///     .sink("alarms to", Collect::new());
    /// # env.execute("connect-broadcast").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Only the broadcast handler may write broadcast state:
    ///
    /// ```compile_fail,E0277
    /// # use strandline::prelude::*;
    /// # struct Alarms { limits: BroadcastState<String, u32> }
    /// # impl Operator for Alarms { type Key = u64; type Out = String; }
    /// impl Handler<u64> for Alarms {
    ///     fn handle(&mut self, account: u64, ctx: &mut Context<'_, Self>) -> Result {
    ///         self.limits.insert(ctx, "often".to_owned(), 2); // in this subtask only?
    ///         Ok(())
    ///     }
    /// }
    /// ```
    #[allow(clippy::type_complexity)] // a list, spelled out
    pub fn connect_broadcast<U: 'static>(
        self,
        other: BroadcastStream<U>,
    ) -> Connected<K, (BroadcastInput<U>, (KeyedInput<T, K, By>, ()))> {
        self.alone().connect_broadcast(other)
    }

    /// Sets how many subtasks the operator that follows has, and what is fused with it: see [`Stream::parallelism`].
    pub fn parallelism(mut self, subtasks: u32) -> Self {
        self.draft.choose_parallelism(subtasks);
        self
    }

    /// The one input of an operator.
    fn alone(self) -> Connected<K, (KeyedInput<T, K, By>, ())> {
        Connected::new(self.draft, (KeyedInput::new(self.key), ()))
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

    /// Makes any number of records of each, with the key's state: `f` is given the state, or `None` for a key without, and returns what
    /// can be iterated over, and the new state, or `None` to forget the key. The iterator is pulled as there is room downstream,
    /// perhaps after `f` has been called for other records, but always before the next checkpoint; so one record may become millions in
    /// constant memory. State: a value named `state`.
    ///
    /// ```
    /// # use strandline::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result {
    /// # let env = Environment::builder().parallelism(1).build()?;
    /// # let (pairs, out) = (Iter::new([(1, 'a'), (2, 'x'), (1, 'b')]), Collect::new());
    /// env.source("letters", pairs)
    ///     .key_by(|(key, _)| *key)
    ///     // Both letters of a key when the second comes, and then the key is forgotten.
    ///     .flat_map_with_state("pairs", |(_, letter), first: Option<char>| match first {
    ///         None => (vec![], Some(letter)),
    ///         Some(first) => (vec![first, letter], None),
    ///     })
    ///     .sink("out", out.clone());
    /// # env.execute("flat-map-with-state").await?;
    /// # assert_eq!(out.records(), ['a', 'b']);
    /// # Ok(())
    /// # }
    /// ```
    pub fn flat_map_with_state<S, I, F>(self, uid: &str, f: F) -> Stream<I::Item, impl Pipe<Out = I::Item>>
    where
        S: StateValue,
        I: IntoIterator<Item: 'static, IntoIter: 'static> + 'static,
        F: Fn(T, Option<S>) -> (I, Option<S>) + Clone + Send + 'static,
    {
        self.process(uid, move |setup| {
            Ok(FlatMapWithState::<K, T, S, I, F>::new(setup.value_state("state")?, f.clone()))
        })
    }
}

impl<K, T, F> fmt::Debug for KeyedStream<K, T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyedStream")
    }
}
