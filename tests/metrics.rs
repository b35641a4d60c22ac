//! What a job says it has done is what it has done: records, batches, time and checkpoints, exactly, over restarts.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use async_trait::async_trait;
use common::{Count, Fuse, Gate, Numbers, in_time, running, virtual_process};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use strandline::prelude::*;
use strandline::storage::{Disk, DiskFile, DiskLock, Fault, FaultyDisk, MemoryDisk, OnDisk};
use strandline::types::{CheckpointId, SubtaskIndex};
use strandline::{
    BoxFuture, ChainMetrics, JobHandle, JobMetrics, SinkWriter, SubtaskContext, SubtaskMetrics,
};

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// Records in and out of an operator.
fn records(metrics: &JobMetrics, uid: &str) -> (u64, u64) {
    let operator = metrics.operator(uid).unwrap_or_else(|| panic!("no operator `{uid}`"));
    (operator.records_in, operator.records_out)
}

fn sum(chain: &ChainMetrics, figure: impl Fn(&SubtaskMetrics) -> u64) -> u64 {
    chain.subtasks.iter().map(figure).sum()
}

/// Emits each record twice, in both ways there are.
struct Twice;

impl Operator for Twice {
    type Key = Unkeyed;
    type Out = (u64, u64);
}

impl Handler<(u64, u64)> for Twice {
    fn handle(&mut self, record: (u64, u64), ctx: &mut Context<'_, Self>) -> Result {
        ctx.emit(record);
        ctx.emit_iter(std::iter::once(record));
        Ok(())
    }
}

/// Keeps what it gets to the end.
struct Hold(Vec<(u64, u64)>);

impl Operator for Hold {
    type Key = Unkeyed;
    type Out = (u64, u64);

    fn finish(&mut self, ctx: &mut OperatorContext<'_, Self>) -> Result {
        ctx.emit_iter(std::mem::take(&mut self.0));
        Ok(())
    }
}

impl Handler<(u64, u64)> for Hold {
    fn handle(&mut self, record: (u64, u64), _: &mut Context<'_, Self>) -> Result {
        self.0.push(record);
        Ok(())
    }
}

#[test]
fn every_operator_and_subtask_counts_its_records() {
    const LEN: u64 = 5_000;
    let metrics = virtual_process(in_time("the graph", async {
        let env = Environment::builder().parallelism(2).storage(Memory::new()).build().unwrap();
        env.source("numbers", Numbers::new(2, LEN))
            .filter(|(_, number)| number % 2 == 0)
            .key_by(|(_, number)| number % 7)
            .process("count", |setup| Ok(Count { seen: setup.value_state("seen")? }))
            .process("twice", |_| Ok(Twice))
            .rebalance()
            .map(|record| record)
            .broadcast()
            .process("hold", |_| Ok(Hold(Vec::new())))
            .sink("out", Collect::new());
        let job = env.start_local("counted").await.unwrap();
        assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
        job.metrics()
    }));
    assert_eq!(records(&metrics, "numbers"), (0, 2 * LEN), "before the filter");
    assert_eq!(records(&metrics, "count"), (LEN, LEN));
    assert_eq!(records(&metrics, "twice"), (LEN, 2 * LEN));
    assert_eq!(records(&metrics, "hold"), (4 * LEN, 4 * LEN), "broadcast to two");
    assert_eq!(records(&metrics, "out"), (4 * LEN, 0));
    assert_eq!(metrics.operator("absent"), None);

    let names: Vec<&str> = metrics.chains.iter().map(|chain| chain.name.as_str()).collect();
    assert_eq!(names, ["numbers", "count -> twice", "chain 2", "hold -> out"]);
    let flows: Vec<(u64, u64)> = metrics
        .chains
        .iter()
        .map(|chain| (sum(chain, |subtask| subtask.records_in), sum(chain, |subtask| subtask.records_out)))
        .collect();
    assert_eq!(flows, [(0, LEN), (LEN, 2 * LEN), (2 * LEN, 4 * LEN), (4 * LEN, 0)]);
    for pair in metrics.chains.windows(2) {
        let (sent, taken) = (sum(&pair[0], |from| from.batches_out), sum(&pair[1], |to| to.batches_in));
        assert_eq!(sent, taken, "{} to {}", pair[0].name, pair[1].name);
        assert!(taken * 1024 >= sum(&pair[1], |to| to.records_in));
    }
    let indices: Vec<_> = metrics.chains[0].subtasks.iter().map(|subtask| subtask.subtask).collect();
    assert_eq!(indices, [SubtaskIndex(0), SubtaskIndex(1)]);
    assert_eq!(metrics.chains[0].subtasks[0].operators[0].records_out, LEN, "a split each");
    assert_eq!(metrics.chain_of("twice").unwrap().name, "count -> twice");
}

