//! What a job says about itself.

use crate::error::{Error, ErrorKind};
use crate::types::{Attempt, CheckpointId};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{broadcast, watch};

/// How many events a slow listener may be behind before it misses some.
const EVENTS: usize = 1024;

/// Where a job is in its life.
///
/// `Starting -> Running`; `Running -> Restarting -> Running` after a failure that the restart strategy forgives; `Stopping` after a
/// cancel; and one of the three last ones for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum JobStatus {
    /// State is being restored; subtasks are being built.
    Starting,
    /// All subtasks run.
    Running,
    /// It failed; it will run again from its last completed checkpoint.
    Restarting,
    /// It was cancelled and its subtasks are stopping.
    Stopping,
    /// Every source was read to its end, and all output is committed.
    Finished,
    /// It was cancelled. Started again, it goes on from its last completed checkpoint.
    Cancelled,
    /// It failed for good; [`JobHandle::wait`](crate::JobHandle::wait) has the error.
    Failed,
}

impl JobStatus {
    /// Whether nothing will follow.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Finished | Self::Cancelled | Self::Failed)
    }
}

/// A checkpoint that is complete: the job can start from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompletedCheckpoint {
    /// Its number.
    pub checkpoint: CheckpointId,
    /// Bytes written for it: state and manifest.
    pub bytes: u64,
    /// From trigger to commit.
    pub duration: Duration,
}

/// Something that happened to a job; see [`JobHandle::events`](crate::JobHandle::events).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum JobEvent {
    /// All subtasks of an attempt run.
    Running {
        /// 0 at the start, one more after each restart.
        attempt: Attempt,
        /// The checkpoint it began from. `None` for an attempt above 0 means that state began empty again.
        from: Option<CheckpointId>,
    },
    /// A checkpoint is complete.
    CheckpointCompleted(CompletedCheckpoint),
    /// A checkpoint failed. The one before it stays.
    CheckpointFailed {
        /// Which; `None` if it failed before it had a number.
        checkpoint: Option<CheckpointId>,
        /// Why.
        reason: String,
    },
    /// A failure that the restart strategy forgives.
    Restarting {
        /// The failure.
        error: Error,
        /// How long it waits.
        after: Duration,
    },
}

/// How a job ended: `Finished` or `Cancelled`, or why it failed.
pub(crate) type JobOutcome = Result<JobStatus, Error>;

/// What the job's threads and its handles share.
#[derive(Debug)]
pub(crate) struct JobShared {
    status: watch::Sender<JobStatus>,
    /// Gone when the job has ended, so that listeners hear of that.
    events: Mutex<Option<broadcast::Sender<JobEvent>>>,
    /// For the first who listens: it has heard everything since the start.
    first_listener: Mutex<Option<broadcast::Receiver<JobEvent>>>,
    outcome: Mutex<Option<JobOutcome>>,
}

impl JobShared {
    pub(crate) fn new() -> Self {
        let (events, first_listener) = broadcast::channel(EVENTS);
        Self {
            status: watch::Sender::new(JobStatus::Starting),
            events: Mutex::new(Some(events)),
            first_listener: Mutex::new(Some(first_listener)),
            outcome: Mutex::new(None),
        }
    }

    pub(crate) fn status(&self) -> JobStatus {
        *self.status.borrow()
    }

    pub(crate) fn set_status(&self, status: JobStatus) {
        self.status.send_replace(status);
    }

    pub(crate) fn watch(&self) -> watch::Receiver<JobStatus> {
        self.status.subscribe()
    }

    /// Where to send and hear events; when the job has ended, one that nobody else has.
    pub(crate) fn events(&self) -> broadcast::Sender<JobEvent> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner).clone();
        events.unwrap_or_else(|| broadcast::Sender::new(1))
    }

    pub(crate) fn listen(&self) -> broadcast::Receiver<JobEvent> {
        let first = self.first_listener.lock().unwrap_or_else(PoisonError::into_inner).take();
        first.unwrap_or_else(|| self.events().subscribe())
    }

    pub(crate) fn emit(&self, event: JobEvent) {
        // Nobody may be listening.
        let _ = self.events().send(event);
    }

    /// Decides how the job ended; the first decision counts. Nobody is told before [`announce`](Self::announce).
    pub(crate) fn decide(&self, outcome: JobOutcome) {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(outcome);
    }

    /// Tells everyone who waits.
    pub(crate) fn announce(&self) {
        self.decide(Err(Error::new(ErrorKind::Internal, "the job's threads ended before the job did")));
        self.set_status(match self.outcome() {
            Some(Ok(status)) => status,
            Some(Err(_)) | None => JobStatus::Failed,
        });
        *self.events.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(crate) fn outcome(&self) -> Option<JobOutcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
