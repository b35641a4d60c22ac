//! A snapshot that is not all encoded yet.

use super::page::{Entry, rehash};
use super::pages::Pages;
use crate::error::{Error, ErrorKind};
use crate::pool::panic_message;
use crate::state::encoding::{EncodedGroup, encode_entry, encode_removed};
use crate::state::handover::Giver;
use crate::state::{Key, StateValue};
use crate::types::{KeyGroup, MaxParallelism};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a snapshot holds that is not of the whole table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Since {
    /// The freeze that it holds the changes since.
    pub epoch: u32,
    /// The groups that it holds whole all the same.
    pub whole: BTreeSet<KeyGroup>,
}

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
    /// The keys that were removed, of the same groups.
    removed: BTreeMap<KeyGroup, EncodedGroup>,
    /// `None` if it holds all.
    since: Option<Since>,
    max_parallelism: MaxParallelism,
    /// Why there is no use in going on.
    failed: Option<Error>,
    /// How large the last group was: the next will be about that.
    hint: usize,
    /// Bytes encoded so far.
    pub(super) bytes: usize,
    /// Of these, the bytes of groups that are not complete.
    open: usize,
    /// How many these may be.
    memory: usize,
}

impl Pending {
    pub(super) fn new(
        epoch: u32,
        to: Giver,
        max_parallelism: MaxParallelism,
        since: Option<Since>,
        memory: usize,
    ) -> Self {
        Self {
            epoch,
            to,
            next: 0,
            groups: BTreeMap::new(),
            removed: BTreeMap::new(),
            since,
            max_parallelism,
            failed: None,
            hint: 0,
            bytes: 0,
            open: 0,
            memory,
        }
    }

    /// What has changed before this freeze is of no interest to it, in groups that it does not hold whole.
    pub(super) fn since(&self) -> u32 {
        self.since.as_ref().map_or(0, |since| since.epoch)
    }

    /// Whether it holds what was removed after this freeze and before the next.
    pub(super) fn asks_for_removed(&self, at: u32) -> bool {
        self.since.is_some() && (self.since()..self.epoch).contains(&at)
    }

    /// From which freeze on it holds the changes of a group: 0 for all of it.
    fn since_in(&self, group: KeyGroup) -> u32 {
        self.since.as_ref().map_or(0, |since| if since.whole.contains(&group) { 0 } else { since.epoch })
    }

    /// Encodes what the snapshot does not have of the page that `hash` belongs to.
    pub(super) fn encode<K: Key, V: StateValue>(&mut self, pages: &Pages<K, V>, at: usize, hash: u64) {
        let (Some(head), Some(page)) = (pages.head(at), pages.page(at)) else { return };
        let (first, last) = range(hash, head.depth());
        let (first, last) = (self.max_parallelism.group_of(first), self.max_parallelism.group_of(last));
        let missing = pages.missing(at, self.epoch);
        if first == last {
            match self.since_in(first) {
                0 => self.encode_all(first, missing.map(|(_, entry)| entry)),
                since if page.has_changed_since(since) => {
                    let changed = missing.filter(|(place, _)| page.stamp(*place) >= since);
                    self.encode_all(first, changed.map(|(_, entry)| entry));
                }
                _ => return,
            }
        } else {
            for (place, entry) in missing {
                if let Some(hash) = self.hash_of(&entry.key) {
                    self.encode_one(hash, entry, page.stamp(place));
                }
            }
        }
        if self.since.is_some() {
            for key in page.removed(self.since(), self.epoch) {
                self.encode_removed(key);
            }
        }
    }

    /// Encodes one entry, which changed last after the freeze `stamp`.
    pub(super) fn encode_one<K: Key, V: StateValue>(&mut self, hash: u64, entry: &Entry<K, V>, stamp: u32) {
        let group = self.max_parallelism.group_of(hash);
        if stamp >= self.since_in(group) {
            self.encode_all(group, std::iter::once(entry));
        }
    }

    /// Calls the `Serialize` of the key's type; a panic in there fails the snapshot.
    fn hash_of<K: Key>(&mut self, key: &K) -> Option<u64> {
        if self.failed.is_some() {
            return None;
        }
        let hash = caught(|| Ok(rehash(key)));
        hash.map_err(|error| self.note(Err(error), 0)).ok()
    }

