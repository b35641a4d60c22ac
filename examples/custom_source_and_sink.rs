//! A source and a sink of one's own, exactly once, whatever dies.
//!
//! ```console
//! $ cargo run --release --example custom_source_and_sink
//! ```
//!
//! The source reads a log that is only ever appended to: its position is how many bytes it has read. The sink writes in two phases: at each
//! checkpoint it hands over what it was given since the last one, and when the checkpoint has completed, that appears in a ledger, all at
//! once.
//!
//! The job adds up payments by account. It runs in a child process: there an operator fails, on purpose, and the job restarts;
//! then the whole process is killed. A second one goes on from the last checkpoint. In the end the ledger is compared with what a
//! plain loop over the log gives: nothing is lost and nothing doubled.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use strandline::prelude::*;
use strandline::types::{Attempt, Generation};

// --- the source ---------------------------------------------------------------------------------------------------------

/// Reads the lines of a log, up to its end. A last line without its newline is not there yet.
#[derive(Clone)]
struct Log(PathBuf);

impl Source for Log {
    type Record = String;
    /// A log is read as a whole; all there is to know is how many of its bytes have been.
    type Split = u64;
    type Reader = LogReader;

    fn parallelism(&self) -> Option<u32> {
        Some(1)
    }

    async fn splits(&self, restored: Option<Vec<u64>>) -> Result<Vec<u64>> {
        Ok(restored.unwrap_or_else(|| vec![0]))
    }

    fn reader(&self, splits: Vec<u64>, _: &SubtaskContext) -> Result<LogReader> {
        let [position] = splits[..] else { return Err("a log has one position".into()) };
        Ok(LogReader { path: self.0.clone(), position, ahead: VecDeque::new() })
    }
}

struct LogReader {
    path: PathBuf,
    position: u64,
    /// Read, but not yet given.
    ahead: VecDeque<String>,
}

impl SourceReader for LogReader {
    type Record = String;
    type Split = u64;

    fn next(&mut self) -> Result<Option<String>> {
        let Some(mut line) = self.ahead.pop_front() else { return Ok(None) };
        self.position += line.len() as u64; // record and position move together: that is what makes it exact
        line.pop();
        Ok(Some(line))
    }

    async fn ready(&mut self) -> Result<bool> {
        let (path, position) = (self.path.clone(), self.position);
        self.ahead = blocking(move || read_lines(&path, position)).await?;
        Ok(!self.ahead.is_empty())
    }

    fn splits(&self) -> Vec<u64> {
        vec![self.position]
    }
}

/// Some whole lines, with their newlines.
fn read_lines(path: &Path, position: u64) -> io::Result<VecDeque<String>> {
    let mut log = BufReader::new(File::open(path)?);
    log.seek(SeekFrom::Start(position))?;
    let (mut lines, mut line) = (VecDeque::new(), String::new());
    while lines.len() < 1000 && log.read_line(&mut line)? > 0 && line.ends_with('\n') {
        lines.push_back(std::mem::take(&mut line));
    }
    Ok(lines)
}

// --- the sink -----------------------------------------------------------------------------------------------------------

/// Appends lines to a ledger, a batch at a time. What is prepared travels in the checkpoint itself, which suits small output; large
/// output would be prepared in files, as `FileSink` does. Written by one subtask.
#[derive(Clone)]
struct LedgerSink(PathBuf);

/// The whole file. It says itself what is in it: so a batch that is committed again is told from a new one.
#[derive(Default, Serialize, Deserialize)]
struct Ledger {
    last: Option<BatchId>,
    lines: Vec<String>,
}

/// No two batches have the same, and later ones are larger, across all restarts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct BatchId {
    generation: Generation,
    attempt: Attempt,
    number: u64,
}

#[derive(Clone, Serialize, Deserialize)]
struct Batch {
    id: BatchId,
    lines: Vec<String>,
}

impl Sink<String> for LedgerSink {
    type Commit = Batch;
    type Writer = LedgerWriter;

    fn writer(&self, context: &SubtaskContext) -> Result<LedgerWriter> {
        if context.parallelism != 1 {
            return Err("a ledger is written by one subtask: set parallelism(1)".into());
        }
        let next = BatchId { generation: context.generation, attempt: context.attempt, number: 0 };
        Ok(LedgerWriter { lines: Vec::new(), next })
    }

    /// Also called at every start, with what the checkpoint holds: some or all of it may be in the ledger.
    async fn commit(&self, batches: Vec<Batch>) -> Result {
        let path = self.0.clone();
        blocking(move || {
            let mut ledger = Ledger::read(&path)?;
            for batch in batches {
                if ledger.last < Some(batch.id) {
                    ledger.last = Some(batch.id);
                    ledger.lines.extend(batch.lines);
                }
            }
            ledger.replace(&path)
        })
        .await
    }
}

struct LedgerWriter {
    lines: Vec<String>,
    next: BatchId,
}

impl SinkWriter<String> for LedgerWriter {
    type Commit = Batch;

    fn write(&mut self, line: String) -> Result {
        self.lines.push(line);
        Ok(())
    }

    async fn flush(&mut self) -> Result {
        Ok(())
    }

