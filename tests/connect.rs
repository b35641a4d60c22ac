//! One operator over several streams, each of its own type: every record reaches its handler, under the state of its key, exactly once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::oracle::{Job, Oracle, Written};
use common::sorted;
use std::fmt::Debug;
use strandline::prelude::*;

const LEN: u64 = 40;
const KEYS: u64 = 6;

fn text<T: Debug>(records: impl IntoIterator<Item = T>) -> Vec<String> {
    sorted(records.into_iter().map(|record| format!("{record:?}")).collect())
}

fn one(uid: &str, records: Vec<String>) -> Written {
    [(uid.to_owned(), records)].into()
}

/// Joins each record of the one stream with each of the other, by key, in whatever order they come.
struct Join {
    left: ListState<u64>,
    right: ListState<String>,
}

impl Operator for Join {
    type Key = u64;
    type Out = (u64, String);
}

impl Handler<u64> for Join {
    fn handle(&mut self, left: u64, ctx: &mut Context<'_, Self>) -> Result {
        self.left.add(ctx, left);
        let right = self.right.get(ctx);
        ctx.emit_iter(right.into_iter().map(move |right| (left, right)));
        Ok(())
    }
}

impl Handler<String> for Join {
    fn handle(&mut self, right: String, ctx: &mut Context<'_, Self>) -> Result {
        self.right.add(ctx, right.clone());
        for left in self.left.get(ctx) {
            ctx.emit((left, right.clone()));
        }
        Ok(())
    }
}

fn joined(left: impl Iterator<Item = u64>, right: impl Iterator<Item = u64>) -> Vec<String> {
    let right: Vec<u64> = right.collect();
    text(left.flat_map(|left| {
        let same = right.iter().filter(move |right| **right % KEYS == left % KEYS);
        same.map(move |right| (left, right.to_string())).collect::<Vec<_>>()
    }))
}

fn twice(numbers: std::ops::Range<u64>) -> impl Iterator<Item = u64> {
    numbers.flat_map(|number| [number; 2])
}

#[test]
fn two_keyed_streams_meet_in_one_state() {
    let describe = |job: &Job<'_>| {
        let left = job.numbers("left", 2, LEN).key_by(|number| number % KEYS);
        let right = job.numbers("right", 1, LEN / 2).map(|number| number.to_string());
        let right = right.key_by(|text| text.parse::<u64>().unwrap() % KEYS);
        let joined = left.connect(right).process("join", |setup| {
            Ok(Join { left: setup.list_state("left")?, right: setup.list_state("right")? })
        });
        job.sink(joined.map(job.bomb()), "joined");
    };
    Oracle::new("join", &describe).survives(&one("joined", joined(twice(0..LEN), 0..LEN / 2)));
}

/// A port is fed by several edges, and what connects comes from one stream, over ways of different length.
#[test]
fn branches_of_one_stream_can_be_connected() {
    let describe = |job: &Job<'_>| {
        let (left, right) = job.numbers("numbers", 2, LEN).tee();
        let more = job.numbers("more", 1, LEN / 2).map(|number| number + 1_000);
        let left = left.union(more).map(job.bomb()).key_by(|number| number % KEYS);
        let right = right.rebalance().map(|number| number.to_string()).map(job.bomb());
        let right = right.key_by(|text| text.parse::<u64>().unwrap() % KEYS);
        let joined = left.connect(right).process("join", |setup| {
            Ok(Join { left: setup.list_state("left")?, right: setup.list_state("right")? })
        });
        job.sink(joined, "joined");
    };
    let left = twice(0..LEN).chain(1_000..1_000 + LEN / 2);
    Oracle::new("diamond join", &describe).survives(&one("joined", joined(left, twice(0..LEN))));
}

/// Numbers the records of each of three types, per key. With a side output, of the last.
struct Three {
    seen: MapState<u8, u64>,
    aside: SideOutput<(u64, u64)>,
}

impl Three {
    fn count(&mut self, kind: u8, ctx: &mut Context<'_, Self>) -> u64 {
        self.seen.update(ctx, kind, |n| {
            *n += 1;
            *n
        })
    }
}

impl Operator for Three {
    type Key = u64;
    type Out = (u64, u8, u64);
}

