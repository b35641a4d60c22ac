//! Ways to end a job from outside: tokens, guards, handles that are awaited.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use common::{Gate, Numbers, in_time, running};
use std::time::Duration;
use strandline::JobHandle;
use strandline::prelude::*;

/// A job that never ends by itself.
fn endless(builder: strandline::EnvironmentBuilder) -> Environment {
    let env = builder.parallelism(2).storage(Memory::new()).build().unwrap();
    let numbers = Numbers { splits: 2, len: u64::MAX, gate: Gate::closed() };
    env.source("numbers", numbers).sink("none", Collect::new());
    env
}

async fn ended(job: &JobHandle) -> JobStatus {
    in_time("the end of a job", job.wait()).await.unwrap()
}

#[tokio::test]
async fn a_token_cancels_every_job_of_its_environment_and_no_other() {
    let (token, other_token) = (CancellationToken::new(), CancellationToken::new());
    let env = endless(Environment::builder().cancel_on(token.clone()));
    let other = endless(Environment::builder().cancel_on(other_token.clone()));
    let jobs = [env.start("token-1").await.unwrap(), env.start("token-2").await.unwrap()];
    let spared = other.start("token-3").await.unwrap();
    for job in jobs.iter().chain([&spared]) {
        in_time("a start", running(job)).await;
    }
    token.cancel();
    for job in &jobs {
        assert_eq!(ended(job).await, JobStatus::Cancelled);
    }
    assert_eq!(*spared.status().borrow(), JobStatus::Running);
    other_token.cancel();
    assert_eq!(ended(&spared).await, JobStatus::Cancelled);
}

#[tokio::test]
async fn with_a_cancelled_token_nothing_is_run_or_opened() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("checkpoints");
    let token = CancellationToken::new();
    token.cancel();
    for on_threads in [true, false] {
        let env =
            Environment::builder().cancel_on(token.clone()).storage(FileSystem::at(&folder)).build().unwrap();
        let (ingest, source) = Ingest::bounded(4);
        let mut results = env.source("source", source.accept_loss()).into_stream("results", 4);
        let job = if on_threads {
            env.start("never").await.unwrap()
        } else {
            tokio::task::LocalSet::new().run_until(env.start_local("never")).await.unwrap()
        };
        assert_eq!(*job.status().borrow(), JobStatus::Cancelled);
        assert_eq!(ended(&job).await, JobStatus::Cancelled);
        assert_eq!(job.cancel().await.unwrap(), JobStatus::Cancelled);
        assert!(!job.had_finished());
        assert_eq!(job.checkpoint().await.unwrap_err().kind(), ErrorKind::Cancelled);
        assert!(job.events().recv().await.is_err(), "nothing ever happened to it");
        assert!(!folder.exists());
        // For the ends of its streams the job has ended.
        assert_eq!(in_time("results", results.next()).await, None);
        assert_eq!(ingest.send(1).await, Err(IngestError::Ended(1)));
        // However often: the streams of this environment have served their time, but nothing would use them.
        assert_eq!(env.execute("never").await.unwrap(), JobStatus::Cancelled);
    }
}

#[tokio::test]
async fn faults_of_the_graph_are_told_in_spite_of_a_cancelled_token() {
    let token = CancellationToken::new();
    token.cancel();
    let env = Environment::builder().cancel_on(token).build().unwrap();
    assert_eq!(env.start("no-graph").await.unwrap_err().kind(), ErrorKind::Program);
}

/// However far the start has come when the token is cancelled: the job ends as cancelled, and its name is free.
#[tokio::test]
async fn a_token_cancels_a_job_that_is_only_starting() {
    for polls in 0..40 {
        let token = CancellationToken::new();
        let env = endless(Environment::builder().cancel_on(token.clone()));
        let job = {
            let mut start = Box::pin(env.start("token-early"));
            let mut started = None;
            for _ in 0..polls {
                if let std::task::Poll::Ready(job) = futures::poll!(&mut start) {
                    started = Some(job);
                    break;
                }
                tokio::task::yield_now().await;
            }
            token.cancel();
            match started {
                Some(job) => job,
                None => in_time("a start", start).await,
            }
        };
        assert_eq!(ended(&job.unwrap()).await, JobStatus::Cancelled, "after {polls} polls");
    }
}

