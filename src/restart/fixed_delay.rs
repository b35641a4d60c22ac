//! Fixed delay: so many restarts, each after the same wait.

use crate::checkpoint::duration_text;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// So many restarts in the life of a job, each after the same delay: [`RestartStrategy::fixed_delay`](super::RestartStrategy::fixed_delay).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct FixedDelay {
    /// How many failures are followed by a restart. Default 1. More of them outlast longer trouble, and hide it for longer. With 0 the
    /// first failure is final.
    pub attempts: u32,
    /// How long to wait before each. Default 1 s. Short means little downtime, and hammering on what is down; start with one
    /// second.
    #[serde(with = "duration_text")]
    pub delay: Duration,
}

impl Default for FixedDelay {
    fn default() -> Self {
        Self { attempts: 1, delay: Duration::from_secs(1) }
    }
}

impl fmt::Display for FixedDelay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fixed-delay (attempts {}, delay {})", self.attempts, duration_text::format(self.delay))
    }
}
