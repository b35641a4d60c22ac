//! The pool on which a job's futures run beside its subtasks: snapshots, commits, storage.

use crate::error::{Error, ErrorKind};
use futures::FutureExt;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use tokio::sync::{Notify, oneshot};
use tracing::Instrument;

/// Where futures run.
#[derive(Debug, Clone)]
pub enum Pool {
    /// On the threads of a runtime.
    Threads(tokio::runtime::Handle),
    /// On the `LocalSet` of the calling thread.
    Local,
}

/// Futures that belong together: those of one run of the dataflow. A restart waits until none of them is left.
#[derive(Debug, Clone)]
pub struct Scope {
    pool: Pool,
    live: Arc<Live>,
}

#[derive(Debug, Default)]
struct Live {
    count: AtomicUsize,
    idle: Notify,
}

impl Scope {
    /// A scope with nothing in it.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        Self { pool, live: Arc::default() }
    }

    /// Starts a future, in the tracing span that is entered here. It runs to its end even if the [`Task`] is dropped; a panic in it
    /// becomes an error of the task.
    #[allow(clippy::disallowed_methods)] // the one place that spawns
    pub fn spawn<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> Task<T> {
        let (done, result) = oneshot::channel();
        let alive = Alive::new(&self.live);
        let work = async move {
            let result = AssertUnwindSafe(future).catch_unwind().await;
            let _ = done.send(result.map_err(|panic| panic_message(&*panic)));
            drop(alive);
        }
        .in_current_span();
        match &self.pool {
            Pool::Threads(runtime) => drop(runtime.spawn(work)),
            Pool::Local => drop(tokio::task::spawn_local(work)),
        }
        Task { result }
    }

    /// Waits until nothing is left in the scope.
    pub async fn idle(&self) {
        loop {
            let notified = self.live.idle.notified();
            if self.live.count.load(Ordering::Acquire) == 0 {
                return;
            }
            notified.await;
        }
    }
}

struct Alive(Arc<Live>);

impl Alive {
    fn new(live: &Arc<Live>) -> Self {
        live.count.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(live))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

/// The result of a future on the pool, in time.
#[derive(Debug)]
#[must_use]
pub struct Task<T> {
    result: oneshot::Receiver<Result<T, String>>,
}

impl<T> Future for Task<T> {
    type Output = Result<T, Error>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        self.result.poll_unpin(task).map(|result| match result {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(panic)) => Err(Error::new(ErrorKind::Failed, format!("panicked on the pool: {panic}"))),
            Err(_) => Err(Error::new(ErrorKind::Failed, "the job's pool was shut down")),
        })
    }
}

/// What a panic said.
#[must_use]
pub fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without a message".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_scope_is_idle_when_its_last_future_is_done() {
        let scope = Scope::new(Pool::Threads(tokio::runtime::Handle::current()));
        scope.idle().await;
        let (go, gate) = oneshot::channel::<()>();
        let task = scope.spawn(async move { gate.await.is_ok() });
        assert!(scope.idle().now_or_never().is_none());
        go.send(()).unwrap();
        scope.idle().await;
        assert!(task.await.unwrap());
    }

    #[tokio::test]
    async fn a_panic_is_an_error_of_the_task() {
        let scope = Scope::new(Pool::Threads(tokio::runtime::Handle::current()));
        let error = scope.spawn(async { assert_eq!(1, 2, "ouch {}", 1) }).await.unwrap_err();
        assert!(error.to_string().contains("ouch 1"), "{error}");
        scope.idle().await;
    }
}
