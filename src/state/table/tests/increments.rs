//! Snapshots that hold only what has changed since an earlier freeze.

use super::*;
use std::collections::BTreeSet;

/// A freeze as it was, and whether a later snapshot may be based on it.
#[derive(Debug)]
struct Freeze {
    epoch: u32,
    content: BTreeMap<u64, String>,
}

/// A snapshot on its way, with what it is based on.
struct Taken {
    frozen: Frozen,
    groups: Vec<EncodedGroup>,
    base: Option<(BTreeMap<u64, String>, BTreeSet<KeyGroup>)>,
    expected: BTreeMap<u64, String>,
}

impl Taken {
    /// Reads the rest, and applies it to the base.
    fn check(mut self, table: &mut Table<u64, String>) {
        self.groups.extend(read(table, &mut self.frozen));
        assert!(self.groups.is_sorted_by(|a, b| a.group < b.group));
        let is_whole = |group: KeyGroup| self.base.as_ref().is_none_or(|(_, whole)| whole.contains(&group));
        let base = self.base.iter().flat_map(|(content, _)| content);
        let mut content: BTreeMap<u64, String> = base
            .filter(|(key, _)| !is_whole(max().group_of(hash(**key))))
            .map(|(key, value)| (*key, value.clone()))
            .collect();
        for group in &self.groups {
            assert!(group.removed == 0 || !is_whole(group.group));
            decode_group::<u64, String>(group, max(), |key, _, value| {
                match value {
                    Some(value) => content.insert(*key, value),
                    None => content.remove(key),
                };
                true
            })
            .unwrap();
        }
        assert_eq!(content, self.expected);
    }
}

#[derive(Debug, Clone)]
enum Move {
    Step(Step),
    /// Based on an earlier freeze, with some groups whole all the same.
    Freeze(usize, u16),
    ReadOn(usize),
    ReadAll(usize),
    Release(usize),
}

fn moves() -> impl Strategy<Value = Move> {
    let step = step().prop_filter("snapshots are taken by others", |step| {
        !matches!(step, Step::Freeze | Step::ReadOn(_) | Step::ReadAll(_) | Step::Release(_))
    });
    prop_oneof![
        20 => step.prop_map(Move::Step),
        2 => (any::<usize>(), prop_oneof![Just(0), any::<u16>()]).prop_map(|(n, whole)| Move::Freeze(n, whole)),
        1 => any::<usize>().prop_map(Move::ReadOn),
        1 => any::<usize>().prop_map(Move::ReadAll),
        1 => any::<usize>().prop_map(Move::Release),
    ]
}

#[derive(Default)]
struct Bench {
    table: Table<u64, String>,
    model: BTreeMap<u64, String>,
    /// In order; bases never get older.
    freezes: Vec<Freeze>,
    pending: Vec<Taken>,
}

