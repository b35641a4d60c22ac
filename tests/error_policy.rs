//! Errors of handlers that do not fail the job: records that are skipped, and dead letters.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::oracle::{Job, Oracle, Written};
use common::{Gate, Numbers, in_time, quiet_panics, sorted, virtual_process};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;
use strandline::prelude::*;
use strandline::{EnvironmentBuilder, JobHandle};

const SPLITS: u32 = 2;
const LEN: u64 = 60;
const KEYS: u64 = 5;

fn numbers() -> impl Iterator<Item = u64> {
    (0..LEN).flat_map(|number| (0..SPLITS).map(move |_| number))
}

fn is_bad(number: u64) -> bool {
    number.is_multiple_of(7)
}

fn text<T: Debug>(records: impl IntoIterator<Item = T>) -> Vec<String> {
    sorted(records.into_iter().map(|record| format!("{record:?}")).collect())
}

fn written<const N: usize>(all: [(&str, Vec<String>); N]) -> Written {
    all.map(|(uid, records)| (uid.to_owned(), records)).into()
}

fn aside() -> OutputTag<u64> {
    OutputTag::new("aside")
}

fn letters() -> OutputTag<DeadLetter<u64>> {
    OutputTag::new("letters")
}

/// Counts all records of each key, good or bad, and emits in every way before it finds a record bad.
struct Picky {
    seen: ValueState<u64>,
    aside: SideOutput<u64>,
}

impl Picky {
    fn declare(setup: &mut Setup<'_, u64>) -> Result<Self> {
        Ok(Self { seen: setup.value_state("seen")?, aside: setup.side_output(&aside())? })
    }
}

impl Operator for Picky {
    type Key = u64;
    type Out = (u64, u64);
}

impl Handler<u64> for Picky {
    fn handle(&mut self, number: u64, ctx: &mut Context<'_, Self>) -> Result {
        let n = self.seen.get(ctx).unwrap_or(0) + 1;
        self.seen.set(ctx, n);
        let key = *ctx.key();
        ctx.emit((key, n));
        // Often enough that some calls come upon what others have left in the buffer.
        if number.is_multiple_of(3) {
            ctx.emit_iter((0..5).map(move |i| (key, 1_000 + i)));
            ctx.emit((key, 2_000));
            self.aside.emit_iter(ctx, std::iter::repeat_n(number, 2));
        }
        self.aside.emit(ctx, number);
        if is_bad(number) { Err(format!("{number} is bad").into()) } else { Ok(()) }
    }
}

/// What [`Picky`] writes into main and side output, where the order of the records of each key does not matter.
fn expected_of_picky() -> Written {
    let good = || numbers().filter(|number| !is_bad(*number));
    let bursts = good()
        .filter(|number| number % 3 == 0)
        .flat_map(|number| (0..5).map(move |i| (number % KEYS, 1_000 + i)).chain([(number % KEYS, 2_000)]));
    let aside = good().flat_map(|number| std::iter::repeat_n(number, if number % 3 == 0 { 3 } else { 1 }));
    written([("bursts", text(bursts)), ("aside", text(aside))])
}

#[test]
fn a_skipped_record_leaves_nothing_but_its_state_whatever_fails() {
    let describe = |job: &Job<'_>| {
        let stream = job.numbers("numbers", SPLITS, LEN).key_by(|number| number % KEYS);
        let (main, aside) = stream.process("picky", Picky::declare).skip_errors().side_output(&aside());
        job.sink(main.filter(|(_, n)| *n >= 1_000).map(job.bomb()), "bursts");
        job.sink(aside.map(job.bomb()), "aside");
    };
    Oracle::new("skips", &describe).survives(&expected_of_picky());
}

