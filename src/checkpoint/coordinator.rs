//! The coordinator of a job's checkpoints (Flink's `CheckpointCoordinator`), as a state machine: events in, actions out.
//!
//! Every subtask of a job stays alive until the final checkpoint, also when its input has ended, so a checkpoint always triggers all
//! sources and waits for all subtasks.

use super::barrier::Extent;
use super::events::{Action, Event, PersistFailure};
use super::failures::{CheckpointFailure, FailureCounter, FailureReason};
use super::pending::{AckResult, Pending, Phase};
use super::request::{Asker, Decider, Decision, Load, Request};
use super::retention::Retained;
use super::settings::Checkpointing;
use crate::types::{Attempt, CheckpointId, Monotonic, SubtaskId};
use std::collections::BTreeMap;
use std::time::Duration;

/// Least time between two attempts at the final checkpoint.
const FINAL_RETRY: Duration = Duration::from_millis(100);

/// Decides when checkpoints are taken, follows each to its end, and says what to do. `S` is the handle of a subtask's state.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Coordinator<S> {
    subtasks: Vec<SubtaskId>,
    sources: Vec<SubtaskId>,
    /// `None`: no periodic checkpoints.
    interval: Option<Duration>,
    min_pause: Duration,
    timeout: Duration,
    life: Life,
    /// Whether somebody has stopped the schedule.
    paused: bool,
    next_id: CheckpointId,
    next_tick: Option<Monotonic>,
    ending: Ending,
    decider: Decider,
    pending: BTreeMap<CheckpointId, Pending<S>>,
    /// A commit of unknown outcome, until the next start: the log may be read back before that.
    unsettled: Option<(CheckpointId, Pending<S>)>,
    cleaning: BTreeMap<CheckpointId, Cleaning>,
    failures: FailureCounter,
    /// How many checkpoints an incremental one may need; `None` if all are full.
    increments: Option<u32>,
    retained: Retained,
    /// No longer retained, but what is under way builds on the first of them. In the order in which they completed.
    held: Vec<CheckpointId>,
    last_completion: Monotonic,
    latest_completed: Option<CheckpointId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Life {
    /// No attempt runs.
    Stopped,
    Running(Attempt),
    /// The attempt has its final checkpoint.
    Finished,
    Shutdown,
}

/// Whether the final checkpoint is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Ending {
    No,
    /// To be requested from then on.
    Due(Monotonic),
    /// Its request waits or it is under way.
    Asked,
}

/// Deletion of an aborted checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Cleaning {
    /// Its place is still being created: deleting now would leave what comes later.
    AwaitsPlace,
    Ordered,
}

impl<S: Clone> Coordinator<S> {
    /// A coordinator at rest, until [`Event::Start`].
    ///
    /// `settings`: without, there are no periodic checkpoints; manual ones and the final one follow the defaults. Values out of
    /// bounds ([`Checkpointing::faults`]) are raised to the least allowed. `first_id`: the next number to use. `retained`: completed ones
    /// that exist, oldest first. `subtasks`: all that must acknowledge. `sources`: those to trigger.
    #[must_use]
    pub fn new(
        settings: Option<&Checkpointing>,
        first_id: CheckpointId,
        retained: Vec<CheckpointId>,
        subtasks: Vec<SubtaskId>,
        sources: Vec<SubtaskId>,
    ) -> Self {
        let interval = settings.map(|settings| settings.get_interval().max(Duration::from_millis(10)));
        let settings = settings.cloned().unwrap_or_default();
        let latest_completed = retained.iter().max().copied();
        Self {
            subtasks,
            sources,
            interval,
            min_pause: settings.get_min_pause(),
            timeout: settings.get_timeout().max(Duration::from_millis(10)),
            life: Life::Stopped,
            paused: false,
            next_id: latest_completed.map_or(first_id, |latest| first_id.max(latest.next())),
            next_tick: None,
            ending: Ending::No,
            decider: Decider::new(settings.get_max_concurrent(), settings.get_min_pause(), Decider::CAPACITY),
            pending: BTreeMap::new(),
            unsettled: None,
            cleaning: BTreeMap::new(),
            failures: FailureCounter::new(settings.get_tolerable_failures()),
            increments: settings.increments(),
            retained: Retained::new(settings.get_retain(), retained),
            held: Vec::new(),
            last_completion: Monotonic::default(),
            latest_completed,
        }
    }

