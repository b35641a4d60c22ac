mod increments;

use super::*;
use crate::state::encoding::{EncodedGroup, GroupEncoder, decode_group};
use crate::types::{KeyGroup, stable_hash};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::task::{Poll, Waker};

const GROUPS: u32 = 16;

fn max() -> MaxParallelism {
    MaxParallelism::new(GROUPS).unwrap()
}

fn hash(key: u64) -> u64 {
    stable_hash(&key).unwrap()
}

fn sweep<K: Key, V: StateValue>(table: &mut Table<K, V>, budget: usize) -> bool {
    table.sweep(budget, &TaskContext::from_waker(Waker::noop()))
}

/// The next group, if one is complete; `None` after the last.
fn poll(frozen: &mut Frozen) -> Poll<Option<EncodedGroup>> {
    frozen.poll_next_group(&mut TaskContext::from_waker(Waker::noop())).map(|group| group.unwrap())
}

/// All groups that are left, while the table is swept.
fn read<K: Key, V: StateValue>(table: &mut Table<K, V>, frozen: &mut Frozen) -> Vec<EncodedGroup> {
    let mut groups = Vec::new();
    loop {
        match poll(frozen) {
            Poll::Ready(Some(group)) => groups.push(group),
            Poll::Ready(None) => return groups,
            Poll::Pending => drop(sweep(table, 7)),
        }
    }
}

/// Decodes, and checks the order of groups on the way.
fn decode(groups: &[EncodedGroup]) -> BTreeMap<u64, String> {
    let mut entries = BTreeMap::new();
    for group in groups {
        decode_group::<u64, String>(group, max(), |key, _, value| {
            entries.insert(*key, value.unwrap()).is_none()
        })
        .unwrap();
    }
    assert!(groups.is_sorted_by(|a, b| a.group < b.group));
    entries
}

/// Pending snapshots with what they must show, and whether a part was read already.
type Pending = Vec<(Frozen, Vec<EncodedGroup>, BTreeMap<u64, String>)>;

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
    Sweep(usize),
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
        1 => (0..20_usize).prop_map(Step::Sweep),
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
            if let Some((frozen, read, _)) = nth(n, pending).map(|n| &mut pending[n])
                && let Poll::Ready(group) = poll(frozen)
            {
                read.extend(group);
            }
        }
        Step::ReadAll(n) => {
            if let Some(n) = nth(n, pending) {
                let (mut frozen, mut groups, expected) = pending.swap_remove(n);
                groups.extend(read(table, &mut frozen));
                assert_eq!(decode(&groups), expected);
            }
        }
        Step::Release(n) => {
            if let Some(n) = nth(n, pending) {
                pending.swap_remove(n);
            }
        }
        Step::Sweep(budget) => drop(sweep(table, budget)),
    }
    assert_eq!(table.len(), model.len());
    assert!(table.snapshot_bytes() == 0 || !table.pending.is_empty());
}

#[test]
fn a_table_that_knows_what_comes_is_built_in_place() {
    const ENTRIES: u64 = 20_000;
    let filled = |expected: u64| {
        let mut table = Table::<u64, u64>::new();
        table.expect(expected);
        let mut moves = 0;
        for key in 0..ENTRIES {
            let before = table.pages.len();
            table.insert(&key, hash(key), key);
            let head = table.pages.head(table.page_of(hash(key))).unwrap();
            moves += usize::from(table.pages.len() > before && head.len() > 1);
        }
        table.expect(0);
        assert!((0..ENTRIES).all(|key| table.get(&key, hash(key)) == Some(&key)));
        (moves, table.bytes())
    };
    let (moves, grown) = filled(0);
    assert!(moves > 10, "pages were split {moves} times");
    let (moves, built) = filled(ENTRIES);
    assert_eq!(moves, 0, "none of its pages was split with entries in it");
    assert!(built < grown + grown / 4, "{built} bytes, {grown} if it is not told");
    // Wrong numbers are only slower, or larger.
    for wrong in [1, 100, ENTRIES / 7, ENTRIES * 9, u64::MAX >> 44] {
        filled(wrong);
    }
}

