use super::*;
use crate::checkpoint::metadata::{IncrementFile, Segment, StateSchema};
use crate::checkpoint::{Extent, WrittenPart};
use crate::error::Error;
use crate::state::test_context::Fake;
use crate::state::{
    EncodedGroup, GroupEncoder, KeyedSnapshot, MapState, RestoredKeyed, RestoredOperator, StateStore,
};
use crate::types::{CheckpointId, KeyGroup, Random, SubtaskIndex};
use serde::{Deserialize, Serialize, Serializer};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

const GROUPS: u32 = 12;

fn groups() -> MaxParallelism {
    MaxParallelism::new(GROUPS).unwrap()
}

type Model = BTreeMap<u64, BTreeMap<u32, String>>;

/// A snapshot on its way.
struct Taken {
    states: Vec<(KeyedSnapshot, Vec<EncodedGroup>, bool)>,
    expected: Model,
    checkpoint: CheckpointId,
}

/// What checkpoints hold of one state: parts of groups, in order.
type Stored = BTreeMap<String, (StateSchema, BTreeMap<KeyGroup, Vec<EncodedGroup>>)>;

fn poll(encoder: &mut dyn GroupEncoder) -> Poll<Result<Option<EncodedGroup>, Error>> {
    encoder.poll_next_group(&mut Context::from_waker(Waker::noop()))
}

impl Taken {
    /// Takes what is there; gives whether that was all.
    fn read(&mut self) -> bool {
        let mut done = true;
        for (state, read, ended) in &mut self.states {
            while !*ended {
                match poll(&mut *state.groups) {
                    Poll::Ready(Ok(Some(group))) => read.push(group),
                    Poll::Ready(end) => *ended = end.unwrap().is_none(),
                    Poll::Pending => break,
                }
            }
            done &= *ended;
        }
        done
    }

    /// Puts it on what earlier ones stored; gives how many bytes it has.
    fn store(self, stored: &mut Stored) -> usize {
        let mut names = BTreeSet::new();
        let mut bytes = 0;
        for (state, read, _) in self.states {
            bytes += read.iter().map(|group| group.bytes.len()).sum::<usize>();
            names.insert(state.schema.kind.clone());
            let (_, content) = stored
                .entry(state.schema.kind.clone())
                .or_insert_with(|| (state.schema.clone(), BTreeMap::new()));
            let parts: Vec<WrittenPart> = read
                .iter()
                .map(|group| WrittenPart { group: group.group, bytes: group.bytes.len() as u64 })
                .collect();
            let increment = state.increment;
            let known: BTreeSet<KeyGroup> = increment
                .iter()
                .flat_map(|increment| increment.base.runs())
                .flat_map(|run| (run.first.0..=run.last.0).map(KeyGroup))
                .collect();
            let due = increment.as_ref().map(|increment| increment.base.due().clone()).unwrap_or_default();
            content.retain(|group, _| known.contains(group) && !due.contains(group));
            for group in read {
                content.entry(group.group).or_default().push(group);
            }
            if let Some(increment) = increment {
                let index = Segment { file: "f".into(), offset: 0, len: 0, crc32c: 0 };
                let bytes = parts.iter().map(|part| part.bytes).sum();
                let file = IncrementFile { checkpoint: self.checkpoint, bytes, index };
                let file = (!parts.is_empty()).then_some(file);
                let advanced = increment.base.advanced(self.checkpoint, file, &parts, increment.limit);
                let _ = increment.written.set(Arc::new(advanced));
            }
        }
        stored.retain(|kind, _| names.contains(kind));
        bytes
    }
}

/// What each of so many subtasks gets back.
fn shares(stored: &Stored, parallelism: u32) -> Vec<RestoredOperator> {
    let share = |index| {
        let range = groups().range_of(SubtaskIndex(index), parallelism);
        let keyed = stored.values().map(|(schema, content)| RestoredKeyed {
            name: "m".into(),
            schema: schema.clone(),
            groups: content
                .iter()
                .filter(|(group, _)| range.contains(**group))
                .flat_map(|(_, parts)| parts.clone())
                .collect(),
            increments: None,
        });
        RestoredOperator { checkpoint: Some(CheckpointId(1)), keyed: keyed.collect(), lists: Vec::new() }
    };
    (0..parallelism).map(share).collect()
}

