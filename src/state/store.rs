//! All states of one operator in one subtask.

mod keyed;
mod operator;
mod table_slot;

use super::row::Row;
use super::schema;
use super::snapshot::{ListSnapshot, RestoredKeyed, RestoredList, RestoredOperator, StoreSnapshot};
use crate::checkpoint::Extent;
use crate::checkpoint::metadata::{Distribution, StateSchema};
use crate::error::{Error, ErrorKind};
use crate::metrics::StateLevels;
use crate::types::{CheckpointId, MaxParallelism, OperatorId, stable_hash};
use operator::ListSlot;
use std::fmt;
use std::sync::Arc;
use std::task::Context as TaskContext;
pub(super) use table_slot::AnyTable;
use table_slot::{KeptTable, TableSlot};

/// All states of one operator in one subtask. The operator's context owns it; state handles are slots in it.
///
/// Restored state is decoded when it is declared. What the program never declares is kept, and goes into the next
/// checkpoint unchanged: a state that is out of use for a while is not lost.
///
/// A handle only works with the store that made it. With another one it finds nothing, and what is written with it is
/// lost; debug builds panic there.
pub struct StateStore<K> {
    operator: OperatorId,
    max_parallelism: MaxParallelism,
    checkpoint: Option<CheckpointId>,
    /// How many bytes of a keyed state may wait for a snapshot.
    snapshot_memory: usize,
    owner: u32,
    tables: Vec<TableSlot<K>>,
    /// What tables hold of some of their keys in a second table.
    rows: Vec<TableSlot<Row<K>>>,
    lists: Vec<ListSlot>,
    kept_tables: Vec<KeptTable>,
    kept_lists: Vec<RestoredList>,
}

