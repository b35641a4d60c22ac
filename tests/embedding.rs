//! A job inside a service: any runtime, many jobs, handles that come and go, and no thread left behind.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use common::{Count, Gate, Numbers, assert_no_threads_left, expected_counts, in_time, running, sorted};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use strandline::JobHandle;
use strandline::prelude::*;

const SPLITS: u32 = 2;
const LEN: u64 = 200;
const KEYS: u64 = 5;

/// Threads are counted for the whole process, so one test runs at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn describe(gate: &Gate) -> (Environment, Collect<(u64, u64)>) {
    let env = Environment::builder().parallelism(2).storage(Memory::new()).build().unwrap();
    let out = Collect::new();
    env.source("numbers", Numbers { splits: SPLITS, len: LEN, gate: gate.clone() })
        .key_by(|(_, number)| number % KEYS)
        .process("count", |setup| Ok(Count { seen: setup.value_state("seen")? }))
        .sink("out", out.clone());
    (env, out)
}

fn assert_complete(out: &Collect<(u64, u64)>) {
    assert_eq!(sorted(out.records()), expected_counts(SPLITS, LEN, KEYS));
}

fn current_thread() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

fn multi_thread() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap()
}

#[test]
fn four_jobs_at_once_from_either_runtime() {
    let _alone = alone();
    for runtime in [current_thread(), multi_thread()] {
        runtime.block_on(in_time("four jobs", async {
            let gate = Gate::closed();
            let mut jobs = Vec::new();
            for i in 0..4 {
                let (env, out) = describe(&gate);
                jobs.push((env.start(&format!("job-{i}")).await.unwrap(), out));
            }
            gate.open_to(u64::MAX);
            for (job, out) in jobs {
                assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
                assert_complete(&out);
            }
        }));
    }
    assert_no_threads_left();
}

#[test]
fn a_job_goes_on_without_its_handle_its_task_and_its_runtime() {
    let _alone = alone();
    let gate = Gate::closed();
    let (env, out) = describe(&gate);
    let status = {
        let runtime = multi_thread();
        let task = runtime.spawn(async move {
            let job = env.start("orphan").await.unwrap();
            running(&job).await;
            job.status()
        });
        runtime.block_on(task).unwrap()
        // Here the runtime goes, and before it the task and the only handle.
    };
    let mut status = status;
    assert_eq!(*status.borrow(), JobStatus::Running);
    gate.open_to(u64::MAX);
    current_thread().block_on(in_time("the orphan", async {
        let _ = status.wait_for(|status| status.is_terminal()).await;
    }));
    assert_eq!(*status.borrow(), JobStatus::Finished);
    assert_complete(&out);
    assert_no_threads_left();
}

#[test]
fn a_name_is_taken_while_its_job_runs_and_free_afterwards() {
    let _alone = alone();
    current_thread().block_on(in_time("names", async {
        let gate = Gate::closed();
        let (env, _) = describe(&gate);
        let first = env.start("same").await.unwrap();
        let (other, _) = describe(&Gate::open());
        let error = other.start("same").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert!(error.to_string().contains("`same`"), "{error}");
        assert_eq!(first.cancel().await.unwrap(), JobStatus::Cancelled);
        let again = other.start("same").await.unwrap();
        assert_eq!(again.wait().await.unwrap(), JobStatus::Finished);
    }));
    assert_no_threads_left();
}

#[test]
fn every_clone_of_a_handle_sees_the_end() {
    let _alone = alone();
    multi_thread().block_on(in_time("clones", async {
        let gate = Gate::closed();
        let (env, _) = describe(&gate);
        let job = env.start("cloned").await.unwrap();
        let waiting: Vec<_> = (0..8)
            .map(|_| {
                let job = job.clone();
                tokio::spawn(async move { job.wait().await })
            })
            .collect();
        gate.open_to(u64::MAX);
        for waiting in waiting {
            assert_eq!(waiting.await.unwrap().unwrap(), JobStatus::Finished);
        }
        assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
        assert_eq!(job.cancel().await.unwrap(), JobStatus::Finished, "what has ended is left as it is");
    }));
    assert_no_threads_left();
}

#[test]
fn a_job_can_be_cancelled_while_it_starts() {
    let _alone = alone();
    current_thread().block_on(in_time("cancel at the start", async {
        for _ in 0..20 {
            let (env, _) = describe(&Gate::closed());
            let job = env.start("early").await.unwrap();
            assert_eq!(job.cancel().await.unwrap(), JobStatus::Cancelled);
        }
    }));
    assert_no_threads_left();
}

