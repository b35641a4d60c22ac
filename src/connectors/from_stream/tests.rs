use super::*;
use crate::connectors::test_support::context;
use crate::types::CheckpointId;
use futures::FutureExt;
use proptest::prelude::*;
use std::sync::atomic::{AtomicBool, Ordering};

fn start(job: &str, restored: Option<u64>) -> StartContext {
    StartContext { job: job.into(), restored: restored.map(CheckpointId), checkpointing: true }
}

fn error(result: Result<impl Sized>) -> Error {
    let Err(cause) = result else { panic!("it worked") };
    Error::from_cause(ErrorKind::Failed, "boxed", cause)
}

async fn reader<T: Send + 'static>(
    source: &FromStream<T>,
    restored: Option<&[StreamPosition]>,
) -> StreamReader<T> {
    let splits = source.splits(restored.map(<[_]>::to_vec)).await.unwrap();
    source.reader(splits, &context(0)).unwrap()
}

/// Takes what is at hand.
fn take<T: Send + 'static>(reader: &mut StreamReader<T>) -> Vec<T> {
    std::iter::from_fn(|| reader.next().unwrap()).collect()
}

#[tokio::test]
async fn a_reader_that_is_dropped_gives_the_stream_back_and_everything_it_took_out() {
    let (sender, receiver) = mpsc::channel(10);
    let source = FromStream::receiver(receiver).accept_loss();
    let mut first = reader(&source, None).await;
    assert!(first.next().unwrap().is_none());
    assert!(first.ready().now_or_never().is_none(), "nothing is there");
    let mut waiting = Box::pin(async move { (first.ready().await.unwrap(), first) });
    assert!((&mut waiting).now_or_never().is_none());
    sender.try_send(1).unwrap();
    sender.try_send(2).unwrap();
    drop(waiting);

    let mut second = reader(&source, None).await;
    // Takes the record out of the channel, but does not give it.
    assert!(second.ready().await.unwrap());
    assert_eq!(second.splits()[0].given, 0);
    drop(second);

    let mut third = reader(&source, None).await;
    assert_eq!(take(&mut third), [1, 2]);
    assert_eq!(third.splits()[0].given, 2);
    drop(sender);
    assert!(!third.ready().await.unwrap());
}

#[tokio::test]
async fn without_copies_a_restart_goes_on_where_the_stream_is() {
    let source = FromStream::new(futures::stream::iter(0..6)).accept_loss();
    let _job = source.claim(&start("job", None)).unwrap();
    let mut first = reader(&source, None).await;
    assert_eq!((first.next().unwrap(), first.next().unwrap()), (Some(0), Some(1)));
    let checkpoint = first.splits();
    assert_eq!(first.next().unwrap(), Some(2));
    drop(first);
    let mut second = reader(&source, Some(&checkpoint)).await;
    assert_eq!(take(&mut second), [3, 4, 5]);
}

#[tokio::test]
async fn a_position_in_another_stream_says_nothing() {
    let other = reader(&FromStream::<u32>::new(futures::stream::pending()), None).await.splits();
    let foreign = StreamPosition { given: 2, ..other[0] };
    let source = FromStream::new(futures::stream::iter(0..3)).replay_in_process(10);
    let _job = source.claim(&start("job", Some(1))).unwrap();
    for _ in 0..3 {
        assert_eq!(take(&mut reader(&source, Some(&[foreign])).await), [0, 1, 2]);
        source.on_complete(&[foreign]).unwrap();
    }
    let error = error(source.splits(Some(vec![foreign; 2])).await);
    assert!(error.to_string().contains("one position"), "{error}");
}

#[tokio::test]
async fn at_the_limit_reading_waits_for_a_completed_checkpoint() {
    let source = FromStream::new(futures::stream::iter(0..4)).replay_in_process(2);
    let _job = source.claim(&start("job", None)).unwrap();
    let mut reader = reader(&source, None).await;
    assert_eq!(take(&mut reader), [0, 1]);
    let checkpoint = reader.splits();
    let mut ready = by_hand(reader.ready());
    assert!(ready.poll().is_none());
    source.on_complete(&checkpoint).unwrap();
    assert!(ready.is_woken(), "nobody would look again");
    assert!(ready.poll().unwrap().unwrap());
    drop(ready);
    assert_eq!(take(&mut reader), [2, 3]);
}

