//! The keyed input of an operator: batches, whose records' states are brought near before the records are handled.

use super::parts::Parts;
use super::{Handler, Operator, Push};
use crate::channel::{Batch, Flow, Hashed};
use crate::error::Result;
use crate::state::StateStore;
use std::fmt;
use std::marker::PhantomData;

/// How many records are handled before what they emitted moves on.
pub(super) const SLICE: usize = 64;

/// An input of records of type `T`, each with a key of type `K`, which `F` selects.
pub struct KeyedInput<T, K, F> {
    key: F,
    ahead: Ahead,
    takes: PhantomData<fn(T) -> K>,
}

impl<T, K, F> KeyedInput<T, K, F> {
    pub(crate) fn new(key: F) -> Self {
        Self { key, ahead: Ahead::default(), takes: PhantomData }
    }
}

impl<T, K, F: Clone> Clone for KeyedInput<T, K, F> {
    fn clone(&self) -> Self {
        Self::new(self.key.clone())
    }
}

impl<T, K, F> fmt::Debug for KeyedInput<T, K, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyedInput")
    }
}

impl<T: 'static, K: 'static, F: Fn(&T) -> K> KeyedInput<T, K, F> {
    /// Takes records out of a batch. On [`Flow::Full`] the rest stays in it.
    pub(super) fn take<O, D, const RESCUE: bool>(
        &mut self,
        batch: &mut Batch<Hashed<T>>,
        parts: &mut Parts<O, D>,
    ) -> Result<Flow>
    where
        O: Operator<Key = K> + Handler<T>,
        D: Push<O::Out>,
    {
        let Self { key, ahead, .. } = self;
        let mut flow = Flow::Ready;
        let mut records = batch.items.drain(..);
        ahead.begin(&mut parts.core.states, records.as_slice());
        'slices: while records.len() > 0 {
            // While these are handled, what the next ones need is on its way.
            ahead.touch(&mut parts.core.states, records.as_slice());
            for Hashed { hash, record } in records.by_ref().take(SLICE) {
                let key = key(&record);
                parts.handle::<T, RESCUE>(record, &key, hash)?;
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
        let mut rest: Vec<_> = records.collect();
        batch.items.append(&mut rest);
        Ok(flow)
    }
}

/// The hashes of the records that are handled next, for [`StateStore::touch`]; nothing while the states fit the cache.
#[derive(Debug, Default)]
struct Ahead {
    soon: Vec<u64>,
    later: Vec<u64>,
}

impl Ahead {
    /// Before the first slice of a batch.
    fn begin<T, K>(&mut self, states: &mut StateStore<K>, batch: &[Hashed<T>]) {
        self.later.clear();
        self.go_on(states, batch.chunks(SLICE).next());
        self.go_on(states, batch.chunks(SLICE).nth(1));
    }

    /// Before a slice, with which `rest` begins.
    fn touch<T, K>(&mut self, states: &mut StateStore<K>, rest: &[Hashed<T>]) {
        self.go_on(states, rest.chunks(SLICE).nth(2));
    }

    fn go_on<T, K>(&mut self, states: &mut StateStore<K>, later: Option<&[Hashed<T>]>) {
        if states.wants_touch() {
            std::mem::swap(&mut self.soon, &mut self.later);
            self.later.clear();
            self.later.extend(later.unwrap_or_default().iter().map(|item| item.hash));
            states.touch(&self.soon, &self.later);
        }
    }
}
