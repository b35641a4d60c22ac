//! A list of which every subtask is given all.

use super::StateValue;
use super::handle::Slot;
use super::split_list::list_of_the_subtask;
use std::marker::PhantomData;

/// A list of the subtask, without a key, of which after a restart **every** subtask is given the elements of **all** subtasks, in order of subtask
/// (Flink's union list state). Each then keeps what is its own: partitions of a source that it picks by number, say. What it leaves in
/// the list it stores again, so clear what belongs to others, or the list grows with every restart. Declare it with `union_list`.
///
/// The union is made at each restart, also if the parallelism stays as it is. Finished subtasks still give theirs. It is encoded while the subtask
/// waits, and all of it is read by every subtask: keep it small. Where elements may go to any subtask, [`SplitListState`](super::SplitListState)
/// costs less.
pub struct UnionListState<T> {
    slot: Slot,
    types: PhantomData<fn() -> T>,
}

list_of_the_subtask!(UnionListState);

#[cfg(test)]
mod tests {
    use crate::checkpoint::Extent;
    use crate::checkpoint::metadata::Distribution;
    use crate::state::test_context::Fake;
    use crate::state::{RestoredOperator, StateStore};
    use crate::types::{CheckpointId, MaxParallelism};

    fn store(restored: RestoredOperator) -> StateStore<u64> {
        StateStore::new("op".into(), MaxParallelism::new(128).unwrap(), restored)
    }

    #[test]
    fn it_is_used_like_a_split_list_and_stored_as_a_union() {
        let mut ctx = Fake::<u64>::new();
        let list = ctx.store.union_list::<u32>("l").unwrap();
        list.add_all(ctx.at(1), [1, 2]);
        list.add(ctx.at(2), 3);
        assert_eq!((list.get(&ctx), list.len(&ctx)), (&[1, 2, 3][..], 3));
        let snapshot = ctx.store.freeze(CheckpointId(8), Extent::Full).unwrap();
        assert_eq!(snapshot.lists[0].distribution, Distribution::Union);
        let restored = RestoredOperator { lists: snapshot.lists, ..RestoredOperator::default() };
        let mut ctx = Fake::<u64>::restored(restored);
        let split = ctx.store.split_list::<u32>("l").unwrap_err();
        assert!(split.to_string().contains("union-list"), "{split}");
        let list = ctx.store.union_list::<u32>("l").unwrap();
        assert_eq!(list.get(&ctx), [1, 2, 3]);
    }

    /// Every subtask is given the whole: were all of them to store it again, it would grow with every checkpoint.
    #[test]
    fn what_is_not_declared_is_carried_on_by_one_subtask() {
        let mut ctx = Fake::<u64>::new();
        let list = ctx.store.union_list::<u32>("l").unwrap();
        list.add_all(&mut ctx, [1, 2, 3]);
        let lists = ctx.store.freeze(CheckpointId(8), Extent::Full).unwrap().lists;
        for subtask in 0..3 {
            let mut store = store(RestoredOperator { lists: lists.clone(), ..RestoredOperator::default() });
            store.leave_unions_to_the_first(subtask);
            let stored = store.freeze(CheckpointId(8), Extent::Full).unwrap().lists;
            assert_eq!(stored, if subtask == 0 { lists.clone() } else { Vec::new() });
        }
    }
}
