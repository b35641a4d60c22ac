//! What becomes of checkpoints, told to all who want to know: spans and events, meters, statistics, listeners.

use super::status::{JobEvent, JobShared};
use super::tracing_scope::below;
use crate::checkpoint::{CompletedCheckpoint, FailureReason, SnapshotReport};
use crate::error::{Error, ErrorKind};
use crate::types::{CheckpointId, Clock, JobName, Monotonic, SubtaskId, Timestamp};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tracing::{Span, field};

/// The coordinator's books. They decide nothing.
pub(super) struct Books {
    job: JobName,
    /// Above the spans of all checkpoints.
    span: Span,
    clock: Clock,
    shared: Arc<JobShared>,
    triggered: BTreeMap<CheckpointId, Triggered>,
}

struct Triggered {
    at: Monotonic,
    wall: Timestamp,
    /// From then to the end of the checkpoint.
    span: Span,
}

impl Books {
    pub(super) fn new(job: JobName, span: Span, clock: Clock, shared: Arc<JobShared>) -> Self {
        Self { job, span, clock, shared, triggered: BTreeMap::new() }
    }

    /// A checkpoint begins. Returns its span.
    pub(super) fn triggered(&mut self, checkpoint: CheckpointId) -> Span {
        let parent = &self.span;
        let span = below(parent, || {
            let (id, duration_ms, bytes, outcome) = (checkpoint.0, field::Empty, field::Empty, field::Empty);
            tracing::info_span!(parent: parent, "checkpoint", checkpoint = id, duration_ms, bytes, outcome)
        });
        let (at, wall) = (self.clock.now(), self.clock.wall());
        self.shared.meter().checkpoint_started();
        self.shared.statistics().triggered(checkpoint, at, wall);
        self.triggered.insert(checkpoint, Triggered { at, wall, span: span.clone() });
        span
    }

    /// When it was triggered, by both clocks.
    pub(super) fn times_of(&self, checkpoint: CheckpointId) -> (Monotonic, Timestamp) {
        match self.triggered.get(&checkpoint) {
            Some(triggered) => (triggered.at, triggered.wall),
            None => (self.clock.now(), Timestamp(0)),
        }
    }

    /// The span of a checkpoint, or of the job if that is over.
    pub(super) fn span_of(&self, checkpoint: CheckpointId) -> Span {
        self.triggered.get(&checkpoint).map_or(&self.span, |triggered| &triggered.span).clone()
    }

    /// Its span ends.
    pub(super) fn forget(&mut self, checkpoint: CheckpointId) {
        self.triggered.remove(&checkpoint);
    }

    /// A subtask of a chain has written its part.
    pub(super) fn acknowledged(
        &self,
        checkpoint: CheckpointId,
        subtask: SubtaskId,
        chain: &Arc<str>,
        report: SnapshotReport,
    ) {
        let now = self.clock.now();
        self.shared.statistics().acknowledged(checkpoint, subtask, chain, report, now);
    }

    /// A checkpoint is committed.
    pub(super) fn completed(&mut self, mut completed: CompletedCheckpoint) {
        let (checkpoint, bytes, now) = (completed.checkpoint, completed.bytes, self.clock.now());
        let span = self.span_of(checkpoint);
        let duration = match self.triggered.remove(&checkpoint) {
            Some(triggered) => now.since(triggered.at),
            None => Duration::ZERO,
        };
        let (job, id) = (&self.job, checkpoint.0);
        let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        span.record("duration_ms", duration_ms).record("bytes", bytes).record("outcome", "completed");
        tracing::debug!(parent: &span, %job, checkpoint = id, bytes, duration_ms, "checkpoint completed");
        completed.duration = Some(duration);
        self.shared.statistics().completed(checkpoint, Some(completed.path.clone()), now);
        self.shared.meter().checkpoint_completed(Some(&completed));
        self.shared.emit(JobEvent::CheckpointCompleted(completed));
    }

    /// A commit of unknown outcome was read back: where it is, or why it is not.
    pub(super) fn settled(&mut self, checkpoint: CheckpointId, result: Result<PathBuf, &str>) {
        let now = self.clock.now();
        match result {
            Ok(path) => {
                self.shared.meter().checkpoint_completed(None);
                self.shared.statistics().completed(checkpoint, Some(path), now);
            }
            Err(reason) => {
                self.shared.meter().checkpoint_failed();
                self.shared.statistics().failed(Some(checkpoint), reason, now);
            }
        }
        self.forget(checkpoint);
    }

    /// A checkpoint was given up, or one that was asked for was never begun.
    pub(super) fn failed(&self, checkpoint: Option<CheckpointId>, reason: &FailureReason) {
        let (job, now) = (&self.job, self.clock.now());
        let span = checkpoint.map_or_else(|| self.span.clone(), |checkpoint| self.span_of(checkpoint));
        let id = checkpoint.map(|checkpoint| checkpoint.0);
        if checkpoint.is_some() {
            span.record("outcome", "failed");
        }
        let is_counted = match checkpoint {
            // Of what may still turn out to be committed the count is made when that is known.
            Some(_) => !matches!(reason, FailureReason::CommitUnknown { .. }),
            // A tick that is put off has not failed.
            None => *reason != FailureReason::MinPause,
        };
        if is_counted {
            self.shared.statistics().failed(checkpoint, &reason.to_string(), now);
            if checkpoint.is_some() {
                self.shared.meter().checkpoint_failed();
            }
        }
        // A tick that is put off, or a job that ends: not a failure to anyone.
        if kind_of(reason) == ErrorKind::Cancelled || (checkpoint.is_none() && !reason.counts()) {
            tracing::debug!(parent: &span, %job, checkpoint = id, %reason, "a checkpoint was not taken");
            return;
        }
        tracing::warn!(parent: &span, %job, checkpoint = id, %reason, "a checkpoint failed");
        self.shared.emit(JobEvent::CheckpointFailed { checkpoint, reason: reason.to_string() });
    }

    /// Files are left that somebody will delete later.
    pub(super) fn not_removed(&self, checkpoint: CheckpointId, error: &Error) {
        let (parent, job, checkpoint) = (&self.span, &self.job, checkpoint.0);
        tracing::warn!(parent: parent, %job, checkpoint, %error, "a checkpoint could not be removed");
    }
}

/// What someone who asked for a checkpoint is to do about its failure.
pub(super) fn kind_of(reason: &FailureReason) -> ErrorKind {
    match reason {
        FailureReason::Fenced => ErrorKind::Fenced,
        FailureReason::JobCancelled | FailureReason::JobFinished | FailureReason::Shutdown => {
            ErrorKind::Cancelled
        }
        FailureReason::CommitUnknown { .. } => ErrorKind::Storage,
        reason if reason.counts() => ErrorKind::Storage,
        _ => ErrorKind::Failed,
    }
}
