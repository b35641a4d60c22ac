//! What operators emit at the end of the input appears exactly once, whenever a checkpoint comes and a failure follows.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use common::virtual_process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use strandline::prelude::*;
use strandline::types::CheckpointId;

const EMITTED: u64 = 100_000;

/// Emits in `finish` far more than there is room for, and fails when it first hears of a checkpoint taken since.
struct Tail {
    emitted: Arc<AtomicBool>,
    failed: Arc<AtomicBool>,
}

impl Operator for Tail {
    type Key = Unkeyed;
    type Out = u64;

    fn finish(&mut self, ctx: &mut OperatorContext<'_, Self>) -> Result {
        ctx.emit_iter(0..EMITTED);
        self.emitted.store(true, Ordering::SeqCst);
        Ok(())
    }

    fn on_complete(&mut self, _: CheckpointId) -> Result {
        if self.emitted.load(Ordering::SeqCst) && !self.failed.swap(true, Ordering::SeqCst) {
            return Err("once".into());
        }
        Ok(())
    }
}

impl Handler<u64> for Tail {
    fn handle(&mut self, _: u64, _: &mut Context<'_, Self>) -> Result {
        Ok(())
    }
}

/// A trigger that arrives while `finish` emits: a checkpoint taken amid that would hold the output, but not that `finish` has
/// run, and a restore from it would emit everything again.
#[test]
fn what_finish_emits_is_not_emitted_again_after_a_restore() {
    let out = Collect::new();
    let (emitted, failed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let env = Environment::builder()
        .parallelism(1)
        .checkpointing(Checkpointing::every(Duration::from_secs(100_000_000)))
        .restart(RestartStrategy::fixed_delay(1, Duration::ZERO))
        .build()
        .unwrap();
    let (has_emitted, has_failed) = (Arc::clone(&emitted), Arc::clone(&failed));
    env.source("numbers", Iter::new(0..10_u64))
        .process("tail", move |_| {
            Ok(Tail { emitted: Arc::clone(&has_emitted), failed: Arc::clone(&has_failed) })
        })
        .rebalance()
        .sink("out", out.clone());
    virtual_process(async {
        let job = env.start_local("finish-once").await.unwrap();
        while !emitted.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        // On one thread the trigger arrives long before the iterator is used up.
        let _ = job.checkpoint().await;
        job.wait().await.unwrap();
    });
    assert!(failed.load(Ordering::SeqCst));
    let mut records = out.records();
    records.sort_unstable();
    assert_eq!(records.len(), EMITTED as usize);
    assert!(records.into_iter().eq(0..EMITTED));
}