#[test]
fn what_goes_aside_counts_as_given_if_somebody_takes_it() {
    /// Each number on, two of each third aside, one by one and as an iterator, and all where nobody listens.
    struct Aside {
        thirds: SideOutput<u64>,
        nobody: SideOutput<u64>,
    }

    impl Operator for Aside {
        type Key = Unkeyed;
        type Out = u64;
    }

    impl Handler<(u32, u64)> for Aside {
        fn handle(&mut self, (_, number): (u32, u64), ctx: &mut Context<'_, Self>) -> Result {
            if number % 3 == 0 {
                self.thirds.emit(ctx, number);
                self.thirds.emit_iter(ctx, [number]);
            }
            self.nobody.emit(ctx, number);
            ctx.emit(number);
            Ok(())
        }
    }

    const LEN: u64 = 3_000;
    for rebalanced in [false, true] {
        let metrics = virtual_process(in_time("side outputs", async {
            let env = Environment::builder().parallelism(2).storage(Memory::new()).build().unwrap();
            let tag = OutputTag::new("thirds");
            let declared = tag.clone();
            let numbers = env.source("numbers", Numbers::new(1, LEN));
            let numbers = if rebalanced { numbers.rebalance() } else { numbers.start_new_chain() };
            let (on, thirds) = numbers
                .process("aside", move |setup| {
                    let thirds = setup.side_output(&declared)?;
                    Ok(Aside { thirds, nobody: setup.side_output(&OutputTag::new("nobody"))? })
                })
                .side_output(&tag);
            on.sink("out", Collect::new());
            thirds.sink("thirds", Collect::new());
            let job = env.start_local("counted-aside").await.unwrap();
            assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
            job.metrics()
        }));
        assert_eq!(records(&metrics, "thirds"), (2 * LEN / 3, 0));
        assert_eq!(records(&metrics, "aside"), (LEN, LEN + 2 * LEN / 3));
    }
}

/// A chain of all kinds, whose map fails at the 150th record of a split, once.
fn failing(env: &Environment, numbers: Numbers) {
    let fuse = Fuse::after(0);
    env.source("numbers", numbers)
        .try_map(move |(split, number)| {
            if number == 150 && fuse.goes_off() {
                return Err("injected at 150".into());
            }
            Ok((split, number))
        })
        .key_by(|(_, number)| number % 3)
        .process("count", |setup| Ok(Count { seen: setup.value_state("seen")? }))
        .sink("out", Collect::new());
}

async fn until(job: &JobHandle, what: &str, is_so: impl Fn(&JobMetrics) -> bool) {
    let wait = async {
        while !is_so(&job.metrics()) {
            tokio::task::yield_now().await;
        }
    };
    in_time(what, wait).await;
}

