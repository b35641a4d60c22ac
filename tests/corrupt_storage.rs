//! Damaged, foreign and newer files: a clear error that names the file. The job neither starts from it nor destroys it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use common::{Count, Gate, Numbers, expected_counts, in_time, running, sorted, tree, virtual_process};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use strandline::prelude::*;
use strandline::storage::{MemoryDisk, OnDisk, SharedDisk};

const SPLITS: u32 = 2;
const LEN: u64 = 20;
const KEYS: u64 = 6;

type Tree = BTreeMap<PathBuf, Option<Vec<u8>>>;

fn describe(storage: impl strandline::storage::Storage) -> (Environment, Collect<(u64, u64)>, Gate) {
    let env = Environment::builder()
        .parallelism(2)
        .storage(storage)
        .restart(RestartStrategy::fixed_delay(2, Duration::ZERO))
        .build()
        .unwrap();
    let (numbers, gate) = Numbers::gated(SPLITS, LEN);
    let out = Collect::new();
    env.source("numbers", numbers)
        .key_by(|(_, number)| number % KEYS)
        .process("count", |setup| Ok(Count { seen: setup.value_state("seen")? }))
        .sink("out", out.clone());
    (env, out, gate)
}

/// What a job leaves that is stopped after its second checkpoint, and what it has put out until then.
fn stopped() -> (Tree, Vec<(u64, u64)>) {
    virtual_process(in_time("a stopped job", async {
        let disk: SharedDisk = Arc::new(MemoryDisk::new());
        let (env, out, gate) = describe(OnDisk::new(Arc::clone(&disk), "root"));
        let job = env.start_local("job").await.unwrap();
        running(&job).await;
        for position in [6, 12] {
            gate.open_to(position);
            gate.reached(SPLITS, position).await;
            job.checkpoint().await.unwrap();
        }
        // Its output is committed when the next checkpoint begins at the latest; this one is given up.
        while out.len() < 24 {
            tokio::task::yield_now().await;
        }
        job.cancel().await.unwrap();
        (tree(&*disk, Path::new("root")).await, out.records())
    }))
}

async fn plant(files: &Tree) -> SharedDisk {
    let disk: SharedDisk = Arc::new(MemoryDisk::new());
    for (path, content) in files {
        let path = Path::new("root").join(path);
        match content {
            None => disk.create_dir(&path).await.unwrap(),
            Some(content) => {
                disk.create_dir(path.parent().unwrap()).await.unwrap();
                disk.publish(&path, content.clone()).await.unwrap();
            }
        }
    }
    disk
}

/// Ways to spoil a file. Not all spoil every file: a state file may be longer than it must be.
fn spoiled(content: &[u8]) -> Vec<(String, Option<Vec<u8>>)> {
    let mut all = vec![
        ("empty".to_owned(), Some(Vec::new())),
        ("half".to_owned(), Some(content[..content.len() / 2].to_vec())),
        ("cut by one byte".to_owned(), Some(content[..content.len() - 1].to_vec())),
        (
            "foreign".to_owned(),
            Some(b"#!/bin/sh\necho a file of somebody else that is long enough\n".repeat(9)),
        ),
        ("zeros".to_owned(), Some(vec![0; content.len()])),
    ];
    let mut newer = content.to_vec();
    newer[12..16].copy_from_slice(&99_u32.to_le_bytes());
    all.push(("of version 99".to_owned(), Some(newer)));
    for at in (0..content.len()).step_by(content.len() / 16 + 1) {
        let mut flipped = content.to_vec();
        flipped[at] ^= 0x10;
        all.push((format!("flipped at {at}"), Some(flipped)));
    }
    all
}

/// Starts the job on these files; gives how it ended and what it left.
fn life(files: &Tree) -> (Result<JobStatus, Error>, Vec<(u64, u64)>, Tree) {
    virtual_process(in_time("a life on spoiled files", async {
        let disk = plant(files).await;
        let (env, out, gate) = describe(OnDisk::new(Arc::clone(&disk), "root"));
        gate.open_to(u64::MAX);
        let end = match env.start_local("job").await {
            Ok(job) => job.wait().await,
            Err(error) => Err(error),
        };
        (end, out.records(), tree(&*disk, Path::new("root")).await)
    }))
}

fn part<'a>(files: &'a Tree, name: &str) -> Vec<(&'a PathBuf, &'a Vec<u8>)> {
    let of = |path: &&PathBuf| path.to_string_lossy().contains(name);
    files.iter().filter(|(path, _)| of(path)).filter_map(|(path, c)| Some((path, c.as_ref()?))).collect()
}

