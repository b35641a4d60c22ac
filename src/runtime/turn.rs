//! One subtask at work, as a loop that is polled: what it takes, in which order, and when it sleeps.

use super::messages::{CheckpointMessage, SubtaskCommand};
use super::seed::SubtaskSeed;
use super::snapshot;
use crate::channel::{AnyBatch, Barrier, Flow, GateEvent, InputGate, WakeCell};
use crate::checkpoint::FailureReason;
use crate::error::{Error, ErrorKind, Result};
use crate::operator::{BuildContext, Chain, Control, OperatorSnapshot, Read, SubtaskContext};
use crate::pool::Scope;
use crate::storage::OwnedJob;
use crate::types::{Attempt, CheckpointId, Clock, SubtaskId};
use actix::Recipient;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::task::Context as TaskContext;
use std::time::Duration;

/// How long a turn may last before other subtasks of the thread have theirs: it bounds how long a barrier waits for
/// one (`turns x time per batch`), and costs one look at the clock per batch.
const TURN: Duration = Duration::from_micros(150);

/// How many batches a turn may take.
const BATCHES: usize = 16;

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

pub(super) struct Subtask {
    id: SubtaskId,
    attempt: Attempt,
    clock: Clock,
    cell: Arc<WakeCell>,
    chain: Box<dyn Chain>,
    /// `None` where the chain begins with a source.
    gate: Option<InputGate>,
    /// A batch that is not used up yet, and its channel.
    batch: Option<(usize, AnyBatch)>,
    /// Whether the chain is known to be at rest: nothing suspended, everything emitted is in channels or buffers.
    at_rest: bool,
    /// Whether anything was taken since the buffers were last flushed.
    unflushed: bool,
    phase: Phase,
    triggers: VecDeque<Barrier>,
    /// The newest checkpoint taken or given up here: no older one is taken any more.
    newest: Option<CheckpointId>,
    /// Newer ones that the coordinator has given up. An older one may still be under way, and is taken.
    aborted: BTreeSet<CheckpointId>,
    stop: bool,
    storage: Option<OwnedJob>,
    coordinator: Recipient<CheckpointMessage>,
    scope: Scope,
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
            has_source,
            context,
            storage,
            coordinator,
            scope,
        } = seed;
        let super::wiring::Ends { cell, inputs, outputs } = ends;
        let mut build = BuildContext {
            subtask: SubtaskContext { subtask: id.index, ..context.subtask },
            max_parallelism: context.max_parallelism,
            restored: restored.states,
            outputs: VecDeque::from([outputs]),
            splits: restored.splits,
            finished: restored.finished,
            scope: scope.clone(),
        };
        let mut chain = factory.build(&mut build)?;
        chain.control(&mut Control::Open)?;
        Ok(Self {
            id,
            attempt,
            clock,
            cell,
            chain,
            gate: (!has_source).then(|| InputGate::new(inputs)),
            batch: None,
            at_rest: false,
            unflushed: true,
            phase: Phase::Reading,
            triggers: VecDeque::new(),
            newest: None,
            aborted: BTreeSet::new(),
            stop: false,
            storage,
            coordinator,
            scope,
        })
    }

    /// Takes a command from the mailbox. Nothing of the user's runs here, unless a checkpoint has ended.
    pub(super) fn command(&mut self, command: SubtaskCommand) -> Result {
        match command {
            SubtaskCommand::Stop => self.stop = true,
            SubtaskCommand::Trigger(barrier) => self.triggers.push_back(barrier),
            SubtaskCommand::Complete { checkpoint, last } => {
                self.chain.control(&mut Control::Complete(checkpoint))?;
                if last && self.phase == Phase::Ended {
                    self.phase = Phase::Leaving;
                }
            }
            SubtaskCommand::Aborted(checkpoint) => {
                if self.newest < Some(checkpoint) {
                    self.aborted.insert(checkpoint);
                }
                self.chain.control(&mut Control::Aborted(checkpoint))?;
            }
        }
        Ok(())
    }

    /// One turn: takes batches until there are none, no room, or no time.
    pub(super) fn turn(&mut self, task: &mut TaskContext<'_>) -> Result<Turn> {
        let result = self.steps(task);
        // Peers learn of everything at once, when the turn is over.
        self.chain.control(&mut Control::Notify)?;
        if let Some(gate) = &mut self.gate {
            gate.notify();
        }
        result
    }

    fn steps(&mut self, task: &mut TaskContext<'_>) -> Result<Turn> {
        let began = self.clock.elapsed();
        let mut batches = 0;
        loop {
            if self.stop {
                return Ok(Turn::Stopped);
            }
            if self.step(task)? {
                batches += 1;
                if batches >= BATCHES || self.clock.elapsed().saturating_sub(began) >= TURN {
                    // Commits are looked after even if the input never pauses.
                    let _ = self.chain.tend(task)?;
                    return Ok(Turn::Busy);
                }
                continue;
            }
            // Not before everything emitted is in the channels: what stalls would be lost with the subtask.
            if self.chain.tend(task)? && self.at_rest {
                match self.phase {
                    Phase::Preparing => {
                        self.chain.control(&mut Control::Complete(CheckpointId(0)))?;
                        self.phase = Phase::Leaving;
                        continue;
                    }
                    Phase::Leaving => return Ok(Turn::Finished),
                    Phase::Reading | Phase::Finishing | Phase::Ended => {}
                }
            }
            if std::mem::take(&mut self.unflushed) && self.at_rest {
                self.chain.control(&mut Control::Flush)?;
                self.at_rest = false;
                continue;
            }
            self.cell.fall_asleep(task.waker());
            if self.may_go_on(task)? {
                self.cell.stay_awake();
                continue;
            }
            return Ok(Turn::Idle);
        }
    }

    /// The second look before sleep.
    fn may_go_on(&mut self, task: &mut TaskContext<'_>) -> Result<bool> {
        if !self.at_rest {
            self.at_rest = self.chain.resume(task)? == Flow::Ready;
            return Ok(self.at_rest);
        }
        Ok(self.gate.as_ref().is_some_and(InputGate::has_event))
    }

    /// One step. `false`: nothing can be done at the moment.
    fn step(&mut self, task: &mut TaskContext<'_>) -> Result<bool> {
        if !self.at_rest {
            if self.chain.resume(task)? == Flow::Full {
                return Ok(false);
            }
            self.at_rest = true;
        }
        if let Some((channel, mut batch)) = self.batch.take() {
            self.take_batch(&mut batch)?;
            self.put_back(channel, batch);
            return Ok(true);
        }
        // Not amid `finish`: what it emitted would be in the checkpoint, that it ran would not.
        if self.phase != Phase::Finishing
            && let Some(barrier) = self.triggers.pop_front()
        {
            self.snapshot(barrier)?;
            return Ok(true);
        }
        match self.phase {
            Phase::Finishing => self.finish(),
            Phase::Reading | Phase::Ended if self.gate.is_some() => self.take_from_gate(),
            Phase::Reading => self.read(task),
            Phase::Ended | Phase::Preparing | Phase::Leaving => Ok(false),
        }
    }

    fn take_batch(&mut self, batch: &mut AnyBatch) -> Result {
        self.unflushed = true;
        self.at_rest = self.chain.on_batch(batch)? == Flow::Ready;
        Ok(())
    }

    /// A batch that did not go through keeps its rest for later; an empty one goes home.
    fn put_back(&mut self, channel: usize, batch: AnyBatch) {
        if !self.at_rest {
            self.batch = Some((channel, batch));
        } else if let Some(gate) = &mut self.gate {
            gate.give_back(channel, batch);
        }
    }

    fn take_from_gate(&mut self) -> Result<bool> {
        let Some(gate) = &mut self.gate else { return Ok(false) };
        match gate.poll() {
            GateEvent::Empty => return Ok(false),
            GateEvent::Batch { channel, mut batch } => {
                self.take_batch(&mut batch)?;
                self.put_back(channel, batch);
            }
            GateEvent::Snapshot(barrier) => self.snapshot(barrier)?,
            GateEvent::Aborted(checkpoint, reason) => {
                tracing::debug!(subtask = %self.id, %checkpoint, ?reason, "a checkpoint is not taken here");
                self.give_up(checkpoint)?;
            }
            GateEvent::Ended => self.phase = Phase::Finishing,
        }
        Ok(true)
    }

    fn read(&mut self, task: &mut TaskContext<'_>) -> Result<bool> {
        match self.chain.read(task)? {
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
        if self.chain.finish()? == Flow::Ready {
            self.chain.control(&mut Control::End)?;
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
    fn snapshot(&mut self, barrier: Barrier) -> Result {
        let checkpoint = barrier.checkpoint;
        if self.newest >= Some(checkpoint) || self.aborted.contains(&checkpoint) {
            return self.give_up(checkpoint);
        }
        self.reached(checkpoint);
        let Some(storage) = self.storage.clone() else {
            return Err(Error::new(ErrorKind::Internal, "a barrier in a job without checkpoints").into());
        };
        let mut snapshots: Vec<OperatorSnapshot> = Vec::new();
        self.chain.control(&mut Control::Snapshot { barrier, snapshots: &mut snapshots })?;
        self.at_rest = false;
        let (attempt, subtask) = (self.attempt, self.id);
        let finished = self.phase == Phase::Ended;
        let coordinator = self.coordinator.clone();
        let upload = self.scope.spawn(async move {
            snapshot::write(&storage, checkpoint, attempt, subtask, finished, snapshots).await
        });
        // A panic in the upload declines the checkpoint, like an error.
        drop(self.scope.spawn(async move {
            coordinator.do_send(match upload.await.and_then(|result| result) {
                Ok(snapshot) => {
                    CheckpointMessage::Ack { checkpoint, subtask, attempt, snapshot: Arc::new(snapshot) }
                }
                // A type that cannot be stored: no later checkpoint will store it.
                Err(error) if error.kind() == ErrorKind::Program => CheckpointMessage::Fatal(error),
                Err(error) => CheckpointMessage::Decline {
                    checkpoint,
                    subtask,
                    attempt,
                    reason: FailureReason::AsyncFailed { message: error.to_string().into() },
                },
            });
        }));
        Ok(())
    }

    fn reached(&mut self, checkpoint: CheckpointId) {
        self.newest = self.newest.max(Some(checkpoint));
        self.aborted.retain(|aborted| *aborted > checkpoint);
    }

    fn give_up(&mut self, checkpoint: CheckpointId) -> Result {
        self.reached(checkpoint);
        self.chain.control(&mut Control::Cancel(checkpoint))?;
        self.at_rest = false;
        Ok(())
    }

    /// Lets operators close, whatever state the chain is in.
    pub(super) fn close(&mut self) -> Result {
        self.chain.control(&mut Control::Close)
    }
}
