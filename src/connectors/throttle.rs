//! Any source, at a limited rate.

use crate::error::{Error, ErrorKind, Result};
use crate::operator::{Claim, Replay, Source, SourceReader, StartContext, SubtaskContext};
use crate::types::Clock;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What every [`Source`] can be turned into.
pub trait SourceExt: Source {
    /// This source, giving at most `records_per_second`, all its subtasks together. See [`Throttled`].
    fn throttled(self, records_per_second: u64) -> Throttled<Self> {
        Throttled::new(self, records_per_second)
    }
}

impl<S: Source> SourceExt for S {}

/// A source that gives at most so many records per second, all its subtasks together.
///
/// For demonstrations and tests, and to keep a catch-up from flooding what is downstream. Guarantees, splits and parallelism are those
/// of the source inside; a job may be restarted with the limit changed, added or removed.
///
/// What was not used for a while may be made up in a burst of 10 ms worth, at least one record; each subtask may hold another
/// 1 ms worth. The limit belongs to this source and its clones: do not use clones of it in two jobs. Time is the job's clock.
///
/// ```
/// # use strandline::prelude::*;
/// # fn main() -> Result {
/// # let env = Environment::builder().build()?;
/// let lines = env.source("lines", TextFiles::new(["big.txt"]).throttled(10_000));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Throttled<S> {
    source: S,
    pacer: Arc<Pacer>,
}

impl<S: Source> Throttled<S> {
    /// Limits `source`. A rate of 0 is an error at the start of the job.
    #[must_use]
    pub fn new(source: S, records_per_second: u64) -> Self {
        Self { source, pacer: Arc::new(Pacer::new(records_per_second)) }
    }
}

impl<S: Source> Source for Throttled<S> {
    type Record = S::Record;
    type Split = S::Split;
    type Reader = ThrottledReader<S::Reader>;

    fn parallelism(&self) -> Option<u32> {
        self.source.parallelism()
    }

    async fn splits(&self, restored: Option<Vec<S::Split>>) -> Result<Vec<S::Split>> {
        if self.pacer.rate == 0 {
            return Err(Error::new(
                ErrorKind::Configuration,
                "a source is throttled to 0 records per second: give at least 1",
            )
            .into());
        }
        self.source.splits(restored).await
    }

    fn assign(&self, splits: Vec<S::Split>, parallelism: u32) -> Vec<Vec<S::Split>> {
        self.source.assign(splits, parallelism)
    }

    fn reader(&self, splits: Vec<S::Split>, context: &SubtaskContext) -> Result<Self::Reader> {
        Ok(ThrottledReader {
            reader: self.source.reader(splits, context)?,
            pacer: Arc::clone(&self.pacer),
            clock: context.clock,
            permits: 0,
            paced: false,
        })
    }

    fn replay(&self) -> Replay {
        self.source.replay()
    }

    fn claim(&self, start: &StartContext) -> Result<Claim> {
        self.source.claim(start)
    }

    fn on_complete(&self, splits: &[S::Split]) -> Result {
        self.source.on_complete(splits)
    }
}

/// Reads a [`Throttled`] source.
#[derive(Debug)]
pub struct ThrottledReader<R> {
    reader: R,
    pacer: Arc<Pacer>,
    clock: Clock,
    /// Records that may still be given without asking the pacer.
    permits: u64,
    /// The last `next` gave nothing for want of permits, not of records.
    paced: bool,
}

impl<R: SourceReader> SourceReader for ThrottledReader<R> {
    type Record = R::Record;
    type Split = R::Split;

    fn next(&mut self) -> Result<Option<R::Record>> {
        if self.permits == 0 {
            match self.pacer.take(self.clock.elapsed()) {
                Ok(permits) => self.permits = permits,
                Err(_) => {
                    self.paced = true;
                    return Ok(None);
                }
            }
        }
        self.paced = false;
        let record = self.reader.next()?;
        if record.is_some() {
            self.permits -= 1;
        }
        Ok(record)
    }

    async fn ready(&mut self) -> Result<bool> {
        if !self.paced {
            return self.reader.ready().await;
        }
        // The reader inside was not asked, so it may not be waited for: whether it has a record shows at the next `next`.
        while self.permits == 0 {
            match self.pacer.take(self.clock.elapsed()) {
                Ok(permits) => self.permits = permits,
                Err(wait) => self.clock.sleep(wait).await,
            }
        }
        Ok(true)
    }

    fn splits(&self) -> Vec<R::Split> {
        self.reader.splits()
    }
}

/// Hands out permits, no more than `rate` per second: a token bucket without a lock, kept as the number of records given since
/// the clock began (the idea is that of the generic cell rate algorithm).
#[derive(Debug)]
struct Pacer {
    rate: u64,
    given: AtomicU64,
}

impl Pacer {
    fn new(rate: u64) -> Self {
        Self { rate, given: AtomicU64::new(0) }
    }

