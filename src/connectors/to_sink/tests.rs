use super::*;
use crate::connectors::test_support::context;
use futures::FutureExt;
use proptest::prelude::*;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};

fn channel(room: usize) -> (ToSinkWriter<u32>, mpsc::Receiver<u32>) {
    let (sender, receiver) = mpsc::channel(room);
    (ToSink::sender(sender).writer(&context(0)).unwrap(), receiver)
}

fn write(writer: &mut ToSinkWriter<u32>, records: impl IntoIterator<Item = u32>) {
    records.into_iter().for_each(|record| writer.write(record).unwrap());
}

fn received(receiver: &mut mpsc::Receiver<u32>) -> Vec<u32> {
    std::iter::from_fn(|| receiver.try_recv().ok()).collect()
}

#[tokio::test]
async fn a_flush_and_a_checkpoint_hand_on_everything_before_them() {
    let (mut writer, mut receiver) = channel(10);
    write(&mut writer, [1, 2]);
    assert!(received(&mut receiver).is_empty());
    writer.flush().await.unwrap();
    assert_eq!(received(&mut receiver), [1, 2]);
    write(&mut writer, [3]);
    assert!(writer.prepare().unwrap().await.unwrap().is_empty());
    assert_eq!(received(&mut receiver), [3]);
}

#[tokio::test]
async fn a_full_buffer_asks_for_a_flush() {
    let (mut writer, _receiver) = channel(1000);
    while !writer.is_full() {
        writer.write(0).unwrap();
    }
    assert_eq!(writer.buffer.len(), BUFFER);
    writer.flush().await.unwrap();
    assert!(!writer.is_full());
}

#[tokio::test]
async fn a_checkpoint_waits_for_room_and_a_writer_that_is_gone_does_not() {
    let (mut writer, mut receiver) = channel(1);
    write(&mut writer, [1, 2]);
    let mut prepared = writer.prepare().unwrap();
    assert!((&mut prepared).now_or_never().is_none());
    assert_eq!(receiver.recv().await, Some(1));
    prepared.await.unwrap();

    write(&mut writer, [3, 4]);
    let prepared = writer.prepare().unwrap();
    drop(writer);
    let error = prepared.await.unwrap_err().to_string();
    assert!(error.contains("has stopped"), "{error}");
}

#[tokio::test]
async fn a_channel_that_nobody_reads_is_an_error_that_is_not_retried() {
    let (mut writer, receiver) = channel(1);
    drop(receiver);
    write(&mut writer, [1]);
    let error = Error::from_cause(ErrorKind::Failed, "a sink failed", writer.flush().await.unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.to_string().contains("keep the receiver"), "{error}");
}

/// Takes each record only at the second poll, and fails at one.
#[derive(Clone, Default)]
struct Slow {
    taken: Arc<Mutex<Vec<u32>>>,
    flushed: Arc<Mutex<usize>>,
    asked: bool,
    fails_at: Option<u32>,
}

impl futures::Sink<u32> for Slow {
    type Error = std::io::Error;

    fn poll_ready(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<std::io::Result<()>> {
        self.asked = !self.asked;
        if self.asked {
            task.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    fn start_send(self: Pin<&mut Self>, record: u32) -> std::io::Result<()> {
        if self.fails_at == Some(record) {
            return Err(std::io::Error::other("full for good"));
        }
        self.taken.lock().unwrap().push(record);
        Ok(())
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<std::io::Result<()>> {
        *self.flushed.lock().unwrap() = self.taken.lock().unwrap().len();
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<std::io::Result<()>> {
        self.poll_flush(task)
    }
}

#[tokio::test]
async fn after_an_error_nothing_more_is_sent() {
    let slow = Slow { fails_at: Some(2), ..Slow::default() };
    let mut writer = ToSink::new(slow.clone()).writer(&context(0)).unwrap();
    write(&mut writer, [1, 2, 3]);
    let prepared = writer.prepare().unwrap();
    write(&mut writer, [4]);
    let error = writer.flush().await.unwrap_err().to_string();
    assert!(error.contains("full for good"), "{error}");
    assert!(prepared.await.is_err(), "lost a record and did not say so");
    assert_eq!(*slow.taken.lock().unwrap(), [1]);
}

#[tokio::test]
async fn each_subtask_has_a_sink_of_its_own() {
    let sinks = [Slow::default(), Slow::default()];
    let of_each = sinks.clone();
    let sink = ToSink::per_subtask(move |subtask| of_each[subtask.subtask.0 as usize].clone());
    for (index, slow) in (0..).zip(&sinks) {
        let mut writer = sink.writer(&context(index)).unwrap();
        write(&mut writer, [index]);
        writer.flush().await.unwrap();
        assert_eq!(*slow.taken.lock().unwrap(), [index]);
        assert_eq!(*slow.flushed.lock().unwrap(), 1);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Write(u32),
    /// A barrier; the preparation begins to run only later.
    Prepare,
    /// Polls one of the running preparations once.
    Poll(usize),
    /// To its end, among the polls of the preparations.
    Flush,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (1..4_u32).prop_map(Step::Write),
        Just(Step::Prepare),
        (0..4_usize).prop_map(Step::Poll),
        Just(Step::Flush),
    ];
    prop::collection::vec(step, 0..40)
}

proptest! {
    /// Whatever overtakes whatever: records arrive in order, and what is said to be flushed is.
    #[test]
    fn records_keep_their_order(steps in steps()) {
        let slow = Slow::default();
        let mut writer = ToSink::new(slow.clone()).writer(&context(0)).unwrap();
        let mut written = 0_u32;
        let mut preparing: Vec<(u32, BoxFuture<Result<Vec<()>>>)> = Vec::new();
        let flushed = || *slow.flushed.lock().unwrap();
        for step in steps {
            match step {
                Step::Write(records) => {
                    write(&mut writer, written..written + records);
                    written += records;
                }
                Step::Prepare => preparing.push((written, writer.prepare().unwrap())),
                Step::Poll(which) => {
                    if let Some((upto, preparation)) = preparing.get_mut(which)
                        && let Some(done) = preparation.now_or_never()
                    {
                        done.unwrap();
                        prop_assert!(flushed() >= *upto as usize);
                        drop(preparing.remove(which));
                    }
                }
                Step::Flush => {
                    let mut flush = Box::pin(writer.flush());
                    let mut turn = 0;
                    while (&mut flush).now_or_never().map(Result::unwrap).is_none() {
                        turn += 1;
                        // Whoever is first in line must have its turns, too.
                        let mut still = Vec::new();
                        for (upto, mut preparation) in preparing.drain(..) {
                            match (&mut preparation).now_or_never() {
                                Some(done) => drop(done.unwrap()),
                                None => still.push((upto, preparation)),
                            }
                        }
                        preparing = still;
                        prop_assert!(turn < 1000, "nobody gets on");
                    }
                    drop(flush);
                    prop_assert_eq!(flushed(), written as usize);
                }
            }
        }
        let taken = slow.taken.lock().unwrap().clone();
        prop_assert!(taken.iter().copied().eq(0..u32::try_from(taken.len()).unwrap()), "{:?}", taken);
    }
}
