//! The plan of a job: the graph, checked and with its numbers filled in.

use super::ChainFactory;
use super::graph::{ChainParallelism, EdgeId, Exchange, Graph, OperatorKind, OperatorNode};
use crate::types::{ChainId, OperatorId, SubtaskId, SubtaskIndex};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// A job, ready to run.
pub(crate) struct Plan {
    pub(crate) layout: Arc<Layout>,
    /// The recipe of each chain.
    pub(crate) factories: Vec<Box<dyn ChainFactory>>,
}

/// A job's chains and edges, without the recipes.
pub(crate) struct Layout {
    pub(crate) chains: Vec<PlannedChain>,
    pub(crate) edges: Vec<PlannedEdge>,
}

pub(crate) struct PlannedChain {
    pub(crate) id: ChainId,
    /// For people: the uids of its operators, joined by arrows.
    pub(crate) name: String,
    pub(crate) operators: Vec<OperatorNode>,
    pub(crate) parallelism: u32,
    /// Positions in [`Plan::edges`].
    pub(crate) inputs: Vec<usize>,
    pub(crate) output: Option<usize>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct PlannedEdge {
    /// Subtask i to subtask i, instead of each to each.
    pub(crate) pointwise: bool,
}

impl PlannedChain {
    /// Whether it begins with a source.
    pub(crate) fn has_source(&self) -> bool {
        self.operators.iter().any(|operator| matches!(operator.kind, OperatorKind::Source(_)))
    }
}

impl Plan {
    /// Checks the graph and resolves its numbers. All faults are reported, not just the first.
    pub(crate) fn of(graph: &Graph, parallelism: u32, faults: &mut Vec<String>) -> Self {
        faults.extend(graph.faults.iter().cloned());
        check_names(graph, faults);
        let resolve = |node: ChainParallelism| match node {
            ChainParallelism::Default => parallelism,
            ChainParallelism::Fixed(fixed) => fixed,
        };
        let mut chains = Vec::new();
        for (index, node) in graph.chains.iter().enumerate() {
            let names: Vec<&str> = node.operators.iter().map(|operator| operator.id.as_str()).collect();
            let name = if names.is_empty() { format!("chain {index}") } else { names.join(" -> ") };
            chains.push(PlannedChain {
                id: ChainId(u32::try_from(index).unwrap_or(u32::MAX)),
                name,
                operators: node.operators.clone(),
                parallelism: resolve(node.parallelism),
                inputs: node.inputs.iter().map(|edge| edge.0).collect(),
                output: node.output.map(|edge| edge.0),
            });
        }
        let edges = graph
            .edges
            .iter()
            .enumerate()
            .map(|(index, edge)| {
                let ends = |matches: &dyn Fn(&PlannedChain) -> bool| {
                    chains.iter().find(|chain| matches(chain)).map(|chain| chain.parallelism)
                };
                let from = ends(&|chain| chain.output == Some(index));
                let to = ends(&|chain| chain.inputs.contains(&index));
                PlannedEdge { pointwise: edge.exchange == Exchange::Forward && from == to }
            })
            .collect();
        let factories = graph.chains.iter().map(|node| node.factory.boxed()).collect();
        Self { layout: Arc::new(Layout { chains, edges }), factories }
    }
}

impl Layout {
    /// Every subtask of the job, chain by chain.
    pub(crate) fn subtasks(&self) -> impl Iterator<Item = (&PlannedChain, SubtaskId)> {
        self.chains.iter().flat_map(|chain| {
            (0..chain.parallelism)
                .map(move |i| (chain, SubtaskId { chain: chain.id, index: SubtaskIndex(i) }))
        })
    }

    /// Every operator of the plan, with the chain it runs in.
    pub(crate) fn operators(&self) -> impl Iterator<Item = (&PlannedChain, &OperatorNode)> {
        self.chains.iter().flat_map(|chain| chain.operators.iter().map(move |operator| (chain, operator)))
    }
}

fn check_names(graph: &Graph, faults: &mut Vec<String>) {
    if graph.named.is_empty() {
        faults.push("the job has no source: begin with `env.source(uid, source)`".into());
    }
    let mut given: BTreeMap<&str, usize> = BTreeMap::new();
    for id in &graph.named {
        *given.entry(id.as_str()).or_default() += 1;
    }
    for (uid, times) in given {
        if uid.trim().is_empty() {
            faults
                .push("an operator has an empty uid: state is matched by it, so give each one a name".into());
        } else if times > 1 {
            faults.push(format!(
                "uid `{uid}` is given {times} times: state is matched by it, so each must be unique"
            ));
        }
    }
    let placed: BTreeSet<&OperatorId> =
        graph.chains.iter().flat_map(|chain| &chain.operators).map(|operator| &operator.id).collect();
    for id in graph.named.iter().collect::<BTreeSet<_>>() {
        if !placed.contains(id) {
            faults.push(format!("the stream after `{id}` leads nowhere: end it with `.sink(uid, sink)`"));
        }
    }
    let read: Vec<EdgeId> = graph.chains.iter().flat_map(|chain| chain.inputs.iter().copied()).collect();
    for (index, chain) in graph.chains.iter().enumerate() {
        if chain.output.is_some_and(|edge| !read.contains(&edge)) {
            let last = chain
                .operators
                .last()
                .map_or_else(|| format!("chain {index}"), |last| format!("`{}`", last.id));
            faults.push(format!("the stream after {last} leads nowhere: end it with `.sink(uid, sink)`"));
        }
        if chain.parallelism == ChainParallelism::Fixed(0) {
            let first = chain.operators.first().map_or("?", |first| first.id.as_str());
            faults.push(format!("source `{first}` says its parallelism is 0: it must be at least 1"));
        }
    }
}

impl fmt::Debug for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.chains.iter().map(|chain| (&chain.name, chain.parallelism))).finish()
    }
}
