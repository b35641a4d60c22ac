//! Whatever durable operation the machine dies at: the next process finishes with the output of a run without failures. Two subtasks of
//! each chain, so that their operations mix; `storage_faults` strikes a smaller job in more ways.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::slow::Slow;
use common::{
    Count, Gate, Numbers, exact_modes, expected_counts, in_flight_in, lead, on_request, sorted, tree,
    virtual_process, visible_lines,
};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use strandline::checkpoint::metadata::Manifest;
use strandline::prelude::*;
use strandline::storage::{Fault, FaultyDisk, MemoryDisk, OnDisk, SharedDisk};

const SPLITS: u32 = 2;
const LEN: u64 = 12;
const KEYS: u64 = 3;
/// Where checkpoints are taken; the final one follows.
const STOPS: [u64; 3] = [3, 6, 9];

/// How a life is lived.
#[derive(Clone)]
struct Life {
    parallelism: u32,
    checkpointing: Checkpointing,
    restart: RestartStrategy,
    /// Whether records pile up in front of the sink, so that there are some in flight at every checkpoint.
    slow: Duration,
}

impl Life {
    /// At parallelism 2, aligned.
    fn plain(restart: RestartStrategy) -> Self {
        Self { parallelism: 2, checkpointing: on_request(), restart, slow: Duration::ZERO }
    }

    fn of(checkpointing: &Checkpointing, parallelism: u32) -> Self {
        let restart = RestartStrategy::none();
        let (checkpointing, slow) = (checkpointing.clone(), Duration::from_millis(10));
        Self { parallelism, checkpointing, restart, slow }
    }
}

fn job(disk: &SharedDisk, life: &Life) -> (Environment, Gate) {
    let env = Environment::builder()
        .parallelism(life.parallelism)
        .checkpointing(life.checkpointing.clone())
        .seed(7)
        .storage(OnDisk::new(Arc::clone(disk), "checkpoints"))
        .restart(life.restart.clone())
        .build()
        .unwrap();
    let (numbers, gate) = Numbers::gated(SPLITS, LEN);
    env.source("numbers", numbers)
        .map(|record| record)
        .key_by(|(_, number)| number % KEYS)
        .process("count", |setup| Ok(Count { seen: setup.value_state("seen")? }))
        .map(|(key, n)| format!("{key} {n}"))
        .sink("out", Slow { sink: FileSink::at("out").disk(Arc::clone(disk)), each: life.slow });
    (env, gate)
}

/// One life of a process.
fn run(disk: &SharedDisk, life: &Life) -> Result<JobStatus, Error> {
    virtual_process(async {
        let (env, gate) = job(disk, life);
        let job = env.start_local("crashing").await?;
        lead(&job, &gate, SPLITS, &STOPS).await
    })
}

fn written(disk: &SharedDisk) -> Vec<String> {
    sorted(virtual_process(async { visible_lines(&**disk, Path::new("out")).await }))
}

fn expected() -> Vec<String> {
    let expected = expected_counts(SPLITS, LEN, KEYS);
    sorted(expected.iter().map(|(key, n)| format!("{key} {n}")).collect())
}

fn assert_exact_and_clean(disk: &SharedDisk, what: &str) {
    assert_eq!(written(disk), expected(), "{what}");
    assert_clean(disk, what);
}

fn assert_clean(disk: &SharedDisk, what: &str) {
    virtual_process(async {
        let all = tree(&**disk, Path::new("")).await;
        let names = || all.keys().map(|path| path.to_string_lossy().into_owned());
        let hidden: Vec<String> = names().filter(|path| path.contains("/.")).collect();
        assert!(hidden.is_empty(), "{what}: left {hidden:?}");
        let checkpoints = names().filter(|path| path.contains("/chk-") && path.matches('/').count() == 2);
        let checkpoints: BTreeSet<String> = checkpoints.collect();
        let manifests = all.iter().filter(|(path, _)| path.ends_with("manifest"));
        let manifests =
            manifests.map(|(path, content)| (path, Manifest::decode(content.as_ref().unwrap()).unwrap()));
        let (path, newest) = manifests.max_by_key(|(_, manifest)| manifest.checkpoint).unwrap();
        let folder = path.parent().unwrap();
        let of_others = newest.folders().into_iter().map(|name| folder.with_file_name(name));
        let needed = of_others.chain([folder.to_owned()]).map(|path| path.to_string_lossy().into_owned());
        assert_eq!(checkpoints, needed.collect(), "{what}: {:?}", names().collect::<Vec<_>>());
    });
}

