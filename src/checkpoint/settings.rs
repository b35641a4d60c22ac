//! When and how checkpoints are taken, as plain data.

use super::duration_text;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Shortest interval and timeout accepted, as in Flink.
const SHORTEST: Duration = Duration::from_millis(10);

/// Settings of a job's checkpoints (Flink's `CheckpointConfig`).
///
/// ```
/// use std::time::Duration;
/// use strandline::checkpoint::Checkpointing;
///
/// let settings = Checkpointing::every(Duration::from_secs(5)).min_pause(Duration::from_secs(1)).retain(3);
/// assert!(settings.faults().is_empty());
/// ```
///
/// In a config file every duration is text such as `"200ms"` or `"10min"` (see
/// [`duration_text`]), a setting left out has its default, and an unknown name is an error.
/// Decisions are taken in whole milliseconds; a smaller part is ignored.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Checkpointing {
    #[serde(with = "duration_text")]
    interval: Duration,
    #[serde(with = "duration_text")]
    min_pause: Duration,
    #[serde(with = "duration_text")]
    timeout: Duration,
    max_concurrent: u32,
    tolerable_failures: u32,
    retain: u32,
    on_cancellation: Retention,
    history: u32,
}

/// What becomes of the completed checkpoints when the job ends; the whole table is at
/// [`deleted_at_end`](super::deleted_at_end).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retention {
    /// They stay, so that the job can be started again and goes on. The default, unlike in Flink, which keeps none unless
    /// asked: losing state by cancelling a job is the worse surprise, and disk space is cheap.
    #[default]
    Retain,
    /// They are deleted when the job finishes or is cancelled; after a failure they stay. For jobs whose state is worth
    /// nothing once they are stopped on purpose.
    Delete,
}

impl Default for Checkpointing {
    /// A checkpoint every 10 seconds, and the defaults of all else: a good start for most jobs.
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            min_pause: Duration::ZERO,
            timeout: Duration::from_secs(600),
            max_concurrent: 1,
            tolerable_failures: 0,
            retain: 1,
            on_cancellation: Retention::default(),
            history: 10,
        }
    }
}

impl Checkpointing {
    /// One checkpoint each `interval`, at least 10 ms. A shorter one means less work done again after a failure, and output
    /// committed sooner; a longer one means less writing. Start with 10 s; with two-phase sinks, with the delay your
    /// readers accept.
    #[must_use]
    pub fn every(interval: Duration) -> Self {
        Self { interval, ..Self::default() }
    }

    /// The least time from the completion of one checkpoint to the next periodic one. Default 0. Keeps a job whose checkpoints are
    /// slow from doing nothing else; the price is that they come less often than asked. Start with a tenth of the
    /// interval. A pause longer than the interval raises the interval. Checkpoints asked for by hand ignore it.
    #[must_use]
    pub fn min_pause(mut self, pause: Duration) -> Self {
        self.min_pause = pause;
        self
    }

    /// How long one checkpoint may take before it is given up, at least 10 ms. Default 10 min. Too short and a job under
    /// back-pressure never completes any; too long and one lost subtask holds up the next checkpoint. Start with the
    /// default. The commit itself is not interrupted: its outcome is waited for.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How many checkpoints may be under way at once, at least 1. Default 1. More keep a steady rhythm when one takes longer than
    /// the interval, at the price of more writing and more barriers in flight. Start with 1.
    #[must_use]
    pub fn max_concurrent(mut self, checkpoints: u32) -> Self {
        self.max_concurrent = checkpoints;
        self
    }

    /// How many checkpoints in a row may fail before the job fails and restarts. Default 0: the first failure does.
    /// `u32::MAX`: never. More ride out a storage hiccup, but a job that cannot complete a checkpoint commits no output
    /// and has ever more to do again. Start with 3 on a network storage. What counts is at
    /// [`FailureReason::counts`](super::FailureReason::counts).
    #[must_use]
    pub fn tolerable_failures(mut self, failures: u32) -> Self {
        self.tolerable_failures = failures;
        self
    }

    /// Fail or go on when a checkpoint fails: `true` is [`tolerable_failures(0)`](Self::tolerable_failures), the default, `false` is
    /// `tolerable_failures(u32::MAX)` (Flink's old `setFailOnCheckpointingErrors`). Between the two is mostly better.
    #[must_use]
    pub fn fail_on_checkpoint_errors(self, fail: bool) -> Self {
        self.tolerable_failures(if fail { 0 } else { u32::MAX })
    }

    /// How many completed checkpoints to keep, at least 1. Default 1. More let you go back further by hand, and cost their disk
    /// space. Start with 1; with 3 where the storage is not trusted.
    #[must_use]
    pub fn retain(mut self, checkpoints: u32) -> Self {
        self.retain = checkpoints;
        self
    }

    /// What becomes of the completed checkpoints when the job is cancelled. Default [`Retention::Retain`].
    #[must_use]
    pub fn on_cancellation(mut self, retention: Retention) -> Self {
        self.on_cancellation = retention;
        self
    }

