//! The supervisor of a region: starts its subtasks from a checkpoint, watches them, and after a failure stops all of them,
//! asks the restart strategy, and starts all of them afresh.

use super::engine::Placement;
use super::messages::{
    CheckpointMessage, ExitCause, RegionCommand, RegionReport, SubtaskCommand, SubtaskNews, SubtaskReport,
    Terminate, messages,
};
use super::restore::{Restored, restore};
use super::seed::{ChainContext, SubtaskSeed};
use super::status::JobShared;
use super::subtask::SubtaskActor;
use super::tracing_scope::below;
use super::wiring::wire;
use crate::checkpoint::{CheckpointingMode, FailureReason};
use crate::dataflow::Plan;
use crate::error::{Error, ErrorKind};
use crate::operator::{RecoveryContext, SubtaskContext};
use crate::pool::{Pool, Scope, panic_message};
use crate::restart::{Failure, FailureOutcome, RestartDecision, RestartPolicy};
use crate::storage::OwnedJob;
use crate::types::{Attempt, Clock, Generation, JobName, MaxParallelism, OperatorId, Random, SubtaskId};
use actix::{Actor, ActorContext, AsyncContext, Context, Handler, Recipient, SpawnHandle, WrapFuture};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tracing::{Instrument, Span, field};

/// What a region is made of.
pub(crate) struct RegionSettings {
    pub(crate) job: JobName,
    pub(crate) plan: Plan,
    pub(crate) storage: Option<OwnedJob>,
    pub(crate) generation: Generation,
    pub(crate) max_parallelism: MaxParallelism,
    pub(crate) mode: CheckpointingMode,
    /// How many checkpoints an incremental one may need; `None` if all are full.
    pub(crate) increments: Option<u32>,
    /// How many batches a channel holds.
    pub(crate) channel_depth: usize,
    pub(crate) restarts: Box<dyn RestartPolicy>,
    /// How long subtasks may take to stop before the job fails as stuck.
    pub(crate) stop_timeout: Duration,
    pub(crate) placement: Placement,
    pub(crate) pool: Pool,
    pub(crate) clock: Clock,
    pub(crate) random: Random,
    /// Above all spans of the job.
    pub(crate) span: Span,
    pub(crate) shared: Arc<JobShared>,
}

/// Supervises the subtasks of one region.
pub(crate) struct RegionSupervisor {
    settings: RegionSettings,
    job: Recipient<RegionReport>,
    coordinator: Recipient<CheckpointMessage>,
    attempt: Attempt,
    scope: Scope,
    /// The subtasks of the attempt that have not ended.
    live: BTreeMap<SubtaskId, Recipient<SubtaskCommand>>,
    /// Those that have not yet said that they run.
    starting: usize,
    from: Option<crate::types::CheckpointId>,
    phase: Phase,
    concluded: bool,
}

enum Phase {
    /// Nothing runs.
    Idle,
    /// State is being read.
    Preparing,
    /// Subtasks are built or run.
    Running,
    /// Subtasks are being stopped.
    Stopping(Stopping),
    /// Nothing runs; the next attempt begins when the timer fires.
    Waiting(SpawnHandle),
}

struct Stopping {
    why: Why,
    /// Whether no checkpoint is at its commit point any more.
    suspended: bool,
    /// Whether nothing of the attempt is left on the pool.
    drained: bool,
    draining: bool,
    deadline: SpawnHandle,
}

enum Why {
    Failure(Error),
    Cancel,
}

/// The coordinator has let go of the attempt.
struct Suspended(Attempt);

/// Nothing of the attempt is left on the pool.
struct Drained(Attempt);

/// The state of the attempt has been read.
struct Prepared(Attempt, Result<Restored, Error>);

messages!(Suspended, Drained, Prepared);

impl RegionSupervisor {
    pub(crate) fn new(
        settings: RegionSettings,
        job: Recipient<RegionReport>,
        coordinator: Recipient<CheckpointMessage>,
    ) -> Self {
        let scope = Scope::new(settings.pool.clone());
        Self {
            settings,
            job,
            coordinator,
            attempt: Attempt(0),
            scope,
            live: BTreeMap::new(),
            starting: 0,
            from: None,
            phase: Phase::Idle,
            concluded: false,
        }
    }