    fn prepare(&mut self) -> Result<BoxFuture<Result<Vec<Batch>>>> {
        let batch = Batch { id: self.next, lines: std::mem::take(&mut self.lines) };
        self.next.number += 1;
        Ok(Box::pin(async move { Ok(vec![batch]) }))
    }
}

impl Ledger {
    fn read(path: &Path) -> io::Result<Self> {
        match fs::read(path) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// A reader sees the old content or the new one, whatever dies in between.
    fn replace(&self, path: &Path) -> io::Result<()> {
        let new = path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        // The new name, too, must survive a power cut before the checkpoint forgets the batch.
        File::open(path.parent().unwrap_or(path))?.sync_all()
    }
}

/// File work blocks. The threads of a job must not be blocked.
#[allow(clippy::disallowed_methods)] // which are those of the library's own code
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T> {
    Ok(tokio::task::spawn_blocking(work).await??)
}

// --- the job ------------------------------------------------------------------------------------------------------------

const FAILS_AT: u64 = 700;

#[tokio::main(flavor = "current_thread")]
async fn run_job(dir: &Path) -> Result {
    let env = Environment::builder()
        .parallelism(1)
        .checkpointing(Checkpointing::every(Duration::from_millis(100)))
        .storage(FileSystem::at(dir.join("checkpoints")))
        .restart(RestartStrategy::fixed_delay(3, Duration::from_millis(100)))
        .build()?;

    let failed = Arc::new(AtomicBool::new(false));
    env.source("log", Log(dir.join("log")).throttled(2_000))
        .try_map(move |line| {
            let (account, amount) = line.split_once(' ').ok_or_else(|| format!("{line:?} is no payment"))?;
            let amount: u64 = amount.parse()?;
            if amount == FAILS_AT && !failed.swap(true, Ordering::Relaxed) {
                return Err(format!("a payment of {FAILS_AT} is one too many").into());
            }
            Ok((account.to_owned(), amount))
        })
        .key_by(|(account, _)| account.clone())
        .map_with_state("balance", |(account, amount), balance: Option<u64>| {
            let balance = balance.unwrap_or(0) + amount;
            (format!("{account} {amount} {balance}"), Some(balance))
        })
        .sink("ledger", LedgerSink(dir.join("ledger")));

    let job = env.start("payments").await?;
    match job.resumed_from() {
        Some(checkpoint) => println!("going on from checkpoint {checkpoint}"),
        None => println!("beginning at the start of the log"),
    }
    let mut events = job.events();
    while let Ok(event) = events.recv().await {
        match event {
            JobEvent::CheckpointCompleted(done) => println!("checkpoint {}", done.checkpoint),
            JobEvent::Restarting { error, after } => println!("restarting in {after:?}: {error}"),
            _ => {}
        }
    }
    job.wait().await?;
    println!("the log is read to its end");
    Ok(())
}

// --- the story ----------------------------------------------------------------------------------------------------------

const PAYMENTS: u64 = 3_000;

/// With a folder, runs the job in it; without, plays the story.
fn main() -> Result {
    if let Some(dir) = std::env::args_os().nth(1) {
        return run_job(Path::new(&dir));
    }
    let dir = tempfile::tempdir()?;
    let log: Vec<_> = (1..=PAYMENTS).map(|n| (["ada", "ben", "cleo"][n as usize % 3], n)).collect();
    let lines: String = log.iter().map(|(account, amount)| format!("{account} {amount}\n")).collect();
    fs::write(dir.path().join("log"), lines)?;

    println!("the first process, killed at its third checkpoint after a restart:");
    let mut checkpoints = None;
    let killed = in_child(dir.path(), |line| {
        match line.split(' ').next() {
            Some("restarting") => checkpoints = Some(0),
            Some("checkpoint") => checkpoints = checkpoints.map(|n| n + 1),
            _ => {}
        }
        checkpoints == Some(3)
    })?;
    let ledger = Ledger::read(&dir.path().join("ledger"))?;
    println!("{killed}; {} payments are in the ledger\n", ledger.lines.len());

    println!("the second process:");
    let ended = in_child(dir.path(), |_| false)?;
    let ledger = Ledger::read(&dir.path().join("ledger"))?;
    println!("{ended}; {} payments are in the ledger\n", ledger.lines.len());

    let mut balances = BTreeMap::new();
    let expected = log.into_iter().map(|(account, amount)| {
        let balance = balances.entry(account).or_insert(0);
        *balance += amount;
        format!("{account} {amount} {balance}")
    });
    assert!(ledger.lines.into_iter().eq(expected), "the ledger is not what a plain loop gives");
    println!("the ledger matches a plain loop over the log: {balances:?}");
    Ok(())
}

/// Runs this program again, with a job in it, until it has ended or says what `kill_at` waits for. Says how it ended.
fn in_child(dir: &Path, mut kill_at: impl FnMut(&str) -> bool) -> Result<ExitStatus> {
    let mut child = Command::new(std::env::current_exe()?).arg(dir).stdout(Stdio::piped()).spawn()?;
    for line in child.stdout.take().into_iter().flat_map(|out| BufReader::new(out).lines()) {
        let line = line?;
        println!("  | {line}");
        if kill_at(&line) {
            child.kill()?;
        }
    }
    Ok(child.wait()?)
}
