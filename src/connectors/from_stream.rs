//! Streams and channels of the process as a source.

mod feed;
mod slot;
#[cfg(test)]
mod tests;

use super::ingest::Link;
use crate::error::{Error, ErrorKind, Result};
use crate::operator::{Claim, Replay, Source, SourceReader, StartContext, SubtaskContext};
use feed::{Feed, Keep};
use futures::Stream;
use serde::{Deserialize, Serialize};
use slot::Slot;
use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use tokio::sync::mpsc;

/// A [`futures::Stream`] or a tokio channel of this process as a source. To feed a job from many places see
/// [`Ingest`](super::Ingest).
///
/// **Not replayable**: a stream gives each record once. What is lost, and when, in a job that takes checkpoints:
///
/// | | at a restart inside the process | when the process dies |
/// |---|---|---|
/// | [`accept_loss`](Self::accept_loss) | the records read since the last completed checkpoint | those, and what the stream or channel still holds |
/// | [`replay_in_process`](Self::replay_in_process) | nothing | the same |
/// | neither | the job does not start: [`ErrorKind::Program`] | |
///
/// A loss at a restart is logged with the number of records. Without checkpoints nothing need be said: a restart
/// begins with empty state and goes on where the stream is.
///
/// The stream lives beside the runs of the job, not in them: a restart, and a second start of the same
/// [`Environment`](crate::Environment) after a cancel or a failure, read on from where it is; a record that was taken out of it but not
/// yet given to the job is not lost on the way. It serves one job at a time, and once it has come to its end none any more: a start that
/// would use it again is an error. A stream that panics cannot be read on: the job ends at the restart.
///
/// Read by one subtask, on a thread of the job: what the stream needs of another runtime (a socket, a timer) must be kept alive by you. After the
/// job the environment still holds the stream, so whoever sends into a full channel waits: drop the environment, or send through
/// [`Ingest`](super::Ingest), which says that the job has ended.
///
/// ```
/// # use strandline::prelude::*;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result {
/// let env = Environment::builder().build()?;
/// let (lengths, numbers) = (Collect::new(), Collect::new());
///
/// let (sender, receiver) = tokio::sync::mpsc::channel(16);
/// env.source("words", FromStream::receiver(receiver)).map(|word: &str| word.len()).sink("lengths", lengths.clone());
/// env.source("numbers", FromStream::new(futures::stream::iter(1..4))).sink("kept", numbers.clone());
///
/// let job = env.start("from-streams").await?;
/// sender.send("strand").await?;
/// sender.send("line").await?;
/// drop(sender); // the end of the input
/// job.await?;
/// assert_eq!(lengths.records(), [6, 4]);
/// assert_eq!(numbers.records(), [1, 2, 3]);
/// # Ok(())
/// # }
/// ```
#[must_use = "give it to `Environment::source`"]
pub struct FromStream<T> {
    slot: Arc<Slot<T>>,
    replay: Replay,
    keep: Option<Keep<T>>,
}

impl<T: Send + 'static> FromStream<T> {
    /// Reads a stream to its end.
    pub fn new(stream: impl Stream<Item = T> + Send + 'static) -> Self {
        Self::linked(stream, None)
    }

    /// Reads a channel until its last sender is dropped.
    pub fn receiver(mut receiver: mpsc::Receiver<T>) -> Self {
        Self::new(futures::stream::poll_fn(move |task| receiver.poll_recv(task)))
    }

    /// With `link`, whoever sends learns when a job begins and ends to read.
    pub(super) fn linked(stream: impl Stream<Item = T> + Send + 'static, link: Option<Arc<Link>>) -> Self {
        Self { slot: Arc::new(Slot::new(Box::pin(stream), link)), replay: Replay::Impossible, keep: None }
    }

    /// Accepts that records are lost: at a restart those that were read since the last completed checkpoint, and when the process
    /// dies also those that the stream still holds. State is what the other records made of it.
    ///
    /// ```
    /// # use strandline::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result {
    /// let env = Environment::builder().storage(Memory::new()).build()?; // so it takes checkpoints
    /// let ticks = || FromStream::new(futures::stream::iter(0..3));
    /// env.source("ticks", ticks().accept_loss()).sink("out", Collect::new());
    /// env.execute("lossy-ticks").await?;
    ///
    /// env.source("more-ticks", ticks()).sink("more", Collect::new());
    /// let error = env.start("strict-ticks").await.unwrap_err();
    /// assert!(error.to_string().contains("source `more-ticks` cannot give records again"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn accept_loss(mut self) -> Self {
        (self.replay, self.keep) = (Replay::LossAccepted, None);
        self
    }

    /// Keeps a copy of each record until a completed checkpoint covers it, and reads the copies again after a restart inside the process:
    /// then state is exactly once as long as the process lives. Accepts that records are lost when it dies, as
    /// [`accept_loss`](Self::accept_loss) says.
    ///
    /// At most `limit` records are kept. When as many have been read since the last completed checkpoint, reading waits for the next
    /// one: so the limit bounds memory, and `limit` per checkpoint interval bounds throughput. Start with twice what comes in
    /// one interval. A job that takes checkpoints only on request must take one in time. A limit of 0 is an error at the start.
    pub fn replay_in_process(mut self, limit: usize) -> Self
    where
        T: Clone,
    {
        (self.replay, self.keep) = (Replay::InProcess, Some(Keep { limit, copy: T::clone }));
        self
    }
}

