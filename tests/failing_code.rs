//! A panic or an error anywhere in the user's code: the job recovers with exact output, or ends with an error that says where and
//! why. It never hangs.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use common::{
    Fuse, Gate, NumberSplit, Numbers, NumbersReader, assert_no_threads_left, expected_counts, in_time, lead,
    quiet_panics, sorted, virtual_process,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use strandline::connectors::{CollectCommit, CollectWriter};
use strandline::prelude::*;
use strandline::storage::{Fault, FaultyDisk, Injection, MemoryDisk, OnDisk, Operation};
use strandline::types::CheckpointId;
use strandline::{BoxFuture, RecoveryContext, SinkWriter, SourceReader, SubtaskContext};

const SPLITS: u32 = 2;
const LEN: u64 = 40;
const KEYS: u64 = 4;
const STOPS: [u64; 2] = [10, 20];

#[derive(Debug, Clone, Copy, PartialEq)]
enum How {
    Error,
    Panic,
}
use How::{Error as Fails, Panic as Panics};

/// Goes wrong at one place, once.
#[derive(Debug, Clone)]
struct Inject {
    place: &'static str,
    how: How,
    fuse: Fuse,
    /// Another panic, in a map, so that there is a restore.
    restart: Option<Fuse>,
}

impl Inject {
    fn at(&self, place: &str) -> Result {
        if place == "map" && self.restart.as_ref().is_some_and(Fuse::goes_off) {
            panic!("injected to restart");
        }
        if place == self.place && self.fuse.goes_off() {
            match self.how {
                Fails => return Err(format!("injected at {place}").into()),
                Panics => panic!("injected at {place}"),
            }
        }
        Ok(())
    }

    /// Where no error can be returned.
    fn pass(&self, place: &str) {
        self.at(place).expect("only panics are injected here");
    }
}

/// Every place, how it can go wrong, which operators may be blamed, and whether one subtask can be.
const PLACES: &[(&str, &[How], &[&str], bool)] = &[
    ("map", &[Panics], &["numbers"], true),
    ("try_map", &[Fails, Panics], &["numbers"], true),
    ("filter", &[Panics], &["numbers"], true),
    ("flat_map", &[Panics], &["numbers"], true),
    ("flat_map iterator", &[Panics], &["numbers"], true),
    ("inspect", &[Panics], &["numbers"], true),
    ("unkeyed handler", &[Fails, Panics], &["tag"], true),
    ("key, sending", &[Panics], &["numbers", "tag"], true),
    ("key, receiving", &[Panics], &["count"], true),
    ("factory", &[Fails, Panics], &["count"], true),
    ("open", &[Fails, Panics], &["count"], true),
    ("keyed handler", &[Fails, Panics], &["count"], true),
    ("finish", &[Fails, Panics], &["count"], true),
    ("on_complete", &[Fails, Panics], &["count"], true),
    ("reduce", &[Panics], &["sum"], true),
    ("map_with_state", &[Panics], &["last"], true),
    ("serialize", &[Fails, Panics], &["count"], true),
    ("source splits", &[Fails, Panics], &["numbers"], false),
    ("source assign", &[Panics], &["numbers"], false),
    ("source reader", &[Fails, Panics], &["numbers"], true),
    ("source next", &[Fails, Panics], &["numbers"], true),
    ("source ready", &[Fails, Panics], &["numbers"], true),
    ("reader splits", &[Panics], &["numbers"], true),
    ("sink recover", &[Fails, Panics], &["out"], false),
    ("sink writer", &[Fails, Panics], &["out"], true),
    ("sink write", &[Fails, Panics], &["out"], true),
    ("sink flush", &[Fails, Panics], &["out"], true),
    ("sink prepare", &[Fails, Panics], &["out"], true),
    ("sink prepare future", &[Fails, Panics], &["out"], true),
    ("sink commit", &[Fails, Panics], &["out"], true),
];

#[derive(Debug, Clone)]
struct Source0 {
    inner: Numbers,
    inject: Inject,
}

impl Source for Source0 {
    type Record = (u32, u64);
    type Split = NumberSplit;
    type Reader = Reader0;

