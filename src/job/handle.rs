//! How a service talks to a running job.

use super::{CancelOnDrop, CompletedCheckpoint, JobEvent, JobMetrics, JobStatus};
use crate::checkpoint::{CheckpointRecord, CheckpointStatistics};
use crate::error::{Error, ErrorKind};
use crate::operator::BoxFuture;
use crate::restart::FailureRecord;
use crate::runtime::messages::JobCommand;
use crate::runtime::status::JobShared;
use crate::types::{CheckpointId, JobName};
use std::fmt;
use std::sync::Arc;
use tokio::sync::{broadcast, oneshot, watch};

/// A running job. Cheap to clone, to send and to share; every clone sees and does the same.
///
/// **Dropping it leaves the job running**, also if it was the last handle: a job runs until its input ends or it is cancelled. For a
/// job that is to end with a scope, a request or a task there is [`cancel_on_drop`](Self::cancel_on_drop).
///
/// Awaiting a handle is [`wait`](Self::wait): `let status = job.await?`, or `(&job).await?` to keep it.
#[derive(Clone)]
pub struct JobHandle {
    pub(super) name: JobName,
    pub(super) shared: Arc<JobShared>,
    pub(super) resumed_from: Option<CheckpointId>,
    pub(super) had_finished: bool,
}

impl JobHandle {
    /// The job's name.
    #[must_use]
    pub fn name(&self) -> &JobName {
        &self.name
    }

    /// The checkpoint that this start went on from; `None` for a start from nothing. For a job that
    /// [had finished](Self::had_finished), its last one.
    #[must_use]
    pub fn resumed_from(&self) -> Option<CheckpointId> {
        self.resumed_from
    }

    /// Whether the job had finished before it was started: nothing was run and nothing changed.
    #[must_use]
    pub fn had_finished(&self) -> bool {
        self.had_finished
    }

    /// The job's status, to look at or to wait on: a tokio watch channel. It does not close when the job ends; wait with
    /// `wait_for(|status| status.is_terminal())`, or with [`wait`](Self::wait).
    #[must_use]
    pub fn status(&self) -> watch::Receiver<JobStatus> {
        self.shared.watch()
    }

