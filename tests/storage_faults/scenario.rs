//! The small, complete job, and the parts of its life that faults strike.

use super::common::{Count, Gate, Numbers, expected_counts, sorted, tree, virtual_process, visible_lines};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use strandline::prelude::*;
use strandline::storage::{Disk, Fault, FaultyDisk, Injection, MemoryDisk, OnDisk, Operation, SharedDisk};
use strandline::types::CheckpointId;
use strandline::{EnvironmentBuilder, JobHandle};

const SPLITS: u32 = 2;
const LEN: u64 = 12;
const KEYS: u64 = 3;
/// Keys from here on carry a total.
const TOTALS: u64 = 1000;
pub const JOB: &str = "faults";
pub const RETAIN: u32 = 2;
pub const MAX_INCREMENTS: u32 = 3;
/// Longer than a fault of one kind lasts, shorter than one of the other.
pub const CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(10);
pub const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// A part of a job's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scenario {
    /// The first start, one checkpoint, a cancel.
    Fresh,
    /// A start after two processes that died, checkpoints, the end.
    Resumed,
    /// The same with checkpoints that need the files of others.
    Incremental,
    /// A restart of the dataflow after a failure of the user's code.
    Restarted,
    /// A cancel that deletes the checkpoints.
    CancelDelete,
    /// An end that deletes the checkpoints.
    FinishDelete,
    /// A start on whatever there is, to the end. Not struck: shows that everything is there.
    Recovery,
}

impl Scenario {
    /// Those that are struck, and told of on the page.
    pub const ALL: [Self; 5] =
        [Self::Fresh, Self::Resumed, Self::Restarted, Self::CancelDelete, Self::FinishDelete];

    pub fn deletes(self) -> bool {
        matches!(self, Self::CancelDelete | Self::FinishDelete)
    }
}

/// How much a job bears.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Patience {
    /// No failed checkpoint, no restart.
    None,
    /// Three failed checkpoints in a row, no restart.
    Checkpoints,
    /// No failed checkpoint, but restarts.
    Restarts,
}

/// Counts what passes, and says so at the end.
struct Passed {
    seen: SplitListState<u64>,
    fails: Arc<AtomicBool>,
}

impl Operator for Passed {
    type Key = Unkeyed;
    type Out = (u32, u64);

    fn finish(&mut self, ctx: &mut OperatorContext<'_, Self>) -> Result {
        let total = self.seen.get(ctx).iter().sum::<u64>();
        self.seen.clear(ctx);
        ctx.emit((u32::MAX, total));
        Ok(())
    }
}

impl Handler<(u32, u64)> for Passed {
    fn handle(&mut self, record: (u32, u64), ctx: &mut Context<'_, Self>) -> Result {
        if self.fails.swap(false, Ordering::SeqCst) {
            return Err("the user's code failed".into());
        }
        self.seen.update(ctx, |seen| match seen.first_mut() {
            Some(first) => *first += 1,
            None => seen.push(1),
        });
        ctx.emit(record);
        Ok(())
    }
}

struct Described {
    env: Environment,
    gate: Gate,
    fails: Arc<AtomicBool>,
}

fn describe(disk: &SharedDisk, scenario: Scenario, patience: Patience) -> Described {
    describe_with(Environment::builder(), disk, scenario, patience)
}

fn describe_with(
    builder: EnvironmentBuilder,
    disk: &SharedDisk,
    scenario: Scenario,
    patience: Patience,
) -> Described {
    let retention = if scenario.deletes() { Retention::Delete } else { Retention::Retain };
    let tolerated = if patience == Patience::Checkpoints { 3 } else { 0 };
    let restarts = match (patience, scenario) {
        (Patience::Restarts, _) => 3,
        (_, Scenario::Restarted) => 1,
        _ => 0,
    };
    let env = builder
        .parallelism(1)
        .seed(7)
        .storage(OnDisk::new(Arc::clone(disk), "checkpoints"))
        .checkpointing(
            Checkpointing::every(Duration::from_secs(1_000_000))
                .timeout(CHECKPOINT_TIMEOUT)
                .tolerable_failures(tolerated)
                .retain(RETAIN)
                .incremental(scenario == Scenario::Incremental)
                .max_increments(MAX_INCREMENTS)
                .on_cancellation(retention),
        )
        .stop_timeout(STOP_TIMEOUT)
        .restart(RestartStrategy::fixed_delay(restarts, Duration::from_secs(1)))
        .build()
        .unwrap();
    let (numbers, gate) = Numbers::gated(SPLITS, LEN);
    let fails = Arc::new(AtomicBool::new(false));
    let fuse = Arc::clone(&fails);
    env.source("numbers", numbers)
        .process("passed", move |setup| {
            Ok(Passed { seen: setup.split_list("seen")?, fails: Arc::clone(&fuse) })
        })
        .key_by(|(split, number)| if *split == u32::MAX { TOTALS + number } else { number % KEYS })
        .process("count", |setup| Ok(Count { seen: setup.value_state("seen")? }))
        .map(|(key, n)| format!("{key} {n}"))
        .sink("out", FileSink::at("out").disk(Arc::clone(disk)));
    Described { env, gate, fails }
}

