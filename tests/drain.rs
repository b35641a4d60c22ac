//! Draining a job: its input ends where it is, all of it is written and committed, and the job has finished.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use common::slow::Slow;
use common::{
    Count, Fuse, Gate, Numbers, expected_counts, in_time, on_request, running, sorted, visible_lines,
};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use strandline::prelude::*;
use strandline::storage::{Fault, FaultyDisk, Injection, MemoryDisk, OnDisk, Operation, SharedDisk};
use strandline::{EnvironmentBuilder, JobHandle};

const SPLITS: u32 = 2;
const KEYS: u64 = 5;
const LEN: u64 = 1_000;

/// Bounded: the clock jumps there at once when nothing can happen any more.
fn virtual_process<T>(future: impl Future<Output = T>) -> T {
    common::virtual_process(async { tokio::time::timeout(Duration::from_secs(5_000), future).await })
        .expect("it ends")
}

fn on(disk: &SharedDisk) -> EnvironmentBuilder {
    Environment::builder()
        .parallelism(2)
        .checkpointing(on_request())
        .storage(OnDisk::new(Arc::clone(disk), "checkpoints"))
        .restart(RestartStrategy::fixed_delay(3, Duration::from_secs(1)))
}

/// Says at the end how it was.
struct Last {
    fails: Fuse,
}

impl Operator for Last {
    type Key = Unkeyed;
    type Out = String;

    fn finish(&mut self, ctx: &mut OperatorContext<'_, Self>) -> Result {
        if self.fails.goes_off() {
            return Err("injected".into());
        }
        ctx.emit("the end".to_owned());
        Ok(())
    }
}

impl Handler<(u64, u64)> for Last {
    fn handle(&mut self, (key, n): (u64, u64), ctx: &mut Context<'_, Self>) -> Result {
        ctx.emit(format!("{key} {n}"));
        Ok(())
    }
}

fn describe(env: EnvironmentBuilder, disk: &SharedDisk, fails: &Fuse) -> (Environment, Gate) {
    let env = env.build().unwrap();
    let (numbers, gate) = Numbers::gated(SPLITS, LEN);
    let fails = fails.clone();
    env.source("numbers", numbers)
        .key_by(|(_, number)| number % KEYS)
        .process("count", |setup| Ok(Count { seen: setup.value_state("seen")? }))
        .process("last", move |_| Ok(Last { fails: fails.clone() }))
        .sink("out", FileSink::at("out").disk(Arc::clone(disk)));
    (env, gate)
}

/// What is written of the first so many numbers of each split, and by two subtasks at their end.
fn expected(upto: u64) -> Vec<String> {
    let counts = expected_counts(SPLITS, upto, KEYS).into_iter().map(|(key, n)| format!("{key} {n}"));
    sorted(counts.chain(["the end".to_owned(), "the end".to_owned()]).collect())
}

async fn written(disk: &SharedDisk) -> Vec<String> {
    sorted(visible_lines(&**disk, Path::new("out")).await)
}

fn memory() -> SharedDisk {
    Arc::new(MemoryDisk::new())
}

/// Leads a job to where its sources wait for more, with a checkpoint on the way.
async fn lead(job: &JobHandle, gate: &Gate) {
    running(job).await;
    gate.open_to(20);
    gate.reached(SPLITS, 20).await;
    let _ = job.checkpoint().await;
    gate.open_to(30);
    gate.reached(SPLITS, 30).await;
}

#[test]
fn a_drained_job_has_written_and_committed_all_that_was_read_and_stays_finished() {
    for takes_checkpoints in [true, false] {
        let (disk, never) = (memory(), Fuse::after(u64::MAX / 2));
        let env = || if takes_checkpoints { on(&disk) } else { Environment::builder().parallelism(2) };
        virtual_process(async {
            let (env, gate) = describe(env(), &disk, &never);
            let job = env.start_local("drained").await.unwrap();
            lead(&job, &gate).await;
            assert_eq!(job.drain().await.unwrap(), JobStatus::Finished);
            assert_eq!(job.drain().await.unwrap(), JobStatus::Finished, "once more does no harm");
            assert!(written(&disk).await == expected(30));
        });
        if takes_checkpoints {
            virtual_process(async {
                let (env, gate) = describe(env(), &disk, &never);
                gate.open_to(LEN);
                let job = env.start_local("drained").await.unwrap();
                assert!(job.had_finished());
                assert!(written(&disk).await == expected(30));
            });
        }
    }
}