#[tokio::test]
async fn a_job_without_checkpoints_keeps_nothing() {
    let source = FromStream::new(futures::stream::iter(0..100)).replay_in_process(2);
    let _job = source.claim(&StartContext { checkpointing: false, ..start("job", None) }).unwrap();
    let mut reader = reader(&source, None).await;
    assert_eq!(take(&mut reader).len(), 100);
    assert!(!reader.ready().await.unwrap());
}

#[tokio::test]
async fn a_stream_serves_one_job_at_a_time_and_none_after_its_end() {
    let source = FromStream::new(futures::stream::iter(0..2)).accept_loss();
    let first = source.claim(&start("first", None)).unwrap();
    let busy = error(source.claim(&start("second", None)));
    assert!(busy.kind() == ErrorKind::Program && busy.to_string().contains("job `first` reads"), "{busy}");
    let held = reader(&source, None).await;
    drop(first);
    let stuck = error(source.claim(&start("second", None)));
    assert!(stuck.to_string().contains("did not stop"), "{stuck}");
    drop(held);

    let second = source.claim(&start("second", None)).unwrap();
    let mut reading = reader(&source, None).await;
    assert_eq!(take(&mut reading), [0, 1]);
    assert!(!reading.ready().await.unwrap());
    drop((reading, second));
    let used_up = error(source.claim(&start("second", None)));
    assert!(used_up.to_string().contains("job `second` has read this stream to its end"), "{used_up}");
    // It may have been cancelled before its last checkpoint.
    source.claim(&start("second", Some(3))).unwrap();
}

#[tokio::test]
async fn what_no_checkpoint_covers_is_read_again_by_the_same_job_only() {
    for (next, expected) in [("job", vec![0, 1, 2]), ("other", vec![])] {
        let source = FromStream::new(futures::stream::iter(0..3)).replay_in_process(10);
        let job = source.claim(&start("job", None)).unwrap();
        assert_eq!(take(&mut reader(&source, None).await), [0, 1, 2]);
        drop(job);
        let _job = source.claim(&start(next, Some(1))).unwrap();
        assert_eq!(take(&mut reader(&source, None).await), expected);
    }
}

#[tokio::test]
async fn a_limit_of_zero_is_refused() {
    let source = FromStream::new(futures::stream::iter(0..3)).replay_in_process(0);
    assert_eq!(error(source.claim(&start("job", None))).kind(), ErrorKind::Configuration);
}

#[tokio::test]
async fn a_stream_that_panicked_is_not_read_on() {
    for in_ready in [false, true] {
        let stream = futures::stream::poll_fn(|_| -> std::task::Poll<Option<u32>> { panic!("injected") });
        let source = FromStream::new(stream).accept_loss();
        let mut first = reader(&source, None).await;
        let panicked = std::panic::AssertUnwindSafe(async move {
            if in_ready { first.ready().await.is_ok() } else { first.next().is_ok() }
        });
        assert!(panicked.catch_unwind().await.is_err());
        let error = error(source.reader(vec![], &context(0)));
        assert!(error.kind() == ErrorKind::Program && error.to_string().contains("panicked"), "{error}");
        assert!(source.claim(&start("job", None)).is_err());
    }
}

static PANICS: AtomicBool = AtomicBool::new(false);

struct Fragile(u32);

impl Clone for Fragile {
    fn clone(&self) -> Self {
        assert!(!PANICS.swap(false, Ordering::Relaxed), "injected");
        Self(self.0)
    }
}

