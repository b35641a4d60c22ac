//! What ties a source or a sink to the job that uses it, from start to end.

use crate::types::{CheckpointId, JobName};
use std::fmt;

/// What a source or a sink is told when a job that uses it starts: see [`Source::claim`](crate::Source::claim).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StartContext {
    /// The job.
    pub job: JobName,
    /// The checkpoint that it goes on from; `None` if it begins from nothing.
    pub restored: Option<CheckpointId>,
    /// Whether it takes checkpoints.
    pub checkpointing: bool,
}

/// What a job holds of a source or a sink from its start to its end, restarts included. When the job has ended, however it did,
/// it is dropped, before [`JobHandle::wait`](crate::JobHandle::wait) returns.
///
/// ```
/// use std::sync::Arc;
/// use strandline::{Claim, StartContext, prelude::*};
///
/// /// Serves one job at a time.
/// struct Device(Arc<()>);
///
/// impl Device {
///     /// For the `claim` of a source or a sink.
///     fn claim(&self, start: &StartContext) -> Result<Claim> {
///         if Arc::strong_count(&self.0) > 1 {
///             Err(format!("another job has the device: start {} later", start.job))?;
///         }
///         Ok(Claim::held(Arc::clone(&self.0)))
///     }
/// }
/// ```
#[derive(Default)]
pub struct Claim(Option<Box<dyn Send>>);

impl Claim {
    /// Nothing to hold.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Holds `guard`, whose `Drop` does what is to be done at the end of the job. It must neither block nor panic.
    #[must_use]
    pub fn held(guard: impl Send + 'static) -> Self {
        Self(Some(Box::new(guard)))
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Claim").field(&self.0.is_some()).finish()
    }
}
