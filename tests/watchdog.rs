//! Subtasks that are stuck are named in the log; those that only wait for them are not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;
#[allow(dead_code)]
#[path = "common/trace.rs"]
mod trace;

use common::{Gate, HANG, Numbers, in_time, running, virtual_process};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use strandline::prelude::*;
use strandline::{BoxFuture, SinkWriter, SubtaskContext};
use trace::{Recording, Seen};
use tracing::Level;

/// What was warned of subtasks.
fn stuck(recording: &Recording) -> Vec<Seen> {
    let events = recording.events().into_iter();
    events.filter(|event| event.level == Level::WARN && event.fields.contains_key("for_ms")).collect()
}

/// A door that threads wait at.
#[derive(Clone, Default)]
struct Door(Arc<(Mutex<bool>, Condvar)>);

impl Door {
    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        let open = self.0.0.lock().unwrap();
        drop(self.0.1.wait_while(open, |open| !*open).unwrap());
    }
}

async fn until(what: &str, is: impl Fn() -> bool) {
    let began = Instant::now();
    while !is() {
        assert!(began.elapsed() < HANG, "hangs: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Blocks its thread at one record.
struct Blocks(Door);

impl Operator for Blocks {
    type Key = Unkeyed;
    type Out = u64;
}

impl Handler<(u32, u64)> for Blocks {
    fn handle(&mut self, (_, number): (u32, u64), ctx: &mut Context<'_, Self>) -> Result {
        if number == 5_000 {
            self.0.wait();
        }
        ctx.emit(number);
        Ok(())
    }
}

fn blocking(limit: Duration, stop_timeout: Duration, door: &Door) -> (Environment, Collect<u64>) {
    let env = Environment::builder().parallelism(1).workers(2).stuck_warning(limit);
    let (env, out, door) = (env.stop_timeout(stop_timeout).build().unwrap(), Collect::new(), door.clone());
    env.source("numbers", Numbers::new(1, 20_000))
        .start_new_chain()
        .process("blocks", move |_| Ok(Blocks(door.clone())))
        .sink("out", out.clone());
    (env, out)
}

/// Of a real thread: others may be slow, too, on a machine that is busy; on virtual time none is, below.
#[tokio::test]
async fn an_operator_that_blocks_its_thread_is_named_again_and_again() {
    let (recording, subscriber) = Recording::subscriber();
    let _scope = tracing::subscriber::set_default(subscriber);
    let (limit, door) = (Duration::from_millis(100), Door::default());
    let (env, out) = blocking(limit, HANG, &door);
    let told = || {
        let of = |event: &Seen| event.fields["operator"] == "blocks -> out";
        stuck(&recording).into_iter().filter(of).collect::<Vec<_>>()
    };
    let job = env.start("blocked-operator").await.unwrap();
    let lasts = |event: &Seen| Duration::from_millis(event.fields["for_ms"].parse().unwrap());
    until("a second warning", || told().iter().any(|event| lasts(event) >= 2 * limit)).await;
    door.open();
    assert_eq!(in_time("the end", job.wait()).await.unwrap(), JobStatus::Finished);
    assert_eq!(out.len(), 20_000);
    let told = told();
    assert!(told[0].message.contains("does not come back from its code"), "{told:?}");
    assert!(told.len() >= 2 && told.iter().all(|event| lasts(event) >= limit), "{told:?}");
}

#[tokio::test]
async fn who_does_not_stop_because_it_blocks_is_named_with_how_long_it_has_been_there() {
    let (recording, subscriber) = Recording::subscriber();
    let _scope = tracing::subscriber::set_default(subscriber);
    let door = Door::default();
    let (env, _) = blocking(Duration::from_millis(50), Duration::from_millis(300), &door);
    let job = env.start("blocked-at-stop").await.unwrap();
    until("a warning", || !stuck(&recording).is_empty()).await;
    let cancelled = tokio::spawn({
        let job = job.clone();
        async move { job.cancel().await }
    });
    let error = in_time("the end", cancelled).await.unwrap().unwrap_err();
    door.open();
    assert_eq!(error.kind(), ErrorKind::Stuck);
    let text = error.to_string();
    assert!(text.contains("`blocks -> out` subtask 0, which has been in its code for"), "{text}");
}

/// A sink whose flush, or commit, never ends.
#[derive(Clone)]
struct Silent {
    commits: bool,
}

struct SilentWriter {
    commits: bool,
    dirty: bool,
}

impl Sink<(u32, u64)> for Silent {
    type Commit = u8;
    type Writer = SilentWriter;

    fn writer(&self, _: &SubtaskContext) -> Result<SilentWriter> {
        Ok(SilentWriter { commits: self.commits, dirty: false })
    }

    async fn commit(&self, commits: Vec<u8>) -> Result {
        if self.commits && !commits.is_empty() { std::future::pending().await } else { Ok(()) }
    }
}

impl SinkWriter<(u32, u64)> for SilentWriter {
    type Commit = u8;

    fn write(&mut self, _: (u32, u64)) -> Result {
        self.dirty = true;
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.dirty && !self.commits
    }

    async fn flush(&mut self) -> Result {
        if self.commits { Ok(()) } else { std::future::pending().await }
    }

    fn prepare(&mut self) -> Result<BoxFuture<Result<Vec<u8>>>> {
        Ok(Box::pin(async { Ok(vec![1]) }))
    }
}

/// Virtual time.
async fn in_time_of<T>(secs: u64, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(secs), future).await.expect("it ends")
}

/// A job whose sink is silent, watched for so long; checkpoints are taken meanwhile.
fn silent(commits: bool, warning: Option<Duration>, watched: Duration) -> Vec<Seen> {
    let (recording, subscriber) = Recording::subscriber();
    let _scope = tracing::subscriber::set_default(subscriber);
    virtual_process(in_time_of(1_000, async {
        let env = Environment::builder()
            .parallelism(1)
            .checkpointing(Checkpointing::every(Duration::from_secs(7)).tolerable_failures(u32::MAX))
            .stop_timeout(Duration::from_secs(5));
        let env = warning.map_or(env.clone(), |warning| env.stuck_warning(warning)).build().unwrap();
        let (numbers, gate): (Numbers, Gate) = Numbers::gated(1, 100_000);
        env.source("numbers", numbers)
            .start_new_chain()
            .inspect(|_| {})
            .start_new_chain()
            .sink("silent", Silent { commits });
        let job = env.start_local("silent").await.unwrap();
        running(&job).await;
        gate.open_to(if commits { 50 } else { 50_000 });
        tokio::time::sleep(watched).await;
        let _ = job.cancel().await;
    }));
    stuck(&recording)
}

#[test]
fn a_sink_that_waits_for_ever_is_named_and_those_that_it_holds_back_are_not() {
    let secs = Duration::from_secs;
    for (commits, what) in [(false, "its flush"), (true, "its commit")] {
        let told = silent(commits, None, secs(150));
        assert!(!told.is_empty(), "{what}");
        for event in &told {
            assert_eq!(event.fields["operator"], "silent", "{told:?}");
            assert_eq!(event.fields["what"], what, "{told:?}");
            let lasts: u64 = event.fields["for_ms"].parse().unwrap();
            assert!((30_000..=150_000).contains(&lasts), "the default is 30 s: {told:?}");
        }
        assert!(told.len() <= 3, "at the limit, and whenever it has doubled: {told:?}");
        assert!(!silent(commits, Some(secs(3)), secs(60)).is_empty(), "{what}");
        assert!(silent(commits, Some(Duration::ZERO), secs(150)).is_empty(), "{what}");
    }
}

/// A sink that takes a second for each record.
#[derive(Clone)]
struct Slow;

struct SlowWriter(bool);

impl Sink<(u32, u64)> for Slow {
    type Commit = u8;
    type Writer = SlowWriter;

    fn writer(&self, _: &SubtaskContext) -> Result<SlowWriter> {
        Ok(SlowWriter(false))
    }

    async fn commit(&self, _: Vec<u8>) -> Result {
        Ok(())
    }
}

impl SinkWriter<(u32, u64)> for SlowWriter {
    type Commit = u8;

    fn write(&mut self, _: (u32, u64)) -> Result {
        self.0 = true;
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.0
    }

    async fn flush(&mut self) -> Result {
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.0 = false;
        Ok(())
    }

    fn prepare(&mut self) -> Result<BoxFuture<Result<Vec<u8>>>> {
        Ok(Box::pin(async { Ok(Vec::new()) }))
    }
}

#[test]
fn a_job_without_input_and_a_job_that_is_held_back_by_its_slow_sink_are_healthy() {
    let (recording, subscriber) = Recording::subscriber();
    let _scope = tracing::subscriber::set_default(subscriber);
    virtual_process(async {
        let env =
            Environment::builder().parallelism(1).stuck_warning(Duration::from_secs(3)).build().unwrap();
        let (numbers, _gate) = Numbers::gated(1, 10);
        env.source("quiet", numbers).sink("nothing", Collect::new());
        // A second a record: the channel before it is full for many times the limit.
        env.source("numbers", Numbers::new(1, 20_000)).start_new_chain().sink("slow", Slow);
        let job = env.start_local("healthy").await.unwrap();
        tokio::time::sleep(Duration::from_secs(100)).await;
        job.cancel().await.unwrap();
    });
    assert!(stuck(&recording).is_empty(), "{:?}", stuck(&recording));
}
