//! Counters of one subtask: written by the thread that runs it, read by whoever asks.

use crate::types::OperatorId;
use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A number that one thread adds to and any thread may read.
///
/// With one writer a load and a store are enough: no locked instruction. It orders nothing else.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds. Only ever called by one thread at a time.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Adds, whoever else does.
    pub fn add_shared(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The sum so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts in a local variable, which is added when it goes out of scope, by an error or a panic too.
    #[inline]
    pub fn tally(&self) -> Tally<'_> {
        Tally { n: 0, to: self }
    }
}

/// See [`Counter::tally`].
#[derive(Debug)]
pub struct Tally<'a> {
    n: u64,
    to: &'a Counter,
}

impl AddAssign<u64> for Tally<'_> {
    #[inline]
    fn add_assign(&mut self, n: u64) {
        self.n += n;
    }
}

impl PartialEq<u64> for Tally<'_> {
    #[inline]
    fn eq(&self, n: &u64) -> bool {
        self.n == *n
    }
}

impl Drop for Tally<'_> {
    #[inline]
    fn drop(&mut self) {
        self.to.add(self.n);
    }
}

/// A number that one thread sets and any thread may read.
#[derive(Debug, Default)]
pub struct Level(AtomicU64);

impl Level {
    /// Sets it.
    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// What it was last set to.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How large one keyed state of an operator is.
#[derive(Debug)]
pub struct StateLevels {
    /// Its name.
    pub state: String,
    /// Its keys.
    pub entries: Level,
    /// Memory that its table holds.
    pub bytes: Level,
    /// Memory that holds what is encoded for checkpoints and not yet written.
    pub snapshot_bytes: Level,
}

impl StateLevels {
    /// Of a state of this name, empty.
    #[must_use]
    pub fn new(state: &str) -> Self {
        let (entries, bytes, snapshot_bytes) = Default::default();
        Self { state: state.to_owned(), entries, bytes, snapshot_bytes }
    }
}

/// What one operator of a subtask has taken and given. Padded, so that threads do not slow each other down.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct OperatorCounters {
    /// Records it was given.
    pub records_in: Counter,
    /// Records it gave.
    pub records_out: Counter,
    /// Records for which its handler gave an error that its error policy let pass.
    pub records_skipped: Counter,
    states: Mutex<Vec<Arc<StateLevels>>>,
}

impl OperatorCounters {
    /// From now on its keyed states are these: those of a new instance.
    pub fn show_states(&self, states: Vec<Arc<StateLevels>>) {
        *self.states.lock().unwrap_or_else(PoisonError::into_inner) = states;
    }

    /// Its keyed states.
    #[must_use]
    pub fn states(&self) -> Vec<Arc<StateLevels>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What one subtask has done, over all attempts. Padded, so that threads do not slow each other down.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct SubtaskCounters {
    /// Records taken from its input channels, counted by whole batches.
    pub records_in: Counter,
    /// Batches taken from its input channels.
    pub batches_in: Counter,
    /// Records put into its output channels.
    pub records_out: Counter,
    /// Batches put into its output channels.
    pub batches_out: Counter,
    /// How often it was built.
    pub starts: Counter,
    /// Bytes written for checkpoints. Its snapshots are written on the pool, so this one has several writers.
    pub checkpoint_bytes: Counter,
    /// Its time.
    pub time: super::stopwatch::Time,
}

/// The counters of one subtask and its operators, found once when it is built, then kept.
#[derive(Debug, Clone)]
pub struct SubtaskHandles {
    /// Of the subtask.
    pub subtask: Arc<SubtaskCounters>,
    /// Of each operator of its chain, in order.
    pub operators: Vec<(OperatorId, Arc<OperatorCounters>)>,
}

impl SubtaskHandles {
    /// Grows with whatever goes in or out of it.
    #[must_use]
    pub fn progress(&self) -> u64 {
        let SubtaskCounters { records_in, batches_in, records_out, batches_out, .. } = &*self.subtask;
        let of = |(_, operator): &(OperatorId, Arc<OperatorCounters>)| {
            let OperatorCounters { records_in, records_out, records_skipped, .. } = &**operator;
            records_in.get().wrapping_add(records_out.get()).wrapping_add(records_skipped.get())
        };
        let subtask = [records_in, batches_in, records_out, batches_out].into_iter().map(Counter::get);
        subtask.chain(self.operators.iter().map(of)).fold(0, u64::wrapping_add)
    }

    /// Counters at zero, for a chain of these operators.
    pub fn new<'a>(operators: impl Iterator<Item = &'a OperatorId>) -> Self {
        Self {
            subtask: Arc::default(),
            operators: operators.map(|operator| (operator.clone(), Arc::default())).collect(),
        }
    }

    /// The counters of one operator; of its own, which nobody reads, for one that the chain does not have.
    #[must_use]
    pub fn of(&self, operator: &OperatorId) -> Arc<OperatorCounters> {
        let found = self.operators.iter().find(|(id, _)| id == operator);
        found.map(|(_, counters)| Arc::clone(counters)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::catch_unwind;

    #[test]
    fn a_tally_counts_what_came_before_a_panic() {
        let counter = Counter::default();
        let counts = std::panic::AssertUnwindSafe(|| {
            let mut tally = counter.tally();
            tally += 2;
            tally += 1;
            std::panic::resume_unwind(Box::new("after three"));
        });
        assert!(catch_unwind(counts).is_err());
        assert_eq!(counter.get(), 3);
    }

    #[test]
    fn subtasks_do_not_share_cache_lines() {
        assert_eq!(align_of::<SubtaskCounters>(), 128);
        assert_eq!(size_of::<SubtaskCounters>(), 128);
        assert_eq!(size_of::<OperatorCounters>(), 128);
    }
}
