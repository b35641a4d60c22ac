//! Streams of records, and what can be done with them.

use super::graph::{Draft, Exchange, OperatorKind, SharedGraph};
use super::operator_pipe::{OperatorPipe, OperatorRecipe, ProcessPipe};
use super::pipe::{
    Broadcast, BroadcastTail, ByKeyTail, Edge, FilterMapPipe, FilterPipe, FlatMapPipe, InspectPipe, MapPipe,
    Pipe, Recipe, RoundRobinTail, SinkTail, SourcePipe, SplitPipe, TeePipe, TryMapPipe,
};
use super::{Connected, KeyedStream};
use crate::channel::Record;
use crate::error::Result;
use crate::operator::{
    BroadcastInput, DeadLetter, Handler, Operator, OutputTag, PlainInput, Setup, Sink, SinkEnd, Source,
    SourceEnd, TakenSide, Unkeyed,
};
use crate::state::Key;
use crate::types::{OperatorId, Port};
use std::any::{TypeId, type_name};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

/// A stream of records of type `T`.
///
/// It is a description, not yet a running thing. Each method returns the longer description; plain stages are fused with what
/// comes before them into one chain, so they cost what a function call costs. In signatures write
/// `Stream<T, impl Pipe<Out = T>>`, or `Stream<T>` after [`start_new_chain`](Self::start_new_chain).
#[must_use = "a stream that leads nowhere is an error when the job starts: end it with a sink"]
pub struct Stream<T, P = Edge<T>> {
    pub(super) draft: Draft,
    pub(super) pipe: P,
    pub(super) carries: PhantomData<fn() -> T>,
}

/// A stream of which every subtask gets every record: what [`broadcast`](Stream::broadcast) returns. It is a [`Stream`] like any other,
/// and can be given to `connect_broadcast`.
pub type BroadcastStream<T> = Stream<T, Broadcast<T>>;