    /// Takes in an event; gives what to do, in order.
    pub fn on(&mut self, event: Event<S>, now: Monotonic) -> Vec<Action<S>> {
        let mut out = Vec::new();
        match event {
            Event::Start { attempt, random, first } => self.start(attempt, random, first, now, &mut out),
            Event::Stop { reason } => self.stop(&reason, Life::Stopped, now, &mut out),
            Event::Shutdown => self.stop(&FailureReason::Shutdown, Life::Shutdown, now, &mut out),
            Event::StopSchedule => self.stop_schedule(now, &mut out),
            Event::StartSchedule => self.start_schedule(now),
            Event::Timer => self.timer(now, &mut out),
            Event::Request { request, kind } => self.submit(Request::of(request, kind), now, &mut out),
            Event::Prepared { checkpoint, result } => self.prepared(checkpoint, result, now, &mut out),
            Event::Ack { checkpoint, subtask, attempt, state, finished } => {
                let result = match self.pending.get_mut(&checkpoint) {
                    Some(pending) => pending.ack(subtask, attempt, state, finished),
                    None => AckResult::Unknown(state),
                };
                // After a shutdown the files belong to whoever comes next.
                if let (AckResult::Unknown(state), true) = (result, self.life != Life::Shutdown) {
                    out.push(Action::Discard { checkpoint, state });
                }
            }
            Event::Decline { checkpoint, subtask, attempt, reason } => {
                if self.pending.get(&checkpoint).is_some_and(|pending| pending.may_decline(subtask, attempt))
                {
                    self.abort(checkpoint, &reason, Some(subtask), now, &mut out);
                }
            }
            Event::Persisted { checkpoint, result } => self.persisted(checkpoint, result, now, &mut out),
            Event::Cleaned { checkpoint } => {
                if self.cleaning.get(&checkpoint) == Some(&Cleaning::Ordered) {
                    self.cleaning.remove(&checkpoint);
                }
            }
            // Remembered while stopped too: sources may end before the last subtask of the attempt is up.
            Event::InputEnded => {
                if self.ending == Ending::No && matches!(self.life, Life::Stopped | Life::Running(_)) {
                    self.ending = Ending::Due(now);
                }
            }
        }
        self.advance(now, &mut out);
        out
    }

    /// When [`Event::Timer`] is wanted next.
    #[must_use]
    pub fn deadline(&self) -> Option<Monotonic> {
        let retry = match (self.life, self.ending) {
            (Life::Running(_), Ending::Due(at)) => Some(at),
            _ => None,
        };
        let expiry = self.pending.values().filter_map(Pending::expires).min();
        [self.next_tick, retry, expiry].into_iter().flatten().min()
    }

    /// Whether a checkpoint is being committed: ordered with [`Action::Persist`], [`Event::Persisted`] not told yet. Wait for it before
    /// a restart chooses where to start from.
    #[must_use]
    pub fn is_committing(&self) -> bool {
        self.pending.values().any(|pending| pending.phase == Phase::Persisting)
    }

    /// Whether this checkpoint is under way and a savepoint.
    #[must_use]
    pub fn is_savepoint(&self, checkpoint: CheckpointId) -> bool {
        self.pending.get(&checkpoint).is_some_and(|pending| pending.savepoint)
    }

    /// The last completed checkpoint, savepoints aside; no other has a higher number.
    #[must_use]
    pub fn latest_completed(&self) -> Option<CheckpointId> {
        self.latest_completed
    }

    /// The checkpoints under way, oldest first.
    #[must_use]
    pub fn pending(&self) -> Vec<CheckpointId> {
        self.pending.keys().copied().collect()
    }

    /// Whether this checkpoint is under way, perhaps completed, or completed and kept: its files are needed.
    #[must_use]
    pub fn is_known(&self, checkpoint: CheckpointId) -> bool {
        self.pending.contains_key(&checkpoint)
            || self.unsettled() == Some(checkpoint)
            || self.retained().contains(&checkpoint)
            || self.held.contains(&checkpoint)
    }

    /// The checkpoint whose commit has an unknown outcome. Tell it with [`Event::Persisted`] when the log was read back.
    #[must_use]
    pub fn unsettled(&self) -> Option<CheckpointId> {
        self.unsettled.as_ref().map(|(checkpoint, _)| *checkpoint)
    }

    /// Whether periodic checkpoints are being taken: a job with an interval runs, and nobody has stopped the schedule.
    #[must_use]
    pub fn is_periodic_started(&self) -> bool {
        self.next_tick.is_some()
    }

