//! Another system with transactions, and the sink that writes there.

use super::world::{Fate, Place, Process, Region};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use strandline::prelude::*;
use strandline::{CommitRetries, OpenTransaction, TransactionContext, TwoPhaseCommit};

/// What came through the whole job.
pub type Written = (u64, u64, u64, u64, u64);

/// The other system: its transactions, by name. It outlives all processes.
#[derive(Debug, Default)]
pub struct Broker(Mutex<BTreeMap<String, Transaction>>);

#[derive(Debug)]
struct Transaction {
    /// Who began it.
    process: u32,
    /// Generation and attempt of that.
    run: Run,
    records: Vec<Written>,
    stage: Stage,
}

/// Generation and attempt.
type Run = (u64, u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    /// When there were so many entries in the job log.
    Prepared(u64),
    Committed,
    Aborted,
}

impl Broker {
    fn transactions(&self) -> MutexGuard<'_, BTreeMap<String, Transaction>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn committed(&self) -> Vec<Written> {
        let transactions = self.transactions();
        let committed = transactions.values().filter(|transaction| transaction.stage == Stage::Committed);
        committed.flat_map(|transaction| transaction.records.clone()).collect()
    }

    /// Transactions of these processes that are neither committed nor aborted.
    pub fn unfinished(&self, of: impl Fn(u32) -> bool) -> Vec<String> {
        let transactions = self.transactions();
        let unfinished = transactions.iter().filter(|(_, transaction)| {
            of(transaction.process) && matches!(transaction.stage, Stage::Open | Stage::Prepared(_))
        });
        unfinished.map(|(name, transaction)| format!("{name} {:?}", transaction.stage)).collect()
    }
}

/// Writes there.
#[derive(Debug, Clone)]
pub struct ToBroker {
    pub broker: Arc<Broker>,
    pub process: Arc<Process>,
    /// Which it is the sink of.
    pub region: Region,
    pub retries: CommitRetries,
    /// How many records it takes before it must flush.
    pub buffer: usize,
}

impl ToBroker {
    async fn call(
        &self,
        what: &str,
        name: &str,
        call: impl FnOnce(&mut BTreeMap<String, Transaction>) + Send,
    ) -> Result {
        let call = async { call(&mut self.broker.transactions()) };
        let result = self.process.call(Place::Broker, &format!("{what} {name}"), call).await;
        result.map_err(|fate: Fate| format!("injected at {what} {name}: {fate:?}").into())
    }

    fn violated(&self, what: String) {
        self.process.world().violated(format!("process {}: {what}", self.process.id));
    }
}

pub struct Batch {
    name: String,
    run: Run,
    buffer: Vec<Written>,
    sink: ToBroker,
}

impl TwoPhaseCommit<Written> for ToBroker {
    type Transaction = String;
    type Open = Batch;

    fn begin(&self, context: &TransactionContext) -> Result<Batch> {
        self.process.code("begin")?;
        let run = (context.subtask.generation.0, u64::from(context.subtask.attempt.0));
        Ok(Batch { name: context.name(), run, buffer: Vec::new(), sink: self.clone() })
    }

    fn retries(&self) -> CommitRetries {
        self.retries
    }

    async fn commit(&self, name: String) -> Result {
        let world = self.process.world();
        let commit = |transactions: &mut BTreeMap<String, Transaction>| {
            let Some(transaction) = transactions.get_mut(&name) else {
                return self.violated(format!("commits {name}, which was never begun"));
            };
            match transaction.stage {
                Stage::Prepared(entries) if entries == world.log_entries() => {
                    self.violated(format!("commits {name} before any checkpoint was completed"));
                }
                Stage::Prepared(_) => transaction.stage = Stage::Committed,
                Stage::Committed => {}
                stage => self.violated(format!("commits {name}, which is {stage:?}")),
            }
        };
        self.call("commit", &name, commit).await
    }

    async fn abort(&self, name: String) -> Result {
        let abort = |transactions: &mut BTreeMap<String, Transaction>| match transactions.get_mut(&name) {
            Some(transaction) if transaction.stage == Stage::Committed => {
                self.violated(format!("aborts {name}, which is committed"));
            }
            Some(transaction) => transaction.stage = Stage::Aborted,
            None => {}
        };
        self.call("abort", &name, abort).await
    }

    async fn begin_recovery(&self, context: &RecoveryContext) -> Result {
        self.process.live().await;
        let restored = context.restored.map(|restored| restored.0);
        self.process.world().restores(self.process.id, self.region, restored);
        self.call("begin_recovery", "", |_| {}).await
    }

    async fn end_recovery(&self, context: &RecoveryContext) -> Result {
        let run = (context.generation.0, u64::from(context.attempt.0));
        let sweep = |transactions: &mut BTreeMap<String, Transaction>| {
            // Of a process that has taken over there may be newer ones.
            for transaction in transactions.values_mut().filter(|transaction| transaction.run < run) {
                if matches!(transaction.stage, Stage::Open | Stage::Prepared(_)) {
                    transaction.stage = Stage::Aborted;
                }
            }
        };
        self.call("end_recovery", "", sweep).await
    }

    async fn sync(&self) -> Result {
        self.call("sync commits", "", |_| {}).await
    }
}

impl OpenTransaction<Written> for Batch {
    type Transaction = String;

    fn write(&mut self, record: Written) -> Result {
        self.sink.process.code(format_args!("write {} to {}", record.2, self.name))?;
        self.buffer.push(record);
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.buffer.len() >= self.sink.buffer
    }

    async fn flush(&mut self) -> Result {
        let Self { name, run, buffer, sink } = self;
        let records = std::mem::take(buffer);
        if records.is_empty() {
            sink.process.wait().await;
            sink.process.live().await;
            return Ok(());
        }
        sink.call("flush", name, |transactions| put(sink, (name, *run), transactions, records, Stage::Open))
            .await
    }

    fn name(&self) -> Option<String> {
        Some(self.name.clone())
    }

    fn pre_commit(self) -> Result<BoxFuture<Result<Option<String>>>> {
        self.sink.process.code(format_args!("pre-commit {}", self.name))?;
        Ok(Box::pin(async move {
            let Self { name, run, buffer, sink } = self;
            let prepared = Stage::Prepared(sink.process.world().log_entries());
            sink.call("prepare", &name, |transactions| {
                put(&sink, (&name, run), transactions, buffer, prepared)
            })
            .await?;
            Ok(Some(name))
        }))
    }
}

/// Adds to a transaction.
fn put(
    sink: &ToBroker,
    (name, run): (&str, Run),
    transactions: &mut BTreeMap<String, Transaction>,
    records: Vec<Written>,
    stage: Stage,
) {
    let process = sink.process.id;
    let transaction = transactions.entry(name.to_owned()).or_insert_with(|| Transaction {
        process,
        run,
        records: Vec::new(),
        stage: Stage::Open,
    });
    match transaction.stage {
        Stage::Open => {
            transaction.records.extend(records);
            transaction.stage = stage;
        }
        // Thrown away by whoever came after this process.
        Stage::Aborted => {}
        found => sink.violated(format!("writes to {name}, which is {found:?}")),
    }
}
