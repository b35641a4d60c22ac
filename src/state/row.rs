//! The keys of rows: parts of the value of a key that are entries of a table of their own.

use super::raw::TableId;
use super::table::Table;
use super::{Key, StateValue};
use crate::types::{MaxParallelism, stable_hash};
use serde::{Deserialize, Serialize};

/// Names one row of a key.
///
/// Its hash is not made from it but given (by the name of the struct, see the stable hash): somewhere among the hashes of the key's group. So a row is stored, and
/// restored at any parallelism, where its key is; and the rows of one key are spread over that group like the keys of other tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename = "$strandline::Placed")]
pub(super) struct Row<K> {
    /// Its hash. Follows from the others, and from the number of key groups, which never changes.
    pub(super) place: u64,
    key: K,
    number: u32,
}

impl<K: Key> Row<K> {
    /// Row `number` of a key with this hash.
    pub(super) fn of(key: &K, hash: u64, number: u32, groups: MaxParallelism) -> Self {
        let seed = stable_hash(&(hash, number)).unwrap_or_default();
        Self { place: groups.within_group_of(hash, seed), key: key.clone(), number }
    }
}

/// Names the tables of a state that keeps in rows what a key has too much of.
pub(super) struct RowedSlot<H, R> {
    /// What each key has, or how much of it is in rows.
    pub(super) heads: TableId<H>,
    pub(super) rows: TableId<R>,
}

impl<H, R> Clone for RowedSlot<H, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<H, R> Copy for RowedSlot<H, R> {}

/// The tables of such a state, to change what one key has.
pub(super) struct Rowed<'t, K, H, R> {
    pub(super) heads: &'t mut Table<K, H>,
    pub(super) rows: &'t mut Table<Row<K>, R>,
    pub(super) groups: MaxParallelism,
    pub(super) key: &'t K,
    pub(super) hash: u64,
}

impl<K: Key, H, R: StateValue> Rowed<'_, K, H, R> {
    pub(super) fn row(&self, number: u32) -> Row<K> {
        Row::of(self.key, self.hash, number, self.groups)
    }

    pub(super) fn put_row(&mut self, number: u32, content: R) {
        let row = self.row(number);
        self.rows.insert(&row, row.place, content);
    }

    pub(super) fn remove_row(&mut self, number: u32) {
        let row = self.row(number);
        self.rows.remove(&row, row.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_the_hash_that_it_is_given_and_it_is_of_its_keys_group() {
        for groups in [1, 2, 3, 100, 128, 32_768].map(|groups| MaxParallelism::new(groups).unwrap()) {
            for key in 0..50_u64 {
                let hash = stable_hash(&key).unwrap();
                let rows: Vec<Row<u64>> = (0..50).map(|number| Row::of(&key, hash, number, groups)).collect();
                for row in &rows {
                    assert_eq!(stable_hash(row).unwrap(), row.place);
                    assert_eq!(groups.group_of(row.place), groups.group_of(hash));
                    let bytes = postcard::to_stdvec(row).unwrap();
                    assert_eq!(&postcard::from_bytes::<Row<u64>>(&bytes).unwrap(), row);
                }
                let mut places: Vec<u64> = rows.iter().map(|row| row.place).collect();
                places.sort_unstable();
                places.dedup();
                assert_eq!(places.len(), 50);
            }
        }
    }

    /// Where rows are is part of the on-disk format: if this test fails, the change is wrong, not the test.
    #[test]
    fn places_never_change() {
        let groups = MaxParallelism::new(128).unwrap();
        let row = |key: &str, number| Row::of(&key.to_owned(), stable_hash(key).unwrap(), number, groups);
        let places = [row("flink", 0), row("flink", 1), row("", 4_000_000_000)].map(|row| row.place);
        assert_eq!(places, [0x4aa9_3074_7080_e04c, 0x4bd9_4def_07a4_5e2e, 0x7793_00e3_b59c_f65c]);
    }
}
