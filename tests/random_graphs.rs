//! Graphs of random stages, branches and joins write what a plain calculation gives, whatever fails and however wide they are.
//!
//! Every stage here is a function of multisets: what it gives does not depend on the order in which records come, so what the
//! graph must write is calculated beside it, over plain vectors. `STRANDLINE_GRAPHS=500` tries more.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::oracle::{Job, Oracle, Written};
use common::{exact_modes, sorted};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::BTreeMap;
use strandline::prelude::*;

const LEN: u64 = 10;

/// Beyond this many records a stage that makes more of them is left out.
const MANY: usize = 1_500;

/// What to do next, to which stream, with which other one, and a number for whatever it needs.
type Step = (Op, usize, usize, u64);

#[derive(Debug, Clone, Copy)]
enum Op {
    Plain,
    Rebalance,
    NewChain,
    Split,
    Tee,
    Count,
    Repeat,
    AsideKeyed,
    AsidePlain,
    Union,
    Join,
    ConnectPlain,
    Pairs,
    KeyedBroadcast,
    Copies,
}
use Op::*;

const OPS: [Op; 15] = [
    Plain,
    Rebalance,
    NewChain,
    Split,
    Tee,
    Count,
    Repeat,
    AsideKeyed,
    AsidePlain,
    Union,
    Join,
    ConnectPlain,
    Pairs,
    KeyedBroadcast,
    Copies,
];

fn mix(left: u64, right: u64) -> u64 {
    (left * 31 + right) % 10_007
}

/// The n-th record of its key.
fn nth(key: u64, n: u64) -> u64 {
    mix(key, n)
}

/// Key and number of each record.
fn count(records: &[u64], keys: u64) -> Vec<(u64, u64)> {
    let mut seen = BTreeMap::<u64, u64>::new();
    let mut next = |key| {
        let n = seen.entry(key).or_default();
        *n += 1;
        (key, *n)
    };
    records.iter().map(|record| next(record % keys)).collect()
}

fn counted(records: &[u64], keys: u64) -> Vec<u64> {
    count(records, keys).into_iter().map(|(key, n)| nth(key, n)).collect()
}

fn pairs(left: &[u64], right: &[u64], keys: u64) -> Vec<u64> {
    let of = |left: u64| right.iter().filter(move |right| **right % keys == left % keys);
    left.iter().flat_map(|left| of(*left).map(|right| mix(*left, *right))).collect()
}

/// Counts the records of a key, but for those divisible by three, which go aside. Broadcast ones go through.
struct CountAside {
    seen: ValueState<u64>,
    aside: SideOutput<u64>,
}

impl Operator for CountAside {
    type Key = u64;
    type Out = u64;
}

impl Handler<u64> for CountAside {
    fn handle(&mut self, record: u64, ctx: &mut Context<'_, Self>) -> Result {
        if record.is_multiple_of(3) {
            self.aside.emit(ctx, record);
        } else {
            let n = self.seen.get(ctx).unwrap_or(0) + 1;
            self.seen.set(ctx, n);
            ctx.emit(nth(*ctx.key(), n));
        }
        Ok(())
    }
}

impl BroadcastHandler<u64> for CountAside {
    fn handle_broadcast(&mut self, record: u64, ctx: &mut BroadcastContext<'_, Self>) -> Result {
        ctx.emit(record);
        Ok(())
    }
}

/// Odd records go aside.
struct Odd(SideOutput<u64>);

impl Operator for Odd {
    type Key = Unkeyed;
    type Out = u64;
}

impl Handler<u64> for Odd {
    fn handle(&mut self, record: u64, ctx: &mut Context<'_, Self>) -> Result {
        if record % 2 == 1 {
            self.0.emit(ctx, record)
        } else {
            ctx.emit(record)
        }
        Ok(())
    }
}

/// A record of the other stream.
#[derive(Clone, Serialize, Deserialize)]
struct Other(u64);

/// Pairs the records of two streams by key.
struct Join2(ListState<u64>, ListState<u64>);

impl Operator for Join2 {
    type Key = u64;
    type Out = u64;
}

