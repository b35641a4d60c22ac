//! The root of a job's actors: decides what follows when regions fail, and how the job ends.

use super::coordinator::CoordinatorActor;
use super::engine::Placement;
use super::job_end::last_words;
use super::messages::{
    CheckpointMessage, JobCommand, JobFailure, RegionCommand, RegionNews, RegionReport, Terminate,
};
use super::region::RegionSupervisor;
use super::restart_budget::RestartBudget;
use super::status::{JobEvent, JobOutcome, JobShared, JobStatus};
use crate::checkpoint::Checkpointing;
use crate::dataflow::Layout;
use crate::error::{Error, ErrorKind};
use crate::operator::Claim;
use crate::pool::{Pool, Scope};
use crate::restart::{Failover, FailureId, FailureOutcome};
use crate::storage::OwnedJob;
use crate::types::{Attempt, CheckpointId, Clock, JobName, OperatorId, RegionId};
use actix::{
    Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, SpawnHandle, System,
    WrapFuture,
};
use futures::future::{Either, select};
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

/// What the root is made of.
pub(super) struct JobParts {
    pub(super) name: JobName,
    /// Above all spans of the job.
    pub(super) span: Span,
    pub(super) storage: Option<OwnedJob>,
    pub(super) checkpointing: Checkpointing,
    pub(super) layout: Arc<Layout>,
    pub(super) clock: Clock,
    pub(super) stop_timeout: Duration,
    pub(super) coordinator: Addr<CoordinatorActor>,
    pub(super) regions: BTreeMap<RegionId, Addr<RegionSupervisor>>,
    pub(super) budget: RestartBudget,
    pub(super) shared: Arc<JobShared>,
    pub(super) pool: Pool,
    pub(super) placement: Placement,
    /// Dropped when the job has ended, before anyone is told.
    pub(super) claims: Vec<Claim>,
    /// Cancels the job from outside.
    pub(super) cancel_on: Option<CancellationToken>,
}

/// The root: what a handle talks to, and what the others report to.
pub(crate) struct JobActor {
    parts: JobParts,
    scope: Scope,
    failover: Failover,
    /// The failures of regions that are down and of which it is not decided what follows.
    failed: BTreeMap<RegionId, (Error, FailureId)>,
    /// The failure for which all regions are being stopped.
    whole: Option<(Error, FailureId)>,
    /// Restarts that are waited for.
    waiting: Vec<Waiting>,
    /// Who waits for the job to be drained.
    drains: Vec<oneshot::Sender<Error>>,
    /// Whose wait is over because of a failure, if anything runs again.
    interrupted: Vec<(oneshot::Sender<Error>, Error)>,
    /// Whether regions were told to end.
    stopping: bool,
    /// Whether one of them did because of that.
    was_cancelled: bool,
    /// Whether a region had nothing left to run.
    restored_end: bool,
    /// Why the job has failed.
    fate: Option<Error>,
    ending: bool,
    concluded: bool,
}

/// A restart that is waited for.
struct Waiting {
    regions: Vec<RegionId>,
    failures: Vec<FailureId>,
    timer: SpawnHandle,
}

impl JobActor {
    pub(super) fn new(parts: JobParts) -> Self {
        Self {
            scope: Scope::new(parts.pool.clone()),
            failover: Failover::new(parts.regions.keys().copied()),
            parts,
            failed: BTreeMap::new(),
            whole: None,
            waiting: Vec::new(),
            drains: Vec::new(),
            interrupted: Vec::new(),
            stopping: false,
            was_cancelled: false,
            restored_end: false,
            fate: None,
            ending: false,
            concluded: false,
        }
    }

    fn tell(&self, region: RegionId, command: RegionCommand) {
        if let Some(region) = self.parts.regions.get(&region) {
            region.do_send(command);
        }
    }

    fn cancel(&mut self, ctx: &mut Context<Self>) {
        if !self.ending && !self.stopping {
            self.parts.shared.set_status(JobStatus::Stopping);
            self.stop_regions(ctx);
        }
    }

