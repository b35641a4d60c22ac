//! One subtask at work, as a loop that is polled: what it takes, in which order, and when it sleeps.

use super::barrier_times::BarrierTimes;
use super::in_flight::RestoredInFlight;
use super::messages::{CheckpointMessage, SubtaskCommand};
use super::seed::SubtaskSeed;
use super::snapshot::{self, InputState};
use super::uploads::Uploads;
use crate::channel::{Barrier, Flow, GateEvent, InFlight, InHand, InputGate, WakeCell};
use crate::checkpoint::Notifications;
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::{Activity, Stopwatch, SubtaskCounters};
use crate::operator::{BuildContext, Chain, Control, OperatorSnapshot, Read, SubtaskContext, WhoWaits};
use crate::pool::Scope;
use crate::storage::OwnedJob;
use crate::types::{Attempt, CheckpointId, Clock, Monotonic, OperatorId, SubtaskId};
use actix::Recipient;
use std::collections::{BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context as TaskContext;
use std::time::Duration;
use tokio::sync::oneshot;
use tracing::{Instrument, Span, field};

/// How long a turn may last before other subtasks of the thread have theirs: it bounds how long a barrier waits for
/// one (`turns x time per batch`), and costs one look at the clock per batch.
const TURN: Duration = Duration::from_micros(150);

/// How many batches a turn may take.
const BATCHES: usize = 16;

/// How many records are read from a source before the subtask looks up. It follows their cost: a slice takes a small part of a
/// turn, however slow a record is, and is long where records are fast.
#[derive(Debug)]
struct Slice {
    records: usize,
    most: usize,
}

impl Slice {
    /// Where records go on to other subtasks, shorter slices leave them in the cache.
    fn new(has_outputs: bool) -> Self {
        let most = if has_outputs { 256 } else { 1024 };
        Self { records: 64, most }
    }

    fn took(&mut self, time: Duration) {
        if time > TURN / 4 {
            self.records = (self.records / 2).max(1);
        } else if time < TURN / 16 {
            self.records = (self.records * 2).min(self.most);
        }
    }
}

/// How a turn ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// There is more to do at once.
    Busy,
    /// Nothing to do; the task will be woken.
    Idle,
    /// The subtask's work is done and committed.
    Finished,
    /// It was told to stop.
    Stopped,
}

/// How far the input has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Reading,
    /// The input has ended; operators emit what is left.
    Finishing,
    /// Everything has been emitted. The subtask goes on taking part in checkpoints.
    Ended,
    /// Without checkpoints: sinks prepare, then commit, then the subtask leaves.
    Preparing,
    /// The last commits run; when they are done the subtask leaves.
    Leaving,
}

/// What is still being captured for a snapshot that overtook it.
struct Capturing {
    checkpoint: CheckpointId,
    done: oneshot::Sender<Vec<InFlight>>,
}

/// Wakes the subtask at a moment.
struct Alarm {
    at: Monotonic,
    sleep: Pin<Box<dyn Future<Output = ()>>>,
}

pub(super) struct Subtask {
    id: SubtaskId,
    attempt: Attempt,
    /// Of its chain, for errors that no operator is known for.
    name: OperatorId,
    clock: Clock,
    cell: Arc<WakeCell>,
    /// Before the chain, so that it ends first: what is being written of the chain's state fails with the chain.
    uploads: Uploads,
    chain: Box<dyn Chain>,
    /// `None` where the chain begins with a source.
    gate: Option<InputGate>,
    /// A batch that is not used up yet.
    batch: Option<InHand>,
    /// Whether the chain is known to be at rest: nothing suspended, everything emitted is in channels or buffers.
    at_rest: bool,
    /// Whether anything was taken since the buffers were last flushed.
    unflushed: bool,
    /// Whether a sink was still preparing or committing when it was last looked after.
    committing: bool,
    phase: Phase,
    /// Whether a drain has ended the input.
    drained: bool,
    /// Whether the input had ended by itself in the checkpoint it began from.
    had_finished: bool,
    triggers: VecDeque<Barrier>,
    capturing: Option<Capturing>,
    /// Whether a snapshot was taken in this turn.
    has_snapshot: bool,
    alarm: Option<Alarm>,
    /// The newest checkpoint taken or given up here: no older one is taken any more.
    newest: Option<CheckpointId>,
    /// Newer ones that the coordinator has given up. An older one may still be under way, and is taken.
    aborted: BTreeSet<CheckpointId>,
    notifications: Notifications,
    barrier_times: BarrierTimes,
    stop: bool,
    slice: Slice,
    storage: Option<OwnedJob>,
    coordinator: Recipient<CheckpointMessage>,
    scope: Scope,
    counters: Arc<SubtaskCounters>,
    stopwatch: Stopwatch,
}