impl Handler<u64> for Join2 {
    fn handle(&mut self, left: u64, ctx: &mut Context<'_, Self>) -> Result {
        self.0.add(ctx, left);
        let right = self.1.get(ctx);
        ctx.emit_iter(right.into_iter().map(move |right| mix(left, right)));
        Ok(())
    }
}

impl Handler<Other> for Join2 {
    fn handle(&mut self, Other(right): Other, ctx: &mut Context<'_, Self>) -> Result {
        self.1.add(ctx, right);
        let left = self.0.get(ctx);
        ctx.emit_iter(left.into_iter().map(move |left| mix(left, right)));
        Ok(())
    }
}

/// Lets records of two streams through.
struct Through;

impl Operator for Through {
    type Key = Unkeyed;
    type Out = u64;
}

impl Handler<u64> for Through {
    fn handle(&mut self, record: u64, ctx: &mut Context<'_, Self>) -> Result {
        ctx.emit(record);
        Ok(())
    }
}

impl Handler<Other> for Through {
    fn handle(&mut self, Other(record): Other, ctx: &mut Context<'_, Self>) -> Result {
        ctx.emit(record + 1);
        Ok(())
    }
}

/// Pairs each record with each broadcast one. Broadcast records by how often they came.
struct PairAll {
    records: SplitListState<u64>,
    rules: BroadcastState<u64, u64>,
}

impl Operator for PairAll {
    type Key = Unkeyed;
    type Out = u64;
}

impl Handler<u64> for PairAll {
    fn handle(&mut self, record: u64, ctx: &mut Context<'_, Self>) -> Result {
        self.records.add(ctx, record);
        let rules: Vec<(u64, u64)> = self.rules.iter(ctx).map(|(rule, n)| (*rule, *n)).collect();
        ctx.emit_iter(rules.into_iter().flat_map(move |(rule, n)| (0..n).map(move |_| mix(record, rule))));
        Ok(())
    }
}

impl BroadcastHandler<u64> for PairAll {
    fn handle_broadcast(&mut self, rule: u64, ctx: &mut BroadcastContext<'_, Self>) -> Result {
        self.rules.update(ctx, rule, |n| *n += 1);
        let records = self.records.get(ctx).to_vec();
        ctx.emit_iter(records.into_iter().map(move |record| mix(record, rule)));
        Ok(())
    }
}

/// A stream, and what it must carry.
type Known = (Stream<u64>, Vec<u64>);