/// A new process on a disk that works.
fn recover(disk: &SharedDisk, what: &str) {
    match run(disk, &Life::plain(RestartStrategy::none())) {
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
    assert_eq!(run(&shared, &Life::plain(RestartStrategy::none())).unwrap(), JobStatus::Finished);
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
            let end = run(&(Arc::new(dying.clone()) as SharedDisk), &Life::plain(RestartStrategy::none()));
            assert!(end.is_err() || !dying.is_dead(), "{fault:?} at {point}: {end:?}");
            recover(&disk, &format!("{fault:?} at {point}"));
        }
    }
}

/// Crashes everywhere in a life of this mode, and lets another go on from there at another parallelism. Gives the number of those that
/// began with records in flight.
fn crash_everywhere(checkpointing: &Checkpointing, after: impl Fn(&SharedDisk, &str)) -> usize {
    let disk = FaultyDisk::new(new_disk());
    assert_eq!(
        run(&(Arc::new(disk.clone()) as SharedDisk), &Life::of(checkpointing, 2)).unwrap(),
        JobStatus::Finished
    );
    let all = disk.operations();
    assert!(all > 100, "only {all} operations: are checkpoints taken at all?");
    let mut with_some_in_flight = 0;
    for fault in [Fault::NoEffect, Fault::TookEffect, Fault::PowerLoss, Fault::SomeLost(3)] {
        for point in 1..=all {
            let what = format!("{checkpointing:?}, {fault:?} at {point}");
            let disk = new_disk();
            let dying = FaultyDisk::new(Arc::clone(&disk)).die_at(point, fault);
            let end = run(&(Arc::new(dying.clone()) as SharedDisk), &Life::of(checkpointing, 2));
            assert!(end.is_err() || !dying.is_dead(), "{what}: {end:?}");
            with_some_in_flight += usize::from(virtual_process(in_flight_in(&*disk)) > 0);
            match run(&disk, &Life::of(checkpointing, [1, 3][point as usize % 2])) {
                Ok(JobStatus::Finished) => after(&disk, &what),
                other => panic!("{what}: {other:?}"),
            }
        }
    }
    with_some_in_flight
}

#[test]
fn every_crash_point_is_survived_with_barriers_that_overtake_and_at_another_parallelism() {
    for (mode, checkpointing) in &exact_modes()[1..] {
        let with_some_in_flight = crash_everywhere(checkpointing, assert_exact_and_clean);
        println!("{mode}: {with_some_in_flight} lives began with records in flight");
        assert!(with_some_in_flight > 10, "{mode}: only {with_some_in_flight}");
    }
}

#[test]
fn every_crash_point_is_survived_where_a_checkpoint_needs_the_files_of_others_and_at_another_parallelism() {
    for limit in [2, 3] {
        crash_everywhere(&on_request().incremental(true).max_increments(limit), assert_exact_and_clean);
    }
}

#[test]
fn at_least_once_no_crash_point_loses_anything() {
    let repeats = std::cell::Cell::new(0);
    let in_flight = crash_everywhere(&on_request().at_least_once(), |disk, what| {
        let mut written = written(disk);
        let all = written.len();
        written.dedup();
        repeats.set(repeats.get() + all - written.len());
        let missing: Vec<_> = expected().into_iter().filter(|line| !written.contains(line)).collect();
        assert!(missing.is_empty(), "{what}: {missing:?} are lost");
        assert_clean(disk, what);
    });
    println!("{} lines came twice", repeats.get());
    assert_eq!(in_flight, 0, "nothing is overtaken");
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
                let _ = run(&outer, &Life::plain(restart.clone()));
                recover(&disk, &what);
            }
        }
    }
}
