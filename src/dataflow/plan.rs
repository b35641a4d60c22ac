//! The plan of a job: the graph, checked and with its numbers filled in.

use super::ChainFactory;
use super::graph::{
    ChainNode, ChainParallelism, EdgeNode, Exchange, Graph, InputNode, OperatorKind, OperatorNode,
};
use crate::channel::RecordCodec;
use crate::error::Error;
use crate::operator::{Claim, Replay, StartContext};
use crate::restart::failover_regions;
use crate::types::{ChainId, EdgeId, OperatorId, Port, SubtaskId, SubtaskIndex};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// A job, ready to run.
pub(crate) struct Plan {
    pub(crate) layout: Arc<Layout>,
    /// The recipe of each chain, in their order.
    pub(crate) factories: Vec<Box<dyn ChainFactory>>,
}

/// A job's chains and edges, without the recipes.
pub(crate) struct Layout {
    pub(crate) chains: Vec<PlannedChain>,
    pub(crate) edges: Vec<PlannedEdge>,
}

#[derive(Clone)]
pub(crate) struct PlannedChain {
    pub(crate) id: ChainId,
    /// For people: the uids of its operators, joined by arrows.
    pub(crate) name: String,
    pub(crate) operators: Vec<OperatorNode>,
    pub(crate) parallelism: u32,
    pub(crate) inputs: Vec<InputNode>,
    pub(crate) outputs: Vec<EdgeId>,
}

#[derive(Debug, Clone)]
pub(crate) struct PlannedEdge {
    pub(crate) id: EdgeId,
    /// Its name in checkpoints: what it carries, and if several carry the same, which of them.
    pub(crate) name: String,
    pub(crate) exchange: Exchange,
    pub(crate) codec: RecordCodec,
    /// Subtask i to subtask i, instead of each to each.
    pub(crate) pointwise: bool,
}

impl PlannedChain {
    /// Whether it begins with a source.
    pub(crate) fn has_source(&self) -> bool {
        self.operators.iter().any(|operator| matches!(operator.kind, OperatorKind::Source(_)))
    }

    /// Its subtasks.
    pub(crate) fn subtasks(&self) -> impl Iterator<Item = SubtaskId> + use<> {
        let chain = self.id;
        (0..self.parallelism).map(move |index| SubtaskId { chain, index: SubtaskIndex(index) })
    }

    /// Which of its inputs this edge leads to, if to any.
    pub(crate) fn port_of(&self, edge: EdgeId) -> Option<Port> {
        self.inputs.iter().find(|input| input.edge == edge).map(|input| input.port)
    }
}

/// How many subtasks a chain has. A graph is written from sources on, so following edges back comes to an end.
fn subtasks_of(chain: &ChainNode, graph: &Graph, default: u32) -> u32 {
    let mut chain = chain;
    loop {
        match (chain.chosen, chain.parallelism) {
            (Some(subtasks), _) | (None, ChainParallelism::Source(subtasks)) => return subtasks,
            (None, ChainParallelism::Default) => return default,
            (None, ChainParallelism::Like(edge)) => {
                match graph.chains.iter().find(|chain| chain.outputs.contains(&edge)) {
                    Some(writer) => chain = writer,
                    // A stream that leads nowhere writes it: a fault.
                    None => return default,
                }
            }
        }
    }
}

impl Plan {
    /// Checks the graph and resolves its numbers. All faults are reported, not just the first.
    ///
    /// `keeps_in_flight`: whether checkpoints hold the records on their way.
    pub(crate) fn of(
        graph: &Graph,
        parallelism: u32,
        takes_checkpoints: bool,
        keeps_in_flight: bool,
        faults: &mut Vec<String>,
    ) -> Self {
        faults.extend(graph.faults.iter().cloned());
        check_names(graph, faults);
        if takes_checkpoints {
            check_replay(graph, faults);
        }
        if keeps_in_flight {
            check_records(graph, faults);
        }
        let mut chains = Vec::new();
        for (index, node) in graph.chains.iter().enumerate() {
            let names: Vec<&str> = node.operators.iter().map(|operator| operator.id.as_str()).collect();
            let name = if names.is_empty() { format!("chain {index}") } else { names.join(" -> ") };
            chains.push(PlannedChain {
                id: ChainId(u32::try_from(index).unwrap_or(u32::MAX)),
                name,
                operators: node.operators.clone(),
                parallelism: subtasks_of(node, graph, parallelism),
                inputs: node.inputs.clone(),
                outputs: node.outputs.clone(),
            });
        }
        let edges = (0..)
            .map(EdgeId)
            .zip(&graph.edges)
            .map(|(id, edge)| {
                let from = chains.iter().find(|chain| chain.outputs.contains(&id));
                let to = chains.iter().find(|chain| chain.port_of(id).is_some());
                let as_many = from.map(|chain| chain.parallelism) == to.map(|chain| chain.parallelism);
                let EdgeNode { exchange, ref carries, codec } = *edge;
                let same = graph.edges.iter().take(id.0 as usize).filter(|other| other.carries == *carries);
                let name = match same.count() {
                    0 => carries.clone(),
                    before => format!("{carries} ({})", before + 1),
                };
                let pointwise = exchange == Exchange::Forward && as_many;
                PlannedEdge { id, name, exchange, codec, pointwise }
            })
            .collect();
        let factories = graph.chains.iter().map(|node| node.factory.boxed()).collect();
        Self { layout: Arc::new(Layout { chains, edges }), factories }
    }

