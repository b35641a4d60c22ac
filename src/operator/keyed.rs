//! The keyed input of an operator: batches, whose keys it sees before their records.

use super::parts::Parts;
use super::{Handler, Operator, Push};
use crate::channel::{Batch, Flow};
use crate::error::Result;
use std::fmt;

/// How many records are handled before what they emitted moves on.
pub(super) const SLICE: usize = 64;

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

/// An input of records of type `T`, each with its key of type `K`.
pub struct KeyedInput<T, K> {
    keyer: Box<dyn Keyer<T, K>>,
    keys: Vec<K>,
}

impl<T, K> KeyedInput<T, K> {
    pub(crate) fn new(keyer: Box<dyn Keyer<T, K>>) -> Self {
        Self { keyer, keys: Vec::new() }
    }
}

impl<T: 'static, K: 'static> Clone for KeyedInput<T, K> {
    fn clone(&self) -> Self {
        Self::new(self.keyer.boxed())
    }
}

impl<T, K> fmt::Debug for KeyedInput<T, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyedInput")
    }
}

impl<T: 'static, K: 'static> KeyedInput<T, K> {
    /// Takes records out of a batch. On [`Flow::Full`] the rest stays in it.
    pub(super) fn take<O, D, const RESCUE: bool>(
        &mut self,
        batch: &mut Batch<T>,
        parts: &mut Parts<O, D>,
    ) -> Result<Flow>
    where
        O: Operator<Key = K> + Handler<T>,
        D: Push<O::Out>,
    {
        let Self { keyer, keys } = self;
        keys.clear();
        keyer.fill(&batch.items, keys);
        let Batch { items, hashes } = batch;
        let mut flow = Flow::Ready;
        let n = items.len();
        let mut records = items.drain(..);
        let slice = |at: usize| hashes.first(n).chunks(SLICE).nth(at).unwrap_or_default();
        parts.core.states.touch(&[], slice(0));
        parts.core.states.touch(slice(0), slice(1));
        'slices: for (at, keys) in keys.chunks(SLICE).enumerate() {
            // While these are handled, what the next ones need is on its way.
            parts.core.states.touch(slice(at + 1), slice(at + 2));
            let hashes = slice(at);
            for ((key, hash), record) in keys.iter().zip(hashes).zip(records.by_ref()) {
                parts.handle::<T, RESCUE>(record, key, *hash)?;
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
        hashes.forget_first(n - rest.len(), n);
        items.append(&mut rest);
        Ok(flow)
    }
}