#[test]
fn a_restart_sets_no_counter_back_and_what_is_done_again_counts_again() {
    virtual_process(in_time("a restart", async {
        let env = Environment::builder()
            .parallelism(1)
            .storage(Memory::new())
            .restart(RestartStrategy::fixed_delay(1, secs(7)))
            .build()
            .unwrap();
        let (numbers, gate) = Numbers::gated(1, 400);
        failing(&env, numbers);
        let job = env.start_local("restarted").await.unwrap();
        assert_eq!(job.metrics().status, JobStatus::Starting);
        assert_eq!(records(&job.metrics(), "numbers"), (0, 0), "works before anything runs");
        running(&job).await;
        gate.open_to(100);
        gate.reached(1, 100).await;
        job.checkpoint().await.unwrap();
        gate.open_to(150);
        gate.reached(1, 150).await;
        until(&job, "all 150 in the sink", |metrics| records(metrics, "out").0 == 150).await;
        gate.open_to(400);
        let mut status = job.status();
        status.wait_for(|status| *status == JobStatus::Restarting).await.unwrap();
        let failed = job.metrics();
        assert_eq!(records(&failed, "numbers"), (0, 151), "with the one that failed");
        assert_eq!((records(&failed, "count"), records(&failed, "out")), ((150, 150), (150, 0)));
        assert_eq!(failed.restarts, 0, "it waits");
        assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);

        let metrics = job.metrics();
        assert_eq!(records(&metrics, "numbers"), (0, 151 + 300), "from the checkpoint at 100");
        assert_eq!((records(&metrics, "count"), records(&metrics, "out")), ((450, 450), (450, 0)));
        let restarts: Vec<u64> = metrics.chains.iter().map(|chain| chain.subtasks[0].restarts).collect();
        assert_eq!((metrics.restarts, restarts), (1, vec![1, 1]));
        assert_eq!(metrics.uptime, secs(7), "the delay of the restart");
        for chain in &metrics.chains {
            let SubtaskMetrics { busy, idle, back_pressured, .. } = chain.subtasks[0];
            assert_eq!(
                busy + idle + back_pressured,
                Duration::ZERO,
                "no time passed while it ran: {chain:?}"
            );
        }
    }));
}

#[test]
fn a_failure_counts_what_came_before_it() {
    virtual_process(in_time("failures", async {
        for panics in [false, true] {
            common::quiet_panics();
            let env = Environment::builder().parallelism(1).build().unwrap();
            env.source("numbers", Numbers::new(1, 10_000))
                .process("twice", move |_| Ok(FailsAt { left: 700, panics }))
                .sink("out", Collect::new());
            let job = env.start_local("failed").await.unwrap();
            job.wait().await.unwrap_err();
            let metrics = job.metrics();
            assert_eq!(metrics.status, JobStatus::Failed);
            assert_eq!(records(&metrics, "numbers"), (0, 700));
            assert_eq!(records(&metrics, "twice"), (700, 699));
            assert_eq!(records(&metrics, "out"), (699, 0));
        }
    }));
}

struct FailsAt {
    left: u32,
    panics: bool,
}

impl Operator for FailsAt {
    type Key = Unkeyed;
    type Out = u64;
}

impl Handler<(u32, u64)> for FailsAt {
    fn handle(&mut self, (_, number): (u32, u64), ctx: &mut Context<'_, Self>) -> Result {
        self.left -= 1;
        match (self.left, self.panics) {
            (0, true) => panic!("injected"),
            (0, false) => Err("injected".into()),
            _ => {
                ctx.emit(number);
                Ok(())
            }
        }
    }
}

