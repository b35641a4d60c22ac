//! Union list state: every subtask is given all elements of all.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use common::oracle::{Job, Oracle, Written};
use common::{Numbers, in_time, running, sorted, virtual_process};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use strandline::prelude::*;

/// What each instance found when it was opened: (subtask, elements).
type Found = Arc<Mutex<Vec<(u32, Vec<(u32, u64)>)>>>;

/// Counts its records in an element of its own, and what it takes over from instances that are gone.
struct Shares {
    subtask: u32,
    parallelism: u32,
    state: UnionListState<(u32, u64)>,
    found: Found,
}

impl Shares {
    fn new(setup: &mut Setup<'_, u64>, found: &Found) -> Result<Self> {
        Ok(Self {
            subtask: setup.subtask(),
            parallelism: setup.parallelism(),
            state: setup.union_list("shares")?,
            found: Arc::clone(found),
        })
    }
}

impl Operator for Shares {
    type Key = u64;
    type Out = u32;

    fn open(&mut self, ctx: &mut OperatorContext<'_, Self>) -> Result {
        let all = self.state.get(ctx).to_vec();
        self.found.lock().unwrap().push((self.subtask, all.clone()));
        let mine = all.iter().filter(|(owner, _)| owner % self.parallelism == self.subtask);
        let count = mine.map(|(_, count)| count).sum();
        self.state.set(ctx, [(self.subtask, count)]);
        Ok(())
    }

    /// As many records as it has counted.
    fn finish(&mut self, ctx: &mut OperatorContext<'_, Self>) -> Result {
        let count = self.state.get(ctx).iter().map(|(_, count)| *count).sum::<u64>();
        self.state.update(ctx, |list| list.iter_mut().for_each(|share| share.1 = 0));
        ctx.emit_iter((0..count).map(|_| 1));
        Ok(())
    }
}

impl Handler<u64> for Shares {
    fn handle(&mut self, _: u64, ctx: &mut Context<'_, Self>) -> Result {
        self.state.update(ctx, |list| list[0].1 += 1);
        Ok(())
    }
}

#[test]
fn s9_5_nothing_is_lost_or_doubled_at_any_parallelism_and_after_panics() {
    let describe = |job: &Job<'_>| {
        let found = Found::default();
        let counted = job
            .numbers("numbers", 2, 200)
            .key_by(|number| number % 16)
            .process("shares", move |setup| Shares::new(setup, &found));
        job.sink(counted, "out");
    };
    let expected = Written::from([("out".to_owned(), vec!["1".to_owned(); 400])]);
    Oracle::new("union", &describe).survives(&expected);
}

#[test]
fn s9_5_every_subtask_is_given_all_elements_in_order_of_subtask_also_at_the_same_parallelism() {
    let storage = Memory::new();
    let life = |parallelism: u32, stop: u64| {
        let found = Found::default();
        virtual_process(in_time("a life", async {
            let env =
                Environment::builder().parallelism(parallelism).storage(storage.clone()).build().unwrap();
            let (numbers, gate) = Numbers::gated(1, 100);
            let of_this_life = Arc::clone(&found);
            env.source("numbers", numbers)
                .map(|(_, number)| number)
                .key_by(|number| number % 16)
                .process("shares", move |setup| Shares::new(setup, &of_this_life))
                .sink("out", Collect::new());
            let job = env.start_local("unions").await.unwrap();
            running(&job).await;
            gate.open_to(stop);
            gate.reached(1, stop).await;
            job.checkpoint().await.unwrap();
            job.cancel().await.unwrap();
        }));
        sorted(Arc::into_inner(found).unwrap().into_inner().unwrap())
    };
    assert!(life(2, 20).iter().all(|(_, found)| found.is_empty()));
    let again = life(2, 40);
    let [(0, first), (1, second)] = &again[..] else { panic!("{again:?}") };
    assert_eq!(first, second, "all of them, the same for each");
    let owners: Vec<u32> = first.iter().map(|(owner, _)| *owner).collect();
    assert_eq!((owners, first.iter().map(|(_, count)| count).sum()), (vec![0, 1], 20));
    let wider = life(3, 60);
    assert_eq!(wider.len(), 3);
    for (_, found) in &wider {
        assert_eq!((found.len(), found.iter().map(|(_, count)| count).sum()), (2, 40), "{wider:?}");
    }
    let narrower = life(1, 80);
    assert_eq!((narrower.len(), narrower[0].1.len()), (1, 3));
    assert_eq!(narrower[0].1.iter().map(|(_, count)| count).sum::<u64>(), 60);
}

/// Flink refuses to complete such a checkpoint: there a finished task has no state any more.
#[test]
fn s11_6_finished_subtasks_still_give_their_elements() {
    /// Passes numbers on; keeps how many in a union.
    struct Passes {
        state: UnionListState<u64>,
        found: Arc<Mutex<Vec<Vec<u64>>>>,
    }

    impl Operator for Passes {
        type Key = Unkeyed;
        type Out = (u32, u64);

        fn open(&mut self, ctx: &mut OperatorContext<'_, Self>) -> Result {
            self.found.lock().unwrap().push(self.state.get(ctx).to_vec());
            self.state.set(ctx, [0]);
            Ok(())
        }
    }

    impl Handler<(u32, u64)> for Passes {
        fn handle(&mut self, record: (u32, u64), ctx: &mut Context<'_, Self>) -> Result {
            self.state.update(ctx, |list| list[0] += 1);
            ctx.emit(record);
            Ok(())
        }
    }

    let storage = Memory::new();
    let found = Arc::default();
    for life in 0..2 {
        virtual_process(in_time("two lives", async {
            let env = Environment::builder().parallelism(2).storage(storage.clone()).build().unwrap();
            // One split for two subtasks: the other one has finished from the start.
            let (numbers, gate) = Numbers::gated(1, 100);
            let found = Arc::clone(&found);
            env.source("numbers", numbers)
                .process("passes", move |setup| {
                    Ok(Passes { state: setup.union_list("n")?, found: Arc::clone(&found) })
                })
                .sink("out", Collect::new());
            let job = env.start_local("finished-unions").await.unwrap();
            running(&job).await;
            gate.open_to(30);
            gate.reached(1, 30).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            if life == 0 {
                job.checkpoint().await.unwrap();
            }
            job.cancel().await.unwrap();
        }));
    }
    let found: Vec<Vec<u64>> = Arc::into_inner(found).unwrap().into_inner().unwrap();
    assert!(found[..2].iter().all(Vec::is_empty), "{found:?}");
    assert_eq!(found[2..].iter().map(|found| sorted(found.clone())).collect::<Vec<_>>(), [[0, 30], [0, 30]]);
}
