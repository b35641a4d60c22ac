//! A slow sink holds back its sources: what is under way is bounded by the channels, whatever the topology, and checkpoints complete.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use common::{Gate, Numbers, in_time, running, virtual_process};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use strandline::prelude::*;
use strandline::storage::{Fault, FaultyDisk, MemoryDisk, OnDisk};
use strandline::{BoxFuture, SinkWriter, SubtaskContext};

/// Batches that a channel holds, and one in hand on each side.
const DEPTH: u64 = 8 + 2;
const BATCH: u64 = 1024;

/// Counts records between two points, and the most there ever were.
#[derive(Debug, Clone, Default)]
struct UnderWay(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    entered: AtomicU64,
    left: AtomicU64,
    most: AtomicU64,
}

impl UnderWay {
    fn enter(&self) {
        let entered = self.0.entered.fetch_add(1, Ordering::SeqCst) + 1;
        let now = entered.saturating_sub(self.0.left.load(Ordering::SeqCst));
        self.0.most.fetch_max(now, Ordering::SeqCst);
    }

    fn leave(&self, records: u64) {
        self.0.left.fetch_add(records, Ordering::SeqCst);
    }

    fn entered(&self) -> u64 {
        self.0.entered.load(Ordering::SeqCst)
    }

    fn left(&self) -> u64 {
        self.0.left.load(Ordering::SeqCst)
    }

    fn most(&self) -> u64 {
        self.0.most.load(Ordering::SeqCst)
    }
}

/// Takes a second for each hundred records, where the rest of the job takes none.
#[derive(Clone)]
struct Slow(UnderWay);

impl Sink<(u32, u64)> for Slow {
    type Commit = ();
    type Writer = SlowWriter;

    fn writer(&self, _: &SubtaskContext) -> Result<SlowWriter> {
        Ok(SlowWriter { held: 0, under_way: self.0.clone() })
    }
}

struct SlowWriter {
    held: u64,
    under_way: UnderWay,
}

impl SinkWriter<(u32, u64)> for SlowWriter {
    type Commit = ();

    fn write(&mut self, _: (u32, u64)) -> Result {
        self.held += 1;
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.held >= 100
    }

    async fn flush(&mut self) -> Result {
        tokio::time::sleep(Duration::from_millis(self.held * 10)).await;
        self.under_way.leave(std::mem::take(&mut self.held));
        Ok(())
    }

