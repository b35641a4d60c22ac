//! The snapshots that a subtask is writing.

use crate::types::CheckpointId;
use futures::future::{AbortHandle, Abortable, abortable};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What the subtask writes on the pool, by checkpoint: so that it can stop writing what was given up.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    running: BTreeMap<CheckpointId, AbortHandle>,
    ended: Arc<AtomicBool>,
}

/// Whether the subtask has ended. What fails after that fails because of it: it is no reason to decline a checkpoint.
#[derive(Debug, Clone)]
pub(super) struct HasEnded(Arc<AtomicBool>);

impl HasEnded {
    pub(super) fn get(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

impl Drop for Uploads {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        self.running.values().for_each(AbortHandle::abort);
    }
}

impl Uploads {
    /// Whether the subtask has ended, to be asked later.
    pub(super) fn has_ended(&self) -> HasEnded {
        HasEnded(Arc::clone(&self.ended))
    }

    /// Makes the writing of a checkpoint one that can be [cancelled](Self::cancel).
    pub(super) fn begin<F: Future>(&mut self, checkpoint: CheckpointId, upload: F) -> Abortable<F> {
        let (upload, handle) = abortable(upload);
        self.running.insert(checkpoint, handle);
        upload
    }

    /// The coordinator has given this one up, and deletes what is there of it. What a sink prepares goes on: it is committed with a later
    /// checkpoint.
    pub(super) fn cancel(&mut self, checkpoint: CheckpointId) {
        if let Some(handle) = self.running.remove(&checkpoint) {
            handle.abort();
        }
    }

    /// This one, and so all before, have been written.
    pub(super) fn completed(&mut self, checkpoint: CheckpointId) {
        self.running.retain(|running, _| *running > checkpoint);
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
