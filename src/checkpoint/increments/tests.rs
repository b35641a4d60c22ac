//! A model of jobs whose checkpoints are written in increments: files that are really there or not, and what comes back from them.

use super::*;
use crate::checkpoint::metadata::{KeyedIncrements, Segment, StateSchema};
use crate::types::{KeyGroupRange, MaxParallelism, SubtaskIndex};
use proptest::prelude::*;

const GROUPS: u16 = 16;

fn group_of(key: u16) -> KeyGroup {
    KeyGroup(key % GROUPS)
}

fn file_of(checkpoint: CheckpointId, subtask: u32, bytes: u64) -> IncrementFile {
    let file = format!("chk-{checkpoint}/{subtask}");
    IncrementFile { checkpoint, bytes, index: Segment { file, offset: 0, len: 1, crc32c: 0 } }
}

type Content = BTreeMap<u16, u32>;
/// By group: what was removed, then what changed.
type File = Vec<(KeyGroup, Vec<u16>, Vec<(u16, u32)>)>;

/// A checkpoint as its manifest tells it, beside what must come back from it.
#[derive(Debug, Clone)]
struct Taken {
    id: CheckpointId,
    base: Option<CheckpointId>,
    states: Vec<KeyedIncrements>,
    expected: Content,
}

/// The checkpoints whose files it needs.
fn lineage(taken: &Taken) -> BTreeSet<CheckpointId> {
    taken.states.iter().flat_map(|state| &state.files).map(|file| file.checkpoint).collect()
}

#[derive(Debug, Default)]
struct Subtask {
    /// Of each checkpoint that may become a base: how many freezes there had been, and what is needed of files.
    snapshots: BTreeMap<CheckpointId, (u32, Increments)>,
}

#[derive(Debug)]
struct Job {
    limit: u32,
    retain: usize,
    subtasks: Vec<Subtask>,
    state: Content,
    epoch: u32,
    changed: BTreeMap<u16, u32>,
    removed: Vec<(u32, u16)>,
    next: CheckpointId,
    disk: BTreeMap<String, File>,
    pending: Vec<Taken>,
    retained: Vec<Taken>,
}

impl Job {
    fn new(limit: u32, retain: usize, parallelism: usize) -> Self {
        let subtasks = (0..parallelism).map(|_| Subtask::default()).collect();
        let (state, changed, disk) = Default::default();
        let (removed, pending, retained) = Default::default();
        let next = CheckpointId(1);
        Self { limit, retain, subtasks, state, epoch: 0, changed, removed, next, disk, pending, retained }
    }

    fn range(&self, subtask: usize) -> KeyGroupRange {
        let max = MaxParallelism::new(u32::from(GROUPS)).unwrap();
        max.range_of(
            SubtaskIndex(u32::try_from(subtask).unwrap()),
            u32::try_from(self.subtasks.len()).unwrap(),
        )
    }

    fn set(&mut self, key: u16, value: u32) {
        self.state.insert(key, value);
        self.changed.insert(key, self.epoch);
    }

    fn remove(&mut self, key: u16) {
        if self.state.remove(&key).is_some() {
            self.removed.push((self.epoch, key));
        }
    }

    fn begin(&mut self) {
        let id = self.next;
        self.next = id.next();
        self.epoch += 1;
        let base = self.retained.last().map(|taken| taken.id);
        let states = (0..self.subtasks.len()).map(|subtask| self.snapshot(subtask, id, base)).collect();
        self.pending.push(Taken { id, base, states, expected: self.state.clone() });
    }

