//! End-to-end latency: 200 000 records a second on 100 000 keys, with checkpoints off and every second.
//!
//! ```text
//! cargo bench --bench latency -- [--secs 22] [--rate 200000] [--keys 100000] [--checkpoint off|1s]
//! ```
//!
//! Two threads outside of the job make the records that are due and hand them over, as a network client would; a record's latency is the
//! time from there to the sink, behind a key exchange and a keyed running sum. What the first 10 seconds bring is not counted.

// A bench is a program of its own: it may panic on what it did not expect.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]
#![allow(missing_docs, missing_debug_implementations)]

mod measure;

use hdrhistogram::Histogram;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};
use strandline::prelude::*;
use tokio::sync::mpsc;

const PARTITIONS: u64 = 2;
const WARM_UP: Duration = Duration::from_secs(10);
/// How long a thread sleeps that finds nothing due.
const NAP: Duration = Duration::from_micros(20);

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

fn nanos() -> u64 {
    START.elapsed().as_nanos() as u64
}

/// The key, and when it was made.
type Record = (u64, u64);

/// What arrives from outside, a receiver for each partition. A run that fails is not repeated, so nothing need be replayed.
#[derive(Clone)]
struct Arrivals(Arc<Vec<Mutex<Option<Receiver>>>>);

type Receiver = mpsc::UnboundedReceiver<Vec<Record>>;

struct ArrivalsReader {
    batch: std::vec::IntoIter<Record>,
    from: Option<Receiver>,
    partitions: Vec<u64>,
}

impl Source for Arrivals {
    type Record = Record;
    type Split = u64;
    type Reader = ArrivalsReader;

    fn parallelism(&self) -> Option<u32> {
        Some(PARTITIONS as u32)
    }

    async fn splits(&self, _: Option<Vec<u64>>) -> Result<Vec<u64>> {
        Ok((0..PARTITIONS).collect())
    }

    fn reader(&self, partitions: Vec<u64>, _: &SubtaskContext) -> Result<ArrivalsReader> {
        let partition = *partitions.first().ok_or("a reader without a partition")?;
        let from = self.0[partition as usize].lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(ArrivalsReader { batch: Vec::new().into_iter(), from, partitions })
    }
}

impl SourceReader for ArrivalsReader {
    type Record = Record;
    type Split = u64;

    fn next(&mut self) -> Result<Option<Record>> {
        if let Some(record) = self.batch.next() {
            return Ok(Some(record));
        }
        let next = self.from.as_mut().and_then(|from| from.try_recv().ok());
        self.batch = next.unwrap_or_default().into_iter();
        Ok(self.batch.next())
    }

    async fn ready(&mut self) -> Result<bool> {
        let Some(from) = &mut self.from else { return Ok(false) };
        let next = from.recv().await;
        let more = next.is_some();
        self.batch = next.unwrap_or_default().into_iter();
        Ok(more)
    }

    fn splits(&self) -> Vec<u64> {
        self.partitions.clone()
    }
}

/// Records how old each record is.
#[derive(Clone)]
struct Ages(Arc<Mutex<Histogram<u64>>>);

struct AgesWriter {
    ages: Histogram<u64>,
    all: Arc<Mutex<Histogram<u64>>>,
}

impl Sink<(u64, u64)> for Ages {
    type Commit = ();
    type Writer = AgesWriter;

    fn writer(&self, _: &SubtaskContext) -> Result<AgesWriter> {
        Ok(AgesWriter { ages: histogram(), all: Arc::clone(&self.0) })
    }
}

impl SinkWriter<(u64, u64)> for AgesWriter {
    type Commit = ();

