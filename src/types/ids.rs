//! Newtypes for every id, so that a checkpoint id is never mistaken for an attempt.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The id that follows this one.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(name: &str) -> Self {
                Self(name.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

number! {
    /// Number of a checkpoint: grows by one with every trigger of a job, failed ones included, and never repeats
    /// among the completed ones.
    CheckpointId(u64)
}
number! {
    /// Which run of the *process* this is: the position of its claim in the job log, so it grows from run to run, with gaps. A process with a
    /// lower generation than the log's newest claim is fenced.
    Generation(u64)
}
number! {
    /// Which run of its part of the *dataflow* inside one process this is: 0 first, one more after every restart. Each
    /// [failover region](RegionId) counts its own.
    Attempt(u32)
}
number! {
    /// A failover region: a part of a job that no records leave or enter, and that is restarted as a whole (Flink's pipelined region).
    RegionId(u32)
}
number! {
    /// Position of a chain (operators fused into one subtask) in the plan.
    ChainId(u32)
}
number! {
    /// Position of an edge (from chains to a chain) in the plan.
    EdgeId(u32)
}
number! {
    /// Which of a chain's inputs, from 0: an operator that takes records of several types has one for each. Several edges may lead to one.
    Port(u32)
}
number! {
    /// Which of the parallel instances of a chain, from 0.
    SubtaskIndex(u32)
}
number! {
    /// One of the `max_parallelism` parts the key space is cut into; the unit in which keyed state moves.
    KeyGroup(u16)
}
name! {
    /// The uid the user gave a source, operator or sink. State is matched by it.
    OperatorId
}
name! {
    /// Name of a job, unique among the running jobs of a process; also its folder in checkpoint storage.
    JobName
}

/// One parallel instance of one chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SubtaskId {
    /// The chain it runs.
    pub chain: ChainId,
    /// Which of the chain's parallel instances it is.
    pub index: SubtaskIndex,
}

impl fmt::Display for SubtaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.chain, self.index)
    }
}