    /// How many ended checkpoints [`JobHandle::checkpoint_stats`](crate::JobHandle::checkpoint_stats) remembers. Default 10. More show more of the past
    /// and cost some 100 bytes per subtask each. Start with 10.
    #[must_use]
    pub fn history(mut self, checkpoints: u32) -> Self {
        self.history = checkpoints;
        self
    }

    /// Time between two periodic checkpoints in force: the larger of what [`every`](Self::every) and
    /// [`min_pause`](Self::min_pause) say.
    #[must_use]
    pub fn get_interval(&self) -> Duration {
        self.interval.max(self.min_pause)
    }

    /// See [`min_pause`](Self::min_pause).
    #[must_use]
    pub fn get_min_pause(&self) -> Duration {
        self.min_pause
    }

    /// See [`timeout`](Self::timeout).
    #[must_use]
    pub fn get_timeout(&self) -> Duration {
        self.timeout
    }

    /// See [`max_concurrent`](Self::max_concurrent).
    #[must_use]
    pub fn get_max_concurrent(&self) -> u32 {
        self.max_concurrent
    }

    /// See [`tolerable_failures`](Self::tolerable_failures).
    #[must_use]
    pub fn get_tolerable_failures(&self) -> u32 {
        self.tolerable_failures
    }

    /// See [`retain`](Self::retain).
    #[must_use]
    pub fn get_retain(&self) -> u32 {
        self.retain
    }

    /// See [`on_cancellation`](Self::on_cancellation).
    #[must_use]
    pub fn get_on_cancellation(&self) -> Retention {
        self.on_cancellation
    }

    /// See [`history`](Self::history).
    #[must_use]
    pub fn get_history(&self) -> u32 {
        self.history
    }

    /// Everything wrong with these settings, one sentence each; empty if nothing is.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (name, value) in [("interval", self.interval), ("timeout", self.timeout)] {
            if value < SHORTEST {
                let value = duration_text::format(value);
                faults.push(format!("checkpointing: {name} is {value}: give at least 10ms"));
            }
        }
        for (name, value) in [("max_concurrent", self.max_concurrent), ("retain", self.retain)] {
            if value < 1 {
                faults.push(format!("checkpointing: {name} is {value}: give at least 1"));
            }
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::IntoDeserializer;
    use serde::de::value::{Error, MapDeserializer};

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn read<const N: usize>(entries: [(&'static str, &'static str); N]) -> Result<Checkpointing, Error> {
        Checkpointing::deserialize(MapDeserializer::new(
            entries.into_iter().map(|(k, v)| (k, v.into_deserializer())),
        ))
    }

    #[test]
    fn s2_8_all_faults_are_listed() {
        let bad = Checkpointing::every(ms(9)).timeout(ms(9)).max_concurrent(0).retain(0);
        let faults = bad.faults().join("\n");
        assert_eq!(bad.faults().len(), 4, "{faults}");
        for name in ["interval is 9ms", "timeout is 9ms", "max_concurrent is 0", "retain is 0"] {
            assert!(faults.contains(name), "{name} in {faults}");
        }
        let least = Checkpointing::every(ms(10)).timeout(ms(10)).max_concurrent(1).retain(1);
        assert_eq!(least.faults(), Vec::<String>::new());
        assert!(Checkpointing::default().faults().is_empty());
    }

    #[test]
    fn s2_8_min_pause_raises_the_interval_and_goes_with_concurrency() {
        let settings = Checkpointing::every(ms(100)).min_pause(ms(250)).max_concurrent(3);
        assert_eq!(settings.get_interval(), ms(250));
        assert!(settings.faults().is_empty());
    }

    #[test]
    fn s4_6_fail_or_go_on_is_none_or_all_tolerated() {
        let tolerated =
            |fail| Checkpointing::default().fail_on_checkpoint_errors(fail).get_tolerable_failures();
        assert_eq!((tolerated(true), tolerated(false)), (0, u32::MAX));
        assert_eq!(Checkpointing::default().get_tolerable_failures(), 0);
    }

    #[test]
    fn settings_read_from_text_and_default_what_is_left_out() {
        let settings =
            read([("interval", "200ms"), ("timeout", "2min"), ("on_cancellation", "delete")]).unwrap();
        assert_eq!(
            settings,
            Checkpointing::every(ms(200)).timeout(ms(120_000)).on_cancellation(Retention::Delete)
        );
        assert_eq!(read([]).unwrap(), Checkpointing::default());
        let typo = read([("intervall", "200ms")]).unwrap_err().to_string();
        assert!(typo.contains("intervall") && typo.contains("min_pause"), "{typo}");
        let unit = read([("interval", "200")]).unwrap_err().to_string();
        assert!(unit.contains("`200`"), "{unit}");
    }

    #[test]
    fn settings_survive_a_round_trip() {
        let settings = Checkpointing::every(ms(1_234)).min_pause(ms(5)).tolerable_failures(7).retain(2);
        let bytes = postcard::to_stdvec(&settings).unwrap();
        assert_eq!(postcard::from_bytes::<Checkpointing>(&bytes).unwrap(), settings);
    }
}
