//! What writes one subtask's records into transactions.

use super::{OpenTransaction, TransactionContext, TwoPhaseCommit};
use crate::error::{BoxError, Error, ErrorKind, Result};
use crate::operator::{BoxFuture, Preparation, SinkWriter, SubtaskContext};
use std::fmt;
use std::future::ready;
use std::ops::ControlFlow;

/// Writes records into one transaction after the other.
pub struct TransactionWriter<T, S: TwoPhaseCommit<T>> {
    sink: S,
    context: SubtaskContext,
    /// Of the next one to begin.
    sequence: u64,
    current: Current<S::Open>,
}

enum Current<O> {
    Open {
        transaction: O,
        /// Whether it has been given a record.
        written: bool,
    },
    /// A flush or a pre-commit failed or was abandoned: what was written is incomplete and may never be committed.
    Broken,
    /// The input has ended, and everything is pre-committed.
    Ended,
}

impl<T: 'static, S: TwoPhaseCommit<T>> TransactionWriter<T, S> {
    /// One for a subtask, with its first transaction begun.
    ///
    /// # Errors
    /// When that cannot be begun.
    pub fn new(sink: &S, context: &SubtaskContext) -> Result<Self> {
        let mut writer =
            Self { sink: sink.clone(), context: context.clone(), sequence: 0, current: Current::Ended };
        writer.begin()?;
        Ok(writer)
    }

    fn begin(&mut self) -> Result {
        let (subtask, began) = (self.context.clone(), self.context.clock.wall());
        let transaction = self.sink.begin(&TransactionContext { subtask, sequence: self.sequence, began })?;
        self.sequence += 1;
        self.current = Current::Open { transaction, written: false };
        Ok(())
    }

    fn current(&mut self) -> Result<&mut S::Open> {
        match &mut self.current {
            Current::Open { transaction, written } => {
                *written = true;
                Ok(transaction)
            }
            Current::Broken => Err(broken(&self.context)),
            Current::Ended => {
                Err(Error::new(ErrorKind::Internal, "a sink was given a record after the end").into())
            }
        }
    }

    fn pre_commit(&mut self, last: bool) -> Result<BoxFuture<Result<Vec<S::Transaction>>>> {
        let transaction = match std::mem::replace(&mut self.current, Current::Broken) {
            Current::Broken => return Err(broken(&self.context)),
            Current::Open { transaction, written: true } => transaction,
            // It goes on; but not beyond the end.
            unused => {
                self.current = if last { Current::Ended } else { unused };
                return Ok(Box::pin(ready(Ok(Vec::new()))));
            }
        };
        let pre_commit = transaction.pre_commit()?;
        if last {
            self.current = Current::Ended;
        } else {
            self.begin()?;
        }
        Ok(Box::pin(async move { Ok(pre_commit.await?.into_iter().collect()) }))
    }
}

fn broken(context: &SubtaskContext) -> BoxError {
    let message =
        "an earlier write of this transaction failed: the job must begin again from its last checkpoint";
    Error::new(ErrorKind::Storage, message).operator(&context.operator).subtask(context.subtask).into()
}

impl<T: 'static, S: TwoPhaseCommit<T>> SinkWriter<T> for TransactionWriter<T, S> {
    type Commit = S::Transaction;

    #[inline]
    fn write(&mut self, record: T) -> Result {
        self.current()?.write(record)
    }

    #[inline]
    fn write_all<I: Iterator<Item = T>>(&mut self, records: &mut I) -> Result {
        let Some(first) = records.next() else { return Ok(()) };
        let transaction = self.current()?;
        transaction.write(first)?;
        if transaction.is_full() {
            return Ok(());
        }
        let stopped = records.try_for_each(|record| match transaction.write(record) {
            Ok(()) if transaction.is_full() => ControlFlow::Break(Ok(())),
            Ok(()) => ControlFlow::Continue(()),
            failed => ControlFlow::Break(failed),
        });
        stopped.break_value().unwrap_or(Ok(()))
    }

    fn is_full(&self) -> bool {
        matches!(&self.current, Current::Open { transaction, .. } if transaction.is_full())
    }

    async fn flush(&mut self) -> Result {
        match std::mem::replace(&mut self.current, Current::Broken) {
            Current::Open { mut transaction, written } => {
                transaction.flush().await?;
                self.current = Current::Open { transaction, written };
                Ok(())
            }
            Current::Broken => Err(broken(&self.context)),
            Current::Ended => {
                self.current = Current::Ended;
                Ok(())
            }
        }
    }

    fn prepare(&mut self) -> Result<BoxFuture<Result<Vec<S::Transaction>>>> {
        self.pre_commit(false)
    }

    fn prepare_for(&mut self, preparation: Preparation) -> Result<BoxFuture<Result<Vec<S::Transaction>>>> {
        self.pre_commit(preparation.is_last)
    }

    fn open(&self) -> Vec<S::Transaction> {
        match &self.current {
            Current::Open { transaction, .. } => transaction.name().into_iter().collect(),
            Current::Broken | Current::Ended => Vec::new(),
        }
    }
}

impl<T, S: TwoPhaseCommit<T>> fmt::Debug for TransactionWriter<T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransactionWriter").field("operator", &self.context.operator).finish_non_exhaustive()
    }
}
