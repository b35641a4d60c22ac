//! What operators are told about checkpoints, and what a finished job leaves.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use common::{
    Fuse, Gate, Numbers, in_time, quiet_panics, running, sorted, tree, virtual_process, visible_lines,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;
use std::time::Duration;
use strandline::prelude::*;
use strandline::storage::{Fault, FaultyDisk, Injection, MemoryDisk, OnDisk, Operation, SharedDisk};
use strandline::types::CheckpointId;

const SPLITS: u32 = 2;
const LEN: u64 = 30;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Told {
    Complete(u64),
    Aborted(u64),
}

/// By instance of the operator, in order.
type Log = Arc<Mutex<BTreeMap<usize, Vec<Told>>>>;

struct Listens {
    instance: usize,
    log: Log,
}

impl Listens {
    fn note(&self, told: Told) {
        self.log.lock().unwrap().entry(self.instance).or_default().push(told);
    }
}

impl Operator for Listens {
    type Key = Unkeyed;
    type Out = (u32, u64);

    fn on_complete(&mut self, checkpoint: CheckpointId) -> Result {
        self.note(Told::Complete(checkpoint.0));
        Ok(())
    }
    fn on_aborted(&mut self, checkpoint: CheckpointId) -> Result {
        self.note(Told::Aborted(checkpoint.0));
        Ok(())
    }
}

impl Handler<(u32, u64)> for Listens {
    fn handle(&mut self, record: (u32, u64), ctx: &mut Context<'_, Self>) -> Result {
        ctx.emit(record);
        Ok(())
    }
}

fn describe(disk: &SharedDisk, checkpointing: Checkpointing, log: &Log) -> (Environment, Gate) {
    let env = Environment::builder()
        .parallelism(2)
        .seed(1)
        .checkpointing(checkpointing)
        .storage(OnDisk::new(Arc::clone(disk), "checkpoints"))
        .restart(RestartStrategy::fixed_delay(3, Duration::ZERO))
        .build()
        .unwrap();
    let (numbers, gate) = Numbers::gated(SPLITS, LEN);
    let log = Arc::clone(log);
    env.source("numbers", numbers)
        .rebalance()
        .process("listens", move |_| {
            let mut instances = log.lock().unwrap();
            let instance = instances.len();
            instances.insert(instance, Vec::new());
            Ok(Listens { instance, log: Arc::clone(&log) })
        })
        .map(|(split, number)| format!("{split} {number}"))
        .sink("out", FileSink::at("out").disk(Arc::clone(disk)));
    (env, gate)
}

fn expected() -> Vec<String> {
    sorted((0..SPLITS).flat_map(|split| (0..LEN).map(move |n| format!("{split} {n}"))).collect())
}

/// Ids are strictly increasing per instance, and none is both complete and aborted.
fn check(log: &Log, what: &str) -> (usize, usize) {
    let (mut complete, mut aborted) = (0, 0);
    for told in log.lock().unwrap().values() {
        let completes: Vec<u64> = told
            .iter()
            .filter_map(|told| if let Told::Complete(id) = told { Some(*id) } else { None })
            .collect();
        assert!(completes.is_sorted_by(|a, b| a < b), "{what}: {told:?}");
        for told in told {
            if let Told::Aborted(id) = told {
                aborted += 1;
                assert!(!completes.contains(id), "{what}: {id} was completed and aborted");
            }
        }
        complete += completes.len();
    }
    (complete, aborted)
}

fn rarely() -> Checkpointing {
    Checkpointing::every(Duration::from_secs(100_000_000)).tolerable_failures(u32::MAX)
}