#[test]
fn s5_6_a_spoiled_log_entry_or_manifest_is_named_and_nothing_is_touched() {
    let (files, _) = stopped();
    let log = part(&files, "/log/");
    let manifests = part(&files, "/manifest");
    assert_eq!((log.len(), manifests.len()), (2, 1), "{:?}", files.keys());
    for (path, content) in log.into_iter().chain(manifests) {
        let missing = path.to_string_lossy().contains("manifest").then_some(("missing".to_owned(), None));
        for (how, content) in spoiled(content).into_iter().chain(missing) {
            let what = format!("{} {how}", path.display());
            let mut planted = files.clone();
            match content {
                Some(content) => _ = planted.insert(path.clone(), Some(content)),
                None => _ = planted.remove(path),
            }
            let (end, out, left) = life(&planted);
            let error = end.expect_err(&what);
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
            assert_eq!(error.path(), Some(&*Path::new("root").join(path)), "{what}: {error}");
            assert!(how != "of version 99" || error.to_string().contains("99"), "{what}: {error}");
            assert_eq!(out, []);
            assert_eq!(left, planted, "{what}: something was changed");
        }
    }
}

#[test]
fn a_spoiled_state_file_is_named_and_its_checkpoint_stays() {
    let (files, before) = stopped();
    let states = part(&files, "/state-");
    assert_eq!(states.len(), 4, "{:?}", files.keys());
    let mut noticed = 0;
    for (path, content) in states {
        for (how, content) in spoiled(content).into_iter().chain([("missing".to_owned(), None)]) {
            let what = format!("{} {how}", path.display());
            let mut planted = files.clone();
            match content {
                Some(content) => _ = planted.insert(path.clone(), Some(content)),
                None => _ = planted.remove(path),
            }
            let (end, out, left) = life(&planted);
            let Err(error) = end else {
                // Bytes that nothing refers to. Then the output must be right.
                let all = before.iter().copied().chain(out).collect();
                assert_eq!(sorted(all), expected_counts(SPLITS, LEN, KEYS), "{what}");
                continue;
            };
            noticed += 1;
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
            assert_eq!(error.path(), Some(&*Path::new("root").join(path)), "{what}: {error}");
            assert_eq!(out, [], "{what}");
            for (path, content) in part(&planted, "/chk-") {
                assert_eq!(left[path].as_ref(), Some(content), "{what}: {} was changed", path.display());
            }
            // Put back, it goes on as if nothing had been.
            let mut repaired = left;
            repaired.insert(path.clone(), files[path].clone());
            let (end, out, _) = life(&repaired);
            assert_eq!(end.unwrap(), JobStatus::Finished, "{what}, repaired");
            let all = before.iter().copied().chain(out).collect();
            assert_eq!(sorted(all), expected_counts(SPLITS, LEN, KEYS), "{what}, repaired");
        }
    }
    assert!(noticed >= 4 * 16, "only {noticed}");
}

#[tokio::test]
async fn a_file_where_the_folder_should_be_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for at in ["root", "root/on-a-file", "root/on-a-file/log"] {
        let file = dir.path().join(at);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "mine").unwrap();
        let (env, _, _) = describe(FileSystem::at(dir.path().join("root")));
        // The name is free again as soon as a start has failed.
        let error = in_time("a start on a file", env.start("on-a-file")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration, "{at}: {error}");
        assert_eq!(error.path(), Some(&*file), "{at}: {error}");
        assert_eq!(std::fs::read(&file).unwrap(), b"mine");
        std::fs::remove_file(&file).unwrap();
    }
}

#[tokio::test]
async fn a_missing_folder_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("a/b/c");
    let (env, out, gate) = describe(FileSystem::at(&root));
    gate.open_to(u64::MAX);
    assert_eq!(in_time("a run", env.execute("made")).await.unwrap(), JobStatus::Finished);
    assert_eq!(sorted(out.records()), expected_counts(SPLITS, LEN, KEYS));
    assert!(root.join("made/log").is_dir());
}

#[cfg(unix)]
#[tokio::test]
async fn a_folder_that_cannot_be_written_is_named() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    std::fs::create_dir(&root).unwrap();
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o555)).unwrap();
    if std::fs::write(root.join("probe"), "").is_ok() {
        println!("skipped: this user may write everywhere");
        return;
    }
    let (env, _, _) = describe(FileSystem::at(&root));
    let error = in_time("a start", env.start("read-only")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Storage, "{error}");
    assert!(error.path().is_some_and(|path| path.starts_with(&root)), "{error}");
}
