//! Checkpoints that write only what has changed: the output of a run without failures, and how much is written and kept.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::disallowed_methods)] // virtual time is waited for

mod common;

use common::{
    Fuse, Gate, Numbers, in_time, on_request, running, sorted, tree, virtual_process, visible_lines,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use strandline::JobHandle;
use strandline::checkpoint::metadata::Manifest;
use strandline::prelude::*;
use strandline::storage::{Disk, Fault, FaultyDisk, Injection, MemoryDisk, OnDisk, SharedDisk};
use strandline::types::Random;

const JOB: &str = "changing";

/// What is done with a key.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Change {
    /// Its sum goes up.
    Add(u64),
    /// It is forgotten.
    Remove,
}

type Script = Arc<Vec<(u64, Change)>>;

/// Keeps a sum per key, and what was added, by its last digit.
struct Sums {
    sum: ValueState<(u64, String)>,
    last: MapState<u64, u64>,
    fuse: Fuse,
}

impl Operator for Sums {
    type Key = u64;
    type Out = String;
}

impl Handler<(u64, Change)> for Sums {
    fn handle(&mut self, (key, change): (u64, Change), ctx: &mut Context<'_, Self>) -> Result {
        if self.fuse.goes_off() {
            return Err("injected".into());
        }
        match change {
            Change::Remove => {
                self.sum.clear(ctx);
                self.last.clear(ctx);
            }
            Change::Add(number) => {
                let (sum, ballast) = self.sum.get(ctx).unwrap_or_default();
                let sum = sum + number;
                self.sum.set(ctx, (sum, ballast));
                self.last.insert(ctx, number % 10, number);
                let last = sorted(self.last.iter(ctx).map(|(digit, number)| (*digit, *number)).collect());
                ctx.emit(format!("{key} {sum} {last:?}"));
            }
        }
        Ok(())
    }
}

/// The same in a plain loop.
fn expected(script: &Script) -> Vec<String> {
    let mut sums = BTreeMap::<u64, (u64, BTreeMap<u64, u64>)>::new();
    let mut lines = Vec::new();
    for (key, change) in script.iter() {
        match change {
            Change::Remove => drop(sums.remove(key)),
            Change::Add(number) => {
                let (sum, last) = sums.entry(*key).or_default();
                *sum += number;
                last.insert(number % 10, *number);
                lines.push(format!("{key} {sum} {:?}", last.iter().collect::<Vec<_>>()));
            }
        }
    }
    sorted(lines)
}

/// Adds what is to be run.
fn describe(env: &Environment, disk: &SharedDisk, script: &Script, fuse: &Fuse) -> Gate {
    let (numbers, gate) = Numbers::gated(1, script.len() as u64);
    let (script, fuse) = (Arc::clone(script), fuse.clone());
    env.source("numbers", numbers)
        .map(move |(_, number)| script[usize::try_from(number).unwrap()])
        .key_by(|(key, _)| *key)
        .process("sums", move |setup| {
            let (sum, last) = (setup.value_state("sum")?, setup.map_state("last")?);
            Ok(Sums { sum, last, fuse: fuse.clone() })
        })
        .sink("out", FileSink::at("out").disk(Arc::clone(disk)));
    gate
}

/// Never goes off.
fn no_fuse() -> Fuse {
    Fuse::after(u64::MAX / 4)
}

/// What of the manifests on a disk is true, by the folder they are in; and all folders of checkpoints.
async fn manifests(disk: &dyn Disk) -> (BTreeMap<String, Manifest>, BTreeSet<String>) {
    let root = Path::new("checkpoints").join(JOB);
    let (mut manifests, mut folders) = (BTreeMap::new(), BTreeSet::new());
    for (path, content) in tree(disk, &root).await {
        let path = path.to_str().unwrap().to_owned();
        match (path.split_once('/'), content) {
            (None, None) if path.starts_with("chk-") => drop(folders.insert(path)),
            (Some((folder, "manifest")), Some(content)) => {
                manifests.insert(folder.to_owned(), Manifest::decode(&content).unwrap());
            }
            _ => {}
        }
    }
    (manifests, folders)
}

