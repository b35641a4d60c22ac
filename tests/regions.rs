//! Two dataflows in one job that share no records: what fails of one is restarted by itself, and the other never hears of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;
#[path = "regions/pipelines.rs"]
mod pipelines;

use common::oracle::{Job, Oracle, Written};
use common::{exact_modes, expected_counts, on_request, running, sorted};
use pipelines::Pipeline;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use strandline::prelude::*;
use strandline::restart::FailureOutcome;
use strandline::storage::{Disk, Fault, FaultyDisk, Injection, MemoryDisk, OnDisk, Operation, SharedDisk};
use strandline::types::CheckpointId;
use strandline::{EnvironmentBuilder, JobHandle};
use tokio::sync::broadcast;

const SPLITS: u32 = 2;
const LEN: u64 = 60;

/// Bounded: the clock jumps there at once when nothing can happen any more.
fn virtual_process<T>(future: impl Future<Output = T>) -> T {
    common::virtual_process(async { tokio::time::timeout(secs(20_000), future).await }).expect("it ends")
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn with(checkpointing: &Checkpointing) -> EnvironmentBuilder {
    Environment::builder()
        .parallelism(2)
        .seed(1)
        .checkpointing(checkpointing.clone())
        .restart(RestartStrategy::fixed_delay(10, secs(1)))
}

/// Every mode, with full checkpoints and with increments.
fn ways() -> Vec<(String, Checkpointing)> {
    let modes = exact_modes().into_iter();
    let ways = modes.flat_map(|(mode, checkpointing)| {
        [false, true].map(|on| (format!("{mode}, incremental: {on}"), checkpointing.clone().incremental(on)))
    });
    ways.collect()
}

fn two() -> (Pipeline, Pipeline) {
    (Pipeline::new("left", SPLITS, LEN), Pipeline::new("right", SPLITS, LEN))
}

fn build(env: EnvironmentBuilder, pipelines: &[&Pipeline]) -> Environment {
    let env = env.build().unwrap();
    pipelines.iter().for_each(|pipeline| pipeline.describe(&env));
    env
}

/// Until all run again, after so many restarts.
async fn restarted(events: &mut broadcast::Receiver<JobEvent>, times: u32) -> Option<CheckpointId> {
    loop {
        match events.recv().await.unwrap() {
            JobEvent::Running { attempt, from } if attempt.0 >= times => return from,
            _ => {}
        }
    }
}

fn restarts(job: &JobHandle) -> Vec<(Vec<String>, u32, FailureOutcome)> {
    let of = |failure: &strandline::restart::FailureRecord| {
        let region = failure.region.iter().map(|uid| uid.as_str().to_owned()).collect();
        (region, failure.attempt.0, failure.outcome)
    };
    job.failures().iter().map(of).collect()
}

const AGAIN: FailureOutcome = FailureOutcome::Restart { after: Duration::from_secs(1) };

fn of(pipeline: &str) -> Vec<String> {
    ["source", "count", "sink"].map(|part| format!("{pipeline} {part}")).to_vec()
}

#[test]
fn s12_13_a_region_that_fails_is_restarted_and_the_other_runs_on() {
    for (way, checkpointing) in ways() {
        let (left, right) = two();
        left.fails_at([13, 31, 49]);
        let job = virtual_process(async {
            let env = build(with(&checkpointing), &[&left, &right]);
            let job = env.start_local("apart").await.unwrap();
            for stop in [10, 20, 30, 40, 50] {
                left.gate.open_to(stop);
                right.gate.open_to(stop);
                right.gate.reached(SPLITS, stop).await;
                left.gate.reached(SPLITS, stop).await;
                // Fails where the region is restarted at the same time.
                let _ = job.checkpoint().await;
            }
            left.gate.open_to(u64::MAX);
            right.gate.open_to(u64::MAX);
            assert_eq!(job.wait().await.unwrap(), JobStatus::Finished, "{way}");
            job
        });
        let again = (0..3).map(|attempt| (of("left"), attempt, AGAIN)).collect::<Vec<_>>();
        assert_eq!(restarts(&job), again, "{way}");
        assert_eq!(job.metrics().restarts, 3, "{way}");
        left.assert_exact(&way);
        right.assert_exact(&way);
        right.assert_never_rebuilt(&way);
        assert_eq!((left.seen.built(), left.seen.opened()), (4 * 2, 4 * 2), "{way}");
        assert!(left.seen.given() > u64::from(SPLITS) * LEN, "{way}: nothing was read again");
    }
}

/// A region fails while the second checkpoint waits for the storage.
fn fails_amid_a_checkpoint(
    slow: &Injection,
    checkpointing: &Checkpointing,
) -> (JobHandle, Pipeline, Pipeline) {
    let (left, right) = two();
    let disk = FaultyDisk::new(Arc::new(MemoryDisk::new()));
    disk.inject(slow.clone());
    left.fails_at([25]);
    let job = virtual_process(async {
        let disk: SharedDisk = Arc::new(disk);
        let storage = OnDisk::new(disk, "checkpoints").memory_threshold(0);
        let env = build(with(checkpointing).storage(storage), &[&left, &right]);
        let job = env.start_local("amid").await.unwrap();
        let mut events = job.events();
        for (checkpoint, stop) in [(1, 10), (2, 20)] {
            left.gate.open_to(stop);
            right.gate.open_to(stop);
            left.gate.reached(SPLITS, stop).await;
            right.gate.reached(SPLITS, stop).await;
            if checkpoint == 1 {
                job.checkpoint().await.unwrap();
            }
        }
        let under_way = job.checkpoint();
        let fails = async {
            tokio::time::sleep(secs(50)).await;
            left.gate.open_to(30);
            right.gate.open_to(30);
            right.gate.reached(SPLITS, 30).await;
            restarted(&mut events, 1).await
        };
        let (result, from) = tokio::join!(under_way, fails);
        match result {
            Ok(CheckpointId(2)) => assert_eq!(from, Some(CheckpointId(2))),
            Err(_) => assert_eq!(from, Some(CheckpointId(1))),
            other => panic!("{other:?}"),
        }
        assert_eq!(right.told(), if result.is_ok() { vec![1, 2] } else { vec![1] });
        left.gate.open_to(u64::MAX);
        right.gate.open_to(u64::MAX);
        assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
        job
    });
    left.assert_exact("amid");
    right.assert_exact("amid");
    right.assert_never_rebuilt("amid");
    (job, left, right)
}

#[test]
fn a_checkpoint_under_way_is_given_up_and_does_not_count() {
    let slow = Injection::of(Fault::Slow(secs(100))).on([Operation::Create]).at_path("chk-2-");
    for (way, checkpointing) in ways() {
        let (job, _, right) = fails_amid_a_checkpoint(&slow, &checkpointing);
        assert_eq!(restarts(&job), [(of("left"), 0, AGAIN)], "{way}: none is tolerated");
        assert_eq!(job.checkpoint_stats().counts.failed, 1, "{way}");
        assert_eq!(right.aborted(), [2], "{way}");
    }
}

#[test]
fn a_checkpoint_at_its_commit_point_is_where_the_region_begins_and_what_the_other_is_told() {
    // The first is the claim, the second the first checkpoint.
    let slow = Injection::of(Fault::Slow(secs(100))).on([Operation::Publish]).at_path("/log/").at(3);
    for (way, checkpointing) in ways() {
        let (job, _, right) = fails_amid_a_checkpoint(&slow, &checkpointing);
        assert_eq!(restarts(&job), [(of("left"), 0, AGAIN)], "{way}");
        assert_eq!(job.checkpoint_stats().counts.failed, 0, "{way}");
        assert!(right.aborted().is_empty(), "{way}");
    }
}

#[test]
fn regions_that_fail_at_once_are_restarted_each_for_itself_and_a_third_runs_on() {
    let (left, right) = two();
    let third = Pipeline::new("third", SPLITS, LEN);
    // Of one key, so one after the other.
    left.fails_at([25, 35]);
    right.fails_at([25]);
    let job = virtual_process(async {
        let env = build(with(&on_request()), &[&left, &right, &third]);
        let job = env.start_local("at once").await.unwrap();
        let mut events = job.events();
        for pipeline in [&left, &right, &third] {
            pipeline.gate.open_to(20);
            pipeline.gate.reached(SPLITS, 20).await;
        }
        let first = job.checkpoint().await.unwrap();
        for pipeline in [&left, &right, &third] {
            pipeline.gate.open_to(40);
        }
        assert_eq!(restarted(&mut events, 3).await, Some(first));
        assert_eq!(*job.status().borrow(), JobStatus::Running);
        for pipeline in [&left, &right, &third] {
            pipeline.gate.open_to(u64::MAX);
        }
        assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
        job
    });
    let mut failures = restarts(&job);
    failures.sort_by_key(|(region, attempt, _)| (region.clone(), *attempt));
    assert_eq!(failures, [(of("left"), 0, AGAIN), (of("left"), 1, AGAIN), (of("right"), 0, AGAIN)]);
    for pipeline in [&left, &right, &third] {
        pipeline.assert_exact("at once");
    }
    third.assert_never_rebuilt("at once");
    assert_eq!((left.seen.built(), right.seen.built()), (3 * 2, 2 * 2));
}

#[test]
fn the_restart_budget_is_one_for_all_regions() {
    let (left, right) = two();
    left.fails_at([25]);
    right.fails_at([25]);
    virtual_process(async {
        let env = with(&on_request()).restart(RestartStrategy::fixed_delay(1, secs(1)));
        let env = build(env, &[&left, &right]);
        let job = env.start_local("budget").await.unwrap();
        let mut events = job.events();
        left.gate.open_to(30);
        restarted(&mut events, 1).await;
        assert!(!job.status().borrow().is_terminal());
        right.gate.open_to(30);
        let error = job.wait().await.unwrap_err();
        assert_eq!(error.operator_id().unwrap().as_str(), "right count");
        assert!(error.to_string().contains("after failure 2 restart strategy fixed-delay"), "{error}");
        let outcomes = [(of("left"), 0, AGAIN), (of("right"), 0, FailureOutcome::Failed)];
        assert_eq!(restarts(&job), outcomes);
        assert_eq!(job.metrics().restarts, 1);
    });
    assert_eq!((left.seen.built(), right.seen.built()), (2 * 2, 2));
}

#[test]
fn without_a_completed_checkpoint_a_region_begins_afresh_and_the_other_runs_on() {
    for takes_checkpoints in [true, false] {
        let (left, right) = two();
        left.fails_at([25]);
        let job = virtual_process(async {
            let env = Environment::builder().parallelism(2).restart(RestartStrategy::fixed_delay(1, secs(1)));
            let env = if takes_checkpoints { env.checkpointing(on_request()) } else { env };
            let env = build(env, &[&left, &right]);
            let job = env.start_local("afresh").await.unwrap();
            let mut events = job.events();
            right.gate.open_to(20);
            right.gate.reached(SPLITS, 20).await;
            left.gate.open_to(30);
            assert_eq!(restarted(&mut events, 1).await, None);
            left.gate.open_to(u64::MAX);
            right.gate.open_to(u64::MAX);
            assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
            job
        });
        let what = format!("takes checkpoints: {takes_checkpoints}");
        assert_eq!(restarts(&job), [(of("left"), 0, AGAIN)], "{what}");
        left.assert_exact(&what);
        right.assert_exact(&what);
        right.assert_never_rebuilt(&what);
    }
}

#[test]
fn a_region_at_its_end_stays_there_while_another_fails() {
    for takes_checkpoints in [true, false] {
        let (left, right) = two();
        left.fails_at([25]);
        let job = virtual_process(async {
            let env = Environment::builder().parallelism(2).restart(RestartStrategy::fixed_delay(1, secs(1)));
            let env = if takes_checkpoints { env.checkpointing(on_request()) } else { env };
            let env = build(env, &[&left, &right]);
            let job = env.start_local("at its end").await.unwrap();
            let mut events = job.events();
            running(&job).await;
            right.gate.open_to(u64::MAX);
            left.gate.open_to(20);
            right.gate.reached(SPLITS, LEN).await;
            left.gate.reached(SPLITS, 20).await;
            if takes_checkpoints {
                job.checkpoint().await.unwrap();
            }
            // Without checkpoints it has left by then, with them what it wrote is committed.
            tokio::time::sleep(secs(10)).await;
            assert_eq!(right.broker.committed(), expected_counts(SPLITS, LEN, 5).len());
            left.gate.open_to(30);
            restarted(&mut events, 1).await;
            left.gate.open_to(u64::MAX);
            assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
            job
        });
        let what = format!("takes checkpoints: {takes_checkpoints}");
        assert_eq!(restarts(&job), [(of("left"), 0, AGAIN)], "{what}");
        left.assert_exact(&what);
        right.assert_exact(&what);
        right.assert_never_rebuilt(&what);
    }
}

#[test]
fn a_region_that_fails_after_the_final_checkpoint_only_commits_what_is_left() {
    let (left, right) = two();
    let (job, end) = virtual_process(async {
        let env = build(with(&on_request()), &[&left, &right]);
        let job = env.start_local("last commit").await.unwrap();
        left.broker.refuse(1);
        left.gate.open_to(u64::MAX);
        right.gate.open_to(u64::MAX);
        let end = job.wait().await;
        (job, end)
    });
    assert_eq!(end.unwrap(), JobStatus::Finished);
    assert_eq!(restarts(&job), [(of("left"), 0, AGAIN)]);
    left.assert_exact("last commit");
    right.assert_exact("last commit");
    right.assert_never_rebuilt("last commit");
    assert_eq!((left.seen.built(), left.seen.opened()), (2, 2), "there was nothing left to run");
}

#[test]
fn too_many_failed_checkpoints_restart_all_regions_as_one() {
    let (left, right) = two();
    let fails = Injection::of(Fault::NoEffect).on([Operation::Publish]).at_path("chk-2-").at(1);
    let job = virtual_process(async {
        let disk: SharedDisk = Arc::new(FaultyDisk::new(Arc::new(MemoryDisk::new())).failing(fails));
        let env = with(&on_request()).storage(OnDisk::new(disk, "checkpoints"));
        let env = build(env, &[&left, &right]);
        let job = env.start_local("as one").await.unwrap();
        let mut events = job.events();
        left.gate.open_to(20);
        left.gate.reached(SPLITS, 20).await;
        let first = job.checkpoint().await.unwrap();
        right.gate.open_to(20);
        right.gate.reached(SPLITS, 20).await;
        job.checkpoint().await.unwrap_err();
        assert_eq!(restarted(&mut events, 1).await, Some(first));
        left.gate.open_to(u64::MAX);
        right.gate.open_to(u64::MAX);
        assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
        job
    });
    assert_eq!(restarts(&job), [([of("left"), of("right")].concat(), 0, AGAIN)]);
    assert_eq!(job.metrics().restarts, 1);
    for pipeline in [&left, &right] {
        pipeline.assert_exact("as one");
        assert_eq!(pipeline.seen.built(), 2 * 2);
    }
}

#[test]
fn a_commit_of_unknown_outcome_sends_all_regions_to_what_the_log_says() {
    for (took_effect, while_down) in [(true, false), (false, false), (true, true), (false, true)] {
        let what = format!("took effect: {took_effect}, while a region is down: {while_down}");
        let (left, right) = two();
        let disk = Arc::new(FaultyDisk::new(Arc::new(MemoryDisk::new())));
        let job = virtual_process(async {
            let storage = OnDisk::new(Arc::clone(&disk) as SharedDisk, "checkpoints");
            let env = build(with(&on_request()).storage(storage), &[&left, &right]);
            let job = env.start_local("unknown").await.unwrap();
            let mut events = job.events();
            for stop in [10, 20] {
                for pipeline in [&left, &right] {
                    pipeline.gate.open_to(stop);
                    pipeline.gate.reached(SPLITS, stop).await;
                }
                if stop == 10 {
                    job.checkpoint().await.unwrap();
                }
            }
            if while_down {
                left.fails_at([25]);
            }
            let log = disk.list(Path::new("checkpoints/unknown/log")).await.unwrap();
            let newest: u64 = log.iter().filter_map(|name| name.parse().ok()).max().unwrap();
            let entry = format!("/log/{:020}", newest + 1);
            let fault = if took_effect { Fault::TookEffect } else { Fault::NoEffect };
            for injection in [
                Injection::of(Fault::Slow(secs(10))).on([Operation::Publish]).at_path("chk-2-").at(1),
                Injection::of(fault).on([Operation::Publish]).at_path(&entry).at(1),
                // And nobody can look.
                Injection::of(Fault::NoEffect).on([Operation::Read]).at_path(&entry).at(1),
            ] {
                disk.inject(injection);
            }
            let fails = async {
                tokio::time::sleep(secs(5)).await;
                left.gate.open_to(30);
            };
            let (result, ()) = tokio::join!(job.checkpoint(), fails);
            result.unwrap_err();
            let expected = if took_effect { 2 } else { 1 };
            assert_eq!(restarted(&mut events, 1).await, Some(CheckpointId(expected)), "{what}");
            left.gate.open_to(u64::MAX);
            right.gate.open_to(u64::MAX);
            assert_eq!(job.wait().await.unwrap(), JobStatus::Finished, "{what}");
            job
        });
        assert_eq!(job.metrics().restarts, 1, "{what}: {:?}", job.failures());
        for pipeline in [&left, &right] {
            pipeline.assert_exact(&what);
            assert_eq!(pipeline.seen.built(), 2 * 2, "{what}");
        }
    }
}

#[test]
fn an_error_that_is_final_ends_the_other_regions_too() {
    let right = Pipeline::new("right", SPLITS, LEN);
    virtual_process(async {
        let env = with(&on_request()).build().unwrap();
        right.describe(&env);
        env.source("hopeless", Iter::new(0..10_u64))
            .try_map(|n| if n < 5 { Ok(n) } else { Err(Error::non_recoverable("injected").into()) })
            .sink("nothing", Collect::new());
        let job = env.start_local("final").await.unwrap();
        right.gate.open_to(20);
        let error = job.wait().await.unwrap_err();
        assert_eq!(error.operator_id().unwrap().as_str(), "hopeless");
        let region = vec!["hopeless".to_owned(), "nothing".to_owned()];
        assert_eq!(restarts(&job), [(region, 0, FailureOutcome::Failed)]);
    });
    assert_eq!(right.seen.built(), 2);
}

#[test]
fn a_cancel_while_a_region_waits_for_its_restart_ends_all() {
    let (left, right) = two();
    left.fails_at([25]);
    virtual_process(async {
        let env = with(&on_request()).restart(RestartStrategy::fixed_delay(1, secs(10_000)));
        let env = build(env, &[&left, &right]);
        let job = env.start_local("cancelled").await.unwrap();
        left.gate.open_to(30);
        right.gate.open_to(30);
        let _ = job.status().wait_for(|status| *status == JobStatus::Restarting).await;
        // The other one works on meanwhile.
        right.gate.open_to(40);
        right.gate.reached(SPLITS, 40).await;
        let begun = tokio::time::Instant::now();
        assert_eq!(job.cancel().await.unwrap(), JobStatus::Cancelled);
        assert!(begun.elapsed() < secs(1), "{:?}", begun.elapsed());
        assert_eq!(restarts(&job), [(of("left"), 0, FailureOutcome::Cancelled)]);
    });
}

#[test]
fn a_checkpoint_asked_for_while_a_region_is_down_is_taken_when_it_runs_again() {
    let (left, right) = two();
    left.fails_at([25]);
    virtual_process(async {
        let env = build(with(&on_request()), &[&left, &right]);
        let job = env.start_local("asked for").await.unwrap();
        left.gate.open_to(30);
        let _ = job.status().wait_for(|status| *status == JobStatus::Restarting).await;
        let begun = tokio::time::Instant::now();
        job.checkpoint().await.unwrap();
        assert!(begun.elapsed() >= secs(1), "{:?}", begun.elapsed());
        assert_eq!(*job.status().borrow(), JobStatus::Running);
        job.cancel().await.unwrap();
    });
}

fn two_pipelines(job: &Job<'_>) {
    for (name, splits, keys) in [("first", 2, 3), ("second", 1, 4)] {
        let numbers = job.numbers(name, splits, 40).rebalance().map(job.bomb());
        let counted = numbers
            .key_by(move |n| n % keys)
            .process(&format!("{name} count"), |setup| Ok(Nth { seen: setup.value_state("seen")? }));
        job.sink(counted.map(job.bomb()), name);
    }
}

/// Numbers the records of each key.
struct Nth {
    seen: ValueState<u64>,
}

impl Operator for Nth {
    type Key = u64;
    type Out = (u64, u64);
}

impl Handler<u64> for Nth {
    fn handle(&mut self, _: u64, ctx: &mut Context<'_, Self>) -> Result {
        let n = self.seen.get(ctx).unwrap_or(0) + 1;
        self.seen.set(ctx, n);
        ctx.emit((*ctx.key(), n));
        Ok(())
    }
}

#[test]
fn two_regions_write_what_they_must_whatever_fails_and_at_any_parallelism() {
    let written = |splits: u32, keys| {
        let counts = expected_counts(splits, 40, keys);
        sorted(counts.iter().map(|count| format!("{count:?}")).collect::<Vec<_>>())
    };
    let expected = Written::from([("first".into(), written(2, 3)), ("second".into(), written(1, 4))]);
    for (_, checkpointing) in ways() {
        Oracle::new("two regions", &two_pipelines).checkpointing(&checkpointing).survives(&expected);
    }
}

#[test]
fn output_is_exact_when_the_process_dies_while_a_region_is_restarted() {
    for die_after in (0..24).map(|n| Duration::from_millis(n * 250)) {
        let (left, right) = two();
        let disk: SharedDisk = Arc::new(MemoryDisk::new());
        let env = || {
            let checkpointing = Checkpointing::every(Duration::from_millis(500));
            let storage = OnDisk::new(Arc::clone(&disk), "checkpoints");
            build(with(&checkpointing).storage(storage), &[&left, &right])
        };
        left.fails_at([11, 25, 40]);
        right.fails_at([33]);
        virtual_process(async {
            let job = env().start_local("dies").await.unwrap();
            let advance = async {
                for stop in (5..LEN).step_by(5) {
                    left.gate.open_to(stop);
                    right.gate.open_to(stop);
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
            };
            let _ = tokio::time::timeout(die_after, advance).await;
            // Here it dies: everything that runs is gone.
            drop(job);
        });
        virtual_process(async {
            let job = env().start_local("dies").await.unwrap();
            left.gate.open_to(u64::MAX);
            right.gate.open_to(u64::MAX);
            assert_eq!(job.wait().await.unwrap(), JobStatus::Finished, "{die_after:?}");
        });
        for pipeline in [&left, &right] {
            pipeline.assert_exact(&format!("died after {die_after:?}"));
        }
    }
}
