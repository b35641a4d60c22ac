//! What became of a job's checkpoints, and how long their parts took (Flink's `CheckpointStatsTracker`).

mod summary;

pub use summary::{CheckpointSummary, Summary};

use super::duration_text::seconds;
use crate::types::{CheckpointId, Monotonic, SubtaskId, SubtaskIndex, Timestamp};
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use summary::Windows;

/// How a subtask took its part of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
#[non_exhaustive]
pub struct SnapshotReport {
    /// From the trigger until the subtask met the first barrier: how long barriers take through what is before them.
    #[serde(rename = "start_delay_seconds", serialize_with = "seconds")]
    pub start_delay: Duration,
    /// From the first barrier to the last: for so long some of its channels were not read. 0 with a single channel.
    #[serde(rename = "alignment_seconds", serialize_with = "seconds")]
    pub alignment: Duration,
    /// The synchronous part: for so long it processed nothing.
    #[serde(rename = "sync_seconds", serialize_with = "seconds")]
    pub sync_duration: Duration,
    /// The asynchronous part: encoding, writing, a sink's preparing.
    #[serde(rename = "async_seconds", serialize_with = "seconds")]
    pub async_duration: Duration,
    /// State written, records in flight included.
    pub bytes: u64,
    /// Of these, records in flight: those that the barrier has overtaken. 0 where barriers align.
    pub in_flight_bytes: u64,
}

/// The checkpoints of a job since it was started in this process; from
/// [`JobHandle::checkpoint_stats`](crate::JobHandle::checkpoint_stats).
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[non_exhaustive]
pub struct CheckpointStatistics {
    /// How many there were.
    pub counts: CheckpointCounts,
    /// Figures of those that completed.
    pub summary: CheckpointSummary,
    /// Those under way, oldest first.
    pub in_progress: Vec<CheckpointRecord>,
    /// The last ones that ended, newest first: as many as
    /// [`history`](crate::Checkpointing::history) says.
    pub history: Vec<CheckpointRecord>,
    /// The last one that completed, however long ago.
    pub latest_completed: Option<CheckpointRecord>,
    /// The last one that failed after it was begun, however long ago.
    pub latest_failed: Option<CheckpointRecord>,
    /// What the job, or its last restart, began from.
    pub latest_restored: Option<RestoredCheckpoint>,
}

/// How many checkpoints there were. Always `triggered = in_progress + completed + failed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
#[non_exhaustive]
pub struct CheckpointCounts {
    /// All, those included that failed before they got a number.
    pub triggered: u64,
    /// Under way.
    pub in_progress: u64,
    /// Committed.
    pub completed: u64,
    /// Given up, for whatever reason, and requests that came to nothing. A tick that is put off is no failure.
    pub failed: u64,
    /// How often the job began from one: at its start and at restarts.
    pub restored: u64,
}

/// A checkpoint that a job began from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub struct RestoredCheckpoint {
    /// Its number.
    pub checkpoint: CheckpointId,
    /// Wall time of the restore.
    pub restored: Timestamp,
}

/// Where a checkpoint is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CheckpointOutcome {
    /// Under way.
    InProgress,
    /// Committed; the job can start from it while it is retained.
    Completed,
    /// Given up, for this reason.
    Failed(String),
}

/// One checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub struct CheckpointRecord {
    /// Its number.
    pub checkpoint: CheckpointId,
    /// Where it is.
    pub outcome: CheckpointOutcome,
    /// Wall time of the trigger. For people: durations are measured on the clock that never goes back.
    pub triggered: Timestamp,
    /// From the trigger to the commit, or to where it was given up; while it is under way, to the last thing heard of it.
    #[serde(rename = "duration_seconds", serialize_with = "seconds")]
    pub duration: Duration,
    /// How many subtasks take part.
    pub subtasks: u32,
    /// State written so far, records in flight included.
    pub bytes: u64,
    /// Of these, records in flight.
    pub in_flight_bytes: u64,
    /// Its folder, as its storage names it, once it is committed.
    pub path: Option<PathBuf>,
    /// What those subtasks said that have written their part, in order of chain and subtask. Reports that come after the end are added.
    pub acknowledged: Vec<SubtaskRecord>,
}

/// One subtask's part of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub struct SubtaskRecord {
    /// The name of its chain, as in [`JobMetrics`](crate::JobMetrics).
    pub chain: Arc<str>,
    /// Which instance of it.
    pub subtask: SubtaskIndex,
    /// From the trigger until its part was written.
    #[serde(rename = "acknowledged_after_seconds", serialize_with = "seconds")]
    pub acknowledged_after: Duration,
    /// How it took its part.
    #[serde(flatten)]
    pub report: SnapshotReport,
    #[serde(skip)]
    id: SubtaskId,
}

/// Keeps the statistics of one job. A state machine like the coordinator beside it: told what happens, and when.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StatisticsTracker {
    keep: usize,
    subtasks: u32,
    counts: CheckpointCounts,
    windows: Windows,
    in_progress: BTreeMap<CheckpointId, Running>,
    history: VecDeque<Running>,
    latest_completed: Option<CheckpointRecord>,
    latest_failed: Option<CheckpointRecord>,
    latest_restored: Option<RestoredCheckpoint>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Running {
    began: Monotonic,
    record: CheckpointRecord,
}

