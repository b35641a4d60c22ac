//! Everything wrong with a job is said at once, before anything runs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Numbers, in_time};
use std::time::Duration;
use strandline::prelude::*;

async fn error_of(env: &Environment, name: &str) -> Error {
    let error = in_time("a start", env.start(name)).await.unwrap_err();
    let local = tokio::task::LocalSet::new();
    let other = local.run_until(env.start_local(name)).await.unwrap_err();
    assert_eq!(error.to_string(), other.to_string());
    error
}

fn numbers() -> Numbers {
    Numbers::new(1, 1)
}

#[tokio::test]
async fn every_fault_of_a_graph_is_in_one_error() {
    let env = Environment::builder().build().unwrap();
    env.source("twice", numbers()).sink("twice", Collect::new());
    env.source("", numbers()).sink(" ", Collect::new());
    let _ = env.source("nowhere", numbers()).map(|record| record);
    let _ = env.source("half", numbers()).rebalance().map(|record| record);
    let _ = env.source("keyed", numbers()).key_by(|record| record.1);
    env.source("none", NoSubtasks).sink("of-none", Collect::new());
    let other = Environment::builder().build().unwrap();
    env.source("left", numbers()).union(other.source("right", numbers())).sink("both", Collect::new());
    let _ = env.source("here", numbers()).connect(other.source("there", numbers()).map(|_| 'c'));
    let (kept, lost) =
        env.source("split", numbers()).split(|record| if record.1 > 0 { Ok(()) } else { Err(()) });
    kept.sink("kept", Collect::new());
    drop(lost);
    let (lost, kept) = env.source("tee", numbers()).tee();
    kept.sink("copies", Collect::new());
    drop(lost);
    let (first, second) = env.source("teed", numbers()).rebalance().tee();
    first.sink("originals", Collect::new());
    let _ = second.filter(|_| true);
    let _ = env.source("rules", numbers()).broadcast();
    let error = error_of(&env, "many-faults").await;
    assert_eq!(error.kind(), ErrorKind::Program);
    let text = error.to_string();
    for part in [
        "`twice` is given 2 times",
        "empty uid",
        "after `nowhere` leads nowhere",
        "after `half` leads nowhere",
        "after `keyed` leads nowhere",
        "source `none` says its parallelism is 0",
        "union joins streams of two environments",
        "connect joins streams of two environments",
        "after `here` leads nowhere",
        "the `Err` side of `split` after `split` leads nowhere",
        "the stream after `tee` leads nowhere",
        "the copy by `tee` after `teed` leads nowhere",
        "after `rules` leads nowhere",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(text.matches("empty uid").count(), 2, "{text}");
    assert!(text.contains("(14)") && !text.contains("(15)"), "they are numbered: {text}");
}

#[tokio::test]
async fn a_job_without_anything_is_a_fault() {
    let env = Environment::builder().build().unwrap();
    let error = error_of(&env, "nothing").await;
    assert_eq!(error.kind(), ErrorKind::Program);
    assert!(error.to_string().contains("no source"), "{error}");
}

#[test]
fn every_bad_setting_is_in_one_error() {
    let error = Environment::builder()
        .parallelism(0)
        .workers(0)
        .max_parallelism(40_000)
        .checkpointing(Checkpointing::every(Duration::from_millis(1)).timeout(Duration::ZERO).retain(0))
        .build()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    let text = error.to_string();
    for part in
        ["6 faults", "parallelism is 0", "workers is 0", "40000", "interval is", "timeout is", "retain is 0"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[tokio::test]
async fn a_name_that_cannot_be_a_folder_is_refused_where_there_is_storage() {
    for name in ["", "..", "a/b", "a\0b", ".hidden"] {
        let env = Environment::builder().storage(Memory::new()).build().unwrap();
        env.source("numbers", numbers()).sink("out", Collect::new());
        let error = error_of(&env, name).await;
        assert_eq!(error.kind(), ErrorKind::Configuration, "{name:?}: {error}");
    }
}

#[derive(Clone)]
struct NoSubtasks;

impl Source for NoSubtasks {
    type Record = (u32, u64);
    type Split = common::NumberSplit;
    type Reader = common::NumbersReader;

    fn parallelism(&self) -> Option<u32> {
        Some(0)
    }
    async fn splits(&self, restored: Option<Vec<common::NumberSplit>>) -> Result<Vec<common::NumberSplit>> {
        numbers().splits(restored).await
    }
    fn reader(
        &self,
        splits: Vec<common::NumberSplit>,
        context: &strandline::SubtaskContext,
    ) -> Result<common::NumbersReader> {
        numbers().reader(splits, context)
    }
}
