//! A stream with its count: what has been given, what is kept to be given again.

use futures::Stream;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context as TaskContext, Poll, Waker};
use tokio::task::unconstrained;

pub(super) type BoxStream<T> = Pin<Box<dyn Stream<Item = T> + Send>>;

/// How copies of records are kept.
pub(super) struct Keep<T> {
    /// How many at most.
    pub(super) limit: usize,
    pub(super) copy: fn(&T) -> T,
}

impl<T> Clone for Keep<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Keep<T> {}

/// Records are numbered from 0 in the order in which the stream gives them. Those from `first_kept` on are in `kept`; the one after
/// them is the next that is fresh, and `next` is never beyond it.
pub(super) struct Feed<T> {
    /// `None` after its end.
    stream: Option<BoxStream<T>>,
    /// The next fresh record, if it was taken out of the stream already.
    peeked: Option<T>,
    /// The number of the record that is given next.
    next: u64,
    kept: VecDeque<T>,
    first_kept: u64,
    /// `None` if nothing is kept.
    keep: Option<Keep<T>>,
    /// Where a run without a checkpoint begins.
    begin: u64,
    /// What the stream is polled with. It outlives the readers, and keeps nothing of their threads alive.
    waker: Waker,
    /// Set while code of the stream runs: if it stays set, that code has panicked.
    polling: bool,
}

impl<T> Feed<T> {
    pub(super) fn new(stream: BoxStream<T>, waker: Waker) -> Self {
        Self {
            stream: Some(stream),
            peeked: None,
            next: 0,
            kept: VecDeque::new(),
            first_kept: 0,
            keep: None,
            begin: 0,
            waker,
            polling: false,
        }
    }

    /// A job begins to read. What an earlier one has read and no checkpoint covers is kept for it if it `goes_on`.
    pub(super) fn begin(&mut self, keep: Option<Keep<T>>, goes_on: bool) {
        self.keep = keep;
        if keep.is_none() || !goes_on {
            self.first_kept = self.fresh();
            self.kept.clear();
        }
        self.next = self.first_kept;
        self.begin = self.first_kept;
    }

    /// Goes back to where `given` records had been given, or to where the job began, as far as records are kept. Returns how many
    /// records that falls short of: they are lost.
    pub(super) fn go_back(&mut self, given: Option<u64>) -> u64 {
        let wanted = given.unwrap_or(self.begin).min(self.fresh());
        self.next = wanted.max(self.first_kept);
        self.next - wanted
    }

    /// How many records have been given, as of the last [`go_back`](Self::go_back).
    pub(super) fn given(&self) -> u64 {
        self.next
    }

    /// Whether the stream has ended and nothing of it is left.
    pub(super) fn is_used_up(&self) -> bool {
        self.stream.is_none() && self.peeked.is_none() && self.kept.is_empty()
    }

    /// Whether the stream's own code has panicked.
    pub(super) fn is_broken(&self) -> bool {
        self.polling
    }

    /// The next record, if one is at hand.
    pub(super) fn next(&mut self, covered: u64) -> Option<T> {
        let Some(keep) = self.keep else {
            let record = self.take_fresh()?;
            self.first_kept += 1;
            self.next += 1;
            return Some(record);
        };
        self.forget(covered);
        let copy = if self.next < self.fresh() {
            self.kept.get(usize::try_from(self.next - self.first_kept).ok()?).map(keep.copy)?
        } else {
            if self.kept.len() >= keep.limit {
                return None;
            }
            // It stays here while it is copied: code of the user's, which may panic.
            self.peeked = self.take_fresh();
            let copy = self.peeked.as_ref().map(keep.copy)?;
            self.kept.extend(self.peeked.take());
            copy
        };
        self.next += 1;
        Some(copy)
    }

    /// Whether [`next`](Self::next) has a record (`true`), or never will (`false`).
    pub(super) fn poll_ready(&mut self, covered: u64) -> Poll<bool> {
        self.forget(covered);
        if self.next < self.fresh() {
            return Poll::Ready(true);
        }
        if self.keep.is_some_and(|keep| self.kept.len() >= keep.limit) {
            return Poll::Pending;
        }
        self.poll_fresh().map(|record| {
            self.peeked = record;
            self.peeked.is_some()
        })
    }

    fn fresh(&self) -> u64 {
        self.first_kept + self.kept.len() as u64
    }

    /// Drops the copies that no restart will ask for.
    fn forget(&mut self, covered: u64) {
        while self.first_kept < covered && self.first_kept < self.next && self.kept.pop_front().is_some() {
            self.first_kept += 1;
        }
    }

    fn take_fresh(&mut self) -> Option<T> {
        // Without tokio's budget: the subtask has one of its own.
        let fresh = pin!(unconstrained(poll_fn(|_| self.poll_fresh())));
        match fresh.poll(&mut TaskContext::from_waker(Waker::noop())) {
            Poll::Ready(record) => record,
            Poll::Pending => None,
        }
    }

    fn poll_fresh(&mut self) -> Poll<Option<T>> {
        if self.peeked.is_some() {
            return Poll::Ready(self.peeked.take());
        }
        let Some(stream) = &mut self.stream else { return Poll::Ready(None) };
        self.polling = true;
        let record = stream.as_mut().poll_next(&mut TaskContext::from_waker(&self.waker));
        if matches!(record, Poll::Ready(None)) {
            self.stream = None;
        }
        self.polling = false;
        record
    }
}
