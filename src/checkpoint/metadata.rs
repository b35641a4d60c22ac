//! What a completed checkpoint is, as data: the manifest.

use super::Compression;
use super::envelope::{self, Format, FormatError};
use crate::types::{
    Attempt, CheckpointId, Generation, JobName, KeyGroup, MaxParallelism, OperatorId, SubtaskIndex, Timestamp,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

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
    /// Files that are so small that they are kept here, in order of name. Since version 3.
    #[serde(skip)]
    pub inline: Vec<InlineFile>,
}

impl Manifest {
    /// The file format. A change that an older reader would misread is a new version.
    ///
    /// | version | content |
    /// |---|---|
    /// | 1 | all but `in_flight`, and no [`Distribution::Union`] |
    /// | 2 | the same with [`Distribution::Union`]; then `in_flight`, unless it is empty |
    /// | 3 | as version 2, with `in_flight` even if it is empty; then every [`SubtaskState::increments`] that is not empty, with the place of its operator in the manifest and that of the subtask in it; then `inline` |
    /// | 4 | as version 3; files whose name ends with `.lz4` are compressed, in it or beside it |
    ///
    /// What does without is written in an older version, which older programs read.
    pub const FORMAT: Format = Format { kind: *b"MANI", version: 4 };

    /// The bytes of the manifest's file.
    ///
    /// # Errors
    /// [`FormatError::Malformed`] if it cannot be encoded.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut lists =
            self.operators.iter().flat_map(|operator| &operator.subtasks).flat_map(|subtask| &subtask.lists);
        let increments = self.increments();
        let compressed = self.is_compressed();
        if compressed || !increments.is_empty() || !self.inline.is_empty() {
            let format = Format { version: if compressed { 4 } else { 3 }, ..Self::FORMAT };
            return envelope::encode(format, &(self, &self.in_flight, increments, &self.inline));
        }
        let version_2 = Format { version: 2, ..Self::FORMAT };
        if !self.in_flight.is_empty() {
            return envelope::encode(version_2, &(self, &self.in_flight));
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
        match version {
            1 => envelope::check_end(rest)?,
            2 if rest.is_empty() => {}
            2 => manifest.in_flight = envelope::parse(rest)?,
            _ => {
                let (in_flight, increments, inline) = envelope::parse(rest)?;
                (manifest.in_flight, manifest.inline) = (in_flight, inline);
                manifest.put_increments(increments)?;
            }
        }
        // Read by serde, so not yet checked: 0 groups would be divided by.
        MaxParallelism::new(manifest.max_parallelism.get())
            .map_err(|error| FormatError::Malformed(error.to_string()))?;
        Ok(manifest)
    }

    /// Whether any file of it is compressed.
    fn is_compressed(&self) -> bool {
        self.segments().any(|segment| Compression::of_file(&segment.file) != Compression::None)
    }

    /// The states in increments, by the places of operator and subtask.
    fn increments(&self) -> Vec<(u32, u32, &[KeyedIncrements])> {
        let mut increments = Vec::new();
        for (operator, state) in (0..).zip(&self.operators) {
            let subtasks = (0..).zip(&state.subtasks).filter(|(_, subtask)| !subtask.increments.is_empty());
            increments.extend(subtasks.map(|(place, subtask)| (operator, place, &*subtask.increments)));
        }
        increments
    }

    /// What a file holds that is kept in here.
    #[must_use]
    pub fn inline_file(&self, name: &str) -> Option<&[u8]> {
        self.inline.iter().find(|inline| inline.file == name).map(|inline| &*inline.content)
    }

    /// The checkpoints whose files its states in increments need, and itself.
    #[must_use]
    pub fn lineage(&self) -> BTreeSet<CheckpointId> {
        let subtasks = self.operators.iter().flat_map(|operator| &operator.subtasks);
        let files = subtasks.flat_map(|subtask| &subtask.increments).flat_map(|state| &state.files);
        files.map(|file| file.checkpoint).chain([self.checkpoint]).collect()
    }

    fn put_increments(&mut self, all: Vec<(u32, u32, Vec<KeyedIncrements>)>) -> Result<(), FormatError> {
        for (operator, subtask, increments) in all {
            let state = self.operators.get_mut(operator as usize);
            let state =
                state.and_then(|state| state.subtasks.get_mut(subtask as usize)).ok_or_else(|| {
                    FormatError::Malformed(format!("there is no subtask {subtask} of operator {operator}"))
                })?;
            state.increments = increments;
        }
        Ok(())
    }

    /// The folders of the checkpoints that it has files in, its own included if it has any there.
    #[must_use]
    pub fn folders(&self) -> BTreeSet<String> {
        let folders = self.segments().filter_map(|segment| segment.file.split_once('/'));
        folders.map(|(folder, _)| folder.to_owned()).collect()
    }

