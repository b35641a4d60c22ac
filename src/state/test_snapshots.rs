//! Tests of states that are kept in rows: random changes amid snapshots, against a plain model.

use super::test_context::Fake;
use super::{EncodedGroup, GroupEncoder, KeyedSnapshot, RestoredKeyed, RestoredOperator, StateStore};
use crate::checkpoint::metadata::{IncrementFile, Segment, StateSchema};
use crate::checkpoint::{Extent, WrittenPart};
use crate::error::Error;
use crate::types::{CheckpointId, KeyGroup, MaxParallelism, Random, SubtaskIndex, stable_hash};
use serde::{Deserialize, Serialize, Serializer};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// The name of the state under test.
pub(super) const STATE: &str = "m";
const GROUPS: u32 = 12;
/// How many keys there are.
pub(super) const KEYS: u64 = 6;

pub(super) fn groups() -> MaxParallelism {
    MaxParallelism::new(GROUPS).unwrap()
}

/// What each key has; those with nothing are not there.
pub(super) type Model<C> = BTreeMap<u64, C>;

/// A state under test.
pub(super) trait Subject: Sized {
    /// What a key has, in a plain collection.
    type Content: Clone + Default + PartialEq + fmt::Debug;

    fn with_store(store: StateStore<u64>) -> Self;
    fn ctx(&mut self) -> &mut Fake<u64>;
    /// Does something drawn at random to both.
    fn change(&mut self, key: u64, random: &mut Random, content: &mut Self::Content);
    /// What the current key has; checks that all ways to ask give the same.
    fn content(&self) -> Self::Content;
    fn clear(&mut self);

    fn new(restored: RestoredOperator) -> Self {
        Self::with_store(StateStore::new("op".into(), groups(), restored))
    }

    fn freeze(&mut self, checkpoint: CheckpointId, extent: Extent) -> Taken {
        let states = self.ctx().store.freeze(checkpoint, extent).unwrap().keyed;
        Taken { states: states.into_iter().map(|state| (state, Vec::new(), false)).collect(), checkpoint }
    }

    fn sweep(&mut self) {
        self.ctx().store.sweep(3, &Context::from_waker(Waker::noop()));
    }

    fn check(&mut self, model: &Model<Self::Content>) {
        for key in 0..KEYS {
            self.ctx().at(key);
            assert_eq!(self.content(), model.get(&key).cloned().unwrap_or_default(), "key {key}");
        }
        assert_eq!(self.ctx().entries(STATE), model.len(), "keys are counted, not rows");
    }
}

/// A snapshot on its way.
pub(super) struct Taken {
    pub(super) states: Vec<(KeyedSnapshot, Vec<EncodedGroup>, bool)>,
    checkpoint: CheckpointId,
}

/// What checkpoints hold of one state: parts of groups, in order.
pub(super) type Stored = BTreeMap<String, (StateSchema, BTreeMap<KeyGroup, Vec<EncodedGroup>>)>;

fn poll(encoder: &mut dyn GroupEncoder) -> Poll<Result<Option<EncodedGroup>, Error>> {
    encoder.poll_next_group(&mut Context::from_waker(Waker::noop()))
}

impl Taken {
    /// Takes what is there; gives whether that was all.
    pub(super) fn read(&mut self) -> bool {
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
    pub(super) fn store(self, stored: &mut Stored) -> usize {
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
pub(super) fn shares(stored: &Stored, parallelism: u32) -> Vec<RestoredOperator> {
    let share = |index| {
        let range = groups().range_of(SubtaskIndex(index), parallelism);
        let keyed = stored.values().map(|(schema, content)| RestoredKeyed {
            name: STATE.into(),
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

/// Whatever a snapshot holds, and what is restored from it at any parallelism, is what there was.
pub(super) fn what_is_restored_is_what_there_was<S: Subject>() {
    for seed in 1..=40 {
        let mut random = Random::from_seed(seed);
        let incremental = seed % 2 == 0;
        let (mut subject, mut model) = (S::new(RestoredOperator::default()), Model::new());
        let (mut stored, mut pending, mut base) = (Stored::new(), None::<(Taken, Model<S::Content>)>, None);
        let mut next = CheckpointId(1);
        for _ in 0..1_500 {
            let key = random.next_u64() % KEYS;
            let content = model.entry(key).or_default();
            subject.ctx().at(key);
            subject.change(key, &mut random, content);
            if *content == S::Content::default() {
                model.remove(&key);
            }
            assert_eq!(subject.ctx().entries(STATE), model.len(), "keys are counted, not rows");
            if pending.is_none() && random.next_u64().is_multiple_of(40) {
                let extent = match incremental {
                    true => Extent::Incremental { base, limit: 5 },
                    false => Extent::Full,
                };
                pending = Some((subject.freeze(next, extent), model.clone()));
                next = next.next();
            }
            if random.next_u64().is_multiple_of(3) {
                subject.sweep();
            }
            if let Some((taken, expected)) = pending.take_if(|(taken, _)| taken.read()) {
                base = Some(taken.checkpoint);
                taken.store(&mut stored);
                let parallelism = 1 + u32::try_from(random.next_u64() % 3).unwrap();
                for (index, share) in (0..).zip(shares(&stored, parallelism)) {
                    let mut restored = S::new(share);
                    let range = groups().range_of(SubtaskIndex(index), parallelism);
                    let owned = |key: &u64| range.contains(groups().group_of(stable_hash(key).unwrap()));
                    let part: Model<_> = expected.clone().into_iter().filter(|(key, _)| owned(key)).collect();
                    restored.check(&part);
                    // It works on.
                    if let Some((key, _)) = part.first_key_value() {
                        restored.ctx().at(*key);
                        restored.clear();
                    }
                }
            }
        }
        assert!(next > CheckpointId(10), "seed {seed}: {next} checkpoints");
        subject.check(&model);
        for key in 0..KEYS {
            subject.ctx().at(key);
            subject.clear();
        }
        let nothing = subject.ctx().store.freeze(next, Extent::Full).unwrap();
        assert!(nothing.is_empty(), "no row is left behind");
    }
}

/// Runs a snapshot of what has changed since `base` to its end; gives how many bytes it has.
pub(super) fn bytes_of(
    subject: &mut impl Subject,
    checkpoint: u64,
    base: Option<u64>,
    stored: &mut Stored,
) -> usize {
    let extent = Extent::Incremental { base: base.map(CheckpointId), limit: 100 };
    let taken = whole(subject, checkpoint, extent);
    taken.store(stored)
}

/// A snapshot that has all.
pub(super) fn whole(subject: &mut impl Subject, checkpoint: u64, extent: Extent) -> Taken {
    let mut taken = subject.freeze(CheckpointId(checkpoint), extent);
    while !taken.read() {
        subject.sweep();
    }
    taken
}

thread_local! {
    static ENCODED: Cell<u64> = const { Cell::new(0) };
}

/// Counts how often values of its type are encoded by this thread.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Counted(pub(super) u64);

impl Counted {
    pub(super) fn encoded() -> u64 {
        ENCODED.get()
    }
}

impl Serialize for Counted {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        ENCODED.set(ENCODED.get() + 1);
        serializer.serialize_newtype_struct("Counted", &self.0)
    }
}