    /// The completed checkpoints that are kept, in the order they completed.
    #[must_use]
    pub fn retained(&self) -> &[CheckpointId] {
        self.retained.ids()
    }

    fn start(
        &mut self,
        attempt: Attempt,
        random: u64,
        first: bool,
        now: Monotonic,
        out: &mut Vec<Action<S>>,
    ) {
        if matches!(self.life, Life::Running(_) | Life::Finished) {
            self.stop(&FailureReason::Suspended, Life::Stopped, now, out);
        }
        if self.life == Life::Shutdown {
            return;
        }
        self.life = Life::Running(attempt);
        self.unsettled = None;
        self.next_tick = self.interval.filter(|_| !self.paused).map(|interval| {
            let spread = millis(interval.saturating_sub(self.min_pause));
            let extra = if first { random % spread.saturating_add(1) } else { 0 };
            now.after(self.min_pause).after(Duration::from_millis(extra))
        });
    }

    fn stop_schedule(&mut self, now: Monotonic, out: &mut Vec<Action<S>>) {
        self.paused = true;
        self.next_tick = None;
        if matches!(self.life, Life::Running(_)) {
            self.abort_all(&FailureReason::Suspended, now, out);
        }
    }

    fn start_schedule(&mut self, now: Monotonic) {
        let was_paused = std::mem::take(&mut self.paused);
        if was_paused && matches!(self.life, Life::Running(_)) {
            self.next_tick = self.interval.map(|_| now.after(self.min_pause));
        }
    }

    /// Ends all that waits or is under way, except a commit.
    fn stop(&mut self, reason: &FailureReason, life: Life, now: Monotonic, out: &mut Vec<Action<S>>) {
        if self.life == Life::Shutdown {
            return;
        }
        self.life = life;
        self.next_tick = None;
        self.abort_all(reason, now, out);
        self.ending = Ending::No;
        for pending in self.pending.values_mut() {
            // What the next attempt does at its end is no business of a commit of this one.
            if pending.asker == Asker::End {
                pending.asker = Asker::Schedule;
            }
        }
    }

    fn abort_all(&mut self, reason: &FailureReason, now: Monotonic, out: &mut Vec<Action<S>>) {
        for id in self.pending_where(|_, pending| pending.phase != Phase::Persisting) {
            self.abort(id, reason, None, now, out);
        }
        for request in self.decider.drain() {
            match request.asker {
                Asker::Caller(_) => self.report(request.asker, None, reason, now, out),
                // Nobody misses a tick or a final checkpoint that was not begun; the latter is asked for again.
                Asker::Schedule => {}
                Asker::End => self.retry_final(now),
            }
        }
    }

    fn timer(&mut self, now: Monotonic, out: &mut Vec<Action<S>>) {
        for id in self.pending_where(|_, pending| pending.expires().is_some_and(|at| at <= now)) {
            self.abort(id, &FailureReason::Expired, None, now, out);
        }
        let (Some(tick), Some(interval)) = (self.next_tick, self.interval) else { return };
        if tick <= now {
            // A fixed rate, whatever the delay of the timer; ticks that were missed are one.
            let interval = millis(interval).max(1);
            let next = tick.0.saturating_add(((now.0 - tick.0) / interval + 1).saturating_mul(interval));
            self.next_tick = Some(Monotonic(next));
            self.submit(Request::tick(), now, out);
        }
    }

    fn submit(&mut self, request: Request, now: Monotonic, out: &mut Vec<Action<S>>) {
        let refused = match self.life {
            Life::Running(_) => {
                self.decider.add(request, now).map(|thrown_out| (thrown_out, FailureReason::TooManyRequests))
            }
            Life::Stopped => Some((request, FailureReason::TasksNotRunning)),
            Life::Finished => Some((request, FailureReason::JobFinished)),
            Life::Shutdown => Some((request, FailureReason::Shutdown)),
        };
        if let Some((request, reason)) = refused {
            self.report(request.asker, None, &reason, now, out);
        }
    }