    fn snapshot(&mut self, subtask: usize, id: CheckpointId, base: Option<CheckpointId>) -> KeyedIncrements {
        let range = self.range(subtask);
        let known = base.and_then(|base| self.subtasks[subtask].snapshots.get(&base).cloned());
        let (since, increments) = known.clone().unwrap_or_default();
        let due = increments.due().clone();
        let (mut file, mut parts) = (File::new(), Vec::new());
        for group in (0..GROUPS).map(KeyGroup).filter(|group| range.contains(*group)) {
            let is_whole = known.is_none() || due.contains(&group);
            let removed = self
                .removed
                .iter()
                .filter(|(at, key)| !is_whole && *at >= since && *at < self.epoch && group_of(*key) == group);
            let removed: Vec<u16> = removed.map(|(_, key)| *key).collect();
            let entries = self.state.iter().filter(|(key, _)| {
                group_of(**key) == group && (is_whole || self.changed.get(key).is_some_and(|at| *at >= since))
            });
            let entries: Vec<(u16, u32)> = entries.map(|(key, value)| (*key, *value)).collect();
            if !removed.is_empty() || !entries.is_empty() {
                parts.push(WrittenPart { group, bytes: (removed.len() + 2 * entries.len()) as u64 });
                file.push((group, removed, entries));
            }
        }
        let bytes = parts.iter().map(|part| part.bytes).sum();
        let named = (!file.is_empty()).then(|| file_of(id, u32::try_from(subtask).unwrap(), bytes));
        if let Some(named) = &named {
            self.disk.insert(named.index.file.clone(), file);
        }
        let increments = increments.advanced(id, named, &parts, self.limit);
        let state = KeyedIncrements {
            name: "s".into(),
            schema: StateSchema { kind: "value".into(), key: "u16".into(), value: "u32".into() },
            entries: 0,
            files: increments.files().to_vec(),
            groups: increments.runs(),
        };
        self.subtasks[subtask].snapshots.insert(id, (self.epoch, increments));
        state
    }

    fn complete(&mut self, n: usize) {
        if self.pending.is_empty() {
            return;
        }
        let taken = self.pending.remove(n % self.pending.len());
        let needed = lineage(&taken);
        assert!(needed.len() <= self.limit as usize, "{needed:?} of at most {}", self.limit);
        let older: Vec<usize> =
            (0..self.pending.len()).filter(|i| self.pending[*i].id < taken.id).rev().collect();
        self.retained.push(taken);
        for older in older {
            self.abort(older);
        }
        self.retire();
    }

    /// Deletes what it wrote, at once or, with an ack that comes late, again.
    fn abort(&mut self, n: usize) {
        if !self.pending.is_empty() {
            let taken = self.pending.remove(n % self.pending.len());
            self.discard(taken.id);
            self.discard(taken.id);
            self.retire();
        }
    }

    fn discard(&mut self, id: CheckpointId) {
        let folder = format!("chk-{id}/");
        self.disk.retain(|name, _| !name.starts_with(&folder));
    }

    fn retire(&mut self) {
        while self.retained.len() > self.retain
            && self.pending.iter().all(|pending| pending.base != Some(self.retained[0].id))
        {
            self.retained.remove(0);
        }
        let needed: BTreeSet<&String> = self
            .retained
            .iter()
            .chain(&self.pending)
            .flat_map(|taken| &taken.states)
            .flat_map(|state| state.files.iter().map(|file| &file.index.file))
            .collect();
        // What a pending one does not name itself goes: only the retained ones protect what is old.
        let pending: BTreeSet<String> =
            self.pending.iter().map(|taken| format!("chk-{}/", taken.id)).collect();
        let retained: BTreeSet<&String> = self
            .retained
            .iter()
            .flat_map(|taken| &taken.states)
            .flat_map(|state| state.files.iter().map(|file| &file.index.file))
            .collect();
        self.disk.retain(|name, _| {
            retained.contains(name) || pending.iter().any(|folder| name.starts_with(folder))
        });
        for name in needed {
            assert!(self.disk.contains_key(name), "{name} is gone");
        }
    }

