//! An operator with its states and its way out: what keyed heads and in-chain stages have in common.

use super::stage::{FAILED, in_operator};
use super::{Context, Control, Core, Handler, Operator, OperatorContext, OperatorSnapshot, Push};
use crate::channel::Flow;
use crate::error::Result;
use crate::types::OperatorId;
use std::task::Context as TaskContext;

/// How many entries a table may tidy up after each batch.
const MAINTENANCE: usize = 1024;

pub(super) struct Parts<O: Operator, D> {
    pub(super) id: OperatorId,
    pub(super) operator: O,
    pub(super) core: Core<O::Out>,
    pub(super) down: D,
    /// Whether `finish` was called, or must not be.
    finished: bool,
}

impl<O: Operator, D: Push<O::Out>> Parts<O, D> {
    pub(super) fn new(id: OperatorId, operator: O, core: Core<O::Out>, down: D, finished: bool) -> Self {
        Self { id, operator, core, down, finished }
    }

    /// Handles one record; what it emits waits in the buffer.
    #[inline]
    pub(super) fn handle<T>(&mut self, record: T, key: &O::Key, hash: u64) -> Result
    where
        O: Handler<T>,
    {
        self.operator.handle(record, &mut Context { key, hash, core: &mut self.core })
    }

    #[inline]
    pub(super) fn drain(&mut self) -> Result<Flow> {
        self.core.out.drain(&self.id, &mut self.down)
    }

    pub(super) fn maintain(&mut self) {
        self.core.states.maintain(MAINTENANCE);
    }

    pub(super) fn resume(&mut self, task: &mut TaskContext<'_>) -> Result<Flow> {
        while self.down.resume(task)? == Flow::Ready {
            if self.drain()? == Flow::Ready {
                return Ok(Flow::Ready);
            }
            if self.core.out.is_paused() {
                task.waker().wake_by_ref();
                break;
            }
        }
        Ok(Flow::Full)
    }

    pub(super) fn finish(&mut self) -> Result<Flow> {
        if !std::mem::replace(&mut self.finished, true) {
            self.call(|operator, ctx| operator.finish(ctx))?;
        }
        if self.drain()? == Flow::Full {
            return Ok(Flow::Full);
        }
        self.down.finish()
    }

    pub(super) fn tend(&mut self, task: &mut TaskContext<'_>) -> Result<bool> {
        self.down.tend(task)
    }

    pub(super) fn control(&mut self, control: &mut Control<'_>) -> Result {
        match control {
            Control::Open => self.call(|operator, ctx| operator.open(ctx))?,
            Control::Snapshot { snapshots, .. } => {
                let states = in_operator(&self.id, FAILED, || Ok(self.core.states.freeze()?))?;
                snapshots.push(OperatorSnapshot { operator: self.id.clone(), states, sink: None });
            }
            Control::Complete(checkpoint) => self.call(|operator, _| operator.on_complete(*checkpoint))?,
            Control::Aborted(checkpoint) => self.call(|operator, _| operator.on_aborted(*checkpoint))?,
            Control::Close => {
                // The rest of the chain is closed whatever happens here.
                if let Err(error) = self.call(|operator, _| operator.close()) {
                    tracing::warn!(operator = %self.id, %error, "an operator failed to close");
                }
            }
            Control::Flush | Control::Cancel(_) | Control::End | Control::Prepare(_) | Control::Notify => {}
        }
        self.down.control(control)
    }

    fn call(&mut self, f: impl FnOnce(&mut O, &mut OperatorContext<'_, O>) -> Result) -> Result {
        let Self { id, operator, core, .. } = self;
        Ok(in_operator(id, FAILED, || f(operator, &mut OperatorContext { core }))?)
    }
}