    async fn splits(&self, restored: Option<Vec<NumberSplit>>) -> Result<Vec<NumberSplit>> {
        self.inject.at("source splits")?;
        self.inner.splits(restored).await
    }

    fn assign(&self, splits: Vec<NumberSplit>, parallelism: u32) -> Vec<Vec<NumberSplit>> {
        self.inject.pass("source assign");
        self.inner.assign(splits, parallelism)
    }

    fn reader(&self, splits: Vec<NumberSplit>, context: &SubtaskContext) -> Result<Reader0> {
        self.inject.at("source reader")?;
        Ok(Reader0 { inner: self.inner.reader(splits, context)?, inject: self.inject.clone() })
    }
}

struct Reader0 {
    inner: NumbersReader,
    inject: Inject,
}

impl SourceReader for Reader0 {
    type Record = (u32, u64);
    type Split = NumberSplit;

    fn next(&mut self) -> Result<Option<(u32, u64)>> {
        self.inject.at("source next")?;
        self.inner.next()
    }

    async fn ready(&mut self) -> Result<bool> {
        self.inject.at("source ready")?;
        self.inner.ready().await
    }

    fn splits(&self) -> Vec<NumberSplit> {
        self.inject.pass("reader splits");
        self.inner.splits()
    }
}

type Record = (u64, u64);

#[derive(Debug, Clone)]
struct Sink0 {
    inner: Collect<Record>,
    inject: Inject,
}

impl Sink<Record> for Sink0 {
    type Commit = CollectCommit;
    type Writer = Writer0;

    async fn recover(&self, restored: Vec<CollectCommit>, context: &RecoveryContext) -> Result {
        self.inject.at("sink recover")?;
        self.inner.recover(restored, context).await
    }

    fn writer(&self, context: &SubtaskContext) -> Result<Writer0> {
        self.inject.at("sink writer")?;
        Ok(Writer0 { inner: self.inner.writer(context)?, inject: self.inject.clone() })
    }

    async fn commit(&self, commits: Vec<CollectCommit>) -> Result {
        self.inject.at("sink commit")?;
        self.inner.commit(commits).await
    }
}

struct Writer0 {
    inner: CollectWriter<Record>,
    inject: Inject,
}

impl SinkWriter<Record> for Writer0 {
    type Commit = CollectCommit;

    fn write(&mut self, record: Record) -> Result {
        self.inject.at("sink write")?;
        self.inner.write(record)
    }

    async fn flush(&mut self) -> Result {
        self.inject.at("sink flush")?;
        self.inner.flush().await
    }

    fn prepare(&mut self) -> Result<BoxFuture<Result<Vec<CollectCommit>>>> {
        self.inject.at("sink prepare")?;
        let (inject, prepared) = (self.inject.clone(), self.inner.prepare()?);
        Ok(Box::pin(async move {
            inject.at("sink prepare future")?;
            prepared.await
        }))
    }
}

/// Where the state type, which cannot be given anything, looks. The tests run one job at a time.
static TOUCHY: Mutex<Option<Inject>> = Mutex::new(None);

fn touch(place: &str) -> Result {
    let inject = TOUCHY.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    inject.map_or(Ok(()), |inject| inject.at(place))
}

/// A number whose encoding can go wrong.
#[derive(Debug, Clone, Copy)]
struct Touchy(u64);

impl Serialize for Touchy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        touch("serialize").map_err(serde::ser::Error::custom)?;
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Touchy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = u64::deserialize(deserializer)?;
        // No real value is 0.
        if value > 0 {
            touch("deserialize").map_err(serde::de::Error::custom)?;
        }
        Ok(Self(value))
    }
}

struct Counter {
    seen: ValueState<Touchy>,
    inject: Inject,
}

impl Operator for Counter {
    type Key = u64;
    type Out = Record;

    fn open(&mut self, _: &mut OperatorContext<'_, Self>) -> Result {
        self.inject.at("open")
    }
    fn finish(&mut self, _: &mut OperatorContext<'_, Self>) -> Result {
        self.inject.at("finish")
    }
    fn on_complete(&mut self, _: CheckpointId) -> Result {
        self.inject.at("on_complete")
    }
    fn close(&mut self) -> Result {
        self.inject.at("close")
    }
}

