//! State is written and read back several files at once, and never more than the settings allow.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use async_trait::async_trait;
use common::{Count, Gate, Numbers, expected_counts, in_time, on_request, running, sorted, virtual_process};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use strandline::checkpoint::Checkpointing;
use strandline::prelude::*;
use strandline::storage::{Disk, DiskFile, DiskLock, MemoryDisk, OnDisk};

const SPLITS: u32 = 2;
const LEN: u64 = 60;
const KEYS: u64 = 40;
const PARALLELISM: u32 = 8;

/// A disk on which reading and writing state takes its time, and that counts how much of it there is at once.
#[derive(Debug, Clone, Default)]
struct Busy {
    disk: MemoryDisk,
    counts: Arc<Mutex<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    now: u32,
    /// Writes, and reads.
    most: [u32; 2],
    reads: u64,
    /// The read that fails.
    fails: Option<u64>,
    /// What is written to files whose path contains this never ends.
    hangs: Option<&'static str>,
}

/// One call, until it is dropped.
struct Call(Arc<Mutex<Counts>>);

impl Drop for Call {
    fn drop(&mut self) {
        self.0.lock().unwrap().now -= 1;
    }
}

impl Busy {
    async fn call(&self, is_read: bool) -> Call {
        {
            let mut counts = self.counts.lock().unwrap();
            counts.now += 1;
            let now = counts.now;
            let most = &mut counts.most[usize::from(is_read)];
            *most = now.max(*most);
        }
        let call = Call(Arc::clone(&self.counts));
        tokio::time::sleep(Duration::from_millis(10)).await;
        call
    }

    fn reset(&self) {
        *self.counts.lock().unwrap() = Counts::default();
    }

    fn most(&self) -> [u32; 2] {
        self.counts.lock().unwrap().most
    }
}

#[derive(Debug)]
struct BusyFile {
    file: Box<dyn DiskFile>,
    disk: Busy,
    hangs: bool,
}

#[async_trait]
impl DiskFile for BusyFile {
    async fn write(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        let _call = self.disk.call(false).await;
        if self.hangs {
            std::future::pending::<()>().await;
        }
        self.file.write(bytes).await
    }

    async fn sync(&mut self) -> io::Result<()> {
        let _call = self.disk.call(false).await;
        self.file.sync().await
    }
}

#[async_trait]
impl Disk for Busy {
    async fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.disk.read(path).await
    }

    async fn read_range(&self, path: &Path, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        if offset == 0 {
            // Before a job is started, the beginning of each file is looked at.
            return self.disk.read_range(path, offset, len).await;
        }
        let fails = {
            let mut counts = self.counts.lock().unwrap();
            counts.reads += 1;
            counts.fails == Some(counts.reads)
        };
        let _call = self.call(true).await;
        if fails {
            return Err(io::Error::other("the cable was pulled"));
        }
        self.disk.read_range(path, offset, len).await
    }

    async fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = self.disk.create(path).await?;
        if !path.to_string_lossy().contains("/state-") {
            return Ok(file);
        }
        let hangs = self.counts.lock().unwrap().hangs;
        let hangs = hangs.is_some_and(|part| path.to_string_lossy().contains(part));
        Ok(Box::new(BusyFile { file, disk: self.clone(), hangs }))
    }

    async fn len(&self, path: &Path) -> io::Result<Option<u64>> {
        self.disk.len(path).await
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir).await
    }

    async fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir(dir).await
    }

    async fn publish(&self, path: &Path, content: Vec<u8>) -> io::Result<()> {
        self.disk.publish(path, content).await
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to).await
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir).await
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path).await
    }

    async fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.remove_dir(dir).await
    }

    async fn lock(&self, path: &Path, note: &str) -> io::Result<Option<DiskLock>> {
        self.disk.lock(path, note).await
    }
}

fn job(disk: &Busy, checkpointing: Checkpointing, out: &Collect<(u64, u64)>) -> (Environment, Gate) {
    let env = Environment::builder()
        .parallelism(PARALLELISM)
        .checkpointing(checkpointing)
        .restart(RestartStrategy::none())
        .storage(OnDisk::new(Arc::new(disk.clone()), "checkpoints"))
        .build()
        .unwrap();
    let (numbers, gate) = Numbers::gated(SPLITS, LEN);
    env.source("numbers", numbers)
        .key_by(|(_, number)| number % KEYS)
        .process("count", |setup| Ok(Count { seen: setup.value_state("seen")? }))
        .sink("out", out.clone());
    (env, gate)
}

