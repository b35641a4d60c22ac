//! The head of a chain that begins with a keyed operator.

use super::parts::Parts;
use super::stage::{FAILED, in_operator};
use super::{Chain, Control, Core, Handler, Operator, Push, Read};
use crate::channel::{AnyBatch, Batch, Flow};
use crate::error::{Error, ErrorKind, Result};
use crate::types::OperatorId;
use std::task::Context as TaskContext;

/// How many records are handled before what they emitted moves on.
const SLICE: usize = 64;

/// Selects the key of a record, again, where it arrives.
pub trait Keyer<T, K>: Send + 'static {
    /// The keys of these records, in order.
    fn fill(&self, records: &[T], keys: &mut Vec<K>);

    /// A copy for another subtask.
    fn boxed(&self) -> Box<dyn Keyer<T, K>>;
}

impl<T, K, F> Keyer<T, K> for F
where
    F: Fn(&T) -> K + Clone + Send + 'static,
{
    fn fill(&self, records: &[T], keys: &mut Vec<K>) {
        keys.extend(records.iter().map(self));
    }

    fn boxed(&self) -> Box<dyn Keyer<T, K>> {
        Box::new(self.clone())
    }
}

/// A keyed operator, fed by batches, in front of the rest of its chain.
pub struct KeyedHead<O: Operator, T, D> {
    keyer: Box<dyn Keyer<T, O::Key>>,
    keys: Vec<O::Key>,
    parts: Parts<O, D>,
}

impl<O: Operator, T, D: Push<O::Out>> KeyedHead<O, T, D> {
    /// A head of `operator`, whose `finish` is not called if `finished`.
    pub fn new(
        id: OperatorId,
        operator: O,
        core: Core<O::Out>,
        keyer: Box<dyn Keyer<T, O::Key>>,
        down: D,
        finished: bool,
    ) -> Self {
        Self { keyer, keys: Vec::new(), parts: Parts::new(id, operator, core, down, finished) }
    }
}

impl<O, T, D> KeyedHead<O, T, D>
where
    O: Operator + Handler<T>,
    T: 'static,
    D: Push<O::Out>,
{
    fn take(&mut self, batch: &mut Batch<T>) -> Result<Flow> {
        let Self { keyer, keys, parts } = self;
        keys.clear();
        keyer.fill(&batch.items, keys);
        let Batch { items, hashes } = batch;
        let mut flow = Flow::Ready;
        let mut records = items.drain(..);
        'slices: for (keys, hashes) in keys.chunks(SLICE).zip(hashes.chunks(SLICE)) {
            for ((key, hash), record) in keys.iter().zip(hashes).zip(records.by_ref()) {
                parts.handle(record, key, *hash)?;
                if parts.core.out.wants_drain() && parts.drain()? == Flow::Full {
                    flow = Flow::Full;
                    break 'slices;
                }
            }
            flow = parts.drain()?;
            if flow == Flow::Full {
                break;
            }
        }
        // Room for the rest is there: it came out of this very buffer.
        let mut rest: Vec<T> = records.collect();
        hashes.drain(..hashes.len() - rest.len());
        items.append(&mut rest);
        Ok(flow)
    }
}

impl<O, T, D> Chain for KeyedHead<O, T, D>
where
    O: Operator + Handler<T>,
    T: 'static,
    D: Push<O::Out>,
{
    fn on_batch(&mut self, batch: &mut AnyBatch) -> Result<Flow> {
        let Some(batch) = batch.downcast_mut::<Batch<T>>() else {
            return Err(wrong_batch(&self.parts.id).into());
        };
        // A clone per batch: the guard must outlive the borrow of the operator.
        let id = self.parts.id.clone();
        let flow = in_operator(&id, FAILED, || self.take(batch))?;
        self.parts.maintain();
        Ok(flow)
    }

    fn read(&mut self, _: &mut TaskContext<'_>) -> Result<Read> {
        Ok(Read::Waiting)
    }

    fn resume(&mut self, task: &mut TaskContext<'_>) -> Result<Flow> {
        self.parts.resume(task)
    }

    fn finish(&mut self) -> Result<Flow> {
        self.parts.finish()
    }

    fn tend(&mut self, task: &mut TaskContext<'_>) -> Result<bool> {
        self.parts.tend(task)
    }

    fn control(&mut self, control: &mut Control<'_>) -> Result {
        self.parts.control(control)
    }
}

pub(super) fn wrong_batch(id: &OperatorId) -> Error {
    Error::new(ErrorKind::Internal, "a channel carried records of another type than its consumer takes")
        .operator(id)
}
