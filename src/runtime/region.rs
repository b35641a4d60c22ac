//! The supervisor of a failover region: starts its subtasks from a checkpoint, watches them, and after a failure stops all of them. When nothing
//! of them is left it says so, and starts them afresh when it is told to.

use super::engine::Placement;
use super::messages::{
    CheckpointMessage, ExitCause, RegionCommand, RegionNews, RegionReport, SubtaskCommand, SubtaskNews,
    SubtaskReport, Terminate, messages,
};
use super::restore::Restored;
use super::status::JobShared;
use super::watchdog::{Finding, Watchdog, warn_blocks};
use crate::checkpoint::{CheckpointingMode, FailureReason};
use crate::dataflow::{Layout, Plan};
use crate::error::{Error, ErrorKind};
use crate::metrics::{Activity, Pulse};
use crate::pool::{Pool, Scope};
use crate::restart::{FailureId, FailureOutcome};
use crate::storage::OwnedJob;
use crate::types::{
    Attempt, CheckpointId, Clock, Generation, JobName, MaxParallelism, OperatorId, RegionId, SubtaskId,
};
use actix::{Actor, ActorContext, AsyncContext, Context, Handler, Recipient, SpawnHandle, WrapFuture};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tracing::Span;

/// What a region is made of.
pub(crate) struct RegionSettings {
    pub(crate) region: RegionId,
    /// Uids of its operators.
    pub(crate) operators: Arc<[OperatorId]>,
    pub(crate) job: JobName,
    /// Of this region alone.
    pub(crate) plan: Plan,
    /// Of all regions.
    pub(crate) job_layout: Arc<Layout>,
    pub(crate) storage: Option<OwnedJob>,
    pub(crate) generation: Generation,
    pub(crate) max_parallelism: MaxParallelism,
    pub(crate) mode: CheckpointingMode,
    /// How many checkpoints an incremental one may need; `None` if all are full.
    pub(crate) increments: Option<u32>,
    /// How many bytes of a keyed state may wait for a snapshot.
    pub(crate) snapshot_memory: u64,
    /// How many batches a channel holds.
    pub(crate) channel_depth: usize,
    /// How long subtasks may take to stop before the job fails as stuck.
    pub(crate) stop_timeout: Duration,
    /// After how long a subtask that is stuck is told of; zero for never.
    pub(crate) stuck_warning: Duration,
    pub(crate) placement: Placement,
    pub(crate) pool: Pool,
    pub(crate) clock: Clock,
    /// Above all spans of the job.
    pub(crate) span: Span,
    pub(crate) shared: Arc<JobShared>,
}

