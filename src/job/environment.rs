//! Describing and starting jobs.

use super::registry;
use super::{JobHandle, JobStatus};
use crate::checkpoint::Checkpointing;
use crate::dataflow::{Pipe, Plan, SharedGraph, Stream, source};
use crate::error::{Error, ErrorKind};
use crate::operator::Source;
use crate::pool::Pool;
use crate::restart::{Restart, RestartPolicy, RestartStrategy};
use crate::runtime::engine::{self, Placement};
use crate::runtime::job::JobActor;
use crate::runtime::messages::JobCommand;
use crate::runtime::opening::{JobSettings, OpenedJob, open};
use crate::runtime::status::JobShared;
use crate::storage::{JobStorage, Memory, Storage, check_job_name};
use crate::types::{Clock, JobName, MaxParallelism, Random, Timestamp};
use actix::Addr;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// Describes a job – its streams and its settings – and starts it.
pub struct Environment {
    graph: SharedGraph,
    settings: EnvironmentBuilder,
}

/// The settings of an [`Environment`]. Each has a default that runs; start by setting `checkpointing`, `storage` and `restart`.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct EnvironmentBuilder {
    parallelism: Option<u32>,
    max_parallelism: Option<u32>,
    workers: Option<usize>,
    channel_depth: Option<u32>,
    checkpointing: Option<Checkpointing>,
    storage: Option<Arc<dyn Storage>>,
    restart: Option<Restart>,
    stop_timeout: Option<Duration>,
    stuck_warning: Option<Duration>,
    take_over: bool,
    allow_non_restored_state: bool,
    cancel_on: Option<CancellationToken>,
    seed: Option<u64>,
    wall_time: Option<Timestamp>,
}

impl EnvironmentBuilder {
    /// How many subtasks each chain has, unless its source says otherwise, or [`Stream::parallelism`](crate::Stream::parallelism) does.
    /// Default: the number of cores. Keyed state is split over them and can be resumed at another parallelism.
    pub fn parallelism(mut self, subtasks: u32) -> Self {
        self.parallelism = Some(subtasks);
        self
    }

    /// The highest parallelism this job will ever run at, up to 32768: the number of key groups. Default: 1.5 times
    /// the widest chain's parallelism, rounded up to a power of two, at least 128. It is fixed by the first checkpoint; a job that does not
    /// set it adopts that of its checkpoint.
    pub fn max_parallelism(mut self, key_groups: u32) -> Self {
        self.max_parallelism = Some(key_groups);
        self
    }

    /// How many threads the subtasks share. Default: the number of cores, at most as many as the widest chain has subtasks.
    pub fn workers(mut self, threads: usize) -> Self {
        self.workers = Some(threads);
        self
    }

    /// How many batches, of up to 1024 records each, a channel between two subtasks holds. Default: 8; at least 1. More evens out a
    /// consumer that is slow now and then, and costs memory, latency under back-pressure, and the time of an aligned checkpoint, which
    /// waits for what is in front of its barriers; with much deeper channels take
    /// [unaligned](Checkpointing::unaligned) ones. Start with 8. Source: Flink's `taskmanager.network.memory.buffers-per-channel`.
    pub fn channel_depth(mut self, batches: u32) -> Self {
        self.channel_depth = Some(batches);
        self
    }

    /// Takes checkpoints. Default: none, and then a failure loses all state. Without [`storage`](Self::storage) they are kept in
    /// memory: good for restarts, gone with the process.
    pub fn checkpointing(mut self, checkpointing: Checkpointing) -> Self {
        self.checkpointing = Some(checkpointing);
        self
    }

    /// Where checkpoints are kept. Set without [`checkpointing`](Self::checkpointing), checkpoints are taken only on request
    /// and at the end.
    pub fn storage(mut self, storage: impl Storage) -> Self {
        self.storage = Some(Arc::new(storage));
        self
    }

    /// What to do after a failure. Default: [`RestartStrategy::exponential_delay`] with [`checkpointing`](Self::checkpointing),
    /// [`RestartStrategy::none`] without it. The default never gives up: watch for [`JobEvent::Restarting`](crate::JobEvent::Restarting),
    /// or set a strategy that does.
    pub fn restart(mut self, strategy: impl Into<RestartStrategy>) -> Self {
        self.restart = Some(Restart::Strategy(strategy.into()));
        self
    }

    /// Leaves what to do after a failure to a policy of your own, in place of a strategy. The factory is called once at each start of the
    /// job.
    pub fn restart_policy<P: RestartPolicy>(
        mut self,
        factory: impl Fn() -> P + Send + Sync + 'static,
    ) -> Self {
        self.restart = Some(Restart::policy(factory));
        self
    }