#[test]
fn s13_1_ids_are_strictly_increasing_and_aborts_are_told() {
    let mut told_of_aborts = 0;
    for concurrent in [1, 2] {
        for point in 1..200 {
            let what = format!("a failure at {point}, {concurrent} at a time");
            let log = Log::default();
            let inner: SharedDisk = Arc::new(MemoryDisk::new());
            let disk = FaultyDisk::new(Arc::clone(&inner)).fail_once_at(point, Fault::NoEffect);
            let disk: SharedDisk = Arc::new(disk);
            let (end, events) = virtual_process(in_time(&what, async {
                let (env, gate) = describe(&disk, rarely().max_concurrent(concurrent), &log);
                let Ok(job) = env.start_local("listening").await else { return (None, Vec::new()) };
                let mut events = job.events();
                running(&job).await;
                for stop in [10, 20] {
                    gate.open_to(stop);
                    gate.reached(SPLITS, stop).await;
                    let _ = futures::join!(job.checkpoint(), job.checkpoint());
                }
                gate.open_to(u64::MAX);
                let end = job.wait().await;
                let mut seen = Vec::new();
                while let Ok(event) = events.try_recv() {
                    seen.push(format!("{event:?}"));
                }
                (Some(end), seen)
            }));
            let (complete, aborted) = check(&log, &what);
            told_of_aborts += aborted;
            let late = events.iter().find(|event| event.contains("timed out"));
            assert_eq!(late, None, "{what}: a checkpoint was forgotten");
            if let Some(Ok(end)) = end {
                assert_eq!(end, JobStatus::Finished, "{what}");
                assert!(complete >= 2 * 2, "{what}: {log:?}");
                let lines = futures::executor::block_on(visible_lines(&*inner, Path::new("out")));
                assert_eq!(sorted(lines), expected(), "{what}");
            }
        }
    }
    assert!(told_of_aborts > 0, "no failure led to an abort");
}

#[test]
fn s11_4_a_finished_job_has_committed_everything_and_stays_finished() {
    let disk: SharedDisk = Arc::new(MemoryDisk::new());
    let log = Log::default();
    virtual_process(in_time("a whole job", async {
        let (env, gate) = describe(&disk, rarely(), &log);
        gate.open_to(u64::MAX);
        let job = env.start_local("finished").await.unwrap();
        assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
    }));
    let (complete, aborted) = check(&log, "a whole job");
    assert_eq!((complete, aborted), (2, 0), "the final checkpoint is told to both subtasks");
    virtual_process(in_time("once more", async {
        assert_eq!(sorted(visible_lines(&*disk, Path::new("out")).await), expected());
        let before = tree(&*disk, Path::new("")).await;
        let (env, _) = describe(&disk, rarely(), &log);
        let job = env.start_local("finished").await.unwrap();
        assert_eq!(*job.status().borrow(), JobStatus::Finished);
        assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
        assert_eq!(job.cancel().await.unwrap(), JobStatus::Finished);
        assert_eq!(job.resumed_from(), Some(CheckpointId(1)));
        assert!(job.checkpoint().await.is_err());
        assert_eq!(tree(&*disk, Path::new("")).await, before);
    }));
    // The same on threads.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(in_time("once more on threads", async {
        let before = tree(&*disk, Path::new("")).await;
        let (env, _) = describe(&disk, rarely(), &log);
        let job = env.start("finished").await.unwrap();
        assert_eq!(*job.status().borrow(), JobStatus::Finished);
        assert!(job.checkpoint().await.is_err());
        assert_eq!(tree(&*disk, Path::new("")).await, before);
    }));
    assert_eq!(log.lock().unwrap().len(), 2, "no operator was made again");
}

