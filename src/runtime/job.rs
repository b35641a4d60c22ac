//! The root of a job's actors.

use super::coordinator::{CoordinatorActor, CoordinatorSettings, Supervise};
use super::engine::Placement;
use super::job_meter::JobMeter;
use super::messages::{CheckpointMessage, JobCommand, RegionCommand, RegionReport, Terminate};
use super::region::{RegionSettings, RegionSupervisor};
use super::restore;
use super::status::{JobEvent, JobOutcome, JobShared, JobStatus};
use crate::checkpoint::{Checkpointing, JobEnd, Retention, StatisticsTracker, deleted_at_end};
use crate::dataflow::{Layout, Plan};
use crate::error::{Error, ErrorKind};
use crate::operator::{Claim, StartContext};
use crate::pool::{Pool, Scope};
use crate::restart::RestartPolicy;
use crate::storage::{CompleteError, JobStorage, Opened, OwnedJob};
use crate::types::{
    CheckpointId, Clock, Generation, JobName, MaxParallelism, Random, default_max_parallelism,
};
use actix::{Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, System, WrapFuture};
use futures::future::{Either, select};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

/// Everything a job is made of, checked.
pub(crate) struct JobSettings {
    pub(crate) name: JobName,
    /// Above all spans of the job.
    pub(crate) span: Span,
    pub(crate) plan: Plan,
    /// As the user set it.
    pub(crate) max_parallelism: Option<MaxParallelism>,
    pub(crate) checkpointing: Option<Checkpointing>,
    /// How many batches a channel holds.
    pub(crate) channel_depth: usize,
    pub(crate) storage: Option<JobStorage>,
    pub(crate) restarts: Box<dyn RestartPolicy>,
    pub(crate) stop_timeout: Duration,
    pub(crate) take_over: bool,
    pub(crate) allow_non_restored_state: bool,
    /// Cancels the job from outside.
    pub(crate) cancel_on: Option<CancellationToken>,
    pub(crate) clock: Clock,
    pub(crate) random: Random,
}

impl JobSettings {
    /// What counts for the job. See [`JobMeter::new`].
    pub(crate) fn meter(&self) -> JobMeter {
        JobMeter::new(&self.name, &self.plan.layout, self.clock)
    }

    /// What keeps the job's checkpoints in mind.
    pub(crate) fn statistics(&self) -> StatisticsTracker {
        let history = self.checkpointing.clone().unwrap_or_default().get_history();
        StatisticsTracker::new(history, self.plan.layout.subtasks().count())
    }
}

/// A job whose storage was opened.
pub(crate) enum OpenedJob {
    /// There is nothing left to do.
    Finished(Option<CheckpointId>),
    /// It may run.
    Ready(Box<ReadyJob>),
}

pub(crate) struct ReadyJob {
    settings: JobSettings,
    storage: Option<OwnedJob>,
    max_parallelism: MaxParallelism,
    claims: Vec<Claim>,
}

impl JobSettings {
    /// Ties the job's sources and sinks to it.
    pub(crate) fn claim(&self, restored: Option<CheckpointId>) -> Result<Vec<Claim>, Error> {
        let checkpointing = self.storage.is_some();
        self.plan.layout.claim(&StartContext { job: self.name.clone(), restored, checkpointing })
    }
}

/// Opens a job's storage, checks that the program fits the checkpoint in it, and claims the ends of its streams.
pub(crate) async fn open(settings: JobSettings) -> Result<OpenedJob, Error> {
    let span = settings.span.clone();
    open_storage(settings).instrument(span).await
}

