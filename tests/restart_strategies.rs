//! A job that fails again and again, under each restart strategy: when it runs again, what it gives, and how it ends.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use common::{Gate, Numbers, in_time, quiet_panics, virtual_process};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use strandline::prelude::*;
use strandline::restart::{Failure, FailureOutcome, FailureRecord, RestartDecision, RestartPolicy, Restarts};
use strandline::types::Monotonic;
use strandline::{EnvironmentBuilder, JobHandle};
use tokio::sync::broadcast;
use tokio::time::Instant;

/// Its n-th failure is at the record `n * EVERY`.
const EVERY: u64 = 10;

/// What became of a job.
#[derive(Debug)]
struct Story {
    /// How long it waited before each restart, as it said and as the clock says.
    waits: Vec<(Duration, Duration)>,
    end: Result<JobStatus, Error>,
    records: Vec<u64>,
}

impl Story {
    /// Where nothing was said that is not true.
    fn waits(&self) -> Vec<Duration> {
        assert!(self.waits.iter().all(|(said, seen)| said == seen), "{:?}", self.waits);
        self.waits.iter().map(|(said, _)| *said).collect()
    }

    fn exact(self, failures: usize) -> Self {
        assert!(matches!(self.end, Ok(JobStatus::Finished)), "{:?}", self.end);
        assert_eq!(self.records, (0..len(failures)).collect::<Vec<_>>());
        self
    }

    /// The last error, which says where, why, and which strategy gave up after how many failures.
    fn gave_up(self, strategy: &str, failures: usize) -> Self {
        let error = self.end.as_ref().unwrap_err();
        let text = error.to_string();
        let gave_up = format!("after failure {failures} restart strategy {strategy} allows no restart");
        for part in [&gave_up, "job `restarts`", "operator `fragile`", "subtask 0", "injected at "] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert_eq!(error.kind(), ErrorKind::Failed);
        assert_eq!(error.operator_id().unwrap().as_str(), "fragile");
        assert_eq!(error.subtask_index().unwrap().0, 0);
        self
    }
}

fn len(failures: usize) -> u64 {
    EVERY * (failures as u64 + 1)
}

/// Fails once at each record of a set, whatever is restored.
#[derive(Clone)]
struct Fragile(Arc<Mutex<BTreeSet<u64>>>);

impl Operator for Fragile {
    type Key = Unkeyed;
    type Out = u64;
}

impl Handler<(u32, u64)> for Fragile {
    fn handle(&mut self, (_, number): (u32, u64), ctx: &mut Context<'_, Self>) -> Result {
        if self.0.lock().unwrap().remove(&number) {
            return Err(format!("injected at {number}").into());
        }
        ctx.emit(number);
        Ok(())
    }
}

/// Waits for the next run of the job, unless it ends.
async fn next_run(events: &mut broadcast::Receiver<JobEvent>) -> Option<Option<Duration>> {
    let mut said = None;
    loop {
        match events.recv().await.ok()? {
            JobEvent::Running { .. } => return Some(said),
            JobEvent::Restarting { after, error } => {
                assert!(error.to_string().contains("injected at "), "{error}");
                said = Some(after);
            }
            _ => {}
        }
    }
}

/// Runs a job that takes a checkpoint in each attempt, and fails when the attempt has run for so long: at each of these.
fn fails_after_running_for(runs: &[Duration], env: EnvironmentBuilder) -> Story {
    let story = async {
        let failures = (1..=runs.len() as u64).map(|n| n * EVERY).collect();
        let (numbers, gate) = Numbers::gated(1, len(runs.len()));
        let (env, out) = describe(env, numbers, &Fragile(Arc::new(Mutex::new(failures))));
        let job = env.start_local("restarts").await.unwrap();
        let waits = lead(&job, &gate, runs).await;
        gate.open_to(u64::MAX);
        Story { waits, end: job.wait().await, records: out.records() }
    };
    // Virtual time: a day is over at once if it hangs.
    virtual_process(async { tokio::time::timeout(Duration::from_secs(86_400), story).await })
        .expect("it ends")
}

fn describe(env: EnvironmentBuilder, numbers: Numbers, fragile: &Fragile) -> (Environment, Collect<u64>) {
    let env = env.parallelism(1).build().unwrap();
    let (fragile, out) = (fragile.clone(), Collect::new());
    env.source("numbers", numbers).process("fragile", move |_| Ok(fragile.clone())).sink("out", out.clone());
    (env, out)
}

