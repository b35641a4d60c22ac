use super::*;
use crate::checkpoint::{RequestId, RequestKind};
use crate::types::{ChainId, SubtaskIndex};
use std::sync::Arc;

mod completion;
mod random;
mod trigger;

/// A state is a number: the checkpoint's times 10 plus the subtask's.
type State = u64;

const SOURCE: SubtaskId = subtask(0);
const SINK: SubtaskId = subtask(1);

const fn subtask(chain: u32) -> SubtaskId {
    SubtaskId { chain: ChainId(chain), index: SubtaskIndex(0) }
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn cp(id: u64) -> CheckpointId {
    CheckpointId(id)
}

fn text() -> Arc<str> {
    "x".into()
}

/// Interval 100 ms, timeout 1 s, any number of failures borne.
fn settings() -> Checkpointing {
    Checkpointing::every(ms(100)).timeout(ms(1_000)).tolerable_failures(u32::MAX)
}

/// A coordinator of one source and one sink, the time, and words for what happens to it.
struct Rig {
    coordinator: Coordinator<State>,
    now: u64,
    attempt: Attempt,
}

impl Rig {
    fn stopped(settings: Option<&Checkpointing>) -> Self {
        let coordinator = Coordinator::new(settings, cp(1), Vec::new(), vec![SOURCE, SINK], vec![SOURCE]);
        Self { coordinator, now: 1_000, attempt: Attempt(0) }
    }

    /// Started at 1000 with the first tick as early as it may be.
    fn new(settings: &Checkpointing) -> Self {
        let mut rig = Self::stopped(Some(settings));
        rig.start(true);
        rig
    }

    /// Without periodic checkpoints, so that only what a test asks for happens.
    fn manual(settings: &Checkpointing) -> Self {
        let mut rig = Self::new(settings);
        rig.coordinator.interval = None;
        rig.coordinator.next_tick = None;
        rig
    }

    fn on(&mut self, event: Event<State>) -> Vec<Action<State>> {
        self.coordinator.on(event, Monotonic(self.now))
    }

    fn start(&mut self, first: bool) -> Vec<Action<State>> {
        let attempt = self.attempt;
        self.on(Event::Start { attempt, random: 0, first })
    }

    fn stop(&mut self) -> Vec<Action<State>> {
        self.on(Event::Stop { reason: FailureReason::RegionFailover })
    }

    fn timer_at(&mut self, now: u64) -> Vec<Action<State>> {
        self.now = now;
        self.on(Event::Timer)
    }

    fn request(&mut self, request: u64) -> Vec<Action<State>> {
        self.on(Event::Request { request: RequestId(request), kind: RequestKind::Manual })
    }

    fn savepoint(&mut self, request: u64, forced: bool) -> Vec<Action<State>> {
        self.on(Event::Request { request: RequestId(request), kind: RequestKind::Savepoint { forced } })
    }

    fn prepared(&mut self, id: u64) -> Vec<Action<State>> {
        self.on(Event::Prepared { checkpoint: cp(id), result: Ok(()) })
    }

    fn ack_as(&mut self, id: u64, from: SubtaskId, attempt: Attempt, finished: bool) -> Vec<Action<State>> {
        let state = id * 10 + u64::from(from.chain.0);
        self.on(Event::Ack { checkpoint: cp(id), subtask: from, attempt, state, finished })
    }

    fn ack(&mut self, id: u64, from: SubtaskId) -> Vec<Action<State>> {
        self.ack_as(id, from, self.attempt, false)
    }

    fn decline(&mut self, id: u64, reason: FailureReason) -> Vec<Action<State>> {
        let attempt = self.attempt;
        self.on(Event::Decline { checkpoint: cp(id), subtask: SINK, attempt, reason })
    }

    fn persisted(&mut self, id: u64, result: Result<(), PersistFailure>) -> Vec<Action<State>> {
        self.on(Event::Persisted { checkpoint: cp(id), result })
    }

    /// From a request to the acks of all.
    fn up_to_persist(&mut self, id: u64, finished: bool) {
        self.prepared(id);
        self.ack_as(id, SOURCE, self.attempt, finished);
        let actions = self.ack_as(id, SINK, self.attempt, finished);
        assert_eq!(actions, [persist(id, finished)]);
    }

    /// Asks for a checkpoint and sees it through.
    fn take(&mut self, id: u64) -> Vec<Action<State>> {
        assert_eq!(self.request(id), [prepare(id)]);
        self.up_to_persist(id, false);
        self.persisted(id, Ok(()))
    }

    fn deadline(&self) -> Option<u64> {
        self.coordinator.deadline().map(|at| at.0)
    }
}

fn discard(id: u64, state: State) -> Action<State> {
    Action::Discard { checkpoint: cp(id), state }
}

fn prepare(id: u64) -> Action<State> {
    Action::Prepare { checkpoint: cp(id) }
}

fn trigger(id: u64, attempt: u32) -> Action<State> {
    Action::Trigger {
        checkpoint: cp(id),
        attempt: Attempt(attempt),
        subtasks: vec![SOURCE],
        must_align: false,
        extent: Extent::Full,
    }
}

fn persist(id: u64, finished: bool) -> Action<State> {
    Action::Persist { checkpoint: cp(id), states: vec![(SOURCE, id * 10), (SINK, id * 10 + 1)], finished }
}

fn complete(id: u64, finished: bool) -> Action<State> {
    Action::NotifyComplete { checkpoint: cp(id), finished }
}

fn aborted(id: u64, latest: Option<u64>) -> Action<State> {
    Action::NotifyAborted { checkpoint: cp(id), latest_completed: latest.map(CheckpointId) }
}

fn clean_up(id: u64, states: &[State]) -> Action<State> {
    Action::CleanUp { checkpoint: cp(id), states: states.to_vec() }
}

fn retire(id: u64) -> Action<State> {
    Action::Retire { checkpoint: cp(id) }
}

fn answer(request: u64, id: u64) -> Action<State> {
    Action::Answer { request: RequestId(request), result: Ok(cp(id)) }
}

fn refusal(request: u64, id: Option<u64>, reason: FailureReason) -> Action<State> {
    let failure = CheckpointFailure { checkpoint: id.map(CheckpointId), reason };
    Action::Answer { request: RequestId(request), result: Err(failure) }
}

fn failed(id: Option<u64>, reason: FailureReason) -> Action<State> {
    Action::Failed { checkpoint: id.map(CheckpointId), reason }
}

fn fail_job(id: u64, subtask: Option<SubtaskId>, reason: FailureReason) -> Action<State> {
    Action::FailJob { checkpoint: Some(cp(id)), subtask, reason }
}
