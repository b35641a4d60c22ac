//! Side outputs: records of other types, drained, held back and checkpointed with the main output.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::oracle::{Job, Oracle, Written};
use common::{Numbers, in_time, quiet_panics, sorted, virtual_process};
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use strandline::prelude::*;
use strandline::{BoxFuture, SinkWriter, SubtaskContext};

const SPLITS: u32 = 2;
const LEN: u64 = 60;
const KEYS: u64 = 5;

fn numbers() -> impl Iterator<Item = u64> {
    (0..LEN).flat_map(|number| (0..SPLITS).map(move |_| number))
}

fn text<T: Debug>(records: impl IntoIterator<Item = T>) -> Vec<String> {
    sorted(records.into_iter().map(|record| format!("{record:?}")).collect())
}

fn thirds() -> OutputTag<String> {
    OutputTag::new("thirds")
}

fn bursts() -> OutputTag<(u64, u64)> {
    OutputTag::new("bursts")
}

/// Counts the records of each key. Numbers divisible by three go aside as text; each seventh of a key makes a burst aside.
struct Sort {
    seen: ValueState<u64>,
    thirds: SideOutput<String>,
    bursts: SideOutput<(u64, u64)>,
    nobody: SideOutput<u8>,
}

impl Sort {
    fn declare(setup: &mut Setup<'_, u64>) -> Result<Self> {
        Ok(Self {
            seen: setup.value_state("seen")?,
            nobody: setup.side_output(&OutputTag::new("nobody"))?,
            bursts: setup.side_output(&bursts())?,
            thirds: setup.side_output(&thirds())?,
        })
    }
}

impl Operator for Sort {
    type Key = u64;
    type Out = (u64, u64);
}

impl Handler<u64> for Sort {
    fn handle(&mut self, number: u64, ctx: &mut Context<'_, Self>) -> Result {
        let n = self.seen.get(ctx).unwrap_or(0) + 1;
        self.seen.set(ctx, n);
        self.nobody.emit(ctx, 1);
        if number.is_multiple_of(3) {
            self.thirds.emit(ctx, number.to_string());
        } else {
            ctx.emit((*ctx.key(), number));
        }
        if n.is_multiple_of(7) {
            let key = *ctx.key();
            self.bursts.emit(ctx, (key, n));
            self.bursts.emit_iter(ctx, (0..20).map(move |i| (key, n * 100 + i)));
            self.bursts.emit(ctx, (key, n + 1));
        }
        Ok(())
    }
}

fn expected() -> Written {
    let main = numbers().filter(|number| number % 3 > 0).map(|number| (number % KEYS, number));
    let aside = numbers().filter(|number| number % 3 == 0).map(|number| number.to_string());
    let of_each_key = u64::from(SPLITS) * LEN / KEYS;
    let bursts = (0..KEYS).flat_map(|key| {
        (7..=of_each_key)
            .step_by(7)
            .flat_map(move |n| (0..20).map(move |i| (key, n * 100 + i)).chain([(key, n), (key, n + 1)]))
    });
    [("main", text(main)), ("thirds", text(aside)), ("bursts", text(bursts))]
        .map(|(uid, records)| (uid.to_owned(), records))
        .into()
}

#[test]
fn a_keyed_operator_sends_each_record_its_way_exactly_once() {
    let describe = |job: &Job<'_>| {
        let stream = job.numbers("numbers", SPLITS, LEN).key_by(|number| number % KEYS);
        let (main, texts) = stream.process("sort", Sort::declare).side_output(&thirds());
        let (main, bursts) = main.side_output(&bursts());
        job.sink(main.map(job.bomb()), "main");
        job.sink(texts.map(job.bomb()), "thirds");
        job.sink(bursts.rebalance().map(job.bomb()), "bursts");
    };
    Oracle::new("keyed sides", &describe).survives(&expected());
}

/// Without keys, inside a chain: what is before and behind it in the chain goes on undisturbed. It emits where no record is at hand, too.
struct Plain {
    odd: SideOutput<u64>,
    ends: SideOutput<&'static str>,
    sum: SplitListState<u64>,
}

impl Operator for Plain {
    type Key = Unkeyed;
    type Out = u64;

    fn finish(&mut self, ctx: &mut OperatorContext<'_, Self>) -> Result {
        let sum: u64 = self.sum.get(ctx).iter().sum();
        // One each, whatever the number of subtasks.
        self.odd.emit_iter(ctx, (0..sum).map(|_| 1_000));
        self.sum.clear(ctx);
        self.ends.emit(ctx, "end");
        Ok(())
    }
}

