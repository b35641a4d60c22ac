//! Whatever fails, the error says in which job, and where it can be known, in which operator, subtask and checkpoint.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Count, Numbers, in_time, lead, virtual_process};
use std::sync::Arc;
use strandline::prelude::*;
use strandline::storage::{Fault, FaultyDisk, MemoryDisk, OnDisk};

/// The error with which a job ends whose disk fails at this operation; `None` if it does not.
fn error_at(point: u64, fault: Fault) -> Option<Error> {
    let disk = FaultyDisk::new(Arc::new(MemoryDisk::new())).fail_once_at(point, fault);
    virtual_process(in_time("a failure", async {
        let env = Environment::builder().parallelism(2).storage(OnDisk::new(Arc::new(disk), "disk"));
        let env = env.build().unwrap();
        let (numbers, gate) = Numbers::gated(2, 40);
        env.source("numbers", numbers)
            .key_by(|(_, number)| number % 5)
            .process("count", |setup| Ok(Count { seen: setup.value_state("seen")? }))
            .sink("out", Collect::new());
        let job = match env.start_local("named").await {
            Ok(job) => job,
            Err(error) => return Some(error),
        };
        lead(&job, &gate, 2, &[10, 20]).await.err()
    }))
}

#[test]
fn an_error_of_the_storage_says_whose_state_it_is_about() {
    let (mut errors, mut snapshots) = (0, 0);
    for point in 1..80 {
        for fault in [Fault::NoEffect, Fault::Torn] {
            let Some(error) = error_at(point, fault) else { continue };
            let text = error.to_string();
            errors += 1;
            assert!(text.contains("[job `named`"), "{point} {fault:?}: {text}");
            if text.contains(" the state: ") {
                snapshots += 1;
                let operator = error.operator_id().unwrap_or_else(|| panic!("{point} {fault:?}: {text}"));
                assert!(["numbers", "count -> out"].contains(&operator.as_str()), "{text}");
                assert!(error.subtask_index().is_some() && text.contains("checkpoint "), "{text}");
                // And the cause inside: the operator itself where it is known.
                assert_eq!(text.matches("operator `").count(), 2, "{text}");
            }
        }
    }
    assert!(errors > 20 && snapshots > 8, "{errors} errors, {snapshots} of snapshots");
}
