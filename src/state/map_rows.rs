//! Maps that are large: what a change costs does not depend on how many pairs there are.
//!
//! A map with more than [`SMALL`] pairs is kept in rows of some [`LOAD`] pairs, entries of a second table. With every [`LOAD`] pairs that come,
//! one row is split in two; with as many that go, two become one. So a change touches a row or three, whatever the size of the map, and
//! that is what it encodes while a snapshot is pending and what an incremental checkpoint writes for it.

use super::map::{Entries, UserKey};
use super::map_head::{Head, Size};
use super::row::Rowed;
use super::{Key, StateValue};
use crate::types::stable_hash;

/// The most pairs of a map that is one entry.
pub(super) const SMALL: usize = 32;

/// Pairs for each row of a larger one, on average; half of that before rows are merged. Fewer cost more memory, more make a change dearer.
pub(super) const LOAD: u64 = 16;

/// The maps of one state, to change that of one key.
pub(super) type Maps<'t, K, UK, V> = Rowed<'t, K, Head<UK, V>, Entries<UK, V>>;

impl<K: Key, UK: UserKey, V: StateValue> Maps<'_, K, UK, V> {
    /// Puts a value under `user_key` and gives the old one.
    pub(super) fn insert(&mut self, user_key: UK, value: V) -> Option<V> {
        let done = self.heads.update(self.key, self.hash, Head::default, |head| match head {
            Head::Small(entries) => Ok((entries.insert(user_key, value), entries.len() > SMALL)),
            Head::Large(size) => Err((*size, user_key, value)),
        });
        match done {
            Ok((old, is_large)) => {
                if is_large {
                    self.spill();
                }
                old
            }
            Err((size, user_key, value)) => self.insert_into_row(size, user_key, value),
        }
    }

    fn insert_into_row(&mut self, size: Size, user_key: UK, value: V) -> Option<V> {
        let row = self.row(size.row_of(&user_key));
        let old = self.rows.update(&row, row.place, Entries::default, |row| row.insert(user_key, value));
        if old.is_none() {
            let size = Size { len: size.len + 1, ..size };
            self.resize(size);
        }
        old
    }

    /// Changes the value under `user_key` in place, starting from `V::default()` if there is none.
    pub(super) fn update<R>(&mut self, user_key: UK, f: impl FnOnce(&mut V) -> R) -> R
    where
        V: Default,
    {
        let done = self.heads.update(self.key, self.hash, Head::default, |head| match head {
            Head::Small(entries) => {
                let result = f(entries.entry(user_key).or_default());
                Ok((result, entries.len() > SMALL))
            }
            Head::Large(size) => Err((*size, user_key, f)),
        });
        let (mut size, user_key, f) = match done {
            Ok((result, is_large)) => {
                if is_large {
                    self.spill();
                }
                return result;
            }
            Err(large) => large,
        };
        let row = self.row(size.row_of(&user_key));
        if !self.rows.get(&row, row.place).is_some_and(|row| row.contains_key(&user_key)) {
            // It is counted before `f` has its say: should that panic, the size is still right.
            self.insert_into_row(size, user_key.clone(), V::default());
            if let Some(Head::Large(grown)) = self.heads.get(self.key, self.hash) {
                size = *grown;
            }
        }
        let row = self.row(size.row_of(&user_key));
        match self.rows.get_mut(&row, row.place).and_then(|row| row.get_mut(&user_key)) {
            Some(value) => f(value),
            None => f(&mut V::default()),
        }
    }

    /// Removes the value under `user_key`, which is there, and gives it.
    pub(super) fn remove(&mut self, user_key: &UK) -> Option<V> {
        let size = match self.heads.get_mut(self.key, self.hash)? {
            Head::Small(entries) => {
                let removed = entries.remove(user_key);
                if entries.is_empty() {
                    self.heads.remove(self.key, self.hash);
                }
                return removed;
            }
            Head::Large(size) => *size,
        };
        let row = self.row(size.row_of(user_key));
        let entries = self.rows.get_mut(&row, row.place)?;
        let removed = entries.remove(user_key)?;
        if entries.is_empty() {
            self.rows.remove(&row, row.place);
        }
        self.resize(Size { len: size.len.saturating_sub(1), ..size });
        Some(removed)
    }

    /// Removes all pairs.
    pub(super) fn clear(&mut self) {
        if let Some(Head::Large(size)) = self.heads.take(self.key, self.hash) {
            for number in 0..size.rows {
                self.remove_row(number);
            }
        }
    }

    /// The map has got or lost a pair: one row more or less if it is time for that.
    fn resize(&mut self, mut size: Size) {
        if size.len <= SMALL as u64 / 2 {
            return self.gather(size);
        }
        if size.len > u64::from(size.rows) * LOAD {
            size = self.split(size);
        } else if size.len < u64::from(size.rows) * LOAD / 2 {
            size = self.merge(size);
        }
        self.heads.insert(self.key, self.hash, Head::Large(size));
    }

    /// Makes one row more.
    fn split(&mut self, size: Size) -> Size {
        let size = Size { rows: size.rows.saturating_add(1), ..size };
        let (from, last) = (self.row(size.origin_of_last()), size.rows - 1);
        if let Some(entries) = self.rows.get_mut(&from, from.place) {
            let moved: Entries<UK, V> =
                entries.extract_if(|user_key, _| size.row_of(user_key) == last).collect();
            if entries.is_empty() {
                self.rows.remove(&from, from.place);
            }
            self.put(last, moved);
        }
        size
    }

    /// Makes the last row one with that which it came from.
    fn merge(&mut self, size: Size) -> Size {
        let last = self.row(size.rows.saturating_sub(1));
        if let Some(moved) = self.rows.take(&last, last.place) {
            let into = self.row(size.origin_of_last());
            self.rows.update(&into, into.place, Entries::default, |entries| entries.extend(moved));
        }
        Size { rows: size.rows.saturating_sub(1), ..size }
    }

    fn put(&mut self, number: u32, entries: Entries<UK, V>) {
        if !entries.is_empty() {
            self.put_row(number, entries);
        }
    }

    /// Makes rows of a map that was one entry. One that was restored from a checkpoint older than rows may have any size.
    #[cold]
    fn spill(&mut self) {
        let Some(Head::Small(entries)) = self.heads.get(self.key, self.hash) else { return };
        if entries.keys().any(|user_key| stable_hash(user_key).is_err()) {
            return; // nothing says which row they would be in
        }
        let Some(Head::Small(entries)) = self.heads.get_mut(self.key, self.hash) else { return };
        let entries = std::mem::take(entries);
        let len = entries.len() as u64;
        let size = Size { len, rows: u32::try_from(len.div_ceil(LOAD)).unwrap_or(u32::MAX).max(1) };
        let mut rows: Vec<Entries<UK, V>> = (0..size.rows).map(|_| Entries::default()).collect();
        for (user_key, value) in entries {
            if let Some(row) = rows.get_mut(size.row_of(&user_key) as usize) {
                row.insert(user_key, value);
            }
        }
        for (number, entries) in (0..).zip(rows) {
            self.put(number, entries);
        }
        self.heads.insert(self.key, self.hash, Head::Large(size));
    }

    /// Makes one entry of a map that is small again.
    #[cold]
    fn gather(&mut self, size: Size) {
        let mut all = Entries::default();
        for number in 0..size.rows {
            let row = self.row(number);
            all.extend(self.rows.take(&row, row.place).into_iter().flatten());
        }
        self.heads.insert(self.key, self.hash, Head::Small(all));
    }
}

#[cfg(test)]
mod tests;
