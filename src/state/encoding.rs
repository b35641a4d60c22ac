//! The entries of a key group as bytes: postcard, key and value, one entry after the other.

use super::{Key, StateValue, codec};
use crate::error::{Error, ErrorKind};
use crate::types::{KeyGroup, MaxParallelism, stable_hash};
use std::fmt;
use std::task::{Context, Poll};

/// Entries of one key group, encoded; what checkpoints store and restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedGroup {
    /// Which group.
    pub group: KeyGroup,
    /// Number of entries, at least 1.
    pub entries: u64,
    /// Key and value in postcard's form, one entry after the other.
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

/// Decodes a group and hands each entry to `put(key, hash, value)`, which gives whether the key is new.
///
/// # Errors
/// [`ErrorKind::Corrupt`] when the bytes are not such entries of this group.
pub(super) fn decode_group<K: Key, V: StateValue>(
    encoded: &EncodedGroup,
    max_parallelism: MaxParallelism,
    mut put: impl FnMut(&K, u64, V) -> bool,
) -> Result<(), Error> {
    let group = encoded.group;
    let corrupt = |entry: u64, what: &str| {
        Error::new(
            ErrorKind::Corrupt,
            format!("entry {entry} of {} in key group {group}: {what}", encoded.entries),
        )
    };
    let mut rest = encoded.bytes.as_slice();
    for entry in 0..encoded.entries {
        let ((key, value), after) = postcard::take_from_bytes::<(K, V)>(rest)
            .map_err(|error| corrupt(entry, "the bytes cannot be decoded").because(error))?;
        rest = after;
        let hash =
            stable_hash(&key).map_err(|error| corrupt(entry, "the key cannot be hashed").because(error))?;
        let of_key = max_parallelism.group_of(hash);
        if of_key != group {
            return Err(corrupt(entry, &format!("its key belongs to key group {of_key}")));
        }
        if !put(&key, hash, value) {
            return Err(corrupt(entry, "its key is there twice"));
        }
    }
    if rest.is_empty() {
        Ok(())
    } else {
        Err(corrupt(encoded.entries, &format!("{} bytes are left over", rest.len())))
    }
}
