//! What the integration tests share.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, missing_docs)]

pub mod oracle;
pub mod slow;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;
use strandline::checkpoint::metadata::Manifest;
use strandline::prelude::*;
use strandline::storage::Disk;
use strandline::{SourceReader, SubtaskContext};
use tokio::sync::watch;

/// Far more than anything here takes: a test that gets there hangs.
pub const HANG: Duration = Duration::from_secs(120);

/// Fails the test if `future` hangs.
pub async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANG, future).await.unwrap_or_else(|_| panic!("hangs: {what}"))
}

/// How many rounds of everything that can go on there may be at one instant of virtual time: far more than any test needs.
const ROUNDS: u64 = 3_000_000;

/// Something keeps itself awake, and time never goes on.
#[derive(Debug)]
pub struct Spins;

/// Runs `future` on a single thread and on virtual time. Everything it left running is gone afterwards, as with a process.
pub fn virtual_process<T>(future: impl Future<Output = T>) -> T {
    bounded_virtual_process(future).unwrap_or_else(|Spins| panic!("something keeps itself awake for ever"))
}

/// See [`virtual_process`].
pub fn bounded_virtual_process<T>(future: impl Future<Output = T>) -> Result<T, Spins> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let local = tokio::task::LocalSet::new();
    runtime.block_on(async {
        let mut process = pin!(local.run_until(future));
        let (mut instant, mut rounds) = (tokio::time::Instant::now(), 0);
        poll_fn(|task| {
            let now = tokio::time::Instant::now();
            rounds = if now == instant { rounds + 1 } else { 0 };
            instant = now;
            if rounds > ROUNDS { Poll::Ready(Err(Spins)) } else { process.as_mut().poll(task).map(Ok) }
        })
        .await
    })
}

/// How far a [`Numbers`] source may go, and how far it has come.
#[derive(Debug, Clone)]
pub struct Gate {
    limit: Arc<watch::Sender<u64>>,
    positions: Arc<watch::Sender<BTreeMap<u32, u64>>>,
}

impl Gate {
    pub fn closed() -> Self {
        Self { limit: Arc::new(watch::Sender::new(0)), positions: Arc::default() }
    }

    pub fn open() -> Self {
        let gate = Self::closed();
        gate.open_to(u64::MAX);
        gate
    }

    /// Lets every split go up to this position.
    pub fn open_to(&self, position: u64) {
        self.limit.send_replace(position);
    }

    fn limit(&self) -> u64 {
        *self.limit.borrow()
    }

    /// Waits until all of so many splits have come to this position.
    pub async fn reached(&self, splits: u32, position: u64) {
        let mut positions = self.positions.subscribe();
        let there = |positions: &BTreeMap<u32, u64>| {
            (0..splits).all(|split| positions.get(&split).is_some_and(|at| *at >= position))
        };
        let _ = positions.wait_for(there).await;
    }
}

/// A part of [`Numbers`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NumberSplit {
    pub id: u32,
    pub next: u64,
}

/// In each split the numbers `0..len`; record: (split, number). Stops at a gate.
#[derive(Debug, Clone)]
pub struct Numbers {
    pub splits: u32,
    pub len: u64,
    pub gate: Gate,
}

impl Numbers {
    pub fn new(splits: u32, len: u64) -> Self {
        Self { splits, len, gate: Gate::open() }
    }

    pub fn gated(splits: u32, len: u64) -> (Self, Gate) {
        let gate = Gate::closed();
        (Self { splits, len, gate: gate.clone() }, gate)
    }
}

impl Source for Numbers {
    type Record = (u32, u64);
    type Split = NumberSplit;
    type Reader = NumbersReader;

    async fn splits(&self, restored: Option<Vec<NumberSplit>>) -> Result<Vec<NumberSplit>> {
        let splits =
            restored.unwrap_or_else(|| (0..self.splits).map(|id| NumberSplit { id, next: 0 }).collect());
        let mut ids: Vec<u32> = splits.iter().map(|split| split.id).collect();
        ids.sort_unstable();
        assert_eq!(ids, (0..self.splits).collect::<Vec<_>>(), "every split is restored once");
        Ok(splits)
    }

    fn reader(&self, splits: Vec<NumberSplit>, _: &SubtaskContext) -> Result<NumbersReader> {
        Ok(NumbersReader {
            limit: self.gate.limit.subscribe(),
            splits,
            len: self.len,
            gate: self.gate.clone(),
            current: 0,
        })
    }
}

#[derive(Debug)]
pub struct NumbersReader {
    splits: Vec<NumberSplit>,
    len: u64,
    gate: Gate,
    limit: watch::Receiver<u64>,
    current: usize,
}

impl SourceReader for NumbersReader {
    type Record = (u32, u64);
    type Split = NumberSplit;

    fn next(&mut self) -> Result<Option<(u32, u64)>> {
        let limit = self.gate.limit().min(self.len);
        for _ in 0..self.splits.len() {
            self.current = (self.current + 1) % self.splits.len();
            let split = &mut self.splits[self.current];
            if split.next < limit {
                split.next += 1;
                return Ok(Some((split.id, split.next - 1)));
            }
        }
        Ok(None)
    }

    async fn ready(&mut self) -> Result<bool> {
        self.gate.positions.send_modify(|positions| {
            positions.extend(self.splits.iter().map(|split| (split.id, split.next)));
        });
        let (splits, len) = (&self.splits, self.len);
        if splits.iter().all(|split| split.next >= len) {
            return Ok(false);
        }
        let open = |limit: &u64| splits.iter().any(|split| split.next < len.min(*limit));
        let _ = self.limit.wait_for(open).await;
        Ok(true)
    }

