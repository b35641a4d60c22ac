//! The input gate: the data half of a subtask's mailbox.

use super::{AnyBatch, Barrier, Element, Input};
use crate::checkpoint::{AbortReason, Alignment, AlignmentAction, AlignmentEvent};
use crate::types::{CheckpointId, Port};

/// What the gate has for its subtask.
#[derive(Debug)]
pub enum GateEvent {
    /// Records of one channel. Give the batch back when it is empty.
    Batch {
        /// Where it came from.
        channel: usize,
        /// Which input of the chain that channel belongs to.
        port: Port,
        /// The records.
        batch: AnyBatch,
    },
    /// Every channel has reached this barrier: snapshot now, then take the next event.
    Snapshot(Barrier),
    /// This checkpoint will not be taken here: tell downstream.
    Aborted(CheckpointId, AbortReason),
    /// Every channel has reached its end. Said once; barriers may still follow.
    Ended,
    /// Nothing at the moment.
    Empty,
}

/// Takes elements from its channels in turn and aligns their barriers.
#[derive(Debug)]
pub struct InputGate {
    inputs: Vec<Input>,
    /// Of each channel.
    ports: Vec<Port>,
    ended: Vec<bool>,
    open: usize,
    end_said: bool,
    next: usize,
    alignment: Alignment,
    /// The barrier of the checkpoint that is being aligned.
    barrier: Option<Barrier>,
}

impl InputGate {
    /// A gate in front of these channels. Barriers align, and the input ends, over the channels of all ports.
    #[must_use]
    pub fn new(channels: Vec<(Port, Input)>) -> Self {
        let (ports, inputs): (Vec<_>, Vec<_>) = channels.into_iter().unzip();
        let channels = inputs.len();
        Self {
            ended: vec![false; channels],
            open: channels,
            end_said: false,
            next: 0,
            alignment: Alignment::new(channels),
            barrier: None,
            inputs,
            ports,
        }
    }

    /// The next event. Channels are served in turn, a batch at a time; one that waits for the barriers of the others is not
    /// served, so what follows its barrier stays in its ring and holds its producer back.
    pub fn poll(&mut self) -> GateEvent {
        if self.open == 0 && !self.end_said {
            self.end_said = true;
            return GateEvent::Ended;
        }
        let channels = self.inputs.len();
        for _ in 0..channels {
            let channel = self.next;
            self.next = if channel + 1 >= channels { 0 } else { channel + 1 };
            if self.alignment.is_blocked(channel) {
                continue;
            }
            let Some(element) = self.inputs.get_mut(channel).and_then(Input::receive) else { continue };
            match element {
                Element::Batch(batch) => {
                    let port = self.ports.get(channel).copied().unwrap_or_default();
                    return GateEvent::Batch { channel, port, batch };
                }
                Element::Barrier(barrier) => {
                    if self.barrier.is_none_or(|known| known.checkpoint < barrier.checkpoint) {
                        self.barrier = Some(barrier);
                    }
                    let event = AlignmentEvent::Barrier { channel, checkpoint: barrier.checkpoint };
                    if let Some(event) = self.align(event) {
                        return event;
                    }
                }
                Element::CancelBarrier(checkpoint) => {
                    if let Some(event) = self.align(AlignmentEvent::Cancel { channel, checkpoint }) {
                        return event;
                    }
                }
                Element::End => {
                    if let Some(ended) = self.ended.get_mut(channel)
                        && !std::mem::replace(ended, true)
                    {
                        self.open -= 1;
                    }
                    if self.open == 0 && !self.end_said {
                        self.end_said = true;
                        return GateEvent::Ended;
                    }
                }
            }
        }
        GateEvent::Empty
    }

    /// The barrier of the newest checkpoint that has come to any of its channels.
    #[must_use]
    pub fn newest_barrier(&self) -> Option<Barrier> {
        self.barrier
    }

    fn align(&mut self, event: AlignmentEvent) -> Option<GateEvent> {
        let mut result = None;
        for action in self.alignment.on(event) {
            match action {
                // Blocking is looked up, not carried out: a blocked channel is just not polled.
                AlignmentAction::Block(_) | AlignmentAction::Resume(_) => {}
                AlignmentAction::Snapshot(checkpoint) => {
                    let barrier = self.barrier.filter(|known| known.checkpoint == checkpoint);
                    result = barrier.map(GateEvent::Snapshot).or(result);
                }
                AlignmentAction::Abort(checkpoint, reason) => {
                    // A newer barrier may at once complete the newer checkpoint, which implies the abort.
                    result.get_or_insert(GateEvent::Aborted(checkpoint, reason));
                }
            }
        }
        result
    }

