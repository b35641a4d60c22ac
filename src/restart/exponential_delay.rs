//! Exponential delay: each wait longer than the one before, until the job has run well for a while.

use super::RestartDecision;
use super::factor::Factor;
use crate::checkpoint::duration_text;
use crate::types::Monotonic;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// Restarts after waits that grow from failure to failure: [`RestartStrategy::exponential_delay`](super::RestartStrategy::exponential_delay).
///
/// The wait after failure *k* is `initial_delay` × `multiplier`^(*k* − 1), at most `max_delay`; then jitter is added or taken off,
/// within the same two bounds. When the job has run for `reset_threshold` without a failure, counting begins again. The
/// defaults are Flink's. Whole milliseconds; a smaller part is ignored.
///
/// ```
/// use std::time::Duration;
/// use strandline::RestartStrategy;
///
/// let patient = RestartStrategy::exponential_delay().max_delay(Duration::from_secs(300)).multiplier(2.0);
/// let strategy = RestartStrategy::from(patient.attempts(10));
/// assert!(strategy.faults().is_empty());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExponentialDelay {
    #[serde(with = "duration_text")]
    initial_delay: Duration,
    #[serde(with = "duration_text")]
    max_delay: Duration,
    multiplier: Factor,
    jitter: Factor,
    #[serde(with = "duration_text")]
    reset_threshold: Duration,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<u32>,
}

impl Default for ExponentialDelay {
    fn default() -> Self {
        Self {
            initial_delay: Duration::from_secs(1),
            max_delay: Duration::from_secs(60),
            multiplier: Factor(1.5),
            jitter: Factor(0.1),
            reset_threshold: Duration::from_secs(3600),
            attempts: None,
        }
    }
}

impl ExponentialDelay {
    /// The wait after the first failure, at least 1 ms; no wait is shorter. Default and recommended: 1 s. It is the downtime of a
    /// hiccup.
    #[must_use]
    pub fn initial_delay(mut self, delay: Duration) -> Self {
        self.initial_delay = delay;
        self
    }

    /// The longest wait, at least `initial_delay`. Default 1 min. It bounds how long a job stays down after what it needs has come
    /// back; longer spares what is down.
    #[must_use]
    pub fn max_delay(mut self, delay: Duration) -> Self {
        self.max_delay = delay;
        self
    }

    /// By what the wait grows from one failure to the next: more than 1, to six decimals. Default 1.5; with 2 it reaches
    /// `max_delay` in half as many failures.
    #[must_use]
    pub fn multiplier(mut self, factor: f64) -> Self {
        self.multiplier = Factor(factor);
        self
    }

    /// Which share of a wait is added or taken off at random: 0 to 1. Default 0.1. It keeps jobs that failed together from coming
    /// back together; with 0 every wait is known beforehand.
    #[must_use]
    pub fn jitter(mut self, share: f64) -> Self {
        self.jitter = Factor(share);
        self
    }

    /// How long the job must run after a restart for the next failure to count as the first again, at least 1 ms. Default
    /// 1 h. Take clearly more than it needs to meet the same trouble again, or it hammers on that for ever.
    #[must_use]
    pub fn reset_threshold(mut self, threshold: Duration) -> Self {
        self.reset_threshold = threshold;
        self
    }

