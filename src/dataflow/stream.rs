//! Streams of records, and what can be done with them.

use super::KeyedStream;
use super::graph::{ChainParallelism, Draft, Exchange, OperatorKind, SharedGraph};
use super::pipe::{
    BroadcastTail, ByKeyTail, Edge, FilterPipe, FlatMapPipe, InspectPipe, MapPipe, Pipe, ProcessPipe, Recipe,
    RoundRobinTail, SinkTail, SourcePipe, TryMapPipe,
};
use crate::error::Result;
use crate::operator::{Handler, Operator, Setup, Sink, SinkEnd, Source, SourceEnd, Unkeyed};
use crate::state::Key;
use crate::types::OperatorId;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

/// A stream of records of type `T`.
///
/// It is a description, not yet a running thing. Each method returns the longer description; plain stages are fused with what
/// comes before them into one chain, so they cost what a function call costs. In signatures write
/// `Stream<T, impl Pipe<Out = T>>`, or `Stream<T>` after [`boxed`](Self::boxed).
#[must_use = "a stream that leads nowhere is an error when the job starts: end it with a sink"]
pub struct Stream<T, P = Edge<T>> {
    pub(super) draft: Draft,
    pub(super) pipe: P,
    pub(super) carries: PhantomData<fn() -> T>,
}

/// A stream that begins with a source.
pub(crate) fn source<S: Source>(
    graph: &SharedGraph,
    uid: &str,
    source: S,
) -> Stream<S::Record, impl Pipe<Out = S::Record> + use<S>> {
    let id = OperatorId::from(uid);
    let parallelism = source.parallelism().map_or(ChainParallelism::Default, ChainParallelism::Fixed);
    let mut draft = Draft { graph: graph.clone(), operators: Vec::new(), inputs: Vec::new(), parallelism };
    let end = SourceEnd { id: id.clone(), source: source.clone() };
    draft.name(&id, OperatorKind::Source(Arc::new(end)));
    Stream::new(draft, SourcePipe { id, source })
}

