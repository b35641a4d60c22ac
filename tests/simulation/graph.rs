//! The dataflow: a source, two exchanges by key with state behind each, and a sink with transactions; and perhaps one beside it that shares no
//! records with it: a failover region of its own.

use super::broker::{ToBroker, Written};
use super::world::{Process, Region, below};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use strandline::prelude::*;
use strandline::storage::SharedDisk;
use strandline::types::CheckpointId;
use strandline::{SubtaskContext, TwoPhase};

/// The two regions.
pub const MAIN: Region = "broker";
pub const APART: Region = "broker apart";

/// Where the files are.
pub const FILES: &str = "out";

/// What is read, and by what it is keyed.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub splits: u64,
    /// How many splits more the other region reads; none if there is no other.
    pub apart: u64,
    /// Records in each split.
    pub len: u64,
    pub keys: u64,
    pub second_keys: u64,
    /// The most records that a source has at hand at a time.
    pub burst: u64,
    /// The longest time a source waits for more, in ms.
    pub pause: u64,
    /// Whether records of one key and one split must come in order.
    pub in_order: bool,
    /// Whether the second exchange is behind one without keys.
    pub rebalanced: bool,
    /// Whether a second source reads the last half of the splits.
    pub second_source: bool,
    /// Whether what the first operator gives is in files, too.
    pub files: bool,
}

/// A record that was read.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Read {
    pub split: u64,
    pub number: u64,
}

/// In each split the numbers `0..len`, a few at a time.
#[derive(Debug, Clone)]
struct Bursts {
    /// Which it belongs to, if it is the only one that is asked for its splits there.
    region: Option<Region>,
    ids: Range<u64>,
    shape: Shape,
    process: Arc<Process>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Split {
    id: u64,
    next: u64,
}

struct Reader {
    splits: Vec<Split>,
    current: usize,
    at_hand: u64,
    shape: Shape,
    process: Arc<Process>,
}

impl Source for Bursts {
    type Record = Read;
    type Split = Split;
    type Reader = Reader;

    async fn splits(&self, restored: Option<Vec<Split>>) -> Result<Vec<Split>> {
        self.process.wait().await;
        self.process.live().await;
        if let Some(region) = self.region {
            self.process.world().begins(self.process.id, region);
        }
        self.process.code("splits")?;
        let splits = restored.unwrap_or_else(|| self.ids.clone().map(|id| Split { id, next: 0 }).collect());
        let mut ids: Vec<u64> = splits.iter().map(|split| split.id).collect();
        ids.sort_unstable();
        if !ids.iter().copied().eq(self.ids.clone()) {
            self.process.world().violated(format!("the splits {ids:?} are restored"));
        }
        Ok(splits)
    }

    /// At the same parallelism a split stays where it was, and so its records stay in order.
    fn assign(&self, splits: Vec<Split>, parallelism: u32) -> Vec<Vec<Split>> {
        let mut shares = vec![Vec::new(); parallelism as usize];
        for split in splits {
            shares[split.id as usize % parallelism as usize].push(split);
        }
        shares
    }

    fn reader(&self, splits: Vec<Split>, _: &SubtaskContext) -> Result<Reader> {
        self.process.code("reader")?;
        let (shape, process) = (self.shape, Arc::clone(&self.process));
        Ok(Reader { splits, current: 0, at_hand: 0, shape, process })
    }
}

impl SourceReader for Reader {
    type Record = Read;
    type Split = Split;

    fn next(&mut self) -> Result<Option<Read>> {
        if self.at_hand == 0 || self.process.is_dead() {
            return Ok(None);
        }
        let len = self.shape.len;
        for _ in 0..self.splits.len() {
            self.current = (self.current + 1) % self.splits.len();
            let split = &mut self.splits[self.current];
            if split.next < len {
                let read = Read { split: split.id, number: split.next };
                self.process.code(format_args!("read {} of {}", read.number, read.split))?;
                split.next += 1;
                self.at_hand -= 1;
                return Ok(Some(read));
            }
        }
        Ok(None)
    }

    async fn ready(&mut self) -> Result<bool> {
        self.process.live().await;
        if self.splits.iter().all(|split| split.next >= self.shape.len) {
            return Ok(false);
        }
        let Shape { burst, pause, .. } = self.shape;
        let (pause, at_hand) =
            self.process.world().chance(|random| (below(random, pause + 1), 1 + below(random, burst)));
        if pause == 0 {
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        self.process.live().await;
        self.at_hand = at_hand;
        Ok(true)
    }

    fn splits(&self) -> Vec<Split> {
        self.splits.clone()
    }
}

/// Numbers the records of each key, and knows the last one of each split.
struct First {
    count: ValueState<u64>,
    last: MapState<u64, u64>,
    /// Is there after every other record.
    odd: ValueState<u64>,
    shape: Shape,
    process: Arc<Process>,
}

/// Key, how many-th of that, and the record.
type Counted = (u64, u64, u64);

impl Operator for First {
    type Key = u64;
    type Out = Counted;

    fn on_complete(&mut self, checkpoint: CheckpointId) -> Result {
        self.told(checkpoint, true)
    }

