//! When and how checkpoints are taken, as plain data.

use super::{BarrierKind, Compression, duration_text};
use crate::types::Monotonic;
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
    mode: CheckpointingMode,
    unaligned: bool,
    #[serde(with = "duration_text")]
    aligned_timeout: Duration,
    #[serde(with = "duration_text")]
    min_pause: Duration,
    #[serde(with = "duration_text")]
    timeout: Duration,
    max_concurrent: u32,
    tolerable_failures: u32,
    retain: u32,
    on_cancellation: Retention,
    history: u32,
    incremental: bool,
    max_increments: u32,
    snapshot_memory: u64,
    max_transfers: u32,
    compression: Compression,
}

/// What state is after a failure (Flink's `CheckpointingMode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckpointingMode {
    /// As if every record had been processed once. The default.
    #[default]
    ExactlyOnce,
    /// As if every record had been processed once or more: none is lost, some may count again.
    AtLeastOnce,
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
            mode: CheckpointingMode::default(),
            unaligned: false,
            aligned_timeout: Duration::ZERO,
            min_pause: Duration::ZERO,
            timeout: Duration::from_secs(600),
            max_concurrent: 1,
            tolerable_failures: 0,
            retain: 1,
            on_cancellation: Retention::default(),
            history: 10,
            incremental: false,
            max_increments: 256,
            snapshot_memory: 1 << 30,
            max_transfers: 4,
            compression: Compression::None,
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

    /// Barriers are counted and hold nothing back: [`CheckpointingMode::AtLeastOnce`]. Default: exactly once.
    ///
    /// A subtask with several inputs never waits for the slowest of them, so latency stays even. The price is that after a failure
    /// some records count twice in its state, and what sinks commit holds them twice. For state that does not mind, such as a
    /// maximum or a last value. Where what hurts is back-pressure, [`unaligned`](Self::unaligned) does as well and stays exact.
    #[must_use]
    pub fn at_least_once(mut self) -> Self {
        self.mode = CheckpointingMode::AtLeastOnce;
        self
    }

    /// Barriers overtake the records before them, which become part of the checkpoint. Default: they wait their turn (*aligned*).
    ///
    /// A checkpoint then takes about the same short time however full the channels are, where an aligned one takes as long as
    /// the records in front of its barriers. The price is that what the channels hold is copied, written, and read again at a restart:
    /// at most their depth, times the number of channels. Only with exactly once, and with one checkpoint at a time. The final
    /// checkpoint always aligns. Start with aligned; where back-pressure makes checkpoints slow, with
    /// [`aligned_timeout`](Self::aligned_timeout). Source: Flink's `execution.checkpointing.unaligned.enabled`.
    #[must_use]
    pub fn unaligned(mut self) -> Self {
        self.unaligned = true;
        self
    }

    /// Barriers wait their turn at first; those of a checkpoint that is older than this overtake from then on, as with
    /// [`unaligned`](Self::unaligned), which this implies. Default 0: at once. Short and little is gained over `unaligned`; long and checkpoints
    /// under back-pressure take that much longer. Start with 1 s, well below [`timeout`](Self::timeout). The time counts from the
    /// creation of the checkpoint. Source: Flink's `execution.checkpointing.aligned-checkpoint-timeout`.
    #[must_use]
    pub fn aligned_timeout(mut self, timeout: Duration) -> Self {
        self.aligned_timeout = timeout;
        self.unaligned()
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

    /// Whether a checkpoint writes of keyed state only what has changed since the last completed one. Default `false`: all of it.
    ///
    /// With a state much larger than what changes from one checkpoint to the next, checkpoints get that much smaller. The price is that every
    /// first change of an entry after a checkpoint costs more, 4 bytes of memory per entry, several times the state on disk, and a restart that reads up
    /// to two and a half times the state. Turn it on where a checkpoint takes longer than you like and less than about a quarter of the keys
    /// changes in an interval. May be changed from one run to the next. Source: Flink's `execution.checkpointing.incremental`.
    #[must_use]
    pub fn incremental(mut self, incremental: bool) -> Self {
        self.incremental = incremental;
        self
    }

    /// How many checkpoints one [incremental](Self::incremental) checkpoint may need, itself included; at least 1. Default 256. Each writes
    /// about the nth part of the state whole, whatever has changed, so that old files can go: fewer mean a shorter restart and less disk space, more
    /// mean smaller checkpoints. Start with the default; with 32 where a tenth of the state or more changes in an interval.
    #[must_use]
    pub fn max_increments(mut self, checkpoints: u32) -> Self {
        self.max_increments = checkpoints;
        self
    }

    /// How many bytes one keyed state of one subtask may hold in memory for one checkpoint: what changes before the checkpoint has got to
    /// it is encoded first, as it was, and waits. Beside it comes one key group, which is encoded in one piece. Default: 1 GiB. A checkpoint that needs more is declined, and
    /// [counts as failed](Self::tolerable_failures); the process is not killed for want of memory.
    ///
    /// At most it is what the state is large when encoded. Leave it where that fits into memory twice; where it does not, set it to the
    /// memory that is left, divided by the number of subtasks, and tolerate some failures. The metric `strandline_state_snapshot_bytes` says
    /// what is used.
    #[must_use]
    pub fn snapshot_memory(mut self, bytes: u64) -> Self {
        self.snapshot_memory = bytes;
        self
    }

    /// How many calls to the storage a job makes at once, at least 1, to write the state of its subtasks to files or to read it back. Default 4.
    /// More are faster on storage that answers slowly and does many things at once, such as an object store, and take bandwidth away from
    /// others; with fewer, subtasks wait for each other, and what changes meanwhile waits in memory
    /// ([`snapshot_memory`](Self::snapshot_memory)). Start with the default on a local drive, with 16 on a storage in a network. Source: Flink's
    /// `state.backend.rocksdb.checkpoint.transfer.thread.num`, which counts per operator.
    #[must_use]
    pub fn max_transfers(mut self, calls: u32) -> Self {
        self.max_transfers = calls;
        self
    }

    /// How files of state are compressed. Default [`Compression::None`]. [`Compression::Lz4`], with the cargo feature `lz4`, makes files smaller
    /// where state repeats itself, and costs the pool's time at a checkpoint and at a restart. Start without; turn it on where the storage, or the way to
    /// it, is what checkpoints wait for, or where its space is dear. A file says how it is compressed, so this may be changed from one run to the
    /// next. Source: Flink's `execution.checkpointing.snapshot-compression`.
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// Time between two periodic checkpoints in force: the larger of what [`every`](Self::every) and
    /// [`min_pause`](Self::min_pause) say.
    #[must_use]
    pub fn get_interval(&self) -> Duration {
        self.interval.max(self.min_pause)
    }

    /// See [`at_least_once`](Self::at_least_once).
    #[must_use]
    pub fn get_mode(&self) -> CheckpointingMode {
        self.mode
    }

    /// See [`unaligned`](Self::unaligned).
    #[must_use]
    pub fn is_unaligned(&self) -> bool {
        self.unaligned
    }

    /// See [`aligned_timeout`](Self::aligned_timeout).
    #[must_use]
    pub fn get_aligned_timeout(&self) -> Duration {
        self.aligned_timeout
    }

    /// What the barriers of a checkpoint that is created now may do.
    #[must_use]
    pub fn barrier_kind(&self, now: Monotonic) -> BarrierKind {
        match (self.unaligned, self.aligned_timeout) {
            (false, _) => BarrierKind::Aligned,
            (true, Duration::ZERO) => BarrierKind::Unaligned,
            (true, timeout) => BarrierKind::AlignedUntil(now.after(timeout)),
        }
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

    /// See [`incremental`](Self::incremental).
    #[must_use]
    pub fn is_incremental(&self) -> bool {
        self.incremental
    }

    /// See [`snapshot_memory`](Self::snapshot_memory).
    #[must_use]
    pub fn get_snapshot_memory(&self) -> u64 {
        self.snapshot_memory
    }

    /// See [`max_transfers`](Self::max_transfers).
    #[must_use]
    pub fn get_max_transfers(&self) -> u32 {
        self.max_transfers
    }

    /// See [`compression`](Self::compression).
    #[must_use]
    pub fn get_compression(&self) -> Compression {
        self.compression
    }

    /// See [`max_increments`](Self::max_increments).
    #[must_use]
    pub fn get_max_increments(&self) -> u32 {
        self.max_increments
    }

    /// How many checkpoints an incremental one may need; `None` if all are full.
    pub(crate) fn increments(&self) -> Option<u32> {
        self.incremental.then(|| self.max_increments.max(1))
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
        let counts = [
            ("max_concurrent", self.max_concurrent),
            ("retain", self.retain),
            ("max_increments", self.max_increments),
            ("max_transfers", self.max_transfers),
        ];
        for (name, value) in counts {
            if value < 1 {
                faults.push(format!("checkpointing: {name} is {value}: give at least 1"));
            }
        }
        if !self.compression.is_built_in() {
            faults.push(
                "checkpointing: compression is lz4, and this program was built without the cargo feature `lz4` of strandline: turn it on, \
                 or give none"
                    .into(),
            );
        }
        if self.unaligned && self.mode == CheckpointingMode::AtLeastOnce {
            faults.push(
                "checkpointing: unaligned goes with exactly once only, as at least once nothing waits for a barrier: drop either"
                    .into(),
            );
        }
        if self.unaligned && self.max_concurrent > 1 {
            faults.push(format!(
                "checkpointing: max_concurrent is {}, and unaligned checkpoints are taken one at a time, as each holds what is in \
                 flight: give 1",
                self.max_concurrent
            ));
        }
        if !self.unaligned && self.aligned_timeout > Duration::ZERO {
            let timeout = duration_text::format(self.aligned_timeout);
            faults.push(format!(
                "checkpointing: aligned_timeout is {timeout}, and nothing happens then unless `unaligned` is set: set it, or give 0"
            ));
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
        let bad = bad.max_increments(0).max_transfers(0);
        let faults = bad.faults().join("\n");
        assert_eq!(bad.faults().len(), 6, "{faults}");
        for name in [
            "interval is 9ms",
            "timeout is 9ms",
            "max_concurrent is 0",
            "retain is 0",
            "max_increments is 0",
            "max_transfers is 0",
        ] {
            assert!(faults.contains(name), "{name} in {faults}");
        }
        let least = Checkpointing::every(ms(10))
            .timeout(ms(10))
            .max_concurrent(1)
            .retain(1)
            .max_increments(1)
            .max_transfers(1);
        assert_eq!(least.faults(), Vec::<String>::new());
        assert!(Checkpointing::default().faults().is_empty());
    }

    #[test]
    fn compression_is_a_fault_where_it_is_not_built_in() {
        let settings = read([("compression", "lz4")]).unwrap();
        assert_eq!(settings, Checkpointing::default().compression(Compression::Lz4));
        let faults = settings.faults().join("\n");
        assert_eq!(faults.contains("cargo feature `lz4`"), !cfg!(feature = "lz4"), "{faults}");
        assert_eq!(read([("compression", "none")]).unwrap(), Checkpointing::default());
    }

    #[test]
    fn s2_8_min_pause_raises_the_interval_and_goes_with_concurrency() {
        let settings = Checkpointing::every(ms(100)).min_pause(ms(250)).max_concurrent(3);
        assert_eq!(settings.get_interval(), ms(250));
        assert!(settings.faults().is_empty());
    }

    #[test]
    fn s2_8_what_does_not_go_with_unaligned_is_refused_with_the_reason() {
        let only = |settings: Checkpointing| {
            let faults = settings.faults();
            assert_eq!(faults.len(), 1, "{faults:?}");
            faults[0].clone()
        };
        let mode = only(Checkpointing::default().unaligned().at_least_once());
        assert!(mode.contains("exactly once only"), "{mode}");
        let many = only(Checkpointing::default().unaligned().max_concurrent(2));
        assert!(many.contains("max_concurrent is 2") && many.contains("one at a time"), "{many}");
        let idle = only(read([("aligned_timeout", "1s")]).unwrap());
        assert!(idle.contains("aligned_timeout is 1s"), "{idle}");
        for good in [
            Checkpointing::default().unaligned(),
            Checkpointing::default().aligned_timeout(ms(5)),
            Checkpointing::default().at_least_once().max_concurrent(3),
        ] {
            assert_eq!(good.faults(), Vec::<String>::new());
        }
    }

    #[test]
    fn s6_8_the_timeout_counts_from_the_creation_and_0_is_at_once() {
        let kind = |settings: Checkpointing| settings.barrier_kind(Monotonic(100));
        assert_eq!(kind(Checkpointing::default()), BarrierKind::Aligned);
        assert_eq!(kind(Checkpointing::default().at_least_once()), BarrierKind::Aligned);
        assert_eq!(kind(Checkpointing::default().unaligned()), BarrierKind::Unaligned);
        assert_eq!(kind(Checkpointing::default().aligned_timeout(Duration::ZERO)), BarrierKind::Unaligned);
        let until = BarrierKind::AlignedUntil(Monotonic(130));
        assert_eq!(kind(Checkpointing::default().aligned_timeout(ms(30))), until);
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
        assert_eq!(read([("mode", "at_least_once")]).unwrap(), Checkpointing::default().at_least_once());
        let typo = read([("intervall", "200ms")]).unwrap_err().to_string();
        assert!(typo.contains("intervall") && typo.contains("min_pause"), "{typo}");
        let unit = read([("interval", "200")]).unwrap_err().to_string();
        assert!(unit.contains("`200`"), "{unit}");
    }

    #[test]
    fn settings_survive_a_round_trip() {
        let settings = Checkpointing::every(ms(1_234))
            .min_pause(ms(5))
            .aligned_timeout(ms(7))
            .tolerable_failures(7)
            .retain(2);
        let bytes = postcard::to_stdvec(&settings).unwrap();
        assert_eq!(postcard::from_bytes::<Checkpointing>(&bytes).unwrap(), settings);
    }
}
