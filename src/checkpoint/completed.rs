//! What is known of a completed checkpoint.

use super::duration_text;
use super::metadata::{ListState, Manifest, OperatorState, StateSchema};
use crate::types::{CheckpointId, OperatorId, Timestamp};
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A checkpoint that is complete: the job can start from it (Flink's `CompletedCheckpoint`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CompletedCheckpoint {
    /// Its number.
    pub checkpoint: CheckpointId,
    /// Wall time of its trigger.
    pub triggered: Timestamp,
    /// From trigger to commit. `None` for one that an earlier process has completed.
    #[serde(rename = "duration_seconds", serialize_with = "duration_text::optional_seconds")]
    pub duration: Option<Duration>,
    /// Bytes written for it: state and manifest.
    pub bytes: u64,
    /// Bytes of all files that it needs. More than `bytes` only if it is
    /// [incremental](super::Checkpointing::incremental), and some are of earlier checkpoints.
    pub full_bytes: u64,
    /// Its folder, as its storage names it.
    pub path: PathBuf,
    /// What it holds, in order of uid.
    pub operators: Arc<[OperatorSummary]>,
}

/// What a checkpoint holds of one operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OperatorSummary {
    /// Its uid.
    pub operator: OperatorId,
    /// Its parallelism then.
    pub subtasks: u32,
    /// Bytes of all its states, those of earlier checkpoints that are needed included.
    pub bytes: u64,
    /// Its states that hold anything, in order of name.
    pub states: Vec<StateSummary>,
}

/// One state of an operator, all subtasks together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StateSummary {
    /// Its name.
    pub name: String,
    /// What kind of state: `value`, `list`, `map`, `split-list` and so on.
    pub kind: String,
    /// Keys of a keyed state, elements of an operator state.
    pub entries: u64,
    /// Its bytes, those of earlier checkpoints that are needed included.
    pub bytes: u64,
}

impl CompletedCheckpoint {
    /// From its manifest, which is in the folder `path` and has so many bytes.
    pub(crate) fn of(manifest: &Manifest, path: PathBuf, manifest_bytes: u64) -> Self {
        let operators: Arc<[OperatorSummary]> = manifest.operators.iter().map(OperatorSummary::of).collect();
        // What lies in the manifest is counted with its operator.
        let inline: u64 = manifest.inline.iter().map(|inline| inline.content.len() as u64).sum();
        let manifest_bytes = manifest_bytes.saturating_sub(inline);
        let full_bytes = manifest_bytes + operators.iter().map(|operator| operator.bytes).sum::<u64>();
        let subtasks = manifest.operators.iter().flat_map(|operator| &operator.subtasks);
        let earlier = subtasks.flat_map(|subtask| &subtask.increments);
        let earlier: u64 = earlier.map(|state| state.bytes() - state.written_by(manifest.checkpoint)).sum();
        Self {
            checkpoint: manifest.checkpoint,
            triggered: manifest.triggered,
            duration: None,
            bytes: full_bytes - earlier,
            full_bytes,
            path,
            operators,
        }
    }
}

impl OperatorSummary {
    fn of(state: &OperatorState) -> Self {
        let mut states: Vec<StateSummary> = Vec::new();
        let mut add = |name: &str, schema: &StateSchema, entries: u64, bytes: u64| {
            // Rows are parts of what a key has.
            let (kind, entries) = schema.has_rows_of().map_or((&*schema.kind, entries), |kind| (kind, 0));
            match states.iter_mut().find(|state| state.name == name && state.kind == kind) {
                Some(state) => (state.entries, state.bytes) = (state.entries + entries, state.bytes + bytes),
                None => states.push(StateSummary { name: name.into(), kind: kind.into(), entries, bytes }),
            }
        };
        for subtask in &state.subtasks {
            for keyed in &subtask.keyed {
                let entries = keyed.groups.iter().map(|group| group.entries).sum();
                let bytes = keyed.groups.iter().map(|group| group.at.len).sum();
                add(&keyed.name, &keyed.schema, entries, bytes);
            }
            for state in &subtask.increments {
                add(&state.name, &state.schema, state.entries, state.bytes());
            }
            for ListState { name, schema, elements, at, .. } in &subtask.lists {
                add(name, schema, *elements, at.as_ref().map_or(0, |at| at.len));
            }
        }
        states.retain(|state| state.entries > 0);
        states.sort_by(|a, b| a.name.cmp(&b.name));
        Self {
            operator: state.operator.clone(),
            subtasks: u32::try_from(state.subtasks.len()).unwrap_or(u32::MAX),
            bytes: states.iter().map(|state| state.bytes).sum(),
            states,
        }
    }
}
