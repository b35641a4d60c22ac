//! A context for tests of states.

use super::{BroadcastAccess, Key, KeyedAccess, OperatorAccess, RestoredOperator, StateStore};
use crate::types::{MaxParallelism, stable_hash};

pub(super) struct Fake<K> {
    pub(super) store: StateStore<K>,
    key: Option<K>,
    hash: u64,
}

impl<K: Key> Fake<K> {
    pub(super) fn new() -> Self {
        Self::restored(RestoredOperator::default())
    }

    pub(super) fn restored(restored: RestoredOperator) -> Self {
        Self::with_store(StateStore::new("op".into(), MaxParallelism::new(128).unwrap(), restored))
    }

    pub(super) fn with_store(store: StateStore<K>) -> Self {
        Self { store, key: None, hash: 0 }
    }

    /// Makes `key` the current one.
    pub(super) fn at(&mut self, key: K) -> &mut Self {
        self.hash = stable_hash(&key).unwrap();
        self.key = Some(key);
        self
    }

    /// Number of keys that have the state of this name.
    pub(super) fn entries(&self, name: &str) -> usize {
        self.store.entries(name).unwrap()
    }
}

impl<K: Key> KeyedAccess for Fake<K> {
    type Key = K;

    fn states(&self) -> (&StateStore<K>, &K, u64) {
        (&self.store, self.key.as_ref().unwrap(), self.hash)
    }

    fn states_mut(&mut self) -> (&mut StateStore<K>, &K, u64) {
        (&mut self.store, self.key.as_ref().unwrap(), self.hash)
    }
}

impl<K> OperatorAccess for Fake<K> {
    type StoreKey = K;

    fn store(&self) -> &StateStore<K> {
        &self.store
    }

    fn store_mut(&mut self) -> &mut StateStore<K> {
        &mut self.store
    }
}

impl<K> BroadcastAccess for Fake<K> {}
