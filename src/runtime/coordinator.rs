//! The actor round the pure checkpoint coordinator: feeds it events, carries out its [actions].

mod actions;

use super::checkpoint_books::Books;
use super::messages::{CheckpointMessage, JobFailure, SubtaskCommand, Terminate, messages};
use super::snapshot::{InputState, SubtaskSnapshot};
use super::status::JobShared;
use crate::checkpoint::{
    AbortReason, Checkpointing, CompletedCheckpoint, Coordinator, Event, FailureReason, PersistFailure,
    RegionAttempts, RequestId, RequestKind,
};
use crate::dataflow::Layout;
use crate::error::{Error, ErrorKind};
use crate::pool::{Pool, Scope};
use crate::storage::{CompleteError, OwnedJob};
use crate::types::{
    Attempt, CheckpointId, Clock, JobName, MaxParallelism, Monotonic, Random, RegionId, SubtaskId,
};
use actix::{
    Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, Recipient, ResponseActFuture,
    SpawnHandle, WrapFuture,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tracing::Span;

type Snapshot = Arc<SubtaskSnapshot>;

/// What a coordinator needs.
pub(crate) struct CoordinatorSettings {
    pub(crate) job: JobName,
    pub(crate) layout: Arc<Layout>,
    /// What runs in each failover region.
    pub(crate) regions: Vec<(RegionId, Arc<Layout>)>,
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
    job: Recipient<JobFailure>,
    scope: Scope,
    attempts: RegionAttempts,
    /// Whether no attempt of the job has run yet.
    first: bool,
    /// Those of the regions that run.
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

messages!(Done);

impl CoordinatorActor {
    pub(crate) fn new(settings: CoordinatorSettings, job: Recipient<JobFailure>) -> Self {
        let all: Vec<SubtaskId> = settings.layout.subtasks().map(|(_, id)| id).collect();
        let sources: BTreeSet<SubtaskId> =
            settings.layout.subtasks().filter(|(chain, _)| chain.has_source()).map(|(_, id)| id).collect();
        let in_regions = settings
            .regions
            .iter()
            .flat_map(|(region, layout)| layout.subtasks().map(move |(_, subtask)| (subtask, *region)));
        let attempts = RegionAttempts::new(in_regions);
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
            attempts,
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

    fn request(&mut self, answer: oneshot::Sender<Result<CheckpointId, Error>>, ctx: &mut Context<Self>) {
        let request = RequestId(self.next_request);
        self.next_request += 1;
        self.requests.insert(request, answer);
        self.feed(Event::Request { request, kind: RequestKind::Manual }, ctx);
    }

    /// All subtasks of a region run. When those of all do, checkpoints are taken.
    fn begin(
        &mut self,
        region: RegionId,
        attempt: Attempt,
        from: Option<CheckpointId>,
        subtasks: Vec<(SubtaskId, Recipient<SubtaskCommand>)>,
        ctx: &mut Context<Self>,
    ) {
        self.settle(ctx);
        self.subtasks.extend(subtasks);
        let all_run = self.attempts.began(region, attempt);
        if self.settings.storage.is_some() && from != self.rules.latest_completed() {
            // The others were told of a later completion: they must go back, too.
            let name = |checkpoint: Option<CheckpointId>| match checkpoint {
                Some(checkpoint) => format!("checkpoint {checkpoint}"),
                None => "the beginning".to_owned(),
            };
            let (begun, latest) = (name(from), name(self.rules.latest_completed()));
            let message = format!("a region began from {begun}, and others are at {latest}: all begin again");
            return self.fail(Error::new(ErrorKind::Storage, message));
        }
        if !all_run {
            return;
        }
        let (attempt, random) = (self.attempts.job(), self.settings.random.next_u64());
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

impl Handler<CheckpointMessage> for CoordinatorActor {
    type Result = ();

    fn handle(&mut self, message: CheckpointMessage, ctx: &mut Self::Context) {
        match message {
            CheckpointMessage::Begin { region, attempt, from, subtasks } => {
                self.begin(region, attempt, from, subtasks, ctx);
            }
            CheckpointMessage::Suspend { region, attempt, reason, done } => {
                self.subtasks.retain(|subtask, _| !self.attempts.is_in(*subtask, region));
                let sources = self.sources.iter().filter(|source| self.attempts.is_in(**source, region));
                self.reading.extend(sources);
                self.attempts.stopped(region, attempt);
                self.suspended.push(done);
                self.feed(Event::Stop { reason }, ctx);
            }
            CheckpointMessage::Ack { checkpoint, subtask, attempt, snapshot } => {
                if !self.attempts.is_current(subtask, attempt) {
                    return self.discard(checkpoint, ctx);
                }
                let (attempt, finished) = (self.attempts.job(), snapshot.input != InputState::Open);
                if let Some(chain) = self.chains.get(subtask.chain.0 as usize) {
                    self.books.acknowledged(checkpoint, subtask, chain, snapshot.report);
                }
                self.feed(Event::Ack { checkpoint, subtask, attempt, state: snapshot, finished }, ctx);
            }
            CheckpointMessage::Decline { checkpoint, subtask, attempt, cause } => {
                if self.attempts.is_current(subtask, attempt) {
                    let attempt = self.attempts.job();
                    let reason = FailureReason::AsyncFailed { message: cause.to_string().into() };
                    self.feed_failure(Event::Decline { checkpoint, subtask, attempt, reason }, cause, ctx);
                }
            }
            CheckpointMessage::GivenUp { checkpoint, subtask, attempt, reason } => {
                if self.attempts.is_current(subtask, attempt) {
                    let attempt = self.attempts.job();
                    let reason = match reason {
                        AbortReason::Cancelled => FailureReason::CancelBarrier,
                        AbortReason::Subsumed => FailureReason::NewerBarrier,
                    };
                    self.feed(Event::Decline { checkpoint, subtask, attempt, reason }, ctx);
                }
            }
            CheckpointMessage::Fatal(error) => self.fail(error),
            CheckpointMessage::InputEnded { subtask, attempt } => {
                if self.attempts.is_current(subtask, attempt)
                    && self.reading.remove(&subtask)
                    && self.reading.is_empty()
                    && self.attempts.all_run()
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
                if !self.attempts.all_run() && !self.over {
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
            self.job.do_send(JobFailure::Final(error));
        }
    }
}