/// The folders that the checkpoints of a running job need.
async fn needed(job: &JobHandle, disk: &dyn Disk) -> BTreeSet<String> {
    let (manifests, _) = manifests(disk).await;
    let mut needed = BTreeSet::new();
    // The disk may fail here, too.
    for retained in job.retained().await.unwrap_or_default() {
        let folder = retained.path.file_name().unwrap().to_str().unwrap().to_owned();
        needed.extend(manifests[&folder].folders());
        needed.insert(folder);
    }
    needed
}

async fn assert_nothing_is_missing(job: &JobHandle, disk: &dyn Disk, limit: u32) {
    let needed = needed(job, disk).await;
    let (manifests, folders) = manifests(disk).await;
    let missing: Vec<_> = needed.difference(&folders).collect();
    assert!(missing.is_empty(), "{missing:?} of {needed:?}, {folders:?}");
    let newest =
        manifests.values().max_by_key(|manifest| (manifest.checkpoint, manifest.generation)).unwrap();
    let of_others = newest.folders();
    assert!(of_others.len() <= limit as usize + 1, "{of_others:?}");
}

fn random_script(random: &mut Random, len: usize, keys: u64) -> Script {
    let mut below = |limit: u64| random.next_u64() % limit;
    let mut record = || {
        let key = below(keys);
        (key, if below(5) == 0 { Change::Remove } else { Change::Add(below(1000)) })
    };
    Arc::new((0..len).map(|_| record()).collect())
}

/// One process after the other on a disk that fails at times, each at a parallelism and with settings of its own; operators fail as well.
fn story(seed: u64) -> usize {
    let mut random = Random::from_seed(seed);
    let script = random_script(&mut random, 1_500, 150);
    let disk: SharedDisk = Arc::new(MemoryDisk::new());
    let mut below = |limit: u64| random.next_u64() % limit;
    let (mut position, mut increments) = (0, 0);
    for life in 0.. {
        let is_last = life == 12;
        let (limit, retain) = (1 + u32::try_from(below(6)).unwrap(), 1 + u32::try_from(below(3)).unwrap());
        let mut checkpointing =
            on_request().incremental(below(4) > 0).max_increments(limit).retain(retain).tolerable_failures(2);
        if below(3) == 0 {
            checkpointing = checkpointing.unaligned();
        } else {
            checkpointing = checkpointing.max_concurrent(3);
        }
        let faulty = FaultyDisk::new(Arc::clone(&disk));
        if !is_last {
            for _ in 0..below(4) {
                let fault = [Fault::NoEffect, Fault::TookEffect, Fault::Torn][below(3) as usize];
                faulty.inject(Injection::of(fault).on_everything().at(20 + below(150)));
            }
        }
        let builder = Environment::builder()
            .parallelism(1 + u32::try_from(below(4)).unwrap())
            .max_parallelism(16)
            .seed(seed)
            .restart(RestartStrategy::fixed_delay(10, Duration::from_millis(10)))
            .checkpointing(checkpointing);
        let fuse = if is_last || below(2) == 0 { no_fuse() } else { Fuse::after(100 + below(300)) };
        virtual_process(in_time("a life", async {
            let shared: SharedDisk = Arc::new(faulty.clone());
            let env = builder.storage(OnDisk::new(Arc::clone(&shared), "checkpoints")).build().unwrap();
            let gate = describe(&env, &shared, &script, &fuse);
            let Ok(job) = env.start_local(JOB).await else { return };
            for _ in 0..below(8) {
                position = (position + below(60)).min(script.len() as u64 - 1);
                gate.open_to(position);
                tokio::select! {
                    () = gate.reached(1, position) => {}
                    _ = job.wait() => return,
                }
                let asked = (0..1 + below(3)).map(|_| job.checkpoint());
                if futures::future::join_all(asked).await.iter().all(Result::is_ok) {
                    // What is no longer retained is deleted meanwhile, and a tick after a restart may come.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    assert_nothing_is_missing(&job, &*disk, limit).await;
                    let (manifests, _) = manifests(&*disk).await;
                    increments += manifests.values().filter(|manifest| manifest.folders().len() > 1).count();
                }
            }
            if is_last {
                gate.open_to(u64::MAX);
                assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
            } else {
                // Killed.
                faulty.inject(Injection::of(Fault::NoEffect).on_everything().then_die());
                let _ = job.cancel().await;
            }
        }));
        if is_last {
            break;
        }
    }
    virtual_process(async {
        assert_eq!(sorted(visible_lines(&*disk, Path::new("out")).await), expected(&script), "seed {seed}");
        let (manifests, folders) = manifests(&*disk).await;
        let (folder, newest) = manifests.iter().max_by_key(|(_, manifest)| manifest.checkpoint).unwrap();
        let mut needed = newest.folders();
        needed.insert(folder.clone());
        assert_eq!(folders, needed, "seed {seed}");
    });
    increments
}

