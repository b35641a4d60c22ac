//! Each chain has the parallelism that was chosen for it, and may have another one after a restart.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::oracle::{Job, Oracle};
use common::{Numbers, in_time, sorted, virtual_process};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use strandline::prelude::*;

const LEN: u64 = 60;
const KEYS: u64 = 7;

/// Which subtask of how many each instance of an operator was.
type Seen = Arc<Mutex<BTreeMap<&'static str, BTreeSet<(u32, u32)>>>>;

/// Passes everything on.
struct Pass<K>(std::marker::PhantomData<K>);

impl<K: 'static> Operator for Pass<K> {
    type Key = K;
    type Out = u64;
}

impl<K: 'static> Handler<u64> for Pass<K> {
    fn handle(&mut self, number: u64, ctx: &mut Context<'_, Self>) -> Result {
        ctx.emit(number);
        Ok(())
    }
}

impl<K: 'static> BroadcastHandler<u8> for Pass<K> {
    fn handle_broadcast(&mut self, _: u8, _: &mut BroadcastContext<'_, Self>) -> Result {
        Ok(())
    }
}

fn pass<K: 'static>(
    uid: &'static str,
    seen: &Seen,
) -> impl Fn(&mut Setup<'_, K>) -> Result<Pass<K>> + Clone + Send + 'static {
    let seen = Arc::clone(seen);
    move |setup| {
        let place = (setup.subtask(), setup.parallelism());
        seen.lock().unwrap().entry(uid).or_default().insert(place);
        Ok(Pass(std::marker::PhantomData))
    }
}

fn all_of(n: u32) -> BTreeSet<(u32, u32)> {
    (0..n).map(|i| (i, n)).collect()
}

#[test]
fn every_chain_has_the_subtasks_that_were_chosen_for_it() {
    let seen = Seen::default();
    let out = Collect::new();
    virtual_process(in_time("a job of many widths", async {
        let env = Environment::builder().parallelism(2).build().unwrap();
        let numbers = env.source("numbers", Numbers::new(3, LEN)).map(|(_, number)| number);
        // Chosen after the branch was made: the branch has as many all the same.
        let (numbers, side) = numbers.process("source", pass("source", &seen)).tee();
        let rules = env.source("rules", Iter::new([1_u8, 2])).broadcast();
        numbers
            .parallelism(3)
            .key_by(|number| *number)
            .parallelism(5)
            .process("keyed", pass("keyed", &seen))
            .parallelism(5) // once more the same is no contradiction
            .start_new_chain()
            .process("like before", pass("like before", &seen))
            .start_new_chain()
            .parallelism(1)
            .process("narrow", pass("narrow", &seen))
            .rebalance()
            .process("default", pass("default", &seen))
            .connect_broadcast(rules)
            .parallelism(4)
            .process("broadcast", pass("broadcast", &seen))
            .sink("out", out.clone());
        let (side, rest) = side.process("side", pass("side", &seen)).split(Ok::<u64, u64>);
        side.union(rest).process("union", pass("union", &seen)).sink("side out", Collect::new());
        env.start_local("many widths").await.unwrap().wait().await.unwrap();
    }));
    let expected = [
        ("broadcast", 4),
        ("default", 2),
        ("keyed", 5),
        ("like before", 5),
        ("narrow", 1),
        ("side", 3),
        ("source", 3),
        ("union", 2),
    ];
    assert_eq!(*seen.lock().unwrap(), expected.map(|(uid, n)| (uid, all_of(n))).into());
    assert_eq!(sorted(out.records()), sorted((0..LEN).flat_map(|number| [number; 3]).collect::<Vec<_>>()));
}

/// Keeps all it has seen of a key, and of its subtask.
struct Keep {
    seen: ListState<u64>,
    kept: SplitListState<u64>,
}

impl Operator for Keep {
    type Key = u64;
    type Out = (u64, Vec<u64>);

    fn finish(&mut self, ctx: &mut OperatorContext<'_, Self>) -> Result {
        let kept = self.kept.get(ctx).to_vec();
        self.kept.clear(ctx);
        ctx.emit_iter(kept.into_iter().map(|number| (number, Vec::new())));
        Ok(())
    }
}

impl Handler<u64> for Keep {
    fn handle(&mut self, number: u64, ctx: &mut Context<'_, Self>) -> Result {
        self.kept.add(ctx, number);
        self.seen.add(ctx, number);
        let seen = self.seen.get(ctx);
        ctx.emit((*ctx.key(), seen));
        Ok(())
    }
}

/// Not one chain has the parallelism of the job, none that of its neighbour, and each another one in the next life. In every other life
/// there is a chain more.
#[test]
fn state_moves_exactly_when_each_chain_changes_its_parallelism_for_itself() {
    let widths = [[1, 4, 2], [3, 1, 5], [5, 2, 1], [2, 16, 3]];
    let describe = |job: &Job<'_>| {
        let [source, keyed, sink] = widths[job.life];
        let numbers = job.numbers("numbers", 1, LEN).parallelism(source);
        let numbers = if job.life.is_multiple_of(2) {
            numbers.start_new_chain()
        } else {
            numbers.rebalance().parallelism(1).map(|number| number).start_new_chain()
        };
        let keep = numbers.key_by(|number| number % KEYS).parallelism(keyed).process("keep", |setup| {
            Ok(Keep { seen: setup.list_state("seen")?, kept: setup.split_list("kept")? })
        });
        job.sink(keep.map(job.bomb()).start_new_chain().parallelism(sink), "keep");
    };
    let mut all: Vec<(u64, Vec<u64>)> = (0..LEN).map(|number| (number, Vec::new())).collect();
    all.extend(
        (0..LEN).map(|number| {
            (number % KEYS, (0..=number).filter(|seen| seen % KEYS == number % KEYS).collect())
        }),
    );
    let expected =
        [("keep".to_owned(), sorted(all.iter().map(|record| format!("{record:?}")).collect()))].into();
    Oracle::new("widths", &describe).survives(&expected);
    let written = Oracle::new("more widths", &describe).run(&[(1, 1), (2, 3), (4, 2)], 1, &[100]).written;
    assert_eq!(written, expected);
}

