//! The ground floor: ids, time, randomness, key groups and the stable key hash.
//!
//! Everything here is plain data without I/O. The rest of the crate takes time and randomness from
//! [`Clock`] and [`Random`] only, so that a job can run on virtual time and from a seed.

mod clock;
mod ids;
mod key_group;
mod random;
mod stable_hash;

pub use clock::{Clock, Monotonic, Timestamp};
pub use ids::{
    Attempt, ChainId, CheckpointId, EdgeId, Generation, JobName, KeyGroup, OperatorId, Port, RegionId,
    SubtaskId, SubtaskIndex,
};
pub use key_group::{KeyGroupRange, MaxParallelism, MaxParallelismError, default_max_parallelism};
pub use random::Random;
pub use stable_hash::{STABLE_HASH_VERSION, StableHashError, stable_hash};
