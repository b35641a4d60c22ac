//! Lists that are long: what an append costs does not depend on how many values there are.
//!
//! The end of a list is kept in its key's entry. Whenever that has [`ROW`] values, they become a row, an entry of a second table, and do not
//! change any more. So an append changes less than a row, whatever the length of the list, and that is what it encodes while a snapshot is
//! pending and what an incremental checkpoint writes for it.

use super::row::Rowed;
use super::{Key, StateValue};
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::ser::SerializeTuple;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::marker::PhantomData;

/// Values of a row. More make an append dearer while a snapshot is pending, fewer cost more memory. Part of the on-disk format: the length of a
/// list follows from it.
pub(super) const ROW: usize = 64;

/// What a key's entry holds of its list.
///
/// A list without rows is stored as the list that it is, as all lists were before there were rows. Another is stored as an empty list, which no key
/// has, the number of its rows, and its end.
#[derive(Debug, Clone)]
pub(super) struct Head<T> {
    /// How many rows there are, from 0 on; each of them is full.
    pub(super) rows: u32,
    /// What comes after them.
    pub(super) end: Vec<T>,
}

impl<T> Default for Head<T> {
    fn default() -> Self {
        Self { rows: 0, end: Vec::new() }
    }
}

impl<T> Head<T> {
    pub(super) fn len(&self) -> usize {
        self.rows as usize * ROW + self.end.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All values of a list, with what gives its rows.
    pub(super) fn values<'l>(
        head: Option<&'l Self>,
        row: impl Fn(u32) -> Option<&'l Vec<T>>,
    ) -> impl DoubleEndedIterator<Item = &'l T> {
        let rows = (0..head.map_or(0, |head| head.rows)).filter_map(row);
        rows.flatten().chain(head.into_iter().flat_map(|head| &head.end))
    }

    /// Takes out what is enough for rows, if anything is, with the number of the first of these.
    fn take_full(&mut self) -> Option<(u32, Vec<T>)> {
        if self.end.len() < ROW {
            return None;
        }
        let (first, full) = (self.rows, self.end.len() / ROW);
        let end = self.end.split_off(full * ROW);
        self.rows = self.rows.saturating_add(u32::try_from(full).unwrap_or(u32::MAX));
        Some((first, std::mem::replace(&mut self.end, end)))
    }
}

/// The lists of one state, to change that of one key.
pub(super) type Lists<'t, K, T> = Rowed<'t, K, Head<T>, Vec<T>>;

impl<K: Key, T: StateValue> Lists<'_, K, T> {
    /// Changes what is in the entry, and makes rows of what is too much there.
    fn change<R>(&mut self, f: impl FnOnce(&mut Head<T>) -> R) -> R {
        let (result, full, is_empty) = self.heads.update(self.key, self.hash, Head::default, |head| {
            let result = f(head);
            (result, head.take_full(), head.is_empty())
        });
        if let Some((first, values)) = full {
            self.put_rows(first, values);
        } else if is_empty {
            self.heads.remove(self.key, self.hash);
        }
        result
    }

    /// Appends a value.
    #[inline]
    pub(super) fn push(&mut self, value: T) {
        self.change(|head| head.end.push(value));
    }

    /// Appends values.
    pub(super) fn extend(&mut self, values: impl Iterator<Item = T>) {
        self.change(|head| head.end.extend(values));
    }

    /// Changes the list in place.
    pub(super) fn update<R>(&mut self, f: impl FnOnce(&mut Vec<T>) -> R) -> R {
        if self.heads.get(self.key, self.hash).is_some_and(|head| head.rows == 0) {
            return self.change(|head| f(&mut head.end));
        }
        // Of copies: should `f` panic, the list is as it was. And a list that was not there and is not made leaves no trace.
        let row = |number| {
            let row = self.row(number);
            self.rows.get(&row, row.place)
        };
        let head = self.heads.get(self.key, self.hash);
        let mut all: Vec<T> = Head::values(head, row).cloned().collect();
        let result = f(&mut all);
        self.set(all);
        result
    }

    /// Replaces the list.
    pub(super) fn set(&mut self, values: Vec<T>) {
        let mut head = Head { rows: 0, end: values };
        let full = head.take_full();
        let (rows, is_empty) = (head.rows, head.is_empty());
        if is_empty {
            return self.clear();
        }
        let before = self.heads.get(self.key, self.hash).map_or(0, |head| head.rows);
        self.heads.insert(self.key, self.hash, head);
        (rows..before).for_each(|number| self.remove_row(number));
        if let Some((first, values)) = full {
            self.put_rows(first, values);
        }
    }

    /// Removes all values.
    pub(super) fn clear(&mut self) {
        let rows = self.heads.take(self.key, self.hash).map_or(0, |head| head.rows);
        (0..rows).for_each(|number| self.remove_row(number));
    }

    #[cold]
    fn put_rows(&mut self, first: u32, values: Vec<T>) {
        if values.len() == ROW {
            return self.put_row(first, values);
        }
        let mut values = values.into_iter();
        for number in first.. {
            let row: Vec<T> = values.by_ref().take(ROW).collect();
            if row.is_empty() {
                break;
            }
            self.put_row(number, row);
        }
    }
}

impl<T: StateValue> Serialize for Head<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.rows == 0 && !self.end.is_empty() {
            return self.end.serialize(serializer);
        }
        let mut tuple = serializer.serialize_tuple(3)?;
        tuple.serialize_element::<[T]>(&[])?;
        tuple.serialize_element(&self.rows)?;
        tuple.serialize_element(&self.end)?;
        tuple.end()
    }
}

impl<'de, T: StateValue> Deserialize<'de> for Head<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Heads<T>(PhantomData<fn() -> T>);

        impl<'de, T: StateValue> Visitor<'de> for Heads<T> {
            type Value = Head<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list, or an empty one, a number of rows and a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Self::Value, A::Error> {
                let missing = || A::Error::custom("the list is missing");
                let whole: Vec<T> = parts.next_element()?.ok_or_else(missing)?;
                if !whole.is_empty() {
                    return Ok(Head { rows: 0, end: whole });
                }
                let rows = parts.next_element()?.ok_or_else(missing)?;
                Ok(Head { rows, end: parts.next_element()?.ok_or_else(missing)? })
            }
        }

        deserializer.deserialize_tuple(3, Heads(PhantomData))
    }
}

#[cfg(test)]
mod tests;
