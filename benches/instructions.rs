//! Instructions per record of the hot paths, counted by callgrind: a figure that no load on the machine disturbs.
//!
//! ```text
//! cargo bench --bench instructions
//! ```
//!
//! Needs `valgrind` on the path. Each path runs as a job on one thread, once with few records and once with many; the difference, divided
//! by the difference of records, is what one record costs, without what starting and ending a job costs. A change that raises one of
//! these by more than 3 % needs a reason. Counting starts anew with another compiler: compare within one.

// A bench is a program of its own: it may panic on what it did not expect.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]
#![allow(missing_docs, missing_debug_implementations)]

use std::process::Command;
use strandline::prelude::*;

const FEW: u64 = 100_000;
const MANY: u64 = 500_000;

/// A path by name: describes the job for so many records.
type Path = (&'static str, fn(&Environment, u64));

const PATHS: [Path; 6] = [
    ("source-sink", |env, records| env.source("numbers", numbers(records)).sink("end", Discard)),
    ("map-filter", |env, records| {
        env.source("numbers", numbers(records)).map(mix).filter(|n| n & 7 != 0).sink("end", Discard);
    }),
    ("flat-map", |env, records| {
        env.source("numbers", numbers(records)).flat_map(|n| [n, n + 1]).sink("end", Discard);
    }),
    ("rebalance", |env, records| env.source("numbers", numbers(records)).rebalance().sink("end", Discard)),
    ("keyed-update-1k", |env, records| keyed(env, records, 1_000)),
    ("keyed-text", |env, records| {
        env.source("numbers", numbers(records))
            .map(|n| format!("key-{:06}", mix(n) % 1_000))
            .key_by(|key| key.clone())
            .map_with_state("count", |_, count: Option<u64>| (count, Some(count.unwrap_or_default() + 1)))
            .sink("end", Discard);
    }),
];

fn numbers(records: u64) -> Iter<std::ops::Range<u64>> {
    Iter::new(0..records)
}

fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    n ^ (n >> 27)
}

fn keyed(env: &Environment, records: u64, keys: u64) {
    env.source("numbers", numbers(records))
        .map(mix)
        .key_by(move |n| n % keys)
        .process("sum", |setup| Ok(RunningSum { sum: setup.value_state("sum")? }))
        .sink("end", Discard);
}

struct RunningSum {
    sum: ValueState<(u64, u64)>,
}

impl Operator for RunningSum {
    type Key = u64;
    type Out = (u64, u64);
}

impl Handler<u64> for RunningSum {
    #[inline]
    fn handle(&mut self, value: u64, ctx: &mut Context<'_, Self>) -> Result {
        let sum = self.sum.update(ctx, |(count, sum)| {
            *count += 1;
            *sum = sum.wrapping_add(value);
            (*count, *sum)
        });
        ctx.emit(sum);
        Ok(())
    }
}

/// Takes everything and keeps nothing.
#[derive(Clone)]
struct Discard;

impl<T: 'static> Sink<T> for Discard {
    type Commit = ();
    type Writer = Self;

    fn writer(&self, _: &SubtaskContext) -> Result<Self> {
        Ok(Self)
    }
}

impl<T: 'static> SinkWriter<T> for Discard {
    type Commit = ();

    #[inline]
    fn write(&mut self, record: T) -> Result {
        std::hint::black_box(&record);
        Ok(())
    }

    async fn flush(&mut self) -> Result {
        Ok(())
    }

    fn prepare(&mut self) -> Result<BoxFuture<Result<Vec<()>>>> {
        Ok(Box::pin(std::future::ready(Ok(Vec::new()))))
    }
}

/// Runs a path, on this thread alone.
fn run(path: &Path, records: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let env = Environment::builder().parallelism(1).seed(1).build().unwrap();
        path.1(&env, records);
        let job = env.start_local("instructions").await.unwrap();
        assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
    });
}

/// How many instructions a process takes that runs a path.
fn count(path: &str, records: u64) -> f64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().unwrap())
        .args([path, &records.to_string()])
        .output()
        .unwrap_or_else(|error| panic!("valgrind cannot be run: {error}: install it first"));
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().find_map(|line| line.split_once("Collected : "));
    let (_, figure) = line.unwrap_or_else(|| panic!("callgrind counted nothing:\n{text}"));
    figure.trim().parse().unwrap()
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if let [path, records] = &args[..] {
        let path = PATHS.iter().find(|(name, _)| name == path).unwrap_or_else(|| panic!("no path {path}"));
        return run(path, records.parse().unwrap());
    }
    for (name, _) in PATHS.iter().filter(|(name, _)| args.is_empty() || args.iter().any(|arg| arg == name)) {
        let per_record = (count(name, MANY) - count(name, FEW)) / (MANY - FEW) as f64;
        println!("INSTRUCTIONS path={name} per_record={per_record:.1}");
    }
}
