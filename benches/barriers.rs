//! How long a checkpoint takes while every channel is full: barriers that wait their turn, and barriers that overtake.
//!
//! ```console
//! $ cargo bench --bench barriers             # 5 checkpoints of each kind
//! $ cargo bench --bench barriers -- 20       # as many as you like
//! ```
//!
//! Three exchanges in a row between two subtasks each, channels 64 batches deep, and a sink that takes 100 µs for a batch; checkpoints in
//! memory. `CHECKPOINT` is the time from the request to its completion, of the median, the shortest and the longest. `LONGEST` is where it
//! goes: the medians of each part of the subtask that took longest over it, of the last acknowledgement, and of the commit after that
//! (start delays are in whole milliseconds of the wall clock). The last line,
//! `RATIO`, is the median of the one divided by that of the other.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::expect_used)] // it measures, by the machine's clock

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use strandline::checkpoint::{CheckpointStatistics, SubtaskRecord};
use strandline::prelude::*;

const DEPTH: u32 = 64;
const BATCH: u64 = 1024;
const PER_BATCH: Duration = Duration::from_micros(100);
const SUBTASKS: u32 = 2;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result {
    // `cargo bench` adds options of its own.
    let checkpoints = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(5);
    let never = Checkpointing::every(Duration::from_secs(1_000_000));
    let aligned = measure("aligned", never.clone(), checkpoints).await?;
    let unaligned = measure("unaligned", never.unaligned(), checkpoints).await?;
    println!("RATIO unaligned/aligned {:.3}", unaligned.as_secs_f64() / aligned.as_secs_f64());
    Ok(())
}

/// The median of so many checkpoints.
async fn measure(mode: &str, checkpointing: Checkpointing, checkpoints: usize) -> Result<Duration> {
    let env = Environment::builder()
        .parallelism(SUBTASKS)
        .channel_depth(DEPTH)
        .checkpointing(checkpointing)
        .build()?;
    let seen = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&seen);
    env.source("numbers", Iter::new(0_u64..))
        .rebalance()
        .map(|number| number + 1)
        .key_by(|number| number % 1000)
        .reduce("last", |last, number| *last = number)
        .rebalance()
        .inspect(move |_| {
            if count.fetch_add(1, Ordering::Relaxed).is_multiple_of(BATCH) {
                std::thread::sleep(PER_BATCH);
            }
        })
        .filter(|_| false)
        .sink("slow", Collect::new());
    let job = env.start(&format!("barriers-{mode}")).await?;
    // Until every channel is full.
    let full = u64::from(DEPTH * SUBTASKS * SUBTASKS) * BATCH * 4;
    while seen.load(Ordering::Relaxed) < full {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut took = Vec::new();
    let mut parts = Parts::default();
    for _ in 0..checkpoints {
        let began = Instant::now();
        job.checkpoint().await?;
        took.push(began.elapsed());
        parts.add(&job.checkpoint_stats());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    job.cancel().await?;
    took.sort_unstable();
    let median = took.get(took.len() / 2).copied().unwrap_or_default();
    let bounds = (took.first().copied().unwrap_or_default(), took.last().copied().unwrap_or_default());
    println!(
        "CHECKPOINT {mode} n={checkpoints} median={median:.2?} least={:.2?} most={:.2?}",
        bounds.0, bounds.1
    );
    println!("LONGEST {mode} {parts}");
    Ok(median)
}

/// Of each checkpoint the subtask that took longest over each part; shown are the medians.
#[derive(Default)]
struct Parts([Vec<Duration>; 5]);

impl Parts {
    fn add(&mut self, stats: &CheckpointStatistics) {
        let Some(record) = &stats.latest_completed else { return };
        let longest = |part: fn(&SubtaskRecord) -> Duration| record.acknowledged.iter().map(part).max();
        let last = longest(|subtask| subtask.acknowledged_after).unwrap_or_default();
        let parts = [
            longest(|subtask| subtask.report.start_delay),
            longest(|subtask| subtask.report.sync_duration),
            longest(|subtask| subtask.report.async_duration),
            Some(last),
            Some(record.duration.saturating_sub(last)),
        ];
        for (all, part) in self.0.iter_mut().zip(parts) {
            all.push(part.unwrap_or_default());
        }
    }
}

impl std::fmt::Display for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (name, all) in ["start-delay", "sync", "async", "last-ack", "commit"].iter().zip(&self.0) {
            let mut all = all.clone();
            all.sort_unstable();
            let median = all.get(all.len() / 2).copied().unwrap_or_default();
            write!(f, "{name}={median:.2?} ")?;
        }
        Ok(())
    }
}
