//! In which files a keyed state is when a checkpoint writes only what has changed since the one before.
//!
//! A key group is in the file that holds it whole, its *base*, and in what later files hold of it: entries that changed, keys that
//! were removed. Each checkpoint writes some groups whole, those whose turn it is, so that old files are not needed for ever and no
//! checkpoint is a full one at once (a *rolling base*). What is said here of files holds of one state in one subtask.
//!
//! The base of a checkpoint is always a *completed* one. So what a failed checkpoint wrote is named by no other, and can be deleted whenever
//! it comes; and what had changed before it has still changed since the base.

use super::metadata::{GroupRun, IncrementFile};
use crate::types::{CheckpointId, KeyGroup};
use std::collections::{BTreeMap, BTreeSet};

/// How many bytes of changes may lie upon those of whole groups, in halves. More make checkpoints smaller and restarts longer: with *r*
/// times as many, a checkpoint writes 1 + 1 / 2*r* times the changes, and a restart reads up to 1 + *r* times the state.
const CHANGES: (u64, u64) = (3, 2);

/// The files that hold a keyed state of a subtask, and which part of each is needed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Increments {
    /// Oldest first. Of one checkpoint there may be several: after a change of parallelism, those of several old subtasks.
    files: Vec<IncrementFile>,
    groups: BTreeMap<KeyGroup, History>,
    /// The checkpoints since the oldest of the files, whether they wrote one or not: by these is counted, so that all subtasks of a job let go of the
    /// same old ones.
    lineage: BTreeSet<CheckpointId>,
    /// What the next checkpoint writes whole.
    due: BTreeSet<KeyGroup>,
}

/// Where a key group is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct History {
    /// The checkpoint that wrote it whole.
    base: CheckpointId,
    /// Bytes it wrote.
    whole: u64,
    /// Bytes of changes since.
    changes: u64,
}

/// A part of a key group that a checkpoint has written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WrittenPart {
    /// The group.
    pub group: KeyGroup,
    /// How many bytes.
    pub bytes: u64,
}

impl Increments {
    /// The files, oldest first.
    #[must_use]
    pub fn files(&self) -> &[IncrementFile] {
        &self.files
    }

    /// The checkpoint that holds each group whole, in order of groups.
    #[must_use]
    pub fn runs(&self) -> Vec<GroupRun> {
        let mut runs: Vec<GroupRun> = Vec::new();
        for (group, history) in &self.groups {
            match runs.last_mut() {
                Some(run) if run.base == history.base && run.last.0.checked_add(1) == Some(group.0) => {
                    run.last = *group;
                }
                _ => runs.push(GroupRun { first: *group, last: *group, base: history.base }),
            }
        }
        runs
    }

    /// Of a state that is being restored from the last of these checkpoints, of which it needs the others.
    #[must_use]
    pub fn of(lineage: BTreeSet<CheckpointId>) -> Self {
        Self { lineage, ..Self::default() }
    }

    /// Takes in a file of a checkpoint from which the state was restored, with the parts in it that are needed: those of groups whose base is
    /// it or an older one. Files come oldest first.
    pub fn restored(
        &mut self,
        file: &IncrementFile,
        parts: impl Iterator<Item = (WrittenPart, CheckpointId)>,
    ) {
        let mut needed = false;
        for (WrittenPart { group, bytes }, base) in parts {
            needed = true;
            let history = self.groups.entry(group).or_insert(History { base, whole: 0, changes: 0 });
            if file.checkpoint == base {
                history.whole += bytes;
            } else {
                history.changes += bytes;
            }
        }
        // After a change of parallelism, of several subtasks before.
        if needed && !self.files.contains(file) {
            self.files.push(file.clone());
        }
    }

    /// The groups that the checkpoint based on this one has to write whole.
    #[must_use]
    pub fn due(&self) -> &BTreeSet<KeyGroup> {
        &self.due
    }

    /// Settles what is [due](Self::due), so that no more than `limit` checkpoints are ever needed and a restart does not read much more than
    /// the state.
    #[must_use]
    pub fn planned(self, limit: u32) -> Self {
        Self { due: self.plan(limit), ..self }
    }

