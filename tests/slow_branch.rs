//! One slow consumer behind a dataflow that branches or joins: what is under way stays bounded on every branch, checkpoints complete,
//! and nothing is lost or repeated.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::oracle::{Job, Oracle, Written};
use common::{exact_modes, sorted};
use std::fmt::Debug;
use std::time::Duration;
use strandline::prelude::*;

/// Many times what the channels hold.
const LEN: u64 = 60_000;
const KEYS: u64 = 100;

/// Batches that a channel holds, and one in hand on each side.
const DEPTH: u64 = 8 + 2;
const BATCH: u64 = 1024;

fn text<T: Debug>(records: impl IntoIterator<Item = T>) -> Vec<String> {
    sorted(records.into_iter().map(|record| format!("{record:?}")).collect())
}

fn two(first: (&str, Vec<String>), second: (&str, Vec<String>)) -> Written {
    [first, second].map(|(uid, records)| (uid.to_owned(), records)).into()
}

/// With checkpoints, with a panic, and in two lives of different widths. At parallelism 2, at most `channels` times what a channel holds is under way.
fn holds(name: &str, describe: &dyn Fn(&Job<'_>), expected: &Written, channels: u64) {
    let passed = is_bounded(name, describe, expected, channels);
    Oracle::new(name, describe).rushing().check(expected, &[(2, 2)], 3, &[passed / 3]);
    // Barriers overtake what is under way, which goes on at another parallelism.
    for (mode, checkpointing) in &exact_modes()[1..] {
        let oracle = Oracle::new(name, describe).rushing().checkpointing(checkpointing);
        let in_flight = oracle.check(expected, &[(2, 2)], 3, &[passed / 3]).in_flight
            + oracle.check(expected, &[(2, 2)], 1, &[]).in_flight;
        println!("{name}, {mode}: {in_flight} restored in flight");
        assert!(in_flight > 0, "{name}, {mode}: nothing was in flight");
    }
}

/// The same in one life. Returns how many records pass places with bombs.
fn is_bounded(name: &str, describe: &dyn Fn(&Job<'_>), expected: &Written, channels: u64) -> u64 {
    let oracle = Oracle::new(name, describe).rushing();
    let plain = oracle.run(&[], 2, &[]);
    assert!(plain.written == *expected, "{name}: at parallelism 2");
    // And what is emitted at a stretch before anybody looks whether there is room, on either side.
    let bound = channels * DEPTH * BATCH + 4 * 1024;
    println!("{name}: at most {} under way, bound {bound}", plain.most_under_way);
    assert!(plain.most_under_way <= bound, "{name}: {} under way", plain.most_under_way);
    assert!(plain.most_under_way > BATCH, "{name}: nothing held anything back");
    oracle.check(expected, &[], 2, &[plain.passed / 2]);
    plain.passed
}

fn odd() -> impl Iterator<Item = u64> {
    (1..LEN).step_by(2)
}

fn even() -> impl Iterator<Item = u64> {
    (0..LEN).step_by(2)
}

#[test]
fn behind_either_side_of_a_split() {
    for slow_first in [true, false] {
        let describe = |job: &Job<'_>| {
            let enters = job.enters();
            let (even, odd) =
                job.numbers("numbers", 1, LEN).rebalance().map(job.bomb()).split(move |number| {
                    let number = if (number % 2 == 0) == slow_first { enters(number) } else { number };
                    if number % 2 == 0 { Ok(number) } else { Err(number) }
                });
            if slow_first {
                job.slow_sink(even.start_new_chain(), "even");
                job.sink(odd, "odd");
            } else {
                job.sink(even, "even");
                job.slow_sink(odd, "odd");
            }
        };
        let expected = two(("even", text(even())), ("odd", text(odd())));
        holds(&format!("slow split {slow_first}"), &describe, &expected, 2);
    }
}

#[test]
fn behind_either_side_of_a_tee() {
    for slow_first in [true, false] {
        let describe = |job: &Job<'_>| {
            let numbers = job.numbers("numbers", 1, LEN).rebalance().map(job.bomb()).map(job.enters());
            let (first, second) = numbers.tee();
            if slow_first {
                job.slow_sink(first.start_new_chain(), "first");
                job.sink(second, "second");
            } else {
                job.sink(first, "first");
                job.slow_sink(second, "second");
            }
        };
        let expected = two(("first", text(0..LEN)), ("second", text(0..LEN)));
        holds(&format!("slow tee {slow_first}"), &describe, &expected, 2);
    }
}