impl Subtask {
    /// Builds the chain, restores its state, and opens its operators.
    pub(super) fn build(seed: SubtaskSeed) -> Result<Self> {
        let SubtaskSeed {
            id,
            attempt,
            clock,
            ends,
            factory,
            restored,
            from,
            has_source,
            mode,
            context,
            storage,
            coordinator,
            scope,
            span: _,
            counters,
        } = seed;
        let super::wiring::Ends { cell, announcements, inlets, mut outputs } = ends;
        let slice = Slice::new(!outputs.is_empty());
        let stopwatch = Stopwatch::start(Arc::clone(&counters.subtask), clock);
        for output in outputs.values_mut().flatten() {
            output.count_in(&counters.subtask);
        }
        let count_in = Arc::clone(&counters.subtask);
        let mut build = BuildContext {
            subtask: SubtaskContext { subtask: id.index, ..context.subtask },
            max_parallelism: context.max_parallelism,
            snapshot_memory: context.snapshot_memory,
            restored: restored.states,
            outputs,
            splits: restored.splits,
            finished: restored.finished,
            scope: scope.clone(),
            counters,
        };
        let mut chain = factory.build(&mut build)?;
        chain.control(&mut Control::Open)?;
        let mut gate = (!has_source).then(|| InputGate::new(inlets, mode, announcements, clock));
        if let Some(gate) = &mut gate {
            for records in &restored.in_flight {
                let RestoredInFlight { port, origin, codec, .. } = *records;
                gate.restore(port, origin, codec, records.batches()?);
            }
        }
        Ok(Self {
            id,
            attempt,
            name: context.name,
            clock,
            cell,
            chain,
            gate,
            batch: None,
            at_rest: false,
            unflushed: true,
            committing: false,
            phase: Phase::Reading,
            drained: false,
            had_finished: restored.finished,
            triggers: VecDeque::new(),
            capturing: None,
            has_snapshot: false,
            alarm: None,
            newest: None,
            aborted: BTreeSet::new(),
            notifications: Notifications::new(from),
            uploads: Uploads::default(),
            barrier_times: BarrierTimes::default(),
            stop: false,
            slice,
            storage,
            coordinator,
            scope,
            counters: count_in,
            stopwatch,
        })
    }

    /// Takes a command from the mailbox. Nothing of the user's runs here, unless a checkpoint has ended.
    pub(super) fn command(&mut self, command: SubtaskCommand) -> Result {
        let activity = self.stopwatch.activity();
        self.stopwatch.turn_to(Activity::Busy);
        self.take_command(command)?;
        self.stopwatch.turn_to(activity);
        Ok(())
    }

