//! What a sink is: a writer, and for output that must appear exactly once, commits.

use super::{Claim, CommitRetries, StartContext};
use crate::error::Result;
use crate::operator::SubtaskContext;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::ops::ControlFlow;
use std::pin::Pin;

/// A boxed future that may run on the job's pool.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A destination of records.
///
/// For output that appears exactly once a sink writes in two phases. At each checkpoint the writer *prepares*: it makes what it
/// was given since the last one durable but not yet visible, and returns what is needed to make it visible, its *commits*. They are
/// stored in the checkpoint. When the checkpoint has completed they are *committed*; if the process dies in between, the
/// next start commits them first. So `commit` must be idempotent. (The shape is that of Flink's Sink V2.)
///
/// What a two-phase sink must see to:
/// - Names of what it prepares carry the uid, generation, attempt and subtask of its [`SubtaskContext`], and a number of its own: no two
///   runs ever prepare under one name.
/// - `prepare` returns only what is durable. What was prepared for a checkpoint that is given up stays good: it is committed with
///   the next one.
/// - `commit` may be called again for what is committed already, also by another process. What is neither prepared nor committed any
///   more is an error, not a success.
/// - [`recover`](Self::recover), if you write your own, commits first, then removes what runs before this one prepared and did not get into
///   the checkpoint. It is also the place to create what must exist.
///
/// A sink that just delivers, at least once, has `type Commit = ()`, prepares by flushing and returns no commits.
///
/// A clone of the sink configures every run; it holds settings, not open files.
///
/// ```
/// use strandline::prelude::*;
/// use strandline::{BoxFuture, SinkWriter, SubtaskContext};
/// use tokio::sync::mpsc;
///
/// /// Sends records into a channel: at least once, as it cannot take them back after a failure.
/// #[derive(Clone)]
/// struct ToChannel(mpsc::Sender<String>);
///
/// struct ToChannelWriter {
///     buffer: Vec<String>,
///     channel: mpsc::Sender<String>,
/// }
///
/// impl Sink<String> for ToChannel {
///     type Commit = ();
///     type Writer = ToChannelWriter;
///
///     fn writer(&self, _: &SubtaskContext) -> Result<ToChannelWriter> {
///         Ok(ToChannelWriter { buffer: Vec::new(), channel: self.0.clone() })
///     }
/// }
///
/// impl SinkWriter<String> for ToChannelWriter {
///     type Commit = ();
///
///     fn write(&mut self, record: String) -> Result {
///         self.buffer.push(record);
///         Ok(())
///     }
///
///     fn is_full(&self) -> bool {
///         self.buffer.len() >= 100
///     }
///
///     async fn flush(&mut self) -> Result {
///         for record in self.buffer.drain(..) {
///             self.channel.send(record).await?; // waits for room: back-pressure
///         }
///         Ok(())
///     }
///
///     fn prepare(&mut self) -> Result<BoxFuture<Result<Vec<()>>>> {
///         // A checkpoint must not be complete before what it covers has been delivered. (The next records may
///         // overtake these in the channel: the reader of this one does not mind.)
///         let (rest, channel) = (std::mem::take(&mut self.buffer), self.channel.clone());
///         Ok(Box::pin(async move {
///             for record in rest {
///                 channel.send(record).await?;
///             }
///             Ok(Vec::new())
///         }))
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result {
/// let (to, mut from) = mpsc::channel(16);
/// let env = Environment::builder().parallelism(1).build()?;
/// env.source("letters", Iter::new('a'..'d')).map(|letter| letter.to_string()).sink("channel", ToChannel(to));
/// env.start("own-sink").await?;
/// assert_eq!(from.recv().await.as_deref(), Some("a"));
/// # Ok(())
/// # }
/// ```
///
/// A sink around another one must pass on every method, of the sink and of its writer, those with a default too.
pub trait Sink<T>: Clone + Send + Sync + 'static {
    /// What makes prepared output visible: a file to rename, a transaction to commit. Stored in every checkpoint, in postcard's
    /// form: see [`StateValue`](crate::StateValue) for what that rules out.
    type Commit: Clone + Send + Serialize + DeserializeOwned + 'static;
    /// What takes the records.
    type Writer: SinkWriter<T, Commit = Self::Commit>;

    /// Called once at each start and each restart, before any writer is made: commit everything in `restored` (all commits of
    /// the checkpoint, of all subtasks, in order), then throw away whatever earlier runs prepared beyond it. The default commits.
    fn recover(
        &self,
        restored: Vec<Self::Commit>,
        context: &RecoveryContext,
    ) -> impl Future<Output = Result> + Send {
        let _ = context;
        self.commit(restored)
    }

    /// Called after [`recover`](Self::recover): throw away what writers had [open](SinkWriter::open) when the checkpoint was taken. The default does
    /// nothing, for sinks that find it without.
    fn abort(
        &self,
        open: Vec<Self::Commit>,
        context: &RecoveryContext,
    ) -> impl Future<Output = Result> + Send {
        let _ = (open, context);
        std::future::ready(Ok(()))
    }

    /// A subtask has stopped, for whatever reason, and its writer is gone: throw away what that had [open](SinkWriter::open). What was prepared
    /// must stay. Runs on the job's pool; an error is only logged. Not called when the process dies. The default does nothing.
    fn discard(&self, open: Vec<Self::Commit>) -> impl Future<Output = Result> + Send {
        let _ = open;
        std::future::ready(Ok(()))
    }

    /// A writer, made on the subtask's own thread. Do not block in it: open files in [`SinkWriter::flush`].
    fn writer(&self, context: &SubtaskContext) -> Result<Self::Writer>;

    /// A job that uses it starts: called once, before anything runs, and not at restarts. What is returned is dropped when the
    /// job has ended. An error fails the start. For sinks that live in this process and can serve one job at a time.
    fn claim(&self, start: &StartContext) -> Result<Claim> {
        let _ = start;
        Ok(Claim::none())
    }

    /// Makes prepared output visible, in this order. Must be idempotent, and an error where something to commit is gone for
    /// good. Runs on the job's pool. The default does nothing, for sinks without commits.
    fn commit(&self, commits: Vec<Self::Commit>) -> impl Future<Output = Result> + Send {
        let _ = commits;
        std::future::ready(Ok(()))
    }

    /// How often a commit that fails is tried again, all of it, before the subtask fails. Not asked at a start, where
    /// [`recover`](Self::recover) commits. The default is never.
    fn retries(&self) -> CommitRetries {
        CommitRetries::NONE
    }

    /// What is called when a checkpoint has completed: [commits](Self::commit), and returns those that cannot be committed now. They are kept, and tried
    /// again when the next checkpoint has completed; at the end of the input, after which none comes, that is an error. The default
    /// commits all or fails.
    fn try_commit(
        &self,
        commits: Vec<Self::Commit>,
    ) -> impl Future<Output = Result<Vec<Self::Commit>>> + Send {
        async move { self.commit(commits).await.map(|()| Vec::new()) }
    }
}

