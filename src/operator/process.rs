//! An operator without keys, inside a chain.

use super::parts::Parts;
use super::stage::{FAILED, in_operator};
use super::{Context, Control, Core, Handler, Operator, Push, Unkeyed};
use crate::channel::Flow;
use crate::error::Result;
use crate::types::OperatorId;
use std::task::Context as TaskContext;

/// Handles each record as it comes along the chain.
pub struct ProcessStage<O: Operator, D> {
    parts: Parts<O, D>,
}

impl<O: Operator, D: Push<O::Out>> ProcessStage<O, D> {
    /// In front of `down`. `finish` is not called if `finished`.
    pub fn new(id: OperatorId, operator: O, core: Core<O::Out>, down: D, finished: bool) -> Self {
        Self { parts: Parts::new(id, operator, core, down, finished) }
    }
}

impl<T: 'static, O, D> Push<T> for ProcessStage<O, D>
where
    O: Operator<Key = Unkeyed> + Handler<T>,
    D: Push<O::Out>,
{
    #[inline]
    fn push(&mut self, record: T) -> Result<Flow> {
        let Parts { id, operator, core, down, .. } = &mut self.parts;
        Ok(in_operator(id, FAILED, || {
            operator.handle(record, &mut Context { key: &Unkeyed, hash: 0, core })?;
            core.out.drain(id, down)
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
