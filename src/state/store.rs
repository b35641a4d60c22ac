//! All states of one operator in one subtask.

use super::aggregating::{Aggregate, AggregatingState};
use super::broadcast::BroadcastState;
use super::codec;
use super::encoding::{EncodedGroup, GroupEncoder, decode_group};
use super::handle::Slot;
use super::list::ListState;
use super::list_rows;
use super::map::{Entries, MapState, UserKey};
use super::map_head;
use super::raw::{ErasedTable, TableId};
use super::reducing::{Reduce, ReducingState};
use super::row::{Row, Rowed, RowedSlot};
use super::schema;
use super::snapshot::{
    Increment, KeyedSnapshot, ListSnapshot, RestoredKeyed, RestoredList, RestoredOperator, StoreSnapshot,
};
use super::split_list::SplitListState;
use super::table::{Since, Table};
use super::union_list::UnionListState;
use super::value::ValueState;
use super::{Key, StateValue};
use crate::checkpoint::metadata::{Distribution, StateSchema};
use crate::checkpoint::{Extent, Increments};
use crate::error::{Error, ErrorKind};
use crate::metrics::StateLevels;
use crate::types::{CheckpointId, KeyGroup, MaxParallelism, OperatorId, stable_hash};
use serde::de::DeserializeOwned;
use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::task::{Context as TaskContext, Poll};

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

struct TableSlot<K> {
    name: String,
    schema: StateSchema,
    table: ErasedTable<K>,
    /// The checkpoints that a later one may build on.
    bases: BTreeMap<CheckpointId, Base>,
    /// What a reducing state folds with; `()` for the others.
    function: Box<dyn Any + Send>,
    /// Where in [`StateStore::rows`] its rows are, if it has any.
    rows: Option<u32>,
    levels: Arc<StateLevels>,
}

/// A checkpoint that is there or under way.
struct Base {
    /// The table's freeze.
    epoch: u32,
    /// The files that hold it, once it is written.
    increments: Arc<OnceLock<Arc<Increments>>>,
}

struct ListSlot {
    name: String,
    schema: StateSchema,
    distribution: Distribution,
    list: Box<dyn AnyList>,
}

/// A restored keyed state that nothing was declared for. Shared with the snapshots that carry it on.
struct KeptTable {
    name: String,
    schema: StateSchema,
    groups: Arc<Vec<EncodedGroup>>,
    increments: Option<Increments>,
}

