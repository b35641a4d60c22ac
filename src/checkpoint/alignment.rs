//! When a subtask with several inputs snapshots, as pure state machines over channel indices: one for exactly-once, one for
//! at-least-once.

mod exactly_once;
mod tracker;

use super::{Barrier, CheckpointingMode};
use crate::types::{CheckpointId, Monotonic};
use exactly_once::ExactlyOnce;
use tracker::Tracker;

/// What came through a channel, or is known of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AlignmentEvent {
    /// A barrier that may overtake is on its way in some channel. Only a hint: the barrier itself says the same.
    Announced(Barrier),
    /// A barrier. Seen in the channel is as good as taken from it, if all that is before it has been captured for its checkpoint.
    Barrier {
        /// Through which channel.
        channel: usize,
        /// The barrier.
        barrier: Barrier,
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
    /// The [`deadline`](Alignment::deadline) may have come. Early or repeated does no harm.
    Timer,
}

/// What to do about it, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AlignmentAction {
    /// Take nothing more from this channel.
    Block(usize),
    /// Take from this channel again.
    Resume(usize),
    /// Snapshot now, before anything else is taken.
    Snapshot(Barrier),
    /// Snapshot now, before anything else is taken, although records from before the barriers are still in channels. They
    /// belong to the snapshot: those of every channel that [captures](Alignment::captures), up to its barrier.
    SnapshotUnaligned(Barrier),
    /// The barriers of all channels have come: the records in flight that belong to this snapshot are all captured.
    Captured(CheckpointId),
    /// This checkpoint is not taken here. If its snapshot was, what was captured so far is worth nothing.
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
pub struct Alignment(Mode);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Mode {
    ExactlyOnce(ExactlyOnce),
    AtLeastOnce(Tracker),
}

impl Alignment {
    /// For this many open channels.
    #[must_use]
    pub fn new(channels: usize, mode: CheckpointingMode) -> Self {
        Self(match mode {
            CheckpointingMode::ExactlyOnce => Mode::ExactlyOnce(ExactlyOnce::new(channels)),
            CheckpointingMode::AtLeastOnce => Mode::AtLeastOnce(Tracker::new(channels)),
        })
    }

    /// Whether nothing may be taken from `channel`.
    #[inline]
    #[must_use]
    pub fn is_blocked(&self, channel: usize) -> bool {
        match &self.0 {
            Mode::ExactlyOnce(alignment) => alignment.is_blocked(channel),
            Mode::AtLeastOnce(_) => false,
        }
    }

    /// Whether what is in `channel` before its next barrier belongs to a snapshot that has been taken.
    #[must_use]
    pub fn captures(&self, channel: usize) -> bool {
        match &self.0 {
            Mode::ExactlyOnce(alignment) => alignment.captures(channel),
            Mode::AtLeastOnce(_) => false,
        }
    }

    /// When to send [`AlignmentEvent::Timer`], if ever.
    #[must_use]
    pub fn deadline(&self) -> Option<Monotonic> {
        match &self.0 {
            Mode::ExactlyOnce(alignment) => alignment.deadline(),
            Mode::AtLeastOnce(_) => None,
        }
    }

    /// Takes an event. Events of a blocked channel must not be given; an unknown channel is ignored.
    pub fn on(&mut self, event: AlignmentEvent, now: Monotonic) -> Vec<AlignmentAction> {
        let mut actions = Vec::new();
        match &mut self.0 {
            Mode::ExactlyOnce(alignment) => alignment.on(event, now, &mut actions),
            Mode::AtLeastOnce(tracker) => tracker.on(event, &mut actions),
        }
        actions
    }
}

#[cfg(test)]
mod tests;
