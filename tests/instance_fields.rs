//! Plain fields of an operator in checkpoints, written down at the barrier or on the pool: exact after any failure, and refused where they cannot
//! be given back.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use common::oracle::{Job, Oracle};
use common::{
    Fuse, Gate, Numbers, in_time, lead, quiet_panics, running, sorted, virtual_process, visible_lines,
};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use strandline::prelude::*;
use strandline::storage::{Fault, FaultyDisk, MemoryDisk, OnDisk, SharedDisk};
use strandline::types::{CheckpointId, Timestamp};

/// What goes wrong when fields are stored or restored.
#[derive(Debug, Clone, Default)]
struct Trouble {
    snapshot: Option<(How, Fuse)>,
    future: Option<(How, Fuse)>,
    restore: Option<(How, Fuse)>,
    calls: Arc<Mutex<Vec<String>>>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum How {
    Error,
    Panic,
}

fn strike(trouble: Option<&(How, Fuse)>) -> Result {
    match trouble {
        Some((How::Error, fuse)) if fuse.goes_off() => Err("injected".into()),
        Some((How::Panic, fuse)) if fuse.goes_off() => panic!("injected"),
        _ => Ok(()),
    }
}

/// Numbers the records that come to an instance: (instance, how many-th). `ASYNC`: its number is written down on the pool.
struct Tally<const ASYNC: bool> {
    subtask: u32,
    seen: u64,
    trouble: Trouble,
}

impl<const ASYNC: bool> Tally<ASYNC> {
    fn new(subtask: u32, trouble: &Trouble) -> Self {
        Self { subtask, seen: 0, trouble: trouble.clone() }
    }

    fn note(&self, call: &str) {
        self.trouble.calls.lock().unwrap().push(format!("{call} {}", self.seen));
    }
}

impl<const ASYNC: bool> Operator for Tally<ASYNC> {
    type Key = u64;
    type Out = (u32, u64);

    fn open(&mut self, _: &mut OperatorContext<'_, Self>) -> Result {
        self.note("open");
        Ok(())
    }
}

impl<const ASYNC: bool> Handler<u64> for Tally<ASYNC> {
    fn handle(&mut self, _: u64, ctx: &mut Context<'_, Self>) -> Result {
        self.seen += 1;
        ctx.emit((self.subtask, self.seen));
        Ok(())
    }
}

impl Checkpointed for Tally<false> {
    type State = u64;

    fn snapshot(&mut self, checkpoint: CheckpointId, timestamp: Timestamp) -> Result<u64> {
        assert!(checkpoint > CheckpointId(0) && timestamp > Timestamp(0));
        strike(self.trouble.snapshot.as_ref())?;
        Ok(self.seen)
    }

    fn restore(&mut self, seen: u64) -> Result {
        strike(self.trouble.restore.as_ref())?;
        self.seen = seen;
        self.note("restore");
        Ok(())
    }
}

impl CheckpointedAsync for Tally<true> {
    type State = u64;

    fn snapshot(&mut self, _: CheckpointId, _: Timestamp) -> Result<BoxFuture<Result<u64>>> {
        strike(self.trouble.snapshot.as_ref())?;
        let (seen, trouble) = (self.seen, self.trouble.future.clone());
        Ok(Box::pin(async move {
            // Long enough for many records to come meanwhile.
            tokio::time::sleep(Duration::from_secs(1)).await;
            strike(trouble.as_ref())?;
            Ok(seen)
        }))
    }