impl<T: 'static, P: Pipe<Out = T>> Stream<T, P> {
    pub(super) fn new(draft: Draft, pipe: P) -> Self {
        Self { draft, pipe, carries: PhantomData }
    }

    /// Makes one record of each.
    pub fn map<U, F>(self, f: F) -> Stream<U, impl Pipe<Out = U>>
    where
        U: 'static,
        F: Fn(T) -> U + Clone + Send + 'static,
    {
        Stream::new(self.draft, MapPipe { up: self.pipe, f, to: PhantomData })
    }

    /// Makes one record of each, or fails; a failure restarts the job by its restart strategy.
    pub fn try_map<U, F>(self, f: F) -> Stream<U, impl Pipe<Out = U>>
    where
        U: 'static,
        F: Fn(T) -> Result<U> + Clone + Send + 'static,
    {
        Stream::new(self.draft, TryMapPipe { up: self.pipe, f, to: PhantomData })
    }

    /// Keeps the records for which `f` is true.
    pub fn filter<F>(self, f: F) -> Stream<T, impl Pipe<Out = T>>
    where
        F: Fn(&T) -> bool + Clone + Send + 'static,
    {
        Stream::new(self.draft, FilterPipe { up: self.pipe, f, to: PhantomData })
    }

    /// Makes any number of records of each. The iterator is pulled only as there is room downstream, so one record may become
    /// millions in constant memory.
    pub fn flat_map<I, F>(self, f: F) -> Stream<I::Item, impl Pipe<Out = I::Item>>
    where
        I: IntoIterator<Item: 'static> + 'static,
        F: Fn(T) -> I + Clone + Send + 'static,
    {
        Stream::new(self.draft, FlatMapPipe { up: self.pipe, f, to: PhantomData })
    }

    /// Looks at each record in passing. After a restart it sees records again.
    pub fn inspect<F>(self, f: F) -> Stream<T, impl Pipe<Out = T>>
    where
        F: Fn(&T) + Clone + Send + 'static,
    {
        Stream::new(self.draft, InspectPipe { up: self.pipe, f, to: PhantomData })
    }

    /// Runs an operator without keys, inside the chain. `factory` makes one instance per subtask and restart, and declares its
    /// states; `uid` names it: its state is matched by that.
    pub fn process<O, F>(mut self, uid: &str, factory: F) -> Stream<O::Out, impl Pipe<Out = O::Out>>
    where
        O: Operator<Key = Unkeyed> + Handler<T>,
        F: Fn(&mut Setup<'_, Unkeyed>) -> Result<O> + Clone + Send + 'static,
    {
        let id = OperatorId::from(uid);
        self.draft.name(&id, OperatorKind::Operator);
        Stream::new(self.draft, ProcessPipe { up: self.pipe, id, factory, operator: PhantomData })
    }

    /// Partitions the stream by a key: all records of one key go to one subtask, in order, where its state is. The selector must be
    /// a pure function of the record; it is called on both sides of the exchange.
    pub fn key_by<K, F>(self, key: F) -> KeyedStream<K, T>
    where
        T: Send,
        K: Key,
        F: Fn(&T) -> K + Clone + Send + 'static,
    {
        let keyer = Box::new(key.clone());
        let recipe = Recipe { pipe: self.pipe, tail: ByKeyTail(key) };
        KeyedStream { draft: self.draft.end_at_edge(Exchange::All, Box::new(recipe)), keyer }
    }

    /// Deals the records out in turn over all subtasks of the job. Use it after a source with fewer subtasks than the job, or where
    /// some subtasks get more than others. Order is kept only within what one subtask sends another.
    pub fn rebalance(self) -> Stream<T>
    where
        T: Send,
    {
        let recipe = Recipe { pipe: self.pipe, tail: RoundRobinTail };
        Stream::new(self.draft.end_at_edge(Exchange::All, Box::new(recipe)), Edge::new())
    }

    /// Sends every record to every subtask.
    pub fn broadcast(self) -> Stream<T>
    where
        T: Clone + Send,
    {
        let recipe = Recipe { pipe: self.pipe, tail: BroadcastTail };
        Stream::new(self.draft.end_at_edge(Exchange::All, Box::new(recipe)), Edge::new())
    }

    /// Ends the chain here and begins another with the same parallelism: a stream whose type can be written down, and that may run
    /// on another thread than what comes before it.
    pub fn boxed(self) -> Stream<T>
    where
        T: Send,
    {
        let recipe = Recipe { pipe: self.pipe, tail: RoundRobinTail };
        Stream::new(self.draft.end_at_edge(Exchange::Forward, Box::new(recipe)), Edge::new())
    }

    /// The records of both streams, each in its own order, in no order between them. Has the job's parallelism.
    pub fn union<Q>(self, other: Stream<T, Q>) -> Stream<T>
    where
        T: Send,
        Q: Pipe<Out = T>,
    {
        let mut left = self.boxed();
        let right = other.boxed();
        if left.draft.graph.is_same(&right.draft.graph) {
            left.draft.inputs.extend(right.draft.inputs);
        } else {
            let fault = "union joins streams of two environments: make both from the same one";
            left.draft.graph.lock().faults.push(fault.into());
        }
        left.draft.parallelism = ChainParallelism::Default;
        left
    }

    /// Ends the stream in a sink. `uid` names it: what it has not yet committed is matched by that.
    pub fn sink<S: Sink<T>>(mut self, uid: &str, sink: S) {
        let id = OperatorId::from(uid);
        let end = SinkEnd::new(id.clone(), sink.clone());
        self.draft.name(&id, OperatorKind::Sink(Arc::new(end)));
        self.draft.end(Box::new(Recipe { pipe: self.pipe, tail: SinkTail { id, sink } }));
    }
}

impl<T, P> fmt::Debug for Stream<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.draft.operators.iter().map(|operator| operator.id.as_str()).collect();
        f.debug_struct("Stream").field("chain", &names).finish_non_exhaustive()
    }
}
