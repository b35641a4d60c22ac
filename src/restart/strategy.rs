//! Restart strategies: whether a failed job runs again, and when.

use super::{ExponentialDelay, FailureRate, FixedDelay};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;
use std::time::Duration;

/// What to do when an operator fails (Flink's restart strategies).
///
/// | strategy | restarts | after | take it when |
/// |---|---|---|---|
/// | [`none`](Self::none) | never | | the process is restarted from outside, or a failure should be seen at once |
/// | [`fixed_delay`](Self::fixed_delay) | so many times in the job's life | the same delay | trouble is short and rare; tests |
/// | [`failure_rate`](Self::failure_rate) | while failures do not come too fast | the same delay | failures are part of life, but a row of them is not |
/// | [`exponential_delay`](Self::exponential_delay) | without limit, or so many times in a row | growing delays | in doubt |
///
/// A job that sets none gets [exponential delay](ExponentialDelay) with its defaults if it takes
/// [checkpoints](crate::EnvironmentBuilder::checkpointing), else [`none`](Self::none): without checkpoints a restart begins with
/// empty state, and that should be chosen.
///
/// Errors that running again cannot mend – faults of the program or the configuration, damaged files, being fenced – are final
/// under every strategy. A strategy of your own is a [`RestartPolicy`](super::RestartPolicy).
///
/// # In a configuration file
///
/// The key `strategy` has Flink's name of it; `off` and `disable` also mean `none`. The other keys are named as the settings here, and
/// have defaults. A name alone means that strategy with its defaults. Durations are text: [`duration_text`](crate::checkpoint::duration_text).
///
/// ```toml
/// # restart = "exponential-delay", or:
/// [restart]
/// strategy = "failure-rate"  # or "fixed-delay": attempts, delay; or "exponential-delay": initial_delay, max_delay,
/// max_failures = 3           # multiplier, jitter, reset_threshold, attempts
/// interval = "5min"
/// delay = "1s"
/// ```
///
/// A program reads it as `Option<RestartStrategy>`, and where it is `None` does not set it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case", tag = "strategy")]
#[non_exhaustive]
pub enum RestartStrategy {
    /// The first failure is final.
    None,
    /// So many restarts, each after the same delay.
    FixedDelay(FixedDelay),
    /// Restarts until failures come too fast.
    FailureRate(FailureRate),
    /// Restarts after delays that grow from failure to failure.
    ExponentialDelay(ExponentialDelay),
}

impl RestartStrategy {
    /// Never restarts: the first failure ends the job with its error.
    #[must_use]
    pub fn none() -> Self {
        Self::None
    }

    /// Restarts `attempts` times in the life of the job, each time after `delay`. The next failure is final, however long the job ran
    /// before it.
    #[must_use]
    pub fn fixed_delay(attempts: u32, delay: Duration) -> Self {
        Self::FixedDelay(FixedDelay { attempts, delay })
    }

    /// Restarts after `delay`, until there are more than `max_failures` failures within `interval`: then that one is final.
    #[must_use]
    pub fn failure_rate(max_failures: u32, interval: Duration, delay: Duration) -> Self {
        Self::FailureRate(FailureRate { max_failures, interval, delay })
    }

    /// Restarts after delays that grow from failure to failure: with the defaults, after 1 s, 1.5 s, 2.25 s … up to 1 min, each give or
    /// take a tenth, until the job has run for an hour. The settings are those of [`ExponentialDelay`]; it becomes a strategy by `into`, and
    /// [`EnvironmentBuilder::restart`](crate::EnvironmentBuilder::restart) takes it as it is.
    #[must_use]
    pub fn exponential_delay() -> ExponentialDelay {
        ExponentialDelay::default()
    }

    /// The strategy of a job that sets none.
    #[must_use]
    pub fn default_for(takes_checkpoints: bool) -> Self {
        if takes_checkpoints { Self::exponential_delay().into() } else { Self::none() }
    }

    /// Everything wrong with the settings, one sentence each; empty if nothing is.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        match self {
            // Every number is a number of attempts, and every delay one.
            Self::None | Self::FixedDelay(_) => Vec::new(),
            Self::FailureRate(settings) => settings.faults(),
            Self::ExponentialDelay(settings) => settings.faults(),
        }
        .into_iter()
        .map(|fault| format!("restart strategy {fault}"))
        .collect()
    }
}

impl From<ExponentialDelay> for RestartStrategy {
    fn from(settings: ExponentialDelay) -> Self {
        Self::ExponentialDelay(settings)
    }
}

/// Its name in Flink, and its settings.
impl fmt::Display for RestartStrategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::FixedDelay(settings) => settings.fmt(f),
            Self::FailureRate(settings) => settings.fmt(f),
            Self::ExponentialDelay(settings) => settings.fmt(f),
        }
    }
}

/// A strategy as it is read. `None` is a struct so that keys it does not have are refused.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", tag = "strategy", deny_unknown_fields)]
enum Written {
    #[serde(alias = "off", alias = "disable")]
    None {},
    FixedDelay(FixedDelay),
    FailureRate(FailureRate),
    ExponentialDelay(ExponentialDelay),
}

impl From<Written> for RestartStrategy {
    fn from(written: Written) -> Self {
        match written {
            Written::None {} => Self::None,
            Written::FixedDelay(settings) => Self::FixedDelay(settings),
            Written::FailureRate(settings) => Self::FailureRate(settings),
            Written::ExponentialDelay(settings) => Self::ExponentialDelay(settings),
        }
    }
}

impl<'de> Deserialize<'de> for RestartStrategy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NameOrTable)
    }
}

struct NameOrTable;

impl<'de> Visitor<'de> for NameOrTable {
    type Value = RestartStrategy;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a restart strategy: none, fixed-delay, failure-rate or exponential-delay, by name or as a table with the key `strategy`",
        )
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<RestartStrategy, E> {
        let table = [("strategy", name)].into_iter();
        let table = serde::de::value::MapDeserializer::new(table.map(|(k, v)| (k, v.into_deserializer())));
        Written::deserialize(table).map(Into::into)
    }

    fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<RestartStrategy, A::Error> {
        Written::deserialize(MapAccessDeserializer::new(table)).map(Into::into)
    }
}

#[cfg(test)]
mod tests;