/// What became of a life.
#[derive(Debug)]
pub struct Life {
    pub started: bool,
    pub end: Result<JobStatus, Error>,
    pub resumed_from: Option<CheckpointId>,
    /// Checkpoints of which the job said that they are complete.
    pub completed: Vec<CheckpointId>,
    /// Why others were not.
    pub failed: Vec<String>,
    pub restarts: usize,
    /// How many operations there had been when the part began that the scenario is about.
    pub mark: u64,
}

/// Fails the test if `future` takes longer than anything here, in virtual time.
fn process<T>(future: impl Future<Output = T>) -> T {
    let week = Duration::from_secs(7 * 24 * 3600);
    virtual_process(async { tokio::time::timeout(week, future).await.expect("hangs") })
}

/// One life of a process on this disk. If that is full, somebody makes room when the job says that a checkpoint has failed, or nobody.
pub fn live(disk: &FaultyDisk, scenario: Scenario, patience: Patience, makes_room: bool) -> Life {
    let shared: SharedDisk = Arc::new(disk.clone());
    process(async {
        let described = describe(&shared, scenario, patience);
        let mut life = Life {
            started: false,
            end: Ok(JobStatus::Starting),
            resumed_from: None,
            completed: Vec::new(),
            failed: Vec::new(),
            restarts: 0,
            mark: 0,
        };
        let job = match described.env.start_local(JOB).await {
            Ok(job) => job,
            Err(error) => return Life { end: Err(error), ..life },
        };
        let mut events = job.events();
        life.started = true;
        life.resumed_from = job.resumed_from();
        let mut failures = job.events();
        let room = async {
            while let Ok(event) = failures.recv().await {
                if makes_room && !matches!(event, JobEvent::CheckpointCompleted(_)) {
                    disk.set_space(None);
                }
            }
            job.wait().await
        };
        life.end = tokio::select! {
            end = lead(&job, &described, scenario, disk, &mut life.mark) => end,
            end = room => end,
        };
        while let Ok(event) = events.try_recv() {
            match event {
                JobEvent::CheckpointCompleted(completed) => life.completed.push(completed.checkpoint),
                JobEvent::CheckpointFailed { reason, .. } => life.failed.push(reason),
                JobEvent::Restarting { .. } => life.restarts += 1,
                _ => {}
            }
        }
        life
    })
}

/// Leads a job through its scenario, or to where it fails.
async fn lead(
    job: &JobHandle,
    described: &Described,
    scenario: Scenario,
    disk: &FaultyDisk,
    mark: &mut u64,
) -> Result<JobStatus, Error> {
    let gate = &described.gate;
    let stops: &[u64] = match scenario {
        Scenario::Fresh => &[3],
        Scenario::Resumed => &[8],
        Scenario::Incremental => &[8, 9, 10, 11],
        Scenario::Recovery => &[],
        Scenario::Restarted | Scenario::CancelDelete | Scenario::FinishDelete => &[9],
    };
    for stop in stops {
        if !reach(job, gate, *stop).await {
            return job.wait().await;
        }
        let _ = job.checkpoint().await;
    }
    *mark = disk.trace().len() as u64;
    match scenario {
        Scenario::Fresh | Scenario::CancelDelete => job.cancel().await,
        Scenario::Resumed | Scenario::Incremental | Scenario::FinishDelete | Scenario::Recovery => {
            gate.open_to(u64::MAX);
            job.wait().await
        }
        Scenario::Restarted => {
            described.fails.store(true, Ordering::SeqCst);
            if !reach(job, gate, 10).await {
                return job.wait().await;
            }
            job.cancel().await
        }
    }
}

/// Whether the sources came there before the job ended.
async fn reach(job: &JobHandle, gate: &Gate, position: u64) -> bool {
    gate.open_to(position);
    tokio::select! {
        () = gate.reached(SPLITS, position) => true,
        _ = job.wait() => false,
    }
}

/// What the scenario finds.
fn image(scenario: Scenario) -> SharedDisk {
    let disk: SharedDisk = Arc::new(MemoryDisk::new());
    if scenario == Scenario::Fresh {
        return disk;
    }
    // Two checkpoints; then the process dies with all of the third one written but its manifest.
    let dying = FaultyDisk::new(Arc::clone(&disk));
    dying.inject(Injection::of(Fault::Torn).on([Operation::Publish]).at_path("/manifest").at(3).then_die());
    process(async {
        let described = describe(&(Arc::new(dying.clone()) as SharedDisk), scenario, Patience::None);
        let job = described.env.start_local(JOB).await.unwrap();
        for stop in [3, OUTPUT_FOUND, 7] {
            assert!(reach(&job, &described.gate, stop).await);
            let _ = job.checkpoint().await;
        }
    });
    assert!(dying.is_dead());
    // The next one dies while it claims the job.
    let dying = FaultyDisk::new(Arc::clone(&disk));
    dying.inject(Injection::of(Fault::Torn).on([Operation::Publish]).at_path("/log/").at(1).then_die());
    assert!(live(&dying, scenario, Patience::None, false).end.is_err() && dying.is_dead());
    disk
}

