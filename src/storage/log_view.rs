//! The job log as data: its entries, and what follows from them. No I/O.
//!
//! The log decides which process runs a job and which checkpoints are true. Entries are numbered from 1 and each is created
//! only if its number is free, so of all that want a number exactly one gets it.
//!
//! **Who owns the job.** A process claims the number after the last one it read. From then on it never reads again: it writes
//! under the number after its own last one. If another process claims in between, it does so at just that number, so the
//! older one finds the claim where it wanted to write: it is *fenced*. The number of its claim is a process's [`Generation`].
//!
//! **What may be removed**, so that none of this breaks:
//! 1. A claim never: it may be what an older process has yet to run into.
//! 2. The last entry never: a number that was taken must not look like the next free one.
//! 3. A `Completed` that another `Completed` or a `Cleared` follows: once its checkpoint is no longer retained. This leaves
//!    holes, and a process that read the log long ago, before the number was first taken, may put its claim into one. So
//!    a claim counts only if, *looking again after it was written, and once more,* it is the last entry: above a hole there is
//!    always one by 1 and 2. And before it removes an entry the owner looks whether the log holds one above its claim that
//!    is not its own, and if so removes nothing. Once would do if a listing were a snapshot. Where it misses what comes and
//!    goes meanwhile, the first look can be fooled only by a newer process, whose claim the second one sees.
//! 4. A claim in a hole is *void*, which the later entry of an older generation shows to all readers.
//!
//! (Epoch records created if absent are from Arroyo's state protocol; one dense log instead of a record per checkpoint closes
//! the gaps that ids of failed checkpoints leave.)

use crate::types::{CheckpointId, Generation};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// How often a process looks whether its claim is the last entry (rule 3).
pub(crate) const LOOKS: u32 = 2;

/// An entry of the job log.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Entry {
    /// A process takes the job.
    Claim(Claim),
    /// A checkpoint is true.
    Completed(Completed),
    /// The job is done.
    Finished(Finished),
    /// The checkpoints before are no longer true: they are being deleted, as the job was cancelled for good.
    Cleared(Cleared),
}

/// A process takes the job; the number of the entry is its generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Claim {
    /// Id of the process; for people.
    pub(crate) process: u32,
    /// Makes every claim one of its kind, so that a process knows its own.
    pub(crate) nonce: u64,
}

/// A checkpoint is true.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Completed {
    /// Who says so.
    pub(crate) generation: Generation,
    /// Which one.
    pub(crate) checkpoint: CheckpointId,
    /// Its manifest, relative to the job's folder.
    pub(crate) manifest: String,
    /// CRC-32C of the manifest's file.
    pub(crate) manifest_crc32c: u32,
}

/// The job is done: all input processed and all output committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Finished {
    /// Who says so.
    pub(crate) generation: Generation,
    /// The last completed checkpoint, if there was one.
    pub(crate) checkpoint: Option<CheckpointId>,
}

/// The checkpoints before are no longer true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Cleared {
    /// Who says so.
    pub(crate) generation: Generation,
    /// The last of them: its number is not given again.
    pub(crate) last: CheckpointId,
}

impl Completed {
    /// The folder of the checkpoint: the first part of its manifest's path.
    #[must_use]
    pub(crate) fn folder(&self) -> Option<String> {
        self.manifest.split_once('/').map(|(folder, _)| folder.to_owned())
    }
}

impl Entry {
    /// The process that wrote it; `None` for a claim, whose number says it.
    #[must_use]
    pub(crate) fn generation(&self) -> Option<Generation> {
        match self {
            Self::Claim(_) => None,
            Self::Completed(entry) => Some(entry.generation),
            Self::Finished(entry) => Some(entry.generation),
            Self::Cleared(entry) => Some(entry.generation),
        }
    }
}

/// Why entries cannot follow one another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogFault {
    /// Number of the entry that does not fit.
    pub(crate) sequence: u64,
    /// What is wrong with it.
    pub(crate) why: String,
}

impl fmt::Display for LogFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "entry {} of the job log contradicts those before it: {}", self.sequence, self.why)
    }
}

/// What it means for a process that the number it wants to write under is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Taken {
    /// By an earlier decision of its own whose outcome it did not know: it is to write under the next number.
    Ours,
    /// By a claim: another process owns the job.
    Fenced(Claim),
    /// By an entry that can only follow a claim.
    Foreign(Entry),
}

/// What the entries of a log say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct LogView {
    first: Option<u64>,
    tail: u64,
    /// Claims, oldest first, without the void ones.
    claims: Vec<(Generation, Claim)>,
    /// True checkpoints that are still in the log, by number of entry.
    completed: BTreeMap<u64, Completed>,
    /// `Completed` entries that are true no more.
    cleared: BTreeSet<u64>,
    last_checkpoint: Option<CheckpointId>,
    finished: Option<Finished>,
}

impl LogView {
    /// Reads entries in order. Some may be missing: the front of the log, and what was removed by the rules above.
    ///
    /// # Errors
    /// A [`LogFault`] if they cannot have been written by the rules.
    pub(crate) fn fold(entries: impl IntoIterator<Item = (u64, Entry)>) -> Result<Self, LogFault> {
        let mut view = Self::default();
        for (sequence, entry) in entries {
            view.push(sequence, entry)?;
        }
        Ok(view)
    }

