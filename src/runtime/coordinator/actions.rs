//! What the coordinator's rules order, carried out.

use super::{CoordinatorActor, Done, Snapshot};
use crate::channel::Barrier;
use crate::checkpoint::metadata::Manifest;
use crate::checkpoint::{Action, BarrierKind, CheckpointFailure, CompletedCheckpoint, Extent, FailureReason};
use crate::error::{Error, ErrorKind};
use crate::pool::Task;
use crate::runtime::checkpoint_books::kind_of;
use crate::runtime::messages::{JobFailure, SubtaskCommand};
use crate::runtime::snapshot::{by_edge, by_operator};
use crate::storage::{CompleteError, OwnedJob};
use crate::types::{CheckpointId, STABLE_HASH_VERSION, SubtaskId};
use actix::{AsyncContext, Context, WrapFuture};
use tracing::Instrument;

impl CoordinatorActor {
    pub(super) fn carry_out(&mut self, action: Action<Snapshot>, ctx: &mut Context<Self>) {
        let Some(storage) = self.settings.storage.clone() else { return };
        match action {
            Action::Prepare { checkpoint } => {
                let span = self.books.triggered(checkpoint);
                let task = self
                    .scope
                    .spawn(async move { storage.create_location(checkpoint).await }.instrument(span));
                self.then(task, ctx, move |result| Done::Prepared(checkpoint, result.and_then(|r| r)));
            }
            Action::Trigger { checkpoint, attempt: _, subtasks, must_align, extent } => {
                let barrier = self.barrier(checkpoint, must_align, extent);
                for subtask in &subtasks {
                    self.tell(*subtask, SubtaskCommand::Trigger(barrier));
                }
                // All at once, so that it takes no longer where there are many exchanges in a row.
                if barrier.kind.overtakes_from().is_some() {
                    for subtask in self.subtasks.keys().filter(|subtask| !subtasks.contains(subtask)) {
                        self.tell(*subtask, SubtaskCommand::Announce(barrier));
                    }
                }
            }
            Action::Persist { checkpoint, states, finished } => {
                let manifest = self.manifest(&storage, checkpoint, &states, finished);
                let span = self.books.span_of(checkpoint);
                let complete = async move {
                    let bytes = storage.complete(&manifest).await?;
                    Ok(CompletedCheckpoint::of(&manifest, storage.location(checkpoint), bytes))
                };
                let task = self.scope.spawn(complete.instrument(span));
                self.then(task, ctx, move |result| {
                    // A panic in there leaves it open whether the entry was written.
                    Done::Persisted(checkpoint, result.map_err(CompleteError::Unknown).and_then(|r| r))
                });
            }
            Action::Discard { checkpoint, .. } => self.discard(checkpoint, ctx),
            Action::CleanUp { checkpoint, .. } => {
                let span = self.books.span_of(checkpoint);
                self.books.forget(checkpoint);
                let task =
                    self.scope.spawn(async move { storage.discard(checkpoint).await }.instrument(span));
                self.then(task, ctx, move |result| Done::Cleaned(checkpoint, result.and_then(|r| r)));
            }
            Action::Retire { checkpoint } => {
                let span = self.settings.span.clone();
                let task = self.scope.spawn(async move { storage.retire(checkpoint).await }.instrument(span));
                self.then(task, ctx, move |result| Done::Retired(checkpoint, result.and_then(|r| r)));
            }
            Action::NotifyComplete { checkpoint, finished } => {
                if finished {
                    self.settings.shared.set_final_checkpoint();
                }
                self.tell_all(SubtaskCommand::Complete { checkpoint, last: finished });
            }
            Action::NotifyAborted { checkpoint, latest_completed } => {
                self.tell_all(SubtaskCommand::Aborted { checkpoint, latest_completed });
            }
            Action::Answer { request, result } => {
                if let Some(answer) = self.requests.remove(&request) {
                    let result = result.map_err(|CheckpointFailure { checkpoint, reason }| {
                        let what = if checkpoint.is_some() {
                            "the checkpoint failed"
                        } else {
                            "no checkpoint was taken"
                        };
                        let error = self.failure(what.to_owned(), &reason, kind_of(&reason));
                        checkpoint.map_or(error.clone(), |checkpoint| error.checkpoint(checkpoint))
                    });
                    let _ = answer.send(result);
                }
            }
            Action::Failed { checkpoint, reason } => self.books.failed(checkpoint, &reason),
            Action::FailJob { checkpoint, subtask, reason } => {
                let checkpointing = self.settings.checkpointing.clone().unwrap_or_default();
                let tolerated = checkpointing.get_tolerable_failures();
                let message = match reason {
                    FailureReason::CommitUnknown { .. } => {
                        "it is not known whether a checkpoint was completed: the job log says so at the next start".into()
                    }
                    _ => format!("more checkpoints failed in a row than `tolerable_failures` allows, which is {tolerated}"),
                };
                let mut error = self.failure(message, &reason, ErrorKind::Failed);
                if let Some(checkpoint) = checkpoint {
                    error = error.checkpoint(checkpoint);
                }
                if let Some(subtask) = subtask {
                    let chain = self.settings.layout.name_of(subtask.chain);
                    error = error.operator(&chain.into()).subtask(subtask.index);
                }
                self.fail(error);
            }
            Action::Fenced { checkpoint } => {
                let message = "another process has taken this job over: this one stops without committing";
                self.fail(Error::new(ErrorKind::Fenced, message).checkpoint(checkpoint));
            }
        }
    }

