use super::*;
use crate::checkpoint::Extent;
use crate::checkpoint::metadata::StateSchema;
use crate::state::test_context::Fake;
use crate::state::test_snapshots::{
    Counted, Stored, Subject, bytes_of, shares, what_is_restored_is_what_there_was, whole,
};
use crate::state::{MapState, RestoredOperator, StateStore};
use crate::types::{CheckpointId, Random};
use serde::{Deserialize, Serialize, Serializer};
use std::collections::BTreeMap;

struct Maps {
    ctx: Fake<u64>,
    map: MapState<u32, String>,
}

impl Subject for Maps {
    type Content = BTreeMap<u32, String>;

    fn with_store(store: StateStore<u64>) -> Self {
        let mut ctx = Fake::with_store(store);
        let map = ctx.store.map("m").unwrap();
        Self { ctx, map }
    }

    fn ctx(&mut self) -> &mut Fake<u64> {
        &mut self.ctx
    }

    fn change(&mut self, key: u64, random: &mut Random, of_key: &mut Self::Content) {
        let mut below = |n: u64| random.next_u64() % n;
        let what = below(100);
        // Some maps stay small, some go through all sizes.
        let user_key =
            u32::try_from(below([20, 60, 300, 1_000, 1_000, 40][usize::try_from(key).unwrap()])).unwrap();
        let text = format!("{}", below(1_000_000));
        let (ctx, map) = (&mut self.ctx, self.map);
        match what {
            0..50 => assert_eq!(map.insert(ctx, user_key, text.clone()), of_key.insert(user_key, text)),
            50..65 => {
                map.update(ctx, user_key, |value| value.push('x'));
                of_key.entry(user_key).or_default().push('x');
            }
            65..85 => assert_eq!(map.remove(ctx, &user_key), of_key.remove(&user_key)),
            85..94 => {
                let more: Vec<(u32, String)> = (user_key..user_key + 40).map(|k| (k, text.clone())).collect();
                map.insert_all(ctx, more.clone());
                of_key.extend(more);
            }
            94..99 => {
                for user_key in user_key..user_key + 200 {
                    assert_eq!(map.remove(ctx, &user_key), of_key.remove(&user_key));
                }
            }
            _ => {
                map.clear(ctx);
                of_key.clear();
            }
        }
        assert_eq!(map.len(ctx), of_key.len());
    }

    fn content(&self) -> Self::Content {
        let (ctx, map) = (&self.ctx, self.map);
        let found: BTreeMap<u32, String> = map.iter(ctx).map(|(k, v)| (*k, v.clone())).collect();
        assert_eq!((map.len(ctx), map.iter(ctx).count()), (found.len(), found.len()));
        for user_key in (0..1_000).step_by(37) {
            assert_eq!(map.peek(ctx, &user_key), found.get(&user_key));
        }
        found
    }

    fn clear(&mut self) {
        self.map.clear(&mut self.ctx);
    }
}

#[test]
fn s15_5_maps_of_all_sizes_are_what_a_plain_map_is_also_in_snapshots_and_after_a_restart() {
    what_is_restored_is_what_there_was::<Maps>();
}

#[test]
fn an_incremental_checkpoint_writes_little_for_a_change_in_a_map_of_100_000() {
    let (mut subject, mut stored) = (Maps::new(RestoredOperator::default()), Stored::new());
    let map = subject.map;
    map.insert_all(subject.ctx.at(1), (0..100_000).map(|number| (number, "ten bytes.".to_owned())));
    let all = bytes_of(&mut subject, 1, None, &mut stored);
    assert!(all > 1_300_000, "{all}");
    assert_eq!(bytes_of(&mut subject, 2, Some(1), &mut stored), 0, "nothing has changed");
    map.insert(&mut subject.ctx, 500, "changed".to_owned());
    let changed = bytes_of(&mut subject, 3, Some(2), &mut stored);
    map.remove(&mut subject.ctx, &77);
    let removed = bytes_of(&mut subject, 4, Some(3), &mut stored);
    map.insert(&mut subject.ctx, 1_000_000, "new".to_owned());
    let added = bytes_of(&mut subject, 5, Some(4), &mut stored);
    for bytes in [changed, removed, added] {
        assert!((10..2_000).contains(&bytes), "{changed}, {removed}, {added} of {all}");
    }
    let mut restored = Maps::new(shares(&stored, 1).remove(0));
    let ctx = restored.ctx.at(1);
    assert_eq!(restored.map.len(ctx), 100_000);
    assert_eq!(restored.map.get(ctx, &500).unwrap(), "changed");
    assert_eq!((restored.map.get(ctx, &77), restored.map.contains(ctx, &1_000_000)), (None, true));
}

