//! What a job tells of its checkpoints: counts, how long each subtask took, what was completed and is kept.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use common::slow::Slow as EachTakes;
use common::{Count, Gate, Numbers, in_time, running, tree, virtual_process};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use strandline::checkpoint::metadata::Manifest;
use strandline::checkpoint::{CheckpointOutcome, CheckpointRecord, SubtaskRecord};
use strandline::prelude::*;
use strandline::storage::{Fault, FaultyDisk, Injection, MemoryDisk, OnDisk, Operation, SharedDisk};
use strandline::types::CheckpointId;

const FLUSH: Duration = Duration::from_secs(10);
const WRITE: Duration = Duration::from_secs(3);

/// Takes a while to flush.
#[derive(Clone)]
struct Slow;

impl Sink<(u32, u64)> for Slow {
    type Commit = ();
    type Writer = Slow;

    fn writer(&self, _: &SubtaskContext) -> Result<Slow> {
        Ok(Slow)
    }
}

impl SinkWriter<(u32, u64)> for Slow {
    type Commit = ();

    fn write(&mut self, _: (u32, u64)) -> Result {
        Ok(())
    }

    async fn flush(&mut self) -> Result {
        tokio::time::sleep(FLUSH).await;
        Ok(())
    }

    fn prepare(&mut self) -> Result<BoxFuture<Result<Vec<()>>>> {
        Ok(Box::pin(async { Ok(Vec::new()) }))
    }
}

/// Two sources into one operator; the chain of the second ends in a slow sink, which holds its barriers back.
fn describe(disk: SharedDisk, checkpointing: Checkpointing) -> (Environment, [Gate; 2]) {
    let env = Environment::builder()
        .parallelism(1)
        .seed(1)
        .checkpointing(checkpointing)
        .storage(OnDisk::new(disk, "checkpoints"))
        .build()
        .unwrap();
    let ((one, first), (two, second)) = (Numbers::gated(1, 1_000), Numbers::gated(1, 1_000));
    let (on, aside) = env.source("held-back", two).tee();
    on.sink("slow", Slow);
    env.source("free", one)
        .union(aside)
        .key_by(|(_, number)| *number)
        .process("count", |setup| Ok(Count { seen: setup.value_state("seen")? }))
        .sink("out", Collect::new());
    (env, [first, second])
}

fn hourly() -> Checkpointing {
    Checkpointing::every(Duration::from_secs(3600)).tolerable_failures(u32::MAX)
}

fn of<'r>(record: &'r CheckpointRecord, uid: &str) -> &'r SubtaskRecord {
    record.acknowledged.iter().find(|subtask| subtask.chain.starts_with(uid)).unwrap()
}

#[test]
fn each_subtask_says_how_long_it_waited_and_wrote_and_how_much() {
    virtual_process(in_time("a checkpoint that aligns for 10 s", async {
        let slow = Injection::of(Fault::Slow(WRITE)).on([Operation::Create]).at_path("/state-");
        let disk = FaultyDisk::new(Arc::new(MemoryDisk::new())).failing(slow);
        let (env, gates) = describe(Arc::new(disk), hourly());
        let job = env.start_local("stats").await.unwrap();
        running(&job).await;
        gates[0].open_to(7);
        gates[0].reached(1, 7).await;
        gates[1].open_to(5);
        gates[1].reached(1, 5).await;
        // The sink flushes now; the trigger comes amid that.
        let asked = tokio::task::spawn_local({
            let job = job.clone();
            async move { job.checkpoint().await }
        });
        tokio::time::sleep(WRITE + Duration::from_secs(1)).await;
        let pending = job.pending();
        assert_eq!(pending.len(), 1);
        assert_eq!(
            (pending[0].checkpoint, &pending[0].outcome),
            (CheckpointId(1), &CheckpointOutcome::InProgress)
        );
        assert_eq!(
            (pending[0].subtasks, pending[0].acknowledged.len()),
            (4, 1),
            "the free source's: {pending:?}"
        );
        assert_eq!(asked.await.unwrap().unwrap(), CheckpointId(1));

        let stats = job.checkpoint_stats();
        assert_eq!((stats.counts.triggered, stats.counts.completed, stats.counts.failed), (1, 1, 0));
        let record = &stats.history[0];
        let (free, held_back, count) = (of(record, "free"), of(record, "held-back"), of(record, "count"));
        let about = |time: Duration, expected: Duration| {
            assert!(
                time >= expected && time < expected + Duration::from_millis(500),
                "{time:?}, {expected:?}: {record:#?}"
            );
        };
        about(free.report.start_delay, Duration::ZERO);
        about(free.report.alignment, Duration::ZERO);
        about(held_back.report.start_delay, FLUSH);
        about(held_back.report.alignment, Duration::ZERO);
        // Where the two meet.
        let union = of(record, "chain");
        about(union.report.start_delay, Duration::ZERO);
        about(union.report.alignment, FLUSH);
        about(count.report.start_delay, FLUSH);
        about(count.report.alignment, Duration::ZERO);
        for subtask in [free, held_back, count] {
            about(subtask.report.async_duration, WRITE);
            assert!(subtask.report.bytes > 0 && subtask.report.in_flight_bytes == 0);
        }
        about(count.acknowledged_after, FLUSH + WRITE);
        about(record.duration, FLUSH + WRITE);
        assert_eq!(record.bytes, record.acknowledged.iter().map(|subtask| subtask.report.bytes).sum::<u64>());
        let summary = stats.summary;
        assert!((summary.alignment_seconds.p99 - 10.0).abs() < 0.5, "{summary:?}");
        assert!((summary.duration_seconds.max - 13.0).abs() < 0.5, "{summary:?}");
        assert_eq!(job.pending(), []);
        job.cancel().await.unwrap();
    }));
}