/// Odd numbers go aside; with or without keys.
struct Aside<K> {
    odd: SideOutput<u64>,
    entered: Box<dyn Fn(u64) -> u64>,
    key: std::marker::PhantomData<K>,
}

impl<K: 'static> Operator for Aside<K> {
    type Key = K;
    type Out = u64;
}

impl<K: 'static> Handler<u64> for Aside<K> {
    fn handle(&mut self, number: u64, ctx: &mut Context<'_, Self>) -> Result {
        let number = (self.entered)(number);
        if number % 2 == 1 {
            self.odd.emit(ctx, number);
        } else {
            ctx.emit(number);
        }
        Ok(())
    }
}

fn aside<K: 'static>(
    tag: &OutputTag<u64>,
    entered: impl Fn(u64) -> u64 + Clone + Send + 'static,
) -> impl Fn(&mut Setup<'_, K>) -> Result<Aside<K>> + Clone + Send + 'static {
    let tag = tag.clone();
    move |setup| {
        let entered = Box::new(entered.clone());
        Ok(Aside { odd: setup.side_output(&tag)?, entered, key: std::marker::PhantomData })
    }
}

#[test]
fn behind_a_side_output_or_the_main_one() {
    for (keyed, slow_main) in [(true, true), (true, false), (false, true), (false, false)] {
        let describe = |job: &Job<'_>| {
            let tag = OutputTag::new("odd");
            let numbers = job.numbers("numbers", 1, LEN).rebalance().map(job.bomb());
            let enters = job.enters();
            let entered = move |number| if (number % 2 == 0) == slow_main { enters(number) } else { number };
            let (even, odd) = if keyed {
                let stream = numbers.key_by(|number| number % KEYS).process("aside", aside(&tag, entered));
                let (even, odd) = stream.side_output(&tag);
                (even.start_new_chain(), odd)
            } else {
                let (even, odd) = numbers.process("aside", aside(&tag, entered)).side_output(&tag);
                (even.start_new_chain(), odd)
            };
            if slow_main {
                job.slow_sink(even, "even");
                job.sink(odd, "odd");
            } else {
                job.sink(even, "even");
                job.slow_sink(odd, "odd");
            }
        };
        let expected = two(("even", text(even())), ("odd", text(odd())));
        holds(&format!("slow side, keyed {keyed}, main {slow_main}"), &describe, &expected, 2);
    }
}

/// Puts many records aside for each one, one at a time.
struct Many(SideOutput<(u64, u64)>, Box<dyn Fn(u64) -> u64>);

const MANY: u64 = 500;

impl Operator for Many {
    type Key = u64;
    type Out = u64;
}

impl Handler<u64> for Many {
    fn handle(&mut self, number: u64, ctx: &mut Context<'_, Self>) -> Result {
        for i in 0..MANY {
            self.0.emit(ctx, (number, (self.1)(i)));
        }
        Ok(())
    }
}

