//! How a service talks to a running job.

use super::{JobEvent, JobStatus};
use crate::error::{Error, ErrorKind};
use crate::runtime::job::JobActor;
use crate::runtime::messages::JobCommand;
use crate::runtime::status::JobShared;
use crate::types::{CheckpointId, JobName};
use actix::Addr;
use std::fmt;
use std::sync::Arc;
use tokio::sync::{broadcast, oneshot, watch};

/// A running job. Cheap to clone; dropping it leaves the job running.
#[derive(Clone)]
pub struct JobHandle {
    pub(super) name: JobName,
    pub(super) shared: Arc<JobShared>,
    /// `None` if the job had finished before it was started.
    pub(super) actor: Option<Addr<JobActor>>,
    pub(super) resumed_from: Option<CheckpointId>,
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
        self.actor.is_none()
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

    /// Takes a checkpoint now, beside the periodic ones, and waits until it is complete. It does not wait for the minimum pause. While the
    /// job starts or restarts, it waits until it runs.
    ///
    /// # Errors
    /// When the checkpoint fails ([`ErrorKind::Storage`], or [`ErrorKind::Failed`] if a failure of the job ended it) or the job ends
    /// before ([`ErrorKind::Cancelled`]); [`ErrorKind::Configuration`] if the job takes none.
    pub async fn checkpoint(&self) -> Result<CheckpointId, Error> {
        let (answer, result) = oneshot::channel();
        match &self.actor {
            Some(actor) => actor.do_send(JobCommand::Checkpoint { answer }),
            // Nobody will answer.
            None => drop(answer),
        }
        result.await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Cancelled, "the job ended before the checkpoint was complete")
                .job(&self.name))
        })
    }

    /// Stops the job where it is and waits until all of its threads are gone. Nothing that was committed is lost; what came
    /// after the last completed checkpoint is done again when the job is started again.
    ///
    /// # Errors
    /// When the job fails instead. A job that has ended is left as it is.
    pub async fn cancel(&self) -> Result<JobStatus, Error> {
        if let Some(actor) = &self.actor {
            actor.do_send(JobCommand::Cancel);
        }
        self.wait().await
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

impl fmt::Debug for JobHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobHandle").field("name", &self.name).field("status", &self.shared.status()).finish()
    }
}
