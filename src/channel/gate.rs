//! The input gate: the data half of a subtask's mailbox.

use super::capture::{Capture, Mark};
use super::{Announcements, AnyBatch, Barrier, Element, InFlight, Input, Listener, RecordCodec};
use crate::checkpoint::{AbortReason, Alignment, AlignmentAction, AlignmentEvent, CheckpointingMode};
use crate::error::Error;
use crate::types::{CheckpointId, Clock, EdgeId, Monotonic, Port, SubtaskIndex};
use std::collections::VecDeque;
use std::sync::Arc;

/// Where the records of a channel come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// Along which edge.
    pub edge: EdgeId,
    /// From which of the subtasks before it.
    pub from: SubtaskIndex,
}

/// A channel that leads into a gate.
#[derive(Debug)]
pub struct Inlet {
    /// Which input of the chain it belongs to.
    pub port: Port,
    /// Where it comes from.
    pub origin: Origin,
    /// What its batches are.
    pub codec: RecordCodec,
    /// The channel.
    pub input: Input,
}

/// What the gate has for its subtask.
#[derive(Debug)]
pub enum GateEvent {
    /// Records of one channel. Give the batch back when it is empty.
    Batch(InHand),
    /// Every channel has reached this barrier: snapshot now, then take the next event.
    Snapshot(Barrier),
    /// Snapshot now, although channels hold records that belong to it: they come with [`GateEvent::Captured`].
    SnapshotUnaligned(Barrier),
    /// The records in flight that belong to the snapshot taken last, without those that were [known](InputGate::take_known) then.
    Captured(CheckpointId, Vec<InFlight>),
    /// This checkpoint will not be taken here: tell downstream.
    Aborted(CheckpointId, AbortReason),
    /// Every channel has reached its end. Said once; barriers may still follow.
    Ended,
    /// Nothing at the moment.
    Empty,
}

/// A batch, and where it came from.
#[derive(Debug)]
pub struct InHand {
    /// Through which channel; `None` for one that was restored.
    channel: Option<usize>,
    origin: Origin,
    codec: RecordCodec,
    /// Which input of the chain it is for.
    pub port: Port,
    /// The records.
    pub batch: AnyBatch,
}

/// Takes elements from its channels in turn and aligns their barriers, or captures what they overtake.
#[derive(Debug)]
pub struct InputGate {
    inlets: Vec<Inlet>,
    ended: Vec<bool>,
    open: usize,
    end_said: bool,
    /// Whether a drain has ended any of the channels.
    drained: bool,
    next: usize,
    clock: Clock,
    alignment: Alignment,
    announcements: Arc<Announcements>,
    listener: Listener,
    /// Records that were in flight in the checkpoint this attempt starts from, in order. They come before all others.
    restored: VecDeque<InHand>,
    capture: Option<Capture>,
    /// The barrier of the newest checkpoint, for the statistics.
    barrier: Option<Barrier>,
    /// What has been decided and not yet been told.
    events: VecDeque<GateEvent>,
}

impl InputGate {
    /// A gate in front of these channels. Barriers align, and the input ends, over the channels of all ports.
    #[must_use]
    pub fn new(
        inlets: Vec<Inlet>,
        mode: CheckpointingMode,
        announcements: Arc<Announcements>,
        clock: Clock,
    ) -> Self {
        let channels = inlets.len();
        Self {
            ended: vec![false; channels],
            open: channels,
            end_said: false,
            drained: false,
            next: 0,
            clock,
            alignment: Alignment::new(channels, mode),
            announcements,
            listener: Listener::default(),
            restored: VecDeque::new(),
            capture: None,
            barrier: None,
            events: VecDeque::new(),
            inlets,
        }
    }

    /// Adds records that were in flight when the checkpoint was taken: to be processed before anything that comes.
    pub fn restore(&mut self, port: Port, origin: Origin, codec: RecordCodec, batches: Vec<AnyBatch>) {
        let restored = batches.into_iter();
        self.restored.extend(restored.map(|batch| InHand { channel: None, origin, codec, port, batch }));
    }

