//! Exactly-once: the snapshot holds what lies before the barriers and nothing else.
//!
//! *Aligned*, after the barrier of a checkpoint has come through a channel, that channel is blocked until the barrier has come
//! through all the others: what the subtask has then processed is exactly what lies before the barriers (Carbone et al. 2015,
//! "Lightweight Asynchronous Snapshots"). *Unaligned*, the subtask snapshots at the first barrier, or at the mere news of one, and what
//! the channels still hold from before their barriers becomes part of the snapshot (Flink's `SingleCheckpointBarrierHandler`). A
//! checkpoint may begin as the one and go on as the other, when it takes too long.

use super::{AbortReason, AlignmentAction, AlignmentEvent};
use crate::checkpoint::{Barrier, BarrierKind};
use crate::types::{CheckpointId, Monotonic};

/// The alignment of one subtask's channels.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ExactlyOnce {
    channels: Vec<Channel>,
    /// The newest checkpoint seen. It only grows.
    newest: Option<CheckpointId>,
    /// What the newest checkpoint waits for; nothing if it is over.
    pending: Option<Pending>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Channel {
    ended: bool,
    blocked: bool,
    /// Whether the pending checkpoint waits for this channel.
    awaited: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Pending {
    barrier: Barrier,
    /// Whether the snapshot has been taken, and channels are captured until their barriers come.
    captures: bool,
}

impl ExactlyOnce {
    pub(super) fn new(channels: usize) -> Self {
        Self { channels: vec![Channel::default(); channels], newest: None, pending: None }
    }

    #[inline]
    pub(super) fn is_blocked(&self, channel: usize) -> bool {
        self.channels.get(channel).is_some_and(|channel| channel.blocked)
    }

    pub(super) fn captures(&self, channel: usize) -> bool {
        self.pending.is_some_and(|pending| pending.captures)
            && self.channels.get(channel).is_some_and(|channel| channel.awaited)
    }

    pub(super) fn deadline(&self) -> Option<Monotonic> {
        self.pending.filter(|pending| !pending.captures)?.barrier.kind.overtakes_from()
    }

    pub(super) fn on(&mut self, event: AlignmentEvent, now: Monotonic, actions: &mut Vec<AlignmentAction>) {
        match event {
            AlignmentEvent::Announced(barrier) => {
                if !self.is_over(barrier.checkpoint) && barrier.kind != BarrierKind::Aligned {
                    self.begin(barrier, actions);
                    self.overtake_if_due(now, actions);
                }
            }
            AlignmentEvent::Barrier { channel, barrier } => self.on_barrier(channel, barrier, now, actions),
            AlignmentEvent::Cancel { channel: _, checkpoint } => self.on_cancel(checkpoint, actions),
            AlignmentEvent::End { channel } => self.on_end(channel, actions),
            AlignmentEvent::Timer => self.overtake_if_due(now, actions),
        }
    }

    fn is_over(&self, checkpoint: CheckpointId) -> bool {
        self.newest > Some(checkpoint) || (self.newest == Some(checkpoint) && self.pending.is_none())
    }

    /// Makes this checkpoint the pending one. The barrier that overtakes soonest decides for all.
    fn begin(&mut self, barrier: Barrier, actions: &mut Vec<AlignmentAction>) {
        if let Some(pending) = &mut self.pending {
            if pending.barrier.checkpoint == barrier.checkpoint {
                if barrier.kind == BarrierKind::Unaligned {
                    pending.barrier.kind = BarrierKind::Unaligned;
                }
                return;
            }
            let older = pending.barrier.checkpoint;
            self.resume_all(actions);
            actions.push(AlignmentAction::Abort(older, AbortReason::Subsumed));
        }
        self.newest = Some(barrier.checkpoint);
        self.pending = Some(Pending { barrier, captures: false });
        for channel in &mut self.channels {
            channel.awaited = !channel.ended;
        }
    }

    fn on_barrier(
        &mut self,
        channel: usize,
        barrier: Barrier,
        now: Monotonic,
        actions: &mut Vec<AlignmentAction>,
    ) {
        if channel >= self.channels.len() {
            return;
        }
        if self.is_over(barrier.checkpoint) {
            actions.push(AlignmentAction::Resume(channel));
            return;
        }
        self.begin(barrier, actions);
        let aligns = self.pending.is_some_and(|pending| !pending.captures);
        // A single channel has nobody to wait for, and one that overtakes does not wait.
        let waits = aligns && barrier.kind != BarrierKind::Unaligned && self.channels.len() > 1;
        if let Some(state) = self.channels.get_mut(channel) {
            if !std::mem::take(&mut state.awaited) {
                return;
            }
            state.blocked = waits;
            if waits {
                actions.push(AlignmentAction::Block(channel));
            }
        }
        self.go_on(actions);
        self.overtake_if_due(now, actions);
    }

    fn on_cancel(&mut self, checkpoint: CheckpointId, actions: &mut Vec<AlignmentAction>) {
        if self.is_over(checkpoint) {
            return;
        }
        // An older pending checkpoint ends without an abort of its own: the newer one's tells enough.
        self.resume_all(actions);
        self.newest = Some(checkpoint);
        self.pending = None;
        actions.push(AlignmentAction::Abort(checkpoint, AbortReason::Cancelled));
    }

    fn on_end(&mut self, channel: usize, actions: &mut Vec<AlignmentAction>) {
        let Some(state) = self.channels.get_mut(channel) else { return };
        *state = Channel { ended: true, blocked: false, awaited: false };
        self.go_on(actions);
    }

    /// When every barrier has come.
    fn go_on(&mut self, actions: &mut Vec<AlignmentAction>) {
        let Some(Pending { barrier, captures }) = self.pending else { return };
        if self.channels.iter().any(|channel| channel.awaited) {
            return;
        }
        if !captures && barrier.kind == BarrierKind::Unaligned {
            // Those downstream must not wait, even if here there was nothing to wait for.
            return;
        }
        self.pending = None;
        if captures {
            actions.push(AlignmentAction::Captured(barrier.checkpoint));
        } else {
            actions.push(AlignmentAction::Snapshot(barrier));
        }
        self.resume_all(actions);
    }

    /// Snapshots now, if the barrier is too old to wait any longer.
    fn overtake_if_due(&mut self, now: Monotonic, actions: &mut Vec<AlignmentAction>) {
        if self.deadline().is_none_or(|deadline| deadline > now) {
            return;
        }
        let Some(pending) = &mut self.pending else { return };
        pending.captures = true;
        // Further down it overtakes at once.
        pending.barrier.kind = BarrierKind::Unaligned;
        actions.push(AlignmentAction::SnapshotUnaligned(pending.barrier));
        self.resume_all(actions);
        self.go_on(actions);
    }

    fn resume_all(&mut self, actions: &mut Vec<AlignmentAction>) {
        for (index, channel) in self.channels.iter_mut().enumerate() {
            if std::mem::take(&mut channel.blocked) {
                actions.push(AlignmentAction::Resume(index));
            }
        }
    }
}
