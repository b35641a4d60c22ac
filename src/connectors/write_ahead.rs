//! A sink for systems without transactions: what is to be written goes into the checkpoint first.

mod disk_committer;

pub use disk_committer::DiskCommitter;

use crate::error::{Error, ErrorKind, Result};
use crate::operator::{BoxFuture, Preparation, RecoveryContext, Sink, SinkWriter, SubtaskContext};
use crate::types::{CheckpointId, JobName, OperatorId, SubtaskIndex};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::future::ready;

/// What sends records to a system without transactions, for a [`WriteAhead`].
///
/// A crash after a batch was sent and before that was [recorded](CheckpointCommitter) sends it again. So output appears exactly once where a batch
/// that is sent twice takes effect once – write each record under a key made of the batch and its place in it – and otherwise at least once,
/// with repetitions after such a crash only.
pub trait Deliver<T>: Clone + Send + Sync + 'static {
    /// Sends the records of one batch, in order. `true` when all have arrived for good; `false` or an error when not: they are sent again, all of
    /// them, when the next checkpoint has completed. Runs on the job's pool.
    fn deliver(&self, records: &[T], batch: &BatchId) -> impl Future<Output = Result<bool>> + Send;
}

/// Which batch: what one subtask was given before one checkpoint. No other batch of the job ever has the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BatchId {
    /// The job.
    pub job: JobName,
    /// The uid of the sink.
    pub operator: OperatorId,
    /// The checkpoint.
    pub checkpoint: CheckpointId,
    /// The subtask.
    pub subtask: SubtaskIndex,
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { job, operator, checkpoint, subtask } = self;
        write!(f, "batch of checkpoint {checkpoint}, subtask {subtask} of `{operator}`, job `{job}`")
    }
}

/// Remembers, outside of the job, which batches have been delivered (Flink's `CheckpointCommitter`). Best kept in the very system that the batches go
/// to. [`DiskCommitter`] keeps it in files.
///
/// What it remembers belongs to the checkpoints of a job: with a job that begins anew under the same name it must be emptied, or the first
/// batches would be taken for delivered.
pub trait CheckpointCommitter: Clone + Send + Sync + 'static {
    /// Once at each start and restart, before anything else: create what must exist.
    fn open(&self, context: &RecoveryContext) -> impl Future<Output = Result> + Send {
        let _ = context;
        ready(Ok(()))
    }

    /// Whether this batch was delivered.
    fn is_committed(&self, batch: &BatchId) -> impl Future<Output = Result<bool>> + Send;

    /// Records for good that this batch was delivered. Those of one subtask come in order of checkpoints.
    fn commit(&self, batch: &BatchId) -> impl Future<Output = Result> + Send;
}

/// Writes to a system without transactions (Flink's `GenericWriteAheadSink`): records are kept in the checkpoint, and when that has completed
/// they are [delivered](Deliver), and that is [recorded](CheckpointCommitter).
///
/// For each batch up to the completed checkpoint, in order: what is recorded as delivered is dropped; the rest is delivered, then recorded, then dropped. A
/// batch that cannot be delivered now keeps itself and all after it for the next completed checkpoint; the job goes on meanwhile. At the end of the
/// input, and when the job starts or restarts, there is no later one: then it is an error, and the restart strategy decides how often it is tried.
///
/// All that is written between two checkpoints is kept in memory and stored in the next one, again and again until it is delivered. So keep the interval
/// short, and use it where the other system offers nothing better: [`TwoPhaseCommit`](crate::TwoPhaseCommit) costs less. It needs a job that takes
/// checkpoints.
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use strandline::connectors::{BatchId, Deliver, DiskCommitter, WriteAhead};
/// use strandline::prelude::*;
/// use strandline::storage::MemoryDisk;
///
/// /// A table with keys: writing a row again changes nothing.
/// #[derive(Clone, Default)]
/// struct Table(Arc<Mutex<std::collections::BTreeMap<(BatchId, usize), u32>>>);
///
/// impl Deliver<u32> for Table {
///     async fn deliver(&self, records: &[u32], batch: &BatchId) -> Result<bool> {
///         let mut rows = self.0.lock().map_err(|_| "poisoned")?;
///         rows.extend(records.iter().enumerate().map(|(place, record)| ((batch.clone(), place), *record)));
///         Ok(true)
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result {
/// let (table, marks) = (Table::default(), DiskCommitter::on(Arc::new(MemoryDisk::new()), "marks"));
/// let env = Environment::builder().parallelism(1).storage(Memory::new()).build()?;
/// env.source("numbers", Iter::new(0..4)).sink("table", WriteAhead::new(table.clone(), marks));
/// env.execute("write-ahead").await?;
/// assert_eq!(table.0.lock().map_err(|_| "poisoned")?.values().copied().collect::<Vec<u32>>(), [0, 1, 2, 3]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct WriteAhead<D, C> {
    to: D,
    committer: C,
}

