//! The asynchronous half of a subtask's snapshot: what was frozen, and what was in flight, becomes files.

use super::in_flight::schema_of;
use crate::channel::{InFlight, Origin};
use crate::checkpoint::metadata::{
    ChannelState, EdgeState, GroupPart, GroupSegment, IncrementFile, InlineFile, KeyedIncrements, KeyedState,
    ListState, OperatorState, Segment, SubtaskState,
};
use crate::checkpoint::{SnapshotReport, WrittenPart};
use crate::dataflow::Layout;
use crate::error::{Error, ErrorKind};
use crate::operator::OperatorSnapshot;
use crate::pool::panic_message;
use crate::state::{GroupEncoder, Increment, KeyedSnapshot, ListSnapshot, codec};
use crate::storage::{OwnedJob, StateFileWriter};
use crate::types::{Attempt, CheckpointId, EdgeId, OperatorId, SubtaskId, SubtaskIndex};
use futures::future::poll_fn;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use tokio::sync::oneshot;

/// How far a subtask's input has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum InputState {
    /// More comes.
    Open,
    /// A drain has ended it: if that is broken off, more comes in another run, and `finish` has not been called for the last time.
    Drained,
    /// It has ended.
    Ended,
}

/// A subtask's durable part of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct SubtaskSnapshot {
    /// State of each operator that has any.
    pub(crate) operators: Vec<(OperatorId, SubtaskState)>,
    /// What was in flight to it, by channel; only where there was anything.
    pub(crate) in_flight: Vec<ChannelSnapshot>,
    /// All of this, if it was too small for a file.
    pub(crate) inline: Option<InlineFile>,
    /// How far its input had been read.
    pub(crate) input: InputState,
    /// How it was taken.
    pub(crate) report: SnapshotReport,
}

/// Records that were in flight in one channel.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ChannelSnapshot {
    origin: Origin,
    to: SubtaskIndex,
    records: u64,
    at: Segment,
}

/// What was in flight to all subtasks, put together by edge: in order of the edges' names, and within one in order of channel.
pub(super) fn by_edge<'a>(
    snapshots: impl Iterator<Item = &'a SubtaskSnapshot>,
    layout: &Layout,
) -> Vec<EdgeState> {
    let mut edges: BTreeMap<EdgeId, Vec<ChannelState>> = BTreeMap::new();
    for ChannelSnapshot { origin, to, records, at } in snapshots.flat_map(|snapshot| &snapshot.in_flight) {
        let (from, to, records) = (origin.from, *to, *records);
        edges.entry(origin.edge).or_default().push(ChannelState { from, to, records, at: at.clone() });
    }
    let mut states: Vec<EdgeState> = Vec::new();
    for (id, mut channels) in edges {
        let Some(edge) = layout.edges.iter().find(|edge| edge.id == id) else { continue };
        channels.sort_by_key(|channel| (channel.from, channel.to));
        let parallelism = layout.consumer_of(id).map_or(0, |(chain, _)| chain.parallelism);
        states.push(EdgeState { edge: edge.name.clone(), schema: schema_of(edge), parallelism, channels });
    }
    states.sort_by(|a, b| a.edge.cmp(&b.edge));
    states
}

/// The parts of all subtasks, put together by operator: in order of uid, and within one in order of subtask. In the final checkpoint all have
/// finished, also by a drain.
pub(super) fn by_operator<'a>(
    snapshots: impl Iterator<Item = &'a SubtaskSnapshot>,
    is_final: bool,
) -> Vec<OperatorState> {
    let mut operators: BTreeMap<&OperatorId, OperatorState> = BTreeMap::new();
    for (operator, state) in snapshots.flat_map(|snapshot| &snapshot.operators) {
        let whole = operators.entry(operator).or_insert_with(|| OperatorState {
            operator: operator.clone(),
            watermark: None,
            subtasks: Vec::new(),
        });
        whole.subtasks.push(state.clone());
    }
    let mut operators: Vec<OperatorState> = operators.into_values().collect();
    for operator in &mut operators {
        operator.subtasks.sort_by_key(|state| state.subtask);
        operator.subtasks.iter_mut().for_each(|state| state.finished |= is_final);
    }
    operators
}

