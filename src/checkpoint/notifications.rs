//! Which notifications of checkpoints a subtask passes on to its operators.

use crate::types::CheckpointId;

/// What the operators of one subtask have been told of completed checkpoints.
///
/// Nothing promises that a notification arrives. So the ids of completed ones only grow, and word of an aborted one, which names the latest
/// completed, makes up for a completion that was missed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Notifications {
    last: Option<CheckpointId>,
}

impl Notifications {
    /// For a subtask that began from `restored`: that one, and all before, count as told.
    #[must_use]
    pub fn new(restored: Option<CheckpointId>) -> Self {
        Self { last: restored }
    }

    /// This checkpoint is complete. Whether the operators are to hear of it.
    #[must_use]
    pub fn completed(&mut self, checkpoint: CheckpointId) -> bool {
        let is_news = self.last < Some(checkpoint);
        self.last = self.last.max(Some(checkpoint));
        is_news
    }

    /// A checkpoint was given up, and `latest_completed` is the last one that was not. The completion that the operators are to hear of
    /// before, if they have not.
    #[must_use]
    pub fn aborted(&mut self, latest_completed: Option<CheckpointId>) -> Option<CheckpointId> {
        latest_completed.filter(|latest| self.completed(*latest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cp(id: u64) -> CheckpointId {
        CheckpointId(id)
    }

    #[test]
    fn s13_1_only_ids_above_the_last_one_told_are_passed_on() {
        let mut fresh = Notifications::new(None);
        assert_eq!([1, 1, 3, 2, 4].map(|id| fresh.completed(cp(id))), [true, false, true, false, true]);
        let mut restored = Notifications::new(Some(cp(7)));
        assert_eq!([6, 7, 8].map(|id| restored.completed(cp(id))), [false, false, true]);
    }

    #[test]
    fn s13_3_word_of_an_abort_makes_up_for_a_completion_that_was_missed() {
        let mut told = Notifications::new(Some(cp(2)));
        assert_eq!(told.aborted(None), None);
        assert_eq!(told.aborted(Some(cp(2))), None, "it was restored");
        assert_eq!(told.aborted(Some(cp(5))), Some(cp(5)));
        assert_eq!(told.aborted(Some(cp(5))), None, "told");
        assert!(!told.completed(cp(5)), "nor when it comes after all");
    }
}
