//! A job's output as a stream in the service.

use super::to_sink::{ToSinkWriter, closed};
use crate::dataflow::{Pipe, Stream};
use crate::error::{Error, ErrorKind, Result};
use crate::operator::{Claim, Sink, StartContext, SubtaskContext};
use crate::types::JobName;
use futures::SinkExt;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as TaskContext, Poll};
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

impl<T: Send + 'static, P: Pipe<Out = T>> Stream<T, P> {
    /// Ends the stream in the service itself: what comes out is a [`futures::Stream`] of its records, to be read by any task. `uid` names the
    /// sink; at most `capacity` records, at least 1, wait to be read.
    ///
    /// **At least once**: after a restart the records since the last completed checkpoint come again. For results that must be exactly
    /// once take [`Collect`](crate::connectors::Collect), as long as the process lives, or a
    /// [`FileSink`](crate::connectors::FileSink).
    ///
    /// **Back-pressure**: while nobody reads, the job waits as soon as `capacity` records are there, and its checkpoints with it; one that
    /// waits beyond its [timeout](crate::Checkpointing::timeout) fails. Cancelling does not wait.
    ///
    /// Records of one subtask keep their order, those of parallel subtasks mix.
    ///
    /// The stream ends when the job has ended, whatever way; [`JobHandle::wait`](crate::JobHandle::wait) says which. It serves one
    /// start: a further start of the same environment is an error. If it is dropped before the job has ended, the next record fails the job
    /// with an error that names the sink: nothing is thrown away in silence. To stop early, cancel the job first.
    ///
    /// ```
    /// # use strandline::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result {
    /// let env = Environment::builder().build()?;
    /// let mut squares = env.source("numbers", Iter::new(1..=3_u64)).map(|n| n * n).into_stream("squares", 16);
    /// let job = env.start("squares").await?;
    /// let mut sum = 0;
    /// while let Some(square) = squares.next().await {
    ///     sum += square;
    /// }
    /// assert_eq!(sum, 14);
    /// job.await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn into_stream(self, uid: &str, capacity: usize) -> Results<T> {
        let (sender, receiver) = mpsc::channel(capacity.max(1));
        let state = State { sender: Some(PollSender::new(sender)), job: None };
        self.sink(uid, ToResults(Arc::new(Mutex::new(state))));
        Results { receiver }
    }
}

/// The records of a stream of a job: see [`Stream::into_stream`].
#[must_use = "the job waits until its records are read, and fails if this is dropped"]
pub struct Results<T> {
    receiver: mpsc::Receiver<T>,
}

impl<T> Results<T> {
    /// The next record; `None` when the job has ended. Giving up the wait loses nothing.
    pub async fn next(&mut self) -> Option<T> {
        poll_fn(|task| self.receiver.poll_recv(task)).await
    }
}

impl<T> futures::Stream for Results<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Option<T>> {
        self.receiver.poll_recv(task)
    }
}

impl<T> fmt::Debug for Results<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Results").field("waiting", &self.receiver.len()).finish_non_exhaustive()
    }
}

/// The sink behind [`Results`].
pub struct ToResults<T>(Arc<Mutex<State<T>>>);

struct State<T> {
    /// Gone when the job has ended, so that the stream ends.
    sender: Option<PollSender<T>>,
    job: Option<JobName>,
}

impl<T> ToResults<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Clone for ToResults<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> fmt::Debug for ToResults<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ToResults").finish_non_exhaustive()
    }
}

impl<T: Send + 'static> Sink<T> for ToResults<T> {
    type Commit = ();
    type Writer = ToSinkWriter<T>;

    fn writer(&self, _: &SubtaskContext) -> Result<ToSinkWriter<T>> {
        let Some(sender) = self.lock().sender.clone() else {
            return Err(Error::new(ErrorKind::Internal, "the results of a job ended before it did").into());
        };
        Ok(ToSinkWriter::new(Box::pin(sender.sink_map_err(|_| closed().into()))))
    }

    fn claim(&self, start: &StartContext) -> Result<Claim> {
        let mut state = self.lock();
        if let Some(job) = &state.job {
            let message = format!(
                "its results go to the stream that `into_stream` gave, and that is of one start only: job `{job}` has it, or had \
                 it. Make a new environment"
            );
            return Err(Error::new(ErrorKind::Program, message).into());
        }
        state.job = Some(start.job.clone());
        drop(state);
        Ok(Claim::held(Ending(self.clone())))
    }
}

/// Ends the results with the job.
struct Ending<T>(ToResults<T>);

impl<T> Drop for Ending<T> {
    fn drop(&mut self) {
        let sender = self.0.lock().sender.take();
        drop(sender);
    }
}
