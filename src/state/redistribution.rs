//! Which part of an old checkpoint each new subtask gets.

use crate::checkpoint::metadata::{
    GroupRun, GroupSegment, IncrementFile, KeyedIncrements, StateSchema, SubtaskState,
};
use crate::types::KeyGroupRange;
use std::collections::BTreeMap;

/// A run of elements of an operator state.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ElementRange {
    /// Name of the state.
    pub name: String,
    /// Which old subtask has them.
    pub from: usize,
    /// First element.
    pub start: u64,
    /// First element after the run; greater than `start`.
    pub end: u64,
}

/// Deals out split lists: for each new subtask its runs, in order of state name and then of old subtask.
///
/// `counts` holds, per old subtask, the names of its lists and how many elements they have. If as many subtasks as before
/// are asked for, each gets its own elements back. Otherwise the elements of all subtasks, in order, are cut into contiguous
/// shares that differ by at most one; the larger shares of one state are followed by those of the next, so that the remainders
/// do not all land on the first subtask. (The rule is that of Flink's `RoundRobinOperatorStateRepartitioner`.)
#[must_use]
pub fn split(counts: &[Vec<(String, u64)>], parallelism: u32) -> Vec<Vec<ElementRange>> {
    let mut by_name: BTreeMap<&str, Vec<ElementRange>> = BTreeMap::new();
    for (from, lists) in counts.iter().enumerate() {
        for (name, elements) in lists.iter().filter(|(_, elements)| *elements > 0) {
            let run = ElementRange { name: name.clone(), from, start: 0, end: *elements };
            by_name.entry(name).or_default().push(run);
        }
    }
    let mut shares: Vec<Vec<ElementRange>> = (0..parallelism).map(|_| Vec::new()).collect();
    if counts.len() == shares.len() {
        for run in by_name.into_values().flatten() {
            if let Some(share) = shares.get_mut(run.from) {
                share.push(run);
            }
        }
        return shares;
    }
    let subtasks = u64::from(parallelism.max(1));
    let mut first = 0; // the subtask that the next larger share goes to
    for runs in by_name.into_values() {
        let total: u64 = runs.iter().map(|run| run.end).sum();
        let (base, larger) = (total / subtasks, total % subtasks);
        let mut rest = runs.into_iter().peekable();
        for nth in 0..subtasks {
            let mut wanted = base + u64::from(nth < larger);
            let subtask = usize::try_from((first + nth) % subtasks).unwrap_or(usize::MAX);
            let Some(share) = shares.get_mut(subtask) else { continue };
            while wanted > 0
                && let Some(run) = rest.peek_mut()
            {
                let end = run.end.min(run.start + wanted);
                wanted -= end - run.start;
                share.push(ElementRange { end, ..run.clone() });
                run.start = end;
                if run.start == run.end {
                    rest.next();
                }
            }
        }
        first = (first + larger) % subtasks;
    }
    shares
}

/// Whose copy of a broadcast state each new subtask gets. `holders` are the old subtasks that stored one, in order, of `old` in all.
///
/// As many subtasks as before: each its own, and one that stored none a copy of another's. Otherwise the copies are dealt out in
/// turn. Empty if nobody stored any.
#[must_use]
pub fn broadcast(holders: &[usize], old: usize, parallelism: u32) -> Vec<usize> {
    if holders.is_empty() {
        return Vec::new();
    }
    let subtasks = 0..parallelism as usize;
    let unchanged = subtasks.len() == old;
    let own = |subtask: &usize| unchanged && holders.contains(subtask);
    let in_turn = |subtask: usize| holders.get(subtask % holders.len()).copied();
    subtasks.filter_map(|subtask| if own(&subtask) { Some(subtask) } else { in_turn(subtask) }).collect()
}

/// What a new subtask reads of one keyed state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyedShare<'m> {
    /// Name of the state.
    pub name: &'m str,
    /// What its entries are.
    pub schema: &'m StateSchema,
    /// The groups to read, in order of old subtask and then of group.
    pub groups: Vec<&'m GroupSegment>,
}

