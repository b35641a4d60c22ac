//! The checkpoint protocol as plain state machines and data: no I/O, no clock, no runtime.

mod alignment;
mod barrier;
mod completed;
mod compression;
mod coordinator;
pub mod duration_text;
pub mod envelope;
mod events;
mod failures;
mod increments;
pub mod metadata;
mod notifications;
mod pending;
mod region_attempts;
mod request;
mod retention;
mod settings;
mod statistics;

pub use alignment::{AbortReason, Alignment, AlignmentAction, AlignmentEvent};
pub use barrier::{Barrier, BarrierKind, Extent};
pub use completed::{CompletedCheckpoint, OperatorSummary, StateSummary};
pub use compression::Compression;
pub use coordinator::Coordinator;
pub use events::{Action, Event, PersistFailure};
pub use failures::{CheckpointFailure, FailureReason};
pub use increments::{Increments, WrittenPart};
pub use notifications::Notifications;
pub(crate) use region_attempts::RegionAttempts;
pub use request::{RequestId, RequestKind};
pub use retention::{JobEnd, deleted_at_end};
pub use settings::{Checkpointing, CheckpointingMode, Retention};
pub use statistics::{
    CheckpointCounts, CheckpointOutcome, CheckpointRecord, CheckpointStatistics, CheckpointSummary,
    RestoredCheckpoint, SnapshotReport, StatisticsTracker, SubtaskRecord, Summary,
};
