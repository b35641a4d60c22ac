use super::*;
use proptest::prelude::*;

fn claim(nonce: u64) -> Entry {
    Entry::Claim(Claim { process: 1, nonce })
}

fn completed(generation: u64, checkpoint: u64) -> Entry {
    let manifest = format!("chk-{checkpoint}-g{generation}/manifest");
    let (generation, checkpoint) = (Generation(generation), CheckpointId(checkpoint));
    Entry::Completed(Completed { generation, checkpoint, manifest, manifest_crc32c: 0 })
}

fn finished(generation: u64, checkpoint: u64) -> Entry {
    let checkpoint = Some(CheckpointId(checkpoint));
    Entry::Finished(Finished { generation: Generation(generation), checkpoint })
}

fn cleared(generation: u64, last: u64) -> Entry {
    Entry::Cleared(Cleared { generation: Generation(generation), last: CheckpointId(last) })
}

fn fold(entries: impl IntoIterator<Item = (u64, Entry)>) -> LogView {
    LogView::fold(entries).unwrap()
}

fn owner(view: &LogView) -> Option<u64> {
    view.owner().map(|(generation, _)| generation.0)
}

fn checkpoints(view: &LogView) -> Vec<u64> {
    view.completed().map(|entry| entry.checkpoint.0).collect()
}

#[test]
fn an_empty_log_belongs_to_nobody_and_begins_at_1() {
    let view = fold([]);
    assert_eq!((view.next(), view.owner(), view.latest()), (1, None, None));
    assert_eq!((view.last_checkpoint(), view.finished()), (None, None));
}

#[test]
fn the_last_claim_owns_the_job_and_checkpoints_of_all_owners_count() {
    let view = fold([(1, claim(1)), (2, completed(1, 5)), (3, completed(1, 7)), (4, claim(2))]);
    assert_eq!((owner(&view), view.next()), (Some(4), 5));
    assert_eq!(checkpoints(&view), [5, 7]);
    assert_eq!(view.latest().unwrap().checkpoint, CheckpointId(7));
    assert_eq!((view.sequence_of(CheckpointId(7)), view.sequence_of(CheckpointId(6))), (Some(3), None));
}

#[test]
fn entries_may_be_missing_where_checkpoints_were_retired() {
    let view = fold([(1, claim(1)), (9, completed(1, 7)), (10, claim(2)), (20, completed(10, 17))]);
    assert_eq!((owner(&view), view.next()), (Some(10), 21));
    assert_eq!(checkpoints(&view), [7, 17]);
}

#[test]
fn the_front_may_be_missing_with_the_claims_in_it() {
    let view = fold([(9, completed(1, 7)), (10, completed(1, 8))]);
    assert_eq!((owner(&view), view.next(), checkpoints(&view)), (None, 11, vec![7, 8]));
}

#[test]
fn a_claim_in_a_hole_is_void_because_the_older_owner_wrote_after_it() {
    // The owner of generation 1 retired entry 3; a process that had read up to 2 claimed 3.
    let entries = [(1, claim(1)), (3, claim(2)), (4, completed(1, 4))];
    let view = fold(entries.clone());
    assert_eq!((owner(&view), view.next(), view.has_claim(Generation(3))), (Some(1), 5, false));
    // Before the owner's later entry was there, nobody could tell.
    assert_eq!(owner(&fold(entries[..2].to_vec())), Some(3));
    // After the next real claim nobody asks.
    let view = fold([(1, claim(1)), (3, claim(2)), (5, claim(3)), (6, completed(5, 5))]);
    assert_eq!(owner(&view), Some(5));
}

#[test]
fn a_finished_job_is_finished() {
    let view = fold([(1, claim(1)), (2, completed(1, 1)), (3, finished(1, 1))]);
    let expected = Finished { generation: Generation(1), checkpoint: Some(CheckpointId(1)) };
    assert_eq!(view.finished(), Some(expected));
}

#[test]
fn cleared_checkpoints_are_true_no_more_and_their_numbers_stay_used() {
    let view = fold([(1, claim(1)), (2, completed(1, 1)), (3, completed(1, 6)), (4, cleared(1, 6))]);
    assert_eq!((checkpoints(&view), view.last_checkpoint()), (vec![], Some(CheckpointId(6))));
    assert_eq!(view.removable().collect::<Vec<_>>(), [2, 3]);
    let after = fold([(1, claim(1)), (4, cleared(1, 6)), (5, claim(2)), (6, completed(5, 7))]);
    assert_eq!(checkpoints(&after), [7]);
}

#[test]
fn the_last_entry_is_never_removable() {
    let mut view = fold([(1, claim(1)), (2, completed(1, 1)), (3, completed(1, 2))]);
    view.clear();
    assert_eq!(view.removable().collect::<Vec<_>>(), [2]);
}

#[test]
fn contradictions_are_named() {
    let fault = |entries: &[(u64, Entry)]| LogView::fold(entries.to_vec()).unwrap_err().to_string();
    let start = "entry 3 of the job log contradicts those before it: ";
    let first = (1, claim(1));
    for (second, third, why) in [
        ((2, completed(1, 5)), (3, completed(1, 5)), "it completes checkpoint 5, after checkpoint 5"),
        ((2, cleared(1, 5)), (3, completed(1, 5)), "it completes checkpoint 5, after checkpoint 5"),
        ((2, finished(1, 5)), (3, claim(2)), "the job was finished before"),
        ((2, completed(1, 5)), (3, completed(2, 6)), "it is of generation 2, which never claimed the job"),
        ((2, completed(1, 5)), (3, completed(7, 6)), "it is of generation 7, which never claimed the job"),
        ((5, completed(1, 5)), (3, claim(2)), "its number is not above 5"),
    ] {
        assert_eq!(fault(&[first.clone(), second, third]), format!("{start}{why}"));
    }
}