#[test]
fn a_job_started_anew_at_another_parallelism_counts_from_zero() {
    let (storage, gate) = (Memory::new(), Gate::closed());
    let start = async |parallelism: u32| {
        let env = Environment::builder().parallelism(parallelism).storage(storage.clone()).build().unwrap();
        env.source("numbers", Numbers { splits: 4, len: 100, gate: gate.clone() })
            .key_by(|(_, number)| number % 5)
            .process("count", |setup| Ok(Count { seen: setup.value_state("seen")? }))
            .sink("out", Collect::new());
        let job = env.start_local("rescaled").await.unwrap();
        running(&job).await;
        job
    };
    virtual_process(in_time("the first", async {
        let job = start(1).await;
        gate.open_to(40);
        gate.reached(4, 40).await;
        job.checkpoint().await.unwrap();
        assert_eq!(job.cancel().await.unwrap(), JobStatus::Cancelled);
        let metrics = job.metrics();
        assert_eq!((records(&metrics, "numbers"), records(&metrics, "out")), ((0, 160), (160, 0)));
        assert_eq!(metrics.chains.iter().map(|chain| chain.subtasks.len()).collect::<Vec<_>>(), [1, 1]);
    }));
    virtual_process(in_time("the second", async {
        let job = start(3).await;
        gate.open_to(u64::MAX);
        assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
        let metrics = job.metrics();
        assert_eq!((records(&metrics, "numbers"), records(&metrics, "out")), ((0, 240), (240, 0)));
        assert_eq!(metrics.chains.iter().map(|chain| chain.subtasks.len()).collect::<Vec<_>>(), [3, 3]);
        assert_eq!(metrics.restarts, 0);
    }));
    virtual_process(in_time("the third", async {
        let job = start(2).await;
        assert!(job.had_finished());
        let metrics = job.metrics();
        assert_eq!((metrics.status, records(&metrics, "numbers")), (JobStatus::Finished, (0, 0)));
    }));
}

/// Takes 10 ms per record, in flushes of 100, where the rest of the job takes no time.
#[derive(Clone)]
struct Slow;

struct SlowWriter(u32);

impl<T: 'static> Sink<T> for Slow {
    type Commit = ();
    type Writer = SlowWriter;

    fn writer(&self, _: &SubtaskContext) -> Result<SlowWriter> {
        Ok(SlowWriter(0))
    }
}

impl<T: 'static> SinkWriter<T> for SlowWriter {
    type Commit = ();

    fn write(&mut self, _: T) -> Result {
        self.0 += 1;
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.0 >= 100
    }

    async fn flush(&mut self) -> Result {
        tokio::time::sleep(std::mem::take(&mut self.0) * Duration::from_millis(10)).await;
        Ok(())
    }

    fn prepare(&mut self) -> Result<BoxFuture<Result<Vec<()>>>> {
        Ok(Box::pin(std::future::ready(Ok(Vec::new()))))
    }
}

/// Busy, idle, back-pressured.
fn time(subtask: &SubtaskMetrics) -> [Duration; 3] {
    [subtask.busy, subtask.idle, subtask.back_pressured]
}

#[test]
fn a_slow_sink_holds_its_chain_back_for_exactly_the_time_it_takes() {
    virtual_process(in_time("a slow sink", async {
        let env = Environment::builder().parallelism(1).build().unwrap();
        let (numbers, gate) = Numbers::gated(1, 1_000);
        env.source("numbers", numbers).sink("slow", Slow);
        let job = env.start_local("fused").await.unwrap();
        running(&job).await;
        tokio::time::sleep(secs(3)).await;
        assert_eq!(time(&job.metrics().chains[0].subtasks[0]), [secs(0), secs(3), secs(0)]);
        gate.open_to(600);
        tokio::time::sleep(secs(4)).await;
        assert_eq!(time(&job.metrics().chains[0].subtasks[0]), [secs(0), secs(3), secs(4)]);
        tokio::time::sleep(secs(4)).await;
        assert_eq!(time(&job.metrics().chains[0].subtasks[0]), [secs(0), secs(5), secs(6)]);
        gate.open_to(u64::MAX);
        assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
        tokio::time::sleep(secs(100)).await;
        let metrics = job.metrics();
        assert_eq!(time(&metrics.chains[0].subtasks[0]), [secs(0), secs(5), secs(10)]);
        assert_eq!(metrics.uptime, secs(15), "it stands still when the job has ended");
    }));
}

