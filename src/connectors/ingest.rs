//! Records from anywhere in the service into a job.

use super::FromStream;
use futures::Stream;
use futures::future::{BoxFuture, Either, select};
use std::fmt;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use tokio::sync::{mpsc, watch};

/// Feeds a job from anywhere in the service: request handlers, tasks, other threads.
///
/// Cheap to clone. The source ends, and with it the job's input, when the last clone is dropped or any of them is
/// [closed](Self::close); what was sent before is processed first.
///
/// [`send`](Self::send) waits while the job does not keep up: that is back-pressure. [`try_send`](Self::try_send) says so instead.
/// Either succeeds when the record is on its way, not when it is processed: see [`FromStream`] for what a failure may lose, and
/// what to say about that in a job that takes checkpoints.
///
/// Before the first start records wait in the channel. When the job has ended – it was cancelled, or it failed – each record is
/// handed back in the error, also to those who are waiting to send; a further start of the same environment takes
/// records again, first those that were left.
///
/// ```
/// # use strandline::prelude::*;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result {
/// let env = Environment::builder().checkpointing(Checkpointing::every(std::time::Duration::from_secs(1))).build()?;
/// let (orders, source) = Ingest::bounded(1024);
/// let totals = Collect::new();
/// env.source("orders", source.replay_in_process(100_000))
///     .key_by(|(customer, _)| *customer)
///     .reduce("total", |total: &mut (u64, u64), (_, cents)| total.1 += cents)
///     .sink("totals", totals.clone());
///
/// let job = env.start("orders").await?;
/// orders.send((7, 250)).await?;
/// orders.send((7, 100)).await?;
/// orders.close();
/// assert!(orders.send((7, 1)).await.is_err());
/// job.await?;
/// assert_eq!(totals.records(), [(7, 250), (7, 350)]);
/// # Ok(())
/// # }
/// ```
pub struct Ingest<T> {
    sender: mpsc::Sender<T>,
    link: Arc<Link>,
}

impl<T: Send + 'static> Ingest<T> {
    /// A handle, and the source that gives what is sent. At most `capacity` records, at least 1, wait between them.
    pub fn bounded(capacity: usize) -> (Self, FromStream<T>) {
        let (sender, receiver) = mpsc::channel(capacity.max(1));
        let link = Arc::new(Link { phase: watch::Sender::new(Phase::Open) });
        let mut phase = link.phase.subscribe();
        // An error means that nobody can close it any more.
        let closed = Box::pin(async move { drop(phase.wait_for(|phase| *phase == Phase::Closed).await) });
        let received = Received { receiver, closed: Some(closed) };
        (Self { sender, link: Arc::clone(&link) }, FromStream::linked(received, Some(link)))
    }

    /// Sends a record, and waits for room first. Giving up the wait sends nothing.
    ///
    /// # Errors
    /// [`IngestError::Closed`] or [`IngestError::Ended`], with the record.
    pub async fn send(&self, record: T) -> Result<(), IngestError<T>> {
        let record = match self.try_send(record) {
            Err(IngestError::Full(record)) => record,
            sent => return sent,
        };
        let mut phase = self.link.phase.subscribe();
        let refused = pin!(phase.wait_for(|phase| *phase != Phase::Open));
        // Refusal first: a record that is taken after the end would lie in the channel unseen.
        match select(refused, pin!(self.sender.reserve())).await {
            Either::Right((Ok(room), _)) => {
                room.send(record);
                Ok(())
            }
            Either::Left(_) | Either::Right((Err(_), _)) => Err(self.refuse(record)),
        }
    }

    /// Sends a record if there is room.
    ///
    /// # Errors
    /// [`IngestError::Full`], [`IngestError::Closed`] or [`IngestError::Ended`], with the record.
    pub fn try_send(&self, record: T) -> Result<(), IngestError<T>> {
        if *self.link.phase.borrow() != Phase::Open {
            return Err(self.refuse(record));
        }
        self.sender.try_send(record).map_err(|error| match error {
            mpsc::error::TrySendError::Full(record) => IngestError::Full(record),
            mpsc::error::TrySendError::Closed(record) => self.refuse(record),
        })
    }

    /// Ends the source for good, whatever other clones there are. What was sent before is still processed; nothing is taken any more.
    pub fn close(&self) {
        self.link.phase.send_replace(Phase::Closed);
    }

    fn refuse(&self, record: T) -> IngestError<T> {
        match *self.link.phase.borrow() {
            Phase::Closed => IngestError::Closed(record),
            Phase::Open | Phase::Ended => IngestError::Ended(record),
        }
    }
}