/// The keyed state of the subtask that owns the groups of `range`, from all `old` subtasks of its operator: in order of
/// name, states without a group in the range left out. At unchanged parallelism this is the subtask's own state.
#[must_use]
pub fn keyed_for(range: KeyGroupRange, old: &[SubtaskState]) -> Vec<KeyedShare<'_>> {
    let mut shares: Vec<KeyedShare<'_>> = Vec::new();
    for state in old.iter().flat_map(|subtask| &subtask.keyed) {
        let groups = || state.groups.iter().filter(|segment| range.contains(segment.group));
        if groups().next().is_none() {
            continue;
        }
        match shares.iter_mut().find(|share| share.name == state.name && *share.schema == state.schema) {
            Some(share) => share.groups.extend(groups()),
            None => shares.push(KeyedShare {
                name: &state.name,
                schema: &state.schema,
                groups: groups().collect(),
            }),
        }
    }
    shares.sort_by_key(|share| share.name);
    shares
}

/// What a new subtask reads of one keyed state that is written in increments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IncrementsShare<'m> {
    /// Name of the state.
    pub name: &'m str,
    /// What its entries are.
    pub schema: &'m StateSchema,
    /// The files, oldest first, each with what the old subtask that names it says of its groups.
    pub files: Vec<(&'m KeyedIncrements, &'m IncrementFile)>,
}

