//! How long a restart takes, state aside: 64 subtasks torn down and built up again.
//!
//! ```console
//! $ cargo bench --bench restart            # 200 restarts
//! $ cargo bench --bench restart -- 1000    # as many as you like
//! ```
//!
//! One source subtask, and 63 that it would deal its records out to, on two threads, without checkpoints and with a delay of zero.
//! In each attempt the last operator that is opened fails. `RESTART`: from there to the same moment of the next attempt, so until every subtask was
//! stopped, dropped, wired, built and opened. The aim is a median of at most 5 ms.

#![allow(clippy::disallowed_methods)] // it measures, by the machine's clock

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use strandline::prelude::*;

const SUBTASKS: u32 = 64;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result {
    // `cargo bench` adds options of its own.
    let restarts = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(200_u32);
    let env = Environment::builder()
        .parallelism(SUBTASKS - 1)
        .workers(2)
        .restart(RestartStrategy::fixed_delay(restarts, Duration::ZERO))
        .build()?;
    let opened = Opened::default();
    let (first, others) = (opened.clone(), opened.clone());
    let (_ingest, source) = Ingest::bounded(1); // gives nothing
    env.source("source", source)
        .process("first", move |_| Ok(first.clone()))
        .rebalance()
        .process("others", move |_| Ok(others.clone()))
        .sink("none", Collect::new());
    let job = env.start("restart").await?;
    let Err(error) = job.wait().await else { return Err("it ended without an error".into()) };
    let mut took = opened.0.lock().unwrap_or_else(PoisonError::into_inner).took.clone();
    if took.len() != restarts as usize {
        return Err(format!("{} restarts instead of {restarts}: {error}", took.len()).into());
    }
    took.sort_unstable();
    let at = |percent: usize| took.get(took.len() * percent / 100).map_or(0, Duration::as_micros);
    let (median, p90, p99) = (at(50), at(90), at(99));
    println!("RESTART subtasks={SUBTASKS} n={restarts} median_us={median} p90_us={p90} p99_us={p99}");
    Ok(())
}

/// Of all subtasks together.
#[derive(Clone, Default)]
struct Opened(Arc<Mutex<Attempts>>);

#[derive(Default)]
struct Attempts {
    /// How many operators of this attempt are open.
    open: u32,
    /// When the attempt before it failed.
    failed: Option<Instant>,
    took: Vec<Duration>,
}

impl Operator for Opened {
    type Key = Unkeyed;
    type Out = u64;

    fn open(&mut self, _: &mut OperatorContext<'_, Self>) -> Result {
        let mut attempts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        attempts.open += 1;
        if attempts.open < SUBTASKS {
            return Ok(());
        }
        let now = Instant::now();
        let took = attempts.failed.map(|failed| now - failed);
        attempts.took.extend(took);
        attempts.open = 0;
        attempts.failed = Some(now);
        Err("the last one".into())
    }
}

impl Handler<u64> for Opened {
    fn handle(&mut self, number: u64, ctx: &mut Context<'_, Self>) -> Result {
        ctx.emit(number);
        Ok(())
    }
}
