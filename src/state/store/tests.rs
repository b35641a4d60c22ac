use super::table_slot::BASES;
use super::*;
use crate::error::ErrorKind;
use crate::state::map::Entries;
use crate::state::test_context::Fake;
use crate::state::{EncodedGroup, GroupEncoder, KeyedAccess, MapState, ReducingState, ValueState, codec};
use crate::types::KeyGroup;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::task::{Poll, Waker};

fn store(restored: RestoredOperator) -> StateStore<u64> {
    StateStore::new("op".into(), MaxParallelism::new(128).unwrap(), restored)
}

/// The next group; the store is swept until there is one.
fn next_group(
    store: &mut StateStore<u64>,
    groups: &mut dyn GroupEncoder,
) -> Result<Option<EncodedGroup>, Error> {
    let task = &mut TaskContext::from_waker(Waker::noop());
    loop {
        match groups.poll_next_group(task) {
            Poll::Ready(group) => return group,
            Poll::Pending => drop(store.sweep(10, task)),
        }
    }
}

/// Takes a snapshot and makes of it what a restart gets.
fn restored(store: &mut StateStore<u64>) -> RestoredOperator {
    let snapshot = store.freeze(CheckpointId(8), Extent::Full).unwrap();
    let keyed = snapshot
        .keyed
        .into_iter()
        .map(|mut state| RestoredKeyed {
            name: state.name,
            schema: state.schema,
            groups: std::iter::from_fn(|| next_group(store, &mut *state.groups).unwrap()).collect(),
            increments: None,
        })
        .collect();
    RestoredOperator { checkpoint: Some(CheckpointId(7)), keyed, lists: snapshot.lists }
}

fn filled() -> RestoredOperator {
    let mut ctx = Fake::<u64>::new();
    let sum = ctx.store.value::<(u64, i64)>("sum").unwrap();
    let map = ctx.store.map::<String, u8>("map").unwrap();
    let names = ctx.store.split_list::<String>("names").unwrap();
    for key in 0..1000 {
        sum.set(ctx.at(key), (key, -1));
        map.insert(&mut ctx, "x".to_owned(), 1);
    }
    names.add_all(&mut ctx, ["a".to_owned(), "b".to_owned()]);
    restored(&mut ctx.store)
}

#[test]
fn everything_comes_back_after_a_restart() {
    let mut ctx = Fake::<u64>::restored(filled());
    assert!(ctx.store.is_restored());
    let sum = ctx.store.value::<(u64, i64)>("sum").unwrap();
    let map = ctx.store.map::<String, u8>("map").unwrap();
    let names = ctx.store.split_list::<String>("names").unwrap();
    assert_eq!((ctx.entries("sum"), ctx.entries("map")), (1000, 1000));
    for key in 0..1000 {
        assert_eq!(sum.get(ctx.at(key)), Some((key, -1)));
        assert_eq!(map.get(&ctx, &"x".to_owned()), Some(1));
    }
    assert_eq!(names.get(&ctx), ["a", "b"]);
    assert_eq!(restored(&mut ctx.store), filled());
}

#[test]
fn a_state_that_is_not_declared_is_kept_unchanged() {
    let mut next = store(filled());
    next.value::<u8>("new").unwrap();
    assert_eq!(restored(&mut next), filled());
    // Declared after all, it is there.
    next.value::<(u64, i64)>("sum").unwrap();
    assert_eq!(next.entries("sum"), Some(1000));
    assert_eq!(restored(&mut next), filled());
}

#[test]
fn parts_from_several_old_subtasks_are_one_state() {
    let mut whole = filled();
    let mut parts = whole.clone();
    let upper = parts.keyed[1].groups.split_off(50);
    parts.keyed.insert(0, RestoredKeyed { groups: upper, ..whole.keyed[1].clone() });
    let last = parts.lists[0].elements.split_off(1);
    parts.lists.push(RestoredList { elements: last, ..whole.lists[0].clone() });
    let mut kept = store(parts.clone());
    assert_eq!(restored(&mut kept), whole);
    let mut declared = Fake::<u64>::restored(parts);
    declared.store.value::<(u64, i64)>("sum").unwrap();
    let names = declared.store.split_list::<String>("names").unwrap();
    assert_eq!(declared.entries("sum"), 1000);
    assert_eq!(names.get(&declared), ["a", "b"]);
    whole.checkpoint = None;
    assert!(!store(whole).is_restored());
}

