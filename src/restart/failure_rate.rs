//! Failure rate: restarts for as long as failures do not come too fast.

use super::RestartDecision;
use crate::checkpoint::duration_text;
use crate::types::Monotonic;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

/// Restarts until failures come too fast: [`RestartStrategy::failure_rate`](super::RestartStrategy::failure_rate).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct FailureRate {
    /// How many failures within one interval are followed by a restart, at least 1; one more is final. Default 1.
    pub max_failures: u32,
    /// The interval, at least 1 ms. Default 1 min. A failure counts against those before it while they are not older than this.
    /// With `max_failures`, the rate at which trouble is no longer worth riding out: start with 3 in 5 min.
    #[serde(with = "duration_text")]
    pub interval: Duration,
    /// How long to wait before each restart. Default 1 s. It is part of the time between failures: with one of more
    /// than `interval / max_failures` they can never come too fast.
    #[serde(with = "duration_text")]
    pub delay: Duration,
}

impl Default for FailureRate {
    fn default() -> Self {
        Self { max_failures: 1, interval: Duration::from_secs(60), delay: Duration::from_secs(1) }
    }
}

impl FailureRate {
    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.max_failures == 0 {
            faults.push(
                "failure-rate: max_failures is 0: give at least 1, or take the strategy none".to_owned(),
            );
        }
        if self.interval < Duration::from_millis(1) {
            let interval = duration_text::format(self.interval);
            faults.push(format!("failure-rate: interval is {interval}: give at least 1ms"));
        }
        faults
    }
}

impl fmt::Display for FailureRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (interval, delay) = (duration_text::format(self.interval), duration_text::format(self.delay));
        write!(f, "failure-rate (max_failures {}, interval {interval}, delay {delay})", self.max_failures)
    }
}

/// The times of the last failures, one more than are forgiven.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct RecentFailures {
    settings: FailureRate,
    times: VecDeque<Monotonic>,
}

impl RecentFailures {
    pub(super) fn new(settings: FailureRate) -> Self {
        Self { settings, times: VecDeque::new() }
    }

    pub(super) fn on_failure(&mut self, now: Monotonic) -> RestartDecision {
        self.times.push_back(now);
        if self.times.len() <= self.settings.max_failures as usize {
            return RestartDecision::After(self.settings.delay);
        }
        match self.times.pop_front() {
            Some(oldest) if now.since(oldest) <= self.settings.interval => RestartDecision::Never,
            _ => RestartDecision::After(self.settings.delay),
        }
    }
}
