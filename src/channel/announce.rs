//! News of barriers that may overtake: from producers to one consuming subtask.

use super::Barrier;
use super::sync::{AtomicU64, Mutex, Ordering};
use crate::checkpoint::BarrierKind;
use std::sync::PoisonError;

/// Where one subtask hears that a barrier is on its way.
///
/// Announcements are hints. The barrier itself follows in the channel, behind the records it may overtake, and says the same
/// when it is taken; what an announcement changes is only *when* the consumer turns to it. So nothing here orders anything: one
/// that is seen late costs time, not exactness, and one may come before any barrier was sent.
#[derive(Debug, Default)]
pub struct Announcements {
    /// Grows with what is announced, for a look that costs one load: see [`rank`].
    newest: AtomicU64,
    barrier: Mutex<Option<Barrier>>,
}

/// Orders announcements: a newer checkpoint before an older one, and of the same one the barrier that overtakes at once.
fn rank(barrier: &Barrier) -> u64 {
    barrier.checkpoint.0.saturating_mul(2) + u64::from(barrier.kind == BarrierKind::Unaligned)
}

impl Announcements {
    /// Announces a barrier that was put into a channel of the subtask, or will be. Wake it afterwards.
    pub fn announce(&self, barrier: Barrier) {
        let mut known = self.barrier.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref().is_none_or(|known| rank(known) < rank(&barrier)) {
            *known = Some(barrier);
            self.newest.store(rank(&barrier), Ordering::Release);
        }
    }
}

/// How far a subtask has listened.
#[derive(Debug, Default)]
pub struct Listener(u64);

impl Listener {
    /// The newest announcement, if it is news.
    pub fn news(&self, announcements: &Announcements) -> Option<Barrier> {
        self.has_news(announcements)
            .then(|| *announcements.barrier.lock().unwrap_or_else(PoisonError::into_inner))
            .flatten()
    }

    /// Whether there is something new.
    #[inline]
    #[must_use]
    pub fn has_news(&self, announcements: &Announcements) -> bool {
        announcements.newest.load(Ordering::Acquire) > self.0
    }

    /// The newest announcement, once.
    pub fn hear(&mut self, announcements: &Announcements) -> Option<Barrier> {
        let barrier = self.news(announcements)?;
        self.0 = rank(&barrier);
        Some(barrier)
    }
}
