//! Records from the service into a job, and results back: what arrives, what waits, what is lost and what is not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use common::{Fuse, in_time, quiet_panics, running, sorted, virtual_process};
use std::time::Duration;
use strandline::prelude::*;
use strandline::{EnvironmentBuilder, JobHandle};

/// Checkpoints only when asked for.
fn checkpointed() -> EnvironmentBuilder {
    Environment::builder().checkpointing(Checkpointing::every(Duration::from_secs(100_000_000)))
}

fn restarted() -> EnvironmentBuilder {
    checkpointed().restart(RestartStrategy::fixed_delay(3, Duration::from_secs(1)))
}

/// Waits until nothing of a job on virtual time has anything to do.
async fn at_rest() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// Waits for the n-th attempt, counted from 0.
async fn attempt(events: &mut tokio::sync::broadcast::Receiver<JobEvent>, n: u32) {
    loop {
        if let JobEvent::Running { attempt, .. } = in_time("a restart", events.recv()).await.unwrap()
            && attempt.0 == n
        {
            return;
        }
    }
}

async fn send_all(ingest: &Ingest<u64>, records: std::ops::Range<u64>) {
    for record in records {
        in_time("sending", ingest.send(record)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_record_goes_in_and_comes_out() {
    const EACH: u64 = 3000;
    let env = checkpointed().parallelism(2).build().unwrap();
    let (ingest, source) = Ingest::bounded(16);
    let mut results = env
        .source("numbers", source.replay_in_process(1_000_000))
        .key_by(|n| n % 7)
        .process("same", |_| Ok(Same))
        .into_stream("results", 16);
    let job = env.start("in-and-out").await.unwrap();
    let senders: Vec<_> = (0..4)
        .map(|sender| {
            let ingest = ingest.clone();
            tokio::spawn(async move { send_all(&ingest, sender * EACH..(sender + 1) * EACH).await })
        })
        .collect();
    drop(ingest);
    let mut seen = Vec::new();
    while let Some(record) = in_time("results", results.next()).await {
        seen.push(record);
    }
    for sender in senders {
        sender.await.unwrap();
    }
    assert_eq!(sorted(seen), (0..4 * EACH).collect::<Vec<_>>());
    assert_eq!(in_time("the job", job.into_future()).await.unwrap(), JobStatus::Finished);
}

struct Same;

impl Operator for Same {
    type Key = u64;
    type Out = u64;
}

impl Handler<u64> for Same {
    fn handle(&mut self, record: u64, ctx: &mut Context<'_, Self>) -> Result {
        ctx.emit(record);
        Ok(())
    }
}

#[test]
fn while_nobody_reads_the_results_senders_wait() {
    virtual_process(in_time("back-pressure", async {
        let env = Environment::builder().parallelism(1).build().unwrap();
        let (ingest, source) = Ingest::bounded(4);
        let mut results = env.source("numbers", source).into_stream("results", 4);
        let job = env.start_local("back-pressure").await.unwrap();
        let mut accepted = 0;
        while ingest.try_send(accepted).is_ok() || {
            at_rest().await;
            ingest.try_send(accepted).is_ok()
        } {
            accepted += 1;
            assert!(accepted < 1000, "nothing holds the senders up");
        }
        let waiting = tokio::task::spawn_local(async move { ingest.send(accepted).await });
        at_rest().await;
        assert!(!waiting.is_finished());
        // Nothing of what was accepted is lost, and room makes a waiting sender go on.
        for expected in 0..=accepted {
            assert_eq!(results.next().await, Some(expected));
        }
        waiting.await.unwrap().unwrap();
        assert_eq!(results.next().await, None);
        assert_eq!(job.await.unwrap(), JobStatus::Finished);
    }));
}

#[tokio::test]
async fn a_source_that_cannot_replay_is_a_fault_until_the_loss_is_accepted() {
    fn describe(builder: EnvironmentBuilder, accept: bool) -> Environment {
        let env = builder.parallelism(1).build().unwrap();
        let (_, mut source) = Ingest::<u64>::bounded(1);
        let (_, receiver) = tokio::sync::mpsc::channel::<u64>(1);
        let mut words = FromStream::new(futures::stream::empty::<u64>());
        if accept {
            source = source.accept_loss();
            words = words.replay_in_process(5);
            env.source("channel", FromStream::receiver(receiver).accept_loss()).sink("c", Collect::new());
        } else {
            env.source("channel", FromStream::receiver(receiver).throttled(5)).sink("c", Collect::new());
        }
        env.source("ingest", source).sink("a", Collect::new());
        env.source("stream", words).sink("b", Collect::new());
        env
    }
    for (name, builder) in
        [("periodic", checkpointed()), ("on request", Environment::builder().storage(Memory::new()))]
    {
        let error = describe(builder.clone(), false).start("lossy").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Program, "{name}");
        let text = error.to_string();
        for uid in ["(1) source `channel`", "(2) source `ingest`", "(3) source `stream`", "`.accept_loss()`"]
        {
            assert!(text.contains(uid), "{name}: {uid}: {text}");
        }
        let end =
            in_time("an accepted loss", describe(builder, true).start("lossy").await.unwrap().into_future());
        assert_eq!(end.await.unwrap(), JobStatus::Finished, "{name}");
    }
    let without = describe(Environment::builder(), false).start("lossy").await.unwrap();
    assert_eq!(in_time("no checkpoints", without.into_future()).await.unwrap(), JobStatus::Finished);
}

/// Records 0..10, a checkpoint, 10..15, a record at which the job fails once, and after the restart 16..20.
async fn fail_once(replays: bool) -> (Vec<u64>, Vec<u64>) {
    let env = restarted().parallelism(1).build().unwrap();
    let (ingest, source) = Ingest::bounded(100);
    let source = if replays { source.replay_in_process(100) } else { source.accept_loss() };
    let (fuse, exact) = (Fuse::after(15), Collect::new());
    let broken = move |n: u64| {
        assert!(!fuse.goes_off(), "injected");
        n
    };
    // Both sinks see the same records.
    let (sender, mut receiver) = tokio::sync::mpsc::channel(100);
    env.source("numbers", source)
        .map(broken)
        .inspect(move |n| sender.try_send(*n).unwrap())
        .sink("exact", exact.clone());
    let job = env.start_local("fail-once").await.unwrap();
    let mut events = job.events();
    attempt(&mut events, 0).await;
    send_all(&ingest, 0..10).await;
    at_rest().await;
    job.checkpoint().await.unwrap();
    send_all(&ingest, 10..16).await;
    attempt(&mut events, 1).await;
    send_all(&ingest, 16..20).await;
    ingest.close();
    assert_eq!(in_time("the job", (&job).into_future()).await.unwrap(), JobStatus::Finished);
    let mut seen = Vec::new();
    while let Ok(n) = receiver.try_recv() {
        seen.push(n);
    }
    (exact.records(), seen)
}

#[test]
fn after_a_restart_the_records_since_the_checkpoint_are_lost_where_that_was_accepted() {
    quiet_panics();
    let (exact, seen) = virtual_process(fail_once(false));
    assert_eq!(exact, (0..10).chain(16..20).collect::<Vec<_>>());
    assert_eq!(seen, (0..15).chain(16..20).collect::<Vec<_>>());
}

#[test]
fn after_a_restart_the_records_since_the_checkpoint_are_replayed_where_they_are_kept() {
    quiet_panics();
    let (exact, seen) = virtual_process(fail_once(true));
    assert_eq!(exact, (0..20).collect::<Vec<_>>());
    assert_eq!(seen, (0..15).chain(10..20).collect::<Vec<_>>());
}

/// Failures and cancels at every record, with checkpoints on the way: the state and the output are those of a run without any.
#[test]
fn with_kept_records_state_is_exactly_once_while_the_process_lives() {
    quiet_panics();
    const RECORDS: u64 = 45;
    for fails_at in 1..=RECORDS + 20 {
        let cancels_at = (fails_at * 13) % (RECORDS + 5);
        virtual_process(in_time("exactly once", async {
            // One for all starts, as a disk would be.
            let env = restarted().parallelism(2).storage(Memory::new()).build().unwrap();
            let (ingest, source) = Ingest::bounded(100);
            let (fuse, counts) = (Fuse::after(fails_at), Collect::new());
            env.source("numbers", source.replay_in_process(30))
                .key_by(|n| n % 3)
                .map_with_state("count", |n, count: Option<u64>| {
                    let count = count.unwrap_or(0) + 1;
                    ((n % 3, count), Some(count))
                })
                .inspect(move |_| assert!(!fuse.goes_off(), "injected"))
                .sink("counts", counts.clone());
            let mut job = env.start_local("exactly-once").await.unwrap();
            for record in 0..RECORDS {
                if record == cancels_at {
                    assert_eq!(job.cancel().await.unwrap(), JobStatus::Cancelled);
                    assert_eq!(ingest.try_send(record), Err(IngestError::Ended(record)));
                    job = env.start_local("exactly-once").await.unwrap();
                }
                ingest.send(record).await.unwrap();
                if record % 10 == 9 {
                    at_rest().await;
                    // Fails if the job does, just now.
                    let _ = job.checkpoint().await;
                }
            }
            ingest.close();
            assert_eq!(job.await.unwrap(), JobStatus::Finished);
            let expected = (0..3).flat_map(|key| (1..=RECORDS / 3).map(move |n| (key, n)));
            assert_eq!(
                sorted(counts.records()),
                expected.collect::<Vec<_>>(),
                "fails at {fails_at}, {cancels_at}"
            );
        }));
    }
}

#[test]
fn results_since_the_checkpoint_come_again_after_a_restart() {
    quiet_panics();
    virtual_process(in_time("results", async {
        let env = restarted().parallelism(1).build().unwrap();
        let (ingest, source) = Ingest::bounded(100);
        let fuse = Fuse::after(15);
        let mut results = env
            .source("numbers", source.replay_in_process(100))
            .inspect(move |_| assert!(!fuse.goes_off(), "injected"))
            .into_stream("results", 100);
        let job = env.start_local("results").await.unwrap();
        running(&job).await;
        send_all(&ingest, 0..10).await;
        at_rest().await;
        job.checkpoint().await.unwrap();
        send_all(&ingest, 10..15).await;
        at_rest().await;
        send_all(&ingest, 15..18).await;
        drop(ingest);
        let mut seen = Vec::new();
        while let Some(n) = results.next().await {
            seen.push(n);
        }
        assert_eq!(seen, (0..15).chain(10..18).collect::<Vec<_>>());
        assert_eq!(job.await.unwrap(), JobStatus::Finished);
    }));
}

#[tokio::test]
async fn results_that_nobody_will_read_fail_the_job_and_name_the_sink() {
    let env = restarted().parallelism(1).build().unwrap();
    let (ingest, source) = Ingest::bounded(1);
    let results = env.source("numbers", source.accept_loss()).into_stream("dropped", 4);
    let job = env.start("dropped-results").await.unwrap();
    let mut events = job.events();
    drop(results);
    in_time("sending", ingest.send(1)).await.unwrap();
    let error = in_time("the failure", (&job).into_future()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
    assert!(error.to_string().contains("operator `dropped`"), "{error}");
    assert!(error.to_string().contains("keep the receiver"), "{error}");
    while let Ok(event) = events.recv().await {
        assert!(!matches!(event, JobEvent::Restarting { .. }), "retried: {event:?}");
    }
    assert_eq!(in_time("sending", ingest.send(2)).await, Err(IngestError::Ended(2)));
}

/// Nothing that waits for a reader – a flush, a barrier, a checkpoint – keeps a job from being cancelled.
#[tokio::test]
async fn a_job_whose_results_are_not_read_can_be_cancelled() {
    for with_checkpoint in [false, true] {
        let env = checkpointed().parallelism(1).build().unwrap();
        let (ingest, source) = Ingest::bounded(1);
        let mut results = env.source("numbers", source.accept_loss()).into_stream("results", 1);
        let job = env.start("unread").await.unwrap();
        in_time("a start", running(&job)).await;
        let (sent, mut count) = tokio::sync::watch::channel(0);
        let waiting = tokio::spawn(async move {
            loop {
                let n = *sent.borrow();
                if let Err(error) = ingest.send(n).await {
                    return (n, error);
                }
                sent.send_replace(n + 1);
            }
        });
        // One is in the channel of the results, one on its way there.
        in_time("sending", count.wait_for(|count| *count >= 2)).await.unwrap();
        let checkpoint = with_checkpoint.then(|| {
            let job = job.clone();
            tokio::spawn(async move { job.checkpoint().await })
        });
        let end = tokio::time::timeout(Duration::from_secs(50), job.cancel()).await;
        assert_eq!(end.expect("less than the time after which it is stuck").unwrap(), JobStatus::Cancelled);
        let (n, error) = in_time("a sender", waiting).await.unwrap();
        assert_eq!(error, IngestError::Ended(n));
        if let Some(checkpoint) = checkpoint {
            assert_eq!(checkpoint.await.unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
        }
        let mut next = 0;
        while let Some(n) = in_time("results", results.next()).await {
            assert_eq!(n, next);
            next += 1;
        }
    }
}

/// The barrier has reached the sink behind records that nobody reads.
#[test]
fn a_checkpoint_that_waits_for_a_reader_does_not_keep_a_job_from_being_cancelled() {
    virtual_process(in_time("a cancel", async {
        let env = checkpointed().parallelism(1).build().unwrap();
        let (ingest, source) = Ingest::bounded(8);
        let mut results = env.source("numbers", source.accept_loss()).rebalance().into_stream("results", 1);
        let job = env.start_local("waiting-checkpoint").await.unwrap();
        running(&job).await;
        // The first fills the channel of the results, and the sink waits with the second.
        for n in 0..2 {
            ingest.send(n).await.unwrap();
            at_rest().await;
        }
        send_all(&ingest, 2..4).await;
        at_rest().await;
        let asking = job.clone();
        let checkpoint = tokio::task::spawn_local(async move { asking.checkpoint().await });
        at_rest().await;
        // The second has its place now: the sink takes the other two, and the barrier behind them.
        assert_eq!(results.next().await, Some(0));
        at_rest().await;
        assert_eq!(job.cancel().await.unwrap(), JobStatus::Cancelled);
        assert_eq!(checkpoint.await.unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
        assert_eq!((results.next().await, results.next().await), (Some(1), None));
    }));
}

#[tokio::test]
async fn an_environment_of_streams_is_started_again_only_where_that_makes_sense() {
    let env = Environment::builder().parallelism(1).build().unwrap();
    let (ingest, source) = Ingest::bounded(10);
    let out = Collect::new();
    env.source("numbers", source).sink("out", out.clone());
    let first = env.start("streams-1").await.unwrap();
    let error = env.start("streams-2").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Program);
    for part in ["job `streams-1` reads", "operator `numbers`", "job `streams-2`"] {
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
    assert_eq!(env.start("streams-1").await.unwrap_err().kind(), ErrorKind::Busy);
    // The refused starts have not taken anything from the one that runs.
    send_all(&ingest, 0..3).await;
    assert_eq!(in_time("a cancel", first.cancel()).await.unwrap(), JobStatus::Cancelled);

    // Under any name: it goes on where the channel is.
    let second = env.start("streams-2").await.unwrap();
    send_all(&ingest, 10..13).await;
    ingest.close();
    assert_eq!(in_time("the end", second.into_future()).await.unwrap(), JobStatus::Finished);
    let records = out.records();
    assert!(records.ends_with(&[10, 11, 12]), "{records:?}");
    let error = env.start("streams-3").await.unwrap_err();
    assert!(error.to_string().contains("`streams-2` has read this stream to its end"), "{error}");

    let env = Environment::builder().parallelism(1).build().unwrap();
    let results = env.source("few", Iter::new(0..3)).into_stream("results", 10);
    let job = env.start("results-1").await.unwrap();
    in_time("the end", job.into_future()).await.unwrap();
    let error = env.start("results-1").await.unwrap_err();
    assert!(
        error.to_string().contains("of one start only") && error.to_string().contains("`results`"),
        "{error}"
    );
    drop(results);
}

#[tokio::test]
async fn a_job_that_fails_for_good_hands_records_back_to_those_who_wait() {
    let env = Environment::builder().parallelism(1).build().unwrap();
    let (ingest, source) = Ingest::bounded(1);
    let fails = |n: u64| -> Result<u64> { Err(format!("no {n}"))? };
    let mut results = env.source("numbers", source).try_map(fails).into_stream("results", 4);
    let job: JobHandle = env.start("fails-for-good").await.unwrap();
    let mut sent = 0;
    let error = loop {
        match in_time("sending", ingest.send(sent)).await {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error, IngestError::Ended(sent));
    assert_eq!(in_time("results", results.next()).await, None);
    assert_eq!(in_time("the job", job.into_future()).await.unwrap_err().kind(), ErrorKind::Failed);
}

#[tokio::test]
async fn any_futures_sink_takes_the_records_of_every_subtask() {
    let env = checkpointed().parallelism(3).build().unwrap();
    let (sender, receiver) = futures::channel::mpsc::channel::<u64>(1);
    env.source("numbers", Iter::new(0..1000_u64)).rebalance().sink("out", ToSink::new(sender));
    let job = env.start("futures-sink").await.unwrap();
    let received = tokio::spawn(futures::StreamExt::collect::<Vec<u64>>(receiver));
    assert_eq!(in_time("the job", job.into_future()).await.unwrap(), JobStatus::Finished);
    // The last sender is the environment's.
    drop(env);
    assert_eq!(sorted(in_time("records", received).await.unwrap()), (0..1000).collect::<Vec<_>>());
}
