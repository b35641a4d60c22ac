//! A process that owns the job, or believes so: what carries out the orders of its coordinator, its two subtasks, and its restarts.

use super::world::{Answer, Range, SINK, SOURCE, Stage, Step, TransactionId, World, folder};
use super::{Bounds, Broken, LogView};
use crate::checkpoint::{Action, Coordinator, Event, FailureReason, PersistFailure, RequestId, RequestKind};
use crate::storage::log_view::{Completed, Entry, Taken};
use crate::types::{Attempt, CheckpointId, Generation, Monotonic, SubtaskId};
use std::collections::{BTreeMap, BTreeSet};

/// Any moment: nothing here depends on time.
const NOW: Monotonic = Monotonic(1_000_000);

/// What a subtask gives to a checkpoint: where it was, and of the sink what it has prepared.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Part {
    pub(super) position: u8,
    prepared: BTreeMap<TransactionId, Range>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Owner {
    pub(super) generation: Generation,
    view: LogView,
    coordinator: Coordinator<Part>,
    pub(super) attempt: u32,
    life: Life,
    /// On their way to the coordinator, by attempt, checkpoint and subtask.
    pub(super) acks: BTreeMap<(u32, u64, SubtaskId), Part>,
    /// The decision that is being written.
    deciding: Option<(u64, Vec<(SubtaskId, Part)>)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Life {
    /// No subtask runs.
    Down,
    /// The log was read back, and this is the checkpoint to begin from.
    Restoring(Option<u64>),
    Up(Subtasks),
}

/// The dataflow of a process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Subtasks {
    /// On their way to the sink.
    barriers: BTreeSet<u64>,
    completed: BTreeSet<u64>,
    source: u8,
    sink: u8,
    /// What the sink has prepared and does not know to be committed.
    prepared: BTreeMap<TransactionId, Range>,
    /// Was told to stop.
    failing: bool,
}

impl Owner {
    pub(super) fn new(generation: Generation, view: LogView, coordinator: Coordinator<Part>) -> Self {
        let (attempt, life, acks, deciding) = (0, Life::Down, BTreeMap::new(), None);
        Self { generation, view, coordinator, attempt, life, acks, deciding }
    }

    fn subtasks(&mut self) -> Option<&mut Subtasks> {
        match &mut self.life {
            Life::Up(subtasks) => Some(subtasks),
            _ => None,
        }
    }

    /// Where a subtask is, if it runs.
    pub(super) fn position(&self, of: SubtaskId) -> Option<u8> {
        match &self.life {
            Life::Up(subtasks) => Some(if of == SINK { subtasks.sink } else { subtasks.source }),
            _ => None,
        }
    }

    /// Nothing is on its way that could commit something.
    pub(super) fn is_at_rest(&self) -> bool {
        self.deciding.is_none()
            && matches!(&self.life, Life::Up(subtasks) if subtasks.completed.is_empty() && !subtasks.failing)
    }

    pub(super) fn steps(&self, p: usize, left: Bounds, broken: Broken, steps: &mut Vec<Step>) {
        if self.deciding.is_some() {
            steps.push(Step::Append(p, Answer::True));
            if left.lost_answers > 0 {
                steps.extend(
                    [Answer::LostAndWritten, Answer::LostAndNot].map(|answer| Step::Append(p, answer)),
                );
            }
            if left.failures > 0 {
                steps.push(Step::Append(p, Answer::Refused));
            }
        }
        for ack in self.acks.keys() {
            steps.push(Step::Ack(p, *ack, false));
            if left.repeats > 0 {
                steps.push(Step::Ack(p, *ack, true));
            }
            if left.failures > 0 {
                steps.push(Step::Decline(p, *ack));
            }
        }
        match &self.life {
            Life::Up(subtasks) => {
                if left.checkpoints > 0 && self.coordinator.pending().is_empty() && !subtasks.failing {
                    steps.push(Step::Request(p));
                }
                if !subtasks.barriers.is_empty() {
                    steps.push(Step::Barrier(p));
                }
                if !subtasks.completed.is_empty() {
                    steps.push(Step::Commit(p));
                }
                if subtasks.failing || left.failures > 0 {
                    steps.push(Step::Stop(p));
                }
            }
            Life::Restoring(_) => steps.push(Step::Restore(p)),
            // A commit decides where the restart begins.
            Life::Down if self.coordinator.is_committing() && broken != Broken::Waiting => {}
            Life::Down => steps.push(Step::ReadBack(p)),
        }
    }
}

