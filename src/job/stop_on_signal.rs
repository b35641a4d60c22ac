//! A job that ends with its process.

use super::{JobHandle, JobStatus};
use crate::error::{Error, ErrorKind};
use futures::future::{Either, select};
use std::io;
use std::pin::pin;

impl JobHandle {
    /// Waits for the end of the job like [`wait`](Self::wait), and [cancels](Self::cancel) it when the process is asked to end: by Ctrl-C, and on
    /// Unix by `SIGTERM`, which is what `kill`, systemd, Docker and Kubernetes send. The one line with which a `main` ends. Needs the feature
    /// `signal`.
    ///
    /// Nothing that was committed is lost; what came after the last completed checkpoint is done again when the job is started again. The stop
    /// takes at most [`stop_timeout`](crate::EnvironmentBuilder::stop_timeout), 60 s by default: set it below the time after which whoever
    /// asks takes to `SIGKILL` (10 s with Docker, 30 s with Kubernetes).
    ///
    /// From the first poll on these signals do nothing else in this process, also when the job has ended. A service that has its own way of
    /// hearing of its end passes it on by [`cancel_on`](crate::EnvironmentBuilder::cancel_on) instead.
    ///
    /// ```no_run
    /// # use strandline::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result {
    /// # let env = Environment::builder().build()?;
    /// # env.source("numbers", Iter::new(0_u64..)).filter(|_| false).sink("none", Collect::new());
    /// match env.start("until-told").await?.stop_on_signal().await? {
    ///     JobStatus::Cancelled => eprintln!("stopped: start it again to go on"),
    ///     _ => eprintln!("all done"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`wait`](Self::wait); [`ErrorKind::Configuration`] when the signals cannot be listened to. The job goes on then.
    ///
    /// # Panics
    /// On a tokio runtime that was built without `enable_io` or `enable_all`.
    pub async fn stop_on_signal(&self) -> Result<JobStatus, Error> {
        let signal = asked_to_end().map_err(|error| {
            let what = "cannot listen to signals: stop the job by `cancel` instead";
            Error::new(ErrorKind::Configuration, what).because(error).job(&self.name)
        })?;
        match select(pin!(self.wait()), pin!(signal)).await {
            Either::Left((outcome, _)) => outcome,
            Either::Right(((), _)) => {
                tracing::info!(job = %self.name, "the process was asked to end: the job is cancelled");
                self.cancel().await
            }
        }
    }
}

/// Listens from now on.
#[cfg(unix)]
fn asked_to_end() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        select(pin!(terminate.recv()), pin!(interrupt.recv())).await;
    })
}

/// Listens from the first poll on.
#[cfg(not(unix))]
#[allow(clippy::unnecessary_wraps)] // as where it can fail at once
fn asked_to_end() -> io::Result<impl Future<Output = ()>> {
    Ok(async {
        // Who cannot listen is never asked.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}
