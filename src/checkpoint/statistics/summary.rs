//! Least, mean, greatest and percentiles.

use super::CheckpointRecord;
use serde::Serialize;
use std::collections::VecDeque;
use std::time::Duration;

/// How many completed checkpoints the percentiles are made of: the last ones. 8 bytes each, for each figure.
const WINDOW: usize = 1000;

/// Figures of the completed checkpoints of a job, the last 1000.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
#[non_exhaustive]
pub struct CheckpointSummary {
    /// From trigger to commit, in seconds.
    pub duration_seconds: Summary,
    /// State written, records in flight included, in bytes.
    pub bytes: Summary,
    /// Of these, records in flight, in bytes.
    pub in_flight_bytes: Summary,
    /// Start delay of the subtask with the longest, in seconds.
    pub start_delay_seconds: Summary,
    /// Alignment of the subtask with the longest, in seconds.
    pub alignment_seconds: Summary,
    /// Synchronous part of the subtask with the longest, in seconds.
    pub sync_seconds: Summary,
    /// Asynchronous part of the subtask with the longest, in seconds.
    pub async_seconds: Summary,
}

/// What is said of many values. All 0 if there are none.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// How many there are.
    pub count: u64,
    /// The least.
    pub min: f64,
    /// The mean.
    pub avg: f64,
    /// The greatest.
    pub max: f64,
    /// Half of them are not above it. Between two values percentiles are interpolated.
    pub p50: f64,
    /// 90 % of them are not above it.
    pub p90: f64,
    /// 95 % of them are not above it.
    pub p95: f64,
    /// 99 % of them are not above it.
    pub p99: f64,
    /// 99.9 % of them are not above it.
    pub p999: f64,
}

impl Summary {
    /// Of these values, each times `unit`.
    #[allow(clippy::cast_precision_loss)] // 53 bits are enough for people
    fn of(values: &VecDeque<u64>, unit: f64) -> Self {
        let mut sorted: Vec<u64> = values.iter().copied().collect();
        sorted.sort_unstable();
        let (Some(first), Some(last)) = (sorted.first(), sorted.last()) else { return Self::default() };
        let sum: u128 = sorted.iter().map(|value| u128::from(*value)).sum();
        let at = |place: usize| sorted.get(place).copied().unwrap_or(*last) as f64;
        // The estimate that Flink uses: the n-th of `count` values stands for n / (count + 1) of them.
        let percentile = |share: f64| {
            let place = share * (sorted.len() + 1) as f64;
            let value = match floor(place) {
                0 => *first as f64,
                whole if whole >= sorted.len() => *last as f64,
                whole => {
                    let (low, high) = (at(whole - 1), at(whole));
                    (place - whole as f64).mul_add(high - low, low)
                }
            };
            value * unit
        };
        Self {
            count: sorted.len() as u64,
            min: *first as f64 * unit,
            avg: sum as f64 / sorted.len() as f64 * unit,
            max: *last as f64 * unit,
            p50: percentile(0.5),
            p90: percentile(0.9),
            p95: percentile(0.95),
            p99: percentile(0.99),
            p999: percentile(0.999),
        }
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // of a place in a window
fn floor(place: f64) -> usize {
    place.max(0.0) as usize
}

/// The last values of each figure: times in nanoseconds, sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Windows {
    duration: VecDeque<u64>,
    bytes: VecDeque<u64>,
    in_flight: VecDeque<u64>,
    start_delay: VecDeque<u64>,
    alignment: VecDeque<u64>,
    sync: VecDeque<u64>,
    asynchronous: VecDeque<u64>,
}

impl Windows {
    /// Takes in a checkpoint that completed.
    pub(super) fn add(&mut self, record: &CheckpointRecord) {
        let reports = || record.acknowledged.iter().map(|subtask| subtask.report);
        add(&mut self.duration, nanos(record.duration));
        add(&mut self.bytes, record.bytes);
        add(&mut self.in_flight, record.in_flight_bytes);
        let longest = |times: &mut dyn Iterator<Item = Duration>| times.max().map_or(0, nanos);
        add(&mut self.start_delay, longest(&mut reports().map(|report| report.start_delay)));
        add(&mut self.alignment, longest(&mut reports().map(|report| report.alignment)));
        add(&mut self.sync, longest(&mut reports().map(|report| report.sync_duration)));
        add(&mut self.asynchronous, longest(&mut reports().map(|report| report.async_duration)));
    }

    pub(super) fn summary(&self) -> CheckpointSummary {
        const SECONDS: f64 = 1e-9;
        CheckpointSummary {
            duration_seconds: Summary::of(&self.duration, SECONDS),
            bytes: Summary::of(&self.bytes, 1.0),
            in_flight_bytes: Summary::of(&self.in_flight, 1.0),
            start_delay_seconds: Summary::of(&self.start_delay, SECONDS),
            alignment_seconds: Summary::of(&self.alignment, SECONDS),
            sync_seconds: Summary::of(&self.sync, SECONDS),
            async_seconds: Summary::of(&self.asynchronous, SECONDS),
        }
    }
}

fn add(window: &mut VecDeque<u64>, value: u64) {
    if window.len() >= WINDOW {
        window.pop_front();
    }
    window.push_back(value);
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: impl IntoIterator<Item = u64>) -> Summary {
        Summary::of(&values.into_iter().collect(), 1.0)
    }

    fn percentiles(summary: Summary) -> [f64; 5] {
        [summary.p50, summary.p90, summary.p95, summary.p99, summary.p999]
    }

    fn near(found: [f64; 5], expected: [f64; 5]) {
        for (found, expected) in found.into_iter().zip(expected) {
            assert!((found - expected).abs() < 1e-9, "{found} is not {expected}");
        }
    }

    #[test]
    fn of_nothing_all_is_zero_and_of_one_value_all_is_that() {
        assert_eq!(of([]), Summary::default());
        let one = of([7]);
        assert_eq!((one.count, percentiles(one)), (1, [7.0; 5]));
        near([one.min, one.avg, one.max, one.p50, one.p999], [7.0; 5]);
    }

    #[test]
    fn percentiles_are_interpolated_between_the_values() {
        near(percentiles(of([10, 20])), [15.0, 20.0, 20.0, 20.0, 20.0]);
        // 10 values: the n-th stands for n/11.
        near(percentiles(of((1..=10).rev())), [5.5, 9.9, 10.0, 10.0, 10.0]);
        // 999 values: the n-th stands for n/1000.
        near(percentiles(of(1..=999)), [500.0, 900.0, 950.0, 990.0, 999.0]);
        let summary = of([3, 1, 8]);
        near([summary.min, summary.avg, summary.max, summary.p50, 0.0], [1.0, 4.0, 8.0, 3.0, 0.0]);
    }

    #[test]
    fn the_window_forgets_the_oldest() {
        let mut window = VecDeque::new();
        for value in 0..5_000 {
            add(&mut window, value);
        }
        assert_eq!((window.len(), window.front(), window.back()), (WINDOW, Some(&4_000), Some(&4_999)));
    }
}