/// Writes one stage down, and calculates it.
fn step(job: &Job<'_>, nr: usize, (op, i, j, k): Step, streams: &mut Vec<Known>) {
    let uid = format!("op {nr}");
    let (stream, records) = streams.remove(i % streams.len());
    let keys = k % 5 + 1;
    let width = (k % 3 + 1) as u32;
    let two = |streams: &mut Vec<Known>| streams.remove(j % streams.len());
    let count_aside = |tag: &OutputTag<u64>| {
        let tag = tag.clone();
        move |setup: &mut Setup<'_, u64>| {
            Ok(CountAside { seen: setup.value_state("seen")?, aside: setup.side_output(&tag)? })
        }
    };
    match op {
        // Those that need another stream, or would make too many records.
        Union | Join | ConnectPlain | Pairs | KeyedBroadcast if streams.is_empty() => {
            streams.push((stream, records))
        }
        Copies | Repeat | Tee if records.len() > MANY => streams.push((stream, records)),
        Plain => {
            let made = stream
                .map(move |n| n * 3 + k)
                .filter(move |n| n % 7 != k % 7)
                .flat_map(|n| (0..n % 3).map(move |i| n + i))
                .filter_map(|n| (n % 5 > 0).then_some(n % 1_000))
                .map(job.bomb());
            let known = records.iter().map(|n| n * 3 + k).filter(|n| n % 7 != k % 7);
            let known = known.flat_map(|n| (0..n % 3).map(move |i| n + i)).filter(|n| n % 5 > 0);
            streams.push((made.start_new_chain(), known.map(|n| n % 1_000).collect()));
        }
        Rebalance => streams.push((stream.rebalance(), records)),
        // As wide as it happens to be in this life.
        NewChain => {
            let width = (k as u32 + job.life as u32) % 4 + 1;
            streams.push((
                stream.map(job.bomb()).start_new_chain().parallelism(width).map(|n| n).start_new_chain(),
                records,
            ));
        }
        Split => {
            let (rest, some) =
                stream.map(job.bomb()).split(move |n| if n % keys > 0 { Ok(n) } else { Err(n) });
            let (few, many): (Vec<u64>, Vec<u64>) = records.iter().partition(|n| *n % keys == 0);
            streams.push((rest.map(|n| n + 1).start_new_chain(), many.into_iter().map(|n| n + 1).collect()));
            streams.push((some, few));
        }
        Tee => {
            let (first, second) = stream.tee();
            streams.push((first.map(job.bomb()).start_new_chain(), records.clone()));
            streams.push((second, records));
        }
        Count => {
            let counted =
                stream.key_by(move |n| n % keys).parallelism(width).map_with_state(&uid, move |n, seen| {
                    let seen = seen.unwrap_or(0) + 1;
                    (nth(n % keys, seen), Some(seen))
                });
            streams.push((counted.map(job.bomb()).start_new_chain(), self::counted(&records, keys)));
        }
        Repeat => {
            let repeated = stream.key_by(move |n| n % keys).flat_map_with_state(&uid, move |n, seen| {
                let seen = seen.unwrap_or(0) + 1;
                ((0..seen % 3).map(move |_| nth(n % keys, seen)), Some(seen))
            });
            let known = count(&records, keys).into_iter();
            let known = known.flat_map(|(key, n)| (0..n % 3).map(move |_| nth(key, n))).collect();
            streams.push((repeated.start_new_chain(), known));
        }
        AsideKeyed => {
            let tag = OutputTag::new("aside");
            let stream = stream.key_by(move |n| n % keys);
            let (main, aside) = stream.process(&uid, count_aside(&tag)).side_output(&tag);
            let (thirds, others): (Vec<u64>, Vec<u64>) = records.iter().partition(|record| *record % 3 == 0);
            let main = main.map(job.bomb()).start_new_chain();
            streams.push((main, counted(&others, keys)));
            streams.push((aside, thirds));
        }
        AsidePlain => {
            let tag = OutputTag::new("odd");
            let declared = tag.clone();
            let (main, aside) = stream
                .map(job.bomb())
                .process(&uid, move |setup| Ok(Odd(setup.side_output(&declared)?)))
                .side_output(&tag);
            let (odd, even): (Vec<u64>, Vec<u64>) = records.iter().partition(|n| *n % 2 == 1);
            streams.push((main.map(|n| n / 2).start_new_chain(), even.into_iter().map(|n| n / 2).collect()));
            streams.push((aside, odd));
        }
        Union => {
            let (other, more) = two(streams);
            streams.push((stream.union(other), [records, more].concat()));
        }
        Join => {
            let (other, more) = two(streams);
            if records.len() * more.len() / keys as usize > MANY {
                streams.extend([(stream, records), (other, more)]);
                return;
            }
            let other = other.map(Other).map(job.bomb()).key_by(move |other| other.0 % keys);
            let joined = stream
                .key_by(move |n| n % keys)
                .connect(other)
                .process(&uid, |setup| Ok(Join2(setup.list_state("left")?, setup.list_state("right")?)));
            streams.push((joined.start_new_chain(), pairs(&records, &more, keys)));
        }
        ConnectPlain => {
            let (other, more) = two(streams);
            let both = stream.connect(other.map(Other)).parallelism(width).process(&uid, |_| Ok(Through));
            let more = more.into_iter().map(|n| n + 1);
            streams.push((both.map(job.bomb()).start_new_chain(), records.into_iter().chain(more).collect()));
        }
        Pairs => {
            let (other, rules) = two(streams);
            if records.len() * rules.len() > MANY {
                streams.extend([(stream, records), (other, rules)]);
                return;
            }
            let paired = stream.rebalance().connect_broadcast(other.map(job.bomb()).broadcast()).process(
                &uid,
                |setup| {
                    Ok(PairAll {
                        records: setup.split_list("records")?,
                        rules: setup.broadcast_state("rules")?,
                    })
                },
            );
            streams.push((paired.map(job.bomb()).start_new_chain(), pairs(&records, &rules, 1)));
        }
        KeyedBroadcast => {
            let (other, rules) = two(streams);
            if rules.len() > MANY {
                streams.extend([(stream, records), (other, rules)]);
                return;
            }
            // Nobody takes what goes aside.
            let counted = stream
                .key_by(move |n| n % keys)
                .connect_broadcast(other.broadcast())
                .parallelism(width)
                .process(&uid, count_aside(&OutputTag::new("aside")));
            let main: Vec<u64> = records.into_iter().filter(|record| record % 3 > 0).collect();
            let through = rules.iter().flat_map(|rule| (0..width).map(move |_| *rule));
            let known = self::counted(&main, keys).into_iter().chain(through).collect();
            streams.push((counted.start_new_chain(), known));
        }
        Copies => {
            let copies = stream.broadcast().parallelism(width).map(job.bomb());
            let known = records.iter().flat_map(|n| (0..width).map(move |_| *n)).collect();
            streams.push((copies.start_new_chain(), known));
        }
    }
}

