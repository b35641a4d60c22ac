use super::*;
use crate::state::encoding::{EncodedGroup, GroupEncoder, decode_group};
use crate::state::entries::place;
use crate::types::{KeyGroup, stable_hash};
use proptest::prelude::*;
use std::collections::BTreeMap;

const GROUPS: u32 = 16;

fn max() -> MaxParallelism {
    MaxParallelism::new(GROUPS).unwrap()
}

fn hash(key: u64) -> u64 {
    stable_hash(&key).unwrap()
}

fn read(frozen: &mut dyn GroupEncoder) -> Vec<EncodedGroup> {
    std::iter::from_fn(|| frozen.next_group().unwrap()).collect()
}

/// Decodes, and checks the order of groups and of hashes on the way.
fn decode(groups: &[EncodedGroup]) -> BTreeMap<u64, String> {
    let mut entries = BTreeMap::new();
    let mut last = 0;
    for group in groups {
        decode_group::<u64, String>(group, max(), |key, hash, value| {
            assert!(hash >= last, "out of order");
            last = hash;
            entries.insert(*key, value).is_none()
        })
        .unwrap();
    }
    assert!(groups.is_sorted_by(|a, b| a.group < b.group));
    entries
}

/// Pending snapshots with what they must show, and whether a part was read already.
type Pending = Vec<(Frozen<u64, String>, Vec<EncodedGroup>, BTreeMap<u64, String>)>;

