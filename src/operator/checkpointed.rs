//! Fields of an operator's instance that go into checkpoints.

use super::{BoxFuture, Operator};
use crate::channel::Barrier;
use crate::checkpoint::metadata::{Distribution, StateSchema};
use crate::error::{Error, ErrorKind, Result};
use crate::pool::panic_message;
use crate::state::{ListSnapshot, StateStore, codec, schema};
use crate::types::{CheckpointId, OperatorId, Timestamp};
use futures::FutureExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::panic::AssertUnwindSafe;

/// The name under which the fields of an instance are kept.
const FIELDS_STATE: &str = "instance-fields";

/// An operator whose plain fields are in every checkpoint (Flink's `Checkpointed`). Register it with
/// [`Stream::checkpointed`](crate::Stream::checkpointed): that the trait is implemented is not enough.
///
/// The value belongs to one parallel instance. It cannot be dealt out anew, so a job with such an operator can only go on with
/// the parallelism it had; what is to move with keys, or between subtasks, belongs into [`state`](crate::state). Use it for what is
/// small and there once per subtask: a counter, a random generator, a connection's position.
///
/// ```
/// use strandline::prelude::*;
/// use strandline::types::{CheckpointId, Timestamp};
///
/// /// Numbers the records that come to it.
/// #[derive(Default)]
/// struct Numbered {
///     next: u64,
/// }
///
/// impl Operator for Numbered {
///     type Key = Unkeyed;
///     type Out = (u64, char);
/// }
///
/// impl Handler<char> for Numbered {
///     fn handle(&mut self, record: char, ctx: &mut Context<'_, Self>) -> Result {
///         ctx.emit((self.next, record));
///         self.next += 1;
///         Ok(())
///     }
/// }
///
/// impl Checkpointed for Numbered {
///     type State = u64;
///
///     fn snapshot(&mut self, _: CheckpointId, _: Timestamp) -> Result<u64> {
///         Ok(self.next)
///     }
///
///     fn restore(&mut self, next: u64) -> Result {
///         self.next = next;
///         Ok(())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result {
/// # let env = Environment::builder().parallelism(1).build()?;
/// # let out = Collect::new();
/// env.source("letters", Iter::new('a'..'c'))
///     .process("numbered", |_| Ok(Numbered::default()))
///     .checkpointed()
///     .sink("out", out.clone());
/// # env.execute("checkpointed").await?;
/// # assert_eq!(out.records(), [(0, 'a'), (1, 'b')]);
/// # Ok(())
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "the fields of operator `{Self}` cannot be checkpointed",
    note = "write `impl Checkpointed for {Self}`, with what its snapshot is and how it is restored"
)]
pub trait Checkpointed: Operator {
    /// What is stored, in postcard's form: see [`StateValue`](crate::StateValue) for what that rules out.
    type State: Serialize + DeserializeOwned + 'static;

    /// At the barrier of a checkpoint, between two records: what the fields are now. `timestamp` is the wall time of the trigger. It is encoded
    /// before the next record. An error fails the subtask, and the job restarts.
    fn snapshot(&mut self, checkpoint: CheckpointId, timestamp: Timestamp) -> Result<Self::State>;

    /// Before [`open`](Operator::open), if the job begins from a checkpoint that has it; else it is not called at all. An error fails the
    /// subtask.
    fn restore(&mut self, state: Self::State) -> Result;
}

/// The same for what takes long to write down (Flink's `CheckpointedAsynchronously`): the snapshot is a future, run on the job's pool while the
/// operator already takes the next records. Register it with [`Stream::checkpointed_async`](crate::Stream::checkpointed_async), instead
/// of [`checkpointed`](crate::Stream::checkpointed).
pub trait CheckpointedAsync: Operator {
    /// See [`Checkpointed::State`].
    type State: Serialize + DeserializeOwned + Send + 'static;

    /// See [`Checkpointed::snapshot`]. Take a copy here of what the future needs, for the fields change while it runs. An error here fails the
    /// subtask; an error or a panic in the future only declines the checkpoint, and counts against
    /// [`tolerable_failures`](crate::Checkpointing::tolerable_failures). It is dropped unfinished when the checkpoint is given up.
    fn snapshot(
        &mut self,
        checkpoint: CheckpointId,
        timestamp: Timestamp,
    ) -> Result<BoxFuture<Result<Self::State>>>;

    /// See [`Checkpointed::restore`].
    fn restore(&mut self, state: Self::State) -> Result;
}

