//! The asynchronous half of a subtask's snapshot: what was frozen becomes files.

use crate::checkpoint::SnapshotReport;
use crate::checkpoint::metadata::{GroupSegment, KeyedState, ListState, OperatorState, SubtaskState};
use crate::error::Error;
use crate::operator::OperatorSnapshot;
use crate::state::{KeyedSnapshot, ListSnapshot};
use crate::storage::{OwnedJob, StateFileWriter};
use crate::types::{Attempt, CheckpointId, OperatorId, SubtaskId};
use futures::future::poll_fn;
use std::collections::BTreeMap;

/// A subtask's durable part of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct SubtaskSnapshot {
    /// State of each operator that has any.
    pub(crate) operators: Vec<(OperatorId, SubtaskState)>,
    /// Whether the subtask had reached the end of its input.
    pub(crate) finished: bool,
    /// How it was taken.
    pub(crate) report: SnapshotReport,
}

/// The parts of all subtasks, put together by operator: in order of uid, and within one in order of subtask.
pub(super) fn by_operator<'a>(snapshots: impl Iterator<Item = &'a SubtaskSnapshot>) -> Vec<OperatorState> {
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
    }
    operators
}

/// Writes what a subtask's operators gave at a barrier. `report`: what is known of it so far.
pub(super) async fn write(
    storage: &OwnedJob,
    checkpoint: CheckpointId,
    attempt: Attempt,
    subtask: SubtaskId,
    finished: bool,
    snapshots: Vec<OperatorSnapshot>,
    mut report: SnapshotReport,
) -> Result<SubtaskSnapshot, Error> {
    let mut file = storage.state_file(checkpoint, attempt, subtask);
    let mut operators = Vec::with_capacity(snapshots.len());
    for snapshot in snapshots {
        let OperatorSnapshot { operator, states, sink, fields } = snapshot;
        let mut state =
            SubtaskState { subtask: subtask.index, finished, keyed: Vec::new(), lists: Vec::new() };
        let named = |error: Error| error.operator(&operator).subtask(subtask.index).checkpoint(checkpoint);
        for keyed in states.keyed {
            let keyed = write_keyed(&mut file, keyed).await.map_err(named)?;
            report.bytes += keyed.groups.iter().map(|group| group.at.len).sum::<u64>();
            state.keyed.push(keyed);
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
        operators.push((operator, state));
    }
    file.finish().await.map_err(|error| error.subtask(subtask.index).checkpoint(checkpoint))?;
    Ok(SubtaskSnapshot { operators, finished, report })
}

async fn write_keyed(file: &mut StateFileWriter, snapshot: KeyedSnapshot) -> Result<KeyedState, Error> {
    let KeyedSnapshot { name, schema, groups: mut encoder } = snapshot;
    file.begin_state(&name);
    let mut groups = Vec::new();
    while let Some(group) = poll_fn(|task| encoder.poll_next_group(task)).await? {
        let at = file.write_segment(&group.bytes).await?;
        groups.push(GroupSegment { group: group.group, entries: group.entries, at });
        encoder.give_back(group.bytes);
    }
    Ok(KeyedState { name, schema, groups })
}

async fn write_list(file: &mut StateFileWriter, snapshot: ListSnapshot) -> Result<ListState, Error> {
    let ListSnapshot { name, schema, distribution, elements } = snapshot;
    file.begin_state(&name);
    let at = if elements.is_empty() {
        None
    } else {
        let mut bytes = Vec::with_capacity(elements.iter().map(|element| element.len() + 4).sum());
        for element in &elements {
            bytes.extend_from_slice(&u32::try_from(element.len()).unwrap_or(u32::MAX).to_le_bytes());
            bytes.extend_from_slice(element);
        }
        Some(file.write_segment(&bytes).await?)
    };
    Ok(ListState { name, schema, distribution, elements: elements.len() as u64, at })
}