    fn take_command(&mut self, command: SubtaskCommand) -> Result {
        match command {
            SubtaskCommand::Stop => self.stop = true,
            SubtaskCommand::EndInput => {
                if self.gate.is_none() && self.phase == Phase::Reading {
                    self.phase = Phase::Finishing;
                    // What had been read to its end before is at that end again.
                    self.drained = !self.had_finished;
                }
            }
            SubtaskCommand::Trigger(barrier) => self.triggers.push_back(barrier),
            SubtaskCommand::WhoWaits { limit, still } => {
                let mut who = WhoWaits { limit, still, found: Vec::new() };
                self.chain.control(&mut Control::WhoWaits(&mut who))?;
                for (operator, what, lasts) in who.found {
                    super::watchdog::warn_waits(&operator, self.id.index, what, lasts);
                }
            }
            SubtaskCommand::Announce(barrier) => {
                if let Some(gate) = &self.gate {
                    gate.announce(barrier);
                }
            }
            SubtaskCommand::Complete { checkpoint, last } => {
                self.uploads.completed(checkpoint);
                if self.notifications.completed(checkpoint) {
                    self.chain.control(&mut Control::Complete { checkpoint, last })?;
                }
                if last && self.phase == Phase::Ended {
                    self.phase = Phase::Leaving;
                }
            }
            SubtaskCommand::Aborted { checkpoint, latest_completed } => {
                self.uploads.cancel(checkpoint);
                if let Some(missed) = self.notifications.aborted(latest_completed) {
                    self.chain.control(&mut Control::Complete { checkpoint: missed, last: false })?;
                }
                if self.newest < Some(checkpoint) {
                    self.aborted.insert(checkpoint);
                }
                self.stop_capturing(checkpoint);
                self.chain.control(&mut Control::Aborted(checkpoint))?;
            }
        }
        Ok(())
    }

    /// One turn: takes batches until there are none, no room, or no time.
    pub(super) fn turn(&mut self, task: &mut TaskContext<'_>) -> Result<Turn> {
        let began = self.stopwatch.turn_to(Activity::Busy);
        let result = self.steps(task, began);
        // Peers learn of everything at once, when the turn is over.
        self.chain.control(&mut Control::Notify)?;
        if let Some(gate) = &mut self.gate {
            gate.notify();
        }
        self.stopwatch.turn_to(match result {
            Ok(Turn::Idle) if self.at_rest && self.committing => Activity::Committing,
            Ok(Turn::Idle) if self.at_rest => Activity::Idle,
            Ok(Turn::Idle) => Activity::BackPressured,
            // What yields has more to do.
            Ok(Turn::Busy) => Activity::Waiting,
            _ => Activity::Busy,
        });
        result
    }

    fn steps(&mut self, task: &mut TaskContext<'_>, began: Duration) -> Result<Turn> {
        let (mut batches, mut looked) = (0, began);
        let mut looks_again = false;
        loop {
            if self.stop {
                return Ok(Turn::Stopped);
            }
            if self.step(task)? {
                looks_again = false;
                batches += 1;
                let now = self.clock.elapsed();
                self.slice.took(now.saturating_sub(looked));
                looked = now;
                // Peers learn of a barrier at once.
                let is_over = std::mem::take(&mut self.has_snapshot)
                    || batches >= BATCHES
                    || now.saturating_sub(began) >= TURN;
                if is_over {
                    // Commits are looked after even if the input never pauses.
                    let _ = self.chain.tend(task)?;
                    return Ok(Turn::Busy);
                }
                continue;
            }
            // Not before everything emitted is in the channels: what stalls would be lost with the subtask.
            self.committing = !self.chain.tend(task)?;
            if !self.committing {
                match self.phase {
                    Phase::Preparing if self.at_rest => {
                        let checkpoint = CheckpointId(0);
                        self.chain.control(&mut Control::Complete { checkpoint, last: true })?;
                        self.phase = Phase::Leaving;
                        continue;
                    }
                    // What stalls then are barriers behind the final one, and nobody may take them any more.
                    Phase::Leaving => return Ok(Turn::Finished),
                    _ => {}
                }
            }
            if self.at_rest && std::mem::take(&mut self.unflushed) {
                self.chain.control(&mut Control::Flush)?;
                self.at_rest = false;
                continue;
            }
            self.cell.fall_asleep(task.waker());
            if self.may_go_on(task)? {
                self.cell.stay_awake();
                // Whatever it is that cannot be taken, the others of this thread have their turn.
                if std::mem::replace(&mut looks_again, true) {
                    return Ok(Turn::Busy);
                }
                continue;
            }
            return Ok(Turn::Idle);
        }
    }