    /// All input ends, unless something fails before the job has finished: then it goes on as before.
    ///
    /// To end the input of what was restarted would leave unread what it had given after the checkpoint.
    fn drain(&mut self, broken_off: oneshot::Sender<Error>) {
        if !self.ending && !self.stopping {
            self.drains.push(broken_off);
            tracing::info!(parent: &self.parts.span, job = %self.parts.name, "the job is drained: its sources end");
            for region in self.failover.left() {
                self.tell(region, RegionCommand::Drain);
            }
        }
    }

    /// Nothing is restarted any more: all regions end.
    fn stop_regions(&mut self, ctx: &mut Context<Self>) {
        self.stopping = true;
        let (whole, failed) = (self.whole.take(), std::mem::take(&mut self.failed));
        let undecided = whole.into_iter().chain(failed.into_values()).map(|(_, failure)| failure);
        let waited_for = self.stop_waiting(ctx).into_iter().flat_map(|waiting| waiting.failures);
        for failure in undecided.chain(waited_for) {
            self.parts.shared.failures().decided(failure, FailureOutcome::Cancelled);
        }
        for region in self.failover.left() {
            self.tell(region, RegionCommand::Cancel);
        }
    }

    fn stop_waiting(&mut self, ctx: &mut Context<Self>) -> Vec<Waiting> {
        let waiting = std::mem::take(&mut self.waiting);
        for Waiting { timer, .. } in &waiting {
            ctx.cancel_future(*timer);
        }
        waiting
    }

    /// The job has failed: it ends when nothing of it runs any more.
    fn fail(&mut self, error: Error, ctx: &mut Context<Self>) {
        self.fate = Some(match self.fate.take() {
            Some(fate) if error.kind() == ErrorKind::Stuck && fate.kind() != ErrorKind::Stuck => {
                error.because(fate)
            }
            Some(fate) => fate,
            None => error,
        });
        if !self.stopping {
            self.stop_regions(ctx);
        }
    }

    /// All subtasks of a region run.
    fn running(&mut self, region: RegionId, attempt: Attempt, from: Option<CheckpointId>) {
        let JobParts { shared, span: parent, name: job, .. } = &self.parts;
        if from.is_none() && attempt.0 > 0 {
            tracing::warn!(
                parent: parent,
                %job,
                attempt = attempt.0,
                "restarted without a checkpoint: state begins empty, and what sources do not replay is lost"
            );
        }
        // Not before: after the final checkpoint a restart only commits, and the job is drained.
        for (drain, cause) in self.interrupted.drain(..) {
            let message = "a failure was in the way of the drain, and the job goes on from its last checkpoint: drain it again";
            let _ = drain.send(Error::new(ErrorKind::Failed, message).because(cause).job(job));
        }
        if self.failover.running(region) {
            let (attempt, checkpoint) = (shared.meter().attempt(), from.map(|from| from.0));
            self.restored(from);
            shared.set_status(JobStatus::Running);
            tracing::info!(parent: parent, %job, attempt = attempt.0, checkpoint, "all subtasks run");
            shared.emit(JobEvent::Running { attempt, from });
        }
    }

    /// Counts it once, however many regions began from it.
    fn restored(&self, from: Option<CheckpointId>) {
        if let Some(from) = from {
            self.parts.shared.statistics().restored(from, self.parts.clock.wall());
        }
    }

