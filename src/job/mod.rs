//! The front door: [`Environment`] describes and starts jobs, [`JobHandle`] is how a service talks to a running one.

mod cancel_on_drop;
mod environment;
mod handle;
mod registry;
#[cfg(feature = "signal")]
mod stop_on_signal;

pub use crate::checkpoint::CompletedCheckpoint;
pub use crate::runtime::metrics::{
    ChainMetrics, CheckpointMetrics, JobMetrics, OperatorMetrics, StateMetrics, SubtaskMetrics,
};
pub use crate::runtime::status::{JobEvent, JobStatus};
pub use cancel_on_drop::CancelOnDrop;
pub use environment::{Environment, EnvironmentBuilder};
pub use handle::JobHandle;
