//! Records gathered in memory.

use crate::error::{Error, ErrorKind, Result};
use crate::operator::{BoxFuture, RecoveryContext, Sink, SinkWriter, SubtaskContext};
use crate::types::{Attempt, Generation, OperatorId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Gathers records in the memory of this process: for tests, examples and small results.
///
/// A clone is a handle to the same records: give one to the job and read from the other.
///
/// **Exactly once while the process lives**: a record becomes visible in [`records`](Self::records) when the checkpoint that covers it
/// has completed, so restarts of the job neither lose nor repeat any. Without checkpointing all become visible at the end of
/// the input. When the process dies the gathered records are gone with it; a new process gathers what comes after the
/// checkpoint it starts from. Use a [`FileSink`](super::FileSink) for output that outlives the process.
///
/// Records of one subtask keep their order; those of parallel subtasks come in the order of their commits. Memory grows
/// with every record until [`take`](Self::take).
///
/// ```
/// # use strandline::prelude::*;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result {
/// let env = Environment::builder().build()?;
/// let squares = Collect::new();
/// env.source("numbers", Iter::new(1..4_u64)).map(|n| n * n).sink("squares", squares.clone());
/// env.execute("collecting-squares").await?;
/// assert_eq!(squares.records(), [1, 4, 9]);
/// # Ok(())
/// # }
/// ```
pub struct Collect<T> {
    shared: Arc<Mutex<Shared<T>>>,
}

struct Shared<T> {
    visible: Vec<T>,
    /// By checkpoints not yet completed, or not yet said to be.
    prepared: BTreeMap<CollectCommit, Vec<T>>,
    next: u64,
}

impl<T> Collect<T> {
    /// Nothing gathered yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Mutex::new(Shared { visible: Vec::new(), prepared: BTreeMap::new(), next: 0 })),
        }
    }

    /// A copy of the records committed so far.
    #[must_use]
    pub fn records(&self) -> Vec<T>
    where
        T: Clone,
    {
        self.lock().visible.clone()
    }

    /// Takes the records committed so far out.
    #[must_use]
    pub fn take(&self) -> Vec<T> {
        std::mem::take(&mut self.lock().visible)
    }

    /// How many records are committed and not taken.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().visible.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Shared<T>> {
        // Nothing panics while it is held, but a clone of a record.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Default for Collect<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Clone for Collect<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T> fmt::Debug for Collect<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shared = self.lock();
        let waiting: usize = shared.prepared.values().map(Vec::len).sum();
        f.debug_struct("Collect").field("visible", &shared.visible.len()).field("prepared", &waiting).finish()
    }
}

/// Names records prepared by a [`Collect`] sink.
///
/// The serial is unique in the process; generation and attempt tell it from those of other processes and runs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CollectCommit {
    operator: OperatorId,
    generation: Generation,
    attempt: Attempt,
    serial: u64,
}

impl<T: Send + 'static> Sink<T> for Collect<T> {
    type Commit = CollectCommit;
    type Writer = CollectWriter<T>;

    async fn recover(&self, restored: Vec<CollectCommit>, context: &RecoveryContext) -> Result {
        self.commit(restored).await?;
        // Of this sink's only what a newer process prepared may still be committed.
        self.lock().prepared.retain(|commit, _| {
            commit.operator != context.operator || commit.generation > context.generation
        });
        Ok(())
    }

    fn writer(&self, context: &SubtaskContext) -> Result<CollectWriter<T>> {
        Ok(CollectWriter {
            buffer: Vec::new(),
            collect: self.clone(),
            operator: context.operator.clone(),
            generation: context.generation,
            attempt: context.attempt,
        })
    }

    /// What is not there was committed before, or died with another process.
    fn commit(&self, commits: Vec<CollectCommit>) -> impl Future<Output = Result> + Send {
        let mut shared = self.lock();
        for commit in commits {
            if let Some(records) = shared.prepared.remove(&commit) {
                shared.visible.extend(records);
            }
        }
        drop(shared);
        std::future::ready(Ok(()))
    }
}

/// Writes one subtask's records of a [`Collect`].
pub struct CollectWriter<T> {
    buffer: Vec<T>,
    collect: Collect<T>,
    operator: OperatorId,
    generation: Generation,
    attempt: Attempt,
}

