//! Everything a service holds of a job, let go of in every order: the job ends, and nothing of it is left.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use common::{assert_no_threads_left, in_time, running};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use strandline::prelude::*;

/// Threads and descriptors are counted for the whole process, so one test runs at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Files, sockets, pipes. The look at them is one of them.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// The number of descriptors, once a job has had made what is made once per process.
fn descriptors_before() -> usize {
    let _ = let_go(&PARTS, false);
    assert_no_threads_left();
    descriptors()
}

fn assert_nothing_left(before: usize, what: &str) {
    assert_no_threads_left();
    assert_eq!(descriptors(), before, "descriptors: {what}");
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Part {
    Token,
    Guard,
    Ingest,
    Results,
    Environment,
    Runtime,
}

const PARTS: [Part; 6] =
    [Part::Token, Part::Guard, Part::Ingest, Part::Results, Part::Environment, Part::Runtime];

/// Every order of `parts`.
fn orders(parts: &[Part]) -> Vec<Vec<Part>> {
    if parts.is_empty() {
        return vec![Vec::new()];
    }
    let with_first = |first: usize| {
        let rest: Vec<Part> = [&parts[..first], &parts[first + 1..]].concat();
        orders(&rest).into_iter().map(move |rest| [&[parts[first]], rest.as_slice()].concat())
    };
    (0..parts.len()).flat_map(with_first).collect()
}

fn on_this_thread() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

/// A running job lets go of its parts in this order. `pressed`: nobody reads, every channel is full, and a task waits to send.
fn let_go(order: &[Part], pressed: bool) -> Result<JobStatus, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let token = CancellationToken::new();
    let (ingest, source) = Ingest::bounded(1);
    let env = Environment::builder()
        .parallelism(2)
        .storage(Memory::new())
        .cancel_on(token.clone())
        .build()
        .unwrap();
    let mut results = env.source("numbers", source.accept_loss()).rebalance().into_stream("results", 1);
    let job = runtime.block_on(in_time("a start", async {
        let job = env.start("let-go").await.unwrap();
        running(&job).await;
        ingest.send(0).await.unwrap();
        results.next().await.unwrap();
        if pressed {
            let (ingest, job) = (ingest.clone(), job.clone());
            tokio::spawn(async move { while ingest.send(1).await.is_ok() {} });
            // It waits for the results to be read.
            tokio::spawn(async move { job.checkpoint().await });
            tokio::task::yield_now().await;
        }
        job
    }));
    let guard = job.clone().cancel_on_drop();
    let (mut guard, mut ingest, mut results) = (Some(guard), Some(ingest), Some(results));
    let (mut env, mut runtime) = (Some(env), Some(runtime));
    for part in order {
        match part {
            Part::Token => token.cancel(),
            Part::Guard => drop(guard.take()),
            // Others may still hold clones.
            Part::Ingest if pressed => ingest.take().unwrap().close(),
            Part::Ingest => drop(ingest.take()),
            Part::Results => drop(results.take()),
            Part::Environment => drop(env.take()),
            Part::Runtime => drop(runtime.take()),
        }
    }
    on_this_thread().block_on(in_time("the end", job.wait()))
}

#[test]
fn parts_let_go_of_in_any_order_leave_nothing() {
    let _alone = alone();
    let before = descriptors_before();
    for (index, order) in orders(&PARTS).iter().enumerate() {
        for pressed in [false, true] {
            let what = format!("{order:?}, pressed: {pressed}");
            let cancel = order.iter().position(|part| matches!(part, Part::Token | Part::Guard)).unwrap();
            let ends = order.iter().position(|part| *part == Part::Ingest).unwrap();
            match let_go(order, pressed) {
                Ok(JobStatus::Cancelled) => {}
                Ok(JobStatus::Finished) => assert!(ends < cancel, "{what}"),
                Ok(status) => panic!("{status:?}: {what}"),
                // The results were dropped while there were some.
                Err(error) => {
                    assert!(pressed, "{error}: {what}");
                    assert_eq!(error.kind(), ErrorKind::Configuration, "{error}: {what}");
                    assert!(error.to_string().contains("operator `results`"), "{error}: {what}");
                }
            }
            if index % 16 == 0 {
                assert_nothing_left(before, &what);
            }
        }
    }
    assert_nothing_left(before, "all orders");
}

/// While the service still holds the environment and every handle, a job that has ended has no thread and no descriptor.
#[test]
fn a_job_that_has_ended_holds_nothing_whatever_is_still_held_of_it() {
    let _alone = alone();
    let before = descriptors_before();
    let runtime = on_this_thread();
    runtime.block_on(in_time("holding on", async {
        for cancelled in [true, false] {
            let token = CancellationToken::new();
            let (ingest, source) = Ingest::bounded(4);
            let (sender, receiver) = tokio::sync::mpsc::channel(4);
            let (out, mut outlet) = tokio::sync::mpsc::channel(4);
            let env = Environment::builder().parallelism(2).cancel_on(token.clone()).build().unwrap();
            let mut results = env.source("ingest", source).into_stream("results", 4);
            env.source("channel", FromStream::receiver(receiver)).sink("out", ToSink::sender(out));
            let job = env.start("held").await.unwrap();
            ingest.send(1).await.unwrap();
            sender.send(2).await.unwrap();
            assert_eq!((results.next().await, outlet.recv().await), (Some(1), Some(2)));
            let status = job.status();
            let guard = job.clone().cancel_on_drop();
            if cancelled {
                token.cancel();
                assert_eq!(job.wait().await.unwrap(), JobStatus::Cancelled);
            } else {
                ingest.close();
                drop(sender);
                assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
            }
            assert_nothing_left(before, if cancelled { "cancelled" } else { "finished" });
            drop((env, guard, status, results, outlet, ingest));
        }
    }));
}

#[test]
fn two_hundred_starts_and_stops_leave_nothing() {
    let _alone = alone();
    let before = descriptors_before();
    let runtime = on_this_thread();
    runtime.block_on(in_time("cycles", async {
        for cycle in 0..200_u64 {
            let env = Environment::builder()
                .parallelism(2)
                .checkpointing(Checkpointing::every(Duration::from_millis(10)))
                .build()
                .unwrap();
            let (ingest, source) = Ingest::bounded(4);
            let mut sums = env
                .source("numbers", source.replay_in_process(100))
                .key_by(|n| n % 4)
                .reduce("sum", |sum: &mut u64, n| *sum += n)
                .into_stream("sums", 4);
            let job = env.start("two-hundred").await.unwrap();
            ingest.send(cycle).await.unwrap();
            assert_eq!(sums.next().await, Some(cycle));
            let end = match cycle % 4 {
                0 => job.cancel().await.unwrap(),
                1 => {
                    drop(job.clone().cancel_on_drop());
                    job.await.unwrap()
                }
                2 => {
                    ingest.close();
                    job.await.unwrap()
                }
                _ => {
                    drop((ingest, env));
                    job.await.unwrap()
                }
            };
            assert_eq!(end == JobStatus::Finished, cycle % 4 > 1);
            assert_eq!(sums.next().await, None);
        }
        assert_nothing_left(before, "200 cycles");
    }));
}
