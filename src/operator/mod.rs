//! What users implement: operators, sources and sinks; and how a chain of them is fused.

mod build;
mod context;
mod edge;
mod ends;
mod keyed;
mod output;
mod parts;
mod process;
mod sink;
mod sink_stage;
mod source;
mod source_head;
mod stage;
mod stages;
mod subtask_context;
mod traits;

pub use build::{BuildContext, Setup};
pub use context::{Context, Core, OperatorContext, Unkeyed};
pub use edge::{EdgeHead, RouteStage};
pub use ends::{AnySink, AnySource, SinkEnd, SourceEnd};
pub use keyed::{KeyedHead, Keyer};
pub use output::Output;
pub use process::ProcessStage;
pub use sink::{BoxFuture, RecoveryContext, Sink, SinkWriter};
pub use sink_stage::{COMMITS_STATE, SinkSnapshot, SinkStage};
pub use source::{Source, SourceReader};
pub use source_head::{SPLITS_STATE, SourceHead};
pub use stage::{Chain, Control, OperatorSnapshot, Push, Read};
pub(crate) use stage::{in_operator, take_blamed};
pub use stages::{FilterStage, FlatMapStage, InspectStage, MapStage, TryMapStage};
pub use subtask_context::SubtaskContext;
pub use traits::{Handler, Operator};
