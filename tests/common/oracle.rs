//! One dataflow under every trouble: whatever happens to it, it must write exactly what it writes when nothing happens.
//!
//! Everything runs on one thread and on virtual time. A *life* is one process: it goes on from the last checkpoint of the one before it,
//! perhaps at another parallelism. A *bomb* is a panic at the n-th record that passes any of the places where the dataflow has one.

use super::{Gate, Numbers, in_flight_in, quiet_panics, sorted, virtual_process};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use strandline::connectors::{CollectCommit, CollectWriter};
use strandline::prelude::*;
use strandline::storage::{MemoryDisk, OnDisk, SharedDisk};
use strandline::{JobHandle, SubtaskContext};

/// The stops that each source is led to, with a checkpoint at each: its length is cut into so many parts.
pub const PARTS: u64 = 5;

/// What each sink has, sorted.
pub type Written = BTreeMap<String, Vec<String>>;

/// Where a dataflow is described.
pub struct Job<'a> {
    pub env: &'a Environment,
    /// Which life this is, from 0: for what is to change from one to the next.
    pub life: usize,
    shared: &'a Shared,
    gates: RefCell<Vec<Led>>,
}

#[derive(Clone)]
struct Led {
    gate: Gate,
    splits: u32,
    len: u64,
}

/// What outlives a process.
#[derive(Default)]
struct Shared {
    disk: Arc<MemoryDisk>,
    sinks: RefCell<BTreeMap<String, Collect<String>>>,
    passed: Arc<AtomicU64>,
    bombs: Arc<Vec<u64>>,
    under_way: Arc<UnderWay>,
}

/// Records between two places.
#[derive(Default)]
struct UnderWay {
    now: AtomicU64,
    most: AtomicU64,
}

/// What became of a run.
pub struct Outcome {
    pub written: Written,
    /// How many records were in flight in the checkpoints that lives began with.
    pub in_flight: u64,
    /// How many records passed places with bombs.
    pub passed: u64,
    /// The most records that ever were between [`Job::enters`] and a [slow sink](Job::slow_sink).
    pub most_under_way: u64,
}

impl Job<'_> {
    /// In each of so many splits the numbers `0..len`.
    pub fn numbers(&self, uid: &str, splits: u32, len: u64) -> Stream<u64, impl Pipe<Out = u64> + use<>> {
        let (numbers, gate) = Numbers::gated(splits, len);
        self.gates.borrow_mut().push(Led { gate, splits, len });
        let bomb = self.bomb();
        self.env.source(uid, numbers).map(move |(_, number)| bomb(number))
    }

    /// Passes a record on, unless a bomb goes off.
    pub fn bomb<T>(&self) -> impl Fn(T) -> T + Clone + Send + use<T> {
        let (passed, bombs) = (Arc::clone(&self.shared.passed), Arc::clone(&self.shared.bombs));
        move |record| {
            let n = passed.fetch_add(1, Ordering::SeqCst);
            assert!(!bombs.contains(&n), "injected at record {n}");
            record
        }
    }

    fn collect(&self, uid: &str) -> Collect<String> {
        self.shared.sinks.borrow_mut().entry(uid.to_owned()).or_default().clone()
    }

    /// Ends a stream where what it wrote is compared.
    pub fn sink<T: Debug + 'static, P: Pipe<Out = T>>(&self, stream: Stream<T, P>, uid: &str) {
        stream.map(|record| format!("{record:?}")).sink(&format!("sink {uid}"), self.collect(uid));
    }

    /// Counts a record that is on its way to a slow sink.
    pub fn enters<T>(&self) -> impl Fn(T) -> T + Clone + Send + use<T> {
        let under_way = Arc::clone(&self.shared.under_way);
        move |record| {
            let now = under_way.now.fetch_add(1, Ordering::SeqCst) + 1;
            under_way.most.fetch_max(now, Ordering::SeqCst);
            record
        }
    }

    /// The same as [`sink`](Self::sink), where a record takes a millisecond and all else takes none.
    pub fn slow_sink<T: Debug + 'static, P: Pipe<Out = T>>(&self, stream: Stream<T, P>, uid: &str) {
        let slow = SlowCollect { inner: self.collect(uid), under_way: Arc::clone(&self.shared.under_way) };
        stream.map(|record| format!("{record:?}")).sink(&format!("sink {uid}"), slow);
    }

    async fn lead(&self, job: &JobHandle, part: u64) {
        let gates = self.gates.borrow().clone();
        for led in &gates {
            led.gate.open_to(led.len * part / PARTS);
        }
        for led in &gates {
            led.gate.reached(led.splits, led.len * part / PARTS).await;
        }
        // Fails with a restart.
        let _ = job.checkpoint().await;
    }
}

