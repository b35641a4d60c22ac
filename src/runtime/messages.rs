//! What the actors tell each other.

use super::snapshot::SubtaskSnapshot;
use crate::channel::Barrier;
use crate::checkpoint::{CompletedCheckpoint, FailureReason};
use crate::error::Error;
use crate::types::{Attempt, CheckpointId, SubtaskId};
use actix::Recipient;
use std::sync::Arc;
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

/// To the supervisor, from elsewhere in the tree.
#[derive(Debug)]
pub(crate) enum RegionCommand {
    /// Run.
    Start,
    /// Something outside a subtask failed: treat it like a failure inside.
    Fail(Error),
    /// Stop for good.
    Cancel,
}

/// To the job: how its region fares.
#[derive(Debug)]
pub(crate) enum RegionReport {
    Running { attempt: Attempt, from: Option<CheckpointId> },
    Restarting { error: Error, after: std::time::Duration },
    Finished,
    Cancelled,
    Failed(Error),
}

/// To the coordinator: what its pure half is fed with, beside its own timers.
#[derive(Debug)]
pub(crate) enum CheckpointMessage {
    /// All subtasks of an attempt run.
    Begin {
        attempt: Attempt,
        from: Option<CheckpointId>,
        subtasks: Vec<(SubtaskId, Recipient<SubtaskCommand>)>,
    },
    /// The attempt ends. Answered when no checkpoint is at its commit point any more.
    Suspend { reason: FailureReason, done: oneshot::Sender<()> },
    /// A subtask's part of a checkpoint is durable.
    Ack { checkpoint: CheckpointId, subtask: SubtaskId, attempt: Attempt, snapshot: Arc<SubtaskSnapshot> },
    /// A subtask's part of a checkpoint failed.
    Decline { checkpoint: CheckpointId, subtask: SubtaskId, attempt: Attempt, cause: Error },
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
    Checkpoint { answer: oneshot::Sender<Result<CheckpointId, Error>> },
    Schedule { run: bool, done: oneshot::Sender<()> },
    Retained { answer: oneshot::Sender<Result<Vec<CompletedCheckpoint>, Error>> },
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
    CheckpointMessage,
    Terminate,
    JobCommand
);
