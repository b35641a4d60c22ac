//! What a key's entry holds of its map: all of it, or how large it is.

use super::StateValue;
use super::map::{Entries, UserKey};
use crate::types::stable_hash;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::ser::SerializeTuple;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::marker::PhantomData;

/// A map, or the size of one that is kept in [rows](super::row::Row).
///
/// A small map is stored as the map that it is, as all maps were before there were rows. A large one is stored as an empty map, which no key
/// has, and its size after that.
#[derive(Debug, Clone)]
pub(super) enum Head<UK, V> {
    Small(Entries<UK, V>),
    Large(Size),
}

/// How large a map is that is kept in rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Size {
    /// Its pairs.
    pub(super) len: u64,
    /// Its rows; those without a pair are not there.
    pub(super) rows: u32,
}

impl Size {
    /// The row of a pair (linear hashing, Litwin 1980): as many bits of the hash as there are rows for, one less where that row is not there
    /// yet.
    pub(super) fn row_of<UK: Serialize>(self, user_key: &UK) -> u32 {
        let hash = stable_hash(user_key).unwrap_or_default();
        let all = u64::from(self.rows).next_power_of_two();
        let row = hash & (all - 1);
        let row = if row < u64::from(self.rows) { row } else { row & (all / 2).saturating_sub(1) };
        u32::try_from(row).unwrap_or_default()
    }

    /// The row that the last one was split from.
    pub(super) fn origin_of_last(self) -> u32 {
        let last = self.rows.saturating_sub(1);
        let half = u64::from(self.rows).next_power_of_two() / 2;
        last - u32::try_from(half).unwrap_or_default().min(last)
    }
}

impl<UK, V> Default for Head<UK, V> {
    fn default() -> Self {
        Self::Small(Entries::default())
    }
}

impl<UK: UserKey, V: StateValue> Serialize for Head<UK, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let size = match self {
            Self::Small(entries) if !entries.is_empty() => return entries.serialize(serializer),
            Self::Small(_) => Size::default(),
            Self::Large(size) => *size,
        };
        let mut tuple = serializer.serialize_tuple(2)?;
        tuple.serialize_element(&Entries::<UK, V>::default())?;
        tuple.serialize_element(&size)?;
        tuple.end()
    }
}

impl<'de, UK: UserKey, V: StateValue> Deserialize<'de> for Head<UK, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Heads<UK, V>(PhantomData<fn() -> (UK, V)>);

        impl<'de, UK: UserKey, V: StateValue> Visitor<'de> for Heads<UK, V> {
            type Value = Head<UK, V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map, or an empty one and the size of a large one")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Self::Value, A::Error> {
                let missing = || A::Error::custom("the map is missing");
                let entries: Entries<UK, V> = parts.next_element()?.ok_or_else(missing)?;
                if !entries.is_empty() {
                    return Ok(Head::Small(entries));
                }
                let size: Size = parts.next_element()?.ok_or_else(missing)?;
                Ok(if size.rows == 0 { Head::default() } else { Head::Large(size) })
            }
        }

        deserializer.deserialize_tuple(2, Heads(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::codec;

    type Map = Head<u8, String>;

    #[test]
    fn a_small_map_is_stored_as_the_map_that_it_is() {
        let entries: Entries<u8, String> = [(7, "seven".to_owned())].into_iter().collect();
        let bytes = codec::encode(&Map::Small(entries.clone())).unwrap();
        assert_eq!(bytes, codec::encode(&entries).unwrap());
        // What follows in a group of entries is left alone.
        let more = [&*bytes, &[9, 9]].concat();
        let (head, rest) = postcard::take_from_bytes::<Map>(&more).unwrap();
        assert!(matches!(head, Head::Small(found) if found == entries));
        assert_eq!(rest, [9, 9]);
    }

    #[test]
    fn a_large_one_is_stored_as_its_size() {
        let size = Size { len: 300, rows: 20 };
        let bytes = codec::encode(&Map::Large(size)).unwrap();
        assert_eq!(bytes, [0, 0xac, 2, 20]);
        assert!(matches!(postcard::from_bytes::<Map>(&bytes).unwrap(), Head::Large(found) if found == size));
        let empty = codec::encode(&Map::default()).unwrap();
        assert!(
            matches!(postcard::from_bytes::<Map>(&empty).unwrap(), Head::Small(found) if found.is_empty())
        );
    }

    #[test]
    fn one_more_row_takes_pairs_from_one_other_only() {
        for rows in 1..200 {
            let (before, after) = (Size { len: 0, rows }, Size { len: 0, rows: rows + 1 });
            let mut moved = 0;
            for key in 0..3_000_u32 {
                let (from, to) = (before.row_of(&key), after.row_of(&key));
                assert!(from < rows);
                if from != to {
                    assert_eq!((from, to), (after.origin_of_last(), rows));
                    moved += 1;
                }
            }
            assert!(moved > 0, "{rows}");
        }
    }
}