    fn restore(&mut self, seen: u64) -> Result {
        strike(self.trouble.restore.as_ref())?;
        self.seen = seen;
        self.note("restore");
        Ok(())
    }
}

const LEN: u64 = 200;

/// The stream of tallies, of either kind.
fn tally<P: Pipe<Out = u64>>(
    numbers: Stream<u64, P>,
    in_future: bool,
    trouble: &Trouble,
) -> Stream<(u32, u64)> {
    let (keyed, trouble) = (numbers.key_by(|number| number % 16), trouble.clone());
    if in_future {
        let make = move |setup: &mut Setup<'_, u64>| Ok(Tally::<true>::new(setup.subtask(), &trouble));
        keyed.process("tally", make).checkpointed_async().start_new_chain()
    } else {
        let make = move |setup: &mut Setup<'_, u64>| Ok(Tally::<false>::new(setup.subtask(), &trouble));
        keyed.process("tally", make).checkpointed().start_new_chain()
    }
}

#[test]
fn fields_are_exact_after_panics_anywhere_and_in_new_processes() {
    for in_future in [false, true] {
        let describe = |job: &Job<'_>| {
            let bomb = job.bomb();
            let tallies = tally(job.numbers("numbers", 2, LEN), in_future, &Trouble::default());
            job.sink(tallies.map(bomb), "out");
        };
        let oracle = Oracle::new("fields", &describe);
        for parallelism in 1..=3 {
            let plain = oracle.run(&[], parallelism, &[]);
            assert_eq!(plain.written["out"].len() as u64, 2 * LEN);
            let all = plain.passed;
            for nth in 0..6 {
                oracle.check(&plain.written, &[], parallelism, &[all * nth / 6]);
            }
            let lives = [(1, parallelism), (3, parallelism)];
            oracle.check(&plain.written, &lives, parallelism, &[]);
            oracle.check(&plain.written, &lives, parallelism, &[all / 5, all / 2, all * 7 / 8]);
        }
    }
}

fn environment(parallelism: u32, storage: &Memory) -> Environment {
    Environment::builder()
        .parallelism(parallelism)
        .checkpointing(Checkpointing::every(Duration::from_secs(100_000_000)).tolerable_failures(u32::MAX))
        .storage(storage.clone())
        .restart(RestartStrategy::fixed_delay(1, Duration::from_secs(1)))
        .build()
        .unwrap()
}

/// A job of one instance, led through two checkpoints to its end. What it wrote, and the events.
fn led(name: &str, in_future: bool, trouble: &Trouble) -> (Vec<(u32, u64)>, String) {
    quiet_panics();
    virtual_process(in_time(name, async {
        let env = environment(1, &Memory::new());
        let (numbers, gate) = Numbers::gated(1, LEN);
        let out = Collect::new();
        tally(env.source("numbers", numbers).map(|(_, n)| n), in_future, trouble).sink("out", out.clone());
        let job = env.start_local(name).await.unwrap();
        let mut events = job.events();
        running(&job).await;
        assert_eq!(lead(&job, &gate, 1, &[50, 100]).await.unwrap(), JobStatus::Finished);
        let told = std::iter::from_fn(|| events.try_recv().ok()).map(|event| format!("{event:?}\n"));
        (sorted(out.records()), told.collect())
    }))
}

fn expected() -> Vec<(u32, u64)> {
    (1..=LEN).map(|n| (0, n)).collect()
}

#[test]
fn s4_8_a_snapshot_of_fields_that_fails_at_the_barrier_restarts_the_job() {
    for in_future in [false, true] {
        for how in [How::Error, How::Panic] {
            let trouble = Trouble { snapshot: Some((how, Fuse::after(1))), ..Trouble::default() };
            let (written, told) = led("fields-at-the-barrier", in_future, &trouble);
            assert_eq!(written, expected(), "{how:?}");
            assert!(told.contains("Restarting") && told.contains("tally"), "{how:?}: {told}");
        }
    }
}

#[test]
fn s4_8_a_snapshot_of_fields_that_fails_on_the_pool_declines_the_checkpoint() {
    for how in [How::Error, How::Panic] {
        let trouble = Trouble { future: Some((how, Fuse::after(1))), ..Trouble::default() };
        let (written, told) = led("fields-on-the-pool", true, &trouble);
        assert_eq!(written, expected(), "{how:?}");
        assert!(told.contains("CheckpointFailed") && told.contains("injected"), "{how:?}: {told}");
        assert!(told.contains("tally") && !told.contains("Restarting"), "{how:?}: {told}");
    }
}

