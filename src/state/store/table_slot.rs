//! A keyed state in a store, declared or not, and how it gets into a checkpoint.

use crate::checkpoint::metadata::StateSchema;
use crate::checkpoint::{Extent, Increments};
use crate::error::Error;
use crate::metrics::StateLevels;
use crate::state::encoding::{EncodedGroup, GroupEncoder};
use crate::state::raw::ErasedTable;
use crate::state::snapshot::{Increment, KeyedSnapshot};
use crate::state::table::{Since, Table};
use crate::state::{Key, StateValue};
use crate::types::{CheckpointId, MaxParallelism, OperatorId};
use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::task::{Context as TaskContext, Poll};

pub(super) struct TableSlot<K> {
    pub(super) name: String,
    pub(super) schema: StateSchema,
    pub(super) table: ErasedTable<K>,
    /// The checkpoints that a later one may build on.
    pub(super) bases: BTreeMap<CheckpointId, Base>,
    /// What a reducing state folds with; `()` for the others.
    pub(super) function: Box<dyn Any + Send>,
    /// Where in [`StateStore::rows`] its rows are, if it has any.
    pub(super) rows: Option<u32>,
    pub(super) levels: Arc<StateLevels>,
}

/// A checkpoint that is there or under way.
pub(super) struct Base {
    /// The table's freeze.
    pub(super) epoch: u32,
    /// The files that hold it, once it is written.
    pub(super) increments: Arc<OnceLock<Arc<Increments>>>,
}

/// A restored keyed state that nothing was declared for. Shared with the snapshots that carry it on.
pub(super) struct KeptTable {
    pub(super) name: String,
    pub(super) schema: StateSchema,
    pub(super) groups: Arc<Vec<EncodedGroup>>,
    pub(super) increments: Option<Increments>,
}

/// A table whose types are not known: for what happens once per batch or per checkpoint, never per record.
pub(in crate::state) trait AnyTable: Any + Send {
    fn freeze(
        &mut self,
        max_parallelism: MaxParallelism,
        since: Option<Since>,
        memory: usize,
    ) -> Box<dyn GroupEncoder>;
    fn track(&mut self) -> u32;
    fn epoch(&self) -> u32;
    fn can_tell_since(&self, epoch: u32) -> bool;
    fn sweep(&mut self, budget: usize, task: &TaskContext<'_>) -> bool;
    fn len(&self) -> usize;
    fn bytes(&self) -> (usize, usize);
    fn wants_touch(&self) -> bool;
    fn touch(&mut self, soon: &[u64], later: &[u64]);
}

impl<K: Key, V: StateValue> AnyTable for Table<K, V> {
    fn freeze(
        &mut self,
        max_parallelism: MaxParallelism,
        since: Option<Since>,
        memory: usize,
    ) -> Box<dyn GroupEncoder> {
        Box::new(self.freeze_since(max_parallelism, since, memory))
    }

    fn track(&mut self) -> u32 {
        Table::track(self)
    }

    fn epoch(&self) -> u32 {
        Table::epoch(self)
    }

    fn can_tell_since(&self, epoch: u32) -> bool {
        Table::can_tell_since(self, epoch)
    }

    fn sweep(&mut self, budget: usize, task: &TaskContext<'_>) -> bool {
        Table::sweep(self, budget, task)
    }

    fn len(&self) -> usize {
        Table::len(self)
    }

    fn bytes(&self) -> (usize, usize) {
        (Table::bytes(self), self.snapshot_bytes())
    }

    fn wants_touch(&self) -> bool {
        Table::wants_touch(self)
    }

