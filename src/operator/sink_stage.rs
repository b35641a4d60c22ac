//! The end of a chain: a sink, its writer, and the ledger of what it has prepared and not yet committed.

use super::commit_retries;
use super::stage::in_operator;
use super::{Control, OperatorSnapshot, Preparation, Push, Sink, SinkWriter};
use crate::channel::Flow;
use crate::checkpoint::metadata::{Distribution, StateSchema};
use crate::error::{BoxError, Error, ErrorKind, Result};
use crate::metrics::OperatorCounters;
use crate::pool::{Scope, Task};
use crate::state::{ListSnapshot, StoreSnapshot, codec};
use crate::types::{CheckpointId, Clock, Monotonic, OperatorId};
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as TaskContext, Poll};
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::Instrument;

/// What is said of a sink whose code gave an error.
const FAILED: &str = "a sink failed";

/// The name under which a sink's pending commits are kept.
pub const COMMITS_STATE: &str = "commits";

/// The name under which is kept what its writers have begun and not prepared.
pub const OPEN_STATE: &str = "open-transactions";

/// What a checkpoint says about a sink's commits.
#[must_use]
pub fn commits_schema() -> StateSchema {
    schema("sink-commits")
}

fn schema(kind: &str) -> StateSchema {
    StateSchema { kind: kind.into(), key: String::new(), value: String::new() }
}

/// What a sink still prepares for a checkpoint: its pending commits, once it has, and what is open.
#[derive(Debug)]
pub struct SinkSnapshot(oneshot::Receiver<Result<Vec<ListSnapshot>, Error>>);

impl SinkSnapshot {
    /// Waits for the sink.
    ///
    /// # Errors
    /// When it failed to prepare; its subtask fails, too.
    pub async fn wait(self) -> Result<Vec<ListSnapshot>, Error> {
        match self.0.await {
            Ok(result) => result,
            Err(_) => Err(Error::new(ErrorKind::Failed, "a sink stopped preparing")),
        }
    }
}

/// Commits by the checkpoint they were prepared for. A checkpoint holds all of them that are not yet known to be committed, so one
/// that was given up is made up for by the next.
#[derive(Debug)]
struct Ledger<C> {
    pending: BTreeMap<CheckpointId, Vec<C>>,
    failure: Option<Error>,
}

type SharedLedger<C> = Arc<Mutex<Ledger<C>>>;

fn open<C>(ledger: &SharedLedger<C>) -> std::sync::MutexGuard<'_, Ledger<C>> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes records, prepares at barriers, commits on completion.
pub struct SinkStage<T, S: Sink<T>> {
    id: OperatorId,
    sink: S,
    writer: Writer<S::Writer>,
    /// Whether something was written since the last flush.
    dirty: bool,
    /// Whether the input has ended.
    ended: bool,
    /// What the writer has begun and not prepared.
    open: Vec<S::Commit>,
    scope: Scope,
    clock: Clock,
    /// Ends the wait for another try to commit when the stage is gone.
    closed: DropGuard,
    ledger: SharedLedger<S::Commit>,
    /// The newest preparation. Each waits for the one before it, so the ledger fills in order.
    preparing: Option<Task<()>>,
    last_prepared: Option<oneshot::Receiver<()>>,
    /// The newest checkpoint known to be complete and not yet committed, and whether it is the final one.
    wanted: Option<(CheckpointId, bool)>,
    committing: Option<Committing<S::Commit>>,
    /// Records taken since they were last published.
    taken: u64,
    counters: Arc<OperatorCounters>,
}

/// A commit that runs.
struct Committing<C> {
    /// Up to this checkpoint.
    checkpoint: CheckpointId,
    /// Whether it is the final one.
    last: bool,
    began: Monotonic,
    /// Gives what it leaves.
    task: Task<Result<Vec<C>>>,
}

enum Writer<W> {
    Here(W),
    Flushing(LocalBoxFuture<'static, (W, Result)>),
    Gone,
}

impl<T: 'static, S: Sink<T>> SinkStage<T, S> {
    /// A stage that writes with `writer`. Preparations and commits run in `scope`, by this clock.
    pub fn new(
        id: OperatorId,
        sink: S,
        writer: S::Writer,
        (scope, clock): (Scope, Clock),
        counters: Arc<OperatorCounters>,
    ) -> Self {
        Self {
            clock,
            closed: CancellationToken::new().drop_guard(),
            id,
            sink,
            open: writer.open(),
            writer: Writer::Here(writer),
            dirty: false,
            ended: false,
            scope,
            ledger: Arc::new(Mutex::new(Ledger { pending: BTreeMap::new(), failure: None })),
            preparing: None,
            last_prepared: None,
            wanted: None,
            committing: None,
            taken: 0,
            counters,
        }
    }

    fn flush(&mut self) {
        if !std::mem::take(&mut self.dirty) {
            return;
        }
        if let Writer::Here(mut writer) = std::mem::replace(&mut self.writer, Writer::Gone) {
            self.writer = Writer::Flushing(Box::pin(async move {
                let result = writer.flush().await;
                (writer, result)
            }));
        }
    }