/// The last count of each key says how many records have written state: the bad ones, too.
#[test]
fn what_a_skipped_record_wrote_into_state_stays() {
    let ran = run("state-stays", Environment::builder(), |env, numbers| {
        let out = Collect::new();
        numbers
            .key_by(|number| number % KEYS)
            .process("picky", Picky::declare)
            .skip_errors()
            .filter(|(_, n)| *n < 1_000)
            .sink("out", out.clone());
        let _ = env;
        out
    });
    let mut highest = BTreeMap::new();
    for (key, n) in ran.out {
        let last = highest.entry(key).or_insert(0);
        assert!(n > *last, "in order");
        *last = n;
    }
    let good_ones_last = |key: u64| {
        let of_key: Vec<u64> = (0..LEN).filter(|number| number % KEYS == key).collect();
        of_key.iter().rposition(|number| !is_bad(*number)).map_or(0, |at| at as u64 + 1)
    };
    assert_eq!(highest, (0..KEYS).map(|key| (key, good_ones_last(key))).collect());
}

/// Without keys, inside a chain.
struct Plain;

impl Operator for Plain {
    type Key = Unkeyed;
    type Out = u64;
}

impl Handler<u64> for Plain {
    fn handle(&mut self, number: u64, ctx: &mut Context<'_, Self>) -> Result {
        ctx.emit(number);
        ctx.emit_iter([number; 2]);
        match number {
            _ if !is_bad(number) => Ok(()),
            // An error with a cause.
            14 => Err(Error::new(ErrorKind::Failed, "no").because("never liked it").into()),
            _ => Err(format!("{number} is bad").into()),
        }
    }
}

fn letter(number: u64) -> DeadLetter<u64> {
    let error = match number {
        14 => "failed: no: never liked it".to_owned(),
        _ => format!("{number} is bad"),
    };
    DeadLetter { record: number, error }
}

#[test]
fn dead_letters_of_a_chain_are_exactly_once_with_their_errors_whatever_fails() {
    let describe = |job: &Job<'_>| {
        let stream = job.numbers("numbers", SPLITS, LEN).process("plain", |_| Ok(Plain));
        let (main, dead) = stream.dead_letters(&letters());
        job.sink(main.map(job.bomb()), "main");
        job.sink(dead.map(job.bomb()), "dead");
    };
    let main = text(numbers().filter(|number| !is_bad(*number)).flat_map(|number| [number; 3]));
    let dead = text(numbers().filter(|number| is_bad(*number)).map(letter));
    Oracle::new("letters", &describe).survives(&written([("main", main), ("dead", dead)]));
}

#[test]
fn dead_letters_of_a_keyed_operator_beside_its_own_side_output_are_exactly_once() {
    let describe = |job: &Job<'_>| {
        let stream = job.numbers("numbers", SPLITS, LEN).key_by(|number| number % KEYS);
        let (main, aside) = stream.process("picky", Picky::declare).side_output(&aside());
        let (main, dead) = main.dead_letters(&letters());
        job.sink(main.filter(|(_, n)| *n >= 1_000), "bursts");
        job.sink(aside.map(job.bomb()), "aside");
        job.sink(dead.map(job.bomb()), "dead");
    };
    let mut expected = expected_of_picky();
    let bad = numbers().filter(|number| is_bad(*number));
    let dead = bad.map(|record| DeadLetter { record, error: format!("{record} is bad") });
    expected.insert("dead".to_owned(), text(dead));
    Oracle::new("keyed letters", &describe).survives(&expected);
}

/// Takes numbers and words; both fail it.
struct Both;

impl Operator for Both {
    type Key = Unkeyed;
    type Out = u64;
}

impl Handler<u64> for Both {
    fn handle(&mut self, number: u64, ctx: &mut Context<'_, Self>) -> Result {
        ctx.emit(number);
        if is_bad(number) { Err("bad number".into()) } else { Ok(()) }
    }
}

impl BroadcastHandler<String> for Both {
    fn handle_broadcast(&mut self, word: String, ctx: &mut BroadcastContext<'_, Self>) -> Result {
        ctx.emit(1_000);
        Err(format!("bad word {word}").into())
    }
}