    /// Some permits at this time, or how long to wait before asking again.
    fn take(&self, now: Duration) -> Result<u64, Duration> {
        let due = self.due(now);
        let burst = (self.rate / 100).max(1);
        // Several at once, so that a fast source does not ask for each record.
        let lease = (self.rate / 1000).clamp(1, 1024);
        let mut given = self.given.load(Ordering::Relaxed);
        loop {
            // More than a second ahead can only be the count of another clock.
            let foreign = given > due.saturating_add(self.rate);
            let base = if foreign { due.saturating_sub(lease) } else { given };
            let base = base.max(due.saturating_sub(burst));
            let next = base.saturating_add(lease);
            if next > due {
                return Err(self.due_at(next).saturating_sub(now).max(Duration::from_nanos(1)));
            }
            match self.given.compare_exchange_weak(given, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(lease),
                Err(current) => given = current,
            }
        }
    }

    /// How many records may have been given by `now`.
    fn due(&self, now: Duration) -> u64 {
        let records = now.as_nanos() * u128::from(self.rate) / 1_000_000_000;
        u64::try_from(records).unwrap_or(u64::MAX)
    }

    /// When that many may have been given.
    fn due_at(&self, records: u64) -> Duration {
        let nanos = (u128::from(records) * 1_000_000_000).div_ceil(u128::from(self.rate.max(1)));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connectors::Iter;
    use crate::connectors::iter::IterPosition;
    use crate::connectors::test_support::context;
    use proptest::prelude::*;

    #[tokio::test(start_paused = true)]
    async fn all_subtasks_together_keep_the_rate() {
        for rate in [1, 10, 999, 5_000, 3_000_000] {
            let source = Iter::new(0_u64..).throttled(rate);
            let context = context(0);
            let reader = || source.clone().reader(vec![IterPosition(0)], &context).unwrap();
            let mut readers = [reader(), reader(), reader()];
            let begin = context.clock.elapsed();
            let seconds = 3;
            let mut count = 0;
            while context.clock.elapsed() - begin < Duration::from_secs(seconds) {
                for reader in &mut readers {
                    while reader.next().unwrap().is_some() {
                        count += 1;
                    }
                }
                // Whichever gets a permit first.
                let [a, b, c] = &mut readers;
                tokio::select! {
                    ready = a.ready() => assert!(ready.unwrap()),
                    ready = b.ready() => assert!(ready.unwrap()),
                    ready = c.ready() => assert!(ready.unwrap()),
                }
            }
            let expected = rate * seconds;
            let slack = (rate / 50).max(3);
            assert!(count <= expected + slack, "{count} records at {rate}/s");
            assert!(count + slack >= expected, "{count} records at {rate}/s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_and_the_splits_are_those_of_the_source() {
        let source = Iter::new(["a", "b"]).throttled(10);
        let context = context(0);
        assert_eq!(source.parallelism(), Some(1));
        let splits = source.splits(None).await.unwrap();
        let mut reader = source.reader(splits, &context).unwrap();
        let mut items = Vec::new();
        loop {
            while let Some(item) = reader.next().unwrap() {
                items.push((item, context.clock.now().0));
                assert_eq!(reader.splits(), [IterPosition(items.len() as u64)]);
            }
            if !reader.ready().await.unwrap() {
                break;
            }
        }
        assert_eq!(items, [("a", 100), ("b", 200)]);
    }

    #[tokio::test]
    async fn a_rate_of_zero_is_refused() {
        let error = Iter::new([1]).throttled(0).splits(None).await.unwrap_err().to_string();
        assert!(error.contains("at least 1"), "{error}");
    }

    #[test]
    fn a_pause_is_not_made_up_beyond_ten_milliseconds() {
        let pacer = Pacer::new(10_000);
        let mut burst = 0;
        while let Ok(permits) = pacer.take(Duration::from_secs(60)) {
            burst += permits;
        }
        assert_eq!(burst, 100);
    }

    #[test]
    fn a_clock_that_began_later_does_not_stall() {
        let pacer = Pacer::new(100);
        assert!(pacer.take(Duration::from_secs(1_000)).is_ok());
        let later = Duration::from_secs(1);
        assert!(pacer.take(later).is_ok());
        let wait = pacer.take(later).unwrap_err();
        assert_eq!(wait, Duration::from_millis(10));
        assert!(pacer.take(later + wait).is_ok());
    }

    proptest! {
        #[test]
        fn any_interval_gives_at_most_rate_and_burst(
            rate in 1_u64..5_000_000,
            steps in prop::collection::vec(0_u64..50_000_000, 1..60),
        ) {
            let pacer = Pacer::new(rate);
            let (mut now, mut given) = (0_u64, Vec::new());
            for step in steps {
                now += step;
                while let Ok(permits) = pacer.take(Duration::from_nanos(now)) {
                    given.push((now, permits));
                }
                let wait = pacer.take(Duration::from_nanos(now)).unwrap_err();
                let after = Duration::from_nanos(now) + wait;
                // The wait is exact: nothing a nanosecond earlier, something then.
                let copy = Pacer { rate, given: pacer.given.load(Ordering::Relaxed).into() };
                prop_assert_eq!(copy.take(after).is_ok(), true);
                prop_assert!(pacer.take(after - Duration::from_nanos(1)).is_err());
            }
            for first in 0..given.len() {
                let mut sum = 0;
                for (at, permits) in &given[first..] {
                    sum += permits;
                    let nanos = u128::from(at - given[first].0);
                    let limit = nanos * u128::from(rate) / 1_000_000_000 + u128::from((rate / 100).max(1)) + 1;
                    prop_assert!(u128::from(sum) <= limit, "{sum} in {nanos} ns at {rate}/s");
                }
            }
        }
    }
}
