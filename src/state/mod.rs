//! What operators keep: state handles, the keyed table behind them, and how it is snapshotted and restored.
//!
//! A handle is a number; the values live in the [`StateStore`] that the operator's context owns. So `&ctx` reads and
//! `&mut ctx` writes, and the engine reaches every table (to freeze it) without asking the operator.
//!
//! | state | per | holds |
//! |---|---|---|
//! | [`ValueState`] | key | one value |
//! | [`ListState`] | key | values in order |
//! | [`MapState`] | key | values by a second key |
//! | [`ReducingState`] | key | all that was added, folded into one value of the same type |
//! | [`AggregatingState`] | key | all that was added, folded into an accumulator |
//! | [`SplitListState`] | subtask | elements that may move between subtasks |
//! | [`UnionListState`] | subtask | elements of which every subtask is given all |
//! | [`BroadcastState`] | subtask | a map that is the same in all of them |

mod aggregating;
mod broadcast;
pub(crate) mod codec;
mod encoding;
mod handle;
mod handover;
mod list;
mod list_rows;
mod map;
mod map_head;
mod map_rows;
mod raw;
pub mod redistribution;
mod reducing;
mod row;
pub mod schema;
mod shape;
mod snapshot;
mod split_list;
mod store;
mod table;
#[cfg(test)]
mod test_context;
#[cfg(test)]
mod test_snapshots;
mod union_list;
mod value;

pub use aggregating::{Aggregate, AggregatingState};
pub use broadcast::BroadcastState;
pub use encoding::{EncodedGroup, GroupEncoder};
pub use handover::Frozen;
pub use list::ListState;
pub use map::{MapState, UserKey};
pub use reducing::ReducingState;
pub use snapshot::{
    Increment, KeyedSnapshot, ListSnapshot, RestoredKeyed, RestoredList, RestoredOperator, StoreSnapshot,
};
pub use split_list::SplitListState;
pub use store::StateStore;
pub use table::Table;
pub use union_list::UnionListState;
pub use value::ValueState;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// What state can be kept by. Every type with these bounds is one.
///
/// Neither `Hash` nor `Ord`: a key is hashed through its serde form. Two keys are equal if and only if their serde forms
/// are; otherwise a key is split over subtasks.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a key",
    label = "not a key",
    note = "a key is `Eq + Clone + Send + Sync + Serialize + DeserializeOwned`: derive what is missing; floats are no keys"
)]
pub trait Key: Eq + Clone + Send + Sync + Serialize + DeserializeOwned + 'static {}

impl<T: Eq + Clone + Send + Sync + Serialize + DeserializeOwned + 'static> Key for T {}

/// What can be kept in state. Every type with these bounds is one.
///
/// `Clone`, because reading gives copies. Serde is asked for a form that is not self-describing (postcard), which rules out types that decode
/// themselves by looking at the data (`serde_json::Value`, `#[serde(untagged)]`, `#[serde(tag)]`, `#[serde(flatten)]`) and fields
/// that are sometimes left out (`#[serde(skip_serializing_if)]`). They are refused, when declared or when first stored.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be kept in state",
    label = "not a state value",
    note = "a state value is `Clone + Send + Sync + Serialize + DeserializeOwned`: derive what is missing"
)]
pub trait StateValue: Clone + Send + Sync + Serialize + DeserializeOwned + 'static {}

impl<T: Clone + Send + Sync + Serialize + DeserializeOwned + 'static> StateValue for T {}

/// Access to the states of an operator under its current key; contexts of keyed operators implement it.
#[diagnostic::on_unimplemented(
    message = "keyed state cannot be used here",
    label = "this context has no current key",
    note = "keyed state needs a current key: use `key_by` before `process`, and `handle` rather than `open`, `finish` or \
            `handle_broadcast`"
)]
pub trait KeyedAccess {
    /// The operator's key.
    type Key: Key;

    /// The states, the current key and its stable hash, to read.
    #[doc(hidden)]
    fn states(&self) -> (&StateStore<Self::Key>, &Self::Key, u64);

    /// The states, the current key and its stable hash, to write.
    #[doc(hidden)]
    fn states_mut(&mut self) -> (&mut StateStore<Self::Key>, &Self::Key, u64);
}

/// A keyed state of an operator with keys of type `K`, whatever it holds: a [`ValueState`], [`ListState`], [`MapState`], [`ReducingState`] or
/// [`AggregatingState`].
pub trait KeyedState<K> {
    /// The keys that have it in this subtask, in no particular order.
    #[doc(hidden)]
    fn keys_in<'s>(&self, store: &'s StateStore<K>) -> impl Iterator<Item = &'s K> + use<'s, Self, K>
    where
        K: 's;
}

/// Access to the states of an operator without a key, for operator state; contexts implement it.
pub trait OperatorAccess {
    /// The operator's key.
    #[doc(hidden)]
    type StoreKey;

    /// The states, to read.
    #[doc(hidden)]
    fn store(&self) -> &StateStore<Self::StoreKey>;

    /// The states, to write.
    #[doc(hidden)]
    fn store_mut(&mut self) -> &mut StateStore<Self::StoreKey>;
}

/// Access to broadcast state, to write it; only the context of a [`BroadcastHandler`](crate::BroadcastHandler) implements it.
#[diagnostic::on_unimplemented(
    message = "broadcast state cannot be written here",
    label = "this context may only read broadcast state",
    note = "write it in `BroadcastHandler::handle_broadcast`: there every subtask is given the same records, so that the copies \
            stay equal"
)]
pub trait BroadcastAccess: OperatorAccess {}