/// Takes the records of one subtask.
pub trait SinkWriter<T>: 'static {
    /// See [`Sink::Commit`].
    type Commit;

    /// Takes one record. Must not block: put it into a buffer.
    fn write(&mut self, record: T) -> Result;

    /// Takes records until there are none, or the buffer [is full](Self::is_full). The default [writes](Self::write) one after the
    /// other. Write your own where nanoseconds count: keep in local variables what it adds up, and let the iterator run the loop
    /// (`records.for_each(..)`), then the whole chain before the sink becomes the body of that one loop.
    #[inline]
    fn write_all<I: Iterator<Item = T>>(&mut self, records: &mut I) -> Result {
        let stopped = records.try_for_each(|record| match self.write(record) {
            Ok(()) if self.is_full() => ControlFlow::Break(Ok(())),
            Ok(()) => ControlFlow::Continue(()),
            failed => ControlFlow::Break(failed),
        });
        stopped.break_value().unwrap_or(Ok(()))
    }

    /// Whether the buffer should be [flushed](Self::flush) before the next record. This is where back-pressure begins: until
    /// the flush is done the subtask takes no input.
    fn is_full(&self) -> bool {
        false
    }

    /// Moves the buffer on to where it belongs. I/O and waiting belong here. Called when full, and when input runs out.
    fn flush(&mut self) -> impl Future<Output = Result>;

    /// At a barrier, and once more at the end of the input: begins to make durable everything written so far. Must not block: take the
    /// buffers out, and do the rest in the future, which runs on the job's pool while this writer already takes
    /// the next records. So [`flush`](Self::flush) may run before it has ended: where order matters, let both take from one
    /// queue. Its result is what to commit once the checkpoint has completed. An error fails the subtask.
    fn prepare(&mut self) -> Result<BoxFuture<Result<Vec<Self::Commit>>>>;

    /// What is called in place of [`prepare`](Self::prepare), for writers that want to know for which checkpoint, and whether anything will
    /// follow. The default prepares.
    fn prepare_for(&mut self, preparation: Preparation) -> Result<BoxFuture<Result<Vec<Self::Commit>>>> {
        let _ = preparation;
        self.prepare()
    }

    /// What has been begun and not prepared, asked at the start and right after each [`prepare`](Self::prepare): stored in the checkpoint, so that it
    /// can be [aborted](Sink::abort) if the job goes on from that. The default is nothing.
    fn open(&self) -> Vec<Self::Commit> {
        Vec::new()
    }
}

/// What a writer prepares for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Preparation {
    /// The checkpoint; 0 in a job that takes none.
    pub checkpoint: crate::types::CheckpointId,
    /// Whether the input has ended: nothing more will be written.
    pub is_last: bool,
}

/// What [`Sink::recover`] knows about the run that begins.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RecoveryContext {
    /// The uid of the sink. Put it into the names of what is prepared, so that sinks with one destination leave each other's alone.
    pub operator: crate::types::OperatorId,
    /// Which run of the process this is.
    pub generation: crate::types::Generation,
    /// Which run of the dataflow inside the process this is. Whatever carries a lower (generation, attempt) is a leftover.
    pub attempt: crate::types::Attempt,
    /// The checkpoint that the run begins from; `None` if it begins from nothing.
    pub restored: Option<crate::types::CheckpointId>,
    /// Wall time.
    pub now: crate::types::Timestamp,
    /// Whether the job takes checkpoints. Without them `prepare` and `commit` happen once, at the end of the input.
    pub checkpointing: bool,
}
