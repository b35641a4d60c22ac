//! Random events against an honest and a dishonest world, and what must hold whatever comes.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// What happens next. Numbers pick among what is possible at that moment.
#[derive(Debug, Clone)]
enum Step {
    Request { savepoint: bool, forced: bool },
    Wait(u64),
    Prepared { pick: usize, fails: bool },
    Ack { pick: usize, from: u32, finished: bool, repeat: bool, stale: bool },
    Decline { pick: usize, from: u32 },
    Persisted { outcome: u8 },
    Cleaned { pick: usize },
    Noise { id: u64 },
    InputEnded,
    Stop,
    Start,
    Settle { commits: bool },
    Schedule { stop: bool },
    Shutdown,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (any::<bool>(), any::<bool>()).prop_map(|(savepoint, forced)| Step::Request { savepoint, forced }),
        3 => (0u64..150).prop_map(Step::Wait),
        8 => (any::<usize>(), prop::bool::weighted(0.1)).prop_map(|(pick, fails)| Step::Prepared { pick, fails }),
        20 => (any::<usize>(), 0u32..3, prop::bool::weighted(0.8), prop::bool::weighted(0.1), prop::bool::weighted(0.1))
            .prop_map(|(pick, from, finished, repeat, stale)| Step::Ack { pick, from, finished, repeat, stale }),
        1 => (any::<usize>(), 0u32..3).prop_map(|(pick, from)| Step::Decline { pick, from }),
        8 => (0u8..20).prop_map(|outcome| Step::Persisted { outcome }),
        4 => any::<usize>().prop_map(|pick| Step::Cleaned { pick }),
        1 => (0u64..20).prop_map(|id| Step::Noise { id }),
        1 => Just(Step::InputEnded),
        1 => Just(Step::Stop),
        2 => Just(Step::Start),
        2 => any::<bool>().prop_map(|commits| Step::Settle { commits }),
        1 => any::<bool>().prop_map(|stop| Step::Schedule { stop }),
    ]
}

/// The shell and the books.
#[derive(Default)]
struct World {
    now: u64,
    attempt: u32,
    requests: u64,
    states: u64,
    last_id: Option<CheckpointId>,
    answered: BTreeSet<RequestId>,
    preparing: BTreeSet<CheckpointId>,
    triggered: BTreeMap<CheckpointId, Attempt>,
    /// What checkpoints build on.
    bases: BTreeMap<CheckpointId, CheckpointId>,
    cleaning: BTreeSet<CheckpointId>,
    persisting: Option<(CheckpointId, Vec<State>)>,
    /// Commits of unknown outcome, until the next start.
    unknown: BTreeMap<CheckpointId, Vec<State>>,
    acked: BTreeSet<(CheckpointId, SubtaskId)>,
    /// States handed over that nobody has been told to keep or delete.
    open: BTreeSet<State>,
    duplicates: BTreeSet<State>,
    completed: BTreeSet<CheckpointId>,
    notified: BTreeSet<CheckpointId>,
    ended: BTreeSet<CheckpointId>,
    retired: BTreeSet<CheckpointId>,
    savepoints: BTreeSet<CheckpointId>,
    running: bool,
    finished: bool,
}

const SUBTASKS: [SubtaskId; 2] = [SOURCE, SINK];

fn pick<T: Copy>(from: impl ExactSizeIterator<Item = T>, at: usize) -> Option<T> {
    let len = from.len();
    if len == 0 { None } else { from.into_iter().nth(at % len) }
}

