//! Beside its file, which a model checker also compiles.

use super::wake::WakeCell;
use futures::task::{ArcWake, waker};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

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
