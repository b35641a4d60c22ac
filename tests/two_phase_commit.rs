//! A sink with transactions of another system, under every failure: what that system shows is exact, and nothing stays open there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use common::oracle::{Job, Oracle};
use common::{Fuse, Gate, Numbers, in_time, lead, quiet_panics, running, sorted, virtual_process};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use strandline::prelude::*;
use strandline::storage::{Fault, FaultyDisk, Injection, MemoryDisk, OnDisk, Operation, SharedDisk};
use strandline::types::CheckpointId;
use strandline::{CommitRetries, OpenTransaction, TransactionContext, TwoPhase, TwoPhaseCommit};

/// The other system. It outlives the processes of the job.
#[derive(Debug, Default)]
struct Broker {
    open: BTreeMap<String, Vec<u64>>,
    prepared: BTreeMap<String, Vec<u64>>,
    committed: Vec<u64>,
    names: BTreeSet<String>,
    aborted: BTreeSet<String>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum How {
    Error,
    Panic,
}

/// Writes to the broker. Goes wrong at one place, once.
#[derive(Debug, Clone, Default)]
struct ToBroker {
    broker: Arc<Mutex<Broker>>,
    trouble: Option<(&'static str, How, Fuse)>,
    /// Whether what earlier runs left is looked for.
    sweeps: bool,
    /// So many more commits are refused.
    refuses: Arc<AtomicU64>,
    /// When each commit came.
    came: Arc<Mutex<Vec<tokio::time::Instant>>>,
    retries: CommitRetries,
}

impl ToBroker {
    fn sweeping() -> Self {
        Self { sweeps: true, ..Self::default() }
    }

    fn at(&self, place: &str) -> Result {
        match &self.trouble {
            Some((here, how, fuse)) if *here == place && fuse.goes_off() => match how {
                How::Error => Err(format!("injected at {place}").into()),
                How::Panic => panic!("injected at {place}"),
            },
            _ => Ok(()),
        }
    }

    fn broker(&self) -> std::sync::MutexGuard<'_, Broker> {
        self.broker.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn assert_exact(&self, expected: &[u64], what: &str) {
        let broker = self.broker();
        assert!(sorted(broker.committed.clone()) == expected, "{what}: {} records", broker.committed.len());
        assert!(broker.open.is_empty() && broker.prepared.is_empty(), "{what}: left {broker:?}");
    }
}

struct Batch {
    name: String,
    buffer: Vec<u64>,
    sink: ToBroker,
}

impl TwoPhaseCommit<u64> for ToBroker {
    type Transaction = String;
    type Open = Batch;

    fn begin(&self, context: &TransactionContext) -> Result<Batch> {
        self.at("begin")?;
        Ok(Batch { name: context.name(), buffer: Vec::new(), sink: self.clone() })
    }

    fn retries(&self) -> CommitRetries {
        self.retries
    }

    async fn commit(&self, name: String) -> Result {
        self.at("commit")?;
        self.came.lock().unwrap().push(tokio::time::Instant::now());
        if self.refuses.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
        {
            return Err("refused".into());
        }
        let mut broker = self.broker();
        match broker.prepared.remove(&name) {
            Some(records) => broker.committed.extend(records),
            None if broker.names.contains(&name) => {}
            None => return Err(format!("transaction {name} is gone").into()),
        }
        broker.names.insert(name);
        drop(broker);
        self.at("committed")
    }

    async fn abort(&self, name: String) -> Result {
        self.at("abort")?;
        let mut broker = self.broker();
        assert!(!broker.names.contains(&name), "{name} is committed and aborted");
        broker.open.remove(&name);
        broker.prepared.remove(&name);
        broker.aborted.insert(name);
        Ok(())
    }

    async fn begin_recovery(&self, _: &RecoveryContext) -> Result {
        self.at("begin_recovery")
    }

    async fn end_recovery(&self, _: &RecoveryContext) -> Result {
        if self.sweeps {
            let mut broker = self.broker();
            broker.open.clear();
            broker.prepared.clear();
        }
        self.at("end_recovery")
    }

    async fn sync(&self) -> Result {
        self.at("sync")
    }
}

impl OpenTransaction<u64> for Batch {
    type Transaction = String;

    fn write(&mut self, number: u64) -> Result {
        self.sink.at("write")?;
        self.buffer.push(number);
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.buffer.len() >= 7
    }

    async fn flush(&mut self) -> Result {
        self.sink.at("flush")?;
        tokio::time::sleep(Duration::from_millis(1)).await;
        let mut broker = self.sink.broker();
        broker.open.entry(self.name.clone()).or_default().append(&mut self.buffer);
        Ok(())
    }

