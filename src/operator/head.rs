//! The head of a chain that begins with an operator.

use super::parts::Parts;
use super::stage::{FAILED, in_operator};
use super::{Chain, Control, Inputs, Made, Operator, Push, Read};
use crate::channel::{AnyBatch, Flow};
use crate::error::Result;
use crate::types::Port;
use std::task::Context as TaskContext;

/// An operator, fed by batches through one or several inputs, in front of the rest of its chain. `RESCUE`: whether it has an error policy.
pub struct OperatorHead<O: Operator, L, D, const RESCUE: bool> {
    inputs: L,
    parts: Parts<O, D>,
}

impl<O: Operator, L, D: Push<O::Out>, const RESCUE: bool> OperatorHead<O, L, D, RESCUE> {
    /// A head of `operator`, whose `finish` is not called if `finished`.
    pub fn new(made: Made<O>, inputs: L, down: D, finished: bool) -> Self {
        Self { inputs, parts: Parts::new(made, down, finished) }
    }
}

impl<O, L, D, const RESCUE: bool> Chain for OperatorHead<O, L, D, RESCUE>
where
    O: Operator,
    L: Inputs<O>,
    D: Push<O::Out>,
{
    fn on_batch(&mut self, port: Port, batch: &mut AnyBatch) -> Result<Flow> {
        // A clone per batch: the guard must outlive the borrow of the operator.
        let id = self.parts.id.clone();
        let Self { inputs, parts } = self;
        parts.core.taken += batch.len() as u64;
        let flow = in_operator(&id, FAILED, || inputs.take::<D, RESCUE>(port, batch, parts))?;
        parts.core.taken -= batch.len() as u64; // the rest comes again
        Ok(flow)
    }

    fn read(&mut self, _: &mut TaskContext<'_>, _: usize) -> Result<Read> {
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
