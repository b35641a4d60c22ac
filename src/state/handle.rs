//! What all state handles are: a number.

/// Names an operator state of a [`StateStore`](super::StateStore).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    /// The store that gave it out, by a number made from its operator's uid: catches a handle used in another operator.
    pub(super) owner: u32,
    pub(super) index: u32,
}

/// Makes a handle a plain number, of type `$slot`, whatever its type parameters are.
macro_rules! plain_handle {
    ($name:ident<$($parameter:ident),+>($slot:ty)) => {
        impl<$($parameter),+> Clone for $name<$($parameter),+> {
            fn clone(&self) -> Self {
                *self
            }
        }

        impl<$($parameter),+> Copy for $name<$($parameter),+> {}

        impl<$($parameter),+> std::fmt::Debug for $name<$($parameter),+> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(stringify!($name))
            }
        }

        impl<$($parameter),+> $name<$($parameter),+> {
            pub(in crate::state) fn new(slot: $slot) -> Self {
                Self { slot, types: std::marker::PhantomData }
            }
        }
    };
}

/// Makes a handle give the keys that have its state.
macro_rules! keyed_state {
    ($name:ident<$($parameter:ident $(: $bound:path)?),+>) => {
        impl<K: $crate::state::Key, $($parameter $(: $bound)?),+> $crate::state::KeyedState<K> for $name<$($parameter),+> {
            fn keys_in<'s>(
                &self,
                store: &'s $crate::state::StateStore<K>,
            ) -> impl Iterator<Item = &'s K> + use<'s, K, $($parameter),+>
            where
                K: 's,
            {
                store.table(self.slot).into_iter().flat_map($crate::state::Table::keys)
            }
        }
    };
}

pub(super) use {keyed_state, plain_handle};