    fn encode_removed<K: Key>(&mut self, key: &K) {
        let Some(hash) = self.hash_of(key) else { return };
        let group = self.max_parallelism.group_of(hash);
        if self.since_in(group) > 0 && self.failed.is_none() {
            let into =
                self.removed.entry(group).or_insert_with(|| EncodedGroup { group, ..Default::default() });
            let before = into.bytes.len();
            let encoded = caught(|| encode_removed(into, key));
            let added = into.bytes.len() - before;
            self.note(encoded, added);
        }
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
            EncodedGroup { group, removed: 0, entries: 0, bytes }
        });
        let before = into.bytes.len();
        let encoded = caught(|| entries.try_for_each(|entry| encode_entry(into, &entry.key, &entry.value)));
        let added = into.bytes.len() - before;
        self.note(encoded, added);
    }

    /// So many bytes were added. An error ends it.
    fn note(&mut self, encoded: Result<(), Error>, added: usize) {
        self.bytes += added;
        self.open += added;
        if let Err(error) = encoded {
            self.groups.clear();
            self.removed.clear();
            self.open = 0;
            self.failed = Some(error);
        }
    }

    /// All pages whose hashes are at most `last` are done: their groups are handed over. Gives whether that was all.
    pub(super) fn passed(&mut self, last: u64) -> bool {
        let next = last.checked_add(1);
        self.next = next.unwrap_or(last);
        let open = next.map(|next| self.max_parallelism.group_of(next));
        while let Some(group) = self.first_group().filter(|group| open.is_none_or(|open| *group < open)) {
            let changed = self.groups.remove(&group);
            let given = match (self.removed.remove(&group), changed) {
                (None, Some(changed)) => changed,
                (Some(mut removed), changed) => {
                    let EncodedGroup { entries, bytes, .. } = changed.unwrap_or_default();
                    removed.bytes.extend_from_slice(&bytes);
                    EncodedGroup { entries, ..removed }
                }
                (None, None) => continue,
            };
            self.hint = given.bytes.len() + given.bytes.len() / 16;
            self.open -= given.bytes.len();
            self.to.give(given);
        }
        next.is_none() || self.failed.is_some()
    }

    /// After entries were encoded before their turn: ends it if too many of them wait. The group that is being swept does not count: it is
    /// encoded whether anything changes or not.
    pub(super) fn check_memory(&mut self) {
        if self.open <= self.memory {
            return;
        }
        let swept = self.groups.get(&self.max_parallelism.group_of(self.next));
        if self.open - swept.map_or(0, |group| group.bytes.len()) > self.memory {
            self.note(Err(self.too_much()), 0);
        }
    }

    #[cold]
    fn too_much(&self) -> Error {
        let what = format!(
            "more than {} bytes of it changed before they were written (snapshot_memory): storage is too slow for so many changes. Allow more, \
             or make it faster",
            self.memory
        );
        Error::new(ErrorKind::Failed, what)
    }

    fn first_group(&self) -> Option<KeyGroup> {
        let (changed, removed) = (self.groups.keys().next(), self.removed.keys().next());
        changed.into_iter().chain(removed).min().copied()
    }

    /// Bytes that are encoded and wait: to be handed over, or to be written.
    pub(super) fn held(&self) -> usize {
        self.open + self.to.waiting()
    }

    /// Nothing more will come.
    pub(super) fn end(self) {
        self.to.end(self.failed.map_or(Ok(()), Err));
    }
}

/// Runs the `Serialize` of a user's type; its panic is an error.
fn caught<T>(encode: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(encode)).unwrap_or_else(|panic| {
        let what = format!("it panicked while it was encoded: {}", panic_message(&*panic));
        Err(Error::new(ErrorKind::Failed, what))
    })
}

/// The first and the last of all hashes that share `depth` high bits with `hash`.
pub(super) fn range(hash: u64, depth: u32) -> (u64, u64) {
    let rest = u64::MAX.checked_shr(depth).unwrap_or(0);
    (hash & !rest, hash | rest)
}
