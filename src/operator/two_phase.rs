//! Sinks to systems with transactions: two-phase commit in the terms of those systems.

mod writer;

pub use writer::TransactionWriter;

use super::{BoxFuture, Claim, CommitRetries, RecoveryContext, StartContext, SubtaskContext};
use crate::error::{BoxError, Result};
use crate::types::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::future::ready;
use std::time::Duration;

/// A destination with transactions: a database, a message broker, files that are renamed (Flink's `TwoPhaseCommitSinkFunction`). [`TwoPhase`]
/// makes a [`Sink`](super::Sink) of it, with output that appears exactly once.
///
/// Each subtask always has one transaction open, into which its records go. At a checkpoint it is *pre-committed*: what it holds is made
/// durable, and can from then on be committed by anyone who knows its name, which is stored in the checkpoint. A new one is begun. When the
/// checkpoint has completed, the pre-committed one is *committed*. If the job fails in between, the next attempt, or another process, commits what the
/// checkpoint names, and aborts the one that was open then.
///
/// What the other system must be able to do:
/// - A pre-committed transaction outlives the connection and the process that made it, for as long as the job may be down.
/// - Committing by name works from another process, and again for what is committed already.
/// - Aborting by name works for what was never begun, and again for what is aborted already.
///
/// The methods are called in this order:
///
/// | when | what |
/// |---|---|
/// | a start or restart, once | [`begin_recovery`](Self::begin_recovery); [`recover_and_commit`](Self::recover_and_commit) for each pre-committed one of the checkpoint, in order; [`sync`](Self::sync); [`recover_and_abort`](Self::recover_and_abort) for each that was open; [`end_recovery`](Self::end_recovery) |
/// | then, on each subtask, and again after each pre-commit | [`begin`](Self::begin) |
/// | records | [`write`](OpenTransaction::write), [`flush`](OpenTransaction::flush) |
/// | a checkpoint | [`pre_commit`](OpenTransaction::pre_commit) |
/// | it has completed, or a later one | [`commit`](Self::commit) for each pre-committed one up to it, in order; [`sync`](Self::sync) |
/// | the subtask stops | [`abort`](Self::abort) for the open one; what is pre-committed stays |
///
/// A transaction that was begun after the last completed checkpoint by a process that was then killed is in no checkpoint:
/// where such leftovers do harm, find them by their names in [`end_recovery`](TwoPhaseCommit::end_recovery), or have the other system give them
/// up after a time.
///
/// A checkpoint that is given up changes nothing: what was pre-committed for it is committed with the next one. At the end of the input the last
/// transaction is pre-committed and no other begun. A pre-commit that fails fails the subtask. A commit that fails is tried
/// again after all others have been tried, as often as [`retries`](Self::retries) says; then it fails the subtask.
///
/// ```
/// use std::collections::BTreeMap;
/// use std::sync::{Arc, Mutex};
/// use strandline::prelude::*;
/// use strandline::{OpenTransaction, TransactionContext, TwoPhase, TwoPhaseCommit};
///
/// /// A store in this process: what was prepared, by the name of the transaction, and what was committed.
/// #[derive(Clone, Default)]
/// struct Store {
///     prepared: Arc<Mutex<BTreeMap<String, Vec<u32>>>>,
///     committed: Arc<Mutex<Vec<u32>>>,
/// }
///
/// /// A transaction of it.
/// struct Batch {
///     name: String,
///     numbers: Vec<u32>,
///     store: Store,
/// }
///
/// impl TwoPhaseCommit<u32> for Store {
///     type Transaction = String;
///     type Open = Batch;
///
///     fn begin(&self, context: &TransactionContext) -> Result<Batch> {
///         Ok(Batch { name: context.name(), numbers: Vec::new(), store: self.clone() })
///     }
///
///     async fn commit(&self, name: String) -> Result {
///         let prepared = self.prepared.lock().map_err(|_| "poisoned")?.remove(&name);
///         self.committed.lock().map_err(|_| "poisoned")?.extend(prepared.into_iter().flatten());
///         Ok(())
///     }
/// }
///
/// impl OpenTransaction<u32> for Batch {
///     type Transaction = String;
///
///     fn write(&mut self, number: u32) -> Result {
///         self.numbers.push(number);
///         Ok(())
///     }
///
///     fn pre_commit(self) -> Result<BoxFuture<Result<Option<String>>>> {
///         Ok(Box::pin(async move {
///             self.store.prepared.lock().map_err(|_| "poisoned")?.insert(self.name.clone(), self.numbers);
///             Ok(Some(self.name))
///         }))
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result {
/// let store = Store::default();
/// let env = Environment::builder().parallelism(1).build()?;
/// env.source("numbers", Iter::new(0..4)).sink("store", TwoPhase::new(store.clone()));
/// env.execute("two-phase").await?;
/// assert_eq!(*store.committed.lock().map_err(|_| "poisoned")?, [0, 1, 2, 3]);
/// # Ok(())
/// # }
/// ```
pub trait TwoPhaseCommit<T>: Clone + Send + Sync + 'static {
    /// What a pre-committed transaction is committed by. Stored in every checkpoint, in postcard's form: see
    /// [`StateValue`](crate::StateValue) for what that rules out.
    type Transaction: Clone + Send + Serialize + DeserializeOwned + 'static;
    /// A transaction that takes records.
    type Open: OpenTransaction<T, Transaction = Self::Transaction>;

    /// Begins a transaction, on the subtask's own thread: gives it a name that no other will ever have, such as
    /// [`TransactionContext::name`]. Must not block: talk to the other system in [`OpenTransaction::flush`].
    fn begin(&self, context: &TransactionContext) -> Result<Self::Open>;

    /// Makes what a transaction holds visible. Must be idempotent, and an error where it is gone for good.
    fn commit(&self, transaction: Self::Transaction) -> impl Future<Output = Result> + Send;

    /// Throws a transaction away. Must be idempotent, and fine for one that was only named.
    fn abort(&self, transaction: Self::Transaction) -> impl Future<Output = Result> + Send {
        let _ = transaction;
        ready(Ok(()))
    }

    /// Commits what an earlier run pre-committed. The default [commits](Self::commit) it.
    fn recover_and_commit(&self, transaction: Self::Transaction) -> impl Future<Output = Result> + Send {
        self.commit(transaction)
    }

    /// Throws away what an earlier run had open. The default [aborts](Self::abort) it.
    fn recover_and_abort(&self, transaction: Self::Transaction) -> impl Future<Output = Result> + Send {
        self.abort(transaction)
    }

    /// Before anything is recovered: create what must exist, refuse what cannot work.
    fn begin_recovery(&self, context: &RecoveryContext) -> impl Future<Output = Result> + Send {
        let _ = context;
        ready(Ok(()))
    }

    /// When all is recovered: throw away what earlier runs left and no checkpoint names: what carries a lower generation and attempt than
    /// the context, and only of the [operator](RecoveryContext::operator) that is recovered. Never throw away all that is there: other sinks of
    /// the job may be writing to the same system, and a process that has taken this one over may have transactions open already.
    fn end_recovery(&self, context: &RecoveryContext) -> impl Future<Output = Result> + Send {
        let _ = context;
        ready(Ok(()))
    }

    /// How often a round of commits in which one fails is tried again, all of it, before the subtask fails (§10.11 of docs/semantics.md). The
    /// default is 10 times, 1 s apart.
    fn retries(&self) -> CommitRetries {
        CommitRetries::default()
    }

    /// After a round of commits: make them durable, where that is cheaper for many at once.
    fn sync(&self) -> impl Future<Output = Result> + Send {
        ready(Ok(()))
    }

    /// When the other system gives transactions up by itself. Default: never. Begin times come from
    /// [`began`](Self::began).
    fn timeout(&self) -> Option<TransactionTimeout> {
        None
    }

    /// When a transaction was begun, if it says so: put [`TransactionContext::began`] into it.
    fn began(&self, transaction: &Self::Transaction) -> Option<Timestamp> {
        let _ = transaction;
        None
    }

    /// See [`Sink::claim`](super::Sink::claim).
    fn claim(&self, start: &StartContext) -> Result<Claim> {
        let _ = start;
        Ok(Claim::none())
    }
}

