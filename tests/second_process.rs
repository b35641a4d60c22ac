//! A second process on the storage of a running job.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use common::{Count, Gate, Numbers, expected_counts, in_time, sorted, visible_lines};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use strandline::prelude::*;
use strandline::storage::LocalDisk;

const SPLITS: u32 = 2;
const LEN: u64 = 60;
const KEYS: u64 = 3;

/// In a child: the folder to run the job in, and the job's name. Tests run at once in one process, so each has a name of its own.
const CHILD: &str = "STRANDLINE_TEST_SECOND_PROCESS";
const CHILD_JOB: &str = "STRANDLINE_TEST_SECOND_PROCESS_JOB";

fn environment(dir: &Path, take_over: bool) -> (Environment, Gate) {
    let mut env = Environment::builder()
        .parallelism(2)
        .storage(FileSystem::at(dir.join("checkpoints")))
        .restart(RestartStrategy::fixed_delay(100, Duration::ZERO));
    if take_over {
        env = env.take_over();
    }
    let env = env.build().unwrap();
    let (numbers, gate) = Numbers::gated(SPLITS, LEN);
    let disk: strandline::storage::SharedDisk = std::sync::Arc::new(LocalDisk::new());
    env.source("numbers", numbers)
        .key_by(|(_, number)| number % KEYS)
        .process("count", |setup| Ok(Count { seen: setup.value_state("seen")? }))
        .map(|(key, n)| format!("{key} {n}"))
        .sink("out", FileSink::at(dir.join("out")).disk(disk));
    (env, gate)
}

async fn output(dir: &Path) -> Vec<String> {
    sorted(visible_lines(&LocalDisk::new(), &dir.join("out")).await)
}

fn expected() -> Vec<String> {
    let counts = expected_counts(SPLITS, LEN, KEYS);
    sorted(counts.into_iter().map(|(key, n)| format!("{key} {n}")).collect())
}

/// Not a test of its own: what the child process does. It obeys lines on its input and answers each with a line.
#[test]
fn child() {
    let (Ok(dir), Ok(name)) = (std::env::var(CHILD), std::env::var(CHILD_JOB)) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let say = |text: String| {
        println!("\n> {text}");
        std::io::stdout().flush().unwrap();
    };
    runtime.block_on(async {
        let (env, gate) = environment(Path::new(&dir), false);
        let job = match env.start(&name).await {
            Ok(job) => job,
            Err(error) => return say(format!("refused {:?} {error}", error.kind())),
        };
        common::running(&job).await;
        say("started".into());
        for line in std::io::stdin().lines().map(Result::unwrap) {
            match line.split_once(' ') {
                Some(("to", position)) => {
                    let position = position.parse().unwrap();
                    gate.open_to(position);
                    gate.reached(SPLITS, position).await;
                    say("there".into());
                }
                _ if line == "checkpoint" => match job.checkpoint().await {
                    Ok(id) => say(format!("completed {id}")),
                    Err(error) => say(format!("failed {error}")),
                },
                _ => match job.wait().await {
                    Ok(status) => say(format!("ended {status:?}")),
                    Err(error) => say(format!("ended {:?} {error}", error.kind())),
                },
            }
        }
    });
}