#[test]
fn output_is_exact_whatever_fails_and_at_any_parallelism_and_nothing_is_left_behind() {
    common::quiet_panics();
    let from = std::env::var("STRANDLINE_SEED").map_or(1, |seed| seed.parse().unwrap());
    let increments: usize = (from..from + 25).map(story).sum();
    assert!(increments > 100, "only {increments} checkpoints needed files of others");
}

/// Bytes that each checkpoint wrote; and the most folders that were there at a time. First all of so many keys are added to, then in each round
/// a hundredth of them.
fn sizes(checkpointing: Checkpointing, keys: u64, rounds: u64) -> (Vec<u64>, Vec<u64>, usize) {
    struct Large {
        value: ValueState<(u64, String)>,
    }
    impl Operator for Large {
        type Key = u64;
        type Out = ();
    }
    impl Handler<(u64, u64)> for Large {
        fn handle(&mut self, (_, number): (u64, u64), ctx: &mut Context<'_, Self>) -> Result {
            self.value.set(ctx, (number, "x".repeat(1000)));
            Ok(())
        }
    }
    let disk: SharedDisk = Arc::new(MemoryDisk::new());
    virtual_process(in_time("a long life", async {
        let env = Environment::builder()
            .parallelism(1)
            .max_parallelism(128)
            .checkpointing(checkpointing)
            .storage(OnDisk::new(Arc::clone(&disk), "checkpoints"))
            .build()
            .unwrap();
        let part = keys / 100;
        let (numbers, gate) = Numbers::gated(1, keys + rounds * part + 1);
        env.source("numbers", numbers)
            // After the first round, keys in an order that has nothing to do with theirs.
            .map(move |(_, number)| (if number < keys { number } else { number * 7_919 % keys }, number))
            .key_by(|(key, _)| *key)
            .process("large", |setup| Ok(Large { value: setup.value_state("value")? }))
            .sink("out", Collect::new());
        let job = env.start_local(JOB).await.unwrap();
        running(&job).await;
        let (mut bytes, mut full, mut most) = (Vec::new(), Vec::new(), 0);
        for round in 0..=rounds {
            gate.open_to(keys + round * part);
            gate.reached(1, keys + round * part).await;
            job.checkpoint().await.unwrap();
            let retained = job.retained().await.unwrap();
            let newest = retained.last().unwrap();
            bytes.push(newest.bytes);
            full.push(newest.full_bytes);
            let folders = disk.list(&Path::new("checkpoints").join(JOB)).await.unwrap();
            most = most.max(folders.iter().filter(|name| name.starts_with("chk-")).count());
        }
        job.cancel().await.unwrap();
        (bytes, full, most)
    }))
}

#[test]
fn where_a_hundredth_changes_at_most_half_as_much_again_is_written_and_old_files_go() {
    let (bytes, full, folders) = sizes(on_request().incremental(true), 16_000, 600);
    let (first, later) = bytes.split_first().unwrap();
    let (written, changed) = (later.iter().sum::<u64>(), first / 100 * later.len() as u64);
    println!("{first} bytes at first, then {written} for {changed}; {folders} folders");
    assert!(written * 2 <= changed * 3, "{written} bytes for {changed}");
    assert!(later.iter().all(|bytes| *bytes < first / 30), "none is a full one");
    // One is just being written, and one not yet deleted.
    assert!((200..=258).contains(&folders), "{folders} folders");
    assert!(full.iter().all(|bytes| *bytes < first * 5), "{:?} of {first}", full.iter().max());
}