/// Takes the records of one transaction.
pub trait OpenTransaction<T>: 'static {
    /// See [`TwoPhaseCommit::Transaction`].
    type Transaction;

    /// Takes one record. Must not block: put it into a buffer.
    fn write(&mut self, record: T) -> Result;

    /// See [`SinkWriter::is_full`](crate::SinkWriter::is_full).
    fn is_full(&self) -> bool {
        false
    }

    /// See [`SinkWriter::flush`](crate::SinkWriter::flush). After an error, or if it is dropped unfinished, the transaction is not used any more, and its subtask
    /// cannot take part in a checkpoint.
    fn flush(&mut self) -> impl Future<Output = Result> {
        ready(Ok(()))
    }

    /// The name to [abort](TwoPhaseCommit::abort) it by, to be stored in checkpoints while it is open. `None`, the default, where
    /// [`end_recovery`](TwoPhaseCommit::end_recovery) finds what was left without, or where nothing is left.
    fn name(&self) -> Option<Self::Transaction> {
        None
    }

    /// At a barrier, if any record was written: begins to make it durable. Must not block: the future runs on the job's pool while the
    /// next transaction already takes records. `None` if there is nothing to commit after all. An error fails the subtask.
    fn pre_commit(self) -> Result<BoxFuture<Result<Option<Self::Transaction>>>>;
}

