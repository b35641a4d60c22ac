//! The actor round the pure checkpoint coordinator: feeds it events, carries out its actions.

use super::checkpoint_books::{Books, kind_of};
use super::messages::{CheckpointMessage, RegionCommand, RegionReport, SubtaskCommand, Terminate, messages};
use super::snapshot::{SubtaskSnapshot, by_edge, by_operator};
use super::status::JobShared;
use crate::channel::Barrier;
use crate::checkpoint::metadata::Manifest;
use crate::checkpoint::{
    Action, BarrierKind, CheckpointFailure, Checkpointing, CompletedCheckpoint, Coordinator, Event, Extent,
    FailureReason, PersistFailure, RequestId, RequestKind,
};
use crate::dataflow::Layout;
use crate::error::{Error, ErrorKind};
use crate::pool::{Pool, Scope, Task};
use crate::storage::{CompleteError, OwnedJob};
use crate::types::{
    Attempt, CheckpointId, Clock, JobName, MaxParallelism, Monotonic, Random, STABLE_HASH_VERSION, SubtaskId,
};
use actix::{
    Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, Recipient, ResponseActFuture,
    SpawnHandle, WrapFuture,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tracing::{Instrument, Span};

type Snapshot = Arc<SubtaskSnapshot>;

/// What a coordinator needs.
pub(crate) struct CoordinatorSettings {
    pub(crate) job: JobName,
    pub(crate) layout: Arc<Layout>,
    /// `None` for no periodic checkpoints.
    pub(crate) checkpointing: Option<Checkpointing>,
    /// `None` for no checkpoints at all.
    pub(crate) storage: Option<OwnedJob>,
    pub(crate) max_parallelism: MaxParallelism,
    pub(crate) pool: Pool,
    pub(crate) clock: Clock,
    pub(crate) random: Random,
    /// Above all spans of the job.
    pub(crate) span: Span,
    pub(crate) shared: Arc<JobShared>,
}

/// Drives the checkpoints of one job.
pub(crate) struct CoordinatorActor {
    settings: CoordinatorSettings,
    rules: Coordinator<Snapshot>,
    job: Recipient<RegionReport>,
    region: Option<Recipient<RegionCommand>>,
    scope: Scope,
    attempt: Attempt,
    first: bool,
    subtasks: BTreeMap<SubtaskId, Recipient<SubtaskCommand>>,
    sources: BTreeSet<SubtaskId>,
    /// The names of the chains.
    chains: Vec<Arc<str>>,
    /// Source subtasks that have not reached their end.
    reading: BTreeSet<SubtaskId>,
    books: Books,
    requests: BTreeMap<RequestId, oneshot::Sender<Result<CheckpointId, Error>>>,
    next_request: u64,
    /// Who asked for a checkpoint while no attempt ran: asked for when one does.
    early: Vec<oneshot::Sender<Result<CheckpointId, Error>>>,
    suspended: Vec<oneshot::Sender<()>>,
    timer: Option<(Monotonic, SpawnHandle)>,
    /// While the rules take in the failure of a checkpoint: the whole error, of which they know the text.
    cause: Option<Error>,
    over: bool,
}

/// What the pool gives back.
enum Done {
    Prepared(CheckpointId, Result<(), Error>),
    Persisted(CheckpointId, Result<CompletedCheckpoint, CompleteError>),
    Cleaned(CheckpointId, Result<(), Error>),
    Retired(CheckpointId, Result<(), Error>),
}

/// Tells the coordinator whom to tell when the job must fail.
pub(crate) struct Supervise(pub(crate) Recipient<RegionCommand>);

messages!(Done, Supervise);

impl CoordinatorActor {
    pub(crate) fn new(settings: CoordinatorSettings, job: Recipient<RegionReport>) -> Self {
        let all: Vec<SubtaskId> = settings.layout.subtasks().map(|(_, id)| id).collect();
        let sources: BTreeSet<SubtaskId> =
            settings.layout.subtasks().filter(|(chain, _)| chain.has_source()).map(|(_, id)| id).collect();
        let next = settings.storage.as_ref().map_or(CheckpointId(1), OwnedJob::next_checkpoint);
        let retained = settings.storage.as_ref().map(OwnedJob::retained).unwrap_or_default();
        let rules = Coordinator::new(
            settings.checkpointing.as_ref(),
            next,
            retained,
            all,
            sources.iter().copied().collect(),
        );
        let CoordinatorSettings { job: name, span, clock, shared, .. } = &settings;
        let books = Books::new(name.clone(), span.clone(), *clock, Arc::clone(shared));
        Self {
            books,
            scope: Scope::new(settings.pool.clone()),
            chains: settings.layout.chains.iter().map(|chain| chain.name.as_str().into()).collect(),
            settings,
            rules,
            job,
            region: None,
            attempt: Attempt(0),
            first: true,
            subtasks: BTreeMap::new(),
            reading: sources.clone(),
            sources,
            requests: BTreeMap::new(),
            next_request: 0,
            early: Vec::new(),
            suspended: Vec::new(),
            timer: None,
            cause: None,
            over: false,
        }
    }

    fn feed(&mut self, event: Event<Snapshot>, ctx: &mut Context<Self>) {
        let now = self.settings.clock.now();
        let actions = self.rules.on(event, now);
        for action in actions {
            self.carry_out(action, ctx);
        }
        self.settings.shared.set_periodic(self.rules.is_periodic_started());
        if !self.rules.is_committing() {
            for waiting in self.suspended.drain(..) {
                let _ = waiting.send(());
            }
        }
        self.set_timer(ctx);
    }

    /// Feeds the failure of a checkpoint, for those who are told of it by this.
    fn feed_failure(&mut self, event: Event<Snapshot>, cause: Error, ctx: &mut Context<Self>) {
        self.cause = Some(cause);
        self.feed(event, ctx);
        self.cause = None;
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

    /// One timer, for the earliest thing the rules wait for.
    fn set_timer(&mut self, ctx: &mut Context<Self>) {
        let wanted = self.rules.deadline();
        if self.timer.as_ref().map(|(at, _)| *at) == wanted {
            return;
        }
        if let Some((_, timer)) = self.timer.take() {
            ctx.cancel_future(timer);
        }
        if let Some(at) = wanted {
            // A millisecond more: the timer must not fire before the clock shows the time.
            let delay = at.since(self.settings.clock.now()) + Duration::from_millis(1);
            let timer = ctx.run_later(delay, |coordinator, ctx| {
                coordinator.timer = None;
                coordinator.feed(Event::Timer, ctx);
            });
            self.timer = Some((at, timer));
        }
    }

    fn carry_out(&mut self, action: Action<Snapshot>, ctx: &mut Context<Self>) {
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
            // It lies in the folder of its checkpoint, and that is either deleted or to be deleted once more.
            Action::Discard { checkpoint, .. } => {
                if !self.rules.is_known(checkpoint) {
                    let span = self.settings.span.clone();
                    let task =
                        self.scope.spawn(async move { storage.discard(checkpoint).await }.instrument(span));
                    self.then(task, ctx, move |result| Done::Retired(checkpoint, result.and_then(|r| r)));
                }
            }
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

    fn fail(&self, error: Error) {
        if let Some(region) = &self.region {
            region.do_send(RegionCommand::Fail(error));
        }
    }

    /// Some failures of a checkpoint cannot be tolerated: no later one will do better.
    fn fail_if_hopeless(&self, error: &Error) {
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
            attempt: self.attempt,
            triggered: self.books.times_of(checkpoint).1,
            max_parallelism: self.settings.max_parallelism,
            hash_version: STABLE_HASH_VERSION,
            finished,
            operators: by_operator(states.iter().map(|(_, snapshot)| &**snapshot)),
            in_flight: by_edge(states.iter().map(|(_, snapshot)| &**snapshot), &self.settings.layout),
            inline: states.iter().filter_map(|(_, snapshot)| snapshot.inline.clone()).collect(),
        }
    }

    fn request(&mut self, answer: oneshot::Sender<Result<CheckpointId, Error>>, ctx: &mut Context<Self>) {
        let request = RequestId(self.next_request);
        self.next_request += 1;
        self.requests.insert(request, answer);
        self.feed(Event::Request { request, kind: RequestKind::Manual }, ctx);
    }

    /// Commits of unknown outcome were read back when the attempt was prepared.
    fn settle(&mut self, ctx: &mut Context<Self>) {
        let (Some(checkpoint), Some(storage)) = (self.rules.unsettled(), &self.settings.storage) else {
            return;
        };
        let is_completed = storage.retained().contains(&checkpoint);
        let message = "it did not reach the job log";
        let result = if is_completed { Ok(storage.location(checkpoint)) } else { Err(message) };
        self.books.settled(checkpoint, result);
        let result =
            if is_completed { Ok(()) } else { Err(PersistFailure::Failed { message: message.into() }) };
        self.feed(Event::Persisted { checkpoint, result }, ctx);
    }

    /// Answers what is retained, as the manifests say.
    fn retained(&self, answer: oneshot::Sender<Result<Vec<CompletedCheckpoint>, Error>>) {
        let (storage, shared) = (self.settings.storage.clone(), Arc::clone(&self.settings.shared));
        drop(self.scope.spawn(async move {
            let mut retained = match storage {
                Some(storage) => storage.completed().await,
                None => Ok(Vec::new()),
            };
            for completed in retained.iter_mut().flatten() {
                completed.duration = shared.statistics().duration_of(completed.checkpoint);
            }
            let _ = answer.send(retained);
        }));
    }
}

impl Actor for CoordinatorActor {
    type Context = Context<Self>;
}

impl Handler<Supervise> for CoordinatorActor {
    type Result = ();

    fn handle(&mut self, Supervise(region): Supervise, _: &mut Self::Context) {
        self.region = Some(region);
    }
}

impl Handler<CheckpointMessage> for CoordinatorActor {
    type Result = ();

    fn handle(&mut self, message: CheckpointMessage, ctx: &mut Self::Context) {
        match message {
            CheckpointMessage::Begin { attempt, from, subtasks } => {
                self.settle(ctx);
                if let Some(from) = from {
                    self.books.restored(from);
                }
                self.attempt = attempt;
                self.subtasks = subtasks.into_iter().collect();
                let random = self.settings.random.next_u64();
                let first = std::mem::replace(&mut self.first, false);
                self.feed(Event::Start { attempt, random, first }, ctx);
                for answer in std::mem::take(&mut self.early) {
                    self.request(answer, ctx);
                }
                // Sources may have been read to their end before all subtasks had started.
                if self.reading.is_empty() && self.settings.storage.is_some() {
                    self.feed(Event::InputEnded, ctx);
                }
            }
            CheckpointMessage::Suspend { reason, done } => {
                self.subtasks.clear();
                self.reading = self.sources.clone();
                // What still comes from the attempt that ends does not count for the next one.
                self.attempt = self.attempt.next();
                self.suspended.push(done);
                self.feed(Event::Stop { reason }, ctx);
            }
            CheckpointMessage::Ack { checkpoint, subtask, attempt, snapshot } => {
                let finished = snapshot.finished;
                if let Some(chain) = self.chains.get(subtask.chain.0 as usize) {
                    self.books.acknowledged(checkpoint, subtask, chain, snapshot.report);
                }
                self.feed(Event::Ack { checkpoint, subtask, attempt, state: snapshot, finished }, ctx);
            }
            CheckpointMessage::Decline { checkpoint, subtask, attempt, cause } => {
                let reason = FailureReason::AsyncFailed { message: cause.to_string().into() };
                self.feed_failure(Event::Decline { checkpoint, subtask, attempt, reason }, cause, ctx);
            }
            CheckpointMessage::Fatal(error) => self.fail(error),
            CheckpointMessage::InputEnded { subtask, attempt } => {
                if attempt == self.attempt
                    && self.reading.remove(&subtask)
                    && self.reading.is_empty()
                    && !self.subtasks.is_empty()
                {
                    self.feed(Event::InputEnded, ctx);
                }
            }
            CheckpointMessage::Retained { answer } => self.retained(answer),
            CheckpointMessage::Schedule { run, done } => {
                self.feed(if run { Event::StartSchedule } else { Event::StopSchedule }, ctx);
                let _ = done.send(());
            }
            CheckpointMessage::Request { answer } => {
                if self.settings.storage.is_none() {
                    let message =
                        "this job takes no checkpoints: set `checkpointing` or `storage` on its environment";
                    let _ = answer
                        .send(Err(Error::new(ErrorKind::Configuration, message).job(&self.settings.job)));
                    return;
                }
                if self.subtasks.is_empty() && !self.over {
                    self.early.push(answer);
                } else {
                    self.request(answer, ctx);
                }
            }
        }
    }
}

impl Handler<Done> for CoordinatorActor {
    type Result = ();

    fn handle(&mut self, done: Done, ctx: &mut Self::Context) {
        match done {
            Done::Prepared(checkpoint, Ok(())) => {
                self.feed(Event::Prepared { checkpoint, result: Ok(()) }, ctx);
            }
            Done::Prepared(checkpoint, Err(error)) => {
                let result = Err(FailureReason::Io { message: error.to_string().into() });
                self.fail_if_hopeless(&error);
                self.feed_failure(Event::Prepared { checkpoint, result }, error, ctx);
            }
            Done::Persisted(checkpoint, Ok(completed)) => {
                self.books.completed(completed);
                self.feed(Event::Persisted { checkpoint, result: Ok(()) }, ctx);
            }
            Done::Persisted(checkpoint, Err(error)) => {
                tracing::warn!(job = %self.settings.job, %checkpoint, %error, "a checkpoint was not committed");
                let failed = |error: &Error| error.to_string().into();
                let result = Err(match &error {
                    CompleteError::Failed(error) => PersistFailure::Failed { message: failed(error) },
                    CompleteError::Unknown(error) => PersistFailure::Unknown { message: failed(error) },
                    CompleteError::Fenced(_) => PersistFailure::Fenced,
                });
                let error = error.into_error();
                self.fail_if_hopeless(&error);
                self.feed_failure(Event::Persisted { checkpoint, result }, error, ctx);
            }
            Done::Cleaned(checkpoint, result) => {
                if let Err(error) = result {
                    self.books.not_removed(checkpoint, &error);
                }
                self.feed(Event::Cleaned { checkpoint }, ctx);
            }
            Done::Retired(checkpoint, result) => {
                if let Err(error) = result {
                    self.books.not_removed(checkpoint, &error);
                }
            }
        }
    }
}

impl Handler<Terminate> for CoordinatorActor {
    type Result = ResponseActFuture<Self, ()>;

    /// Waits for what runs on the pool, then goes.
    fn handle(&mut self, _: Terminate, ctx: &mut Self::Context) -> Self::Result {
        self.over = true;
        self.early.clear();
        self.feed(Event::Shutdown, ctx);
        let scope = self.scope.clone();
        let idle = async move { scope.idle().await };
        Box::pin(idle.into_actor(self).map(|(), _, ctx| ctx.stop()))
    }
}

impl Drop for CoordinatorActor {
    /// A coordinator that panics fails the job; it never leaves it hanging.
    fn drop(&mut self) {
        if !self.over {
            let error = Error::new(ErrorKind::Internal, "the checkpoint coordinator vanished");
            self.job.do_send(RegionReport::Failed(error));
        }
    }
}