/// A job, and what troubles it.
pub struct Oracle<'a> {
    name: &'a str,
    describe: &'a dyn Fn(&Job<'_>),
    rushes: bool,
    checkpointing: Option<Checkpointing>,
}

impl<'a> Oracle<'a> {
    pub fn new(name: &'a str, describe: &'a dyn Fn(&Job<'_>)) -> Self {
        quiet_panics();
        Self { name, describe, rushes: false, checkpointing: None }
    }

    /// Sources do not wait at stops: they give all they have, as fast as it is taken, and checkpoints are taken amid that.
    pub fn rushing(mut self) -> Self {
        self.rushes = true;
        self
    }

    /// How checkpoints are taken.
    pub fn checkpointing(mut self, checkpointing: &Checkpointing) -> Self {
        self.checkpointing = Some(checkpointing.clone());
        self
    }

    /// Runs it. Each life but the last ends at a stop, and with a cancel; the parallelism of each is given.
    pub fn run(&self, lives: &[(u64, u32)], last: u32, bombs: &[u64]) -> Outcome {
        let shared = Shared { bombs: Arc::new(bombs.to_vec()), ..Shared::default() };
        let mut from = 1;
        let ends = lives.iter().map(|(stop, parallelism)| (Some(*stop), *parallelism));
        let mut in_flight = 0;
        for (life, (stop, parallelism)) in ends.chain([(None, last)]).enumerate() {
            in_flight += virtual_process(in_flight_in(&*shared.disk));
            virtual_process(self.live(&shared, life, parallelism, from, stop));
            from = stop.unwrap_or(PARTS) + 1;
        }
        let written = shared.sinks.into_inner().into_iter().map(|(uid, sink)| (uid, sorted(sink.take())));
        Outcome {
            written: written.collect(),
            in_flight,
            passed: shared.passed.load(Ordering::SeqCst),
            most_under_way: shared.under_way.most.load(Ordering::SeqCst),
        }
    }

    async fn live(&self, shared: &Shared, life: usize, parallelism: u32, from: u64, stop: Option<u64>) {
        let what = format!("{}, life {life} at {parallelism}, bombs {:?}", self.name, shared.bombs);
        let mut env = Environment::builder()
            .parallelism(parallelism)
            .max_parallelism(16)
            .storage(OnDisk::new(Arc::clone(&shared.disk) as SharedDisk, "checkpoints"))
            .restart(RestartStrategy::fixed_delay(10, Duration::from_secs(1)));
        if let Some(checkpointing) = &self.checkpointing {
            env = env.checkpointing(checkpointing.clone());
        }
        let env = env.build().unwrap();
        let job = Job { env: &env, life, shared, gates: RefCell::default() };
        (self.describe)(&job);
        let whole = async {
            let handle = env.start_local(self.name).await.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(handle.resumed_from().is_some(), life > 0, "{what}");
            if self.rushes {
                job.gates.borrow().iter().for_each(|led| led.gate.open_to(u64::MAX));
                let _ = handle.checkpoint().await;
            } else {
                for part in from..=stop.unwrap_or(PARTS - 1) {
                    job.lead(&handle, part).await;
                }
            }
            if stop.is_some() {
                while handle.checkpoint().await.is_err() {
                    assert!(!handle.status().borrow().is_terminal(), "{what}: ended before its stop");
                }
                assert_eq!(handle.cancel().await.unwrap(), JobStatus::Cancelled, "{what}");
            } else {
                job.gates.borrow().iter().for_each(|led| led.gate.open_to(u64::MAX));
                let end = handle.wait().await.unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_eq!(end, JobStatus::Finished, "{what}");
            }
        };
        // Far more than anything takes. The clock jumps there at once when nothing can happen any more.
        tokio::time::timeout(Duration::from_secs(1_000_000), whole)
            .await
            .unwrap_or_else(|_| panic!("hangs: {what}"));
    }

    /// That it writes `expected` in these lives and with these bombs.
    pub fn check(&self, expected: &Written, lives: &[(u64, u32)], last: u32, bombs: &[u64]) -> Outcome {
        let outcome = self.run(lives, last, bombs);
        let Outcome { written, passed, .. } = &outcome;
        let what = format!("{}: lives {lives:?}, then {last}, bombs {bombs:?}", self.name);
        for bomb in bombs {
            assert!(passed > bomb, "{what}: only {passed} records passed");
        }
        for (uid, expected) in expected {
            let found = &written[uid];
            let odd = found.iter().zip(expected).find(|(found, expected)| found != expected);
            assert!(
                found == expected,
                "{what}: sink `{uid}` has {} records for {}; the first that differs: {odd:?}",
                found.len(),
                expected.len()
            );
        }
        outcome
    }

    /// That it writes `expected` at any parallelism, with panics anywhere, with changes of parallelism, and with both.
    pub fn survives(&self, expected: &Written) {
        assert!(expected.values().any(|written| !written.is_empty()), "{}: nothing is written", self.name);
        for parallelism in 1..=3 {
            self.check(expected, &[], parallelism, &[]);
        }
        let all = self.run(&[], 2, &[]).passed;
        for nth in 0..8 {
            self.check(expected, &[], 1 + nth as u32 % 3, &[all * nth / 8]);
        }
        self.check(expected, &[], 2, &[all / 3, all * 2 / 3, all]);
        for order in [[1, 2, 3], [3, 2, 1], [2, 2, 1], [4, 1, 2]] {
            self.check(expected, &[(1, order[0]), (3, order[1])], order[2], &[]);
            self.check(expected, &[(2, order[0]), (4, order[1])], order[2], &[all / 5, all / 2, all * 7 / 8]);
        }
    }
}

/// A [`Collect`] that takes a millisecond for each record.
#[derive(Clone)]
struct SlowCollect {
    inner: Collect<String>,
    under_way: Arc<UnderWay>,
}

struct SlowWriter {
    inner: CollectWriter<String>,
    held: u64,
    under_way: Arc<UnderWay>,
}

impl Sink<String> for SlowCollect {
    type Commit = CollectCommit;
    type Writer = SlowWriter;

    fn recover(
        &self,
        restored: Vec<CollectCommit>,
        context: &RecoveryContext,
    ) -> impl Future<Output = Result> + Send {
        self.inner.recover(restored, context)
    }

    fn writer(&self, context: &SubtaskContext) -> Result<SlowWriter> {
        let under_way = Arc::clone(&self.under_way);
        Ok(SlowWriter { inner: self.inner.writer(context)?, held: 0, under_way })
    }

    fn commit(&self, commits: Vec<CollectCommit>) -> impl Future<Output = Result> + Send {
        self.inner.commit(commits)
    }
}

impl SinkWriter<String> for SlowWriter {
    type Commit = CollectCommit;

    fn write(&mut self, record: String) -> Result {
        self.held += 1;
        self.under_way.now.fetch_sub(1, Ordering::SeqCst);
        self.inner.write(record)
    }

    fn is_full(&self) -> bool {
        self.held >= 50
    }

    async fn flush(&mut self) -> Result {
        tokio::time::sleep(Duration::from_millis(std::mem::take(&mut self.held))).await;
        self.inner.flush().await
    }

    fn prepare(&mut self) -> Result<strandline::BoxFuture<Result<Vec<CollectCommit>>>> {
        self.inner.prepare()
    }
}
