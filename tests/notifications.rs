//! What operators are told about checkpoints, and what a finished job leaves.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Gate, Numbers, in_time, running, sorted, tree, virtual_process, visible_lines};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use strandline::prelude::*;
use strandline::storage::{Fault, FaultyDisk, MemoryDisk, OnDisk, SharedDisk};
use strandline::types::CheckpointId;

const SPLITS: u32 = 2;
const LEN: u64 = 30;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Told {
    Complete(u64),
    Aborted(u64),
}

/// By instance of the operator, in order.
type Log = Arc<Mutex<BTreeMap<usize, Vec<Told>>>>;

struct Listens {
    instance: usize,
    log: Log,
}

impl Listens {
    fn note(&self, told: Told) {
        self.log.lock().unwrap().entry(self.instance).or_default().push(told);
    }
}

impl Operator for Listens {
    type Key = Unkeyed;
    type Out = (u32, u64);

    fn on_complete(&mut self, checkpoint: CheckpointId) -> Result {
        self.note(Told::Complete(checkpoint.0));
        Ok(())
    }
    fn on_aborted(&mut self, checkpoint: CheckpointId) -> Result {
        self.note(Told::Aborted(checkpoint.0));
        Ok(())
    }
}

impl Handler<(u32, u64)> for Listens {
    fn handle(&mut self, record: (u32, u64), ctx: &mut Context<'_, Self>) -> Result {
        ctx.emit(record);
        Ok(())
    }
}

fn describe(disk: &SharedDisk, checkpointing: Checkpointing, log: &Log) -> (Environment, Gate) {
    let env = Environment::builder()
        .parallelism(2)
        .seed(1)
        .checkpointing(checkpointing)
        .storage(OnDisk::new(Arc::clone(disk), "checkpoints"))
        .restart(RestartStrategy::fixed_delay(3, Duration::ZERO))
        .build()
        .unwrap();
    let (numbers, gate) = Numbers::gated(SPLITS, LEN);
    let log = Arc::clone(log);
    env.source("numbers", numbers)
        .rebalance()
        .process("listens", move |_| {
            let mut instances = log.lock().unwrap();
            let instance = instances.len();
            instances.insert(instance, Vec::new());
            Ok(Listens { instance, log: Arc::clone(&log) })
        })
        .map(|(split, number)| format!("{split} {number}"))
        .sink("out", FileSink::at("out").disk(Arc::clone(disk)));
    (env, gate)
}

fn expected() -> Vec<String> {
    sorted((0..SPLITS).flat_map(|split| (0..LEN).map(move |n| format!("{split} {n}"))).collect())
}

/// Ids are strictly increasing per instance, and none is both complete and aborted.
fn check(log: &Log, what: &str) -> (usize, usize) {
    let (mut complete, mut aborted) = (0, 0);
    for told in log.lock().unwrap().values() {
        let completes: Vec<u64> = told
            .iter()
            .filter_map(|told| if let Told::Complete(id) = told { Some(*id) } else { None })
            .collect();
        assert!(completes.is_sorted_by(|a, b| a < b), "{what}: {told:?}");
        for told in told {
            if let Told::Aborted(id) = told {
                aborted += 1;
                assert!(!completes.contains(id), "{what}: {id} was completed and aborted");
            }
        }
        complete += completes.len();
    }
    (complete, aborted)
}

fn hourly() -> Checkpointing {
    Checkpointing::every(Duration::from_secs(3600)).tolerable_failures(u32::MAX)
}

#[test]
fn s13_1_ids_are_strictly_increasing_and_aborts_are_told() {
    let mut told_of_aborts = 0;
    for concurrent in [1, 2] {
        for point in 1..200 {
            let what = format!("a failure at {point}, {concurrent} at a time");
            let log = Log::default();
            let inner: SharedDisk = Arc::new(MemoryDisk::new());
            let disk = FaultyDisk::new(Arc::clone(&inner)).fail_once_at(point, Fault::NoEffect);
            let disk: SharedDisk = Arc::new(disk);
            let (end, events) = virtual_process(in_time(&what, async {
                let (env, gate) = describe(&disk, hourly().max_concurrent(concurrent), &log);
                let Ok(job) = env.start_local("listening").await else { return (None, Vec::new()) };
                let mut events = job.events();
                running(&job).await;
                for stop in [10, 20] {
                    gate.open_to(stop);
                    gate.reached(SPLITS, stop).await;
                    let _ = futures::join!(job.checkpoint(), job.checkpoint());
                }
                gate.open_to(u64::MAX);
                let end = job.wait().await;
                let mut seen = Vec::new();
                while let Ok(event) = events.try_recv() {
                    seen.push(format!("{event:?}"));
                }
                (Some(end), seen)
            }));
            let (complete, aborted) = check(&log, &what);
            told_of_aborts += aborted;
            let late = events.iter().find(|event| event.contains("timed out"));
            assert_eq!(late, None, "{what}: a checkpoint was forgotten");
            if let Some(Ok(end)) = end {
                assert_eq!(end, JobStatus::Finished, "{what}");
                assert!(complete >= 2 * 2, "{what}: {log:?}");
                let lines = futures::executor::block_on(visible_lines(&*inner, Path::new("out")));
                assert_eq!(sorted(lines), expected(), "{what}");
            }
        }
    }
    assert!(told_of_aborts > 0, "no failure led to an abort");
}

#[test]
fn s11_4_a_finished_job_has_committed_everything_and_stays_finished() {
    let disk: SharedDisk = Arc::new(MemoryDisk::new());
    let log = Log::default();
    virtual_process(in_time("a whole job", async {
        let (env, gate) = describe(&disk, hourly(), &log);
        gate.open_to(u64::MAX);
        let job = env.start_local("finished").await.unwrap();
        assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
    }));
    let (complete, aborted) = check(&log, "a whole job");
    assert_eq!((complete, aborted), (2, 0), "the final checkpoint is told to both subtasks");
    virtual_process(in_time("once more", async {
        assert_eq!(sorted(visible_lines(&*disk, Path::new("out")).await), expected());
        let before = tree(&*disk, Path::new("")).await;
        let (env, _) = describe(&disk, hourly(), &log);
        let job = env.start_local("finished").await.unwrap();
        assert_eq!(*job.status().borrow(), JobStatus::Finished);
        assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
        assert_eq!(job.cancel().await.unwrap(), JobStatus::Finished);
        assert_eq!(job.resumed_from(), Some(CheckpointId(1)));
        assert!(job.checkpoint().await.is_err());
        assert_eq!(tree(&*disk, Path::new("")).await, before);
    }));
    // The same on threads.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(in_time("once more on threads", async {
        let before = tree(&*disk, Path::new("")).await;
        let (env, _) = describe(&disk, hourly(), &log);
        let job = env.start("finished").await.unwrap();
        assert_eq!(*job.status().borrow(), JobStatus::Finished);
        assert!(job.checkpoint().await.is_err());
        assert_eq!(tree(&*disk, Path::new("")).await, before);
    }));
    assert_eq!(log.lock().unwrap().len(), 2, "no operator was made again");
}
