//! One checkpoint under way (Flink's `PendingCheckpoint`).

use super::request::{Asker, Request};
use crate::types::{Attempt, CheckpointId, Monotonic, SubtaskId};
use std::collections::{BTreeMap, BTreeSet};

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Phase {
    /// Its place in the storage is being created; no subtask knows of it.
    Preparing,
    /// Subtasks take their snapshots.
    Collecting,
    /// All have, and it is being committed. From here only the outcome of the commit ends it.
    Persisting,
}

/// What became of an ack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum AckResult<S> {
    /// Taken.
    Accepted,
    /// The subtask had acknowledged before. The state is not to be touched: it may be the same files.
    Duplicate,
    /// Nobody asked that subtask, or that attempt. The state is to be deleted.
    Unknown(S),
}

/// A checkpoint under way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Pending<S> {
    /// Who waits for it.
    pub(super) asker: Asker,
    /// A savepoint rather than a checkpoint.
    pub(super) savepoint: bool,
    /// The attempt that takes it.
    pub(super) attempt: Attempt,
    /// How far it is.
    pub(super) phase: Phase,
    /// The completed checkpoint that what is written of it builds on.
    pub(super) base: Option<CheckpointId>,
    expires: Monotonic,
    missing: BTreeSet<SubtaskId>,
    states: BTreeMap<SubtaskId, S>,
    finished: bool,
}

impl<S: Clone> Pending<S> {
    /// Begins it. The timeout runs from here, so creating its place in the storage is inside.
    #[must_use]
    pub(super) fn new(
        request: Request,
        attempt: Attempt,
        expires: Monotonic,
        subtasks: &[SubtaskId],
    ) -> Self {
        Self {
            asker: request.asker,
            savepoint: request.savepoint,
            attempt,
            phase: Phase::Preparing,
            base: None,
            expires,
            missing: subtasks.iter().copied().collect(),
            states: BTreeMap::new(),
            finished: true,
        }
    }

    /// Takes an ack.
    pub(super) fn ack(
        &mut self,
        subtask: SubtaskId,
        attempt: Attempt,
        state: S,
        finished: bool,
    ) -> AckResult<S> {
        if attempt != self.attempt || self.phase == Phase::Preparing {
            return AckResult::Unknown(state);
        }
        if self.missing.remove(&subtask) {
            self.states.insert(subtask, state);
            self.finished &= finished;
            return AckResult::Accepted;
        }
        if self.states.contains_key(&subtask) { AckResult::Duplicate } else { AckResult::Unknown(state) }
    }

    /// Whether this subtask may decline it: it takes part, and the commit has not begun.
    #[must_use]
    pub(super) fn may_decline(&self, subtask: SubtaskId, attempt: Attempt) -> bool {
        let takes_part = self.missing.contains(&subtask) || self.states.contains_key(&subtask);
        attempt == self.attempt && self.phase != Phase::Persisting && takes_part
    }

    /// When it times out; `None` once it is being committed.
    #[must_use]
    pub(super) fn expires(&self) -> Option<Monotonic> {
        (self.phase != Phase::Persisting).then_some(self.expires)
    }

    /// Whether every subtask has acknowledged and the commit has not begun.
    #[must_use]
    pub(super) fn is_ready(&self) -> bool {
        self.phase == Phase::Collecting && self.missing.is_empty()
    }

    /// Whether all that have acknowledged were finished.
    #[must_use]
    pub(super) fn is_finished(&self) -> bool {
        self.finished
    }

    /// Begins the commit: the states to write. A copy stays, to be deleted should the commit fail.
    #[must_use]
    pub(super) fn persist(&mut self) -> Vec<(SubtaskId, S)> {
        self.phase = Phase::Persisting;
        self.states.iter().map(|(subtask, state)| (*subtask, state.clone())).collect()
    }

    /// Ends it: the states that were collected.
    #[must_use]
    pub(super) fn into_states(self) -> Vec<S> {
        self.states.into_values().collect()
    }
}
