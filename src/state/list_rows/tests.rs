use super::*;
use crate::checkpoint::Extent;
use crate::checkpoint::metadata::StateSchema;
use crate::state::test_context::Fake;
use crate::state::test_snapshots::{
    Counted, Stored, Subject, bytes_of, shares, what_is_restored_is_what_there_was, whole,
};
use crate::state::{ListState, RestoredOperator, StateStore, codec};
use crate::types::{CheckpointId, Random};

struct Lists {
    ctx: Fake<u64>,
    list: ListState<String>,
}

impl Subject for Lists {
    type Content = Vec<String>;

    fn with_store(store: StateStore<u64>) -> Self {
        let mut ctx = Fake::with_store(store);
        let list = ctx.store.list("m").unwrap();
        Self { ctx, list }
    }

    fn ctx(&mut self) -> &mut Fake<u64> {
        &mut self.ctx
    }

    fn change(&mut self, key: u64, random: &mut Random, of_key: &mut Self::Content) {
        let mut below = |n: usize| usize::try_from(random.next_u64()).unwrap() % n;
        // Some lists stay small, some go through all lengths.
        let most = [5, 60, 70, 300, 1_000, 1_000][usize::try_from(key).unwrap()];
        let (what, some) = (below(100), below(most));
        let text = format!("{}", below(1_000_000));
        let (ctx, list) = (&mut self.ctx, self.list);
        match what {
            0..60 => {
                list.add(ctx, text.clone());
                of_key.push(text);
            }
            60..75 => {
                let more: Vec<String> = (0..some).map(|n| format!("{text} {n}")).collect();
                list.add_all(ctx, more.clone());
                of_key.extend(more);
            }
            75..83 => {
                list.update(ctx, |all| all.truncate(some));
                of_key.truncate(some);
            }
            83..90 => {
                list.update(ctx, |all| all.iter_mut().step_by(17).for_each(|value| value.push('x')));
                of_key.iter_mut().step_by(17).for_each(|value| value.push('x'));
            }
            90..97 => {
                *of_key = (0..some).map(|n| n.to_string()).collect();
                list.set(ctx, of_key.clone());
            }
            _ => {
                list.clear(ctx);
                of_key.clear();
            }
        }
        assert_eq!(list.len(ctx), of_key.len());
    }

    fn content(&self) -> Self::Content {
        let (ctx, list) = (&self.ctx, self.list);
        let (all, mut back) = (list.get(ctx), list.iter(ctx).rev().cloned().collect::<Vec<_>>());
        back.reverse();
        assert_eq!(all, back);
        assert_eq!((list.len(ctx), list.is_empty(ctx)), (all.len(), all.is_empty()));
        all
    }

    fn clear(&mut self) {
        self.list.clear(&mut self.ctx);
    }
}

#[test]
fn s15_5_lists_of_all_lengths_are_what_a_plain_list_is_also_in_snapshots_and_after_a_restart() {
    what_is_restored_is_what_there_was::<Lists>();
}

#[test]
fn an_incremental_checkpoint_writes_little_for_what_is_added_to_a_list_of_100_000() {
    let (mut subject, mut stored) = (Lists::new(RestoredOperator::default()), Stored::new());
    let list = subject.list;
    list.add_all(subject.ctx.at(1), (0..100_000).map(|_| "ten bytes.".to_owned()));
    let all = bytes_of(&mut subject, 1, None, &mut stored);
    assert!(all > 1_100_000, "{all}");
    assert_eq!(bytes_of(&mut subject, 2, Some(1), &mut stored), 0, "nothing has changed");
    list.add(&mut subject.ctx, "new".to_owned());
    let one = bytes_of(&mut subject, 3, Some(2), &mut stored);
    list.add_all(&mut subject.ctx, (0..ROW).map(|_| "ten bytes.".to_owned()));
    let row = bytes_of(&mut subject, 4, Some(3), &mut stored);
    assert!((4..600).contains(&one) && (700..1_600).contains(&row), "{one}, {row} of {all}");
    let mut restored = Lists::new(shares(&stored, 1).remove(0));
    let ctx = restored.ctx.at(1);
    assert_eq!(restored.list.len(ctx), 100_001 + ROW);
    assert_eq!(restored.list.iter(ctx).nth(100_000).unwrap(), "new");
}

#[test]
fn every_row_is_full_and_what_is_cut_off_leaves_none_behind() {
    let mut subject = Lists::new(RestoredOperator::default());
    let list = subject.list;
    list.add_all(subject.ctx.at(1), (0..5_000).map(|number| number.to_string()));
    for left in [5_000, 4_999, 1_000, ROW + 1, ROW, ROW - 1, 1, 0] {
        list.update(&mut subject.ctx, |all| all.truncate(left));
        let taken = whole(&mut subject, 1, Extent::Full);
        let rows = taken.states.iter().filter(|(state, ..)| state.schema.kind == StateSchema::LIST_ROWS);
        let rows: u64 = rows.flat_map(|(_, groups, _)| groups).map(|group| group.entries).sum();
        assert_eq!(rows, (left / ROW) as u64, "{left}");
        assert_eq!(list.get(&subject.ctx).len(), left);
    }
}

#[test]
fn a_short_list_is_stored_as_the_list_that_it_is_and_a_long_one_as_its_rows_and_its_end() {
    let short = Head { rows: 0, end: vec![7_u8, 8] };
    assert_eq!(codec::encode(&short).unwrap(), [2, 7, 8]);
    let long = Head { rows: 300, end: vec![9_u8] };
    assert_eq!(codec::encode(&long).unwrap(), [0, 0xac, 2, 1, 9]);
    for head in [short, long, Head { rows: 1, end: Vec::new() }, Head::default()] {
        let bytes = [codec::encode(&head).unwrap(), vec![1, 2, 3]].concat();
        let (found, rest) = postcard::take_from_bytes::<Head<u8>>(&bytes).unwrap();
        assert_eq!((found.rows, found.end, rest), (head.rows, head.end, &[1, 2, 3][..]));
    }
}

#[test]
fn a_list_is_as_it_was_if_what_changes_it_panics_over_rows() {
    let mut ctx = Fake::<u64>::new();
    let list = ctx.store.list::<u64>("m").unwrap();
    let ctx = ctx.at(1);
    list.add_all(ctx, 0..1_000);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        list.update(ctx, |all| {
            all.clear();
            panic!("injected");
        })
    }));
    assert!(panicked.is_err());
    assert!(list.iter(ctx).copied().eq(0..1_000));
}

#[test]
fn an_append_while_a_snapshot_is_pending_encodes_less_than_a_row_whatever_the_length() {
    for len in [1_000, 100_000] {
        let mut ctx = Fake::<u64>::new();
        let list = ctx.store.list::<Counted>("m").unwrap();
        list.add_all(ctx.at(1), (0..len).map(Counted));
        let pending = ctx.store.freeze(CheckpointId(1), Extent::Full).unwrap();
        let (mut most, mut all) = (0, 0);
        for number in 0..30 {
            let before = Counted::encoded();
            list.add(&mut ctx, Counted(number));
            let encoded = Counted::encoded() - before;
            (most, all) = (most.max(encoded), all + encoded);
        }
        assert!(most > 0 && most < ROW as u64 && all == most, "once, {most}, of {all}");
        drop(pending);
    }
}
