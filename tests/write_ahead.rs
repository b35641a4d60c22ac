//! A write-ahead sink: everything arrives, in order, whatever fails; nothing twice where a batch that comes twice takes effect once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use common::oracle::{Job, Oracle};
use common::{Fuse, Gate, Numbers, in_time, lead, quiet_panics, running, sorted, virtual_process};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use strandline::connectors::{BatchId, CheckpointCommitter, Deliver, DiskCommitter, WriteAhead};
use strandline::prelude::*;
use strandline::storage::{Fault, FaultyDisk, MemoryDisk, OnDisk, SharedDisk};

#[derive(Debug, Clone, Copy, PartialEq)]
enum How {
    Error,
    Panic,
    /// It says that it cannot deliver now.
    NotNow,
}

/// A table in which a batch that is written again changes nothing. It outlives the processes.
#[derive(Debug, Clone, Default)]
struct Table {
    rows: Arc<Mutex<BTreeMap<BatchId, Vec<u64>>>>,
    /// How often each batch came.
    came: Arc<Mutex<BTreeMap<BatchId, u32>>>,
    trouble: Option<(How, Fuse)>,
    /// As long as it is not open nothing is taken.
    closed: Arc<Mutex<bool>>,
}

impl Table {
    fn records(&self) -> Vec<u64> {
        sorted(self.rows.lock().unwrap().values().flatten().copied().collect())
    }
}

impl Deliver<u64> for Table {
    async fn deliver(&self, records: &[u64], batch: &BatchId) -> Result<bool> {
        tokio::time::sleep(Duration::from_millis(1)).await;
        if *self.closed.lock().unwrap() {
            return Ok(false);
        }
        match &self.trouble {
            Some((How::Error, fuse)) if fuse.goes_off() => return Err("injected".into()),
            Some((How::Panic, fuse)) if fuse.goes_off() => panic!("injected"),
            Some((How::NotNow, fuse)) if fuse.goes_off() => return Ok(false),
            _ => {}
        }
        *self.came.lock().unwrap().entry(batch.clone()).or_default() += 1;
        self.rows.lock().unwrap().insert(batch.clone(), records.to_vec());
        Ok(true)
    }
}

fn marks(disk: &SharedDisk) -> DiskCommitter {
    DiskCommitter::on(Arc::clone(disk), "marks")
}

fn new_disk() -> SharedDisk {
    Arc::new(MemoryDisk::new())
}

const LEN: u64 = 100;

fn expected(splits: u64, len: u64) -> Vec<u64> {
    (0..len).flat_map(|n| std::iter::repeat_n(n, usize::try_from(splits).unwrap())).collect()
}

fn describe(env: &Environment, sink: WriteAhead<Table, DiskCommitter>) -> Gate {
    let (numbers, gate) = Numbers::gated(2, LEN);
    env.source("numbers", numbers).map(|(_, number)| number).sink("table", sink);
    gate
}

fn environment(storage: &Memory) -> Environment {
    Environment::builder()
        .parallelism(2)
        .checkpointing(Checkpointing::every(Duration::from_secs(100_000_000)).tolerable_failures(u32::MAX))
        .storage(storage.clone())
        .restart(RestartStrategy::fixed_delay(3, Duration::from_secs(1)))
        .build()
        .unwrap()
}

#[test]
fn output_is_exact_after_panics_in_new_processes_and_at_any_parallelism() {
    let run = |lives: &[(u64, u32)], last: u32, bombs: &[u64]| {
        let (table, disk) = (Table::default(), new_disk());
        let describe = |job: &Job<'_>| {
            let numbers = job.numbers("numbers", 2, LEN).rebalance().map(job.bomb());
            numbers.sink("table", WriteAhead::new(table.clone(), marks(&disk)));
        };
        let passed = Oracle::new("table", &describe).run(lives, last, bombs).passed;
        assert!(table.records() == expected(2, LEN), "{lives:?}, then {last}, bombs {bombs:?}");
        assert!(
            table.came.lock().unwrap().values().all(|times| *times == 1),
            "no crash came between send and mark"
        );
        passed
    };
    let all = run(&[], 2, &[]);
    for nth in 0..8 {
        run(&[], 1 + nth as u32 % 3, &[all * nth / 8]);
    }
    for order in [[1, 2, 3], [3, 2, 1], [4, 1, 2]] {
        run(&[(1, order[0]), (3, order[1])], order[2], &[]);
        run(&[(2, order[0]), (4, order[1])], order[2], &[all / 5, all / 2, all * 7 / 8]);
    }
}