    fn prepare(&mut self, ctx: &mut Context<Self>) {
        self.phase = Phase::Preparing;
        self.scope = Scope::new(self.settings.pool.clone());
        let attempt = self.attempt;
        let layout = Arc::clone(&self.settings.plan.layout);
        let storage = self.settings.storage.clone();
        let (max_parallelism, increments) = (self.settings.max_parallelism, self.settings.increments);
        let recovery = RecoveryContext {
            operator: OperatorId::from(""),
            restored: None,
            generation: self.settings.generation,
            attempt,
            now: self.settings.clock.wall(),
            checkpointing: storage.is_some(),
        };
        let parent = &self.settings.span;
        let span = below(
            parent,
            || tracing::info_span!(parent: parent, "restore", attempt = attempt.0, checkpoint = field::Empty),
        );
        let task = self.scope.spawn(
            async move { restore(&layout, storage.as_ref(), max_parallelism, increments, &recovery).await }
                .instrument(span),
        );
        let to = ctx.address();
        ctx.spawn(
            async move { to.do_send(Prepared(attempt, task.await.and_then(|result| result))) }
                .into_actor(self),
        );
    }

    fn start_subtasks(&mut self, mut restored: Restored, ctx: &mut Context<Self>) {
        self.phase = Phase::Running;
        self.from = restored.from;
        let layout = Arc::clone(&self.settings.plan.layout);
        let mut ends = wire(&layout, self.settings.channel_depth);
        let mut seeds = Vec::new();
        for (chain, id) in layout.subtasks() {
            let Some(factory) = self.settings.plan.factories.get(chain.id.0 as usize) else { continue };
            let name = OperatorId::from(chain.name.as_str());
            let context = ChainContext {
                subtask: SubtaskContext {
                    job: self.settings.job.clone(),
                    operator: name.clone(),
                    subtask: id.index,
                    parallelism: chain.parallelism,
                    generation: self.settings.generation,
                    attempt: self.attempt,
                    clock: self.settings.clock,
                },
                max_parallelism: self.settings.max_parallelism,
                name,
            };
            let seed = SubtaskSeed {
                id,
                attempt: self.attempt,
                clock: self.settings.clock,
                ends: ends.remove(&id).unwrap_or_default(),
                factory: factory.boxed(),
                restored: restored.subtasks.remove(&id).unwrap_or_default(),
                from: self.from,
                has_source: chain.has_source(),
                mode: self.settings.mode,
                context,
                storage: self.settings.storage.clone(),
                coordinator: self.coordinator.clone(),
                scope: self.scope.clone(),
                span: self.settings.span.clone(),
                counters: self.settings.shared.meter().handles(id),
            };
            seeds.push(seed);
        }
        self.starting = seeds.len();
        for seed in seeds {
            let id = seed.id;
            // Neighbours in a chain of exchanges land on different threads.
            let place = id.index.0 as usize + id.chain.0 as usize;
            let supervisor = ctx.address().recipient();
            let addr = match &self.settings.placement {
                Placement::Arbiters(arbiters) => match arbiters.get(place % arbiters.len().max(1)) {
                    Some(arbiter) => {
                        SubtaskActor::start_in_arbiter(arbiter, move |_| SubtaskActor::new(seed, supervisor))
                    }
                    None => SubtaskActor::new(seed, supervisor).start(),
                },
                Placement::Local => SubtaskActor::new(seed, supervisor).start(),
            };
            self.live.insert(id, addr.recipient());
        }
    }

    fn started(&mut self) {
        self.starting = self.starting.saturating_sub(1);
        if self.starting == 0 && matches!(self.phase, Phase::Running) {
            let subtasks = self.live.iter().map(|(id, to)| (*id, to.clone())).collect();
            self.coordinator.do_send(CheckpointMessage::Begin {
                attempt: self.attempt,
                from: self.from,
                subtasks,
            });
            self.job.do_send(RegionReport::Running { attempt: self.attempt, from: self.from });
        }
    }

    fn ended(&mut self, subtask: SubtaskId, cause: ExitCause, ctx: &mut Context<Self>) {
        self.live.remove(&subtask);
        match (cause, &self.phase) {
            (ExitCause::Failed(error), Phase::Running | Phase::Stopping(_)) => {
                self.stop(Why::Failure(error), ctx);
                self.go_on_stopping(ctx);
            }
            (ExitCause::Finished, Phase::Running) if self.live.is_empty() => {
                self.phase = Phase::Idle;
                self.conclude(RegionReport::Finished);
            }
            (ExitCause::Stopped, Phase::Running) => {
                let error = Error::new(ErrorKind::Internal, "a subtask stopped without being told to");
                let error = error.operator(&self.chain_of(subtask).into()).subtask(subtask.index);
                self.stop(Why::Failure(error), ctx);
            }
            _ => self.go_on_stopping(ctx),
        }
    }