impl<K> fmt::Debug for StateStore<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.tables.iter().map(|slot| &slot.name).chain(self.lists.iter().map(|slot| &slot.name));
        f.debug_struct("StateStore")
            .field("operator", &self.operator)
            .field("states", &names.collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl<K> StateStore<K> {
    /// A store for `operator` with what a checkpoint holds for this subtask.
    #[must_use]
    #[allow(clippy::cast_possible_truncation)] // half a hash is enough to tell operators apart
    pub fn new(operator: OperatorId, max_parallelism: MaxParallelism, restored: RestoredOperator) -> Self {
        let mut store = Self {
            max_parallelism,
            checkpoint: restored.checkpoint,
            snapshot_memory: usize::MAX,
            owner: stable_hash(&operator).unwrap_or_default() as u32,
            operator,
            tables: Vec::new(),
            rows: Vec::new(),
            lists: Vec::new(),
            kept_tables: Vec::new(),
            kept_lists: Vec::new(),
        };
        for RestoredKeyed { name, schema, groups, increments } in restored.keyed {
            let same = |kept: &&mut KeptTable| kept.name == name && kept.schema == schema;
            match store.kept_tables.iter_mut().find(same) {
                Some(kept) => {
                    Arc::make_mut(&mut kept.groups).extend(groups);
                    kept.increments = None;
                }
                None => {
                    store.kept_tables.push(KeptTable { name, schema, groups: Arc::new(groups), increments });
                }
            }
        }
        for kept in &mut store.kept_tables {
            Arc::make_mut(&mut kept.groups).sort_by_key(|group| group.group);
        }
        for list in restored.lists {
            let same = |kept: &&mut RestoredList| {
                kept.name == list.name && kept.schema == list.schema && kept.distribution == list.distribution
            };
            match store.kept_lists.iter_mut().find(same) {
                Some(kept) => kept.elements.extend(list.elements),
                None => store.kept_lists.push(list),
            }
        }
        store
    }

    /// The same where so many bytes of each keyed state may wait for a snapshot; see
    /// [`snapshot_memory`](crate::Checkpointing::snapshot_memory).
    #[must_use]
    pub fn with_snapshot_memory(self, bytes: u64) -> Self {
        Self { snapshot_memory: usize::try_from(bytes).unwrap_or(usize::MAX), ..self }
    }

    /// Names of restored states that nothing was declared for. They are kept, and stored again.
    pub fn undeclared(&self) -> impl Iterator<Item = &str> {
        let tables = self.kept_tables.iter().filter(|kept| kept.schema.has_rows_of().is_none());
        let tables = tables.map(|kept| kept.name.as_str());
        tables.chain(self.kept_lists.iter().map(|kept| kept.name.as_str()))
    }

    /// Whether this run started from a checkpoint.
    #[must_use]
    pub fn is_restored(&self) -> bool {
        self.checkpoint.is_some()
    }

    /// Fixes all states as they are now for a checkpoint, and lets the operator go on. Takes the same time however large the keyed states
    /// are; operator states are encoded here. What is incremental is based on what this store gave for an earlier checkpoint, or was restored
    /// from; a state that had no part in it is written whole.
    ///
    /// # Errors
    /// [`ErrorKind::Program`] when an element of an operator state cannot be encoded.
    pub fn freeze(&mut self, checkpoint: CheckpointId, extent: Extent) -> Result<StoreSnapshot, Error> {
        let mut lists = self.kept_lists.clone();
        for slot in &self.lists {
            let elements = slot.list.encode().map_err(|error| {
                let what = format!("an element of state `{}` cannot be encoded", slot.name);
                self.named(Error::new(error.kind(), what).because(error))
            })?;
            let ListSlot { name, schema, distribution, .. } = slot;
            let (name, schema) = (name.clone(), schema.clone());
            lists.push(ListSnapshot { name, schema, distribution: *distribution, elements });
        }
        // A subtask without a copy would be given one of another's: it is stored even if it is empty.
        lists.retain(|list| !list.elements.is_empty() || list.distribution == Distribution::Broadcast);
        lists.sort_by(|a, b| a.name.cmp(&b.name));

        let mut keyed = Vec::new();
        for kept in self.kept_tables.iter().filter(|kept| !kept.groups.is_empty()) {
            keyed.push(kept.carried_over(extent));
        }
        for slot in self.tables.iter_mut().filter(|slot| slot.table.len() > 0) {
            let how = (checkpoint, extent, self.snapshot_memory);
            keyed.push(slot.freeze(&self.operator, self.max_parallelism, how));
        }
        for slot in self.rows.iter_mut().filter(|slot| slot.table.len() > 0) {
            let how = (checkpoint, extent, self.snapshot_memory);
            keyed.push(slot.freeze(&self.operator, self.max_parallelism, how));
        }
        keyed.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(StoreSnapshot { keyed, lists })
    }

    /// Goes on with pending snapshots, about `budget` entries per state. Gives whether there is more to do at once; otherwise the task is
    /// woken when there is. Call it once per turn.
    pub fn sweep(&mut self, budget: usize, task: &TaskContext<'_>) -> bool {
        let swept = self.tables.iter_mut().map(|slot| slot.table.sweep(budget, task));
        let more = swept.fold(false, |more, table| more | table);
        let swept = self.rows.iter_mut().map(|slot| slot.table.sweep(budget, task));
        swept.fold(more, |more, table| more | table)
    }

    /// Whether any state is too large for the cache.
    pub(crate) fn wants_touch(&self) -> bool {
        self.tables.iter().any(|slot| slot.table.wants_touch())
    }

    /// Brings near what is kept under keys with these hashes: those that are used soon, and those after them.
    pub(crate) fn touch(&mut self, soon: &[u64], later: &[u64]) {
        for slot in &mut self.tables {
            slot.table.touch(soon, later);
        }
    }

    /// How large the keyed states are, as of the last [`publish`](Self::publish).
    pub(crate) fn levels(&self) -> Vec<Arc<StateLevels>> {
        self.tables.iter().map(|slot| Arc::clone(&slot.levels)).collect()
    }

    /// Makes known how large the keyed states are. Takes the same time however large that is.
    pub(crate) fn publish(&self) {
        for slot in &self.tables {
            let rows = slot.rows.and_then(|rows| self.rows.get(rows as usize));
            let (bytes, waiting) = slot.table.bytes();
            let (more, more_waiting) = rows.map_or((0, 0), |rows| rows.table.bytes());
            slot.levels.entries.set(slot.table.len() as u64);
            slot.levels.bytes.set((bytes + more) as u64);
            slot.levels.snapshot_bytes.set((waiting + more_waiting) as u64);
        }
    }

    /// The number of key groups.
    pub(super) fn max_parallelism(&self) -> MaxParallelism {
        self.max_parallelism
    }

    /// Number of keys that hold the keyed state `name`; `None` if no such state is declared.
    #[must_use]
    pub fn entries(&self, name: &str) -> Option<usize> {
        self.tables.iter().find(|slot| slot.name == name).map(|slot| slot.table.len())
    }

    /// Whether a state of this name can be declared that is stored as these.
    fn check_name(&self, name: &str, declared: &[&StateSchema]) -> Result<(), Error> {
        if name.is_empty() {
            let what = "a state has an empty name: its name is what it is found by after a restart";
            return Err(self.named(Error::new(ErrorKind::Program, what)));
        }
        let taken = self.tables.iter().any(|slot| slot.name == name)
            || self.lists.iter().any(|slot| slot.name == name);
        if taken {
            let what = format!(
                "state `{name}` is declared twice: give each state of an operator its own name, and keep the handle \
                 to use a state in several places"
            );
            return Err(self.named(Error::new(ErrorKind::Program, what)));
        }
        let tables = self.kept_tables.iter().filter(|kept| kept.name == name).map(|kept| &kept.schema);
        let lists = self.kept_lists.iter().filter(|kept| kept.name == name).map(|kept| &kept.schema);
        tables
            .chain(lists)
            .try_for_each(|stored| {
                let of_its_kind = declared.iter().find(|declared| declared.kind == stored.kind);
                let Some(declared) = of_its_kind.or(declared.first()) else { return Ok(()) };
                schema::check(&self.operator, name, stored, declared)
            })
            .map_err(|error| self.named(error))
    }

    fn index(&self, index: usize) -> Result<u32, Error> {
        u32::try_from(index)
            .map_err(|error| self.named(Error::new(ErrorKind::Program, "too many states").because(error)))
    }

    fn unstorable(&self, name: &str, why: Error) -> Error {
        self.named(
            Error::new(ErrorKind::Program, format!("the type of state `{name}` cannot be stored"))
                .because(why),
        )
    }

    fn named(&self, error: Error) -> Error {
        let error = error.operator(&self.operator);
        match self.checkpoint {
            Some(checkpoint) => error.checkpoint(checkpoint),
            None => error,
        }
    }
}

const FOREIGN_HANDLE: &str = "a state handle was used that was not declared by operator";

#[cfg(test)]
mod tests;
