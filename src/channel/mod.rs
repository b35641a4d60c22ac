//! The data plane: batches of records and barriers between subtasks.
//!
//! One bounded [channel](channel) of elements per producing and consuming subtask; an [`InputGate`] in front of each
//! consumer, which aligns barriers; a [`Router`] at the end of each producer, which partitions. Nothing here
//! blocks and nothing waits: a subtask that can do nothing goes to sleep in its [`WakeCell`].

mod announce;
mod batch;
mod capture;
mod element;
mod gate;
mod partitioner;
mod record;
mod ring;
mod router;
mod sync;
mod wake;

#[cfg(test)]
mod wake_tests;

pub use crate::checkpoint::Barrier;
pub use announce::{Announcements, Listener};
pub use batch::{AnyBatch, Batch, Hashed, batch_capacity};
pub use capture::InFlight;
pub use element::Element;
pub use gate::{GateEvent, InHand, Inlet, InputGate, Origin};
pub use partitioner::{ByKey, Partitioner, RoundRobin};
pub use record::{Record, RecordCodec};
pub use ring::{Flow, Input, Output, channel};
pub use router::{BroadcastRouter, Route, Router};
pub use wake::WakeCell;