async fn open_storage(settings: JobSettings) -> Result<OpenedJob, Error> {
    let widest = settings.plan.layout.widest();
    let default = settings.max_parallelism.unwrap_or_else(|| default_max_parallelism(widest));
    restore::check_parallelism(&settings.plan.layout, default)?;
    let Some(storage) = &settings.storage else {
        return Ok(OpenedJob::Ready(Box::new(ReadyJob {
            max_parallelism: default,
            storage: None,
            claims: settings.claim(None)?,
            settings,
        })));
    };
    let owned = match storage.open(settings.take_over).await? {
        Opened::Finished { checkpoint } => {
            let retention = settings.checkpointing.as_ref().map(Checkpointing::get_on_cancellation);
            if let Err(error) = storage.tidy_finished(retention != Some(Retention::Delete)).await {
                tracing::warn!(job = %settings.name, %error, "leftovers of the finished job could not be removed");
            }
            // For the ends of its streams it has ended now. Those that another job uses are none of its business.
            drop(settings.claim(checkpoint));
            let (job, last) = (&settings.name, checkpoint.map(|checkpoint| checkpoint.0));
            tracing::info!(%job, checkpoint = last, "the job had finished before: nothing is run");
            return Ok(OpenedJob::Finished(checkpoint));
        }
        Opened::Owned(owned) => owned,
    };
    let mut max_parallelism = default;
    if let Some(manifest) = owned.latest_manifest().await? {
        if let Some(set) = settings.max_parallelism
            && set != manifest.max_parallelism
        {
            let message = format!(
                "max_parallelism is set to {set}, but the checkpoint was made with {}: it can never change; \
                 set it to that or leave it out",
                manifest.max_parallelism
            );
            return Err(Error::new(ErrorKind::Configuration, message).checkpoint(manifest.checkpoint));
        }
        max_parallelism = manifest.max_parallelism;
        restore::check_parallelism(&settings.plan.layout, max_parallelism)
            .map_err(|error| error.checkpoint(manifest.checkpoint))?;
        restore::check(&settings.plan.layout, &manifest, settings.allow_non_restored_state)?;
    }
    let claims = settings.claim(owned.retained().last().copied())?;
    Ok(OpenedJob::Ready(Box::new(ReadyJob { max_parallelism, storage: Some(owned), claims, settings })))
}

impl ReadyJob {
    /// The checkpoint the job begins from.
    pub(crate) fn from(&self) -> Option<CheckpointId> {
        self.storage.as_ref().and_then(|storage| storage.retained().last().copied())
    }

    /// Starts the job's actors here, and its subtasks where `placement` says.
    pub(crate) fn start(self, placement: Placement, pool: Pool, shared: Arc<JobShared>) -> Addr<JobActor> {
        let checkpoint = self.from().map(|from| from.0);
        let Self { settings, storage, max_parallelism, claims } = self;
        tracing::info!(parent: &settings.span, job = %settings.name, checkpoint, "the job starts");
        // Another sequence than the coordinator's, from the same seed.
        let random = Random::from_seed(settings.random.clone().next_u64());
        JobActor::create(|ctx| {
            let job = ctx.address();
            let layout = Arc::clone(&settings.plan.layout);
            let coordinator = CoordinatorActor::new(
                CoordinatorSettings {
                    job: settings.name.clone(),
                    layout: Arc::clone(&settings.plan.layout),
                    checkpointing: settings.checkpointing.clone(),
                    storage: storage.clone(),
                    max_parallelism,
                    pool: pool.clone(),
                    clock: settings.clock,
                    random: settings.random,
                    span: settings.span.clone(),
                    shared: Arc::clone(&shared),
                },
                job.clone().recipient(),
            )
            .start();
            let region = RegionSettings {
                job: settings.name.clone(),
                plan: settings.plan,
                storage: storage.clone(),
                generation: storage.as_ref().map_or(Generation(0), OwnedJob::generation),
                max_parallelism,
                mode: settings.checkpointing.as_ref().map(Checkpointing::get_mode).unwrap_or_default(),
                increments: settings.checkpointing.as_ref().and_then(Checkpointing::increments),
                channel_depth: settings.channel_depth,
                restarts: settings.restarts,
                stop_timeout: settings.stop_timeout,
                placement: placement.clone(),
                pool: pool.clone(),
                clock: settings.clock,
                random,
                span: settings.span.clone(),
                shared: Arc::clone(&shared),
            };
            let region =
                RegionSupervisor::new(region, job.recipient(), coordinator.clone().recipient()).start();
            coordinator.do_send(Supervise(region.clone().recipient()));
            region.do_send(RegionCommand::Start);
            JobActor {
                name: settings.name,
                span: settings.span,
                storage,
                checkpointing: settings.checkpointing.unwrap_or_default(),
                layout,
                clock: settings.clock,
                stop_timeout: settings.stop_timeout,
                coordinator,
                region,
                shared,
                scope: Scope::new(pool),
                placement,
                claims,
                cancel_on: settings.cancel_on,
                ending: false,
                concluded: false,
            }
        })
    }
}