#[test]
fn s15_6_states_without_content_are_not_in_the_snapshot() {
    let mut ctx = Fake::<u64>::new();
    let value = ctx.store.value::<u64>("v").unwrap();
    let list = ctx.store.split_list::<u64>("l").unwrap();
    assert!(ctx.store.freeze(CheckpointId(8), Extent::Full).unwrap().is_empty());
    value.set(ctx.at(1), 1);
    list.add(&mut ctx, 1);
    assert!(!ctx.store.freeze(CheckpointId(8), Extent::Full).unwrap().is_empty());
    value.clear(&mut ctx);
    list.clear(&mut ctx);
    assert!(ctx.store.freeze(CheckpointId(8), Extent::Full).unwrap().is_empty());
    assert!(store(RestoredOperator::default()).freeze(CheckpointId(8), Extent::Full).unwrap().is_empty());
}

#[test]
fn a_broadcast_state_is_stored_whole_and_comes_back_declared_or_not() {
    let filled = |pairs: &[(u32, &str)]| {
        let mut ctx = Fake::<u64>::new();
        let rules = ctx.store.broadcast::<u32, String>("rules").unwrap();
        for (rule, text) in pairs {
            rules.insert(&mut ctx, *rule, (*text).to_owned());
        }
        restored(&mut ctx.store)
    };
    let some = filled(&[(1, "a"), (2, "b"), (3, "c")]);
    assert_eq!(some.lists[0].distribution, Distribution::Broadcast);
    assert_eq!(some, filled(&[(3, "c"), (1, "x"), (2, "b"), (1, "a")]), "equal maps are equal files");
    let mut kept = store(some.clone());
    assert_eq!(restored(&mut kept), some);
    let mut ctx = Fake::<u64>::restored(some.clone());
    let rules = ctx.store.broadcast::<u32, String>("rules").unwrap();
    assert_eq!((rules.len(&ctx), rules.get(&ctx, &2)), (3, Some("b".to_owned())));
    assert_eq!(restored(&mut ctx.store), some);
    // Without content it is a copy, too: else the subtask would be given that of another one.
    assert_eq!(filled(&[]).lists.len(), 1);
    let stored = "broadcast of `str` by key `u32`";
    refused(store(some.clone()).split_list::<u32>("rules"), ErrorKind::Program, &["`rules`", stored]);
    refused(store(some.clone()).broadcast::<u64, String>("rules"), ErrorKind::Program, &["`rules`", stored]);
    let mut damaged = some;
    damaged.lists[0].elements[2] = vec![200];
    refused(store(damaged).broadcast::<u32, String>("rules"), ErrorKind::Corrupt, &["element 2", "`rules`"]);
}

fn refused<T: fmt::Debug>(result: Result<T, Error>, kind: ErrorKind, parts: &[&str]) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    for part in parts.iter().chain(&["operator `op`"]) {
        assert!(error.to_string().contains(part), "`{part}` is missing in: {error}");
    }
}

#[test]
fn a_name_is_used_once() {
    let mut store = store(RestoredOperator::default());
    store.value::<u64>("x").unwrap();
    refused(store.value::<u64>("x"), ErrorKind::Program, &["`x`", "declared twice"]);
    refused(store.split_list::<u64>("x"), ErrorKind::Program, &["`x`", "declared twice"]);
    refused(store.value::<u64>(""), ErrorKind::Program, &["empty name"]);
    store.split_list::<u64>("y").unwrap();
    refused(store.reducing::<u64>("y", |_, _| ()), ErrorKind::Program, &["`y`"]);
}