/// As [`keyed_for`], for states that are written in increments.
#[must_use]
pub fn increments_for(range: KeyGroupRange, old: &[SubtaskState]) -> Vec<IncrementsShare<'_>> {
    let mut shares: Vec<IncrementsShare<'_>> = Vec::new();
    for state in old.iter().flat_map(|subtask| &subtask.increments) {
        let overlaps =
            |run: &GroupRun| u32::from(run.first.0) < range.end && range.start <= u32::from(run.last.0);
        if !state.groups.iter().any(overlaps) {
            continue;
        }
        let files = state.files.iter().map(|file| (state, file));
        match shares.iter_mut().find(|share| share.name == state.name && *share.schema == state.schema) {
            Some(share) => share.files.extend(files),
            None => shares.push(IncrementsShare {
                name: &state.name,
                schema: &state.schema,
                files: files.collect(),
            }),
        }
    }
    for share in &mut shares {
        // Older versions may have named a file twice.
        let mut named: Vec<(&KeyedIncrements, &IncrementFile)> = Vec::with_capacity(share.files.len());
        share.files.retain(|(state, file)| {
            let is_new = !named.iter().any(|(of, is)| std::ptr::eq(*of, *state) && is == file);
            named.push((state, file));
            is_new
        });
        share.files.sort_by_key(|(_, file)| file.checkpoint);
    }
    shares.sort_by_key(|share| share.name);
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::metadata::{KeyedState, Segment};
    use crate::types::{KeyGroup, MaxParallelism, SubtaskIndex};
    use proptest::prelude::*;

    fn counts(subtasks: &[&[(&str, u64)]]) -> Vec<Vec<(String, u64)>> {
        subtasks
            .iter()
            .map(|lists| lists.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect())
            .collect()
    }

    /// Element 3 of state `s` on old subtask 1 is `s/B3`; per new subtask in one line.
    fn dealt(subtasks: &[&[(&str, u64)]], parallelism: u32) -> Vec<String> {
        let text = |run: &ElementRange| {
            let from = char::from(b'A' + u8::try_from(run.from).unwrap());
            (run.start..run.end).map(|i| format!("{}/{from}{i}", run.name)).collect::<Vec<_>>()
        };
        split(&counts(subtasks), parallelism)
            .iter()
            .map(|share| share.iter().flat_map(text).collect::<Vec<_>>().join(" "))
            .collect()
    }

    #[test]
    fn s9_4_contiguous_shares_in_order_of_old_subtasks() {
        assert_eq!(dealt(&[&[("s", 3)], &[("s", 2)]], 3), ["s/A0 s/A1", "s/A2 s/B0", "s/B1"]);
        assert_eq!(
            dealt(&[&[("s", 5)], &[("s", 0)], &[("s", 2)]], 2),
            ["s/A0 s/A1 s/A2 s/A3", "s/A4 s/C0 s/C1"]
        );
        assert_eq!(dealt(&[&[("s", 1)], &[("s", 1)]], 4), ["s/A0", "s/B0", "", ""]);
    }

    #[test]
    fn s9_4_the_rotation_carries_over_to_the_next_state() {
        assert_eq!(dealt(&[&[("s", 1), ("t", 1)]], 3), ["s/A0", "t/A0", ""]);
        assert_eq!(dealt(&[&[("s", 4), ("t", 4)]], 3), ["s/A0 s/A1 t/A3", "s/A2 t/A0 t/A1", "s/A3 t/A2"]);
    }

    #[test]
    fn s9_4_the_same_parallelism_is_not_rebalanced() {
        assert_eq!(dealt(&[&[("s", 4)], &[("s", 0)]], 2), ["s/A0 s/A1 s/A2 s/A3", ""]);
    }

    #[test]
    fn no_subtasks_no_shares() {
        assert!(split(&counts(&[&[("s", 4)]]), 0).is_empty());
        assert_eq!(split(&[], 2), [vec![], vec![]]);
    }

    proptest! {
        #[test]
        fn s9_4_every_element_goes_to_exactly_one_subtask(
            old in prop::collection::vec((0..9_u64, 0..9_u64), 0..6), parallelism in 1..7_u32,
        ) {
            let old: Vec<Vec<(String, u64)>> =
                old.iter().map(|(s, t)| vec![("s".to_owned(), *s), ("t".to_owned(), *t)]).collect();
            let shares = split(&old, parallelism);
            prop_assert_eq!(shares.len(), parallelism as usize);
            let mut dealt: Vec<(String, usize, u64)> = Vec::new();
            for run in shares.iter().flatten() {
                dealt.extend((run.start..run.end).map(|i| (run.name.clone(), run.from, i)));
            }
            dealt.sort();
            let mut all: Vec<(String, usize, u64)> = Vec::new();
            for (from, lists) in old.iter().enumerate() {
                for (name, n) in lists {
                    all.extend((0..*n).map(|i| (name.clone(), from, i)));
                }
            }
            all.sort();
            prop_assert_eq!(dealt, all);
            if old.len() != parallelism as usize {
                let sizes: Vec<u64> =
                    shares.iter().map(|share| share.iter().map(|run| run.end - run.start).sum()).collect();
                prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
            }
        }
    }

    #[test]
    fn s9_6_every_subtask_gets_a_copy_of_a_broadcast_state() {
        assert_eq!(broadcast(&[0, 1], 2, 3), [0, 1, 0]);
        assert_eq!(broadcast(&[0, 1, 2], 3, 2), [0, 1]);
        assert_eq!(broadcast(&[0, 1, 2], 3, 3), [0, 1, 2]);
        assert_eq!(broadcast(&[1, 2], 4, 4), [1, 1, 2, 2], "who has one keeps it");
        assert_eq!(broadcast(&[1, 2], 4, 3), [1, 2, 1]);
        assert_eq!(broadcast(&[], 2, 2), [0; 0]);
    }

    fn subtask(index: u32, states: &[(&str, &[u16])]) -> SubtaskState {
        let segment = |group: u16| GroupSegment {
            group: KeyGroup(group),
            entries: 1,
            at: Segment { file: format!("f{index}"), offset: 0, len: 1, crc32c: 0 },
        };
        let schema = StateSchema { kind: "value".into(), key: "u64".into(), value: "u64".into() };
        SubtaskState {
            subtask: SubtaskIndex(index),
            finished: false,
            keyed: states
                .iter()
                .map(|(name, groups)| KeyedState {
                    name: (*name).to_owned(),
                    schema: schema.clone(),
                    groups: groups.iter().map(|group| segment(*group)).collect(),
                })
                .collect(),
            lists: Vec::new(),
            increments: Vec::new(),
        }
    }

    fn read(parallelism: u32, old: &[SubtaskState]) -> Vec<String> {
        let max = MaxParallelism::new(10).unwrap();
        (0..parallelism)
            .map(|i| {
                let shares = keyed_for(max.range_of(SubtaskIndex(i), parallelism), old);
                let texts = shares.iter().map(|share| {
                    let groups: Vec<_> =
                        share.groups.iter().map(|g| format!("{}:{}", g.at.file, g.group)).collect();
                    format!("{}={}", share.name, groups.join(","))
                });
                texts.collect::<Vec<_>>().join(" ")
            })
            .collect()
    }

    #[test]
    fn s9_1_each_subtask_reads_its_groups_from_the_old_subtasks_in_order() {
        let old =
            [subtask(0, &[("b", &[0, 1, 4]), ("a", &[2])]), subtask(1, &[("b", &[5, 9]), ("only", &[7])])];
        assert_eq!(read(2, &old), ["a=f0:2 b=f0:0,f0:1,f0:4", "b=f1:5,f1:9 only=f1:7"]);
        assert_eq!(read(3, &old), ["a=f0:2 b=f0:0,f0:1", "b=f0:4,f1:5", "b=f1:9 only=f1:7"]);
        assert_eq!(read(1, &old), ["a=f0:2 b=f0:0,f0:1,f0:4,f1:5,f1:9 only=f1:7"]);
    }
}
