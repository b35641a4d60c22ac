//! A job that stops when its process is asked to end.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Gate, Numbers, assert_no_threads_left, in_time};
use futures::poll;
use std::pin::pin;
use std::process::Command;
use strandline::prelude::*;

/// One test: signals are of the whole process.
#[test]
fn sigterm_and_ctrl_c_cancel_the_job_and_without_them_its_end_is_waited_for() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(in_time("a job that is told to stop", async {
        for signal in [Some("TERM"), Some("INT"), None] {
            let env = Environment::builder().parallelism(1).storage(Memory::new()).build().unwrap();
            let gate = Gate::closed();
            let (numbers, out) = (Numbers { splits: 1, len: 10, gate: gate.clone() }, Collect::new());
            env.source("numbers", numbers).sink("out", out.clone());
            let job = env.start("told").await.unwrap();
            let mut stopped = pin!(job.stop_on_signal());
            // It listens from the first poll on.
            assert!(poll!(&mut stopped).is_pending());
            gate.open_to(5);
            gate.reached(1, 5).await;
            let expected = if let Some(signal) = signal {
                let kill = format!("kill -{signal} {}", std::process::id());
                assert!(Command::new("sh").arg("-c").arg(kill).status().unwrap().success());
                JobStatus::Cancelled
            } else {
                gate.open_to(u64::MAX);
                JobStatus::Finished
            };
            assert_eq!(stopped.await.unwrap(), expected, "{signal:?}");
            assert_eq!(out.len(), if signal.is_some() { 0 } else { 10 }, "only what is committed");
        }
    }));
    assert_no_threads_left();
}