#[test]
fn changed_types_are_refused_with_both_shapes() {
    let is = |restored: RestoredOperator| store(restored);
    let program = ErrorKind::Program;
    let stored = "value of `(u64, i64)` by key `u64`";
    refused(is(filled()).value::<(u64, u64)>("sum"), program, &["`sum`", stored, "`(u64, u64)`"]);
    let by_name = StateStore::<String>::new("op".into(), MaxParallelism::new(128).unwrap(), filled())
        .value::<(u64, i64)>("sum");
    refused(by_name, program, &[stored, "key `str`", "checkpoint 7"]);
    refused(is(filled()).list::<u8>("sum"), program, &[stored, "list of `seq<u8>`"]);
    refused(is(filled()).split_list::<u8>("sum"), program, &[stored, "split-list of `u8`"]);
    refused(is(filled()).value::<u8>("names"), program, &["split-list of `str`", "value of `u8`"]);
    // Refused is not lost.
    let mut store = is(filled());
    assert!(store.value::<u8>("sum").is_err());
    assert_eq!(restored(&mut store), filled());
}

#[test]
fn undecodable_bytes_are_refused() {
    let mut damaged = filled();
    damaged.keyed[1].groups[3].bytes.pop();
    refused(
        store(damaged).value::<(u64, i64)>("sum"),
        ErrorKind::Corrupt,
        &["`sum`", "key group", "checkpoint 7"],
    );
    let mut foreign = filled();
    foreign.keyed[1].groups[3].group = KeyGroup(99);
    refused(store(foreign).value::<(u64, i64)>("sum"), ErrorKind::Corrupt, &["belongs to key group"]);
    let mut damaged = filled();
    damaged.lists[0].elements[1] = vec![200];
    refused(store(damaged).split_list::<String>("names"), ErrorKind::Corrupt, &["element 1", "`names`"]);
}

/// Cannot be encoded.
#[derive(Clone)]
struct Stubborn;

impl Serialize for Stubborn {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("no"))
    }
}

impl<'de> Deserialize<'de> for Stubborn {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Ok(Self)
    }
}

#[test]
fn values_that_cannot_be_encoded_are_named() {
    let mut ctx = Fake::<u64>::new();
    let value = ctx.store.value::<Stubborn>("v").unwrap();
    value.set(ctx.at(1), Stubborn);
    let mut snapshot = ctx.store.freeze(CheckpointId(8), Extent::Full).unwrap();
    refused(
        next_group(&mut ctx.store, &mut *snapshot.keyed[0].groups),
        ErrorKind::Failed,
        &["`v`", "key group"],
    );
    let list = ctx.store.split_list::<Stubborn>("l").unwrap();
    list.add(&mut ctx, Stubborn);
    refused(ctx.store.freeze(CheckpointId(8), Extent::Full), ErrorKind::Failed, &["`l`"]);
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "not declared by operator op")]
fn a_handle_of_another_operator_is_noticed() {
    let mut other = StateStore::<u64>::new(
        "other".into(),
        MaxParallelism::new(128).unwrap(),
        RestoredOperator::default(),
    );
    let foreign = other.value::<u64>("v").unwrap();
    let mut ctx = Fake::<u64>::new();
    ctx.store.value::<u64>("v").unwrap();
    foreign.get(ctx.at(1));
}

#[test]
#[cfg(not(debug_assertions))]
fn a_handle_of_another_operator_finds_nothing() {
    let mut other = StateStore::<u64>::new(
        "other".into(),
        MaxParallelism::new(128).unwrap(),
        RestoredOperator::default(),
    );
    let foreign = other.value::<u64>("v").unwrap();
    let mut ctx = Fake::<u64>::new();
    let own = ctx.store.value::<u64>("v").unwrap();
    own.set(ctx.at(1), 1);
    foreign.set(&mut ctx, 9);
    assert_eq!((foreign.get(&ctx), own.get(&ctx)), (None, Some(1)));
}

#[test]
fn handles_and_stores_may_change_threads_and_types_need_not() {
    fn send<T: Send>() {}
    fn plain<T: Copy + fmt::Debug>() {}
    send::<StateStore<u64>>();
    send::<StoreSnapshot>();
    plain::<ValueState<String>>();
    plain::<MapState<String, String>>();
    plain::<ReducingState<std::rc::Rc<u8>>>();
}

