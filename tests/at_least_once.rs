//! What *at least once* means, where it must be seen: records from behind a barrier are in the state and in the output of its checkpoint, and come
//! again after a crash. Where barriers align the very same run repeats nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::disallowed_methods)] // it waits on the clock that jobs run by

mod common;

use common::slow::Slow;
use common::{Count, Gate, Numbers, in_time, on_request, running, sorted, virtual_process, visible_lines};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use strandline::prelude::*;
use strandline::storage::{Fault, FaultyDisk, Injection, MemoryDisk, OnDisk, Operation, SharedDisk};

/// For so long the barrier of the second source stays behind that of the first.
const BEHIND: Duration = Duration::from_secs(1);
/// The first source gives `0..LEN`, the second one `LATE..LATE + LEN`.
const LEN: u64 = 20;
const LATE: u64 = 100;
/// Of the first source: so many before its barrier, and so many more before that of the other.
const BEFORE: u64 = 7;
const BETWEEN: u64 = 12;

/// Two sources into one subtask, which counts how often each number comes. The chain of the second one also writes to a sink, which
/// takes its time: its barrier waits for that.
fn describe(disk: &SharedDisk, checkpointing: Checkpointing) -> (Environment, [Gate; 2]) {
    let env = Environment::builder()
        .parallelism(1)
        .checkpointing(checkpointing)
        .storage(OnDisk::new(Arc::clone(disk), "checkpoints"))
        .restart(RestartStrategy::none())
        .build()
        .unwrap();
    let ((early, first), (late, second)) = (Numbers::gated(1, LEN), Numbers::gated(1, LEN));
    let (on, aside) = env.source("late", late).map(|(split, number)| (split, number + LATE)).tee();
    on.sink("slow", Slow { sink: Collect::new(), each: BEHIND });
    env.source("early", early)
        .union(aside)
        .key_by(|(_, number)| *number)
        .process("count", |setup| Ok(Count { seen: setup.value_state("seen")? }))
        .map(|(number, nth)| format!("{number} {nth}"))
        .sink("out", FileSink::at("out").disk(Arc::clone(disk)));
    (env, [first, second])
}

/// One checkpoint; while one barrier waits for the other, records come behind it. Then a crash, and another process. Gives what a
/// reader of the output sees at the end: each number, and how many times it had come by then.
fn crash_after_a_checkpoint(checkpointing: &Checkpointing) -> Vec<(u64, u64)> {
    let disk: SharedDisk = Arc::new(MemoryDisk::new());
    virtual_process(in_time("a life that is cut off", async {
        let (env, [early, late]) = describe(&disk, checkpointing.clone());
        let job = env.start_local("repeats").await.unwrap();
        running(&job).await;
        late.open_to(1);
        early.open_to(BEFORE);
        early.reached(1, BEFORE).await;
        // The sink is at that record now, and the trigger comes amid it.
        tokio::time::sleep(BEHIND / 10).await;
        let ask = {
            let job = job.clone();
            tokio::task::spawn_local(async move { job.checkpoint().await })
        };
        tokio::time::sleep(BEHIND / 10).await;
        early.open_to(BETWEEN);
        early.reached(1, BETWEEN).await;
        assert!(!ask.is_finished(), "the late barrier has not come");
        ask.await.unwrap().unwrap();
    }));
    virtual_process(in_time("the next life", async {
        let (env, gates) = describe(&disk, checkpointing.clone());
        gates.iter().for_each(|gate| gate.open_to(LEN));
        let job = env.start_local("repeats").await.unwrap();
        assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
        assert_eq!(job.checkpoint_stats().counts.restored, 1);
        let lines = visible_lines(&*disk, Path::new("out")).await;
        let numbers = lines.iter().map(|line| line.split_once(' ').unwrap());
        sorted(numbers.map(|(number, nth)| (number.parse().unwrap(), nth.parse().unwrap())).collect())
    }))
}

/// Each number once.
fn once() -> impl Iterator<Item = (u64, u64)> {
    (0..LEN).chain(LATE..LATE + LEN).map(|number| (number, 1))
}

#[test]
fn at_least_once_repeats_what_came_between_two_barriers_and_loses_nothing() {
    let again = (BEFORE..BETWEEN).map(|number| (number, 2));
    let found = crash_after_a_checkpoint(&on_request().at_least_once());
    assert_eq!(found, sorted(once().chain(again).collect()));
}

#[test]
fn exactly_once_repeats_nothing() {
    for (mode, checkpointing) in common::exact_modes() {
        assert_eq!(crash_after_a_checkpoint(&checkpointing), once().collect::<Vec<_>>(), "{mode}");
    }
}

/// The oldest of two checkpoints is given up at a subtask, as a source that could not take the newer one in time says so through one channel
/// while the older one's barrier is still to come through the other. Its caller learns it then, and the job goes on.
#[test]
fn a_checkpoint_that_is_given_up_at_a_subtask_is_not_waited_for() {
    let disk = FaultyDisk::new(Arc::new(MemoryDisk::new()) as SharedDisk);
    disk.inject(Injection::of(Fault::NoEffect).on([Operation::Create]).at_path("chk-2-").at(1));
    let disk: SharedDisk = Arc::new(disk);
    virtual_process(in_time("a checkpoint that is given up", async {
        let checkpointing = on_request().at_least_once().max_concurrent(2).tolerable_failures(1);
        let env = Environment::builder()
            .parallelism(1)
            .checkpointing(checkpointing)
            .storage(OnDisk::new(disk, "checkpoints").memory_threshold(0))
            .restart(RestartStrategy::none())
            .build()
            .unwrap();
        let ((early, first), (late, second)) = (Numbers::gated(1, LEN), Numbers::gated(1, LEN));
        let source = |name: &str, numbers, each| {
            let (on, aside) = env.source(name, numbers).tee();
            on.sink(&format!("slow-{name}"), Slow { sink: Collect::new(), each });
            aside
        };
        let out = Collect::new();
        let both = source("early", early, BEHIND).union(source("late", late, 3 * BEHIND));
        both.rebalance().map(|(_, number)| number).sink("out", out.clone());
        // It takes every checkpoint at once, and cannot write the second one.
        let (other, third) = Numbers::gated(1, LEN);
        env.source("other", other).sink("elsewhere", Collect::new());
        let job = env.start_local("given-up").await.unwrap();
        running(&job).await;
        let ask = || {
            let job = job.clone();
            tokio::task::spawn_local(async move { job.checkpoint().await })
        };
        let soon = BEHIND / 10;
        second.open_to(1);
        tokio::time::sleep(soon).await;
        let older = ask();
        tokio::time::sleep(soon).await;
        first.open_to(1);
        tokio::time::sleep(soon).await;
        let newer = ask().await.unwrap().unwrap_err();
        assert!(newer.to_string().contains("checkpoint 2"), "{newer}");
        assert!(!older.is_finished(), "its barrier is still to come");
        tokio::time::sleep(BEHIND).await;
        assert!(older.is_finished(), "the news came through one channel");
        let older = older.await.unwrap().unwrap_err().to_string();
        assert!(older.contains("a subtask upstream gave it up"), "{older}");
        [first, second, third].iter().for_each(|gate| gate.open_to(LEN));
        assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
        assert_eq!(out.records().len() as u64, 2 * LEN);
    }));
}