/// That a drain was broken off, and that the job reads on to where it may and can be drained then.
async fn assert_goes_on(job: &JobHandle, gate: &Gate, drained: Result<JobStatus, Error>, what: &str) {
    let error = drained.unwrap_err();
    assert!(error.to_string().contains("drain it again"), "{what}: {error}");
    assert!(!job.status().borrow().is_terminal(), "{what}");
    assert_eq!(job.metrics().restarts, 1, "{what}");
    gate.open_to(40);
    gate.reached(SPLITS, 40).await;
    assert_eq!(job.drain().await.unwrap(), JobStatus::Finished, "{what}");
}

#[test]
fn what_fails_amid_a_drain_goes_on_reading_and_can_be_drained_again() {
    let (disk, fails) = (memory(), Fuse::after(1));
    virtual_process(async {
        let (env, gate) = describe(on(&disk), &disk, &fails);
        let job = env.start_local("fails").await.unwrap();
        lead(&job, &gate).await;
        let drained = job.drain().await;
        assert!(fails.went_off());
        assert_goes_on(&job, &gate, drained, "an operator").await;
        assert!(written(&disk).await == expected(40));
    });
}

/// Says nothing but that it is the end.
struct End;

impl Operator for End {
    type Key = Unkeyed;
    type Out = String;

    fn finish(&mut self, ctx: &mut OperatorContext<'_, Self>) -> Result {
        ctx.emit("the end".to_owned());
        Ok(())
    }
}

impl Handler<(u32, u64)> for End {
    fn handle(&mut self, _: (u32, u64), _: &mut Context<'_, Self>) -> Result {
        Ok(())
    }
}

/// A checkpoint that one region takes before a drain ends its input, and the other after: then the process dies.
#[test]
fn operators_that_only_a_drain_had_ended_come_to_their_end_again_in_the_next_run() {
    for exchanged in [false, true] {
        let disk = memory();
        // The final checkpoint fails, so that the process dies before it is taken.
        let faulty = Arc::new(FaultyDisk::new(Arc::clone(&disk)));
        faulty.inject(Injection::of(Fault::NoEffect).on([Operation::CreateDir]).at_path("chk-2-").at(1));
        let faulty = faulty as SharedDisk;
        let describe = || {
            let env = on(&faulty).checkpointing(on_request().tolerable_failures(3)).parallelism(1);
            let env = env.build().unwrap();
            let ((numbers, gate), (others, other_gate)) = (Numbers::gated(1, 30), Numbers::gated(1, 30));
            let (to_slow, numbers) = env.source("numbers", numbers).tee();
            to_slow.sink("slow", Slow { sink: Collect::new(), each: Duration::from_secs(10) });
            let numbers = if exchanged { numbers.rebalance() } else { numbers };
            numbers.process("end", |_| Ok(End)).sink("out", FileSink::at("out").disk(Arc::clone(&disk)));
            env.source("others", others).sink("elsewhere", Collect::new());
            (env, gate, other_gate)
        };
        let taken = virtual_process(async {
            let (env, gate, _) = describe();
            let job = env.start_local("broken-off").await.unwrap();
            running(&job).await;
            gate.open_to(20);
            let second = Duration::from_secs(1);
            tokio::time::sleep(second).await;
            let checkpoint = tokio::task::spawn_local({
                let job = job.clone();
                async move { job.checkpoint().await }
            });
            tokio::time::sleep(second).await;
            let drained = tokio::task::spawn_local(async move { job.drain().await });
            let taken = checkpoint.await.unwrap().unwrap();
            assert!(!drained.is_finished());
            taken
        });
        virtual_process(async {
            let (env, gate, other_gate) = describe();
            gate.open_to(LEN);
            other_gate.open_to(LEN);
            let job = env.start_local("broken-off").await.unwrap();
            assert_eq!((job.resumed_from(), job.had_finished()), (Some(taken), false));
            assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
            assert_eq!(written(&disk).await, ["the end", "the end"], "exchanged: {exchanged}");
        });
    }
}