impl World {
    /// Whether the process lives on.
    pub(super) fn owner_step(&mut self, owner: &mut Owner, step: Step, broken: Broken) -> bool {
        match step {
            Step::Request(_) => {
                self.left.checkpoints -= 1;
                self.feed(owner, Event::Request { request: RequestId(0), kind: RequestKind::Manual }, broken)
            }
            Step::Barrier(_) => {
                self.barrier(owner, broken);
                true
            }
            Step::Ack(_, ack, again) => {
                let Some(state) = owner.acks.get(&ack).cloned() else { return true };
                if again {
                    self.left.repeats -= 1;
                } else {
                    owner.acks.remove(&ack);
                }
                let (checkpoint, attempt) = (CheckpointId(ack.1), Attempt(ack.0));
                self.feed(
                    owner,
                    Event::Ack { checkpoint, subtask: ack.2, attempt, state, finished: false },
                    broken,
                )
            }
            Step::Decline(_, ack) => {
                self.left.failures -= 1;
                owner.acks.remove(&ack);
                let (checkpoint, attempt) = (CheckpointId(ack.1), Attempt(ack.0));
                let reason = FailureReason::AsyncFailed { message: "disk".into() };
                self.feed(owner, Event::Decline { checkpoint, subtask: ack.2, attempt, reason }, broken)
            }
            Step::Commit(_) => {
                let Some(subtasks) = owner.subtasks() else { return true };
                let Some(completed) = subtasks.completed.pop_first() else { return true };
                let due: Vec<TransactionId> =
                    subtasks.prepared.keys().filter(|(_, _, id)| *id <= completed).copied().collect();
                subtasks.prepared.retain(|(_, _, id), _| *id > completed);
                due.into_iter().for_each(|transaction| self.commit(transaction));
                true
            }
            Step::Append(_, answer) => self.append(owner, answer, broken),
            Step::Stop(_) => {
                if let Some(Subtasks { failing: false, .. }) = owner.subtasks() {
                    self.left.failures -= 1;
                }
                // All subtasks are gone, and with them what was on its way to them; not what was on its way from them.
                owner.life = Life::Down;
                owner.attempt += 1;
                self.feed(owner, Event::Stop { reason: FailureReason::RegionFailover }, broken)
            }
            Step::ReadBack(_) => self.read_back(owner, broken),
            Step::Restore(_) => self.restore(owner, broken),
            Step::Read(_) | Step::Claim(_) | Step::Look(_) | Step::Die(_) => true,
        }
    }

    /// The source snapshots where it is, one record further than last time, and sends the barrier.
    fn trigger(&mut self, owner: &mut Owner, id: u64) {
        let (generation, attempt) = (owner.generation.0, owner.attempt);
        let Some(subtasks) = owner.subtasks() else { return };
        subtasks.source += 1;
        subtasks.barriers.insert(id);
        let part = Part { position: subtasks.source, prepared: BTreeMap::new() };
        self.parts.entry((generation, id)).or_default().insert(SOURCE);
        owner.acks.insert((attempt, id, SOURCE), part);
    }

    fn barrier(&mut self, owner: &mut Owner, broken: Broken) {
        let (generation, attempt) = (owner.generation.0, owner.attempt);
        let Some(subtasks) = owner.subtasks() else { return };
        let Some(id) = subtasks.barriers.pop_first() else { return };
        let range = (subtasks.sink, subtasks.sink + 1);
        subtasks.sink = range.1;
        let transaction = (generation, attempt, id);
        subtasks.prepared.insert(transaction, range);
        let part = Part { position: range.1, prepared: subtasks.prepared.clone() };
        self.transactions.insert(transaction, (range, Stage::Prepared));
        if broken == Broken::EarlyCommit {
            self.commit(transaction);
        }
        self.parts.entry((generation, id)).or_default().insert(SINK);
        owner.acks.insert((attempt, id, SINK), part);
    }