    /// Reads one more entry. After an error the view is as before.
    ///
    /// # Errors
    /// A [`LogFault`] if it cannot follow.
    pub(crate) fn push(&mut self, sequence: u64, entry: Entry) -> Result<(), LogFault> {
        self.check(sequence, &entry)?;
        if let Some(writer) = entry.generation() {
            // The older one could still write, so these never were at the end of the log: void.
            self.claims.retain(|(claimed, _)| *claimed <= writer);
        }
        match entry {
            Entry::Claim(claim) => self.claims.push((Generation(sequence), claim)),
            Entry::Completed(entry) => {
                self.last_checkpoint = Some(entry.checkpoint);
                self.completed.insert(sequence, entry);
            }
            Entry::Finished(entry) => self.finished = Some(entry),
            Entry::Cleared(entry) => {
                self.last_checkpoint = self.last_checkpoint.max(Some(entry.last));
                self.clear();
            }
        }
        self.first.get_or_insert(sequence);
        self.tail = sequence;
        Ok(())
    }

    /// Takes in what the process of generation `own` found under the number at which it wanted to write.
    ///
    /// # Errors
    /// A [`LogFault`] if an entry of its own cannot follow.
    pub(crate) fn taken(&mut self, sequence: u64, found: Entry, own: Generation) -> Result<Taken, LogFault> {
        match found {
            found if found.generation() == Some(own) => self.push(sequence, found).map(|()| Taken::Ours),
            Entry::Claim(claim) => Ok(Taken::Fenced(claim)),
            found => Ok(Taken::Foreign(found)),
        }
    }

    /// Whether this entry can follow.
    ///
    /// # Errors
    /// A [`LogFault`] if not.
    pub(crate) fn check(&self, sequence: u64, entry: &Entry) -> Result<(), LogFault> {
        let fault = |why| Err(LogFault { sequence, why });
        if sequence <= self.tail {
            return fault(format!("its number is not above {}", self.tail));
        }
        if self.finished.is_some() {
            return fault("the job was finished before".into());
        }
        if let Some(writer) = entry.generation() {
            let is_claimed = self.has_claim(writer);
            let claim_is_cut_off = writer.0 < self.first.unwrap_or(sequence);
            if !is_claimed && !claim_is_cut_off {
                return fault(format!("it is of generation {writer}, which never claimed the job"));
            }
        }
        match (entry, self.last_checkpoint) {
            (Entry::Completed(entry), Some(last)) if entry.checkpoint <= last => {
                fault(format!("it completes checkpoint {}, after checkpoint {last}", entry.checkpoint))
            }
            _ => Ok(()),
        }
    }

    /// The number of the last entry, 0 if there is none.
    #[must_use]
    pub(crate) fn last(&self) -> u64 {
        self.tail
    }

    /// The number of the next entry.
    #[must_use]
    pub(crate) fn next(&self) -> u64 {
        self.tail.saturating_add(1)
    }

    /// The process that owns the job.
    #[must_use]
    pub(crate) fn owner(&self) -> Option<(Generation, Claim)> {
        self.claims.last().copied()
    }

    /// Whether the claim of this number is there and not void.
    #[must_use]
    pub(crate) fn has_claim(&self, generation: Generation) -> bool {
        self.claims.iter().any(|(claimed, _)| *claimed == generation)
    }

    /// True checkpoints, oldest first.
    pub(crate) fn completed(&self) -> impl DoubleEndedIterator<Item = &Completed> {
        self.completed.values()
    }

    /// The newest true checkpoint.
    #[must_use]
    pub(crate) fn latest(&self) -> Option<&Completed> {
        self.completed.values().next_back()
    }

    /// Highest number ever given to a completed checkpoint.
    #[must_use]
    pub(crate) fn last_checkpoint(&self) -> Option<CheckpointId> {
        self.last_checkpoint
    }

    /// How the job ended, if it has.
    #[must_use]
    pub(crate) fn finished(&self) -> Option<Finished> {
        self.finished
    }

    /// The number of the entry of a checkpoint, if it is in the log and true.
    #[must_use]
    pub(crate) fn sequence_of(&self, id: CheckpointId) -> Option<u64> {
        let mut entries = self.completed.iter();
        entries.find(|(_, entry)| entry.checkpoint == id).map(|(sequence, _)| *sequence)
    }

    /// Numbers of `Completed` entries that are true no more, and that are not the last entry.
    pub(crate) fn removable(&self) -> impl Iterator<Item = u64> {
        self.cleared.iter().copied().filter(|sequence| *sequence != self.tail)
    }

    /// No checkpoint is true any more.
    pub(crate) fn clear(&mut self) {
        self.cleared.extend(std::mem::take(&mut self.completed).into_keys());
    }

    /// The entry was removed.
    pub(crate) fn forget(&mut self, sequence: u64) {
        self.completed.remove(&sequence);
        self.cleared.remove(&sequence);
    }

    /// Forgets the removable entries that are not among `sequences`: they were removed since the log was read.
    pub(crate) fn forget_all_but(&mut self, sequences: &[u64]) {
        self.completed.retain(|sequence, _| sequences.contains(sequence));
        self.cleared.retain(|sequence| sequences.contains(sequence));
    }
}

#[cfg(test)]
mod tests;