    /// What the subtask that owns `range` gets, and how it goes on from there.
    fn read(&self, taken: &Taken, range: KeyGroupRange) -> (Content, Increments) {
        let (mut content, mut increments) = (Content::new(), Increments::of(lineage(taken)));
        let mut files: Vec<(&KeyedIncrements, &IncrementFile)> =
            taken.states.iter().flat_map(|state| state.files.iter().map(move |file| (state, file))).collect();
        files.sort_by_key(|(_, file)| file.checkpoint);
        for (state, file) in files {
            let mut parts = Vec::new();
            for (group, removed, entries) in &self.disk[&file.index.file] {
                let Some(base) = state.base_of(*group).filter(|base| *base <= file.checkpoint) else {
                    continue;
                };
                if range.contains(*group) {
                    content.retain(|key, _| !removed.contains(key));
                    content.extend(entries.iter().copied());
                    let bytes = (removed.len() + 2 * entries.len()) as u64;
                    parts.push((WrittenPart { group: *group, bytes }, base));
                }
            }
            increments.restored(file, parts.into_iter());
        }
        (content, increments.planned(self.limit))
    }

    fn check(&self) {
        for taken in &self.retained {
            for parallelism in 1..=3_u32 {
                let max = MaxParallelism::new(u32::from(GROUPS)).unwrap();
                let shares = (0..parallelism)
                    .map(|i| self.read(taken, max.range_of(SubtaskIndex(i), parallelism)).0)
                    .collect::<Vec<_>>();
                let whole: Content = shares.iter().flatten().map(|(key, value)| (*key, *value)).collect();
                assert_eq!(whole.len(), shares.iter().map(Content::len).sum::<usize>());
                assert_eq!(whole, taken.expected, "checkpoint {}", taken.id);
            }
        }
    }

