//! What a chain is built from, on the thread where it will run.

use super::SubtaskContext;
use super::side::{OutputTag, SideOutput, Sides};
use crate::channel::Output;
use crate::error::Error;
use crate::metrics::{OperatorCounters, SubtaskHandles};
use crate::pool::Scope;
use crate::state::{
    Aggregate, AggregatingState, BroadcastState, Key, ListState, MapState, ReducingState, RestoredOperator,
    SplitListState, StateStore, StateValue, UnionListState, UserKey, ValueState,
};
use crate::types::{EdgeId, MaxParallelism, OperatorId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Everything a subtask brings to the building of its chain.
#[derive(Debug)]
pub struct BuildContext {
    /// Where it runs; `operator` is set for each operator.
    pub subtask: SubtaskContext,
    /// The job's key groups.
    pub max_parallelism: MaxParallelism,
    /// How many bytes of a keyed state may wait for a snapshot.
    pub snapshot_memory: u64,
    /// States to begin with, by operator.
    pub restored: BTreeMap<OperatorId, RestoredOperator>,
    /// Channels by outgoing edge.
    pub outputs: BTreeMap<EdgeId, Vec<Output>>,
    /// The encoded splits to read, for a source.
    pub splits: Vec<Vec<u8>>,
    /// Whether all subtasks of this chain had finished in the checkpoint it starts from.
    pub finished: bool,
    /// Where its futures run.
    pub scope: Scope,
    /// Where its operators count.
    pub counters: SubtaskHandles,
}

impl BuildContext {
    /// Where `operator` runs.
    #[must_use]
    pub fn context_of(&self, operator: &OperatorId) -> SubtaskContext {
        SubtaskContext { operator: operator.clone(), ..self.subtask.clone() }
    }

    /// The states of `operator`, with what was restored.
    pub fn states_of<K>(&mut self, operator: &OperatorId) -> StateStore<K> {
        let restored = self.restored.remove(operator).unwrap_or_default();
        let store = StateStore::new(operator.clone(), self.max_parallelism, restored);
        store.with_snapshot_memory(self.snapshot_memory)
    }

    /// The counters of `operator`.
    #[must_use]
    pub fn counters_of(&self, operator: &OperatorId) -> Arc<OperatorCounters> {
        self.counters.of(operator)
    }

    /// The channels of an outgoing edge, in order of the consumer's subtasks.
    pub fn take_outputs(&mut self, edge: EdgeId) -> Vec<Output> {
        self.outputs.remove(&edge).unwrap_or_default()
    }
}

/// Given to the factory of an operator, to declare its states and side outputs with.
///
/// `K` is the key of the stream; without one only operator state can be declared. A state's name must be unique in its operator and
/// stay the same from version to version of the program: state is matched by it.
pub struct Setup<'a, K> {
    context: &'a SubtaskContext,
    states: &'a mut StateStore<K>,
    sides: &'a mut Sides,
}

impl<'a, K> Setup<'a, K> {
    pub(crate) fn new(
        context: &'a SubtaskContext,
        states: &'a mut StateStore<K>,
        sides: &'a mut Sides,
    ) -> Self {
        Self { context, states, sides }
    }

    /// Which of the parallel instances this one is, from 0.
    #[must_use]
    pub fn subtask(&self) -> u32 {
        self.context.subtask.0
    }

    /// How many instances there are.
    #[must_use]
    pub fn parallelism(&self) -> u32 {
        self.context.parallelism
    }

    /// Whether the job starts from a checkpoint that knows this operator.
    #[must_use]
    pub fn is_restored(&self) -> bool {
        self.states.is_restored()
    }

    /// A list that belongs to the subtask, not to a key. When parallelism changes its elements are dealt out anew.
    ///
    /// # Errors
    /// When the name is taken, or what was stored under it has another type or is damaged. So with all declarations.
    pub fn split_list<T>(&mut self, name: &str) -> Result<SplitListState<T>, Error>
    where
        T: Clone + Send + Sync + Serialize + DeserializeOwned + 'static,
    {
        self.states.split_list(name)
    }

    /// A list of which every subtask is given the elements of all subtasks after a restart.
    ///
    /// # Errors
    /// As [`split_list`](Self::split_list).
    pub fn union_list<T>(&mut self, name: &str) -> Result<UnionListState<T>, Error>
    where
        T: Clone + Send + Sync + Serialize + DeserializeOwned + 'static,
    {
        self.states.union_list(name)
    }