impl World {
    fn event(&mut self, step: Step) -> Option<Event<State>> {
        Some(match step {
            Step::Request { savepoint, forced } => {
                self.requests += 1;
                let kind = if savepoint { RequestKind::Savepoint { forced } } else { RequestKind::Manual };
                Event::Request { request: RequestId(self.requests), kind }
            }
            Step::Wait(by) => {
                self.now += by;
                Event::Timer
            }
            Step::Prepared { pick: at, fails } => {
                let checkpoint = pick(self.preparing.iter().copied(), at)?;
                self.preparing.remove(&checkpoint);
                let result = if fails { Err(FailureReason::Io { message: text() }) } else { Ok(()) };
                Event::Prepared { checkpoint, result }
            }
            Step::Ack { pick: at, from, finished, repeat, stale } => {
                let (checkpoint, attempt) = pick(self.triggered.iter().map(|(id, a)| (*id, *a)), at)?;
                let attempt = if stale { Attempt(99) } else { attempt };
                let subtask = subtask(from);
                let known = SUBTASKS.contains(&subtask) && !stale;
                let again = self.acked.contains(&(checkpoint, subtask)) && !stale;
                if again && !repeat {
                    return None;
                }
                self.states += 1;
                self.open.insert(self.states);
                if again && !self.ended.contains(&checkpoint) {
                    self.duplicates.insert(self.states);
                } else if known {
                    self.acked.insert((checkpoint, subtask));
                }
                Event::Ack { checkpoint, subtask, attempt, state: self.states, finished }
            }
            Step::Decline { pick: at, from } => {
                let (checkpoint, attempt) = pick(self.triggered.iter().map(|(id, a)| (*id, *a)), at)?;
                let reason = FailureReason::Declined { message: text() };
                Event::Decline { checkpoint, subtask: subtask(from), attempt, reason }
            }
            Step::Persisted { outcome } => {
                let (checkpoint, states) = self.persisting.take()?;
                let result = match outcome {
                    0 => Err(PersistFailure::Unknown { message: text() }),
                    1 | 2 => Err(PersistFailure::Failed { message: text() }),
                    _ => Ok(()),
                };
                match &result {
                    Ok(()) => {
                        self.completed.insert(checkpoint);
                    }
                    // To be cleaned up after all.
                    Err(PersistFailure::Failed { .. }) => self.open.extend(states),
                    Err(_) => {
                        self.ended.insert(checkpoint);
                        self.unknown.insert(checkpoint, states);
                    }
                }
                Event::Persisted { checkpoint, result }
            }
            Step::Cleaned { pick: at } => {
                let checkpoint = pick(self.cleaning.iter().copied(), at)?;
                self.cleaning.remove(&checkpoint);
                Event::Cleaned { checkpoint }
            }
            Step::Noise { id } => {
                let committing = self.persisting.as_ref().is_some_and(|(other, _)| *other == cp(id));
                if committing || self.unknown.contains_key(&cp(id)) {
                    return None;
                }
                Event::Persisted { checkpoint: cp(id), result: Err(PersistFailure::Fenced) }
            }
            Step::Settle { commits } => {
                let (checkpoint, states) = self.unknown.pop_first()?;
                let result = if commits {
                    self.completed.insert(checkpoint);
                    Ok(())
                } else {
                    self.open.extend(states);
                    Err(PersistFailure::Failed { message: text() })
                };
                Event::Persisted { checkpoint, result }
            }
            Step::Schedule { stop: true } => Event::StopSchedule,
            Step::Schedule { stop: false } => Event::StartSchedule,
            Step::Shutdown => Event::Shutdown,
            Step::InputEnded => Event::InputEnded,
            Step::Stop => Event::Stop { reason: FailureReason::RegionFailover },
            Step::Start if self.persisting.is_some() || self.running => return None,
            Step::Start => {
                self.attempt += 1;
                self.unknown.clear();
                Event::Start { attempt: Attempt(self.attempt), random: self.now, first: self.attempt == 1 }
            }
        })
    }

    fn close(&mut self, state: State) {
        assert!(self.open.remove(&state), "state {state} is disposed of twice, or was never handed over");
        assert!(!self.duplicates.contains(&state), "state {state} of a repeated ack is touched");
    }

