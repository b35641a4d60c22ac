//! Which completed checkpoints are kept.

use super::Retention;
use crate::types::CheckpointId;

/// The completed checkpoints of a job, oldest first, at most so many (Flink's `CompletedCheckpointStore`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Retained {
    keep: usize,
    ids: Vec<CheckpointId>,
}

impl Retained {
    /// Keeps `keep` (at least 1); `ids` are there already, in the order they completed.
    #[must_use]
    pub(super) fn new(keep: u32, ids: Vec<CheckpointId>) -> Self {
        Self { keep: usize::try_from(keep.max(1)).unwrap_or(usize::MAX), ids }
    }

    /// Adds one that has completed. Gives those that fall out, oldest first; never the new one. Order is that of
    /// completion, not of ids.
    #[must_use]
    pub(super) fn add(&mut self, checkpoint: CheckpointId) -> Vec<CheckpointId> {
        self.ids.push(checkpoint);
        let over = self.ids.len().saturating_sub(self.keep);
        self.ids.drain(..over).collect()
    }

    /// Those kept, oldest first.
    #[must_use]
    pub(super) fn ids(&self) -> &[CheckpointId] {
        &self.ids
    }
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobEnd {
    /// All input was processed.
    Finished,
    /// It was cancelled on request.
    Cancelled,
    /// It failed and is not restarted.
    Failed,
    /// It was left in order to be continued: the process stops, another takes over.
    Suspended,
}

/// The part of `retained` (oldest first) to delete when a job has ended.
///
/// | | Finished | Cancelled | Failed | Suspended |
/// |---|---|---|---|---|
/// | [`Retention::Retain`] | all but the last | none | none | none |
/// | [`Retention::Delete`] | all | all | none | none |
///
/// Differs from Flink in two places. Flink deletes all checkpoints of a finished job, whatever was asked; here
/// `Retain` keeps the last one, because the job log says *finished* and must not point at nothing: the job started again finds that
/// all is done. And a suspended job keeps everything, as it does with Flink's durable store, but not with its in-memory one.
#[must_use]
pub fn deleted_at_end(retention: Retention, end: JobEnd, retained: &[CheckpointId]) -> &[CheckpointId] {
    match (retention, end) {
        (Retention::Retain, JobEnd::Finished) => retained.split_last().map_or(&[], |(_, older)| older),
        (Retention::Delete, JobEnd::Finished | JobEnd::Cancelled) => retained,
        (Retention::Retain, JobEnd::Cancelled) | (_, JobEnd::Failed | JobEnd::Suspended) => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids<const N: usize>(ids: [u64; N]) -> Vec<CheckpointId> {
        ids.into_iter().map(CheckpointId).collect()
    }

    #[test]
    fn s5_1_the_oldest_fall_out() {
        let mut one = Retained::new(1, Vec::new());
        let dropped: Vec<_> = ids([1, 2, 3]).into_iter().map(|id| one.add(id)).collect();
        assert_eq!(dropped, [ids([]), ids([1]), ids([2])]);
        assert_eq!(one.ids(), ids([3]));
    }

    #[test]
    fn s5_1_order_is_that_of_adding() {
        let mut two = Retained::new(2, ids([7]));
        assert_eq!(two.add(CheckpointId(5)), []);
        assert_eq!(two.add(CheckpointId(9)), ids([7]));
        assert_eq!(two.ids(), ids([5, 9]));
    }

    #[test]
    fn s5_1_never_the_one_just_added_even_if_the_number_is_0() {
        let mut none = Retained::new(0, ids([1, 2]));
        assert_eq!(none.add(CheckpointId(3)), ids([1, 2]));
        assert_eq!(none.ids(), ids([3]));
    }

    #[test]
    fn s5_5_deletion_at_job_end() {
        let all = ids([4, 5, 6]);
        let deleted = |retention| {
            [JobEnd::Finished, JobEnd::Cancelled, JobEnd::Failed, JobEnd::Suspended]
                .map(|end| deleted_at_end(retention, end, &all).len())
        };
        assert_eq!(deleted(Retention::Retain), [2, 0, 0, 0]);
        assert_eq!(deleted(Retention::Delete), [3, 3, 0, 0]);
        assert_eq!(deleted_at_end(Retention::Retain, JobEnd::Finished, &all), ids([4, 5]));
        assert_eq!(deleted_at_end(Retention::Retain, JobEnd::Finished, &[]), []);
    }
}
