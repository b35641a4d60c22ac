//! How a snapshot's groups get from the subtask that owns the state to the task that writes them.
//!
//! Neither waits for the other: the owner goes on with its records while there is no room, and is woken when there is; what it
//! hands over is bounded in bytes.

use super::encoding::{EncodedGroup, GroupEncoder};
use crate::error::{Error, ErrorKind};
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// How many bytes may wait to be written before the owner stops giving more: enough for the writer never to wait, too little to matter.
const ROOM: usize = 4 << 20;

/// How many used buffers are kept for the next groups: fresh memory costs the owner more than the encoding.
const SPARE: usize = 4;

#[derive(Default)]
struct Shared {
    groups: VecDeque<EncodedGroup>,
    /// Bytes of these.
    waiting: usize,
    spare: Vec<Vec<u8>>,
    /// How it ended, after the last group.
    end: Option<Result<(), Error>>,
    /// Nobody wants it any more.
    given_up: bool,
    owner: Option<Waker>,
    writer: Option<Waker>,
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the owner can hand over more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// It can.
    Some,
    /// Not now; it will be woken.
    None,
    /// Nobody wants it any more.
    GivenUp,
}

/// The owner's end. Dropped before [`end`](Self::end), it fails the snapshot.
pub(super) struct Giver(Arc<Mutex<Shared>>);

/// A keyed state as it was when it was frozen, on its way to a file: the subtask that owns it encodes an entry before it changes, and
/// the rest as it finds time. Dropping it ends that.
pub struct Frozen {
    shared: Arc<Mutex<Shared>>,
    len: usize,
}

pub(super) fn handover(len: usize) -> (Giver, Frozen) {
    let shared = Arc::<Mutex<Shared>>::default();
    (Giver(Arc::clone(&shared)), Frozen { shared, len })
}

impl Giver {
    pub(super) fn room(&self, task: &Context<'_>) -> Room {
        let mut shared = lock(&self.0);
        if shared.given_up {
            Room::GivenUp
        } else if shared.waiting < ROOM {
            Room::Some
        } else {
            shared.owner = Some(task.waker().clone());
            Room::None
        }
    }

    /// Bytes that are handed over and not yet taken.
    pub(super) fn waiting(&self) -> usize {
        lock(&self.0).waiting
    }

    pub(super) fn is_given_up(&self) -> bool {
        lock(&self.0).given_up
    }

    /// Hands a group over; groups come in order.
    pub(super) fn give(&self, group: EncodedGroup) {
        let mut shared = lock(&self.0);
        shared.waiting += group.bytes.len();
        shared.groups.push_back(group);
        wake(&mut shared.writer);
    }

    /// A buffer to use again, if there is one.
    pub(super) fn spare(&self) -> Vec<u8> {
        lock(&self.0).spare.pop().unwrap_or_default()
    }

    /// That was all; or why there is no more.
    pub(super) fn end(self, result: Result<(), Error>) {
        let mut shared = lock(&self.0);
        shared.end.get_or_insert(result);
        wake(&mut shared.writer);
    }
}

impl Drop for Giver {
    fn drop(&mut self) {
        let mut shared = lock(&self.0);
        shared.end.get_or_insert_with(|| {
            let what = "the subtask ended before all of its state was stored";
            Err(Error::new(ErrorKind::Cancelled, what))
        });
        wake(&mut shared.writer);
    }
}

impl Frozen {
    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl GroupEncoder for Frozen {
    fn poll_next_group(&mut self, task: &mut Context<'_>) -> Poll<Result<Option<EncodedGroup>, Error>> {
        let mut shared = lock(&self.shared);
        if let Some(group) = shared.groups.pop_front() {
            shared.waiting -= group.bytes.len();
            wake(&mut shared.owner);
            return Poll::Ready(Ok(Some(group)));
        }
        match &mut shared.end {
            Some(end) => Poll::Ready(std::mem::replace(end, Ok(())).map(|()| None)),
            None => {
                shared.writer = Some(task.waker().clone());
                Poll::Pending
            }
        }
    }

    fn give_back(&mut self, mut buffer: Vec<u8>) {
        let mut shared = lock(&self.shared);
        if shared.spare.len() < SPARE {
            buffer.clear();
            shared.spare.push(buffer);
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let mut shared = lock(&self.shared);
        shared.given_up = true;
        shared.groups.clear();
        wake(&mut shared.owner);
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

impl fmt::Debug for Giver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Giver")
    }
}

impl fmt::Debug for Frozen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frozen").field("len", &self.len).finish_non_exhaustive()
    }
}