#[test]
fn a_full_checkpoint_is_what_it_was() {
    let (bytes, full, folders) = sizes(on_request(), 1_000, 10);
    assert!(bytes.iter().all(|bytes| *bytes > 1_000_000), "{bytes:?}");
    assert_eq!((bytes, folders), (full, 1));
}

/// A life that stops at a checkpoint.
fn live(
    disk: &SharedDisk,
    checkpointing: Checkpointing,
    parallelism: u32,
    build: impl FnOnce(&Environment) -> Gate,
    to: u64,
) {
    virtual_process(in_time("a life", async {
        let env = Environment::builder()
            .parallelism(parallelism)
            .max_parallelism(16)
            .checkpointing(checkpointing)
            .storage(OnDisk::new(Arc::clone(disk), "checkpoints"))
            .build()
            .unwrap();
        let gate = build(&env);
        let job = env.start_local(JOB).await.unwrap();
        running(&job).await;
        gate.open_to(to);
        gate.reached(1, to).await;
        if to > 600 {
            assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
            return;
        }
        for _ in 0..3 {
            job.checkpoint().await.unwrap();
        }
        job.cancel().await.unwrap();
    }));
}

#[test]
fn after_a_restart_the_next_checkpoint_builds_on_the_restored_one_at_any_parallelism() {
    let disk: SharedDisk = Arc::new(MemoryDisk::new());
    let script = random_script(&mut Random::from_seed(9), 601, 400);
    for (to, parallelism) in [(500, 2), (530, 3), (560, 1)] {
        let build = |env: &Environment| describe(env, &disk, &script, &no_fuse());
        live(&disk, on_request().incremental(true).max_increments(100), parallelism, build, to);
        let (manifests, _) = virtual_process(manifests(&*disk));
        let newest = manifests.values().max_by_key(|manifest| manifest.checkpoint).unwrap();
        assert!(newest.folders().contains("chk-1-g1"), "{:?}", newest.folders());
    }
}

/// A state that nothing is declared for is carried on as it lies in several files, also into a full checkpoint and to another parallelism.
#[test]
fn a_state_that_is_not_declared_for_a_while_is_not_lost() {
    struct Idle;
    impl Operator for Idle {
        type Key = u64;
        type Out = String;
    }
    impl Handler<(u64, Change)> for Idle {
        fn handle(&mut self, _: (u64, Change), _: &mut Context<'_, Self>) -> Result {
            Ok(())
        }
    }
    let disk: SharedDisk = Arc::new(MemoryDisk::new());
    let script: Script = random_script(&mut Random::from_seed(5), 601, 100);
    let incremental = || on_request().incremental(true).max_increments(20);
    let with = |env: &Environment| describe(env, &disk, &script, &no_fuse());
    for to in [100, 250, 400] {
        live(&disk, incremental(), 2, with, to);
    }
    // Twice full and twice in increments, at other parallelisms, with nothing declared and nothing read.
    let settings = [(on_request(), 3), (incremental(), 1), (on_request(), 2), (incremental(), 2)];
    for (checkpointing, parallelism) in settings {
        let (disk_of, script) = (Arc::clone(&disk), Arc::clone(&script));
        let without = move |env: &Environment| {
            let (numbers, gate) = Numbers::gated(1, 601);
            env.source("numbers", numbers)
                .map(move |(_, number)| script[usize::try_from(number).unwrap()])
                .key_by(|(key, _)| *key)
                .process("sums", |_| Ok(Idle))
                .sink("out", FileSink::at("out").disk(disk_of));
            gate
        };
        live(&disk, checkpointing.clone(), parallelism, without, 400);
        let (manifests, _) = virtual_process(manifests(&*disk));
        let newest = manifests.values().max_by_key(|manifest| manifest.checkpoint).unwrap();
        assert_eq!(newest.folders().len(), 1, "it is complete in itself");
    }
    live(&disk, incremental(), 3, with, 600);
    live(&disk, incremental(), 1, with, 601);
    virtual_process(async {
        assert_eq!(sorted(visible_lines(&*disk, Path::new("out")).await), expected(&script));
    });
}
