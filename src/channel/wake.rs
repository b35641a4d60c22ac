//! Waking a subtask, at most once, and only if it sleeps.

use futures::task::AtomicWaker;
use std::sync::atomic::{AtomicBool, Ordering, fence};
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

#[cfg(test)]
mod tests {
    use super::*;
    use futures::task::{ArcWake, waker};
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    struct Count(AtomicUsize);

    impl ArcWake for Count {
        fn wake_by_ref(this: &Arc<Self>) {
            this.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn only_a_sleeper_is_woken_and_only_once() {
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let cell = WakeCell::default();
        cell.wake();
        assert_eq!(count.0.load(Ordering::SeqCst), 0);
        cell.fall_asleep(&waker(Arc::clone(&count)));
        cell.wake();
        cell.wake();
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        cell.fall_asleep(&waker(Arc::clone(&count)));
        cell.stay_awake();
        cell.wake();
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
    }
}
