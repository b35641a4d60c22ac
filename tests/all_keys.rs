//! What is done to all keys of a subtask: when a rule comes, and at the end.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::oracle::{Job, Oracle, Written};
use common::{sorted, virtual_process};
use serde::{Deserialize, Serialize};
use strandline::prelude::*;

const LEN: u64 = 40;
const RULES: u64 = 5;
const KEYS: u64 = 7;

#[derive(Clone, Serialize, Deserialize)]
struct Rule(u64);

/// Pairs each key with each rule, once: a new key with the rules that came before it, all keys with one that comes. At the end it gives
/// the number of records of each key.
struct Meet {
    rules: BroadcastState<u64, ()>,
    count: ValueState<u64>,
    met: MapState<u64, ()>,
}

impl Operator for Meet {
    type Key = u64;
    type Out = (u64, u64);

    fn finish(&mut self, ctx: &mut OperatorContext<'_, Self>) -> Result {
        let (count, met) = (self.count, self.met);
        ctx.for_each_key(&met, |ctx| {
            assert_eq!(met.len(ctx) as u64, RULES);
            let records = count.take(ctx).ok_or("a key without a count")?;
            ctx.emit((*ctx.key(), 1000 + records));
            Ok(())
        })
    }
}

impl Meet {
    fn meet(met: MapState<u64, ()>, rule: u64, ctx: &mut Context<'_, Self>) {
        assert_eq!(met.insert(ctx, rule, ()), None, "key {} has met rule {rule} before", ctx.key());
        ctx.emit((*ctx.key(), rule));
    }
}

impl Handler<u64> for Meet {
    fn handle(&mut self, _: u64, ctx: &mut Context<'_, Self>) -> Result {
        if !self.count.exists(ctx) {
            let rules: Vec<u64> = self.rules.iter(ctx).map(|(rule, ())| *rule).collect();
            rules.into_iter().for_each(|rule| Self::meet(self.met, rule, ctx));
        }
        self.count.update(ctx, |count| *count += 1);
        Ok(())
    }
}

impl BroadcastHandler<Rule> for Meet {
    fn handle_broadcast(&mut self, Rule(rule): Rule, ctx: &mut BroadcastContext<'_, Self>) -> Result {
        self.rules.insert(ctx, rule, ());
        let met = self.met;
        ctx.for_each_key(&self.count, |ctx| {
            Self::meet(met, rule, ctx);
            Ok(())
        })
    }
}

fn declare(setup: &mut Setup<'_, u64>) -> Result<Meet> {
    Ok(Meet {
        rules: setup.broadcast_state("rules")?,
        count: setup.value_state("count")?,
        met: setup.map_state("met")?,
    })
}

#[test]
fn every_key_meets_every_rule_and_is_there_at_the_end_whatever_fails() {
    let describe = |job: &Job<'_>| {
        let rules = job.numbers("rules", 1, RULES).map(Rule).map(job.bomb()).broadcast();
        let records = job.numbers("records", 2, LEN).map(job.bomb()).key_by(|number| number % KEYS);
        let met = records.connect_broadcast(rules).process("meet", declare);
        job.sink(met.map(job.bomb()), "met");
    };
    let pairs = (0..KEYS).flat_map(|key| (0..RULES).map(move |rule| (key, rule)));
    let counts = (0..KEYS).map(|key| (key, 1000 + 2 * (0..LEN).filter(|n| n % KEYS == key).count() as u64));
    let expected: Vec<String> = pairs.chain(counts).map(|pair| format!("{pair:?}")).collect();
    let expected: Written = [("met".to_owned(), sorted(expected))].into();
    Oracle::new("all keys", &describe).survives(&expected);
}

/// Gives the keys of every kind of state.
struct Kinds {
    value: ValueState<u8>,
    list: ListState<u8>,
    map: MapState<u8, u8>,
    reducing: ReducingState<u8>,
    aggregating: AggregatingState<u8, Last>,
}

#[derive(Clone)]
struct Last;

impl Aggregate<u8> for Last {
    type Acc = u8;
    type Out = u8;

    fn create(&self) -> u8 {
        0
    }

    fn add(&self, acc: &mut u8, record: u8) {
        *acc = record;
    }

    fn result(&self, acc: &u8) -> u8 {
        *acc
    }

    fn merge(&self, into: &mut u8, other: u8) {
        *into = other;
    }
}

impl Operator for Kinds {
    type Key = String;
    type Out = String;

    fn finish(&mut self, ctx: &mut OperatorContext<'_, Self>) -> Result {
        fn tell(what: &'static str) -> impl FnMut(&mut Context<'_, Kinds>) -> Result {
            move |ctx| {
                ctx.emit(format!("{what} of {}", ctx.key()));
                Ok(())
            }
        }
        ctx.for_each_key(&self.value, tell("value"))?;
        ctx.for_each_key(&self.list, tell("list"))?;
        ctx.for_each_key(&self.map, tell("map"))?;
        ctx.for_each_key(&self.reducing, tell("reducing"))?;
        ctx.for_each_key(&self.aggregating, tell("aggregating"))?;
        let stopped = ctx.for_each_key(&self.value, |_| Err("enough".into()));
        assert_eq!(stopped.unwrap_err().to_string(), "enough");
        Ok(())
    }
}

impl Handler<u8> for Kinds {
    fn handle(&mut self, record: u8, ctx: &mut Context<'_, Self>) -> Result {
        match record {
            0 => self.value.set(ctx, 0),
            1 => self.list.add(ctx, 1),
            2 => drop(self.map.insert(ctx, 2, 2)),
            3 => self.reducing.add(ctx, 3),
            4 => self.aggregating.add(ctx, 4),
            _ => self.value.clear(ctx),
        }
        Ok(())
    }
}

#[test]
fn the_keys_of_a_state_are_those_that_have_this_one() {
    let records = virtual_process(async {
        let env = Environment::builder().parallelism(1).build().unwrap();
        let out = Collect::new();
        // The last one takes away again what the first has put in.
        env.source("records", Iter::new([5, 0, 1, 2, 3, 4, 10]))
            .key_by(|record| if *record == 10 { "5".to_owned() } else { record.to_string() })
            .process("kinds", |setup| {
                Ok(Kinds {
                    value: setup.value_state("value")?,
                    list: setup.list_state("list")?,
                    map: setup.map_state("map")?,
                    reducing: setup.reducing_state("reducing", |into, from| *into = from)?,
                    aggregating: setup.aggregating_state("aggregating", Last)?,
                })
            })
            .sink("out", out.clone());
        env.start_local("kinds").await.unwrap().wait().await.unwrap();
        out.records()
    });
    let expected = ["value of 0", "list of 1", "map of 2", "reducing of 3", "aggregating of 4"];
    assert_eq!(records, expected);
}
