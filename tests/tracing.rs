//! Spans and events of a job: their names, fields and levels are those of the documentation, code of the user's runs inside them,
//! and whoever sets a subscriber for a scope sees the job on all of its threads.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;
#[path = "common/trace.rs"]
mod trace;

use common::{Count, Fuse, NumberSplit, Numbers, NumbersReader, in_time, running, virtual_process};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use strandline::prelude::*;
use strandline::storage::{Disk, Fault, FaultyDisk, MemoryDisk, OnDisk};
use strandline::{BoxFuture, JobHandle, RecoveryContext, SinkWriter, SubtaskContext};
use trace::{Fields, Recording, Seen};
use tracing::Level;

/// [`Numbers`] that says what it does.
#[derive(Clone)]
struct Telling(Numbers);

impl Source for Telling {
    type Record = (u32, u64);
    type Split = NumberSplit;
    type Reader = NumbersReader;

    async fn splits(&self, restored: Option<Vec<NumberSplit>>) -> Result<Vec<NumberSplit>> {
        tracing::info!("user: splits");
        self.0.splits(restored).await
    }

    fn reader(&self, splits: Vec<NumberSplit>, context: &SubtaskContext) -> Result<NumbersReader> {
        tracing::info!("user: reader");
        self.0.reader(splits, context)
    }
}

/// A sink that says what it does.
#[derive(Clone)]
struct TellingSink;

struct TellingWriter(bool);

impl<T: 'static> Sink<T> for TellingSink {
    type Commit = u8;
    type Writer = TellingWriter;

    async fn recover(&self, _: Vec<u8>, _: &RecoveryContext) -> Result {
        tracing::info!("user: recover");
        Ok(())
    }

    fn writer(&self, _: &SubtaskContext) -> Result<TellingWriter> {
        Ok(TellingWriter(false))
    }

    async fn commit(&self, _: Vec<u8>) -> Result {
        tracing::info!("user: commit");
        Ok(())
    }
}

