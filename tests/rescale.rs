//! A job stopped at a checkpoint goes on at any parallelism, with the output of a run that was never stopped.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Count, Gate, Numbers, in_time, sorted, virtual_process};
use serde::{Deserialize, Serialize};
use strandline::JobHandle;
use strandline::prelude::*;

const SPLITS: u32 = 7;
const LEN: u64 = 48;

/// Sum and number of what was added.
#[derive(Debug, Clone, Copy, Default)]
struct Mean;

impl Aggregate<u64> for Mean {
    type Acc = (u64, u64);
    type Out = u64;

    fn create(&self) -> (u64, u64) {
        (0, 0)
    }
    fn add(&self, acc: &mut (u64, u64), value: u64) {
        acc.0 += 1;
        acc.1 += value;
    }
    fn result(&self, acc: &(u64, u64)) -> u64 {
        acc.1 / acc.0.max(1)
    }
    fn merge(&self, into: &mut (u64, u64), other: (u64, u64)) {
        *into = (into.0 + other.0, into.1 + other.1);
    }
}

/// What the five states of a key hold after a record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Seen {
    key: (u32, u64),
    value: u64,
    list: Vec<u64>,
    map: Vec<(u64, u64)>,
    reduced: Option<u64>,
    mean: Option<u64>,
}

struct AllStates {
    value: ValueState<u64>,
    list: ListState<u64>,
    map: MapState<u64, u64>,
    reducing: ReducingState<u64>,
    aggregating: AggregatingState<u64, Mean>,
}

impl Operator for AllStates {
    type Key = (u32, u64);
    type Out = Seen;
}

impl Handler<(u32, u64)> for AllStates {
    fn handle(&mut self, (_, number): (u32, u64), ctx: &mut Context<'_, Self>) -> Result {
        let value = self.value.get(ctx).unwrap_or(0) * 3 + number;
        self.value.set(ctx, value);
        self.list.add(ctx, number);
        self.map.insert(ctx, number % 4, number);
        self.reducing.add(ctx, number);
        self.aggregating.add(ctx, number);
        let seen = Seen {
            key: *ctx.key(),
            value,
            list: self.list.get(ctx),
            map: sorted(self.map.iter(ctx).map(|(k, v)| (*k, *v)).collect()),
            reduced: self.reducing.get(ctx),
            mean: self.aggregating.get(ctx),
        };
        ctx.emit(seen);
        Ok(())
    }
}

/// Keeps everything to the end, in the state of the subtask.
struct Keep {
    kept: SplitListState<(u32, u64)>,
}

impl Operator for Keep {
    type Key = Unkeyed;
    type Out = (u32, u64);

    fn finish(&mut self, ctx: &mut OperatorContext<'_, Self>) -> Result {
        let kept = self.kept.get(ctx).to_vec();
        ctx.emit_iter(kept);
        Ok(())
    }
}

impl Handler<(u32, u64)> for Keep {
    fn handle(&mut self, record: (u32, u64), ctx: &mut Context<'_, Self>) -> Result {
        self.kept.add(ctx, record);
        Ok(())
    }
}

struct Outputs {
    seen: Collect<Seen>,
    kept: Collect<(u32, u64)>,
    gate: Gate,
}

impl Outputs {
    fn new() -> Self {
        Self { seen: Collect::new(), kept: Collect::new(), gate: Gate::closed() }
    }

    fn sorted(&self) -> (Vec<Seen>, Vec<(u32, u64)>) {
        (sorted(self.seen.records()), sorted(self.kept.records()))
    }
}

fn describe(env: &Environment, outputs: &Outputs) {
    let numbers = Numbers { splits: SPLITS, len: LEN, gate: outputs.gate.clone() };
    env.source("numbers", numbers)
        .key_by(|(split, number)| (*split, number % 5))
        .process("states", |setup| {
            Ok(AllStates {
                value: setup.value_state("value")?,
                list: setup.list_state("list")?,
                map: setup.map_state("map")?,
                reducing: setup.reducing_state("reducing", |sum: &mut u64, number| *sum += number)?,
                aggregating: setup.aggregating_state("aggregating", Mean)?,
            })
        })
        .sink("seen", outputs.seen.clone());
    let more = Numbers { splits: SPLITS, len: LEN, gate: outputs.gate.clone() };
    env.source("more", more)
        .process("keep", |setup| Ok(Keep { kept: setup.split_list("kept")? }))
        .sink("kept", outputs.kept.clone());
}

