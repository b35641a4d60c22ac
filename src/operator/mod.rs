//! What users implement: operators, sources and sinks; and how a chain of them is fused.

mod all_keys;
mod branch;
mod build;
mod checkpointed;
mod claim;
mod commit_retries;
mod context;
mod edge;
mod ends;
mod errors;
mod head;
mod inputs;
mod keyed;
mod output;
mod parts;
mod process;
mod side;
mod sink;
mod sink_stage;
mod source;
mod source_head;
mod stage;
mod stages;
mod subtask_context;
mod traits;
pub(crate) mod two_phase;

pub use branch::{SplitStage, TeeStage};
pub use build::{BuildContext, Setup};
pub use checkpointed::{Checkpointed, CheckpointedAsync, Fields, FieldsSnapshot, Instance};
pub use claim::{Claim, StartContext};
pub use commit_retries::CommitRetries;
pub use context::{BroadcastContext, Context, Core, OperatorContext, Unkeyed};
pub use edge::{EdgeHead, RouteStage};

pub use ends::{AnySink, AnySource, SinkEnd, SourceEnd};
pub use errors::{DeadLetter, ErrorPolicy};
pub use head::OperatorHead;
pub use inputs::{BroadcastInput, Inputs, PlainInput, PortList};
pub use keyed::KeyedInput;
pub use output::Output;
pub use parts::Made;
pub use process::ProcessStage;
pub use side::{OutputTag, SideAccess, SideOutput, Sides, TakenSide};
pub use sink::{BoxFuture, Preparation, RecoveryContext, Sink, SinkWriter};
pub use sink_stage::{COMMITS_STATE, OPEN_STATE, SinkSnapshot, SinkStage};
pub use source::{Replay, Source, SourceReader};
pub use source_head::{SPLITS_STATE, SourceHead};
pub use stage::{Chain, Control, OperatorSnapshot, Push, Read, WhoWaits};
pub(crate) use stage::{in_operator, take_blamed};
pub use stages::{FilterMapStage, FilterStage, FlatMapStage, InspectStage, MapStage, TryMapStage};
pub use subtask_context::SubtaskContext;
pub use traits::{BroadcastHandler, Handler, Operator};
pub(crate) use two_phase::two_phase_sink;
pub use two_phase::{
    OpenTransaction, TransactionContext, TransactionTimeout, TransactionWriter, TwoPhase, TwoPhaseCommit,
};
