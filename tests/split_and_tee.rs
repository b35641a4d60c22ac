//! A stream that branches, by `split` or by `tee`: every branch gets exactly its records, whatever fails.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::oracle::{Job, Oracle, Written};
use common::sorted;
use std::fmt::Debug;
use strandline::prelude::*;

const SPLITS: u32 = 2;
const LEN: u64 = 60;

/// Every number, once for each split.
fn numbers() -> impl Iterator<Item = u64> {
    (0..LEN).flat_map(|number| (0..SPLITS).map(move |_| number))
}

fn written<T: Debug>(sinks: impl IntoIterator<Item = (&'static str, Vec<T>)>) -> Written {
    let text = |records: Vec<T>| sorted(records.iter().map(|record| format!("{record:?}")).collect());
    sinks.into_iter().map(|(uid, records)| (uid.to_owned(), text(records))).collect()
}

/// The n-th record of each key, for what comes after an exchange to depend on the state there.
fn counted(numbers: impl Iterator<Item = u64>, keys: u64) -> Vec<(u64, u64)> {
    let mut seen = std::collections::BTreeMap::<u64, u64>::new();
    numbers
        .map(|number| {
            let n = seen.entry(number % keys).or_default();
            *n += 1;
            (number % keys, *n)
        })
        .collect()
}

fn count<P: Pipe<Out = u64>>(
    stream: Stream<u64, P>,
    uid: &str,
    keys: u64,
) -> Stream<(u64, u64), impl Pipe<Out = (u64, u64)>> {
    stream.key_by(move |number| number % keys).map_with_state(uid, move |number, seen: Option<u64>| {
        let n = seen.unwrap_or(0) + 1;
        ((number % keys, n), Some(n))
    })
}

#[test]
fn a_split_sends_each_record_one_way_exactly_once() {
    let describe = |job: &Job<'_>| {
        let (even, odd) = job
            .numbers("numbers", SPLITS, LEN)
            .map(|number| if number % 2 == 0 { Ok(number) } else { Err(format!("{number}")) })
            .split(|row| row);
        job.sink(count(even.map(job.bomb()), "count", 6), "even");
        // A second one, on the branch of the first.
        let (long, short) =
            odd.map(job.bomb()).split(|text| if text.len() > 1 { Ok(text) } else { Err(text.len()) });
        job.sink(long, "long");
        job.sink(short.rebalance().map(job.bomb()), "short");
    };
    let odd = || numbers().filter(|number| number % 2 == 1).map(|number| number.to_string());
    let mut expected = written([("even", counted(numbers().filter(|number| number % 2 == 0), 6))]);
    expected.extend(written([("long", odd().filter(|text| text.len() > 1).collect())]));
    expected
        .extend(written([("short", odd().filter(|text| text.len() == 1).map(|text| text.len()).collect())]));
    Oracle::new("split", &describe).survives(&expected);
}

#[test]
fn a_tee_sends_each_record_both_ways_exactly_once() {
    let describe = |job: &Job<'_>| {
        let (first, second) = job.numbers("numbers", SPLITS, LEN).tee();
        let (second, third) = second.map(job.bomb()).filter(|number| number % 3 > 0).tee();
        job.sink(first.map(job.bomb()), "first");
        job.sink(count(second, "count", 5), "second");
        job.sink(third.map(job.bomb()).rebalance().map(|number| number + 1), "third");
    };
    let some = || numbers().filter(|number| number % 3 > 0);
    let mut expected = written([("first", numbers().collect()), ("third", some().map(|n| n + 1).collect())]);
    expected.extend(written([("second", counted(some(), 5))]));
    Oracle::new("tee", &describe).survives(&expected);
}

/// The branches meet again: two ways of different length to one subtask, over which barriers align.
#[test]
fn branches_that_meet_again_lose_and_repeat_nothing() {
    let describe = |job: &Job<'_>| {
        let (short, long) = job.numbers("numbers", SPLITS, LEN).tee();
        let (small, large) =
            long.rebalance().map(job.bomb()).split(|n| if n < LEN / 2 { Ok(n) } else { Err(n) });
        let all = short.union(small.start_new_chain().map(|n| n + 1000)).union(large.map(|n| n + 2000));
        job.sink(count(all.map(job.bomb()), "count", 7), "all");
    };
    let small = numbers().filter(|n| *n < LEN / 2).map(|n| n + 1000);
    let large = numbers().filter(|n| *n >= LEN / 2).map(|n| n + 2000);
    let expected = written([("all", counted(numbers().chain(small).chain(large), 7))]);
    Oracle::new("diamond", &describe).survives(&expected);
}

/// Order is kept on each way.
#[test]
fn each_branch_keeps_the_order_of_its_records() {
    let describe = |job: &Job<'_>| {
        let (even, odd) = job
            .numbers("numbers", 1, LEN)
            .split(|number| if number % 2 == 0 { Ok(number) } else { Err(number) });
        for (branch, uid) in [(even.start_new_chain(), "even"), (odd, "odd")] {
            // Each record with the one before it.
            let pairs = branch
                .key_by(|_| 0_u8)
                .map_with_state(uid, |number, last: Option<u64>| ((last, number), Some(number)));
            job.sink(pairs, &format!("{uid} pairs"));
        }
    };
    let pairs = |first: u64| -> Vec<(Option<u64>, u64)> {
        (first..LEN).step_by(2).map(|number| (number.checked_sub(2), number)).collect()
    };
    let expected = written([("even pairs", pairs(0)), ("odd pairs", pairs(1))]);
    Oracle::new("ordered", &describe).survives(&expected);
}