impl Handler<u64> for Plain {
    fn handle(&mut self, number: u64, ctx: &mut Context<'_, Self>) -> Result {
        if number.is_multiple_of(2) {
            ctx.emit(number);
        } else {
            self.odd.emit(ctx, number);
            self.sum.add(ctx, 1);
        }
        Ok(())
    }
}

#[test]
fn an_operator_in_a_chain_has_side_outputs_too() {
    let odd = OutputTag::new("odd");
    let describe = |job: &Job<'_>| {
        let declared = odd.clone();
        let (even, odd) = job
            .numbers("numbers", SPLITS, LEN)
            .flat_map(|number| [number, number + 10_000])
            .process("plain", move |setup| {
                Ok(Plain {
                    odd: setup.side_output(&declared)?,
                    ends: setup.side_output(&OutputTag::new("ends"))?,
                    sum: setup.split_list("sum")?,
                })
            })
            .side_output(&odd);
        job.sink(even.flat_map(|number| [number; 2]).map(job.bomb()), "even");
        job.sink(odd.map(job.bomb()), "odd");
    };
    let all = || numbers().flat_map(|number| [number, number + 10_000]);
    let even = text(all().filter(|number| number % 2 == 0).flat_map(|number| [number; 2]));
    let odd = text(all().filter(|number| number % 2 == 1).flat_map(|number| [number, 1_000]));
    let expected = [("even".to_owned(), even), ("odd".to_owned(), odd)].into();
    Oracle::new("sides in a chain", &describe).survives(&expected);
}

/// Remembers everything it is given, at once: what reaches it cannot be taken back.
#[derive(Clone, Default)]
struct Remember(Arc<Mutex<Vec<u64>>>);

struct RememberWriter(Remember);

impl Sink<u64> for Remember {
    type Commit = ();
    type Writer = RememberWriter;

    fn writer(&self, _: &SubtaskContext) -> Result<RememberWriter> {
        Ok(RememberWriter(self.clone()))
    }
}

impl SinkWriter<u64> for RememberWriter {
    type Commit = ();

    fn write(&mut self, record: u64) -> Result {
        self.0.0.lock().unwrap().push(record);
        Ok(())
    }

    async fn flush(&mut self) -> Result {
        Ok(())
    }

    fn prepare(&mut self) -> Result<BoxFuture<Result<Vec<()>>>> {
        Ok(Box::pin(std::future::ready(Ok(Vec::new()))))
    }
}

/// Sends each number aside; at the 30th several batches of it, and then it fails.
struct Fails {
    aside: SideOutput<u64>,
    panics: bool,
}

impl Operator for Fails {
    type Key = u64;
    type Out = u64;
}

impl Fails {
    fn handle(&self, number: u64, ctx: &mut impl strandline::SideAccess) -> Result {
        for _ in 0..if number == 30 { 3_000 } else { 1 } {
            self.aside.emit(ctx, number);
        }
        match (number, self.panics) {
            (30, true) => panic!("injected"),
            (30, false) => Err("injected".into()),
            _ => Ok(()),
        }
    }
}

impl Handler<u64> for Fails {
    fn handle(&mut self, number: u64, ctx: &mut Context<'_, Self>) -> Result {
        Self::handle(self, number, ctx)
    }
}

struct FailsUnkeyed(Fails);

impl Operator for FailsUnkeyed {
    type Key = Unkeyed;
    type Out = u64;
}

impl Handler<u64> for FailsUnkeyed {
    fn handle(&mut self, number: u64, ctx: &mut Context<'_, Self>) -> Result {
        self.0.handle(number, ctx)
    }
}