#[test]
fn each_type_of_record_has_its_own_dead_letters_and_the_others_fail_or_are_skipped() {
    for (words_too, skip) in [(true, false), (false, true), (false, false)] {
        let (numbers_dead, words_dead) = (Collect::new(), Collect::new());
        let (n, w) = (numbers_dead.clone(), words_dead.clone());
        let ran = run("both", Environment::builder(), move |env, numbers| {
            let out = Collect::new();
            let words = env.source("words", Iter::new(["a".to_owned(), "b".to_owned()])).broadcast();
            let (main, dead) =
                numbers.connect_broadcast(words).process("both", |_| Ok(Both)).dead_letters(&letters());
            dead.sink("numbers dead", n);
            match (words_too, skip) {
                (true, _) => {
                    let tag = OutputTag::<DeadLetter<String>>::new("words");
                    let (main, dead) = main.dead_letters(&tag);
                    dead.sink("words dead", w);
                    main.sink("out", out.clone());
                }
                (false, true) => main.skip_errors().sink("out", out.clone()),
                (false, false) => main.sink("out", out.clone()),
            }
            out
        });
        if !words_too && !skip {
            let error = ran.end.unwrap_err();
            assert!(error.to_string().contains("bad word"), "{error}");
            assert_eq!(error.operator_id().unwrap().as_str(), "both");
            continue;
        }
        assert!(ran.end.is_ok(), "{:?}", ran.end);
        assert_eq!(sorted(ran.out), (0..LEN).filter(|number| !is_bad(*number)).collect::<Vec<_>>());
        let dead: Vec<u64> = numbers_dead.records().into_iter().map(|letter| letter.record).collect();
        assert_eq!(sorted(dead), (0..LEN).filter(|number| is_bad(*number)).collect::<Vec<_>>());
        let words = words_dead.records().into_iter().map(|letter| (letter.record, letter.error));
        let expected = ["a", "b"].map(|word| (word.to_owned(), format!("bad word {word}")));
        assert_eq!(sorted(words.collect()), if words_too { expected.to_vec() } else { Vec::new() });
        let bad = (0..LEN).filter(|number| is_bad(*number)).count() as u64;
        assert_eq!(ran.job.metrics().operator("both").unwrap().records_skipped, bad + 2);
    }
}

/// Fails at one record in some way that no policy lets pass.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Final {
    Panics,
    Marked,
    Program,
}

struct Ends(Final);

impl Operator for Ends {
    type Key = Unkeyed;
    type Out = u64;
}

impl Handler<u64> for Ends {
    fn handle(&mut self, number: u64, _: &mut Context<'_, Self>) -> Result {
        match (number, self.0) {
            (30, Final::Panics) => panic!("injected"),
            (30, Final::Marked) => Err(Error::non_recoverable("injected"))?,
            (30, Final::Program) => Err(Error::new(ErrorKind::Program, "injected"))?,
            _ => Err("may pass".into()),
        }
    }
}

#[test]
fn no_policy_lets_a_panic_pass_nor_an_error_that_no_restart_can_mend() {
    quiet_panics();
    for how in [Final::Panics, Final::Marked, Final::Program] {
        // Restarts would go on for ever.
        let restart = RestartStrategy::fixed_delay(if how == Final::Panics { 3 } else { 1_000 }, SECOND);
        let ran = run("ends", Environment::builder().restart(restart), move |_, numbers| {
            let out = Collect::new();
            numbers.process("ends", move |_| Ok(Ends(how))).skip_errors().sink("out", out.clone());
            out
        });
        let error = ran.end.expect_err("it fails");
        assert!(error.to_string().contains("injected"), "{how:?}: {error}");
        assert_eq!(error.operator_id().unwrap().as_str(), "ends");
        let restarts = if how == Final::Panics { 3 } else { 0 };
        assert_eq!(ran.job.metrics().restarts, restarts, "{how:?}");
        // Those before the panic are counted in each attempt, and it is not.
        assert_eq!(ran.job.metrics().operator("ends").unwrap().records_skipped, 30 * (restarts + 1));
    }
}

