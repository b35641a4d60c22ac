//! The checkpoint coordinator and the job log as a model, looked at in every order in which things can happen: two processes of one job, of
//! which the second may take it over at any moment, on one log and in front of one sink with transactions.
//!
//! The machines are the real ones: [`Coordinator`](crate::checkpoint::Coordinator), [`LogView`], and [`LogView::taken`], what a process makes of an
//! entry where it wanted to write. The model stands in for what is around them – actors, disk, sink – in `owner.rs`. Whatever can be late is a
//! message that any other step may come before: acks of either subtask, also of an attempt that is over, answers of the disk, notifications. Acks may
//! come twice, answers may get lost, snapshots may be declined, subtasks may fail, the first process may die.
//!
//! What makes it finite, and small enough to be looked at whole: [`Bounds`] on all of that; between two barriers lies one record; time does not
//! pass; a request and the snapshot of the source are one step, since nothing that is told apart later can come between them; and of a process that is
//! gone only what others can still see is kept.
//!
//! `cargo test --release --lib job_log_model -- --ignored --nocapture` looks at more than the usual run does.

mod owner;
mod world;

use super::log_view::LogView;
use stateright::{Checker, HasDiscoveries, Model, Property};
use std::collections::BTreeSet;
use world::{Process, SINK, Step, World};

/// How often what may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Bounds {
    /// Claims that are written: without a bound two processes could go on for ever in taking the job from each other.
    claims: u8,
    checkpoints: u8,
    /// Subtasks that fail, snapshots that are declined, appends that are refused.
    failures: u8,
    /// Answers of the disk that nobody gets.
    lost_answers: u8,
    /// Acks that come twice.
    repeats: u8,
    /// Deaths of the first process.
    deaths: u8,
}

/// A rule that is broken, to see that it is missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Broken {
    #[default]
    Nothing,
    /// A claim counts wherever it is.
    Look,
    /// An entry may be written where there is one.
    Create,
    /// An outcome that is unknown is called a failure.
    Unknown,
    /// The sink commits what it has prepared.
    EarlyCommit,
    /// A restart does not read the log back.
    ReadBack,
    /// A restart does not wait for a commit under way.
    Waiting,
    /// What a restart finds prepared it throws away.
    Recovery,
    /// What is completed and could not be retired is deleted when something late comes for it.
    Discard,
}

#[derive(Debug, Clone, Copy)]
struct Job {
    broken: Broken,
    bounds: Bounds,
}

const fn job(bounds: Bounds) -> Job {
    Job { broken: Broken::Nothing, bounds }
}

/// Two processes that are well.
const CALM: Bounds =
    Bounds { claims: 3, checkpoints: 3, failures: 0, lost_answers: 0, repeats: 0, deaths: 0 };
/// One of each thing that can go wrong.
const ROUGH: Bounds =
    Bounds { claims: 3, checkpoints: 2, failures: 1, lost_answers: 1, repeats: 1, deaths: 1 };
/// One failure more.
const ROUGHER: Bounds = Bounds { failures: 2, ..ROUGH };
/// One checkpoint more.
const LONGER: Bounds = Bounds { checkpoints: 3, deaths: 0, repeats: 0, ..ROUGH };

const FENCED: &str = "the first process is fenced";
const RESTARTED: &str = "a restart begins from a checkpoint";
const BOTH: &str = "both processes complete checkpoints";
const VOID: &str = "a claim is void";
const STALE: &str = "an ack comes after its attempt";
const SIGHTS: [&str; 5] = [FENCED, RESTARTED, BOTH, VOID, STALE];

impl Model for Job {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self.bounds)]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        world.steps(self.broken, steps);
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut next = world.clone();
        next.step(step, self.broken);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            // Two truths for one position, a fenced process that completes a checkpoint, a transaction committed too early or after it was aborted.
            Property::always("nothing is wrong", |_, world: &World| world.wrong.is_none()),
            Property::always("a completed checkpoint has all its parts", |_, world: &World| {
                world.is_complete()
            }),
            Property::always("what is committed is there once", |_, world: &World| world.is_exact()),
            Property::always(
                "what is true is committed when nobody has anything left to do",
                |_, world: &World| world.is_settled(),
            ),
            // That the model comes there.
            Property::sometimes(FENCED, |_, world: &World| world.is_fenced),
            Property::sometimes(RESTARTED, |_, world: &World| {
                world.owners().any(|owner| owner.attempt > 0 && owner.position(SINK) > Some(0))
            }),
            Property::sometimes(BOTH, |_, world: &World| {
                world.decided.values().map(|entry| entry.generation).collect::<BTreeSet<_>>().len() == 2
            }),
            Property::sometimes(VOID, |_, world: &World| match &world.processes[1] {
                Process::Claimed(view) => world.log.keys().next_back() > Some(&view.next()),
                _ => false,
            }),
            Property::sometimes(STALE, |_, world: &World| {
                world.owners().any(|owner| owner.acks.keys().any(|(attempt, ..)| *attempt < owner.attempt))
            }),
        ]
    }
}

impl Job {
    /// What is violated, and which of the sights that are to be seen is not.
    fn look(self, sights: &[&'static str]) -> BTreeSet<&'static str> {
        let wanted: BTreeSet<_> = sights.iter().copied().collect();
        let checker = self.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        println!(
            "{:?}: {} states, {} steps at most",
            self.bounds,
            checker.unique_state_count(),
            checker.max_depth() - 1
        );
        let found = checker.discoveries();
        for (name, path) in found.iter().filter(|(name, _)| !SIGHTS.contains(name)) {
            let wrong = path.last_state().wrong;
            let steps = path.clone().into_actions();
            println!("{name} ({wrong:?}), {} steps: {steps:?}", steps.len());
        }
        let found: BTreeSet<_> = found.into_keys().collect();
        let violated = found.iter().copied().filter(|name| !SIGHTS.contains(name));
        violated.chain(wanted.difference(&found).copied()).collect()
    }

    /// How many steps a way to a violation has; hardly more than the shortest.
    fn counterexample(self) -> Option<usize> {
        let checker = self.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        let paths = checker.discoveries().into_iter().filter(|(name, _)| !SIGHTS.contains(name));
        let paths = paths.map(|(name, path)| (path.into_actions().len(), name));
        let shortest = paths.min();
        println!("{:?}: {shortest:?} after {} states", self.broken, checker.unique_state_count());
        shortest.map(|(steps, _)| steps)
    }
}

#[test]
fn whatever_happens_in_whatever_order_there_is_one_truth_and_exact_output() {
    assert_eq!(job(CALM).look(&[FENCED, BOTH, VOID]), BTreeSet::new());
    assert_eq!(job(ROUGH).look(&SIGHTS), BTreeSet::new());
}

#[test]
#[ignore = "for builds that are optimized"]
fn it_is_so_with_more_trouble_between_two_checkpoints() {
    assert_eq!(job(ROUGHER).look(&SIGHTS), BTreeSet::new());
    assert_eq!(job(LONGER).look(&SIGHTS), BTreeSet::new());
}

#[test]
fn a_rule_that_is_broken_is_found_out() {
    for (broken, bounds) in [
        (Broken::Look, CALM),
        (Broken::Create, CALM),
        (Broken::EarlyCommit, CALM),
        (Broken::Unknown, ROUGH),
        (Broken::ReadBack, ROUGH),
        (Broken::Waiting, ROUGH),
        (Broken::Recovery, ROUGH),
        (Broken::Discard, ROUGH),
    ] {
        assert!(Job { broken, bounds }.counterexample().is_some(), "{broken:?}");
    }
}