impl<T: 'static> SinkWriter<T> for TellingWriter {
    type Commit = u8;

    fn write(&mut self, _: T) -> Result {
        if !std::mem::replace(&mut self.0, true) {
            tracing::info!("user: write");
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result {
        tracing::info!("user: flush");
        Ok(())
    }

    fn prepare(&mut self) -> Result<BoxFuture<Result<Vec<u8>>>> {
        Ok(Box::pin(async {
            tracing::info!("user: prepare");
            Ok(vec![1])
        }))
    }
}

/// A job that uses everything: two chains, a checkpoint, a failure, a restart from the checkpoint, the end.
fn describe(env: &Environment, numbers: Numbers) {
    let fuse = Fuse::after(0);
    env.source("numbers", Telling(numbers))
        .key_by(|(_, number)| number % 3)
        .process("count", |setup| Ok(Count { seen: setup.value_state("seen")? }))
        .try_map(move |(key, n)| {
            if n == 15 && key == 0 && fuse.goes_off() {
                tracing::info!("user: fails");
                return Err("injected".into());
            }
            Ok((key, n))
        })
        .sink("out", TellingSink);
}

fn builder() -> strandline::EnvironmentBuilder {
    Environment::builder()
        .parallelism(2)
        .restart(RestartStrategy::fixed_delay(1, Duration::from_secs(4)))
        .checkpointing(Checkpointing::every(Duration::from_secs(100_000)).tolerable_failures(u32::MAX))
}

async fn lead(job: &JobHandle, gate: &common::Gate) {
    running(job).await;
    gate.open_to(12);
    gate.reached(2, 12).await;
    let _ = job.checkpoint().await;
    gate.open_to(u64::MAX);
    assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
}

fn record(job: impl AsyncFnOnce()) -> Recording {
    let (recording, subscriber) = Recording::subscriber();
    tracing::subscriber::with_default(subscriber, || virtual_process(in_time("the job", job())));
    recording
}

/// Everything there is to see of a job that fails, restarts and finishes.
fn story(name: &str) -> Recording {
    record(async || {
        let env = builder().storage(Memory::new()).build().unwrap();
        let (numbers, gate) = Numbers::gated(2, 30);
        describe(&env, numbers);
        let job = env.start_local(name).await.unwrap();
        lead(&job, &gate).await;
        env.start_local(name).await.unwrap();
    })
}

/// One that is cancelled and started again, one that fails for good, and one whose first checkpoint fails.
fn more_stories() -> Recording {
    record(async || {
        let env = builder().storage(Memory::new()).build().unwrap();
        let (numbers, gate) = Numbers::gated(2, 30);
        describe(&env, numbers);
        let job = env.start_local("cancelled").await.unwrap();
        running(&job).await;
        job.checkpoint().await.unwrap();
        // The cancel comes before the barrier has been through.
        let (checkpoint, cancel) = futures::join!(job.checkpoint(), job.cancel());
        assert!(checkpoint.is_err() && cancel.is_ok());
        let again = env.start_local("cancelled").await.unwrap();
        again.cancel().await.unwrap();

        let env = builder().restart(RestartStrategy::none()).build().unwrap();
        gate.open_to(u64::MAX);
        describe(&env, Numbers::new(2, 30));
        env.start_local("failed").await.unwrap().wait().await.unwrap_err();

        for point in 1.. {
            let disk: Arc<dyn Disk> =
                Arc::new(FaultyDisk::new(Arc::new(MemoryDisk::new())).fail_once_at(point, Fault::NoEffect));
            let env = builder().storage(OnDisk::new(disk, "disk")).build().unwrap();
            let (numbers, gate) = Numbers::gated(2, 30);
            describe(&env, numbers);
            let Ok(job) = env.start_local("faulty").await else { continue };
            let mut events = job.events();
            lead(&job, &gate).await;
            while let Ok(event) = events.recv().await {
                if matches!(event, JobEvent::CheckpointFailed { .. }) {
                    return;
                }
            }
        }
    })
}

fn fields(pairs: &[(&'static str, &str)]) -> Fields {
    pairs.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
}

#[test]
fn spans_say_which_job_subtask_attempt_and_checkpoint() {
    let recording = story("told");
    let all = recording.all_spans();
    let parent = |span: &trace::Span| span.parent.map(|parent| all[parent].name);

    let jobs = recording.spans("job");
    assert_eq!(jobs.len(), 2, "the second start found it finished");
    assert_eq!((parent(&jobs[0]), &jobs[0].fields), (None, &fields(&[("job", "told")])));

    let subtasks = recording.spans("subtask");
    let told: Vec<_> = subtasks
        .iter()
        .map(|span| (span.fields["operator"].as_str(), &*span.fields["subtask"], &*span.fields["attempt"]))
        .collect();
    let expected = |attempt| {
        [
            ("numbers", "0", attempt),
            ("numbers", "1", attempt),
            ("count -> out", "0", attempt),
            ("count -> out", "1", attempt),
        ]
    };
    assert_eq!(told, [expected("0"), expected("1")].concat());
    assert!(subtasks.iter().all(|span| parent(span) == Some("job") && span.entered > 0));

    let restores: Vec<_> = recording.spans("restore").iter().map(|span| span.fields.clone()).collect();
    let from_nothing = fields(&[("attempt", "0")]);
    assert_eq!(restores, [from_nothing, fields(&[("attempt", "1"), ("checkpoint", "1")])]);

    let checkpoints = recording.spans("checkpoint");
    let outcomes: Vec<_> =
        checkpoints.iter().map(|span| (&*span.fields["checkpoint"], &*span.fields["outcome"])).collect();
    // The input had ended before the failure: it broke off the final one.
    assert_eq!(outcomes, [("1", "completed"), ("2", "failed"), ("3", "completed")]);
    assert!(checkpoints[0].fields["bytes"].parse::<u64>().unwrap() > 0);
    assert_eq!(checkpoints[0].fields["duration_ms"], "0", "virtual time");

    let commits = recording.spans("commit");
    assert!(!commits.is_empty() && commits.iter().all(|span| parent(span) == Some("subtask")));
    assert_eq!(commits[0].fields, fields(&[("operator", "out"), ("checkpoint", "1"), ("commits", "1")]));
    let open: Vec<_> = all.iter().filter(|span| !span.closed).collect();
    assert!(open.is_empty(), "what has ended is closed: {open:?}");
}

#[test]
fn code_of_the_users_runs_in_the_spans_of_its_job_and_subtask() {
    let recording = story("context");
    let place = |event: &Seen| {
        let context = |name: &str| event.context.get(name).cloned().unwrap_or_default();
        (event.path.join(":"), context("job"), context("operator"))
    };
    let said: BTreeMap<String, BTreeSet<_>> = recording
        .events()
        .iter()
        .filter(|event| event.message.starts_with("user"))
        .map(|event| (event.message.clone(), place(event)))
        .fold(BTreeMap::new(), |mut all, (message, place)| {
            all.entry(message).or_insert_with(BTreeSet::new).insert(place);
            all
        });
    let expected = [
        ("user: commit", "job:subtask:commit", "out"),
        ("user: fails", "job:subtask", "count -> out"),
        ("user: flush", "job:subtask", "count -> out"),
        ("user: prepare", "job:subtask", "count -> out"),
        ("user: reader", "job:subtask", "numbers"),
        ("user: recover", "job:restore:operator", "out"),
        ("user: splits", "job:restore:operator", "numbers"),
        ("user: write", "job:subtask", "count -> out"),
    ];
    let expected = expected.map(|(message, path, operator)| {
        let place = (path.to_owned(), "context".to_owned(), operator.to_owned());
        (message.to_owned(), BTreeSet::from([place]))
    });
    assert_eq!(said, BTreeMap::from(expected));
    let failure = &recording.events_of("user: fails")[0];
    assert_eq!(failure.context["attempt"], "0");
}

/// The rows of the table under a heading of the page, by their first column, without the quotes.
fn table(heading: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let page = include_str!("../docs/observability.md");
    let (_, section) = page.split_once(&format!("\n### {heading}\n")).unwrap();
    let section = section.split("\n#").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let columns: Vec<&str> = row.split('|').map(str::trim).collect();
        let fields = columns[3].split(", ").map(|field| field.trim_matches('`').to_owned()).collect();
        (columns[1].trim_matches('`').to_owned(), (columns[2].to_owned(), fields))
    })
    .collect()
}

#[test]
fn the_page_lists_exactly_these_spans_and_events() {
    let mut spans: BTreeMap<String, (String, BTreeSet<String>)> = BTreeMap::new();
    let mut events = spans.clone();
    for recording in [story("listed"), more_stories()] {
        for span in recording.all_spans() {
            let entry = spans.entry(span.name.to_owned());
            let (_, fields) = entry.or_insert_with(|| (span.level.to_string(), BTreeSet::new()));
            fields.extend(span.fields.keys().map(|field| (*field).to_owned()));
        }
        for event in recording.events() {
            if event.message.starts_with("user") || event.level == Level::TRACE {
                continue;
            }
            assert!(event.target.starts_with("strandline"), "{event:?}");
            assert_eq!(event.path.first(), Some(&"job"), "{event:?}");
            let entry = events.entry(event.message);
            let (_, fields) = entry.or_insert_with(|| (event.level.to_string(), BTreeSet::new()));
            fields.extend(event.fields.keys().map(|field| (*field).to_owned()));
        }
    }
    assert_eq!(spans, table("Spans"));
    // What the page only mentions.
    events.remove("leftovers of earlier runs could not be removed");
    assert_eq!(events, table("Events"));
}

#[test]
fn a_subscriber_of_a_scope_sees_the_job_on_all_of_its_threads() {
    let (recording, subscriber) = Recording::subscriber();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let job = tracing::subscriber::with_default(subscriber, || {
        runtime.block_on(in_time("a start", async {
            let _request = tracing::info_span!("request").entered();
            let env = builder().restart(RestartStrategy::fixed_delay(1, Duration::ZERO));
            let env = env.storage(Memory::new()).build().unwrap();
            let (numbers, gate) = Numbers::gated(2, 30);
            describe(&env, numbers);
            let job = env.start("scoped").await.unwrap();
            (job, gate)
        }))
    });
    // The scope is over here: the job was started in it, and that counts.
    let (job, gate) = job;
    runtime.block_on(in_time("the job", lead(&job, &gate)));

    let events = recording.events();
    let threads = |message: &str| -> BTreeSet<&str> {
        events.iter().filter(|event| event.message == message).map(|event| event.thread.as_str()).collect()
    };
    assert_eq!(threads("the job starts"), BTreeSet::from(["scoped-job"]));
    assert_eq!(threads("user: commit"), BTreeSet::from(["scoped-pool"]));
    assert!(threads("user: reader").iter().all(|thread| thread.starts_with("actix-rt")));
    let paths: BTreeSet<_> = events
        .iter()
        .filter(|event| event.message.starts_with("user"))
        .map(|event| (event.path[0], event.context["job"].as_str()))
        .collect();
    assert_eq!(paths, BTreeSet::from([("job", "scoped")]));
    let all = recording.all_spans();
    let job = recording.spans("job").remove(0);
    assert_eq!((job.parent, job.follows.map(|followed| all[followed].name)), (None, Some("request")));
}

/// Nothing that is measured makes a subtask do anything while it has nothing to do.
#[test]
fn subtasks_without_input_take_no_turns() {
    let (recording, subscriber) = Recording::subscriber();
    let turns = || -> usize { recording.spans("subtask").iter().map(|span| span.entered).sum() };
    let idle = async {
        let env = Environment::builder().parallelism(64).build().unwrap();
        let (numbers, _gate) = Numbers::gated(64, 1);
        env.source("numbers", numbers).rebalance().sink("out", Collect::new());
        let job = env.start_local("asleep").await.unwrap();
        running(&job).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before = turns();
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!((recording.spans("subtask").len(), turns()), (128, before));
        let idle: Duration = job.metrics().chains[1].subtasks.iter().map(|subtask| subtask.idle).sum();
        assert_eq!(idle, Duration::from_secs(64 * 3601));
        job.cancel().await.unwrap();
        assert!(turns() > before, "a turn is seen");
    };
    tracing::subscriber::with_default(subscriber, || virtual_process(idle));
}
