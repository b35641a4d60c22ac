//! A channel: one producing subtask, one consuming subtask, a bounded ring, and a way back for empty buffers.

use super::{Announcements, AnyBatch, Barrier, Batch, Element, WakeCell, batch_capacity};
use crate::metrics::SubtaskCounters;
use std::collections::VecDeque;
use std::fmt;
use std::ops::ControlFlow;
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

/// Room in a ring for a barrier that overtakes, the unfinished batch before it, and before that a full batch that stalls. Nothing else
/// goes there, so a sender that is held back need not wait for the consumer to take what the barrier overtakes.
const RESERVE: usize = 3;

/// What of it a batch that stalls leaves free.
const FOR_BARRIER: usize = 2;

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
    /// How many places what is sent leaves free.
    keeps: usize,
    /// Where the consumer hears of barriers, if it listens.
    announcements: Option<Arc<Announcements>>,
}

/// The receiving end.
pub struct Input {
    ring: rtrb::Consumer<Element>,
    spare: rtrb::Producer<AnyBatch>,
    producer: Arc<WakeCell>,
    /// Whether something was taken out of the ring since the producer was last told.
    news: bool,
    /// How many elements were taken.
    taken: u64,
}

/// A channel `depth` elements deep, between the subtasks that sleep in these cells.
#[must_use]
pub fn channel(depth: usize, producer: Arc<WakeCell>, consumer: Arc<WakeCell>) -> (Output, Input) {
    let (ring_in, ring_out) = rtrb::RingBuffer::new(depth + RESERVE);
    let (spare_in, spare_out) = rtrb::RingBuffer::new(depth + 2);
    (
        Output {
            ring: ring_in,
            stalled: VecDeque::new(),
            spare: spare_out,
            consumer,
            news: false,
            counters: None,
            keeps: RESERVE,
            announcements: None,
        },
        Input { ring: ring_out, spare: spare_in, producer, news: false, taken: 0 },
    )
}

impl Output {
    /// From now on counts what is sent.
    pub fn count_in(&mut self, counters: &Arc<SubtaskCounters>) {
        self.counters = Some(Arc::clone(counters));
    }

    /// From now on the consumer is told here of barriers that may overtake.
    pub fn announce_in(&mut self, announcements: &Arc<Announcements>) {
        self.announcements = Some(Arc::clone(announcements));
    }

    /// Tells the consumer of a barrier that was sent, perhaps still stalls, and may overtake what is before it.
    pub fn announce(&mut self, barrier: Barrier) {
        if let Some(announcements) = &self.announcements {
            announcements.announce(barrier);
            self.news = true;
        }
    }

    /// From now on, or until now, what is sent may go into the reserve.
    pub fn overtake(&mut self, yes: bool) {
        self.keeps = if yes { 0 } else { RESERVE };
    }

    /// Moves a batch that stalls into the reserve, so that a barrier can follow it.
    pub fn make_way(&mut self) {
        self.keeps = FOR_BARRIER;
        let _ = self.resume();
        self.keeps = RESERVE;
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
        match self.push(element) {
            Ok(()) => Flow::Ready,
            Err(element) => {
                self.stalled.push_back(element);
                Flow::Full
            }
        }
    }

    /// Moves on what stalls.
    pub fn resume(&mut self) -> Flow {
        while let Some(element) = self.stalled.pop_front() {
            if let Err(element) = self.push(element) {
                self.stalled.push_front(element);
                return Flow::Full;
            }
        }
        Flow::Ready
    }

    fn push(&mut self, element: Element) -> Result<(), Element> {
        if self.ring.slots() <= self.keeps {
            return Err(element);
        }
        self.ring.push(element).map_err(|rtrb::PushError::Full(element)| element)?;
        self.news = true;
        Ok(())
    }

    /// An empty batch: one that came back, else a new one.
    pub fn buffer<I: Send + 'static>(&mut self) -> Box<Batch<I>> {
        match self.spare.pop().map(|any| any.downcast::<Batch<I>>()) {
            // One that was restored has room for no more than it held.
            Ok(Ok(batch)) if batch.items.capacity() >= batch_capacity::<I>() => batch,
            _ => Box::new(Batch::with_room()),
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
        self.taken += 1;
        Some(element)
    }

