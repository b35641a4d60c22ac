//! The one place of this crate that is `unsafe`: where there is no safe name for an instruction, and where the safe way to a table's type
//! asks a function for it at every access. What each brings is measured in docs/performance.md.

use super::store::AnyTable;
use std::any::TypeId;
use std::ops::{Deref, DerefMut};

/// Brings the cache lines of both ends of `at` near, or the one it must lie in. Changes nothing else.
#[inline]
#[allow(unsafe_code)]
pub(super) fn prefetch<T>(at: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction reads nothing that the program sees and faults at no address; every x86-64 has it.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let first = std::ptr::from_ref(at).cast::<i8>();
        _mm_prefetch::<_MM_HINT_T0>(first);
        if size_of::<T>() > align_of::<T>() {
            _mm_prefetch::<_MM_HINT_T0>(first.wrapping_add(size_of::<T>() - 1));
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// A table of any type, which gives itself as what it is to whoever names that type: `Box<dyn Any>` with the type's id beside the pointer,
/// so that no function has to be called for it. A record's access to its state costs five instructions of this instead of fifteen.
///
/// Invariant: `of` is the id of the type of `*table`. Both are set together in [`new`](Self::new) and never again; nothing gives out the
/// box, and an unsized value cannot be replaced through a reference.
pub(super) struct ErasedTable {
    of: TypeId,
    table: Box<dyn AnyTable>,
}

impl ErasedTable {
    pub(super) fn new<T: AnyTable>(table: T) -> Self {
        Self { of: TypeId::of::<T>(), table: Box::new(table) }
    }

    /// The table, if it is a `T`.
    #[inline]
    #[allow(unsafe_code)]
    pub(super) fn downcast_ref<T: AnyTable>(&self) -> Option<&T> {
        // SAFETY: by the invariant `*table` is a `T`; the reference borrows `self` like the box does.
        let table = || unsafe { &*std::ptr::from_ref::<dyn AnyTable>(&*self.table).cast::<T>() };
        (self.of == TypeId::of::<T>()).then(table)
    }

    /// The table, if it is a `T`, to be changed.
    #[inline]
    #[allow(unsafe_code)]
    pub(super) fn downcast_mut<T: AnyTable>(&mut self) -> Option<&mut T> {
        if self.of != TypeId::of::<T>() {
            return None;
        }
        // SAFETY: as above, and `self` is borrowed for as long as the only reference.
        Some(unsafe { &mut *std::ptr::from_mut::<dyn AnyTable>(&mut *self.table).cast::<T>() })
    }
}

impl Deref for ErasedTable {
    type Target = dyn AnyTable;

    #[inline]
    fn deref(&self) -> &Self::Target {
        &*self.table
    }
}

impl DerefMut for ErasedTable {
    #[inline]
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut *self.table
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::table::Table;

    #[test]
    fn a_table_is_what_it_was_and_nothing_else() {
        let mut erased = ErasedTable::new(Table::<u64, String>::new());
        assert!(erased.downcast_ref::<Table<u64, u64>>().is_none());
        assert!(erased.downcast_mut::<Table<String, String>>().is_none());
        let table = erased.downcast_mut::<Table<u64, String>>().unwrap();
        assert!(table.insert(&1, 1, "one".to_owned()));
        assert_eq!(erased.len(), 1);
        assert_eq!(erased.downcast_ref::<Table<u64, String>>().unwrap().get(&1, 1).unwrap(), "one");
    }
}