struct Subject {
    ctx: Fake<u64>,
    map: MapState<u32, String>,
}

impl Subject {
    fn new(restored: RestoredOperator) -> Self {
        let mut ctx = Fake::with_store(StateStore::new("op".into(), groups(), restored));
        let map = ctx.store.map("m").unwrap();
        Self { ctx, map }
    }

    fn freeze(&mut self, checkpoint: CheckpointId, extent: Extent, expected: &Model) -> Taken {
        let states = self.ctx.store.freeze(checkpoint, extent).unwrap().keyed;
        let states = states.into_iter().map(|state| (state, Vec::new(), false)).collect();
        Taken { states, expected: expected.clone(), checkpoint }
    }

    fn sweep(&mut self) {
        self.ctx.store.sweep(3, &Context::from_waker(Waker::noop()));
    }

    fn check(&mut self, keys: impl Iterator<Item = u64>, model: &Model) {
        let empty = BTreeMap::new();
        for key in keys {
            let expected = model.get(&key).unwrap_or(&empty);
            let (ctx, map) = (self.ctx.at(key), self.map);
            let found: BTreeMap<u32, String> = map.iter(ctx).map(|(k, v)| (*k, v.clone())).collect();
            assert_eq!(&found, expected, "key {key}");
            assert_eq!((map.len(ctx), map.iter(ctx).count()), (expected.len(), expected.len()));
            for user_key in (0..1_000).step_by(37) {
                assert_eq!(map.peek(ctx, &user_key), expected.get(&user_key));
            }
        }
    }
}

/// One change drawn at random, done to both.
fn change(random: &mut Random, subject: &mut Subject, model: &mut Model) {
    let mut below = |n: u64| random.next_u64() % n;
    let (key, what) = (below(6), below(100));
    // Some maps stay small, some go through all sizes.
    let user_key =
        u32::try_from(below([20, 60, 300, 1_000, 1_000, 40][usize::try_from(key).unwrap()])).unwrap();
    let text = format!("{}", below(1_000_000));
    let (ctx, map) = (subject.ctx.at(key), subject.map);
    let of_key = model.entry(key).or_default();
    match what {
        0..50 => assert_eq!(map.insert(ctx, user_key, text.clone()), of_key.insert(user_key, text)),
        50..65 => {
            map.update(ctx, user_key, |value| value.push('x'));
            of_key.entry(user_key).or_default().push('x');
        }
        65..85 => assert_eq!(map.remove(ctx, &user_key), of_key.remove(&user_key)),
        85..94 => {
            let more: Vec<(u32, String)> = (user_key..user_key + 40).map(|k| (k, text.clone())).collect();
            map.insert_all(ctx, more.clone());
            of_key.extend(more);
        }
        94..99 => {
            for user_key in user_key..user_key + 200 {
                assert_eq!(map.remove(ctx, &user_key), of_key.remove(&user_key));
            }
        }
        _ => {
            map.clear(ctx);
            of_key.clear();
        }
    }
    assert_eq!(map.len(ctx), of_key.len());
    if of_key.is_empty() {
        model.remove(&key);
    }
    assert_eq!(subject.ctx.entries("m"), model.len(), "keys are counted, not rows");
}

