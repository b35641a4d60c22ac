//! A dataflow that counts how often its parts were made and read, and writes to a broker that takes nothing twice.

use super::common::{Gate, NumberSplit, Numbers, NumbersReader, expected_counts, sorted};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use strandline::prelude::*;
use strandline::types::CheckpointId;
use strandline::{
    OpenTransaction, Source, SourceReader, SubtaskContext, TransactionContext, TwoPhase, TwoPhaseCommit,
};

const KEYS: u64 = 5;

/// What has happened to a pipeline.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    built: Arc<AtomicU64>,
    opened: Arc<AtomicU64>,
    given: Arc<AtomicU64>,
}

impl Seen {
    /// How many instances of the operator were made.
    pub fn built(&self) -> u64 {
        self.built.load(Ordering::SeqCst)
    }

    /// How many readers of the source were made.
    pub fn opened(&self) -> u64 {
        self.opened.load(Ordering::SeqCst)
    }

    /// How many records the source gave.
    pub fn given(&self) -> u64 {
        self.given.load(Ordering::SeqCst)
    }
}

/// What the operator was told, of each checkpoint by so many instances.
type Told = Arc<Mutex<BTreeMap<u64, u64>>>;

/// A source, an operator with state behind an exchange, and a sink with transactions.
#[derive(Debug, Clone)]
pub struct Pipeline {
    pub name: &'static str,
    pub gate: Gate,
    pub seen: Seen,
    pub broker: Broker,
    numbers: Numbers,
    fails_at: Arc<Mutex<BTreeSet<u64>>>,
    completed: Told,
    aborted: Told,
}

impl Pipeline {
    pub fn new(name: &'static str, splits: u32, len: u64) -> Self {
        let (numbers, gate) = Numbers::gated(splits, len);
        Self {
            name,
            gate,
            numbers,
            seen: Seen::default(),
            broker: Broker::default(),
            fails_at: Arc::default(),
            completed: Arc::default(),
            aborted: Arc::default(),
        }
    }

    /// Its operator fails once at each of these numbers.
    pub fn fails_at(&self, numbers: impl IntoIterator<Item = u64>) {
        self.fails_at.lock().unwrap().extend(numbers);
    }

    pub fn describe(&self, env: &Environment) {
        let uid = |part: &str| format!("{} {part}", self.name);
        let (this, seen) = (self.clone(), self.seen.clone());
        env.source(&uid("source"), Watched { numbers: self.numbers.clone(), seen: self.seen.clone() })
            .key_by(|(_, number): &(u32, u64)| number % KEYS)
            .process(&uid("count"), move |setup| {
                seen.built.fetch_add(1, Ordering::SeqCst);
                Ok(Tally { count: setup.value_state("count")?, pipeline: this.clone() })
            })
            .sink(&uid("sink"), TwoPhase::new(self.broker.clone()));
    }

    /// The checkpoints that all instances of its operator were told are complete.
    pub fn told(&self) -> Vec<u64> {
        self.completed.lock().unwrap().keys().copied().collect()
    }

    /// The checkpoints that it was told were given up.
    pub fn aborted(&self) -> Vec<u64> {
        self.aborted.lock().unwrap().keys().copied().collect()
    }

    /// That it has written what it writes without failures.
    pub fn assert_exact(&self, what: &str) {
        let broker = self.broker.lock();
        let expected = expected_counts(self.numbers.splits, self.numbers.len, KEYS);
        assert_eq!(sorted(broker.committed.clone()), expected, "{}: {what}", self.name);
        assert!(broker.prepared.is_empty(), "{}: {what}: left {:?}", self.name, broker.prepared);
    }

    /// That each of its parts was made once per subtask, its source read once, and each of its transactions committed once.
    pub fn assert_never_rebuilt(&self, what: &str) {
        let seen = &self.seen;
        assert_eq!((seen.built(), seen.opened()), (2, 2), "{}: {what}: built again", self.name);
        assert_eq!(
            seen.given(),
            u64::from(self.numbers.splits) * self.numbers.len,
            "{}: {what}: read again",
            self.name
        );
        let broker = self.broker.lock();
        assert!(broker.commits.values().all(|commits| *commits == 1), "{}: {what}: {broker:?}", self.name);
        assert_eq!(broker.recoveries, 1, "{}: {what}: recovered again", self.name);
    }
}

/// [`Numbers`] that say how often they are read.
#[derive(Debug, Clone)]
struct Watched {
    numbers: Numbers,
    seen: Seen,
}

struct WatchedReader {
    reader: NumbersReader,
    seen: Seen,
}

impl Source for Watched {
    type Record = (u32, u64);
    type Split = NumberSplit;
    type Reader = WatchedReader;

    async fn splits(&self, restored: Option<Vec<NumberSplit>>) -> Result<Vec<NumberSplit>> {
        self.numbers.splits(restored).await
    }

