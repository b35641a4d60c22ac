//! Alignment: when a subtask with several inputs snapshots, as a pure state machine over channel indices.
//!
//! After the barrier of a checkpoint has come through a channel, that channel is blocked until the barrier has come through
//! all the others: what the subtask has then processed is exactly what lies before the barriers (Carbone et al. 2015,
//! "Lightweight Asynchronous Snapshots"; Flink's `SingleCheckpointBarrierHandler`, aligned).

use crate::types::CheckpointId;

/// What came through a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AlignmentEvent {
    /// A barrier.
    Barrier {
        /// Through which channel.
        channel: usize,
        /// Of which checkpoint.
        checkpoint: CheckpointId,
    },
    /// The mark that a checkpoint will not come through this channel.
    Cancel {
        /// Through which channel.
        channel: usize,
        /// Of which checkpoint.
        checkpoint: CheckpointId,
    },
    /// The channel is closed: no barrier will ever come through it again.
    End {
        /// Which channel.
        channel: usize,
    },
}

/// What to do about it, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AlignmentAction {
    /// Take nothing more from this channel.
    Block(usize),
    /// Take from this channel again.
    Resume(usize),
    /// Snapshot now, before anything else is taken.
    Snapshot(CheckpointId),
    /// This checkpoint is not taken here.
    Abort(CheckpointId, AbortReason),
}

/// Why a subtask gives a checkpoint up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AbortReason {
    /// A newer barrier overtook it.
    Subsumed,
    /// An upstream subtask could not take it.
    Cancelled,
}

/// The alignment of one subtask's channels.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Alignment {
    channels: Vec<Channel>,
    /// The newest checkpoint seen. It only grows.
    current: Option<CheckpointId>,
    /// Whether the newest checkpoint still waits for barriers.
    pending: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Channel {
    ended: bool,
    blocked: bool,
    /// Whether the pending checkpoint waits for this channel.
    awaited: bool,
}

impl Alignment {
    /// For this many open channels.
    #[must_use]
    pub fn new(channels: usize) -> Self {
        Self { channels: vec![Channel::default(); channels], current: None, pending: false }
    }

    /// Whether nothing may be taken from `channel`.
    #[inline]
    #[must_use]
    pub fn is_blocked(&self, channel: usize) -> bool {
        self.channels.get(channel).is_some_and(|channel| channel.blocked)
    }

    /// Takes an event. Events of a blocked channel must not be given; an unknown channel is ignored.
    pub fn on(&mut self, event: AlignmentEvent) -> Vec<AlignmentAction> {
        let mut actions = Vec::new();
        match event {
            AlignmentEvent::Barrier { channel, checkpoint } => {
                self.on_barrier(channel, checkpoint, &mut actions)
            }
            AlignmentEvent::Cancel { channel: _, checkpoint } => self.on_cancel(checkpoint, &mut actions),
            AlignmentEvent::End { channel } => self.on_end(channel, &mut actions),
        }
        actions
    }

    fn on_barrier(&mut self, channel: usize, checkpoint: CheckpointId, actions: &mut Vec<AlignmentAction>) {
        if channel >= self.channels.len() {
            return;
        }
        let is_current = self.current == Some(checkpoint);
        if self.current.is_some_and(|current| checkpoint < current) || (is_current && !self.pending) {
            actions.push(AlignmentAction::Resume(channel));
            return;
        }
        if !is_current {
            self.give_up_pending(actions);
            self.current = Some(checkpoint);
            self.pending = true;
            for channel in &mut self.channels {
                channel.awaited = !channel.ended;
            }
        }
        // A single channel has nobody to wait for.
        let waits = self.channels.len() > 1;
        if let Some(state) = self.channels.get_mut(channel) {
            if !std::mem::take(&mut state.awaited) {
                return;
            }
            state.blocked = waits;
            if waits {
                actions.push(AlignmentAction::Block(channel));
            }
        }
        self.snapshot_if_complete(actions);
    }

    fn on_cancel(&mut self, checkpoint: CheckpointId, actions: &mut Vec<AlignmentAction>) {
        let is_current = self.current == Some(checkpoint);
        if self.current.is_some_and(|current| checkpoint < current) || (is_current && !self.pending) {
            return;
        }
        // An older pending checkpoint ends without an abort of its own: the newer one's tells enough.
        self.resume_all(actions);
        self.current = Some(checkpoint);
        self.pending = false;
        actions.push(AlignmentAction::Abort(checkpoint, AbortReason::Cancelled));
    }

    fn on_end(&mut self, channel: usize, actions: &mut Vec<AlignmentAction>) {
        let Some(state) = self.channels.get_mut(channel) else { return };
        *state = Channel { ended: true, blocked: false, awaited: false };
        if self.pending {
            self.snapshot_if_complete(actions);
        }
    }

    fn snapshot_if_complete(&mut self, actions: &mut Vec<AlignmentAction>) {
        if self.channels.iter().any(|channel| channel.awaited) {
            return;
        }
        self.pending = false;
        actions.extend(self.current.map(AlignmentAction::Snapshot));
        self.resume_all(actions);
    }

    fn give_up_pending(&mut self, actions: &mut Vec<AlignmentAction>) {
        if self.pending {
            self.resume_all(actions);
            actions
                .extend(self.current.map(|current| AlignmentAction::Abort(current, AbortReason::Subsumed)));
        }
    }

    fn resume_all(&mut self, actions: &mut Vec<AlignmentAction>) {
        for (index, channel) in self.channels.iter_mut().enumerate() {
            if std::mem::take(&mut channel.blocked) {
                actions.push(AlignmentAction::Resume(index));
            }
        }
    }
}

#[cfg(test)]
mod tests;