#[test]
fn an_undeclared_state_with_removed_keys_is_carried_on_as_increments_also_into_a_full_checkpoint() {
    let max = MaxParallelism::new(128).unwrap();
    let bytes = codec::encode(&7_u64).unwrap();
    for removed in [0, 1] {
        let group = EncodedGroup { group: KeyGroup(3), removed, entries: 1 - removed, bytes: bytes.clone() };
        let keyed = RestoredKeyed {
            name: "v".into(),
            schema: StateSchema::default(),
            groups: vec![group],
            increments: None,
        };
        let restored =
            RestoredOperator { checkpoint: Some(CheckpointId(1)), keyed: vec![keyed], lists: Vec::new() };
        let mut store = StateStore::<u64>::new("op".into(), max, restored);
        let taken = store.freeze(CheckpointId(2), Extent::Full).unwrap();
        assert_eq!(taken.keyed[0].increment.is_some(), removed > 0);
    }
}

/// What a checkpoint of a program without rows holds of a map of so many pairs.
fn before_rows(pairs: u32) -> RestoredOperator {
    let mut ctx = Fake::<u64>::new();
    let id = ctx.store.declare_table::<Entries<u32, String>>("map", "m", Box::new(())).unwrap();
    let entries: Entries<u32, String> = (0..pairs).map(|number| (number, number.to_string())).collect();
    let (store, key, hash) = ctx.at(1).states_mut();
    assert!(store.table_mut(id).unwrap().insert(key, hash, entries));
    restored(&mut ctx.store)
}

#[test]
fn a_map_from_before_there_were_rows_is_read_and_put_into_rows_when_it_is_added_to() {
    for pairs in [1, 32, 33, 5_000] {
        let before = before_rows(pairs);
        let mut ctx = Fake::<u64>::restored(before.clone());
        let map = ctx.store.map::<u32, String>("m").unwrap();
        let ctx = ctx.at(1);
        assert_eq!((map.len(ctx), map.get(ctx, &0)), (pairs as usize, Some("0".to_owned())));
        let unchanged = restored(&mut ctx.store);
        assert_eq!(unchanged.keyed.len(), 1);
        map.insert(ctx, pairs, "new".to_owned());
        let after = restored(&mut ctx.store);
        let kinds: Vec<&str> = after.keyed.iter().map(|state| &*state.schema.kind).collect();
        assert_eq!(kinds, if pairs < 32 { vec!["map"] } else { vec!["map", StateSchema::MAP_ROWS] });
        let mut next = Fake::<u64>::restored(after);
        let map = next.store.map::<u32, String>("m").unwrap();
        let next = next.at(1);
        let mut found: Vec<(u32, String)> = map.iter(next).map(|(k, v)| (*k, v.clone())).collect();
        found.sort_unstable();
        let mut expected: Vec<(u32, String)> =
            (0..pairs).map(|number| (number, number.to_string())).collect();
        expected.push((pairs, "new".to_owned()));
        assert_eq!(found, expected);
    }
}

/// The same of lists.
fn list_before_rows(values: u32) -> RestoredOperator {
    let mut ctx = Fake::<u64>::new();
    let id = ctx.store.declare_table::<Vec<u32>>("list", "l", Box::new(())).unwrap();
    let (store, key, hash) = ctx.at(1).states_mut();
    assert!(store.table_mut(id).unwrap().insert(key, hash, (0..values).collect()));
    restored(&mut ctx.store)
}

