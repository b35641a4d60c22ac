//! What a chain is built from, on the thread where it will run.

use super::SubtaskContext;
use crate::channel::Output;
use crate::error::Error;
use crate::pool::Scope;
use crate::state::{
    Aggregate, AggregatingState, Key, ListState, MapState, ReducingState, RestoredOperator, SplitListState,
    StateStore, StateValue, UserKey, ValueState,
};
use crate::types::{MaxParallelism, OperatorId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::marker::PhantomData;

/// Everything a subtask brings to the building of its chain.
#[derive(Debug)]
pub struct BuildContext {
    /// Where it runs; `operator` is set for each operator.
    pub subtask: SubtaskContext,
    /// The job's key groups.
    pub max_parallelism: MaxParallelism,
    /// States to begin with, by operator.
    pub restored: BTreeMap<OperatorId, RestoredOperator>,
    /// Channels by outgoing edge.
    pub outputs: VecDeque<Vec<Output>>,
    /// The encoded splits to read, for a source.
    pub splits: Vec<Vec<u8>>,
    /// Whether all subtasks of this chain had finished in the checkpoint it starts from.
    pub finished: bool,
    /// Where its futures run.
    pub scope: Scope,
}

impl BuildContext {
    /// Where `operator` runs.
    #[must_use]
    pub fn context_of(&self, operator: &OperatorId) -> SubtaskContext {
        SubtaskContext { operator: operator.clone(), ..self.subtask.clone() }
    }

    /// The states of `operator`, with what was restored.
    pub fn states_of(&mut self, operator: &OperatorId) -> StateStore {
        let restored = self.restored.remove(operator).unwrap_or_default();
        StateStore::new(operator.clone(), self.max_parallelism, restored)
    }

    /// The channels of the next outgoing edge.
    pub fn take_outputs(&mut self) -> Vec<Output> {
        self.outputs.pop_front().unwrap_or_default()
    }
}

/// Given to the factory of an operator, to declare its states with.
///
/// `K` is the key of the stream; without one only operator state can be declared. A state's name must be unique in its operator and
/// stay the same from version to version of the program: state is matched by it.
pub struct Setup<'a, K> {
    context: &'a SubtaskContext,
    states: &'a mut StateStore,
    key: PhantomData<fn(K)>,
}

impl<'a, K> Setup<'a, K> {
    pub(crate) fn new(context: &'a SubtaskContext, states: &'a mut StateStore) -> Self {
        Self { context, states, key: PhantomData }
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
}

impl<K: Key> Setup<'_, K> {
    /// One value per key.
    ///
    /// # Errors
    /// When the name is taken, or what was stored under it has another type or is damaged. So with all declarations.
    pub fn value_state<V: StateValue>(&mut self, name: &str) -> Result<ValueState<V>, Error> {
        self.states.value::<K, V>(name)
    }

    /// A list per key.
    ///
    /// # Errors
    /// As [`value_state`](Self::value_state).
    pub fn list_state<T: StateValue>(&mut self, name: &str) -> Result<ListState<T>, Error> {
        self.states.list::<K, T>(name)
    }

    /// A map per key.
    ///
    /// # Errors
    /// As [`value_state`](Self::value_state).
    pub fn map_state<UK: UserKey, V: StateValue>(&mut self, name: &str) -> Result<MapState<UK, V>, Error> {
        self.states.map::<K, UK, V>(name)
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
        self.states.reducing::<K, V>(name, reduce)
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
        self.states.aggregating::<K, In, A>(name, aggregate)
    }
}

impl<K> fmt::Debug for Setup<'_, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setup").field("context", self.context).finish_non_exhaustive()
    }
}