    fn reader(&self, splits: Vec<NumberSplit>, context: &SubtaskContext) -> Result<WatchedReader> {
        self.seen.opened.fetch_add(1, Ordering::SeqCst);
        Ok(WatchedReader { reader: self.numbers.reader(splits, context)?, seen: self.seen.clone() })
    }
}

impl SourceReader for WatchedReader {
    type Record = (u32, u64);
    type Split = NumberSplit;

    fn next(&mut self) -> Result<Option<(u32, u64)>> {
        let next = self.reader.next()?;
        self.seen.given.fetch_add(u64::from(next.is_some()), Ordering::SeqCst);
        Ok(next)
    }

    async fn ready(&mut self) -> Result<bool> {
        self.reader.ready().await
    }

    fn splits(&self) -> Vec<NumberSplit> {
        self.reader.splits()
    }
}

/// Numbers the records of each key.
struct Tally {
    count: ValueState<u64>,
    pipeline: Pipeline,
}

impl Operator for Tally {
    type Key = u64;
    type Out = (u64, u64);

    fn on_complete(&mut self, checkpoint: CheckpointId) -> Result {
        *self.pipeline.completed.lock().unwrap().entry(checkpoint.0).or_default() += 1;
        Ok(())
    }

    fn on_aborted(&mut self, checkpoint: CheckpointId) -> Result {
        *self.pipeline.aborted.lock().unwrap().entry(checkpoint.0).or_default() += 1;
        Ok(())
    }
}

impl Handler<(u32, u64)> for Tally {
    fn handle(&mut self, (_, number): (u32, u64), ctx: &mut Context<'_, Self>) -> Result {
        if self.pipeline.fails_at.lock().unwrap().remove(&number) {
            return Err(format!("injected at {number}").into());
        }
        let n = self.count.get(ctx).unwrap_or(0) + 1;
        self.count.set(ctx, n);
        ctx.emit((*ctx.key(), n));
        Ok(())
    }
}

/// Another system with transactions. It outlives the processes of the job.
#[derive(Debug, Clone, Default)]
pub struct Broker {
    state: Arc<Mutex<BrokerState>>,
    refuses: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
pub struct BrokerState {
    prepared: BTreeMap<String, Vec<(u64, u64)>>,
    committed: Vec<(u64, u64)>,
    /// How often each transaction was committed.
    commits: BTreeMap<String, u64>,
    recoveries: u64,
}

impl Broker {
    fn lock(&self) -> std::sync::MutexGuard<'_, BrokerState> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// How many records are committed.
    pub fn committed(&self) -> usize {
        self.lock().committed.len()
    }

    /// It refuses so many commits.
    pub fn refuse(&self, commits: u64) {
        self.refuses.store(commits, Ordering::SeqCst);
    }
}

pub struct Batch {
    name: String,
    records: Vec<(u64, u64)>,
    broker: Broker,
}

impl TwoPhaseCommit<(u64, u64)> for Broker {
    type Transaction = String;
    type Open = Batch;

    fn begin(&self, context: &TransactionContext) -> Result<Batch> {
        Ok(Batch { name: context.name(), records: Vec::new(), broker: self.clone() })
    }

    fn retries(&self) -> strandline::CommitRetries {
        strandline::CommitRetries::NONE
    }

    async fn commit(&self, name: String) -> Result {
        if self.refuses.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Err("injected: refused".into());
        }
        let mut broker = self.lock();
        match broker.prepared.remove(&name) {
            Some(records) => broker.committed.extend(records),
            None if broker.commits.contains_key(&name) => {}
            None => return Err(format!("transaction {name} is gone").into()),
        }
        *broker.commits.entry(name).or_default() += 1;
        Ok(())
    }

    async fn abort(&self, name: String) -> Result {
        let mut broker = self.lock();
        assert!(!broker.commits.contains_key(&name), "{name} is committed and aborted");
        broker.prepared.remove(&name);
        Ok(())
    }

    async fn end_recovery(&self, context: &RecoveryContext) -> Result {
        // Every pipeline has a broker of its own, so all that is left here is of this one.
        let _ = context;
        let mut broker = self.lock();
        broker.recoveries += 1;
        broker.prepared.clear();
        Ok(())
    }
}

impl OpenTransaction<(u64, u64)> for Batch {
    type Transaction = String;

    fn write(&mut self, record: (u64, u64)) -> Result {
        self.records.push(record);
        Ok(())
    }

    fn name(&self) -> Option<String> {
        Some(self.name.clone())
    }

    fn pre_commit(self) -> Result<strandline::BoxFuture<Result<Option<String>>>> {
        Ok(Box::pin(async move {
            self.broker.lock().prepared.insert(self.name.clone(), self.records);
            Ok(Some(self.name))
        }))
    }
}