    fn name(&self) -> Option<String> {
        Some(self.name.clone())
    }

    fn pre_commit(self) -> Result<BoxFuture<Result<Option<String>>>> {
        self.sink.at("pre_commit")?;
        Ok(Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            self.sink.at("pre_commit future")?;
            let mut broker = self.sink.broker();
            let mut records = broker.open.remove(&self.name).unwrap_or_default();
            records.extend(self.buffer);
            broker.prepared.insert(self.name.clone(), records);
            Ok(Some(self.name))
        }))
    }
}

const LEN: u64 = 200;

fn expected(splits: u64, len: u64) -> Vec<u64> {
    (0..len).flat_map(|n| std::iter::repeat_n(n, usize::try_from(splits).unwrap())).collect()
}

#[test]
fn s10_1_output_is_exact_after_panics_in_new_processes_and_at_any_parallelism() {
    let run = |lives: &[(u64, u32)], last: u32, bombs: &[u64]| {
        let sink = ToBroker::sweeping();
        let describe = |job: &Job<'_>| {
            let numbers = job.numbers("numbers", 2, LEN).rebalance().map(job.bomb());
            numbers.sink("broker", TwoPhase::new(sink.clone()));
        };
        let passed = Oracle::new("broker", &describe).run(lives, last, bombs).passed;
        assert!(bombs.iter().all(|bomb| *bomb < passed));
        sink.assert_exact(&expected(2, LEN), &format!("{lives:?}, then {last}, bombs {bombs:?}"));
        passed
    };
    let all = run(&[], 2, &[]);
    for nth in 0..12 {
        run(&[], 1 + nth as u32 % 3, &[all * nth / 12]);
    }
    for order in [[1, 2, 3], [3, 2, 1], [2, 2, 2], [4, 1, 2]] {
        run(&[(1, order[0]), (3, order[1])], order[2], &[]);
        run(&[(2, order[0]), (4, order[1])], order[2], &[all / 5, all / 2, all * 7 / 8]);
    }
}

fn describe(env: &Environment, sink: &ToBroker, fuse: Option<Fuse>) -> Gate {
    let (numbers, gate) = Numbers::gated(2, LEN);
    env.source("numbers", numbers)
        .map(|(_, number)| number)
        .inspect(move |_| assert!(!fuse.as_ref().is_some_and(Fuse::goes_off), "injected to restart"))
        .sink("broker", TwoPhase::new(sink.clone()));
    gate
}

/// Each place of the trait, as an error and as a panic.
#[test]
fn whatever_fails_in_the_sink_the_output_is_exact() {
    const PLACES: [&str; 12] = [
        "begin",
        "write",
        "flush",
        "pre_commit",
        "pre_commit future",
        "commit",
        "committed",
        "abort",
        "begin_recovery",
        "end_recovery",
        "sync",
        "nowhere",
    ];
    quiet_panics();
    for place in PLACES {
        for how in [How::Error, How::Panic] {
            for nth in [0, 2] {
                let what = format!("{how:?} at {place}, call {nth}");
                let trouble = Some((place, how, Fuse::after(nth)));
                let sink = ToBroker { trouble, ..ToBroker::sweeping() };
                virtual_process(in_time(&what, async {
                    let env = Environment::builder()
                        .parallelism(2)
                        .storage(Memory::new())
                        .restart(RestartStrategy::fixed_delay(5, Duration::from_secs(1)))
                        .build()
                        .unwrap();
                    // One more restart, amid it, so that there is something to recover.
                    let gate = describe(&env, &sink, Some(Fuse::after(150)));
                    let job = env.start_local("sink-fails").await.unwrap();
                    let end = lead(&job, &gate, 2, &[50, 100]).await;
                    assert_eq!(end.unwrap_or_else(|error| panic!("{what}: {error}")), JobStatus::Finished);
                }));
                sink.assert_exact(&expected(2, LEN), &what);
            }
        }
    }
}

