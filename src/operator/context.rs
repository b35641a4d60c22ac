//! What a handler sees: the current key, the states, and the ways out.

use super::errors::Rescue;
use super::side::{SideAccess, SideOutput, Sides};
use super::{Operator, Output};
use crate::metrics::OperatorCounters;
use crate::state::{BroadcastAccess, Key, KeyedAccess, OperatorAccess, StateStore};
use std::fmt;
use std::sync::Arc;

/// The key type of an operator without keys. It is no [`Key`](crate::Key), so keyed state does not compile there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Unkeyed;

/// Everything an operator has beside itself.
pub struct Core<Out, K> {
    pub(crate) states: StateStore<K>,
    pub(crate) out: Output<Out>,
    pub(crate) sides: Sides,
    /// Records taken since they were last published.
    pub(crate) taken: u64,
    /// What becomes of records whose handler gives an error, if it is not the failure of the subtask.
    pub(super) rescue: Option<Box<Rescue>>,
    counters: Arc<OperatorCounters>,
}

impl<Out: 'static, K> Core<Out, K> {
    pub(crate) fn new(
        states: StateStore<K>,
        sides: Sides,
        rescue: Option<Box<Rescue>>,
        counters: Arc<OperatorCounters>,
    ) -> Self {
        counters.show_states(states.levels());
        Self { states, out: Output::default(), sides, taken: 0, rescue, counters }
    }

    /// Makes what was counted known.
    pub(super) fn publish(&mut self) {
        self.states.publish();
        self.counters.records_in.add(std::mem::take(&mut self.taken));
        self.counters.records_out.add(self.out.take_count() + self.sides.take_count());
    }

    /// Counts a record whose handler gave an error, at once: so a panic does not lose it.
    pub(super) fn skipped(&self) {
        self.counters.records_skipped.add(1);
    }

    #[inline]
    fn emit_side<U: Send + 'static>(&mut self, to: SideOutput<U>, put: impl FnOnce(&mut Output<U>)) {
        self.put_aside(|sides| sides.put(to, put));
    }

    /// `put` says whether the side outputs want to be drained.
    #[inline]
    pub(super) fn put_aside(&mut self, put: impl FnOnce(&mut Sides) -> bool) {
        if put(&mut self.sides) {
            // Nothing, put where it makes the chain look up before the next record: what goes aside is bounded like what does not.
            self.out.push_iter(std::iter::empty());
        }
    }
}

impl<Out, K> fmt::Debug for Core<Out, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Core")
    }
}

/// Given to [`Handler::handle`](super::Handler::handle) with each record.
///
/// The states live in here, and handles are slots into them: `&ctx` reads, `&mut ctx` writes, so no reference into a state
/// survives a write.
pub struct Context<'a, O: Operator> {
    pub(super) key: &'a O::Key,
    pub(super) hash: u64,
    pub(super) core: &'a mut Core<O::Out, O::Key>,
}

impl<'a, O: Operator> Context<'a, O> {
    /// The key of the record at hand. Does not borrow the context, so `ctx.emit((*ctx.key(), n))` works.
    #[inline]
    #[must_use]
    pub fn key(&self) -> &'a O::Key {
        self.key
    }

    /// Sends one record on. It goes into a buffer that is emptied after a few records; for many outputs of one record use
    /// [`emit_iter`](Self::emit_iter), which holds only what there is room for.
    #[inline]
    pub fn emit(&mut self, record: O::Out) {
        self.core.out.push(record);
    }

    /// Sends on what an iterator gives, pulled only as there is room downstream: one record may give millions of outputs in
    /// constant memory. What is emitted afterwards comes afterwards. To emit what a state holds, collect it first: the iterator
    /// cannot borrow from the state. The iterator must not depend on later changes of state:
    /// it may run when this call is long over, but always before the next checkpoint.
    pub fn emit_iter<I>(&mut self, records: I)
    where
        I: IntoIterator<Item = O::Out>,
        I::IntoIter: 'static,
    {
        self.core.out.push_iter(records.into_iter());
    }
}

