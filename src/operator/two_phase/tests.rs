use super::*;
use crate::operator::Sink;
use crate::types::{Attempt, CheckpointId, Clock, Generation, SubtaskIndex};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// A store that keeps what was done to each transaction, by the moment it was begun.
#[derive(Debug, Clone, Default)]
struct Store {
    did: Arc<Mutex<Vec<String>>>,
    prepared: Arc<Mutex<BTreeMap<String, Vec<u32>>>>,
    /// Which cannot be committed.
    bad: Vec<String>,
    timeout: Option<TransactionTimeout>,
}

impl Store {
    fn note(&self, what: &str, name: &str) {
        self.did.lock().unwrap().push(format!("{what} {name}"));
    }

    fn took(&self) -> Vec<String> {
        std::mem::take(&mut *self.did.lock().unwrap())
    }

    fn writer(&self) -> TransactionWriter<u32, Self> {
        TransactionWriter::new(self, &context()).unwrap()
    }
}

fn context() -> SubtaskContext {
    SubtaskContext {
        job: "job".into(),
        operator: "sink".into(),
        subtask: SubtaskIndex(3),
        parallelism: 4,
        generation: Generation(7),
        attempt: Attempt(2),
        clock: Clock::start(),
    }
}

fn recovery(now: i64) -> RecoveryContext {
    RecoveryContext {
        operator: "sink".into(),
        generation: Generation(7),
        attempt: Attempt(2),
        restored: Some(CheckpointId(1)),
        now: Timestamp(now),
        checkpointing: true,
    }
}

struct Writing {
    name: String,
    numbers: Vec<u32>,
    store: Store,
}

impl TwoPhaseCommit<u32> for Store {
    type Transaction = String;
    type Open = Writing;

    fn begin(&self, context: &TransactionContext) -> Result<Writing> {
        let name = context.sequence.to_string();
        self.note("begin", &name);
        Ok(Writing { name, numbers: Vec::new(), store: self.clone() })
    }

    async fn commit(&self, name: String) -> Result {
        self.note("commit", &name);
        if self.bad.contains(&name) { Err(format!("{name} is gone").into()) } else { Ok(()) }
    }

    async fn abort(&self, name: String) -> Result {
        self.note("abort", &name);
        Ok(())
    }

    async fn begin_recovery(&self, _: &RecoveryContext) -> Result {
        self.note("begin", "recovery");
        Ok(())
    }

    async fn end_recovery(&self, _: &RecoveryContext) -> Result {
        self.note("end", "recovery");
        Ok(())
    }

    async fn sync(&self) -> Result {
        self.note("sync", "");
        Ok(())
    }

    fn timeout(&self) -> Option<TransactionTimeout> {
        self.timeout
    }

    fn began(&self, name: &String) -> Option<Timestamp> {
        name.parse().ok().map(Timestamp)
    }
}

impl OpenTransaction<u32> for Writing {
    type Transaction = String;

    fn write(&mut self, number: u32) -> Result {
        if number == 13 {
            return Err("unlucky".into());
        }
        self.numbers.push(number);
        Ok(())
    }

    async fn flush(&mut self) -> Result {
        if self.numbers.contains(&99) { Err("no room".into()) } else { Ok(()) }
    }

    fn name(&self) -> Option<String> {
        Some(self.name.clone())
    }

    fn pre_commit(self) -> Result<BoxFuture<Result<Option<String>>>> {
        let Self { name, numbers, store } = self;
        store.note("pre-commit", &name);
        Ok(Box::pin(async move {
            store.prepared.lock().unwrap().insert(name.clone(), numbers);
            Ok(Some(name))
        }))
    }
}

fn names<const N: usize>(names: [&str; N]) -> Vec<String> {
    names.map(str::to_owned).into()
}

fn at(checkpoint: u64, is_last: bool) -> Preparation {
    Preparation { checkpoint: CheckpointId(checkpoint), is_last }
}

#[tokio::test]
async fn s10_1_recovery_commits_in_order_then_aborts_what_was_open_then_ends() {
    let store = Store::default();
    let sink = TwoPhase::new(store.clone());
    Sink::<u32>::recover(&sink, names(["5", "6"]), &recovery(0)).await.unwrap();
    Sink::<u32>::abort(&sink, names(["7"]), &recovery(0)).await.unwrap();
    assert_eq!(store.took(), ["begin recovery", "commit 5", "commit 6", "sync ", "abort 7", "end recovery"]);
    let store = Store { bad: names(["5"]), ..Store::default() };
    let sink = TwoPhase::new(store.clone());
    assert!(Sink::<u32>::recover(&sink, names(["5", "6"]), &recovery(0)).await.is_err());
    assert_eq!(store.took(), ["begin recovery", "commit 5"], "the first that fails ends it");
}

