//! The counters of one job: laid out at its start, written by its actors, read by its handles.

use super::metrics::{
    ChainMetrics, CheckpointMetrics, JobMetrics, OperatorMetrics, StateMetrics, SubtaskMetrics,
};
#[cfg(feature = "metrics")]
use super::metrics_facade::{JobSeries, Publisher};
use super::status::JobStatus;
use crate::checkpoint::CompletedCheckpoint;
use crate::dataflow::Layout;
use crate::metrics::{StateLevels, SubtaskHandles};
use crate::types::{Attempt, Clock, JobName, SubtaskId, SubtaskIndex, Timestamp};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// Counts for one job, from its start in this process to its end.
#[derive(Debug)]
pub(crate) struct JobMeter {
    job: JobName,
    clock: Clock,
    chains: Vec<ChainMeter>,
    restarts: AtomicU64,
    checkpoints: Mutex<CheckpointMetrics>,
    /// The uptime at the end.
    ended: OnceLock<Duration>,
    #[cfg(feature = "metrics")]
    series: JobSeries,
    #[cfg(feature = "metrics")]
    publisher: Mutex<Publisher>,
}

#[derive(Debug)]
struct ChainMeter {
    name: String,
    subtasks: Vec<SubtaskHandles>,
}

impl JobMeter {
    /// A meter at zero. Registers the job's metrics with the recorder of the calling thread, so call it where the user starts the job.
    pub(crate) fn new(job: &JobName, layout: &Layout, clock: Clock) -> Self {
        let chains: Vec<ChainMeter> = layout
            .chains
            .iter()
            .map(|chain| ChainMeter {
                name: chain.name.clone(),
                subtasks: (0..chain.parallelism)
                    .map(|_| SubtaskHandles::new(chain.operators.iter().map(|operator| &operator.id)))
                    .collect(),
            })
            .collect();
        Self {
            #[cfg(feature = "metrics")]
            series: JobSeries::register(job),
            #[cfg(feature = "metrics")]
            publisher: Mutex::new(Publisher::register(job, layout)),
            job: job.clone(),
            clock,
            chains,
            restarts: AtomicU64::new(0),
            checkpoints: Mutex::default(),
            ended: OnceLock::new(),
        }
    }

    pub(super) fn job(&self) -> &JobName {
        &self.job
    }

    /// The counters of a subtask; of its own, which nobody reads, for one that the job does not have.
    pub(crate) fn handles(&self, subtask: SubtaskId) -> SubtaskHandles {
        let chain = self.chains.get(subtask.chain.0 as usize);
        let handles = chain.and_then(|chain| chain.subtasks.get(subtask.index.0 as usize));
        handles.cloned().unwrap_or_else(|| SubtaskHandles::new(std::iter::empty()))
    }

    /// The attempt that runs, or ran last.
    pub(super) fn attempt(&self) -> Attempt {
        Attempt(u32::try_from(self.restarts.load(Ordering::Relaxed)).unwrap_or(u32::MAX))
    }

    /// The time of day.
    pub(super) fn wall(&self) -> Timestamp {
        self.clock.wall()
    }

    /// An attempt after the first begins.
    pub(crate) fn restarted(&self) {
        self.restarts.fetch_add(1, Ordering::Relaxed);
        #[cfg(feature = "metrics")]
        self.series.restarted();
    }

    /// A checkpoint was given a number.
    pub(crate) fn checkpoint_started(&self) {
        self.count(|checkpoints| checkpoints.started += 1);
        #[cfg(feature = "metrics")]
        self.series.checkpoint_started();
    }

    /// A checkpoint is committed. `figures`: as far as they are known.
    pub(crate) fn checkpoint_completed(&self, figures: Option<&CompletedCheckpoint>) {
        self.count(|checkpoints| {
            checkpoints.completed += 1;
            if let Some(figures) = figures {
                checkpoints.last_completed = Some(figures.clone());
            }
        });
        #[cfg(feature = "metrics")]
        self.series.checkpoint_completed(figures);
    }

    /// A checkpoint that was started was given up.
    pub(crate) fn checkpoint_failed(&self) {
        self.count(|checkpoints| checkpoints.failed += 1);
        #[cfg(feature = "metrics")]
        self.series.checkpoint_failed();
    }

    fn count(&self, change: impl FnOnce(&mut CheckpointMetrics)) {
        let mut checkpoints = lock(&self.checkpoints);
        change(&mut checkpoints);
        let ended = checkpoints.completed + checkpoints.failed;
        checkpoints.in_progress = checkpoints.started.saturating_sub(ended);
        #[cfg(feature = "metrics")]
        self.series.checkpoints_in_progress(checkpoints.in_progress);
    }

    /// The job is over: its uptime stands still.
    pub(crate) fn end(&self) {
        let _ = self.ended.set(self.clock.elapsed());
    }

    /// Everything, as it is now. The status is what the caller says.
    pub(crate) fn snapshot(&self, status: JobStatus) -> JobMetrics {
        let now = self.clock.elapsed();
        JobMetrics {
            job: self.job.clone(),
            status,
            uptime: self.ended.get().copied().unwrap_or(now),
            restarts: self.restarts.load(Ordering::Relaxed),
            checkpoints: lock(&self.checkpoints).clone(),
            chains: snapshots(&self.chains, now),
        }
    }

    /// Passes on to the recorder what has changed since this was last called.
    #[cfg(feature = "metrics")]
    pub(crate) fn publish(&self, status: JobStatus) {
        let now = self.snapshot(status);
        lock(&self.publisher).publish(&now);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn snapshots(chains: &[ChainMeter], now: Duration) -> Vec<ChainMetrics> {
    let chain = |chain: &ChainMeter| ChainMetrics {
        name: chain.name.clone(),
        subtasks: (0..).zip(&chain.subtasks).map(|(index, handles)| snapshot(index, handles, now)).collect(),
    };
    chains.iter().map(chain).collect()
}

fn state(levels: &StateLevels) -> StateMetrics {
    StateMetrics {
        state: levels.state.clone(),
        entries: levels.entries.get(),
        bytes: levels.bytes.get(),
        snapshot_bytes: levels.snapshot_bytes.get(),
    }
}

fn snapshot(index: u32, handles: &SubtaskHandles, now: Duration) -> SubtaskMetrics {
    let counters = &handles.subtask;
    let time = counters.time.read(now);
    let operators = handles.operators.iter().map(|(operator, counters)| OperatorMetrics {
        operator: operator.clone(),
        records_in: counters.records_in.get(),
        records_out: counters.records_out.get(),
        records_skipped: counters.records_skipped.get(),
        states: counters.states().iter().map(|levels| state(levels)).collect(),
    });
    SubtaskMetrics {
        subtask: SubtaskIndex(index),
        records_in: counters.records_in.get(),
        records_out: counters.records_out.get(),
        batches_in: counters.batches_in.get(),
        batches_out: counters.batches_out.get(),
        busy: time.busy,
        idle: time.idle,
        back_pressured: time.back_pressured,
        restarts: counters.starts.get().saturating_sub(1),
        checkpoint_bytes: counters.checkpoint_bytes.get(),
        watermark: None,
        operators: operators.collect(),
    }
}
