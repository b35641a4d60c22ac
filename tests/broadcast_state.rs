//! A broadcast stream beside another one: every subtask gets every rule, keeps it across restarts, and applies it to its own records.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::oracle::{Job, Oracle, Written};
use common::sorted;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt::Debug;
use strandline::prelude::*;

const LEN: u64 = 40;
const RULES: u64 = 10;
const KEYS: u64 = 6;

fn text<T: Debug>(records: impl IntoIterator<Item = T>) -> Vec<String> {
    sorted(records.into_iter().map(|record| format!("{record:?}")).collect())
}

fn one(uid: &str, records: Vec<String>) -> Written {
    [(uid.to_owned(), records)].into()
}

#[derive(Serialize, Deserialize)]
struct Rule(u64);

impl Clone for Rule {
    fn clone(&self) -> Self {
        Self(self.0)
    }
}

/// Pairs each record with each rule, once: those that came before it when it comes, the others when they come. Where a subtask lost or
/// never got a rule, or a record moved to where its rules are not, pairs are missing or double.
struct Pairs {
    rules: BroadcastState<u64, u64>,
    records: SplitListState<u64>,
}

impl Operator for Pairs {
    type Key = Unkeyed;
    type Out = (u64, u64);
}

impl Handler<u64> for Pairs {
    fn handle(&mut self, record: u64, ctx: &mut Context<'_, Self>) -> Result {
        self.records.add(ctx, record);
        let rules: Vec<u64> = self.rules.iter(ctx).map(|(rule, _)| *rule).collect();
        ctx.emit_iter(rules.into_iter().map(move |rule| (record, rule)));
        Ok(())
    }
}

impl BroadcastHandler<Rule> for Pairs {
    fn handle_broadcast(&mut self, Rule(rule): Rule, ctx: &mut BroadcastContext<'_, Self>) -> Result {
        assert_eq!(self.rules.insert(ctx, rule, rule * 2), None, "a rule came twice");
        let records = self.records.get(ctx).to_vec();
        ctx.emit_iter(records.into_iter().map(move |record| (record, rule)));
        Ok(())
    }
}

fn declare(setup: &mut Setup<'_, Unkeyed>) -> Result<Pairs> {
    Ok(Pairs { rules: setup.broadcast_state("rules")?, records: setup.split_list("records")? })
}

fn all_pairs(records: impl Iterator<Item = u64>) -> Vec<String> {
    text(records.flat_map(|record| (0..RULES).map(move |rule| (record, rule))))
}

#[test]
fn every_record_meets_every_rule_exactly_once() {
    let describe = |job: &Job<'_>| {
        let rules = job.numbers("rules", 1, RULES).map(Rule).map(job.bomb()).broadcast();
        let records = job.numbers("records", 2, LEN).rebalance().map(job.bomb());
        let pairs = records.connect_broadcast(rules).process("pairs", declare);
        job.sink(pairs.map(job.bomb()), "pairs");
    };
    let expected = one("pairs", all_pairs((0..LEN).flat_map(|record| [record; 2])));
    Oracle::new("broadcast", &describe).survives(&expected);
}

/// The copies of a life with few subtasks are dealt out to many, and the other way.
#[test]
fn s9_6_rules_from_before_a_change_of_parallelism_are_everywhere_after_it() {
    let describe = |job: &Job<'_>| {
        // All rules come in the first life, and most records after it.
        let rules = job.numbers("rules", 1, RULES).map(Rule).broadcast();
        let parallelism = [1, 4, 2, 5, 3, 3][job.life];
        let records = job.numbers("records", 2, LEN).rebalance();
        let pairs = records.connect_broadcast(rules).parallelism(parallelism).process("pairs", declare);
        job.sink(pairs, "pairs");
    };
    let lives = [(1, 2), (1, 1), (2, 3), (3, 2), (4, 2)];
    let written = Oracle::new("moved rules", &describe).run(&lives, 2, &[]).written;
    assert_eq!(written, one("pairs", all_pairs((0..LEN).flat_map(|record| [record; 2]))));
}

/// Keyed: the rules that a key knows. Rules are removed, too.
struct Known {
    known: ValueState<u64>,
    rules: BroadcastState<u64, String>,
    told: SideOutput<usize>,
}