/// Two processes at the same time on one disk: to the first, one operation seems to take so long; the second takes the job over
/// meanwhile. How each ended.
#[allow(clippy::disallowed_methods)]
pub fn overtake(inner: &SharedDisk, slow: Injection, delay: Duration) -> [Result<JobStatus, Error>; 2] {
    process(async {
        let disk = FaultyDisk::new(Arc::clone(inner)).failing(slow);
        let slow: SharedDisk = Arc::new(disk.clone());
        let first = async {
            let described = describe(&slow, Scenario::Resumed, Patience::None);
            let job = described.env.start_local(JOB).await?;
            lead(&job, &described, Scenario::Resumed, &disk, &mut 0).await
        };
        let second = async {
            tokio::time::sleep(delay / 10).await;
            let builder = Environment::builder().take_over();
            let described = describe_with(builder, inner, Scenario::Recovery, Patience::None);
            let job = described.env.start_local(JOB).await?;
            // The late operation of the first falls into the midst of this.
            for stop in [6, 9, 11] {
                if !reach(&job, &described.gate, stop).await {
                    break;
                }
                let _ = job.checkpoint().await;
                tokio::time::sleep(delay / 2).await;
            }
            described.gate.open_to(u64::MAX);
            job.wait().await
        };
        futures::future::join(first, second).await.into()
    })
}

/// What a scenario finds, to be copied.
pub struct Image(Vec<(PathBuf, Option<Vec<u8>>)>);

impl Image {
    pub fn of(scenario: Scenario) -> Self {
        let files = futures::executor::block_on(tree(&*image(scenario), Path::new("")));
        Self(files.into_iter().collect())
    }

    pub fn copy(&self) -> SharedDisk {
        let disk = MemoryDisk::new();
        futures::executor::block_on(async {
            for (path, content) in &self.0 {
                match content {
                    Some(content) => disk.publish(path, content.clone()).await.unwrap(),
                    None => disk.create_dir(path).await.unwrap(),
                }
            }
        });
        Arc::new(disk)
    }
}

/// What is on a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What a reader of the sink's folder sees, sorted.
    pub lines: Vec<String>,
    /// Files and folders.
    pub names: Vec<String>,
}

impl Found {
    pub fn on(disk: &SharedDisk) -> Self {
        futures::executor::block_on(async {
            let lines = sorted(visible_lines(&**disk, Path::new("out")).await);
            let names = tree(&**disk, Path::new("")).await.into_keys();
            Self { lines, names: names.map(|path| path.to_str().unwrap().to_owned()).collect() }
        })
    }

    pub fn checkpoints(&self) -> usize {
        self.names.iter().filter(|name| name.contains("/chk-") && name.matches('/').count() == 2).count()
    }

    /// Everything but what a job leaves for good: its log without old checkpoints, here at most so many entries, one lock, the last
    /// checkpoint, and its output. See `docs/storage-faults.md`.
    pub fn garbage(&self, most: usize) -> Vec<&str> {
        let mut garbage: Vec<&str> = Vec::new();
        let (mut locks, mut entries) = (0, 0);
        for name in &self.names {
            let (folder, file) = name.rsplit_once('/').unwrap_or(("", name));
            let (chk, first) = (folder.contains("/chk-"), file.split('-').next().unwrap());
            let is_kept = match (folder, first) {
                ("", "checkpoints" | "out")
                | ("checkpoints", JOB)
                | ("checkpoints/faults", "log" | "chk") => true,
                ("checkpoints/faults", "lock") => {
                    locks += 1;
                    locks <= 1
                }
                // A claim of each process that came so far, the last checkpoint, the end.
                ("checkpoints/faults/log", sequence) => {
                    entries += 1;
                    sequence.len() == 20 && entries <= most
                }
                ("out", "part") => true,
                _ => chk && (file == "manifest" || file.starts_with("state-a")),
            };
            if !is_kept {
                garbage.push(name);
            }
        }
        garbage
    }
}

/// Up to where each split was read in the last checkpoint of an image.
pub const OUTPUT_FOUND: u64 = 5;

/// The output of a job that was stopped when its splits were read up to there.
pub fn output_up_to(position: u64) -> Vec<String> {
    let counts = expected_counts(SPLITS, position, KEYS).into_iter();
    sorted(counts.map(|(key, n)| format!("{key} {n}")).collect())
}

/// The output of a run without failures.
pub fn whole_output() -> Vec<String> {
    let total = TOTALS + u64::from(SPLITS) * LEN;
    let mut lines = output_up_to(LEN);
    lines.push(format!("{total} 1"));
    sorted(lines)
}
