//! An operator without keys, inside a chain.

use super::errors::handled;
use super::parts::Parts;
use super::stage::{FAILED, in_operator};
use super::{Context, Control, Handler, Made, Operator, Push, Unkeyed};
use crate::channel::Flow;
use crate::error::Result;
use std::task::Context as TaskContext;

/// Handles each record as it comes along the chain. `SIDES`: whether anyone takes a side output of it, so that one without pays nothing
/// for them per record. `RESCUE`: whether it has an error policy; likewise.
pub struct ProcessStage<O: Operator, D, const SIDES: bool, const RESCUE: bool> {
    parts: Parts<O, D>,
}

impl<O: Operator, D: Push<O::Out>, const SIDES: bool, const RESCUE: bool> ProcessStage<O, D, SIDES, RESCUE> {
    /// In front of `down`. `finish` is not called if `finished`.
    pub fn new(made: Made<O>, down: D, finished: bool) -> Self {
        Self { parts: Parts::new(made, down, finished) }
    }
}

impl<T: 'static, O, D, const SIDES: bool, const RESCUE: bool> Push<T> for ProcessStage<O, D, SIDES, RESCUE>
where
    O: Operator<Key = Unkeyed> + Handler<T>,
    D: Push<O::Out>,
{
    #[inline]
    fn push(&mut self, record: T) -> Result<Flow> {
        let Parts { id, operator, core, down, .. } = &mut self.parts;
        core.taken += 1;
        Ok(in_operator(id, FAILED, || {
            handled::<T, O, RESCUE>(operator, record, core, |operator, record, core| {
                operator.handle(record, &mut Context { key: &Unkeyed, hash: 0, core })
            })?;
            let flow = core.out.drain(id, down)?;
            Ok(if SIDES { core.sides.drain()?.and(flow) } else { flow })
        })?)
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