/// An unaligned checkpoint is told to all subtasks at once: one that is held up keeps nobody else from its snapshot.
#[test]
fn who_comes_after_a_subtask_that_is_held_up_snapshots_at_once_where_barriers_overtake() {
    virtual_process(in_time("an unaligned checkpoint with a subtask that is held up", async {
        let env = Environment::builder()
            .parallelism(1)
            .seed(1)
            .checkpointing(hourly().unaligned())
            .storage(Memory::new())
            .build()
            .unwrap();
        let (numbers, gate) = Numbers::gated(1, 1_000);
        let (on, aside) = env.source("held-back", numbers).tee();
        on.sink("slow", Slow);
        aside
            .key_by(|(_, number)| *number)
            .process("count", |setup| Ok(Count { seen: setup.value_state("seen")? }))
            .sink("out", Collect::new());
        let job = env.start_local("stats-unaligned").await.unwrap();
        running(&job).await;
        gate.open_to(5);
        gate.reached(1, 5).await;
        job.checkpoint().await.unwrap();
        let record = job.checkpoint_stats().latest_completed.unwrap();
        let delay = |uid| of(&record, uid).report.start_delay;
        let at_once = Duration::from_millis(500);
        assert!(delay("held-back") + at_once > FLUSH && delay("count") < at_once, "{record:#?}");
        job.cancel().await.unwrap();
    }));
}

#[test]
fn records_in_flight_are_told_of_the_subtask_they_were_on_their_way_to() {
    virtual_process(in_time("a checkpoint that overtakes", async {
        let disk: SharedDisk = Arc::new(MemoryDisk::new());
        let env = Environment::builder()
            .parallelism(1)
            .seed(1)
            .checkpointing(hourly().unaligned())
            .storage(OnDisk::new(Arc::clone(&disk), "checkpoints"))
            .build()
            .unwrap();
        let (numbers, gate) = Numbers::gated(1, 1_000);
        env.source("numbers", numbers)
            .map(|(_, number)| number)
            .rebalance()
            .sink("out", EachTakes { sink: Collect::new(), each: Duration::from_secs(1) });
        let job = env.start_local("stats-in-flight").await.unwrap();
        running(&job).await;
        gate.open_to(500);
        gate.reached(1, 500).await;
        job.checkpoint().await.unwrap();
        let files = tree(&*disk, Path::new("checkpoints")).await;
        let (_, manifest) = files.iter().find(|(path, _)| path.ends_with("manifest")).unwrap();
        let manifest = Manifest::decode(manifest.as_ref().unwrap()).unwrap();
        let channels = manifest.in_flight.iter().flat_map(|edge| &edge.channels);
        let stored: u64 = channels.map(|channel| channel.at.len).sum();
        assert!(stored > 400, "nearly all of them wait for the sink: {stored}");
        let stats = job.checkpoint_stats();
        let record = stats.latest_completed.unwrap();
        let (numbers, out) = (of(&record, "numbers"), of(&record, "out"));
        assert_eq!((numbers.report.in_flight_bytes, out.report.in_flight_bytes), (0, stored), "{record:#?}");
        assert!(out.report.bytes >= stored);
        assert_eq!((record.in_flight_bytes, stats.summary.in_flight_bytes.count), (stored, 1));
        #[allow(clippy::cast_precision_loss)]
        let expected = stored as f64;
        assert!((stats.summary.in_flight_bytes.max - expected).abs() < 0.5, "{:?}", stats.summary);
        job.cancel().await.unwrap();
    }));
}