    fn poll_flush(&mut self, task: &mut TaskContext<'_>) -> Result<Flow> {
        let Writer::Flushing(flushing) = &mut self.writer else { return Ok(Flow::Ready) };
        match flushing.as_mut().poll(task) {
            Poll::Pending => Ok(Flow::Full),
            Poll::Ready((writer, result)) => {
                self.writer = Writer::Here(writer);
                result?;
                Ok(Flow::Ready)
            }
        }
    }

    /// Begins to prepare what was written so far, for `checkpoint`. It runs to its end whatever becomes of the checkpoint.
    fn prepare(&mut self, checkpoint: CheckpointId) -> Result<SinkSnapshot> {
        let Writer::Here(writer) = &mut self.writer else { return Err(lost(&self.id)) };
        self.dirty = false;
        let preparation = writer.prepare_for(Preparation { checkpoint, is_last: self.ended })?;
        self.open = writer.open();
        let open = self.open.clone();
        let ledger = Arc::clone(&self.ledger);
        let id = self.id.clone();
        let before = self.last_prepared.take();
        let (prepared, last_prepared) = oneshot::channel();
        let (result, snapshot) = oneshot::channel();
        self.last_prepared = Some(last_prepared);
        self.preparing = Some(self.scope.spawn(async move {
            if let Some(before) = before {
                let _ = before.await;
            }
            let outcome = std::panic::AssertUnwindSafe(preparation).catch_unwind().await;
            let outcome = outcome.unwrap_or_else(|panic| {
                Err(format!("panicked while preparing: {}", crate::pool::panic_message(&*panic)).into())
            });
            let _ = result.send(record_prepared(&ledger, checkpoint, outcome, &open, &id));
            drop(prepared);
        }));
        Ok(SinkSnapshot(snapshot))
    }

    /// The subtask stops: what is open is thrown away.
    fn close(&mut self) {
        // Whatever it is amid of.
        self.writer = Writer::Gone;
        let open = std::mem::take(&mut self.open);
        if open.is_empty() {
            return;
        }
        let (id, sink) = (self.id.clone(), self.sink.clone());
        drop(self.scope.spawn(async move {
            if let Err(error) = sink.discard(open).await {
                tracing::warn!(operator = %id, %error, "a sink could not throw away what it had open");
            }
        }));
    }

    fn tend_commits(&mut self, task: &mut TaskContext<'_>) -> Result<bool> {
        let preparing = match &mut self.preparing {
            Some(preparing) => match preparing.poll_unpin(task) {
                Poll::Pending => true,
                Poll::Ready(result) => {
                    self.preparing = None;
                    result?;
                    false
                }
            },
            None => false,
        };
        if let Some(failure) = open(&self.ledger).failure.clone() {
            return Err(failure.into());
        }
        loop {
            if let Some(Committing { checkpoint, last, task: commit, .. }) = &mut self.committing {
                let (checkpoint, last) = (*checkpoint, *last);
                match commit.poll_unpin(task) {
                    Poll::Pending => return Ok(false),
                    Poll::Ready(result) => {
                        self.committing = None;
                        let rest = result??;
                        if last && !rest.is_empty() {
                            let what = "what it was given last cannot be committed now, and no later checkpoint comes";
                            return Err(Error::new(ErrorKind::Failed, what).operator(&self.id).into());
                        }
                        let mut ledger = open(&self.ledger);
                        ledger.pending.retain(|prepared, _| *prepared > checkpoint);
                        if !rest.is_empty() {
                            ledger.pending.insert(checkpoint, rest);
                        }
                    }
                }
            }
            // One commit at a time, and all of a checkpoint's in one: so they happen in order of ids.
            let Some((checkpoint, last)) = self.wanted.take() else { return Ok(!preparing) };
            let commits: Vec<S::Commit> = open(&self.ledger)
                .pending
                .range(..=checkpoint)
                .flat_map(|(_, commits)| commits.iter().cloned())
                .collect();
            if !commits.is_empty() {
                let (operator, count) = (&self.id, commits.len());
                let commit = commit_retries::commit(
                    self.sink.clone(),
                    commits,
                    self.id.clone(),
                    self.clock,
                    self.closed.token().clone(),
                );
                let span =
                    tracing::info_span!("commit", %operator, checkpoint = checkpoint.0, commits = count);
                let task = self.scope.spawn(commit.instrument(span));
                self.committing = Some(Committing { checkpoint, last, began: self.clock.now(), task });
            }
        }
    }
}

fn lost(id: &OperatorId) -> BoxError {
    Error::new(ErrorKind::Internal, "a sink was given a record while it was flushing").operator(id).into()
}