async fn start(storage: &Memory, parallelism: u32, outputs: &Outputs) -> JobHandle {
    let env = Environment::builder().parallelism(parallelism).storage(storage.clone()).build().unwrap();
    describe(&env, outputs);
    let job = env.start_local("rescaled").await.unwrap();
    let _ = job.status().wait_for(|status| *status == JobStatus::Running).await;
    job
}

/// Runs to each stop at the parallelism beside it, then to the end.
fn run(stops: &[(u64, u32)], last: u32) -> (Vec<Seen>, Vec<(u32, u64)>) {
    let (storage, outputs) = (Memory::new(), Outputs::new());
    for (stop, parallelism) in stops {
        virtual_process(in_time("a stop", async {
            let job = start(&storage, *parallelism, &outputs).await;
            outputs.gate.open_to(*stop);
            outputs.gate.reached(SPLITS, *stop).await;
            let taken = job.checkpoint().await.unwrap();
            assert_eq!(job.cancel().await.unwrap(), JobStatus::Cancelled);
            assert!(taken.0 > 0);
        }));
    }
    virtual_process(in_time("the end", async {
        let job = start(&storage, last, &outputs).await;
        outputs.gate.open_to(u64::MAX);
        assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
        assert_eq!(job.resumed_from().is_some(), !stops.is_empty());
    }));
    outputs.sorted()
}

#[test]
fn every_kind_of_state_moves_with_its_keys_at_any_change_of_parallelism() {
    let expected = run(&[], 1);
    assert_eq!((expected.0.len(), expected.1.len()), (336, 336));
    for order in [[1, 2, 3, 4, 7], [7, 4, 3, 2, 1], [3, 7, 1, 4, 2], [4, 1, 7, 2, 3], [2, 2, 7, 7, 1]] {
        let stops = [(9, order[0]), (17, order[1]), (30, order[2]), (41, order[3])];
        assert_eq!(run(&stops, order[4]), expected, "{order:?}");
    }
}

/// A stored job with one checkpoint: `count` with a state `seen`, max parallelism 16.
fn stored() -> Memory {
    let storage = Memory::new();
    virtual_process(in_time("a stored job", async {
        let env = builder(&storage).parallelism(2).max_parallelism(16).build().unwrap();
        let (numbers, gate) = Numbers::gated(2, 10);
        env.source("numbers", numbers)
            .key_by(|(_, number)| *number)
            .process("count", |setup| Ok(Count { seen: setup.value_state("seen")? }))
            .sink("out", Collect::new());
        let job = env.start_local("stored").await.unwrap();
        gate.open_to(5);
        gate.reached(2, 5).await;
        job.checkpoint().await.unwrap();
        job.cancel().await.unwrap();
    }));
    storage
}

fn builder(storage: &Memory) -> strandline::EnvironmentBuilder {
    Environment::builder().storage(storage.clone())
}

/// The error of starting the stored job like this, at the start or at its end.
fn error_of(env: Environment, describe: impl FnOnce(&Environment)) -> Error {
    virtual_process(in_time("a start that fails", async {
        describe(&env);
        match env.start_local("stored").await {
            Ok(job) => job.wait().await.unwrap_err(),
            Err(error) => error,
        }
    }))
}

fn same(env: &Environment) {
    env.source("numbers", Numbers::new(2, 10))
        .key_by(|(_, number)| *number)
        .process("count", |setup| Ok(Count { seen: setup.value_state("seen")? }))
        .sink("out", Collect::new());
}

#[test]
fn another_max_parallelism_is_refused() {
    let storage = stored();
    let env = builder(&storage).parallelism(2).max_parallelism(32).build().unwrap();
    let error = error_of(env, same);
    let text = error.to_string();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(text.contains("32") && text.contains("16") && text.contains("max_parallelism"), "{text}");
}

#[test]
fn more_subtasks_than_key_groups_are_refused() {
    let storage = stored();
    let error = error_of(builder(&storage).parallelism(17).build().unwrap(), same);
    let text = error.to_string();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(text.contains("17") && text.contains("16"), "{text}");

    let error = Environment::builder().parallelism(9).max_parallelism(8).build().unwrap_err();
    assert!(error.to_string().contains("parallelism 9 is more than max_parallelism 8"), "{error}");
}