    /// How many elements were taken: the number of the next one.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Looks at the elements that wait, without taking them, from number `from` on, until `see` says stop. Gives the number of the
    /// first one that was not seen.
    pub fn look(&mut self, from: u64, mut see: impl FnMut(&Element) -> ControlFlow<()>) -> u64 {
        let from = from.max(self.taken);
        let skip = usize::try_from(from - self.taken).unwrap_or(usize::MAX);
        let waiting = self.ring.slots();
        // Dropping the chunk leaves everything in the ring.
        let Ok(chunk) = self.ring.read_chunk(waiting) else { return from };
        let (first, second) = chunk.as_slices();
        let mut next = from;
        for element in first.iter().chain(second).skip(skip) {
            next += 1;
            if see(element).is_break() {
                break;
            }
        }
        next
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
    use crate::checkpoint::{BarrierKind, Extent};
    use crate::types::{CheckpointId, Timestamp};

    fn barrier(id: u64) -> Element {
        Element::Barrier(Barrier {
            checkpoint: CheckpointId(id),
            triggered: Timestamp(0),
            kind: BarrierKind::Aligned,
            extent: Extent::Full,
        })
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
    fn a_look_takes_nothing_and_goes_on_where_the_last_one_stopped() {
        let (mut output, mut input) = channel(3, Arc::default(), Arc::default());
        let seen = |input: &mut Input, from, stop_at: u64| {
            let mut seen = Vec::new();
            let next = input.look(from, |element| {
                let Element::Barrier(barrier) = element else { panic!("a barrier") };
                seen.push(barrier.checkpoint.0);
                if barrier.checkpoint.0 == stop_at {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            });
            (seen, next)
        };
        assert_eq!(seen(&mut input, 0, 9), (vec![], 0));
        // Round the end of the ring.
        for i in 1..=2 {
            assert_eq!(output.send(barrier(i)), Flow::Ready);
            assert_eq!(id(input.receive()), Some(i));
        }
        for i in 3..=5 {
            assert_eq!(output.send(barrier(i)), Flow::Ready);
        }
        assert_eq!(seen(&mut input, 0, 9), (vec![3, 4, 5], 5));
        assert_eq!(seen(&mut input, 0, 4), (vec![3, 4], 4));
        assert_eq!(seen(&mut input, 4, 9), (vec![5], 5));
        assert_eq!(id(input.receive()), Some(3));
        assert_eq!(output.send(barrier(6)), Flow::Ready);
        assert_eq!(seen(&mut input, 5, 9), (vec![6], 6));
        assert_eq!(input.taken(), 3);
    }

    #[test]
    fn what_overtakes_finds_room_in_a_full_channel() {
        let (mut output, mut input) = channel(1, Arc::default(), Arc::default());
        assert_eq!(output.send(barrier(1)), Flow::Ready);
        output.overtake(true);
        assert_eq!(output.send(barrier(2)), Flow::Ready);
        assert_eq!(output.send(barrier(3)), Flow::Ready);
        assert_eq!(output.send(barrier(4)), Flow::Ready);
        assert_eq!(output.send(barrier(5)), Flow::Full, "the reserve is bounded, too");
        output.overtake(false);
        for i in 1..=4 {
            assert_eq!(id(input.receive()), Some(i));
            assert_eq!(output.resume(), if i < 4 { Flow::Full } else { Flow::Ready }, "after {i}");
        }
        assert_eq!(id(input.receive()), Some(5));
    }

    #[test]
    fn what_stalls_makes_way_once_and_leaves_room_for_the_barrier() {
        let (mut output, mut input) = channel(1, Arc::default(), Arc::default());
        assert_eq!(output.send(barrier(1)), Flow::Ready);
        assert_eq!(output.send(barrier(2)), Flow::Full);
        output.make_way();
        assert_eq!(output.resume(), Flow::Ready);
        assert_eq!(output.send(barrier(3)), Flow::Full, "what comes then stalls as before");
        output.make_way();
        assert_eq!(output.resume(), Flow::Full, "the rest of the room is not for it");
        output.overtake(true);
        assert_eq!(output.resume(), Flow::Ready);
        assert_eq!(output.send(barrier(4)), Flow::Ready, "but for a barrier");
        assert_eq!([(); 4].map(|()| id(input.receive())), [1, 2, 3, 4].map(Some));
    }

    #[test]
    fn buffers_come_back() {
        let (mut output, mut input) = channel(2, Arc::default(), Arc::default());
        let mut first = output.buffer::<u64>();
        first.items.push(1);
        let at = first.items.as_ptr();
        assert_eq!(output.send(Element::Batch(first)), Flow::Ready);
        let Some(Element::Batch(mut any)) = input.receive() else { panic!("a batch") };
        any.downcast_mut::<Batch<u64>>().unwrap().items.clear();
        input.give_back(any);
        let again = output.buffer::<u64>();
        assert_eq!(again.items.as_ptr(), at);
        assert_ne!(output.buffer::<u64>().items.as_ptr(), at);
    }
}
