//! What a job costs a service that only holds it, and what starting and stopping leaves behind.
//!
//! ```console
//! $ cargo bench --bench lifecycle             # 10 000 starts and stops
//! $ cargo bench --bench lifecycle -- 500      # as many as you like
//! ```
//!
//! `IDLE`: CPU time of the whole process, of which 64 subtasks wait for input, in steps of 10 ms, and how often any thread
//! of the job was woken. `CYCLES`: threads, file descriptors and resident memory before, at half time and after.

#![allow(clippy::disallowed_methods)] // it measures, by the machine's clock

use std::fs;
use std::time::{Duration, Instant};
use strandline::prelude::*;

const IDLE: Duration = Duration::from_secs(5);
/// For the last instructions of threads that end, which nothing waits for.
const SETTLE: Duration = Duration::from_millis(200);
/// What `/proc` counts CPU time in.
const STEP_MS: u64 = 10;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result {
    // `cargo bench` adds options of its own.
    let cycles = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(10_000);
    idle().await?;
    start_and_stop(cycles).await
}

/// One source subtask, and 63 that it deals its records out to.
async fn idle() -> Result {
    let env = Environment::builder().parallelism(63).workers(2).build()?;
    let (ingest, source) = Ingest::bounded(64);
    let mut results = env.source("source", source).rebalance().map(|n: u64| n + 1).into_stream("results", 64);
    let job = env.start("idle").await?;
    // Every subtask has had a record.
    for n in 0..630 {
        ingest.send(n).await?;
        results.next().await;
    }
    tokio::time::sleep(SETTLE).await;
    let (cpu, wakes) = (cpu_ms(), wakes());
    tokio::time::sleep(IDLE).await;
    let (cpu, wakes) = (cpu_ms() - cpu, self::wakes() - wakes);
    println!("IDLE subtasks=64 secs={} cpu_ms={cpu} wakes={wakes}", IDLE.as_secs());
    ingest.close();
    job.await?;
    Ok(())
}

/// A keyed job with checkpoints in memory: half of the runs come to their end, half are cancelled.
async fn start_and_stop(cycles: u32) -> Result {
    let (mut since, mut spent) = (Instant::now(), Duration::ZERO);
    let mut seen = vec![Left::now()];
    for cycle in 1..=cycles {
        let env = Environment::builder().parallelism(2).storage(Memory::new()).build()?;
        let (ingest, source) = Ingest::bounded(8);
        let mut results = env
            .source("numbers", source.accept_loss())
            .key_by(|n: &u64| n % 4)
            .reduce("sum", |sum, n| *sum += n)
            .into_stream("sums", 8);
        let job = env.start("cycle").await?;
        ingest.send(1).await?;
        results.next().await;
        if cycle % 2 == 0 {
            ingest.close();
            job.await?;
        } else {
            job.cancel().await?;
        }
        if cycle == cycles / 2 || cycle == cycles {
            spent += since.elapsed();
            tokio::time::sleep(SETTLE).await;
            since = Instant::now();
            seen.push(Left::now());
        }
    }
    let each = spent / cycles.max(1);
    let [before, half, after] = [0, 1, 2].map(|at| seen.get(at).copied().unwrap_or_default());
    println!(
        "CYCLES n={cycles} us_each={} threads={}/{}/{} fds={}/{}/{} rss_kb={}/{}/{}",
        each.as_micros(),
        before.threads,
        half.threads,
        after.threads,
        before.fds,
        half.fds,
        after.fds,
        before.rss_kb,
        half.rss_kb,
        after.rss_kb,
    );
    Ok(())
}

/// What the process holds.
#[derive(Debug, Clone, Copy, Default)]
struct Left {
    threads: usize,
    fds: usize,
    rss_kb: u64,
}

impl Left {
    fn now() -> Self {
        let entries = |dir| fs::read_dir(dir).map_or(0, Iterator::count);
        // Its own look at the folder is one of the descriptors.
        Self {
            threads: entries("/proc/self/task"),
            fds: entries("/proc/self/fd").saturating_sub(1),
            rss_kb: numbers("/proc/self/status", "VmRSS:"),
        }
    }
}

/// How often any thread but the first, which runs this, went to sleep: it was woken before.
fn wakes() -> u64 {
    let first = std::process::id().to_string();
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let of_the_job = tasks.filter(|task| task.file_name() != first.as_str());
    of_the_job.map(|task| numbers(task.path().join("status"), "voluntary_ctxt_switches:")).sum()
}

fn numbers(path: impl AsRef<std::path::Path>, key: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or_default()
}

/// User and system time of the process.
fn cpu_ms() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in parentheses may hold spaces; the times are the 14th and 15th field.
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let times = after_name.split_whitespace().skip(11).take(2);
    times.filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>() * STEP_MS
}
