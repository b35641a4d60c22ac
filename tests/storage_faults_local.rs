//! Folders that are shared, in the way, forbidden, full, linked, oddly named or gone: on a real disk. A clear error or the right output, never
//! a panic or a hang.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use common::{Count, Gate, Numbers, expected_counts, in_time, running, sorted, visible_lines};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use strandline::JobHandle;
use strandline::prelude::*;
use strandline::storage::LocalDisk;

const SPLITS: u32 = 2;
const LEN: u64 = 30;
const KEYS: u64 = 3;

/// What surrounds a job.
struct Setting {
    checkpoints: PathBuf,
    out: PathBuf,
    sink: String,
    tolerated: u32,
    restarts: u32,
}

impl Setting {
    fn new(checkpoints: impl Into<PathBuf>, out: impl Into<PathBuf>) -> Self {
        Self {
            checkpoints: checkpoints.into(),
            out: out.into(),
            sink: "out".into(),
            tolerated: 0,
            restarts: 0,
        }
    }

    fn describe(&self) -> (Environment, Gate) {
        let checkpointing =
            Checkpointing::every(Duration::from_secs(100_000_000)).tolerable_failures(self.tolerated);
        let env = Environment::builder()
            .parallelism(2)
            .storage(FileSystem::at(&self.checkpoints))
            .checkpointing(checkpointing)
            .restart(RestartStrategy::fixed_delay(self.restarts, Duration::from_millis(1)))
            .build()
            .unwrap();
        let (numbers, gate) = Numbers::gated(SPLITS, LEN);
        env.source("numbers", numbers)
            .key_by(|(_, number)| number % KEYS)
            .process("count", |setup| Ok(Count { seen: setup.value_state("seen")? }))
            .map(|(key, n)| format!("{key} {n}"))
            .sink(&self.sink, FileSink::at(&self.out));
        (env, gate)
    }

    /// Starts the job; takes a checkpoint at 10.
    async fn begin(&self, name: &str) -> Result<(JobHandle, Gate), Error> {
        let (env, gate) = self.describe();
        let job = env.start(name).await?;
        running(&job).await;
        gate.open_to(10);
        tokio::select! {
            () = gate.reached(SPLITS, 10) => {}
            end = job.wait() => return Err(end.expect_err("it cannot end before its input")),
        }
        job.checkpoint().await?;
        Ok((job, gate))
    }

    /// Runs the job to its end, and looks at the output.
    async fn run(&self, name: &str) {
        let (env, gate) = self.describe();
        gate.open_to(u64::MAX);
        let end = in_time(name, env.execute(name)).await;
        assert_eq!(end.unwrap_or_else(|error| panic!("{name}: {error}")), JobStatus::Finished, "{name}");
        self.check_output(name).await;
    }

    async fn check_output(&self, what: &str) {
        let lines = sorted(visible_lines(&LocalDisk::new(), &self.out).await);
        let expected = expected_counts(SPLITS, LEN, KEYS).into_iter().map(|(key, n)| format!("{key} {n}"));
        assert_eq!(lines, sorted(expected.collect()), "{what}");
    }

    /// How a start or a run of it fails.
    async fn fails(&self, name: &str) -> Error {
        let (env, gate) = self.describe();
        gate.open_to(u64::MAX);
        in_time(name, env.execute(name)).await.expect_err(name)
    }
}

fn says(error: &Error, kind: ErrorKind, path: &Path, parts: &[&str]) {
    assert_eq!(error.kind(), kind, "{error}");
    let is_there = error.path().is_some_and(|found| found.starts_with(path));
    assert!(is_there, "not at {}: {error}", path.display());
    for part in parts {
        assert!(error.to_string().contains(part), "`{part}` is not in: {error}");
    }
}

#[tokio::test]
async fn jobs_share_a_folder_and_one_may_lie_inside_that_of_another() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    let inside = root.join("local-outer");
    let settings = [
        ("local-outer", Setting::new(&root, dir.path().join("out-1"))),
        ("local-other", Setting::new(&root, dir.path().join("out-2"))),
        // Their folders are those of the job around them, and its log.
        ("local-inner", Setting::new(&inside, dir.path().join("out-3"))),
        ("log", Setting::new(&inside, dir.path().join("out-4"))),
    ];
    let lives = settings.iter().map(|(name, setting)| async move {
        let (job, gate) = setting.begin(name).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        gate.open_to(20);
        gate.reached(SPLITS, 20).await;
        job.checkpoint().await.unwrap();
        assert_eq!(job.cancel().await.unwrap(), JobStatus::Cancelled);
        setting.run(name).await;
    });
    in_time("jobs side by side", futures::future::join_all(lives)).await;
}

