//! Waking a subtask, at most once, and only if it sleeps.

use super::sync::{AtomicBool, AtomicWaker, Ordering, fence};
use std::task::Waker;

/// Where one subtask sleeps.
///
/// The protocol on both sides is *announce, fence, look*. The sleeper sets the flag, then looks once more whether there is
/// something to do; the waker publishes what there is to do, then looks at the flag. With a full fence between on both
/// sides at least one of them sees the other, so no wake-up is lost; and a peer that is awake costs a load, not a system call.
#[derive(Debug, Default)]
pub struct WakeCell {
    sleeping: AtomicBool,
    waker: AtomicWaker,
}

impl WakeCell {
    /// Announces sleep. Look for work once more after this; if there is none, return `Pending`.
    pub fn fall_asleep(&self, waker: &Waker) {
        self.waker.register(waker);
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// There was work after all.
    pub fn stay_awake(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    /// Wakes the subtask if it sleeps. Call after publishing what it is to find.
    pub fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::Relaxed) {
            self.waker.wake();
        }
    }
}