impl Bench {
    fn apply(&mut self, step: Move) {
        let nth = |n: usize, len: usize| (len > 0).then(|| n % len);
        match step {
            Move::Step(step) => apply(step, &mut self.table, &mut self.model, &mut Vec::new()),
            Move::Freeze(n, whole) => {
                let base = nth(n, self.freezes.len()).map(|n| {
                    self.freezes.drain(..n);
                    &self.freezes[0]
                });
                let base = base.filter(|base| self.table.can_tell_since(base.epoch));
                let whole: BTreeSet<KeyGroup> =
                    (0..16).filter(|bit| whole >> bit & 1 == 1).map(KeyGroup).collect();
                let since = base.map(|base| Since { epoch: base.epoch, whole: whole.clone() });
                let base = base.map(|base| (base.content.clone(), whole));
                self.table.track();
                let frozen = self.table.freeze_since(max(), since, usize::MAX);
                let content = self.model.clone();
                self.freezes.push(Freeze { epoch: self.table.epoch(), content });
                let expected = self.model.clone();
                self.pending.push(Taken { frozen, groups: Vec::new(), base, expected });
            }
            Move::ReadOn(n) => {
                if let Some(n) = nth(n, self.pending.len())
                    && let Poll::Ready(group) = poll(&mut self.pending[n].frozen)
                {
                    self.pending[n].groups.extend(group);
                }
            }
            Move::ReadAll(n) => {
                if let Some(n) = nth(n, self.pending.len()) {
                    self.pending.swap_remove(n).check(&mut self.table);
                }
            }
            Move::Release(n) => {
                if let Some(n) = nth(n, self.pending.len()) {
                    self.pending.swap_remove(n);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn s15_5_what_has_changed_since_any_freeze_makes_of_that_what_the_table_was(
        first in many(),
        steps in prop::collection::vec(moves(), 1..250),
        more in many(),
        // Of each so many keys, one is left: pages become small.
        left in prop_oneof![Just(1_usize), 5..100_usize],
        last in prop::collection::vec(moves(), 1..100),
    ) {
        let mut bench = Bench::default();
        let insert = |(key, value)| Move::Step(Step::Insert(key, value));
        let gone: Vec<_> = first.iter().chain(&more).map(|(key, _)| *key).enumerate().collect();
        let gone = gone.into_iter().filter(|(n, _)| n % left > 0).flat_map(|(n, key)| {
            let freeze = (n % 701 == 1).then_some(Move::Freeze(n, 0));
            freeze.into_iter().chain([Move::Step(Step::Take(key))])
        });
        let steps = first.into_iter().map(insert).chain([Move::Freeze(0, 0)]).chain(steps);
        for step in steps.chain(more.into_iter().map(insert)).chain(gone).chain(last) {
            bench.apply(step);
        }
        for taken in std::mem::take(&mut bench.pending) {
            taken.check(&mut bench.table);
        }
        bench.apply(Move::Freeze(0, 0));
        bench.pending.remove(0).check(&mut bench.table);
    }
}

fn filled(keys: u64) -> Table<u64, u64> {
    let mut table = Table::new();
    for key in 0..keys {
        table.insert(&key, hash(key), 0);
    }
    table.track();
    table
}

fn changes(table: &mut Table<u64, u64>, epoch: u32) -> (u64, u64) {
    assert!(table.can_tell_since(epoch));
    let mut frozen = table.freeze_since(max(), Some(Since { epoch, whole: BTreeSet::new() }), usize::MAX);
    let groups = read(table, &mut frozen);
    (groups.iter().map(|group| group.entries).sum(), groups.iter().map(|group| group.removed).sum())
}

#[test]
fn only_what_has_changed_is_written_and_it_stays_changed_until_the_base_moves_on() {
    let mut table = filled(50_000);
    let first = table.epoch();
    for key in (0..50_000).step_by(100) {
        table.update(&key, hash(key), || 0, |value| *value += 1);
    }
    assert!(table.remove(&1, hash(1)));
    assert_eq!(changes(&mut table, first), (500, 1));
    // Whatever became of that one: it is all there again, with what came after.
    let second = table.epoch();
    table.update(&2, hash(2), || 0, |value| *value += 1);
    assert_eq!(changes(&mut table, first), (501, 1));
    assert_eq!(changes(&mut table, second), (1, 0));
    let last = table.epoch();
    assert_eq!(changes(&mut table, last), (0, 0));
}

#[test]
fn keys_that_come_and_go_do_not_pile_up() {
    let mut table = filled(4_000);
    let (base, before) = (table.epoch(), table.bytes());
    for key in 10_000..200_000 {
        table.insert(&key, hash(key), 0);
        assert!(table.remove(&key, hash(key)));
    }
    assert!(table.bytes() < before * 2, "{} of {before} bytes", table.bytes());
    assert!(!table.can_tell_since(base), "the next snapshot is whole");
    // From then on it goes on as before.
    let mut frozen = table.freeze_since(max(), None, usize::MAX);
    assert_eq!(read(&mut table, &mut frozen).iter().map(|group| group.entries).sum::<u64>(), 4_000);
    let base = table.epoch();
    table.remove(&1, hash(1));
    assert_eq!(changes(&mut table, base), (0, 1));
    // What no later snapshot asks for is forgotten.
    let base = table.epoch();
    for key in 10_000..11_000 {
        table.insert(&key, hash(key), 0);
        assert!(table.remove(&key, hash(key)));
    }
    assert_eq!(changes(&mut table, base), (0, 1_000));
    let base = table.epoch();
    assert_eq!(changes(&mut table, base), (0, 0));
    assert_eq!(table.removed, 0);
}

#[test]
fn a_page_without_changes_and_notes_is_one_line_of_the_cache() {
    assert!(size_of::<Page<u64>>() <= 64);
}

#[test]
fn removed_keys_do_not_pile_up_while_a_snapshot_is_pending_which_has_those_that_it_needs() {
    let mut table = filled(4_000);
    let base = table.epoch();
    (0..500).for_each(|key| assert!(table.remove(&key, hash(key))));
    let since = |epoch| Some(Since { epoch, whole: BTreeSet::new() });
    let mut frozen = table.freeze_since(max(), since(base), usize::MAX);
    let freeze = table.epoch();
    for key in 10_000..200_000 {
        table.insert(&key, hash(key), 0);
        assert!(table.remove(&key, hash(key)));
        assert!(table.removed <= 500 + 4_000, "{}", table.removed);
    }
    assert!(!table.can_tell_since(freeze), "the next snapshot is whole");
    let groups = read(&mut table, &mut frozen);
    assert_eq!(
        groups
            .iter()
            .map(|group| (group.removed, group.entries))
            .fold((0, 0), |(a, b), (c, d)| (a + c, b + d)),
        (500, 0)
    );
    let mut frozen = table.freeze_since(max(), None, usize::MAX);
    assert_eq!(read(&mut table, &mut frozen).iter().map(|group| group.entries).sum::<u64>(), 3_500);
    let base = table.epoch();
    table.remove(&600, hash(600));
    assert_eq!(changes(&mut table, base), (0, 1), "and from then on it goes on as before");
}

#[test]
fn snapshots_go_on_to_be_increments_after_more_keys_were_removed_than_are_worth_noting() {
    let mut table = filled(20_000);
    let mut base = table.epoch();
    (0..6_000).for_each(|key| assert!(table.remove(&key, hash(key))));
    let mut keys = 6_000..;
    // While each is pending more go, too many at first.
    for more in [1_500, 300, 300, 300] {
        let since = table.can_tell_since(base).then(|| Since { epoch: base, whole: BTreeSet::new() });
        let is_increment = since.is_some();
        let mut frozen = table.freeze_since(max(), since, usize::MAX);
        base = table.epoch();
        keys.by_ref().take(more).for_each(|key| assert!(table.remove(&key, hash(key))));
        assert!(is_increment || table.removed <= more, "nobody asks for the others: {}", table.removed);
        read(&mut table, &mut frozen);
    }
    assert!(table.can_tell_since(base), "the next one is an increment");
}
