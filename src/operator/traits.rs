//! The traits that users write operators with.

use super::{BroadcastContext, Context, OperatorContext};
use crate::error::Result;
use crate::types::CheckpointId;

/// An operator with states, one instance per subtask.
///
/// An instance is made by the factory given to `process`, for each subtask and again after every restart, and lives on one
/// thread, so it need not be `Send`. What is to survive a restart belongs into states declared in the factory; plain fields begin
/// afresh, unless they are [checkpointed](crate::Checkpointed). Write one [`Handler`] for each type of record it takes.
pub trait Operator: Sized + 'static {
    /// The key its input is partitioned by; [`Unkeyed`](super::Unkeyed) for an operator on a plain stream.
    type Key: 'static;
    /// What it emits.
    type Out: 'static;

    /// Before the first record, after the states were restored.
    fn open(&mut self, ctx: &mut OperatorContext<'_, Self>) -> Result {
        let _ = ctx;
        Ok(())
    }

    /// All inputs have ended for good: emit what is left. Not called when the job stops before its end. Each key's state is out of
    /// reach here. After a restore from a checkpoint in which all of its subtasks had finished it is not called again; after one in which only
    /// some had, it is, with the restored state: so clear here what you emit from.
    fn finish(&mut self, ctx: &mut OperatorContext<'_, Self>) -> Result {
        let _ = ctx;
        Ok(())
    }

    /// A checkpoint is complete: whatever this operator did up to its barrier is durable. Best effort: a notification may be
    /// missing, and a later one stands for all before it. An error fails the subtask when all operators of its chain were told; a panic fails
    /// it at once, and those before this one in the chain are told of a later checkpoint instead.
    fn on_complete(&mut self, checkpoint: CheckpointId) -> Result {
        let _ = checkpoint;
        Ok(())
    }

    /// A checkpoint was given up. Best effort; a later checkpoint may still contain what this one would have.
    fn on_aborted(&mut self, checkpoint: CheckpointId) -> Result {
        let _ = checkpoint;
        Ok(())
    }

    /// The subtask ends, for whatever reason. Errors are logged.
    fn close(&mut self) -> Result {
        Ok(())
    }
}

/// What an operator does with a record of type `In`.
///
/// Not async and never blocking: other subtasks share its thread. Put `#[inline]` on the implementation where speed
/// matters: it lets the compiler fuse it into the engine's loop.
#[diagnostic::on_unimplemented(
    message = "operator `{Self}` has no handler for records of type `{In}`",
    label = "the stream carries `{In}`",
    note = "write `impl Handler<{In}> for {Self}`, or `.map` the stream to a type that it handles"
)]
pub trait Handler<In>: Operator {
    /// Takes one record. After an error nothing of what this call emitted leaves the subtask; the job restarts from the last
    /// completed checkpoint, by its restart strategy, unless the operator has an [error policy](crate::Stream::skip_errors).
    fn handle(&mut self, record: In, ctx: &mut Context<'_, Self>) -> Result;
}

/// What an operator does with a record of type `In` that every subtask is given: see
/// [`KeyedStream::connect_broadcast`](crate::KeyedStream::connect_broadcast).
///
/// What it writes into [`BroadcastState`](crate::state::BroadcastState) must depend on nothing but the broadcast records, so
/// that it is the same in every subtask.
#[diagnostic::on_unimplemented(
    message = "operator `{Self}` has no handler for broadcast records of type `{In}`",
    label = "the broadcast stream carries `{In}`",
    note = "write `impl BroadcastHandler<{In}> for {Self}`, or `.map` the stream, before `.broadcast()`, to a type that it handles"
)]
pub trait BroadcastHandler<In>: Operator {
    /// Takes one record. For errors see [`Handler::handle`].
    fn handle_broadcast(&mut self, record: In, ctx: &mut BroadcastContext<'_, Self>) -> Result;
}