#[tokio::test]
async fn a_job_cannot_be_named_like_what_another_one_sweeps() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["chk-3-g1", "lock-1-0123456789abcdef"] {
        let error = Setting::new(dir.path(), dir.path().join("out")).fails(name).await;
        assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
    }
}

#[tokio::test]
async fn one_folder_by_two_paths_is_one_folder() {
    let dir = tempfile::tempdir().unwrap();
    let (root, link) = (dir.path().join("root"), dir.path().join("link"));
    fs::create_dir(&root).unwrap();
    std::os::unix::fs::symlink("root", &link).unwrap();
    fs::create_dir(dir.path().join("real-out")).unwrap();
    std::os::unix::fs::symlink("real-out", dir.path().join("out")).unwrap();
    let (direct, linked) =
        (Setting::new(&root, dir.path().join("out")), Setting::new(&link, dir.path().join("out")));
    let (job, _) = in_time("the first", linked.begin("local-linked")).await.unwrap();
    // Not by name, of which a process knows, but by the lock.
    let (env, _) = direct.describe();
    let local = tokio::task::LocalSet::new();
    let refused =
        local.run_until(async { env.start_local("local-linked").await.map(drop) }).await.unwrap_err();
    says(&refused, ErrorKind::Busy, &root, &["stop it first"]);
    assert_eq!(job.cancel().await.unwrap(), JobStatus::Cancelled);
    direct.run("local-linked").await;
}

#[tokio::test]
async fn a_link_to_nowhere_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    for (checkpoints, out) in [(&link, &dir.path().join("out")), (&dir.path().join("root"), &link)] {
        let error = Setting::new(checkpoints, out).fails("local-dangling").await;
        says(&error, ErrorKind::Configuration, &link, &["is a link to nowhere"]);
    }
}

#[tokio::test]
async fn a_file_in_the_way_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "mine").unwrap();
    let below = file.join("below");
    for (checkpoints, out) in [(&file, "out"), (&below, "out")] {
        let error = Setting::new(checkpoints, dir.path().join(out)).fails("local-on-a-file").await;
        says(&error, ErrorKind::Configuration, &file, &["move it away"]);
    }
    for out in [&file, &below] {
        let error = Setting::new(dir.path().join("root"), out).fails("local-on-a-file").await;
        says(&error, ErrorKind::Configuration, &file, &["operator `out`"]);
    }
    assert_eq!(fs::read(&file).unwrap(), b"mine");
    // While it runs: where the next checkpoint is to be made.
    let setting = Setting::new(dir.path().join("root"), dir.path().join("out"));
    let (job, gate) = in_time("a start", setting.begin("local-on-a-file")).await.unwrap();
    let chk = fs::read_dir(dir.path().join("root/local-on-a-file")).unwrap();
    let newest = chk
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .find(|name| name.starts_with("chk-"));
    let next = newest.unwrap().replace("chk-1", "chk-2");
    fs::write(dir.path().join("root/local-on-a-file").join(&next), "mine").unwrap();
    gate.open_to(20);
    gate.reached(SPLITS, 20).await;
    let error = in_time("a checkpoint", job.checkpoint()).await.unwrap_err();
    says(
        &error,
        ErrorKind::Configuration,
        &dir.path().join("root/local-on-a-file").join(&next),
        &["checkpoint 2", "move it away"],
    );
    let error = in_time("the end", job.wait()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
}