    /// Something failed that is no region's own.
    fn whole_failed(&mut self, error: Error, ctx: &mut Context<Self>) {
        let JobParts { shared, span: parent, name: job, clock, layout, .. } = &self.parts;
        let attempt = shared.meter().attempt();
        let is_recoverable = error.is_recoverable();
        let running = if is_recoverable { self.failover.whole_failed() } else { Vec::new() };
        if is_recoverable && running.is_empty() {
            // All is being restarted.
            tracing::debug!(parent: parent, %job, %error, "failed while stopping");
            if let Some((_, failure)) = &self.whole {
                shared.failures().consequence(*failure);
            }
            return;
        }
        tracing::error!(parent: parent, %job, attempt = attempt.0, %error, "an attempt failed");
        let operators: Arc<[OperatorId]> =
            layout.operators().map(|(_, operator)| operator.id.clone()).collect();
        let (now, named) = (clock.wall(), error.clone().job(job));
        let failure = shared.failures().failed(&operators, attempt, now, named);
        if !is_recoverable {
            shared.failures().decided(failure, FailureOutcome::Failed);
            return self.fail(error, ctx);
        }
        self.halt(running, (error, failure), ctx);
    }

    /// All regions are restarted because of one failure: stops those that run.
    fn halt(&mut self, running: Vec<RegionId>, whole: (Error, FailureId), ctx: &mut Context<Self>) {
        self.stop_waiting(ctx);
        for region in running {
            self.tell(region, RegionCommand::Halt(whole.1));
        }
        self.whole = Some(whole);
    }

    /// Nothing is left of a region that was stopped.
    fn down(&mut self, region: RegionId, failure: Option<(Error, FailureId)>, ctx: &mut Context<Self>) {
        if let Some((error, failure)) = failure {
            if !error.is_recoverable() {
                self.parts.shared.failures().decided(failure, FailureOutcome::Failed);
                return self.fail(error, ctx);
            }
            // A failure in the way of a drain: the regions whose input that has ended read on with this one.
            let ended = if self.can_break_off() { self.failover.whole_failed() } else { Vec::new() };
            if ended.is_empty() {
                self.failed.insert(region, (error, failure));
            } else {
                self.halt(ended, (error, failure), ctx);
            }
        }
        let regions = self.failover.down(region);
        self.decide_about(regions, ctx);
    }

    /// Whether a failure now leaves a drain undone. Without checkpoints what has ended has committed, and would begin from nothing; behind the final
    /// one only commits are left.
    fn can_break_off(&self) -> bool {
        let JobParts { storage, shared, .. } = &self.parts;
        !self.drains.is_empty() && storage.is_some() && !shared.has_final_checkpoint()
    }

    /// Regions of which nothing is left are to be restarted as one.
    fn decide_about(&mut self, regions: Vec<RegionId>, ctx: &mut Context<Self>) {
        let mut failed: Vec<(Error, FailureId)> =
            regions.iter().filter_map(|region| self.failed.remove(region)).collect();
        if !self.failover.is_whole() {
            failed.splice(0..0, self.whole.take());
        }
        // The first is what is decided about.
        let failures = failed.iter().map(|(_, failure)| *failure).collect();
        if let (false, Some((error, _))) = (regions.is_empty(), failed.into_iter().next()) {
            self.decide(error, failures, regions, ctx);
        }
    }

    fn decide(
        &mut self,
        error: Error,
        failures: Vec<FailureId>,
        regions: Vec<RegionId>,
        ctx: &mut Context<Self>,
    ) {
        let decision = self.parts.budget.decide(&error);
        let JobParts { shared, span: parent, name: job, .. } = &self.parts;
        let after = match decision {
            Ok(after) => after,
            Err(last) => {
                if let Some(failure) = failures.first() {
                    shared.failures().decided(*failure, FailureOutcome::Failed);
                }
                return self.fail(last, ctx);
            }
        };
        for failure in &failures {
            shared.failures().decided(*failure, FailureOutcome::Restart { after });
        }
        let drains = self.drains.drain(..).map(|drain| (drain, error.clone().job(job)));
        self.interrupted.extend(drains);
        let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        tracing::info!(parent: parent, %job, after_ms, "the job will be restarted");
        shared.set_status(JobStatus::Restarting);
        shared.emit(JobEvent::Restarting { error: error.clone().job(job), after });
        let first = regions.first().copied();
        let timer = ctx.run_later(after, move |job, ctx| {
            let due = job.waiting.iter().position(|waiting| waiting.regions.first().copied() == first);
            if let Some(due) = due {
                let Waiting { regions, .. } = job.waiting.swap_remove(due);
                job.restart(&regions, error, ctx);
            }
        });
        self.waiting.push(Waiting { regions, failures, timer });
    }