    /// A plan for each failover region.
    pub(crate) fn by_region(&self) -> Vec<Self> {
        let factories: BTreeMap<ChainId, &dyn ChainFactory> = self
            .layout
            .chains
            .iter()
            .map(|chain| chain.id)
            .zip(self.factories.iter().map(|f| &**f))
            .collect();
        let plan = |chains: &BTreeSet<ChainId>| Self {
            layout: Arc::new(self.layout.part(chains)),
            factories: chains.iter().filter_map(|id| factories.get(id)).map(|f| f.boxed()).collect(),
        };
        self.layout.regions().iter().map(plan).collect()
    }
}

impl Layout {
    /// Every subtask of the job, chain by chain.
    pub(crate) fn subtasks(&self) -> impl Iterator<Item = (&PlannedChain, SubtaskId)> {
        self.chains.iter().flat_map(|chain| chain.subtasks().map(move |subtask| (chain, subtask)))
    }

    /// The chain that an edge leads to, and which of its inputs.
    pub(crate) fn consumer_of(&self, edge: EdgeId) -> Option<(&PlannedChain, Port)> {
        self.chains.iter().find_map(|chain| Some((chain, chain.port_of(edge)?)))
    }

    /// The name of a chain, for people.
    pub(crate) fn name_of(&self, chain: ChainId) -> &str {
        self.chains.iter().find(|planned| planned.id == chain).map_or("?", |chain| chain.name.as_str())
    }

    /// The chains of each failover region.
    pub(crate) fn regions(&self) -> Vec<BTreeSet<ChainId>> {
        let edges = self.chains.iter().flat_map(|from| {
            let to = |edge: &EdgeId| self.consumer_of(*edge).map(|(to, _)| (from.id, to.id));
            from.outputs.iter().filter_map(to)
        });
        failover_regions(self.chains.iter().map(|chain| chain.id), edges)
    }

    /// Some of the chains, with their edges.
    fn part(&self, chains: &BTreeSet<ChainId>) -> Self {
        let chains: Vec<PlannedChain> =
            self.chains.iter().filter(|chain| chains.contains(&chain.id)).cloned().collect();
        let leads_here = |edge: &&PlannedEdge| chains.iter().any(|chain| chain.port_of(edge.id).is_some());
        let edges = self.edges.iter().filter(leads_here).cloned().collect();
        Self { chains, edges }
    }

    /// Number of subtasks of the chain that has most.
    pub(crate) fn widest(&self) -> u32 {
        self.chains.iter().map(|chain| chain.parallelism).max().unwrap_or(1)
    }

    /// Every operator of the plan, with the chain it runs in.
    pub(crate) fn operators(&self) -> impl Iterator<Item = (&PlannedChain, &OperatorNode)> {
        self.chains.iter().flat_map(|chain| chain.operators.iter().map(move |operator| (chain, operator)))
    }

    /// Ties the sources and sinks to a job that starts, until what is returned is dropped.
    pub(crate) fn claim(&self, start: &StartContext) -> Result<Vec<Claim>, Error> {
        let ends = self.operators().filter_map(|(_, operator)| match &operator.kind {
            OperatorKind::Source(source) => Some(source.claim(start)),
            OperatorKind::Sink(sink) => Some(sink.claim(start)),
            OperatorKind::Operator => None,
        });
        ends.collect()
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
    let read: BTreeSet<EdgeId> =
        graph.chains.iter().flat_map(|chain| &chain.inputs).map(|input| input.edge).collect();
    for (id, edge) in (0..).map(EdgeId).zip(&graph.edges) {
        if !read.contains(&id) {
            faults.push(format!("{} leads nowhere: end it with `.sink(uid, sink)`", edge.carries));
        }
    }
    for chain in &graph.chains {
        if chain.parallelism == ChainParallelism::Source(0) {
            let first = chain.operators.first().map_or("?", |first| first.id.as_str());
            faults.push(format!("source `{first}` says its parallelism is 0: it must be at least 1"));
        }
    }
}

fn check_replay(graph: &Graph, faults: &mut Vec<String>) {
    for operator in graph.chains.iter().flat_map(|chain| &chain.operators) {
        if let OperatorKind::Source(source) = &operator.kind
            && source.replay() == Replay::Impossible
        {
            faults.push(format!(
                "source `{}` cannot give records again, and the job takes checkpoints: whatever it has read since the last one \
                 would be lost at a restart. Accept that with `.accept_loss()` on the source, keep those records with \
                 `.replay_in_process(limit)`, read from a source that can replay, or set neither `checkpointing` nor \
                 `storage`",
                operator.id
            ));
        }
    }
}

fn check_records(graph: &Graph, faults: &mut Vec<String>) {
    for edge in &graph.edges {
        if let Err(why) = edge.codec.check() {
            let carries = &edge.carries;
            faults.push(format!(
                "records of {carries} cannot be stored, as unaligned checkpoints do with those on their way: {why}; or let \
                 checkpoints align"
            ));
        }
    }
}

impl fmt::Debug for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.chains.iter().map(|chain| (&chain.name, chain.parallelism))).finish()
    }
}