#[test]
fn a_map_that_shrinks_gives_its_rows_back_one_by_one_and_is_one_entry_again_at_the_end() {
    let mut subject = Maps::new(RestoredOperator::default());
    let map = subject.map;
    map.insert_all(subject.ctx.at(1), (0..5_000).map(|number| (number, String::new())));
    for (left, most) in [(1_000, 125), (100, 13), (17, 3), (16, 0), (1, 0)] {
        let pairs: Vec<u32> = map.keys(&subject.ctx).copied().collect();
        for user_key in &pairs[left..] {
            map.remove(&mut subject.ctx, user_key);
        }
        let taken = whole(&mut subject, 1, Extent::Full);
        let rows = taken.states.iter().filter(|(state, ..)| state.schema.kind == StateSchema::MAP_ROWS);
        let rows: u64 = rows.flat_map(|(_, groups, _)| groups).map(|group| group.entries).sum();
        assert!(rows <= most && (rows == 0) == (most == 0), "{rows} rows for {left} pairs");
        assert_eq!((map.len(&subject.ctx), map.iter(&subject.ctx).count()), (left, left));
    }
}

/// A number whose serde form is a float, which has no stable hash.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Price(u32);

impl Serialize for Price {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(f64::from(self.0))
    }
}

impl<'de> Deserialize<'de> for Price {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        f64::deserialize(deserializer).map(|price| Self(price as u32))
    }
}

#[test]
fn a_map_whose_second_keys_have_no_stable_hash_stays_in_one_piece() {
    let mut ctx = Fake::<u64>::new();
    let map = ctx.store.map::<Price, u64>("m").unwrap();
    map.insert_all(ctx.at(1), (0..500).map(|number| (Price(number), 0)));
    for number in 0..500 {
        assert_eq!(map.insert(&mut ctx, Price(number), number.into()), Some(0));
    }
    assert!((0..500).all(|number| map.get(&ctx, &Price(number)) == Some(number.into())));
    assert!(matches!(map.head(&ctx), Some(Head::Small(entries)) if entries.len() == 500));
}

#[test]
fn a_change_while_a_snapshot_is_pending_encodes_a_row_or_three_whatever_the_size() {
    for pairs in [1_000, 100_000] {
        let mut ctx = Fake::<u64>::new();
        let map = ctx.store.map::<u64, Counted>("m").unwrap();
        map.insert_all(ctx.at(1), (0..pairs).map(|number| (number, Counted(number))));
        let pending = ctx.store.freeze(CheckpointId(1), Extent::Full).unwrap();
        let (mut most, mut beyond_rows, mut all) = (0, 0, 0);
        for number in 0..300 {
            let before = Counted::encoded();
            match number % 3 {
                0 => drop(map.insert(&mut ctx, number * 7, Counted(1))),
                1 => drop(map.remove(&mut ctx, &(number * 11))),
                _ => drop(map.insert(&mut ctx, pairs + number, Counted(1))),
            }
            let encoded = Counted::encoded() - before;
            all += 1;
            if encoded > 4 * 2 * LOAD {
                beyond_rows += 1; // a page of the table was split
            }
            most = most.max(encoded);
        }
        assert!(beyond_rows * 50 <= all, "{beyond_rows} of {all} changes");
        assert!(most < 1_024 * 2 * LOAD, "{most}");
        drop(pending);
    }
}
