//! Cancelling a job: what was committed stays, what a completed checkpoint holds is committed, nothing is written twice.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use common::{Count, Gate, Numbers, in_time};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;
use strandline::prelude::*;

fn describe(dir: &Path, gate: &Gate, retention: Retention) -> Environment {
    let checkpointing = Checkpointing::every(Duration::from_secs(100_000_000)).on_cancellation(retention);
    let env = Environment::builder()
        .parallelism(2)
        .checkpointing(checkpointing)
        .storage(FileSystem::at(dir.join("checkpoints")))
        .build()
        .unwrap();
    env.source("numbers", Numbers { splits: 2, len: 100, gate: gate.clone() })
        .key_by(|(_, number)| number % 5)
        .process("count", |setup| Ok(Count { seen: setup.value_state("seen")? }))
        .map(|(key, n)| format!("{key} {n}"))
        .sink("out", FileSink::at(dir.join("out")));
    env
}

fn lines(dir: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    for file in std::fs::read_dir(dir.join("out")).unwrap() {
        let file = file.unwrap();
        assert!(!file.file_name().to_string_lossy().starts_with('.'), "left behind: {:?}", file.path());
        lines.extend(std::fs::read_to_string(file.path()).unwrap().lines().map(str::to_owned));
    }
    lines
}

#[tokio::test]
async fn what_a_completed_checkpoint_holds_is_committed_even_if_the_job_is_cancelled_and_forgotten() {
    for round in 0..10 {
        let dir = tempfile::tempdir().unwrap();
        let gate = Gate::closed();
        let env = describe(dir.path(), &gate, Retention::Delete);
        let job = env.start(&format!("cancel-delete-{round}")).await.unwrap();
        gate.open_to(50);
        in_time("reading", gate.reached(2, 50)).await;
        in_time("a checkpoint", job.checkpoint()).await.unwrap();
        assert_eq!(in_time("a cancel", job.cancel()).await.unwrap(), JobStatus::Cancelled);

        let lines = lines(dir.path());
        assert_eq!(lines.len(), 100, "round {round}");
        assert_eq!(lines.iter().collect::<BTreeSet<_>>().len(), 100);
    }
}

#[tokio::test]
async fn a_forgotten_job_does_not_write_into_its_old_output_again() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::closed();
    let env = describe(dir.path(), &gate, Retention::Delete);
    let job = env.start("cancel-forgotten").await.unwrap();
    gate.open_to(50);
    in_time("reading", gate.reached(2, 50)).await;
    in_time("a checkpoint", job.checkpoint()).await.unwrap();
    in_time("a cancel", job.cancel()).await.unwrap();
    let before = lines(dir.path());

    let again = env.start("cancel-forgotten").await.unwrap();
    let refused = in_time("a refused start", again.wait()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Configuration, "{refused}");
    assert!(refused.to_string().contains("give an empty folder"), "{refused}");
    assert_eq!(lines(dir.path()), before);
}
