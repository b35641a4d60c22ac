//! Throughput beside a program written by hand for the same work, in one run.
//!
//! ```text
//! cargo bench --bench throughput -- --workload w1 --records 1000000000
//! cargo bench --bench throughput -- --workload w2 --keys 1000000 --records 100000000 --runs 5
//! cargo bench --bench throughput -- --workload w2 --keys 10000000 --records 50000000 --checkpoint 1s
//! ```
//!
//! Each run is a process of its own, so its CPU time and peak memory are its own; the two sides alternate. Trust the ratios, and of
//! those the CPU ratio first: wall time moves with whatever else the machine does. Both sides are asked for the same checksum.

// A bench is a program of its own: it may panic on what it did not expect.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]
#![allow(missing_docs, missing_debug_implementations)]

mod engine;
mod hand;
mod workload;

#[path = "../measure/mod.rs"]
mod measure;

use measure::{Figures, median, ratio};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use workload::Checksum;

const USAGE: &str = "usage: cargo bench --bench throughput -- --workload w1|w2 [--keys K] [--records N] \
                     [--checkpoint 1s [--dir D]] [--runs R] [--only strandline|hand]";

/// What to run.
pub struct Options {
    workload: String,
    keys: u64,
    records: u64,
    checkpoint: Option<Duration>,
    dir: Option<PathBuf>,
    runs: usize,
    only: Option<String>,
    /// Set in a child: which side to run, once.
    child: Option<String>,
}

impl Options {
    fn parse() -> Result<Self, String> {
        let mut options = Self {
            workload: String::new(),
            keys: 1000,
            records: 0,
            checkpoint: None,
            dir: None,
            runs: 3,
            only: None,
            child: None,
        };
        let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
        while let Some(name) = args.next() {
            let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
            let number =
                || value.replace('_', "").parse::<u64>().map_err(|error| format!("{name} {value}: {error}"));
            match name.as_str() {
                "--workload" => options.workload = value,
                "--keys" => options.keys = number()?,
                "--records" => options.records = number()?,
                "--runs" => options.runs = number()? as usize,
                "--checkpoint" => options.checkpoint = Some(measure::duration(&value)?),
                "--dir" => options.dir = Some(value.into()),
                "--only" => options.only = Some(value),
                "--child" => options.child = Some(value),
                _ => return Err(format!("{name} is not an option")),
            }
        }
        if !["w1", "w2"].contains(&options.workload.as_str()) {
            return Err("--workload is w1 or w2".into());
        }
        if options.keys == 0 || options.runs == 0 {
            return Err("--keys and --runs must be at least 1".into());
        }
        if options.records == 0 {
            options.records = match (options.workload.as_str(), options.keys) {
                ("w1", _) => 1_000_000_000,
                (_, ..=100_000) => 200_000_000,
                (_, ..=1_000_000) => 100_000_000,
                _ => 50_000_000,
            };
        }
        Ok(options)
    }

    /// A folder for checkpoints where none was named.
    fn scratch(&self) -> PathBuf {
        std::env::temp_dir().join(format!("strandline-throughput-{}", std::process::id()))
    }
}

/// One run, in this process.
fn run(options: &Options, peer: &str) {
    let began = measure::Clocks::now();
    let checksum = match (peer, options.workload.as_str()) {
        ("hand", "w1") => hand::w1(options.records),
        ("hand", _) => hand::w2(options.records, options.keys),
        _ => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(engine::run(options)).unwrap_or_else(|error| panic!("{error}"))
        }
    };
    let figures = began.until_now();
    if options.checkpoint.is_some() && options.dir.is_none() {
        let _ = std::fs::remove_dir_all(options.scratch());
    }
    let Checksum { out, sum } = checksum;
    println!(
        "RESULT peer={peer} w={} k={} n={} secs={:.3} mrps={:.3} cpu_ns={:.2} rss_kb={} out={out} sum={sum}",
        options.workload,
        options.keys,
        options.records,
        figures.secs,
        options.records as f64 / figures.secs / 1e6,
        figures.cpu_secs * 1e9 / options.records as f64,
        figures.rss_kb,
    );
}

/// One run in a process of its own; prints what it prints, and returns its figures and checksum.
fn child(options: &Options, peer: &str, label: &str, checkpoint: bool) -> (Figures, String) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--workload", &options.workload, "--child", peer]);
    command.args(["--keys", &options.keys.to_string(), "--records", &options.records.to_string()]);
    if let (Some(interval), true) = (options.checkpoint, checkpoint) {
        command.args(["--checkpoint", &format!("{}ms", interval.as_millis())]);
        if let Some(dir) = &options.dir {
            // The name is of this run: a finished job would not run again.
            let dir = dir.join(format!("run-{}-{}", std::process::id(), measure::nanos()));
            command.arg("--dir").arg(dir);
        }
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let Some(line) = text.lines().find(|line| line.starts_with("RESULT")) else {
        panic!("the {peer} run failed:\n{text}{}", String::from_utf8_lossy(&output.stderr));
    };
    println!("{}", line.replace(&format!("peer={peer}"), &format!("peer={label}")));
    let sums = line.split(" out=").nth(1).unwrap_or_default().to_owned();
    (Figures::parse(line), sums)
}

fn main() {
    let options = Options::parse().unwrap_or_else(|error| {
        eprintln!("{error}\n{USAGE}");
        std::process::exit(2);
    });
    if let Some(peer) = &options.child {
        return run(&options, peer);
    }
    let wanted = |peer: &str| options.only.as_deref().is_none_or(|only| only == peer);
    let (mut ours, mut plain, mut hand) = (Vec::new(), Vec::new(), Vec::new());
    let mut sums = Vec::new();
    for _ in 0..options.runs {
        let mut take = |into: &mut Vec<Figures>, (figures, sum)| {
            into.push(figures);
            sums.push(sum);
        };
        if wanted("strandline") {
            take(&mut ours, child(&options, "strandline", "strandline", true));
            if options.checkpoint.is_some() {
                take(&mut plain, child(&options, "strandline", "strandline-without-checkpoints", false));
            }
        }
        if wanted("hand") {
            take(&mut hand, child(&options, "hand", "hand", false));
        }
    }
    assert!(sums.windows(2).all(|pair| pair[0] == pair[1]), "the checksums differ: {sums:?}");
    if !plain.is_empty() {
        println!("CHECKPOINT_RATIO {:.3}", ratio(&plain, &ours, |figures| figures.secs));
    }
    if !ours.is_empty() && !hand.is_empty() {
        let rate = |runs: &[Figures]| options.records as f64 / median(runs, |figures| figures.secs) / 1e6;
        println!("MEDIAN strandline={:.1} hand={:.1} M records/s", rate(&ours), rate(&hand));
        println!("CPU_RATIO {:.3}", ratio(&ours, &hand, |figures| figures.cpu_secs));
        println!("RATIO {:.3}", ratio(&hand, &ours, |figures| figures.secs));
    }
}