impl<O: Operator> fmt::Debug for Context<'_, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Context")
    }
}

impl<O: Operator> KeyedAccess for Context<'_, O>
where
    O::Key: Key,
{
    type Key = O::Key;

    #[inline]
    fn states(&self) -> (&StateStore<O::Key>, &O::Key, u64) {
        (&self.core.states, self.key, self.hash)
    }

    #[inline]
    fn states_mut(&mut self) -> (&mut StateStore<O::Key>, &O::Key, u64) {
        (&mut self.core.states, self.key, self.hash)
    }
}

/// Given to [`BroadcastHandler::handle_broadcast`](super::BroadcastHandler::handle_broadcast) with each broadcast record.
///
/// Broadcast state can be written here, and only here. There is no key, so keyed state does not compile:
///
/// ```compile_fail,E0277
/// # use strandline::prelude::*;
/// # struct Rules { sum: ValueState<u64> }
/// # impl Operator for Rules { type Key = u64; type Out = u64; }
/// impl BroadcastHandler<u64> for Rules {
///     fn handle_broadcast(&mut self, rule: u64, ctx: &mut BroadcastContext<'_, Self>) -> Result {
///         self.sum.set(ctx, rule); // of which key?
///         Ok(())
///     }
/// }
/// ```
pub struct BroadcastContext<'a, O: Operator> {
    pub(super) core: &'a mut Core<O::Out, O::Key>,
}

impl<O: Operator> BroadcastContext<'_, O> {
    /// Sends one record on; see [`Context::emit`]. Every subtask is given every broadcast record, so what is emitted for one is emitted as
    /// often as there are subtasks.
    pub fn emit(&mut self, record: O::Out) {
        self.core.out.push(record);
    }

    /// Sends on what an iterator gives; see [`Context::emit_iter`].
    pub fn emit_iter<I>(&mut self, records: I)
    where
        I: IntoIterator<Item = O::Out>,
        I::IntoIter: 'static,
    {
        self.core.out.push_iter(records.into_iter());
    }
}

impl<O: Operator> fmt::Debug for BroadcastContext<'_, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BroadcastContext")
    }
}

impl<O: Operator> BroadcastAccess for BroadcastContext<'_, O> {}

/// Given to an operator where no record is at hand: [`open`](Operator::open) and [`finish`](Operator::finish). There is no key,
/// so keyed state does not compile here; operator state does.
pub struct OperatorContext<'a, O: Operator> {
    pub(super) core: &'a mut Core<O::Out, O::Key>,
}

impl<O: Operator> OperatorContext<'_, O> {
    /// Sends one record on; see [`Context::emit`].
    pub fn emit(&mut self, record: O::Out) {
        self.core.out.push(record);
    }

    /// Sends on what an iterator gives; see [`Context::emit_iter`].
    pub fn emit_iter<I>(&mut self, records: I)
    where
        I: IntoIterator<Item = O::Out>,
        I::IntoIter: 'static,
    {
        self.core.out.push_iter(records.into_iter());
    }
}

impl<O: Operator> fmt::Debug for OperatorContext<'_, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OperatorContext")
    }
}

/// What every context gives access to.
macro_rules! access {
    ($($context:ident),+) => {
        $(
            impl<O: Operator> OperatorAccess for $context<'_, O> {
                type StoreKey = O::Key;

                #[inline]
                fn store(&self) -> &StateStore<O::Key> {
                    &self.core.states
                }

                #[inline]
                fn store_mut(&mut self) -> &mut StateStore<O::Key> {
                    &mut self.core.states
                }
            }

            impl<O: Operator> SideAccess for $context<'_, O> {
                #[inline]
                fn emit_side<U: Send + 'static>(
                    &mut self,
                    to: SideOutput<U>,
                    put: impl FnOnce(&mut Output<U>),
                ) {
                    self.core.emit_side(to, put);
                }
            }
        )+
    };
}

access!(Context, BroadcastContext, OperatorContext);