/// What a transaction is begun with.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TransactionContext {
    /// The subtask that begins it.
    pub subtask: SubtaskContext,
    /// From 0, one more for each of this subtask in this attempt.
    pub sequence: u64,
    /// Wall time.
    pub began: Timestamp,
}

impl TransactionContext {
    /// A name that no other transaction of any run of any job has: job, uid, generation, attempt, subtask and sequence.
    #[must_use]
    pub fn name(&self) -> String {
        let SubtaskContext { job, operator, generation, attempt, subtask, .. } = &self.subtask;
        format!("{job}-{operator}-{generation}-{attempt}-{subtask}-{}", self.sequence)
    }
}

/// For how long a pre-committed transaction can be committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransactionTimeout {
    /// After so long the other system may have given it up. It must be longer than a checkpoint interval and the longest time for which
    /// the job may be down.
    pub after: Duration,
    /// Whether a failure to recover an older one is only logged. Its records are lost then; otherwise the job does not start, which
    /// is the better choice where somebody can look.
    pub ignore_failures: bool,
}

/// A [`TwoPhaseCommit`] as a [`Sink`](super::Sink).
#[derive(Debug, Clone)]
pub struct TwoPhase<S>(S);

impl<S> TwoPhase<S> {
    /// Writes into transactions of `sink`.
    #[must_use]
    pub fn new(sink: S) -> Self {
        Self(sink)
    }
}

