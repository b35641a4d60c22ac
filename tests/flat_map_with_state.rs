//! Any number of records of each, with the key's state, pulled only as there is room.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use common::oracle::{Job, Oracle};
use common::{Numbers, in_time, running, sorted, virtual_process};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use strandline::prelude::*;

const LEN: u64 = 60;
const KEYS: u64 = 7;

/// From nothing to more than a few records of each, with the state changed, kept and dropped.
#[test]
fn what_it_makes_of_a_record_and_its_state_is_exact() {
    let make = |number: u64, seen: Option<u64>| {
        let n = seen.unwrap_or(0);
        let made = (0..n * 3).map(move |i| (number % KEYS, n, i));
        (made, if n == 5 { None } else { Some(n + 1) })
    };
    let describe = |job: &Job<'_>| {
        let made = job
            .numbers("numbers", 2, LEN)
            .filter_map(|number| (number % 4 > 0).then_some(number))
            .key_by(|number| number % KEYS)
            .flat_map_with_state("make", make);
        job.sink(
            made.map(job.bomb()).filter_map(|(key, n, i)| (i % 2 == 0).then(|| format!("{key} {n} {i}"))),
            "made",
        );
    };
    let mut expected = Vec::new();
    for key in 0..KEYS {
        let mut state = None;
        for number in (0..LEN).filter(|number| number % KEYS == key && number % 4 > 0).flat_map(|n| [n; 2]) {
            let (made, next) = make(number, state);
            state = next;
            expected.extend(
                made.filter(|(_, _, i)| i % 2 == 0)
                    .map(|(key, n, i)| format!("{:?}", format!("{key} {n} {i}"))),
            );
        }
    }
    Oracle::new("make", &describe).survives(&[("made".to_owned(), sorted(expected))].into());
}

/// Two million records of one, on one thread: what is under way is bounded, and a checkpoint waits for the last.
#[test]
fn an_explosion_is_pulled_as_there_is_room() {
    const EXPLOSION: u64 = 2_000_000;
    let (made, taken, most) =
        (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    virtual_process(async {
        let env = Environment::builder().parallelism(1).storage(Memory::new()).build().unwrap();
        let (count_made, count_taken, count_most) =
            (Arc::clone(&made), Arc::clone(&taken), Arc::clone(&most));
        let (numbers, gate) = Numbers::gated(1, 2);
        env.source("one", numbers)
            .key_by(|_| 0_u8)
            .flat_map_with_state("explode", move |_, _: Option<u8>| {
                let made = Arc::clone(&count_made);
                let count = move |_: &u64| {
                    made.fetch_add(1, Ordering::SeqCst);
                };
                ((0..EXPLOSION).inspect(count), Some(1))
            })
            .rebalance()
            .filter({
                let made = Arc::clone(&made);
                move |number| {
                    let taken = count_taken.fetch_add(1, Ordering::SeqCst) + 1;
                    count_most.fetch_max(made.load(Ordering::SeqCst) - taken, Ordering::SeqCst);
                    *number == EXPLOSION - 1
                }
            })
            .sink("last", Collect::new());
        let job = env.start_local("state explosion").await.unwrap();
        running(&job).await;
        gate.open_to(1);
        while taken.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        assert!(made.load(Ordering::SeqCst) < EXPLOSION / 2, "it is made while it is taken");
        job.checkpoint().await.unwrap();
        assert_eq!(taken.load(Ordering::SeqCst), EXPLOSION, "the barrier comes behind all of it");
        assert_eq!(job.cancel().await.unwrap(), JobStatus::Cancelled);
    });
    let most = most.load(Ordering::SeqCst);
    assert!(most <= 10 * 1024, "{most} were under way");
}

#[test]
fn an_endless_iterator_can_be_cancelled() {
    virtual_process(in_time("cancel", async {
        let env = Environment::builder().parallelism(1).build().unwrap();
        let made = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&made);
        env.source("one", Numbers::new(1, 1))
            .key_by(|_| 0_u8)
            .flat_map_with_state("endless", |_, _: Option<u8>| (0_u64.., None))
            .filter(move |_| {
                count.fetch_add(1, Ordering::SeqCst);
                false
            })
            .sink("none", Collect::new());
        let job = env.start_local("endless state").await.unwrap();
        while made.load(Ordering::SeqCst) < 100_000 {
            tokio::task::yield_now().await;
        }
        assert_eq!(job.cancel().await.unwrap(), JobStatus::Cancelled);
    }));
}