#[test]
fn what_is_encoded_ahead_of_the_writer_is_accounted_until_it_is_taken() {
    let mut table = Table::<u64, String>::new();
    for key in 0..5000 {
        table.insert(&key, hash(key), "value".to_owned());
    }
    let mut frozen = table.freeze(max());
    assert_eq!(table.snapshot_bytes(), 0, "nothing yet");
    table.insert(&7, hash(7), String::new());
    let one = table.snapshot_bytes();
    assert!(one >= 6, "the old value of one key: {one}");
    table.insert(&7, hash(7), "again".to_owned());
    assert_eq!(table.snapshot_bytes(), one, "once is enough");
    read(&mut table, &mut frozen);
    assert_eq!(table.snapshot_bytes(), 0);
}

#[test]
fn a_snapshot_that_needs_more_memory_than_it_may_fails_and_nothing_else() {
    let mut table = Table::<u64, String>::new();
    for key in 0..5000 {
        table.insert(&key, hash(key), "value".to_owned());
    }
    let mut frozen = table.freeze_since(max(), None, 1000);
    let mut other = table.freeze(max());
    for key in 0..5000 {
        assert!(table.snapshot_bytes() < 200_000);
        table.insert(&key, hash(key), "changed".to_owned());
    }
    let task = &mut TaskContext::from_waker(Waker::noop());
    let error = loop {
        sweep(&mut table, 1000);
        if let Poll::Ready(result) = frozen.poll_next_group(task) {
            match result {
                Ok(group) => assert!(group.is_some(), "it is complete"),
                Err(error) => break error,
            }
        }
    };
    assert!(error.to_string().contains("snapshot_memory"), "{error}");
    let groups = read(&mut table, &mut other);
    assert!(decode(&groups).values().all(|value| value == "value"));
    assert!((0..5000).all(|key| table.get(&key, hash(key)).unwrap() == "changed"));
}

