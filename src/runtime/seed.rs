//! What a subtask grows from.

use super::messages::CheckpointMessage;
use super::restore::RestoredSubtask;
use super::wiring::Ends;
use crate::checkpoint::CheckpointingMode;
use crate::dataflow::ChainFactory;
use crate::metrics::SubtaskHandles;
use crate::operator::SubtaskContext;
use crate::pool::Scope;
use crate::storage::OwnedJob;
use crate::types::{Attempt, CheckpointId, Clock, MaxParallelism, OperatorId, SubtaskId};
use actix::Recipient;
use tracing::Span;

/// Everything a subtask is made of; sent to the thread where it will run.
pub(super) struct SubtaskSeed {
    pub(super) id: SubtaskId,
    pub(super) attempt: Attempt,
    pub(super) clock: Clock,
    pub(super) ends: Ends,
    pub(super) factory: Box<dyn ChainFactory>,
    pub(super) restored: RestoredSubtask,
    /// The checkpoint that the attempt begins from.
    pub(super) from: Option<CheckpointId>,
    pub(super) has_source: bool,
    pub(super) mode: CheckpointingMode,
    pub(super) context: ChainContext,
    pub(super) storage: Option<OwnedJob>,
    pub(super) coordinator: Recipient<CheckpointMessage>,
    pub(super) scope: Scope,
    /// The span of the job.
    pub(super) span: Span,
    pub(super) counters: SubtaskHandles,
}

/// What the subtasks of a chain have in common.
#[derive(Debug, Clone)]
pub(super) struct ChainContext {
    /// The context of one of them; each sets its own index, each operator its own uid.
    pub(super) subtask: SubtaskContext,
    pub(super) max_parallelism: MaxParallelism,
    /// How many bytes of a keyed state may wait for a snapshot.
    pub(super) snapshot_memory: u64,
    /// For errors that no operator is known for.
    pub(super) name: OperatorId,
}