    /// The second look before sleep.
    fn may_go_on(&mut self, task: &mut TaskContext<'_>) -> Result<bool> {
        if !self.at_rest && self.come_to_rest(task)? {
            return Ok(true);
        }
        // What leaves takes nothing any more: only its last commits keep it.
        if self.at_rest && matches!(self.phase, Phase::Preparing | Phase::Leaving) {
            return Ok(false);
        }
        if self.at_rest && self.gate.as_ref().is_some_and(InputGate::has_event) {
            return Ok(true);
        }
        // What has overtaken already, and finds no room, waits for that and for nothing else.
        let Some(at) = self.overtaken_from().filter(|at| self.at_rest || *at > self.clock.now()) else {
            self.alarm = None;
            return Ok(false);
        };
        let clock = self.clock;
        let alarm = self.alarm.take_if(|alarm| alarm.at == at).unwrap_or_else(|| {
            // A millisecond more: it must not ring before the clock shows the time.
            let sleep = clock.sleep(at.since(clock.now()) + Duration::from_millis(1));
            Alarm { at, sleep: Box::pin(sleep) }
        });
        Ok(self.alarm.insert(alarm).sleep.as_mut().poll(task).is_ready())
    }

    /// Goes on with what is suspended. `false`: it is not at an end yet. A barrier that may overtake waits for nothing but user code.
    fn come_to_rest(&mut self, task: &mut TaskContext<'_>) -> Result<bool> {
        self.at_rest = self.chain.resume(task)? == Flow::Ready;
        if !self.at_rest && self.overtaken_from().is_some_and(|at| at <= self.clock.now()) {
            self.chain.control(&mut Control::MakeWay)?;
            self.at_rest = self.chain.resume(task)? == Flow::Ready;
        }
        Ok(self.at_rest)
    }

    /// From when on a barrier that is to be taken may overtake.
    fn overtaken_from(&self) -> Option<Monotonic> {
        match &self.gate {
            Some(gate) => gate.overtaken_from(),
            None => self.triggers.iter().filter_map(|barrier| barrier.kind.overtakes_from()).min(),
        }
    }

    /// One step. `false`: nothing can be done at the moment.
    fn step(&mut self, task: &mut TaskContext<'_>) -> Result<bool> {
        if !self.at_rest && !self.come_to_rest(task)? {
            return Ok(false);
        }
        // Not amid `finish`: see below. Not behind the final checkpoint either: who would want it?
        if matches!(self.phase, Phase::Reading | Phase::Ended)
            && let Some(gate) = &mut self.gate
            && let Some(event) = gate.poll_urgent(self.batch.as_ref())?
        {
            return self.take_event(event);
        }
        if let Some(batch) = self.batch.take() {
            self.take_batch(batch)?;
            return Ok(true);
        }
        // Not amid `finish`: what it emitted would be in the checkpoint, that it ran would not.
        if matches!(self.phase, Phase::Reading | Phase::Ended)
            && let Some(barrier) = self.triggers.pop_front()
        {
            self.snapshot(barrier, None)?;
            return Ok(true);
        }
        match self.phase {
            Phase::Finishing => self.finish(),
            Phase::Reading | Phase::Ended if self.gate.is_some() => self.take_from_gate(),
            Phase::Reading => self.read(task),
            Phase::Ended | Phase::Preparing | Phase::Leaving => Ok(false),
        }
    }

