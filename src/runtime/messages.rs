//! What the actors tell each other.

use super::snapshot::SubtaskSnapshot;
use crate::channel::Barrier;
use crate::checkpoint::{AbortReason, CompletedCheckpoint, FailureReason};
use crate::error::Error;
use crate::restart::FailureId;
use crate::types::{Attempt, CheckpointId, RegionId, SubtaskId};
use actix::Recipient;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// To a subtask: what to do between two records.
#[derive(Debug, Clone, Copy)]
pub(crate) enum SubtaskCommand {
    /// To one that reads a source: begin this checkpoint.
    Trigger(Barrier),
    /// To the others: its barriers, which may overtake, are on their way.
    Announce(Barrier),
    /// A checkpoint is complete; with the final one the subtask's work is done.
    Complete { checkpoint: CheckpointId, last: bool },
    /// A checkpoint was given up.
    Aborted {
        checkpoint: CheckpointId,
        /// For who has missed that it is complete.
        latest_completed: Option<CheckpointId>,
    },
    /// Nothing has gone in or out for so long: say who waits for the outside world for at least `limit`.
    WhoWaits { limit: Duration, still: Duration },
    /// To one that reads a source: its input ends here.
    EndInput,
    /// Stop without finishing.
    Stop,
}

/// To the supervisor, from a subtask.
#[derive(Debug)]
pub(crate) struct SubtaskReport {
    pub(crate) attempt: Attempt,
    pub(crate) subtask: SubtaskId,
    pub(crate) news: SubtaskNews,
}

/// What a subtask has to say.
#[derive(Debug)]
pub(crate) enum SubtaskNews {
    /// It is built and about to take its first record.
    Started,
    /// It has ended: said exactly once per subtask and attempt.
    Ended(ExitCause),
}

/// Why a subtask ended.
#[derive(Debug)]
pub(crate) enum ExitCause {
    /// Its work is done and committed.
    Finished,
    /// It was told to stop.
    Stopped,
    /// It failed, or its code panicked.
    Failed(Error),
}

/// To the supervisor, from the job.
#[derive(Debug, Clone, Copy)]
pub(crate) enum RegionCommand {
    /// Run; again, if it has run before.
    Start,
    /// Stop, to be started again with all other regions because of this failure.
    Halt(FailureId),
    /// All input ends, now or as soon as all subtasks run; until it is started again.
    Drain,
    /// Stop for good.
    Cancel,
}

/// To the job: how a region fares.
#[derive(Debug)]
pub(crate) struct RegionReport {
    pub(crate) region: RegionId,
    pub(crate) news: RegionNews,
}

/// What a supervisor has to say.
#[derive(Debug)]
pub(crate) enum RegionNews {
    /// All subtasks run.
    Running { attempt: Attempt, from: Option<CheckpointId> },
    /// An attempt has failed and is being stopped.
    Failing,
    /// Nothing is left of an attempt that was stopped: what it failed of, if it was not halted.
    Down(Option<(Error, FailureId)>),
    /// Its work is done and committed; nothing was left to run if it began from this, the final checkpoint. The last thing it says, like the other
    /// two below.
    Finished(Option<CheckpointId>),
    /// It was cancelled, and nothing is left of it.
    Cancelled,
    /// It cannot go on at all.
    Failed(Error),
}

/// To the job, from the coordinator: something failed that is no region's own.
#[derive(Debug)]
pub(crate) enum JobFailure {
    /// All regions have to go on from the last completed checkpoint.
    Restart(Error),
    /// It has vanished.
    Final(Error),
}

/// To the coordinator: what its pure half is fed with, beside its own timers.
#[derive(Debug)]
pub(crate) enum CheckpointMessage {
    /// All subtasks of a region's attempt run.
    Begin {
        region: RegionId,
        attempt: Attempt,
        from: Option<CheckpointId>,
        subtasks: Vec<(SubtaskId, Recipient<SubtaskCommand>)>,
    },
    /// An attempt of a region ends. Answered when no checkpoint is at its commit point any more.
    Suspend { region: RegionId, attempt: Attempt, reason: FailureReason, done: oneshot::Sender<()> },
    /// A subtask's part of a checkpoint is durable.
    Ack { checkpoint: CheckpointId, subtask: SubtaskId, attempt: Attempt, snapshot: Arc<SubtaskSnapshot> },
    /// A subtask's part of a checkpoint failed.
    Decline { checkpoint: CheckpointId, subtask: SubtaskId, attempt: Attempt, cause: Error },
    /// A checkpoint will not be taken by a subtask: its barriers do not come any more.
    GivenUp { checkpoint: CheckpointId, subtask: SubtaskId, attempt: Attempt, reason: AbortReason },
    /// A snapshot failed in a way that will not be different next time.
    Fatal(Error),
    /// A source subtask has read everything.
    InputEnded { subtask: SubtaskId, attempt: Attempt },
    /// The user asks for a checkpoint.
    Request { answer: oneshot::Sender<Result<CheckpointId, Error>> },
    /// The user asks for the checkpoints that are kept.
    Retained { answer: oneshot::Sender<Result<Vec<CompletedCheckpoint>, Error>> },
    /// The user stops the schedule, or starts it again.
    Schedule { run: bool, done: oneshot::Sender<()> },
}

/// To the coordinator and the supervisor: the job is over.
#[derive(Debug)]
pub(crate) struct Terminate;

/// To the job, from its handles.
#[derive(Debug)]
pub(crate) enum JobCommand {
    Cancel,
    /// All input ends. Answered only if a failure was in the way: with that.
    Drain {
        broken_off: oneshot::Sender<Error>,
    },
    Checkpoint {
        answer: oneshot::Sender<Result<CheckpointId, Error>>,
    },
    Schedule {
        run: bool,
        done: oneshot::Sender<()>,
    },
    Retained {
        answer: oneshot::Sender<Result<Vec<CompletedCheckpoint>, Error>>,
    },
}

/// Marks messages, none of which has a result of its own: answers come by other messages or channels.
macro_rules! messages {
    ($($message:ty),+ $(,)?) => {
        $(impl actix::Message for $message {
            type Result = ();
        })+
    };
}
pub(super) use messages;

messages!(
    SubtaskCommand,
    SubtaskReport,
    RegionCommand,
    RegionReport,
    JobFailure,
    CheckpointMessage,
    Terminate,
    JobCommand
);
