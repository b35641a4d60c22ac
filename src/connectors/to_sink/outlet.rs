//! One subtask's records on their way into a sink, in order.

use crate::error::{BoxError, Result};
use futures::{Sink, SinkExt};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use tokio::task::unconstrained;

pub(in crate::connectors) type BoxSink<T> = Pin<Box<dyn Sink<T, Error = BoxError> + Send>>;

/// A flush may overtake the future of a `prepare`, and the other way round. So both add to one queue, at once, and whoever
/// gets to the sink sends from the front.
pub(super) struct Outlet<T> {
    queue: Mutex<Queue<T>>,
    /// Fair: whoever came first sends first.
    line: tokio::sync::Mutex<Line<T>>,
}

struct Queue<T> {
    records: VecDeque<T>,
    /// How many were ever added.
    added: u64,
}

struct Line<T> {
    sink: BoxSink<T>,
    /// How many were sent.
    sent: u64,
    /// Up to where they are flushed.
    flushed: u64,
    /// After an error, a panic, or a call that was given up nothing more is sent: what came after a gap would hide it.
    failed: bool,
}

impl<T: Send> Outlet<T> {
    pub(super) fn new(sink: BoxSink<T>) -> Self {
        Self {
            queue: Mutex::new(Queue { records: VecDeque::new(), added: 0 }),
            line: tokio::sync::Mutex::new(Line { sink, sent: 0, flushed: 0, failed: false }),
        }
    }

    /// Adds records behind all others. Returns how many have been added now.
    pub(super) fn add(&self, records: &mut Vec<T>) -> u64 {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.added += records.len() as u64;
        queue.records.extend(records.drain(..));
        queue.added
    }

    /// Returns when the first `end` records are sent and flushed.
    pub(super) async fn send_up_to(&self, end: u64) -> Result {
        let mut line = self.line.lock().await;
        if line.failed {
            return Err("the sink failed before".into());
        }
        let Line { sink, sent, flushed, failed } = &mut *line;
        *failed = true;
        // Without tokio's budget: `end` bounds what this does at one go.
        let sending = unconstrained(async {
            while *sent < end {
                let Some(record) = self.next() else { break };
                sink.feed(record).await?;
                *sent += 1;
            }
            if *flushed < end {
                sink.flush().await?;
                *flushed = *sent;
            }
            Ok(())
        });
        let outcome = sending.await;
        *failed = outcome.is_err();
        outcome
    }

    fn next(&self) -> Option<T> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).records.pop_front()
    }
}