impl Handler<u64> for Three {
    fn handle(&mut self, _: u64, ctx: &mut Context<'_, Self>) -> Result {
        let n = self.count(1, ctx);
        ctx.emit((*ctx.key(), 1, n));
        Ok(())
    }
}

impl Handler<(u64,)> for Three {
    fn handle(&mut self, _: (u64,), ctx: &mut Context<'_, Self>) -> Result {
        let n = self.count(2, ctx);
        ctx.emit((*ctx.key(), 2, n));
        Ok(())
    }
}

impl Handler<String> for Three {
    fn handle(&mut self, _: String, ctx: &mut Context<'_, Self>) -> Result {
        let (key, n) = (*ctx.key(), self.count(3, ctx));
        self.aside.emit(ctx, (key, n));
        Ok(())
    }
}

fn counts(len: u64, splits: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..KEYS).flat_map(move |key| {
        let of_key = (0..len).filter(|number| number % KEYS == key).count() as u64 * splits;
        (1..=of_key).map(move |n| (key, n))
    })
}

#[test]
fn more_than_two_streams_can_be_connected() {
    let describe = |job: &Job<'_>| {
        let first = job.numbers("first", 2, LEN).key_by(|number| number % KEYS);
        let second = job.numbers("second", 1, LEN).map(|n| (n,)).key_by(|(number,)| number % KEYS);
        let third = job.numbers("third", 3, LEN / 2).map(job.bomb());
        let third = third.map(|n| n.to_string()).key_by(|text| text.parse::<u64>().unwrap() % KEYS);
        let tag = OutputTag::new("aside");
        let declared = tag.clone();
        let (three, aside) = first
            .connect(second)
            .connect(third)
            .process("three", move |setup| {
                Ok(Three { seen: setup.map_state("seen")?, aside: setup.side_output(&declared)? })
            })
            .side_output(&tag);
        job.sink(three.map(job.bomb()), "three");
        job.sink(aside, "aside");
    };
    let three = counts(LEN, 2).map(|(key, n)| (key, 1, n)).chain(counts(LEN, 1).map(|(key, n)| (key, 2, n)));
    let mut expected = one("three", text(three));
    expected.extend(one("aside", text(counts(LEN / 2, 3))));
    Oracle::new("three", &describe).survives(&expected);
}

/// Without keys: keeps what it has seen in the state of the subtask, and says at the end how much of each.
struct Tally {
    seen: SplitListState<(u8, u64)>,
}

impl Operator for Tally {
    type Key = Unkeyed;
    type Out = (u8, u64);

    fn finish(&mut self, ctx: &mut OperatorContext<'_, Self>) -> Result {
        let seen = self.seen.get(ctx).to_vec();
        self.seen.clear(ctx);
        ctx.emit_iter(seen);
        Ok(())
    }
}

impl Handler<u64> for Tally {
    fn handle(&mut self, number: u64, ctx: &mut Context<'_, Self>) -> Result {
        self.seen.add(ctx, (1, number));
        Ok(())
    }
}

impl Handler<String> for Tally {
    fn handle(&mut self, text: String, ctx: &mut Context<'_, Self>) -> Result {
        self.seen.add(ctx, (2, text.parse()?));
        Ok(())
    }
}

impl Handler<(u64,)> for Tally {
    fn handle(&mut self, (number,): (u64,), ctx: &mut Context<'_, Self>) -> Result {
        ctx.emit((3, number));
        Ok(())
    }
}

/// `finish` comes when all three inputs have ended, which they do at very different times.
#[test]
fn streams_without_keys_can_be_connected() {
    let describe = |job: &Job<'_>| {
        let numbers = job.numbers("numbers", 2, LEN).map(job.bomb());
        let texts = job.numbers("texts", 1, LEN * 3).map(|number| number.to_string());
        let wrapped = job.numbers("wrapped", 1, 5).map(|number| (number,));
        let tally = numbers
            .connect(texts)
            .connect(wrapped.rebalance())
            .process("tally", |setup| Ok(Tally { seen: setup.split_list("seen")? }));
        job.sink(tally.map(job.bomb()), "tally");
    };
    let numbers = twice(0..LEN).map(|number| (1, number));
    let all = numbers.chain((0..LEN * 3).map(|n| (2, n))).chain((0..5).map(|n| (3, n)));
    Oracle::new("tally", &describe).survives(&one("tally", text(all)));
}