    /// The next event. Channels are served in turn, a batch at a time; one that waits for the barriers of the others is not
    /// served, so what follows its barrier stays in its ring and holds its producer back.
    ///
    /// # Errors
    /// When a batch is not what its channel should carry.
    pub fn poll(&mut self) -> Result<GateEvent, Error> {
        if let Some(event) = self.events.pop_front() {
            return Ok(event);
        }
        if let Some(restored) = self.restored.pop_front() {
            return Ok(GateEvent::Batch(restored));
        }
        if self.open == 0 && !self.end_said {
            self.end_said = true;
            return Ok(GateEvent::Ended);
        }
        let channels = self.inlets.len();
        for _ in 0..channels {
            let channel = self.next;
            self.next = if channel + 1 >= channels { 0 } else { channel + 1 };
            if self.capture.is_some() && self.alignment.captures(channel) {
                self.capture_channel(channel, None)?;
                if let Some(event) = self.events.pop_front() {
                    return Ok(event);
                }
                // What came in this instant is looked at first.
                if self.is_ahead_of_capture(channel) {
                    continue;
                }
            }
            if self.alignment.is_blocked(channel) {
                continue;
            }
            let Some(inlet) = self.inlets.get_mut(channel) else { continue };
            let Some(element) = inlet.input.receive() else { continue };
            match element {
                Element::Batch(batch) => {
                    let Inlet { port, origin, codec, .. } = *inlet;
                    let channel = Some(channel);
                    return Ok(GateEvent::Batch(InHand { channel, origin, codec, port, batch }));
                }
                Element::Barrier(barrier) => {
                    self.align(AlignmentEvent::Barrier { channel, barrier }, None)?;
                }
                Element::CancelBarrier(checkpoint) => {
                    self.align(AlignmentEvent::Cancel { channel, checkpoint }, None)?;
                }
                Element::End { drained } => {
                    self.drained |= drained;
                    if let Some(ended) = self.ended.get_mut(channel)
                        && !std::mem::replace(ended, true)
                    {
                        self.open -= 1;
                    }
                    if self.open == 0 && !self.end_said {
                        self.end_said = true;
                        self.events.push_back(GateEvent::Ended);
                    }
                }
            }
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
        }
        Ok(GateEvent::Empty)
    }

    /// What comes before the next record, if anything does: a barrier that overtakes, here or in news of it, and what belongs to one
    /// that has. To be asked between two records; `in_hand` is the batch that is not used up.
    ///
    /// # Errors
    /// As [`poll`](Self::poll).
    pub fn poll_urgent(&mut self, in_hand: Option<&InHand>) -> Result<Option<GateEvent>, Error> {
        if let Some(barrier) = self.listener.hear(&self.announcements) {
            self.align(AlignmentEvent::Announced(barrier), in_hand)?;
        }
        if self.deadline().is_some() {
            self.align(AlignmentEvent::Timer, in_hand)?;
        }
        if self.capture.is_some() {
            for channel in 0..self.inlets.len() {
                self.capture_channel(channel, in_hand)?;
            }
        }
        Ok(self.events.pop_front())
    }

    /// What is known so far of the records in flight to the snapshot of this checkpoint, which is being taken. [`GateEvent::Captured`] brings
    /// the rest.
    pub fn take_known(&mut self, checkpoint: CheckpointId) -> Vec<InFlight> {
        match self.events.front_mut() {
            // Then that is nothing.
            Some(GateEvent::Captured(id, all)) if *id == checkpoint => std::mem::take(all),
            // Another's may have begun since it was said that this one is to be taken.
            _ => match &mut self.capture {
                Some(capture) if capture.checkpoint == checkpoint => capture.take_records(),
                _ => Vec::new(),
            },
        }
    }

    /// What was in flight to the snapshot that was just taken, if all of it is known.
    pub fn take_captured(&mut self) -> Option<GateEvent> {
        match self.events.front() {
            Some(GateEvent::Captured(..)) => self.events.pop_front(),
            _ => None,
        }
    }

    /// Whether a drain has ended any of the channels that have ended.
    #[must_use]
    pub fn was_drained(&self) -> bool {
        self.drained
    }

    /// When a checkpoint that aligns has waited long enough: [`poll_urgent`](Self::poll_urgent) then.
    #[must_use]
    pub fn deadline(&self) -> Option<Monotonic> {
        self.alignment.deadline()
    }

    /// From when on a barrier that has come, or of which there is news, may overtake what is not processed.
    #[must_use]
    pub fn overtaken_from(&self) -> Option<Monotonic> {
        let news = self.listener.news(&self.announcements).and_then(|barrier| barrier.kind.overtakes_from());
        self.deadline().into_iter().chain(news).min()
    }

    /// Tells it of a barrier that will come through its channels.
    pub fn announce(&self, barrier: Barrier) {
        self.announcements.announce(barrier);
    }

    /// Nobody wants the records in flight of this checkpoint any more.
    pub fn forget(&mut self, checkpoint: CheckpointId) {
        self.capture.take_if(|capture| capture.checkpoint == checkpoint);
    }