struct Other {
    child: Child,
    answers: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Other {
    fn start(dir: &Path, name: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact", "--nocapture", "--test-threads=1"])
            .env(CHILD, dir)
            .env(CHILD_JOB, name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, answers }
    }

    fn answer(&mut self) -> String {
        loop {
            let line = self.answers.next().expect("the child has gone").unwrap();
            if let Some(answer) = line.strip_prefix("> ") {
                return answer.to_owned();
            }
        }
    }

    fn ask(&mut self, command: &str) -> String {
        writeln!(self.child.stdin.as_mut().unwrap(), "{command}").unwrap();
        self.answer()
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn a_second_process_is_refused_by_name_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = Other::start(dir.path(), "refused");
    assert_eq!(first.answer(), "started");
    assert_eq!(first.ask("to 20"), "there");
    assert_eq!(first.ask("checkpoint"), "completed 1");
    let before = common::tree(&LocalDisk::new(), &dir.path().join("checkpoints")).await;

    let (env, _) = environment(dir.path(), false);
    let error = in_time("a refused start", env.start("refused")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.to_string().contains(&format!("pid {}", first.child.id())), "{error}");
    assert!(error.to_string().contains("take_over"), "{error}");
    assert_eq!(common::tree(&LocalDisk::new(), &dir.path().join("checkpoints")).await, before);

    // The first goes on undisturbed; killed, it makes room.
    assert_eq!(first.ask("to 30"), "there");
    assert_eq!(first.ask("checkpoint"), "completed 2");
    drop(first);
    let (env, gate) = environment(dir.path(), false);
    gate.open_to(u64::MAX);
    let job = in_time("a start after a kill", env.start("refused")).await.unwrap();
    assert_eq!(in_time("the rest", job.wait()).await.unwrap(), JobStatus::Finished);
    assert_eq!(job.resumed_from().map(|id| id.0), Some(2));
    assert_eq!(output(dir.path()).await, expected());
}

#[tokio::test]
async fn a_job_taken_over_stops_at_its_next_checkpoint_and_commits_nothing_more() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = Other::start(dir.path(), "taken-over");
    assert_eq!(first.answer(), "started");
    assert_eq!(first.ask("to 20"), "there");
    assert_eq!(first.ask("checkpoint"), "completed 1");
    assert_eq!(first.ask("to 30"), "there");

    let (env, gate) = environment(dir.path(), true);
    let job = in_time("taking over", env.start("taken-over")).await.unwrap();
    assert_eq!(job.resumed_from().map(|id| id.0), Some(1));
    common::running(&job).await;
    gate.open_to(40);
    in_time("going on", gate.reached(SPLITS, 40)).await;
    in_time("a checkpoint", job.checkpoint()).await.unwrap();

    // It has not noticed yet: it goes on, until it wants to commit.
    assert_eq!(first.ask("to 50"), "there");
    let answer = first.ask("checkpoint");
    assert!(answer.starts_with("failed"), "{answer}");
    let answer = first.ask("wait");
    assert!(answer.starts_with("ended Fenced"), "restarts were allowed: {answer}");

    gate.open_to(u64::MAX);
    assert_eq!(in_time("the rest", job.wait()).await.unwrap(), JobStatus::Finished);
    assert_eq!(output(dir.path()).await, expected());
    let hidden = LocalDiskList(dir.path()).hidden();
    assert!(hidden.iter().all(|name| name.contains("00000001-")), "only of the older process: {hidden:?}");
}

/// Fails in between for another reason: then it restarts, and must not run on as if nothing were.
#[tokio::test]
async fn a_job_taken_over_while_it_fails_does_not_run_on() {
    let dir = tempfile::tempdir().unwrap();
    let local = tokio::task::LocalSet::new();
    local
        .run_until(in_time("both", async {
            let (older, older_gate) = environment_that_fails(dir.path());
            let older = older.start_local("taken-over-while-failing").await.unwrap();
            common::running(&older).await;
            older_gate.open_to(20);
            older_gate.reached(SPLITS, 20).await;
            older.checkpoint().await.unwrap();

            let (env, gate) = environment(dir.path(), true);
            let job = env.start_local("taken-over-while-failing").await.unwrap();
            common::running(&job).await;
            gate.open_to(40);
            gate.reached(SPLITS, 40).await;
            job.checkpoint().await.unwrap();

            // The panic is at 25.
            older_gate.open_to(u64::MAX);
            let error = older.wait().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");

            gate.open_to(u64::MAX);
            assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
            assert_eq!(output(dir.path()).await, expected());
        }))
        .await;
}

fn environment_that_fails(dir: &Path) -> (Environment, Gate) {
    common::quiet_panics();
    let env = Environment::builder()
        .parallelism(2)
        .storage(FileSystem::at(dir.join("checkpoints")))
        .restart(RestartStrategy::fixed_delay(100, Duration::ZERO))
        .build()
        .unwrap();
    let (numbers, gate) = Numbers::gated(SPLITS, LEN);
    let fuse = common::Fuse::after(0);
    env.source("numbers", numbers)
        .inspect(move |(_, number)| assert!(*number != 25 || !fuse.goes_off(), "injected"))
        .key_by(|(_, number)| number % KEYS)
        .process("count", |setup| Ok(Count { seen: setup.value_state("seen")? }))
        .map(|(key, n)| format!("{key} {n}"))
        .sink("out", FileSink::at(dir.join("out")));
    (env, gate)
}

struct LocalDiskList<'a>(&'a Path);

impl LocalDiskList<'_> {
    fn hidden(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.0.join("out")).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with('.')).collect()
    }
}