#[test]
fn after_a_region_has_failed_amid_a_drain_the_others_read_on_too() {
    let (disk, fails) = (memory(), Fuse::after(1));
    virtual_process(async {
        let (env, gate) = describe(on(&disk), &disk, &fails);
        let ((numbers, apart), out) = (Numbers::gated(SPLITS, LEN), Collect::new());
        env.source("apart", numbers).sink("out apart", out.clone());
        let job = env.start_local("regions").await.unwrap();
        apart.open_to(25);
        lead(&job, &gate).await;
        apart.reached(SPLITS, 25).await;
        let drained = job.drain().await;
        assert!(fails.went_off());
        apart.open_to(35);
        apart.reached(SPLITS, 35).await;
        assert_goes_on(&job, &gate, drained, "one of two").await;
        assert!(written(&disk).await == expected(40));
        assert_eq!(out.len(), 2 * 35);
    });
}

/// It would begin from nothing, and what it had committed would come twice.
#[test]
fn without_checkpoints_a_region_that_a_drain_has_ended_stays_at_its_end_whatever_fails() {
    let (disk, fails) = (memory(), Fuse::after(1));
    virtual_process(async {
        let env = Environment::builder().parallelism(2);
        let env = env.restart(RestartStrategy::fixed_delay(3, Duration::from_secs(1)));
        let (env, gate) = describe(env, &disk, &fails);
        let ((numbers, apart), out) = (Numbers::gated(SPLITS, LEN), Collect::new());
        env.source("apart", numbers)
            .sink("out apart", Slow { sink: out.clone(), each: Duration::from_secs(5) });
        let job = env.start_local("no-checkpoints").await.unwrap();
        apart.open_to(1);
        lead(&job, &gate).await;
        let drained = job.drain().await;
        assert!(fails.went_off());
        apart.open_to(35);
        tokio::time::sleep(Duration::from_secs(500)).await;
        assert_goes_on(&job, &gate, drained, "without checkpoints").await;
        assert!(written(&disk).await == expected(40));
        assert_eq!(out.len(), 2);
    });
}

/// Its sources end in all regions, and nothing is left out.
#[test]
fn a_drain_ends_every_region_where_it_is() {
    let (disk, never) = (memory(), Fuse::after(u64::MAX / 2));
    virtual_process(async {
        let (env, gate) = describe(on(&disk), &disk, &never);
        let ((numbers, apart), out) = (Numbers::gated(SPLITS, LEN), Collect::new());
        env.source("apart", numbers).sink("out apart", out.clone());
        let job = env.start_local("all-regions").await.unwrap();
        apart.open_to(25);
        lead(&job, &gate).await;
        apart.reached(SPLITS, 25).await;
        assert_eq!(job.drain().await.unwrap(), JobStatus::Finished);
        assert!(written(&disk).await == expected(30));
        assert_eq!(out.len(), 2 * 25);
    });
}

#[test]
fn a_drain_that_is_asked_for_while_the_job_restarts_or_starts_is_done_when_it_runs() {
    for starts in [true, false] {
        let (disk, fails) = (memory(), Fuse::after(if starts { u64::MAX / 2 } else { 1 }));
        virtual_process(async {
            let (env, gate) = describe(on(&disk), &disk, &fails);
            let job = env.start_local("down").await.unwrap();
            if starts {
                assert_eq!(*job.status().borrow(), JobStatus::Starting);
                assert_eq!(job.drain().await.unwrap(), JobStatus::Finished);
                return assert!(written(&disk).await == expected(0));
            }
            lead(&job, &gate).await;
            let first = tokio::task::spawn_local({
                let job = job.clone();
                async move { job.drain().await }
            });
            let _ = job.status().wait_for(|status| *status == JobStatus::Restarting).await;
            // Nothing of what it finds open then is written twice or left out.
            assert_eq!(job.drain().await.unwrap(), JobStatus::Finished);
            first.await.unwrap().unwrap_err();
            let written = written(&disk).await;
            assert!((20..=30).any(|upto| written == expected(upto)));
        });
    }
}

