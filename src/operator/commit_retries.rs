//! How often a commit that fails is tried again before its subtask fails.

use super::Sink;
use crate::error::{BoxError, Error, ErrorKind, Result};
use crate::types::{Clock, OperatorId};
use futures::future::{Either, select};
use serde::{Deserialize, Serialize};
use std::pin::pin;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often, and how soon, a sink's commit that fails is tried again (Flink's `sink.committer.retries`): what
/// [`Sink::retries`](super::Sink::retries) says. After the last try the subtask fails, and the restart strategy decides.
///
/// Tries cost little: records flow on meanwhile, and only later commits wait. A restart costs the work since the last checkpoint. So wait
/// for longer than the other system is usually away, and shorter than your readers can wait: 10 tries, 1 s apart, is a good start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitRetries {
    /// How often, after the first try. 0: never.
    pub times: u32,
    /// How long after the try before.
    pub delay: Duration,
}

impl CommitRetries {
    /// The first failure fails the subtask.
    pub const NONE: Self = Self { times: 0, delay: Duration::ZERO };
}

impl Default for CommitRetries {
    /// 10 times, 1 s apart, as in Flink.
    fn default() -> Self {
        Self { times: 10, delay: Duration::from_secs(1) }
    }
}

/// Commits, and tries again all of it what fails: commits are idempotent. Gives what the sink keeps for the next checkpoint. Once the subtask is
/// `closed` no further try is made: the next attempt makes it.
pub(super) async fn commit<T, S: Sink<T>>(
    sink: S,
    commits: Vec<S::Commit>,
    operator: OperatorId,
    clock: Clock,
    closed: CancellationToken,
) -> Result<Vec<S::Commit>> {
    let CommitRetries { times, delay } = sink.retries();
    for tried in 1..=times {
        let error = match sink.try_commit(commits.clone()).await {
            Err(error) if may_pass(&error) => error,
            result => return result,
        };
        tracing::warn!(%operator, %error, tried, of = times + 1, "a commit failed: it is tried again");
        if let Either::Right(_) = select(pin!(clock.sleep(delay)), pin!(closed.cancelled())).await {
            return Err(error);
        }
    }
    sink.try_commit(commits).await
}

/// Whether trying again can mend it.
fn may_pass(error: &BoxError) -> bool {
    error
        .downcast_ref::<Error>()
        .is_none_or(|error| matches!(error.kind(), ErrorKind::Failed | ErrorKind::Storage))
}