impl Handler<(u32, u64)> for Counter {
    fn handle(&mut self, _: (u32, u64), ctx: &mut Context<'_, Self>) -> Result {
        self.inject.at("keyed handler")?;
        let n = self.seen.get(ctx).map_or(0, |n| n.0) + 1;
        self.seen.set(ctx, Touchy(n));
        ctx.emit((*ctx.key(), n));
        Ok(())
    }
}

struct Tag(Inject);

impl Operator for Tag {
    type Key = Unkeyed;
    type Out = (u32, u64);
}

impl Handler<(u32, u64)> for Tag {
    fn handle(&mut self, record: (u32, u64), ctx: &mut Context<'_, Self>) -> Result {
        self.0.at("unkeyed handler")?;
        ctx.emit(record);
        Ok(())
    }
}

/// Which side of the exchange calls a key selector: the receiving one is in a batch of its operator's.
fn describe(env: &Environment, inject: &Inject, gate: &Gate) -> Collect<Record> {
    let inner = Numbers { splits: SPLITS, len: LEN, gate: gate.clone() };
    let out = Collect::new();
    let i = || inject.clone();
    let (a, b, c, d, e, f, g, h, k, l, m) = (i(), i(), i(), i(), i(), i(), i(), i(), i(), i(), i());
    let calls = std::sync::Arc::new(Mutex::new(std::collections::HashSet::new()));
    env.source("numbers", Source0 { inner, inject: i() })
        .map(move |record: (u32, u64)| {
            a.pass("map");
            record
        })
        .try_map(move |record| b.at("try_map").map(|()| record))
        .filter(move |_| {
            c.pass("filter");
            true
        })
        .flat_map(move |record| {
            d.pass("flat_map");
            let d = d.clone();
            std::iter::once(record).inspect(move |_| d.pass("flat_map iterator"))
        })
        .inspect(move |_| e.pass("inspect"))
        .process("tag", move |_| Ok(Tag(f.clone())))
        .key_by(move |record: &(u32, u64)| {
            // The first call for a record is the sender's, the second the receiver's; a restart begins with the sender again.
            let mut calls = calls.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let sending = calls.insert(*record);
            if !sending {
                calls.remove(record);
            }
            drop(calls);
            g.pass(if sending { "key, sending" } else { "key, receiving" });
            record.1 % KEYS
        })
        .process("count", move |setup| {
            h.at("factory")?;
            Ok(Counter { seen: setup.value_state("seen")?, inject: h.clone() })
        })
        .key_by(|(key, _)| *key)
        .map_with_state("last", move |record: Record, last: Option<u64>| {
            k.pass("map_with_state");
            assert_eq!(record.1, last.unwrap_or(0) + 1, "records of a key come once and in order");
            (record, Some(record.1))
        })
        .key_by(|(key, _)| *key)
        .reduce("sum", move |last, record| {
            l.pass("reduce");
            *last = record;
        })
        .sink("out", Sink0 { inner: out.clone(), inject: m });
    out
}

fn environment(restart: RestartStrategy) -> Environment {
    Environment::builder().parallelism(2).storage(Memory::new()).restart(restart).seed(3).build().unwrap()
}

/// Every place, way, and one early and one later moment.
fn scenarios() -> Vec<(Inject, &'static [&'static str], bool)> {
    let mut all = Vec::new();
    for (place, ways, blamed, subtask) in PLACES {
        for how in *ways {
            for after in [0, 30] {
                let inject = Inject { place, how: *how, fuse: Fuse::after(after), restart: None };
                all.push((inject, *blamed, *subtask));
            }
        }
    }
    all
}

