//! What a job says about itself.

use super::job_meter::JobMeter;
use super::messages::JobCommand;
use super::metrics::JobMetrics;
use crate::checkpoint::{CompletedCheckpoint, StatisticsTracker};
use crate::error::{Error, ErrorKind};
use crate::restart::FailureHistory;
use crate::types::{Attempt, CheckpointId};
use actix::Recipient;
use serde::{Serialize, Serializer};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{broadcast, watch};

/// How many events a slow listener may be behind before it misses some.
const EVENTS: usize = 1024;

/// Where a job is in its life.
///
/// A state machine: a job is `Starting` first, and every change is one of these.
///
/// | from | to | when |
/// |---|---|---|
/// | `Starting`, `Restarting` | `Running` | all subtasks of all failover regions run |
/// | `Starting`, `Running`, `Restarting` | `Restarting` | a region has failed, is gone, and the restart strategy forgives it; other regions run on |
/// | `Starting`, `Running`, `Restarting` | `Stopping` | it is cancelled; nothing is restarted any more |
/// | `Running`, `Restarting`, `Stopping` | `Finished` | all input was read and all output is committed, perhaps just before a cancel came, or by a restart |
/// | `Starting` | `Finished` | it had finished before it was started |
/// | `Stopping` | `Cancelled` | nothing of it runs any more |
/// | `Starting` | `Cancelled` | it was cancelled before it was started |
/// | any but the last three | `Failed` | it failed for good |
///
/// `Finished`, `Cancelled` and `Failed` are final. While what has failed is being stopped the status is still the one before. A
/// listener that is slow may miss what lies between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum JobStatus {
    /// State is being restored; subtasks are being built.
    Starting,
    /// All subtasks run.
    Running,
    /// It failed, or a part of it did that shares no records with the rest; that will run again from the last completed checkpoint.
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

    /// Whether a job may change from this status to `next`: the table above.
    #[must_use]
    pub fn may_become(self, next: Self) -> bool {
        use JobStatus::{Cancelled, Failed, Finished, Restarting, Running, Starting, Stopping};
        match next {
            Starting => false,
            Running => matches!(self, Starting | Restarting),
            Restarting | Stopping => matches!(self, Starting | Running | Restarting),
            Finished => matches!(self, Starting | Running | Restarting | Stopping),
            Cancelled => matches!(self, Starting | Stopping),
            Failed => !self.is_terminal(),
        }
    }

    /// All of them.
    #[cfg(any(feature = "metrics", test))]
    pub(super) const ALL: [Self; 7] = [
        Self::Starting,
        Self::Running,
        Self::Restarting,
        Self::Stopping,
        Self::Finished,
        Self::Cancelled,
        Self::Failed,
    ];

    /// In one word.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Restarting => "restarting",
            Self::Stopping => "stopping",
            Self::Finished => "finished",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for JobStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for JobStatus {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

/// Something that happened to a job; see [`JobHandle::events`](crate::JobHandle::events).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum JobEvent {
    /// All subtasks run; after a restart, again.
    Running {
        /// 0 at the start, one more after each restart, whichever failover region it was of.
        attempt: Attempt,
        /// The checkpoint that what was started began from. `None` for an attempt above 0 means that its state began empty again.
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
pub(crate) struct JobShared {
    status: watch::Sender<JobStatus>,
    /// To the job's root, until it has ended: an address keeps the waker of the actor, and with it what its thread polled.
    commands: Mutex<Option<Recipient<JobCommand>>>,
    /// Gone when the job has ended, so that listeners hear of that.
    events: Mutex<Option<broadcast::Sender<JobEvent>>>,
    /// For the first who listens: it has heard everything since the start.
    first_listener: Mutex<Option<broadcast::Receiver<JobEvent>>>,
    outcome: Mutex<Option<JobOutcome>>,
    /// Whether periodic checkpoints are being taken.
    periodic: AtomicBool,
    /// Whether the final checkpoint is complete.
    final_checkpoint: AtomicBool,
    meter: JobMeter,
    statistics: Mutex<StatisticsTracker>,
    failures: Mutex<FailureHistory>,
}

impl JobShared {
    pub(crate) fn new(meter: JobMeter, statistics: StatisticsTracker) -> Self {
        let (events, first_listener) = broadcast::channel(EVENTS);
        Self {
            status: watch::Sender::new(JobStatus::Starting),
            commands: Mutex::new(None),
            events: Mutex::new(Some(events)),
            first_listener: Mutex::new(Some(first_listener)),
            outcome: Mutex::new(None),
            periodic: AtomicBool::new(false),
            final_checkpoint: AtomicBool::new(false),
            meter,
            statistics: Mutex::new(statistics),
            failures: Mutex::default(),
        }
    }

    /// The handles may now [command](Self::command) this job.
    pub(crate) fn connect(&self, job: Recipient<JobCommand>) {
        let mut commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        // One that has ended by now would never be let go of.
        if !self.status().is_terminal() {
            *commands = Some(job);
        }
    }

    /// Tells the job. When it has ended the command is dropped.
    pub(crate) fn command(&self, command: JobCommand) {
        if let Some(job) = &*self.commands.lock().unwrap_or_else(PoisonError::into_inner) {
            job.do_send(command);
        }
    }

    pub(crate) fn status(&self) -> JobStatus {
        *self.status.borrow()
    }

    /// Changes the status, if it [may](JobStatus::may_become) change so: what comes late, such as word of a restart after a cancel, changes
    /// nothing.
    pub(crate) fn set_status(&self, next: JobStatus) {
        self.status.send_if_modified(|status| {
            let may = status.may_become(next);
            if may {
                *status = next;
            }
            may
        });
    }

    pub(super) fn set_final_checkpoint(&self) {
        self.final_checkpoint.store(true, Ordering::Release);
    }

    pub(super) fn has_final_checkpoint(&self) -> bool {
        self.final_checkpoint.load(Ordering::Acquire)
    }

    pub(super) fn set_periodic(&self, started: bool) {
        self.periodic.store(started, Ordering::Release);
    }

    pub(crate) fn is_periodic_started(&self) -> bool {
        self.periodic.load(Ordering::Acquire)
    }

    pub(super) fn meter(&self) -> &JobMeter {
        &self.meter
    }

    /// What is known of the job's checkpoints. Held only to tell or ask it something.
    pub(crate) fn statistics(&self) -> MutexGuard<'_, StatisticsTracker> {
        self.statistics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What has failed so far. Held only to tell or ask it something.
    pub(crate) fn failures(&self) -> MutexGuard<'_, FailureHistory> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn metrics(&self) -> JobMetrics {
        self.meter.snapshot(self.status())
    }

    /// Passes on to the recorder what has been counted.
    #[cfg(feature = "metrics")]
    pub(super) fn publish_metrics(&self) {
        self.meter.publish(self.status());
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
        let error = Error::new(ErrorKind::Internal, "the job's threads ended before the job did");
        self.decide(Err(error.job(self.meter.job())));
        let status = match self.outcome() {
            Some(Ok(status)) => status,
            Some(Err(_)) | None => JobStatus::Failed,
        };
        self.meter.end();
        // Before those who wait hear of the end.
        #[cfg(feature = "metrics")]
        self.meter.publish(status);
        if let Some(Err(error)) = self.outcome() {
            self.failures().ended(self.meter.attempt(), self.meter.wall(), &error);
        }
        // In any case: who waits for the end would wait for ever.
        self.status.send_replace(status);
        *self.commands.lock().unwrap_or_else(PoisonError::into_inner) = None;
        *self.events.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(crate) fn outcome(&self) -> Option<JobOutcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for JobShared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobShared").field("status", &self.status()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::JobStatus::{self, Cancelled, Failed, Finished, Restarting, Running, Starting, Stopping};

    #[test]
    fn a_job_changes_its_status_only_as_the_table_says() {
        let table: [(JobStatus, &[JobStatus]); 7] = [
            (Starting, &[Running, Restarting, Stopping, Finished, Cancelled, Failed]),
            (Running, &[Restarting, Stopping, Finished, Failed]),
            (Restarting, &[Running, Restarting, Stopping, Finished, Failed]),
            (Stopping, &[Finished, Cancelled, Failed]),
            (Finished, &[]),
            (Cancelled, &[]),
            (Failed, &[]),
        ];
        assert_eq!(table.map(|(from, _)| from), JobStatus::ALL);
        for (from, allowed) in table {
            for next in JobStatus::ALL {
                assert_eq!(from.may_become(next), allowed.contains(&next), "{from} -> {next}");
            }
            assert_eq!(from.is_terminal(), allowed.is_empty(), "{from}");
        }
    }
}