/// Everything is gone but the job.
#[tokio::test]
async fn a_folder_that_is_removed_under_a_running_job_is_an_error() {
    for (after_a_checkpoint, tolerated, restarts) in
        [(true, 0, 0), (true, 0, 3), (true, u32::MAX, 0), (false, 0, 0), (false, 0, 3), (false, u32::MAX, 3)]
    {
        let what =
            format!("after a checkpoint: {after_a_checkpoint}, tolerated {tolerated}, restarts {restarts}");
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        let setting = Setting { tolerated, restarts, ..Setting::new(&root, dir.path().join("out")) };
        let name = "local-vanishing";
        let (job, gate) = if after_a_checkpoint {
            in_time("a start", setting.begin(name)).await.unwrap()
        } else {
            let (env, gate) = setting.describe();
            let job = env.start(name).await.unwrap();
            running(&job).await;
            (job, gate)
        };
        fs::remove_dir_all(&root).unwrap();
        gate.open_to(20);
        gate.reached(SPLITS, 20).await;
        let error = in_time("a checkpoint", job.checkpoint()).await.unwrap_err();
        println!("{what}: {error}");
        let end = in_time("the end", job.wait()).await.unwrap_err();
        println!("    {end}");
        for error in [error, end] {
            says(&error, ErrorKind::Corrupt, &root, &[name, "was removed while the job runs", "Put it back"]);
        }
        assert!(!root.exists(), "{what}: it was made again");
        // The output is there, and with empty folders a new job does all of it.
        let again = Setting::new(&root, dir.path().join("out-again"));
        again.run(name).await;
    }
}

/// The folder is removed and a new job begun in its place, while the old one still runs: nobody listens to the old one.
#[tokio::test]
async fn a_job_whose_folder_was_replaced_does_not_meddle_with_the_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    let (old, new) =
        (Setting::new(&root, dir.path().join("old")), Setting::new(&root, dir.path().join("new")));
    let (job, gate) = in_time("a start", old.begin("local-replaced")).await.unwrap();
    for _ in 0..3 {
        job.checkpoint().await.unwrap();
    }
    fs::remove_dir_all(&root).unwrap();
    let local = tokio::task::LocalSet::new();
    local
        .run_until(in_time("both", async {
            let (env, new_gate) = new.describe();
            let new_job = env.start_local("local-replaced").await.unwrap();
            new_gate.open_to(10);
            new_gate.reached(SPLITS, 10).await;
            new_job.checkpoint().await.unwrap();
            gate.open_to(20);
            gate.reached(SPLITS, 20).await;
            job.checkpoint().await.unwrap_err();
            let error = job.wait().await.unwrap_err();
            println!("{error}");
            says(&error, ErrorKind::Fenced, &root, &["this process must stop"]);
            for _ in 0..3 {
                new_job.checkpoint().await.unwrap();
            }
            assert_eq!(new_job.cancel().await.unwrap(), JobStatus::Cancelled);
        }))
        .await;
    new.run("local-replaced").await;
}

#[tokio::test]
async fn an_output_folder_that_is_removed_under_a_running_job_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    for restarts in [0, 3] {
        let setting = Setting { restarts, ..Setting::new(dir.path().join("root"), &out) };
        let name = format!("local-output-{restarts}");
        let (job, gate) = in_time("a start", setting.begin(&name)).await.unwrap();
        in_time("the output", async {
            while visible_lines(&LocalDisk::new(), &out).await.len() < 20 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        fs::remove_dir_all(&out).unwrap();
        gate.open_to(20);
        gate.reached(SPLITS, 20).await;
        let _ = in_time("a checkpoint", job.checkpoint()).await;
        gate.open_to(u64::MAX);
        let error = in_time("the end", job.wait()).await.unwrap_err();
        println!("restarts {restarts}: {error}");
        let kinds = [ErrorKind::Storage, ErrorKind::Corrupt];
        assert!(kinds.contains(&error.kind()), "{error}");
        says(&error, error.kind(), &out, &["gone", "operator `out`"]);
    }
}

#[tokio::test]
async fn names_that_are_too_long_are_refused_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    let long = "x".repeat(256);
    let error = Setting::new(dir.path().join(&long), dir.path().join("out")).fails("local-long").await;
    println!("{error}");
    says(&error, ErrorKind::Configuration, dir.path(), &["shorter"]);
    let deep: PathBuf = std::iter::repeat_n("folder", 700).collect();
    let error = Setting::new(dir.path().join(&deep), dir.path().join("out")).fails("local-long").await;
    println!("{}", error.message());
    says(&error, ErrorKind::Configuration, dir.path(), &["shorter"]);
    let error = Setting::new(&root, dir.path().join(&long)).fails("local-long").await;
    println!("{error}");
    says(&error, ErrorKind::Configuration, dir.path(), &["shorter", "operator `out`"]);
    for uid in ["x".repeat(256), "ü".repeat(100), "/".repeat(70)] {
        let setting = Setting { sink: uid.clone(), ..Setting::new(&root, dir.path().join("out")) };
        let error = setting.fails("local-long").await;
        println!("{error}");
        says(&error, ErrorKind::Configuration, dir.path(), &["shorter", "uid"]);
    }
}