/// Random changes amid snapshots; whatever a snapshot holds, and what is restored from it at any parallelism, is what the maps were.
#[test]
fn s15_5_maps_of_all_sizes_are_what_a_plain_map_is_also_in_snapshots_and_after_a_restart() {
    for seed in 1..=40 {
        let mut random = Random::from_seed(seed);
        let incremental = seed % 2 == 0;
        let (mut subject, mut model) = (Subject::new(RestoredOperator::default()), Model::new());
        let (mut stored, mut pending, mut base) = (Stored::new(), None::<Taken>, None);
        let mut next = CheckpointId(1);
        for _ in 0..1_500 {
            change(&mut random, &mut subject, &mut model);
            if pending.is_none() && random.next_u64().is_multiple_of(40) {
                let extent = match incremental {
                    true => Extent::Incremental { base, limit: 5 },
                    false => Extent::Full,
                };
                pending = Some(subject.freeze(next, extent, &model));
                next = next.next();
            }
            if random.next_u64().is_multiple_of(3) {
                subject.sweep();
            }
            if pending.as_mut().is_some_and(Taken::read)
                && let Some(taken) = pending.take()
            {
                base = Some(taken.checkpoint);
                let expected = taken.expected.clone();
                taken.store(&mut stored);
                let parallelism = 1 + u32::try_from(random.next_u64() % 3).unwrap();
                for (index, share) in (0..).zip(shares(&stored, parallelism)) {
                    let mut restored = Subject::new(share);
                    let range = groups().range_of(SubtaskIndex(index), parallelism);
                    let owned = |key: &u64| {
                        range.contains(groups().group_of(crate::types::stable_hash(key).unwrap()))
                    };
                    let part: Model = expected.clone().into_iter().filter(|(key, _)| owned(key)).collect();
                    restored.check(0..6, &part);
                    assert_eq!(restored.ctx.entries("m"), part.len());
                    // It works on.
                    if let Some((key, _)) = part.first_key_value() {
                        restored.map.clear(restored.ctx.at(*key));
                    }
                }
            }
        }
        assert!(next > CheckpointId(10), "seed {seed}: {next} checkpoints");
        subject.check(0..6, &model);
        for key in 0..6 {
            subject.map.clear(subject.ctx.at(key));
        }
        let nothing = subject.ctx.store.freeze(next, Extent::Full).unwrap();
        assert!(nothing.is_empty(), "no row is left behind");
    }
}

/// Runs a snapshot to its end.
fn bytes_of(subject: &mut Subject, checkpoint: u64, base: Option<u64>, stored: &mut Stored) -> usize {
    let extent = Extent::Incremental { base: base.map(CheckpointId), limit: 100 };
    let mut taken = subject.freeze(CheckpointId(checkpoint), extent, &Model::new());
    while !taken.read() {
        subject.sweep();
    }
    taken.store(stored)
}

#[test]
fn an_incremental_checkpoint_writes_little_for_a_change_in_a_map_of_100_000() {
    let (mut subject, mut stored) = (Subject::new(RestoredOperator::default()), Stored::new());
    let map = subject.map;
    map.insert_all(subject.ctx.at(1), (0..100_000).map(|number| (number, "ten bytes.".to_owned())));
    let all = bytes_of(&mut subject, 1, None, &mut stored);
    assert!(all > 1_300_000, "{all}");
    assert_eq!(bytes_of(&mut subject, 2, Some(1), &mut stored), 0, "nothing has changed");
    map.insert(&mut subject.ctx, 500, "changed".to_owned());
    let changed = bytes_of(&mut subject, 3, Some(2), &mut stored);
    map.remove(&mut subject.ctx, &77);
    let removed = bytes_of(&mut subject, 4, Some(3), &mut stored);
    map.insert(&mut subject.ctx, 1_000_000, "new".to_owned());
    let added = bytes_of(&mut subject, 5, Some(4), &mut stored);
    for bytes in [changed, removed, added] {
        assert!((10..2_000).contains(&bytes), "{changed}, {removed}, {added} of {all}");
    }
    let mut restored = Subject::new(shares(&stored, 1).remove(0));
    let ctx = restored.ctx.at(1);
    assert_eq!(restored.map.len(ctx), 100_000);
    assert_eq!(restored.map.get(ctx, &500).unwrap(), "changed");
    assert_eq!((restored.map.get(ctx, &77), restored.map.contains(ctx, &1_000_000)), (None, true));
}