/// What a subtask gives at a barrier.
pub(super) struct Taken {
    /// Of its operators, frozen.
    pub(super) snapshots: Vec<OperatorSnapshot>,
    /// What was in flight to it, if the barrier has overtaken it.
    pub(super) overtaken: Option<Overtaken>,
}

/// Records in flight to a subtask at its snapshot.
pub(super) struct Overtaken {
    /// Most often nearly all.
    pub(super) known: Vec<InFlight>,
    /// What follows them comes here, once all barriers have come.
    pub(super) rest: oneshot::Receiver<Vec<InFlight>>,
}

/// Writes what a subtask's operators gave at a barrier. `report`: what is known of it so far.
pub(super) async fn write(
    storage: &OwnedJob,
    checkpoint: CheckpointId,
    attempt: Attempt,
    subtask: SubtaskId,
    input: InputState,
    Taken { snapshots, overtaken }: Taken,
    mut report: SnapshotReport,
) -> Result<SubtaskSnapshot, Error> {
    let mut file = storage.state_file(checkpoint, attempt, subtask);
    let mut flights = Flights::default();
    let overtaken = match overtaken {
        Some(Overtaken { known, rest }) => {
            // At once: meanwhile the barriers come that the rest waits for.
            flights.encode(known)?;
            Some(rest)
        }
        None => None,
    };
    let mut operators = Vec::with_capacity(snapshots.len());
    for snapshot in snapshots {
        let OperatorSnapshot { operator, states, sink, fields } = snapshot;
        let mut state = SubtaskState {
            subtask: subtask.index,
            finished: input == InputState::Ended,
            keyed: Vec::new(),
            lists: Vec::new(),
            increments: Vec::new(),
        };
        let named = |error: Error| error.operator(&operator).subtask(subtask.index).checkpoint(checkpoint);
        for KeyedSnapshot { name, schema, groups, increment } in states.keyed {
            file.begin_state(&name);
            match increment {
                None => {
                    let groups = write_keyed(&mut file, groups).await.map_err(named)?;
                    report.bytes += groups.iter().map(|group| group.at.len).sum::<u64>();
                    state.keyed.push(KeyedState { name, schema, groups });
                }
                Some(increment) => {
                    let written = write_increment(&mut file, checkpoint, groups, &increment).await;
                    let written = written.map_err(named)?;
                    report.bytes += written.written_by(checkpoint);
                    state.increments.push(KeyedIncrements { name, schema, ..written });
                }
            }
        }
        let mut lists = states.lists;
        if let Some(sink) = sink {
            lists.extend(sink.wait().await.map_err(named)?);
        }
        if let Some(fields) = fields {
            lists.push(fields.wait(&operator).await.map_err(named)?);
        }
        for list in lists {
            let list = write_list(&mut file, list).await.map_err(named)?;
            report.bytes += list.at.as_ref().map_or(0, |at| at.len);
            state.lists.push(list);
        }
        state.keyed.sort_by(|a, b| a.name.cmp(&b.name));
        state.lists.sort_by(|a, b| a.name.cmp(&b.name));
        state.increments.sort_by(|a, b| a.name.cmp(&b.name));
        operators.push((operator, state));
    }
    let mut channels = Vec::new();
    if let Some(rest) = overtaken {
        flights.encode(rest.await.map_err(|_| {
            Error::new(
                ErrorKind::Failed,
                "the barriers of some channels did not come, so not all records in flight are known",
            )
        })?)?;
        channels = flights.write(&mut file, subtask.index).await?;
        report.in_flight_bytes = channels.iter().map(|channel| channel.at.len).sum();
        report.bytes += report.in_flight_bytes;
    }
    let inline = file.finish_or_inline().await;
    let inline = inline.map_err(|error| error.subtask(subtask.index).checkpoint(checkpoint))?;
    Ok(SubtaskSnapshot { operators, in_flight: channels, inline, input, report })
}

/// Records in flight, encoded: of each channel how many, and their bytes.
#[derive(Default)]
struct Flights(BTreeMap<Origin, (u64, Vec<u8>)>);

