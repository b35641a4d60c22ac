//! The one place of this crate that is `unsafe`: where there is no safe name for an instruction, and where the safe way to a table's type
//! asks a function for it at every access; and where entries of any type lie in memory that the system gives in large pieces. What each
//! brings is measured in docs/performance.md.

mod memory;
mod slab;
mod stable_vec;

pub(super) use slab::{BLOCK, ElementId, Slab, element_id};
pub(super) use stable_vec::StableVec;

use super::store::AnyTable;
use super::table::Table;
use super::{Key, StateValue};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a line of the cache.
const LINE: usize = 64;

/// Brings the cache line of an address near. Changes nothing else.
#[inline]
#[allow(unsafe_code)]
pub(super) fn prefetch_line<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction reads nothing that the program sees and faults at no address; every x86-64 has it.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast::<i8>());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Brings the cache lines of both ends of what is, or would be, at an address near, or the one it must lie in.
#[inline]
pub(super) fn prefetch_at<T>(at: *const T) {
    prefetch_line(at);
    if size_of::<T>() > align_of::<T>() {
        prefetch_line(at.cast::<i8>().wrapping_add(size_of::<T>() - 1));
    }
}

/// Names a table of values of type `V`. No two tables of a process have the same.
pub(super) struct TableId<V> {
    id: u64,
    /// Where its store has put it.
    index: u32,
    /// Invariant in `V`: an id for one type must not pass for one of its subtypes (`for<'a> fn(&'a str)` is one of `fn(&'static str)`).
    values: PhantomData<fn(V) -> V>,
}

impl<V> TableId<V> {
    /// Where its store has put it.
    #[inline]
    pub(super) fn index(self) -> usize {
        self.index as usize
    }
}

impl<V> Clone for TableId<V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V> Copy for TableId<V> {}

/// A table with keys of type `K`, which gives itself as what it is to whoever has its [`TableId`]: one comparison of numbers says at once that
/// it is that very table, and so of which type it is. `dyn Any` calls a function for that, at every access.
///
/// Invariant: `id` is that of one `TableId<V>`, and `*table` is a `Table<K, V>`. Both are made together in [`new`](Self::new) with a number
/// that is given out once, and never changed; nothing gives out the box, and an unsized value cannot be replaced through a reference.
pub(super) struct ErasedTable<K> {
    id: u64,
    table: Box<dyn AnyTable>,
    keys: PhantomData<fn(K) -> K>,
}

impl<K: Key> ErasedTable<K> {
    /// With the id of the table, which says that its store puts it at `index`.
    pub(super) fn new<V: StateValue>(table: Table<K, V>, index: u32) -> (Self, TableId<V>) {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        // Some hundred years pass before they run out.
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let this = Self { id, table: Box::new(table), keys: PhantomData };
        (this, TableId { id, index, values: PhantomData })
    }

    /// The table, if this is its id.
    #[inline]
    #[allow(unsafe_code)]
    pub(super) fn get<V: StateValue>(&self, id: TableId<V>) -> Option<&Table<K, V>> {
        // SAFETY: by the invariant `*table` is a `Table<K, V>` if this is its id; the reference borrows `self` like the box does.
        let table = || unsafe { &*std::ptr::from_ref::<dyn AnyTable>(&*self.table).cast::<Table<K, V>>() };
        (self.id == id.id).then(table)
    }

    /// The table, if this is its id, to be changed.
    #[inline]
    #[allow(unsafe_code)]
    pub(super) fn get_mut<V: StateValue>(&mut self, id: TableId<V>) -> Option<&mut Table<K, V>> {
        if self.id != id.id {
            return None;
        }
        // SAFETY: as above, and `self` is borrowed for as long as the only reference.
        Some(unsafe { &mut *std::ptr::from_mut::<dyn AnyTable>(&mut *self.table).cast::<Table<K, V>>() })
    }
}

impl<K> Deref for ErasedTable<K> {
    type Target = dyn AnyTable;

    #[inline]
    fn deref(&self) -> &Self::Target {
        &*self.table
    }
}

impl<K> DerefMut for ErasedTable<K> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut *self.table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_given_to_its_own_id_and_to_no_other() {
        let (mut erased, id) = ErasedTable::new(Table::<u64, String>::new(), 7);
        let (other, its_id) = ErasedTable::new(Table::<u64, String>::new(), 7);
        assert_eq!(id.index(), 7);
        assert!(erased.get(its_id).is_none() && erased.get_mut(its_id).is_none() && other.get(id).is_none());
        assert!(erased.get_mut(id).unwrap().insert(&1, 1, "one".to_owned()));
        assert_eq!(erased.len(), 1);
        assert_eq!(erased.get(id).unwrap().get(&1, 1).unwrap(), "one");
    }
}