    /// What happens to the job: checkpoints, failures, restarts. The first call hears of everything since the start, later ones
    /// from then on. A tokio broadcast channel, closed when the job has ended. A listener that falls more than 1024 events behind misses the oldest.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<JobEvent> {
        self.shared.listen()
    }

    /// What has failed since the job was started in this process, oldest first, the last 100 of it: the root cause of each failed attempt, and
    /// what followed. What fails while an attempt is being stopped is only counted with it. Works at any time, also when the job has ended; the last
    /// record is then what the error of [`wait`](Self::wait) is about.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use strandline::prelude::*;
    /// # use strandline::restart::FailureOutcome;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result {
    /// let restart = RestartStrategy::fixed_delay(1, Duration::from_millis(5));
    /// let env = Environment::builder().parallelism(1).restart(restart).build()?;
    /// env.source("lines", Iter::new(["1", "two"].map(String::from)))
    ///     .try_map(|line| Ok(line.parse::<u32>()?))
    ///     .sink("numbers", Collect::new());
    /// let job = env.start("failures").await?;
    /// assert!(job.wait().await.is_err());
    /// for failure in job.failures() {
    ///     eprintln!("attempt {}: {} ({:?})", failure.attempt, failure.error, failure.outcome);
    /// }
    /// let outcomes: Vec<_> = job.failures().iter().map(|failure| failure.outcome).collect();
    /// assert_eq!(outcomes, [FailureOutcome::Restart { after: Duration::from_millis(5) }, FailureOutcome::Failed]);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn failures(&self) -> Vec<FailureRecord> {
        self.shared.failures().records()
    }

    /// What the job has counted and measured so far: records, batches, time and checkpoints, by chain, subtask and operator. Works at
    /// any time, also when the job has ended; costs a few atomic loads per subtask, and the subtasks nothing.
    #[must_use]
    pub fn metrics(&self) -> JobMetrics {
        self.shared.metrics()
    }

    /// Takes a checkpoint now, beside the periodic ones, and waits until it is complete. It does not wait for the minimum pause. While the
    /// job starts or restarts, it waits until it runs.
    ///
    /// # Errors
    /// When the checkpoint fails ([`ErrorKind::Storage`], or [`ErrorKind::Failed`] if a failure of the job ended it) or the job ends
    /// before ([`ErrorKind::Cancelled`]); [`ErrorKind::Configuration`] if the job takes none.
    pub async fn checkpoint(&self) -> Result<CheckpointId, Error> {
        let (answer, result) = oneshot::channel();
        self.shared.command(JobCommand::Checkpoint { answer });
        result.await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Cancelled, "the job ended before the checkpoint was complete")
                .job(&self.name))
        })
    }

    /// What became of the job's checkpoints since it was started in this process, and how long their parts took: counts, the last ones with the
    /// figures of each subtask, percentiles. Plain data; works at any time, also when the job has ended.
    #[must_use]
    pub fn checkpoint_stats(&self) -> CheckpointStatistics {
        self.shared.statistics().statistics()
    }

    /// The checkpoints under way, oldest first, with what has been heard of each.
    #[must_use]
    pub fn pending(&self) -> Vec<CheckpointRecord> {
        self.shared.statistics().in_progress()
    }

    /// The completed checkpoints that are kept, oldest first, those of earlier processes included, as their manifests describe them.
    ///
    /// # Errors
    /// When a manifest cannot be read; [`ErrorKind::Cancelled`] when the job has ended.
    pub async fn retained(&self) -> Result<Vec<CompletedCheckpoint>, Error> {
        let (answer, retained) = oneshot::channel();
        self.shared.command(JobCommand::Retained { answer });
        retained.await.unwrap_or_else(|_| {
            let message = "the job has ended: start it to ask for its checkpoints";
            Err(Error::new(ErrorKind::Cancelled, message).job(&self.name))
        })
    }

    /// Whether periodic checkpoints are being taken: the job has an interval and runs, and nobody has
    /// [stopped](Self::stop_periodic_checkpoints) them.
    #[must_use]
    pub fn is_periodic_started(&self) -> bool {
        self.shared.is_periodic_started()
    }

    /// Takes no more periodic checkpoints until [they are started](Self::start_periodic_checkpoints): for the time in which the storage is
    /// being looked after, say. Whatever checkpoint is under way or waits fails, one asked for by [`checkpoint`](Self::checkpoint) too, unless
    /// it is being committed already. Those asked for afterwards are taken, and so is the final one at the end of the input. A restart of the job
    /// after a failure does not start them; a new start of the job does.
    ///
    /// The price: after a failure all since the last checkpoint is done again, and two-phase sinks commit nothing meanwhile.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`] when the job has ended.
    pub async fn stop_periodic_checkpoints(&self) -> Result<(), Error> {
        self.schedule(false).await
    }

    /// Takes periodic checkpoints again; the first one comes after [`Checkpointing::min_pause`](crate::Checkpointing::min_pause). Does
    /// nothing if they are being taken, or if the job has no interval.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`] when the job has ended.
    pub async fn start_periodic_checkpoints(&self) -> Result<(), Error> {
        self.schedule(true).await
    }

    async fn schedule(&self, run: bool) -> Result<(), Error> {
        let (done, is_done) = oneshot::channel();
        self.shared.command(JobCommand::Schedule { run, done });
        is_done.await.map_err(|_| {
            Error::new(ErrorKind::Cancelled, "the job has ended, and with it its periodic checkpoints")
                .job(&self.name)
        })
    }

    /// Stops the job where it is and waits until all of its threads are gone. Nothing that was committed is lost; what came
    /// after the last completed checkpoint is done again when the job is started again.
    ///
    /// # Errors
    /// When the job fails instead. A job that has ended is left as it is.
    pub async fn cancel(&self) -> Result<JobStatus, Error> {
        self.request_cancel();
        self.wait().await
    }

    pub(super) fn request_cancel(&self) {
        self.shared.command(JobCommand::Cancel);
    }

    /// Ends the job's input and waits until the job has finished (Flink's stop with drain, but without a savepoint): its sources stop reading
    /// where they are, as if there were no more; all that they have given flows out; operators [`finish`](crate::Operator::finish); the final
    /// checkpoint is taken, and sinks commit.
    ///
    /// Afterwards the job is `Finished`, as at any end of its input: started again on its storage, it is `Finished` at once, and to read what it has
    /// left unread it needs new storage, and a source that begins there. A job that is to *go on* later is [cancelled](Self::cancel) instead. That
    /// leaves out what came since the last checkpoint, and does it again at the next start; ask for a [`checkpoint`](Self::checkpoint) right before, and
    /// that is little.
    ///
    /// **If something fails meanwhile the job is restarted and goes on reading**, and this is an error: what was given after the last completed checkpoint
    /// must be given again before the input can end. Drain it again then. What fails after the final checkpoint only has its commits recovered. If
    /// the process dies before the end, the next start reads on. Dropping the future changes nothing: the job is drained all the same. May be called
    /// again, and followed by a cancel. While the job starts or restarts it waits until it runs.
    ///
    /// It takes as long as what is on its way, the final checkpoint and the commits take; [`stop_timeout`](crate::EnvironmentBuilder::stop_timeout) does not
    /// bound it.
    ///
    /// ```
    /// # use strandline::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result {
    /// let env = Environment::builder().parallelism(1).storage(Memory::new()).build()?;
    /// let out = Collect::new();
    /// env.source("endless", Iter::new(0_u64..)).sink("out", out.clone());
    /// let job = env.start("drained").await?;
    /// assert_eq!(job.drain().await?, JobStatus::Finished);
    /// let numbers = out.records();
    /// assert!(numbers.iter().copied().eq(0..numbers.len() as u64), "whatever was read, and all of it");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Failed`] when a failure was in the way and the job runs on: [`status`](Self::status) is not terminal then. When the job fails for
    /// good. A job that has ended is left as it is.
    pub async fn drain(&self) -> Result<JobStatus, Error> {
        let (broken_off, is_broken_off) = oneshot::channel();
        self.shared.command(JobCommand::Drain { broken_off });
        match is_broken_off.await {
            Ok(error) => Err(error),
            // Nobody is left who could: the job has ended, or is about to.
            Err(_) => self.wait().await,
        }
    }

    /// A guard that cancels the job when it is dropped: see [`CancelOnDrop`].
    pub fn cancel_on_drop(self) -> CancelOnDrop {
        CancelOnDrop::new(self)
    }

    /// Waits for the end of the job: `Finished` or `Cancelled`. Then all its threads are gone.
    ///
    /// # Errors
    /// Why the job failed: operator, subtask and cause. After [`ErrorKind::Stuck`] threads are left: those that what is stuck blocks.
    pub async fn wait(&self) -> Result<JobStatus, Error> {
        let mut status = self.shared.watch();
        // The sender lives as long as this handle.
        let _ = status.wait_for(|status| status.is_terminal()).await;
        self.shared.outcome().unwrap_or_else(|| {
            Err(Error::new(ErrorKind::Internal, "the job ended without an outcome").job(&self.name))
        })
    }
}

impl IntoFuture for JobHandle {
    type Output = Result<JobStatus, Error>;
    type IntoFuture = BoxFuture<Self::Output>;

    /// [`wait`](Self::wait).
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.wait().await })
    }
}

impl IntoFuture for &JobHandle {
    type Output = Result<JobStatus, Error>;
    type IntoFuture = BoxFuture<Self::Output>;

    /// [`wait`](JobHandle::wait).
    fn into_future(self) -> Self::IntoFuture {
        self.clone().into_future()
    }
}

/// A service keeps handles in its state and waits for jobs in its tasks.
const _: fn() = || {
    fn is_shared<T: Clone + Send + Sync + 'static>() {}
    fn is_sent<T: Send>(_: T) {}
    is_shared::<JobHandle>();
    let _ = |job: JobHandle| is_sent((job.clone().into_future(), job.clone().cancel_on_drop().into_future()));
};

impl fmt::Debug for JobHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobHandle").field("name", &self.name).field("status", &self.shared.status()).finish()
    }
}