    fn plan(&self, limit: u32) -> BTreeSet<KeyGroup> {
        let mut due = self.overdue(limit);
        let mut rest: Vec<(&KeyGroup, &History)> =
            self.groups.iter().filter(|(group, _)| !due.contains(group)).collect();
        let whole: u64 = self.groups.values().map(|history| history.whole).sum();
        let bound = whole / CHANGES.1 * CHANGES.0;
        // What the next one will write is reckoned by what the last one did.
        let newest = self.files.last().map_or(CheckpointId(0), |file| file.checkpoint);
        let last = self.files.iter().filter(|file| file.checkpoint == newest).map(|file| file.bytes);
        let mut changes = rest.iter().map(|(_, history)| history.changes).sum::<u64>();
        if changes > 0 {
            changes = changes.saturating_add(last.sum::<u64>().min(changes));
        }
        // Those first from which most is won for what is written.
        let gain = |history: &History| u128::from(history.changes) << 32;
        rest.sort_by(|(a, one), (b, other)| {
            let (one_gain, other_gain) =
                (gain(one) / u128::from(one.whole.max(1)), gain(other) / u128::from(other.whole.max(1)));
            other_gain.cmp(&one_gain).then(one.base.cmp(&other.base)).then(a.cmp(b))
        });
        for (group, history) in rest {
            if changes <= bound || history.changes == 0 {
                break;
            }
            changes = changes.saturating_sub(history.changes);
            due.insert(*group);
        }
        due
    }

    /// The groups whose turn it is: so many of the oldest that, at an even pace, each comes to its turn before its base is too old.
    fn overdue(&self, limit: u32) -> BTreeSet<KeyGroup> {
        let limit = u64::from(limit.max(1));
        let mut oldest: Vec<(CheckpointId, KeyGroup)> =
            self.groups.iter().map(|(group, history)| (history.base, *group)).collect();
        oldest.sort_unstable();
        let all = oldest.len() as u64;
        let mut age = self.lineage.len() as u64;
        let mut younger = self.lineage.iter().peekable();
        let mut wanted = 0;
        for (place, (base, _)) in (1..).zip(&oldest) {
            while younger.next_if(|checkpoint| *checkpoint <= base).is_some() {
                age -= 1;
            }
            // The base, `age` checkpoints after it, and the next one.
            let later = limit.saturating_sub(age + 1);
            // So many can come to their turn later, at that pace.
            wanted = wanted.max(place - (later * all).div_ceil(limit).min(place));
        }
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        oldest.into_iter().take(wanted).map(|(_, group)| group).collect()
    }

    /// What is needed once a checkpoint based on this one has written these parts into `file`. Those of groups that were [due](Self::due) are
    /// whole, and such a group without a part is empty. Whatever `self` does not know is whole as well. Without a file, there was
    /// nothing to write. `limit` is as in [`planned`](Self::planned).
    #[must_use]
    pub fn advanced(
        &self,
        checkpoint: CheckpointId,
        file: Option<IncrementFile>,
        parts: &[WrittenPart],
        limit: u32,
    ) -> Self {
        let mut next = self.clone();
        for group in &self.due {
            next.groups.insert(*group, History { base: checkpoint, whole: 0, changes: 0 });
        }
        for part in parts {
            let first = History { base: checkpoint, whole: 0, changes: 0 };
            let history = next.groups.entry(part.group).or_insert(first);
            if history.base == checkpoint {
                history.whole += part.bytes;
            } else {
                history.changes += part.bytes;
            }
        }
        next.files.extend(file);
        let oldest = next.groups.values().map(|history| history.base).min();
        next.files.retain(|file| oldest.is_some_and(|oldest| oldest <= file.checkpoint));
        next.lineage.insert(checkpoint);
        next.lineage.retain(|checkpoint| oldest.is_none_or(|oldest| oldest <= *checkpoint));
        next.planned(limit)
    }
}

#[cfg(test)]
mod tests;
