//! The graph as it is written down: chains that have ended, edges between them, and everything that was named.

use super::ChainFactory;
use crate::channel::{Record, RecordCodec};
use crate::operator::{AnySink, AnySource};
use crate::types::{EdgeId, OperatorId, Port};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many subtasks a chain has, if nobody chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChainParallelism {
    /// The job's parallelism.
    Default,
    /// What its source says.
    Source(u32),
    /// As many as the chain that writes this edge.
    Like(EdgeId),
}

/// How an edge distributes records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exchange {
    /// Subtask i to subtask i if both sides have as many, else in turn to all.
    Forward,
    /// In turn to all.
    Rebalance,
    /// Each to the subtask that owns its key.
    ByKey,
    /// Every record to every subtask.
    Broadcast,
}

#[derive(Clone)]
pub(crate) struct EdgeNode {
    pub(crate) exchange: Exchange,
    /// For people: what goes along it.
    pub(crate) carries: String,
    /// What its records are.
    pub(crate) codec: RecordCodec,
}

/// An edge that leads to a chain, and to which of its inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InputNode {
    pub(crate) edge: EdgeId,
    pub(crate) port: Port,
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
    operators: Vec<OperatorNode>,
    inputs: Vec<InputNode>,
    outputs: Vec<EdgeId>,
    parallelism: ChainParallelism,
    /// What the user chose for this chain.
    chosen: Option<u32>,
    /// The operator that was written last, in this chain or before it.
    last: OperatorId,
}

pub(crate) struct ChainNode {
    pub(crate) operators: Vec<OperatorNode>,
    pub(crate) inputs: Vec<InputNode>,
    pub(crate) outputs: Vec<EdgeId>,
    pub(crate) parallelism: ChainParallelism,
    /// What the user chose instead.
    pub(crate) chosen: Option<u32>,
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

    fn edge(&self, exchange: Exchange, carries: String, codec: RecordCodec) -> EdgeId {
        let edges = &mut self.lock().edges;
        edges.push(EdgeNode { exchange, carries, codec });
        EdgeId(u32::try_from(edges.len() - 1).unwrap_or(u32::MAX))
    }
}

impl Draft {
    /// A chain that begins with the source `id`.
    pub(crate) fn source(
        graph: &SharedGraph,
        id: &OperatorId,
        kind: OperatorKind,
        subtasks: Option<u32>,
    ) -> Self {
        let mut draft = Self {
            graph: graph.clone(),
            operators: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            parallelism: subtasks.map_or(ChainParallelism::Default, ChainParallelism::Source),
            chosen: None,
            last: id.clone(),
        };
        draft.name(id, kind);
        draft
    }

    /// A chain that begins with this edge.
    fn behind(&self, edge: EdgeId, exchange: Exchange) -> Self {
        Self {
            graph: self.graph.clone(),
            operators: Vec::new(),
            inputs: vec![InputNode { edge, port: Port(0) }],
            outputs: Vec::new(),
            parallelism: match exchange {
                Exchange::Forward => ChainParallelism::Like(edge),
                Exchange::Rebalance | Exchange::ByKey | Exchange::Broadcast => ChainParallelism::Default,
            },
            chosen: None,
            last: self.last.clone(),
        }
    }

    /// Uids of the chain's operators.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.operators.iter().map(|operator| operator.id.as_str())
    }

    /// The operator that was written last.
    pub(crate) fn last(&self) -> &OperatorId {
        &self.last
    }

    /// Adds an operator to the chain.
    pub(crate) fn name(&mut self, id: &OperatorId, kind: OperatorKind) {
        self.graph.lock().named.push(id.clone());
        self.operators.push(OperatorNode { id: id.clone(), kind });
        self.last = id.clone();
    }

    /// Chooses the number of the chain's subtasks.
    pub(crate) fn choose_parallelism(&mut self, subtasks: u32) {
        let last = &self.last;
        let fault = match (self.chosen, self.parallelism) {
            _ if subtasks == 0 => format!("`.parallelism(0)` after `{last}`: it must be at least 1"),
            (Some(chosen), _) if chosen != subtasks => format!(
                "`.parallelism({subtasks})` after `{last}` contradicts `.parallelism({chosen})` in the same chain, which runs \
                 fused in one subtask: put `.rebalance()` or `.start_new_chain()` between them"
            ),
            (_, ChainParallelism::Source(fixed)) if fixed != subtasks => format!(
                "`.parallelism({subtasks})` after `{last}` is in the chain of a source that is read by {fixed} subtasks, no more \
                 and no fewer: put `.rebalance()` or `.start_new_chain()` before it"
            ),
            _ => {
                self.chosen = Some(subtasks);
                return;
            }
        };
        self.graph.lock().faults.push(fault);
    }

    /// Whether nothing has been done yet with the edges it begins with.
    pub(crate) fn is_untouched(&self) -> bool {
        self.operators.is_empty() && self.outputs.is_empty() && self.chosen.is_none()
    }

    /// Ends the chain at a sink.
    pub(crate) fn end(self, factory: Box<dyn ChainFactory>) {
        let Self { graph, operators, inputs, outputs, parallelism, chosen, last: _ } = self;
        graph.lock().chains.push(ChainNode { operators, inputs, outputs, parallelism, chosen, factory });
    }

    /// Ends the chain at an edge, with which another begins.
    pub(crate) fn end_at_edge<T, F>(mut self, exchange: Exchange, recipe: impl FnOnce(EdgeId) -> F) -> Self
    where
        T: Record,
        F: ChainFactory + 'static,
    {
        let carries = format!("the stream after `{}`", self.last);
        let codec = match exchange {
            Exchange::ByKey => RecordCodec::keyed::<T>(),
            Exchange::Forward | Exchange::Rebalance | Exchange::Broadcast => RecordCodec::of::<T>(),
        };
        let edge = self.graph.edge(exchange, carries, codec);
        let next = self.behind(edge, exchange);
        self.outputs.push(edge);
        self.end(Box::new(recipe(edge)));
        next
    }

    /// Another way out of the chain, which goes on: an edge, with which another chain begins. `what` names it for people.
    pub(crate) fn branch<T: Record>(&mut self, what: impl fmt::Display) -> (EdgeId, Self) {
        let carries = format!("{what} `{}`", self.last);
        let edge = self.graph.edge(Exchange::Forward, carries, RecordCodec::of::<T>());
        self.outputs.push(edge);
        (edge, self.behind(edge, Exchange::Forward))
    }

    /// Lets the edges that `other` begins with lead here, too, to the input `port`. `how` is the method that joins them.
    pub(crate) fn join(&mut self, other: Self, port: Port, how: &str) {
        if !Arc::ptr_eq(&self.graph.0, &other.graph.0) {
            let fault = format!("{how} joins streams of two environments: make both from the same one");
            self.graph.lock().faults.push(fault);
            return;
        }
        self.inputs.extend(other.inputs.iter().map(|input| InputNode { edge: input.edge, port }));
        if let Some(subtasks) = other.chosen {
            self.choose_parallelism(subtasks);
        }
    }

    /// Has the job's parallelism, unless another is chosen: where streams meet, neither side decides.
    pub(crate) fn meet(&mut self) {
        self.parallelism = ChainParallelism::Default;
    }
}
