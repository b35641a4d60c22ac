//! Streams of several types in front of one operator.

use super::graph::{Draft, OperatorKind};
use super::operator_pipe::{HeadPipe, OperatorPipe, OperatorRecipe};
use super::{BroadcastStream, KeyedStream, Pipe, Stream};
use crate::channel::Record;
use crate::error::Result;
use crate::operator::{BroadcastInput, Inputs, KeyedInput, Operator, PlainInput, PortList, Setup, Unkeyed};
use crate::state::Key;
use crate::types::{OperatorId, Port};
use std::fmt;
use std::marker::PhantomData;

/// Several streams, each of its own type, that one operator takes: what `connect` and `connect_broadcast` return. `K` is the key of
/// the operator, [`Unkeyed`] for one without. `L` lists the inputs, the newest first.
///
/// What follows is [`process`](Self::process), or a further stream.
#[must_use = "streams that lead nowhere are an error when the job starts: process them, and end with a sink"]
pub struct Connected<K, L> {
    draft: Draft,
    inputs: L,
    key: PhantomData<fn() -> K>,
}

impl<K, L: PortList> Connected<K, L> {
    pub(super) fn new(draft: Draft, inputs: L) -> Self {
        Self { draft, inputs, key: PhantomData }
    }

    /// Lets the edges that `other` begins with lead to a further input.
    fn and<I>(mut self, other: Draft, input: I, how: &str) -> Connected<K, (I, L)>
    where
        (I, L): PortList,
    {
        self.draft.join(other, Port(L::LEN), how);
        Connected::new(self.draft, (input, self.inputs))
    }

    /// Joins a broadcast stream: see [`KeyedStream::connect_broadcast`].
    pub fn connect_broadcast<U: 'static>(
        self,
        other: BroadcastStream<U>,
    ) -> Connected<K, (BroadcastInput<U>, L)> {
        self.and(other.draft, BroadcastInput::new(), "connect_broadcast")
    }

    /// Runs an operator that takes the records of all inputs. `factory` makes one instance per subtask and restart, and
    /// declares its states; `uid` names it: its state is matched by that. `finish` is called when all inputs have ended.
    pub fn process<O, F>(
        mut self,
        uid: &str,
        factory: F,
    ) -> Stream<O::Out, impl OperatorPipe<Out = O::Out, Operator = O>>
    where
        O: Operator<Key = K>,
        L: Inputs<O>,
        F: Fn(&mut Setup<'_, K>) -> Result<O> + Clone + Send + 'static,
    {
        let id = OperatorId::from(uid);
        self.draft.name(&id, OperatorKind::Operator);
        let recipe = OperatorRecipe::new(id, factory);
        Stream::new(self.draft, HeadPipe::<_, _, _, false> { inputs: self.inputs, recipe })
    }

    /// Sets how many subtasks the operator that follows has, and what is fused with it: see [`Stream::parallelism`].
    pub fn parallelism(mut self, subtasks: u32) -> Self {
        self.draft.choose_parallelism(subtasks);
        self
    }
}

impl<K: Key, L: PortList> Connected<K, L> {
    /// Joins another stream with the same type of key: see [`KeyedStream::connect`].
    pub fn connect<U, G>(self, other: KeyedStream<K, U, G>) -> Connected<K, (KeyedInput<U, K, G>, L)>
    where
        U: Send + 'static,
        G: Fn(&U) -> K + Clone + Send + 'static,
    {
        self.and(other.draft, KeyedInput::new(other.key), "connect")
    }
}

impl<L: PortList> Connected<Unkeyed, L> {
    /// Joins another stream: see [`Stream::connect`].
    pub fn connect<U, Q>(self, other: Stream<U, Q>) -> Connected<Unkeyed, (PlainInput<U>, L)>
    where
        U: Record,
        Q: Pipe<Out = U>,
    {
        self.and(other.start_new_chain().draft, PlainInput::new(), "connect")
    }
}

impl<K, L> fmt::Debug for Connected<K, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connected")
    }
}