    fn prepare(&mut self) -> Result<BoxFuture<Result<Vec<()>>>> {
        self.under_way.leave(std::mem::take(&mut self.held));
        Ok(Box::pin(std::future::ready(Ok(Vec::new()))))
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Topology {
    Fused,
    Forward,
    Shuffled,
    ShuffledTwice,
}

/// Runs so many records from 2 splits into slow sinks, with checkpoints on the way if `checkpointed`.
fn run(topology: Topology, records: u64, checkpointed: bool) -> UnderWay {
    let under_way = UnderWay::default();
    virtual_process(async {
        let mut env = Environment::builder().parallelism(2);
        if checkpointed {
            env = env.storage(Memory::new());
        }
        let env = env.build().unwrap();
        let seen = under_way.clone();
        let stream = env.source("numbers", Numbers::new(2, records / 2)).inspect(move |_| seen.enter());
        let sink = Slow(under_way.clone());
        match topology {
            Topology::Fused => stream.sink("slow", sink),
            Topology::Forward => stream.start_new_chain().sink("slow", sink),
            Topology::Shuffled => stream.rebalance().sink("slow", sink),
            Topology::ShuffledTwice => stream
                .key_by(|(_, number)| *number)
                .reduce("last", |last, record| *last = record)
                .rebalance()
                .sink("slow", sink),
        }
        let job = env.start_local("slow").await.unwrap();
        running(&job).await;
        if checkpointed {
            for _ in 0..3 {
                let before = under_way.left();
                job.checkpoint().await.unwrap();
                assert!(under_way.left() > before, "{topology:?}: a barrier passes records");
            }
            assert!(under_way.left() < records, "{topology:?}: the checkpoints were not just the last one");
        }
        assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
    });
    assert_eq!((under_way.entered(), under_way.left()), (records, records), "{topology:?}");
    under_way
}

#[test]
fn what_is_under_way_is_bounded_and_checkpoints_complete() {
    for (topology, channels) in
        [(Topology::Fused, 0), (Topology::Forward, 2), (Topology::Shuffled, 4), (Topology::ShuffledTwice, 8)]
    {
        let under_way = run(topology, 400_000, true);
        // And what the two sinks hold, and what the two sources read before they look up.
        let bound = channels * DEPTH * BATCH + 2 * 100 + 2 * 256;
        println!("{topology:?}: at most {} under way, bound {bound}", under_way.most());
        assert!(under_way.most() <= bound, "{topology:?}: {} under way", under_way.most());
    }
}

/// At the end of a source its channels are still full: nothing of that may be lost when nobody waits for a final checkpoint.
#[test]
fn without_checkpoints_a_slow_sink_still_gets_everything() {
    for topology in [Topology::Fused, Topology::Forward, Topology::Shuffled, Topology::ShuffledTwice] {
        run(topology, 60_000, false);
    }
}

/// The younger of two checkpoints is given up while the barrier of the older one still waits behind records.
#[test]
fn a_checkpoint_completes_although_a_younger_one_was_aborted() {
    let (files, mut made) = (MemoryDisk::new(), 0);
    for point in 1..20 {
        let disk = FaultyDisk::new(Arc::new(files.clone())).fail_once_at(point, Fault::NoEffect);
        let under_way = UnderWay::default();
        virtual_process(in_time("two checkpoints", async {
            let env = Environment::builder()
                .parallelism(2)
                .storage(OnDisk::new(Arc::new(disk), format!("{point}")))
                .checkpointing(
                    Checkpointing::every(Duration::from_secs(100_000))
                        .max_concurrent(2)
                        .timeout(Duration::from_secs(90_000))
                        .tolerable_failures(u32::MAX),
                )
                .seed(1)
                .build()
                .unwrap();
            let (numbers, gate) = Numbers::gated(2, 10_000);
            env.source("numbers", numbers).rebalance().sink("slow", Slow(under_way.clone()));
            let Ok(job) = env.start_local("two").await else { return };
            running(&job).await;
            gate.open_to(2_000);
            gate.reached(2, 2_000).await;
            let (older, younger) = futures::join!(job.checkpoint(), job.checkpoint());
            if younger.is_err() && older.is_ok() {
                made += 1;
            }
            assert!(
                older.is_ok() || younger.is_ok(),
                "{point}: one failure, one checkpoint: {older:?} {younger:?}"
            );
            let _ = job.cancel().await;
        }));
    }
    assert!(made > 0, "the younger one never failed");
}

const EXPLOSION: u64 = 10_000_000;

/// One record becomes ten million. Everything on one thread, so that bounds are exact.
#[test]
fn an_explosion_runs_in_bounded_memory_and_a_checkpoint_waits_for_its_end() {
    let (made, taken) = (UnderWay::default(), UnderWay::default());
    virtual_process(async {
        let env = Environment::builder().parallelism(1).storage(Memory::new()).build().unwrap();
        let (enter, leave, count) = (made.clone(), made.clone(), taken.clone());
        let (numbers, gate) = Numbers::gated(1, 2);
        env.source("one", numbers)
            .flat_map(move |_| {
                let enter = enter.clone();
                (0..EXPLOSION).inspect(move |_| enter.enter())
            })
            .rebalance()
            .filter(move |number| {
                leave.leave(1);
                *number == EXPLOSION - 1
            })
            .inspect(move |_| count.enter())
            .sink("last", Collect::new());
        let job = env.start_local("explosion").await.unwrap();
        running(&job).await;
        gate.open_to(1);
        while made.left() == 0 {
            tokio::task::yield_now().await;
        }
        assert!(made.left() < EXPLOSION / 2, "a turn ends in the middle of an explosion");
        job.checkpoint().await.unwrap();
        assert_eq!((made.left(), taken.entered()), (EXPLOSION, 1), "the barrier comes behind all of it");
        assert_eq!(job.cancel().await.unwrap(), JobStatus::Cancelled);
    });
    println!("at most {} under way", made.most());
    assert!(made.most() <= DEPTH * BATCH, "{} under way", made.most());
}

/// With nothing to hold it back an endless iterator must not keep its thread for itself.
#[test]
fn an_endless_explosion_can_be_cancelled() {
    for by_operator in [false, true] {
        virtual_process(in_time("cancel", async {
            let env = Environment::builder().parallelism(1).storage(Memory::new()).build().unwrap();
            let numbers = Numbers { splits: 1, len: 1, gate: Gate::open() };
            let made = UnderWay::default();
            let count = made.clone();
            let stream = env.source("one", numbers);
            let drop_all = move |_: &u64| {
                count.enter();
                false
            };
            if by_operator {
                stream.process("endless", |_| Ok(Endless)).filter(drop_all).sink("none", Collect::new());
            } else {
                stream.flat_map(|_| 0_u64..).filter(drop_all).sink("none", Collect::new());
            }
            let job = env.start_local("endless").await.unwrap();
            running(&job).await;
            while made.entered() < 100_000 {
                tokio::task::yield_now().await;
            }
            assert_eq!(job.cancel().await.unwrap(), JobStatus::Cancelled);
        }));
    }
}

struct Endless;

impl Operator for Endless {
    type Key = Unkeyed;
    type Out = u64;
}

impl Handler<(u32, u64)> for Endless {
    fn handle(&mut self, _: (u32, u64), ctx: &mut Context<'_, Self>) -> Result {
        ctx.emit_iter(0_u64..);
        Ok(())
    }
}