/// The root: what a handle talks to, and what the others report to.
pub(crate) struct JobActor {
    name: JobName,
    span: Span,
    storage: Option<OwnedJob>,
    checkpointing: Checkpointing,
    layout: Arc<Layout>,
    clock: Clock,
    stop_timeout: Duration,
    coordinator: Addr<CoordinatorActor>,
    region: Addr<RegionSupervisor>,
    shared: Arc<JobShared>,
    scope: Scope,
    placement: Placement,
    /// Dropped when the job has ended, before anyone is told.
    claims: Vec<Claim>,
    cancel_on: Option<CancellationToken>,
    ending: bool,
    concluded: bool,
}

impl JobActor {
    fn cancel(&self) {
        if !self.ending {
            self.shared.set_status(JobStatus::Stopping);
            self.region.do_send(RegionCommand::Cancel);
        }
    }

    /// The dataflow is over: does what is left to do in storage, then ends the job.
    fn end(&mut self, outcome: JobOutcome, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.ending, true) {
            return;
        }
        if is_stuck(&outcome) {
            // What hangs cannot be waited for.
            self.coordinator.do_send(Terminate);
            self.region.do_send(Terminate);
            self.conclude(outcome, ctx);
            return;
        }
        let storage = self.storage.clone();
        let (checkpointing, layout) = (self.checkpointing.clone(), Arc::clone(&self.layout));
        let (limit, deadline) = (self.stop_timeout, self.clock.sleep(self.stop_timeout));
        let (coordinator, region) = (self.coordinator.clone(), self.region.clone());
        let (scope, span) = (self.scope.clone(), self.span.clone());
        let (cause, clock) = (outcome.as_ref().err().cloned(), self.clock);
        let rest = async move {
            // Fails if it is gone already, which is as good.
            let _ = coordinator.send(Terminate).await;
            let _ = region.send(Terminate).await;
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
        let outcome = outcome.map_err(|error| error.job(&self.name));
        self.log_end(&outcome);
        self.storage = None;
        self.claims.clear();
        let stuck = is_stuck(&outcome);
        self.shared.decide(outcome);
        if stuck {
            // Its threads may never be gone.
            self.shared.announce();
        }
        match self.placement {
            // What waits for the job is told when its threads are gone.
            Placement::Arbiters(_) => System::current().stop(),
            Placement::Local => self.shared.announce(),
        }
        ctx.stop();
    }
}

