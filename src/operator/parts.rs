//! An operator with its states and its ways out: what heads and in-chain stages have in common.

use super::errors::handled;
use super::stage::{FAILED, in_operator};
use super::{Context, Control, Core, Fields, Handler, Operator, OperatorContext, OperatorSnapshot, Push};
use crate::channel::Flow;
use crate::error::Result;
use crate::types::OperatorId;
use std::fmt;
use std::task::Context as TaskContext;

/// How many entries of each state are stored in a turn while a snapshot is pending: some 50 microseconds.
const SWEEP: usize = 2048;

/// An operator as its factory made it.
pub struct Made<O: Operator> {
    /// Its uid.
    pub id: OperatorId,
    /// The instance.
    pub operator: O,
    /// What it has beside itself.
    pub core: Core<O::Out, O::Key>,
    /// How its fields are stored, if they are.
    pub fields: Option<Fields<O>>,
}

/// An operator and everything that belongs to it.
pub struct Parts<O: Operator, D> {
    pub(super) id: OperatorId,
    pub(super) operator: O,
    pub(super) core: Core<O::Out, O::Key>,
    pub(super) down: D,
    fields: Option<Fields<O>>,
    /// Whether `finish` was called, or must not be.
    finished: bool,
}

impl<O: Operator, D: Push<O::Out>> Parts<O, D> {
    pub(super) fn new(made: Made<O>, down: D, finished: bool) -> Self {
        let Made { id, operator, core, fields } = made;
        Self { id, operator, core, down, fields, finished }
    }

    /// Handles one record; what it emits waits in the buffer.
    #[inline]
    pub(super) fn handle<T, const RESCUE: bool>(&mut self, record: T, key: &O::Key, hash: u64) -> Result
    where
        T: 'static,
        O: Handler<T>,
    {
        handled::<T, O, RESCUE>(&mut self.operator, record, &mut self.core, |operator, record, core| {
            operator.handle(record, &mut Context { key, hash, core })
        })
    }

    /// Passes on what it has emitted, as far as there is room.
    #[inline]
    pub(super) fn drain(&mut self) -> Result<Flow> {
        let flow = self.core.out.drain(&self.id, &mut self.down)?;
        Ok(self.core.sides.drain()?.and(flow))
    }

    pub(super) fn resume(&mut self, task: &mut TaskContext<'_>) -> Result<Flow> {
        let flow = self.core.out.resume(&self.id, &mut self.down, task)?;
        Ok(self.core.sides.resume(task)?.and(flow))
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
        if self.core.states.sweep(SWEEP, task) {
            task.waker().wake_by_ref();
        }
        self.down.tend(task)
    }

    pub(super) fn control(&mut self, control: &mut Control<'_>) -> Result {
        match control {
            Control::Open => self.call(|operator, ctx| operator.open(ctx))?,
            Control::Snapshot { barrier, snapshots } => {
                let Self { id, operator, core, fields, .. } = self;
                let states = in_operator(id, FAILED, || {
                    Ok(core.states.freeze(barrier.checkpoint, barrier.extent)?)
                })?;
                let snapshot =
                    |fields: &Fields<O>| in_operator(id, FAILED, || fields.snapshot(operator, *barrier));
                let fields = fields.as_ref().map(snapshot).transpose()?;
                snapshots.push(OperatorSnapshot { operator: id.clone(), states, sink: None, fields });
            }
            // The end of the chain first, and all of them whatever one says: the first error counts.
            Control::Complete { .. } | Control::Aborted(_) => {
                let down = self.down.control(control).and(self.core.sides.control(control));
                return down.and(self.call(|operator, _| match control {
                    Control::Complete { checkpoint, .. } => operator.on_complete(*checkpoint),
                    Control::Aborted(checkpoint) => operator.on_aborted(*checkpoint),
                    _ => Ok(()),
                }));
            }
            Control::Notify => self.core.publish(),
            Control::Close => {
                self.core.publish();
                // The rest of the chain is closed whatever happens here.
                if let Err(error) = self.call(|operator, _| operator.close()) {
                    tracing::warn!(operator = %self.id, %error, "an operator failed to close");
                }
            }
            Control::Flush
            | Control::MakeWay
            | Control::WhoWaits(_)
            | Control::Cancel(_)
            | Control::End { .. }
            | Control::Prepare(_) => {}
        }
        self.core.sides.control(control)?;
        self.down.control(control)
    }

    fn call(&mut self, f: impl FnOnce(&mut O, &mut OperatorContext<'_, O>) -> Result) -> Result {
        let Self { id, operator, core, .. } = self;
        Ok(in_operator(id, FAILED, || f(operator, &mut OperatorContext { core }))?)
    }
}

impl<O: Operator, D> fmt::Debug for Parts<O, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("operator", &self.id).finish_non_exhaustive()
    }
}

impl<O: Operator> fmt::Debug for Made<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Made").field("operator", &self.id).finish_non_exhaustive()
    }
}