    /// A batch that does not go through keeps its rest for later; an empty one goes home.
    fn take_batch(&mut self, mut in_hand: InHand) -> Result {
        self.unflushed = true;
        self.at_rest = self.chain.on_batch(in_hand.port, &mut in_hand.batch)? == Flow::Ready;
        if !self.at_rest {
            self.batch = Some(in_hand);
        } else if let Some(gate) = &mut self.gate {
            gate.give_back(in_hand);
        }
        Ok(())
    }

    fn take_from_gate(&mut self) -> Result<bool> {
        let Some(gate) = &mut self.gate else { return Ok(false) };
        let event = gate.poll()?;
        self.take_event(event)
    }

    fn take_event(&mut self, event: GateEvent) -> Result<bool> {
        if let Some(gate) = &self.gate {
            self.barrier_times.saw(gate.newest_barrier(), self.clock);
        }
        match event {
            GateEvent::Empty => return Ok(false),
            GateEvent::Batch(in_hand) => {
                self.counters.records_in.add(in_hand.batch.len() as u64);
                self.counters.batches_in.add(1);
                self.take_batch(in_hand)?;
            }
            GateEvent::Snapshot(barrier) => self.snapshot(barrier, None)?,
            GateEvent::SnapshotUnaligned(barrier) => {
                let (done, rest) = oneshot::channel();
                // Whoever waited for an older one learns that nothing comes any more.
                self.capturing = Some(Capturing { checkpoint: barrier.checkpoint, done });
                let known =
                    self.gate.as_mut().map(|gate| gate.take_known(barrier.checkpoint)).unwrap_or_default();
                self.snapshot(barrier, Some(snapshot::Overtaken { known, rest }))?;
                // Most often all of it is known by now.
                if let Some(event) = self.gate.as_mut().and_then(InputGate::take_captured) {
                    return self.take_event(event);
                }
            }
            GateEvent::Captured(checkpoint, in_flight) => {
                let capturing = self.capturing.take_if(|capturing| capturing.checkpoint == checkpoint);
                if let Some(Capturing { done, .. }) = capturing {
                    let _ = done.send(in_flight);
                }
            }
            GateEvent::Aborted(checkpoint, reason) => {
                tracing::debug!(checkpoint = checkpoint.0, ?reason, "a checkpoint is not taken here");
                self.capturing.take_if(|capturing| capturing.checkpoint <= checkpoint);
                let (subtask, attempt) = (self.id, self.attempt);
                self.coordinator.do_send(CheckpointMessage::GivenUp { checkpoint, subtask, attempt, reason });
                self.give_up(checkpoint)?;
            }
            GateEvent::Ended => {
                self.phase = Phase::Finishing;
                self.drained = self.gate.as_ref().is_some_and(InputGate::was_drained);
            }
        }
        Ok(true)
    }

    fn read(&mut self, task: &mut TaskContext<'_>) -> Result<bool> {
        match self.chain.read(task, self.slice.records)? {
            Read::More => self.unflushed = true,
            Read::Full => {
                self.unflushed = true;
                self.at_rest = false;
            }
            Read::Waiting => return Ok(false),
            Read::Ended => self.phase = Phase::Finishing,
        }
        Ok(true)
    }

    fn finish(&mut self) -> Result<bool> {
        self.at_rest = false;
        self.unflushed = true;
        if self.chain.finish()? == Flow::Ready {
            self.chain.control(&mut Control::End { drained: self.drained })?;
            if self.storage.is_none() {
                self.chain.control(&mut Control::Prepare(CheckpointId(0)))?;
                self.phase = Phase::Preparing;
            } else {
                self.phase = Phase::Ended;
                if self.gate.is_none() {
                    self.coordinator
                        .do_send(CheckpointMessage::InputEnded { subtask: self.id, attempt: self.attempt });
                }
            }
        }
        Ok(true)
    }

