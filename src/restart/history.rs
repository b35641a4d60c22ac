//! What has failed so far: root causes, not what they brought down with them.

use crate::error::Error;
use crate::types::{Attempt, OperatorId, SubtaskIndex, Timestamp};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// How many failures are remembered.
const KEPT: usize = 100;

/// A failure of a job; from [`JobHandle::failures`](crate::JobHandle::failures).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FailureRecord {
    /// Uids of the operators of the failover region that failed: those that were stopped, while all others ran on. All of the job's if the
    /// failure was no region's own, such as one checkpoint too many that failed. Empty if nothing ran any more.
    pub region: Arc<[OperatorId]>,
    /// The attempt of the region that failed: 0 from the start to its first restart. If all regions failed as one, how many restarts there had
    /// been.
    pub attempt: Attempt,
    /// When, on the wall clock of the process.
    pub at: Timestamp,
    /// The root cause: what failed first. It names operator and subtask where one is to blame.
    pub error: Error,
    /// How many others failed while the attempt was being stopped. They are taken for consequences, and only logged.
    pub consequences: u32,
    /// What came of it.
    pub outcome: FailureOutcome,
}

impl FailureRecord {
    /// The uid of the operator that failed, if it was one.
    #[must_use]
    pub fn operator(&self) -> Option<&OperatorId> {
        self.error.operator_id()
    }

    /// The subtask that failed, if it was one.
    #[must_use]
    pub fn subtask(&self) -> Option<SubtaskIndex> {
        self.error.subtask_index()
    }
}

/// What followed a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureOutcome {
    /// What still runs of the attempt is being stopped; then it is decided.
    Stopping,
    /// The region is restarted, so long after the attempt was gone.
    Restart {
        /// The delay that the restart strategy asked for.
        after: Duration,
    },
    /// The job was cancelled before it ran again.
    Cancelled,
    /// It was final.
    Failed,
}

/// Which of the failures of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FailureId(u64);

/// The failures of a job since it was started in this process, the last 100 of them.
#[derive(Debug, Default)]
pub(crate) struct FailureHistory {
    records: VecDeque<FailureRecord>,
    /// How many were forgotten.
    forgotten: u64,
}

impl FailureHistory {
    /// An attempt fails: this is its root cause.
    pub(crate) fn failed(
        &mut self,
        region: &Arc<[OperatorId]>,
        attempt: Attempt,
        at: Timestamp,
        error: Error,
    ) -> FailureId {
        if self.records.len() == KEPT {
            self.records.pop_front();
            self.forgotten += 1;
        }
        let (region, outcome) = (Arc::clone(region), FailureOutcome::Stopping);
        self.records.push_back(FailureRecord { region, attempt, at, error, consequences: 0, outcome });
        FailureId(self.forgotten + self.records.len() as u64 - 1)
    }

    /// Something else fails while the attempt is being stopped.
    pub(crate) fn consequence(&mut self, of: FailureId) {
        if let Some(record) = self.record(of) {
            record.consequences = record.consequences.saturating_add(1);
        }
    }

    /// What follows a failure.
    pub(crate) fn decided(&mut self, of: FailureId, outcome: FailureOutcome) {
        if let Some(record) = self.record(of) {
            record.outcome = outcome;
        }
    }

    /// The job has failed: by the failure that was found to be final, or that was being seen to, or else by something that comes after the last
    /// attempt. What else was being seen to is not any more.
    pub(crate) fn ended(&mut self, attempt: Attempt, at: Timestamp, error: &Error) {
        let is = |outcome| move |record: &&mut FailureRecord| record.outcome == outcome;
        if !self.records.iter_mut().any(|record| is(FailureOutcome::Failed)(&record)) {
            let seen_to = self.records.iter_mut().rev().find(is(FailureOutcome::Stopping));
            match seen_to {
                Some(record) => record.outcome = FailureOutcome::Failed,
                None => {
                    let last = self.failed(&Arc::default(), attempt, at, error.clone());
                    self.decided(last, FailureOutcome::Failed);
                }
            }
        }
        for record in self.records.iter_mut().filter(is(FailureOutcome::Stopping)) {
            record.outcome = FailureOutcome::Cancelled;
        }
    }