/// What several operators of one chain were told, in order.
type Calls = Arc<Mutex<Vec<(&'static str, Told)>>>;

#[derive(Debug, Clone, Copy)]
enum How {
    Error,
    Panic,
}

struct Named {
    name: &'static str,
    calls: Calls,
    /// Makes `on_complete` fail.
    fails: Option<(How, Fuse)>,
    /// Whether a record is being handled, and on which thread all of this is to happen.
    handling: bool,
    home: ThreadId,
}

impl Named {
    fn note(&self, told: Told) {
        assert!(!self.handling, "told amid a record");
        assert_eq!(std::thread::current().id(), self.home, "told on another thread");
        self.calls.lock().unwrap().push((self.name, told));
    }
}

impl Operator for Named {
    type Key = Unkeyed;
    type Out = (u32, u64);

    fn on_complete(&mut self, checkpoint: CheckpointId) -> Result {
        self.note(Told::Complete(checkpoint.0));
        match &self.fails {
            Some((How::Error, fuse)) if fuse.goes_off() => Err("injected".into()),
            Some((How::Panic, fuse)) if fuse.goes_off() => panic!("injected"),
            _ => Ok(()),
        }
    }

    fn on_aborted(&mut self, checkpoint: CheckpointId) -> Result {
        self.note(Told::Aborted(checkpoint.0));
        Ok(())
    }
}

impl Handler<(u32, u64)> for Named {
    fn handle(&mut self, record: (u32, u64), ctx: &mut Context<'_, Self>) -> Result {
        self.handling = true;
        ctx.emit(record);
        self.handling = false;
        Ok(())
    }
}

/// Three operators in one chain, of which the second fails once when it is told.
fn three(env: &Environment, numbers: Numbers, calls: &Calls, fails: &(How, Fuse)) -> Collect<(u32, u64)> {
    let named = |name, fails: Option<&(How, Fuse)>| {
        let (calls, fails) = (Arc::clone(calls), fails.cloned());
        move |_: &mut Setup<'_, Unkeyed>| {
            let (calls, fails, home) = (Arc::clone(&calls), fails.clone(), std::thread::current().id());
            Ok(Named { name, calls, fails, handling: false, home })
        }
    };
    let out = Collect::new();
    env.source("numbers", numbers)
        .process("first", named("first", None))
        .process("second", named("second", Some(fails)))
        .process("third", named("third", None))
        .sink("out", out.clone());
    out
}