/// The next record is not taken while much of the last one's waits.
#[test]
fn behind_a_side_output_that_gives_much_more_than_comes_in() {
    const FEW: u64 = 150;
    let describe = |job: &Job<'_>| {
        let tag = OutputTag::new("many");
        let (declared, entered) = (tag.clone(), job.enters());
        let numbers = job.numbers("numbers", 1, FEW).map(job.bomb());
        let many = move |setup: &mut Setup<'_, u64>| {
            Ok(Many(setup.side_output(&declared)?, Box::new(entered.clone())))
        };
        let (none, many) = numbers.key_by(|number| number % KEYS).process("many", many).side_output(&tag);
        job.sink(none, "none");
        job.slow_sink(many, "many");
    };
    let many = text((0..FEW).flat_map(|number| (0..MANY).map(move |i| (number, i))));
    // All records that come in fit into a channel: there is no stop amid them.
    is_bounded("slow many", &describe, &two(("none", Vec::new()), ("many", many)), 2);
}

/// Numbers the records of two types per key.
struct Both(ValueState<(u64, u64)>);

impl Operator for Both {
    type Key = u64;
    type Out = (u64, u64, u64);
}

impl Handler<u64> for Both {
    fn handle(&mut self, _: u64, ctx: &mut Context<'_, Self>) -> Result {
        let n = self.0.update(ctx, |(n, _)| {
            *n += 1;
            *n
        });
        ctx.emit((1, *ctx.key(), n));
        Ok(())
    }
}

impl Handler<(u64,)> for Both {
    fn handle(&mut self, _: (u64,), ctx: &mut Context<'_, Self>) -> Result {
        let n = self.0.update(ctx, |(_, n)| {
            *n += 1;
            *n
        });
        ctx.emit((2, *ctx.key(), n));
        Ok(())
    }
}

impl BroadcastHandler<(u64,)> for Both {
    fn handle_broadcast(&mut self, (n,): (u64,), ctx: &mut BroadcastContext<'_, Self>) -> Result {
        ctx.emit((3, n, 0));
        Ok(())
    }
}

fn counted(kind: u64) -> impl Iterator<Item = (u64, u64, u64)> {
    (0..KEYS).flat_map(move |key| (1..=LEN / KEYS).map(move |n| (kind, key, n)))
}

/// The branches of one stream meet again in front of the slow sink, and one of them is another exchange longer.
#[test]
fn behind_connected_branches_of_one_stream() {
    let describe = |job: &Job<'_>| {
        let (first, second) = job.numbers("numbers", 1, LEN).map(job.bomb()).map(job.enters()).tee();
        let second = second.rebalance().map(|number| (number,)).map(job.enters());
        let both = first
            .key_by(|number| number % KEYS)
            .connect(second.key_by(|(number,)| number % KEYS))
            .process("both", |setup| Ok(Both(setup.value_state("n")?)));
        let (kinds, more) = both.tee();
        job.slow_sink(kinds.start_new_chain(), "kinds");
        job.sink(more.map(|(kind, _, _)| kind), "more");
    };
    let kinds = text(counted(1).chain(counted(2)));
    let more = text((0..LEN).flat_map(|_| [1, 2]));
    // To the key: two and four; on the longer way: one and two; to the sink: two. (One of the two sources has nothing.)
    holds("slow connect", &describe, &two(("kinds", kinds), ("more", more)), 11);
}

/// Every subtask gives something for each rule, so the rules are held back, too.
#[test]
fn behind_a_broadcast() {
    const RULES: u64 = 20_000;
    let describe = |job: &Job<'_>| {
        let rules = job.numbers("rules", 1, RULES).map(|number| (number,)).broadcast();
        let numbers = job.numbers("numbers", 1, LEN).map(job.bomb());
        let both = numbers
            .key_by(|number| number % KEYS)
            .connect_broadcast(rules)
            .parallelism(2)
            .process("both", |setup| Ok(Both(setup.value_state("n")?)));
        let (both, kinds) = both.map(job.enters()).tee();
        job.slow_sink(both.start_new_chain(), "both");
        job.sink(kinds.map(|(kind, _, _)| kind), "kinds");
    };
    let both = counted(1).chain((0..RULES).flat_map(|n| [(3, n, 0); 2]));
    let expected =
        two(("both", text(both)), ("kinds", text((0..LEN).map(|_| 1).chain((0..2 * RULES).map(|_| 3)))));
    holds("slow broadcast", &describe, &expected, 2);
}