/// A killed process closes nothing: what it had open is known from the checkpoint.
#[test]
fn s10_1_what_a_killed_process_had_open_is_aborted_by_the_next() {
    let (storage, sink) = (Memory::new(), ToBroker::default());
    let environment = || Environment::builder().parallelism(2).storage(storage.clone()).build().unwrap();
    virtual_process(in_time("a life that is cut off", async {
        let env = environment();
        let gate = describe(&env, &sink, None);
        let job = env.start_local("killed").await.unwrap();
        running(&job).await;
        for (stop, checkpoint) in [(50, true), (150, false)] {
            gate.open_to(stop);
            gate.reached(2, stop).await;
            if checkpoint {
                job.checkpoint().await.unwrap();
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }));
    let open: Vec<String> = sink.broker().open.keys().cloned().collect();
    assert_eq!(open.len(), 2, "{open:?}");
    virtual_process(in_time("the next life", async {
        let env = environment();
        let gate = describe(&env, &sink, None);
        let job = env.start_local("killed").await.unwrap();
        running(&job).await;
        assert!(
            sink.broker().open.is_empty() && open.iter().all(|name| sink.broker().aborted.contains(name))
        );
        gate.open_to(u64::MAX);
        assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
    }));
    sink.assert_exact(&expected(2, LEN), "after the next life");
}

#[test]
fn s10_4_what_was_pre_committed_for_an_aborted_checkpoint_is_committed_with_the_next() {
    let sink = ToBroker::default();
    virtual_process(in_time("a checkpoint that fails", async {
        let fails = Injection::of(Fault::NoEffect).on([Operation::Create]).at_path("chk-1-").at(1);
        let disk: SharedDisk = Arc::new(FaultyDisk::new(Arc::new(MemoryDisk::new())).failing(fails));
        let env = Environment::builder()
            .parallelism(1)
            .checkpointing(
                Checkpointing::every(Duration::from_secs(100_000_000)).tolerable_failures(u32::MAX),
            )
            .storage(OnDisk::new(disk, "checkpoints"))
            .build()
            .unwrap();
        let gate = describe(&env, &sink, None);
        let job = env.start_local("aborted").await.unwrap();
        running(&job).await;
        for (stop, is_taken) in [(50, false), (100, true)] {
            gate.open_to(stop);
            gate.reached(2, stop).await;
            assert_eq!(job.checkpoint().await.is_ok(), is_taken);
            tokio::time::sleep(Duration::from_secs(1)).await;
            let expected = if is_taken { expected(2, 100) } else { Vec::new() };
            assert_eq!(sorted(sink.broker().committed.clone()), expected);
        }
        assert_eq!(sink.broker().names.len(), 2, "two transactions, with one checkpoint");
        job.cancel().await.unwrap();
    }));
    let broker = sink.broker();
    assert!(broker.open.is_empty() && broker.prepared.is_empty(), "§10.6: a cancel closes: {broker:?}");
    assert_eq!(broker.aborted.len(), 1);
}

/// One checkpoint, whose commit is refused so often. Gives how the job ended, how often it restarted, and how long after the first each
/// other commit came.
fn refused(
    times: u64,
    retries: CommitRetries,
    restarts: u32,
) -> (Result<JobStatus, Error>, u64, Vec<Duration>) {
    let sink = ToBroker { refuses: Arc::new(AtomicU64::new(times)), retries, ..ToBroker::sweeping() };
    let (end, restored) = virtual_process(in_time("commits that are refused", async {
        let env = Environment::builder()
            .parallelism(1)
            .storage(Memory::new())
            .restart(RestartStrategy::fixed_delay(restarts, Duration::ZERO))
            .build()
            .unwrap();
        let gate = describe(&env, &sink, None);
        let job = env.start_local("refused").await.unwrap();
        let end = lead(&job, &gate, 2, &[50]).await;
        (end, job.checkpoint_stats().counts.restored)
    }));
    if end.is_ok() {
        sink.assert_exact(&expected(2, LEN), &format!("refused {times} times"));
    }
    let came = sink.came.lock().unwrap();
    (end, restored, came.iter().skip(1).map(|at| *at - came[0]).collect())
}

#[test]
fn s10_11_a_commit_that_fails_is_tried_again_so_often_and_then_the_job_restarts() {
    let retries = CommitRetries { times: 3, delay: Duration::from_secs(5) };
    let after = |seconds: &[u64]| seconds.iter().map(|s| Duration::from_secs(*s)).collect::<Vec<_>>();
    let whole =
        |came: Vec<Duration>| came.iter().map(|came| Duration::from_secs(came.as_secs())).collect::<Vec<_>>();
    let (end, restored, came) = refused(3, retries, 0);
    assert_eq!((end.unwrap(), restored), (JobStatus::Finished, 0));
    assert_eq!(whole(came)[..3], after(&[5, 10, 15]), "the last one is the fourth");
    let (end, _, came) = refused(4, retries, 0);
    let error = end.unwrap_err().to_string();
    assert!(error.contains("broker") && error.contains("refused"), "{error}");
    assert_eq!(whole(came), after(&[5, 10, 15]));
    let (end, restored, came) = refused(4, retries, 1);
    assert_eq!((end.unwrap(), restored), (JobStatus::Finished, 1));
    assert_eq!(whole(came)[..4], after(&[5, 10, 15, 15]), "the recovery tries at once");
    let (end, ..) = refused(1, CommitRetries::NONE, 0);
    assert!(end.is_err(), "{end:?}");
}

#[test]
fn s10_11_a_cancel_does_not_wait_for_another_try() {
    let hour = Duration::from_secs(3600);
    let retries = CommitRetries { times: 3, delay: hour };
    let sink = ToBroker { refuses: Arc::new(AtomicU64::new(1)), retries, ..ToBroker::default() };
    virtual_process(async {
        let env = Environment::builder().parallelism(1).storage(Memory::new()).build().unwrap();
        let gate = describe(&env, &sink, None);
        let job = env.start_local("cancelled-retry").await.unwrap();
        running(&job).await;
        gate.open_to(50);
        gate.reached(2, 50).await;
        job.checkpoint().await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(sink.came.lock().unwrap().len(), 1);
        let began = tokio::time::Instant::now();
        job.cancel().await.unwrap();
        assert!(began.elapsed() < hour / 60, "{:?}", began.elapsed());
    });
    let broker = sink.broker();
    assert_eq!((broker.prepared.len(), broker.committed.len()), (1, 0), "it is for the next run");
}

#[test]
fn s10_12_at_the_end_the_final_checkpoint_commits_all() {
    for storage in [None, Some(Memory::new())] {
        let sink = ToBroker::default();
        virtual_process(in_time("a whole job", async {
            let env = Environment::builder().parallelism(2);
            let env = storage.iter().fold(env, |env, storage| env.storage(storage.clone())).build().unwrap();
            let gate = describe(&env, &sink, None);
            gate.open_to(u64::MAX);
            let job = env.start_local("whole").await.unwrap();
            job.wait().await.unwrap();
            let of_final = job.checkpoint_stats().latest_completed.map(|record| record.checkpoint);
            assert_eq!(of_final, storage.as_ref().map(|_| CheckpointId(1)));
        }));
        sink.assert_exact(&expected(2, LEN), "at the end");
        assert_eq!(sink.broker().aborted.len(), 0);
    }
}

/// Every operation on the disk kills the process once; a new one goes on.
#[test]
fn output_is_exact_whatever_the_storage_does() {
    let run = |disk: &SharedDisk, sink: &ToBroker, restart| {
        virtual_process(async {
            let env = Environment::builder()
                .parallelism(2)
                .seed(7)
                .storage(OnDisk::new(Arc::clone(disk), "checkpoints"))
                .restart(restart)
                .build()
                .unwrap();
            let gate = describe(&env, sink, None);
            let job = env.start_local("broker-and-storage").await?;
            lead(&job, &gate, 2, &[50, 100]).await
        })
    };
    let new_disk = || Arc::new(MemoryDisk::new()) as SharedDisk;
    let counting = FaultyDisk::new(new_disk());
    let shared: SharedDisk = Arc::new(counting.clone());
    run(&shared, &ToBroker::default(), RestartStrategy::none()).unwrap();
    let all = counting.operations();
    assert!(all > 40, "{all}");
    for fault in [Fault::NoEffect, Fault::TookEffect, Fault::Torn] {
        for point in 1..=all {
            for dies in [true, false] {
                let what = format!("{fault:?} at {point}, dies: {dies}");
                let (disk, sink) = (new_disk(), ToBroker::sweeping());
                let faulty = FaultyDisk::new(Arc::clone(&disk));
                let faulty =
                    if dies { faulty.die_at(point, fault) } else { faulty.fail_once_at(point, fault) };
                let restart = if dies {
                    RestartStrategy::none()
                } else {
                    RestartStrategy::fixed_delay(3, Duration::from_secs(1))
                };
                if dies || run(&(Arc::new(faulty.clone()) as SharedDisk), &sink, restart).is_err() {
                    if dies {
                        let _ = run(&(Arc::new(faulty) as SharedDisk), &sink, RestartStrategy::none());
                    }
                    run(&disk, &sink, RestartStrategy::none())
                        .unwrap_or_else(|error| panic!("{what}: {error}"));
                }
                sink.assert_exact(&expected(2, LEN), &what);
            }
        }
    }
}