/// Makes a [`Sink`](super::Sink) of a [`TwoPhaseCommit`]: what is in the braces gives the latter.
macro_rules! two_phase_sink {
    ([$($generics:tt)*] $sink:ty, |$this:ident| $two_phase:expr, $inner:ty) => {
        impl<$($generics)*> $crate::operator::Sink<T> for $sink {
            type Commit = <$inner as $crate::operator::TwoPhaseCommit<T>>::Transaction;
            type Writer = $crate::operator::TransactionWriter<T, $inner>;

            async fn recover(
                &self,
                restored: Vec<Self::Commit>,
                context: &$crate::operator::RecoveryContext,
            ) -> $crate::error::Result {
                let $this = self;
                $crate::operator::two_phase::recover::<T, $inner>($two_phase, restored, context).await
            }

            async fn abort(
                &self,
                open: Vec<Self::Commit>,
                context: &$crate::operator::RecoveryContext,
            ) -> $crate::error::Result {
                let $this = self;
                $crate::operator::two_phase::abort::<T, $inner>($two_phase, open, context).await
            }

            async fn discard(&self, open: Vec<Self::Commit>) -> $crate::error::Result {
                let $this = self;
                $crate::operator::two_phase::discard::<T, $inner>($two_phase, open).await
            }

            fn writer(
                &self,
                context: &$crate::operator::SubtaskContext,
            ) -> $crate::error::Result<Self::Writer> {
                let $this = self;
                $crate::operator::TransactionWriter::new($two_phase, context)
            }

            fn claim(&self, start: &$crate::operator::StartContext) -> $crate::error::Result<$crate::operator::Claim> {
                let $this = self;
                $crate::operator::TwoPhaseCommit::claim($two_phase, start)
            }

            fn retries(&self) -> $crate::operator::CommitRetries {
                let $this = self;
                $crate::operator::TwoPhaseCommit::<T>::retries($two_phase)
            }

            async fn commit(&self, commits: Vec<Self::Commit>) -> $crate::error::Result {
                let $this = self;
                $crate::operator::two_phase::commit::<T, $inner>($two_phase, commits).await
            }
        }
    };
}
pub(crate) use two_phase_sink;

two_phase_sink!([T: 'static, S: TwoPhaseCommit<T>] TwoPhase<S>, |this| &this.0, S);

/// Commits what a checkpoint holds.
pub(crate) async fn recover<T, S: TwoPhaseCommit<T>>(
    sink: &S,
    restored: Vec<S::Transaction>,
    context: &RecoveryContext,
) -> Result {
    sink.begin_recovery(context).await?;
    let any = !restored.is_empty();
    for transaction in restored {
        let began = sink.began(&transaction);
        let result = sink.recover_and_commit(transaction).await;
        result.or_else(|error| overlook(error, sink.timeout(), began, context))?;
    }
    if any { sink.sync().await } else { Ok(()) }
}

/// Throws away what was open at a checkpoint.
pub(crate) async fn abort<T, S: TwoPhaseCommit<T>>(
    sink: &S,
    open: Vec<S::Transaction>,
    context: &RecoveryContext,
) -> Result {
    for transaction in open {
        sink.recover_and_abort(transaction).await?;
    }
    sink.end_recovery(context).await
}

/// Throws away what a subtask that has stopped had open.
pub(crate) async fn discard<T, S: TwoPhaseCommit<T>>(sink: &S, open: Vec<S::Transaction>) -> Result {
    for transaction in open {
        sink.abort(transaction).await?;
    }
    Ok(())
}

/// Commits what a completed checkpoint holds.
pub(crate) async fn commit<T, S: TwoPhaseCommit<T>>(sink: &S, commits: Vec<S::Transaction>) -> Result {
    if commits.is_empty() {
        return Ok(());
    }
    let mut result = Ok(());
    for transaction in commits {
        // All of them, whatever one says: the first error counts.
        result = result.and(sink.commit(transaction).await);
    }
    let synced = sink.sync().await;
    result.and(synced)
}

/// Whether a transaction that cannot be recovered may be lost.
fn overlook(
    error: BoxError,
    timeout: Option<TransactionTimeout>,
    began: Option<Timestamp>,
    context: &RecoveryContext,
) -> Result {
    let age = began.map(|began| Duration::from_millis(u64::try_from(context.now.0 - began.0).unwrap_or(0)));
    match (timeout, age) {
        (Some(TransactionTimeout { after, ignore_failures: true }), Some(age)) if age > after => {
            tracing::error!(
                operator = %context.operator, %error, age_s = age.as_secs(),
                "a transaction of a completed checkpoint cannot be committed any more: its records are lost"
            );
            Ok(())
        }
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests;