/// Gives several records for each, of whatever kind.
struct Several;

impl Operator for Several {
    type Key = Unkeyed;
    type Out = (u64, u64);
}

impl Handler<u64> for Several {
    fn handle(&mut self, number: u64, ctx: &mut Context<'_, Self>) -> Result {
        ctx.emit((1, number));
        Ok(())
    }
}

impl Handler<(u64,)> for Several {
    fn handle(&mut self, (number,): (u64,), ctx: &mut Context<'_, Self>) -> Result {
        for i in 0..3 {
            ctx.emit((2 + i, number));
        }
        Ok(())
    }
}

impl BroadcastHandler<u8> for Several {
    fn handle_broadcast(&mut self, _: u8, ctx: &mut BroadcastContext<'_, Self>) -> Result {
        ctx.emit_iter((0..300).map(|i| (5, i)));
        Ok(())
    }
}

#[test]
fn behind_an_operator_of_several_inputs_without_keys() {
    let describe = |job: &Job<'_>| {
        let rules = job.numbers("rules", 1, 50).map(|_| 1_u8).broadcast();
        let numbers = job.numbers("numbers", 1, LEN / 2).map(job.bomb());
        let others = job.numbers("others", 1, LEN / 3).map(|number| (number,)).rebalance();
        let several = numbers
            .connect(others)
            .connect_broadcast(rules)
            .parallelism(2)
            .process("several", |_| Ok(Several));
        let (several, kinds) = several.map(job.enters()).tee();
        job.slow_sink(several.start_new_chain(), "several");
        job.sink(kinds.map(|(kind, _)| kind), "kinds");
    };
    let all: Vec<(u64, u64)> = (0..LEN / 2)
        .map(|number| (1, number))
        .chain((0..LEN / 3).flat_map(|number| [(2, number), (3, number), (4, number)]))
        .chain((0..50 * 2).flat_map(|_| (0..300).map(|i| (5, i))))
        .collect();
    let expected = two(("kinds", text(all.iter().map(|(kind, _)| kind))), ("several", text(&all)));
    holds("slow inputs", &describe, &expected, 2);
}

/// On threads, where every interleaving is possible: branches that meet again, with checkpoints all the time.
#[test]
fn on_threads_a_diamond_neither_hangs_nor_loses_anything() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(common::in_time("a diamond on threads", async {
        let env = Environment::builder()
            .parallelism(3)
            .workers(3)
            .checkpointing(Checkpointing::every(Duration::from_millis(10)).max_concurrent(2))
            .build()
            .unwrap();
        let out = Collect::new();
        let (first, second) = env.source("numbers", Iter::new(0..LEN)).rebalance().tee();
        let (second, third) = second.split(|number| if number % 3 > 0 { Ok(number) } else { Err(number) });
        let rules = third.map(|number| (number,)).broadcast();
        first
            .union(second.start_new_chain().rebalance())
            .key_by(|number| number % KEYS)
            .connect_broadcast(rules)
            .process("both", |setup| Ok(Both(setup.value_state("n")?)))
            .sink("out", out.clone());
        let job = env.start("slow-branch-diamond").await.unwrap();
        assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
        let mut expected: Vec<(u64, u64, u64)> = (0..KEYS)
            .flat_map(|key| {
                let of_key = (0..LEN).filter(|number| number % KEYS == key);
                let n = of_key.map(|number| if number % 3 > 0 { 2 } else { 1 }).sum::<u64>();
                (1..=n).map(move |n| (1, key, n))
            })
            .collect();
        expected.extend((0..LEN).step_by(3).flat_map(|number| [(3, number, 0); 3]));
        assert!(sorted(out.records()) == sorted(expected), "{} records", out.len());
    }));
}
