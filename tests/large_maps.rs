//! Maps of thousands of pairs: the output of a run without failures, whatever fails, at any parallelism, in full and incremental checkpoints.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::disallowed_methods)] // virtual time is waited for

mod common;

use common::{Fuse, Gate, Numbers, in_time, on_request, sorted, tree, virtual_process, visible_lines};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use strandline::checkpoint::metadata::{Manifest, StateSchema};
use strandline::prelude::*;
use strandline::storage::{Disk, Fault, FaultyDisk, Injection, MemoryDisk, OnDisk, SharedDisk};
use strandline::types::Random;

const JOB: &str = "maps";
const KEYS: u64 = 5;

/// What is done with the map of a key.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Change {
    Insert(u64),
    InsertMany(u64),
    Add(u64),
    Remove(u64),
    RemoveMany(u64),
    Clear,
}

type Script = Arc<Vec<(u64, Change)>>;

/// What is said of a map after a change.
fn line(key: u64, len: usize, sum: u64, one: Option<u64>) -> String {
    format!("{key} {len} {sum} {one:?}")
}

struct Maps {
    map: MapState<u64, u64>,
    fuse: Fuse,
}

impl Operator for Maps {
    type Key = u64;
    type Out = String;
}

impl Handler<(u64, u64, Change)> for Maps {
    fn handle(&mut self, (key, number, change): (u64, u64, Change), ctx: &mut Context<'_, Self>) -> Result {
        let map = self.map;
        match change {
            Change::Insert(at) => _ = map.insert(ctx, at, number),
            Change::InsertMany(at) => map.insert_all(ctx, (at..at + 300).map(|at| (at, number))),
            Change::Add(at) => map.update(ctx, at, |value| *value += number),
            Change::Remove(at) => _ = map.remove(ctx, &at),
            Change::RemoveMany(at) => (at..at + 700).for_each(|at| _ = map.remove(ctx, &at)),
            Change::Clear => map.clear(ctx),
        }
        // After the change: what is restored must be what was before it.
        if self.fuse.goes_off() {
            return Err("injected".into());
        }
        ctx.emit(line(key, map.len(ctx), map.values(ctx).sum(), map.get(ctx, &(number % 900))));
        Ok(())
    }
}

/// The same in a plain loop.
fn expected(script: &Script) -> Vec<String> {
    let mut maps = BTreeMap::<u64, BTreeMap<u64, u64>>::new();
    let mut lines = Vec::new();
    for (number, (key, change)) in (0..).zip(script.iter()) {
        let map = maps.entry(*key).or_default();
        match *change {
            Change::Insert(at) => _ = map.insert(at, number),
            Change::InsertMany(at) => map.extend((at..at + 300).map(|at| (at, number))),
            Change::Add(at) => *map.entry(at).or_default() += number,
            Change::Remove(at) => _ = map.remove(&at),
            Change::RemoveMany(at) => map.retain(|found, _| !(at..at + 700).contains(found)),
            Change::Clear => map.clear(),
        }
        lines.push(line(*key, map.len(), map.values().sum(), map.get(&(number % 900)).copied()));
    }
    sorted(lines)
}

fn random_script(random: &mut Random, len: usize) -> Script {
    let mut below = |limit: u64| random.next_u64() % limit;
    let mut change = || {
        let (key, what) = (below(KEYS), below(100));
        // One map stays small, the others go through all sizes.
        let at = below(if key == 0 { 40 } else { 3_000 });
        let many = key > 0;
        (
            key,
            match what {
                0..40 => Change::Insert(at),
                40..50 if many => Change::InsertMany(at),
                40..75 => Change::Add(at),
                75..92 => Change::Remove(at),
                92..99 if many => Change::RemoveMany(at),
                _ => Change::Clear,
            },
        )
    };
    Arc::new((0..len).map(|_| change()).collect())
}

fn describe(env: &Environment, disk: &SharedDisk, script: &Script, fuse: &Fuse) -> Gate {
    let (numbers, gate) = Numbers::gated(1, script.len() as u64);
    let (script, fuse) = (Arc::clone(script), fuse.clone());
    env.source("numbers", numbers)
        .map(move |(_, number)| {
            let (key, change) = script[usize::try_from(number).unwrap()];
            (key, number, change)
        })
        .key_by(|(key, _, _)| *key)
        .process("maps", move |setup| Ok(Maps { map: setup.map_state("map")?, fuse: fuse.clone() }))
        .sink("out", FileSink::at("out").disk(Arc::clone(disk)));
    gate
}

