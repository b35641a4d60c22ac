//! Keyed states of a store: declared, restored and reached.

use super::table_slot::{Base, TableSlot};
use super::{FOREIGN_HANDLE, StateStore};
use crate::checkpoint::metadata::StateSchema;
use crate::error::Error;
use crate::metrics::StateLevels;
use crate::state::aggregating::{Aggregate, AggregatingState};
use crate::state::encoding::{EncodedGroup, decode_group};
use crate::state::list::ListState;
use crate::state::map::{Entries, MapState, UserKey};
use crate::state::raw::{ErasedTable, TableId};
use crate::state::reducing::{Reduce, ReducingState};
use crate::state::row::{Row, Rowed, RowedSlot};
use crate::state::table::Table;
use crate::state::value::ValueState;
use crate::state::{Key, StateValue, codec, list_rows, map_head, schema};
use crate::types::KeyGroup;
use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

impl<K: Key> StateStore<K> {
    /// Declares one value per key.
    ///
    /// # Errors
    /// [`ErrorKind::Program`](crate::ErrorKind::Program) when the name is empty or taken, or when the checkpoint holds something else under this name;
    /// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) when what it holds cannot be decoded. So do all declarations.
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
    pub(in crate::state) fn table<V: StateValue>(&self, id: TableId<V>) -> Option<&Table<K, V>> {
        let found = self.tables.get(id.index()).and_then(|found| found.table.get(id));
        debug_assert!(found.is_some(), "{FOREIGN_HANDLE} {}", self.operator);
        found
    }

    #[inline]
    pub(in crate::state) fn table_mut<V: StateValue>(&mut self, id: TableId<V>) -> Option<&mut Table<K, V>> {
        let found = self.tables.get_mut(id.index()).and_then(|found| found.table.get_mut(id));
        debug_assert!(found.is_some(), "{FOREIGN_HANDLE} {}", self.operator);
        found
    }

    #[inline]
    pub(in crate::state) fn rows<V: StateValue>(&self, id: TableId<V>) -> Option<&Table<Row<K>, V>> {
        let found = self.rows.get(id.index()).and_then(|found| found.table.get(id));
        debug_assert!(found.is_some(), "{FOREIGN_HANDLE} {}", self.operator);
        found
    }

    /// What a key has, in entry and rows, to be changed.
    #[inline]
    pub(in crate::state) fn rowed<'s, H: StateValue, R: StateValue>(
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
    pub(in crate::state) fn table_with_function<V: StateValue, F: 'static>(
        &mut self,
        id: TableId<V>,
    ) -> Option<(&mut Table<K, V>, &F)> {
        let found = self.tables.get_mut(id.index());
        let found = found.and_then(|found| found.table.get_mut(id).zip(found.function.downcast_ref()));
        debug_assert!(found.is_some(), "{FOREIGN_HANDLE} {}", self.operator);
        found
    }

    pub(in crate::state) fn declare_table<V: StateValue>(
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
}