/// Keys of which so many come together that pages split; in a part of all hashes, as a subtask has them.
fn many() -> impl Strategy<Value = Vec<(u64, String)>> {
    prop_oneof![3 => Just((0, 1)), 2 => (1000..4000_usize, 1..4_u64)].prop_map(|(keys, part)| {
        let own = (0..).filter(|key| hash(*key) <= u64::MAX / part.max(1));
        own.take(keys).map(|key| (key, key.to_string())).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn s15_5_a_snapshot_shows_exactly_the_state_at_its_freeze(
        first in many(),
        steps in prop::collection::vec(step(), 1..200),
        more in many(),
        last in prop::collection::vec(step(), 1..50),
    ) {
        let (mut table, mut model, mut pending) = (Table::new(), BTreeMap::new(), Pending::new());
        let insert = |entries: Vec<(u64, String)>| entries.into_iter().map(|(key, value)| Step::Insert(key, value));
        for step in insert(first).chain(steps).chain(insert(more)).chain(last) {
            apply(step, &mut table, &mut model, &mut pending);
        }
        for key in 0..40_000 {
            assert_eq!(table.get(&key, hash(key)), model.get(&key), "key {key}");
        }
        for (mut frozen, mut groups, expected) in pending.drain(..) {
            groups.extend(read(&mut table, &mut frozen));
            assert_eq!(decode(&groups), expected);
        }
        // With all snapshots gone the table comes to rest, without a write.
        while sweep(&mut table, 3) {}
        assert!(table.is_at_rest());
        let mut frozen = table.freeze(max());
        assert_eq!(decode(&read(&mut table, &mut frozen)), model);
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
    assert_eq!(count(&read(&mut table, &mut second)), 2);
    assert_eq!(count(&read(&mut table, &mut first)), 1);
    assert_eq!((table.len(), table.get(&1, hash(1)), table.get(&2, hash(2))), (1, None, Some(&20)));
}

/// Around the size at which pages are split; in all hashes and in the small part of them that a subtask of many owns.
#[test]
fn s15_5_what_comes_after_a_freeze_is_not_in_it_at_any_size() {
    for part in 1..=3 {
        let mut own = (0..).filter(|key| hash(*key) <= u64::MAX / part);
        let mut table = Table::<u64, u64>::new();
        let mut add = |table: &mut Table<u64, u64>, n: usize| {
            own.by_ref().take(n).for_each(|key| assert!(table.insert(&key, hash(key), key)));
        };
        for _ in 0..300 {
            let frozen_len = table.len();
            let mut frozen = table.freeze(max());
            add(&mut table, 7);
            let groups = read(&mut table, &mut frozen);
            let entries: u64 = groups.iter().map(|group| group.entries).sum();
            assert_eq!(entries, frozen_len as u64, "part {part}");
        }
    }
}

#[test]
fn an_entry_is_encoded_once_by_a_snapshot_however_often_it_changes() {
    use serde::{Deserialize, Serialize};
    use std::sync::atomic::{AtomicUsize, Ordering};
    static ENCODED: AtomicUsize = AtomicUsize::new(0);

    #[derive(Clone, Deserialize)]
    struct Counted(u64);
    impl Serialize for Counted {
        fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
            ENCODED.fetch_add(1, Ordering::Relaxed);
            to.serialize_u64(self.0)
        }
    }
    let encoded = || ENCODED.swap(0, Ordering::Relaxed);

    let mut table = Table::<u64, Counted>::new();
    for key in 0..10_000 {
        table.insert(&key, hash(key), Counted(0));
    }
    let mut frozen = table.freeze(max());
    assert_eq!(encoded(), 0, "a freeze encodes nothing");
    for _ in 0..3 {
        table.update(&7, hash(7), || Counted(0), |value| value.0 += 1);
    }
    assert!(table.remove(&8, hash(8)));
    assert_eq!(encoded(), 2);
    let groups = read(&mut table, &mut frozen);
    assert_eq!(encoded(), 9_998);
    assert_eq!(groups.iter().map(|group| group.entries).sum::<u64>(), 10_000);
    // Given up, a snapshot costs nothing more.
    drop(table.freeze(max()));
    while sweep(&mut table, 100) {}
    table.update(&9, hash(9), || Counted(0), |value| value.0 += 1);
    assert_eq!(encoded(), 0);
}

#[test]
fn a_sweep_is_done_in_bounded_steps() {
    let mut table = Table::<u64, u64>::new();
    for key in 0..100_000 {
        table.insert(&key, hash(key), 0);
    }
    let mut frozen = table.freeze(max());
    let mut steps = 0;
    while sweep(&mut table, 1) {
        steps += 1;
    }
    assert!(steps >= 90, "100 000 entries in {steps} steps");
    assert_eq!(read(&mut table, &mut frozen).iter().map(|group| group.entries).sum::<u64>(), 100_000);
}

#[test]
fn the_owner_gives_no_more_than_the_writer_takes() {
    let mut table = Table::<u64, Vec<u8>>::new();
    for key in 0..40_000 {
        table.insert(&key, hash(key), vec![7; 1000]);
    }
    let mut frozen = table.freeze(max());
    while sweep(&mut table, 1000) {}
    assert!(!table.is_at_rest(), "40 MB do not fit");
    let mut given = 0;
    while let Poll::Ready(Some(group)) = poll(&mut frozen) {
        given += group.bytes.len();
    }
    assert!((4_000_000..12_000_000).contains(&given), "{given} bytes waited");
    assert!(sweep(&mut table, 1000), "there is room again");
    given += read(&mut table, &mut frozen).iter().map(|group| group.bytes.len()).sum::<usize>();
    assert!(given > 40_000_000);
    assert!(table.is_at_rest());
}

#[test]
fn a_snapshot_whose_table_is_dropped_fails() {
    use crate::error::ErrorKind;
    let mut table = Table::<u64, u64>::new();
    table.insert(&1, hash(1), 1);
    let mut frozen = table.freeze(max());
    assert!(poll(&mut frozen).is_pending());
    drop(table);
    let task = &mut TaskContext::from_waker(Waker::noop());
    let Poll::Ready(Err(error)) = frozen.poll_next_group(task) else { panic!("it is complete") };
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}

#[test]
fn a_value_that_panics_when_encoded_fails_the_snapshot_and_nothing_else() {
    use serde::{Deserialize, Serialize};
    #[derive(Clone, Deserialize, Default)]
    struct Explosive(bool);
    impl Serialize for Explosive {
        fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
            assert!(!self.0, "boom");
            to.serialize_bool(self.0)
        }
    }
    let mut table = Table::<u64, Explosive>::new();
    for key in 0..10 {
        table.insert(&key, hash(key), Explosive(key == 5));
    }
    for touched_first in [true, false] {
        let mut frozen = table.freeze(max());
        if touched_first {
            table.update(&5, hash(5), Explosive::default, |value| value.0 = true);
        }
        while sweep(&mut table, 100) {}
        let task = &mut TaskContext::from_waker(Waker::noop());
        let Poll::Ready(Err(error)) = frozen.poll_next_group(task) else { panic!("it is complete") };
        assert!(error.to_string().contains("boom"), "{error}");
        assert!(table.is_at_rest());
    }
    table.remove(&5, hash(5));
    let mut frozen = table.freeze(max());
    assert_eq!(read(&mut table, &mut frozen).iter().map(|group| group.entries).sum::<u64>(), 9);
}

thread_local! {
    /// What goes away as soon as the next value is encoded.
    static DROPPED_AMID: std::cell::RefCell<Option<Frozen>> = const { std::cell::RefCell::new(None) };
}

#[derive(Clone)]
struct Dropper;

impl serde::Serialize for Dropper {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        DROPPED_AMID.take();
        to.serialize_unit()
    }
}

