//! The data plane: batches of records and barriers between subtasks.
//!
//! One bounded [channel](channel) of elements per producing and consuming subtask; an [`InputGate`] in front of each
//! consumer, which aligns barriers; a [`Router`] at the end of each producer, which partitions. Nothing here
//! blocks and nothing waits: a subtask that can do nothing goes to sleep in its [`WakeCell`].

mod batch;
mod element;
mod gate;
mod partitioner;
mod ring;
mod router;
mod wake;

pub use batch::{AnyBatch, Batch, batch_capacity};
pub use element::{Barrier, Element};
pub use gate::{GateEvent, InputGate};
pub use partitioner::{ByKey, Partitioner, RoundRobin};
pub use ring::{Flow, Input, Output, channel};
pub use router::{BroadcastRouter, Route, Router};
pub use wake::WakeCell;