    fn prepared(
        &mut self,
        id: CheckpointId,
        result: Result<(), FailureReason>,
        now: Monotonic,
        out: &mut Vec<Action<S>>,
    ) {
        if let Some(cleaning @ Cleaning::AwaitsPlace) = self.cleaning.get_mut(&id) {
            *cleaning = Cleaning::Ordered;
            out.push(Action::CleanUp { checkpoint: id, states: Vec::new() });
            return;
        }
        let Some(pending) = self.pending.get_mut(&id).filter(|pending| pending.phase == Phase::Preparing)
        else {
            return;
        };
        pending.phase = Phase::Collecting;
        match result {
            Ok(()) => {
                let attempt = pending.attempt;
                // A final checkpoint ends the job only if nothing is in flight any more.
                let must_align = pending.savepoint || pending.asker == Asker::End;
                let extent = match self.increments.filter(|_| !pending.savepoint) {
                    Some(limit) => {
                        pending.base = self.latest_completed;
                        Extent::Incremental { base: pending.base, limit }
                    }
                    None => Extent::Full,
                };
                out.push(Action::Trigger {
                    checkpoint: id,
                    attempt,
                    subtasks: self.sources.clone(),
                    must_align,
                    extent,
                });
            }
            Err(reason) => self.abort(id, &reason, None, now, out),
        }
    }

    /// What can go on by itself after any event: deletions, a commit, the final request, the requests that wait.
    fn advance(&mut self, now: Monotonic, out: &mut Vec<Action<S>>) {
        // After a shutdown, too: what nothing builds on any more is not left behind.
        self.retire_free(out);
        if !self.is_committing()
            && let Some((&checkpoint, pending)) =
                self.pending.iter_mut().find(|(_, pending)| pending.is_ready())
        {
            let (states, finished) = (pending.persist(), pending.is_finished());
            out.push(Action::Persist { checkpoint, states, finished });
        }
        if let (Life::Running(_), Ending::Due(at)) = (self.life, self.ending)
            && at <= now
        {
            self.ending = Ending::Asked;
            self.submit(Request::end(), now, out);
        }
        while let Life::Running(attempt) = self.life {
            let load = Load {
                triggering: self.pending.values().any(|pending| pending.phase == Phase::Preparing),
                pending: self.pending.len(),
                cleaning: self.cleaning.len(),
                last_completion: self.last_completion,
            };
            match self.decider.next(load, now) {
                Decision::Wait => break,
                Decision::TooSoon(request, until) => {
                    self.next_tick = Some(until);
                    self.report(request.asker, None, &FailureReason::MinPause, now, out);
                }
                Decision::Run(request) => {
                    let id = self.next_id;
                    self.next_id = id.next();
                    let expires = now.after(self.timeout);
                    self.pending.insert(id, Pending::new(request, attempt, expires, &self.subtasks));
                    out.push(Action::Prepare { checkpoint: id });
                }
            }
        }
    }

    fn persisted(
        &mut self,
        id: CheckpointId,
        result: Result<(), PersistFailure>,
        now: Monotonic,
        out: &mut Vec<Action<S>>,
    ) {
        if self.pending.get(&id).is_some_and(|pending| pending.phase == Phase::Persisting) {
            match result {
                Ok(()) => {
                    if let Some(pending) = self.pending.remove(&id) {
                        self.complete(id, pending, now, out);
                    }
                }
                Err(failure @ PersistFailure::Failed { .. }) => {
                    self.abort(id, &failure.into(), None, now, out)
                }
                Err(failure) => self.lost_commit(id, failure, now, out),
            }
        } else if let Some((_, pending)) = self.unsettled.take_if(|(unsettled, _)| *unsettled == id) {
            // Read back from the log. Its request was answered, its failure reported.
            match result {
                Ok(()) => self.complete(id, pending, now, out),
                Err(PersistFailure::Failed { .. }) => self.clean_up(id, pending, out),
                Err(PersistFailure::Unknown { .. }) => self.unsettled = Some((id, pending)),
                Err(PersistFailure::Fenced) => self.fenced(id, now, out),
            }
        }
    }

    /// A commit that cannot be called failed: nothing is deleted, nothing more is begun in this attempt.
    ///
    /// Subtasks are not told of an abort (Flink does tell them): it may turn out to be complete.
    fn lost_commit(
        &mut self,
        id: CheckpointId,
        failure: PersistFailure,
        now: Monotonic,
        out: &mut Vec<Action<S>>,
    ) {
        let Some(mut pending) = self.pending.remove(&id) else { return };
        let fenced = failure == PersistFailure::Fenced;
        let reason = FailureReason::from(failure);
        self.report(pending.asker, Some(id), &reason, now, out);
        if fenced {
            self.fenced(id, now, out);
        } else {
            pending.asker = Asker::Schedule;
            self.unsettled = Some((id, pending));
            out.push(Action::FailJob { checkpoint: Some(id), subtask: None, reason });
            self.stop(&FailureReason::Suspended, Life::Stopped, now, out);
        }
    }

