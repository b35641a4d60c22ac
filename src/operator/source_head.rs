//! The head of a chain that begins with a source.

use super::stage::{FAILED, blaming, in_operator};
use super::{Chain, Control, OperatorSnapshot, Push, Read, Source, SourceReader};
use crate::channel::{AnyBatch, Flow};
use crate::checkpoint::metadata::{Distribution, StateSchema};
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::OperatorCounters;
use crate::state::{ListSnapshot, StoreSnapshot, codec};
use crate::types::{CheckpointId, OperatorId, Port};
use futures::future::LocalBoxFuture;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

/// The name under which a source's splits are kept.
pub const SPLITS_STATE: &str = "splits";

/// What a checkpoint says about a source's splits.
#[must_use]
pub fn splits_schema() -> StateSchema {
    StateSchema { kind: "source-splits".into(), key: String::new(), value: String::new() }
}

/// Reads a source and pushes what it gives, one record at a time: between any two of them the reader's position and what was
/// emitted agree.
pub struct SourceHead<S: Source, D> {
    id: OperatorId,
    source: S,
    reader: Reader<S::Reader>,
    /// Where the reader is, while it is lent to the future that waits.
    position: Vec<S::Split>,
    /// What checkpoints hold that are not yet known to be complete.
    pending: BTreeMap<CheckpointId, Vec<S::Split>>,
    ended: bool,
    down: D,
    counters: Arc<OperatorCounters>,
}

enum Reader<R> {
    Here(R),
    Waiting(LocalBoxFuture<'static, (R, Result<bool>)>),
    Gone,
}

impl<S: Source, D: Push<S::Record>> SourceHead<S, D> {
    /// A head that reads with `reader`, which `source` has made.
    pub fn new(
        id: OperatorId,
        source: S,
        reader: S::Reader,
        down: D,
        counters: Arc<OperatorCounters>,
    ) -> Self {
        let (reader, position, pending) = (Reader::Here(reader), Vec::new(), BTreeMap::new());
        Self { id, source, reader, position, pending, ended: false, down, counters }
    }

    fn read_slice(&mut self, task: &mut TaskContext<'_>, limit: u64) -> Result<Read> {
        if self.ended {
            return Ok(Read::Ended);
        }
        if let Reader::Waiting(waiting) = &mut self.reader {
            match waiting.as_mut().poll(task) {
                Poll::Pending => return Ok(Read::Waiting),
                Poll::Ready((reader, ready)) => {
                    self.reader = Reader::Here(reader);
                    if !ready? {
                        self.ended = true;
                        return Ok(Read::Ended);
                    }
                }
            }
        }
        let Reader::Here(reader) = &mut self.reader else {
            return Err(Error::new(ErrorKind::Internal, "a source's reader was lost").into());
        };
        // What ends the slice early: `Ok` when there is nothing at hand.
        let mut stopped: Option<Result> = None;
        let mut given = self.counters.records_out.tally();
        let mut slice = std::iter::from_fn(|| {
            if given == limit {
                return None;
            }
            match blaming(&self.id, || reader.next()) {
                Ok(Some(record)) => {
                    given += 1;
                    return Some(record);
                }
                Ok(None) => stopped = Some(Ok(())),
                Err(error) => stopped = Some(Err(error)),
            }
            None
        });
        let flow = self.down.push_all(&mut slice)?;
        drop(given);
        match (stopped.transpose()?, flow) {
            (_, Flow::Full) => return Ok(Read::Full),
            (None, Flow::Ready) => {}
            (Some(()), Flow::Ready) => self.wait(),
        }
        Ok(Read::More)
    }

    fn wait(&mut self) {
        if let Reader::Here(mut reader) = std::mem::replace(&mut self.reader, Reader::Gone) {
            self.position = reader.splits();
            self.reader = Reader::Waiting(Box::pin(async move {
                let ready = reader.ready().await;
                (reader, ready)
            }));
        }
    }

    fn snapshot(&mut self, checkpoint: CheckpointId) -> Result<ListSnapshot> {
        let splits = match &self.reader {
            Reader::Here(reader) => reader.splits(),
            Reader::Waiting(_) | Reader::Gone => self.position.clone(),
        };
        let elements = splits.iter().map(codec::encode).collect::<Result<Vec<_>, _>>()?;
        self.pending.insert(checkpoint, splits);
        Ok(ListSnapshot {
            name: SPLITS_STATE.into(),
            schema: splits_schema(),
            distribution: Distribution::Split,
            elements,
        })
    }

    fn complete(&mut self, checkpoint: CheckpointId) -> Result {
        let mut newest = None;
        while let Some(pending) = self.pending.first_entry().filter(|pending| *pending.key() <= checkpoint) {
            newest = Some(pending.remove());
        }
        newest.map_or(Ok(()), |splits| self.source.on_complete(&splits))
    }
}

impl<S: Source, D: Push<S::Record>> Chain for SourceHead<S, D> {
    fn on_batch(&mut self, _: Port, _: &mut AnyBatch) -> Result<Flow> {
        Err(Error::new(ErrorKind::Internal, "a source was given records").operator(&self.id).into())
    }

    fn read(&mut self, task: &mut TaskContext<'_>, limit: usize) -> Result<Read> {
        let id = self.id.clone();
        Ok(in_operator(&id, FAILED, || self.read_slice(task, limit as u64))?)
    }

    fn resume(&mut self, task: &mut TaskContext<'_>) -> Result<Flow> {
        self.down.resume(task)
    }

    fn finish(&mut self) -> Result<Flow> {
        self.down.finish()
    }

    fn tend(&mut self, task: &mut TaskContext<'_>) -> Result<bool> {
        self.down.tend(task)
    }

    fn control(&mut self, control: &mut Control<'_>) -> Result {
        match control {
            Control::Snapshot { barrier, snapshots } => {
                let id = self.id.clone();
                let splits = in_operator(&id, FAILED, || self.snapshot(barrier.checkpoint))?;
                let states = StoreSnapshot { keyed: Vec::new(), lists: vec![splits] };
                snapshots.push(OperatorSnapshot { operator: id, states, sink: None, fields: None });
            }
            Control::Complete { checkpoint, .. } => {
                // The end of the chain first, and all of them whatever one says.
                let (id, checkpoint) = (self.id.clone(), *checkpoint);
                let down = self.down.control(control);
                let own = in_operator(&id, FAILED, || self.complete(checkpoint));
                return down.and(Ok(own?));
            }
            Control::Aborted(checkpoint) => drop(self.pending.remove(checkpoint)),
            Control::Open
            | Control::Flush
            | Control::MakeWay
            | Control::WhoWaits(_)
            | Control::Cancel(_)
            | Control::End { .. }
            | Control::Prepare(_)
            | Control::Notify
            | Control::Close => {}
        }
        self.down.control(control)
    }
}