impl<D, C> WriteAhead<D, C> {
    /// Delivers by `to`, and records by `committer` what was delivered.
    #[must_use]
    pub fn new(to: D, committer: C) -> Self {
        Self { to, committer }
    }
}

/// Records that wait to be delivered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Batch<T> {
    id: BatchId,
    records: Vec<T>,
}

/// Gathers the records of one subtask.
#[derive(Debug)]
pub struct WriteAheadWriter<T> {
    context: SubtaskContext,
    records: Vec<T>,
}

impl<D, C: CheckpointCommitter> WriteAhead<D, C> {
    /// Whether the batch has been delivered, now or before.
    async fn settle<T>(&self, batch: &Batch<T>) -> Result<bool>
    where
        D: Deliver<T>,
    {
        if self.committer.is_committed(&batch.id).await? {
            return Ok(true);
        }
        let is_delivered = self.to.deliver(&batch.records, &batch.id).await?;
        if is_delivered {
            self.committer.commit(&batch.id).await?;
        }
        Ok(is_delivered)
    }
}

impl<T, D, C> Sink<T> for WriteAhead<D, C>
where
    T: Clone + Send + Sync + Serialize + DeserializeOwned + 'static,
    D: Deliver<T>,
    C: CheckpointCommitter,
{
    type Commit = Batch<T>;
    type Writer = WriteAheadWriter<T>;

    async fn recover(&self, restored: Vec<Batch<T>>, context: &RecoveryContext) -> Result {
        if !context.checkpointing {
            let message = "a write-ahead sink keeps what it writes in checkpoints, and this job takes none: set `checkpointing` or \
                           `storage` on its environment";
            return Err(Error::new(ErrorKind::Configuration, message).into());
        }
        self.committer.open(context).await?;
        Sink::<T>::commit(self, restored).await
    }

    fn writer(&self, context: &SubtaskContext) -> Result<WriteAheadWriter<T>> {
        Ok(WriteAheadWriter { context: context.clone(), records: Vec::new() })
    }

    async fn commit(&self, batches: Vec<Batch<T>>) -> Result {
        for batch in batches {
            if !self.settle(&batch).await? {
                return Err(format!("the {} could not be delivered", batch.id).into());
            }
        }
        Ok(())
    }

    async fn try_commit(&self, mut batches: Vec<Batch<T>>) -> Result<Vec<Batch<T>>> {
        let mut settled = 0;
        for batch in &batches {
            match self.settle(batch).await {
                Ok(true) => settled += 1,
                Ok(false) => break,
                Err(error) => {
                    let BatchId { operator, checkpoint, subtask, .. } = &batch.id;
                    tracing::warn!(
                        %operator, %checkpoint, %subtask, %error,
                        "a batch was not delivered: it is tried again after the next checkpoint"
                    );
                    break;
                }
            }
        }
        Ok(batches.split_off(settled))
    }
}

impl<T: Send + 'static> SinkWriter<T> for WriteAheadWriter<T> {
    type Commit = Batch<T>;

    fn write(&mut self, record: T) -> Result {
        self.records.push(record);
        Ok(())
    }

    /// Nothing is delivered before its checkpoint is complete.
    async fn flush(&mut self) -> Result {
        Ok(())
    }

    fn prepare(&mut self) -> Result<BoxFuture<Result<Vec<Batch<T>>>>> {
        Err(Error::new(
            ErrorKind::Internal,
            "a write-ahead sink must be told for which checkpoint it prepares",
        )
        .into())
    }

    fn prepare_for(&mut self, preparation: Preparation) -> Result<BoxFuture<Result<Vec<Batch<T>>>>> {
        let records = std::mem::take(&mut self.records);
        let SubtaskContext { job, operator, subtask, .. } = &self.context;
        let (job, operator) = (job.clone(), operator.clone());
        let id = BatchId { job, operator, checkpoint: preparation.checkpoint, subtask: *subtask };
        let batch = (!records.is_empty()).then_some(Batch { id, records });
        Ok(Box::pin(ready(Ok(batch.into_iter().collect()))))
    }
}