async fn error_of(describe: impl Fn(&Environment), max_parallelism: u32) -> Error {
    let env = Environment::builder().parallelism(2).max_parallelism(max_parallelism).build().unwrap();
    describe(&env);
    let local = tokio::task::LocalSet::new();
    local.run_until(env.start_local("faulty")).await.unwrap_err()
}

#[tokio::test]
async fn a_parallelism_that_cannot_be_is_a_fault_that_says_what_to_do() {
    let error = error_of(
        |env| {
            env.source("twice", Numbers::new(1, 1))
                .parallelism(2)
                .map(|record| record)
                .parallelism(3)
                .sink("one", Collect::new());
            env.source("zero", Numbers::new(1, 1)).parallelism(0).sink("two", Collect::new());
            env.source("fixed", Iter::new([1])).map(|n| n + 1).parallelism(4).sink("three", Collect::new());
            env.source("fine", Iter::new([1])).parallelism(1).sink("four", Collect::new());
            let rules = env.source("rules", Iter::new([1_u8])).broadcast().parallelism(2);
            env.source("beside", Numbers::new(1, 1))
                .map(|(_, number)| number)
                .key_by(|number| *number)
                .parallelism(3)
                .connect_broadcast(rules)
                .process("pass", pass("pass", &Seen::default()))
                .sink("five", Collect::new());
        },
        128,
    )
    .await;
    assert_eq!(error.kind(), ErrorKind::Program);
    let text = error.to_string();
    for part in [
        "4 faults",
        "`.parallelism(3)` after `twice` contradicts `.parallelism(2)`",
        ".rebalance()",
        ".start_new_chain()",
        "`.parallelism(0)` after `zero`",
        "`.parallelism(4)` after `fixed` is in the chain of a source that is read by 1 subtask",
        "`.parallelism(2)` after `beside` contradicts `.parallelism(3)`",
    ] {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
}

#[tokio::test]
async fn more_subtasks_than_key_groups_are_refused_at_the_start() {
    let wide = |env: &Environment| {
        env.source("numbers", Numbers::new(1, 1)).rebalance().parallelism(9).sink("out", Collect::new());
    };
    let error = error_of(wide, 8).await;
    assert_eq!(error.kind(), ErrorKind::Configuration);
    let text = error.to_string();
    assert!(text.contains("parallelism 9 of `out`") && text.contains('8'), "{text}");
}
