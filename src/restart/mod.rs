//! Restart strategies and failover regions, as plain state machines: what happens after a failure, and to how much of the job.
//!
//! [`RestartStrategy`] is the setting; [`Restarts`] is one at work: it hears of failures and decides. A policy of your own is a
//! [`RestartPolicy`]. What has failed so far is kept as [`FailureRecord`]s.

mod exponential_delay;
mod factor;
mod failover;
mod failure_rate;
mod fixed_delay;
mod history;
mod policy;
mod regions;
mod restarts;
mod strategy;

pub use exponential_delay::ExponentialDelay;
pub use failure_rate::FailureRate;
pub use fixed_delay::FixedDelay;
pub use history::{FailureOutcome, FailureRecord};
pub use policy::{Failure, RestartDecision, RestartPolicy};
pub use restarts::Restarts;
pub use strategy::RestartStrategy;

pub(crate) use failover::Failover;
pub(crate) use history::{FailureHistory, FailureId};
pub(crate) use policy::Restart;
pub(crate) use regions::failover_regions;
