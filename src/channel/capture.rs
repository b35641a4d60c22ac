//! Records in flight: what a snapshot that overtakes them takes along.

use super::{AnyBatch, Element, Inlet, Origin, RecordCodec};
use crate::checkpoint::Barrier;
use crate::error::Error;
use crate::types::CheckpointId;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Copies of the records that one channel held before a barrier, in order.
#[derive(Debug)]
pub struct InFlight {
    /// Where the channel comes from.
    pub origin: Origin,
    /// What its batches are.
    pub codec: RecordCodec,
    /// The records.
    pub batches: Vec<AnyBatch>,
}

/// What ends the capture of a channel, seen in it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Mark {
    /// The barrier of this checkpoint, or of a newer one.
    Barrier(Barrier),
    /// This checkpoint, or a newer one, does not come through this channel.
    Cancel(CheckpointId),
}

/// The capture of one snapshot's records in flight.
///
/// Elements are copied where they are, before they are taken and whether or not their barrier has come, so that the end of it does
/// not wait for what is processed.
#[derive(Debug)]
pub(super) struct Capture {
    pub(super) checkpoint: CheckpointId,
    /// Of each channel, the number of the first element that was not looked at.
    seen: Vec<u64>,
    /// By origin: what was restored and not yet processed, of channels that may be gone, comes before what is in those of today.
    batches: BTreeMap<Origin, (RecordCodec, Vec<AnyBatch>)>,
}

impl Capture {
    /// Nothing captured so far.
    pub(super) fn new(checkpoint: CheckpointId, inlets: &[Inlet]) -> Self {
        let seen = inlets.iter().map(|inlet| inlet.input.taken()).collect();
        Self { checkpoint, seen, batches: BTreeMap::new() }
    }

    /// Takes a copy of a batch that comes after those of the same origin.
    pub(super) fn add(&mut self, origin: Origin, codec: RecordCodec, batch: &AnyBatch) -> Result<(), Error> {
        if batch.len() > 0 {
            let copy = codec.copy(batch)?;
            self.batches.entry(origin).or_insert_with(|| (codec, Vec::new())).1.push(copy);
        }
        Ok(())
    }

    /// Whether the next element of a channel has been looked at.
    pub(super) fn has_seen_next(&self, channel: usize, inlet: &Inlet) -> bool {
        self.seen.get(channel).is_some_and(|seen| *seen > inlet.input.taken())
    }

    /// Copies what a channel holds, up to a mark of this checkpoint or a newer one.
    pub(super) fn look(&mut self, channel: usize, inlet: &mut Inlet) -> Result<Option<Mark>, Error> {
        let Some(from) = self.seen.get(channel).copied() else { return Ok(None) };
        let Inlet { origin, codec, input, .. } = inlet;
        let (mut mark, mut failure) = (None, None);
        let next = input.look(from, |element| {
            match element {
                Element::Batch(batch) => failure = self.add(*origin, *codec, batch).err(),
                Element::Barrier(barrier) if barrier.checkpoint >= self.checkpoint => {
                    mark = Some(Mark::Barrier(*barrier));
                }
                Element::CancelBarrier(checkpoint) if *checkpoint >= self.checkpoint => {
                    mark = Some(Mark::Cancel(*checkpoint));
                }
                // Of older checkpoints; and behind the end there are only barriers.
                Element::Barrier(_) | Element::CancelBarrier(_) | Element::End { .. } => {}
            }
            if mark.is_some() || failure.is_some() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        if let Some(seen) = self.seen.get_mut(channel) {
            *seen = next;
        }
        failure.map_or(Ok(mark), Err)
    }

    /// What was copied since this was last called, channel by channel.
    pub(super) fn take_records(&mut self) -> Vec<InFlight> {
        let channels = std::mem::take(&mut self.batches).into_iter();
        channels.map(|(origin, (codec, batches))| InFlight { origin, codec, batches }).collect()
    }
}
