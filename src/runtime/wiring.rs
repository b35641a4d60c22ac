//! Channels between the subtasks of an attempt.

use crate::channel::{Input, Output, WakeCell, channel};
use crate::dataflow::Layout;
use crate::types::{EdgeId, Port, SubtaskId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How many batches a channel holds. More hides jitter between threads and costs memory and barrier latency; 8 keeps
/// a barrier within a few milliseconds of back-pressured data.
const DEPTH: usize = 8;

/// The data-plane ends of one subtask.
#[derive(Debug, Default)]
pub(super) struct Ends {
    /// Where it sleeps.
    pub(super) cell: Arc<WakeCell>,
    /// Its input channels, of all its input edges, and which of the chain's inputs they belong to.
    pub(super) inputs: Vec<(Port, Input)>,
    /// Its output channels by edge, in order of the consumer's subtasks.
    pub(super) outputs: BTreeMap<EdgeId, Vec<Output>>,
}

/// Lays a channel along every pair of subtasks that an edge connects.
pub(super) fn wire(layout: &Layout) -> BTreeMap<SubtaskId, Ends> {
    let mut ends: BTreeMap<SubtaskId, Ends> =
        layout.subtasks().map(|(_, subtask)| (subtask, Ends::default())).collect();
    for edge in &layout.edges {
        let producers = layout.subtasks().filter(|(chain, _)| chain.outputs.contains(&edge.id));
        for (_, producer) in producers {
            let consumers =
                layout.subtasks().filter_map(|(chain, consumer)| Some((chain.port_of(edge.id)?, consumer)));
            for (port, consumer) in consumers {
                if !edge.pointwise || producer.index == consumer.index {
                    connect(&mut ends, edge.id, producer, (port, consumer));
                }
            }
        }
    }
    ends
}

fn connect(
    ends: &mut BTreeMap<SubtaskId, Ends>,
    edge: EdgeId,
    producer: SubtaskId,
    (port, consumer): (Port, SubtaskId),
) {
    let cell = |ends: &BTreeMap<SubtaskId, Ends>, id| ends.get(&id).map(|ends| Arc::clone(&ends.cell));
    let (Some(from), Some(to)) = (cell(ends, producer), cell(ends, consumer)) else { return };
    let (output, input) = channel(DEPTH, from, to);
    if let Some(ends) = ends.get_mut(&producer) {
        ends.outputs.entry(edge).or_default().push(output);
    }
    if let Some(ends) = ends.get_mut(&consumer) {
        ends.inputs.push((port, input));
    }
}
