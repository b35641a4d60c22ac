//! A strategy at work.

use super::exponential_delay::Backoff;
use super::failure_rate::RecentFailures;
use super::{Failure, FixedDelay, RestartDecision, RestartPolicy, RestartStrategy};
use crate::types::Monotonic;

/// A [`RestartStrategy`] at work: the failures of one start of a job, and what follows them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Restarts {
    strategy: RestartStrategy,
    progress: Progress,
}

/// What a strategy remembers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Progress {
    None,
    FixedDelay { settings: FixedDelay, failures: u32 },
    FailureRate(RecentFailures),
    ExponentialDelay(Backoff),
}

impl Restarts {
    /// No failure yet.
    #[must_use]
    pub fn new(strategy: impl Into<RestartStrategy>) -> Self {
        let strategy = strategy.into();
        let progress = match strategy.clone() {
            RestartStrategy::None => Progress::None,
            RestartStrategy::FixedDelay(settings) => Progress::FixedDelay { settings, failures: 0 },
            RestartStrategy::FailureRate(settings) => Progress::FailureRate(RecentFailures::new(settings)),
            RestartStrategy::ExponentialDelay(settings) => Progress::ExponentialDelay(Backoff::new(settings)),
        };
        Self { strategy, progress }
    }
}

impl RestartPolicy for Restarts {
    fn on_failure(&mut self, failure: &Failure<'_>) -> RestartDecision {
        match &mut self.progress {
            Progress::None => RestartDecision::Never,
            Progress::FixedDelay { settings, failures } => {
                *failures = failures.saturating_add(1);
                if *failures <= settings.attempts {
                    RestartDecision::After(settings.delay)
                } else {
                    RestartDecision::Never
                }
            }
            Progress::FailureRate(recent) => recent.on_failure(failure.now),
            Progress::ExponentialDelay(backoff) => backoff.on_failure(failure.now, failure.random),
        }
    }

    fn on_restart(&mut self, _: Monotonic) {
        if let Progress::ExponentialDelay(backoff) = &mut self.progress {
            backoff.on_restart();
        }
    }

    fn describe(&self) -> String {
        self.strategy.to_string()
    }
}

#[cfg(test)]
mod tests;