/// Runs to a position and takes so many checkpoints.
fn live(disk: &Busy, checkpointing: Checkpointing, out: &Collect<(u64, u64)>, to: u64, checkpoints: usize) {
    virtual_process(in_time("a life", async {
        let (env, gate) = job(disk, checkpointing, out);
        let job = env.start_local("transfers").await.unwrap();
        running(&job).await;
        gate.open_to(to);
        gate.reached(SPLITS, to).await;
        for _ in 0..checkpoints {
            job.checkpoint().await.unwrap();
        }
        job.cancel().await.unwrap();
    }));
}

/// Runs from the last checkpoint to the end.
fn finish(disk: &Busy, checkpointing: Checkpointing, out: &Collect<(u64, u64)>) -> Result<JobStatus, String> {
    virtual_process(in_time("the last life", async {
        let (env, gate) = job(disk, checkpointing, out);
        gate.open_to(u64::MAX);
        let job = env.start_local("transfers").await.map_err(|error| error.to_string())?;
        job.wait().await.map_err(|error| error.to_string())
    }))
}

#[test]
fn never_more_is_written_or_read_at_once_than_is_allowed_and_nothing_is_lost() {
    for (allowed, incremental) in [(1, false), (2, true), (3, false), (100, false)] {
        let (disk, out) = (Busy::default(), Collect::new());
        let settings = || on_request().incremental(incremental).max_transfers(allowed);
        live(&disk, settings(), &out, 20, 3);
        let [writes, _] = disk.most();
        // Two sources and eight subtasks that count.
        assert_eq!(writes, allowed.min(PARALLELISM + SPLITS), "{allowed}");
        disk.reset();
        live(&disk, settings(), &out, 40, 2);
        let [_, reads] = disk.most();
        assert_eq!(reads, allowed.min(PARALLELISM), "{allowed}");
        assert_eq!(finish(&disk, settings(), &out), Ok(JobStatus::Finished));
        assert_eq!(sorted(out.records()), expected_counts(SPLITS, LEN, KEYS));
    }
}

/// The first of them in order, whichever is answered first.
#[test]
fn whichever_read_fails_the_job_says_so_and_goes_on_when_it_is_started_again() {
    let (disk, out) = (Busy::default(), Collect::new());
    let settings = || on_request().max_transfers(3);
    live(&disk, settings(), &out, 20, 1);
    disk.reset();
    live(&disk, settings(), &out, 20, 0);
    let reads = disk.counts.lock().unwrap().reads;
    assert!(reads >= u64::from(PARALLELISM), "{reads}");
    for fails in 1..=reads {
        disk.reset();
        disk.counts.lock().unwrap().fails = Some(fails);
        let error = finish(&disk, settings(), &out).unwrap_err();
        for part in ["read the state", "the cable was pulled", "checkpoint 1"] {
            assert!(error.contains(part), "`{part}` is missing in {error}");
        }
    }
    disk.reset();
    assert_eq!(finish(&disk, settings(), &out), Ok(JobStatus::Finished));
    assert_eq!(sorted(out.records()), expected_counts(SPLITS, LEN, KEYS));
}

#[test]
fn what_is_given_up_leaves_its_turn_to_the_next_checkpoint() {
    let (disk, out) = (Busy::default(), Collect::new());
    disk.counts.lock().unwrap().hangs = Some("chk-1-");
    let settings = on_request().max_transfers(2).timeout(Duration::from_secs(5)).tolerable_failures(1);
    virtual_process(in_time("a life", async {
        let (env, gate) = job(&disk, settings, &out);
        let job = env.start_local("transfers").await.unwrap();
        running(&job).await;
        gate.open_to(20);
        gate.reached(SPLITS, 20).await;
        let given_up = job.checkpoint().await.unwrap_err().to_string();
        assert!(given_up.contains("timed out"), "{given_up}");
        job.checkpoint().await.unwrap();
        assert_eq!(disk.counts.lock().unwrap().now, 0, "nothing of the first is left");
        gate.open_to(u64::MAX);
        assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
    }));
    assert_eq!(disk.most()[0], 2);
    assert_eq!(sorted(out.records()), expected_counts(SPLITS, LEN, KEYS));
}
