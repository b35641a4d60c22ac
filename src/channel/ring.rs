//! A channel: one producing subtask, one consuming subtask, a bounded ring, and a way back for empty buffers.

use super::{AnyBatch, Batch, Element, WakeCell};
use crate::metrics::SubtaskCounters;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

/// Whether more may be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Flow {
    /// Go on.
    Ready,
    /// What was given is *taken*, but give nothing more until `resume` says [`Flow::Ready`].
    Full,
}

impl Flow {
    /// Of two ways out: ready if both are.
    #[inline]
    pub fn and(self, other: Self) -> Self {
        if other == Self::Full { other } else { self }
    }
}

/// The sending end.
///
/// What does not fit into the ring waits here, so an element is always taken; its owner stops its input until it is
/// gone. So a channel holds at most its depth, one batch more, and the few control elements that follow it.
pub struct Output {
    ring: rtrb::Producer<Element>,
    stalled: VecDeque<Element>,
    spare: rtrb::Consumer<AnyBatch>,
    consumer: Arc<WakeCell>,
    /// Whether something was put into the ring since the consumer was last told.
    news: bool,
    /// Where what is sent is counted, if anywhere.
    counters: Option<Arc<SubtaskCounters>>,
}

/// The receiving end.
pub struct Input {
    ring: rtrb::Consumer<Element>,
    spare: rtrb::Producer<AnyBatch>,
    producer: Arc<WakeCell>,
    /// Whether something was taken out of the ring since the producer was last told.
    news: bool,
}

/// A channel `depth` elements deep, between the subtasks that sleep in these cells.
#[must_use]
pub fn channel(depth: usize, producer: Arc<WakeCell>, consumer: Arc<WakeCell>) -> (Output, Input) {
    let (ring_in, ring_out) = rtrb::RingBuffer::new(depth);
    let (spare_in, spare_out) = rtrb::RingBuffer::new(depth + 2);
    (
        Output {
            ring: ring_in,
            stalled: VecDeque::new(),
            spare: spare_out,
            consumer,
            news: false,
            counters: None,
        },
        Input { ring: ring_out, spare: spare_in, producer, news: false },
    )
}

impl Output {
    /// From now on counts what is sent.
    pub fn count_in(&mut self, counters: &Arc<SubtaskCounters>) {
        self.counters = Some(Arc::clone(counters));
    }

    /// Sends one element, after those that stall.
    pub fn send(&mut self, element: Element) -> Flow {
        if let (Element::Batch(batch), Some(counters)) = (&element, &self.counters) {
            counters.records_out.add(batch.len() as u64);
            counters.batches_out.add(1);
        }
        if !self.stalled.is_empty() {
            self.stalled.push_back(element);
            return Flow::Full;
        }
        match self.ring.push(element) {
            Ok(()) => {
                self.news = true;
                Flow::Ready
            }
            Err(rtrb::PushError::Full(element)) => {
                self.stalled.push_back(element);
                Flow::Full
            }
        }
    }

    /// Moves on what stalls.
    pub fn resume(&mut self) -> Flow {
        while let Some(element) = self.stalled.pop_front() {
            match self.ring.push(element) {
                Ok(()) => self.news = true,
                Err(rtrb::PushError::Full(element)) => {
                    self.stalled.push_front(element);
                    return Flow::Full;
                }
            }
        }
        Flow::Ready
    }

    /// An empty batch: one that came back, else a new one.
    pub fn buffer<T: Send + 'static>(&mut self, hashed: bool) -> Box<Batch<T>> {
        match self.spare.pop().map(|any| any.downcast::<Batch<T>>()) {
            Ok(Ok(batch)) => batch,
            _ => Box::new(Batch::with_room(hashed)),
        }
    }

    /// Wakes the consumer if it sleeps and has something to find. Once at the end of a turn.
    pub fn notify(&mut self) {
        if std::mem::take(&mut self.news) {
            self.consumer.wake();
        }
    }
}

impl Input {
    /// The next element, if there is one.
    pub fn receive(&mut self) -> Option<Element> {
        let element = self.ring.pop().ok()?;
        self.news = true;
        Some(element)
    }

    /// Whether an element waits.
    #[must_use]
    pub fn has_element(&self) -> bool {
        !self.ring.is_empty()
    }

    /// Gives an emptied batch back. Where there is no room for it, it is dropped.
    pub fn give_back(&mut self, batch: AnyBatch) {
        let _ = self.spare.push(batch);
    }

    /// Wakes the producer if it sleeps and has room again. Once at the end of a turn.
    pub fn notify(&mut self) {
        if std::mem::take(&mut self.news) {
            self.producer.wake();
        }
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output").field("stalled", &self.stalled.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Input").field("waiting", &self.ring.slots()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::Barrier;
    use crate::types::{CheckpointId, Timestamp};

    fn barrier(id: u64) -> Element {
        Element::Barrier(Barrier { checkpoint: CheckpointId(id), triggered: Timestamp(0) })
    }

    fn id(element: Option<Element>) -> Option<u64> {
        match element {
            Some(Element::Barrier(barrier)) => Some(barrier.checkpoint.0),
            _ => None,
        }
    }

    #[test]
    fn a_full_channel_takes_the_element_and_says_stop() {
        let (mut output, mut input) = channel(2, Arc::default(), Arc::default());
        assert_eq!(output.send(barrier(1)), Flow::Ready);
        assert_eq!(output.send(barrier(2)), Flow::Ready);
        assert_eq!(output.send(barrier(3)), Flow::Full);
        assert_eq!(output.send(barrier(4)), Flow::Full);
        assert_eq!(output.resume(), Flow::Full);
        assert_eq!(id(input.receive()), Some(1));
        assert_eq!(output.resume(), Flow::Full);
        assert_eq!(id(input.receive()), Some(2));
        assert_eq!(output.resume(), Flow::Ready);
        assert_eq!([id(input.receive()), id(input.receive()), id(input.receive())], [Some(3), Some(4), None]);
    }

    #[test]
    fn buffers_come_back() {
        let (mut output, mut input) = channel(2, Arc::default(), Arc::default());
        let mut first = output.buffer::<u64>(true);
        first.items.push(1);
        let at = first.items.as_ptr();
        assert_eq!(output.send(Element::Batch(first)), Flow::Ready);
        let Some(Element::Batch(mut any)) = input.receive() else { panic!("a batch") };
        any.downcast_mut::<Batch<u64>>().unwrap().items.clear();
        input.give_back(any);
        let again = output.buffer::<u64>(true);
        assert_eq!(again.items.as_ptr(), at);
        assert_ne!(output.buffer::<u64>(true).items.as_ptr(), at);
    }
}
