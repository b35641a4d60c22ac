//! Rules of checkpoints that only a whole job shows; the others are tests of the coordinator.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use common::{
    Fuse, Gate, Numbers, expected_counts, in_time, quiet_panics, running, sorted, tree, virtual_process,
};
use serde::{Deserialize, Serialize, Serializer};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use strandline::prelude::*;
use strandline::storage::{Fault, FaultyDisk, Injection, MemoryDisk, OnDisk, Operation, SharedDisk, Traced};
use strandline::types::{Attempt, CheckpointId};

const LEN: u64 = 40;

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// Waits until virtual time has gone on, and all that can happen meanwhile has happened.
async fn later(by: Duration) {
    tokio::time::sleep(by).await;
}

fn on(disk: SharedDisk) -> OnDisk {
    OnDisk::new(disk, "checkpoints")
}

fn events(job: &JobHandle) -> impl FnMut() -> Vec<String> + use<> {
    let mut events = job.events();
    move || std::iter::from_fn(|| events.try_recv().ok()).map(|event| format!("{event:?}")).collect()
}

/// One input goes on at once after its barrier, the other's barrier comes only behind a hundred times what the channels hold.
#[test]
fn s2_9_without_an_interval_a_checkpoint_aligns_all_the_same() {
    const MANY: u64 = 400_000;
    let storage = Memory::new();
    let life = |gates: [Gate; 2]| {
        let env = Environment::builder().parallelism(1).storage(storage.clone()).build().unwrap();
        let [fast, slow] = gates;
        let out = Collect::new();
        let fast = env.source("fast", Numbers { splits: 1, len: MANY, gate: fast }).map(|(_, n)| (0_u64, n));
        let slow = env
            .source("slow", Numbers { splits: 1, len: 2, gate: slow })
            .flat_map(|(_, n)| (0..MANY / 2).map(move |i| (1_u64, n * MANY / 2 + i)));
        fast.union(slow)
            .key_by(|(input, _)| *input)
            .map_with_state("count", |(input, n), seen: Option<u64>| {
                let seen = seen.unwrap_or(0) + 1;
                ((input, n, seen), Some(seen))
            })
            .filter(|(_, n, _)| *n == MANY - 1)
            .sink("out", out.clone());
        (env, out)
    };
    virtual_process(in_time("the first life", async {
        let gates = [Gate::closed(), Gate::closed()];
        let (env, _) = life(gates.clone());
        let job = env.start_local("aligns").await.unwrap();
        running(&job).await;
        gates[1].open_to(1);
        gates[0].open_to(MANY - 1);
        assert_eq!(job.checkpoint().await.unwrap(), CheckpointId(1));
        job.cancel().await.unwrap();
    }));
    virtual_process(in_time("the second life", async {
        let (env, out) = life([Gate::open(), Gate::open()]);
        let job = env.start_local("aligns").await.unwrap();
        assert_eq!(job.resumed_from(), Some(CheckpointId(1)));
        job.wait().await.unwrap();
        assert_eq!(
            sorted(out.records()),
            [(0, MANY - 1, MANY), (1, MANY - 1, MANY)],
            "each record counted once"
        );
    }));
}

/// Fails when it is encoded, once: in the synchronous part, as it is an operator state.
#[derive(Debug, Clone, Default)]
struct Explosive(Option<Fuse>);

impl Serialize for Explosive {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        assert!(!self.0.as_ref().is_some_and(Fuse::goes_off), "injected while it is encoded");
        serializer.serialize_unit()
    }
}

impl<'de> Deserialize<'de> for Explosive {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <()>::deserialize(deserializer).map(|()| Self::default())
    }
}

struct Holds {
    state: SplitListState<Explosive>,
    fuse: Fuse,
}

impl Operator for Holds {
    type Key = Unkeyed;
    type Out = (u32, u64);

    fn open(&mut self, ctx: &mut OperatorContext<'_, Self>) -> Result {
        self.state.set(ctx, [Explosive(Some(self.fuse.clone()))]);
        Ok(())
    }
}

impl Handler<(u32, u64)> for Holds {
    fn handle(&mut self, record: (u32, u64), ctx: &mut Context<'_, Self>) -> Result {
        ctx.emit(record);
        Ok(())
    }
}