impl<T> fmt::Debug for CollectWriter<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CollectWriter").field("buffered", &self.buffer.len()).finish_non_exhaustive()
    }
}

impl<T: Send + 'static> SinkWriter<T> for CollectWriter<T> {
    type Commit = CollectCommit;

    fn write(&mut self, record: T) -> Result {
        self.buffer.push(record);
        Ok(())
    }

    async fn flush(&mut self) -> Result {
        Ok(())
    }

    fn prepare(&mut self) -> Result<BoxFuture<Result<Vec<CollectCommit>>>> {
        let mut commits = Vec::new();
        if !self.buffer.is_empty() {
            let mut shared = self.collect.lock();
            let commit = CollectCommit {
                operator: self.operator.clone(),
                generation: self.generation,
                attempt: self.attempt,
                serial: shared.next,
            };
            shared.next += 1;
            if shared.prepared.insert(commit.clone(), std::mem::take(&mut self.buffer)).is_some() {
                return Err(Error::new(ErrorKind::Internal, format!("{commit:?} prepared twice")).into());
            }
            commits.push(commit);
        }
        Ok(Box::pin(std::future::ready(Ok(commits))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connectors::test_support::{recovery, run_context};

    async fn prepare(writer: &mut CollectWriter<u32>, records: &[u32]) -> Vec<CollectCommit> {
        for record in records {
            writer.write(*record).unwrap();
        }
        writer.prepare().unwrap().await.unwrap()
    }

    #[tokio::test]
    async fn records_show_once_and_only_when_committed() {
        let collect = Collect::new();
        let mut writer = collect.writer(&run_context(1, 0, 0)).unwrap();
        let first = prepare(&mut writer, &[1, 2]).await;
        let second = prepare(&mut writer, &[3]).await;
        assert!(prepare(&mut writer, &[]).await.is_empty());
        assert!(collect.is_empty());
        collect.commit(first.clone()).await.unwrap();
        collect.commit([first, second].concat()).await.unwrap();
        assert_eq!(collect.records(), [1, 2, 3]);
        assert_eq!(collect.take(), [1, 2, 3]);
        assert_eq!(collect.len(), 0);
    }

    #[tokio::test]
    async fn a_restart_commits_what_the_checkpoint_holds_and_drops_the_rest() {
        let collect = Collect::new();
        let mut writer = collect.writer(&run_context(1, 0, 0)).unwrap();
        let completed = prepare(&mut writer, &[1]).await;
        let aborted = prepare(&mut writer, &[2]).await;
        collect.recover(completed, &recovery(1, 1)).await.unwrap();
        assert_eq!(collect.records(), [1]);
        collect.commit(aborted).await.unwrap();
        assert_eq!(collect.records(), [1], "an aborted attempt was committed");
    }

    #[tokio::test]
    async fn sinks_with_one_handle_leave_each_others_records_alone() {
        let collect = Collect::new();
        let mut other = run_context(1, 0, 0);
        other.operator = "other".into();
        let mut writer = collect.writer(&other).unwrap();
        let completed = prepare(&mut writer, &[7]).await;
        collect.recover(Vec::new(), &recovery(1, 1)).await.unwrap();
        collect.commit(completed).await.unwrap();
        assert_eq!(collect.records(), [7]);
    }

    #[tokio::test]
    async fn commits_of_a_dead_process_match_nothing_of_this_one() {
        let dead = Collect::new();
        let mut writer = dead.writer(&run_context(1, 0, 0)).unwrap();
        let restored = prepare(&mut writer, &[1]).await;
        let collect = Collect::<u32>::new();
        collect.recover(restored.clone(), &recovery(2, 0)).await.unwrap();
        let mut writer = collect.writer(&run_context(2, 0, 0)).unwrap();
        let uncovered = prepare(&mut writer, &[2]).await;
        // The second attempt starts from the same checkpoint of the dead process.
        collect.recover(restored, &recovery(2, 1)).await.unwrap();
        collect.commit(uncovered).await.unwrap();
        assert!(collect.is_empty());
    }
}
