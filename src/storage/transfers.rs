//! How many files of a job are read or written at the same moment.

use std::sync::Arc;
use tokio::sync::{Semaphore, SemaphorePermit};

/// The turns of a job's reads and writes of state. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Transfers {
    turns: Arc<Semaphore>,
    limit: usize,
}

impl Transfers {
    /// So many at once, at least 1.
    pub(crate) fn new(limit: u32) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX).clamp(1, Semaphore::MAX_PERMITS);
        Self { turns: Arc::new(Semaphore::new(limit)), limit }
    }

    /// How many there may be at once.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Waits for a turn, which lasts until what it gives is dropped. It is held for one call to the disk and never while something else is
    /// waited for: so nobody waits for ever, and who is given up while waiting has none.
    pub(crate) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // Nobody closes it.
        self.turns.acquire().await.ok()
    }
}