/// One checkpoint, of whose completion the second operator does not hear well; the job restarts and runs to its end. Gives what was told,
/// in order, and how the restart was explained.
fn second_fails_when_it_is_told(name: &str, how: How) -> (Vec<(&'static str, Told)>, String) {
    let calls = Calls::default();
    let why = virtual_process(in_time("one fails when it is told", async {
        let env = Environment::builder()
            .parallelism(1)
            .checkpointing(rarely())
            .storage(strandline::storage::Memory::new())
            .restart(RestartStrategy::fixed_delay(1, Duration::ZERO))
            .build()
            .unwrap();
        let (numbers, gate) = Numbers::gated(1, LEN);
        let out = three(&env, numbers, &calls, &(how, Fuse::after(0)));
        let job = env.start_local(name).await.unwrap();
        let mut events = job.events();
        running(&job).await;
        assert_eq!(job.checkpoint().await.unwrap(), CheckpointId(1));
        gate.open_to(u64::MAX);
        assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
        assert_eq!(out.records().len(), usize::try_from(LEN).unwrap());
        let mut told = std::iter::from_fn(|| events.try_recv().ok()).map(|event| format!("{event:?}"));
        told.find(|event| event.contains("Restarting")).unwrap()
    }));
    (std::mem::take(&mut *calls.lock().unwrap()), why)
}

fn round(id: u64) -> [(&'static str, Told); 3] {
    ["third", "second", "first"].map(|name| (name, Told::Complete(id)))
}

#[test]
fn s13_2_the_end_of_the_chain_is_told_first_and_all_are_told_whatever_one_says() {
    let (calls, why) = second_fails_when_it_is_told("all-are-told", How::Error);
    assert!(why.contains("second"), "{why}");
    assert_eq!(calls, [round(1), round(2)].concat());
}

#[test]
fn s13_2_a_panic_ends_the_round_and_a_later_completion_makes_up_for_it() {
    quiet_panics();
    let (calls, why) = second_fails_when_it_is_told("a-panic-when-told", How::Panic);
    assert!(why.contains("second") && why.contains("panicked"), "{why}");
    // The first one never hears of 1: the attempt that follows begins from it.
    assert_eq!(calls, [&round(1)[..2], &round(2)].concat());
}

/// The operators assert it themselves.
#[test]
fn s13_8_operators_are_told_on_their_own_thread_between_records() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let calls = Calls::default();
    let never = (How::Error, Fuse::after(u64::MAX / 2));
    runtime.block_on(in_time("many checkpoints of a busy job", async {
        let env = Environment::builder()
            .parallelism(2)
            .checkpointing(rarely())
            .storage(strandline::storage::Memory::new())
            .build()
            .unwrap();
        let (numbers, gate) = Numbers::gated(2, u64::MAX);
        gate.open_to(u64::MAX);
        let fast = three(&env, numbers, &calls, &never);
        let job = env.start("on-its-thread").await.unwrap();
        running(&job).await;
        for _ in 0..20 {
            job.checkpoint().await.unwrap();
        }
        job.cancel().await.unwrap();
        drop(fast);
    }));
    assert!(calls.lock().unwrap().len() >= 19 * 2 * 3);
}

#[test]
fn s13_4_who_has_stopped_or_began_from_it_hears_nothing_of_a_checkpoint() {
    quiet_panics();
    let log = Log::default();
    virtual_process(in_time("a failure amid a commit", async {
        let slow =
            Injection::of(Fault::Slow(Duration::from_secs(30))).on([Operation::Publish]).at_path("/log/");
        let inner: SharedDisk = Arc::new(MemoryDisk::new());
        let disk: SharedDisk = Arc::new(FaultyDisk::new(inner).failing(slow.from(2)));
        let env = Environment::builder()
            .parallelism(1)
            .checkpointing(rarely())
            .storage(OnDisk::new(disk, "checkpoints"))
            .restart(RestartStrategy::fixed_delay(1, Duration::ZERO))
            .build()
            .unwrap();
        let (numbers, gate) = Numbers::gated(1, LEN);
        let (fuse, instances) = (Fuse::after(10), Arc::clone(&log));
        env.source("numbers", numbers)
            .inspect(move |_| assert!(!fuse.goes_off(), "injected"))
            .process("listens", move |_| {
                let mut log = instances.lock().unwrap();
                let instance = log.len();
                log.insert(instance, Vec::new());
                Ok(Listens { instance, log: Arc::clone(&instances) })
            })
            .sink("out", Collect::new());
        let job = env.start_local("stopped").await.unwrap();
        running(&job).await;
        let asked = tokio::task::spawn_local({
            let job = job.clone();
            async move { job.checkpoint().await }
        });
        tokio::time::sleep(Duration::from_secs(10)).await;
        gate.open_to(u64::MAX);
        assert_eq!(asked.await.unwrap().unwrap(), CheckpointId(1));
        assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
    }));
    let expected = [(0, vec![]), (1, vec![Told::Complete(2)])];
    assert_eq!(*log.lock().unwrap(), BTreeMap::from(expected));
}

#[test]
fn s13_3_word_of_an_abort_does_not_repeat_what_was_restored() {
    let log = Log::default();
    let inner: SharedDisk = Arc::new(MemoryDisk::new());
    let fails = || Injection::of(Fault::NoEffect).on([Operation::Create]).at_path("chk-2-").at(1);
    for (life, stop) in [(0, 10), (1, 20)] {
        let disk: SharedDisk = Arc::new(FaultyDisk::new(Arc::clone(&inner)).failing(fails()));
        virtual_process(in_time("two lives", async {
            let (env, gate) = describe(&disk, rarely(), &log);
            let job = env.start_local("restored").await.unwrap();
            running(&job).await;
            gate.open_to(stop);
            gate.reached(SPLITS, stop).await;
            assert_eq!(job.checkpoint().await.is_ok(), life == 0);
            job.cancel().await.unwrap();
        }));
    }
    let told = |instances: std::ops::Range<usize>| {
        let log = log.lock().unwrap();
        instances.map(|instance| log[&instance].clone()).collect::<Vec<_>>()
    };
    assert_eq!(told(0..2), [[Told::Complete(1)], [Told::Complete(1)]]);
    assert_eq!(told(2..4), [[Told::Aborted(2)], [Told::Aborted(2)]]);
}