impl JobActor {
    fn log_end(&self, outcome: &JobOutcome) {
        let (parent, job) = (&self.span, &self.name);
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

/// What is written when a job ends, and what is deleted.
async fn last_words(
    storage: Option<OwnedJob>,
    outcome: JobOutcome,
    checkpointing: Checkpointing,
    layout: Arc<Layout>,
    clock: Clock,
) -> JobOutcome {
    let Some(storage) = storage else { return outcome };
    let end = match &outcome {
        Ok(JobStatus::Finished) => {
            if let Err(error) = storage.tidy(checkpointing.get_retain() as usize).await {
                tracing::warn!(%error, "leftovers of the finished job could not be removed");
            }
            storage.finish().await.map_err(CompleteError::into_error)?;
            JobEnd::Finished
        }
        Ok(_) => JobEnd::Cancelled,
        Err(_) => JobEnd::Failed,
    };
    match delete(&storage, end, &checkpointing, &layout, clock).await {
        Ok(()) => outcome,
        // The log says that it is: nothing makes that untrue, and the next start deletes the rest.
        Err(error) if end == JobEnd::Finished => {
            tracing::warn!(%error, "checkpoints of the finished job could not be removed");
            outcome
        }
        Err(error) => Err(error),
    }
}

/// Deletes the checkpoints that are not kept.
async fn delete(
    storage: &OwnedJob,
    end: JobEnd,
    checkpointing: &Checkpointing,
    layout: &Layout,
    clock: Clock,
) -> Result<(), Error> {
    let retained = storage.retained();
    let delete = deleted_at_end(checkpointing.get_on_cancellation(), end, &retained);
    if !delete.is_empty() && delete.len() == retained.len() {
        if end == JobEnd::Cancelled {
            // No later start will commit what the last checkpoint holds.
            restore::recover_sinks(layout, storage, clock.wall()).await?;
        }
        return storage.delete_all_checkpoints().await.map_err(CompleteError::into_error);
    }
    for checkpoint in delete {
        storage.retire(*checkpoint).await?;
    }
    Ok(())
}

impl Actor for JobActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if let Some(token) = self.cancel_on.take() {
            ctx.spawn(token.cancelled_owned().into_actor(self).map(|(), job, _| job.cancel()));
        }
        #[cfg(feature = "metrics")]
        ctx.run_interval(super::metrics_facade::INTERVAL, |job, _| job.shared.publish_metrics());
    }
}

impl Handler<RegionReport> for JobActor {
    type Result = ();

    fn handle(&mut self, report: RegionReport, ctx: &mut Self::Context) {
        if self.ending {
            return;
        }
        match report {
            RegionReport::Running { attempt, from } => {
                self.shared.set_status(JobStatus::Running);
                let (parent, job, checkpoint) = (&self.span, &self.name, from.map(|from| from.0));
                tracing::info!(parent: parent, %job, attempt = attempt.0, checkpoint, "all subtasks run");
                if from.is_none() && attempt.0 > 0 {
                    tracing::warn!(
                        parent: parent,
                        %job,
                        attempt = attempt.0,
                        "restarted without a checkpoint: state begins empty, and what sources do not replay is lost"
                    );
                }
                self.shared.emit(JobEvent::Running { attempt, from });
            }
            RegionReport::Restarting { error, after } => {
                let (parent, job) = (&self.span, &self.name);
                let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
                tracing::info!(parent: parent, %job, after_ms, "the job will be restarted");
                self.shared.set_status(JobStatus::Restarting);
                self.shared.emit(JobEvent::Restarting { error: error.job(&self.name), after });
            }
            RegionReport::Finished => self.end(Ok(JobStatus::Finished), ctx),
            RegionReport::Cancelled => self.end(Ok(JobStatus::Cancelled), ctx),
            RegionReport::Failed(error) => self.end(Err(error), ctx),
        }
    }
}

impl Handler<JobCommand> for JobActor {
    type Result = ();

    fn handle(&mut self, command: JobCommand, _: &mut Self::Context) {
        match command {
            JobCommand::Cancel => self.cancel(),
            JobCommand::Checkpoint { answer } => {
                self.coordinator.do_send(CheckpointMessage::Request { answer });
            }
            JobCommand::Retained { answer } => {
                self.coordinator.do_send(CheckpointMessage::Retained { answer });
            }
            JobCommand::Schedule { run, done } => {
                self.coordinator.do_send(CheckpointMessage::Schedule { run, done });
            }
        }
    }
}

impl Drop for JobActor {
    /// A root that panics ends the job with an error, and its threads with it.
    fn drop(&mut self) {
        if !self.concluded {
            self.claims.clear();
            let error = Error::new(ErrorKind::Internal, "the job's root actor vanished").job(&self.name);
            self.shared.decide(Err(error));
            match self.placement {
                Placement::Arbiters(_) => {
                    if let Some(system) = System::try_current() {
                        system.stop();
                    }
                }
                Placement::Local => self.shared.announce(),
            }
        }
    }
}
