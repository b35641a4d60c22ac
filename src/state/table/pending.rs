//! A snapshot that is not all encoded yet.

use super::page::{Entry, Page};
use crate::error::{Error, ErrorKind};
use crate::pool::panic_message;
use crate::state::encoding::{EncodedGroup, encode_entry};
use crate::state::handover::Giver;
use crate::state::{Key, StateValue};
use crate::types::{KeyGroup, MaxParallelism};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What the owner of a table still has to do for a snapshot.
#[derive(Debug)]
pub(super) struct Pending {
    /// The freeze it is of.
    pub(super) epoch: u32,
    pub(super) to: Giver,
    /// Where the first page begins that was not looked at.
    pub(super) next: u64,
    /// Groups that are not complete: entries that changed before their turn.
    groups: BTreeMap<KeyGroup, EncodedGroup>,
    max_parallelism: MaxParallelism,
    /// Why there is no use in going on.
    failed: Option<Error>,
    /// How large the last group was: the next will be about that.
    hint: usize,
}

impl Pending {
    pub(super) fn new(epoch: u32, to: Giver, max_parallelism: MaxParallelism) -> Self {
        Self { epoch, to, next: 0, groups: BTreeMap::new(), max_parallelism, failed: None, hint: 0 }
    }

    /// Encodes what the snapshot does not have of the page that `hash` belongs to.
    pub(super) fn encode<K: Key, V: StateValue>(&mut self, page: &Page<K, V>, hash: u64) {
        let (first, last) = range(hash, page.depth);
        let (first, last) = (self.max_parallelism.group_of(first), self.max_parallelism.group_of(last));
        let missing = page.missing(self.epoch);
        if first == last {
            self.encode_all(first, missing);
        } else {
            for entry in missing {
                let group = self.max_parallelism.group_of(super::page::rehash(&entry.key));
                self.encode_all(group, std::iter::once(entry));
            }
        }
    }

    /// Encodes one entry.
    pub(super) fn encode_one<K: Key, V: StateValue>(&mut self, hash: u64, entry: &Entry<K, V>) {
        self.encode_all(self.max_parallelism.group_of(hash), std::iter::once(entry));
    }

    /// Calls the `Serialize` of the user's types. An error or a panic in there fails the snapshot, and nothing else.
    fn encode_all<'e, K: Key, V: StateValue>(
        &mut self,
        group: KeyGroup,
        entries: impl Iterator<Item = &'e Entry<K, V>>,
    ) {
        if self.failed.is_some() {
            return;
        }
        let mut entries = entries.peekable();
        if entries.peek().is_none() {
            return;
        }
        let to = &self.to;
        let hint = self.hint;
        let into = self.groups.entry(group).or_insert_with(|| {
            let mut bytes = to.spare();
            bytes.reserve(hint);
            EncodedGroup { group, entries: 0, bytes }
        });
        let encoded = catch_unwind(AssertUnwindSafe(|| {
            entries.try_for_each(|entry| encode_entry(into, &entry.key, &entry.value))
        }));
        let error = match encoded {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(panic) => {
                let what = format!("it panicked while it was encoded: {}", panic_message(&*panic));
                Error::new(ErrorKind::Failed, what)
            }
        };
        self.groups.clear();
        self.failed = Some(error);
    }

    /// All pages whose hashes are at most `last` are done: their groups are handed over. Gives whether that was all.
    pub(super) fn passed(&mut self, last: u64) -> bool {
        let next = last.checked_add(1);
        self.next = next.unwrap_or(last);
        let open = next.map(|next| self.max_parallelism.group_of(next));
        while let Some(first) = self.groups.first_entry()
            && open.is_none_or(|open| *first.key() < open)
        {
            let group = first.remove();
            self.hint = group.bytes.len() + group.bytes.len() / 16;
            self.to.give(group);
        }
        next.is_none() || self.failed.is_some()
    }

    /// Nothing more will come.
    pub(super) fn end(self) {
        self.to.end(self.failed.map_or(Ok(()), Err));
    }
}

/// The first and the last of all hashes that share `depth` high bits with `hash`.
pub(super) fn range(hash: u64, depth: u32) -> (u64, u64) {
    let rest = u64::MAX.checked_shr(depth).unwrap_or(0);
    (hash & !rest, hash | rest)
}
