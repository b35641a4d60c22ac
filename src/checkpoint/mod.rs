//! The checkpoint protocol as plain state machines and data: no I/O, no clock, no runtime.

mod alignment;
mod barrier;
mod coordinator;
pub mod duration_text;
pub mod envelope;
mod events;
mod failures;
pub mod metadata;
mod pending;
mod request;
mod retention;
mod settings;

pub use alignment::{AbortReason, Alignment, AlignmentAction, AlignmentEvent};
pub use barrier::{Barrier, BarrierKind};
pub use coordinator::Coordinator;
pub use events::{Action, Event, PersistFailure};
pub use failures::{CheckpointFailure, FailureReason};
pub use request::{RequestId, RequestKind};
pub use retention::{JobEnd, deleted_at_end};
pub use settings::{Checkpointing, CheckpointingMode, Retention};
