//! A process with a two-phase sink and a write-ahead sink is killed at random moments, again and again. What the other systems hold then, which are
//! folders here, is exactly what a run without failures leaves in them.
//!
//! Only *when* it is killed depends on time; what must hold afterwards does not. `STRANDLINE_KILLS` sets how many kills there are at
//! least (20), `STRANDLINE_SEED` repeats the choices of a run that failed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::disallowed_methods)] // this is the world outside of a job: real threads, real time

mod common;
mod example;

use common::{Count, Gate, Numbers, expected_counts};
use example::Run;
use example::kills::Kills;
use example::random::Random;
use std::fs;
use std::io::{ErrorKind as IoErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use strandline::connectors::{BatchId, Deliver, DiskCommitter, WriteAhead};
use strandline::prelude::*;
use strandline::storage::FileSystem;
use strandline::{OpenTransaction, TransactionContext, TwoPhase, TwoPhaseCommit};

const SPLITS: u32 = 3;
const LEN: u64 = 3_000;
const KEYS: u64 = 7;

/// The child's orders: folder, parallelism, interval in milliseconds, records per second and subtask.
const ORDERS: &str = "STRANDLINE_SINKS_KILL";

fn open(folder: &Path) -> PathBuf {
    folder.join("broker/open")
}

fn prepared(folder: &Path) -> PathBuf {
    folder.join("broker/prepared")
}

fn committed(folder: &Path) -> PathBuf {
    folder.join("broker/committed")
}

fn table(folder: &Path) -> PathBuf {
    folder.join("table")
}

/// A broker whose transactions are files: open ones grow, a pre-committed one is whole, a committed one is renamed.
#[derive(Debug, Clone)]
struct Broker(PathBuf);

struct Transaction {
    name: String,
    lines: String,
    file: PathBuf,
    broker: Broker,
}

/// Whether it was there.
fn moved(from: &Path, to: &Path) -> Result<bool> {
    match fs::rename(from, to) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == IoErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn append(file: &Path, lines: &str) -> Result {
    let mut file = fs::OpenOptions::new().create(true).append(true).open(file)?;
    Ok(file.write_all(lines.as_bytes())?)
}

impl TwoPhaseCommit<(u64, u64)> for Broker {
    type Transaction = String;
    type Open = Transaction;

    fn begin(&self, context: &TransactionContext) -> Result<Transaction> {
        let name = context.name();
        let file = open(&self.0).join(&name);
        Ok(Transaction { name, lines: String::new(), file, broker: self.clone() })
    }

    async fn commit(&self, name: String) -> Result {
        let to = committed(&self.0).join(&name);
        if !moved(&prepared(&self.0).join(&name), &to)? && !to.exists() {
            return Err(format!("transaction {name} is gone").into());
        }
        Ok(())
    }

    async fn abort(&self, name: String) -> Result {
        assert!(!committed(&self.0).join(&name).exists(), "{name} is committed and aborted");
        let _ = fs::remove_file(open(&self.0).join(&name));
        let _ = fs::remove_file(prepared(&self.0).join(&name));
        Ok(())
    }

    async fn begin_recovery(&self, _: &RecoveryContext) -> Result {
        for folder in [open(&self.0), prepared(&self.0), committed(&self.0)] {
            fs::create_dir_all(folder)?;
        }
        Ok(())
    }

    async fn end_recovery(&self, _: &RecoveryContext) -> Result {
        for folder in [open(&self.0), prepared(&self.0)] {
            for left in fs::read_dir(folder)? {
                fs::remove_file(left?.path())?;
            }
        }
        Ok(())
    }
}

impl OpenTransaction<(u64, u64)> for Transaction {
    type Transaction = String;

    fn write(&mut self, (key, nth): (u64, u64)) -> Result {
        self.lines.push_str(&format!("{key} {nth}\n"));
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.lines.len() > 200
    }

    async fn flush(&mut self) -> Result {
        append(&self.file, &std::mem::take(&mut self.lines))
    }

    fn name(&self) -> Option<String> {
        Some(self.name.clone())
    }

    fn pre_commit(self) -> Result<BoxFuture<Result<Option<String>>>> {
        Ok(Box::pin(async move {
            append(&self.file, &self.lines)?;
            moved(&self.file, &prepared(&self.broker.0).join(&self.name))?;
            Ok(Some(self.name))
        }))
    }
}

/// A table without transactions: a batch that comes again replaces itself.
#[derive(Debug, Clone)]
struct Rows(PathBuf);

impl Deliver<(u64, u64)> for Rows {
    async fn deliver(&self, records: &[(u64, u64)], batch: &BatchId) -> Result<bool> {
        let lines: String = records.iter().map(|(key, nth)| format!("{key} {nth}\n")).collect();
        let name = format!("{}-{}", batch.checkpoint, batch.subtask);
        let half = table(&self.0).join(format!(".{name}"));
        fs::write(&half, lines)?;
        moved(&half, &table(&self.0).join(name))
    }
}

/// Not a test: what the child does. It says each checkpoint.
#[tokio::test]
async fn child() {
    let Ok(orders) = std::env::var(ORDERS) else { return };
    let [folder, parallelism, interval, rate] = orders.split('\n').collect::<Vec<_>>()[..] else {
        panic!("{orders:?}")
    };
    let folder = PathBuf::from(folder);
    fs::create_dir_all(table(&folder)).unwrap();
    let env = Environment::builder()
        .parallelism(parallelism.parse().unwrap())
        .checkpointing(Checkpointing::every(Duration::from_millis(interval.parse().unwrap())))
        .storage(FileSystem::at(folder.join("checkpoints")))
        .restart(RestartStrategy::none())
        .build()
        .unwrap();
    let numbers = Numbers { splits: SPLITS, len: LEN, gate: Gate::open() };
    let (one, other) = env
        .source("numbers", numbers.throttled(rate.parse().unwrap()))
        .key_by(|(_, number)| number % KEYS)
        .process("count", |setup| Ok(Count { seen: setup.value_state("seen")? }))
        .tee();
    one.sink("broker", TwoPhase::new(Broker(folder.clone())));
    other.sink("table", WriteAhead::new(Rows(folder.clone()), DiskCommitter::at(folder.join("marks"))));
    let job = env.start("sinks-kill").await.unwrap();
    let mut events = job.events();
    loop {
        match events.recv().await {
            // On a line of its own, whatever the harness has begun.
            Ok(JobEvent::CheckpointCompleted(done)) => println!("\ncheckpoint {}", done.checkpoint),
            Err(tokio::sync::broadcast::error::RecvError::Closed) => break,
            _ => {}
        }
    }
    assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
}

fn start(folder: &Path, parallelism: u64, interval: u64, rate: u64) -> Run {
    let orders = format!("{}\n{parallelism}\n{interval}\n{rate}", folder.display());
    let mut command = Command::new(std::env::current_exe().unwrap());
    Run::start(command.args(["child", "--exact", "--nocapture"]).env(ORDERS, orders))
}

/// All lines of all files of a folder, sorted; none of them half.
fn lines_in(folder: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    for file in fs::read_dir(folder).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        assert!(text.ends_with('\n'));
        lines.extend(text.lines().map(str::to_owned));
    }
    lines.sort_unstable();
    lines
}

/// What a reader of the broker sees, and one of the table.
fn outputs(folder: &Path) -> [Vec<String>; 2] {
    for left in [open(folder), prepared(folder)] {
        assert_eq!(fs::read_dir(&left).unwrap().count(), 0, "{} is not empty", left.display());
    }
    [lines_in(&committed(folder)), lines_in(&table(folder))]
}

#[test]
fn both_sinks_hold_what_a_run_without_failures_leaves_whenever_the_process_is_killed() {
    let whole = tempfile::tempdir().unwrap();
    start(whole.path(), 2, 50, 1_000_000).wait().well();
    let expected = outputs(whole.path());
    let mut counts: Vec<String> =
        expected_counts(SPLITS, LEN, KEYS).iter().map(|(key, nth)| format!("{key} {nth}")).collect();
    counts.sort_unstable();
    assert!(expected[0] == counts && expected[1] == counts, "without failures");

    let expected = &expected;
    Kills::run(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        let start = move |random: &mut Random, at_full_speed: bool| {
            let (parallelism, interval) = (1 + random.below(3), [10, 20, 50][random.index(3)]);
            let rate = if at_full_speed { 1_000_000 } else { [500, 1_000, 2_000][random.index(3)] };
            start(&path, parallelism, interval, rate)
        };
        (start, move || assert!(outputs(folder.path()) == *expected, "see STRANDLINE_SEED above"))
    });
}