#[test]
fn nothing_that_a_failing_call_put_aside_leaves_the_subtask() {
    quiet_panics();
    for (keyed, panics) in [(true, true), (true, false), (false, true), (false, false)] {
        let remember = Remember::default();
        let end = virtual_process(in_time("a job that fails", async {
            let env = Environment::builder().parallelism(1).build().unwrap();
            let (numbers, gate) = Numbers::gated(1, 60);
            let numbers = env.source("numbers", numbers).map(|(_, number)| number);
            let tag = OutputTag::new("aside");
            let declared = tag.clone();
            let aside = if keyed {
                let stream = numbers.key_by(|_| 0_u64);
                let stream = stream.process("fails", move |setup| {
                    Ok(Fails { aside: setup.side_output(&declared)?, panics })
                });
                let (main, aside) = stream.side_output(&tag);
                main.sink("main", Collect::new());
                aside
            } else {
                let stream = numbers.process("fails", move |setup| {
                    Ok(FailsUnkeyed(Fails { aside: setup.side_output(&declared)?, panics }))
                });
                let (main, aside) = stream.side_output(&tag);
                main.sink("main", Collect::new());
                aside
            };
            aside.sink("aside", remember.clone());
            let job = env.start_local("failing aside").await.unwrap();
            gate.open_to(20);
            while remember.0.lock().unwrap().len() < 20 {
                assert!(!job.status().borrow().is_terminal(), "{:?}", job.wait().await);
                tokio::task::yield_now().await;
            }
            gate.open_to(60);
            job.wait().await
        }));
        assert!(end.unwrap_err().to_string().contains("injected"));
        let seen = remember.0.lock().unwrap();
        assert!(
            !seen.contains(&30),
            "keyed {keyed}, panics {panics}: a record of the failing call was written"
        );
    }
}

/// The error with which the job ends.
fn error_of(describe: impl Fn(&Environment)) -> Error {
    virtual_process(in_time("a job with a fault", async {
        let env = Environment::builder()
            .parallelism(2)
            .restart(RestartStrategy::fixed_delay(1000, Duration::ZERO))
            .build()
            .unwrap();
        describe(&env);
        match env.start_local("faulty sides").await {
            Ok(job) => job.wait().await.unwrap_err(),
            Err(error) => error,
        }
    }))
}

fn is_a_fault(error: &Error, parts: &[&str]) {
    assert_eq!(error.kind(), ErrorKind::Program, "{error}");
    for part in parts {
        assert!(error.to_string().contains(part), "`{part}` is missing in: {error}");
    }
}

fn sort(env: &Environment) -> Stream<(u64, u64), impl OperatorPipe<Out = (u64, u64)> + use<>> {
    let stream = env.source("numbers", Numbers::new(1, 1)).map(|(_, number)| number);
    stream.key_by(|number| *number).process("sort", Sort::declare)
}

#[test]
fn a_tag_that_is_not_declared_is_named_with_those_that_are() {
    let error = error_of(|env| {
        let (main, late) = sort(env).side_output(&OutputTag::<u8>::new("late"));
        main.sink("main", Collect::new());
        late.sink("late", Collect::new());
    });
    is_a_fault(&error, &["`late`", "`nobody`, `bursts`, `thirds`", "setup.side_output", "operator `sort`"]);
}

#[test]
fn a_tag_of_another_type_is_named_with_both_types() {
    let error = error_of(|env| {
        let (main, aside) = sort(env).side_output(&OutputTag::<u8>::new("thirds"));
        main.sink("main", Collect::new());
        aside.sink("aside", Collect::new());
    });
    is_a_fault(&error, &["`thirds`", "String`", "`u8`", "operator `sort`"]);
}

#[test]
fn a_tag_that_is_taken_twice_or_leads_nowhere_is_refused_at_the_start() {
    let error = error_of(|env| {
        let (main, first) = sort(env).side_output(&thirds());
        let (main, second) = main.side_output(&thirds());
        main.sink("main", Collect::new());
        first.sink("first", Collect::new());
        second.sink("second", Collect::new());
    });
    is_a_fault(&error, &["`thirds` of `sort` is taken twice", ".tee()"]);
    let error = error_of(|env| {
        let (main, aside) = sort(env).side_output(&thirds());
        main.sink("main", Collect::new());
        drop(aside);
    });
    is_a_fault(&error, &["side output `thirds` of `sort` leads nowhere"]);
}

#[test]
fn a_side_output_is_declared_once_and_by_name() {
    struct Bad;
    impl Operator for Bad {
        type Key = Unkeyed;
        type Out = u64;
    }
    impl Handler<(u32, u64)> for Bad {
        fn handle(&mut self, _: (u32, u64), _: &mut Context<'_, Self>) -> Result {
            Ok(())
        }
    }
    for (names, part) in [(["x", "x"], "`x` is declared twice"), (["x", ""], "empty name")] {
        let error = error_of(move |env| {
            env.source("numbers", Numbers::new(1, 1))
                .process("bad", move |setup| {
                    for name in names {
                        setup.side_output(&OutputTag::<u64>::new(name))?;
                    }
                    Ok(Bad)
                })
                .sink("main", Collect::new());
        });
        is_a_fault(&error, &[part, "operator `bad`"]);
    }
}
