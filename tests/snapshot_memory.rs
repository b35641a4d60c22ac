//! What changes before a checkpoint has got to it waits in memory: so much of it, and no more.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Gate, Numbers, in_time, on_request, sorted, virtual_process};
use strandline::prelude::*;
use strandline::types::{CheckpointId, Timestamp};
use strandline::{Checkpointed, Checkpointing, Error, JobMetrics};

const KEYS: u64 = 100_000;
const ROUNDS: u64 = 2;

/// Counts, and lets the records come that change everything as soon as its state is fixed for a checkpoint.
struct Count {
    seen: ValueState<u64>,
    gate: Gate,
}

impl Operator for Count {
    type Key = u64;
    type Out = (u64, u64);
}

impl Handler<(u32, u64)> for Count {
    fn handle(&mut self, _: (u32, u64), ctx: &mut Context<'_, Self>) -> Result {
        let n = self.seen.update(ctx, |n| {
            *n += 1;
            *n
        });
        ctx.emit((*ctx.key(), n));
        Ok(())
    }
}

impl Checkpointed for Count {
    type State = ();

    fn snapshot(&mut self, _: CheckpointId, _: Timestamp) -> Result {
        self.gate.open_to(u64::MAX);
        Ok(())
    }

    fn restore(&mut self, (): ()) -> Result {
        Ok(())
    }
}

/// What becomes of a checkpoint that is asked for while all keys change, and of the job.
fn checkpoint_amid_changes(checkpointing: Checkpointing) -> (Result<(), Error>, JobMetrics, Vec<(u64, u64)>) {
    virtual_process(async {
        let env = Environment::builder().parallelism(1).checkpointing(checkpointing);
        let env = env.storage(Memory::default()).build().unwrap();
        let (numbers, gate) = Numbers::gated(1, KEYS * ROUNDS);
        let out = Collect::new();
        env.source("numbers", numbers)
            .key_by(|(_, number)| number % KEYS)
            .process("count", {
                let gate = gate.clone();
                move |setup| Ok(Count { seen: setup.value_state("seen")?, gate: gate.clone() })
            })
            .checkpointed()
            .filter(|(_, n)| *n == ROUNDS)
            .sink("out", out.clone());
        let job = env.start_local("memory").await.unwrap();
        gate.open_to(KEYS);
        gate.reached(1, KEYS).await;
        let taken = job.checkpoint().await.map(drop);
        in_time("the end of the job", job.wait()).await.unwrap();
        (taken, job.metrics(), sorted(out.records()))
    })
}

#[test]
fn a_checkpoint_that_needs_more_is_declined_and_the_job_goes_on() {
    let all: Vec<(u64, u64)> = (0..KEYS).map(|key| (key, ROUNDS)).collect();
    for (limit, fits) in [(1 << 30, true), (4_000, false)] {
        let settings = on_request().tolerable_failures(1).snapshot_memory(limit);
        let (taken, metrics, written) = checkpoint_amid_changes(settings);
        assert_eq!(taken.is_ok(), fits, "{limit}: {taken:?}");
        if let Err(error) = taken {
            let error = format!("{error:?}");
            for part in ["snapshot_memory", "4000 bytes", "`seen`", "count"] {
                assert!(error.contains(part), "`{part}` is missing in {error}");
            }
        }
        assert_eq!((metrics.restarts, metrics.checkpoints.failed), (0, u64::from(!fits)), "{limit}");
        assert_eq!(written, all, "{limit}");
    }
}