    fn splits(&self) -> Vec<NumberSplit> {
        self.splits.clone()
    }
}

/// Numbers the records of each key: (key, how many-th).
pub struct Count {
    pub seen: ValueState<u64>,
}

impl Operator for Count {
    type Key = u64;
    type Out = (u64, u64);
}

impl Handler<(u32, u64)> for Count {
    fn handle(&mut self, _: (u32, u64), ctx: &mut Context<'_, Self>) -> Result {
        let n = self.seen.get(ctx).unwrap_or(0) + 1;
        self.seen.set(ctx, n);
        ctx.emit((*ctx.key(), n));
        Ok(())
    }
}

/// What [`Count`] gives for `splits` times the numbers `0..len`, keyed by `number % keys`, sorted.
pub fn expected_counts(splits: u32, len: u64, keys: u64) -> Vec<(u64, u64)> {
    let mut counts = BTreeMap::<u64, u64>::new();
    for number in 0..len {
        *counts.entry(number % keys).or_default() += u64::from(splits);
    }
    counts.into_iter().flat_map(|(key, n)| (1..=n).map(move |i| (key, i))).collect()
}

pub fn sorted<T: Ord>(mut records: Vec<T>) -> Vec<T> {
    records.sort_unstable();
    records
}

/// Everything in a folder and below, as paths relative to it; with the content of files.
pub async fn tree(disk: &dyn Disk, root: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for name in disk.list(&dir).await.unwrap() {
            let path = dir.join(name);
            let relative = path.strip_prefix(root).unwrap().to_owned();
            if disk.len(&path).await.unwrap().is_some() {
                found.insert(relative, Some(disk.read(&path).await.unwrap()));
            } else {
                found.insert(relative, None);
                open.push(path);
            }
        }
    }
    found
}

/// Checkpoints only when they are asked for, as settings can have it.
pub fn on_request() -> Checkpointing {
    Checkpointing::every(Duration::from_secs(100_000_000))
}

/// The ways to be exact.
pub fn exact_modes() -> [(&'static str, Checkpointing); 3] {
    [
        ("aligned", on_request()),
        ("unaligned", on_request().unaligned()),
        ("aligned for a while", on_request().aligned_timeout(Duration::from_millis(20))),
    ]
}

/// How many records were in flight in the checkpoints that are there.
pub async fn in_flight_in(disk: &dyn Disk) -> u64 {
    let mut records = 0;
    for (path, content) in tree(disk, Path::new("")).await {
        // A crash may leave half of one.
        if let (true, Some(Ok(manifest))) =
            (path.ends_with("manifest"), content.map(|content| Manifest::decode(&content)))
        {
            let channels = manifest.in_flight.iter().flat_map(|edge| &edge.channels);
            records += channels.map(|channel| channel.records).sum::<u64>();
        }
    }
    records
}

/// The lines that a reader of a file sink's folder sees.
pub async fn visible_lines(disk: &dyn Disk, dir: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    for name in disk.list(dir).await.unwrap() {
        if !name.starts_with(['.', '_']) {
            let content = String::from_utf8(disk.read(&dir.join(name)).await.unwrap()).unwrap();
            lines.extend(content.lines().map(str::to_owned));
        }
    }
    lines
}

/// How many threads this process has that jobs start: system, arbiters, pool.
#[cfg(target_os = "linux")]
pub fn job_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok())
        .filter(|comm| comm.starts_with("actix-rt") || comm.contains("-job") || comm.contains("-pool"))
        .count()
}

/// Waits until no thread of a job is left. The very last instructions of a thread come after everything that can be waited for.
#[cfg(target_os = "linux")]
pub fn assert_no_threads_left() {
    for _ in 0..1000 {
        if job_threads() == 0 {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    panic!("{} threads of jobs are left", job_threads());
}

/// Keeps the panics that are part of a test out of its output.
pub fn quiet_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let default = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let payload = info.payload();
            let text = payload.downcast_ref::<&str>().copied();
            let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
            if !text.is_some_and(|text| text.starts_with("injected")) {
                default(info);
            }
        }));
    });
}

/// Goes off once, at the n-th call, in whatever subtask that is.
#[derive(Debug, Clone)]
pub struct Fuse(Arc<Mutex<u64>>);

impl Fuse {
    pub fn after(calls: u64) -> Self {
        Self(Arc::new(Mutex::new(calls)))
    }

    pub fn goes_off(&self) -> bool {
        let mut left = self.0.lock().unwrap();
        *left = left.wrapping_sub(1);
        *left == u64::MAX
    }

    pub fn went_off(&self) -> bool {
        *self.0.lock().unwrap() > u64::MAX / 2
    }
}

/// Waits until all subtasks of the job run: from then on it takes checkpoints.
pub async fn running(job: &strandline::JobHandle) {
    let _ = job.status().wait_for(|status| *status == JobStatus::Running || status.is_terminal()).await;
}

/// Leads a job over gated [`Numbers`] through a checkpoint at each of these positions to its end, or to where it fails.
pub async fn lead(
    job: &strandline::JobHandle,
    gate: &Gate,
    splits: u32,
    stops: &[u64],
) -> Result<JobStatus, Error> {
    for stop in stops {
        gate.open_to(*stop);
        tokio::select! {
            () = gate.reached(splits, *stop) => {}
            end = job.wait() => return end,
        }
        // Fails with the job, or with a restart of it.
        let _ = job.checkpoint().await;
    }
    gate.open_to(u64::MAX);
    job.wait().await
}