    fn restart(&mut self, regions: &[RegionId], cause: Error, ctx: &mut Context<Self>) {
        self.parts.shared.meter().restarted();
        if let Err(error) = self.parts.budget.restarted() {
            return self.fail(error.because(cause), ctx);
        }
        for region in regions {
            self.failover.restart(*region);
            self.tell(*region, RegionCommand::Start);
            if !self.drains.is_empty() {
                self.tell(*region, RegionCommand::Drain);
            }
        }
    }

    /// A region will not run again.
    fn over(&mut self, region: RegionId, ctx: &mut Context<Self>) {
        let regions = self.failover.over(region);
        // Who ends for good has no say.
        if !self.stopping {
            self.decide_about(regions, ctx);
        }
        if self.failover.is_over() {
            let outcome = match self.fate.take() {
                Some(error) => Err(error),
                None if self.was_cancelled => Ok(JobStatus::Cancelled),
                None => Ok(JobStatus::Finished),
            };
            self.end(outcome, ctx);
        }
    }

    /// The dataflow is over: does what is left to do in storage, then ends the job.
    fn end(&mut self, outcome: JobOutcome, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.ending, true) {
            return;
        }
        if is_stuck(&outcome) {
            // What hangs cannot be waited for.
            self.parts.coordinator.do_send(Terminate);
            for region in self.parts.regions.values() {
                region.do_send(Terminate);
            }
            self.conclude(outcome, ctx);
            return;
        }
        let JobParts { storage, checkpointing, layout, clock, stop_timeout: limit, .. } = &self.parts;
        let (storage, checkpointing, layout) = (storage.clone(), checkpointing.clone(), Arc::clone(layout));
        let (limit, deadline, clock) = (*limit, clock.sleep(*limit), *clock);
        let (coordinator, regions) = (self.parts.coordinator.clone(), self.parts.regions.clone());
        let (scope, span) = (self.scope.clone(), self.parts.span.clone());
        let cause = outcome.as_ref().err().cloned();
        let rest = async move {
            // Fails if it is gone already, which is as good.
            let _ = coordinator.send(Terminate).await;
            for region in regions.values() {
                let _ = region.send(Terminate).await;
            }
            let task =
                scope.spawn(last_words(storage, outcome, checkpointing, layout, clock).instrument(span));
            task.await.unwrap_or_else(Err)
        };
        let rest = async move {
            match select(pin!(rest), pin!(deadline)).await {
                Either::Left((outcome, _)) => outcome,
                Either::Right(_) => {
                    let message = format!(
                        "the storage did not finish within {limit:?} when the job ended. Nothing completed is lost: find out \
                         what makes it slow, then start the job again"
                    );
                    let error = Error::new(ErrorKind::Stuck, message);
                    Err(cause.map_or(error.clone(), |cause| error.because(cause)))
                }
            }
        };
        ctx.spawn(rest.into_actor(self).map(|outcome, job, ctx| job.conclude(outcome, ctx)));
    }

    fn conclude(&mut self, outcome: JobOutcome, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.concluded, true) {
            return;
        }
        let outcome = outcome.map_err(|error| error.job(&self.parts.name));
        self.log_end(&outcome);
        self.parts.storage = None;
        self.parts.claims.clear();
        let stuck = is_stuck(&outcome);
        self.parts.shared.decide(outcome);
        if stuck {
            // Its threads may never be gone.
            self.parts.shared.announce();
        }
        match self.parts.placement {
            // What waits for the job is told when its threads are gone.
            Placement::Arbiters(_) => System::current().stop(),
            Placement::Local => self.parts.shared.announce(),
        }
        ctx.stop();
    }
}

