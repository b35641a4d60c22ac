//! An embeddable stateful stream processor for async Rust services.
//!
//! **Strandline is** a library: inside a service that already runs tokio it runs *jobs* – dataflows of typed operators with keyed
//! state – and takes checkpoints of them, so that after a panic, an error or `kill -9` a job goes on from the last one, and
//! what it writes appears exactly once. The model is Apache Flink's; there is no cluster to run.
//!
//! **It is not** a server, a SQL engine, a cluster manager or an actor framework. It elects no leader and opens no port.
//!
//! ```
//! use std::time::Duration;
//! use strandline::prelude::*;
//!
//! /// Emits the average of every two values of a key.
//! struct CountWindowAverage {
//!     sum: ValueState<(u64, u64)>,
//! }
//!
//! impl Operator for CountWindowAverage {
//!     type Key = u64;
//!     type Out = (u64, u64);
//! }
//!
//! impl Handler<(u64, u64)> for CountWindowAverage {
//!     fn handle(&mut self, (key, value): (u64, u64), ctx: &mut Context<'_, Self>) -> Result {
//!         let (count, sum) = self.sum.get(ctx).unwrap_or_default();
//!         match (count + 1, sum + value) {
//!             (2, sum) => {
//!                 self.sum.clear(ctx);
//!                 ctx.emit((key, sum / 2));
//!             }
//!             next => self.sum.set(ctx, next),
//!         }
//!         Ok(())
//!     }
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result {
//!     let env = Environment::builder()
//!         .parallelism(2)
//!         .checkpointing(Checkpointing::every(Duration::from_secs(5)))
//!         .restart(RestartStrategy::fixed_delay(3, Duration::from_secs(1)))
//!         .build()?;
//!
//!     let averages = Collect::new();
//!     env.source("pairs", Iter::new([(1, 3), (1, 5), (1, 7), (1, 4), (1, 2)]))
//!         .key_by(|(key, _)| *key)
//!         .process("average", |setup| Ok(CountWindowAverage { sum: setup.value_state("sum")? }))
//!         .sink("averages", averages.clone());
//!
//!     let job = env.start("averages").await?; // a JobHandle; `env.execute(name)` starts and waits
//!     job.wait().await?;
//!     assert_eq!(averages.records(), [(1, 4), (1, 5)]);
//!     Ok(())
//! }
//! ```
//!
//! Checkpoints that outlive the process need a place: add `.storage(FileSystem::at("checkpoints"))`, and the same program
//! started again goes on where it was killed.
//!
//! # Where to look
//!
//! | to | see |
//! |---|---|
//! | describe and start a job | [`Environment`], [`Stream`], [`KeyedStream`], [`Connected`] |
//! | write an operator | [`Operator`], [`Handler`], [`Context`], [`Setup`] |
//! | give it several inputs and outputs | [`KeyedStream::connect`], [`KeyedStream::connect_broadcast`], [`BroadcastHandler`]; [`Stream::split`], [`Stream::tee`], [`OutputTag`] |
//! | keep state | [`state`]: [`ValueState`], [`ListState`], [`MapState`], [`ReducingState`], [`AggregatingState`], [`SplitListState`], [`UnionListState`], [`BroadcastState`]; plain fields by [`Checkpointed`] |
//! | read and write | [`connectors`]; your own by [`Source`] and [`Sink`], or [`TwoPhaseCommit`] where there are transactions |
//! | set checkpoints and restarts | [`Checkpointing`], [`RestartStrategy`], [`storage`] |
//! | watch and stop a job | [`JobHandle`], [`JobStatus`], [`JobEvent`] |
//! | measure a job | [`JobHandle::metrics`], [`JobHandle::checkpoint_stats`], [`metrics`](mod@metrics) |
//! | know what went wrong | [`Error`], [`ErrorKind`] |
//!
//! Panics of user code are caught and restart the job, so a program must not be built with `panic = "abort"`.

#[cfg(not(panic = "unwind"))]
compile_error!("strandline restarts operators that panic: build with panic = \"unwind\"");

mod channel;
pub mod checkpoint;
pub mod connectors;
mod dataflow;
mod error;
mod job;
pub mod metrics;
mod operator;
mod pool;
pub mod restart;
mod runtime;
pub mod state;
pub mod storage;
pub mod types;

pub use channel::Record;
pub use checkpoint::{Checkpointing, CheckpointingMode, Compression, Retention};
pub use dataflow::{Broadcast, BroadcastStream, Connected, Edge, KeyedStream, OperatorPipe, Pipe, Stream};
pub use error::{BoxError, Error, ErrorKind, Result};
pub use job::{
    CancelOnDrop, ChainMetrics, CheckpointMetrics, CompletedCheckpoint, Environment, EnvironmentBuilder,
    JobEvent, JobHandle, JobMetrics, JobStatus, OperatorMetrics, StateMetrics, SubtaskMetrics,
};
pub use operator::{
    BoxFuture, BroadcastContext, BroadcastHandler, BroadcastInput, Checkpointed, CheckpointedAsync, Claim,
    CommitRetries, Context, DeadLetter, Handler, Inputs, KeyedInput, OpenTransaction, Operator,
    OperatorContext, OutputTag, PlainInput, PortList, Preparation, RecoveryContext, Replay, Setup,
    SideAccess, SideOutput, Sink, SinkWriter, Source, SourceReader, StartContext, SubtaskContext,
    TransactionContext, TransactionTimeout, TransactionWriter, TwoPhase, TwoPhaseCommit, Unkeyed,
};
pub use restart::RestartStrategy;
#[doc(no_inline)]
pub use tokio_util::sync::CancellationToken;

#[doc(no_inline)]
pub use state::{
    Aggregate, AggregatingState, BroadcastState, Key, KeyedState, ListState, MapState, ReducingState,
    SplitListState, StateValue, UnionListState, ValueState,
};

/// Everything that a job's code usually names.
pub mod prelude {
    #[cfg(feature = "csv")]
    pub use crate::connectors::Csv;
    #[cfg(feature = "json")]
    pub use crate::connectors::JsonLines;
    pub use crate::connectors::{
        BadRow, Collect, FileSink, FromStream, Ingest, IngestError, Iter, Print, Results, SourceExt,
        TextFiles, ToSink,
    };
    pub use crate::state::{
        Aggregate, AggregatingState, BroadcastState, ListState, MapState, ReducingState, SplitListState,
        UnionListState, ValueState,
    };
    pub use crate::storage::{FileSystem, Memory};
    pub use crate::{BoxFuture, RecoveryContext, SinkWriter, SourceReader, SubtaskContext};
    pub use crate::{
        BroadcastContext, BroadcastHandler, BroadcastStream, CancelOnDrop, CancellationToken, Checkpointed,
        CheckpointedAsync, Checkpointing, Connected, Context, DeadLetter, Environment, Error, ErrorKind,
        Handler, JobEvent, JobHandle, JobStatus, KeyedStream, Operator, OperatorContext, OperatorPipe,
        OutputTag, Pipe, RestartStrategy, Result, Retention, Setup, SideOutput, Sink, Source, Stream,
        Unkeyed,
    };
}

/// The code in the README, as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;

/// The code in the page on observability, as tests.
#[cfg(all(doctest, feature = "metrics"))]
#[doc = include_str!("../docs/observability.md")]
pub struct Observability;
