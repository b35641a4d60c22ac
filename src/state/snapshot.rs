//! What a store gives to a checkpoint and gets back from one.

use super::encoding::{EncodedGroup, GroupEncoder};
use crate::checkpoint::Increments;
use crate::checkpoint::metadata::{Distribution, StateSchema};
use crate::types::CheckpointId;
use std::sync::{Arc, OnceLock};

/// The states of one operator in one subtask at one moment. States without content are left out.
#[derive(Debug, Default)]
pub struct StoreSnapshot {
    /// Keyed states, in order of name.
    pub keyed: Vec<KeyedSnapshot>,
    /// Operator states, in order of name.
    pub lists: Vec<ListSnapshot>,
}

impl StoreSnapshot {
    /// Whether there is nothing to store.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keyed.is_empty() && self.lists.is_empty()
    }
}

/// A frozen keyed state.
#[derive(Debug)]
pub struct KeyedSnapshot {
    /// Its name.
    pub name: String,
    /// What its entries are.
    pub schema: StateSchema,
    /// Its entries. They come as the subtask that owns the state encodes them.
    pub groups: Box<dyn GroupEncoder>,
    /// What it adds to, unless it holds all there is and is complete in itself.
    pub increment: Option<Increment>,
}

/// How a frozen keyed state joins what earlier checkpoints wrote of it.
#[derive(Debug, Clone)]
pub struct Increment {
    /// What it is based on: of the groups that are due there and of those that are not known there it holds all, of the others what has changed.
    pub base: Arc<Increments>,
    /// How many checkpoints may be needed.
    pub limit: u32,
    /// Number of entries of the whole state.
    pub entries: u64,
    /// To be set when it is written: what a later one may be based on.
    pub written: Arc<OnceLock<Arc<Increments>>>,
}

/// An operator state, encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListSnapshot {
    /// Its name.
    pub name: String,
    /// What its elements are.
    pub schema: StateSchema,
    /// How elements are handed out on restore.
    pub distribution: Distribution,
    /// The elements in postcard's form.
    pub elements: Vec<Vec<u8>>,
}

/// What a checkpoint holds for one operator in one subtask. The default is nothing: a fresh start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestoredOperator {
    /// The checkpoint it is from; `None` for a fresh start.
    pub checkpoint: Option<CheckpointId>,
    /// Keyed states. The same name may come several times, from several old subtasks.
    pub keyed: Vec<RestoredKeyed>,
    /// Operator states, after redistribution. The same name may come several times.
    pub lists: Vec<RestoredList>,
}

/// A keyed state from a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoredKeyed {
    /// Its name.
    pub name: String,
    /// What its entries were.
    pub schema: StateSchema,
    /// The groups of this subtask that hold entries. A group may come several times in a row: what comes later has changed.
    pub groups: Vec<EncodedGroup>,
    /// The files that this comes from, if the next checkpoint may build on them.
    pub increments: Option<Increments>,
}

/// An operator state from a checkpoint.
pub type RestoredList = ListSnapshot;