    /// Deletes what somebody has written of a checkpoint that is over. It lies in the folder of its checkpoint, and that is either deleted or to
    /// be deleted once more.
    pub(super) fn discard(&self, checkpoint: CheckpointId, ctx: &mut Context<Self>) {
        let Some(storage) = self.settings.storage.clone().filter(|_| !self.rules.is_known(checkpoint)) else {
            return;
        };
        let span = self.settings.span.clone();
        let task = self.scope.spawn(async move { storage.discard(checkpoint).await }.instrument(span));
        self.then(task, ctx, move |result| Done::Retired(checkpoint, result.and_then(|r| r)));
    }

    pub(super) fn fail(&self, error: Error) {
        self.job.do_send(JobFailure::Restart(error));
    }

    /// Some failures of a checkpoint cannot be tolerated: no later one will do better.
    pub(super) fn fail_if_hopeless(&self, error: &Error) {
        if matches!(error.kind(), ErrorKind::Fenced | ErrorKind::Corrupt) {
            self.fail(error.clone());
        }
    }

    fn tell(&self, subtask: SubtaskId, command: SubtaskCommand) {
        if let Some(addr) = self.subtasks.get(&subtask) {
            addr.do_send(command);
        }
    }

    fn tell_all(&self, command: SubtaskCommand) {
        for addr in self.subtasks.values() {
            addr.do_send(command);
        }
    }

    fn then<T: Send + 'static>(
        &self,
        task: Task<T>,
        ctx: &mut Context<Self>,
        done: impl FnOnce(Result<T, Error>) -> Done + 'static,
    ) {
        let to = ctx.address();
        ctx.spawn(async move { to.do_send(done(task.await)) }.into_actor(self));
    }

    fn barrier(&self, checkpoint: CheckpointId, must_align: bool, extent: Extent) -> Barrier {
        let (created, triggered) = self.books.times_of(checkpoint);
        let kind = match &self.settings.checkpointing {
            Some(checkpointing) if !must_align => checkpointing.barrier_kind(created),
            _ => BarrierKind::Aligned,
        };
        Barrier { checkpoint, triggered, kind, extent }
    }

    /// What is written when all subtasks have given their parts.
    fn manifest(
        &self,
        storage: &OwnedJob,
        checkpoint: CheckpointId,
        states: &[(SubtaskId, Snapshot)],
        finished: bool,
    ) -> Manifest {
        Manifest {
            job: self.settings.job.clone(),
            checkpoint,
            generation: storage.generation(),
            attempt: self.attempts.job(),
            triggered: self.books.times_of(checkpoint).1,
            max_parallelism: self.settings.max_parallelism,
            hash_version: STABLE_HASH_VERSION,
            finished,
            operators: by_operator(states.iter().map(|(_, snapshot)| &**snapshot), finished),
            in_flight: by_edge(states.iter().map(|(_, snapshot)| &**snapshot), &self.settings.layout),
            inline: states.iter().filter_map(|(_, snapshot)| snapshot.inline.clone()).collect(),
        }
    }

    /// An error because a checkpoint failed: of the kind of its cause, with all that this one names.
    fn failure(&self, message: String, reason: &FailureReason, kind: ErrorKind) -> Error {
        let is_told = matches!(
            reason,
            FailureReason::Io { .. }
                | FailureReason::AsyncFailed { .. }
                | FailureReason::FinalizeFailed { .. }
                | FailureReason::CommitUnknown { .. }
        );
        let error = match self.cause.as_ref().filter(|_| is_told) {
            Some(cause) => {
                let error = Error::new(cause.kind(), message).because(cause.clone());
                cause.path().map_or(error.clone(), |path| error.at(path))
            }
            None => Error::new(kind, format!("{message}: {reason}")),
        };
        error.job(&self.settings.job)
    }
}
