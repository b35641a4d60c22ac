//! The front door: [`Environment`] describes and starts jobs, [`JobHandle`] is how a service talks to a running one.

mod environment;
mod handle;
mod registry;

pub use crate::runtime::status::{CompletedCheckpoint, JobEvent, JobStatus};
pub use environment::{Environment, EnvironmentBuilder};
pub use handle::JobHandle;
