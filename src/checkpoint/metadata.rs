//! What a completed checkpoint is, as data: the manifest.

use super::envelope::{self, Format, FormatError};
use crate::types::{
    Attempt, CheckpointId, Generation, JobName, KeyGroup, MaxParallelism, OperatorId, SubtaskIndex, Timestamp,
};
use serde::{Deserialize, Serialize};

/// The manifest of a checkpoint: everything needed to start a job from it, at any parallelism.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Manifest {
    /// The job it belongs to.
    pub job: JobName,
    /// Its number.
    pub checkpoint: CheckpointId,
    /// Which run of the process took it.
    pub generation: Generation,
    /// Which run of the dataflow took it.
    pub attempt: Attempt,
    /// Wall time of the trigger; for people, never for decisions.
    pub triggered: Timestamp,
    /// Number of key groups. A job restored from here adopts it.
    pub max_parallelism: MaxParallelism,
    /// Version of the stable key hash the groups were made with.
    pub hash_version: u16,
    /// Whether every subtask had reached the end of its input: nothing is left to process.
    pub finished: bool,
    /// State by operator, in order of uid.
    pub operators: Vec<OperatorState>,
    /// Records that were in flight, by edge, in order of its name. Only a checkpoint whose barriers overtook records has any.
    #[serde(skip)]
    pub in_flight: Vec<EdgeState>,
}

impl Manifest {
    /// The file format. A change that an older reader would misread is a new version.
    ///
    /// | version | content |
    /// |---|---|
    /// | 1 | all but `in_flight`, and no [`Distribution::Union`] |
    /// | 2 | the same with [`Distribution::Union`]; then `in_flight`, unless it is empty |
    ///
    /// What does without either is written as version 1, which older programs read.
    pub const FORMAT: Format = Format { kind: *b"MANI", version: 2 };

    /// The bytes of the manifest's file.
    ///
    /// # Errors
    /// [`FormatError::Malformed`] if it cannot be encoded.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut lists =
            self.operators.iter().flat_map(|operator| &operator.subtasks).flat_map(|subtask| &subtask.lists);
        if !self.in_flight.is_empty() {
            return envelope::encode(Self::FORMAT, &(self, &self.in_flight));
        }
        let version = if lists.any(|list| list.distribution == Distribution::Union) { 2 } else { 1 };
        envelope::encode(Format { version, ..Self::FORMAT }, self)
    }

    /// Reads the bytes of a manifest's file. Never panics, whatever the bytes.
    ///
    /// # Errors
    /// Any [`FormatError`]: empty, cut short, foreign, of another kind, damaged, newer, or without sense.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let (version, payload) = envelope::unseal(Self::FORMAT, bytes)?;
        let (mut manifest, rest): (Self, &[u8]) = envelope::parse_front(payload)?;
        if version > 1 && !rest.is_empty() {
            manifest.in_flight = envelope::parse(rest)?;
        } else {
            envelope::check_end(rest)?;
        }
        // Read by serde, so not yet checked: 0 groups would be divided by.
        MaxParallelism::new(manifest.max_parallelism.get())
            .map_err(|error| FormatError::Malformed(error.to_string()))?;
        Ok(manifest)
    }

    /// All parts of files that it refers to.
    pub fn segments(&self) -> impl Iterator<Item = &Segment> {
        let states = self.operators.iter().flat_map(|operator| &operator.subtasks).flat_map(|subtask| {
            let keyed = subtask.keyed.iter().flat_map(|state| &state.groups).map(|group| &group.at);
            keyed.chain(subtask.lists.iter().filter_map(|state| state.at.as_ref()))
        });
        states.chain(self.in_flight.iter().flat_map(|edge| &edge.channels).map(|channel| &channel.at))
    }
}

/// State of one operator in a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OperatorState {
    /// Its uid.
    pub operator: OperatorId,
    /// The operator's watermark, least over its subtasks; `None` while it has none.
    pub watermark: Option<Timestamp>,
    /// What each subtask gave, in order of subtask: as many as the operator's parallelism was.
    pub subtasks: Vec<SubtaskState>,
}

/// State of one operator in one subtask.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SubtaskState {
    /// Which subtask.
    pub subtask: SubtaskIndex,
    /// Whether it had reached the end of its input and emitted all it will ever emit.
    pub finished: bool,
    /// Keyed states, in order of name.
    pub keyed: Vec<KeyedState>,
    /// Operator states, in order of name.
    pub lists: Vec<ListState>,
}

/// A keyed state: a table cut by key groups.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeyedState {
    /// Its name.
    pub name: String,
    /// What its entries are.
    pub schema: StateSchema,
    /// Groups that hold entries, in order.
    pub groups: Vec<GroupSegment>,
}

/// The entries of one key group.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GroupSegment {
    /// Which group.
    pub group: KeyGroup,
    /// Number of entries.
    pub entries: u64,
    /// Where they are.
    pub at: Segment,
}

/// An operator state: a list whose elements may move between subtasks.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ListState {
    /// Its name.
    pub name: String,
    /// What its elements are.
    pub schema: StateSchema,
    /// How elements are handed out on restore.
    pub distribution: Distribution,
    /// Number of elements.
    pub elements: u64,
    /// Where they are: one after the other, each preceded by its length as `u32` little-endian. `None` if the list is empty.
    pub at: Option<Segment>,
}

/// How the elements of an operator state are handed out on restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Distribution {
    /// Each element goes to exactly one subtask (Flink's split-distribute list state).
    Split,
    /// Every subtask stores a whole copy, and every subtask gets one back (Flink's broadcast state).
    Broadcast,
    /// Every subtask gets the elements of all subtasks (Flink's union list state). Since version 2.
    Union,
}

/// What a state holds: shown in errors, compared on restore.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StateSchema {
    /// `value`, `list`, `map`, `reducing`, `aggregating`, or `split-list`, `union-list`, `broadcast`, `instance-fields`, `source-splits`, `sink-commits`,
    /// `open-transactions`.
    pub kind: String,
    /// Shape of the key in serde's terms; empty for operator state.
    pub key: String,
    /// Shape of the value in serde's terms.
    pub value: String,
}

/// Records that were in flight along one edge.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EdgeState {
    /// The edge, named after the operator before it.
    pub edge: String,
    /// What its records are.
    pub schema: StateSchema,
    /// How many subtasks it led to.
    pub parallelism: u32,
    /// Channels that held records, in order.
    pub channels: Vec<ChannelState>,
}

/// Records that were in flight in one channel.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ChannelState {
    /// The subtask that had sent them.
    pub from: SubtaskIndex,
    /// The subtask they were sent to.
    pub to: SubtaskIndex,
    /// How many.
    pub records: u64,
    /// Where they are, in the order in which they were sent, batch by batch: the number of records, as `u32` little-endian; a byte that is
    /// 1 if hashes of keys follow, one per record, as `u64` little-endian, and 0 if not; and the records as a list in postcard.
    pub at: Segment,
}

/// A part of a file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Segment {
    /// The file, relative to the job's folder, with `/` between the parts.
    pub file: String,
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
    /// CRC-32C of the bytes.
    pub crc32c: u32,
}

#[cfg(test)]
mod tests;