async fn lead(job: &JobHandle, gate: &Gate, runs: &[Duration]) -> Vec<(Duration, Duration)> {
    let mut events = job.events();
    next_run(&mut events).await;
    let mut waits = Vec::new();
    for (failures, run) in runs.iter().enumerate() {
        let before = failures as u64 * EVERY + EVERY / 2;
        gate.open_to(before);
        gate.reached(1, before).await;
        // Without checkpoints there is none.
        let _ = job.checkpoint().await;
        tokio::time::sleep(*run).await;
        let failed = Instant::now();
        gate.open_to(before + EVERY);
        let Some(said) = next_run(&mut events).await else { break };
        waits.push((said.unwrap(), failed.elapsed()));
    }
    waits
}

/// Checkpoints only when asked for.
fn checkpointed() -> EnvironmentBuilder {
    Environment::builder().checkpointing(Checkpointing::every(Duration::from_secs(1_000_000))).seed(1)
}

fn ms<const N: usize>(millis: [u64; N]) -> [Duration; N] {
    millis.map(Duration::from_millis)
}

#[test]
fn s12_2_fixed_delay() {
    let run = |failures: &[Duration]| {
        let strategy = RestartStrategy::fixed_delay(3, Duration::from_millis(2_500));
        fails_after_running_for(failures, checkpointed().restart(strategy))
    };
    let recovers = run(&ms([0, 1, 0])).exact(3);
    assert_eq!(recovers.waits(), ms([2_500; 3]));
    let gives_up = run(&ms([0, 1, 0, 100_000])).gave_up("fixed-delay (attempts 3, delay 2500ms)", 4);
    assert_eq!(gives_up.waits(), ms([2_500; 3]));
    assert_eq!(gives_up.records, (0..35).collect::<Vec<_>>(), "what the last checkpoint holds is committed");
}

#[test]
fn s12_3_failure_rate() {
    let run = |failures: &[Duration]| {
        let strategy = RestartStrategy::failure_rate(2, Duration::from_secs(10), Duration::from_secs(1));
        fails_after_running_for(failures, checkpointed().restart(strategy))
    };
    // Failures at 0, 5 and 10.001 s.
    assert_eq!(run(&ms([0, 4_000, 4_001])).exact(3).waits(), ms([1_000; 3]));
    // Failures at 0, 5 and 10 s: the first is not yet older than the interval.
    let strategy = "failure-rate (max_failures 2, interval 10s, delay 1s)";
    assert_eq!(run(&ms([0, 4_000, 4_000])).gave_up(strategy, 3).waits(), ms([1_000; 2]));
}

#[test]
fn s12_4_exponential_delay() {
    let run = |failures: &[Duration]| {
        let strategy = RestartStrategy::exponential_delay()
            .max_delay(Duration::from_millis(3_000))
            .jitter(0.0)
            .reset_threshold(Duration::from_secs(60))
            .attempts(4);
        fails_after_running_for(failures, checkpointed().restart(strategy))
    };
    // The second failure comes at the very moment of the restart; the fifth after a minute without any.
    let recovers = run(&ms([0, 0, 59_999, 3, 60_000, 0])).exact(6);
    assert_eq!(recovers.waits(), ms([1_000, 1_500, 2_250, 3_000, 1_000, 1_500]));
    let strategy = "exponential-delay (initial_delay 1s, max_delay 3s, multiplier 1.5, jitter 0, reset_threshold 1min, \
                    attempts 4)";
    let gives_up = run(&ms([0, 0, 0, 0, 59_999])).gave_up(strategy, 5);
    assert_eq!(gives_up.waits(), ms([1_000, 1_500, 2_250, 3_000]));
}

#[test]
fn s12_8_jitter_comes_from_the_seed() {
    let waits =
        |seed| fails_after_running_for(&[Duration::ZERO; 4], checkpointed().seed(seed)).exact(4).waits();
    assert_eq!(waits(1), waits(1));
    assert_ne!(waits(1), waits(2));
}

#[test]
fn s12_11_with_checkpoints_the_default_never_gives_up() {
    let story = fails_after_running_for(&[Duration::ZERO; 40], checkpointed()).exact(40);
    let waits = story.waits();
    assert!((1_000..=1_100).contains(&waits[0].as_millis()), "{waits:?}");
    assert!((1_350..=1_650).contains(&waits[1].as_millis()), "{waits:?}");
    assert!(waits[20..].iter().all(|wait| (54_000..=60_000).contains(&wait.as_millis())), "{waits:?}");
}