    /// All parts of files that it refers to. Of states in increments, these are the indexes, each behind all that it refers to.
    pub fn segments(&self) -> impl Iterator<Item = &Segment> {
        let states = self.operators.iter().flat_map(|operator| &operator.subtasks).flat_map(|subtask| {
            let keyed = subtask.keyed.iter().flat_map(|state| &state.groups).map(|group| &group.at);
            let increments = subtask.increments.iter().flat_map(|state| &state.files).map(|file| &file.index);
            keyed.chain(increments).chain(subtask.lists.iter().filter_map(|state| state.at.as_ref()))
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
    /// Keyed states that are written in increments, in order of name. Since version 3.
    #[serde(skip)]
    pub increments: Vec<KeyedIncrements>,
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

/// A keyed state of which this checkpoint wrote what had changed, and some key groups whole. The rest is in files of earlier checkpoints.
///
/// A group is what the file of its base holds of it, changed by what the later files hold, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeyedIncrements {
    /// Its name.
    pub name: String,
    /// What its entries are.
    pub schema: StateSchema,
    /// Number of entries.
    pub entries: u64,
    /// The files, oldest first.
    pub files: Vec<IncrementFile>,
    /// The groups, in order. Of others the files may hold something too, for somebody else.
    pub groups: Vec<GroupRun>,
}

impl KeyedIncrements {
    /// The checkpoint that wrote a group whole; `None` if the group is not part of this.
    #[must_use]
    pub fn base_of(&self, group: KeyGroup) -> Option<CheckpointId> {
        let after = self.groups.partition_point(|run| run.first <= group);
        let run = self.groups.get(after.checked_sub(1)?)?;
        (group <= run.last).then_some(run.base)
    }

    /// Bytes of it that a checkpoint wrote, indexes included.
    #[must_use]
    pub fn written_by(&self, checkpoint: CheckpointId) -> u64 {
        let files = self.files.iter().filter(|file| file.checkpoint == checkpoint);
        files.map(|file| file.bytes + file.index.len).sum()
    }

    /// Bytes of it in all of the files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes + file.index.len).sum()
    }
}

/// What one file holds of a keyed state.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IncrementFile {
    /// The checkpoint that wrote it.
    pub checkpoint: CheckpointId,
    /// How many bytes of it are this state, the index aside.
    pub bytes: u64,
    /// The list of its parts: a [`GroupPart`] for each, as a list in postcard.
    pub index: Segment,
}

/// Groups that the same checkpoint wrote whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GroupRun {
    /// The first of them.
    pub first: KeyGroup,
    /// The last of them.
    pub last: KeyGroup,
    /// The checkpoint.
    pub base: CheckpointId,
}

/// What a file holds of a key group: keys that were removed, in postcard's form one after the other, and then entries. Parts of the same group
/// come one after the other in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GroupPart {
    /// Which group.
    pub group: KeyGroup,
    /// Number of keys removed.
    pub removed: u64,
    /// Number of entries.
    pub entries: u64,
    /// First byte in the file.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
    /// CRC-32C of the bytes.
    pub crc32c: u32,
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
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StateSchema {
    /// `value`, `list`, [`list-rows`](Self::LIST_ROWS), `map`, [`map-rows`](Self::MAP_ROWS), `reducing`, `aggregating`, or `split-list`, `union-list`, `broadcast`, `instance-fields`, `source-splits`, `sink-commits`,
    /// `open-transactions`.
    pub kind: String,
    /// Shape of the key in serde's terms; empty for operator state.
    pub key: String,
    /// Shape of the value in serde's terms.
    pub value: String,
}

impl StateSchema {
    /// The kind of what is stored beside a `map` of the same name: parts of those maps that are large. A program that does not know of it does not
    /// find what it declares under that name, and refuses.
    pub const MAP_ROWS: &str = "map-rows";

    /// The same beside a `list`.
    pub const LIST_ROWS: &str = "list-rows";

    /// If what is stored is rows: the kind of state that they are parts of.
    #[must_use]
    pub fn has_rows_of(&self) -> Option<&'static str> {
        match &*self.kind {
            Self::MAP_ROWS => Some("map"),
            Self::LIST_ROWS => Some("list"),
            _ => None,
        }
    }
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

/// A file that was not worth being one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct InlineFile {
    /// What it would be called.
    pub file: String,
    /// What it would hold.
    pub content: Vec<u8>,
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

impl Segment {
    /// The part of a file's content, if it is there and what it should be.
    #[must_use]
    pub fn within<'c>(&self, content: &'c [u8]) -> Option<&'c [u8]> {
        let start = usize::try_from(self.offset).ok()?;
        let part = content.get(start..start.checked_add(usize::try_from(self.len).ok()?)?)?;
        (crc32c::crc32c(part) == self.crc32c).then_some(part)
    }
}

#[cfg(test)]
mod tests;