impl<T> Clone for Ingest<T> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), link: Arc::clone(&self.link) }
    }
}

impl<T> fmt::Debug for Ingest<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ingest")
            .field("room", &self.sender.capacity())
            .field("phase", &*self.link.phase.borrow())
            .finish()
    }
}

/// Why an [`Ingest`] did not take a record, and the record.
///
/// ```
/// # use strandline::prelude::*;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result {
/// let (orders, source) = Ingest::bounded(1);
/// orders.try_send("first")?;
/// assert_eq!(orders.try_send("second"), Err(IngestError::Full("second")));
/// drop(source); // nobody will ever read it
/// let error = orders.send("second").await.unwrap_err();
/// assert_eq!(error.into_record(), "second");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum IngestError<T> {
    /// The job does not keep up. Wait with [`Ingest::send`], or turn the record away.
    Full(T),
    /// The ingest was [closed](Ingest::close).
    Closed(T),
    /// The job has ended, or its environment is gone.
    Ended(T),
}

impl<T> IngestError<T> {
    /// The record.
    #[must_use]
    pub fn into_record(self) -> T {
        match self {
            Self::Full(record) | Self::Closed(record) | Self::Ended(record) => record,
        }
    }
}

impl<T> fmt::Display for IngestError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => {
                "the record was not taken: the job does not keep up and the channel to it is full"
            }
            Self::Closed(_) => "the record was not taken: the ingest is closed",
            Self::Ended(_) => "the record was not taken: the job that reads this ingest has ended",
        })
    }
}

impl<T> fmt::Debug for IngestError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "Full(..)",
            Self::Closed(_) => "Closed(..)",
            Self::Ended(_) => "Ended(..)",
        })
    }
}

impl<T> std::error::Error for IngestError<T> {}

/// What both ends of an [`Ingest`] know.
pub(super) struct Link {
    phase: watch::Sender<Phase>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// A job reads, or will.
    Open,
    /// The job that read has ended.
    Ended,
    /// Nothing is taken any more.
    Closed,
}

impl Link {
    pub(super) fn begin(&self) {
        self.turn(Phase::Open);
    }

    pub(super) fn end(&self) {
        self.turn(Phase::Ended);
    }

    fn turn(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let turns = *phase != Phase::Closed && *phase != to;
            if turns {
                *phase = to;
            }
            turns
        });
    }
}

/// The receiving end: a channel that also its senders can close.
struct Received<T> {
    receiver: mpsc::Receiver<T>,
    closed: Option<BoxFuture<'static, ()>>,
}