#[test]
fn what_is_not_delivered_now_is_delivered_in_order_after_the_next_checkpoint_and_the_job_goes_on() {
    quiet_panics();
    for how in [How::Error, How::NotNow, How::Panic] {
        let (table, disk, storage) =
            (Table { trouble: Some((how, Fuse::after(0))), ..Table::default() }, new_disk(), Memory::new());
        virtual_process(in_time("a delivery that fails", async {
            let env = environment(&storage);
            let gate = describe(&env, WriteAhead::new(table.clone(), marks(&disk)));
            let job = env.start_local("not-now").await.unwrap();
            let mut events = job.events();
            running(&job).await;
            let mut had = Vec::new();
            for stop in [20, 40] {
                gate.open_to(stop);
                gate.reached(2, stop).await;
                job.checkpoint().await.unwrap();
                tokio::time::sleep(Duration::from_secs(5)).await;
                had.push(table.records().len());
            }
            gate.open_to(u64::MAX);
            assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
            let restarts = std::iter::from_fn(|| events.try_recv().ok())
                .filter(|event| matches!(event, JobEvent::Restarting { .. }));
            // A panic is a fault of the program: the subtask fails, and recovery delivers.
            assert_eq!(restarts.count(), usize::from(how == How::Panic), "{how:?}");
            let expected = if how == How::Panic { [40, 80] } else { [20, 80] };
            assert_eq!(had, expected, "{how:?}: one of two subtasks could not at first");
        }));
        assert_eq!(table.records(), expected(2, LEN), "{how:?}");
    }
}

#[test]
fn what_cannot_be_delivered_when_its_own_input_has_ended_is_delivered_after_the_next_checkpoint_of_the_job() {
    let (table, disk) = (Table::default(), new_disk());
    *table.closed.lock().unwrap() = true;
    virtual_process(in_time("an input that ends early", async {
        let env = environment(&Memory::new());
        let numbers = env.source("short", Numbers::new(2, LEN)).map(|(_, number)| number);
        numbers.sink("table", WriteAhead::new(table.clone(), marks(&disk)));
        let (numbers, gate) = Numbers::gated(1, 10);
        env.source("long", numbers).sink("other", Collect::new());
        let job = env.start_local("ends-early").await.unwrap();
        running(&job).await;
        let second = Duration::from_secs(1);
        tokio::time::sleep(second).await;
        for closed in [true, false] {
            *table.closed.lock().unwrap() = closed;
            job.checkpoint().await.unwrap();
            tokio::time::sleep(second).await;
            assert_eq!(table.records().is_empty(), closed);
        }
        assert_eq!(job.metrics().restarts, 0);
        gate.open_to(u64::MAX);
        assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
    }));
    assert_eq!(table.records(), expected(2, LEN));
}

#[test]
fn at_the_end_and_at_a_start_what_cannot_be_delivered_is_an_error_and_nothing_is_lost() {
    let (table, disk, storage) = (Table::default(), new_disk(), Memory::new());
    *table.closed.lock().unwrap() = true;
    for what in ["at the end", "at the start"] {
        virtual_process(in_time(what, async {
            let env = environment(&storage);
            let gate = describe(&env, WriteAhead::new(table.clone(), marks(&disk)));
            gate.open_to(u64::MAX);
            let job = env.start_local("closed").await.unwrap();
            let error = job.wait().await.unwrap_err().to_string();
            assert!(error.contains("table"), "{what}: {error}");
        }));
        assert_eq!(table.records(), [0; 0]);
    }
    *table.closed.lock().unwrap() = false;
    virtual_process(in_time("open again", async {
        let env = environment(&storage);
        let gate = describe(&env, WriteAhead::new(table.clone(), marks(&disk)));
        gate.open_to(u64::MAX);
        assert_eq!(env.start_local("closed").await.unwrap().wait().await.unwrap(), JobStatus::Finished);
    }));
    assert_eq!(table.records(), expected(2, LEN));
}

