//! Sinks and channels of the process as a sink.

mod outlet;
#[cfg(test)]
mod tests;

use crate::error::{BoxError, Error, ErrorKind, Result};
use crate::operator::{BoxFuture, Sink, SinkWriter, SubtaskContext};
use futures::SinkExt;
use outlet::{BoxSink, Outlet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard, PollSender};

/// Records gathered before the subtask waits for them to be taken.
const BUFFER: usize = 128;

type Make<T> = dyn Fn(&SubtaskContext) -> BoxSink<T> + Send + Sync;

/// A [`futures::Sink`] or a tokio channel of this process as a sink. To get the results of a job as a stream, see
/// [`Stream::into_stream`](crate::Stream::into_stream).
///
/// **At least once**: a record is handed on as soon as input runs out or 128 are there, and what was handed on since the last completed
/// checkpoint comes again after a restart. For output that must be exactly once take a [`FileSink`](super::FileSink), or
/// [`Collect`](super::Collect) as long as the process lives. A checkpoint is complete only when everything before it
/// has been taken and flushed.
///
/// **Back-pressure**: while the sink takes no more, the job waits, and its checkpoints with it; one that waits beyond its
/// [timeout](crate::Checkpointing::timeout) fails. Cancelling does not wait: it gives up what the sink has not taken yet.
///
/// Records of one subtask keep their order, those of parallel subtasks mix. An error of the sink fails the subtask.
///
/// ```
/// # use strandline::prelude::*;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result {
/// let env = Environment::builder().build()?;
/// let (sender, mut receiver) = tokio::sync::mpsc::channel(16);
/// env.source("numbers", Iter::new(1..4)).map(|n| n * n).sink("squares", ToSink::sender(sender));
/// env.source("letters", Iter::new('a'..'d')).sink("nowhere", ToSink::new(futures::sink::drain()));
///
/// let job = env.start("to-sinks").await?;
/// assert_eq!(receiver.recv().await, Some(1));
/// assert_eq!(receiver.recv().await, Some(4));
/// assert_eq!(receiver.recv().await, Some(9));
/// job.await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "give it to `Stream::sink`"]
pub struct ToSink<T> {
    make: Arc<Make<T>>,
}

impl<T: Send + 'static> ToSink<T> {
    /// Into clones of `sink`, one for each subtask and restart. It is not closed at the end.
    pub fn new<S>(sink: S) -> Self
    where
        S: futures::Sink<T, Error: Into<BoxError>> + Clone + Send + 'static,
    {
        // Behind a lock, so that the sink need not be `Sync`.
        let sink = Mutex::new(sink);
        Self::per_subtask(move |_| sink.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Into the sink that `make` makes, for each subtask and restart, on the subtask's own thread; it must not block. The sink
    /// is not closed at the end, but dropped.
    pub fn per_subtask<S>(make: impl Fn(&SubtaskContext) -> S + Send + Sync + 'static) -> Self
    where
        S: futures::Sink<T, Error: Into<BoxError>> + Send + 'static,
    {
        Self { make: Arc::new(move |subtask| Box::pin(make(subtask).sink_map_err(Into::into))) }
    }

    /// Into a channel. If its receiver is dropped before the job has ended, the next record fails the job: nothing is thrown away
    /// in silence; cancel the job first. The environment holds the sender, too: the receiver sees the end of the channel when the job
    /// has ended *and* its environment is dropped.
    pub fn sender(sender: mpsc::Sender<T>) -> Self {
        let sender = PollSender::new(sender);
        Self::per_subtask(move |_| sender.clone().sink_map_err(|_| closed()))
    }
}

/// Not retried: a restart would meet the same closed channel.
pub(super) fn closed() -> Error {
    Error::new(
        ErrorKind::Configuration,
        "nobody receives the records any more: keep the receiver until the job has ended, or cancel the job first",
    )
}

impl<T> Clone for ToSink<T> {
    fn clone(&self) -> Self {
        Self { make: Arc::clone(&self.make) }
    }
}

impl<T> fmt::Debug for ToSink<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ToSink").finish_non_exhaustive()
    }
}

impl<T: Send + 'static> Sink<T> for ToSink<T> {
    type Commit = ();
    type Writer = ToSinkWriter<T>;

    fn writer(&self, context: &SubtaskContext) -> Result<ToSinkWriter<T>> {
        Ok(ToSinkWriter::new((self.make)(context)))
    }
}

/// Writes one subtask's records of a [`ToSink`].
pub struct ToSinkWriter<T> {
    buffer: Vec<T>,
    outlet: Arc<Outlet<T>>,
    /// Cancelled when the writer is dropped: nobody asks any more for what is still on its way.
    gone: CancellationToken,
    _guard: DropGuard,
}

impl<T: Send + 'static> ToSinkWriter<T> {
    pub(super) fn new(sink: BoxSink<T>) -> Self {
        let gone = CancellationToken::new();
        let guard = gone.clone().drop_guard();
        Self { buffer: Vec::new(), outlet: Arc::new(Outlet::new(sink)), gone, _guard: guard }
    }
}

impl<T> fmt::Debug for ToSinkWriter<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ToSinkWriter").field("buffered", &self.buffer.len()).finish_non_exhaustive()
    }
}

impl<T: Send + 'static> SinkWriter<T> for ToSinkWriter<T> {
    type Commit = ();

    #[inline]
    fn write(&mut self, record: T) -> Result {
        self.buffer.push(record);
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.buffer.len() >= BUFFER
    }

    async fn flush(&mut self) -> Result {
        let end = self.outlet.add(&mut self.buffer);
        self.outlet.send_up_to(end).await
    }

    fn prepare(&mut self) -> Result<BoxFuture<Result<Vec<()>>>> {
        // Added now, so they are before whatever is written next, whoever sends first.
        let end = self.outlet.add(&mut self.buffer);
        let (outlet, gone) = (Arc::clone(&self.outlet), self.gone.clone());
        Ok(Box::pin(async move {
            match gone.run_until_cancelled_owned(outlet.send_up_to(end)).await {
                Some(sent) => sent.map(|()| Vec::new()),
                None => Err("the subtask has stopped".into()),
            }
        }))
    }
}
