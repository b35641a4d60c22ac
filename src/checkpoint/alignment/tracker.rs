//! At-least-once: barriers are counted and nothing is ever blocked (Flink's `CheckpointBarrierTracker`).
//!
//! The snapshot is taken when the last barrier has come. By then records from behind the other barriers have been processed; after
//! a restart they come again.

use super::{AbortReason, AlignmentAction, AlignmentEvent};
use crate::checkpoint::Barrier;
use crate::types::CheckpointId;
use std::collections::VecDeque;

/// How many checkpoints are counted at a time.
const MOST_PENDING: usize = 50;

/// Counts the barriers of one subtask's channels.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Tracker {
    open: Vec<bool>,
    /// In order of id.
    pending: VecDeque<Pending>,
    /// No barrier up to this one counts any more.
    over: Option<CheckpointId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Pending {
    barrier: Barrier,
    awaited: Vec<bool>,
}

impl Pending {
    fn arrived(&mut self, channel: usize) {
        if let Some(awaited) = self.awaited.get_mut(channel) {
            *awaited = false;
        }
    }

    fn is_complete(&self) -> bool {
        !self.awaited.contains(&true)
    }
}

impl Tracker {
    pub(super) fn new(channels: usize) -> Self {
        Self { open: vec![true; channels], pending: VecDeque::new(), over: None }
    }

    pub(super) fn on(&mut self, event: AlignmentEvent, actions: &mut Vec<AlignmentAction>) {
        match event {
            AlignmentEvent::Barrier { channel, barrier } => self.on_barrier(channel, barrier, actions),
            AlignmentEvent::Cancel { channel: _, checkpoint } => self.on_cancel(checkpoint, actions),
            AlignmentEvent::End { channel } => {
                if let Some(open) = self.open.get_mut(channel) {
                    *open = false;
                    self.pending.iter_mut().for_each(|pending| pending.arrived(channel));
                    self.snapshot_newest_complete(actions);
                }
            }
            AlignmentEvent::Announced(_) | AlignmentEvent::Timer => {}
        }
    }

    fn on_barrier(&mut self, channel: usize, barrier: Barrier, actions: &mut Vec<AlignmentAction>) {
        let id = barrier.checkpoint;
        if channel >= self.open.len() || self.over >= Some(id) {
            return;
        }
        if self.pending.back().is_none_or(|newest| newest.barrier.checkpoint < id) {
            if self.pending.len() >= MOST_PENDING {
                self.over = self.pending.pop_front().map(|oldest| oldest.barrier.checkpoint);
            }
            self.pending.push_back(Pending { barrier, awaited: self.open.clone() });
        }
        if let Some(pending) = self.pending.iter_mut().find(|pending| pending.barrier.checkpoint == id) {
            pending.arrived(channel);
            self.snapshot_newest_complete(actions);
        }
    }

    fn on_cancel(&mut self, checkpoint: CheckpointId, actions: &mut Vec<AlignmentAction>) {
        if self.over >= Some(checkpoint) {
            return;
        }
        let older = self.pending.partition_point(|pending| pending.barrier.checkpoint < checkpoint);
        let aborted = self.pending.drain(..older).map(|pending| pending.barrier.checkpoint);
        actions
            .extend(aborted.chain([checkpoint]).map(|id| AlignmentAction::Abort(id, AbortReason::Cancelled)));
        if self.pending.front().is_some_and(|pending| pending.barrier.checkpoint == checkpoint) {
            self.pending.pop_front();
        }
        self.over = Some(checkpoint);
    }

    /// What is older than a checkpoint that is taken is not taken any more.
    fn snapshot_newest_complete(&mut self, actions: &mut Vec<AlignmentAction>) {
        let Some(at) = self.pending.iter().rposition(Pending::is_complete) else { return };
        if let Some(complete) = self.pending.drain(..=at).next_back() {
            self.over = Some(complete.barrier.checkpoint);
            actions.push(AlignmentAction::Snapshot(complete.barrier));
        }
    }
}
