//! How long a job with much state is out of order after a failure, and what storing that state takes.
//!
//! ```console
//! $ cargo bench --bench recovery                  # 10 million keys
//! $ cargo bench --bench recovery -- 1000000       # as many as you like
//! ```
//!
//! Two subtasks keep a running sum for each key. `CHECKPOINT` is a checkpoint of all of it to files, beside the time it takes to write and
//! sync as many bytes to as many files, before and after it. `RECOVERY` is the time from the failure of an operator to the first record that it
//! handles again: everything torn down, the checkpoint read, the tables built.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::expect_used, clippy::panic)] // it measures, by the machine's clock

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use strandline::prelude::*;
use tokio::sync::watch;

const SUBTASKS: u32 = 2;

/// How often the whole is repeated, in one job.
const ROUNDS: u64 = 3;

/// Every `SUBTASKS`th number from `next` on.
#[derive(Clone, Serialize, Deserialize)]
struct Partition {
    next: u64,
}

/// Gives the numbers up to a bound that can be raised.
#[derive(Clone)]
struct Numbers {
    bound: watch::Receiver<u64>,
}

struct NumbersReader {
    next: u64,
    bound: watch::Receiver<u64>,
}

impl Source for Numbers {
    type Record = u64;
    type Split = Partition;
    type Reader = NumbersReader;

    fn parallelism(&self) -> Option<u32> {
        Some(SUBTASKS)
    }

    async fn splits(&self, restored: Option<Vec<Partition>>) -> Result<Vec<Partition>> {
        Ok(restored.unwrap_or_else(|| (0..u64::from(SUBTASKS)).map(|next| Partition { next }).collect()))
    }

    fn reader(&self, splits: Vec<Partition>, _: &SubtaskContext) -> Result<NumbersReader> {
        let next = splits.first().map_or(u64::MAX, |partition| partition.next);
        Ok(NumbersReader { next, bound: self.bound.clone() })
    }
}

impl SourceReader for NumbersReader {
    type Record = u64;
    type Split = Partition;

    #[inline]
    fn next(&mut self) -> Result<Option<u64>> {
        if self.next >= *self.bound.borrow() {
            return Ok(None);
        }
        let number = self.next;
        self.next += u64::from(SUBTASKS);
        Ok(Some(number))
    }

    async fn ready(&mut self) -> Result<bool> {
        Ok(self.bound.wait_for(|bound| self.next < *bound).await.is_ok())
    }

    fn splits(&self) -> Vec<Partition> {
        vec![Partition { next: self.next }]
    }
}

/// What the bench sees of the operator.
#[derive(Default)]
struct Seen {
    records: AtomicU64,
    /// From this number on, a record fails: once.
    poison: AtomicU64,
    failures: AtomicU64,
    failed: Mutex<Option<Instant>>,
    /// When the records beyond the first of each key were handled by an operator that came after the newest failure.
    recovered: Mutex<BTreeMap<u64, Instant>>,
}

struct RunningSum {
    sum: ValueState<(u64, u64)>,
    seen: Arc<Seen>,
    keys: u64,
    /// How many failures were before this one began.
    failures: u64,
}

impl Operator for RunningSum {
    type Key = u64;
    type Out = u64;
}