impl<T> Stream for Received<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Option<T>> {
        let polled = self.receiver.poll_recv(task);
        // Asked only when nothing is there, so it costs nothing per record.
        if polled.is_pending()
            && let Some(closed) = &mut self.closed
            && closed.as_mut().poll(task).is_ready()
        {
            self.closed = None;
            self.receiver.close();
            return self.receiver.poll_recv(task);
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connectors::StreamReader;
    use crate::connectors::test_support::context;
    use crate::operator::{Source, SourceReader, StartContext};
    use futures::FutureExt;

    fn claim(source: &FromStream<u32>) -> crate::operator::Claim {
        let start = StartContext { job: "job".into(), restored: None, checkpointing: false };
        source.claim(&start).unwrap()
    }

    async fn reader(source: &FromStream<u32>) -> StreamReader<u32> {
        source.reader(source.splits(None).await.unwrap(), &context(0)).unwrap()
    }

    async fn read(reader: &mut StreamReader<u32>) -> Option<u32> {
        loop {
            if let Some(record) = reader.next().unwrap() {
                return Some(record);
            }
            if !reader.ready().await.unwrap() {
                return None;
            }
        }
    }

    #[tokio::test]
    async fn a_full_channel_makes_send_wait_and_try_send_give_back() {
        let (ingest, source) = Ingest::bounded(1);
        ingest.send(1).await.unwrap();
        assert_eq!(ingest.try_send(2), Err(IngestError::Full(2)));
        let mut waiting = Box::pin(ingest.send(3));
        assert!((&mut waiting).now_or_never().is_none());
        let mut reader = reader(&source).await;
        assert_eq!(read(&mut reader).await, Some(1));
        waiting.await.unwrap();
        assert_eq!(read(&mut reader).await, Some(3));
    }

    #[tokio::test]
    async fn a_send_that_is_given_up_sends_nothing() {
        let (ingest, source) = Ingest::bounded(1);
        ingest.send(1).await.unwrap();
        assert!(ingest.send(2).now_or_never().is_none());
        ingest.close();
        let mut reader = reader(&source).await;
        assert_eq!(read(&mut reader).await, Some(1));
        assert_eq!(read(&mut reader).await, None);
    }

    #[tokio::test]
    async fn the_source_ends_when_the_last_handle_is_dropped_or_any_is_closed() {
        for close in [false, true] {
            let (ingest, source) = Ingest::bounded(4);
            let other = ingest.clone();
            let mut reader = reader(&source).await;
            // Waits already when the end comes.
            assert!(reader.ready().now_or_never().is_none());
            let end = async move {
                ingest.send(1).await.unwrap();
                if close {
                    ingest.close();
                    assert_eq!(ingest.send(2).await, Err(IngestError::Closed(2)));
                    assert_eq!(other.send(3).await, Err(IngestError::Closed(3)));
                    Some(other)
                } else {
                    drop(ingest);
                    other.send(2).await.unwrap();
                    None
                }
            };
            let reading = async {
                assert_eq!(read(&mut reader).await, Some(1));
                assert_eq!(read(&mut reader).await, (!close).then_some(2));
                assert_eq!(read(&mut reader).await, None);
            };
            futures::join!(end, reading);
        }
    }

    #[tokio::test]
    async fn the_end_of_the_job_hands_records_back_also_to_those_who_wait() {
        let (ingest, source) = Ingest::bounded(1);
        let job = claim(&source);
        ingest.send(1).await.unwrap();
        let mut waiting = Box::pin(ingest.send(2));
        assert!((&mut waiting).now_or_never().is_none());
        drop(job);
        assert_eq!(waiting.await, Err(IngestError::Ended(2)));
        assert_eq!(ingest.try_send(3), Err(IngestError::Ended(3)));
        // A further start takes records again, first those that were left.
        let job = claim(&source);
        let mut reading = reader(&source).await;
        assert_eq!(read(&mut reading).await, Some(1));
        ingest.send(4).await.unwrap();
        assert_eq!(read(&mut reading).await, Some(4));
        ingest.close();
        drop((reading, job));
        assert_eq!(ingest.send(5).await, Err(IngestError::Closed(5)));
        drop(claim(&source));
        assert_eq!(ingest.send(6).await, Err(IngestError::Closed(6)));
    }

    #[tokio::test]
    async fn without_its_source_an_ingest_hands_records_back() {
        let (ingest, source) = Ingest::bounded(1);
        ingest.send(1).await.unwrap();
        drop(source);
        assert_eq!(ingest.send(2).await, Err(IngestError::Ended(2)));
        assert_eq!(IngestError::Ended(2).into_record(), 2);
    }
}
