//! What has failed so far: root causes, not what they brought down with them.

use crate::error::Error;
use crate::types::{Attempt, OperatorId, SubtaskIndex, Timestamp};
use std::collections::VecDeque;
use std::time::Duration;

/// How many failures are remembered.
const KEPT: usize = 100;

/// A failure of a job; from [`JobHandle::failures`](crate::JobHandle::failures).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FailureRecord {
    /// The attempt that failed: 0 from the start to the first restart.
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
    /// The job is restarted, so long after the attempt was gone.
    Restart {
        /// The delay that the restart strategy asked for.
        after: Duration,
    },
    /// The job was cancelled before it ran again.
    Cancelled,
    /// It was final.
    Failed,
}

/// The failures of a job since it was started in this process, the last 100 of them.
#[derive(Debug, Default)]
pub(crate) struct FailureHistory(VecDeque<FailureRecord>);

impl FailureHistory {
    /// An attempt fails: this is its root cause.
    pub(crate) fn failed(&mut self, attempt: Attempt, at: Timestamp, error: Error) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        let outcome = FailureOutcome::Stopping;
        self.0.push_back(FailureRecord { attempt, at, error, consequences: 0, outcome });
    }

    /// Something else fails while the attempt is being stopped.
    pub(crate) fn consequence(&mut self) {
        if let Some(last) = self.0.back_mut() {
            last.consequences = last.consequences.saturating_add(1);
        }
    }

    /// What follows the last failure.
    pub(crate) fn decided(&mut self, outcome: FailureOutcome) {
        if let Some(last) = self.0.back_mut() {
            last.outcome = outcome;
        }
    }

    /// The job has failed: by the failure that was being seen to, or else by something that comes after the last attempt.
    pub(crate) fn ended(&mut self, attempt: Attempt, at: Timestamp, error: &Error) {
        match self.0.back().map(|last| last.outcome) {
            Some(FailureOutcome::Failed) => return,
            Some(FailureOutcome::Stopping) => {}
            _ => self.failed(attempt, at, error.clone()),
        }
        self.decided(FailureOutcome::Failed);
    }

    /// The last root cause.
    pub(crate) fn last(&self) -> Option<&Error> {
        self.0.back().map(|last| &last.error)
    }

    /// All that are remembered, oldest first.
    pub(crate) fn records(&self) -> Vec<FailureRecord> {
        self.0.iter().cloned().collect()
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

    #[test]
    fn the_last_hundred_are_remembered() {
        let mut history = FailureHistory::default();
        for n in 0..250 {
            history.failed(Attempt(n), Timestamp(i64::from(n)), error("again"));
            history.decided(FailureOutcome::Restart { after: Duration::ZERO });
        }
        let attempts: Vec<u32> = history.records().iter().map(|one| one.attempt.0).collect();
        assert_eq!(attempts, (150..250).collect::<Vec<_>>());
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
        history.failed(Attempt(0), Timestamp(0), error("first"));
        history.consequence();
        history.decided(restart);
        history.failed(Attempt(1), Timestamp(5), error("second"));
        history.ended(Attempt(1), Timestamp(6), &error("gave up after second"));
        let expected = [(0, "first", restart), (1, "second", FailureOutcome::Failed)];
        assert_eq!(short(&history), expected.map(|(n, text, outcome)| (n, text.to_owned(), outcome)));
        assert_eq!(history.records()[0].consequences, 1);
    }
}