    /// Stops what runs. Only the first reason counts: what fails while stopping is a consequence.
    fn stop(&mut self, why: Why, ctx: &mut Context<Self>) {
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Stopping(mut stopping) => {
                match why {
                    Why::Cancel => {
                        if matches!(stopping.why, Why::Failure(_)) {
                            self.settings.shared.failures().decided(FailureOutcome::Cancelled);
                        }
                        stopping.why = Why::Cancel;
                    }
                    Why::Failure(error) => {
                        if matches!(stopping.why, Why::Failure(_)) {
                            self.settings.shared.failures().consequence();
                        }
                        let (parent, job) = (&self.settings.span, &self.settings.job);
                        tracing::debug!(parent: parent, %job, %error, "failed while stopping");
                    }
                }
                self.phase = Phase::Stopping(stopping);
                return;
            }
            Phase::Waiting(timer) => {
                self.settings.shared.failures().decided(FailureOutcome::Cancelled);
                ctx.cancel_future(timer);
            }
            Phase::Idle | Phase::Preparing | Phase::Running => {}
        }
        if let Why::Failure(error) = &why {
            let (parent, job) = (&self.settings.span, &self.settings.job);
            tracing::error!(parent: parent, %job, attempt = self.attempt.0, %error, "an attempt failed");
            let (now, error) = (self.settings.clock.wall(), error.clone().job(job));
            self.settings.shared.failures().failed(self.attempt, now, error);
        }
        let reason = match &why {
            Why::Failure(_) => FailureReason::RegionFailover,
            Why::Cancel => FailureReason::JobCancelled,
        };
        let (done, suspended) = oneshot::channel();
        self.coordinator.do_send(CheckpointMessage::Suspend { reason, done });
        let (attempt, to) = (self.attempt, ctx.address());
        ctx.spawn(
            async move {
                let _ = suspended.await;
                to.do_send(Suspended(attempt));
            }
            .into_actor(self),
        );
        for subtask in self.live.values() {
            subtask.do_send(SubtaskCommand::Stop);
        }
        let deadline = ctx.run_later(self.settings.stop_timeout, Self::stuck);
        self.phase =
            Phase::Stopping(Stopping { why, suspended: false, drained: false, draining: false, deadline });
        self.go_on_stopping(ctx);
    }

    fn go_on_stopping(&mut self, ctx: &mut Context<Self>) {
        let Phase::Stopping(stopping) = &mut self.phase else { return };
        if !self.live.is_empty() {
            return;
        }
        if !stopping.draining {
            stopping.draining = true;
            let (scope, attempt, to) = (self.scope.clone(), self.attempt, ctx.address());
            let drained = async move {
                scope.idle().await;
                to.do_send(Drained(attempt));
            };
            ctx.spawn(drained.into_actor(self));
            return;
        }
        if !(stopping.suspended && stopping.drained) {
            return;
        }
        ctx.cancel_future(stopping.deadline);
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Stopping(Stopping { why: Why::Failure(error), .. }) => self.after_failure(error, ctx),
            _ => self.conclude(RegionReport::Cancelled),
        }
    }

    fn after_failure(&mut self, error: Error, ctx: &mut Context<Self>) {
        if !error.is_recoverable() {
            return self.conclude(RegionReport::Failed(error));
        }
        match self.decide(&error) {
            Err(message) => {
                self.conclude(RegionReport::Failed(Error::new(error.kind(), message).because(error)));
            }
            Ok(delay) => {
                self.settings.shared.failures().decided(FailureOutcome::Restart { after: delay });
                self.job.do_send(RegionReport::Restarting { error, after: delay });
                self.phase = Phase::Waiting(ctx.run_later(delay, Self::restart));
            }
        }
    }

    /// How long to wait, or what to say where there is no restart.
    fn decide(&mut self, error: &Error) -> Result<Duration, String> {
        let RegionSettings { restarts, clock, random, .. } = &mut self.settings;
        let failure = Failure::new(error, clock.now(), random.next_u64());
        let failures = self.attempt.next();
        caught(|| match restarts.on_failure(&failure) {
            RestartDecision::After(delay) => Ok(delay),
            RestartDecision::Never => {
                let strategy = restarts.describe();
                Err(format!("after failure {failures} restart strategy {strategy} allows no restart"))
            }
        })?
    }

    fn restart(&mut self, ctx: &mut Context<Self>) {
        self.attempt = self.attempt.next();
        self.settings.shared.meter().restarted();
        let RegionSettings { restarts, clock, .. } = &mut self.settings;
        match caught(|| restarts.on_restart(clock.now())) {
            Ok(()) => self.prepare(ctx),
            Err(message) => {
                let error = Error::new(ErrorKind::Failed, message);
                let cause = self.settings.shared.failures().last().cloned();
                self.conclude(RegionReport::Failed(
                    cause.map_or(error.clone(), |cause| error.because(cause)),
                ));
            }
        }
    }

    fn stuck(&mut self, _: &mut Context<Self>) {
        let names: Vec<String> = self.live.keys().map(|subtask| self.name_of(*subtask)).collect();
        let what = if names.is_empty() { "storage or a commit".to_owned() } else { names.join(", ") };
        let message = format!(
            "did not stop within {:?}: {what}. Something blocks there; it was not safe to go on. Nothing completed is lost: \
             find out what blocks, then start the job again in a new process",
            self.settings.stop_timeout
        );
        let error = Error::new(ErrorKind::Stuck, message);
        let error = match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Stopping(Stopping { why: Why::Failure(cause), .. }) => error.because(cause),
            _ => error,
        };
        self.conclude(RegionReport::Failed(error));
    }

    fn name_of(&self, subtask: SubtaskId) -> String {
        format!("`{}` subtask {}", self.chain_of(subtask), subtask.index)
    }

    fn chain_of(&self, subtask: SubtaskId) -> &str {
        self.settings.plan.layout.name_of(subtask.chain)
    }

    fn conclude(&mut self, report: RegionReport) {
        self.concluded = true;
        self.job.do_send(report);
    }
}