impl Operator for Known {
    type Key = u64;
    type Out = (u64, u64);
}

impl Handler<u64> for Known {
    fn handle(&mut self, number: u64, ctx: &mut Context<'_, Self>) -> Result {
        let n = self.known.get(ctx).unwrap_or(0) + 1;
        self.known.set(ctx, n);
        if let Some(text) = self.rules.peek(ctx, &(number % 2)) {
            assert_eq!(*text, format!("{}", number % 2));
        }
        ctx.emit((*ctx.key(), n));
        Ok(())
    }
}

impl BroadcastHandler<Rule> for Known {
    fn handle_broadcast(&mut self, Rule(rule): Rule, ctx: &mut BroadcastContext<'_, Self>) -> Result {
        // The text of the last rule of each kind, and one that comes and goes.
        self.rules.insert(ctx, rule % 2, format!("{}", rule % 2));
        if rule % 2 == 0 {
            self.rules.insert(ctx, 100, String::new());
        } else {
            self.rules.remove(ctx, &100);
        }
        let rules = self.rules.len(ctx);
        self.told.emit(ctx, rules);
        Ok(())
    }
}

#[test]
fn a_keyed_operator_reads_the_rules_with_every_record() {
    let describe = |job: &Job<'_>| {
        let rules = job.numbers("rules", 1, RULES).map(Rule).broadcast();
        let numbers = job.numbers("numbers", 2, LEN).map(job.bomb());
        let tag = OutputTag::new("told");
        let declared = tag.clone();
        let (known, told) = numbers
            .key_by(|number| number % KEYS)
            .connect_broadcast(rules)
            // The number of what is told is that of the subtasks.
            .parallelism(2)
            .process("known", move |setup| {
                Ok(Known {
                    known: setup.value_state("known")?,
                    rules: setup.broadcast_state("rules")?,
                    told: setup.side_output(&declared)?,
                })
            })
            .side_output(&tag);
        job.sink(known.map(job.bomb()), "known");
        job.sink(told, "told");
    };
    let known = (0..KEYS).flat_map(|key| {
        let of_key = (0..LEN).filter(|number| number % KEYS == key).count() as u64 * 2;
        (1..=of_key).map(move |n| (key, n))
    });
    // One rule and the other; one kind at first, then two; each in both subtasks.
    let told = (0..RULES).map(|rule| if rule == 0 || rule % 2 == 1 { 2 } else { 3 }).flat_map(|n| [n; 2]);
    let mut expected = one("known", text(known));
    expected.extend(one("told", text(told)));
    Oracle::new("known", &describe).survives(&expected);
}

/// Two streams and two kinds of rules at one operator.
struct Mixed {
    sums: ValueState<u64>,
    factors: BroadcastState<u8, u64>,
}

impl Operator for Mixed {
    type Key = u64;
    type Out = (u64, u64);
}

impl Handler<u64> for Mixed {
    fn handle(&mut self, _: u64, ctx: &mut Context<'_, Self>) -> Result {
        let sum = self.sums.get(ctx).unwrap_or(0) + 1;
        self.sums.set(ctx, sum);
        ctx.emit((*ctx.key(), sum));
        Ok(())
    }
}

impl Handler<String> for Mixed {
    fn handle(&mut self, text: String, ctx: &mut Context<'_, Self>) -> Result {
        Handler::<u64>::handle(self, text.parse()?, ctx)
    }
}

impl BroadcastHandler<Rule> for Mixed {
    fn handle_broadcast(&mut self, Rule(rule): Rule, ctx: &mut BroadcastContext<'_, Self>) -> Result {
        let sum = self.factors.update(ctx, 1, |sum| {
            *sum += rule;
            *sum
        });
        ctx.emit((1_000, sum));
        Ok(())
    }
}

impl BroadcastHandler<u8> for Mixed {
    fn handle_broadcast(&mut self, _: u8, ctx: &mut BroadcastContext<'_, Self>) -> Result {
        let n = self.factors.update(ctx, 2, |n| {
            *n += 1;
            *n
        });
        ctx.emit((2_000, n));
        Ok(())
    }
}