impl Handler<u64> for RunningSum {
    fn handle(&mut self, number: u64, ctx: &mut Context<'_, Self>) -> Result {
        if number >= self.keys {
            if number >= self.seen.poison.swap(u64::MAX, Ordering::SeqCst) {
                *self.seen.failed.lock().unwrap() = Some(Instant::now());
                self.seen.failures.fetch_add(1, Ordering::SeqCst);
                return Err("on purpose".into());
            }
            if self.seen.failures.load(Ordering::SeqCst) == self.failures {
                self.seen.recovered.lock().unwrap().insert(number, Instant::now());
            }
        }
        let (count, _) = self.sum.update(ctx, |(count, sum)| {
            *count += 1;
            *sum = sum.wrapping_add(number);
            (*count, *sum)
        });
        assert_eq!(count, number / self.keys + 1, "a key that has lost its state");
        self.seen.records.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result {
    // `cargo bench` adds options of its own.
    let keys = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(10_000_000_u64);
    let dir = std::env::temp_dir().join(format!("strandline-recovery-{}", std::process::id()));
    let result = run(keys, &dir).await;
    let _ = std::fs::remove_dir_all(&dir);
    result
}

async fn run(keys: u64, dir: &Path) -> Result {
    let never = Checkpointing::every(Duration::from_secs(1_000_000));
    let env = Environment::builder()
        .parallelism(SUBTASKS)
        .storage(FileSystem::at(dir))
        .checkpointing(never)
        .restart(RestartStrategy::fixed_delay(1_000, Duration::ZERO))
        .build()?;
    let seen = Arc::new(Seen { poison: AtomicU64::new(u64::MAX), ..Seen::default() });
    let (raise, bound) = watch::channel(keys);
    let for_operator = Arc::clone(&seen);
    env.source("numbers", Numbers { bound })
        .key_by(move |number| number % keys)
        .process("sum", move |setup| {
            let sum = setup.value_state("sum")?;
            let (seen, failures) = (Arc::clone(&for_operator), for_operator.failures.load(Ordering::SeqCst));
            Ok(RunningSum { sum, seen, keys, failures })
        })
        .sink("end", Collect::new());
    let job = env.start("recovery").await?;
    tokio::select! {
        ended = job.wait() => panic!("the job must not end: {ended:?}"),
        measured = measure(&job, &seen, &raise, keys, dir) => measured?,
    }
    job.cancel().await?;
    Ok(())
}

async fn measure(job: &JobHandle, seen: &Seen, raise: &watch::Sender<u64>, keys: u64, dir: &Path) -> Result {
    while seen.records.load(Ordering::Relaxed) < keys {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for round in 1..=ROUNDS {
        let plain = write_plainly(dir, keys * 22)?;
        let began = Instant::now();
        let checkpoint = job.checkpoint().await?;
        let took = began.elapsed();
        let bytes = job.retained().await?.iter().find(|c| c.checkpoint == checkpoint).map_or(0, |c| c.bytes);
        let again = write_plainly(dir, bytes)?;
        let plain = plain.min(again);
        println!(
            "CHECKPOINT keys={keys} bytes={bytes} secs={:.3} plain={:.3}",
            took.as_secs_f64(),
            plain.as_secs_f64()
        );
        println!("RATIO checkpoint/plain {:.2}", took.as_secs_f64() / plain.as_secs_f64());

        seen.recovered.lock().unwrap().clear();
        seen.poison.store(keys, Ordering::SeqCst);
        let bound = keys + round * u64::from(SUBTASKS);
        raise.send(bound)?;
        let new = bound - u64::from(SUBTASKS)..bound;
        while !new.clone().all(|number| seen.recovered.lock().unwrap().contains_key(&number)) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let failed = *seen.failed.lock().unwrap();
        let first = seen.recovered.lock().unwrap().values().min().copied();
        let took = failed.zip(first).map(|(failed, first)| first.saturating_duration_since(failed));
        println!("RECOVERY keys={keys} secs={:.3}", took.unwrap_or_default().as_secs_f64());
    }
    Ok(())
}

/// Writes and syncs so many bytes, by two threads to a file each.
fn write_plainly(dir: &Path, bytes: u64) -> Result<Duration> {
    let began = Instant::now();
    std::thread::scope(|scope| {
        let write = |part: u32| {
            let chunk = vec![part as u8; 1 << 20];
            let mut file = std::fs::File::create(dir.join(format!("plain-{part}")))?;
            for _ in 0..(bytes / u64::from(SUBTASKS)) >> 20 {
                file.write_all(&chunk)?;
            }
            file.sync_all()
        };
        let threads: Vec<_> = (0..SUBTASKS).map(|part| scope.spawn(move || write(part))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| std::process::abort()))
    })?;
    Ok(began.elapsed())
}