/// Runs code of a restart policy, which may be the user's.
fn caught<T>(code: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(code))
        .map_err(|panic| format!("the restart policy panicked: {}", panic_message(&*panic)))
}

impl Actor for RegionSupervisor {
    type Context = Context<Self>;
}

impl Handler<RegionCommand> for RegionSupervisor {
    type Result = ();

    fn handle(&mut self, command: RegionCommand, ctx: &mut Self::Context) {
        if self.concluded {
            return;
        }
        match command {
            RegionCommand::Start => self.prepare(ctx),
            RegionCommand::Fail(error) => match self.phase {
                Phase::Running | Phase::Preparing => self.stop(Why::Failure(error), ctx),
                Phase::Stopping(_) | Phase::Idle | Phase::Waiting(_) => {}
            },
            RegionCommand::Cancel => self.stop(Why::Cancel, ctx),
        }
    }
}

impl Handler<Prepared> for RegionSupervisor {
    type Result = ();

    fn handle(&mut self, Prepared(attempt, result): Prepared, ctx: &mut Self::Context) {
        if attempt != self.attempt || !matches!(self.phase, Phase::Preparing) {
            return;
        }
        match result {
            Ok(restored) => self.start_subtasks(restored, ctx),
            Err(error) => self.stop(Why::Failure(error), ctx),
        }
    }
}

impl Handler<SubtaskReport> for RegionSupervisor {
    type Result = ();

    fn handle(&mut self, report: SubtaskReport, ctx: &mut Self::Context) {
        let SubtaskReport { attempt, subtask, news } = report;
        if attempt != self.attempt || !self.live.contains_key(&subtask) {
            return;
        }
        match news {
            SubtaskNews::Started => self.started(),
            SubtaskNews::Ended(cause) => self.ended(subtask, cause, ctx),
        }
    }
}

impl Handler<Suspended> for RegionSupervisor {
    type Result = ();

    fn handle(&mut self, Suspended(attempt): Suspended, ctx: &mut Self::Context) {
        if let Phase::Stopping(stopping) = &mut self.phase
            && attempt == self.attempt
        {
            stopping.suspended = true;
            self.go_on_stopping(ctx);
        }
    }
}

impl Handler<Drained> for RegionSupervisor {
    type Result = ();

    fn handle(&mut self, Drained(attempt): Drained, ctx: &mut Self::Context) {
        if let Phase::Stopping(stopping) = &mut self.phase
            && attempt == self.attempt
        {
            stopping.drained = true;
            self.go_on_stopping(ctx);
        }
    }
}

impl Handler<Terminate> for RegionSupervisor {
    type Result = ();

    fn handle(&mut self, _: Terminate, ctx: &mut Self::Context) {
        self.concluded = true;
        ctx.stop();
    }
}

impl Drop for RegionSupervisor {
    /// A supervisor that panics fails the job; it never leaves it hanging.
    fn drop(&mut self) {
        if !self.concluded {
            self.concluded = true;
            let error = Error::new(ErrorKind::Internal, "the region's supervisor vanished");
            self.job.do_send(RegionReport::Failed(error));
        }
    }
}