#[test]
fn what_failed_is_remembered_with_its_reason_and_what_had_been_written() {
    virtual_process(in_time("a checkpoint that fails", async {
        let fails = Injection::of(Fault::NoEffect).on([Operation::Create]).at_path("chk-1-g1/state-").at(2);
        let disk = FaultyDisk::new(Arc::new(MemoryDisk::new())).failing(fails);
        let (env, _gates) = describe(Arc::new(disk), hourly().history(2));
        let job = env.start_local("stats-failed").await.unwrap();
        running(&job).await;
        job.checkpoint().await.unwrap_err();
        for id in 2..=4 {
            assert_eq!(job.checkpoint().await.unwrap(), CheckpointId(id));
        }
        let stats = job.checkpoint_stats();
        let ids: Vec<u64> = stats.history.iter().map(|record| record.checkpoint.0).collect();
        assert_eq!(ids, [4, 3], "as many as were asked for");
        let failed = stats.latest_failed.unwrap();
        assert_eq!((failed.checkpoint, failed.path), (CheckpointId(1), None));
        assert!((1..4).contains(&failed.acknowledged.len()), "{:?}", failed.acknowledged);
        let CheckpointOutcome::Failed(reason) = failed.outcome else { panic!("{:?}", failed.outcome) };
        assert!(reason.contains("snapshot could not be written"), "{reason}");
        assert_eq!((stats.counts.triggered, stats.counts.completed, stats.counts.failed), (4, 3, 1));
        job.cancel().await.unwrap();
        let after = job.checkpoint_stats();
        assert_eq!(after.counts, stats.counts, "it can be asked when the job has ended");
    }));
}

#[test]
fn what_is_retained_is_described_by_its_manifest_also_after_a_restart() {
    let inner: SharedDisk = Arc::new(MemoryDisk::new());
    for life in 0..2 {
        virtual_process(in_time("two lives", async {
            let (env, gates) = describe(Arc::clone(&inner), hourly().retain(2));
            let job = env.start_local("stats-retained").await.unwrap();
            running(&job).await;
            let before = job.retained().await.unwrap();
            assert_eq!(before.len(), life * 2);
            assert!(before.iter().all(|completed| completed.duration.is_none()), "{before:?}");
            let restored = job.checkpoint_stats();
            assert_eq!(restored.counts.restored, life as u64);
            let from = restored.latest_restored.map(|restored| restored.checkpoint);
            assert_eq!(from, (life == 1).then_some(CheckpointId(2)));
            gates[0].open_to(8);
            gates[0].reached(1, 8).await;
            let mut events = job.events();
            let told = async {
                loop {
                    if let JobEvent::CheckpointCompleted(completed) = events.recv().await.unwrap() {
                        return completed;
                    }
                }
            };
            let (asked, told) = futures::join!(job.checkpoint(), told);
            let now = asked.unwrap();
            let retained = job.retained().await.unwrap();
            let newest = retained.last().unwrap();
            assert_eq!(newest, &told, "the event says the same");
            assert_eq!((newest.checkpoint, newest.duration.is_some()), (now, true));
            assert_eq!(
                inner.list(&newest.path).await.unwrap().len(),
                1 + 3,
                "manifest and state files: {newest:?}"
            );
            assert!(newest.path.starts_with(Path::new("checkpoints")));
            let count =
                newest.operators.iter().find(|operator| operator.operator.as_str() == "count").unwrap();
            let [seen] = &count.states[..] else { panic!("{count:?}") };
            assert_eq!((seen.name.as_str(), seen.kind.as_str(), seen.entries), ("seen", "value", 8));
            assert!(seen.bytes > 0 && newest.bytes > count.bytes && count.subtasks == 1);
            job.checkpoint().await.unwrap();
            assert_eq!(job.retained().await.unwrap().len(), 2);
            job.cancel().await.unwrap();
            assert_eq!(job.retained().await.unwrap_err().kind(), ErrorKind::Cancelled);
        }));
    }
}
