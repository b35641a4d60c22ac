//! What flows through a channel.

use super::AnyBatch;
use crate::types::{CheckpointId, Timestamp};

/// A mark in the stream: everything before it belongs to the checkpoint, nothing after it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Barrier {
    /// The checkpoint.
    pub checkpoint: CheckpointId,
    /// Wall time of its trigger.
    pub triggered: Timestamp,
}

/// One item of a channel.
#[derive(Debug)]
pub enum Element {
    /// Records.
    Batch(AnyBatch),
    /// Snapshot here.
    Barrier(Barrier),
    /// The checkpoint will not come through this channel: forget its barriers.
    CancelBarrier(CheckpointId),
    /// No more records. Barriers may still follow: a subtask that has read its input keeps taking part in
    /// checkpoints until the job's final one.
    End,
}
