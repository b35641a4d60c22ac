//! How a chain is fused: stages push into each other, known to the compiler, and only the head is a trait object.

use super::{FieldsSnapshot, SinkSnapshot};
use crate::channel::{AnyBatch, Barrier, Flow};
use crate::error::{BoxError, Error, ErrorKind, Result};
use crate::state::StoreSnapshot;
use crate::types::{CheckpointId, OperatorId, Port};
use std::cell::RefCell;
use std::fmt;
use std::ops::ControlFlow;
use std::task::Context as TaskContext;
use std::time::Duration;

/// A stage of a chain: takes records, and passes on what it makes of them to the stage it owns.
pub trait Push<T>: 'static {
    /// Takes one record. [`Flow::Full`]: it *is* taken, but give no more until [`resume`](Self::resume) says ready.
    fn push(&mut self, record: T) -> Result<Flow>;

    /// Takes records as long as there are some and there is room. Stages that only transform hand a transformed iterator on, so that
    /// the loop is in the last stage, and the compiler sees the whole chain as its body.
    #[inline]
    fn push_all<I: Iterator<Item = T>>(&mut self, records: &mut I) -> Result<Flow> {
        push_each(records, |record| self.push(record))
    }

    /// Goes on after `Full`: the end of the chain first, then what this stage still holds. `Ready` means that the chain
    /// from here on is at rest: nothing suspended, everything emitted is in channels or buffers. When not ready, the task will be
    /// woken.
    fn resume(&mut self, task: &mut TaskContext<'_>) -> Result<Flow>;

    /// The input has ended: emit what is left. Called again after a `Full` was resumed, until ready.
    fn finish(&mut self) -> Result<Flow>;

    /// Looks after what runs on the pool (commits). `true` when nothing is outstanding. Once per turn.
    fn tend(&mut self, task: &mut TaskContext<'_>) -> Result<bool>;

    /// Passes a control through the chain. Always taken; `Snapshot`, `Cancel` and `End` only come when the chain is at rest.
    fn control(&mut self, control: &mut Control<'_>) -> Result;
}

/// Takes records one by one, as long as there are some and there is room. The iterator runs the loop: so a filter in it is an
/// `if` of one loop, not a loop of its own.
#[inline]
pub(crate) fn push_each<T>(
    records: &mut impl Iterator<Item = T>,
    mut push: impl FnMut(T) -> Result<Flow>,
) -> Result<Flow> {
    let stopped = records.try_for_each(|record| match push(record) {
        Ok(Flow::Ready) => ControlFlow::Continue(()),
        stopped => ControlFlow::Break(stopped),
    });
    stopped.break_value().unwrap_or(Ok(Flow::Ready))
}

/// What goes through a chain beside records.
#[derive(Debug)]
pub enum Control<'a> {
    /// Before the first record.
    Open,
    /// The input has run out for the moment: send what the buffers hold.
    Flush,
    /// A barrier is to overtake: what stalls for want of room in a channel may use the room that is kept there.
    MakeWay,
    /// Snapshot every operator and send the barrier on.
    Snapshot {
        /// The barrier.
        barrier: Barrier,
        /// Where operators put their snapshots.
        snapshots: &'a mut Vec<OperatorSnapshot>,
    },
    /// Send on that this checkpoint is not taken here.
    Cancel(CheckpointId),
    /// Send on that there are no more records.
    End {
        /// Whether a drain has ended them.
        drained: bool,
    },
    /// Sinks prepare, outside of a checkpoint: at the end of a job that takes none.
    Prepare(CheckpointId),
    /// This checkpoint is complete: commit what was prepared up to it.
    Complete {
        /// The checkpoint.
        checkpoint: CheckpointId,
        /// Whether it is the final one: no later one comes.
        last: bool,
    },
    /// This checkpoint was given up.
    Aborted(CheckpointId),
    /// The turn ends: wake the peers that sleep.
    Notify,
    /// Nothing goes on here: who waits for the outside world for at least so long?
    WhoWaits(&'a mut WhoWaits),
    /// After the last record, before the operators are dropped; also after an error.
    Close,
}

/// Who waits for the outside world.
#[derive(Debug, Default)]
pub struct WhoWaits {
    /// What lasts no longer than that is of no interest.
    pub limit: Duration,
    /// For how long nothing has gone in or out of the subtask.
    pub still: Duration,
    /// Which operators, for what, and for how long.
    pub found: Vec<(OperatorId, &'static str, Duration)>,
}

/// What one operator gives to a checkpoint at a barrier.
#[derive(Debug)]
pub struct OperatorSnapshot {
    /// Its uid.
    pub operator: OperatorId,
    /// Its states, frozen.
    pub states: StoreSnapshot,
    /// What a sink is still preparing.
    pub sink: Option<SinkSnapshot>,
    /// The fields of its instance.
    pub fields: Option<FieldsSnapshot>,
}

/// One subtask's operators, fused: the only trait object on the data path.
pub trait Chain {
    /// Takes records out of a batch that came to `port`. On [`Flow::Full`] the rest stays in it: call again after a resume.
    fn on_batch(&mut self, port: Port, batch: &mut AnyBatch) -> Result<Flow>;

    /// Reads from the source at the head, if there is one: at most `limit` records.
    fn read(&mut self, task: &mut TaskContext<'_>, limit: usize) -> Result<Read>;

    /// See [`Push::resume`].
    fn resume(&mut self, task: &mut TaskContext<'_>) -> Result<Flow>;

    /// See [`Push::finish`].
    fn finish(&mut self) -> Result<Flow>;

    /// See [`Push::tend`].
    fn tend(&mut self, task: &mut TaskContext<'_>) -> Result<bool>;

    /// See [`Push::control`].
    fn control(&mut self, control: &mut Control<'_>) -> Result;
}

impl fmt::Debug for dyn Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Chain")
    }
}

/// What reading a source gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// Some records; there may be more at once.
    More,
    /// Some records, and now the chain is full.
    Full,
    /// Nothing at hand; the task will be woken.
    Waiting,
    /// Nothing ever again.
    Ended,
}

/// What a stage without a state of its own does with everything but records: it passes it on.
macro_rules! pass_on {
    () => {
        fn resume(&mut self, task: &mut TaskContext<'_>) -> Result<Flow> {
            self.down.resume(task)
        }

        fn finish(&mut self) -> Result<Flow> {
            self.down.finish()
        }

        fn tend(&mut self, task: &mut TaskContext<'_>) -> Result<bool> {
            self.down.tend(task)
        }

        fn control(&mut self, control: &mut Control<'_>) -> Result {
            self.down.control(control)
        }
    };
}
pub(super) use pass_on;

thread_local! {
    /// What the innermost code that unwound belongs to; `Some(None)` for plain stages of a chain without operators before them.
    static BLAMED: RefCell<Option<Option<OperatorId>>> = const { RefCell::new(None) };
}

/// What is said of an operator whose code, or that of plain stages after it, gave an error.
pub(super) const FAILED: &str = "an operator, or a plain stage after it, failed";

/// Runs code of the operator `id`. An error or a panic in it is put down to that operator, unless an operator further down the
/// chain has already been named. `what` says what was being done. Costs nothing while all is well.
#[inline]
pub(crate) fn in_operator<T>(
    id: &OperatorId,
    what: &str,
    code: impl FnOnce() -> Result<T>,
) -> Result<T, Error> {
    blaming(id, code).map_err(|cause| failed(id, what, cause))
}

/// Runs code of a plain stage. A panic in it is put down to the operator before it, if there is one in its chain. Later stages pull
/// their records through earlier ones, so each says for itself whose code it runs.
#[inline]
pub(super) fn blaming<T>(owner: &impl Blamed, code: impl FnOnce() -> T) -> T {
    let blame = Blame(owner);
    let result = code();
    std::mem::forget(blame);
    result
}

#[cold]
fn failed(id: &OperatorId, what: &str, cause: BoxError) -> Error {
    Error::from_cause(ErrorKind::Failed, what, cause).operator(id)
}

/// The operator whose code panicked last on this thread: the innermost one that unwound.
pub(crate) fn take_blamed() -> Option<OperatorId> {
    BLAMED.take().flatten()
}

/// What a panic is put down to. Asked only when there is one: until then nothing is loaded, not even whether there is an operator.
pub(super) trait Blamed {
    fn operator(&self) -> Option<&OperatorId>;
}

impl Blamed for OperatorId {
    fn operator(&self) -> Option<&OperatorId> {
        Some(self)
    }
}

impl Blamed for Option<OperatorId> {
    fn operator(&self) -> Option<&OperatorId> {
        self.as_ref()
    }
}

/// Knows which operator runs, in case it panics.
struct Blame<'a, B: Blamed>(&'a B);

impl<B: Blamed> Drop for Blame<'_, B> {
    // By value to a function that is never inlined: so the guard needs no memory while all is well.
    #[inline]
    fn drop(&mut self) {
        blame(self.0);
    }
}

#[cold]
#[inline(never)]
fn blame(owner: &impl Blamed) {
    if std::thread::panicking() {
        BLAMED.with_borrow_mut(|blamed| {
            blamed.get_or_insert_with(|| owner.operator().cloned());
        });
    }
}