#[tokio::test]
async fn folders_and_uids_may_be_long_and_odd() {
    let dir = tempfile::tempdir().unwrap();
    let odd = ["a b", "ü🌊", "..x", "%2F", "-", "a\nb", "*?\"<>|", "'; rm -rf", "x\u{202e}y"];
    for (number, uid) in odd.into_iter().enumerate() {
        let folder = dir.path().join(format!("{number} {}", uid.replace('\n', "\t")));
        let setting = Setting { sink: uid.into(), ..Setting::new(folder.join("root"), folder.join("out")) };
        let name = format!("local-odd-{number}");
        let (job, _) =
            in_time("a start", setting.begin(&name)).await.unwrap_or_else(|error| panic!("{uid}: {error}"));
        assert_eq!(job.cancel().await.unwrap(), JobStatus::Cancelled);
        setting.run(&name).await;
    }
    // As long as they may be.
    let deep: PathBuf = std::iter::repeat_n("x".repeat(200), 15).collect();
    let setting = Setting {
        sink: "u".repeat(190),
        ..Setting::new(dir.path().join(&deep), dir.path().join(&deep).join("out"))
    };
    setting.run("local-long-enough").await;
}

/// Mounted, until dropped.
struct Mounted(PathBuf);

impl Mounted {
    /// A small disk of its own; `None` where this process may not mount one.
    fn new(at: &Path, size: &str) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let options = format!("size={size},mode=777");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(at.to_owned())),
            other => {
                println!("skipped: no disk can be mounted here: {other:?}");
                None
            }
        }
    }

    fn remount(&self, option: &str) {
        let options = format!("remount,{option}");
        assert!(Command::new("mount").args(["-o", &options]).arg(&self.0).status().unwrap().success());
    }

    /// Writes until nothing more fits; gives the file.
    fn fill(&self) -> PathBuf {
        use std::io::Write;
        let path = self.0.join("filler");
        let mut file = fs::File::create(&path).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
        path
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_job_on_a_full_disk_goes_on_when_there_is_room_again() {
    let dir = tempfile::tempdir().unwrap();
    let Some(small) = Mounted::new(&dir.path().join("small"), "512k") else { return };
    // Only the checkpoints are on it, or the output, too.
    for (name, out) in [("local-full", dir.path().join("out")), ("local-full-output", small.0.join("out"))] {
        let root = small.0.join("root");
        let restarts = if out.starts_with(&small.0) { 100_000 } else { 0 };
        let setting = Setting { tolerated: 3, restarts, ..Setting::new(&root, &out) };
        let (job, gate) = in_time("a start", setting.begin(name)).await.unwrap();
        let filler = small.fill();
        gate.open_to(20);
        gate.reached(SPLITS, 20).await;
        let error = in_time("a checkpoint", job.checkpoint()).await.unwrap_err();
        println!("{name}: {error}");
        if restarts == 0 {
            says(&error, ErrorKind::Storage, &root, &["make room on the disk", "checkpoint 2"]);
        }
        fs::remove_file(&filler).unwrap();
        while let Err(error) = in_time("a checkpoint", job.checkpoint()).await {
            println!("{name}: {error}");
            assert!(restarts > 0 && !job.status().borrow().is_terminal(), "{error}");
        }
        gate.open_to(u64::MAX);
        assert_eq!(in_time("the end", job.wait()).await.unwrap(), JobStatus::Finished);
        setting.check_output(name).await;
    }
}

#[tokio::test]
async fn a_job_does_not_start_on_a_full_disk_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let Some(small) = Mounted::new(&dir.path().join("small"), "64k") else { return };
    let filler = small.fill();
    let setting = Setting::new(small.0.join("root"), small.0.join("out"));
    let error = setting.fails("local-full-start").await;
    println!("{error}");
    says(&error, ErrorKind::Storage, &small.0, &["make room on the disk"]);
    fs::remove_file(filler).unwrap();
    setting.run("local-full-start").await;
}

