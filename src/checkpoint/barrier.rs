//! The mark in the stream that a checkpoint is made of.

use crate::types::{CheckpointId, Monotonic, Timestamp};

/// A mark in the stream: everything before it belongs to the checkpoint, nothing after it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Barrier {
    /// The checkpoint.
    pub checkpoint: CheckpointId,
    /// Wall time of its trigger; for people.
    pub triggered: Timestamp,
    /// Whether it may overtake the records before it.
    pub kind: BarrierKind,
    /// How much of the keyed state is written.
    pub extent: Extent,
}

/// How much of the keyed state a checkpoint writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Extent {
    /// All of it. So it is with savepoints, whatever the job's mode.
    Full,
    /// What has changed since `base`, and some key groups whole.
    Incremental {
        /// A completed checkpoint, whose files are kept for as long as this one is under way. A subtask that has no part in it writes all.
        base: Option<CheckpointId>,
        /// How many checkpoints may be needed to restore one.
        limit: u32,
    },
}

/// Whether the barriers of a checkpoint may overtake records (Flink's `CheckpointOptions.AlignmentType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BarrierKind {
    /// Never. Those of a job that aligns, and everywhere those of savepoints and of the final checkpoint.
    Aligned,
    /// From this moment on. It is reckoned from the creation of the checkpoint, not from the arrival of a barrier.
    AlignedUntil(Monotonic),
    /// At once.
    Unaligned,
}

impl BarrierKind {
    /// When it may overtake: `None` for never.
    #[must_use]
    pub fn overtakes_from(self) -> Option<Monotonic> {
        match self {
            Self::Aligned => None,
            Self::AlignedUntil(moment) => Some(moment),
            Self::Unaligned => Some(Monotonic::default()),
        }
    }
}