/// A parallelism that nobody set must not exceed a max parallelism that somebody set, and a source may not have more
/// subtasks at the first start than a later start would refuse.
#[test]
fn the_bound_holds_from_the_first_start_and_for_every_chain() {
    let error =
        error_of(Environment::builder().max_parallelism(1).storage(Memory::new()).build().unwrap(), |env| {
            env.source("numbers", Wide(3, Gate::open())).sink("out", Collect::new());
        });
    let text = error.to_string();
    assert_eq!(error.kind(), ErrorKind::Configuration, "{text}");
    assert!(text.contains("parallelism 3") && text.contains('1'), "{text}");

    let storage = Memory::new();
    for end in [JobStatus::Cancelled, JobStatus::Finished] {
        virtual_process(in_time("a wide source", async {
            let env = Environment::builder().parallelism(1).storage(storage.clone()).build().unwrap();
            let gate = if end == JobStatus::Cancelled { Gate::closed() } else { Gate::open() };
            env.source("numbers", Wide(200, gate)).sink("out", Collect::new());
            let job = env.start_local("wide").await.unwrap();
            let _ = job.status().wait_for(|status| *status == JobStatus::Running).await;
            if end == JobStatus::Cancelled {
                job.checkpoint().await.unwrap();
                assert_eq!(job.cancel().await.unwrap(), end);
            } else {
                assert_eq!(job.wait().await.unwrap(), end);
            }
        }));
    }
}

/// Numbers read by so many subtasks, whatever the job's parallelism.
#[derive(Clone)]
struct Wide(u32, Gate);

impl Source for Wide {
    type Record = (u32, u64);
    type Split = common::NumberSplit;
    type Reader = common::NumbersReader;

    fn parallelism(&self) -> Option<u32> {
        Some(self.0)
    }
    async fn splits(&self, restored: Option<Vec<common::NumberSplit>>) -> Result<Vec<common::NumberSplit>> {
        Numbers::new(2, 10).splits(restored).await
    }
    fn reader(
        &self,
        splits: Vec<common::NumberSplit>,
        context: &strandline::SubtaskContext,
    ) -> Result<common::NumbersReader> {
        Numbers { splits: 2, len: 10, gate: self.1.clone() }.reader(splits, context)
    }
}

#[test]
fn state_of_an_operator_that_is_gone_is_refused_unless_allowed() {
    let without = |env: &Environment| {
        env.source("numbers", Numbers::new(2, 10)).sink("out", Collect::new());
    };
    let storage = stored();
    let error = error_of(builder(&storage).parallelism(2).build().unwrap(), without);
    let text = error.to_string();
    assert_eq!(error.kind(), ErrorKind::Program);
    assert!(text.contains("operator `count`") && text.contains("allow_non_restored_state"), "{text}");

    virtual_process(in_time("dropping the state", async {
        let env = builder(&storage).parallelism(2).allow_non_restored_state().build().unwrap();
        let out = Collect::new();
        env.source("numbers", Numbers::new(2, 10)).sink("out", out.clone());
        let job = env.start_local("stored").await.unwrap();
        assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
        assert_eq!(out.len(), 10, "the positions were kept");
    }));
}

#[test]
fn a_changed_state_type_is_refused_by_name_with_both_types() {
    struct Changed {
        _seen: ValueState<String>,
    }
    impl Operator for Changed {
        type Key = u64;
        type Out = u64;
    }
    impl Handler<(u32, u64)> for Changed {
        fn handle(&mut self, _: (u32, u64), _: &mut Context<'_, Self>) -> Result {
            Ok(())
        }
    }
    let storage = stored();
    let error = error_of(builder(&storage).parallelism(2).build().unwrap(), |env| {
        env.source("numbers", Numbers::new(2, 10))
            .key_by(|(_, number)| *number)
            .process("count", |setup| Ok(Changed { _seen: setup.value_state("seen")? }))
            .sink("out", Collect::new());
    });
    let text = error.to_string();
    assert_eq!(error.kind(), ErrorKind::Program, "{text}");
    for part in ["`seen`", "`u64`", "`str`", "operator `count`"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // Nothing was lost by the attempt.
    virtual_process(in_time("the old program", async {
        let env = builder(&storage).parallelism(3).build().unwrap();
        same(&env);
        let job = env.start_local("stored").await.unwrap();
        assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
        assert!(job.resumed_from().is_some());
    }));
}
