//! The end of a chain: records into one buffer per channel, full buffers into the channels.

use super::{Barrier, Batch, Element, Flow, Output, Partitioner, batch_capacity};
use crate::error::Result;
use std::fmt;
use std::ops::ControlFlow;

/// Sends records and control elements through the channels of one edge.
pub trait Route<T>: 'static {
    /// Takes one record.
    fn push(&mut self, record: T) -> Result<Flow>;

    /// Takes records as long as there are some and there is room.
    #[inline]
    fn push_all<I: Iterator<Item = T>>(&mut self, records: &mut I) -> Result<Flow> {
        let stopped = records.try_for_each(|record| match self.push(record) {
            Ok(Flow::Ready) => ControlFlow::Continue(()),
            stopped => ControlFlow::Break(stopped),
        });
        stopped.break_value().unwrap_or(Ok(Flow::Ready))
    }

    /// Sends what is buffered.
    fn flush(&mut self);

    /// The channels.
    fn outputs(&mut self) -> &mut [Output];

    /// Sends what is buffered, then a control element through every channel.
    fn broadcast(&mut self, element: impl Fn() -> Element) {
        self.flush();
        for output in self.outputs() {
            let _ = output.send(element());
        }
    }

    /// Sends what is buffered, then a barrier through every channel; one that may overtake is announced.
    fn send_barrier(&mut self, barrier: Barrier) {
        if barrier.kind.overtakes_from().is_none() {
            return self.broadcast(|| Element::Barrier(barrier));
        }
        self.outputs().iter_mut().for_each(|output| output.overtake(true));
        self.broadcast(|| Element::Barrier(barrier));
        for output in self.outputs() {
            output.overtake(false);
            output.announce(barrier);
        }
    }

    /// Moves on what stalls.
    fn resume(&mut self) -> Flow {
        let mut flow = Flow::Ready;
        for output in self.outputs() {
            if output.resume() == Flow::Full {
                flow = Flow::Full;
            }
        }
        flow
    }

    /// Moves what stalls out of the way of a barrier that overtakes, as far as there is room.
    fn make_way(&mut self) {
        self.outputs().iter_mut().for_each(Output::make_way);
    }

    /// Wakes consumers that sleep. Once at the end of a turn.
    fn notify(&mut self) {
        self.outputs().iter_mut().for_each(Output::notify);
    }
}

/// Sends each record through one of several channels.
pub struct Router<T, P: Partitioner<T>> {
    outputs: Vec<Output>,
    buffers: Vec<Batch<P::Item>>,
    partitioner: P,
}

impl<T, P: Partitioner<T, Item: Send + 'static>> Router<T, P> {
    /// A router over these channels, in the order the partitioner counts them.
    pub fn new(mut outputs: Vec<Output>, partitioner: P) -> Self {
        let buffers = outputs.iter_mut().map(|output| *output.buffer()).collect();
        Self { outputs, buffers, partitioner }
    }

    fn ship(&mut self, channel: usize) -> Flow {
        let (Some(output), Some(buffer)) = (self.outputs.get_mut(channel), self.buffers.get_mut(channel))
        else {
            return Flow::Ready;
        };
        let mut batch = output.buffer();
        std::mem::swap(&mut *batch, buffer);
        output.send(Element::Batch(batch))
    }

    /// Ships what fills a buffer, and puts the record into the next.
    #[cold]
    fn ship_before(&mut self, channel: usize, item: P::Item) -> Flow {
        let flow = self.ship(channel);
        if let Some(buffer) = self.buffers.get_mut(channel) {
            buffer.items.push(item);
        }
        flow
    }
}

impl<T: 'static, P: Partitioner<T, Item: Send + 'static>> Route<T> for Router<T, P> {
    #[inline]
    fn push(&mut self, record: T) -> Result<Flow> {
        let (channel, item) = self.partitioner.select(record)?;
        let Some(buffer) = self.buffers.get_mut(channel) else { return Ok(Flow::Ready) };
        // A buffer that is full is shipped before the next record: so one look says that there is room, to the vector as well.
        if buffer.is_full() {
            return Ok(self.ship_before(channel, item));
        }
        buffer.items.push(item);
        Ok(Flow::Ready)
    }

    fn flush(&mut self) {
        for channel in 0..self.buffers.len() {
            if self.buffers.get(channel).is_some_and(|buffer| !buffer.items.is_empty()) {
                let _ = self.ship(channel);
            }
        }
    }

    fn outputs(&mut self) -> &mut [Output] {
        &mut self.outputs
    }
}