/// A stream that begins with a source.
pub(crate) fn source<S: Source>(
    graph: &SharedGraph,
    uid: &str,
    source: S,
) -> Stream<S::Record, impl Pipe<Out = S::Record> + use<S>> {
    let id = OperatorId::from(uid);
    let end = SourceEnd { id: id.clone(), source: source.clone() };
    let draft = Draft::source(graph, &id, OperatorKind::Source(Arc::new(end)), source.parallelism());
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

    /// Makes one record of each, or fails; a failure restarts the job by its restart strategy. Where it is not to, take `map` to a `Result`
    /// and [`split`](Self::split).
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

    /// Makes one record of each, or none.
    ///
    /// ```
    /// # use strandline::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result {
    /// # let env = Environment::builder().parallelism(1).build()?;
    /// # let numbers = Collect::new();
    /// env.source("words", Iter::new(["1", "two", "3"]))
    ///     .filter_map(|word| word.parse::<u32>().ok())
    ///     .sink("numbers", numbers.clone());
    /// # env.execute("filter-map").await?;
    /// # assert_eq!(numbers.records(), [1, 3]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn filter_map<U, F>(self, f: F) -> Stream<U, impl Pipe<Out = U>>
    where
        U: 'static,
        F: Fn(T) -> Option<U> + Clone + Send + 'static,
    {
        Stream::new(self.draft, FilterMapPipe { up: self.pipe, f, to: PhantomData })
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
    pub fn process<O, F>(
        mut self,
        uid: &str,
        factory: F,
    ) -> Stream<O::Out, impl OperatorPipe<Out = O::Out, Operator = O>>
    where
        O: Operator<Key = Unkeyed> + Handler<T>,
        F: Fn(&mut Setup<'_, Unkeyed>) -> Result<O> + Clone + Send + 'static,
    {
        let id = OperatorId::from(uid);
        self.draft.name(&id, OperatorKind::Operator);
        let recipe = OperatorRecipe::new(id, factory);
        Stream::new(self.draft, ProcessPipe::<P, O, F, false, false> { up: self.pipe, recipe })
    }

    /// Makes a stream of a side output of the operator just before: what it emits with
    /// [`SideOutput::emit`](crate::SideOutput::emit). The first stream of the pair is this one, and the next side output can be taken
    /// from it; the second begins a chain of its own, with as many subtasks. For an example see
    /// [`Setup::side_output`](crate::Setup::side_output).
    ///
    /// A side output is held back and checkpointed like the main one: a slow consumer of the one holds both back. One that is
    /// not taken drops its records. It is an error of the program, when the operator is made, that its factory does not declare the side
    /// output, or with another type; and at the start that one is taken twice (use [`tee`](Self::tee)).
    pub fn side_output<U: Record>(
        mut self,
        tag: &OutputTag<U>,
    ) -> (Stream<T, impl OperatorPipe<Out = T, Operator = P::Operator>>, Stream<U>)
    where
        P: OperatorPipe,
    {
        let (edge, side) = self.draft.branch::<U>(format_args!("side output `{}` of", tag.name()));
        if self.pipe.sides().iter().any(|taken| taken.name() == tag.name()) {
            let fault = format!(
                "side output `{}` of `{}` is taken twice: take it once, and copy the stream with `.tee()`",
                tag.name(),
                self.draft.last()
            );
            self.draft.graph.lock().faults.push(fault);
        }
        let pipe = self.pipe.with_side(TakenSide::new(tag, edge));
        (Stream::new(self.draft, pipe), Stream::new(side, Edge::new()))
    }

    /// Skips records for which a handler of the operator just before gives an error, instead of failing: what the call has emitted is
    /// dropped, and the record is [counted](crate::OperatorMetrics::records_skipped) and logged. **What it has written into states stays**, so
    /// check first and write then. So does what it has changed in fields of its own.
    ///
    /// A panic is never skipped, nor an error that no restart can mend ([`Error::is_recoverable`](crate::Error::is_recoverable)), nor what
    /// `open`, `finish` and the like say, nor an error while an iterator is pulled that was emitted by a call long over. After a restart a record that comes
    /// again is handled, perhaps skipped, and counted again.
    ///
    /// Skipping loses data for the sake of going on. Take it where a record that cannot be processed is worth nothing; where someone is to look at it,
    /// take [`dead_letters`](Self::dead_letters). The price is some ten nanoseconds per record.
    pub fn skip_errors(self) -> Stream<T, impl OperatorPipe<Out = T, Operator = P::Operator>>
    where
        P: OperatorPipe,
    {
        let mut errors = self.pipe.errors().clone();
        errors.skip = true;
        Stream::new(self.draft, self.pipe.with_errors(errors))
    }

    /// Makes a stream of the records for which a handler of the operator just before gives an error, with the error; the job goes on. It is a
    /// side output like those of [`side_output`](Self::side_output), which the factory need not declare, and exactly once like them. Otherwise
    /// like [`skip_errors`](Self::skip_errors): what the call has emitted is dropped, **what it has written into states stays**, and the
    /// record is counted.
    ///
    /// An operator with inputs of several types can have one such stream for each. Errors about records of other types fail the job,
    /// unless [`skip_errors`](Self::skip_errors) is called, too. Each record is cloned before it is handled, in case it fails.
    ///
    /// ```
    /// use strandline::prelude::*;
    ///
    /// struct Parse;
    ///
    /// impl Operator for Parse {
    ///     type Key = Unkeyed;
    ///     type Out = u32;
    /// }
    ///
    /// impl Handler<String> for Parse {
    ///     fn handle(&mut self, line: String, ctx: &mut Context<'_, Self>) -> Result {
    ///         ctx.emit(line.parse()?);
    ///         Ok(())
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result {
    /// # let env = Environment::builder().parallelism(1).build()?;
    /// # let (out, bad) = (Collect::new(), Collect::new());
    /// let (numbers, letters) = env
    ///     .source("lines", Iter::new(["1", "two", "3"].map(String::from)))
    ///     .process("parse", |_| Ok(Parse))
    ///     .dead_letters(&OutputTag::<DeadLetter<String>>::new("not a number"));
    /// numbers.sink("numbers", out.clone());
    /// letters.map(|letter| format!("{}: {}", letter.record, letter.error)).sink("bad lines", bad.clone());
    /// # env.execute("dead-letters").await?;
    /// # assert_eq!(out.records(), [1, 3]);
    /// # assert_eq!(bad.records(), ["two: invalid digit found in string"]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// It is an error at the start that the operator takes no records of this type, or that there is such a stream of them already.
    pub fn dead_letters<R: Record>(
        self,
        tag: &OutputTag<DeadLetter<R>>,
    ) -> (Stream<T, impl OperatorPipe<Out = T, Operator = P::Operator>>, Stream<DeadLetter<R>>)
    where
        P: OperatorPipe,
    {
        let mut errors = self.pipe.errors().clone();
        let (operator, record) = (self.draft.last().clone(), type_name::<R>());
        let fault = if !self.pipe.takes(TypeId::of::<R>()) {
            Some(format!(
                "dead letters of `{operator}` are to hold records of type `{record}`, which it does not take: name in the tag a type that                  it has a handler for"
            ))
        } else if !errors.add_letters(tag) {
            Some(format!(
                "dead letters of `{operator}` with records of type `{record}` are taken twice: take them once, and copy the stream with                  `.tee()`"
            ))
        } else {
            None
        };
        self.draft.graph.lock().faults.extend(fault);
        Stream::new(self.draft, self.pipe.with_errors(errors)).side_output(tag)
    }

    /// Sends each record one of two ways: what `f` makes `Ok` goes on in the chain, what it makes `Err` begins a chain of its own,
    /// with as many subtasks. Order is kept on each way. The ways share one beginning, so the slower one holds both back.
    ///
    /// ```
    /// # use strandline::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result {
    /// # let env = Environment::builder().parallelism(1).build()?;
    /// # let (numbers, bad) = (Collect::new(), Collect::new());
    /// let (rows, faults) = env
    ///     .source("lines", Iter::new(["1", "two", "3"]))
    ///     .map(|line| line.parse::<u32>().map_err(|fault| format!("{line}: {fault}")))
    ///     .split(|row| row);
    /// rows.sink("numbers", numbers.clone());
    /// faults.sink("bad lines", bad.clone());
    /// # env.execute("split").await?;
    /// # assert_eq!((numbers.records(), bad.len()), (vec![1, 3], 1));
    /// # Ok(())
    /// # }
    /// ```
    pub fn split<A, B, F>(mut self, f: F) -> (Stream<A, impl Pipe<Out = A>>, Stream<B>)
    where
        A: 'static,
        B: Record,
        F: Fn(T) -> std::result::Result<A, B> + Clone + Send + 'static,
    {
        let (edge, side) = self.draft.branch::<B>("the `Err` side of `split` after");
        let pipe = SplitPipe { up: self.pipe, f, edge, to: PhantomData };
        (Stream::new(self.draft, pipe), Stream::new(side, Edge::new()))
    }

    /// Sends each record both ways: on in the chain, and, as a copy, into a chain of its own with as many subtasks. (Streams are not
    /// `Clone`: what is to be processed twice is copied where one can see it.) Order is kept on each way. The ways share one
    /// beginning, so the slower one holds both back.
    ///
    /// ```
    /// # use strandline::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result {
    /// # let env = Environment::builder().parallelism(1).build()?;
    /// # let (all, large) = (Collect::new(), Collect::new());
    /// let (orders, copies) = env.source("orders", Iter::new([10, 2_000, 30_u32])).tee();
    /// orders.sink("archive", all.clone());
    /// copies.filter(|amount| *amount > 1_000).sink("alarms", large.clone());
    /// # env.execute("tee").await?;
    /// # assert_eq!((all.records(), large.records()), (vec![10, 2_000, 30], vec![2_000]));
    /// # Ok(())
    /// # }
    /// ```
    pub fn tee(mut self) -> (Stream<T, impl Pipe<Out = T>>, Stream<T>)
    where
        T: Record,
    {
        let (edge, side) = self.draft.branch::<T>("the copy by `tee` after");
        let pipe = TeePipe { up: self.pipe, edge };
        (Stream::new(self.draft, pipe), Stream::new(side, Edge::new()))
    }

    /// Sets how many subtasks the chain that is being written has, instead of the job's parallelism. A chain is everything since the last
    /// exchange (`key_by`, `rebalance`, `broadcast`, `union`, `connect`) or [`start_new_chain`](Self::start_new_chain), source or sink
    /// included: its stages run fused in one subtask. More subtasks share the work of a slow stage; fewer spare threads and, at a
    /// sink, files.
    ///
    /// Restarts and resumes may change it like the job's parallelism: state moves with its keys. An error at the start is a number that is 0 or
    /// above `max_parallelism`, another one in the same chain, and one that contradicts
    /// [`Source::parallelism`](crate::Source::parallelism), where the source sets that.
    ///
    /// ```
    /// # use strandline::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result {
    /// # let env = Environment::builder().parallelism(1).build()?;
    /// # let out = Collect::new();
    /// env.source("numbers", Iter::new(0..100_u64)) // an `Iter` is read by one subtask
    ///     .rebalance()
    ///     .map(|number| number * number)
    ///     .parallelism(4)
    ///     .rebalance()
    ///     .parallelism(1)
    ///     .sink("squares", out.clone());
    /// # env.execute("parallelism").await?;
    /// # assert_eq!(out.len(), 100);
    /// # Ok(())
    /// # }
    /// ```
    pub fn parallelism(mut self, subtasks: u32) -> Self {
        self.draft.choose_parallelism(subtasks);
        self
    }

    /// Partitions the stream by a key: all records of one key go to one subtask, in order, where its state is. The selector must be
    /// a pure function of the record; it is called on both sides of the exchange.
    pub fn key_by<K, F>(self, key: F) -> KeyedStream<K, T, F>
    where
        T: Record,
        K: Key,
        F: Fn(&T) -> K + Clone + Send + 'static,
    {
        let tail = |edge| ByKeyTail { key: key.clone(), edge };
        let recipe = |edge| Recipe { pipe: self.pipe, tail: tail(edge) };
        KeyedStream::new(self.draft.end_at_edge::<T, _>(Exchange::ByKey, recipe), key)
    }

    /// Deals the records out in turn over all subtasks of the job. Use it after a source with fewer subtasks than the job, or where
    /// some subtasks get more than others. Order is kept only within what one subtask sends another.
    pub fn rebalance(self) -> Stream<T>
    where
        T: Record,
    {
        let recipe = |edge| Recipe { pipe: self.pipe, tail: RoundRobinTail(edge) };
        Stream::new(self.draft.end_at_edge::<T, _>(Exchange::Rebalance, recipe), Edge::new())
    }

    /// Sends every record to every subtask of what follows: plain stages, or, by
    /// [`connect_broadcast`](KeyedStream::connect_broadcast), an operator that looks at other records by the light of these.
    pub fn broadcast(self) -> BroadcastStream<T>
    where
        T: Record,
    {
        let recipe = |edge| Recipe { pipe: self.pipe, tail: BroadcastTail(edge) };
        Stream::new(self.draft.end_at_edge::<T, _>(Exchange::Broadcast, recipe), Broadcast::new())
    }

    /// Ends the chain here and begins another with as many subtasks, each fed by its counterpart, in order. What follows may run on another
    /// thread, and may be given another [`parallelism`](Self::parallelism); then records are dealt out in turn. The price is that of
    /// an exchange: records cross a channel in batches.
    ///
    /// It is also the way to a type that can be written down – `Stream<T>`, for a field or for the branches of an `if`. Where a chain
    /// has just begun, nothing happens but that.
    #[doc(alias = "boxed")]
    pub fn start_new_chain(self) -> Stream<T>
    where
        T: Record,
    {
        if self.pipe.is_edge() && self.draft.is_untouched() {
            return Stream::new(self.draft, Edge::new());
        }
        let recipe = |edge| Recipe { pipe: self.pipe, tail: RoundRobinTail(edge) };
        Stream::new(self.draft.end_at_edge::<T, _>(Exchange::Forward, recipe), Edge::new())
    }

    /// The records of both streams, each in its own order, in no order between them. Has the job's parallelism.
    pub fn union<Q>(self, other: Stream<T, Q>) -> Stream<T>
    where
        T: Record,
        Q: Pipe<Out = T>,
    {
        let mut left = self.start_new_chain();
        left.draft.join(other.start_new_chain().draft, Port(0), "union");
        left.draft.meet();
        left
    }

    /// Joins another stream, of another type, for an operator without keys that has a [`Handler`] for each: see
    /// [`KeyedStream::connect`]. Which subtask gets which record is left open. Has the job's parallelism.
    #[allow(clippy::type_complexity)] // a list, spelled out
    pub fn connect<U, Q>(
        self,
        other: Stream<U, Q>,
    ) -> Connected<Unkeyed, (PlainInput<U>, (PlainInput<T>, ()))>
    where
        T: Record,
        U: Record,
        Q: Pipe<Out = U>,
    {
        let mut draft = self.start_new_chain().draft;
        draft.meet();
        Connected::<Unkeyed, _>::new(draft, (PlainInput::new(), ())).connect(other)
    }

    /// Joins a broadcast stream, for an operator without keys that has a [`Handler`] for the records of this stream and a
    /// [`BroadcastHandler`](crate::BroadcastHandler) for those of the other, of which every subtask gets every one: see
    /// [`KeyedStream::connect_broadcast`]. Has the parallelism of this stream.
    #[allow(clippy::type_complexity)] // a list, spelled out
    pub fn connect_broadcast<U>(
        self,
        other: BroadcastStream<U>,
    ) -> Connected<Unkeyed, (BroadcastInput<U>, (PlainInput<T>, ()))>
    where
        T: Record,
        U: 'static,
    {
        let draft = self.start_new_chain().draft;
        Connected::new(draft, (PlainInput::new(), ())).connect_broadcast(other)
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
        let names: Vec<_> = self.draft.names().collect();
        f.debug_struct("Stream").field("chain", &names).finish_non_exhaustive()
    }
}