    fn carry_out(&mut self, action: Action<State>) {
        match action {
            Action::Prepare { checkpoint } => {
                assert!(self.last_id < Some(checkpoint), "ids grow");
                assert!(self.running && !self.finished, "begun while nothing runs");
                self.last_id = Some(checkpoint);
                self.preparing.insert(checkpoint);
            }
            Action::Trigger { checkpoint, attempt, extent, .. } => {
                assert_eq!(attempt, Attempt(self.attempt));
                if let Extent::Incremental { base: Some(base), .. } = extent {
                    assert!(self.completed.contains(&base) && !self.retired.contains(&base));
                    self.bases.insert(checkpoint, base);
                }
                assert_eq!(self.triggered.insert(checkpoint, attempt), None);
            }
            Action::Persist { checkpoint, states, .. } => {
                assert_eq!(states.iter().map(|(subtask, _)| *subtask).collect::<Vec<_>>(), SUBTASKS);
                let states: Vec<State> = states.into_iter().map(|(_, state)| state).collect();
                states.iter().for_each(|state| self.close(*state));
                assert_eq!(self.persisting.replace((checkpoint, states)), None, "one at a time");
                assert!(!self.ended.contains(&checkpoint), "{checkpoint} had failed");
            }
            Action::Discard { state, .. } => self.close(state),
            Action::CleanUp { checkpoint, states } => {
                states.into_iter().for_each(|state| self.close(state));
                assert!(!self.completed.contains(&checkpoint), "{checkpoint} is complete");
                assert!(self.ended.contains(&checkpoint));
                assert!(!self.preparing.contains(&checkpoint), "its place is still being created");
                self.cleaning.insert(checkpoint);
            }
            Action::Retire { checkpoint } => {
                assert!(self.completed.contains(&checkpoint) && self.retired.insert(checkpoint));
                // With it go all older ones.
                for (builder, _) in self.bases.iter().filter(|(_, base)| **base <= checkpoint) {
                    let is_over = self.completed.contains(builder) || self.ended.contains(builder);
                    assert!(
                        is_over && !self.unknown.contains_key(builder),
                        "{builder} builds on what goes with {checkpoint}"
                    );
                }
            }
            Action::NotifyComplete { checkpoint, finished } => {
                assert!(self.completed.contains(&checkpoint), "before it is in the log");
                assert!(self.notified.last() < Some(&checkpoint), "in order");
                self.notified.insert(checkpoint);
                self.ended.insert(checkpoint);
                self.finished |= finished && self.running;
            }
            Action::NotifyAborted { checkpoint, latest_completed } => {
                assert!(!self.completed.contains(&checkpoint));
                assert_eq!(latest_completed, self.completed.difference(&self.savepoints).last().copied());
            }
            Action::Answer { request, result } => {
                assert!(self.answered.insert(request), "answered twice");
                if let Ok(checkpoint) = result {
                    assert!(self.completed.contains(&checkpoint));
                    self.ended.insert(checkpoint);
                }
            }
            Action::Failed { checkpoint, .. } => {
                if let Some(checkpoint) = checkpoint {
                    let unknown = self.ended.contains(&checkpoint);
                    assert!(self.ended.insert(checkpoint) || unknown);
                }
            }
            Action::FailJob { reason: FailureReason::CommitUnknown { .. }, .. } => self.running = false,
            Action::FailJob { .. } => {}
            Action::Fenced { .. } => unreachable!("nobody was fenced"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn whatever_comes_the_books_balance(
        steps in prop::collection::vec(step(), 1..250),
        max_concurrent in 1u32..6,
        incremental in any::<bool>(),
        min_pause in 0u64..60,
        tolerable in 0u32..3,
        retain in 1u32..4,
    ) {
        let settings = Checkpointing::every(ms(50)).timeout(ms(400)).min_pause(ms(min_pause))
            .max_concurrent(max_concurrent).tolerable_failures(tolerable).retain(retain).incremental(incremental);
        let mut coordinator =
            Coordinator::new(Some(&settings), cp(1), Vec::new(), SUBTASKS.to_vec(), vec![SOURCE]);
        let mut world = World::default();
        let end = [Step::Shutdown, Step::Persisted { outcome: 9 }];
        for step in [Step::Start].into_iter().chain(steps).chain(end) {
            if let Some(event) = world.event(step) {
                match &event {
                    Event::Start { .. } => (world.running, world.finished) = (true, false),
                    Event::Stop { .. } | Event::Shutdown => world.running = false,
                    _ => {}
                }
                let actions = coordinator.on(event, Monotonic(world.now));
                world.savepoints.extend(coordinator.pending().into_iter().filter(|id| coordinator.is_savepoint(*id)));
                actions.into_iter().for_each(|action| world.carry_out(action));

                let limited = coordinator.pending().into_iter().filter(|id| !coordinator.is_savepoint(*id)).count();
                prop_assert!(limited <= usize::try_from(max_concurrent).unwrap());
                prop_assert_eq!(coordinator.is_committing(), world.persisting.is_some());
                prop_assert!(coordinator.retained().len() <= usize::try_from(retain).unwrap());
                prop_assert!(coordinator.retained().iter().all(|id| !world.retired.contains(id)));
            }
        }
        prop_assert_eq!(u64::try_from(world.answered.len()).unwrap(), world.requests, "each request is answered");
        prop_assert_eq!(&world.open, &world.duplicates, "each state is kept or deleted, those of repeated acks aside");
        let kept: BTreeSet<_> = coordinator.retained().iter().copied().collect();
        let stored: BTreeSet<_> = world.completed.difference(&world.savepoints).copied().collect();
        let left: BTreeSet<_> = stored.difference(&world.retired).copied().collect();
        // What somebody of unknown outcome builds on stays, and what completed after that.
        let needed = world.unknown.keys().filter_map(|id| world.bases.get(id)).min();
        prop_assert!(left.is_superset(&kept));
        prop_assert!(left.difference(&kept).all(|id| needed.is_some_and(|needed| needed <= id)));
    }
}

#[test]
fn left_alone_it_asks_for_the_timer_and_goes_on_for_ever() {
    let settings = Checkpointing::every(ms(50)).min_pause(ms(20));
    let mut rig = Rig::new(&settings);
    let mut completed = 0;
    while completed < 100 {
        let at = rig.deadline().unwrap();
        for action in rig.timer_at(at) {
            let Action::Prepare { checkpoint } = action else { continue };
            rig.now += 7;
            rig.up_to_persist(checkpoint.0, false);
            rig.persisted(checkpoint.0, Ok(()));
            completed += 1;
        }
    }
    assert_eq!(rig.now, 1_020 + 99 * 50 + 7, "at a fixed rate");
}