#[derive(Debug, Clone)]
enum Step {
    Insert(u64, String),
    Update(u64),
    GetMut(u64),
    Take(u64),
    Remove(u64),
    Get(u64),
    Freeze,
    /// Reads one group of a pending snapshot.
    ReadOn(usize),
    /// Reads the rest of a pending snapshot and checks all of it.
    ReadAll(usize),
    /// Drops a pending snapshot as it is.
    Release(usize),
    Maintain(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let key = || 0..40_u64;
    prop_oneof![
        4 => (key(), "[a-c]{0,2}").prop_map(|(key, value)| Step::Insert(key, value)),
        4 => key().prop_map(Step::Update),
        2 => key().prop_map(Step::GetMut),
        2 => key().prop_map(Step::Take),
        2 => key().prop_map(Step::Remove),
        1 => key().prop_map(Step::Get),
        2 => Just(Step::Freeze),
        1 => any::<usize>().prop_map(Step::ReadOn),
        1 => any::<usize>().prop_map(Step::ReadAll),
        1 => any::<usize>().prop_map(Step::Release),
        1 => (0..20_usize).prop_map(Step::Maintain),
    ]
}

fn apply(
    step: Step,
    table: &mut Table<u64, String>,
    model: &mut BTreeMap<u64, String>,
    pending: &mut Pending,
) {
    let nth = |n: usize, pending: &Pending| (!pending.is_empty()).then(|| n % pending.len());
    match step {
        Step::Insert(key, value) => {
            let new = model.insert(key, value.clone()).is_none();
            assert_eq!(table.insert(&key, hash(key), value), new);
        }
        Step::Update(key) => {
            let expected = model.entry(key).or_insert_with(|| "new".to_owned());
            expected.push('u');
            let new = || "new".to_owned();
            let got = table.update(&key, hash(key), new, |value| {
                value.push('u');
                value.clone()
            });
            assert_eq!(got, *expected);
        }
        Step::GetMut(key) => {
            let got = table.get_mut(&key, hash(key)).map(|value| value.push('m'));
            assert_eq!(got, model.get_mut(&key).map(|value| value.push('m')));
        }
        Step::Take(key) => assert_eq!(table.take(&key, hash(key)), model.remove(&key)),
        Step::Remove(key) => assert_eq!(table.remove(&key, hash(key)), model.remove(&key).is_some()),
        Step::Get(key) => assert_eq!(table.get(&key, hash(key)), model.get(&key)),
        Step::Freeze => {
            let frozen = table.freeze(max());
            assert_eq!(frozen.len(), model.len());
            pending.push((frozen, Vec::new(), model.clone()));
        }
        Step::ReadOn(n) => {
            if let Some((frozen, read, _)) = nth(n, pending).map(|n| &mut pending[n]) {
                read.extend(frozen.next_group().unwrap());
            }
        }
        Step::ReadAll(n) => {
            if let Some(n) = nth(n, pending) {
                let (mut frozen, mut groups, expected) = pending.swap_remove(n);
                groups.extend(read(&mut frozen));
                assert_eq!(decode(&groups), expected);
            }
        }
        Step::Release(n) => {
            if let Some(n) = nth(n, pending) {
                pending.swap_remove(n);
            }
        }
        Step::Maintain(budget) => table.maintain(budget),
    }
    assert_eq!(table.len(), model.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn s15_5_a_snapshot_shows_exactly_the_state_at_its_freeze(
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let (mut table, mut model, mut pending) = (Table::new(), BTreeMap::new(), Pending::new());
        for step in steps {
            apply(step, &mut table, &mut model, &mut pending);
        }
        for key in 0..40 {
            assert_eq!(table.get(&key, hash(key)), model.get(&key), "key {key}");
        }
        for (mut frozen, mut groups, expected) in pending.drain(..) {
            groups.extend(read(&mut frozen));
            assert_eq!(decode(&groups), expected);
        }
        // With all snapshots gone the table comes to rest, without a write.
        while !table.is_at_rest() {
            table.maintain(3);
        }
        assert_eq!(decode(&read(&mut table.freeze(max()))), model);
    }
}

#[test]
fn s15_5_later_changes_show_in_the_next_snapshot_only() {
    let mut table = Table::<u64, u64>::new();
    table.insert(&1, hash(1), 10);
    let mut first = table.freeze(max());
    table.insert(&1, hash(1), 11);
    table.insert(&2, hash(2), 20);
    let mut second = table.freeze(max());
    table.remove(&1, hash(1));
    let count = |groups: &[EncodedGroup]| groups.iter().map(|group| group.entries).sum::<u64>();
    assert_eq!(count(&read(&mut second)), 2);
    assert_eq!(count(&read(&mut first)), 1);
    assert_eq!((table.len(), table.get(&1, hash(1)), table.get(&2, hash(2))), (1, None, Some(&20)));
}

#[test]
fn nothing_is_copied_by_a_freeze_and_one_value_by_a_write() {
    use serde::{Deserialize, Serialize};
    use std::sync::atomic::{AtomicUsize, Ordering};
    static CLONES: AtomicUsize = AtomicUsize::new(0);

    #[derive(Serialize, Deserialize)]
    struct Counted(u64);
    impl Clone for Counted {
        fn clone(&self) -> Self {
            CLONES.fetch_add(1, Ordering::Relaxed);
            Self(self.0)
        }
    }

    let mut table = Table::<u64, Counted>::new();
    for key in 0..1000 {
        table.insert(&key, hash(key), Counted(0));
    }
    let frozen = table.freeze(max());
    assert_eq!(CLONES.load(Ordering::Relaxed), 0);
    for _ in 0..3 {
        table.update(&7, hash(7), || Counted(0), |value| value.0 += 1);
    }
    assert_eq!(CLONES.load(Ordering::Relaxed), 1);
    assert!(table.remove(&8, hash(8)));
    drop(frozen);
    table.maintain(usize::MAX);
    assert!(table.is_at_rest());
    assert_eq!(CLONES.load(Ordering::Relaxed), 1);
    assert_eq!((table.len(), table.get(&7, hash(7)).unwrap().0), (999, 3));
}

#[test]
fn merging_back_is_done_in_bounded_steps() {
    let mut table = Table::<u64, u64>::new();
    for key in 0..10_000 {
        table.insert(&key, hash(key), 0);
    }
    drop({
        let frozen = table.freeze(max());
        for key in 0..10_000 {
            table.insert(&key, hash(key), 1);
        }
        frozen
    });
    let mut steps = 0;
    while !table.is_at_rest() {
        table.maintain(100);
        steps += 1;
    }
    assert!(steps >= 100, "10 000 entries in {steps} steps of 100");
    assert!((0..10_000).all(|key| table.get(&key, hash(key)) == Some(&1)));
}

#[test]
fn writes_alone_bring_a_table_back_to_rest() {
    let mut table = Table::<u64, u64>::new();
    for key in 0..1000 {
        table.insert(&key, hash(key), 0);
    }
    for round in 0..20 {
        let frozen = table.freeze(max());
        for key in 0..1000 {
            table.update(&key, hash(key), || 0, |value| *value += 1);
        }
        drop(frozen);
        for key in 0..400 {
            table.update(&key, hash(key), || 0, |value| *value += 0);
        }
        assert!(table.is_at_rest(), "round {round}");
    }
    assert_eq!(table.get(&999, hash(999)), Some(&20));
}

#[test]
fn a_long_snapshot_under_short_ones_does_not_pile_up_layers() {
    let mut table = Table::<u64, u64>::new();
    for key in 0..100 {
        table.insert(&key, hash(key), 0);
    }
    let mut savepoint = table.freeze(max());
    for round in 1..=50 {
        for key in 0..100 {
            table.insert(&key, hash(key), round);
        }
        let mut checkpoint = table.freeze(max());
        let all = read(&mut checkpoint);
        assert_eq!(all.iter().map(|group| group.entries).sum::<u64>(), 100);
        table.maintain(1000);
    }
    let Layers::Shared(shared) = &table.layers else { panic!("the savepoint is pending") };
    assert!(shared.frozen.len() <= 2, "{} layers", shared.frozen.len());
    assert_eq!(table.get(&5, hash(5)), Some(&50));
    let old = read(&mut savepoint);
    let mut zeros = 0;
    for group in &old {
        decode_group::<u64, u64>(group, max(), |_, _, value| {
            zeros += u64::from(value == 0);
            true
        })
        .unwrap();
    }
    assert_eq!(zeros, 100);
}

#[test]
fn an_overlay_that_is_half_merged_down_can_take_in_another() {
    let mut table = Table::<u64, u64>::new();
    table.insert(&0, hash(0), 0);
    let savepoint = table.freeze(max());
    let layer = |table: &mut Table<u64, u64>, keys: std::ops::Range<u64>, merged: usize| {
        for key in keys {
            table.insert(&key, hash(key), key);
        }
        drop(table.freeze(max()));
        table.maintain(merged);
    };
    layer(&mut table, 0..100, 0);
    layer(&mut table, 100..200, 60);
    layer(&mut table, 200..300, 10_000);
    drop(savepoint);
    for _ in 0..100 {
        table.maintain(100);
    }
    assert!(table.is_at_rest());
    assert!((0..300).all(|key| table.get(&key, hash(key)) == Some(&key)));
}

/// Within a key group the high bits of the hash are all the same: they must place nothing.
#[test]
fn keys_of_one_group_are_placed_evenly() {
    let max = MaxParallelism::new(32768).unwrap();
    let hashes: Vec<u64> = (0..8_000_000_u64).map(hash).filter(|hash| max.group_of(*hash).0 == 77).collect();
    assert!(hashes.len() > 150);
    // hashbrown places by the low bits and tells entries apart by the top seven.
    for bits in [|hash| place(hash) >> 57, |hash| place(hash) & 127] {
        let mut counts = [0_u32; 128];
        for hash in &hashes {
            counts[usize::try_from(bits(*hash)).unwrap()] += 1;
        }
        let used = counts.iter().filter(|count| **count > 0).count();
        assert!(used > 90, "{} hashes use {used} of 128", hashes.len());
        assert!(counts.iter().all(|count| *count < 16));
    }
}

#[test]
fn entries_that_hold_no_bytes_are_not_lost() {
    let mut table = Table::<(), ()>::new();
    let hash = stable_hash(&()).unwrap();
    table.insert(&(), hash, ());
    let groups = read(&mut table.freeze(max()));
    assert_eq!((groups.len(), groups[0].entries, groups[0].bytes.len()), (1, 1, 0));
    let mut seen = 0;
    decode_group::<(), ()>(&groups[0], max(), |(), _, ()| {
        seen += 1;
        true
    })
    .unwrap();
    assert_eq!(seen, 1);
}

#[test]
fn damaged_groups_are_refused() {
    use crate::error::ErrorKind;
    let mut table = Table::<u64, String>::new();
    for key in 0..20 {
        table.insert(&key, hash(key), format!("value {key}"));
    }
    let good = read(&mut table.freeze(max())).remove(0);
    let refused = |group: &EncodedGroup, why: &str| {
        let mut seen = std::collections::BTreeSet::new();
        let error = decode_group::<u64, String>(group, max(), |key, _, _| seen.insert(*key)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(why), "{error}");
    };
    let mut bad = good.clone();
    bad.bytes.truncate(good.bytes.len() - 1);
    refused(&bad, "cannot be decoded");
    bad = good.clone();
    bad.bytes.push(0);
    refused(&bad, "left over");
    bad = good.clone();
    bad.entries = u64::MAX;
    refused(&bad, "cannot be decoded");
    bad = good.clone();
    bad.group = KeyGroup((good.group.0 + 1) % 16);
    refused(&bad, "belongs to key group");
    bad = good.clone();
    bad.bytes.extend_from_slice(&good.bytes);
    bad.entries *= 2;
    refused(&bad, "twice");
}