#[test]
fn fields_that_cannot_be_restored_restart_the_job_and_name_the_operator() {
    for in_future in [false, true] {
        for how in [How::Error, How::Panic] {
            // A restart, so that there is something to restore, and that fails once.
            let trouble = Trouble {
                snapshot: Some((How::Error, Fuse::after(1))),
                restore: Some((how, Fuse::after(0))),
                ..Trouble::default()
            };
            quiet_panics();
            virtual_process(in_time("a restore that fails", async {
                let storage = Memory::new();
                let env = Environment::builder()
                    .parallelism(1)
                    .checkpointing(Checkpointing::every(Duration::from_secs(100_000_000)))
                    .storage(storage)
                    .restart(RestartStrategy::fixed_delay(2, Duration::ZERO))
                    .build()
                    .unwrap();
                let (numbers, gate) = Numbers::gated(1, LEN);
                let out = Collect::new();
                tally(env.source("numbers", numbers).map(|(_, n)| n), in_future, &trouble)
                    .sink("out", out.clone());
                let job = env.start_local("restore-fails").await.unwrap();
                let mut events = job.events();
                running(&job).await;
                assert_eq!(lead(&job, &gate, 1, &[50, 100]).await.unwrap(), JobStatus::Finished);
                let told = std::iter::from_fn(|| events.try_recv().ok()).map(|event| format!("{event:?}"));
                let restarts: Vec<String> = told.filter(|event| event.contains("Restarting")).collect();
                assert_eq!(restarts.len(), 2, "{restarts:?}");
                assert!(restarts[1].contains("tally") && restarts[1].contains("injected"), "{}", restarts[1]);
                assert_eq!(sorted(out.records()), expected());
            }));
        }
    }
}

#[test]
fn fields_are_restored_before_open_and_only_if_there_are_any() {
    let storage = Memory::new();
    let trouble = Trouble::default();
    for (life, stop) in [(0, 50), (1, 100)] {
        virtual_process(in_time("two lives", async {
            let env = environment(1, &storage);
            let (numbers, gate) = Numbers::gated(1, LEN);
            tally(env.source("numbers", numbers).map(|(_, n)| n), false, &trouble)
                .sink("out", Collect::new());
            let job = env.start_local("order-of-calls").await.unwrap();
            running(&job).await;
            gate.open_to(stop);
            gate.reached(1, stop).await;
            job.checkpoint().await.unwrap();
            job.cancel().await.unwrap();
            let calls = trouble.calls.lock().unwrap().clone();
            let expected = [&["open 0"][..], &["open 0", "restore 50", "open 50"]][life];
            assert_eq!(calls, expected);
        }));
    }
}