impl<T, P: Partitioner<T> + fmt::Debug> fmt::Debug for Router<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router")
            .field("outputs", &self.outputs)
            .field("partitioner", &self.partitioner)
            .finish()
    }
}

/// Sends each record through every channel.
pub struct BroadcastRouter<T> {
    outputs: Vec<Output>,
    buffer: Vec<T>,
}

impl<T: Clone + Send + 'static> BroadcastRouter<T> {
    /// A router over these channels.
    #[must_use]
    pub fn new(outputs: Vec<Output>) -> Self {
        Self { outputs, buffer: Vec::with_capacity(batch_capacity::<T>()) }
    }

    fn ship(&mut self) -> Flow {
        let mut flow = Flow::Ready;
        for output in &mut self.outputs {
            let mut batch = output.buffer::<T>();
            batch.items.extend_from_slice(&self.buffer);
            if output.send(Element::Batch(batch)) == Flow::Full {
                flow = Flow::Full;
            }
        }
        self.buffer.clear();
        flow
    }
}

impl<T: Clone + Send + 'static> Route<T> for BroadcastRouter<T> {
    #[inline]
    fn push(&mut self, record: T) -> Result<Flow> {
        self.buffer.push(record);
        Ok(if self.buffer.len() < batch_capacity::<T>() { Flow::Ready } else { self.ship() })
    }

    fn flush(&mut self) {
        if !self.buffer.is_empty() {
            let _ = self.ship();
        }
    }

    fn outputs(&mut self) -> &mut [Output] {
        &mut self.outputs
    }
}

impl<T> fmt::Debug for BroadcastRouter<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BroadcastRouter").field("outputs", &self.outputs).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::{Input, RoundRobin, channel};
    use std::sync::Arc;

    fn channels(n: usize, depth: usize) -> (Vec<Output>, Vec<Input>) {
        (0..n).map(|_| channel(depth, Arc::default(), Arc::default())).unzip()
    }

    fn records(input: &mut Input) -> Vec<u32> {
        let mut all = Vec::new();
        while let Some(element) = input.receive() {
            if let Element::Batch(batch) = element {
                all.extend(batch.downcast::<Batch<u32>>().unwrap().items);
            }
        }
        all
    }

    #[test]
    fn a_router_ships_full_batches_and_the_rest_on_flush() {
        let (outputs, mut inputs) = channels(2, 8);
        let mut router = Router::new(outputs, RoundRobin::new(2, 0));
        for i in 0..2051u32 {
            assert_eq!(router.push(i).unwrap(), Flow::Ready);
        }
        assert_eq!(records(&mut inputs[0]).len(), 1024);
        assert_eq!(records(&mut inputs[1]).len(), 1024);
        router.flush();
        assert_eq!((records(&mut inputs[0]), records(&mut inputs[1])), (vec![2048, 2050], vec![2049]));
    }

    #[test]
    fn control_follows_the_records_before_it() {
        let (outputs, mut inputs) = channels(1, 8);
        let mut router = Router::new(outputs, RoundRobin::new(1, 0));
        let _ = router.push(7u32).unwrap();
        router.broadcast(|| Element::End { drained: false });
        assert!(matches!(inputs[0].receive(), Some(Element::Batch(_))));
        assert!(matches!(inputs[0].receive(), Some(Element::End { .. })));
    }

    #[test]
    fn a_full_channel_stops_the_router_and_loses_nothing() {
        let (outputs, mut inputs) = channels(1, 1);
        let mut router = Router::new(outputs, RoundRobin::new(1, 0));
        let mut sent = 0u32;
        while router.push(sent).unwrap() == Flow::Ready {
            sent += 1;
        }
        assert_eq!(sent, 2048, "one batch in the ring, one stalled, and the record that found it full");
        assert_eq!(router.resume(), Flow::Full);
        let mut got = records(&mut inputs[0]);
        assert_eq!(router.resume(), Flow::Ready);
        got.extend(records(&mut inputs[0]));
        router.flush();
        got.extend(records(&mut inputs[0]));
        assert_eq!(got, (0..2049).collect::<Vec<_>>());
    }

    #[test]
    fn broadcast_reaches_every_channel() {
        let (outputs, mut inputs) = channels(3, 4);
        let mut router = BroadcastRouter::new(outputs);
        let _ = router.push(1u32);
        let _ = router.push(2);
        router.broadcast(|| Element::End { drained: false });
        for input in &mut inputs {
            assert_eq!(records(input), [1, 2]);
        }
    }
}