    /// How long subtasks may take to stop, at a cancel or before a restart. Default: 60 s. When it is over the job fails as
    /// stuck: it is never restarted beside what still runs. Longer forgives slow storage, shorter reports a blocking operator sooner.
    pub fn stop_timeout(mut self, timeout: Duration) -> Self {
        self.stop_timeout = Some(timeout);
        self
    }

    /// After how long a subtask that is stuck is named in the log, as a warning; and again whenever that time has doubled. Default: 30 s; zero:
    /// never. Stuck is what does not come back from its code, which blocks every other subtask of its thread, and a sink that waits for another system
    /// in a flush or a commit. What is held back by the operators behind it, or has no input, is not. It costs records nothing: what subtasks count
    /// anyway is looked at four times in this time. Shorter than your slowest call to another system tells of what is healthy.
    ///
    /// It is only told; what to do about it is yours. A subtask that does not *stop* is another matter: see [`stop_timeout`](Self::stop_timeout).
    pub fn stuck_warning(mut self, after: Duration) -> Self {
        self.stuck_warning = Some(after);
        self
    }

    /// Takes the job over from a process that still runs it: that one is fenced, commits nothing any more, and stops at its next
    /// checkpoint. Without this a second process is refused.
    pub fn take_over(mut self) -> Self {
        self.take_over = true;
        self
    }

    /// Starts even if the checkpoint holds state of an operator that the program does not have; that state is dropped.
    /// Default: that is an error.
    pub fn allow_non_restored_state(mut self) -> Self {
        self.allow_non_restored_state = true;
        self
    }

    /// Cancels every job of this environment when `token` is cancelled, as [`JobHandle::cancel`] does; also one that is still
    /// starting. This is how a service stops its jobs together with everything else. Default: none.
    ///
    /// With a token that is already cancelled nothing is run, opened or deleted: [`start`](Environment::start) gives the handle of
    /// a job that has ended as [`JobStatus::Cancelled`]. So a cancelled token always leads to the same outcome, however far the
    /// start had come. A token cannot be reset: to start again, make an environment with another.
    ///
    /// ```
    /// # use strandline::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result {
    /// let shutdown = CancellationToken::new();
    /// let env = Environment::builder().cancel_on(shutdown.child_token()).build()?;
    /// env.source("numbers", Iter::new(0_u64..)).filter(|_| false).sink("none", Collect::new());
    /// let job = env.start("cancelled-by-a-token").await?;
    /// shutdown.cancel();
    /// assert_eq!(job.await?, JobStatus::Cancelled);
    /// assert_eq!(env.execute("never-run").await?, JobStatus::Cancelled);
    /// # Ok(())
    /// # }
    /// ```
    pub fn cancel_on(mut self, token: CancellationToken) -> Self {
        self.cancel_on = Some(token);
        self
    }