    /// Whether there is something to take: for the second look before sleep.
    #[must_use]
    pub fn has_event(&self) -> bool {
        (self.open == 0 && !self.end_said)
            || (0..self.inputs.len()).any(|channel| {
                !self.alignment.is_blocked(channel)
                    && self.inputs.get(channel).is_some_and(Input::has_element)
            })
    }

    /// Gives an emptied batch back to its producer.
    pub fn give_back(&mut self, channel: usize, batch: AnyBatch) {
        if let Some(input) = self.inputs.get_mut(channel) {
            input.give_back(batch);
        }
    }

    /// Wakes producers that sleep and have room again. Once at the end of a turn.
    pub fn notify(&mut self) {
        self.inputs.iter_mut().for_each(Input::notify);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::{Batch, Flow, Output, channel};
    use crate::types::Timestamp;
    use std::sync::Arc;

    fn gate(n: usize) -> (Vec<Output>, InputGate) {
        let channels = (0..n).map(|_| channel(8, Arc::default(), Arc::default()));
        // Channels of two ports in turn.
        let (outputs, inputs) =
            (0..).zip(channels).map(|(i, (output, input))| (output, (Port(i % 2), input))).unzip();
        (outputs, InputGate::new(inputs))
    }

    fn send(output: &mut Output, record: u32) {
        assert_eq!(
            output.send(Element::Batch(Box::new(Batch { items: vec![record], hashes: vec![] }))),
            Flow::Ready
        );
    }

    fn barrier(output: &mut Output, id: u64) {
        let barrier = Barrier { checkpoint: CheckpointId(id), triggered: Timestamp(5) };
        assert_eq!(output.send(Element::Barrier(barrier)), Flow::Ready);
    }

    /// Everything the gate gives, as text: records, `|id` for a snapshot, `xid` for an abort, `.` for the end.
    fn drain(gate: &mut InputGate) -> String {
        let mut text = String::new();
        loop {
            match gate.poll() {
                GateEvent::Batch { channel, port, batch } => {
                    assert_eq!(port, Port(channel as u32 % 2));
                    for record in batch.downcast::<Batch<u32>>().unwrap().items {
                        text.push_str(&format!("{record} "));
                    }
                }
                GateEvent::Snapshot(barrier) => text.push_str(&format!("|{} ", barrier.checkpoint)),
                GateEvent::Aborted(id, _) => text.push_str(&format!("x{id} ")),
                GateEvent::Ended => text.push('.'),
                GateEvent::Empty => return text,
            }
        }
    }

    #[test]
    fn records_behind_a_barrier_wait_for_the_barriers_of_the_others() {
        let (mut out, mut gate) = gate(2);
        send(&mut out[0], 1);
        barrier(&mut out[0], 1);
        send(&mut out[0], 2);
        send(&mut out[1], 3);
        assert_eq!(drain(&mut gate), "1 3 ");
        assert!(!gate.has_event(), "the blocked channel does not count");
        send(&mut out[1], 4);
        barrier(&mut out[1], 1);
        send(&mut out[1], 5);
        assert_eq!(drain(&mut gate), "4 |1 2 5 ");
    }

    #[test]
    fn a_newer_barrier_gives_up_the_older_checkpoint() {
        let (mut out, mut gate) = gate(2);
        barrier(&mut out[0], 1);
        send(&mut out[0], 1);
        barrier(&mut out[1], 2);
        send(&mut out[1], 2);
        assert_eq!(drain(&mut gate), "x1 1 ");
        barrier(&mut out[0], 2);
        assert_eq!(drain(&mut gate), "|2 2 ");
    }

    #[test]
    fn a_cancelled_barrier_unblocks() {
        let (mut out, mut gate) = gate(2);
        barrier(&mut out[0], 1);
        send(&mut out[0], 1);
        let _ = out[1].send(Element::CancelBarrier(CheckpointId(1)));
        assert_eq!(drain(&mut gate), "x1 1 ");
    }

    #[test]
    fn the_end_is_said_once_and_barriers_go_on() {
        let (mut out, mut gate) = gate(2);
        let _ = out[0].send(Element::End);
        assert_eq!(drain(&mut gate), "");
        let _ = out[1].send(Element::End);
        assert_eq!(drain(&mut gate), ".");
        barrier(&mut out[0], 1);
        barrier(&mut out[1], 1);
        assert_eq!(drain(&mut gate), "|1 ");
    }
}