#[test]
fn s12_11_without_checkpoints_the_first_failure_is_final() {
    for env in [Environment::builder(), Environment::builder().storage(Memory::new())] {
        let story = fails_after_running_for(&[Duration::ZERO], env).gave_up("none", 1);
        assert_eq!(story.waits(), []);
    }
    let story = fails_after_running_for(&[Duration::ZERO], checkpointed().restart(RestartStrategy::none()));
    story.gave_up("none", 1);
}

#[test]
fn nonsense_is_refused_before_anything_runs() {
    let nonsense = RestartStrategy::exponential_delay().multiplier(0.5).attempts(0);
    let error = Environment::builder().parallelism(0).restart(nonsense).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    for part in ["3 faults", "exponential-delay: multiplier is 0.5", "attempts is 0", "parallelism is 0"] {
        assert!(error.to_string().contains(part), "{part} in {error}");
    }
}

/// What a policy of the user's was told.
#[derive(Debug, Clone, PartialEq)]
enum Told {
    Failed { at: Monotonic, operator: String, cause: String },
    Restarted { at: Monotonic },
}

/// Writes down what it is told, and otherwise does what a strategy says.
struct Recording {
    inner: Restarts,
    told: Arc<Mutex<Vec<Told>>>,
}

impl RestartPolicy for Recording {
    fn on_failure(&mut self, failure: &Failure<'_>) -> RestartDecision {
        let cause = std::error::Error::source(failure.error).unwrap().to_string();
        let operator = failure.error.operator_id().unwrap().to_string();
        self.told.lock().unwrap().push(Told::Failed { at: failure.now, operator, cause });
        self.inner.on_failure(failure)
    }

    fn on_restart(&mut self, now: Monotonic) {
        self.told.lock().unwrap().push(Told::Restarted { at: now });
        self.inner.on_restart(now);
    }
}

#[test]
fn a_policy_of_the_users_is_told_everything_and_decides() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&told);
    let policy = move || Recording {
        inner: Restarts::new(RestartStrategy::fixed_delay(2, Duration::from_secs(5))),
        told: Arc::clone(&record),
    };
    let runs = ms([10, 20, 30]);
    let story = fails_after_running_for(&runs, checkpointed().restart_policy(policy));
    assert_eq!(story.waits(), ms([5_000; 2]));
    story.gave_up("restart_strategies::Recording", 3);
    let failed = |at, number| Told::Failed {
        at: Monotonic(at),
        operator: "fragile".into(),
        cause: format!("injected at {number}"),
    };
    let restarted = |at| Told::Restarted { at: Monotonic(at) };
    assert_eq!(
        *told.lock().unwrap(),
        [failed(10, 10), restarted(5_010), failed(5_030, 20), restarted(10_030), failed(10_060, 30)]
    );
}

/// Panics when it is asked.
struct Panicking;

impl RestartPolicy for Panicking {
    fn on_failure(&mut self, _: &Failure<'_>) -> RestartDecision {
        panic!("injected into the policy");
    }
}

/// Panics when it is told of the restart.
struct PanickingLater;

impl RestartPolicy for PanickingLater {
    fn on_failure(&mut self, _: &Failure<'_>) -> RestartDecision {
        RestartDecision::After(Duration::ZERO)
    }

    fn on_restart(&mut self, _: Monotonic) {
        panic!("injected into the policy");
    }
}

#[test]
fn a_policy_that_panics_ends_the_job_with_an_error_that_says_so() {
    quiet_panics();
    let now = [Duration::ZERO];
    for (env, cause) in [
        (checkpointed().restart_policy(|| Panicking), "operator `fragile`, subtask 0]: injected at 10"),
        (checkpointed().restart_policy(|| PanickingLater), "[job `restarts`]"),
    ] {
        let error = fails_after_running_for(&now, env).end.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Failed);
        for part in ["the restart policy panicked: injected into the policy", "job `restarts`", cause] {
            assert!(error.to_string().contains(part), "{part} in {error}");
        }
    }
}

#[test]
fn s12_12_what_a_restart_cannot_mend_is_final_and_the_policy_not_asked() {
    quiet_panics();
    let error = virtual_process(in_time("a fault of the program", async {
        let env = checkpointed().restart_policy(|| Panicking).build().unwrap();
        env.source("numbers", Iter::new(0..3_u64))
            .try_map(|_| Err::<u64, _>(Error::new(ErrorKind::Program, "it can never work").into()))
            .sink("out", Collect::new());
        env.start_local("faulty").await.unwrap().wait().await.unwrap_err()
    }));
    assert_eq!(error.kind(), ErrorKind::Program);
    assert!(error.to_string().contains("it can never work"), "{error}");
    assert!(!error.to_string().contains("policy"), "it was asked: {error}");
}