/// A table whose types are not known: for what happens once per batch or per checkpoint, never per record.
pub(super) trait AnyTable: Any + Send {
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
    fn freeze(
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
    fn carried_over(&self, extent: Extent) -> KeyedSnapshot {
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

trait AnyList: Any + Send {
    fn encode(&self) -> Result<Vec<Vec<u8>>, Error>;
}

impl<T: StateValue> AnyList for Vec<T> {
    fn encode(&self) -> Result<Vec<Vec<u8>>, Error> {
        self.iter().map(codec::encode).collect()
    }
}

impl<A: UserKey, B: StateValue> AnyList for Entries<A, B> {
    fn encode(&self) -> Result<Vec<Vec<u8>>, Error> {
        let mut elements = self.iter().map(|pair| codec::encode(&pair)).collect::<Result<Vec<_>, _>>()?;
        // Equal maps give equal bytes.
        elements.sort_unstable();
        Ok(elements)
    }
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

    /// Declares a list of the subtask whose elements may move between subtasks.
    ///
    /// # Errors
    /// See [`value`](Self::value).
    pub fn split_list<T: StateValue>(&mut self, name: &str) -> Result<SplitListState<T>, Error> {
        let declared = schema::list::<T>("split-list");
        let slot = self.declare_list::<T, Vec<T>>(name, declared, Distribution::Split)?;
        Ok(SplitListState::new(slot))
    }

    /// Declares a list of the subtask of which every subtask is given all elements of all.
    ///
    /// # Errors
    /// See [`value`](Self::value).
    pub fn union_list<T: StateValue>(&mut self, name: &str) -> Result<UnionListState<T>, Error> {
        let declared = schema::list::<T>("union-list");
        let slot = self.declare_list::<T, Vec<T>>(name, declared, Distribution::Union)?;
        Ok(UnionListState::new(slot))
    }

    /// Of lists that nothing was declared for and of which every subtask was given all, only the first subtask carries them on.
    pub fn leave_unions_to_the_first(&mut self, subtask: u32) {
        self.kept_lists.retain(|kept| subtask == 0 || kept.distribution != Distribution::Union);
    }

    /// Declares a map that every subtask has a copy of.
    ///
    /// # Errors
    /// See [`value`](Self::value).
    pub fn broadcast<A: UserKey, B: StateValue>(
        &mut self,
        name: &str,
    ) -> Result<BroadcastState<A, B>, Error> {
        let declared = schema::keyed::<A, B>("broadcast");
        let slot = self.declare_list::<(A, B), Entries<A, B>>(name, declared, Distribution::Broadcast)?;
        Ok(BroadcastState::new(slot))
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

    pub(super) fn split_elements<T: StateValue>(&self, slot: Slot) -> Option<&[T]> {
        let found = match self.lists.get(slot.index as usize) {
            Some(found) if slot.owner == self.owner => (&*found.list as &dyn Any).downcast_ref::<Vec<T>>(),
            _ => None,
        };
        debug_assert!(found.is_some(), "{FOREIGN_HANDLE} {}", self.operator);
        found.map(Vec::as_slice)
    }

    pub(super) fn split_elements_mut<T: StateValue>(&mut self, slot: Slot) -> Option<&mut Vec<T>> {
        let found = match self.lists.get_mut(slot.index as usize) {
            Some(found) if slot.owner == self.owner => (&mut *found.list as &mut dyn Any).downcast_mut(),
            _ => None,
        };
        debug_assert!(found.is_some(), "{FOREIGN_HANDLE} {}", self.operator);
        found
    }

    pub(super) fn broadcast_entries<A: UserKey, B: StateValue>(&self, slot: Slot) -> Option<&Entries<A, B>> {
        let found = match self.lists.get(slot.index as usize) {
            Some(found) if slot.owner == self.owner => (&*found.list as &dyn Any).downcast_ref(),
            _ => None,
        };
        debug_assert!(found.is_some(), "{FOREIGN_HANDLE} {}", self.operator);
        found
    }

    pub(super) fn broadcast_entries_mut<A: UserKey, B: StateValue>(
        &mut self,
        slot: Slot,
    ) -> Option<&mut Entries<A, B>> {
        let found = match self.lists.get_mut(slot.index as usize) {
            Some(found) if slot.owner == self.owner => (&mut *found.list as &mut dyn Any).downcast_mut(),
            _ => None,
        };
        debug_assert!(found.is_some(), "{FOREIGN_HANDLE} {}", self.operator);
        found
    }

    /// Declares an operator state of elements `T`, kept as an `L`.
    fn declare_list<T, L>(
        &mut self,
        name: &str,
        declared: StateSchema,
        distribution: Distribution,
    ) -> Result<Slot, Error>
    where
        T: DeserializeOwned,
        L: AnyList + FromIterator<T>,
    {
        let list = Box::new(self.restore_list::<T, L>(name, &declared)?);
        let slot = Slot { owner: self.owner, index: self.index(self.lists.len())? };
        self.lists.push(ListSlot { name: name.to_owned(), schema: declared, distribution, list });
        Ok(slot)
    }

    /// Takes out what was restored under `name`, if it has this schema; nothing if nothing was.
    ///
    /// # Errors
    /// See [`value`](Self::value).
    pub fn restore_list<T: DeserializeOwned, L: FromIterator<T>>(
        &mut self,
        name: &str,
        declared: &StateSchema,
    ) -> Result<L, Error> {
        codec::check::<T>().map_err(|why| self.unstorable(name, why))?;
        self.check_name(name, &[declared])?;
        let (restored, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.kept_lists).into_iter().partition(|kept| kept.name == name);
        self.kept_lists = kept;
        let elements = restored.iter().flat_map(|restored| &restored.elements).enumerate();
        let decoded = elements.map(|(i, bytes)| {
            postcard::from_bytes::<T>(bytes).map_err(|error| {
                let what = format!("element {i} of state `{name}` cannot be decoded");
                self.named(Error::new(ErrorKind::Corrupt, what).because(error))
            })
        });
        decoded.collect()
    }

    /// How many entries there would be if all key groups had as many as these have.
    fn density<'g>(&self, groups: impl Iterator<Item = &'g EncodedGroup>) -> u64 {
        // Of a group in parts, the first is whole. What the bytes cannot hold was never there.
        let mut entries: BTreeMap<KeyGroup, u64> = BTreeMap::new();
        for group in groups {
            entries.entry(group.group).or_insert(group.entries.min(group.bytes.len() as u64));
        }
        let (all, sum) = (u64::from(self.max_parallelism.get()), entries.values().sum::<u64>());
        sum.saturating_mul(all).checked_div(entries.len() as u64).unwrap_or_default()
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

/// Keyed states.
impl<K: Key> StateStore<K> {
    /// Declares one value per key.
    ///
    /// # Errors
    /// [`ErrorKind::Program`] when the name is empty or taken, or when the checkpoint holds something else under this name;
    /// [`ErrorKind::Corrupt`] when what it holds cannot be decoded. So do all declarations.
    pub fn value<V: StateValue>(&mut self, name: &str) -> Result<ValueState<V>, Error> {
        Ok(ValueState::new(self.declare_table::<V>("value", name, Box::new(()))?))
    }

    /// Declares a list per key.
    ///
    /// # Errors
    /// See [`value`](Self::value).
    pub fn list<T: StateValue>(&mut self, name: &str) -> Result<ListState<T>, Error> {
        Ok(ListState::new(self.declare_rowed::<list_rows::Head<T>, Vec<T>>(
            "list",
            StateSchema::LIST_ROWS,
            name,
        )?))
    }

    /// Declares a map per key.
    ///
    /// # Errors
    /// See [`value`](Self::value).
    pub fn map<UK: UserKey, V: StateValue>(&mut self, name: &str) -> Result<MapState<UK, V>, Error> {
        Ok(MapState::new(self.declare_rowed::<map_head::Head<UK, V>, Entries<UK, V>>(
            "map",
            StateSchema::MAP_ROWS,
            name,
        )?))
    }

    /// Declares a value per key that everything added is folded into by `reduce`.
    ///
    /// # Errors
    /// See [`value`](Self::value).
    pub fn reducing<V: StateValue>(
        &mut self,
        name: &str,
        reduce: impl Fn(&mut V, V) + Send + 'static,
    ) -> Result<ReducingState<V>, Error> {
        let reduce: Reduce<V> = Box::new(reduce);
        Ok(ReducingState::new(self.declare_table::<V>("reducing", name, Box::new(reduce))?))
    }

    /// Declares an accumulator per key that everything added is folded into by `aggregate`.
    ///
    /// # Errors
    /// See [`value`](Self::value).
    pub fn aggregating<In, A: Aggregate<In>>(
        &mut self,
        name: &str,
        aggregate: A,
    ) -> Result<AggregatingState<In, A>, Error> {
        let slot = self.declare_table::<A::Acc>("aggregating", name, Box::new(()))?;
        Ok(AggregatingState::new(slot, aggregate))
    }

    #[inline]
    pub(super) fn table<V: StateValue>(&self, id: TableId<V>) -> Option<&Table<K, V>> {
        let found = self.tables.get(id.index()).and_then(|found| found.table.get(id));
        debug_assert!(found.is_some(), "{FOREIGN_HANDLE} {}", self.operator);
        found
    }

    #[inline]
    pub(super) fn table_mut<V: StateValue>(&mut self, id: TableId<V>) -> Option<&mut Table<K, V>> {
        let found = self.tables.get_mut(id.index()).and_then(|found| found.table.get_mut(id));
        debug_assert!(found.is_some(), "{FOREIGN_HANDLE} {}", self.operator);
        found
    }

    #[inline]
    pub(super) fn rows<V: StateValue>(&self, id: TableId<V>) -> Option<&Table<Row<K>, V>> {
        let found = self.rows.get(id.index()).and_then(|found| found.table.get(id));
        debug_assert!(found.is_some(), "{FOREIGN_HANDLE} {}", self.operator);
        found
    }

    /// What a key has, in entry and rows, to be changed.
    #[inline]
    pub(super) fn rowed<'s, H: StateValue, R: StateValue>(
        &'s mut self,
        slot: RowedSlot<H, R>,
        key: &'s K,
        hash: u64,
    ) -> Option<Rowed<'s, K, H, R>> {
        let heads = self.tables.get_mut(slot.heads.index()).and_then(|found| found.table.get_mut(slot.heads));
        let rows = self.rows.get_mut(slot.rows.index()).and_then(|found| found.table.get_mut(slot.rows));
        debug_assert!(heads.is_some() && rows.is_some(), "{FOREIGN_HANDLE} {}", self.operator);
        Some(Rowed { heads: heads?, rows: rows?, groups: self.max_parallelism, key, hash })
    }

    /// The table and the function that was declared with it.
    #[inline]
    pub(super) fn table_with_function<V: StateValue, F: 'static>(
        &mut self,
        id: TableId<V>,
    ) -> Option<(&mut Table<K, V>, &F)> {
        let found = self.tables.get_mut(id.index());
        let found = found.and_then(|found| found.table.get_mut(id).zip(found.function.downcast_ref()));
        debug_assert!(found.is_some(), "{FOREIGN_HANDLE} {}", self.operator);
        found
    }

    fn declare_table<V: StateValue>(
        &mut self,
        kind: &str,
        name: &str,
        function: Box<dyn Any + Send>,
    ) -> Result<TableId<V>, Error> {
        codec::check::<(K, V)>().map_err(|why| self.unstorable(name, why))?;
        let declared = schema::keyed::<K, V>(kind);
        self.check_name(name, &[&declared])?;
        let (slot, id) = self.restore_table::<K, V>(name, declared, self.index(self.tables.len())?)?;
        self.push_table(TableSlot { function, ..slot });
        Ok(id)
    }

    /// Declares a state that keeps an `R` per key: as it is, in an `H`, or in rows if there is much of it.
    fn declare_rowed<H: StateValue, R: StateValue>(
        &mut self,
        kind: &str,
        kind_of_rows: &str,
        name: &str,
    ) -> Result<RowedSlot<H, R>, Error> {
        codec::check::<(K, R)>().map_err(|why| self.unstorable(name, why))?;
        let declared = schema::keyed::<K, R>(kind);
        let of_rows = schema::keyed::<Row<K>, R>(kind_of_rows);
        self.check_name(name, &[&declared, &of_rows])?;
        let (index, index_of_rows) = (self.index(self.tables.len())?, self.index(self.rows.len())?);
        let (table, heads) = self.restore_table::<K, H>(name, declared, index)?;
        let (rows_table, rows) = self.restore_table::<Row<K>, R>(name, of_rows, index_of_rows)?;
        self.rows.push(rows_table);
        self.push_table(TableSlot { rows: Some(index_of_rows), ..table });
        Ok(RowedSlot { heads, rows })
    }

    fn push_table(&mut self, slot: TableSlot<K>) {
        self.tables.push(slot);
        self.publish();
    }

    /// A table with what was restored under `name` with a schema of this kind; nothing if nothing was. It is to be put at `index`.
    fn restore_table<R: Key, V: StateValue>(
        &mut self,
        name: &str,
        declared: StateSchema,
        index: u32,
    ) -> Result<(TableSlot<R>, TableId<V>), Error> {
        let (restored, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.kept_tables)
            .into_iter()
            .partition(|kept| kept.name == name && kept.schema.kind == declared.kind);
        self.kept_tables = kept;
        let mut table = Table::<R, V>::new();
        let mut bases = BTreeMap::new();
        // Pieces of different schemas have no group in common, but only one of them would be known.
        let increments = match &*restored {
            [one] => one.increments.clone(),
            _ => None,
        };
        table.expect(self.density(restored.iter().flat_map(|restored| &*restored.groups)));
        for groups in restored.into_iter().map(|restored| Arc::unwrap_or_clone(restored.groups)) {
            let mut last = None;
            for group in groups {
                // What comes first of a group is whole.
                let is_whole = last.replace(group.group) != Some(group.group);
                decode_group(&group, self.max_parallelism, |key, hash, value| match value {
                    Some(value) => table.insert(key, hash, value) || !is_whole,
                    None => {
                        table.remove(key, hash);
                        true
                    }
                })
                .map_err(|error| {
                    let what = format!("state `{name}` cannot be restored");
                    self.named(Error::new(error.kind(), what).because(error))
                })?;
            }
        }
        table.expect(0);
        if let (Some(increments), Some(checkpoint)) = (increments, self.checkpoint) {
            let base = Base { epoch: table.track(), increments: Arc::new(Arc::new(increments).into()) };
            bases.insert(checkpoint, base);
        }
        let (table, id) = ErasedTable::new(table, index);
        let (levels, function) = (Arc::new(StateLevels::new(name)), Box::new(()));
        let name = name.to_owned();
        Ok((TableSlot { name, schema: declared, table, bases, function, rows: None, levels }, id))
    }
}

/// How many checkpoints are remembered that a later one may build on. More are there only while one fails after the other.
const BASES: usize = 32;

const FOREIGN_HANDLE: &str = "a state handle was used that was not declared by operator";

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

#[cfg(test)]
mod tests;
