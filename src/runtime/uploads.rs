//! The snapshots that a subtask is writing.

use crate::types::CheckpointId;
use futures::future::{AbortHandle, Abortable, abortable};
use std::collections::BTreeMap;

/// What the subtask writes on the pool, by checkpoint: so that it can stop writing what was given up.
#[derive(Debug, Default)]
pub(super) struct Uploads(BTreeMap<CheckpointId, AbortHandle>);

impl Uploads {
    /// Makes the writing of a checkpoint one that can be [cancelled](Self::cancel).
    pub(super) fn begin<F: Future>(&mut self, checkpoint: CheckpointId, upload: F) -> Abortable<F> {
        let (upload, handle) = abortable(upload);
        self.0.insert(checkpoint, handle);
        upload
    }

    /// The coordinator has given this one up, and deletes what is there of it. What a sink prepares goes on: it is committed with a later
    /// checkpoint.
    pub(super) fn cancel(&mut self, checkpoint: CheckpointId) {
        if let Some(handle) = self.0.remove(&checkpoint) {
            handle.abort();
        }
    }

    /// This one, and so all before, have been written.
    pub(super) fn completed(&mut self, checkpoint: CheckpointId) {
        self.0.retain(|running, _| *running > checkpoint);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use futures::future::{Aborted, pending};

    #[test]
    fn s13_5_what_writes_an_aborted_checkpoint_is_cancelled_and_nothing_else() {
        let mut uploads = Uploads::default();
        let [mut one, mut two] = [1, 2].map(|id| uploads.begin(CheckpointId(id), pending::<()>()));
        uploads.cancel(CheckpointId(7));
        assert_eq!(((&mut one).now_or_never(), (&mut two).now_or_never()), (None, None));
        uploads.cancel(CheckpointId(2));
        assert_eq!(((&mut one).now_or_never(), two.now_or_never()), (None, Some(Err(Aborted))));
        uploads.completed(CheckpointId(1));
        uploads.cancel(CheckpointId(1));
        assert_eq!(one.now_or_never(), None, "an older one is not held any more");
    }
}