    fn feed(&mut self, owner: &mut Owner, event: Event<Part>, broken: Broken) -> bool {
        for action in owner.coordinator.on(event, NOW) {
            let lives = match action {
                // Nothing of interest can come between.
                Action::Prepare { checkpoint } => {
                    self.feed(owner, Event::Prepared { checkpoint, result: Ok(()) }, broken)
                }
                Action::Trigger { checkpoint, .. } => {
                    self.trigger(owner, checkpoint.0);
                    true
                }
                Action::Persist { checkpoint, states, .. } => {
                    if owner.deciding.replace((checkpoint.0, states)).is_some() {
                        self.wrong = Some("two commits at a time");
                    }
                    true
                }
                Action::CleanUp { checkpoint, .. } => {
                    self.discard(owner, checkpoint.0, broken);
                    self.feed(owner, Event::Cleaned { checkpoint }, broken)
                }
                Action::Discard { checkpoint, .. } => {
                    if !owner.coordinator.is_known(checkpoint) {
                        self.discard(owner, checkpoint.0, broken);
                    }
                    true
                }
                Action::Retire { checkpoint } => {
                    self.retire(owner, checkpoint);
                    true
                }
                Action::NotifyComplete { checkpoint, .. } => {
                    if let Some(subtasks) = owner.subtasks() {
                        subtasks.completed.insert(checkpoint.0);
                    }
                    true
                }
                Action::FailJob { .. } => {
                    if let Some(subtasks) = owner.subtasks() {
                        subtasks.failing = true;
                    }
                    true
                }
                Action::Fenced { .. } => {
                    self.is_fenced = true;
                    false
                }
                Action::NotifyAborted { .. } | Action::Answer { .. } | Action::Failed { .. } => true,
            };
            if !lives {
                return false;
            }
        }
        true
    }

    /// One try to write the decision.
    fn append(&mut self, owner: &mut Owner, answer: Answer, broken: Broken) -> bool {
        let Some((id, states)) = owner.deciding.take() else { return true };
        let (checkpoint, generation) = (CheckpointId(id), owner.generation);
        self.manifests.insert((generation.0, id), states.clone());
        let entry = Completed { generation, checkpoint, manifest: String::new(), manifest_crc32c: 0 };
        let sequence = owner.view.next();
        let found = self.log.get(&sequence).cloned().filter(|_| broken != Broken::Create);
        let result = match (answer, found) {
            (Answer::Refused, _) => {
                self.left.failures -= 1;
                Err(PersistFailure::Failed { message: "disk".into() })
            }
            (Answer::LostAndWritten | Answer::LostAndNot, found) => {
                self.left.lost_answers -= 1;
                if answer == Answer::LostAndWritten && found.is_none() {
                    self.write(sequence, entry);
                }
                Err(match broken {
                    Broken::Unknown => PersistFailure::Failed { message: "disk".into() },
                    _ => PersistFailure::Unknown { message: "disk".into() },
                })
            }
            (Answer::True, None) => {
                self.write(sequence, entry.clone());
                if owner.view.push(sequence, Entry::Completed(entry)).is_err() {
                    self.wrong = Some("the log contradicts itself");
                }
                Ok(())
            }
            (Answer::True, Some(found)) => match owner.view.taken(sequence, found, generation) {
                Ok(Taken::Ours) => {
                    // Under the next number, then.
                    owner.deciding = Some((id, states));
                    return true;
                }
                Ok(Taken::Fenced(_)) => Err(PersistFailure::Fenced),
                Ok(Taken::Foreign(_)) | Err(_) => {
                    self.wrong = Some("the log contradicts itself");
                    return true;
                }
            },
        };
        self.feed(owner, Event::Persisted { checkpoint, result }, broken)
    }

    /// Deletes a checkpoint's place, unless it is completed: one that could not be retired the coordinator knows no more.
    fn discard(&mut self, owner: &Owner, id: u64, broken: Broken) {
        let is_own = |entry: &Completed| folder(entry) == (owner.generation.0, id);
        if owner.view.completed().any(is_own) && broken != Broken::Discard {
            return;
        }
        self.parts.remove(&(owner.generation.0, id));
        self.manifests.remove(&(owner.generation.0, id));
    }