#[test]
fn a_list_from_before_there_were_rows_is_read_and_put_into_rows_when_it_is_added_to() {
    for values in [1, 62, 63, 64, 128, 5_000] {
        let mut ctx = Fake::<u64>::restored(list_before_rows(values));
        let list = ctx.store.list::<u32>("l").unwrap();
        let ctx = ctx.at(1);
        assert!(list.iter(ctx).copied().eq(0..values));
        assert_eq!(restored(&mut ctx.store), list_before_rows(values), "as it was");
        list.add(ctx, values);
        let after = restored(&mut ctx.store);
        let kinds: Vec<&str> = after.keyed.iter().map(|state| &*state.schema.kind).collect();
        assert_eq!(kinds, if values < 63 { vec!["list"] } else { vec!["list", StateSchema::LIST_ROWS] });
        assert_eq!(store(after.clone()).undeclared().collect::<Vec<_>>(), ["l"]);
        let mut next = Fake::<u64>::restored(after.clone());
        let list = next.store.list::<u32>("l").unwrap();
        assert!(list.iter(next.at(1)).copied().eq(0..=values));
        if values >= 63 {
            let declared = store(after).declare_table::<Vec<u32>>("list", "l", Box::new(()));
            let error = declared.err().unwrap().to_string();
            assert!(error.contains("state `l` was stored as list-rows"), "{error}");
        }
    }
}

fn with_rows() -> RestoredOperator {
    let mut ctx = Fake::<u64>::restored(before_rows(100));
    let map = ctx.store.map::<u32, String>("m").unwrap();
    map.insert(ctx.at(1), 1_000, String::new());
    restored(&mut ctx.store)
}

#[test]
fn a_program_that_knows_no_rows_refuses_a_checkpoint_that_has_some() {
    let mut older = store(with_rows());
    let declared = older.declare_table::<Entries<u32, String>>("map", "m", Box::new(()));
    let error = declared.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Program);
    assert!(error.to_string().contains("state `m` was stored as map-rows"), "{error}");
    // So does one that has another type, or another kind of state, under that name.
    assert!(store(with_rows()).map::<u32, u64>("m").is_err());
    assert!(store(with_rows()).value::<u64>("m").is_err());
}

#[test]
fn rows_that_nothing_is_declared_for_are_kept_and_named_once() {
    let mut next = store(with_rows());
    assert_eq!(next.undeclared().collect::<Vec<_>>(), ["m"]);
    assert_eq!(restored(&mut next), with_rows());
    let mut ctx = Fake::with_store(next);
    let map = ctx.store.map::<u32, String>("m").unwrap();
    assert_eq!((map.len(ctx.at(1)), ctx.store.undeclared().count()), (101, 0));
}

#[test]
fn levels_count_keys_and_the_memory_of_rows() {
    let mut ctx = Fake::<u64>::new();
    let map = ctx.store.map::<u64, u64>("m").unwrap();
    let levels = ctx.store.levels();
    assert_eq!(levels.len(), 1);
    let of = |ctx: &Fake<u64>| {
        ctx.store.publish();
        (levels[0].entries.get(), levels[0].bytes.get())
    };
    let (none, empty) = of(&ctx);
    map.insert_all(ctx.at(1), (0..20_000).map(|number| (number, number)));
    let (one, full) = of(&ctx);
    assert_eq!((none, one), (0, 1));
    assert!(full > empty + 20_000 / 16 * 40, "{empty}, {full}");
}

#[test]
fn s15_7_of_checkpoints_that_fail_one_after_the_other_few_are_remembered_and_the_base_always() {
    let mut ctx = Fake::<u64>::new();
    let value = ctx.store.value::<u64>("v").unwrap();
    value.set(ctx.at(1), 1);
    for id in 1..=200 {
        let base = (id > 1).then_some(CheckpointId(1));
        let mut snapshot =
            ctx.store.freeze(CheckpointId(id), Extent::Incremental { base, limit: 5 }).unwrap();
        let state = snapshot.keyed.remove(0);
        let increment = state.increment.unwrap();
        assert_eq!(increment.base.files().is_empty(), id == 1, "of what it is an increment");
        let index = crate::checkpoint::metadata::Segment { file: "f".into(), offset: 0, len: 0, crc32c: 0 };
        let file =
            crate::checkpoint::metadata::IncrementFile { checkpoint: CheckpointId(id), bytes: 1, index };
        let part = crate::checkpoint::WrittenPart { group: KeyGroup(1), bytes: 1 };
        let written = increment.base.advanced(CheckpointId(id), Some(file), &[part], 5);
        increment.written.set(Arc::new(written)).unwrap();
        assert!(ctx.store.tables[0].bases.len() <= BASES + 1);
    }
}