    fn fenced(&mut self, id: CheckpointId, now: Monotonic, out: &mut Vec<Action<S>>) {
        out.push(Action::Fenced { checkpoint: id });
        self.stop(&FailureReason::Fenced, Life::Shutdown, now, out);
    }

    fn complete(&mut self, id: CheckpointId, pending: Pending<S>, now: Monotonic, out: &mut Vec<Action<S>>) {
        self.last_completion = now;
        self.failures.succeeded(id);
        if !pending.savepoint {
            self.latest_completed = Some(id);
            self.held.extend(self.retained.add(id));
            self.retire_free(out);
        }
        if let Asker::Caller(request) = pending.asker {
            out.push(Action::Answer { request, result: Ok(id) });
        }
        let finished = pending.is_finished();
        if !pending.savepoint {
            // Before the aborts, unlike in Flink: those carry this id as the latest, but not whether it is final.
            out.push(Action::NotifyComplete { checkpoint: id, finished });
            for older in self.pending_where(|other, pending| other < id && !pending.savepoint) {
                self.abort(older, &FailureReason::Subsumed, None, now, out);
            }
            if finished && self.life == Life::Running(pending.attempt) {
                self.stop(&FailureReason::JobFinished, Life::Finished, now, out);
                return;
            }
        }
        if pending.asker == Asker::End {
            self.retry_final(now);
        }
    }

    /// Ends a checkpoint under way without success.
    fn abort(
        &mut self,
        id: CheckpointId,
        reason: &FailureReason,
        subtask: Option<SubtaskId>,
        now: Monotonic,
        out: &mut Vec<Action<S>>,
    ) {
        let Some(pending) = self.pending.remove(&id) else { return };
        let (asker, savepoint, attempt) = (pending.asker, pending.savepoint, pending.attempt);
        self.report(asker, Some(id), reason, now, out);
        out.push(Action::NotifyAborted { checkpoint: id, latest_completed: self.latest_completed });
        self.clean_up(id, pending, out);
        // The failure of a savepoint is its user's affair, unless a subtask had it.
        let counts = !savepoint || subtask.is_some();
        // An attempt that is over cannot be failed again.
        if counts && self.failures.failed(Some(id), reason) && self.life == Life::Running(attempt) {
            out.push(Action::FailJob { checkpoint: Some(id), subtask, reason: reason.clone() });
        }
    }

    fn clean_up(&mut self, id: CheckpointId, pending: Pending<S>, out: &mut Vec<Action<S>>) {
        if pending.phase == Phase::Preparing {
            self.cleaning.insert(id, Cleaning::AwaitsPlace);
        } else {
            self.cleaning.insert(id, Cleaning::Ordered);
            out.push(Action::CleanUp { checkpoint: id, states: pending.into_states() });
        }
    }

    /// Says that a request came to nothing, to who made it and to the log.
    fn report(
        &mut self,
        asker: Asker,
        checkpoint: Option<CheckpointId>,
        reason: &FailureReason,
        now: Monotonic,
        out: &mut Vec<Action<S>>,
    ) {
        match asker {
            Asker::Caller(request) => {
                let failure = CheckpointFailure { checkpoint, reason: reason.clone() };
                out.push(Action::Answer { request, result: Err(failure) });
            }
            Asker::Schedule => {}
            Asker::End => self.retry_final(now),
        }
        out.push(Action::Failed { checkpoint, reason: reason.clone() });
    }

    /// Retires what is no longer retained and nothing under way builds on, in order: with one go all older ones.
    fn retire_free(&mut self, out: &mut Vec<Action<S>>) {
        let free = self.held.iter().take_while(|id| !self.is_base(**id)).count();
        out.extend(self.held.drain(..free).map(|checkpoint| Action::Retire { checkpoint }));
    }

    /// Whether something that is under way, or perhaps completed, builds on this checkpoint.
    fn is_base(&self, id: CheckpointId) -> bool {
        let unsettled = self.unsettled.iter().map(|(_, pending)| pending);
        self.pending.values().chain(unsettled).any(|pending| pending.base == Some(id))
    }

    fn retry_final(&mut self, now: Monotonic) {
        self.ending = Ending::Due(now.after(self.min_pause.max(FINAL_RETRY)));
    }

    fn pending_where(&self, wanted: impl Fn(CheckpointId, &Pending<S>) -> bool) -> Vec<CheckpointId> {
        self.pending.iter().filter(|(id, pending)| wanted(**id, pending)).map(|(id, _)| *id).collect()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