#[test]
fn whatever_fails_the_job_recovers_with_exact_output() {
    quiet_panics();
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut went_off = std::collections::BTreeSet::new();
    for (inject, ..) in scenarios() {
        let what = format!("{inject:?}");
        *TOUCHY.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(inject.clone());
        let (end, records) = virtual_process(in_time(&what, async {
            let gate = Gate::closed();
            let env = environment(RestartStrategy::fixed_delay(2, Duration::from_secs(1)));
            let out = describe(&env, &inject, &gate);
            let job = env.start_local("recovers").await.unwrap();
            (lead(&job, &gate, SPLITS, &STOPS).await, out.records())
        }));
        assert_eq!(end.unwrap_or_else(|error| panic!("{what}: {error}")), JobStatus::Finished, "{what}");
        assert_eq!(sorted(records), expected_counts(SPLITS, LEN, KEYS), "{what}");
        if inject.fuse.went_off() {
            went_off.insert((inject.place, inject.how == Panics));
        }
    }
    let all = PLACES.iter().flat_map(|(place, ways, ..)| ways.iter().map(|how| (*place, *how == Panics)));
    assert_eq!(went_off, all.collect(), "every injection was met");
}

#[test]
fn without_restarts_the_error_says_where_and_why() {
    quiet_panics();
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut wrong = Vec::new();
    for (inject, blamed, subtask) in scenarios() {
        let what = format!("{inject:?}");
        *TOUCHY.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(inject.clone());
        let end = virtual_process(in_time(&what, async {
            let gate = Gate::closed();
            let env = environment(RestartStrategy::none());
            describe(&env, &inject, &gate);
            let job = env.start_local("fails").await.unwrap();
            lead(&job, &gate, SPLITS, &STOPS).await
        }));
        if !inject.fuse.went_off() {
            continue; // there are not so many calls
        }
        let error = end.expect_err(&what);
        let text = error.to_string();
        // The message of an error in `Serialize` is lost in the encoding library; the state is named instead.
        let cause = match (inject.place, inject.how) {
            ("serialize", Fails) => "state `seen` cannot be stored".to_owned(),
            (place, _) => format!("injected at {place}"),
        };
        let says = text.contains(&cause)
            && blamed.iter().any(|uid| text.contains(&format!("operator `{uid}`")))
            && error.subtask_index().is_some() == subtask
            && error.kind() == ErrorKind::Failed;
        if !says {
            wrong.push(format!("{} {:?}: {text}", inject.place, inject.how));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn on_threads_it_is_the_same_and_no_thread_is_left() {
    quiet_panics();
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    for (inject, ..) in scenarios().into_iter().skip(1).step_by(2) {
        let what = format!("{inject:?} on threads");
        *TOUCHY.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(inject.clone());
        runtime.block_on(in_time(&what, async {
            let gate = Gate::closed();
            let env = environment(RestartStrategy::fixed_delay(2, Duration::ZERO));
            let out = describe(&env, &inject, &gate);
            let job = env.start("on-threads").await.unwrap();
            assert_eq!(lead(&job, &gate, SPLITS, &STOPS).await.unwrap(), JobStatus::Finished, "{what}");
            assert_eq!(sorted(out.records()), expected_counts(SPLITS, LEN, KEYS), "{what}");
        }));
    }
    assert_no_threads_left();
}

#[test]
fn an_operator_that_fails_to_close_is_only_logged() {
    quiet_panics();
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    *TOUCHY.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = None;
    for how in [Fails, Panics] {
        let inject = Inject { place: "close", how, fuse: Fuse::after(0), restart: None };
        virtual_process(in_time("close", async {
            let env = environment(RestartStrategy::none());
            let out = describe(&env, &inject, &Gate::open());
            let job = env.start_local("closes").await.unwrap();
            assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
            assert_eq!(sorted(out.records()), expected_counts(SPLITS, LEN, KEYS));
        }));
        assert!(inject.fuse.went_off());
    }
}

/// Fails once, when asked to; keeps much until then.
struct Heavy {
    kept: ValueState<String>,
    fuse: Fuse,
}

impl Operator for Heavy {
    type Key = u64;
    type Out = u64;
}

impl Handler<(u32, u64)> for Heavy {
    fn handle(&mut self, (_, number): (u32, u64), ctx: &mut Context<'_, Self>) -> Result {
        if number >= HEAVY && self.fuse.goes_off() {
            return Err("injected".into());
        }
        self.kept.set(ctx, "x".repeat(1000));
        ctx.emit(number);
        Ok(())
    }
}

const HEAVY: u64 = 12_000;

/// What is being written of a subtask's state fails with the subtask. That is no reason to think that checkpoints cannot be stored. On
/// threads, for who comes first is for them to say.
#[test]
fn a_failure_amid_a_snapshot_is_only_a_failure() {
    quiet_panics();
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    for round in 0..40 {
        runtime.block_on(in_time("amid", fail_amid_a_snapshot(round)));
    }
    assert_no_threads_left();
}

async fn fail_amid_a_snapshot(round: u64) {
    let hour = Duration::from_secs(3600);
    let slow = Injection::of(Fault::Slow(Duration::from_millis(1))).on([Operation::Write]);
    let disk = FaultyDisk::new(Arc::new(MemoryDisk::new())).failing(slow);
    let env = Environment::builder()
        .checkpointing(Checkpointing::every(1000 * hour).timeout(1000 * hour).tolerable_failures(0))
        .storage(OnDisk::new(Arc::new(disk), "jobs"))
        .restart(RestartStrategy::fixed_delay(1, Duration::ZERO))
        .build()
        .unwrap();
    let (numbers, gate) = Numbers::gated(1, HEAVY + 10);
    let (fuse, out) = (Fuse::after(round % 8), Collect::new());
    let injected = fuse.clone();
    env.source("numbers", numbers)
        .key_by(|(_, number)| *number)
        .process("heavy", move |setup| Ok(Heavy { kept: setup.value_state("kept")?, fuse: injected.clone() }))
        .sink("out", out.clone());
    let job = env.start("amid").await.unwrap();
    gate.open_to(HEAVY);
    gate.reached(1, HEAVY).await;
    let (checkpoint, ()) = futures::join!(job.checkpoint(), async {
        tokio::task::yield_now().await;
        gate.open_to(HEAVY + 10);
    });
    assert_eq!(job.wait().await.unwrap(), JobStatus::Finished, "{checkpoint:?}");
    assert!(fuse.went_off());
    assert_eq!(sorted(out.records()), (0..HEAVY + 10).collect::<Vec<_>>());
}

/// What cannot be decoded now may be decoded by a corrected program: the checkpoint stays, and a later start goes on from it.
#[test]
fn a_state_that_fails_to_decode_is_an_error_that_names_it_and_loses_nothing() {
    quiet_panics();
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for how in [Fails, Panics] {
        let inject =
            Inject { place: "deserialize", how, fuse: Fuse::after(0), restart: Some(Fuse::after(60)) };
        *TOUCHY.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(inject.clone());
        let storage = Memory::new();
        let life = |restarts| {
            let (storage, inject) = (storage.clone(), inject.clone());
            virtual_process(in_time("decode", async move {
                let gate = Gate::closed();
                let env = Environment::builder()
                    .parallelism(2)
                    .storage(storage)
                    .restart(RestartStrategy::fixed_delay(restarts, Duration::ZERO))
                    .build()
                    .unwrap();
                let out = describe(&env, &inject, &gate);
                let job = env.start_local("decodes").await.unwrap();
                (lead(&job, &gate, SPLITS, &STOPS).await, job.resumed_from(), out.records())
            }))
        };
        let (end, _, first) = life(1);
        let error = end.unwrap_err();
        let text = error.to_string();
        // The message of an error in `Deserialize` is lost in the encoding library; the state is named instead.
        let cause = if how == Panics { "injected at deserialize" } else { "state `seen` cannot be restored" };
        assert!(text.contains(cause) && text.contains("operator `count`"), "{text}");
        let (end, from, second) = life(0);
        assert_eq!((end.unwrap(), from), (JobStatus::Finished, Some(CheckpointId(2))));
        let all = first.into_iter().chain(second).collect();
        assert_eq!(sorted(all), expected_counts(SPLITS, LEN, KEYS), "{how:?}");
    }
}

/// The state type looks at one injection for the whole process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