impl<'de> serde::Deserialize<'de> for Dropper {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        <()>::deserialize(from).map(|()| Self)
    }
}

#[test]
fn a_snapshot_that_is_given_up_amid_a_sweep_does_not_keep_the_next_one_waiting() {
    let mut table = Table::<u64, Dropper>::new();
    for key in 0..5_000 {
        table.insert(&key, hash(key), Dropper);
    }
    let first = table.freeze(max());
    let mut second = table.freeze(max());
    DROPPED_AMID.set(Some(first));
    while sweep(&mut table, 100) {}
    // Nobody would wake the owner: all that was asked for must be done, as far as there is room.
    let mut entries = 0;
    while let Poll::Ready(Some(group)) = poll(&mut second) {
        entries += group.entries;
    }
    assert_eq!(entries, 5_000);
}

#[test]
fn entries_come_and_go_and_memory_with_them() {
    let mut table = Table::<u64, u64>::new();
    for key in 0..100_000 {
        table.insert(&key, hash(key), key);
    }
    let full = table.bytes();
    assert!(full < 100_000 * 32, "{full} bytes for 100 000 entries of 16");
    for key in 0..100_000 {
        assert_eq!(table.take(&key, hash(key)), Some(key));
    }
    assert!(table.is_empty());
    assert!(table.bytes() < full / 8, "{} of {full} bytes are left", table.bytes());
    // As many again, in one place: removed slots are used again.
    for key in 0..1_000_000 {
        table.insert(&key, hash(key), key);
        assert!(table.remove(&key, hash(key)));
    }
    assert!(table.bytes() < full / 4);
}

/// Pages are split as entries come and put together again as they go, with snapshots under way.
#[test]
fn s15_5_pages_that_become_small_are_put_together() {
    const KEYS: u64 = 20_000;
    for part in [1, 5] {
        let keys: Vec<u64> = (0..).filter(|key| hash(*key) <= u64::MAX / part).take(KEYS as usize).collect();
        for keep in [0, 150, 3_000] {
            let (mut table, mut model) = (Table::<u64, String>::new(), BTreeMap::new());
            for key in &keys {
                table.insert(key, hash(*key), key.to_string());
                model.insert(*key, key.to_string());
            }
            let most = table.pages.len();
            let mut pending = Pending::new();
            for (n, key) in keys.iter().enumerate().skip(keep) {
                if n % 4_001 == 0 {
                    pending.push((table.freeze(max()), Vec::new(), model.clone()));
                    sweep(&mut table, 2_000);
                }
                assert_eq!(table.take(key, hash(*key)), model.remove(key));
            }
            assert!(
                table.pages.len() <= 1 + keep / 20,
                "{} of {most} pages for {keep} entries",
                table.pages.len()
            );
            for (mut frozen, mut groups, expected) in pending.drain(..) {
                groups.extend(read(&mut table, &mut frozen));
                assert_eq!(decode(&groups), expected);
            }
            for key in &keys {
                assert_eq!(table.get(key, hash(*key)), model.get(key));
            }
            let mut frozen = table.freeze(max());
            assert_eq!(decode(&read(&mut table, &mut frozen)), model);
            // And they come again.
            for key in &keys {
                table.insert(key, hash(*key), "again".to_owned());
            }
            assert!(keys.iter().all(|key| table.get(key, hash(*key)).is_some_and(|value| value == "again")));
        }
    }
}

