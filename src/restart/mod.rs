//! Restart policies, as plain state machines: what happens after a failure.

mod strategy;

pub use strategy::{RestartDecision, RestartStrategy, Restarts};