    /// Snapshots every operator and sends the barrier on; the rest happens on the pool.
    fn snapshot(&mut self, barrier: Barrier, overtaken: Option<snapshot::Overtaken>) -> Result {
        let checkpoint = barrier.checkpoint;
        if self.newest >= Some(checkpoint) || self.aborted.contains(&checkpoint) {
            self.stop_capturing(checkpoint);
            return self.give_up(checkpoint);
        }
        self.reached(checkpoint);
        self.has_snapshot = true;
        let Some(storage) = self.storage.clone() else {
            return Err(Error::new(ErrorKind::Internal, "a barrier in a job without checkpoints").into());
        };
        let mut snapshots: Vec<OperatorSnapshot> = Vec::new();
        let (clock, mut report) = (self.clock, self.barrier_times.report(barrier, self.clock));
        let began = clock.elapsed();
        self.chain.control(&mut Control::Snapshot { barrier, snapshots: &mut snapshots })?;
        self.at_rest = false;
        let frozen = clock.elapsed();
        report.sync_duration = frozen.saturating_sub(began);
        let (attempt, subtask) = (self.attempt, self.id);
        let input = match self.phase {
            Phase::Ended if self.drained => InputState::Drained,
            Phase::Ended => InputState::Ended,
            _ => InputState::Open,
        };
        let coordinator = self.coordinator.clone();
        let (name, counters) = (self.name.clone(), Arc::clone(&self.counters));
        let taken = snapshot::Taken { snapshots, overtaken };
        let upload = async move {
            let mut snapshot =
                snapshot::write(&storage, checkpoint, attempt, subtask, input, taken, report).await?;
            let report = &mut snapshot.report;
            report.async_duration = clock.elapsed().saturating_sub(frozen);
            counters.checkpoint_bytes.add_shared(report.bytes);
            Span::current().record("bytes", report.bytes);
            Ok(snapshot)
        };
        let span = tracing::debug_span!("snapshot", checkpoint = checkpoint.0, bytes = field::Empty);
        let upload = self.scope.spawn(self.uploads.begin(checkpoint, upload.instrument(span)));
        let has_ended = self.uploads.has_ended();
        // A panic in the upload declines the checkpoint, like an error. But that the subtask has ended is for others to say: they know why.
        drop(self.scope.spawn(async move {
            // Nobody waits for what was cancelled.
            let Some(result) = upload.await.map(Result::ok).transpose() else { return };
            let result = result.and_then(|result: Result<_, Error>| result);
            let named = |error: Error| error.operator(&name).subtask(subtask.index).checkpoint(checkpoint);
            coordinator.do_send(match result.map_err(named) {
                Ok(snapshot) => {
                    CheckpointMessage::Ack { checkpoint, subtask, attempt, snapshot: Arc::new(snapshot) }
                }
                // A type that cannot be stored: no later checkpoint will store it.
                Err(error) if error.kind() == ErrorKind::Program => CheckpointMessage::Fatal(error),
                Err(_) if has_ended.get() => return,
                Err(cause) => CheckpointMessage::Decline { checkpoint, subtask, attempt, cause },
            });
        }));
        Ok(())
    }

    fn reached(&mut self, checkpoint: CheckpointId) {
        self.newest = self.newest.max(Some(checkpoint));
        self.aborted.retain(|aborted| *aborted > checkpoint);
    }

    fn stop_capturing(&mut self, checkpoint: CheckpointId) {
        if self.capturing.take_if(|capturing| capturing.checkpoint == checkpoint).is_some()
            && let Some(gate) = &mut self.gate
        {
            gate.forget(checkpoint);
        }
    }

    fn give_up(&mut self, checkpoint: CheckpointId) -> Result {
        self.reached(checkpoint);
        self.chain.control(&mut Control::Cancel(checkpoint))?;
        self.at_rest = false;
        Ok(())
    }

    /// Lets operators close, whatever state the chain is in.
    pub(super) fn close(&mut self) -> Result {
        self.stopwatch.turn_to(Activity::Busy);
        self.chain.control(&mut Control::Close)
    }
}

#[cfg(test)]
mod tests;