/// Supervises the subtasks of one region.
pub(crate) struct RegionSupervisor {
    settings: RegionSettings,
    job: Recipient<RegionReport>,
    coordinator: Recipient<CheckpointMessage>,
    /// The one that runs or ran last.
    attempt: Attempt,
    has_begun: bool,
    scope: Scope,
    /// The subtasks of the attempt that have not ended.
    live: BTreeMap<SubtaskId, Recipient<SubtaskCommand>>,
    /// Those that have not yet said that they run.
    starting: usize,
    watchdog: Watchdog,
    /// From the first attempt on. Not before: an actor that is dropped unpolled is started outside of any runtime.
    watching: Option<SpawnHandle>,
    /// Whether its sources are to end.
    draining: bool,
    from: Option<CheckpointId>,
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
    Failure(Error, FailureId),
    /// All regions are to be restarted because of this failure.
    Halt(FailureId),
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
            watchdog: Watchdog::new(settings.stuck_warning),
            settings,
            job,
            coordinator,
            attempt: Attempt(0),
            has_begun: false,
            scope,
            live: BTreeMap::new(),
            starting: 0,
            watching: None,
            draining: false,
            from: None,
            phase: Phase::Idle,
            concluded: false,
        }
    }

    fn start(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.has_begun, true) {
            self.attempt = self.attempt.next();
        }
        self.draining = false;
        self.phase = Phase::Preparing;
        self.scope = Scope::new(self.settings.pool.clone());
        let (attempt, to) = (self.attempt, ctx.address());
        let restored = self.settings.restore(attempt, &self.scope);
        let restored = async move { to.do_send(Prepared(attempt, restored.await.and_then(|result| result))) };
        ctx.spawn(restored.into_actor(self));
    }

    fn start_subtasks(&mut self, restored: Restored, ctx: &mut Context<Self>) {
        self.phase = Phase::Running;
        self.from = restored.from;
        let supervisor = ctx.address().recipient();
        self.live = self.settings.launch(self.attempt, restored, &self.scope, &self.coordinator, &supervisor);
        self.starting = self.live.len();
        self.watchdog.reset();
        if !self.settings.stuck_warning.is_zero() && self.watching.is_none() {
            let interval = self.watchdog.interval();
            self.watching = Some(ctx.run_interval(interval, |region, _| region.watch()));
        }
    }

    /// Looks for subtasks that are stuck.
    fn watch(&mut self) {
        let now = self.settings.clock.elapsed();
        let meter = self.settings.shared.meter();
        let subtasks = self.live.keys().map(|subtask| {
            let handles = meter.handles(*subtask);
            (*subtask, handles.subtask.time.pulse(now), handles.progress())
        });
        let findings = self.watchdog.look(now, subtasks);
        let limit = self.watchdog.limit();
        for finding in findings {
            match finding {
                Finding::Blocks(subtask, lasts) => {
                    let chain = self.chain_of(subtask);
                    self.settings.span.in_scope(|| warn_blocks(chain, subtask.index, lasts));
                }
                Finding::IsStill(subtask, still) => {
                    if let Some(to) = self.live.get(&subtask) {
                        to.do_send(SubtaskCommand::WhoWaits { limit, still });
                    }
                }
            }
        }
    }

    fn started(&mut self) {
        self.starting = self.starting.saturating_sub(1);
        if self.starting == 0 && matches!(self.phase, Phase::Running) {
            let subtasks = self.live.iter().map(|(id, to)| (*id, to.clone())).collect();
            let (region, attempt, from) = (self.settings.region, self.attempt, self.from);
            self.coordinator.do_send(CheckpointMessage::Begin { region, attempt, from, subtasks });
            self.report(RegionNews::Running { attempt, from });
            self.end_input();
        }
    }

    /// Tells sources that their input ends, if it is to. Whoever is not built yet is told when all are.
    fn end_input(&self) {
        if self.draining && self.starting == 0 && matches!(self.phase, Phase::Running) {
            for subtask in self.live.values() {
                subtask.do_send(SubtaskCommand::EndInput);
            }
        }
    }

    fn ended(&mut self, subtask: SubtaskId, cause: ExitCause, ctx: &mut Context<Self>) {
        self.live.remove(&subtask);
        match (cause, &self.phase) {
            (ExitCause::Failed(error), Phase::Running | Phase::Stopping(_)) => {
                self.fail(error, ctx);
                self.go_on_stopping(ctx);
            }
            (ExitCause::Finished, Phase::Running) if self.live.is_empty() => {
                self.conclude(RegionNews::Finished(None));
            }
            (ExitCause::Stopped, Phase::Running) => {
                let error = Error::new(ErrorKind::Internal, "a subtask stopped without being told to");
                let error = error.operator(&self.chain_of(subtask).into()).subtask(subtask.index);
                self.fail(error, ctx);
            }
            _ => self.go_on_stopping(ctx),
        }
    }

    /// An attempt fails. Only its first failure counts: what fails while stopping is a consequence.
    fn fail(&mut self, error: Error, ctx: &mut Context<Self>) {
        let (parent, job, shared) = (&self.settings.span, &self.settings.job, &self.settings.shared);
        if let Phase::Stopping(stopping) = &self.phase {
            if let Why::Failure(_, failure) | Why::Halt(failure) = stopping.why {
                shared.failures().consequence(failure);
            }
            tracing::debug!(parent: parent, %job, %error, "failed while stopping");
            return;
        }
        tracing::error!(parent: parent, %job, attempt = self.attempt.0, %error, "an attempt failed");
        let (now, named) = (self.settings.clock.wall(), error.clone().job(job));
        let failure = shared.failures().failed(&self.settings.operators, self.attempt, now, named);
        self.report(RegionNews::Failing);
        self.stop(Why::Failure(error, failure), ctx);
    }

    /// It is to be started again with all others.
    fn halt(&mut self, failure: FailureId, ctx: &mut Context<Self>) {
        match &self.phase {
            // What it fails of is part of the same failure, and what it is halted for is decided for all.
            Phase::Stopping(_) | Phase::Idle => {}
            Phase::Preparing | Phase::Running => self.stop(Why::Halt(failure), ctx),
        }
    }

    fn cancel(&mut self, ctx: &mut Context<Self>) {
        match &mut self.phase {
            Phase::Stopping(stopping) => {
                if let Why::Failure(_, failure) = stopping.why {
                    self.settings.shared.failures().decided(failure, FailureOutcome::Cancelled);
                }
                stopping.why = Why::Cancel;
            }
            Phase::Idle => self.conclude(RegionNews::Cancelled),
            Phase::Preparing | Phase::Running => self.stop(Why::Cancel, ctx),
        }
    }

    /// Stops what runs.
    fn stop(&mut self, why: Why, ctx: &mut Context<Self>) {
        let reason = match &why {
            Why::Failure(..) | Why::Halt(_) => FailureReason::RegionFailover,
            Why::Cancel => FailureReason::JobCancelled,
        };
        let (done, suspended) = oneshot::channel();
        let (region, attempt, to) = (self.settings.region, self.attempt, ctx.address());
        self.coordinator.do_send(CheckpointMessage::Suspend { region, attempt, reason, done });
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
            Phase::Stopping(Stopping { why: Why::Failure(error, failure), .. }) => {
                self.report(RegionNews::Down(Some((error, failure))));
            }
            Phase::Stopping(Stopping { why: Why::Halt(_), .. }) => self.report(RegionNews::Down(None)),
            _ => self.conclude(RegionNews::Cancelled),
        }
    }

    fn stuck(&mut self, _: &mut Context<Self>) {
        let now = self.settings.clock.elapsed();
        let names: Vec<String> = self.live.keys().map(|subtask| self.name_of(*subtask, now)).collect();
        let what = if names.is_empty() { "storage or a commit".to_owned() } else { names.join(", ") };
        let message = format!(
            "did not stop within {:?}: {what}. Something blocks there; it was not safe to go on. Nothing completed is lost: \
             find out what blocks, then start the job again in a new process",
            self.settings.stop_timeout
        );
        let error = Error::new(ErrorKind::Stuck, message);
        let error = match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Stopping(Stopping { why: Why::Failure(cause, _), .. }) => error.because(cause),
            _ => error,
        };
        self.conclude(RegionNews::Failed(error));
    }

    /// The name of a subtask, and if it is in its code, for how long.
    fn name_of(&self, subtask: SubtaskId, now: Duration) -> String {
        let name = format!("`{}` subtask {}", self.chain_of(subtask), subtask.index);
        match self.settings.shared.meter().handles(subtask).subtask.time.pulse(now) {
            Pulse { activity: Activity::Busy, lasts } => {
                format!("{name}, which has been in its code for {:.1} s", lasts.as_secs_f64())
            }
            _ => name,
        }
    }

    fn chain_of(&self, subtask: SubtaskId) -> &str {
        self.settings.plan.layout.name_of(subtask.chain)
    }

    fn report(&self, news: RegionNews) {
        self.job.do_send(RegionReport { region: self.settings.region, news });
    }

    fn conclude(&mut self, news: RegionNews) {
        self.phase = Phase::Idle;
        self.concluded = true;
        self.report(news);
    }
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
            RegionCommand::Start => self.start(ctx),
            RegionCommand::Halt(failure) => self.halt(failure, ctx),
            RegionCommand::Drain => {
                self.draining = true;
                self.end_input();
            }
            RegionCommand::Cancel => self.cancel(ctx),
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
            Ok(restored) if restored.finished => self.conclude(RegionNews::Finished(restored.from)),
            Ok(restored) => self.start_subtasks(restored, ctx),
            Err(error) => self.fail(error, ctx),
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
            self.report(RegionNews::Failed(error));
        }
    }
}