    fn write(&mut self, (count, made): (u64, u64)) -> Result {
        std::hint::black_box(count);
        let now = nanos();
        if made > WARM_UP.as_nanos() as u64 {
            self.ages.saturating_record(now.saturating_sub(made));
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result {
        Ok(())
    }

    fn prepare(&mut self) -> Result<BoxFuture<Result<Vec<()>>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).add(&self.ages)?;
        self.ages.reset();
        Ok(Box::pin(std::future::ready(Ok(Vec::new()))))
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(60_000_000_000, 3).unwrap()
}

fn splitmix64(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// Hands over the records of a partition as they are due.
fn arrive(partition: u64, to: &mpsc::UnboundedSender<Vec<Record>>, options: &Options) {
    let rate = options.rate as f64 / PARTITIONS as f64 / 1e9;
    let (began, end) = (nanos(), options.secs * 1_000_000_000);
    let mut sent = 0;
    while nanos() - began < end {
        let due = ((nanos() - began) as f64 * rate) as u64;
        if due > sent {
            let batch = (sent..due)
                .map(|i| (splitmix64(partition + i * PARTITIONS) % options.keys, nanos()))
                .collect();
            sent = due;
            if to.send(batch).is_err() {
                return;
            }
        }
        std::thread::sleep(NAP);
    }
}

struct Options {
    secs: u64,
    rate: u64,
    keys: u64,
    /// `None` for both.
    checkpoint: Option<String>,
    child: bool,
}

impl Options {
    fn parse() -> Result<Self, String> {
        let mut options = Self { secs: 22, rate: 200_000, keys: 100_000, checkpoint: None, child: false };
        let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
        while let Some(name) = args.next() {
            if name == "--child" {
                options.child = true;
                continue;
            }
            let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
            let number = || value.parse::<u64>().map_err(|error| format!("{name} {value}: {error}"));
            match name.as_str() {
                "--secs" => options.secs = number()?,
                "--rate" => options.rate = number()?,
                "--keys" => options.keys = number()?,
                "--checkpoint" => options.checkpoint = Some(value),
                _ => return Err(format!("{name} is not an option")),
            }
        }
        if options.secs <= WARM_UP.as_secs() {
            return Err(format!("--secs must be more than {}: so long is the warm-up", WARM_UP.as_secs()));
        }
        Ok(options)
    }
}

/// One run, in this process.
async fn run(options: &Options, checkpoint: &str) -> Result {
    let mut builder = Environment::builder().parallelism(PARTITIONS as u32);
    let storage = std::env::temp_dir().join(format!("strandline-latency-{}", std::process::id()));
    if checkpoint != "off" {
        let every = Checkpointing::every(measure::duration(checkpoint)?);
        builder = builder.checkpointing(every).storage(FileSystem::at(&storage));
    }
    let env = builder.build()?;
    let ages = Arc::new(Mutex::new(histogram()));
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..PARTITIONS).map(|_| mpsc::unbounded_channel()).unzip();
    let receivers = receivers.into_iter().map(|receiver| Mutex::new(Some(receiver))).collect();
    env.source("arrivals", Arrivals(Arc::new(receivers)))
        .key_by(|(key, _)| *key)
        .map_with_state("count", |(_, made): Record, count: Option<u64>| {
            let count = count.unwrap_or_default() + 1;
            ((count, made), Some(count))
        })
        .sink("ages", Ages(Arc::clone(&ages)));
    let job = env.start("latency").await?;
    std::thread::scope(|scope| {
        for (partition, to) in (0..).zip(senders) {
            scope.spawn(move || arrive(partition, &to, options));
        }
    });
    job.wait().await?;
    let _ = std::fs::remove_dir_all(storage);
    let ages = ages.lock().unwrap_or_else(PoisonError::into_inner);
    let micros = |quantile| ages.value_at_quantile(quantile) as f64 / 1e3;
    println!(
        "RESULT peer=strandline w=w6 k={} rate={} checkpoint={checkpoint} p50_us={:.1} p99_us={:.1} p999_us={:.1} \
         max_us={:.1} samples={} cpu_secs={:.2}",
        options.keys,
        options.rate,
        micros(0.5),
        micros(0.99),
        micros(0.999),
        ages.max() as f64 / 1e3,
        ages.len(),
        measure::cpu().as_secs_f64(),
    );
    Ok(())
}

fn main() {
    let options = Options::parse().unwrap_or_else(|error| {
        eprintln!("{error}");
        std::process::exit(2);
    });
    LazyLock::force(&START);
    if options.child {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let checkpoint = options.checkpoint.as_deref().unwrap_or("off");
        return runtime.block_on(run(&options, checkpoint)).unwrap_or_else(|error| panic!("{error}"));
    }
    for checkpoint in ["off", "1s"] {
        if options.checkpoint.as_deref().is_some_and(|wanted| wanted != checkpoint) {
            continue;
        }
        // A process each: its CPU time is its own.
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--child", "--checkpoint", checkpoint])
            .args(["--secs", &options.secs.to_string(), "--rate", &options.rate.to_string()])
            .args(["--keys", &options.keys.to_string()])
            .status()
            .unwrap();
        assert!(status.success(), "the run failed");
    }
}