impl JobActor {
    fn log_end(&self, outcome: &JobOutcome) {
        let (parent, job) = (&self.parts.span, &self.parts.name);
        match outcome {
            Ok(JobStatus::Cancelled) => tracing::info!(parent: parent, %job, "the job was cancelled"),
            Ok(_) => tracing::info!(parent: parent, %job, "the job has finished"),
            Err(error) => tracing::error!(parent: parent, %job, %error, "the job failed"),
        }
    }
}

fn is_stuck(outcome: &JobOutcome) -> bool {
    matches!(outcome, Err(error) if error.kind() == ErrorKind::Stuck)
}

impl Actor for JobActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if let Some(token) = self.parts.cancel_on.take() {
            ctx.spawn(token.cancelled_owned().into_actor(self).map(|(), job, ctx| job.cancel(ctx)));
        }
        // An actor that is dropped before its first turn is called too, where there may be no runtime any more.
        #[cfg(feature = "metrics")]
        if tokio::runtime::Handle::try_current().is_ok() {
            ctx.run_interval(super::metrics_facade::INTERVAL, |job, _| job.parts.shared.publish_metrics());
        }
    }
}

impl Handler<RegionReport> for JobActor {
    type Result = ();

    fn handle(&mut self, RegionReport { region, news }: RegionReport, ctx: &mut Self::Context) {
        if self.ending {
            return;
        }
        match news {
            // What is told to end ends, however it fares.
            RegionNews::Running { .. } | RegionNews::Failing | RegionNews::Down(_) if self.stopping => {}
            RegionNews::Running { attempt, from } => self.running(region, attempt, from),
            RegionNews::Failing => self.failover.failing(region),
            RegionNews::Down(failure) => self.down(region, failure, ctx),
            RegionNews::Finished(from) => {
                if !std::mem::replace(&mut self.restored_end, from.is_some()) {
                    self.restored(from);
                }
                self.over(region, ctx);
            }
            RegionNews::Cancelled => {
                self.was_cancelled = true;
                self.over(region, ctx);
            }
            RegionNews::Failed(error) => {
                self.fail(error, ctx);
                self.over(region, ctx);
            }
        }
    }
}

impl Handler<JobFailure> for JobActor {
    type Result = ();

    fn handle(&mut self, failure: JobFailure, ctx: &mut Self::Context) {
        match failure {
            _ if self.ending => {}
            JobFailure::Restart(_) if self.stopping => {}
            JobFailure::Restart(error) => self.whole_failed(error, ctx),
            JobFailure::Final(error) => self.fail(error, ctx),
        }
    }
}

impl Handler<JobCommand> for JobActor {
    type Result = ();

    fn handle(&mut self, command: JobCommand, ctx: &mut Self::Context) {
        match command {
            JobCommand::Cancel => self.cancel(ctx),
            JobCommand::Drain { broken_off } => self.drain(broken_off),
            JobCommand::Checkpoint { answer } => {
                self.parts.coordinator.do_send(CheckpointMessage::Request { answer });
            }
            JobCommand::Retained { answer } => {
                self.parts.coordinator.do_send(CheckpointMessage::Retained { answer });
            }
            JobCommand::Schedule { run, done } => {
                self.parts.coordinator.do_send(CheckpointMessage::Schedule { run, done });
            }
        }
    }
}

impl Drop for JobActor {
    /// A root that panics ends the job with an error, and its threads with it.
    fn drop(&mut self) {
        if !self.concluded {
            self.parts.claims.clear();
            let error =
                Error::new(ErrorKind::Internal, "the job's root actor vanished").job(&self.parts.name);
            self.parts.shared.decide(Err(error));
            match self.parts.placement {
                Placement::Arbiters(_) => {
                    if let Some(system) = System::try_current() {
                        system.stop();
                    }
                }
                Placement::Local => self.parts.shared.announce(),
            }
        }
    }
}