    /// Seeds the job's randomness (delays of first checkpoints), for runs that repeat exactly. Default: from the operating system.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// What the job's wall clock shows at its start, for runs that repeat exactly: wall times are in checkpoints and in what sinks are told of
    /// transactions. Default: the machine's.
    pub fn wall_time(mut self, at_start: Timestamp) -> Self {
        self.wall_time = Some(at_start);
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`], listing every fault.
    pub fn build(self) -> Result<Environment, Error> {
        let faults = self.faults();
        if faults.is_empty() {
            Ok(Environment { graph: SharedGraph::default(), settings: self })
        } else {
            Err(Error::new(ErrorKind::Configuration, list(&faults)))
        }
    }

    fn faults(&self) -> Vec<String> {
        let mut faults = self.checkpointing.as_ref().map(Checkpointing::faults).unwrap_or_default();
        faults.extend(self.restart.as_ref().map(Restart::faults).unwrap_or_default());
        if self.parallelism == Some(0) {
            faults.push("parallelism is 0: it must be at least 1".into());
        }
        if self.channel_depth == Some(0) {
            faults.push("channel_depth is 0: it must be at least 1".into());
        }
        if self.workers == Some(0) {
            faults.push("workers is 0: it must be at least 1".into());
        }
        if let Some(groups) = self.max_parallelism {
            if let Err(error) = MaxParallelism::new(groups) {
                faults.push(error.to_string());
            } else if self.parallelism.is_some_and(|parallelism| parallelism > groups) {
                let parallelism = self.parallelism.unwrap_or_default();
                faults.push(format!("parallelism {parallelism} is more than max_parallelism {groups}"));
            }
        }
        if self.parallelism.is_some_and(|parallelism| parallelism > 32768) {
            faults.push("parallelism is more than 32768".into());
        }
        faults
    }
}

fn list(faults: &[String]) -> String {
    match faults {
        [fault] => fault.clone(),
        faults => {
            let numbered = faults.iter().zip(1..).map(|(fault, n)| format!("({n}) {fault}"));
            format!("{} faults: {}", faults.len(), numbered.collect::<Vec<_>>().join("; "))
        }
    }
}

impl Environment {
    /// Settings to begin with.
    pub fn builder() -> EnvironmentBuilder {
        EnvironmentBuilder::default()
    }

    /// A stream that begins with a source. `uid` names it: its positions are matched by that.
    pub fn source<S: Source>(
        &self,
        uid: &str,
        from: S,
    ) -> Stream<S::Record, impl Pipe<Out = S::Record> + use<S>> {
        source(&self.graph, uid, from)
    }

    /// Starts the job, and returns when its storage is open and its threads run. From then on it runs by itself: dropping every
    /// handle, the environment, or the runtime this was called from leaves it running, until its input ends or it is
    /// cancelled (by [`JobHandle::cancel`], a [token](EnvironmentBuilder::cancel_on) or a [guard](JobHandle::cancel_on_drop)).
    /// Dropping the future of this call before it is ready leaves no job behind.
    ///
    /// With a completed checkpoint under the same name in its storage it goes on from there. State is restored and sources are
    /// asked for their splits after this returns: what goes wrong there ends the job, and [`JobHandle::wait`] has the error.
    ///
    /// # Errors
    /// Every fault of the graph, in one error ([`ErrorKind::Program`]); storage that cannot be opened or read; a job of the same
    /// name in this process, or of the same storage in another ([`ErrorKind::Busy`]); a source or sink of this process that serves
    /// another job, or has served its time ([`ErrorKind::Program`]).
    pub async fn start(&self, name: &str) -> Result<JobHandle, Error> {
        let name = JobName::from(name);
        let settings = self.settings(&name).map_err(|error| error.job(&name))?;
        if self.is_cancelled() {
            return Ok(never_run(name, &settings));
        }
        let registration = registry::register(&name)?;
        let shared = Arc::new(JobShared::new(settings.meter(), settings.statistics()));
        let workers = self.workers(settings.plan.layout.widest());
        let (opened, result) = oneshot::channel();
        let on_thread = Arc::clone(&shared);
        let at_end = Arc::clone(&shared);
        let boot = move |placement: Placement, pool: Pool| async move {
            let storage = match &pool {
                Pool::Threads(runtime) => runtime.spawn(open(settings)).await,
                Pool::Local => return false,
            };
            let storage = storage.unwrap_or_else(|cause| {
                Err(Error::new(ErrorKind::Internal, "opening the job's storage panicked").because(cause))
            });
            match storage {
                Ok(OpenedJob::Ready(job)) => {
                    let from = job.from();
                    let actor = job.start(placement, pool, on_thread);
                    // If nobody waits any more, nobody could stop it: it does not run.
                    opened.send(Ok((Unclaimed(Some(actor)), from))).is_ok()
                }
                Ok(OpenedJob::Finished(checkpoint)) => {
                    on_thread.decide(Ok(JobStatus::Finished));
                    let _ = opened.send(Ok((Unclaimed(None), checkpoint)));
                    false
                }
                Err(error) => {
                    let _ = opened.send(Err(error));
                    false
                }
            }
        };
        engine::start(&name, workers, boot, move || {
            drop(registration);
            at_end.announce();
        })?;
        let opened = result.await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Internal, "the job's thread ended before it began"))
        });
        let (actor, resumed_from) = match opened {
            Ok((mut unclaimed, from)) => (unclaimed.0.take(), from),
            Err(error) => {
                // When this returns the name is free again.
                let _ = shared.watch().wait_for(|status| status.is_terminal()).await;
                return Err(error.job(&name));
            }
        };
        let had_finished = actor.is_none();
        if let Some(actor) = actor {
            shared.connect(actor.recipient());
        }
        let handle = JobHandle { name, shared, resumed_from, had_finished };
        if had_finished {
            // It had finished: the thread that found out is about to end.
            let _ = handle.wait().await;
        }
        Ok(handle)
    }

    /// As [`start`](Self::start), on the calling thread alone: call it inside a `tokio::task::LocalSet`. With tokio's clock paused
    /// the job runs on virtual time, and with a [`seed`](EnvironmentBuilder::seed), a [`wall_time`](EnvironmentBuilder::wall_time) and in-memory
    /// storage always the same way. With all of these its claim on the storage comes from seed and time, too: two that run one job at the same time
    /// must differ in either. For tests.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_local(&self, name: &str) -> Result<JobHandle, Error> {
        let name = JobName::from(name);
        let mut settings = self.settings(&name).map_err(|error| error.job(&name))?;
        if let (Some(seed), Some(Timestamp(at))) = (self.settings.seed, self.settings.wall_time) {
            // Another sequence than the job's, and than that of a process with another seed or another time: mixed in between, so that one
            // does not make up for the other.
            let of_seed = Random::from_seed(!seed).next_u64();
            let random = Random::from_seed(of_seed ^ at.cast_unsigned());
            settings.storage = settings.storage.map(|storage| storage.with_random(random));
        }
        if self.is_cancelled() {
            return Ok(never_run(name, &settings));
        }
        let shared = Arc::new(JobShared::new(settings.meter(), settings.statistics()));
        match open(settings).await.map_err(|error| error.job(&name))? {
            OpenedJob::Finished(checkpoint) => {
                shared.decide(Ok(JobStatus::Finished));
                shared.announce();
                Ok(JobHandle { name, shared, resumed_from: checkpoint, had_finished: true })
            }
            OpenedJob::Ready(job) => {
                let resumed_from = job.from();
                let actor = job.start(Placement::Local, Pool::Local, Arc::clone(&shared));
                shared.connect(actor.recipient());
                Ok(JobHandle { name, shared, resumed_from, had_finished: false })
            }
        }
    }

    /// Starts the job and waits for its end.
    ///
    /// # Errors
    /// As [`start`](Self::start) and [`JobHandle::wait`].
    pub async fn execute(&self, name: &str) -> Result<JobStatus, Error> {
        self.start(name).await?.wait().await
    }

    fn is_cancelled(&self) -> bool {
        self.settings.cancel_on.as_ref().is_some_and(CancellationToken::is_cancelled)
    }

    fn parallelism(&self) -> u32 {
        self.settings.parallelism.unwrap_or_else(|| u32::try_from(cores()).unwrap_or(1))
    }

    fn workers(&self, widest: u32) -> usize {
        self.settings.workers.unwrap_or_else(|| cores().min(widest as usize)).max(1)
    }

    fn settings(&self, name: &JobName) -> Result<JobSettings, Error> {
        check_job_name(name)?;
        let settings = &self.settings;
        let mut faults = Vec::new();
        let takes_checkpoints = settings.storage.is_some() || settings.checkpointing.is_some();
        let keeps_in_flight = settings.checkpointing.as_ref().is_some_and(Checkpointing::is_unaligned);
        let graph = self.graph.lock();
        let plan = Plan::of(&graph, self.parallelism(), takes_checkpoints, keeps_in_flight, &mut faults);
        drop(graph);
        if !faults.is_empty() {
            return Err(Error::new(ErrorKind::Program, list(&faults)));
        }
        let max_parallelism = settings.max_parallelism.map(MaxParallelism::new).transpose()?;
        let storage = match (&settings.storage, &settings.checkpointing) {
            (Some(storage), _) => Some(JobStorage::new(&**storage, name)?),
            (None, Some(_)) => Some(JobStorage::new(&Memory::new(), name)?),
            (None, None) => None,
        };
        let storage = match &settings.checkpointing {
            Some(checkpointing) => storage.map(|storage| storage.with_settings(checkpointing)),
            None => storage,
        };
        let default = || Restart::Strategy(RestartStrategy::default_for(settings.checkpointing.is_some()));
        let restart = settings.restart.clone().unwrap_or_else(default);
        // A root: the job outlives what starts it.
        let span = tracing::error_span!(parent: None, "job", job = %name);
        span.follows_from(tracing::Span::current());
        Ok(JobSettings {
            name: name.clone(),
            span,
            plan,
            max_parallelism,
            checkpointing: settings.checkpointing.clone(),
            channel_depth: settings.channel_depth.unwrap_or(8) as usize,
            storage,
            restarts: restart.begin(),
            stop_timeout: settings.stop_timeout.unwrap_or(Duration::from_secs(60)),
            stuck_warning: settings.stuck_warning.unwrap_or(Duration::from_secs(30)),
            take_over: settings.take_over,
            allow_non_restored_state: settings.allow_non_restored_state,
            cancel_on: settings.cancel_on.clone(),
            clock: settings.wall_time.map_or_else(Clock::start, Clock::start_at),
            random: settings.seed.map_or_else(Random::from_os, Random::from_seed),
        })
    }
}

/// The handle of a job that was cancelled before its start.
fn never_run(name: JobName, settings: &JobSettings) -> JobHandle {
    // For the ends of its streams it has ended now. Those that another job uses are none of its business.
    drop(settings.claim(None));
    let shared = Arc::new(JobShared::new(settings.meter(), settings.statistics()));
    shared.decide(Ok(JobStatus::Cancelled));
    shared.announce();
    JobHandle { name, shared, resumed_from: None, had_finished: false }
}

/// A started job on its way to its handle. If nobody takes it, nobody could stop it: then it is cancelled.
struct Unclaimed(Option<Addr<JobActor>>);

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if let Some(actor) = self.0.take() {
            actor.do_send(JobCommand::Cancel);
        }
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment").field("settings", &self.settings).finish_non_exhaustive()
    }
}
