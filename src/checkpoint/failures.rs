//! Why checkpoints fail, and how many failures a job bears.

use crate::types::CheckpointId;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// Why a checkpoint did not complete, or was not begun (Flink's `CheckpointFailureReason`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureReason {
    /// The storage failed before the subtasks were triggered.
    Io {
        /// What the storage said.
        message: Arc<str>,
    },
    /// A subtask's snapshot could not be encoded or written.
    AsyncFailed {
        /// What went wrong.
        message: Arc<str>,
    },
    /// A subtask declined it.
    Declined {
        /// Why.
        message: Arc<str>,
    },
    /// It was not complete within its timeout.
    Expired,
    /// Its manifest could not be written or committed. It certainly did not complete.
    FinalizeFailed {
        /// What the storage said.
        message: Arc<str>,
    },
    /// Whether its commit reached the job log is not known; the log decides when it is read again.
    CommitUnknown {
        /// What the storage said.
        message: Arc<str>,
    },
    /// Another process took the job over.
    Fenced,
    /// A newer checkpoint completed first.
    Subsumed,
    /// A periodic checkpoint came sooner after the last completed one than the min pause; it is put off.
    MinPause,
    /// Too many requests wait already.
    TooManyRequests,
    /// Not all subtasks run.
    TasksNotRunning,
    /// A subtask was not ready for a checkpoint yet.
    TaskNotReady,
    /// A subtask was closing.
    TaskClosing,
    /// A subtask got word from upstream that the checkpoint is given up.
    CancelBarrier,
    /// A subtask got the barrier of a newer checkpoint first.
    NewerBarrier,
    /// A subtask's input ended before the barrier came.
    EndOfStream,
    /// A subtask failed.
    TaskFailed,
    /// A region of the job restarts.
    RegionFailover,
    /// Checkpoints were suspended.
    Suspended,
    /// The job was cancelled.
    JobCancelled,
    /// The job has its final checkpoint: nothing is left to process.
    JobFinished,
    /// The coordinator was shut down.
    Shutdown,
    /// It could not be triggered, for a reason other than storage.
    TriggerFailed {
        /// What went wrong.
        message: Arc<str>,
    },
}

impl FailureReason {
    /// Whether it counts against [`tolerable_failures`](super::Checkpointing::tolerable_failures): `Io`, `AsyncFailed`,
    /// `Declined`, `Expired` and `FinalizeFailed` do. What the protocol itself, a restart or a stop ends does not.
    /// (`CommitUnknown` fails the job at once, whatever is tolerated.)
    #[must_use]
    pub fn counts(&self) -> bool {
        matches!(
            self,
            Self::Io { .. }
                | Self::AsyncFailed { .. }
                | Self::Declined { .. }
                | Self::Expired
                | Self::FinalizeFailed { .. }
        )
    }
}

impl fmt::Display for FailureReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Io { message } => {
                return write!(f, "its place could not be made: {message}");
            }
            Self::AsyncFailed { message } => return write!(f, "a snapshot could not be written: {message}"),
            Self::Declined { message } => return write!(f, "a subtask declined it: {message}"),
            Self::FinalizeFailed { message } => {
                return write!(f, "it could not be committed: {message}; earlier checkpoints are untouched");
            }
            Self::CommitUnknown { message } => {
                return write!(
                    f,
                    "the outcome of its commit is unknown: {message}; the job log decides at the restart"
                );
            }
            Self::TriggerFailed { message } => return write!(f, "it could not be triggered: {message}"),
            Self::Expired => "it timed out: look for back-pressure or slow storage, or raise `timeout`",
            Self::Fenced => "another process took the job over: stop this one",
            Self::Subsumed => "a newer checkpoint completed first",
            Self::MinPause => "the min pause since the last checkpoint is not over: it is put off",
            Self::TooManyRequests => "too many requests are waiting: ask again when some are done",
            Self::TasksNotRunning => "not all subtasks are running: ask again when the job runs",
            Self::TaskNotReady => "a subtask was not ready yet",
            Self::TaskClosing => "a subtask was closing",
            Self::CancelBarrier => "a subtask upstream gave it up",
            Self::NewerBarrier => "the barrier of a newer checkpoint overtook it",
            Self::EndOfStream => "an input ended before the barrier came",
            Self::TaskFailed => "a subtask failed",
            Self::RegionFailover => "a region of the job restarts: ask again when it runs",
            Self::Suspended => "checkpoints were suspended",
            Self::JobCancelled => "the job was cancelled",
            Self::JobFinished => "the job has taken its final checkpoint: nothing is left to save",
            Self::Shutdown => "the job has shut down",
        };
        f.write_str(text)
    }
}

/// The answer to a request for a checkpoint that failed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CheckpointFailure {
    /// Which checkpoint; `None` if it was never begun.
    pub checkpoint: Option<CheckpointId>,
    /// Why.
    pub reason: FailureReason,
}