/// Asked at any moment, from before the start to after the end, a checkpoint is completed or refused.
#[test]
fn a_checkpoint_is_always_answered() {
    let _alone = alone();
    multi_thread().block_on(in_time("checkpoints", async {
        for round in 0..10 {
            let gate = Gate::closed();
            let (env, out) = describe(&gate);
            let job = env.start("asked").await.unwrap();
            let (stop, _) = tokio::sync::watch::channel(false);
            let asking: Vec<_> = (0..4)
                .map(|_| {
                    let (job, stopped) = (job.clone(), stop.subscribe());
                    tokio::spawn(async move {
                        while !*stopped.borrow() {
                            if let Err(error) = job.checkpoint().await {
                                let refused =
                                    matches!(error.kind(), ErrorKind::Storage | ErrorKind::Cancelled);
                                assert!(refused, "{error}");
                                tokio::task::yield_now().await;
                            }
                        }
                    })
                })
                .collect();
            running(&job).await;
            job.checkpoint().await.unwrap();
            if round % 2 == 0 {
                gate.open_to(u64::MAX);
                assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
                assert_complete(&out);
            } else {
                assert_eq!(job.cancel().await.unwrap(), JobStatus::Cancelled);
            }
            let error = job.checkpoint().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Cancelled, "after the end: {error}");
            stop.send_replace(true);
            for asking in asking {
                asking.await.unwrap();
            }
        }
    }));
    assert_no_threads_left();
}

#[test]
fn fifty_starts_and_stops_leave_no_thread() {
    let _alone = alone();
    current_thread().block_on(in_time("fifty cycles", async {
        for i in 0..50 {
            let gate = Gate::closed();
            let (env, out) = describe(&gate);
            let job = env.start("cycle").await.unwrap();
            if i % 2 == 0 {
                running(&job).await;
                assert_eq!(job.cancel().await.unwrap(), JobStatus::Cancelled);
            } else {
                gate.open_to(u64::MAX);
                assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
                assert_complete(&out);
            }
        }
    }));
    assert_no_threads_left();
}

/// An operator that blocks its thread for good must not keep the end of the job from being told.
#[test]
fn a_subtask_that_does_not_stop_is_reported_by_name() {
    let _alone = alone();
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    let blocked = Arc::new(Mutex::new(blocked));
    let (entered, mut inside) = tokio::sync::watch::channel(false);
    let runtime = current_thread();
    runtime.block_on(in_time("a stuck job", async {
        let env = Environment::builder()
            .parallelism(1)
            .storage(Memory::new())
            .stop_timeout(Duration::from_millis(20))
            .build()
            .unwrap();
        env.source("numbers", Numbers::new(1, 1))
            .process("blocks", move |_| Ok(Blocks(Arc::clone(&blocked), entered.clone())))
            .sink("none", Collect::new());
        let job: JobHandle = env.start("stuck").await.unwrap();
        let _ = inside.wait_for(|inside| *inside).await;
        let error = job.cancel().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Stuck, "{error}");
        assert!(error.to_string().contains("blocks") && error.to_string().contains("subtask 0"), "{error}");
        // Its name stays taken as long as something of it runs.
        let (other, _) = describe(&Gate::open());
        assert_eq!(other.start("stuck").await.unwrap_err().kind(), ErrorKind::Busy);
    }));
    release.send(()).unwrap();
    assert_no_threads_left();
}

struct Blocks(Arc<Mutex<std::sync::mpsc::Receiver<()>>>, tokio::sync::watch::Sender<bool>);

impl Operator for Blocks {
    type Key = Unkeyed;
    type Out = (u32, u64);
}

impl Handler<(u32, u64)> for Blocks {
    fn handle(&mut self, _: (u32, u64), _: &mut Context<'_, Self>) -> Result {
        self.1.send_replace(true);
        let _ = self.0.lock().unwrap().recv();
        Ok(())
    }
}

/// Commits by connecting to a server: what runs on the job's pool must be able to use the network.
#[derive(Clone)]
struct Announce(std::net::SocketAddr);

struct AnnounceWriter;

impl<T: 'static> Sink<T> for Announce {
    type Commit = u8;
    type Writer = AnnounceWriter;

    fn writer(&self, _: &strandline::SubtaskContext) -> Result<AnnounceWriter> {
        Ok(AnnounceWriter)
    }

    async fn commit(&self, commits: Vec<u8>) -> Result {
        if !commits.is_empty() {
            tokio::net::TcpStream::connect(self.0).await?;
        }
        Ok(())
    }
}

