//! The graph as it is written down: chains that have ended, edges between them, and everything that was named.

use super::ChainFactory;
use crate::operator::{AnySink, AnySource};
use crate::types::OperatorId;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Position of an edge in the graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EdgeId(pub(crate) usize);

/// How many subtasks a chain has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChainParallelism {
    /// The job's parallelism.
    Default,
    /// What its source says.
    Fixed(u32),
}

/// How an edge distributes records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exchange {
    /// Subtask i to subtask i if both sides have as many, else in turn to all.
    Forward,
    /// Any subtask to any.
    All,
}

#[derive(Clone)]
pub(crate) struct EdgeNode {
    pub(crate) exchange: Exchange,
}

/// What an operator is.
#[derive(Clone)]
pub(crate) enum OperatorKind {
    Source(Arc<dyn AnySource>),
    Operator,
    Sink(Arc<dyn AnySink>),
}

#[derive(Clone)]
pub(crate) struct OperatorNode {
    pub(crate) id: OperatorId,
    pub(crate) kind: OperatorKind,
}

/// A chain that has not ended yet: what its stream carries along.
pub(crate) struct Draft {
    pub(crate) graph: SharedGraph,
    pub(crate) operators: Vec<OperatorNode>,
    pub(crate) inputs: Vec<EdgeId>,
    pub(crate) parallelism: ChainParallelism,
}

pub(crate) struct ChainNode {
    pub(crate) operators: Vec<OperatorNode>,
    pub(crate) inputs: Vec<EdgeId>,
    pub(crate) output: Option<EdgeId>,
    pub(crate) parallelism: ChainParallelism,
    pub(crate) factory: Box<dyn ChainFactory>,
}

#[derive(Default)]
pub(crate) struct Graph {
    pub(crate) chains: Vec<ChainNode>,
    pub(crate) edges: Vec<EdgeNode>,
    /// Every uid that was given, in order, whether or not its stream leads anywhere.
    pub(crate) named: Vec<OperatorId>,
    /// Faults that only the place where they were made knows.
    pub(crate) faults: Vec<String>,
}

/// The graph that all streams of an environment write into.
#[derive(Clone, Default)]
pub(crate) struct SharedGraph(Arc<Mutex<Graph>>);

impl SharedGraph {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Graph> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Draft {
    /// Adds an operator to the chain.
    pub(crate) fn name(&mut self, id: &OperatorId, kind: OperatorKind) {
        self.graph.lock().named.push(id.clone());
        self.operators.push(OperatorNode { id: id.clone(), kind });
    }

    /// Ends the chain at a sink.
    pub(crate) fn end(self, factory: Box<dyn ChainFactory>) {
        let Self { graph, operators, inputs, parallelism } = self;
        graph.lock().chains.push(ChainNode { operators, inputs, output: None, parallelism, factory });
    }

    /// Ends the chain at an edge, with which another begins.
    pub(crate) fn end_at_edge(self, exchange: Exchange, factory: Box<dyn ChainFactory>) -> Self {
        let Self { graph, operators, inputs, parallelism } = self;
        let edge = {
            let mut nodes = graph.lock();
            let edge = EdgeId(nodes.edges.len());
            nodes.edges.push(EdgeNode { exchange });
            nodes.chains.push(ChainNode { operators, inputs, output: Some(edge), parallelism, factory });
            edge
        };
        let parallelism = if exchange == Exchange::Forward { parallelism } else { ChainParallelism::Default };
        Self { graph, operators: Vec::new(), inputs: vec![edge], parallelism }
    }
}