#[test]
fn several_streams_and_several_broadcasts_meet_in_one_operator() {
    let describe = |job: &Job<'_>| {
        let numbers = job.numbers("numbers", 2, LEN).key_by(|number| number % KEYS);
        let texts = job.numbers("texts", 1, LEN).map(|number| number.to_string()).map(job.bomb());
        let (rules, bytes) = job.numbers("rules", 1, RULES).tee();
        let mixed = numbers
            .connect_broadcast(rules.map(Rule).broadcast())
            .connect(texts.key_by(|text| text.parse::<u64>().unwrap() % KEYS))
            .connect_broadcast(bytes.map(|_| 7_u8).map(job.bomb()).broadcast())
            .parallelism(3)
            .process("mixed", |setup| {
                Ok(Mixed { sums: setup.value_state("sums")?, factors: setup.broadcast_state("factors")? })
            });
        job.sink(mixed.map(job.bomb()), "mixed");
    };
    let counts = (0..KEYS).flat_map(|key| {
        let of_key = (0..LEN).filter(|number| number % KEYS == key).count() as u64 * 3;
        (1..=of_key).map(move |n| (key, n))
    });
    let rules = (0..RULES).flat_map(|rule| [(1_000, rule * (rule + 1) / 2); 3]);
    let bytes = (1..=RULES).flat_map(|n| [(2_000, n); 3]);
    let expected = one("mixed", text(counts.chain(rules).chain(bytes)));
    Oracle::new("mixed", &describe).survives(&expected);
}

/// A broadcast stream is a stream: plain stages see every record once per subtask.
#[test]
fn a_broadcast_stream_goes_through_plain_stages_as_often_as_there_are_subtasks() {
    let describe = |job: &Job<'_>| {
        let copies = job.numbers("numbers", 2, LEN).broadcast().parallelism(3).map(job.bomb());
        job.sink(copies.filter(|number| number % 2 == 0), "copies");
    };
    let copies = (0..LEN).filter(|number| number % 2 == 0).flat_map(|number| [number; 2 * 3]);
    Oracle::new("copies", &describe).survives(&one("copies", text(copies)));
}

/// A life that does not know a broadcast state keeps it for one that does.
#[test]
fn a_broadcast_state_that_is_not_declared_for_a_while_is_kept() {
    #[derive(Default)]
    struct Forgets {
        rules: Option<BroadcastState<u64, u64>>,
    }
    impl Operator for Forgets {
        type Key = Unkeyed;
        type Out = u64;

        fn finish(&mut self, ctx: &mut OperatorContext<'_, Self>) -> Result {
            let rules: BTreeSet<u64> =
                self.rules.iter().flat_map(|rules| rules.iter(ctx)).map(|(rule, _)| *rule).collect();
            ctx.emit_iter(rules);
            Ok(())
        }
    }
    impl Handler<u64> for Forgets {
        fn handle(&mut self, _: u64, _: &mut Context<'_, Self>) -> Result {
            Ok(())
        }
    }
    impl BroadcastHandler<Rule> for Forgets {
        fn handle_broadcast(&mut self, Rule(rule): Rule, ctx: &mut BroadcastContext<'_, Self>) -> Result {
            if let Some(rules) = &self.rules {
                rules.insert(ctx, rule, rule);
            }
            Ok(())
        }
    }
    let describe = |job: &Job<'_>| {
        let rules = job.numbers("rules", 1, RULES).map(Rule).broadcast();
        let numbers = job.numbers("numbers", 1, LEN);
        let knows = job.life != 1;
        let forgets = numbers.rebalance().connect_broadcast(rules).process("forgets", move |setup| {
            Ok(if knows {
                Forgets { rules: Some(setup.broadcast_state("rules")?) }
            } else {
                Forgets::default()
            })
        });
        job.sink(forgets, "rules");
    };
    // Rules of the second part come while the state is unknown, at another parallelism.
    let written = Oracle::new("forgets", &describe).run(&[(1, 2), (2, 3)], 2, &[]).written;
    let part = RULES / common::oracle::PARTS;
    let known = (0..part).chain(2 * part..RULES).flat_map(|rule| [rule; 2]);
    assert_eq!(written, one("rules", text(known)));
}