    fn touch(&mut self, soon: &[u64], later: &[u64]) {
        Table::touch(self, soon, later);
    }
}

impl<K> TableSlot<K> {
    /// Fixes the state as it is now.
    pub(super) fn freeze(
        &mut self,
        operator: &OperatorId,
        max_parallelism: MaxParallelism,
        (checkpoint, extent, memory): (CheckpointId, Extent, usize),
    ) -> KeyedSnapshot {
        let (groups, increment) = match extent {
            Extent::Full => (self.table.freeze(max_parallelism, None, memory), None),
            Extent::Incremental { base, limit } => {
                // A base is never older than the one before.
                self.bases.retain(|known, _| Some(*known) >= base);
                while self.bases.len() > BASES {
                    // Not the base itself. Should it have been completed all the same, the next checkpoint is a whole one.
                    let oldest = self.bases.keys().find(|known| Some(**known) != base).copied();
                    oldest.and_then(|oldest| self.bases.remove(&oldest));
                }
                let base = base.and_then(|base| {
                    let Base { epoch, increments } = self.bases.get(&base)?;
                    Some((*epoch, Arc::clone(increments.get()?)))
                });
                let base = base.filter(|(epoch, _)| self.table.can_tell_since(*epoch));
                self.table.track();
                let since = |(epoch, base): &(u32, Arc<Increments>)| Since {
                    epoch: *epoch,
                    whole: base.due().clone(),
                };
                let groups = self.table.freeze(max_parallelism, base.as_ref().map(since), memory);
                let written = Arc::default();
                let taken = Base { epoch: self.table.epoch(), increments: Arc::clone(&written) };
                self.bases.insert(checkpoint, taken);
                let (base, entries) =
                    (base.map(|(_, base)| base).unwrap_or_default(), self.table.len() as u64);
                (groups, Some(Increment { base, limit, entries, written }))
            }
        };
        let groups = Named { operator: operator.clone(), state: self.name.clone(), groups };
        let (name, schema) = (self.name.clone(), self.schema.clone());
        KeyedSnapshot { name, schema, groups: Box::new(groups), increment }
    }
}

impl KeptTable {
    /// All of it, unchanged. Where parts of a group come one after the other, or a part begins with removed keys, only a file in increments can say
    /// so.
    pub(super) fn carried_over(&self, extent: Extent) -> KeyedSnapshot {
        let has_parts = !self.groups.is_sorted_by(|a, b| a.group < b.group)
            || self.groups.iter().any(|group| group.removed > 0);
        let limit = match extent {
            Extent::Full => has_parts.then_some(1),
            Extent::Incremental { limit, .. } => Some(limit),
        };
        KeyedSnapshot {
            name: self.name.clone(),
            schema: self.schema.clone(),
            groups: Box::new(CarriedOver { groups: Arc::clone(&self.groups), next: 0 }),
            increment: limit.map(|limit| Increment {
                base: Arc::default(),
                limit,
                entries: self.groups.iter().map(|group| group.entries).sum(),
                written: Arc::default(),
            }),
        }
    }
}

/// How many checkpoints are remembered that a later one may build on. More are there only while one fails after the other.
pub(super) const BASES: usize = 32;

/// Carries a state that nothing was declared for into the next checkpoint.
struct CarriedOver {
    groups: Arc<Vec<EncodedGroup>>,
    next: usize,
}

impl GroupEncoder for CarriedOver {
    fn poll_next_group(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<Option<EncodedGroup>, Error>> {
        let group = self.groups.get(self.next).cloned();
        self.next += 1;
        Poll::Ready(Ok(group))
    }
}

/// Says in errors which state it was.
struct Named {
    operator: OperatorId,
    state: String,
    groups: Box<dyn GroupEncoder>,
}

impl GroupEncoder for Named {
    fn poll_next_group(&mut self, task: &mut TaskContext<'_>) -> Poll<Result<Option<EncodedGroup>, Error>> {
        self.groups.poll_next_group(task).map_err(|error| {
            let what = format!("state `{}` cannot be stored", self.state);
            Error::new(error.kind(), what).operator(&self.operator).because(error)
        })
    }

    fn give_back(&mut self, bytes: Vec<u8>) {
        self.groups.give_back(bytes);
    }
}