#[test]
fn fields_are_refused_at_another_parallelism_and_kept_while_they_are_not_registered() {
    let storage = Memory::new();
    let written = Collect::new();
    let life = |parallelism, registered| {
        let env = environment(parallelism, &storage);
        let (numbers, gate) = Numbers::gated(2, LEN);
        let numbers = env.source("numbers", numbers).map(|(_, n)| n);
        if registered {
            tally(numbers, false, &Trouble::default()).sink("out", written.clone());
        } else {
            let make =
                |setup: &mut Setup<'_, u64>| Ok(Tally::<false>::new(setup.subtask(), &Trouble::default()));
            let unregistered = numbers.key_by(|n| n % 16).process("tally", make);
            unregistered.sink("out", Collect::<(u32, u64)>::new());
        }
        (env, gate)
    };
    let stop_at = |parallelism, registered, stop| {
        virtual_process(in_time("a life", async {
            let (env, gate) = life(parallelism, registered);
            let job = env.start_local("rescaled").await.unwrap();
            running(&job).await;
            gate.open_to(stop);
            gate.reached(2, stop).await;
            job.checkpoint().await.unwrap();
            job.cancel().await.unwrap();
        }));
    };
    stop_at(2, true, 50);
    for parallelism in [1, 3] {
        virtual_process(in_time("another parallelism", async {
            let (env, _gate) = life(parallelism, true);
            let job = env.start_local("rescaled").await.unwrap();
            let error = job.wait().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
            let text = format!("{error:?} {error}");
            for part in ["tally", "2 instances", &format!("it has {parallelism} now"), ".parallelism(2)"] {
                assert!(text.contains(part), "{part} is missing in {text}");
            }
        }));
    }
    // Nothing is lost by that, nor by a program that does not register them.
    stop_at(2, false, 50);
    virtual_process(in_time("the last life", async {
        let (env, gate) = life(2, true);
        let job = env.start_local("rescaled").await.unwrap();
        gate.open_to(u64::MAX);
        assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
    }));
    let mut all: Vec<(u32, u64)> = written.records();
    all.sort_unstable();
    let ends: Vec<u64> =
        [0, 1].map(|subtask| all.iter().filter(|(of, _)| *of == subtask).count() as u64).into();
    let whole: Vec<(u32, u64)> =
        (0..).zip(&ends).flat_map(|(of, end)| (1..=*end).map(move |n| (of, n))).collect();
    assert_eq!((all, ends.iter().sum()), (whole, 2 * LEN));
}

/// Every operation on the disk of a life fails once, in every way that leaves the process alive or kills it.
#[test]
fn fields_are_exact_whatever_the_storage_does() {
    let describe = |disk: &SharedDisk, restart| {
        let env = Environment::builder()
            .parallelism(2)
            .seed(7)
            .storage(OnDisk::new(Arc::clone(disk), "checkpoints"))
            .restart(restart)
            .build()
            .unwrap();
        let (numbers, gate) = Numbers::gated(2, 12);
        tally(env.source("numbers", numbers).map(|(_, n)| n), true, &Trouble::default())
            .map(|(of, n)| format!("{of} {n}"))
            .sink("out", FileSink::at("out").disk(Arc::clone(disk)));
        (env, gate)
    };
    let run = |disk: &SharedDisk, restart: RestartStrategy| {
        virtual_process(async {
            let (env, gate): (Environment, Gate) = describe(disk, restart);
            let job = env.start_local("fields-and-storage").await?;
            lead(&job, &gate, 2, &[4, 8]).await
        })
    };
    let lines =
        |disk: &SharedDisk| sorted(futures::executor::block_on(visible_lines(&**disk, Path::new("out"))));
    let new_disk = || Arc::new(MemoryDisk::new()) as SharedDisk;
    let counting = FaultyDisk::new(new_disk());
    let shared: SharedDisk = Arc::new(counting.clone());
    run(&shared, RestartStrategy::none()).unwrap();
    let (expected, all) = (lines(&shared), counting.operations());
    assert!(all > 60 && expected.len() == 24, "{all} operations, {expected:?}");
    for fault in [Fault::NoEffect, Fault::TookEffect, Fault::Torn] {
        for point in 1..=all {
            let disk = new_disk();
            let dying: SharedDisk = Arc::new(FaultyDisk::new(Arc::clone(&disk)).die_at(point, fault));
            let _ = run(&dying, RestartStrategy::none());
            run(&disk, RestartStrategy::none())
                .unwrap_or_else(|error| panic!("{fault:?} at {point}: {error}"));
            assert_eq!(lines(&disk), expected, "killed by {fault:?} at {point}");
            let disk = new_disk();
            let failing: SharedDisk = Arc::new(FaultyDisk::new(Arc::clone(&disk)).fail_once_at(point, fault));
            // One that fails at the start does not get to restart.
            let restart = RestartStrategy::fixed_delay(3, Duration::from_secs(1));
            if run(&failing, restart).is_err() {
                run(&disk, RestartStrategy::none())
                    .unwrap_or_else(|error| panic!("{fault:?} at {point}: {error}"));
            }
            assert_eq!(lines(&disk), expected, "{fault:?} at {point}");
        }
    }
}