#[test]
fn a_record_is_skipped_once_but_counted_whenever_it_comes() {
    quiet_panics();
    virtual_process(in_time("a job that skips", async {
        let restart = RestartStrategy::fixed_delay(1, SECOND);
        let env = Environment::builder().parallelism(1).storage(Memory::new()).restart(restart);
        let env = env.build().unwrap();
        let (numbers, gate) = Numbers::gated(1, LEN);
        let (out, dead) = (Collect::new(), Collect::new());
        let bomb = common::Fuse::after(30);
        let (main, letters) = env
            .source("numbers", numbers)
            .map(|(_, number)| number)
            .process("plain", |_| Ok(Plain))
            .dead_letters(&letters());
        letters.sink("dead", dead.clone());
        main.map(move |number| {
            assert!(number < 30 || !bomb.goes_off(), "injected");
            number
        })
        .sink("out", out.clone());
        let job = env.start_local("counts").await.unwrap();
        gate.open_to(20);
        gate.reached(1, 20).await;
        job.checkpoint().await.unwrap();
        gate.open_to(u64::MAX);
        assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
        assert_eq!(job.metrics().restarts, 1);
        let dead: Vec<u64> = dead.records().into_iter().map(|letter| letter.record).collect();
        assert_eq!(dead, (0..LEN).filter(|number| is_bad(*number)).collect::<Vec<_>>());
        let skipped = job.metrics().operator("plain").unwrap().records_skipped;
        let again = skipped - dead.len() as u64;
        // Up to the failure: 21 and 28 for certain, and whatever of the source's slice came before it.
        assert!((2..=8).contains(&again), "{again} of them twice");
    }));
}

#[test]
fn what_cannot_be_a_dead_letter_is_an_error_at_the_start() {
    let fault = |describe: fn(&Environment)| {
        let env = Environment::builder().parallelism(1).build().unwrap();
        describe(&env);
        let error = virtual_process(async move { env.start_local("faults").await.map(|_| ()).unwrap_err() });
        assert_eq!(error.kind(), ErrorKind::Program, "{error}");
        error.to_string()
    };
    let other = fault(|env| {
        let numbers = env.source("numbers", Iter::new(0..3_u64)).process("plain", |_| Ok(Plain));
        let (main, dead) = numbers.dead_letters(&OutputTag::<DeadLetter<String>>::new("words"));
        main.sink("main", Collect::new());
        dead.sink("dead", Collect::new());
    });
    assert!(other.contains("`plain`") && other.contains("alloc::string::String"), "{other}");
    let twice = fault(|env| {
        let numbers = env.source("numbers", Iter::new(0..3_u64)).process("plain", |_| Ok(Plain));
        let (main, dead) = numbers.dead_letters(&letters());
        let (main, again) = main.dead_letters(&OutputTag::<DeadLetter<u64>>::new("again"));
        main.sink("main", Collect::new());
        dead.sink("dead", Collect::new());
        again.sink("again", Collect::new());
    });
    assert!(twice.contains("taken twice"), "{twice}");
}

const SECOND: Duration = Duration::from_secs(1);

struct Ran<T> {
    job: JobHandle,
    end: Result<JobStatus, Error>,
    out: Vec<T>,
}

/// Runs what is described on the numbers `0..LEN` to its end, with one subtask.
fn run<T: Clone + Send + Sync + 'static>(
    name: &str,
    env: EnvironmentBuilder,
    describe: impl FnOnce(&Environment, Stream<u64>) -> Collect<T>,
) -> Ran<T> {
    let env = env.parallelism(1).build().unwrap();
    let source = Numbers { splits: 1, len: LEN, gate: Gate::open() };
    let numbers = env.source("numbers", source).map(|(_, number)| number).start_new_chain();
    let out = describe(&env, numbers);
    virtual_process(in_time(name, async {
        let job = env.start_local(name).await.unwrap();
        let end = job.wait().await;
        Ran { job, end, out: out.records() }
    }))
}
