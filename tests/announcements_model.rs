//! The memory that a producer and a consumer of barriers share, in every order in which two threads can do what they do (loom).
//!
//! This is the code of the library with loom's primitives in it. Announcements are hints, so what must hold is only this: the newest one is
//! heard, none is heard twice, and whoever sleeps is woken. That a snapshot is exact, however early or late they are heard, is shown where
//! gates are tested (`src/channel/gate/tests/interleaved.rs`).

#![allow(clippy::unwrap_used)]

/// What the library has, in loom's kind.
mod sync {
    pub(super) use loom::sync::Mutex;
    pub(super) use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

    #[derive(Debug, Default)]
    pub(super) struct AtomicWaker(loom::future::AtomicWaker);

    impl AtomicWaker {
        pub(super) fn register(&self, waker: &std::task::Waker) {
            self.0.register_by_ref(waker);
        }

        pub(super) fn wake(&self) {
            self.0.wake();
        }
    }
}

mod checkpoint {
    pub use strandline::checkpoint::BarrierKind;
}

// Their unit tests use real threads' primitives, and run in the library.
#[path = "../src/channel/announce.rs"]
mod announce;
#[path = "../src/channel/wake.rs"]
mod wake;

use announce::{Announcements, Listener};
use loom::sync::Arc;
use std::task::Poll;
use strandline::checkpoint::{Barrier, BarrierKind, Extent};
use strandline::types::{CheckpointId, Monotonic, Timestamp};
use wake::WakeCell;

const TIMED: BarrierKind = BarrierKind::AlignedUntil(Monotonic(9));

fn barrier(id: u64, kind: BarrierKind) -> Barrier {
    Barrier { checkpoint: CheckpointId(id), triggered: Timestamp(0), kind, extent: Extent::Full }
}

/// Hears what there is, and checks that it is newer than all before.
fn hear(listener: &mut Listener, announcements: &Announcements, heard: &mut Vec<Barrier>) {
    if let Some(barrier) = listener.hear(announcements) {
        let rank = |barrier: &Barrier| (barrier.checkpoint, barrier.kind == BarrierKind::Unaligned);
        assert!(heard.last().is_none_or(|last| rank(last) < rank(&barrier)), "{barrier:?} after {heard:?}");
        heard.push(barrier);
    }
}

#[test]
fn of_several_producers_the_newest_announcement_is_heard_and_none_twice() {
    loom::model(|| {
        let announcements = Arc::new(Announcements::default());
        let producers =
            [vec![barrier(1, TIMED), barrier(2, TIMED)], vec![barrier(2, BarrierKind::Unaligned)]];
        let threads = producers.map(|barriers| {
            let announcements = Arc::clone(&announcements);
            loom::thread::spawn(move || {
                barriers.into_iter().for_each(|barrier| announcements.announce(barrier))
            })
        });
        let (mut listener, mut heard) = (Listener::default(), Vec::new());
        hear(&mut listener, &announcements, &mut heard);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        hear(&mut listener, &announcements, &mut heard);
        hear(&mut listener, &announcements, &mut heard);
        assert_eq!(heard.last(), Some(&barrier(2, BarrierKind::Unaligned)));
    });
}

/// A lost wake-up is a deadlock, which the model finds.
#[test]
fn a_consumer_that_sleeps_is_woken_by_an_announcement() {
    loom::model(|| {
        let shared = Arc::new((Announcements::default(), WakeCell::default()));
        let producer = {
            let shared = Arc::clone(&shared);
            loom::thread::spawn(move || {
                shared.0.announce(barrier(1, BarrierKind::Unaligned));
                shared.1.wake();
            })
        };
        let listener = Listener::default();
        loom::future::block_on(std::future::poll_fn(|task| {
            shared.1.fall_asleep(task.waker());
            if listener.has_news(&shared.0) {
                shared.1.stay_awake();
                return Poll::Ready(());
            }
            Poll::Pending
        }));
        producer.join().unwrap();
    });
}
