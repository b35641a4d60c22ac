//! Restart strategies: whether a failed job runs again, and when.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What to do when an operator fails. (Flink's restart strategies; the names are those of its configuration.)
///
/// Default: [`none`](Self::none). For a job in production take [`fixed_delay`](Self::fixed_delay) with enough attempts to outlast
/// what it talks to being restarted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "strategy")]
#[non_exhaustive]
pub enum RestartStrategy {
    /// The first failure is final: the job ends with its error. Right where the process is restarted from outside.
    #[default]
    #[serde(alias = "off", alias = "disable")]
    None,
    /// The job is restarted `attempts` times in its life, each time after `delay`.
    FixedDelay {
        /// How many failures are followed by a restart. More of them outlast longer trouble, and hide it for longer.
        attempts: u32,
        /// How long to wait before each. Short means little downtime, and hammering on what is down; start with one
        /// second.
        #[serde(with = "crate::checkpoint::duration_text")]
        delay: Duration,
    },
}

impl RestartStrategy {
    /// Never restarts.
    #[must_use]
    pub fn none() -> Self {
        Self::None
    }

    /// Restarts `attempts` times, each time after `delay`.
    #[must_use]
    pub fn fixed_delay(attempts: u32, delay: Duration) -> Self {
        Self::FixedDelay { attempts, delay }
    }
}

/// What follows a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RestartDecision {
    /// Run again, this much later.
    After(Duration),
    /// Give up.
    Never,
}

/// The failures of a job so far, judged by its strategy.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Restarts {
    strategy: RestartStrategy,
    failures: u32,
}

impl Restarts {
    /// No failure yet.
    #[must_use]
    pub fn new(strategy: RestartStrategy) -> Self {
        Self { strategy, failures: 0 }
    }

    /// Counts a failure and says what follows it.
    pub fn on_failure(&mut self) -> RestartDecision {
        self.failures = self.failures.saturating_add(1);
        match &self.strategy {
            RestartStrategy::None => RestartDecision::Never,
            RestartStrategy::FixedDelay { attempts, delay } if self.failures <= *attempts => {
                RestartDecision::After(*delay)
            }
            RestartStrategy::FixedDelay { .. } => RestartDecision::Never,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s12_1_none_never_restarts() {
        let mut restarts = Restarts::new(RestartStrategy::none());
        assert_eq!(restarts.on_failure(), RestartDecision::Never);
    }

    #[test]
    fn s12_2_fixed_delay_restarts_n_times() {
        let delay = Duration::from_millis(7);
        let mut restarts = Restarts::new(RestartStrategy::fixed_delay(2, delay));
        assert_eq!(restarts.on_failure(), RestartDecision::After(delay));
        assert_eq!(restarts.on_failure(), RestartDecision::After(delay));
        assert_eq!(restarts.on_failure(), RestartDecision::Never);
        assert_eq!(
            Restarts::new(RestartStrategy::fixed_delay(0, delay)).on_failure(),
            RestartDecision::Never
        );
    }
}
