//! Small state goes into the manifest: nothing is lost, no file is made, and what others need is a file all the same.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{
    Count, Gate, Numbers, exact_modes, expected_counts, in_time, on_request, running, sorted, tree,
    virtual_process,
};
use std::path::Path;
use std::sync::Arc;
use strandline::checkpoint::metadata::Manifest;
use strandline::prelude::*;
use strandline::storage::{Disk, MemoryDisk, OnDisk, SharedDisk, Storage};

const SPLITS: u32 = 2;
const LEN: u64 = 40;
const KEYS: u64 = 12;

fn job(
    storage: impl Storage,
    checkpointing: Checkpointing,
    parallelism: u32,
    out: &Collect<(u64, u64)>,
) -> (Environment, Gate) {
    let env = Environment::builder()
        .parallelism(parallelism)
        .checkpointing(checkpointing)
        .storage(storage)
        .build()
        .unwrap();
    let (numbers, gate) = Numbers::gated(SPLITS, LEN);
    env.source("numbers", numbers)
        .key_by(|(_, number)| number % KEYS)
        .process("count", |setup| Ok(Count { seen: setup.value_state("seen")? }))
        .sink("out", out.clone());
    (env, gate)
}

/// One life, up to two checkpoints or to the end.
fn live(
    storage: impl Storage,
    checkpointing: Checkpointing,
    parallelism: u32,
    out: &Collect<(u64, u64)>,
    to: Option<u64>,
) {
    virtual_process(in_time("a life", async {
        let (env, gate) = job(storage, checkpointing, parallelism, out);
        let job = env.start_local("small").await.unwrap();
        running(&job).await;
        let Some(to) = to else {
            gate.open_to(u64::MAX);
            assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
            return;
        };
        for position in [to - 3, to] {
            gate.open_to(position);
            gate.reached(SPLITS, position).await;
            job.checkpoint().await.unwrap();
        }
        job.cancel().await.unwrap();
    }));
}

/// The state files on a disk, and how many files are in the newest manifest.
async fn files(disk: &dyn Disk) -> (Vec<String>, usize) {
    let all = tree(disk, Path::new("checkpoints")).await;
    let manifests = all.iter().filter(|(path, _)| path.ends_with("manifest"));
    let manifests = manifests.map(|(_, content)| Manifest::decode(content.as_ref().unwrap()).unwrap());
    let newest = manifests.max_by_key(|manifest| manifest.checkpoint).unwrap();
    let names = all.keys().map(|path| path.to_string_lossy().into_owned());
    (names.filter(|name| name.contains("/state-")).collect(), newest.inline.len())
}

#[test]
fn a_job_goes_on_from_state_in_the_manifest_at_any_parallelism_in_every_mode() {
    for (mode, checkpointing) in exact_modes() {
        let disk: SharedDisk = Arc::new(MemoryDisk::new());
        let out = Collect::new();
        let storage = || OnDisk::new(Arc::clone(&disk), "checkpoints").memory_threshold(20_000);
        for (parallelism, to) in [(2, 10), (3, 20), (1, 30)] {
            live(storage(), checkpointing.clone(), parallelism, &out, Some(to));
            let (state_files, inline) = virtual_process(files(&*disk));
            assert!(state_files.is_empty() && inline > 0, "{mode}: {state_files:?}, {inline} inline");
        }
        // What is not small any more is in files again.
        live(OnDisk::new(Arc::clone(&disk), "checkpoints"), checkpointing.clone(), 2, &out, Some(35));
        let (state_files, inline) = virtual_process(files(&*disk));
        assert!(!state_files.is_empty() && inline == 0, "{mode}: {state_files:?}, {inline} inline");
        live(storage(), checkpointing, 2, &out, None);
        assert_eq!(sorted(out.records()), expected_counts(SPLITS, LEN, KEYS), "{mode}");
    }
}

/// A manifest is read by its own checkpoint only.
#[test]
fn what_later_checkpoints_need_is_a_file_however_small() {
    let disk: SharedDisk = Arc::new(MemoryDisk::new());
    let out = Collect::new();
    let storage = || OnDisk::new(Arc::clone(&disk), "checkpoints").memory_threshold(20_000);
    let checkpointing = || on_request().incremental(true);
    for (parallelism, to) in [(2, 10), (1, 20), (3, 30)] {
        live(storage(), checkpointing(), parallelism, &out, Some(to));
        let (state_files, inline) = virtual_process(files(&*disk));
        assert!(
            state_files.len() > 1 && inline > 0,
            "the sources have no keyed state: {state_files:?}, {inline}"
        );
    }
    live(storage(), checkpointing(), 2, &out, None);
    assert_eq!(sorted(out.records()), expected_counts(SPLITS, LEN, KEYS));
}

#[test]
fn on_the_file_system_it_is_so_unless_it_is_told_otherwise() {
    for (threshold, has_files) in [(None, false), (Some(0), true)] {
        let folder = tempfile::tempdir().unwrap();
        let storage = FileSystem::at(folder.path().join("checkpoints"));
        let storage = threshold.map_or(storage.clone(), |threshold| storage.memory_threshold(threshold));
        live(storage.clone(), on_request(), 2, &Collect::new(), Some(10));
        let disk = storage.disk();
        let all = virtual_process(async { tree(&*disk, folder.path()).await });
        let state_files = all.keys().filter(|path| path.to_string_lossy().contains("/state-")).count();
        assert_eq!(state_files > 0, has_files, "{threshold:?}");
    }
}