#[test]
fn s4_8_an_error_in_the_synchronous_part_restarts_whatever_is_tolerated() {
    quiet_panics();
    virtual_process(in_time("a panic while a state is frozen", async {
        let env = Environment::builder()
            .parallelism(1)
            .checkpointing(Checkpointing::every(secs(3600)).tolerable_failures(u32::MAX))
            .storage(Memory::new())
            .restart(RestartStrategy::fixed_delay(1, secs(1)))
            .build()
            .unwrap();
        let (numbers, gate) = Numbers::gated(1, LEN);
        let (fuse, out) = (Fuse::after(0), Collect::new());
        env.source("numbers", numbers)
            .process("holds", move |setup| {
                Ok(Holds { state: setup.split_list("state")?, fuse: fuse.clone() })
            })
            .sink("out", out.clone());
        let job = env.start_local("sync-part").await.unwrap();
        let mut seen = events(&job);
        running(&job).await;
        let error = job.checkpoint().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Failed, "{error}");
        running(&job).await;
        assert!(job.checkpoint().await.unwrap() > CheckpointId(1));
        gate.open_to(u64::MAX);
        assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
        let told = seen().join("\n");
        assert!(told.contains("Restarting") && told.contains("holds"), "{told}");
        assert_eq!(sorted(out.records()), (0..LEN).map(|n| (0, n)).collect::<Vec<_>>());
    }));
}

#[test]
fn s4_8_an_error_in_the_asynchronous_part_declines_and_the_job_goes_on() {
    virtual_process(in_time("a state file that cannot be written", async {
        let fault = Injection::of(Fault::NoEffect).on([Operation::Create]).at_path("state-").at(1);
        let disk: SharedDisk = Arc::new(FaultyDisk::new(Arc::new(MemoryDisk::new())).failing(fault));
        let env = Environment::builder()
            .parallelism(2)
            .checkpointing(Checkpointing::every(secs(3600)).tolerable_failures(1))
            .storage(on(disk))
            .build()
            .unwrap();
        let (numbers, gate) = Numbers::gated(2, LEN);
        let out = Collect::new();
        env.source("numbers", numbers)
            .key_by(|(_, number)| number % 4)
            .process("count", |setup| Ok(common::Count { seen: setup.value_state("seen")? }))
            .sink("out", out.clone());
        let job = env.start_local("async-part").await.unwrap();
        let mut seen = events(&job);
        running(&job).await;
        let error = job.checkpoint().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Storage, "{error}");
        assert_eq!(job.checkpoint().await.unwrap(), CheckpointId(2));
        gate.open_to(u64::MAX);
        assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
        let told = seen().join("\n");
        assert!(told.contains("CheckpointFailed") && !told.contains("Restarting"), "{told}");
        assert_eq!(sorted(out.records()), expected_counts(2, LEN, 4));
    }));
}

#[test]
fn s3_2_and_13_5_a_declined_checkpoint_leaves_no_file_however_slowly_the_others_write() {
    virtual_process(in_time("one fails, the others take 20 s", async {
        let inner: SharedDisk = Arc::new(MemoryDisk::new());
        let slow = Injection::of(Fault::Slow(secs(20))).on([Operation::Write]).at_path("chk-1-g1/state-");
        let fails = Injection::of(Fault::NoEffect).on([Operation::Create]).at_path("chk-1-g1/state-").at(1);
        let faulty = FaultyDisk::new(Arc::clone(&inner)).failing(fails).failing(slow).traced();
        let disk: SharedDisk = Arc::new(faulty.clone());
        let env = Environment::builder()
            .parallelism(2)
            .checkpointing(Checkpointing::every(secs(3600)).tolerable_failures(u32::MAX))
            .storage(on(disk))
            .build()
            .unwrap();
        let (numbers, gate) = Numbers::gated(2, LEN);
        env.source("numbers", numbers)
            .key_by(|(_, number)| number % 4)
            .process("count", |setup| Ok(common::Count { seen: setup.value_state("seen")? }))
            .sink("out", Collect::new());
        let job = env.start_local("declined").await.unwrap();
        running(&job).await;
        gate.open_to(LEN / 2);
        gate.reached(2, LEN / 2).await;
        job.checkpoint().await.unwrap_err();
        // Long before what was slow would have been done.
        assert_eq!(job.checkpoint().await.unwrap(), CheckpointId(2));
        later(secs(60)).await;
        let files: Vec<_> = tree(&*inner, Path::new("checkpoints")).await.into_keys().collect();
        let of_the_first: Vec<_> =
            files.iter().filter(|path| path.to_string_lossy().contains("chk-1-")).collect();
        assert!(of_the_first.is_empty(), "{files:?}");
        let trace = faulty.trace();
        let written = |step: &&Traced| {
            step.operation == Operation::Sync && step.path.to_string_lossy().contains("chk-1-")
        };
        assert_eq!(
            trace.iter().find(written).map(|step| &step.path),
            None,
            "what was given up was written on"
        );
        job.cancel().await.unwrap();
    }));
}

