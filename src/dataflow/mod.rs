//! What users write – [`Stream`] and [`KeyedStream`] – and the plan it becomes: uids, chains, edges.

mod functions;
mod graph;
mod keyed_stream;
mod pipe;
mod plan;
mod stream;

pub(crate) use graph::OperatorKind;
pub(crate) use graph::SharedGraph;
pub use keyed_stream::KeyedStream;
pub(crate) use pipe::ChainFactory;
pub use pipe::{Edge, Pipe};
pub(crate) use plan::{Layout, Plan, PlannedChain};
pub use stream::Stream;
pub(crate) use stream::source;
