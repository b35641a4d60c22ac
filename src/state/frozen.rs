//! A table as it was at a freeze, and its way into a file.

use super::encoding::{EncodedGroup, GroupEncoder, encode_entry};
use super::entries::Base;
use super::overlay::Overlay;
use super::{Key, StateValue};
use crate::error::Error;
use crate::types::{KeyGroup, MaxParallelism};
use std::fmt;
use std::iter::Peekable;
use std::sync::Arc;
use std::vec;

/// A [`Table`](super::Table) as it was when it was frozen; reading it does not disturb the table.
///
/// Dropping it lets the table come to rest again; so does reading it to its end. Everything that takes time, finding the
/// entries and ordering them, happens at the first [`next_group`](GroupEncoder::next_group), meant for another thread. It
/// takes 16 bytes of memory per entry.
pub struct Frozen<K, V> {
    // Fields are dropped in this order: the overlays before the base, see `Shared::is_released`.
    order: Option<Peekable<vec::IntoIter<Position>>>,
    overlays: Vec<Arc<Overlay<K, V>>>,
    base: Option<Arc<Base<K, V>>>,
    len: usize,
    max_parallelism: MaxParallelism,
}

/// Where an entry is. In order of hash, which is the order of key groups too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Position {
    hash: u64,
    /// The bucket, and from bit [`LAYER`] on the layer: 0 for the base.
    place: u64,
}

const LAYER: u32 = 48;

impl<K, V> fmt::Debug for Frozen<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frozen").field("len", &self.len).finish_non_exhaustive()
    }
}

impl<K: Key, V: StateValue> Frozen<K, V> {
    pub(super) fn new(
        base: Arc<Base<K, V>>,
        overlays: Vec<Arc<Overlay<K, V>>>,
        len: usize,
        max_parallelism: MaxParallelism,
    ) -> Self {
        Self { order: None, overlays, base: Some(base), len, max_parallelism }
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Finds the entries that count: those of no key that a later layer knows.
    fn positions(&self) -> Vec<Position> {
        let mut positions = Vec::with_capacity(self.len);
        let mut add = |hash, layer: usize, bucket: usize| {
            positions.push(Position { hash, place: (layer as u64) << LAYER | bucket as u64 });
        };
        let hidden = |key: &K, hash, above: usize| {
            self.overlays.iter().skip(above).any(|overlay| overlay.get(key, hash).is_some())
        };
        if let Some(base) = &self.base {
            for bucket in base.iter_buckets() {
                if let Some(entry) = base.get_bucket(bucket)
                    && !hidden(&entry.key, entry.hash, 0)
                {
                    add(entry.hash, 0, bucket);
                }
            }
        }
        for (i, overlay) in self.overlays.iter().enumerate() {
            for bucket in overlay.entries.iter_buckets() {
                if let Some(entry) = overlay.entries.get_bucket(bucket)
                    && entry.value.is_some()
                    && !hidden(&entry.key, entry.hash, i + 1)
                {
                    add(entry.hash, i + 1, bucket);
                }
            }
        }
        positions.sort_unstable();
        positions
    }

    #[allow(clippy::cast_possible_truncation)] // a bucket and a layer, packed from two usize
    fn entry(&self, position: Position) -> Option<(&K, &V)> {
        let bucket = (position.place & ((1 << LAYER) - 1)) as usize;
        match (position.place >> LAYER) as usize {
            0 => self.base.as_ref()?.get_bucket(bucket).map(|entry| (&entry.key, &entry.value)),
            layer => {
                let entry = self.overlays.get(layer - 1)?.entries.get_bucket(bucket)?;
                Some((&entry.key, entry.value.as_ref()?))
            }
        }
    }

    fn group_of(&self, position: Position) -> KeyGroup {
        self.max_parallelism.group_of(position.hash)
    }
}

impl<K: Key, V: StateValue> GroupEncoder for Frozen<K, V> {
    fn next_group(&mut self) -> Result<Option<EncodedGroup>, Error> {
        let mut order = match self.order.take() {
            Some(order) => order,
            None => self.positions().into_iter().peekable(),
        };
        let Some(first) = order.peek().copied() else {
            self.overlays.clear();
            self.base = None;
            return Ok(None);
        };
        let group = self.group_of(first);
        let mut encoded = EncodedGroup { group, entries: 0, bytes: Vec::new() };
        while let Some(position) = order.next_if(|next| self.group_of(*next) == group) {
            if let Some((key, value)) = self.entry(position) {
                encode_entry(&mut encoded, key, value)?;
            }
        }
        self.order = Some(order);
        Ok(Some(encoded))
    }
}
