//! What a store gives to a checkpoint and gets back from one.

use super::encoding::{EncodedGroup, GroupEncoder};
use crate::checkpoint::metadata::{Distribution, StateSchema};
use crate::types::CheckpointId;

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
    /// The groups of this subtask that hold entries; no group twice.
    pub groups: Vec<EncodedGroup>,
}

/// An operator state from a checkpoint.
pub type RestoredList = ListSnapshot;
