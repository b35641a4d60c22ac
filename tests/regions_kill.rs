//! A process with two dataflows that share no records is killed at random moments, again and again, also while one of the two is being restarted by
//! itself. What both have written then is exactly what a run without failures writes.
//!
//! Only *when* it is killed depends on time; what must hold afterwards does not. `STRANDLINE_KILLS` sets how many kills there are at
//! least (20), `STRANDLINE_SEED` repeats the choices of a run that failed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::disallowed_methods)] // this is the world outside of a job: real threads, real time

mod common;
mod example;

use common::{Count, Gate, Numbers, expected_counts, sorted};
use example::Run;
use example::kills::Kills;
use example::random::Random;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use strandline::prelude::*;
use strandline::storage::FileSystem;
use tokio::sync::broadcast::error::RecvError;

const SPLITS: u32 = 3;
const LEN: u64 = 2_000;
const KEYS: u64 = 7;
const REGIONS: [&str; 2] = ["left", "right"];

/// The child's orders: folder, parallelism, interval in milliseconds, records per second and subtask, and which region fails once, at its how
/// many-th record of the run.
const ORDERS: &str = "STRANDLINE_REGIONS_KILL";

/// Not a test: what the child does. It says each checkpoint and each restart.
#[tokio::test]
async fn child() {
    let Ok(orders) = std::env::var(ORDERS) else { return };
    let [folder, parallelism, interval, rate, failing, fails_at] = orders.split('\n').collect::<Vec<_>>()[..]
    else {
        panic!("{orders:?}")
    };
    let folder = PathBuf::from(folder);
    let env = Environment::builder()
        .parallelism(parallelism.parse().unwrap())
        .checkpointing(Checkpointing::every(Duration::from_millis(interval.parse().unwrap())))
        .storage(FileSystem::at(folder.join("checkpoints")))
        .restart(RestartStrategy::fixed_delay(1, Duration::from_millis(20)))
        .build()
        .unwrap();
    for region in REGIONS {
        let numbers = Numbers { splits: SPLITS, len: LEN, gate: Gate::open() };
        let fails_at = if region == failing { fails_at.parse().unwrap() } else { u64::MAX };
        let records = Arc::new(AtomicU64::new(0));
        env.source(&format!("{region} numbers"), numbers.throttled(rate.parse().unwrap()))
            .key_by(|(_, number)| number % KEYS)
            .process(&format!("{region} count"), |setup| Ok(Count { seen: setup.value_state("seen")? }))
            .map(move |(key, nth)| {
                assert!(records.fetch_add(1, Ordering::SeqCst) + 1 != fails_at, "injected");
                format!("{key} {nth}")
            })
            .sink(&format!("{region} files"), FileSink::at(folder.join(region)));
    }
    let job = env.start("regions-kill").await.unwrap();
    let mut events = job.events();
    loop {
        match events.recv().await {
            // On a line of its own, whatever the harness has begun.
            Ok(JobEvent::CheckpointCompleted(done)) => println!("\ncheckpoint {}", done.checkpoint),
            Ok(JobEvent::Restarting { error, .. }) => println!("\nrestarting after {error}"),
            Err(RecvError::Closed) => break,
            _ => {}
        }
    }
    assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
}

/// `failing`: the region that fails once, and at which record.
fn start(folder: &Path, parallelism: u64, interval: u64, rate: u64, failing: (&str, u64)) -> Run {
    let (failing, fails_at) = failing;
    let orders = format!("{}\n{parallelism}\n{interval}\n{rate}\n{failing}\n{fails_at}", folder.display());
    let mut command = Command::new(std::env::current_exe().unwrap());
    Run::start(command.args(["child", "--exact", "--nocapture"]).env(ORDERS, orders))
}

/// All lines of all files of each region, sorted; nothing but whole files.
fn outputs(folder: &Path) -> [Vec<String>; 2] {
    REGIONS.map(|region| {
        let mut lines = Vec::new();
        for file in fs::read_dir(folder.join(region)).unwrap() {
            let file = file.unwrap();
            let name = file.file_name().into_string().unwrap();
            assert!(!name.starts_with(['.', '_']), "{region}: {name} was left");
            let text = fs::read_to_string(file.path()).unwrap();
            assert!(text.ends_with('\n'), "{region}: {name} does not end with a line");
            lines.extend(text.lines().map(str::to_owned));
        }
        sorted(lines)
    })
}

#[test]
fn both_regions_have_written_what_a_run_without_failures_writes_whenever_the_process_is_killed() {
    let whole = tempfile::tempdir().unwrap();
    start(whole.path(), 2, 50, 1_000_000, ("none", 0)).wait().well();
    let expected = outputs(whole.path());
    let counts = expected_counts(SPLITS, LEN, KEYS).into_iter().map(|(key, nth)| format!("{key} {nth}"));
    let counts = sorted(counts.collect());
    assert!(expected[0] == counts && expected[1] == counts, "without failures");

    let expected = &expected;
    Kills::run(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        let start = move |random: &mut Random, at_full_speed: bool| {
            let (parallelism, interval) = (1 + random.below(3), [10, 20, 50][random.index(3)]);
            let rate = if at_full_speed { 1_000_000 } else { [300, 600, 1_500][random.index(3)] };
            let failing = (REGIONS[random.index(2)], 1 + random.below(20));
            start(&path, parallelism, interval, rate, failing)
        };
        (start, move || assert!(outputs(folder.path()) == *expected, "see STRANDLINE_SEED above"))
    });
}
