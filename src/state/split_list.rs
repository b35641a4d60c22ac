//! A list per subtask whose elements may move between subtasks.

use super::StateValue;
use super::handle::Slot;
use std::marker::PhantomData;

/// A list of the subtask, without a key (Flink's operator `ListState`). When the parallelism changes, the elements of all
/// subtasks are dealt out anew in contiguous runs, see [`redistribution`](super::redistribution); otherwise each subtask
/// gets its own back. Declare it with `split_list`.
///
/// It is encoded while the subtask waits: keep it small.
pub struct SplitListState<T> {
    slot: Slot,
    types: PhantomData<fn() -> T>,
}

/// What can be done with a list of the subtask, however it is handed out after a restart.
macro_rules! list_of_the_subtask {
    ($name:ident) => {
        crate::state::handle::plain_handle!($name<T>(Slot));

        impl<T: StateValue> $name<T> {
            /// Appends an element.
            pub fn add<C: crate::state::OperatorAccess>(&self, ctx: &mut C, element: T) {
                self.add_all(ctx, [element]);
            }

            /// Appends elements in order.
            pub fn add_all<C: crate::state::OperatorAccess>(
                &self,
                ctx: &mut C,
                elements: impl IntoIterator<Item = T>,
            ) {
                if let Some(list) = ctx.store_mut().split_elements_mut(self.slot) {
                    list.extend(elements);
                }
            }

            /// Replaces all elements.
            pub fn set<C: crate::state::OperatorAccess>(
                &self,
                ctx: &mut C,
                elements: impl IntoIterator<Item = T>,
            ) {
                if let Some(list) = ctx.store_mut().split_elements_mut(self.slot) {
                    *list = elements.into_iter().collect();
                }
            }

            /// Changes the list in place.
            pub fn update<C: crate::state::OperatorAccess, R>(
                &self,
                ctx: &mut C,
                f: impl FnOnce(&mut Vec<T>) -> R,
            ) -> R {
                match ctx.store_mut().split_elements_mut(self.slot) {
                    Some(list) => f(list),
                    None => f(&mut Vec::new()),
                }
            }

            /// The elements.
            pub fn get<'c, C: crate::state::OperatorAccess>(&self, ctx: &'c C) -> &'c [T] {
                ctx.store().split_elements(self.slot).unwrap_or_default()
            }

            /// Number of elements.
            pub fn len<C: crate::state::OperatorAccess>(&self, ctx: &C) -> usize {
                self.get(ctx).len()
            }

            /// Whether there are none.
            pub fn is_empty<C: crate::state::OperatorAccess>(&self, ctx: &C) -> bool {
                self.get(ctx).is_empty()
            }

            /// Removes all elements.
            pub fn clear<C: crate::state::OperatorAccess>(&self, ctx: &mut C) {
                self.set(ctx, []);
            }
        }
    };
}
pub(super) use list_of_the_subtask;

list_of_the_subtask!(SplitListState);

#[cfg(test)]
mod tests {
    use crate::state::test_context::Fake;

    #[test]
    fn elements_do_not_depend_on_the_key() {
        let mut ctx = Fake::<u64>::new();
        let list = ctx.store.split_list::<String>("l").unwrap();
        list.add(ctx.at(1), "a".to_owned());
        list.add_all(ctx.at(2), ["b".to_owned(), "c".to_owned()]);
        assert_eq!(list.get(&ctx), ["a", "b", "c"]);
        assert_eq!(list.update(&mut ctx, Vec::pop).as_deref(), Some("c"));
        list.set(&mut ctx, ["z".to_owned()]);
        assert_eq!((list.len(&ctx), list.get(&ctx)), (1, &["z".to_owned()][..]));
        list.clear(&mut ctx);
        assert!(list.is_empty(&ctx));
    }
}
