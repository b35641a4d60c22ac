//! Whatever durable operation the machine dies at: the next process finishes with the output of a run without failures. Two subtasks of
//! each chain, so that their operations mix; `storage_faults` strikes a smaller job in more ways.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Count, Gate, Numbers, expected_counts, lead, sorted, tree, virtual_process, visible_lines};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use strandline::prelude::*;
use strandline::storage::{Fault, FaultyDisk, MemoryDisk, OnDisk, SharedDisk};

const SPLITS: u32 = 2;
const LEN: u64 = 12;
const KEYS: u64 = 3;
/// Where checkpoints are taken; the final one follows.
const STOPS: [u64; 3] = [3, 6, 9];

fn job(disk: &SharedDisk, restart: RestartStrategy) -> (Environment, Gate) {
    let env = Environment::builder()
        .parallelism(2)
        .seed(7)
        .storage(OnDisk::new(Arc::clone(disk), "checkpoints"))
        .restart(restart)
        .build()
        .unwrap();
    let (numbers, gate) = Numbers::gated(SPLITS, LEN);
    env.source("numbers", numbers)
        .map(|record| record)
        .key_by(|(_, number)| number % KEYS)
        .process("count", |setup| Ok(Count { seen: setup.value_state("seen")? }))
        .map(|(key, n)| format!("{key} {n}"))
        .sink("out", FileSink::at("out").disk(Arc::clone(disk)));
    (env, gate)
}

/// One life of a process.
fn run(disk: &SharedDisk, restart: RestartStrategy) -> Result<JobStatus, Error> {
    virtual_process(async {
        let (env, gate) = job(disk, restart);
        let job = env.start_local("crashing").await?;
        lead(&job, &gate, SPLITS, &STOPS).await
    })
}

fn assert_exact_and_clean(disk: &SharedDisk, what: &str) {
    virtual_process(async {
        let lines = visible_lines(&**disk, Path::new("out")).await;
        let expected = expected_counts(SPLITS, LEN, KEYS);
        let expected: Vec<String> = expected.iter().map(|(key, n)| format!("{key} {n}")).collect();
        assert_eq!(sorted(lines), sorted(expected), "{what}");
        let all = tree(&**disk, Path::new("")).await;
        let names = || all.keys().map(|path| path.to_string_lossy().into_owned());
        let hidden: Vec<String> = names().filter(|path| path.contains("/.")).collect();
        assert!(hidden.is_empty(), "{what}: left {hidden:?}");
        let checkpoints = names().filter(|path| path.contains("/chk-") && path.matches('/').count() == 2);
        assert_eq!(checkpoints.collect::<Vec<_>>().len(), 1, "{what}: {:?}", names().collect::<Vec<_>>());
    });
}

/// A new process on a disk that works.
fn recover(disk: &SharedDisk, what: &str) {
    match run(disk, RestartStrategy::none()) {
        Ok(JobStatus::Finished) => assert_exact_and_clean(disk, what),
        other => panic!("{what}: {other:?}"),
    }
}

fn new_disk() -> SharedDisk {
    Arc::new(MemoryDisk::new())
}

/// Durable operations of a whole life on this disk.
fn operations(disk: SharedDisk) -> u64 {
    let counting = FaultyDisk::new(disk);
    let shared: SharedDisk = Arc::new(counting.clone());
    assert_eq!(run(&shared, RestartStrategy::none()).unwrap(), JobStatus::Finished);
    assert_exact_and_clean(&shared, "without a crash");
    counting.operations()
}

#[test]
fn every_crash_point_of_a_life_is_survived() {
    let all = operations(new_disk());
    println!("{all} crash points, {} ways to crash", Fault::ALL.len());
    assert!(all > 100, "only {all} operations: are checkpoints taken at all?");
    for fault in Fault::ALL {
        for point in 1..=all {
            let disk = new_disk();
            let dying = FaultyDisk::new(Arc::clone(&disk)).die_at(point, fault);
            let end = run(&(Arc::new(dying.clone()) as SharedDisk), RestartStrategy::none());
            assert!(end.is_err() || !dying.is_dead(), "{fault:?} at {point}: {end:?}");
            recover(&disk, &format!("{fault:?} at {point}"));
        }
    }
}

/// The second failure hits what reads back the outcome of the first.
#[test]
fn two_failures_of_the_disk_in_a_row_are_survived_by_a_restart_and_by_a_crash_after_it() {
    let all = operations(new_disk());
    let restart = RestartStrategy::fixed_delay(3, Duration::from_secs(1));
    for fault in [Fault::NoEffect, Fault::TookEffect] {
        for point in (1..=all).step_by(2) {
            // Without, and with a crash some time after.
            for crash in [None, Some(9), Some(25)] {
                let what = format!("{fault:?} at {point}, again at the next, crash {crash:?} later");
                let disk = new_disk();
                let mut inner = FaultyDisk::new(Arc::clone(&disk));
                if let Some(later) = crash {
                    inner = inner.die_at(point + 1 + later, Fault::NoEffect);
                }
                let middle = FaultyDisk::new(Arc::new(inner)).fail_once_at(point + 1, Fault::NoEffect);
                let outer: SharedDisk =
                    Arc::new(FaultyDisk::new(Arc::new(middle)).fail_once_at(point, fault));
                let _ = run(&outer, restart.clone());
                recover(&disk, &what);
            }
        }
    }
}