    /// Deletes what is not retained any more, unless the log holds an entry of somebody else (rule 3 of the log).
    fn retire(&mut self, owner: &mut Owner, id: CheckpointId) {
        let own = owner.generation;
        let is_own = |sequence: u64, entry: &Entry| sequence == own.0 || entry.generation() == Some(own);
        if self.log.range(own.0..).any(|(sequence, entry)| !is_own(*sequence, entry)) {
            return;
        }
        // With it go all older ones.
        let old = owner.view.completed().filter(|entry| entry.checkpoint <= id);
        let old: Vec<u64> = old.filter_map(|entry| owner.view.sequence_of(entry.checkpoint)).collect();
        for sequence in old {
            if let Some(Entry::Completed(entry)) = self.log.remove(&sequence) {
                self.parts.remove(&folder(&entry));
                self.manifests.remove(&folder(&entry));
            }
            owner.view.forget(sequence);
        }
    }

    /// What a restart does before all else: finds out what became of what is not known, and who owns the job.
    fn read_back(&mut self, owner: &mut Owner, broken: Broken) -> bool {
        let sequence = owner.view.next();
        if let Some(found) = self.log.get(&sequence).cloned().filter(|_| broken != Broken::ReadBack) {
            match owner.view.taken(sequence, found, owner.generation) {
                Ok(Taken::Ours) => {}
                Ok(Taken::Fenced(_)) => {
                    self.is_fenced = true;
                    return false;
                }
                Ok(Taken::Foreign(_)) | Err(_) => self.wrong = Some("the log contradicts itself"),
            }
        }
        owner.life = Life::Restoring(owner.view.latest().map(|entry| entry.checkpoint.0));
        true
    }

    /// Begins from a checkpoint: the sink commits what is in it and throws away what else earlier runs prepared.
    fn restore(&mut self, owner: &mut Owner, broken: Broken) -> bool {
        let Life::Restoring(from) = owner.life else { return true };
        let entry = owner.view.latest().filter(|entry| Some(entry.checkpoint.0) == from);
        let manifest = entry.map(|entry| self.manifests.get(&folder(entry)).cloned());
        let states = match manifest {
            None => Vec::new(),
            Some(Some(states)) => states,
            // Gone with what a newer process has retired. This one finds out that it is fenced.
            Some(None) => {
                if self.owner <= owner.generation.0 {
                    self.wrong = Some("the checkpoint to begin from is gone");
                }
                owner.life = Life::Down;
                return true;
            }
        };
        let part = |of: SubtaskId| states.iter().find(|(subtask, _)| *subtask == of).map(|(_, part)| part);
        let run = (owner.generation.0, owner.attempt);
        if let Some(sink) = part(SINK).filter(|_| broken != Broken::Recovery) {
            sink.prepared.keys().for_each(|transaction| self.commit(*transaction));
        }
        for (transaction, (_, stage)) in &mut self.transactions {
            if (transaction.0, transaction.1) < run && *stage == Stage::Prepared {
                *stage = Stage::Aborted;
            }
        }
        let [source, sink] = [SOURCE, SINK].map(|of| part(of).map_or(0, |part| part.position));
        if source != sink {
            self.wrong = Some("the parts of a checkpoint are of different moments");
        }
        let (barriers, completed, prepared) = (BTreeSet::new(), BTreeSet::new(), BTreeMap::new());
        owner.life = Life::Up(Subtasks { barriers, completed, source, sink, prepared, failing: false });
        if let Some(checkpoint) = owner.coordinator.unsettled() {
            let result = match owner.view.sequence_of(checkpoint) {
                Some(_) => Ok(()),
                None => Err(PersistFailure::Failed { message: "not in the log".into() }),
            };
            if !self.feed(owner, Event::Persisted { checkpoint, result }, broken) {
                return false;
            }
        }
        let (attempt, first) = (Attempt(owner.attempt), owner.attempt == 0);
        self.feed(owner, Event::Start { attempt, random: 0, first }, broken)
    }
}