    /// A map that is the same in every subtask, for an operator with a broadcast input: written by
    /// [`BroadcastHandler::handle_broadcast`](crate::BroadcastHandler::handle_broadcast), read everywhere.
    ///
    /// # Errors
    /// As [`split_list`](Self::split_list).
    pub fn broadcast_state<A: UserKey, B: StateValue>(
        &mut self,
        name: &str,
    ) -> Result<BroadcastState<A, B>, Error> {
        self.states.broadcast(name)
    }

    /// A further way out, with a type of its own. [`Stream::side_output`](crate::Stream::side_output) on the stream after the operator, with
    /// the same tag, makes a stream of it; without that, what is emitted into it is dropped.
    ///
    /// ```
    /// use strandline::prelude::*;
    ///
    /// /// Halves even numbers; the others go aside.
    /// struct Halve {
    ///     odd: SideOutput<String>,
    /// }
    ///
    /// impl Operator for Halve {
    ///     type Key = Unkeyed;
    ///     type Out = u32;
    /// }
    ///
    /// impl Handler<u32> for Halve {
    ///     fn handle(&mut self, number: u32, ctx: &mut Context<'_, Self>) -> Result {
    ///         if number % 2 == 0 {
    ///             ctx.emit(number / 2);
    ///         } else {
    ///             self.odd.emit(ctx, format!("{number} is odd"));
    ///         }
    ///         Ok(())
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result {
    /// # let env = Environment::builder().parallelism(1).build()?;
    /// # let (halves, odd) = (Collect::new(), Collect::new());
    /// let tag = OutputTag::new("odd");
    /// let declared = tag.clone();
    /// let (even, others) = env
    ///     .source("numbers", Iter::new(1..5_u32))
    ///     .process("halve", move |setup| Ok(Halve { odd: setup.side_output(&declared)? }))
    ///     .side_output(&tag);
    /// even.sink("halves", halves.clone());
    /// others.sink("odd", odd.clone());
    /// # env.execute("side-output").await?;
    /// # assert_eq!((halves.records(), odd.records()), (vec![1, 2], vec!["1 is odd".to_owned(), "3 is odd".to_owned()]));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the name is empty or declared already, or the stream that was made of it carries another type.
    pub fn side_output<U: Send + 'static>(&mut self, tag: &OutputTag<U>) -> Result<SideOutput<U>, Error> {
        self.sides.declare(tag)
    }
}

impl<K: Key> Setup<'_, K> {
    /// One value per key.
    ///
    /// # Errors
    /// When the name is taken, or what was stored under it has another type or is damaged. So with all declarations.
    pub fn value_state<V: StateValue>(&mut self, name: &str) -> Result<ValueState<V>, Error> {
        self.states.value(name)
    }

    /// A list per key.
    ///
    /// # Errors
    /// As [`value_state`](Self::value_state).
    pub fn list_state<T: StateValue>(&mut self, name: &str) -> Result<ListState<T>, Error> {
        self.states.list(name)
    }

    /// A map per key.
    ///
    /// # Errors
    /// As [`value_state`](Self::value_state).
    pub fn map_state<UK: UserKey, V: StateValue>(&mut self, name: &str) -> Result<MapState<UK, V>, Error> {
        self.states.map(name)
    }

    /// One value per key, into which further values are folded by `reduce`.
    ///
    /// # Errors
    /// As [`value_state`](Self::value_state).
    pub fn reducing_state<V: StateValue>(
        &mut self,
        name: &str,
        reduce: impl Fn(&mut V, V) + Send + 'static,
    ) -> Result<ReducingState<V>, Error> {
        self.states.reducing(name, reduce)
    }

    /// One accumulator per key, of a type of its own.
    ///
    /// # Errors
    /// As [`value_state`](Self::value_state).
    pub fn aggregating_state<In: 'static, A: Aggregate<In>>(
        &mut self,
        name: &str,
        aggregate: A,
    ) -> Result<AggregatingState<In, A>, Error> {
        self.states.aggregating(name, aggregate)
    }
}

impl<K> fmt::Debug for Setup<'_, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setup").field("context", self.context).finish_non_exhaustive()
    }
}