#[test]
fn a_drain_whose_final_checkpoint_fails_is_done_or_said_to_be_broken_off() {
    for tolerated in [0, 3] {
        for (operation, path) in
            [(Operation::CreateDir, "chk-2-"), (Operation::Publish, "chk-2-"), (Operation::Publish, "/log/")]
        {
            let what = format!("{operation:?} {path}, {tolerated} tolerated");
            let (disk, never) = (memory(), Fuse::after(u64::MAX / 2));
            let faulty = Arc::new(FaultyDisk::new(Arc::clone(&disk)));
            virtual_process(async {
                let on_faulty = Arc::clone(&faulty) as SharedDisk;
                let env = on(&on_faulty).checkpointing(on_request().tolerable_failures(tolerated));
                let (env, gate) = describe(env, &disk, &never);
                let job = env.start_local("storage").await.unwrap();
                lead(&job, &gate).await;
                faulty.inject(Injection::of(Fault::NoEffect).on([operation]).at_path(path).at(1));
                let drained = job.drain().await;
                assert_eq!(faulty.struck(), 1, "{what}");
                if tolerated > 0 {
                    assert_eq!(drained.unwrap(), JobStatus::Finished, "{what}");
                    assert!(written(&disk).await == expected(30), "{what}");
                } else {
                    assert_goes_on(&job, &gate, drained, &what).await;
                    assert!(written(&disk).await == expected(40), "{what}");
                }
            });
        }
    }
}

#[test]
fn a_process_that_dies_amid_a_drain_reads_on_when_it_is_started_again() {
    let operations = {
        let disk = FaultyDisk::new(memory());
        drain_and_die(&disk);
        disk.operations()
    };
    let mut finished = 0;
    for nth in 1..=operations {
        for fault in [Fault::NoEffect, Fault::TookEffect, Fault::PowerLoss] {
            let inner = memory();
            drain_and_die(&FaultyDisk::new(Arc::clone(&inner)).die_at(nth, fault));
            virtual_process(async {
                let (env, gate) = describe(on(&inner), &inner, &Fuse::after(u64::MAX / 2));
                gate.open_to(LEN);
                let job = env.start_local("dies").await.unwrap();
                assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
                finished += u32::from(job.had_finished());
                let upto = if job.had_finished() { 30 } else { LEN };
                let written = written(&inner).await;
                // Where it died after its final checkpoint, it only had to be said finished.
                assert!(written == expected(upto) || written == expected(30), "{nth} {fault:?}");
            });
        }
    }
    assert!(operations > 20 && finished > 0, "{operations} {finished}");
}

/// Drains a job on a disk that may die.
fn drain_and_die(disk: &FaultyDisk) {
    let disk: SharedDisk = Arc::new(disk.clone());
    virtual_process(async {
        let env = on(&disk).restart(RestartStrategy::none()).stop_timeout(Duration::from_secs(5));
        let (env, gate) = describe(env, &disk, &Fuse::after(u64::MAX / 2));
        let Ok(job) = env.start_local("dies").await else { return };
        tokio::select! {
            () = lead(&job, &gate) => {}
            _ = job.wait() => return,
        }
        let _ = job.drain().await;
    });
}

#[tokio::test]
async fn a_source_that_never_ends_is_drained_on_threads_of_its_own() {
    let env = Environment::builder().parallelism(2).checkpointing(on_request()).build().unwrap();
    let out = Collect::new();
    env.source("endless", Iter::new(0_u64..)).rebalance().map(|n| n).sink("out", out.clone());
    let job = env.start("drain-endless").await.unwrap();
    running(&job).await;
    assert_eq!(in_time("the drain", job.drain()).await.unwrap(), JobStatus::Finished);
    let numbers = sorted(out.records());
    assert!(numbers.iter().copied().eq(0..numbers.len() as u64), "{} records", numbers.len());
}

#[tokio::test]
async fn a_cancel_ends_a_drain() {
    let env = Environment::builder().parallelism(1).build().unwrap();
    let (numbers, gate) = Numbers::gated(1, 10);
    gate.open_to(5);
    // What is on its way never comes out.
    env.source("numbers", numbers).sink("stuck", ToSink::new(Full));
    let job = env.start("drain-cancelled").await.unwrap();
    running(&job).await;
    let drained = tokio::spawn({
        let job = job.clone();
        async move { job.drain().await }
    });
    assert_eq!(in_time("the cancel", job.cancel()).await.unwrap(), JobStatus::Cancelled);
    assert_eq!(in_time("the drain", drained).await.unwrap().unwrap(), JobStatus::Cancelled);
}

/// A sink that never has room.
#[derive(Clone)]
struct Full;

impl futures::Sink<(u32, u64)> for Full {
    type Error = std::io::Error;

    fn poll_ready(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Pending
    }

    fn start_send(self: std::pin::Pin<&mut Self>, _: (u32, u64)) -> Result<(), Self::Error> {
        Ok(())
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Pending
    }

    fn poll_close(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }
}