impl<T: 'static> strandline::SinkWriter<T> for AnnounceWriter {
    type Commit = u8;

    fn write(&mut self, _: T) -> Result {
        Ok(())
    }

    async fn flush(&mut self) -> Result {
        Ok(())
    }

    fn prepare(&mut self) -> Result<strandline::BoxFuture<Result<Vec<u8>>>> {
        Ok(Box::pin(async { Ok(vec![1]) }))
    }
}

#[test]
fn a_sink_may_use_the_network_when_it_commits() {
    let _alone = alone();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(in_time("a commit over the network", async {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let env = Environment::builder().parallelism(1).storage(Memory::new()).build().unwrap();
        env.source("numbers", Iter::new(0..10_u64)).sink("announce", Announce(server.local_addr().unwrap()));
        let job = env.start("network").await.unwrap();
        server.accept().await.unwrap();
        assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
    }));
}

#[test]
fn a_name_that_no_thread_or_folder_can_have_is_refused() {
    let _alone = alone();
    let error = current_thread().block_on(async {
        let env = Environment::builder().build().unwrap();
        env.source("numbers", Iter::new(0..10_u64)).sink("out", Collect::new());
        env.start("a\0b").await.unwrap_err()
    });
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
}

/// However far `start` has come when it is given up: either the job never runs, or it is stopped; its name becomes free.
#[test]
fn a_start_that_is_given_up_leaves_no_job_behind() {
    let _alone = alone();
    current_thread().block_on(in_time("a given-up start", async {
        for polls in 0..40 {
            let gate = Gate::closed();
            let (env, _) = describe(&gate);
            let name = format!("given-up-{polls}");
            {
                let mut start = Box::pin(env.start(&name));
                let mut is_ready = false;
                for _ in 0..polls {
                    is_ready = is_ready || futures::poll!(&mut start).is_ready();
                    tokio::task::yield_now().await;
                }
                // The worst moment: the job runs, and its handle is on its way.
                if polls == 1 && !is_ready {
                    gate.open_to(1);
                    gate.reached(SPLITS, 1).await;
                }
            }
            loop {
                match env.start(&name).await {
                    Ok(job) => {
                        job.cancel().await.unwrap();
                        break;
                    }
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Busy, "{error}"),
                }
                tokio::task::yield_now().await;
            }
        }
    }));
    assert_no_threads_left();
}

/// Waits in a blocking call that nothing ends but the test.
#[derive(Clone)]
struct Blocking(std::sync::Arc<Mutex<std::sync::mpsc::Receiver<()>>>);

impl Source for Blocking {
    type Record = u64;
    type Split = u64;
    type Reader = Self;

    async fn splits(&self, restored: Option<Vec<u64>>) -> Result<Vec<u64>> {
        Ok(restored.unwrap_or_else(|| vec![0]))
    }

    fn reader(&self, _: Vec<u64>, _: &strandline::SubtaskContext) -> Result<Self> {
        Ok(self.clone())
    }
}

impl strandline::SourceReader for Blocking {
    type Record = u64;
    type Split = u64;

    fn next(&mut self) -> Result<Option<u64>> {
        Ok(None)
    }

    async fn ready(&mut self) -> Result<bool> {
        let end = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || end.lock().unwrap().recv()).await?.ok();
        Ok(false)
    }

    fn splits(&self) -> Vec<u64> {
        vec![0]
    }
}

/// Waits for the 10 seconds that blocking calls are given, so it only runs when asked for.
#[test]
#[ignore = "takes 10 s"]
fn a_blocking_call_that_never_returns_does_not_keep_a_cancelled_job() {
    let _alone = alone();
    let (end, blocked) = std::sync::mpsc::channel();
    current_thread().block_on(in_time("a cancel", async {
        let env = Environment::builder().parallelism(1).build().unwrap();
        env.source("blocking", Blocking(Arc::new(Mutex::new(blocked)))).sink("out", Collect::new());
        let job = env.start("blocking").await.unwrap();
        let mut status = job.status();
        status.wait_for(|status| *status == JobStatus::Running).await.unwrap();
        assert_eq!(job.cancel().await.unwrap(), JobStatus::Cancelled);
    }));
    drop(end);
    assert_no_threads_left();
}