    /// Everything is lost but what is durable.
    fn restart(&mut self, parallelism: usize) {
        while !self.pending.is_empty() {
            self.abort(0);
        }
        self.subtasks = (0..parallelism).map(|_| Subtask::default()).collect();
        (self.state, self.changed, self.removed) = Default::default();
        self.epoch = 1;
        let Some(taken) = self.retained.last().cloned() else { return };
        for subtask in 0..parallelism {
            let (content, increments) = self.read(&taken, self.range(subtask));
            self.state.extend(content);
            self.subtasks[subtask].snapshots.insert(taken.id, (1, increments));
        }
        assert_eq!(self.state, taken.expected);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Set(u16, u32),
    Remove(u16),
    Begin,
    Complete(usize),
    Abort(usize),
    Restart(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..60_u16, any::<u32>()).prop_map(|(key, value)| Step::Set(key, value)),
        4 => (0..60_u16).prop_map(Step::Remove),
        4 => Just(Step::Begin),
        3 => any::<usize>().prop_map(Step::Complete),
        1 => any::<usize>().prop_map(Step::Abort),
        1 => (1..4_usize).prop_map(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn s3_3_and_15_7_every_retained_checkpoint_can_be_restored_whatever_failed_before(
        limit in 1..6_u32,
        retain in 1..4_usize,
        parallelism in 1..4_usize,
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut job = Job::new(limit, retain, parallelism);
        for step in steps {
            match step {
                Step::Set(key, value) => job.set(key, value),
                Step::Remove(key) => job.remove(key),
                Step::Begin => job.begin(),
                Step::Complete(n) => job.complete(n),
                Step::Abort(n) => job.abort(n),
                Step::Restart(parallelism) => job.restart(parallelism),
            }
        }
        job.check();
        job.restart(2);
    }
}

/// `bytes` of each group, whole; then checkpoints that change `changes` bytes of each. What each writes, and needs.
fn sizes(limit: u32, groups: u16, bytes: u64, changes: u64, checkpoints: u64) -> Vec<(u64, usize)> {
    let mut increments = Increments::default();
    let mut sizes = Vec::new();
    for id in (1..=checkpoints).map(CheckpointId) {
        let due = increments.due().clone();
        let is_whole = |group: &KeyGroup| id.0 == 1 || due.contains(group);
        let parts = (0..groups)
            .map(KeyGroup)
            .map(|group| WrittenPart { group, bytes: if is_whole(&group) { bytes } else { changes } });
        let parts: Vec<WrittenPart> = parts.filter(|part| part.bytes > 0).collect();
        let written = parts.iter().map(|part| part.bytes).sum();
        let file = (!parts.is_empty()).then(|| file_of(id, 0, written));
        increments = increments.advanced(id, file, &parts, limit);
        sizes.push((written, increments.files().len()));
    }
    sizes
}

#[test]
fn sizes_are_flat_and_files_few_whatever_share_of_the_state_changes() {
    let whole = 64 * 10_000;
    for (limit, changes) in [(256, 100), (256, 1_000), (256, 5_000), (16, 10), (16, 0), (4, 2_500), (200, 1)]
    {
        let sizes = sizes(limit, 64, 10_000, changes, 2_000);
        assert_eq!(sizes[0], (whole, 1), "the first is whole");
        let changed = 64 * changes;
        // One group more than its share, as groups are not cut; twice as many while all bases are of the same age.
        let slice = (whole / u64::from(limit)).max(2 * changed * 4 / 3 / 2) + 2 * 10_000;
        let largest = sizes[1..].iter().map(|(written, _)| *written).max().unwrap();
        assert!(largest <= changed + slice, "limit {limit}, {changes}: {largest} of {changed} + {slice}");
        let files = sizes.iter().map(|(_, files)| *files).max().unwrap();
        assert!(files <= limit as usize, "{files} of {limit}");
    }
}

#[test]
fn where_a_hundredth_changes_at_most_half_as_much_again_is_written() {
    let sizes = sizes(256, 128, 100_000, 1_000, 2_000);
    let (first, later) = sizes.split_first().unwrap();
    let written: u64 = later.iter().map(|(written, _)| *written).sum();
    let changed = first.0 / 100 * later.len() as u64;
    assert!(written * 2 <= changed * 3, "{written} bytes for {changed}");
}

#[test]
fn a_group_is_in_the_run_of_its_base_and_in_no_other() {
    let parts = |groups: &[u16]| {
        groups.iter().map(|group| WrittenPart { group: KeyGroup(*group), bytes: 10 }).collect::<Vec<_>>()
    };
    let (one, two) = (CheckpointId(1), CheckpointId(2));
    let mut first = Increments::default().advanced(one, Some(file_of(one, 0, 50)), &parts(&[1, 2, 3, 5]), 9);
    // 3 is empty from now on, and 7 is new.
    first.due = [2, 3].map(KeyGroup).into();
    let mut second = first.advanced(two, Some(file_of(two, 0, 30)), &parts(&[2, 5, 7]), 9);
    let state = KeyedIncrements {
        name: "s".into(),
        schema: StateSchema { kind: "value".into(), key: String::new(), value: String::new() },
        entries: 0,
        files: second.files().to_vec(),
        groups: second.runs(),
    };
    let bases: Vec<Option<u64>> =
        (0..9).map(|group| state.base_of(KeyGroup(group)).map(|base| base.0)).collect();
    assert_eq!(bases, [None, Some(1), Some(2), Some(2), None, Some(1), None, Some(2), None]);
    assert_eq!(state.groups.iter().map(|run| run.first.0).collect::<Vec<_>>(), [1, 2, 5, 7]);
    second.due = [1, 5].map(KeyGroup).into();
    let three = CheckpointId(3);
    let third = second.advanced(three, Some(file_of(three, 0, 20)), &parts(&[1, 5]), 9);
    assert_eq!(third.files().len(), 2, "nothing is left of the first");
}

#[test]
fn a_file_of_which_two_subtasks_had_parts_is_named_once() {
    let index = Segment { file: "chk-1-g1/state-a0-0.0".into(), offset: 0, len: 1, crc32c: 0 };
    let file = IncrementFile { checkpoint: CheckpointId(1), bytes: 20, index };
    let mut increments = Increments::of([CheckpointId(1)].into());
    for group in [1, 2] {
        let part = WrittenPart { group: KeyGroup(group), bytes: 10 };
        increments.restored(&file, std::iter::once((part, CheckpointId(1))));
    }
    assert_eq!(increments.files(), [file]);
}