#[test]
fn a_slow_sink_holds_its_source_back_until_the_last_batch_has_found_room() {
    virtual_process(async {
        let env = Environment::builder().parallelism(1).build().unwrap();
        env.source("numbers", Numbers::new(1, 20_000)).rebalance().sink("slow", Slow);
        let job = env.start_local("apart").await.unwrap();
        assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
        let metrics = job.metrics();
        let [source, sink] = &metrics.chains[..] else { panic!("two chains") };
        // 19 full batches, one with the rest, and the end: 21 elements, of which 8 fit into the channel. So the last one has room when
        // the sink takes the 13th, which it does when it has flushed for the 12 x 1024 records before it, by the hundred.
        assert_eq!(time(&source.subtasks[0]), [secs(0), secs(0), secs(122)]);
        assert_eq!(time(&sink.subtasks[0]), [secs(0), secs(0), secs(200)]);
        assert_eq!(metrics.uptime, secs(200));
        assert_eq!((source.subtasks[0].batches_out, sink.subtasks[0].batches_in), (20, 20));
    });
}

#[test]
fn a_batch_that_goes_through_in_pieces_counts_once() {
    virtual_process(async {
        let env = Environment::builder().parallelism(1).build().unwrap();
        env.source("numbers", Numbers::new(1, 3_000))
            .key_by(|(_, number)| number % 3)
            .process("count", |setup| Ok(Count { seen: setup.value_state("seen")? }))
            .process("twice", |_| Ok(Twice))
            .sink("slow", Slow);
        let job = env.start_local("pieces").await.unwrap();
        assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
        let metrics = job.metrics();
        assert_eq!((records(&metrics, "numbers"), records(&metrics, "count")), ((0, 3_000), (3_000, 3_000)));
        assert_eq!((records(&metrics, "twice"), records(&metrics, "slow")), ((3_000, 6_000), (6_000, 0)));
        let subtask = &metrics.chain_of("slow").unwrap().subtasks[0];
        assert_eq!((subtask.records_in, subtask.batches_in), (3_000, 3));
        assert_eq!(time(subtask), [secs(0), secs(0), secs(60)]);
    });
}

#[test]
fn subtasks_without_input_are_idle_all_the_time() {
    virtual_process(async {
        let env = Environment::builder().parallelism(64).build().unwrap();
        let (numbers, _gate) = Numbers::gated(64, 1);
        env.source("numbers", numbers).sink("out", Collect::new());
        let job = env.start_local("idle").await.unwrap();
        running(&job).await;
        tokio::time::sleep(secs(3600)).await;
        let metrics = job.metrics();
        assert_eq!(metrics.chains[0].subtasks.len(), 64);
        for subtask in &metrics.chains[0].subtasks {
            assert_eq!(time(subtask), [secs(0), secs(3600), secs(0)]);
        }
        job.cancel().await.unwrap();
    });
}

/// Takes three checkpoints and then ends, on a disk that may fail. Gives the figures and the numbers of checkpoints and restarts that
/// listeners heard of: completed, failed, restarted.
fn three_checkpoints(disk: Arc<dyn Disk>) -> Option<(JobMetrics, [u64; 3])> {
    virtual_process(in_time("three checkpoints", async {
        let env = Environment::builder()
            .parallelism(2)
            .storage(OnDisk::new(disk, "checkpoints"))
            .checkpointing(Checkpointing::every(secs(1_000_000)).tolerable_failures(u32::MAX))
            .restart(RestartStrategy::fixed_delay(9, secs(1)))
            .seed(1)
            .build()
            .unwrap();
        let (numbers, gate) = Numbers::gated(2, 100);
        env.source("numbers", numbers)
            .key_by(|(_, number)| number % 5)
            .process("count", |setup| Ok(Count { seen: setup.value_state("seen")? }))
            .sink("out", Collect::new());
        let job = env.start_local("three").await.ok()?;
        let mut events = job.events();
        for stop in [10, 20, 30] {
            gate.open_to(stop);
            gate.reached(2, stop).await;
            let _ = job.checkpoint().await;
        }
        gate.open_to(u64::MAX);
        let _ = job.wait().await;
        let [mut completed, mut failed, mut restarts] = [0; 3];
        while let Ok(event) = events.recv().await {
            match event {
                JobEvent::CheckpointCompleted(_) => completed += 1,
                JobEvent::CheckpointFailed { checkpoint: Some(_), .. } => failed += 1,
                JobEvent::Running { attempt, .. } => restarts = u64::from(attempt.0),
                _ => {}
            }
        }
        Some((job.metrics(), [completed, failed, restarts]))
    }))
}