    /// The barrier of the newest checkpoint that has come to any of its channels.
    #[must_use]
    pub fn newest_barrier(&self) -> Option<Barrier> {
        self.barrier
    }

    fn align(&mut self, event: AlignmentEvent, in_hand: Option<&InHand>) -> Result<(), Error> {
        if let AlignmentEvent::Barrier { barrier, .. } = event
            && self.barrier.is_none_or(|known| known.checkpoint < barrier.checkpoint)
        {
            self.barrier = Some(barrier);
        }
        for action in self.alignment.on(event, self.clock.now()) {
            match action {
                // Blocking is looked up, not carried out: a blocked channel is just not polled.
                AlignmentAction::Block(_) | AlignmentAction::Resume(_) => {}
                AlignmentAction::Snapshot(barrier) => self.events.push_back(GateEvent::Snapshot(barrier)),
                AlignmentAction::SnapshotUnaligned(barrier) => {
                    self.begin_capture(barrier.checkpoint, in_hand)?;
                    self.events.push_back(GateEvent::SnapshotUnaligned(barrier));
                }
                AlignmentAction::Captured(checkpoint) => {
                    if let Some(mut capture) =
                        self.capture.take_if(|capture| capture.checkpoint == checkpoint)
                    {
                        self.events.push_back(GateEvent::Captured(checkpoint, capture.take_records()));
                    }
                }
                AlignmentAction::Abort(checkpoint, reason) => {
                    self.capture.take_if(|capture| capture.checkpoint <= checkpoint);
                    self.events.push_back(GateEvent::Aborted(checkpoint, reason));
                }
            }
        }
        Ok(())
    }

    /// Begins with what is not in a channel any more, and yet not processed.
    fn begin_capture(&mut self, checkpoint: CheckpointId, in_hand: Option<&InHand>) -> Result<(), Error> {
        let mut capture = Capture::new(checkpoint, &self.inlets);
        for InHand { origin, codec, batch, .. } in in_hand.into_iter().chain(&self.restored) {
            capture.add(*origin, *codec, batch)?;
        }
        self.capture = Some(capture);
        Ok(())
    }

    /// Copies what a channel holds, if it belongs to the snapshot that was taken last.
    fn capture_channel(&mut self, channel: usize, in_hand: Option<&InHand>) -> Result<(), Error> {
        while self.alignment.captures(channel)
            && let Some(capture) = &mut self.capture
            && let Some(inlet) = self.inlets.get_mut(channel)
        {
            let checkpoint = capture.checkpoint;
            match capture.look(channel, inlet)? {
                None => break,
                Some(Mark::Barrier(barrier)) if barrier.checkpoint == checkpoint => {
                    self.align(AlignmentEvent::Barrier { channel, barrier }, in_hand)?;
                }
                // What is before it was copied for an older checkpoint, so it cannot count as taken.
                Some(Mark::Barrier(barrier)) => {
                    self.align(AlignmentEvent::Announced(barrier), in_hand)?;
                    break;
                }
                Some(Mark::Cancel(checkpoint)) => {
                    self.align(AlignmentEvent::Cancel { channel, checkpoint }, in_hand)?;
                }
            }
        }
        Ok(())
    }

    /// Whether the next element of a channel belongs to a snapshot and has not been copied.
    fn is_ahead_of_capture(&self, channel: usize) -> bool {
        self.alignment.captures(channel)
            && self
                .capture
                .as_ref()
                .zip(self.inlets.get(channel))
                .is_some_and(|(capture, inlet)| !capture.has_seen_next(channel, inlet))
    }

    /// Whether there is something to take: for the second look before sleep.
    #[must_use]
    pub fn has_event(&self) -> bool {
        (self.open == 0 && !self.end_said)
            || !self.events.is_empty()
            || !self.restored.is_empty()
            || self.listener.has_news(&self.announcements)
            || self
                .inlets
                .iter()
                .enumerate()
                .any(|(channel, inlet)| !self.alignment.is_blocked(channel) && inlet.input.has_element())
    }

    /// Gives an emptied batch back to its producer.
    pub fn give_back(&mut self, InHand { channel, batch, .. }: InHand) {
        if let Some(inlet) = channel.and_then(|channel| self.inlets.get_mut(channel)) {
            inlet.input.give_back(batch);
        }
    }

    /// Wakes producers that sleep and have room again. Once at the end of a turn.
    pub fn notify(&mut self) {
        self.inlets.iter_mut().for_each(|inlet| inlet.input.notify());
    }
}

#[cfg(test)]
mod tests;
