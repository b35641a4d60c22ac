//! A job that ends with a scope.

use super::{JobHandle, JobStatus};
use crate::error::Error;
use crate::operator::BoxFuture;
use std::ops::Deref;

/// A [`JobHandle`] that cancels its job when it is dropped: at the end of a scope, at an early return, in a panic, or with the
/// task that holds it.
///
/// Dropping does not wait: the job stops in the background, gracefully as by [`JobHandle::cancel`]; keep a clone of the handle to
/// wait for that. Clones of the handle do not keep the job from being cancelled.
///
/// Awaiting the guard waits for the job, and cancels it if that is given up: under a timeout or in a `select!` the job ends with
/// the branch that lost.
///
/// ```
/// # use std::time::Duration;
/// # use strandline::prelude::*;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result {
/// # let env = Environment::builder().build()?;
/// # env.source("numbers", Iter::new(0_u64..)).filter(|_| false).sink("none", Collect::new());
/// let job = env.start("at-most-a-moment").await?;
/// let late = tokio::time::timeout(Duration::from_millis(10), job.clone().cancel_on_drop()).await;
/// assert!(late.is_err());
/// assert_eq!(job.await?, JobStatus::Cancelled);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "the job is cancelled when this is dropped"]
pub struct CancelOnDrop {
    job: JobHandle,
    armed: bool,
}

impl CancelOnDrop {
    pub(super) fn new(job: JobHandle) -> Self {
        Self { job, armed: true }
    }

    /// Lets the job go on, and gives the plain handle back.
    #[must_use]
    pub fn disarm(mut self) -> JobHandle {
        self.armed = false;
        self.job.clone()
    }
}

impl Deref for CancelOnDrop {
    type Target = JobHandle;

    fn deref(&self) -> &JobHandle {
        &self.job
    }
}

impl IntoFuture for CancelOnDrop {
    type Output = Result<JobStatus, Error>;
    type IntoFuture = BoxFuture<Self::Output>;

    /// [`JobHandle::wait`], with the guard held until then.
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.wait().await })
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if self.armed {
            self.job.request_cancel();
        }
    }
}