/// A key whose serde form says nothing: every one has the same hash.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Same(u32);

impl serde::Serialize for Same {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_unit()
    }
}

impl<'de> serde::Deserialize<'de> for Same {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        <()>::deserialize(from).map(|()| Self(0))
    }
}

/// Hashes can be made alike on purpose: that must cost time only.
#[test]
fn keys_of_one_hash_are_slow_and_not_lost() {
    const KEYS: u32 = 1_200; // more than slots can lead to
    let hash = stable_hash(&Same(0)).unwrap();
    let mut table = Table::<Same, u32>::new();
    for key in 0..KEYS {
        assert!(table.insert(&Same(key), hash, key));
    }
    assert_eq!(table.len(), KEYS as usize);
    let mut frozen = table.freeze(max());
    for key in [0, 1, 1_023, 1_024, KEYS - 1] {
        assert_eq!(table.get(&Same(key), hash), Some(&key));
        assert_eq!(table.update(&Same(key), hash, || 0, |value| std::mem::replace(value, 7)), key);
    }
    for key in [1_024, 3, KEYS - 1] {
        assert!(table.take(&Same(key), hash).is_some());
        assert_eq!(table.get(&Same(key), hash), None);
    }
    assert_eq!(table.get(&Same(1_023), hash), Some(&7));
    assert_eq!(table.get(&Same(KEYS - 2), hash), Some(&(KEYS - 2)));
    let groups = read(&mut table, &mut frozen);
    assert_eq!(groups.iter().map(|group| group.entries).sum::<u64>(), u64::from(KEYS));
    let mut frozen = table.freeze(max());
    let groups = read(&mut table, &mut frozen);
    assert_eq!(groups.iter().map(|group| group.entries).sum::<u64>(), u64::from(KEYS) - 3);
}