#[test]
fn after_a_contradiction_the_view_is_as_before() {
    let mut view = fold([(1, claim(1)), (2, claim(2)), (3, completed(2, 5))]);
    let before = view.clone();
    view.push(4, completed(1, 4)).unwrap_err();
    assert_eq!(view, before);
}

/// A process in the model below.
#[derive(Debug, Clone)]
enum Process {
    Gone,
    /// Has read the log.
    Read(LogView),
    /// Has written its claim of this number.
    Claimed(LogView, u64),
    /// Is looking whether it is the last entry, for the first or second time.
    Looking(LogView, u64, BTreeSet<u64>, u32),
    Owner(Owner),
    /// Is looking for unknown entries before it removes this one.
    BeforeRemoval(Owner, u64, BTreeSet<u64>),
    /// Has found none.
    Removing(Owner, u64),
}

#[derive(Debug, Clone)]
struct Owner {
    view: LogView,
    generation: u64,
    own: BTreeSet<u64>,
}

/// Processes that may be slow or stop at every point, on one log. Listing is as bad as a disk's may be: it misses what was
/// added or removed between its begin and its end. What must hold: no process gets an entry in after a newer one owns the job.
#[derive(Default)]
struct Model {
    log: BTreeMap<u64, Entry>,
    newest_owner: u64,
    claims: u64,
}

impl Model {
    fn begin_listing(&self) -> BTreeSet<u64> {
        self.log.keys().copied().collect()
    }

    fn end_listing(&self, begun: BTreeSet<u64>) -> Vec<u64> {
        begun.into_iter().filter(|sequence| self.log.contains_key(sequence)).collect()
    }

    fn step(&mut self, process: Process, choice: u8) -> Result<Process, TestCaseError> {
        Ok(match process {
            Process::Gone => Process::Read(fold(self.log.clone())),
            Process::Read(view) => {
                self.claims += 1;
                let at = view.next();
                if self.log.contains_key(&at) {
                    return Ok(Process::Gone);
                }
                self.log.insert(at, claim(self.claims));
                Process::Claimed(view, at)
            }
            Process::Claimed(view, at) => Process::Looking(view, at, self.begin_listing(), 1),
            Process::Looking(mut view, at, begun, time) => {
                let listed = self.end_listing(begun);
                if listed.last() == Some(&at) && time < LOOKS {
                    return Ok(Process::Looking(view, at, self.begin_listing(), time + 1));
                }
                if listed.last() == Some(&at) {
                    self.newest_owner = self.newest_owner.max(at); // if less, fenced before it has begun
                    view.forget_all_but(&listed);
                    view.push(at, self.log[&at].clone()).unwrap();
                    return Ok(Process::Owner(Owner { view, generation: at, own: BTreeSet::from([at]) }));
                }
                if choice == 0 && !fold(self.log.clone()).has_claim(Generation(at)) {
                    self.log.remove(&at);
                }
                Process::Gone
            }
            Process::Owner(owner) if choice < 2 => {
                let latest = owner.view.latest().map(|entry| entry.checkpoint);
                let old = owner.view.completed().map(|entry| entry.checkpoint).find(|id| Some(*id) != latest);
                match old.and_then(|id| owner.view.sequence_of(id)) {
                    Some(sequence) => Process::BeforeRemoval(owner, sequence, self.begin_listing()),
                    None => Process::Owner(owner),
                }
            }
            Process::Owner(mut owner) => {
                let at = owner.view.next();
                if let Some(found) = self.log.get(&at) {
                    prop_assert!(matches!(found, Entry::Claim(_)), "{at}: {found:?}");
                    return Ok(Process::Gone); // fenced
                }
                prop_assert_eq!(owner.generation, self.newest_owner, "it was taken over before");
                let id = owner.view.last_checkpoint().unwrap_or_default().next();
                let entry = completed(owner.generation, id.0);
                self.log.insert(at, entry.clone());
                owner.view.push(at, entry).unwrap();
                owner.own.insert(at);
                Process::Owner(owner)
            }
            Process::BeforeRemoval(owner, sequence, begun) => {
                let listed = self.end_listing(begun);
                match listed.iter().any(|s| *s > owner.generation && !owner.own.contains(s)) {
                    true => Process::Owner(owner),
                    false => Process::Removing(owner, sequence),
                }
            }
            Process::Removing(mut owner, sequence) => {
                self.log.remove(&sequence);
                owner.view.forget(sequence);
                owner.own.remove(&sequence);
                Process::Owner(owner)
            }
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, ..ProptestConfig::default() })]

    #[test]
    fn no_interleaving_lets_a_process_write_after_a_newer_one_owns_the_job(
        // One process more often than the others, as the log must grow under those that are slow.
        steps in prop::collection::vec((0_usize..6, 0_u8..6), 1..80),
    ) {
        let mut model = Model::default();
        let mut processes = [const { Process::Gone }; 4];
        for (who, choice) in steps {
            let process = &mut processes[[0, 0, 0, 1, 2, 3][who]];
            *process = model.step(process.clone(), choice)?;
            // Whatever is there, a newcomer can read it.
            let seen = LogView::fold(model.log.clone());
            prop_assert!(seen.is_ok(), "{:?}", seen);
        }
    }
}