/// How the fields of an operator are snapshotted and restored, for one that is registered.
pub struct Fields<O: Operator> {
    snapshot: fn(&mut O, Barrier) -> Result<FieldsSnapshot>,
    restore: fn(&mut O, &mut StateStore<O::Key>, Instance) -> Result,
}

/// Which instance of an operator.
#[derive(Debug, Clone, Copy)]
pub struct Instance {
    /// From 0.
    pub subtask: u32,
    /// How many there are.
    pub parallelism: u32,
}

impl<O: Operator> Clone for Fields<O> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<O: Operator> Copy for Fields<O> {}

impl<O: Operator> fmt::Debug for Fields<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fields")
    }
}

impl<O: Operator> Fields<O> {
    /// Of an operator whose snapshot is a value.
    #[must_use]
    pub fn sync() -> Self
    where
        O: Checkpointed,
    {
        Self {
            snapshot: |operator, barrier| {
                let state = operator.snapshot(barrier.checkpoint, barrier.triggered)?;
                let element = codec::encode(&state)?;
                let list = list::<O::State>(element);
                Ok(FieldsSnapshot(Box::pin(std::future::ready(Ok(list)))))
            },
            restore: |operator, store, instance| {
                restored::<O::State, _>(store, instance)?.map_or(Ok(()), |state| operator.restore(state))
            },
        }
    }

    /// Of an operator whose snapshot is a future.
    #[must_use]
    pub fn asynchronous() -> Self
    where
        O: CheckpointedAsync,
    {
        Self {
            snapshot: |operator, barrier| {
                let state = operator.snapshot(barrier.checkpoint, barrier.triggered)?;
                Ok(FieldsSnapshot(Box::pin(
                    async move { Ok(list::<O::State>(codec::encode(&state.await?)?)) },
                )))
            },
            restore: |operator, store, instance| {
                restored::<O::State, _>(store, instance)?.map_or(Ok(()), |state| operator.restore(state))
            },
        }
    }

    /// At a barrier.
    pub(super) fn snapshot(&self, operator: &mut O, barrier: Barrier) -> Result<FieldsSnapshot> {
        (self.snapshot)(operator, barrier)
    }

    /// Gives an instance what the checkpoint holds for it.
    pub(crate) fn restore(
        &self,
        operator: &mut O,
        store: &mut StateStore<O::Key>,
        instance: Instance,
    ) -> Result {
        (self.restore)(operator, store, instance)
    }
}

fn schema<T: DeserializeOwned>() -> StateSchema {
    schema::list::<T>("instance-fields")
}

/// Every subtask is given the fields of all, so that it knows how many there were.
fn list<T: DeserializeOwned>(element: Vec<u8>) -> ListSnapshot {
    let (name, schema) = (FIELDS_STATE.to_owned(), schema::<T>());
    ListSnapshot { name, schema, distribution: Distribution::Union, elements: vec![element] }
}

/// The fields of this instance, if there were any.
fn restored<T: DeserializeOwned, K>(
    store: &mut StateStore<K>,
    instance: Instance,
) -> Result<Option<T>, Error> {
    let mut all = store.restore_list::<T, Vec<T>>(FIELDS_STATE, &schema::<T>())?;
    let Instance { subtask, parallelism } = instance;
    match all.len() {
        0 => Ok(None),
        stored if stored == parallelism as usize => Ok(Some(all.swap_remove(subtask as usize))),
        stored => {
            let message = format!(
                "the checkpoint holds the fields of {stored} instances of the operator, and it has {parallelism} now: fields belong \
                 to one instance and cannot be dealt out anew. Give it `.parallelism({stored})`, or keep what is to move in keyed state or a \
                 split list"
            );
            Err(Error::new(ErrorKind::Configuration, message))
        }
    }
}

/// The fields of one instance at a barrier, still being written down.
pub struct FieldsSnapshot(BoxFuture<Result<ListSnapshot>>);

impl FieldsSnapshot {
    /// Waits for the operator.
    ///
    /// # Errors
    /// What its code says, or its panic; names the operator.
    pub async fn wait(self, id: &OperatorId) -> Result<ListSnapshot, Error> {
        let result = AssertUnwindSafe(self.0).catch_unwind().await;
        let result = result.unwrap_or_else(|panic| {
            Err(format!("panicked while its fields were stored: {}", panic_message(&*panic)).into())
        });
        result.map_err(|cause| {
            Error::from_cause(ErrorKind::Failed, "the fields of an operator could not be stored", cause)
                .operator(id)
        })
    }
}

impl fmt::Debug for FieldsSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FieldsSnapshot")
    }
}
