//! Operator states of a store: lists and maps of the subtask, declared, restored and reached.

use super::{FOREIGN_HANDLE, StateStore};
use crate::checkpoint::metadata::{Distribution, StateSchema};
use crate::error::{Error, ErrorKind};
use crate::state::broadcast::BroadcastState;
use crate::state::handle::Slot;
use crate::state::map::{Entries, UserKey};
use crate::state::split_list::SplitListState;
use crate::state::union_list::UnionListState;
use crate::state::{StateValue, codec, schema};
use serde::de::DeserializeOwned;
use std::any::Any;

pub(super) struct ListSlot {
    pub(super) name: String,
    pub(super) schema: StateSchema,
    pub(super) distribution: Distribution,
    pub(super) list: Box<dyn AnyList>,
}

pub(super) trait AnyList: Any + Send {
    fn encode(&self) -> Result<Vec<Vec<u8>>, Error>;
}

impl<T: StateValue> AnyList for Vec<T> {
    fn encode(&self) -> Result<Vec<Vec<u8>>, Error> {
        self.iter().map(codec::encode).collect()
    }
}

impl<A: UserKey, B: StateValue> AnyList for Entries<A, B> {
    fn encode(&self) -> Result<Vec<Vec<u8>>, Error> {
        let mut elements = self.iter().map(|pair| codec::encode(&pair)).collect::<Result<Vec<_>, _>>()?;
        // Equal maps give equal bytes.
        elements.sort_unstable();
        Ok(elements)
    }
}

impl<K> StateStore<K> {
    /// Declares a list of the subtask whose elements may move between subtasks.
    ///
    /// # Errors
    /// See [`value`](Self::value).
    pub fn split_list<T: StateValue>(&mut self, name: &str) -> Result<SplitListState<T>, Error> {
        let declared = schema::list::<T>("split-list");
        let slot = self.declare_list::<T, Vec<T>>(name, declared, Distribution::Split)?;
        Ok(SplitListState::new(slot))
    }

    /// Declares a list of the subtask of which every subtask is given all elements of all.
    ///
    /// # Errors
    /// See [`value`](Self::value).
    pub fn union_list<T: StateValue>(&mut self, name: &str) -> Result<UnionListState<T>, Error> {
        let declared = schema::list::<T>("union-list");
        let slot = self.declare_list::<T, Vec<T>>(name, declared, Distribution::Union)?;
        Ok(UnionListState::new(slot))
    }

    /// Of lists that nothing was declared for and of which every subtask was given all, only the first subtask carries them on.
    pub fn leave_unions_to_the_first(&mut self, subtask: u32) {
        self.kept_lists.retain(|kept| subtask == 0 || kept.distribution != Distribution::Union);
    }

    /// Declares a map that every subtask has a copy of.
    ///
    /// # Errors
    /// See [`value`](Self::value).
    pub fn broadcast<A: UserKey, B: StateValue>(
        &mut self,
        name: &str,
    ) -> Result<BroadcastState<A, B>, Error> {
        let declared = schema::keyed::<A, B>("broadcast");
        let slot = self.declare_list::<(A, B), Entries<A, B>>(name, declared, Distribution::Broadcast)?;
        Ok(BroadcastState::new(slot))
    }

    pub(in crate::state) fn split_elements<T: StateValue>(&self, slot: Slot) -> Option<&[T]> {
        let found = match self.lists.get(slot.index as usize) {
            Some(found) if slot.owner == self.owner => (&*found.list as &dyn Any).downcast_ref::<Vec<T>>(),
            _ => None,
        };
        debug_assert!(found.is_some(), "{FOREIGN_HANDLE} {}", self.operator);
        found.map(Vec::as_slice)
    }

    pub(in crate::state) fn split_elements_mut<T: StateValue>(&mut self, slot: Slot) -> Option<&mut Vec<T>> {
        let found = match self.lists.get_mut(slot.index as usize) {
            Some(found) if slot.owner == self.owner => (&mut *found.list as &mut dyn Any).downcast_mut(),
            _ => None,
        };
        debug_assert!(found.is_some(), "{FOREIGN_HANDLE} {}", self.operator);
        found
    }

    pub(in crate::state) fn broadcast_entries<A: UserKey, B: StateValue>(
        &self,
        slot: Slot,
    ) -> Option<&Entries<A, B>> {
        let found = match self.lists.get(slot.index as usize) {
            Some(found) if slot.owner == self.owner => (&*found.list as &dyn Any).downcast_ref(),
            _ => None,
        };
        debug_assert!(found.is_some(), "{FOREIGN_HANDLE} {}", self.operator);
        found
    }

    pub(in crate::state) fn broadcast_entries_mut<A: UserKey, B: StateValue>(
        &mut self,
        slot: Slot,
    ) -> Option<&mut Entries<A, B>> {
        let found = match self.lists.get_mut(slot.index as usize) {
            Some(found) if slot.owner == self.owner => (&mut *found.list as &mut dyn Any).downcast_mut(),
            _ => None,
        };
        debug_assert!(found.is_some(), "{FOREIGN_HANDLE} {}", self.operator);
        found
    }

    /// Declares an operator state of elements `T`, kept as an `L`.
    fn declare_list<T, L>(
        &mut self,
        name: &str,
        declared: StateSchema,
        distribution: Distribution,
    ) -> Result<Slot, Error>
    where
        T: DeserializeOwned,
        L: AnyList + FromIterator<T>,
    {
        let list = Box::new(self.restore_list::<T, L>(name, &declared)?);
        let slot = Slot { owner: self.owner, index: self.index(self.lists.len())? };
        self.lists.push(ListSlot { name: name.to_owned(), schema: declared, distribution, list });
        Ok(slot)
    }

    /// Takes out what was restored under `name`, if it has this schema; nothing if nothing was.
    ///
    /// # Errors
    /// See [`value`](Self::value).
    pub fn restore_list<T: DeserializeOwned, L: FromIterator<T>>(
        &mut self,
        name: &str,
        declared: &StateSchema,
    ) -> Result<L, Error> {
        codec::check::<T>().map_err(|why| self.unstorable(name, why))?;
        self.check_name(name, &[declared])?;
        let (restored, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.kept_lists).into_iter().partition(|kept| kept.name == name);
        self.kept_lists = kept;
        let elements = restored.iter().flat_map(|restored| &restored.elements).enumerate();
        let decoded = elements.map(|(i, bytes)| {
            postcard::from_bytes::<T>(bytes).map_err(|error| {
                let what = format!("element {i} of state `{name}` cannot be decoded");
                self.named(Error::new(ErrorKind::Corrupt, what).because(error))
            })
        });
        decoded.collect()
    }
}
