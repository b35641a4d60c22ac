//! The two ends of an edge: a head that takes plain records from it, and the stage that puts records onto it.

use super::stage::pass_on;
use super::{BuildContext, Chain, Control, Push, Read};
use crate::channel::{AnyBatch, Batch, Element, Flow, RoundRobin, Route, Router};
use crate::error::{Error, ErrorKind, Result};
use crate::types::{EdgeId, Port};
use std::marker::PhantomData;
use std::task::Context as TaskContext;

/// The head of a chain whose first operator has no keys.
#[derive(Debug)]
pub struct EdgeHead<T, D> {
    down: D,
    takes: PhantomData<fn(T)>,
}

impl<T: 'static, D: Push<T>> EdgeHead<T, D> {
    /// In front of `down`.
    pub fn new(down: D) -> Self {
        Self { down, takes: PhantomData }
    }
}

impl<T: 'static, D: Push<T>> Chain for EdgeHead<T, D> {
    fn on_batch(&mut self, _: Port, batch: &mut AnyBatch) -> Result<Flow> {
        let Some(Batch { items }) = batch.downcast_mut::<Batch<T>>() else {
            return Err(Error::new(ErrorKind::Internal, "a channel carried records of another type").into());
        };
        let mut records = items.drain(..);
        let flow = self.down.push_all(&mut records)?;
        let mut rest: Vec<T> = records.collect();
        items.append(&mut rest);
        Ok(flow)
    }

    fn read(&mut self, _: &mut TaskContext<'_>, _: usize) -> Result<Read> {
        Ok(Read::Waiting)
    }

    pass_on!();
}

/// The end of a chain: puts records onto an edge. Barriers and ends go through every channel, behind the records before them.
#[derive(Debug)]
pub struct RouteStage<R>(pub R);

impl<T: Send + 'static> RouteStage<Router<T, RoundRobin>> {
    /// The beginning of an edge that forwards or rebalances.
    pub fn in_turn(edge: EdgeId, context: &mut BuildContext) -> Self {
        let outputs = context.take_outputs(edge);
        let partitioner = RoundRobin::new(outputs.len(), context.subtask.subtask.0 as usize);
        Self(Router::new(outputs, partitioner))
    }
}

impl<T: 'static, R: Route<T>> Push<T> for RouteStage<R> {
    #[inline]
    fn push(&mut self, record: T) -> Result<Flow> {
        self.0.push(record)
    }

    #[inline]
    fn push_all<I: Iterator<Item = T>>(&mut self, records: &mut I) -> Result<Flow> {
        self.0.push_all(records)
    }

    fn resume(&mut self, _: &mut TaskContext<'_>) -> Result<Flow> {
        Ok(self.0.resume())
    }

    fn finish(&mut self) -> Result<Flow> {
        Ok(Flow::Ready)
    }

    fn tend(&mut self, _: &mut TaskContext<'_>) -> Result<bool> {
        Ok(true)
    }

    fn control(&mut self, control: &mut Control<'_>) -> Result {
        match *control {
            Control::Flush => self.0.flush(),
            Control::Snapshot { barrier, .. } => self.0.send_barrier(barrier),
            Control::Cancel(checkpoint) => self.0.broadcast(|| Element::CancelBarrier(checkpoint)),
            Control::End { drained } => self.0.broadcast(|| Element::End { drained }),
            Control::MakeWay => self.0.make_way(),
            Control::Notify => self.0.notify(),
            Control::Open
            | Control::Prepare(_)
            | Control::Complete { .. }
            | Control::Aborted(_)
            | Control::WhoWaits(_)
            | Control::Close => {}
        }
        Ok(())
    }
}
