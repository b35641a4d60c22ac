//! Channels between the subtasks of an attempt.

use crate::channel::{Announcements, Inlet, Origin, Output, WakeCell, channel};
use crate::dataflow::{Layout, PlannedEdge};
use crate::types::{EdgeId, Port, SubtaskId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The data-plane ends of one subtask.
#[derive(Debug, Default)]
pub(super) struct Ends {
    /// Where it sleeps.
    pub(super) cell: Arc<WakeCell>,
    /// Where it hears of barriers that may overtake.
    pub(super) announcements: Arc<Announcements>,
    /// Its input channels, of all its input edges.
    pub(super) inlets: Vec<Inlet>,
    /// Its output channels by edge, in order of the consumer's subtasks.
    pub(super) outputs: BTreeMap<EdgeId, Vec<Output>>,
}

/// Lays a channel, `depth` batches deep, along every pair of subtasks that an edge connects.
pub(super) fn wire(layout: &Layout, depth: usize) -> BTreeMap<SubtaskId, Ends> {
    let mut ends: BTreeMap<SubtaskId, Ends> =
        layout.subtasks().map(|(_, subtask)| (subtask, Ends::default())).collect();
    for edge in &layout.edges {
        let producers = layout.subtasks().filter(|(chain, _)| chain.outputs.contains(&edge.id));
        for (_, producer) in producers {
            let consumers =
                layout.subtasks().filter_map(|(chain, consumer)| Some((chain.port_of(edge.id)?, consumer)));
            for (port, consumer) in consumers {
                if !edge.pointwise || producer.index == consumer.index {
                    connect(&mut ends, edge, producer, (port, consumer), depth);
                }
            }
        }
    }
    ends
}

fn connect(
    ends: &mut BTreeMap<SubtaskId, Ends>,
    edge: &PlannedEdge,
    producer: SubtaskId,
    (port, consumer): (Port, SubtaskId),
    depth: usize,
) {
    let Some(from) = ends.get(&producer).map(|ends| Arc::clone(&ends.cell)) else { return };
    let Some(to) = ends.get_mut(&consumer) else { return };
    let (mut output, input) = channel(depth, from, Arc::clone(&to.cell));
    output.announce_in(&to.announcements);
    let origin = Origin { edge: edge.id, from: producer.index };
    to.inlets.push(Inlet { port, origin, codec: edge.codec, input });
    if let Some(ends) = ends.get_mut(&producer) {
        ends.outputs.entry(edge.id).or_default().push(output);
    }
}
