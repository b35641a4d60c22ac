//! Maps of thousands of pairs and lists of thousands of values: the output of a run without failures, whatever fails, at any parallelism, in full and incremental checkpoints.

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

const JOB: &str = "collections";
const KEYS: u64 = 5;

/// What is done with the map of a key, or its list.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Change {
    Insert(u64),
    InsertMany(u64),
    Add(u64),
    Remove(u64),
    RemoveMany(u64),
    Clear,
    Append,
    AppendMany(u64),
    Cut(u64),
    Replace(u64),
}

type Script = Arc<Vec<(u64, Change)>>;

/// What is said of both after a change.
fn line(key: u64, (pairs, sum, one): (usize, u64, Option<u64>), list: &[u64]) -> String {
    let places = list.iter().zip(1_u64..).fold(0, |sum: u64, (value, place)| sum.wrapping_add(value * place));
    format!("{key} {pairs} {sum} {one:?} {} {places}", list.len())
}

struct Collections {
    map: MapState<u64, u64>,
    list: ListState<u64>,
    fuse: Fuse,
}

impl Operator for Collections {
    type Key = u64;
    type Out = String;
}

impl Handler<(u64, u64, Change)> for Collections {
    fn handle(&mut self, (key, number, change): (u64, u64, Change), ctx: &mut Context<'_, Self>) -> Result {
        let (map, list) = (self.map, self.list);
        match change {
            Change::Insert(at) => _ = map.insert(ctx, at, number),
            Change::InsertMany(at) => map.insert_all(ctx, (at..at + 300).map(|at| (at, number))),
            Change::Add(at) => map.update(ctx, at, |value| *value += number),
            Change::Remove(at) => _ = map.remove(ctx, &at),
            Change::RemoveMany(at) => (at..at + 700).for_each(|at| _ = map.remove(ctx, &at)),
            Change::Clear if number % 2 == 0 => map.clear(ctx),
            Change::Clear => list.clear(ctx),
            Change::Append => list.add(ctx, number),
            Change::AppendMany(many) => list.add_all(ctx, (0..many).map(|more| number + more)),
            Change::Cut(len) => list.update(ctx, |all| all.truncate(len.try_into().unwrap())),
            Change::Replace(len) => list.set(ctx, (0..len).map(|more| number * more)),
        }
        // After the change: what is restored must be what was before it.
        if self.fuse.goes_off() {
            return Err("injected".into());
        }
        let of_map = (map.len(ctx), map.values(ctx).sum(), map.get(ctx, &(number % 900)));
        ctx.emit(line(key, of_map, &list.get(ctx)));
        Ok(())
    }
}

/// The same in a plain loop.
fn expected(script: &Script) -> Vec<String> {
    let mut collections = BTreeMap::<u64, (BTreeMap<u64, u64>, Vec<u64>)>::new();
    let mut lines = Vec::new();
    for (number, (key, change)) in (0..).zip(script.iter()) {
        let (map, list) = collections.entry(*key).or_default();
        match *change {
            Change::Insert(at) => _ = map.insert(at, number),
            Change::InsertMany(at) => map.extend((at..at + 300).map(|at| (at, number))),
            Change::Add(at) => *map.entry(at).or_default() += number,
            Change::Remove(at) => _ = map.remove(&at),
            Change::RemoveMany(at) => map.retain(|found, _| !(at..at + 700).contains(found)),
            Change::Clear if number % 2 == 0 => map.clear(),
            Change::Clear => list.clear(),
            Change::Append => list.push(number),
            Change::AppendMany(many) => list.extend((0..many).map(|more| number + more)),
            Change::Cut(len) => list.truncate(len.try_into().unwrap()),
            Change::Replace(len) => *list = (0..len).map(|more| number * more).collect(),
        }
        let of_map = (map.len(), map.values().sum(), map.get(&(number % 900)).copied());
        lines.push(line(*key, of_map, list));
    }
    sorted(lines)
}

fn random_script(random: &mut Random, len: usize) -> Script {
    let mut below = |limit: u64| random.next_u64() % limit;
    let mut change = || {
        let (key, what) = (below(KEYS), below(100));
        // Those of one key stay small, the others go through all sizes.
        let at = below(if key == 0 { 40 } else { 3_000 });
        let many = key > 0;
        (
            key,
            match what {
                0..25 => Change::Insert(at),
                25..32 if many => Change::InsertMany(at),
                25..45 => Change::Add(at),
                45..57 => Change::Remove(at),
                57..61 if many => Change::RemoveMany(at),
                61..85 => Change::Append,
                85..92 => Change::AppendMany(at / 10),
                92..95 => Change::Cut(at),
                95..97 => Change::Replace(at / 5),
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
        .process("collections", move |setup| {
            Ok(Collections {
                map: setup.map_state("map")?,
                list: setup.list_state("list")?,
                fuse: fuse.clone(),
            })
        })
        .sink("out", FileSink::at("out").disk(Arc::clone(disk)));
    gate
}

/// How many rows of a kind the newest manifest has.
async fn rows(disk: &dyn Disk, kind: &str) -> u64 {
    let all = tree(disk, &Path::new("checkpoints").join(JOB)).await;
    let manifests = all.iter().filter(|(path, _)| path.ends_with("manifest"));
    let manifests = manifests.filter_map(|(_, content)| Manifest::decode(content.as_ref()?).ok());
    let Some(newest) = manifests.max_by_key(|manifest| (manifest.checkpoint, manifest.generation)) else {
        return 0;
    };
    let subtasks: Vec<_> = newest.operators.iter().flat_map(|operator| &operator.subtasks).collect();
    let full = subtasks.iter().flat_map(|subtask| &subtask.keyed);
    let full = full.filter(|state| state.schema.kind == kind);
    let full: u64 = full.flat_map(|state| &state.groups).map(|group| group.entries).sum();
    let increments = subtasks.iter().flat_map(|subtask| &subtask.increments);
    let increments = increments.filter(|state| state.schema.kind == kind);
    full + increments.map(|state| state.entries).sum::<u64>()
}

/// One process after the other on a disk that fails at times, each at a parallelism and with settings of its own; operators fail as well.
fn story(seed: u64) -> [u64; 2] {
    let mut random = Random::from_seed(seed);
    let script = random_script(&mut random, 900);
    let disk: SharedDisk = Arc::new(MemoryDisk::new());
    let mut below = |limit: u64| random.next_u64() % limit;
    let (mut position, mut most) = (0, [0; 2]);
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
                    for (most, kind) in most.iter_mut().zip([StateSchema::MAP_ROWS, StateSchema::LIST_ROWS]) {
                        *most = rows(&*disk, kind).await.max(*most);
                    }
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
fn output_is_exact_with_maps_and_lists_of_all_sizes_whatever_fails_and_at_any_parallelism() {
    common::quiet_panics();
    let from = std::env::var("STRANDLINE_SEED").map_or(1, |seed| seed.parse().unwrap());
    let rows: Vec<[u64; 2]> = (from..from + 12).map(story).collect();
    assert!(rows.iter().all(|[pairs, values]| *pairs > 50 && *values > 10), "{rows:?}");
}