/// Writes a graph down. Returns what it must write.
fn describe(job: &Job<'_>, steps: &[Step]) -> Written {
    let twice = (0..LEN).flat_map(|n| [n; 2]).collect();
    let mut streams: Vec<Known> = vec![
        (job.numbers("first", 2, LEN).start_new_chain(), twice),
        (job.numbers("second", 1, LEN / 2).rebalance(), (0..LEN / 2).collect()),
    ];
    for (nr, what) in steps.iter().enumerate() {
        step(job, nr, *what, &mut streams);
    }
    let mut written = Written::new();
    for (nr, (stream, records)) in streams.into_iter().enumerate() {
        let uid = format!("out {nr}");
        job.sink(stream, &uid);
        written.insert(uid, sorted(records.iter().map(|record| format!("{record:?}")).collect()));
    }
    written
}

#[test]
fn a_random_graph_writes_what_it_must() {
    let cases = std::env::var("STRANDLINE_GRAPHS").ok().and_then(|n| n.parse().ok()).unwrap_or(32);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    // The same graphs every time: a failure can be repeated.
    let random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let any_step = (prop::sample::select(OPS.as_slice()), 0..8_usize, 0..8_usize, 0..64_u64);
    let any_graph = prop::collection::vec(any_step, 1..14);
    let (records, in_flight) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    let tried = TestRunner::new_with_rng(config, random).run(&any_graph, |steps| {
        let expected = RefCell::new(Written::new());
        let write = |job: &Job<'_>| *expected.borrow_mut() = describe(job, &steps);
        let oracle = Oracle::new("random graph", &write);
        let passed = oracle.run(&[], 1, &[]).passed;
        let expected = expected.borrow().clone();
        records.set(records.get() + expected.values().map(Vec::len).sum::<usize>());
        oracle.check(&expected, &[], 1, &[]);
        oracle.check(&expected, &[], 2, &[passed / 3, passed * 2 / 3]);
        oracle.check(&expected, &[(1, 3), (2, 2), (4, 1)], 3, &[]);
        oracle.check(&expected, &[(2, 1)], 3, &[passed / 2, passed * 4 / 5]);
        for (_, mode) in &exact_modes()[1..] {
            let oracle = Oracle::new("random graph", &write).checkpointing(mode);
            oracle.check(&expected, &[(1, 2)], 2, &[passed / 3, passed * 2 / 3]);
            oracle.check(&expected, &[(1, 3), (2, 2), (4, 1)], 3, &[]);
            in_flight.set(in_flight.get() + oracle.run(&[(1, 2), (3, 3)], 1, &[passed / 2]).in_flight);
        }
        Ok(())
    });
    println!("{cases} graphs wrote {} records; {} were restored in flight", records.get(), in_flight.get());
    tried.unwrap();
}