/// Within a page the high bits of the hash are all the same: they must place nothing.
#[test]
fn keys_of_one_page_are_placed_evenly() {
    let max = MaxParallelism::new(32768).unwrap();
    let hashes: Vec<u64> = (0..8_000_000_u64).map(hash).filter(|hash| max.group_of(*hash).0 == 77).collect();
    assert!(hashes.len() > 150);
    // Slots are chosen by the 32 bits above the tag's.
    for bits in [|hash| hash & 127, |hash: u64| hash << 24 >> 57] {
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
    let mut frozen = table.freeze(max());
    let groups = read(&mut table, &mut frozen);
    assert_eq!((groups.len(), groups[0].entries, groups[0].bytes.len()), (1, 1, 0));
    let mut seen = 0;
    decode_group::<(), ()>(&groups[0], max(), |(), _, _| {
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
    let mut frozen = table.freeze(max());
    let good = read(&mut table, &mut frozen).remove(0);
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

#[test]
fn the_group_that_is_being_swept_is_not_what_has_changed_ahead_of_the_writer() {
    let keys: Vec<u64> = (0..40_000).collect();
    let mut table = Table::<u64, String>::new();
    for key in &keys {
        table.insert(key, hash(*key), "value".to_owned());
    }
    let mut frozen = table.freeze_since(max(), None, 1_000);
    let mut groups = Vec::new();
    for key in keys.iter().step_by(40_000 / 25) {
        sweep(&mut table, 900); // a page or two
        table.insert(key, hash(*key), "changed".to_owned());
        while let Poll::Ready(Some(group)) = poll(&mut frozen) {
            groups.push(group);
        }
    }
    groups.extend(read(&mut table, &mut frozen));
    let found = decode(&groups);
    assert!(found.len() == keys.len() && found.values().all(|value| value == "value"));
}

thread_local! {
    /// Keys below this one panic.
    static EXPLODES: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// A key whose `Serialize` panics at times.
#[derive(Clone, PartialEq, Eq, Debug, serde::Deserialize)]
struct Explosive(u64);

impl serde::Serialize for Explosive {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        assert!(self.0 >= EXPLODES.get(), "boom");
        to.serialize_u64(self.0)
    }
}

#[test]
fn a_key_that_panics_when_it_is_hashed_again_leaves_the_table_as_it_was() {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    let mut table = Table::<Explosive, u64>::new();
    table.track();
    for key in 0..300 {
        table.insert(&Explosive(key), hash(key), key);
        assert!(table.remove(&Explosive(key), hash(key)));
    }
    // One page is full, and what was removed is noted there.
    for key in 1_000..1_000 + PLACES as u64 {
        table.insert(&Explosive(key), hash(key), key);
    }
    let mut model: BTreeMap<u64, u64> = (1_000..1_000 + PLACES as u64).map(|key| (key, key)).collect();
    let check = |table: &Table<Explosive, u64>, model: &BTreeMap<u64, u64>| {
        assert_eq!(table.len(), model.len());
        assert!(model.iter().all(|(key, value)| table.get(&Explosive(*key), hash(*key)) == Some(value)));
    };
    let panics = |below: u64, step: &mut dyn FnMut()| {
        EXPLODES.set(below);
        let panicked = catch_unwind(AssertUnwindSafe(step)).is_err();
        EXPLODES.set(0);
        panicked
    };
    // A split, which looks at entries first, and then at removed keys.
    for below in [u64::MAX, 300] {
        assert!(panics(below, &mut || _ = table.insert(&Explosive(1), hash(1), 1)));
        check(&table, &model);
    }
    for key in 1..2_000 {
        table.insert(&Explosive(key), hash(key), key);
        model.insert(key, key);
    }
    check(&table, &model);
}

#[test]
fn a_key_that_panics_when_pages_are_put_together_leaves_the_table_as_it_was() {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    let half = |from: u64, upper: u64| (from..).filter(move |key| hash(*key) >> 63 == upper).take(600);
    // Only the keys of the upper page are below the limit.
    let (upper, lower): (Vec<u64>, Vec<u64>) = (half(0, 1).collect(), half(10_000, 0).collect());
    let mut table = Table::<Explosive, u64>::new();
    for key in upper.iter().chain(&lower) {
        table.insert(&Explosive(*key), hash(*key), *key);
    }
    assert_eq!(table.pages.len(), 2);
    for key in upper.iter().skip(40) {
        table.take(&Explosive(*key), hash(*key));
    }
    let mut panics = 0;
    for (n, key) in lower.iter().enumerate() {
        EXPLODES.set(10_000);
        let taken = catch_unwind(AssertUnwindSafe(|| table.take(&Explosive(*key), hash(*key))));
        EXPLODES.set(0);
        panics += u32::from(taken.is_err());
        assert_eq!((table.len(), table.keys().count()), (40 + 599 - n, 40 + 599 - n));
        let left = upper.iter().take(40).chain(lower.iter().skip(n + 1));
        assert!(left.into_iter().all(|key| table.get(&Explosive(*key), hash(*key)) == Some(key)));
    }
    assert!(panics > 0 && table.pages.len() == 2, "{panics}");
    table.take(&Explosive(upper[0]), hash(upper[0]));
    assert_eq!((table.pages.len(), table.len()), (1, 39), "put together as soon as that works");
}

#[test]
fn a_key_that_panics_when_it_is_hashed_again_fails_the_snapshot_and_nothing_else() {
    let mut table = Table::<Explosive, u64>::new();
    for key in 0..100 {
        table.insert(&Explosive(key), hash(key), key);
    }
    let mut frozen = table.freeze(max());
    EXPLODES.set(u64::MAX);
    while sweep(&mut table, 100) {}
    EXPLODES.set(0);
    let task = &mut TaskContext::from_waker(Waker::noop());
    let Poll::Ready(Err(error)) = frozen.poll_next_group(task) else { panic!("it is complete") };
    assert!(error.to_string().contains("boom"), "{error}");
    assert!(table.is_at_rest());
}