/// On one thread and virtual time, at every step of a start: the token's word comes between any two of them.
#[test]
fn a_token_is_heard_at_every_step_of_a_local_job() {
    let mut statuses = std::collections::BTreeSet::new();
    for steps in 0..60 {
        common::virtual_process(async {
            let token = CancellationToken::new();
            let env = endless(Environment::builder().cancel_on(token.clone()));
            let job = env.start_local("token-local").await.unwrap();
            for _ in 0..steps {
                tokio::task::yield_now().await;
            }
            statuses.insert(format!("{:?}", *job.status().borrow()));
            token.cancel();
            assert_eq!(ended(&job).await, JobStatus::Cancelled, "after {steps} steps");
        });
    }
    let seen: Vec<_> = statuses.iter().map(String::as_str).collect();
    assert_eq!(seen, ["Running", "Starting"], "both were met");
}

#[tokio::test]
async fn a_token_reaches_a_job_that_waits_to_be_restarted() {
    common::quiet_panics();
    let token = CancellationToken::new();
    let env = Environment::builder()
        .parallelism(1)
        .cancel_on(token.clone())
        .restart(RestartStrategy::fixed_delay(1, Duration::from_secs(3600)))
        .build()
        .unwrap();
    let fails = |_: u64| -> Result<u64> { Err("no good")? };
    env.source("numbers", Iter::new(0..9)).try_map(fails).sink("none", Collect::new());
    let job = env.start("token-waiting").await.unwrap();
    let _ = job.status().wait_for(|status| *status == JobStatus::Restarting).await;
    token.cancel();
    assert_eq!(ended(&job).await, JobStatus::Cancelled);
}

#[tokio::test]
async fn a_handle_is_awaited_from_anywhere() {
    let token = CancellationToken::new();
    let env = endless(Environment::builder().cancel_on(token.clone()));
    let job = env.start("awaited").await.unwrap();
    let by_value = tokio::spawn(job.clone().into_future());
    let shared = job.clone();
    let by_reference = tokio::spawn(async move { (&shared).await.map(|status| (status, shared)) });
    token.cancel();
    assert_eq!(in_time("a task", by_value).await.unwrap().unwrap(), JobStatus::Cancelled);
    assert_eq!(in_time("a task", by_reference).await.unwrap().unwrap().0, JobStatus::Cancelled);
    assert_eq!(job.await.unwrap(), JobStatus::Cancelled);
}

#[tokio::test]
async fn a_guard_cancels_its_job_whatever_way_it_goes() {
    common::quiet_panics();
    let env = endless(Environment::builder());
    for way in ["scope", "task", "panic", "timeout"] {
        let job = in_time("a start", env.start("guarded")).await.unwrap();
        let guard = job.clone().cancel_on_drop();
        assert_eq!(guard.name(), job.name());
        match way {
            "scope" => drop(guard),
            "task" => {
                let task =
                    tokio::spawn(async move { guard.status().wait_for(|s| s.is_terminal()).await.is_ok() });
                task.abort();
                let _ = task.await;
            }
            "panic" => {
                let task = tokio::spawn(async move {
                    let _guard = guard;
                    panic!("injected");
                });
                assert!(task.await.unwrap_err().is_panic());
            }
            _ => drop(tokio::time::timeout(Duration::ZERO, guard).await.unwrap_err()),
        }
        assert_eq!(ended(&job).await, JobStatus::Cancelled, "{way}");
    }
}

#[tokio::test]
async fn a_disarmed_guard_leaves_its_job_running_and_one_that_is_awaited_gives_its_end() {
    let gate = Gate::closed();
    let env = Environment::builder().parallelism(1).build().unwrap();
    env.source("numbers", Numbers { splits: 1, len: 5, gate: gate.clone() }).sink("none", Collect::new());
    let job = env.start("disarmed").await.unwrap();
    in_time("a start", running(&job)).await;
    let handle = job.clone().cancel_on_drop().disarm();
    drop(handle);
    let guard = job.cancel_on_drop();
    gate.open_to(u64::MAX);
    // Had the first guard cancelled it, this would be another end.
    assert_eq!(in_time("the job", guard.into_future()).await.unwrap(), JobStatus::Finished);
}