    fn record(&mut self, of: FailureId) -> Option<&mut FailureRecord> {
        let index = of.0.checked_sub(self.forgotten)?;
        self.records.get_mut(usize::try_from(index).ok()?)
    }

    /// All that are remembered, oldest first.
    pub(crate) fn records(&self) -> Vec<FailureRecord> {
        self.records.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn error(message: &str) -> Error {
        Error::new(ErrorKind::Failed, message)
    }

    fn short(history: &FailureHistory) -> Vec<(u32, String, FailureOutcome)> {
        let short = |one: FailureRecord| (one.attempt.0, one.error.message().to_owned(), one.outcome);
        history.records().into_iter().map(short).collect()
    }

    fn fail(history: &mut FailureHistory, attempt: u32, message: &str) -> FailureId {
        let region = Arc::from([OperatorId::from("region")]);
        history.failed(&region, Attempt(attempt), Timestamp(i64::from(attempt)), error(message))
    }

    #[test]
    fn the_last_hundred_are_remembered() {
        let mut history = FailureHistory::default();
        let mut first = None;
        for n in 0..250 {
            let failure = fail(&mut history, n, "again");
            history.decided(failure, FailureOutcome::Restart { after: Duration::ZERO });
            history.decided(*first.get_or_insert(failure), FailureOutcome::Cancelled);
        }
        let records = history.records();
        assert_eq!(
            records.iter().map(|one| one.attempt.0).collect::<Vec<_>>(),
            (150..250).collect::<Vec<_>>()
        );
        let restart = FailureOutcome::Restart { after: Duration::ZERO };
        assert!(records.iter().all(|one| one.outcome == restart), "what is forgotten changes no other");
    }

    #[test]
    fn the_end_is_the_failure_being_seen_to_or_one_of_its_own_and_told_once() {
        let restart = FailureOutcome::Restart { after: Duration::from_secs(1) };
        let mut history = FailureHistory::default();
        history.ended(Attempt(0), Timestamp(0), &error("storage at the end"));
        let alone = (0, "storage at the end".to_owned(), FailureOutcome::Failed);
        assert_eq!(short(&history), std::slice::from_ref(&alone));
        history.ended(Attempt(0), Timestamp(1), &error("again"));
        assert_eq!(short(&history), [alone]);

        let mut history = FailureHistory::default();
        let first = fail(&mut history, 0, "first");
        history.consequence(first);
        history.decided(first, restart);
        fail(&mut history, 1, "second");
        history.ended(Attempt(1), Timestamp(6), &error("gave up after second"));
        let expected = [(0, "first", restart), (1, "second", FailureOutcome::Failed)];
        assert_eq!(short(&history), expected.map(|(n, text, outcome)| (n, text.to_owned(), outcome)));
        assert_eq!(history.records()[0].consequences, 1);
    }

    #[test]
    fn failures_of_several_regions_are_told_apart() {
        let restart = FailureOutcome::Restart { after: Duration::from_secs(1) };
        let mut history = FailureHistory::default();
        let [one, other, third] = ["one", "other", "third"].map(|text| fail(&mut history, 0, text));
        history.consequence(one);
        history.decided(one, restart);
        history.decided(other, FailureOutcome::Failed);
        history.consequence(third);
        history.ended(Attempt(0), Timestamp(9), &error("gave up after other"));
        let expected =
            [("one", restart), ("other", FailureOutcome::Failed), ("third", FailureOutcome::Cancelled)];
        assert_eq!(short(&history), expected.map(|(text, outcome)| (0, text.to_owned(), outcome)));
        let consequences: Vec<u32> = history.records().iter().map(|one| one.consequences).collect();
        assert_eq!(consequences, [1, 0, 1]);
    }
}
