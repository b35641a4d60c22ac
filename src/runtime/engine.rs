//! Where a job's actors run: a thread with an actix system and arbiters per job, or the calling thread's `LocalSet`.

use super::tracing_scope::Subscriber;
use crate::error::{Error, ErrorKind};
use crate::pool::{Pool, panic_message};
use crate::types::JobName;
use actix::{Arbiter, ArbiterHandle, System};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

/// Where subtasks run.
#[derive(Debug, Clone)]
pub(crate) enum Placement {
    /// Dealt out over threads of the job's own.
    Arbiters(Vec<ArbiterHandle>),
    /// All on the thread of the caller, for deterministic runs on virtual time.
    Local,
}

/// How long threads may take to finish blocking calls when the job ends, before they are left to themselves.
const SHUTDOWN: Duration = Duration::from_secs(10);

/// Starts a job's threads: one with the actix system, where the job, its coordinator and its supervisor live; `workers`
/// arbiters for the subtasks; and a small pool for snapshots, commits and storage. `boot` runs on the first of them. When the system is
/// stopped all threads end, and `ended` is called when all but the first are gone. On all of them the tracing subscriber of the caller
/// is the default.
///
/// A system of its own, on a plain thread, works from any tokio runtime, from inside another actix system, and many times in a
/// process.
pub(crate) fn start<B, F>(
    job: &JobName,
    workers: usize,
    boot: B,
    ended: impl FnOnce() + Send + 'static,
) -> Result<(), Error>
where
    B: FnOnce(Placement, Pool) -> F + Send + 'static,
    F: Future<Output = bool> + 'static,
{
    let name = job.as_str().to_owned();
    let subscriber = Subscriber::of_this_thread();
    std::thread::Builder::new()
        .name(format!("{name}-job"))
        .spawn(move || {
            subscriber.adopt();
            // Whoever waits for the job is told also if its threads cannot be started.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(&name, workers, &subscriber, boot))) {
                tracing::error!(job = name, panic = panic_message(&*panic), "the job's thread panicked");
            }
            ended();
        })
        .map_err(|cause| {
            Error::new(
                ErrorKind::Configuration,
                "cannot start the job's thread: is the thread limit reached?",
            )
            .job(job)
            .because(cause)
        })?;
    Ok(())
}

fn run<B, F>(name: &str, workers: usize, subscriber: &Subscriber, boot: B)
where
    B: FnOnce(Placement, Pool) -> F,
    F: Future<Output = bool> + 'static,
{
    let on_pool = subscriber.clone();
    let pool = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(8)
        .thread_name(format!("{name}-pool"))
        .on_thread_start(move || on_pool.adopt())
        .enable_all() // sinks commit, and sources ask for their splits, over the network
        .build();
    let pool = match pool {
        Ok(pool) => pool,
        Err(error) => {
            tracing::error!(job = name, %error, "cannot start the job's pool: is the thread limit reached?");
            return;
        }
    };
    let system = System::new();
    let arbiters: Vec<Arbiter> = (0..workers.max(1)).map(|_| Arbiter::new()).collect();
    for arbiter in &arbiters {
        let subscriber = subscriber.clone();
        arbiter.spawn_fn(move || subscriber.adopt());
    }
    let placement = Placement::Arbiters(arbiters.iter().map(Arbiter::handle).collect());
    let boot = boot(placement, Pool::Threads(pool.handle().clone()));
    let started = system.block_on(boot);
    if started {
        if let Err(error) = system.run() {
            tracing::warn!(job = name, %error, "the job's actix system ended with an error");
        }
    } else {
        arbiters.iter().for_each(|arbiter| {
            arbiter.stop();
        });
    }
    join(name, arbiters);
    pool.shutdown_timeout(SHUTDOWN);
}

/// Waits for the arbiters' threads. One ends only when the last blocking call of its sources and sinks does (a read of a
/// terminal, a write to a pipe that nobody reads), which may be never.
fn join(name: &str, arbiters: Vec<Arbiter>) {
    let (last, gone) = std::sync::mpsc::channel::<()>();
    let reaper = std::thread::Builder::new().name(format!("{name}-reaper")).spawn(move || {
        for arbiter in arbiters {
            let _ = arbiter.join();
        }
        drop(last);
    });
    if reaper.is_ok() && gone.recv_timeout(SHUTDOWN) == Err(RecvTimeoutError::Timeout) {
        tracing::warn!(
            job = name,
            "a blocking call of a source or sink outlives the job; its thread is left to it"
        );
    } else if let Ok(reaper) = reaper {
        let _ = reaper.join();
    }
}