#[tokio::test]
async fn a_record_that_panics_while_it_is_copied_is_not_lost() {
    let source = FromStream::new(futures::stream::iter([Fragile(1), Fragile(2)])).replay_in_process(10);
    let _job = source.claim(&start("job", None)).unwrap();
    let mut first = reader(&source, None).await;
    PANICS.store(true, Ordering::Relaxed);
    let next = std::panic::AssertUnwindSafe(|| first.next().is_ok());
    assert!(std::panic::catch_unwind(next).is_err());
    drop(first);
    let mut second = reader(&source, None).await;
    assert_eq!(take(&mut second).iter().map(|record| record.0).collect::<Vec<_>>(), [1, 2]);
}

#[derive(Debug, Clone)]
enum Step {
    /// Gives up to so many records.
    Next(usize),
    /// Looks for one, without giving it.
    Ready,
    Snapshot,
    /// The oldest snapshot becomes a completed checkpoint; whether the source hears of it or not.
    Complete {
        told: bool,
    },
    /// From the last completed checkpoint.
    Restart,
    /// The same, by a second start of the job.
    Start,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (1..5_usize).prop_map(Step::Next),
        1 => Just(Step::Ready),
        2 => Just(Step::Snapshot),
        2 => any::<bool>().prop_map(|told| Step::Complete { told }),
        1 => Just(Step::Restart),
        1 => Just(Step::Start),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    /// With copies: whatever happens inside the process, each run continues exactly the checkpoint that it begins from.
    #[test]
    fn every_run_goes_on_from_its_checkpoint(steps in steps(), limit in 1..20_usize) {
        let source = FromStream::new(futures::stream::iter(0_u64..)).replay_in_process(limit);
        let claim = |completed: Option<u64>| source.claim(&start("job", completed)).unwrap();
        let open = |completed: Option<&[StreamPosition]>| reader(&source, completed).now_or_never().unwrap();
        let mut job = Some(claim(None));
        let mut reading = Some(open(None));
        let (mut position, mut snapshots, mut completed) = (0, Vec::new(), None::<(u64, Vec<StreamPosition>)>);
        let mut heard_of = 0;
        for step in steps {
            let current = reading.as_mut().unwrap();
            match step {
                Step::Next(count) => {
                    for _ in 0..count {
                        let Some(record) = current.next().unwrap() else {
                            prop_assert_eq!(position - heard_of, limit as u64, "held up below the limit");
                            break;
                        };
                        prop_assert_eq!(record, position);
                        position += 1;
                    }
                    prop_assert!(position - heard_of <= limit as u64);
                }
                Step::Ready => drop(current.ready().now_or_never()),
                Step::Snapshot => snapshots.push((position, current.splits())),
                Step::Complete { told } => {
                    if !snapshots.is_empty() {
                        let snapshot = snapshots.remove(0);
                        if told {
                            source.on_complete(&snapshot.1).unwrap();
                            heard_of = snapshot.0;
                        }
                        completed = Some(snapshot);
                    }
                }
                Step::Restart | Step::Start => {
                    drop(reading.take());
                    if matches!(step, Step::Start) {
                        drop(job.take());
                        job = Some(claim(completed.as_ref().map(|_| 1)));
                    }
                    snapshots.clear();
                    position = completed.as_ref().map_or(0, |(position, _)| *position);
                    reading = Some(open(completed.as_ref().map(|(_, splits)| splits.as_slice())));
                }
            }
        }
    }
}

/// A future that is polled by hand and knows whether it was woken.
struct Handled<F> {
    future: std::pin::Pin<Box<F>>,
    woken: Arc<Woken>,
}

#[derive(Default)]
struct Woken(AtomicBool);

impl futures::task::ArcWake for Woken {
    fn wake_by_ref(woken: &Arc<Self>) {
        woken.0.store(true, Ordering::SeqCst);
    }
}

fn by_hand<F: Future>(future: F) -> Handled<F> {
    Handled { future: Box::pin(future), woken: Arc::default() }
}

impl<F: Future> Handled<F> {
    fn poll(&mut self) -> Option<F::Output> {
        let waker = futures::task::waker(Arc::clone(&self.woken));
        match self.future.as_mut().poll(&mut std::task::Context::from_waker(&waker)) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        }
    }

    fn is_woken(&self) -> bool {
        self.woken.0.load(Ordering::SeqCst)
    }
}
