//! What is counted while a job runs, and the names under which it is exported.
//!
//! The figures themselves come from [`JobHandle::metrics`](crate::JobHandle::metrics). With the cargo feature `metrics` (on by default)
//! they also go to the recorder of the [`metrics`](https://docs.rs/metrics) facade, under the names that [`ALL`] lists;
//! `docs/observability.md` has the same list and says how to read it.

mod counters;
mod names;
mod stopwatch;

pub(crate) use counters::{OperatorCounters, StateLevels, SubtaskCounters, SubtaskHandles};
pub use names::*;
pub(crate) use stopwatch::{Activity, Pulse, Stopwatch};