/// How many rows the newest manifest has.
async fn rows(disk: &dyn Disk) -> u64 {
    let all = tree(disk, &Path::new("checkpoints").join(JOB)).await;
    let manifests = all.iter().filter(|(path, _)| path.ends_with("manifest"));
    let manifests = manifests.filter_map(|(_, content)| Manifest::decode(content.as_ref()?).ok());
    let Some(newest) = manifests.max_by_key(|manifest| (manifest.checkpoint, manifest.generation)) else {
        return 0;
    };
    let subtasks: Vec<_> = newest.operators.iter().flat_map(|operator| &operator.subtasks).collect();
    let full = subtasks.iter().flat_map(|subtask| &subtask.keyed);
    let full = full.filter(|state| state.schema.kind == StateSchema::MAP_ROWS);
    let full: u64 = full.flat_map(|state| &state.groups).map(|group| group.entries).sum();
    let increments = subtasks.iter().flat_map(|subtask| &subtask.increments);
    let increments = increments.filter(|state| state.schema.kind == StateSchema::MAP_ROWS);
    full + increments.map(|state| state.entries).sum::<u64>()
}

/// One process after the other on a disk that fails at times, each at a parallelism and with settings of its own; operators fail as well.
fn story(seed: u64) -> u64 {
    let mut random = Random::from_seed(seed);
    let script = random_script(&mut random, 900);
    let disk: SharedDisk = Arc::new(MemoryDisk::new());
    let mut below = |limit: u64| random.next_u64() % limit;
    let (mut position, mut most) = (0, 0);
    for life in 0..=10 {
        let is_last = life == 10;
        let mut checkpointing = on_request()
            .incremental(below(3) > 0)
            .max_increments(1 + u32::try_from(below(6)).unwrap())
            .tolerable_failures(2);
        if below(3) == 0 {
            checkpointing = checkpointing.unaligned();
        }
        let faulty = FaultyDisk::new(Arc::clone(&disk));
        if !is_last {
            for _ in 0..below(3) {
                let fault = [Fault::NoEffect, Fault::TookEffect, Fault::Torn][below(3) as usize];
                faulty.inject(Injection::of(fault).on_everything().at(20 + below(150)));
            }
        }
        let builder = Environment::builder()
            .parallelism(1 + u32::try_from(below(4)).unwrap())
            .max_parallelism(12)
            .seed(seed)
            .restart(RestartStrategy::fixed_delay(10, Duration::from_millis(10)))
            .checkpointing(checkpointing);
        let fuse =
            if is_last || below(2) == 0 { Fuse::after(u64::MAX / 4) } else { Fuse::after(50 + below(200)) };
        virtual_process(in_time("a life", async {
            let shared: SharedDisk = Arc::new(faulty.clone());
            let env = builder.storage(OnDisk::new(Arc::clone(&shared), "checkpoints")).build().unwrap();
            let gate = describe(&env, &shared, &script, &fuse);
            let Ok(job) = env.start_local(JOB).await else { return };
            for _ in 0..below(8) {
                position = (position + below(40)).min(script.len() as u64 - 1);
                gate.open_to(position);
                tokio::select! {
                    () = gate.reached(1, position) => {}
                    _ = job.wait() => return,
                }
                if job.checkpoint().await.is_ok() {
                    most = most.max(rows(&*disk).await);
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
    }
    virtual_process(async {
        assert_eq!(sorted(visible_lines(&*disk, Path::new("out")).await), expected(&script), "seed {seed}");
    });
    most
}

#[test]
fn output_is_exact_with_maps_of_all_sizes_whatever_fails_and_at_any_parallelism() {
    common::quiet_panics();
    let from = std::env::var("STRANDLINE_SEED").map_or(1, |seed| seed.parse().unwrap());
    let rows: Vec<u64> = (from..from + 12).map(story).collect();
    assert!(rows.iter().all(|rows| *rows > 50), "{rows:?}");
}