impl StatisticsTracker {
    /// For a job of so many subtasks; remembers the `history` last checkpoints that ended.
    #[must_use]
    pub fn new(history: u32, subtasks: usize) -> Self {
        Self {
            keep: usize::try_from(history).unwrap_or(usize::MAX),
            subtasks: u32::try_from(subtasks).unwrap_or(u32::MAX),
            counts: CheckpointCounts::default(),
            windows: Windows::default(),
            in_progress: BTreeMap::new(),
            history: VecDeque::new(),
            latest_completed: None,
            latest_failed: None,
            latest_restored: None,
        }
    }

    /// A checkpoint was given its number.
    pub fn triggered(&mut self, checkpoint: CheckpointId, now: Monotonic, wall: Timestamp) {
        self.counts.triggered += 1;
        let record = CheckpointRecord {
            checkpoint,
            outcome: CheckpointOutcome::InProgress,
            triggered: wall,
            duration: Duration::ZERO,
            subtasks: self.subtasks,
            bytes: 0,
            in_flight_bytes: 0,
            path: None,
            acknowledged: Vec::new(),
        };
        self.in_progress.insert(checkpoint, Running { began: now, record });
        self.counts.in_progress = self.in_progress.len() as u64;
    }

    /// A subtask of the chain called `chain` has written its part. Counts once per subtask, and after the end of the checkpoint too as
    /// long as that is remembered.
    pub fn acknowledged(
        &mut self,
        checkpoint: CheckpointId,
        id: SubtaskId,
        chain: &Arc<str>,
        report: SnapshotReport,
        now: Monotonic,
    ) {
        let Self { in_progress, history, .. } = self;
        let mut known = in_progress.values_mut().chain(history);
        let Some(Running { began, record }) = known.find(|known| known.record.checkpoint == checkpoint)
        else {
            return;
        };
        let Err(place) = record.acknowledged.binary_search_by_key(&id, |known| known.id) else { return };
        let acknowledged_after = now.since(*began);
        if record.outcome == CheckpointOutcome::InProgress {
            record.duration = acknowledged_after;
        }
        record.bytes += report.bytes;
        record.in_flight_bytes += report.in_flight_bytes;
        let subtask =
            SubtaskRecord { chain: Arc::clone(chain), subtask: id.index, acknowledged_after, report, id };
        record.acknowledged.insert(place, subtask);
    }

    /// A checkpoint is committed.
    pub fn completed(&mut self, checkpoint: CheckpointId, path: Option<PathBuf>, now: Monotonic) {
        let Some(mut running) = self.take(checkpoint) else { return };
        self.counts.completed += 1;
        running.record.outcome = CheckpointOutcome::Completed;
        running.record.duration = now.since(running.began);
        running.record.path = path;
        self.windows.add(&running.record);
        self.latest_completed = Some(running.record.clone());
        self.remember(running);
    }

    /// A checkpoint was given up; or, without a number, a request came to nothing.
    pub fn failed(&mut self, checkpoint: Option<CheckpointId>, reason: &str, now: Monotonic) {
        let Some(checkpoint) = checkpoint else {
            self.counts.triggered += 1;
            self.counts.failed += 1;
            return;
        };
        let Some(mut running) = self.take(checkpoint) else { return };
        self.counts.failed += 1;
        running.record.outcome = CheckpointOutcome::Failed(reason.to_owned());
        running.record.duration = now.since(running.began);
        self.latest_failed = Some(running.record.clone());
        self.remember(running);
    }

    /// The job begins from a checkpoint.
    pub fn restored(&mut self, checkpoint: CheckpointId, wall: Timestamp) {
        self.counts.restored += 1;
        self.latest_restored = Some(RestoredCheckpoint { checkpoint, restored: wall });
    }

    /// The checkpoints under way, oldest first.
    #[must_use]
    pub fn in_progress(&self) -> Vec<CheckpointRecord> {
        self.in_progress.values().map(|running| running.record.clone()).collect()
    }

    /// How long one took, from trigger to commit.
    #[must_use]
    pub fn duration_of(&self, completed: CheckpointId) -> Option<Duration> {
        let records = self.history.iter().map(|ended| &ended.record).chain(&self.latest_completed);
        let mut records = records.filter(|record| record.outcome == CheckpointOutcome::Completed);
        records.find(|record| record.checkpoint == completed).map(|record| record.duration)
    }

    /// Everything, as plain data.
    #[must_use]
    pub fn statistics(&self) -> CheckpointStatistics {
        CheckpointStatistics {
            counts: self.counts,
            summary: self.windows.summary(),
            in_progress: self.in_progress(),
            history: self.history.iter().rev().map(|ended| ended.record.clone()).collect(),
            latest_completed: self.latest_completed.clone(),
            latest_failed: self.latest_failed.clone(),
            latest_restored: self.latest_restored,
        }
    }

    fn take(&mut self, checkpoint: CheckpointId) -> Option<Running> {
        let running = self.in_progress.remove(&checkpoint);
        self.counts.in_progress = self.in_progress.len() as u64;
        running
    }

    fn remember(&mut self, ended: Running) {
        self.history.push_back(ended);
        while self.history.len() > self.keep {
            self.history.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