impl Flights {
    fn encode(&mut self, records: Vec<InFlight>) -> Result<(), Error> {
        for InFlight { origin, codec, batches } in records {
            let (records, bytes) = self.0.entry(origin).or_default();
            for batch in batches {
                *records += batch.len() as u64;
                encoding("a record in flight", || codec.encode(&batch, bytes))?;
            }
        }
        Ok(())
    }

    async fn write(
        self,
        file: &mut StateFileWriter,
        to: SubtaskIndex,
    ) -> Result<Vec<ChannelSnapshot>, Error> {
        let mut channels = Vec::with_capacity(self.0.len());
        for (origin, (records, bytes)) in self.0 {
            file.begin_state(format!("records in flight from subtask {}", origin.from));
            let at = file.write_segment(&bytes).await?;
            channels.push(ChannelSnapshot { origin, to, records, at });
        }
        Ok(channels)
    }
}

async fn write_keyed(
    file: &mut StateFileWriter,
    mut encoder: Box<dyn GroupEncoder>,
) -> Result<Vec<GroupSegment>, Error> {
    let mut groups = Vec::new();
    while let Some(group) = poll_fn(|task| encoder.poll_next_group(task)).await? {
        if group.removed > 0 {
            let what =
                format!("key group {} has removed keys, in a state that is written whole", group.group);
            return Err(Error::new(ErrorKind::Internal, what));
        }
        let at = file.write_segment(&group.bytes).await?;
        groups.push(GroupSegment { group: group.group, entries: group.entries, at });
        encoder.give_back(group.bytes);
    }
    Ok(groups)
}

/// Writes what has changed of a keyed state, and what is due to be written whole; its name and schema are left open.
async fn write_increment(
    file: &mut StateFileWriter,
    checkpoint: CheckpointId,
    mut encoder: Box<dyn GroupEncoder>,
    Increment { base, limit, entries, written }: &Increment,
) -> Result<KeyedIncrements, Error> {
    let (mut index, mut parts) = (Vec::new(), Vec::new());
    while let Some(group) = poll_fn(|task| encoder.poll_next_group(task)).await? {
        let Segment { offset, len, crc32c, .. } = file.write_segment(&group.bytes).await?;
        let (removed, entries) = (group.removed, group.entries);
        index.push(GroupPart { group: group.group, removed, entries, offset, len, crc32c });
        parts.push(WrittenPart { group: group.group, bytes: len });
        encoder.give_back(group.bytes);
    }
    let new = if index.is_empty() {
        None
    } else {
        let bytes = parts.iter().map(|part| part.bytes).sum();
        file.share();
        let index = file.write_segment(&codec::encode(&index)?).await?;
        Some(IncrementFile { checkpoint, bytes, index })
    };
    let increments = base.advanced(checkpoint, new, &parts, *limit);
    let (files, groups) = (increments.files().to_vec(), increments.runs());
    // What is never completed is never a base.
    let _ = written.set(Arc::new(increments));
    Ok(KeyedIncrements { files, groups, entries: *entries, ..KeyedIncrements::default() })
}

/// Calls the `Serialize` of the user's types: a panic in there is an error, which the caller can put a name to.
fn encoding<T>(what: &str, encode: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(encode)).unwrap_or_else(|panic| {
        let message = format!("{what} panicked while it was encoded: {}", panic_message(&*panic));
        Err(Error::new(ErrorKind::Failed, message))
    })
}

async fn write_list(file: &mut StateFileWriter, snapshot: ListSnapshot) -> Result<ListState, Error> {
    let ListSnapshot { name, schema, distribution, elements } = snapshot;
    file.begin_state(&name);
    let at = if elements.is_empty() {
        None
    } else {
        let mut bytes = Vec::with_capacity(elements.iter().map(|element| element.len() + 4).sum());
        for element in &elements {
            let len = u32::try_from(element.len()).map_err(|error| {
                let what = format!(
                    "an element of state `{name}` is larger than 4 GiB when encoded: keep it in smaller ones"
                );
                Error::new(ErrorKind::Failed, what).because(error)
            })?;
            bytes.extend_from_slice(&len.to_le_bytes());
            bytes.extend_from_slice(element);
        }
        Some(file.write_segment(&bytes).await?)
    };
    Ok(ListState { name, schema, distribution, elements: elements.len() as u64, at })
}