#[test]
fn checkpoints_are_counted_as_they_start_complete_and_fail() {
    let (metrics, heard) = three_checkpoints(Arc::new(MemoryDisk::new())).unwrap();
    let checkpoints = metrics.checkpoints;
    assert_eq!((checkpoints.started, checkpoints.completed), (4, 4), "three and the final one");
    assert_eq!((checkpoints.failed, checkpoints.in_progress, heard), (0, 0, [4, 0, 0]));
    let last = checkpoints.last_completed.unwrap();
    assert_eq!(last.checkpoint, CheckpointId(4));
    let written: Vec<u64> =
        metrics.chains.iter().map(|chain| sum(chain, |subtask| subtask.checkpoint_bytes)).collect();
    assert!(written.iter().all(|bytes| *bytes > 0) && last.bytes > 0, "{written:?}, {last:?}");

    let mut failures = 0;
    for point in 1..120 {
        for fault in [Fault::NoEffect, Fault::TookEffect] {
            let disk = FaultyDisk::new(Arc::new(MemoryDisk::new())).fail_once_at(point, fault);
            let Some((metrics, [completed, failed, restarts])) = three_checkpoints(Arc::new(disk)) else {
                continue;
            };
            let checkpoints = metrics.checkpoints;
            assert_eq!((checkpoints.completed, checkpoints.failed), (completed, failed), "{point} {fault:?}");
            assert_eq!(checkpoints.started, completed + failed, "{point} {fault:?}: {checkpoints:?}");
            assert_eq!((checkpoints.in_progress, metrics.restarts), (0, restarts), "{point} {fault:?}");
            failures += failed;
        }
    }
    assert!(failures > 20, "only {failures} checkpoints failed");
}

/// Loses an answer: the n-th entry of the job log is written, but the disk says that it failed, and cannot be read once.
#[derive(Debug)]
struct Doubtful {
    files: MemoryDisk,
    entries: AtomicU32,
    doubtful: u32,
    unreadable: AtomicU32,
}

#[async_trait]
impl Disk for Doubtful {
    async fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        if self.unreadable.swap(0, Ordering::SeqCst) == 1 {
            return Err(io::Error::other("injected: cannot be read"));
        }
        self.files.read(path).await
    }
    async fn read_range(&self, path: &Path, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        self.files.read_range(path, offset, len).await
    }
    async fn len(&self, path: &Path) -> io::Result<Option<u64>> {
        self.files.len(path).await
    }
    async fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.files.list(dir).await
    }
    async fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.files.create_dir(dir).await
    }
    async fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.files.create(path).await
    }
    async fn publish(&self, path: &Path, content: Vec<u8>) -> io::Result<()> {
        self.files.publish(path, content).await?;
        let is_entry = path.parent().is_some_and(|dir| dir.ends_with("log"));
        if is_entry && self.entries.fetch_add(1, Ordering::SeqCst) + 1 == self.doubtful {
            self.unreadable.store(1, Ordering::SeqCst);
            return Err(io::Error::other("injected: no answer"));
        }
        Ok(())
    }
    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.files.rename(from, to).await
    }
    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.files.sync_dir(dir).await
    }
    async fn remove(&self, path: &Path) -> io::Result<()> {
        self.files.remove(path).await
    }
    async fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.files.remove_dir(dir).await
    }
    async fn lock(&self, path: &Path, note: &str) -> io::Result<Option<DiskLock>> {
        self.files.lock(path, note).await
    }
}