#[test]
fn s2_4_periodic_checkpoints_stop_and_start_on_demand() {
    virtual_process(in_time("a schedule that is stopped", async {
        let env = Environment::builder()
            .parallelism(1)
            .checkpointing(Checkpointing::every(secs(10)).min_pause(secs(4)))
            .storage(Memory::new())
            .build()
            .unwrap();
        let (numbers, _gate) = Numbers::gated(1, LEN);
        env.source("numbers", numbers).sink("out", Collect::new());
        let job = env.start_local("scheduled").await.unwrap();
        running(&job).await;
        assert!(job.is_periodic_started());
        later(secs(35)).await;
        let before = job.metrics().checkpoints.completed;
        assert!((3..=4).contains(&before), "{before}");
        job.stop_periodic_checkpoints().await.unwrap();
        assert!(!job.is_periodic_started());
        later(secs(50)).await;
        assert_eq!(job.metrics().checkpoints.started, before);
        job.checkpoint().await.unwrap();
        job.start_periodic_checkpoints().await.unwrap();
        assert!(job.is_periodic_started());
        later(secs(5)).await;
        assert_eq!(job.metrics().checkpoints.completed, before + 2, "one by hand, one after the min pause");
        job.cancel().await.unwrap();
        assert!(!job.is_periodic_started());
        assert_eq!(job.stop_periodic_checkpoints().await.unwrap_err().kind(), ErrorKind::Cancelled);
    }));
}

/// `Attempt` and `CheckpointId` of the newest attempt, as the events tell it.
fn newest(told: &[JobEvent]) -> Option<(Attempt, Option<CheckpointId>)> {
    told.iter().rev().find_map(|event| match event {
        JobEvent::Running { attempt, from } => Some((*attempt, *from)),
        _ => None,
    })
}

#[test]
fn s3_6_a_commit_under_way_when_a_subtask_fails_decides_where_the_restart_begins() {
    quiet_panics();
    virtual_process(in_time("a failure amid a commit", async {
        let slow = Injection::of(Fault::Slow(secs(30))).on([Operation::Publish]).at_path("/log/").from(2);
        let disk: SharedDisk = Arc::new(FaultyDisk::new(Arc::new(MemoryDisk::new())).failing(slow));
        let env = Environment::builder()
            .parallelism(1)
            .checkpointing(Checkpointing::every(secs(3600)))
            .storage(on(disk))
            .restart(RestartStrategy::fixed_delay(1, Duration::ZERO))
            .build()
            .unwrap();
        let (numbers, gate) = Numbers::gated(1, LEN);
        let (fuse, out) = (Fuse::after(10), Collect::new());
        env.source("numbers", numbers)
            .inspect(move |_| assert!(!fuse.goes_off(), "injected"))
            .sink("out", out.clone());
        let job = env.start_local("amid").await.unwrap();
        let mut heard = job.events();
        running(&job).await;
        let asked = tokio::task::spawn_local({
            let job = job.clone();
            async move { job.checkpoint().await }
        });
        later(secs(10)).await;
        gate.open_to(u64::MAX);
        assert_eq!(asked.await.unwrap().unwrap(), CheckpointId(1));
        assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
        let told: Vec<JobEvent> = std::iter::from_fn(|| heard.try_recv().ok()).collect();
        assert_eq!(newest(&told), Some((Attempt(1), Some(CheckpointId(1)))), "{told:?}");
        assert_eq!(sorted(out.records()), (0..LEN).map(|n| (0, n)).collect::<Vec<_>>());
    }));
}