    /// How many failures in a row, without a reset between, are followed by a restart, at least 1; one more is final. Default: all.
    /// Unlimited rides out everything and needs someone to watch restarts; a limit turns lasting trouble into an error.
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = Some(attempts);
        self
    }

    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut fault = |what: String| faults.push(format!("exponential-delay: {what}"));
        for (name, value) in
            [("initial_delay", self.initial_delay), ("reset_threshold", self.reset_threshold)]
        {
            if value < Duration::from_millis(1) {
                fault(format!("{name} is {}: give at least 1ms", duration_text::format(value)));
            }
        }
        if self.max_delay < self.initial_delay {
            let [max, initial] = [self.max_delay, self.initial_delay].map(duration_text::format);
            fault(format!("max_delay is {max}: give at least the initial_delay, {initial}"));
        }
        if !self.multiplier.grows() {
            fault(format!(
                "multiplier is {}: give more than 1, to six decimals, such as 1.5",
                self.multiplier
            ));
        }
        if !self.jitter.is_share() {
            fault(format!("jitter is {}: give a share from 0 to 1, such as 0.1", self.jitter));
        }
        if self.attempts == Some(0) {
            fault(
                "attempts is 0: give at least 1, or leave it out for no limit, or take the strategy none"
                    .into(),
            );
        }
        faults
    }
}

impl fmt::Display for ExponentialDelay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [initial, max, reset] =
            [self.initial_delay, self.max_delay, self.reset_threshold].map(duration_text::format);
        let (multiplier, jitter) = (self.multiplier, self.jitter);
        write!(
            f,
            "exponential-delay (initial_delay {initial}, max_delay {max}, multiplier {multiplier}, jitter {jitter}, \
             reset_threshold {reset}"
        )?;
        match self.attempts {
            Some(attempts) => write!(f, ", attempts {attempts})"),
            None => f.write_str(")"),
        }
    }
}

/// A wait in 10⁻¹⁸ ms: so fine that rounding down at each step gives the same milliseconds as the power itself.
const FINE: u128 = 1_000_000_000_000_000_000;

/// How far an [`ExponentialDelay`] has come.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Backoff {
    settings: ExponentialDelay,
    /// Failures since counting began.
    failures: u32,
    /// The next wait, without jitter, in [`FINE`] parts.
    next: u128,
    /// When the last wait ends or ended.
    restart_at: Option<Monotonic>,
    /// Whether the restart has not been reported yet.
    waiting: bool,
}

impl Backoff {
    pub(super) fn new(settings: ExponentialDelay) -> Self {
        let next = millis(settings.initial_delay) * FINE;
        Self { settings, failures: 0, next, restart_at: None, waiting: false }
    }

    /// A failure during the wait belongs to the one that is being waited for: it gets the rest of that wait and is not counted.
    pub(super) fn on_failure(&mut self, now: Monotonic, random: u64) -> RestartDecision {
        if let Some(restart_at) = self.restart_at {
            if self.waiting && now <= restart_at {
                return RestartDecision::After(restart_at.since(now));
            }
            if now.since(restart_at).as_millis() >= millis(self.settings.reset_threshold) {
                *self = Self::new(self.settings.clone());
            }
        }
        self.failures = self.failures.saturating_add(1);
        if self.settings.attempts.is_some_and(|attempts| self.failures > attempts) {
            return RestartDecision::Never;
        }
        let delay = self.jittered(random);
        self.grow();
        self.restart_at = Some(now.after(delay));
        self.waiting = true;
        RestartDecision::After(delay)
    }

    pub(super) fn on_restart(&mut self) {
        self.waiting = false;
    }

    /// Bounded after the jitter, as the power is before it: so nothing added to it goes wrong, and the jitter is a share of a real
    /// wait.
    fn jittered(&self, random: u64) -> Duration {
        let (initial, max) = (millis(self.settings.initial_delay), millis(self.settings.max_delay));
        let base = self.next / FINE;
        let most = self.settings.jitter.times(base);
        let offset = u128::from(random) % (2 * most + 1);
        let delay = (base + offset).saturating_sub(most).min(max).max(initial);
        Duration::from_millis(u64::try_from(delay).unwrap_or(u64::MAX))
    }

    fn grow(&mut self) {
        self.next = self.settings.multiplier.times(self.next).min(millis(self.settings.max_delay) * FINE);
    }
}

/// At most `u64::MAX`.
fn millis(duration: Duration) -> u128 {
    duration.as_millis().min(u128::from(u64::MAX))
}
