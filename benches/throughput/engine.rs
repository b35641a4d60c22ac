//! The same work as a Strandline job, written with the public API as any user would.

use crate::Options;
use crate::workload::{Checksum, THREADS, kept, keyed, splitmix64};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, PoisonError};
use strandline::prelude::*;

/// The records of a partition, from a position.
#[derive(Clone, Serialize, Deserialize)]
struct Partition {
    next: u64,
}

/// Makes `splitmix64` of the numbers below `records`.
#[derive(Clone)]
struct Generator {
    records: u64,
}

struct GeneratorReader {
    next: u64,
    records: u64,
}

impl Source for Generator {
    type Record = u64;
    type Split = Partition;
    type Reader = GeneratorReader;

    fn parallelism(&self) -> Option<u32> {
        Some(THREADS as u32)
    }

    async fn splits(&self, restored: Option<Vec<Partition>>) -> Result<Vec<Partition>> {
        Ok(restored.unwrap_or_else(|| (0..THREADS).map(|next| Partition { next }).collect()))
    }

    fn reader(&self, splits: Vec<Partition>, _: &SubtaskContext) -> Result<GeneratorReader> {
        let next = splits.first().map_or(self.records, |partition| partition.next);
        Ok(GeneratorReader { next, records: self.records })
    }
}

impl SourceReader for GeneratorReader {
    type Record = u64;
    type Split = Partition;

    #[inline]
    fn next(&mut self) -> Result<Option<u64>> {
        if self.next >= self.records {
            return Ok(None);
        }
        let seq = self.next;
        self.next += THREADS;
        Ok(Some(splitmix64(seq)))
    }

    async fn ready(&mut self) -> Result<bool> {
        Ok(self.next < self.records)
    }

    fn splits(&self) -> Vec<Partition> {
        vec![Partition { next: self.next }]
    }
}

/// Keeps a running count and sum of each key.
struct RunningSum {
    sum: ValueState<(u64, u64)>,
}

impl Operator for RunningSum {
    type Key = u64;
    type Out = (u64, u64, u64);
}

impl Handler<(u64, u64)> for RunningSum {
    #[inline]
    fn handle(&mut self, (key, value): (u64, u64), ctx: &mut Context<'_, Self>) -> Result {
        let (count, sum) = self.sum.update(ctx, |(count, sum)| {
            *count += 1;
            *sum += value;
            (*count, *sum)
        });
        ctx.emit((key, count, sum));
        Ok(())
    }
}

/// Adds up what it is given; `add` enters one record.
#[derive(Clone)]
struct Total<F> {
    add: F,
    total: Arc<Mutex<Checksum>>,
}

struct TotalWriter<F> {
    add: F,
    part: (Checksum, u64),
    total: Arc<Mutex<Checksum>>,
}

impl<T: 'static, F: Fn(&mut (Checksum, u64), T) + Clone + Send + Sync + 'static> Sink<T> for Total<F> {
    type Commit = ();
    type Writer = TotalWriter<F>;

    fn writer(&self, _: &SubtaskContext) -> Result<TotalWriter<F>> {
        Ok(TotalWriter { add: self.add.clone(), part: Default::default(), total: Arc::clone(&self.total) })
    }
}

impl<T: 'static, F: Fn(&mut (Checksum, u64), T) + 'static> SinkWriter<T> for TotalWriter<F> {
    type Commit = ();

    #[inline]
    fn write(&mut self, record: T) -> Result {
        (self.add)(&mut self.part, record);
        Ok(())
    }

    #[inline]
    fn write_all<I: Iterator<Item = T>>(&mut self, records: &mut I) -> Result {
        self.part = records.fold(self.part, |mut part, record| {
            (self.add)(&mut part, record);
            part
        });
        Ok(())
    }

    async fn flush(&mut self) -> Result {
        Ok(())
    }

    fn prepare(&mut self) -> Result<BoxFuture<Result<Vec<()>>>> {
        let (checksum, xor) = std::mem::take(&mut self.part);
        std::hint::black_box(xor);
        self.total.lock().unwrap_or_else(PoisonError::into_inner).merge(checksum);
        Ok(Box::pin(std::future::ready(Ok(Vec::new()))))
    }
}

/// Runs the job to its end.
pub async fn run(options: &Options) -> Result<Checksum> {
    let mut builder = Environment::builder().parallelism(THREADS as u32);
    if let Some(interval) = options.checkpoint {
        builder = builder.checkpointing(Checkpointing::every(interval));
        builder = match &options.dir {
            Some(dir) => builder.storage(FileSystem::at(dir)),
            None => builder.storage(FileSystem::at(options.scratch())),
        };
    }
    let env = builder.build()?;
    let total = Arc::new(Mutex::new(Checksum::default()));
    let numbers = env.source("generator", Generator { records: options.records });
    match options.workload.as_str() {
        "w1" => {
            let add = |part: &mut (Checksum, u64), record| part.0.plain(record);
            numbers.map(splitmix64).filter(kept).sink("total", Total { add, total: Arc::clone(&total) });
        }
        _ => {
            let keys = options.keys;
            let add = |part: &mut (Checksum, u64), (key, count, sum): (u64, u64, u64)| {
                part.0.running(key, count);
                part.1 ^= sum;
            };
            numbers
                .map(move |h| keyed(h, keys))
                .key_by(|(key, _)| *key)
                .process("sum", |setup| Ok(RunningSum { sum: setup.value_state("sum")? }))
                .sink("total", Total { add, total: Arc::clone(&total) });
        }
    }
    env.execute("throughput").await?;
    let checksum = *total.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(checksum)
}