#[test]
fn s12_12_an_error_that_is_marked_is_final_under_every_strategy() {
    let (error, failures) = virtual_process(in_time("a marked error", async {
        let env = checkpointed().restart_policy(|| Panicking).parallelism(1).build().unwrap();
        env.source("numbers", Iter::new(0..3_u64))
            .try_map(|_| Err::<u64, _>(Error::non_recoverable("the password was refused").into()))
            .sink("out", Collect::new());
        let job = env.start_local("marked").await.unwrap();
        (job.wait().await.unwrap_err(), job.failures())
    }));
    assert_eq!(error.kind(), ErrorKind::Failed);
    assert!(error.to_string().contains("the password was refused"), "{error}");
    assert!(!error.to_string().contains("policy"), "it was asked: {error}");
    assert_eq!(outcomes(&failures), [(0, FailureOutcome::Failed)]);
}

fn outcomes(failures: &[FailureRecord]) -> Vec<(u32, FailureOutcome)> {
    failures.iter().map(|failure| (failure.attempt.0, failure.outcome)).collect()
}

#[test]
fn the_history_says_of_each_failure_where_why_and_what_followed() {
    let story = async {
        let fragile = Fragile(Arc::new(Mutex::new([10, 20, 30].into())));
        let env = checkpointed().restart(RestartStrategy::fixed_delay(2, Duration::from_secs(5)));
        let (env, _) = describe(env, Numbers { splits: 1, len: 40, gate: Gate::open() }, &fragile);
        let job = env.start_local("history").await.unwrap();
        assert!(job.failures().is_empty());
        (job.wait().await.unwrap_err(), job.failures())
    };
    let (error, failures) = virtual_process(in_time("a history", story));
    let restart = FailureOutcome::Restart { after: Duration::from_secs(5) };
    assert_eq!(outcomes(&failures), [(0, restart), (1, restart), (2, FailureOutcome::Failed)]);
    for (failure, at) in failures.iter().zip([10, 20, 30]) {
        assert!(failure.error.to_string().ends_with(&format!("injected at {at}")), "{}", failure.error);
        assert!(failure.error.to_string().contains("job `history`"), "{}", failure.error);
        assert_eq!(failure.operator().unwrap().as_str(), "fragile");
        assert_eq!((failure.subtask().unwrap().0, failure.consequences), (0, 0));
    }
    assert!(failures.is_sorted_by_key(|failure| failure.at));
    assert!(error.to_string().ends_with("injected at 30"), "the root cause: {error}");
}

#[test]
fn what_fails_while_an_attempt_is_being_stopped_is_counted_with_its_root_cause() {
    let story = async {
        let env = checkpointed().parallelism(2).restart(RestartStrategy::none()).build().unwrap();
        // Both subtasks fail in the same turn of the thread, before either can be told to stop.
        env.source("numbers", Numbers { splits: 2, len: 1, gate: Gate::open() })
            .try_map(|(split, _)| Err::<u64, _>(format!("injected into {split}").into()))
            .sink("out", Collect::new());
        let job = env.start_local("cascade").await.unwrap();
        (job.wait().await.unwrap_err(), job.failures())
    };
    let (error, failures) = virtual_process(in_time("a cascade", story));
    assert_eq!(outcomes(&failures), [(0, FailureOutcome::Failed)]);
    assert_eq!(failures[0].consequences, 1);
    let root = std::error::Error::source(&failures[0].error).unwrap().to_string();
    assert!(root.starts_with("injected into "), "{root}");
    assert!(error.to_string().ends_with(&root), "the root cause {root}: {error}");
}

#[test]
fn a_cancel_during_the_wait_is_what_followed_the_failure() {
    let story = async {
        let fragile = Fragile(Arc::new(Mutex::new([10].into())));
        let env = checkpointed().restart(RestartStrategy::fixed_delay(9, Duration::from_secs(100_000)));
        let (env, _) = describe(env, Numbers { splits: 1, len: 40, gate: Gate::open() }, &fragile);
        let job = env.start_local("cancelled-waiting").await.unwrap();
        job.status().wait_for(|status| *status == JobStatus::Restarting).await.unwrap();
        let waiting = job.failures();
        assert_eq!(job.cancel().await.unwrap(), JobStatus::Cancelled);
        (waiting, job.failures())
    };
    let (waiting, after) = virtual_process(in_time("a cancel", story));
    let restart = FailureOutcome::Restart { after: Duration::from_secs(100_000) };
    assert_eq!(outcomes(&waiting), [(0, restart)]);
    assert_eq!(outcomes(&after), [(0, FailureOutcome::Cancelled)]);
}