#[test]
fn what_was_marked_before_a_crash_is_not_delivered_again() {
    /// Marks, but the answer is lost.
    #[derive(Clone)]
    struct Silent(DiskCommitter, Fuse);

    impl CheckpointCommitter for Silent {
        async fn open(&self, context: &RecoveryContext) -> Result {
            self.0.open(context).await
        }
        async fn is_committed(&self, batch: &BatchId) -> Result<bool> {
            self.0.is_committed(batch).await
        }
        async fn commit(&self, batch: &BatchId) -> Result {
            self.0.commit(batch).await?;
            assert!(!self.1.goes_off(), "injected after the mark");
            Ok(())
        }
    }

    quiet_panics();
    let (table, disk) = (Table::default(), new_disk());
    virtual_process(in_time("a crash after a mark", async {
        let env = environment(&Memory::new());
        let (numbers, gate) = Numbers::gated(2, LEN);
        let sink = WriteAhead::new(table.clone(), Silent(marks(&disk), Fuse::after(1)));
        env.source("numbers", numbers).map(|(_, number)| number).sink("table", sink);
        let job = env.start_local("marked").await.unwrap();
        assert_eq!(lead(&job, &gate, 2, &[30, 60]).await.unwrap(), JobStatus::Finished);
    }));
    assert_eq!(table.records(), expected(2, LEN));
    assert!(table.came.lock().unwrap().values().all(|times| *times == 1), "{:?}", table.came);
    let left = futures::executor::block_on(disk.list(Path::new("marks"))).unwrap();
    assert_eq!(left.len(), 2, "one for each subtask: {left:?}");
}

#[test]
fn marks_of_a_run_whose_checkpoints_are_gone_are_refused() {
    let disk = new_disk();
    let run = |storage: Option<Memory>| {
        virtual_process(in_time("a run", async {
            let env = match storage {
                Some(storage) => environment(&storage),
                None => Environment::builder().parallelism(2).build().unwrap(),
            };
            let gate = describe(&env, WriteAhead::new(Table::default(), marks(&disk)));
            gate.open_to(u64::MAX);
            env.start_local("forgotten").await.unwrap().wait().await
        }))
    };
    assert_eq!(run(Some(Memory::new())).unwrap(), JobStatus::Finished);
    let error = run(Some(Memory::new())).unwrap_err();
    assert!(
        error.to_string().contains("empty folder") && error.kind() == ErrorKind::Configuration,
        "{error}"
    );
    let error = run(None).unwrap_err();
    assert!(error.to_string().contains("takes none") && error.kind() == ErrorKind::Configuration, "{error}");
}

/// Every operation on the disk, of checkpoints and of marks, fails once or kills the process.
#[test]
fn output_is_exact_whatever_the_storage_does() {
    let run = |disk: &SharedDisk, table: &Table, restart| {
        virtual_process(async {
            let env = Environment::builder()
                .parallelism(2)
                .seed(7)
                .storage(OnDisk::new(Arc::clone(disk), "checkpoints"))
                .restart(restart)
                .build()
                .unwrap();
            let gate = describe(&env, WriteAhead::new(table.clone(), marks(disk)));
            let job = env.start_local("table-and-storage").await?;
            lead(&job, &gate, 2, &[30, 60]).await
        })
    };
    let counting = FaultyDisk::new(new_disk());
    let shared: SharedDisk = Arc::new(counting.clone());
    run(&shared, &Table::default(), RestartStrategy::none()).unwrap();
    let all = counting.operations();
    assert!(all > 40, "{all}");
    for fault in [Fault::NoEffect, Fault::TookEffect, Fault::Torn] {
        for point in 1..=all {
            for dies in [true, false] {
                let what = format!("{fault:?} at {point}, dies: {dies}");
                let (disk, table) = (new_disk(), Table::default());
                let faulty = FaultyDisk::new(Arc::clone(&disk));
                let faulty =
                    if dies { faulty.die_at(point, fault) } else { faulty.fail_once_at(point, fault) };
                let restart = if dies {
                    RestartStrategy::none()
                } else {
                    RestartStrategy::fixed_delay(3, Duration::from_secs(1))
                };
                let first = run(&(Arc::new(faulty) as SharedDisk), &table, restart);
                if dies || first.is_err() {
                    run(&disk, &table, RestartStrategy::none())
                        .unwrap_or_else(|error| panic!("{what}: {error}"));
                }
                assert!(table.records() == expected(2, LEN), "{what}");
            }
        }
    }
}