#[test]
fn a_commit_of_unknown_outcome_is_counted_when_the_log_was_read_back() {
    // Entry 1 is the claim, 3 the second checkpoint.
    let (files, entries, unreadable) = (MemoryDisk::new(), AtomicU32::new(0), AtomicU32::new(0));
    let disk = Doubtful { files, entries, doubtful: 3, unreadable };
    let (metrics, [completed, failed, restarts]) = three_checkpoints(Arc::new(disk)).unwrap();
    assert_eq!((completed, failed, restarts), (3, 1, 1), "its failure was told");
    let checkpoints = metrics.checkpoints;
    assert_eq!((checkpoints.started, checkpoints.completed), (4, 4), "but it turned out to be committed");
    assert_eq!((checkpoints.failed, checkpoints.in_progress, metrics.restarts), (0, 0, 1));
}

#[test]
fn keyed_states_say_how_large_they_are() {
    const KEYS: u64 = 20_000;
    let (before, after) = virtual_process(async {
        let env = Environment::builder().parallelism(2).checkpointing(Checkpointing::every(secs(3600)));
        let env = env.storage(Memory::default()).build().unwrap();
        let (numbers, gate) = Numbers::gated(1, 2 * KEYS);
        env.source("numbers", numbers)
            .key_by(|(_, number)| number % KEYS)
            .process("count", |setup| Ok(Count { seen: setup.value_state("seen")? }))
            .sink("out", Collect::new());
        let job = env.start_local("sizes").await.unwrap();
        running(&job).await;
        let before = job.metrics().operator("count").unwrap().states;
        gate.open_to(u64::MAX);
        job.wait().await.unwrap();
        (before, job.metrics())
    });
    let [empty] = &before[..] else { panic!("{before:?}") };
    assert_eq!((empty.state.as_str(), empty.entries, empty.snapshot_bytes), ("seen", 0, 0));
    let [all] = &after.operator("count").unwrap().states[..] else { panic!("{after:?}") };
    assert_eq!((all.state.as_str(), all.entries, all.snapshot_bytes), ("seen", KEYS, 0));
    // A key and a count are 16 bytes; what leads to them costs most where there are few.
    assert!((16 * KEYS..80 * KEYS).contains(&(all.bytes - empty.bytes)), "{empty:?} {all:?}");
    let each = after.chain_of("count").unwrap().subtasks.iter().map(|one| one.operators[0].states[0].entries);
    assert_eq!((each.clone().count(), each.sum::<u64>()), (2, KEYS));
}

#[test]
fn figures_are_plain_data_for_any_format() {
    let metrics = virtual_process(async {
        let env = Environment::builder().parallelism(1).build().unwrap();
        env.source("numbers", Numbers::new(1, 200)).sink("slow", Slow);
        let job = env.start_local("written").await.unwrap();
        job.wait().await.unwrap();
        job.metrics()
    });
    let json = serde_json::to_value(&metrics).unwrap();
    assert_eq!((&json["job"], &json["status"]), (&"written".into(), &"finished".into()));
    assert_eq!(json["uptime_seconds"], 2.0);
    assert_eq!(json["checkpoints"]["last_completed"], serde_json::Value::Null);
    let subtask = &json["chains"][0]["subtasks"][0];
    assert_eq!((&subtask["back_pressured_seconds"], &subtask["watermark"]), (&2.0.into(), &().into()));
    let sink = serde_json::json!({ "operator": "slow", "records_in": 200, "records_out": 0, "records_skipped": 0, "states": [] });
    assert_eq!(subtask["operators"][1], sink);
}