impl<T> Clone for FromStream<T> {
    fn clone(&self) -> Self {
        Self { slot: Arc::clone(&self.slot), replay: self.replay, keep: self.keep }
    }
}

impl<T> fmt::Debug for FromStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FromStream").field("replay", &self.replay).finish_non_exhaustive()
    }
}

/// How far a [`FromStream`] has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct StreamPosition {
    /// Which stream of which process; 0 for none yet. In another one the position says nothing.
    stream: u64,
    /// How many records it had given.
    given: u64,
}

impl<T: Send + 'static> Source for FromStream<T> {
    type Record = T;
    type Split = StreamPosition;
    type Reader = StreamReader<T>;

    fn parallelism(&self) -> Option<u32> {
        Some(1)
    }

    async fn splits(&self, restored: Option<Vec<StreamPosition>>) -> Result<Vec<StreamPosition>> {
        match restored.as_deref() {
            // A checkpoint without the position is one from before this source was added.
            None | Some([]) => Ok(vec![StreamPosition::default()]),
            Some([position]) => Ok(vec![*position]),
            Some(positions) => Err(Error::new(
                ErrorKind::Corrupt,
                format!("a FromStream source has one position, the checkpoint holds {positions:?}"),
            )
            .into()),
        }
    }

    fn reader(&self, splits: Vec<StreamPosition>, context: &SubtaskContext) -> Result<StreamReader<T>> {
        let mut reader = StreamReader { feed: Some(self.slot.take()?), slot: Arc::clone(&self.slot) };
        let position = splits.first().filter(|position| position.stream == self.slot.id());
        if let Some(feed) = &mut reader.feed {
            let lost = feed.go_back(position.map(|position| position.given));
            if lost > 0 {
                tracing::warn!(
                    job = %context.job,
                    operator = %context.operator,
                    lost,
                    "a source that cannot replay goes on where its stream is: records read since the checkpoint are lost"
                );
            }
        }
        Ok(reader)
    }

    fn replay(&self) -> Replay {
        self.replay
    }

    fn claim(&self, start: &StartContext) -> Result<Claim> {
        if self.keep.as_ref().is_some_and(|keep| keep.limit == 0) {
            let message = "`replay_in_process(0)` keeps nothing: give the number of records that may come between two checkpoints";
            return Err(Error::new(ErrorKind::Configuration, message).into());
        }
        Ok(Claim::held(Slot::claim(&self.slot, start, self.keep.filter(|_| start.checkpointing))?))
    }

    fn on_complete(&self, splits: &[StreamPosition]) -> Result {
        for position in splits.iter().filter(|position| position.stream == self.slot.id()) {
            self.slot.cover(position.given);
        }
        Ok(())
    }
}

/// Reads a [`FromStream`]. Dropped, it gives the stream back.
pub struct StreamReader<T> {
    slot: Arc<Slot<T>>,
    /// Always there until the drop.
    feed: Option<Feed<T>>,
}

impl<T> fmt::Debug for StreamReader<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamReader").finish_non_exhaustive()
    }
}

impl<T: Send + 'static> SourceReader for StreamReader<T> {
    type Record = T;
    type Split = StreamPosition;

    #[inline]
    fn next(&mut self) -> Result<Option<T>> {
        Ok(self.feed.as_mut().and_then(|feed| feed.next(self.slot.covered())))
    }

    async fn ready(&mut self) -> Result<bool> {
        let Self { slot, feed: Some(feed) } = self else { return Ok(false) };
        Ok(poll_fn(|task| {
            // Before the look, so that nothing that comes after it is missed.
            slot.wait(task);
            feed.poll_ready(slot.covered())
        })
        .await)
    }

    fn splits(&self) -> Vec<StreamPosition> {
        let given = self.feed.as_ref().map_or(0, Feed::given);
        vec![StreamPosition { stream: self.slot.id(), given }]
    }
}

impl<T> Drop for StreamReader<T> {
    fn drop(&mut self) {
        if let Some(feed) = self.feed.take() {
            self.slot.give_back(feed);
        }
    }
}
