//! The entries of a key group as bytes: postcard, key and value, one entry after the other; before them the keys that were removed, where
//! only what has changed is written.

use super::{Key, StateValue, codec};
use crate::error::{Error, ErrorKind};
use crate::types::{KeyGroup, MaxParallelism, stable_hash};
use std::fmt;
use std::task::{Context, Poll};

/// Entries of one key group, encoded; what checkpoints store and restore.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EncodedGroup {
    /// Which group.
    pub group: KeyGroup,
    /// Number of keys that were removed: only where this is what has changed of the group.
    pub removed: u64,
    /// Number of entries. Of these and removed keys there is at least 1.
    pub entries: u64,
    /// In postcard's form, one after the other: the removed keys, then key and value of each entry.
    pub bytes: Vec<u8>,
}

/// Gives the entries of a frozen state, a key group at a time, in order of groups; within a group in no order.
pub trait GroupEncoder: Send {
    /// The next group that holds entries; `None` after the last one.
    ///
    /// # Errors
    /// [`ErrorKind::Program`] when the type of key or value cannot be stored, [`ErrorKind::Failed`] when its own `Serialize` fails or
    /// panics, [`ErrorKind::Cancelled`] when the subtask that owns the state has ended. The snapshot is of no use then.
    fn poll_next_group(&mut self, task: &mut Context<'_>) -> Poll<Result<Option<EncodedGroup>, Error>>;

    /// Takes back the bytes of a group that has been written, to be used again.
    fn give_back(&mut self, bytes: Vec<u8>) {
        drop(bytes);
    }
}

impl fmt::Debug for dyn GroupEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GroupEncoder")
    }
}

/// Appends an entry.
#[inline]
pub(super) fn encode_entry<K: Key, V: StateValue>(
    to: &mut EncodedGroup,
    key: &K,
    value: &V,
) -> Result<(), Error> {
    codec::append(&(key, value), &mut to.bytes).map_err(|error| {
        Error::new(error.kind(), format!("an entry of key group {} cannot be encoded", to.group))
            .because(error)
    })?;
    to.entries += 1;
    Ok(())
}

/// Appends a key that was removed.
pub(super) fn encode_removed<K: Key>(to: &mut EncodedGroup, key: &K) -> Result<(), Error> {
    codec::append(key, &mut to.bytes).map_err(|error| {
        let what = format!("a removed key of key group {} cannot be encoded", to.group);
        Error::new(error.kind(), what).because(error)
    })?;
    to.removed += 1;
    Ok(())
}

/// Decodes a group and hands to `put(key, hash, value)` each removed key, without a value, and then each entry. It gives whether the key
/// may come: in a group that is whole, none comes twice.
///
/// # Errors
/// [`ErrorKind::Corrupt`] when the bytes are not such entries of this group.
pub(super) fn decode_group<K: Key, V: StateValue>(
    encoded: &EncodedGroup,
    max_parallelism: MaxParallelism,
    mut put: impl FnMut(&K, u64, Option<V>) -> bool,
) -> Result<(), Error> {
    let EncodedGroup { group, removed, entries, .. } = *encoded;
    let corrupt = |at: u64, what: &str| {
        let (kind, at, of) = match at.checked_sub(removed) {
            Some(at) => ("entry", at, entries),
            None => ("removed key", at, removed),
        };
        Error::new(ErrorKind::Corrupt, format!("{kind} {at} of {of} in key group {group}: {what}"))
    };
    let mut rest = encoded.bytes.as_slice();
    for at in 0..removed.saturating_add(entries) {
        let decoded = if at < removed {
            postcard::take_from_bytes::<K>(rest).map(|(key, after)| (key, None, after))
        } else {
            postcard::take_from_bytes::<(K, V)>(rest).map(|((key, value), after)| (key, Some(value), after))
        };
        let (key, value, after) =
            decoded.map_err(|error| corrupt(at, "the bytes cannot be decoded").because(error))?;
        rest = after;
        let hash =
            stable_hash(&key).map_err(|error| corrupt(at, "the key cannot be hashed").because(error))?;
        let of_key = max_parallelism.group_of(hash);
        if of_key != group {
            return Err(corrupt(at, &format!("its key belongs to key group {of_key}")));
        }
        if !put(&key, hash, value) {
            return Err(corrupt(at, "its key is there twice"));
        }
    }
    if rest.is_empty() {
        Ok(())
    } else {
        Err(corrupt(removed.saturating_add(entries), &format!("{} bytes are left over", rest.len())))
    }
}