    fn on_aborted(&mut self, checkpoint: CheckpointId) -> Result {
        self.told(checkpoint, false)
    }
}

impl First {
    fn told(&self, checkpoint: CheckpointId, completed: bool) -> Result {
        self.process.code(format_args!("told of {checkpoint}: {completed}"))?;
        if !self.process.is_dead() {
            self.process.world().told(self.process.id, checkpoint.0, completed);
        }
        Ok(())
    }
}

impl Handler<Read> for First {
    fn handle(&mut self, read: Read, ctx: &mut Context<'_, Self>) -> Result {
        let key = *ctx.key();
        self.process.code(format_args!("first {key}: {} of {}", read.number, read.split))?;
        let last = self.last.get(ctx, &read.split);
        if self.shape.in_order && last >= Some(read.number) {
            self.process.world().violated(format!(
                "key {key}: record {} of split {} came after record {last:?}",
                read.number, read.split
            ));
        }
        self.last.insert(ctx, read.split, read.number);
        let n = self.count.get(ctx).unwrap_or(0) + 1;
        self.count.set(ctx, n);
        let odd = self.odd.take(ctx);
        if odd.is_some() == (n % 2 == 1) || odd.is_some_and(|odd| odd + 1 != n) {
            self.process.world().violated(format!("key {key} has {odd:?} at its record {n}"));
        }
        if n % 2 == 1 {
            self.odd.set(ctx, n);
        }
        ctx.emit((key, n, read.split * self.shape.len + read.number));
        Ok(())
    }
}

/// Numbers the records of each of its keys; and counts all, to be given out at the end.
struct Second {
    count: ValueState<u64>,
    process: Arc<Process>,
}

impl Operator for Second {
    type Key = u64;
    type Out = Written;
}

impl Handler<Counted> for Second {
    fn handle(&mut self, (key, n, id): Counted, ctx: &mut Context<'_, Self>) -> Result {
        let second = *ctx.key();
        self.process.code(format_args!("second {second}: {id}"))?;
        let m = self.count.get(ctx).unwrap_or(0) + 1;
        self.count.set(ctx, m);
        ctx.emit((key, n, id, second, m));
        Ok(())
    }
}

/// By what a record is keyed first.
pub fn key_of(shape: &Shape, split: u64, number: u64) -> u64 {
    (split * 7 + number * 5 + number / 3) % shape.keys
}

/// `apart` is where the other region writes.
pub fn describe(env: &Environment, shape: Shape, sink: ToBroker, apart: ToBroker, disk: SharedDisk) {
    let process = Arc::clone(&sink.process);
    let source = |region, ids: Range<u64>| Bursts { region, ids, shape, process: Arc::clone(&process) };
    let half = if shape.second_source { shape.splits / 2 } else { shape.splits };
    if shape.apart > 0 {
        let read = env.source("source apart", source(Some(APART), shape.splits..shape.splits + shape.apart));
        first(read, "first apart", shape, &process)
            .map(|(key, n, id)| (key, n, id, key, n))
            .sink(APART, TwoPhase::new(apart));
    }
    let read = env.source("source", source(Some(MAIN), 0..half));
    if shape.second_source {
        let other = env.source("other", source(None, half..shape.splits));
        count(read.union(other), shape, sink, disk);
    } else {
        count(read, shape, sink, disk);
    }
}

/// Counts what was read by key.
fn first(
    read: Stream<Read, impl Pipe<Out = Read>>,
    uid: &str,
    shape: Shape,
    process: &Arc<Process>,
) -> Stream<Counted, impl Pipe<Out = Counted>> {
    let process = Arc::clone(process);
    read.key_by(move |read| key_of(&shape, read.split, read.number)).process(uid, move |setup| {
        let (count, last, odd) =
            (setup.value_state("count")?, setup.map_state("last")?, setup.value_state("odd")?);
        Ok(First { count, last, odd, shape, process: Arc::clone(&process) })
    })
}

fn count(read: Stream<Read, impl Pipe<Out = Read>>, shape: Shape, sink: ToBroker, disk: SharedDisk) {
    let counted = first(read, "first", shape, &sink.process);
    if shape.files {
        let (counted, copy) = counted.tee();
        copy.map(|(key, n, id)| format!("{key} {n} {id}")).sink("files", FileSink::at(FILES).disk(disk));
        count_again(counted, shape, sink);
    } else {
        count_again(counted, shape, sink);
    }
}

fn count_again(counted: Stream<Counted, impl Pipe<Out = Counted>>, shape: Shape, sink: ToBroker) {
    if shape.rebalanced {
        end(counted.rebalance(), shape, sink);
    } else {
        end(counted, shape, sink);
    }
}

fn end(counted: Stream<Counted, impl Pipe<Out = Counted>>, shape: Shape, sink: ToBroker) {
    let process = Arc::clone(&sink.process);
    counted
        .key_by(move |(_, _, id)| id % shape.second_keys)
        .process("second", move |setup| {
            Ok(Second { count: setup.value_state("count")?, process: Arc::clone(&process) })
        })
        .sink(MAIN, TwoPhase::new(sink));
}
