//! What the checkpoint coordinator is told, and what it orders.

use super::{CheckpointFailure, Extent, FailureReason, RequestId, RequestKind};
use crate::types::{Attempt, CheckpointId, SubtaskId};
use std::fmt;
use std::sync::Arc;

/// Something the coordinator is told. `S` is the handle of a subtask's state, which it never looks into.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event<S> {
    /// All subtasks of an attempt run: the schedule starts. Not to be sent while
    /// [`is_committing`](super::Coordinator::is_committing): the outcome decides where the attempt starts from.
    Start {
        /// The attempt. Acks of any other are unknown.
        attempt: Attempt,
        /// Any number; spreads the first tick of many jobs over the interval.
        random: u64,
        /// Whether it is the first attempt: the first tick then comes at a random moment between min pause and interval,
        /// otherwise after exactly the min pause.
        first: bool,
    },
    /// The subtasks stop. What is under way or waits fails, except a checkpoint that is being committed: its outcome counts.
    Stop {
        /// The reason given to all who asked.
        reason: FailureReason,
    },
    /// The [`deadline`](super::Coordinator::deadline) has come. Early, late or repeated does no harm.
    Timer,
    /// Somebody asks for a checkpoint. Answered exactly once, with [`Action::Answer`].
    Request {
        /// Chosen by who asks.
        request: RequestId,
        /// What is asked for.
        kind: RequestKind,
    },
    /// Answer to [`Action::Prepare`].
    Prepared {
        /// The one prepared.
        checkpoint: CheckpointId,
        /// Or why not.
        result: Result<(), FailureReason>,
    },
    /// A subtask has written its snapshot.
    Ack {
        /// Of which checkpoint.
        checkpoint: CheckpointId,
        /// Which subtask.
        subtask: SubtaskId,
        /// Of which attempt.
        attempt: Attempt,
        /// The handle of what it wrote.
        state: S,
        /// Whether its input had ended before the barrier and it has emitted all it will ever emit.
        finished: bool,
    },
    /// A subtask gives a checkpoint up.
    Decline {
        /// Which checkpoint.
        checkpoint: CheckpointId,
        /// Which subtask.
        subtask: SubtaskId,
        /// Of which attempt.
        attempt: Attempt,
        /// Why.
        reason: FailureReason,
    },
    /// Answer to [`Action::Persist`]. After [`PersistFailure::Unknown`] it may be told again, once the log has been read back and
    /// before the next `Start`: `Ok` makes it a completed checkpoint, `Failed` has its files deleted.
    Persisted {
        /// Which checkpoint.
        checkpoint: CheckpointId,
        /// Whether it is in the log.
        result: Result<(), PersistFailure>,
    },
    /// Answer to [`Action::CleanUp`], also if some files could not be deleted.
    Cleaned {
        /// Which checkpoint.
        checkpoint: CheckpointId,
    },
    /// Every source subtask has reached its end: take the final checkpoint. Said again by each attempt.
    InputEnded,
    /// Take no more periodic checkpoints, in later attempts neither. All that waits or is under way fails, whoever asked for it, except
    /// a commit; what is asked for afterwards is taken, and so is the final checkpoint.
    StopSchedule,
    /// Take periodic checkpoints again, the first one after the min pause. Nothing changes if they are being taken.
    StartSchedule,
    /// The end: all that is under way or waits fails, and nothing is begun any more.
    Shutdown,
}

/// How writing and committing a checkpoint failed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PersistFailure {
    /// It is certainly not in the log.
    Failed {
        /// What the storage said.
        message: Arc<str>,
    },
    /// It may or may not be in the log.
    Unknown {
        /// What the storage said.
        message: Arc<str>,
    },
    /// Another process has claimed the job.
    Fenced,
}

impl fmt::Display for PersistFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        FailureReason::from(self.clone()).fmt(f)
    }
}

impl From<PersistFailure> for FailureReason {
    fn from(failure: PersistFailure) -> Self {
        match failure {
            PersistFailure::Failed { message } => Self::FinalizeFailed { message },
            PersistFailure::Unknown { message } => Self::CommitUnknown { message },
            PersistFailure::Fenced => Self::Fenced,
        }
    }
}

/// Something to be done, in the order given.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action<S> {
    /// Create its place in the storage, then tell [`Event::Prepared`].
    Prepare {
        /// Its number, new.
        checkpoint: CheckpointId,
    },
    /// Have these source subtasks emit its barrier.
    Trigger {
        /// Which checkpoint.
        checkpoint: CheckpointId,
        /// The attempt that takes it.
        attempt: Attempt,
        /// The sources.
        subtasks: Vec<SubtaskId>,
        /// Whether its barriers may not overtake records, whatever the job's mode: savepoints and final checkpoints.
        must_align: bool,
        /// How much of the keyed state it writes. A base that is named here is not retired while this checkpoint is under way.
        extent: Extent,
    },
    /// Write the manifest and append to the log, then tell [`Event::Persisted`]. Never two at a time.
    Persist {
        /// Which checkpoint.
        checkpoint: CheckpointId,
        /// State of every subtask, in order of subtask.
        states: Vec<(SubtaskId, S)>,
        /// Whether every subtask was finished.
        finished: bool,
    },
    /// Delete the files of one state: nobody waits for it any more.
    Discard {
        /// The checkpoint that it was written for.
        checkpoint: CheckpointId,
        /// The state.
        state: S,
    },
    /// Delete the place of a failed checkpoint and these states, then tell [`Event::Cleaned`].
    CleanUp {
        /// Which checkpoint.
        checkpoint: CheckpointId,
        /// What its subtasks had acknowledged.
        states: Vec<S>,
    },
    /// A completed checkpoint fell out of retention: delete it.
    Retire {
        /// Which checkpoint.
        checkpoint: CheckpointId,
    },
    /// Tell all subtasks that it is complete.
    NotifyComplete {
        /// Which checkpoint.
        checkpoint: CheckpointId,
        /// Whether it is the final one: every subtask was finished, the job may end.
        finished: bool,
    },
    /// Tell all subtasks that it failed. One that missed the completion of `latest_completed` makes up for that first.
    NotifyAborted {
        /// Which checkpoint.
        checkpoint: CheckpointId,
        /// The last one that completed.
        latest_completed: Option<CheckpointId>,
    },
    /// Answer a request.
    Answer {
        /// The request.
        request: RequestId,
        /// The completed checkpoint, or why there is none.
        result: Result<CheckpointId, CheckpointFailure>,
    },
    /// For events and logs: a checkpoint failed, or a request did before one was begun.
    Failed {
        /// Which checkpoint; `None` if it was never begun.
        checkpoint: Option<CheckpointId>,
        /// Why.
        reason: FailureReason,
    },
    /// Fail the job, so that it restarts from the last completed checkpoint: more failures than are tolerated, or a commit whose
    /// outcome only the log knows.
    FailJob {
        /// The checkpoint that made it too many.
        checkpoint: Option<CheckpointId>,
        /// The subtask to blame, if one declined.
        subtask: Option<SubtaskId>,
        /// Why that checkpoint failed.
        reason: FailureReason,
    },
    /// Another process has claimed the job: stop, and do not restart. The coordinator has shut down.
    Fenced {
        /// The checkpoint that could not be committed. Its files are left alone.
        checkpoint: CheckpointId,
    },
}