impl fmt::Display for CheckpointFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.checkpoint {
            Some(id) => write!(f, "checkpoint {id} failed: {}", self.reason),
            None => write!(f, "no checkpoint was taken: {}", self.reason),
        }
    }
}

impl std::error::Error for CheckpointFailure {}

/// Ids remembered as counted. Far more than are ever under way; keeps a job that never succeeds from growing.
const REMEMBERED: usize = 1000;

/// Counts failures in a row (Flink's `CheckpointFailureManager`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct FailureCounter {
    tolerated: u32,
    count: u32,
    counted: BTreeSet<CheckpointId>,
    last_success: Option<CheckpointId>,
}

impl FailureCounter {
    /// Bears `tolerated` failures in a row; `u32::MAX`: any number.
    #[must_use]
    pub(super) fn new(tolerated: u32) -> Self {
        Self { tolerated, count: 0, counted: BTreeSet::new(), last_success: None }
    }

    /// Records a failure. True if it is one too many: fail the job. The count then starts again from 0.
    #[must_use]
    pub(super) fn failed(&mut self, checkpoint: Option<CheckpointId>, reason: &FailureReason) -> bool {
        if self.tolerated == u32::MAX || !reason.counts() {
            return false;
        }
        if let Some(id) = checkpoint {
            if self.last_success.is_some_and(|success| id <= success) || !self.counted.insert(id) {
                return false;
            }
            if self.counted.len() > REMEMBERED {
                self.counted.pop_first();
            }
        }
        self.count += 1;
        let too_many = self.count > self.tolerated;
        if too_many {
            self.count = 0;
        }
        too_many
    }

    /// Records a completed checkpoint: forgets the failures, and ignores later reports of this and older ones.
    pub(super) fn succeeded(&mut self, checkpoint: CheckpointId) {
        if self.last_success.is_none_or(|success| checkpoint > success) {
            self.last_success = Some(checkpoint);
            self.count = 0;
            self.counted.retain(|id| *id > checkpoint);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::FailureReason::*;
    use super::*;

    fn text() -> Arc<str> {
        "x".into()
    }

    fn counted() -> Vec<FailureReason> {
        vec![
            Io { message: text() },
            AsyncFailed { message: text() },
            Declined { message: text() },
            Expired,
            FinalizeFailed { message: text() },
        ]
    }

    fn fail(counter: &mut FailureCounter, id: u64) -> bool {
        counter.failed(Some(CheckpointId(id)), &Expired)
    }

    #[test]
    fn s4_1_only_five_reasons_count() {
        for reason in counted() {
            assert!(FailureCounter::new(0).failed(None, &reason), "{reason}");
        }
        let ignored = [
            CommitUnknown { message: text() },
            TriggerFailed { message: text() },
            Fenced,
            Subsumed,
            MinPause,
            TooManyRequests,
            TasksNotRunning,
            TaskNotReady,
            TaskClosing,
            CancelBarrier,
            NewerBarrier,
            EndOfStream,
            TaskFailed,
            RegionFailover,
            Suspended,
            JobCancelled,
            JobFinished,
            Shutdown,
        ];
        for reason in ignored {
            assert!(!FailureCounter::new(0).failed(None, &reason), "{reason}");
        }
    }

    #[test]
    fn s4_2_fires_above_the_tolerated_number_and_starts_again() {
        let mut counter = FailureCounter::new(2);
        let fired: Vec<bool> = (1..=7).map(|id| fail(&mut counter, id)).collect();
        assert_eq!(fired, [false, false, true, false, false, true, false]);
    }

    #[test]
    fn s4_3_one_id_counts_once_and_no_id_each_time() {
        let mut counter = FailureCounter::new(1);
        assert!(!fail(&mut counter, 1) && !fail(&mut counter, 1));
        assert!(fail(&mut counter, 2));
        let mut counter = FailureCounter::new(1);
        assert!(!counter.failed(None, &Expired));
        assert!(counter.failed(None, &Expired));
    }

    #[test]
    fn s4_4_success_zeroes_and_hides_what_is_older() {
        let mut counter = FailureCounter::new(1);
        assert!(!fail(&mut counter, 1));
        counter.succeeded(CheckpointId(3));
        assert!(!fail(&mut counter, 2) && !fail(&mut counter, 3), "older than the success");
        assert!(!fail(&mut counter, 4));
        counter.succeeded(CheckpointId(2));
        assert!(fail(&mut counter, 5), "a success older than the last one changes nothing");
    }

    #[test]
    fn s4_6_the_highest_number_switches_counting_off() {
        let mut counter = FailureCounter::new(u32::MAX);
        assert!(!(0..10_000).any(|id| fail(&mut counter, id)));
        assert!(fail(&mut FailureCounter::new(0), 1), "0, the default: the first one fails the job");
    }

    #[test]
    fn memory_of_a_job_that_never_succeeds_is_bounded() {
        let mut counter = FailureCounter::new(5);
        for id in 0..5_000 {
            let _ = fail(&mut counter, id);
        }
        assert_eq!(counter.counted.len(), REMEMBERED);
    }
}