/// Enters what was prepared, and returns everything a checkpoint must now hold.
fn record_prepared<C: serde::Serialize>(
    ledger: &SharedLedger<C>,
    checkpoint: CheckpointId,
    outcome: Result<Vec<C>>,
    begun: &[C],
    id: &OperatorId,
) -> Result<Vec<ListSnapshot>, Error> {
    let mut ledger = open(ledger);
    if let Some(failure) = &ledger.failure {
        return Err(failure.clone());
    }
    let elements = outcome.and_then(|commits| {
        if !commits.is_empty() {
            ledger.pending.entry(checkpoint).or_default().extend(commits);
        }
        let all = ledger.pending.values().flatten();
        let all = all.map(codec::encode).collect::<Result<Vec<_>, _>>()?;
        Ok((all, begun.iter().map(codec::encode).collect::<Result<Vec<_>, _>>()?))
    });
    match elements {
        Ok((commits, begun)) => {
            let list = |name: &str, schema, elements| ListSnapshot {
                name: name.into(),
                schema,
                distribution: Distribution::Split,
                elements,
            };
            let mut lists = vec![list(COMMITS_STATE, commits_schema(), commits)];
            if !begun.is_empty() {
                lists.push(list(OPEN_STATE, schema("open-transactions"), begun));
            }
            Ok(lists)
        }
        Err(cause) => {
            // What was written is gone for this run: no later checkpoint may pretend otherwise.
            let failure = Error::from_cause(ErrorKind::Failed, "a sink failed to prepare its output", cause)
                .operator(id)
                .checkpoint(checkpoint);
            ledger.failure = Some(failure.clone());
            Err(failure)
        }
    }
}

impl<T: 'static, S: Sink<T>> Push<T> for SinkStage<T, S> {
    #[inline]
    fn push(&mut self, record: T) -> Result<Flow> {
        self.push_all(&mut std::iter::once(record))
    }

    #[inline]
    fn push_all<I: Iterator<Item = T>>(&mut self, records: &mut I) -> Result<Flow> {
        let Self { id, writer, dirty, taken, .. } = self;
        let Writer::Here(writer) = writer else { return Err(lost(id)) };
        // In a local: a count in memory would keep the compiler from making the loop free of branches.
        let mut given = 0;
        let mut records = records.inspect(|_| given += 1);
        // A writer that stopped early is asked again: what was given to it must not be lost.
        let is_full = loop {
            let Some(first) = records.next() else { break Ok(false) };
            *dirty = true;
            let is_full = in_operator(id, FAILED, || {
                writer.write(first)?;
                if !writer.is_full() {
                    writer.write_all(&mut records)?;
                }
                Ok(writer.is_full())
            });
            if !matches!(is_full, Ok(false)) {
                break is_full;
            }
        };
        *taken += given;
        if !is_full? {
            return Ok(Flow::Ready);
        }
        self.flush();
        Ok(Flow::Full)
    }

    fn resume(&mut self, task: &mut TaskContext<'_>) -> Result<Flow> {
        let id = self.id.clone();
        Ok(in_operator(&id, FAILED, || self.poll_flush(task))?)
    }

    fn finish(&mut self) -> Result<Flow> {
        Ok(Flow::Ready)
    }

    fn tend(&mut self, task: &mut TaskContext<'_>) -> Result<bool> {
        let id = self.id.clone();
        Ok(in_operator(&id, FAILED, || self.tend_commits(task))?)
    }

    fn control(&mut self, control: &mut Control<'_>) -> Result {
        let id = self.id.clone();
        in_operator(&id, FAILED, || match control {
            Control::Snapshot { barrier, snapshots } => self.prepare(barrier.checkpoint).map(|sink| {
                let states = StoreSnapshot { keyed: Vec::new(), lists: Vec::new() };
                snapshots.push(OperatorSnapshot {
                    operator: id.clone(),
                    states,
                    sink: Some(sink),
                    fields: None,
                });
            }),
            Control::Prepare(checkpoint) => self.prepare(*checkpoint).map(drop),
            Control::Complete { checkpoint, last } => {
                self.wanted = self.wanted.max(Some((*checkpoint, *last)));
                Ok(())
            }
            // Output that waits for more of it should not wait long.
            Control::Flush => {
                self.flush();
                Ok(())
            }
            Control::Close => {
                self.counters.records_in.add(std::mem::take(&mut self.taken));
                self.close();
                Ok(())
            }
            Control::End { .. } => {
                self.ended = true;
                Ok(())
            }
            Control::Notify => {
                self.counters.records_in.add(std::mem::take(&mut self.taken));
                Ok(())
            }
            Control::WhoWaits(who) => {
                if matches!(self.writer, Writer::Flushing(_)) {
                    who.found.push((id.clone(), "its flush", who.still));
                }
                if let Some(Committing { began, .. }) = &self.committing {
                    let lasts = self.clock.now().since(*began);
                    if lasts >= who.limit {
                        who.found.push((id.clone(), "its commit", lasts));
                    }
                }
                Ok(())
            }
            Control::Open | Control::MakeWay | Control::Cancel(_) | Control::Aborted(_) => Ok(()),
        })?;
        Ok(())
    }
}

impl<T, S: Sink<T>> fmt::Debug for SinkStage<T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SinkStage").field("operator", &self.id).finish_non_exhaustive()
    }
}