#[tokio::test]
async fn s10_2_a_barrier_pre_commits_and_begins_the_next_whose_name_is_stored_too() {
    let store = Store::default();
    let mut writer = store.writer();
    assert_eq!((store.took(), writer.open()), (names(["begin 0"]), names(["0"])));
    writer.write_all(&mut [1, 2].into_iter()).unwrap();
    let prepared = writer.prepare_for(at(1, false)).unwrap();
    assert_eq!((store.took(), writer.open()), (names(["pre-commit 0", "begin 1"]), names(["1"])));
    assert_eq!(prepared.await.unwrap(), ["0"]);
    let nothing = writer.prepare_for(at(2, false)).unwrap().await.unwrap();
    assert_eq!(
        (nothing, store.took(), writer.open()),
        (vec![], vec![], names(["1"])),
        "one without records goes on"
    );
    writer.write(3).unwrap();
    assert_eq!(writer.prepare_for(at(3, false)).unwrap().await.unwrap(), ["1"]);
    assert_eq!(
        *store.prepared.lock().unwrap(),
        BTreeMap::from([("0".into(), vec![1, 2]), ("1".into(), vec![3])])
    );
}

#[tokio::test]
async fn s10_3_all_commits_are_tried_and_the_first_error_counts() {
    let store = Store { bad: names(["1", "3"]), ..Store::default() };
    let sink = TwoPhase::new(store.clone());
    let error = Sink::<u32>::commit(&sink, names(["1", "2", "3"])).await.unwrap_err();
    assert_eq!(error.to_string(), "1 is gone");
    assert_eq!(store.took(), ["commit 1", "commit 2", "commit 3", "sync "]);
}

#[tokio::test]
async fn s10_5_without_anything_to_commit_nothing_is_done() {
    let store = Store::default();
    Sink::<u32>::commit(&TwoPhase::new(store.clone()), Vec::new()).await.unwrap();
    assert_eq!(store.took(), Vec::<String>::new());
}

#[tokio::test]
async fn s10_6_closing_aborts_the_open_one_and_leaves_what_is_pre_committed() {
    let store = Store::default();
    let mut writer = store.writer();
    writer.write(1).unwrap();
    let prepared = writer.prepare_for(at(1, false)).unwrap().await.unwrap();
    writer.write(2).unwrap();
    store.took();
    Sink::<u32>::discard(&TwoPhase::new(store.clone()), writer.open()).await.unwrap();
    assert_eq!((store.took(), prepared), (names(["abort 1"]), names(["0"])));
}

#[tokio::test]
async fn s10_7_only_what_is_older_than_the_timeout_may_be_lost_and_only_if_asked_for() {
    let minute = Duration::from_secs(60);
    for (ignore_failures, now, is_lost) in
        [(true, 161_001, true), (true, 161_000, false), (false, 999_999, false)]
    {
        let timeout = Some(TransactionTimeout { after: minute, ignore_failures });
        let store = Store { bad: names(["101000"]), timeout, ..Store::default() };
        let sink = TwoPhase::new(store.clone());
        let recovered = Sink::<u32>::recover(&sink, names(["101000", "101001"]), &recovery(now)).await;
        assert_eq!(recovered.is_ok(), is_lost, "at {now}");
        assert_eq!(store.took().contains(&"commit 101001".to_owned()), is_lost);
    }
    // Without a time nothing is known of its age.
    let timeout = Some(TransactionTimeout { after: minute, ignore_failures: true });
    let sink = TwoPhase::new(Store { bad: names(["x"]), timeout, ..Store::default() });
    assert!(Sink::<u32>::recover(&sink, names(["x"]), &recovery(i64::MAX)).await.is_err());
}

#[tokio::test]
async fn s10_8_at_the_end_no_new_one_is_begun() {
    let store = Store::default();
    let mut writer = store.writer();
    writer.write(1).unwrap();
    assert_eq!(writer.prepare_for(at(1, true)).unwrap().await.unwrap(), ["0"]);
    assert_eq!((store.took(), writer.open()), (names(["begin 0", "pre-commit 0"]), vec![]));
    assert_eq!(writer.prepare_for(at(2, true)).unwrap().await.unwrap(), Vec::<String>::new());
    writer.flush().await.unwrap();
    let mut unused = store.writer();
    assert_eq!(unused.prepare_for(at(1, true)).unwrap().await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn after_a_flush_that_failed_nothing_can_be_prepared() {
    let mut writer = Store::default().writer();
    writer.write(99).unwrap();
    writer.flush().await.unwrap_err();
    for _ in 0..2 {
        assert!(writer.write(1).is_err() && writer.flush().await.is_err());
        assert!(writer.prepare().is_err() && writer.open().is_empty());
    }
}

#[test]
fn names_of_transactions_never_repeat() {
    let context = TransactionContext { subtask: context(), sequence: 5, began: Timestamp(0) };
    assert_eq!(context.name(), "job-sink-7-2-3-5");
}
