//! What users write – [`Stream`], [`KeyedStream`], [`Connected`] – and the plan it becomes: uids, chains, edges.

mod checkpointed;
mod connected;
mod functions;
mod graph;
mod keyed_stream;
mod operator_pipe;
mod pipe;
mod plan;
mod stream;

pub use connected::Connected;
pub(crate) use graph::SharedGraph;
pub(crate) use graph::{Exchange, OperatorKind};
pub use keyed_stream::KeyedStream;
pub use operator_pipe::OperatorPipe;
pub(crate) use pipe::ChainFactory;
pub use pipe::{Broadcast, Edge, Pipe};
pub(crate) use plan::{Layout, Plan, PlannedChain, PlannedEdge};
pub(crate) use stream::source;
pub use stream::{BroadcastStream, Stream};
