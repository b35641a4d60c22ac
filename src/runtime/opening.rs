//! From the settings of a job to its actors: its storage is opened, what is in it is checked, and the tree is put up.

use super::coordinator::{CoordinatorActor, CoordinatorSettings};
use super::engine::Placement;
use super::job::{JobActor, JobParts};
use super::job_meter::JobMeter;
use super::messages::RegionCommand;
use super::region::{RegionSettings, RegionSupervisor};
use super::restart_budget::RestartBudget;
use super::restore;
use super::status::JobShared;
use crate::checkpoint::{Checkpointing, Retention, StatisticsTracker};
use crate::dataflow::Plan;
use crate::error::{Error, ErrorKind};
use crate::operator::{Claim, StartContext};
use crate::pool::Pool;
use crate::restart::RestartPolicy;
use crate::storage::{JobStorage, Opened, OwnedJob};
use crate::types::{
    CheckpointId, Clock, Generation, JobName, MaxParallelism, Random, RegionId, default_max_parallelism,
};
use actix::{Actor, Addr, AsyncContext};
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
    pub(crate) stuck_warning: Duration,
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
        let layout = Arc::clone(&settings.plan.layout);
        let plans: Vec<(RegionId, Plan)> = (0..).map(RegionId).zip(settings.plan.by_region()).collect();
        let span = settings.span.clone();
        JobActor::create(|ctx| {
            let job = ctx.address();
            let coordinator = CoordinatorSettings {
                job: settings.name.clone(),
                layout: Arc::clone(&layout),
                regions: plans.iter().map(|(region, plan)| (*region, Arc::clone(&plan.layout))).collect(),
                checkpointing: settings.checkpointing.clone(),
                storage: storage.clone(),
                max_parallelism,
                pool: pool.clone(),
                clock: settings.clock,
                random: settings.random,
                span: span.clone(),
                shared: Arc::clone(&shared),
            };
            let coordinator = CoordinatorActor::new(coordinator, job.clone().recipient()).start();
            let supervise = |(region, plan): (RegionId, Plan)| {
                let settings = RegionSettings {
                    region,
                    operators: plan.layout.operators().map(|(_, operator)| operator.id.clone()).collect(),
                    job: settings.name.clone(),
                    plan,
                    job_layout: Arc::clone(&layout),
                    storage: storage.clone(),
                    generation: storage.as_ref().map_or(Generation(0), OwnedJob::generation),
                    max_parallelism,
                    mode: settings.checkpointing.as_ref().map(Checkpointing::get_mode).unwrap_or_default(),
                    increments: settings.checkpointing.as_ref().and_then(Checkpointing::increments),
                    snapshot_memory: settings
                        .checkpointing
                        .as_ref()
                        .map_or(u64::MAX, Checkpointing::get_snapshot_memory),
                    channel_depth: settings.channel_depth,
                    stop_timeout: settings.stop_timeout,
                    stuck_warning: settings.stuck_warning,
                    placement: placement.clone(),
                    pool: pool.clone(),
                    clock: settings.clock,
                    span: span.clone(),
                    shared: Arc::clone(&shared),
                };
                let (job, coordinator) = (job.clone().recipient(), coordinator.clone().recipient());
                let supervisor = RegionSupervisor::new(settings, job, coordinator).start();
                supervisor.do_send(RegionCommand::Start);
                (region, supervisor)
            };
            let regions = plans.into_iter().map(supervise).collect();
            let parts = JobParts {
                name: settings.name.clone(),
                span: span.clone(),
                storage: storage.clone(),
                checkpointing: settings.checkpointing.clone().unwrap_or_default(),
                layout: Arc::clone(&layout),
                clock: settings.clock,
                stop_timeout: settings.stop_timeout,
                coordinator,
                regions,
                budget: RestartBudget::new(settings.restarts, settings.clock, random),
                shared: Arc::clone(&shared),
                pool: pool.clone(),
                placement: placement.clone(),
                claims,
                cancel_on: settings.cancel_on,
            };
            JobActor::new(parts)
        })
    }
}