#[tokio::test]
async fn a_disk_that_is_read_only_is_named_and_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Mounted::new(&dir.path().join("disk"), "4m") else { return };
    let setting = Setting::new(disk.0.join("root"), dir.path().join("out"));
    let (job, _) = in_time("a start", setting.begin("local-read-only")).await.unwrap();
    assert_eq!(job.cancel().await.unwrap(), JobStatus::Cancelled);
    disk.remount("ro");
    let error = setting.fails("local-read-only").await;
    println!("{error}");
    says(&error, ErrorKind::Storage, &disk.0, &["give this process the right to it"]);
    disk.remount("rw");
    setting.run("local-read-only").await;
    disk.remount("ro");
    // There is nothing left to do, and nothing to write.
    setting.run("local-read-only").await;
}

/// In a child without rights: the folder for the job.
const FORBIDDEN: &str = "STRANDLINE_TEST_FORBIDDEN";

/// Not a test of its own: what a child does that must not do everything.
#[test]
fn child_without_rights() {
    let Ok(dir) = std::env::var(FORBIDDEN) else { return };
    let dir = Path::new(&dir);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        use std::os::unix::fs::PermissionsExt;
        let may = |path: &str, mode| {
            fs::set_permissions(dir.join(path), fs::Permissions::from_mode(mode)).unwrap();
        };
        let setting = Setting { tolerated: 1, ..Setting::new(dir.join("root"), dir.join("out")) };
        let refused = async |path: &str, mode, back| {
            may(path, mode);
            let error = setting.fails("local-forbidden").await;
            println!("{path}: {error}");
            says(&error, ErrorKind::Storage, &dir.join(path), &["give this process the right to it"]);
            may(path, back);
        };
        fs::create_dir(dir.join("root")).unwrap();
        fs::create_dir(dir.join("out")).unwrap();
        refused("root", 0o555, 0o755).await;
        refused("root", 0o000, 0o755).await;
        refused("out", 0o000, 0o755).await;
        let (job, gate) = in_time("a start", setting.begin("local-forbidden")).await.unwrap();
        // A checkpoint that is not allowed, and one that is.
        gate.open_to(15);
        gate.reached(SPLITS, 15).await;
        may("root/local-forbidden", 0o555);
        let error = in_time("a checkpoint", job.checkpoint()).await.unwrap_err();
        says(
            &error,
            ErrorKind::Storage,
            &dir.join("root/local-forbidden"),
            &["give this process the right to it"],
        );
        may("root/local-forbidden", 0o755);
        in_time("a checkpoint", job.checkpoint()).await.unwrap();
        assert_eq!(job.cancel().await.unwrap(), JobStatus::Cancelled);

        refused("root/local-forbidden", 0o555, 0o755).await;
        refused("root/local-forbidden/log", 0o333, 0o755).await;
        refused("root/local-forbidden/log", 0o555, 0o755).await;
        refused("out", 0o333, 0o755).await;
        refused("out", 0o555, 0o755).await;
        let mut chk =
            fs::read_dir(dir.join("root/local-forbidden")).unwrap().map(|entry| entry.unwrap().file_name());
        let chk = chk.find(|name| name.to_str().unwrap().starts_with("chk-")).unwrap().into_string().unwrap();
        for file in fs::read_dir(dir.join("root/local-forbidden").join(&chk)).unwrap() {
            let file = file.unwrap().file_name().into_string().unwrap();
            refused(&format!("root/local-forbidden/{chk}/{file}"), 0o000, 0o644).await;
        }
        refused("root/local-forbidden/log/00000000000000000001", 0o000, 0o644).await;
        setting.run("local-forbidden").await;
        println!("all of it was refused");
    });
}

#[test]
fn what_a_process_may_not_do_is_named_and_harms_nothing() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::process::CommandExt;
    const NOBODY: u32 = 65534;
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("place");
    fs::create_dir(&place).unwrap();
    let is_root = fs::metadata(&place).unwrap().uid() == 0;
    // Where somebody else may run it, too.
    let program = dir.path().join("program");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let mut child = Command::new(&program);
    child.args(["child_without_rights", "--exact", "--nocapture"]).env(FORBIDDEN, &place);
    if is_root {
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::chown(&place, Some(NOBODY), Some(NOBODY)).unwrap();
        child.uid(NOBODY).gid(NOBODY);
    }
    match child.output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout);
            let trouble = String::from_utf8_lossy(&output.stderr);
            assert!(text.contains("all of it was refused"), "{text}\n{trouble}");
        }
        Err(error) => println!("skipped: no other user may run a program here: {error}"),
    }
}
