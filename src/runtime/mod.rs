//! The actors that run a job: thin shells round the pure parts below.
//!
//! [`JobActor`](job::JobActor) is the root; [`CoordinatorActor`](coordinator::CoordinatorActor) drives checkpoints;
//! [`RegionSupervisor`](region::RegionSupervisor) starts, watches and restarts the
//! [`SubtaskActor`](subtask::SubtaskActor)s, one per parallel instance of a chain.

mod barrier_times;
mod checkpoint_books;
pub(crate) mod coordinator;
pub(crate) mod engine;
mod in_flight;
pub(crate) mod job;
mod job_end;
mod job_meter;
mod launch;
pub(crate) mod messages;
pub(crate) mod metrics;
#[cfg(feature = "metrics")]
mod metrics_facade;
pub(crate) mod opening;
pub(crate) mod region;
mod restart_budget;
pub(crate) mod restore;
mod seed;
mod snapshot;
pub(crate) mod status;
mod subtask;
mod tracing_scope;
mod turn;
mod uploads;
mod watchdog;
mod wiring;
