//! What flows through a channel.

use super::AnyBatch;
use crate::checkpoint::Barrier;
use crate::types::CheckpointId;

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
    End {
        /// Whether the input was ended by a drain, so that there may be more of it in another run.
        drained: bool,
    },
}