#[test]
fn a_map_that_shrinks_gives_its_rows_back_one_by_one_and_is_one_entry_again_at_the_end() {
    let mut subject = Subject::new(RestoredOperator::default());
    let map = subject.map;
    map.insert_all(subject.ctx.at(1), (0..5_000).map(|number| (number, String::new())));
    for (left, most) in [(1_000, 125), (100, 13), (17, 3), (16, 0), (1, 0)] {
        let pairs: Vec<u32> = map.keys(&subject.ctx).copied().collect();
        for user_key in &pairs[left..] {
            map.remove(&mut subject.ctx, user_key);
        }
        let mut taken = subject.freeze(CheckpointId(1), Extent::Full, &Model::new());
        while !taken.read() {
            subject.sweep();
        }
        let rows = taken.states.iter().filter(|(state, ..)| state.schema.kind == StateSchema::MAP_ROWS);
        let rows: u64 = rows.flat_map(|(_, groups, _)| groups).map(|group| group.entries).sum();
        assert!(rows <= most && (rows == 0) == (most == 0), "{rows} rows for {left} pairs");
        assert_eq!((map.len(&subject.ctx), map.iter(&subject.ctx).count()), (left, left));
    }
}

/// A number whose serde form is a float, which has no stable hash.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Price(u32);

impl Serialize for Price {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(f64::from(self.0))
    }
}

impl<'de> Deserialize<'de> for Price {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        f64::deserialize(deserializer).map(|price| Self(price as u32))
    }
}

#[test]
fn a_map_whose_second_keys_have_no_stable_hash_stays_in_one_piece() {
    let mut ctx = Fake::<u64>::new();
    let map = ctx.store.map::<Price, u64>("m").unwrap();
    map.insert_all(ctx.at(1), (0..500).map(|number| (Price(number), 0)));
    for number in 0..500 {
        assert_eq!(map.insert(&mut ctx, Price(number), number.into()), Some(0));
    }
    assert!((0..500).all(|number| map.get(&ctx, &Price(number)) == Some(number.into())));
    assert!(matches!(map.head(&ctx), Some(Head::Small(entries)) if entries.len() == 500));
}

/// Counts how often it is encoded.
#[derive(Debug, Clone, Default, Deserialize)]
struct Counted(u64);

static ENCODED: AtomicU64 = AtomicU64::new(0);

impl Serialize for Counted {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        ENCODED.fetch_add(1, Ordering::Relaxed);
        serializer.serialize_newtype_struct("Counted", &self.0)
    }
}

#[test]
fn a_change_while_a_snapshot_is_pending_encodes_a_row_or_three_whatever_the_size() {
    for pairs in [1_000, 100_000] {
        let mut ctx = Fake::<u64>::new();
        let map = ctx.store.map::<u64, Counted>("m").unwrap();
        map.insert_all(ctx.at(1), (0..pairs).map(|number| (number, Counted(number))));
        let pending = ctx.store.freeze(CheckpointId(1), Extent::Full).unwrap();
        let (mut most, mut beyond_rows, mut all) = (0, 0, 0);
        for number in 0..300 {
            ENCODED.store(0, Ordering::Relaxed);
            match number % 3 {
                0 => drop(map.insert(&mut ctx, number * 7, Counted(1))),
                1 => drop(map.remove(&mut ctx, &(number * 11))),
                _ => drop(map.insert(&mut ctx, pairs + number, Counted(1))),
            }
            let encoded = ENCODED.load(Ordering::Relaxed);
            all += 1;
            if encoded > 4 * 2 * LOAD {
                beyond_rows += 1; // a page of the table was split
            }
            most = most.max(encoded);
        }
        assert!(beyond_rows * 50 <= all, "{beyond_rows} of {all} changes");
        assert!(most < 1_024 * 2 * LOAD, "{most}");
        drop(pending);
    }
}
