//! What an attempt begins with: the state of the last completed checkpoint, cut to its subtasks.

use super::in_flight::{self, RestoredInFlight};
use crate::checkpoint::metadata::{
    Distribution, GroupPart, GroupSegment, ListState, Manifest, OperatorState, Segment,
};
use crate::checkpoint::{Increments, WrittenPart};
use crate::dataflow::{Layout, OperatorKind, PlannedChain};
use crate::error::{Error, ErrorKind};
use crate::operator::{COMMITS_STATE, OPEN_STATE, RecoveryContext, SPLITS_STATE};
use crate::pool::panic_message;
use crate::state::redistribution::{ElementRange, IncrementsShare};
use crate::state::{EncodedGroup, RestoredKeyed, RestoredList, RestoredOperator, redistribution};
use crate::storage::OwnedJob;
use crate::types::{
    Attempt, CheckpointId, KeyGroupRange, MaxParallelism, OperatorId, STABLE_HASH_VERSION, SubtaskId,
    SubtaskIndex, Timestamp,
};
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use tracing::{Instrument, Span};

/// What one subtask begins with.
#[derive(Debug, Default)]
pub(crate) struct RestoredSubtask {
    /// States by operator.
    pub(crate) states: BTreeMap<OperatorId, RestoredOperator>,
    /// The source's splits, encoded.
    pub(crate) splits: Vec<Vec<u8>>,
    /// Records that were in flight to it, in order.
    pub(crate) in_flight: Vec<RestoredInFlight>,
    /// Whether the chain had nothing left to do.
    pub(crate) finished: bool,
}

/// What an attempt begins with.
#[derive(Debug, Default)]
pub(crate) struct Restored {
    pub(crate) from: Option<CheckpointId>,
    /// Whether there is nothing left to do: the checkpoint is a job's final one, everything here had finished in it, and what it held is
    /// committed now.
    pub(crate) finished: bool,
    pub(crate) subtasks: BTreeMap<SubtaskId, RestoredSubtask>,
}

/// Checks that a job can begin from a checkpoint at all, before anything of it runs.
pub(crate) fn check(
    layout: &Layout,
    manifest: &Manifest,
    allow_non_restored_state: bool,
) -> Result<(), Error> {
    let fault = |kind, message: String| Err(Error::new(kind, message).checkpoint(manifest.checkpoint));
    if manifest.hash_version != STABLE_HASH_VERSION {
        let message = format!(
            "the checkpoint was made with version {} of the key hash, this program has version {STABLE_HASH_VERSION}: \
             start from it with a program that has the same",
            manifest.hash_version
        );
        return fault(ErrorKind::Configuration, message);
    }
    for state in &manifest.operators {
        let known = layout.operators().any(|(_, operator)| operator.id == state.operator);
        if !known && !allow_non_restored_state && has_state(state) {
            let message = format!(
                "the checkpoint holds state of operator `{}`, which the program does not have: give the operator its uid back, \
                 or drop the state with allow_non_restored_state()",
                state.operator
            );
            return fault(ErrorKind::Program, message);
        }
    }
    in_flight::check(layout, manifest, allow_non_restored_state)
}

/// Checks that no chain has more subtasks than there are key groups: at the first start as at every later one, so that no
/// checkpoint is made that nothing can start from.
pub(crate) fn check_parallelism(layout: &Layout, max_parallelism: MaxParallelism) -> Result<(), Error> {
    match layout.chains.iter().find(|chain| chain.parallelism > max_parallelism.get()) {
        None => Ok(()),
        Some(chain) => {
            let message = format!(
                "parallelism {} of `{}` is more than the job's {max_parallelism} key groups (max_parallelism): a job can \
                 never run at more",
                chain.parallelism, chain.name
            );
            Err(Error::new(ErrorKind::Configuration, message))
        }
    }
}

fn has_state(operator: &OperatorState) -> bool {
    operator.subtasks.iter().any(|subtask| {
        subtask.keyed.iter().any(|state| !state.groups.is_empty())
            || subtask.increments.iter().any(|state| state.entries > 0)
            || subtask.lists.iter().any(|state| state.elements > 0)
    })
}

/// Reads a checkpoint for the subtasks of a region's attempt, asks sources for their splits, and lets sinks recover. `job`: the layout of
/// the whole job. `increments`: how many checkpoints one may need, if the next ones are to be incremental.
pub(crate) async fn restore(
    layout: &Layout,
    job: &Layout,
    storage: Option<&OwnedJob>,
    max_parallelism: MaxParallelism,
    increments: Option<u32>,
    recovery: &RecoveryContext,
) -> Result<Restored, Error> {
    match (try_restore(layout, job, storage, max_parallelism, increments, recovery).await, storage) {
        (Err(error), Some(storage)) => Err(storage.explain(error).await),
        (restored, _) => restored,
    }
}

async fn try_restore(
    layout: &Layout,
    job: &Layout,
    storage: Option<&OwnedJob>,
    max_parallelism: MaxParallelism,
    increments: Option<u32>,
    recovery: &RecoveryContext,
) -> Result<Restored, Error> {
    let manifest = match storage {
        Some(storage) => storage.latest_manifest().await?,
        None => None,
    };
    if let Some(manifest) = &manifest {
        Span::current().record("checkpoint", manifest.checkpoint.0);
    }
    let reader = manifest.as_ref().zip(storage).map(|(manifest, storage)| Reader { manifest, storage });
    let mut restored = Restored { from: manifest.as_ref().map(|m| m.checkpoint), ..Restored::default() };
    for (_, subtask) in layout.subtasks() {
        restored.subtasks.insert(subtask, RestoredSubtask::default());
    }
    if let (Some(manifest), Some(storage)) = (&manifest, storage) {
        for (subtask, records) in in_flight::read(layout, manifest, storage, max_parallelism).await? {
            if let Some(subtask) = restored.subtasks.get_mut(&subtask) {
                subtask.in_flight.push(records);
            }
        }
    }
    // Before sources: a source that is told to begin must find what was written before in its place.
    recover(layout, reader.as_ref(), recovery).await?;
    restored.finished = reader.as_ref().is_some_and(|reader| reader.is_the_end_of(job));
    if restored.finished {
        return Ok(restored);
    }
    for chain in &layout.chains {
        let finished = reader.as_ref().is_some_and(|reader| reader.has_finished(chain));
        for operator in &chain.operators {
            let state = reader.as_ref().and_then(|reader| reader.state_of(&operator.id));
            match &operator.kind {
                OperatorKind::Sink(_) => {}
                OperatorKind::Source(source) => {
                    let splits = match (&reader, state) {
                        (Some(reader), Some(state)) => Some(reader.whole_list(state, SPLITS_STATE).await?),
                        // A source that is new since the checkpoint begins afresh.
                        _ => None,
                    };
                    let shares = caught(&operator.id, source.assign(splits, chain.parallelism)).await?;
                    for (index, share) in (0..).zip(shares) {
                        if let Some(subtask) = subtask_mut(&mut restored, chain, index) {
                            subtask.splits = share;
                        }
                    }
                }
                OperatorKind::Operator => {
                    let (Some(reader), Some(state)) = (&reader, state) else { continue };
                    let shares = reader.shares(state, chain, max_parallelism, increments).await?;
                    for (index, states) in (0..).zip(shares) {
                        if let Some(subtask) = subtask_mut(&mut restored, chain, index) {
                            subtask.states.insert(operator.id.clone(), states);
                        }
                    }
                }
            }
        }
        for index in 0..chain.parallelism {
            if let Some(subtask) = subtask_mut(&mut restored, chain, index) {
                subtask.finished = finished;
            }
        }
    }
    if let Some(from) = restored.from {
        tracing::info!(attempt = recovery.attempt.0, checkpoint = from.0, "state restored");
    }
    Ok(restored)
}

/// Lets the sinks commit what the last completed checkpoint holds, and discard the rest, for a job after which nobody comes to do it.
pub(crate) async fn recover_sinks(layout: &Layout, storage: &OwnedJob, now: Timestamp) -> Result<(), Error> {
    let manifest = storage.latest_manifest().await?;
    let reader = manifest.as_ref().map(|manifest| Reader { manifest, storage });
    let recovery = RecoveryContext {
        operator: OperatorId::from(""),
        generation: storage.generation(),
        // Whatever the attempts of this process prepared is older.
        attempt: Attempt(u32::MAX),
        now,
        checkpointing: true,
        restored: None,
    };
    recover(layout, reader.as_ref(), &recovery).await
}

async fn recover(
    layout: &Layout,
    reader: Option<&Reader<'_>>,
    recovery: &RecoveryContext,
) -> Result<(), Error> {
    for (_, operator) in layout.operators() {
        let OperatorKind::Sink(sink) = &operator.kind else { continue };
        let (commits, open) = match reader.and_then(|reader| Some((reader, reader.state_of(&operator.id)?))) {
            Some((reader, state)) => {
                (reader.whole_list(state, COMMITS_STATE).await?, reader.whole_list(state, OPEN_STATE).await?)
            }
            None => (Vec::new(), Vec::new()),
        };
        let context = RecoveryContext {
            operator: operator.id.clone(),
            restored: reader.map(|reader| reader.manifest.checkpoint),
            ..recovery.clone()
        };
        caught(&operator.id, sink.recover(commits, open, &context)).await?;
    }
    Ok(())
}

/// Runs code of the user's in a span that names its operator. An error or a panic in it becomes an error that does so.
async fn caught<T>(
    operator: &OperatorId,
    future: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let span = tracing::info_span!("operator", %operator);
    let result = AssertUnwindSafe(future).catch_unwind().instrument(span).await.unwrap_or_else(|panic| {
        let message = format!("an operator panicked: {}", panic_message(&*panic));
        Err(Error::new(ErrorKind::Failed, message))
    });
    result.map_err(|error| error.operator(operator))
}

fn subtask_mut<'a>(
    restored: &'a mut Restored,
    chain: &PlannedChain,
    index: u32,
) -> Option<&'a mut RestoredSubtask> {
    restored.subtasks.get_mut(&SubtaskId { chain: chain.id, index: SubtaskIndex(index) })
}

struct Reader<'a> {
    manifest: &'a Manifest,
    storage: &'a OwnedJob,
}

impl Reader<'_> {
    fn state_of(&self, operator: &OperatorId) -> Option<&OperatorState> {
        self.manifest.operators.iter().find(|state| state.operator == *operator)
    }

    /// Whether every subtask of every operator of the chain had finished.
    fn has_finished(&self, chain: &PlannedChain) -> bool {
        !chain.operators.is_empty()
            && chain.operators.iter().all(|operator| {
                self.state_of(&operator.id)
                    .is_some_and(|state| state.subtasks.iter().all(|subtask| subtask.finished))
            })
    }

    /// Whether it is the final checkpoint of a job with these operators.
    fn is_the_end_of(&self, layout: &Layout) -> bool {
        let finished = |state: &OperatorState| state.subtasks.iter().all(|subtask| subtask.finished);
        self.manifest.finished
            && layout.operators().all(|(_, operator)| self.state_of(&operator.id).is_some_and(finished))
    }

    /// All elements of a list, of all subtasks in order.
    async fn whole_list(&self, state: &OperatorState, name: &str) -> Result<Vec<Vec<u8>>, Error> {
        let lists = state.subtasks.iter().flat_map(|subtask| &subtask.lists);
        let lists: Vec<&ListState> = lists.filter(|list| list.name == name).collect();
        Ok(self.elements(&lists, &state.operator).await?.into_iter().flatten().collect())
    }

    /// What the subtasks of `chain` get of an operator's state, in order; those of several are read at once.
    async fn shares(
        &self,
        state: &OperatorState,
        chain: &PlannedChain,
        max_parallelism: MaxParallelism,
        increments: Option<u32>,
    ) -> Result<Vec<RestoredOperator>, Error> {
        let share = |index| self.share(state, chain, index, max_parallelism, increments);
        // In order, so that of several errors it is always the same one.
        let shares = stream::iter((0..chain.parallelism).map(share).collect::<Vec<_>>());
        shares.buffered(self.storage.max_transfers()).try_collect().await
    }

    /// What subtask `index` of `chain` gets of an operator's state: the keyed state of its key groups, its share of each list.
    async fn share(
        &self,
        state: &OperatorState,
        chain: &PlannedChain,
        index: u32,
        max_parallelism: MaxParallelism,
        increments: Option<u32>,
    ) -> Result<RestoredOperator, Error> {
        let range = max_parallelism.range_of(SubtaskIndex(index), chain.parallelism);
        let mut keyed = Vec::new();
        for share in redistribution::keyed_for(range, &state.subtasks) {
            let segments: Vec<&Segment> = share.groups.iter().map(|group| &group.at).collect();
            let read = self.read(&segments, &state.operator).await?.into_iter().zip(&share.groups);
            let groups = read.map(|(bytes, GroupSegment { group, entries, .. })| EncodedGroup {
                group: *group,
                removed: 0,
                entries: *entries,
                bytes,
            });
            let groups = groups.collect();
            let (name, schema) = (share.name.to_owned(), share.schema.clone());
            keyed.push(RestoredKeyed { name, schema, groups, increments: None });
        }
        for share in redistribution::increments_for(range, &state.subtasks) {
            keyed.push(self.increments(&share, range, increments, &state.operator).await?);
        }
        let split = |list: &&ListState| list.distribution == Distribution::Split;
        let counts: Vec<Vec<(String, u64)>> = state
            .subtasks
            .iter()
            .map(|subtask| {
                let lists = subtask.lists.iter().filter(split);
                lists.map(|list| (list.name.clone(), list.elements)).collect()
            })
            .collect();
        let shares = redistribution::split(&counts, chain.parallelism);
        let mut lists: BTreeMap<String, RestoredList> = BTreeMap::new();
        for list in state.subtasks.iter().flat_map(|subtask| &subtask.lists) {
            lists.entry(list.name.clone()).or_insert_with(|| RestoredList {
                name: list.name.clone(),
                schema: list.schema.clone(),
                distribution: list.distribution,
                elements: Vec::new(),
            });
        }
        let old = |part: &ElementRange| {
            state.subtasks.get(part.from)?.lists.iter().find(|list| list.name == part.name)
        };
        let parts: Vec<(&ElementRange, &ListState)> = shares
            .get(index as usize)
            .into_iter()
            .flatten()
            .filter_map(|part| Some((part, old(part)?)))
            .collect();
        let read: Vec<&ListState> = parts.iter().map(|(_, old)| *old).collect();
        let read = self.elements(&read, &state.operator).await?;
        for ((part, _), elements) in parts.into_iter().zip(read) {
            let Some(list) = lists.get_mut(&part.name) else { continue };
            let start = usize::try_from(part.start).unwrap_or(usize::MAX);
            let len = usize::try_from(part.end.saturating_sub(part.start)).unwrap_or(0);
            list.elements.extend(elements.into_iter().skip(start).take(len));
        }
        for (name, list) in lists.iter_mut().filter(|(_, list)| list.distribution == Distribution::Union) {
            list.elements = self.whole_list(state, name).await?;
        }
        for (name, list) in lists.iter_mut().filter(|(_, list)| list.distribution == Distribution::Broadcast)
        {
            let copies: BTreeMap<usize, &ListState> = (0..)
                .zip(&state.subtasks)
                .filter_map(|(i, subtask)| Some((i, subtask.lists.iter().find(|list| list.name == *name)?)))
                .collect();
            let holders: Vec<usize> = copies.keys().copied().collect();
            let dealt = redistribution::broadcast(&holders, state.subtasks.len(), chain.parallelism);
            if let Some(copy) = dealt.get(index as usize).and_then(|holder| copies.get(holder)) {
                list.elements =
                    self.elements(&[*copy], &state.operator).await?.into_iter().flatten().collect();
            }
        }
        Ok(RestoredOperator {
            checkpoint: Some(self.manifest.checkpoint),
            keyed,
            lists: lists.into_values().collect(),
        })
    }

    /// What all files of a keyed state that is written in increments hold of a subtask's groups.
    async fn increments(
        &self,
        share: &IncrementsShare<'_>,
        range: KeyGroupRange,
        limit: Option<u32>,
        operator: &OperatorId,
    ) -> Result<RestoredKeyed, Error> {
        let indexes: Vec<&Segment> = share.files.iter().map(|(_, file)| &file.index).collect();
        let indexes = self.read(&indexes, operator).await?;
        let mut increments = Increments::of(self.manifest.lineage());
        let (mut parts, mut segments) = (Vec::new(), Vec::new());
        for ((state, file), index) in share.files.iter().zip(indexes) {
            let index: Vec<GroupPart> = postcard::from_bytes(&index).map_err(|error| {
                let message =
                    format!("the list of what a file holds of state `{}` makes no sense", share.name);
                let error = Error::new(ErrorKind::Corrupt, message).because(error);
                error.operator(operator).checkpoint(self.manifest.checkpoint)
            })?;
            let mut needed = Vec::new();
            for part in index {
                let GroupPart { group, offset, len, crc32c, .. } = part;
                let base =
                    state.base_of(group).filter(|base| range.contains(group) && *base <= file.checkpoint);
                let Some(base) = base else { continue };
                needed.push((WrittenPart { group, bytes: len }, base));
                parts.push(part);
                segments.push(Segment { file: file.index.file.clone(), offset, len, crc32c });
            }
            increments.restored(file, needed.into_iter());
        }
        let bytes = self.read(&segments.iter().collect::<Vec<_>>(), operator).await?.into_iter();
        let groups = bytes.zip(parts).map(|(bytes, GroupPart { group, removed, entries, .. })| {
            EncodedGroup { group, removed, entries, bytes }
        });
        let groups = groups.collect();
        Ok(RestoredKeyed {
            name: share.name.to_owned(),
            schema: share.schema.clone(),
            groups,
            increments: limit.map(|limit| increments.planned(limit)),
        })
    }

    async fn read(&self, segments: &[&Segment], operator: &OperatorId) -> Result<Vec<Vec<u8>>, Error> {
        let bytes = self.storage.read_segments(self.manifest, segments).await;
        bytes.map_err(|error| error.operator(operator).checkpoint(self.manifest.checkpoint))
    }

    /// The elements of each of these lists.
    async fn elements(
        &self,
        lists: &[&ListState],
        operator: &OperatorId,
    ) -> Result<Vec<Vec<Vec<u8>>>, Error> {
        let segments: Vec<&Segment> = lists.iter().filter_map(|list| list.at.as_ref()).collect();
        let mut read = self.read(&segments, operator).await?.into_iter();
        let mut elements = Vec::with_capacity(lists.len());
        for list in lists {
            if list.at.is_none() {
                elements.push(Vec::new());
                continue;
            }
            let found = split_elements(&read.next().unwrap_or_default());
            let found = found.filter(|elements| elements.len() as u64 == list.elements).ok_or_else(|| {
                let message =
                    format!("state `{}` should hold {} elements and does not", list.name, list.elements);
                let error = Error::new(ErrorKind::Corrupt, message);
                error.operator(operator).checkpoint(self.manifest.checkpoint)
            })?;
            elements.push(found);
        }
        Ok(elements)
    }
}

/// Elements, each preceded by its length.
fn split_elements(mut bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut elements = Vec::new();
    while let Some((len, rest)) = bytes.split_first_chunk::<4>() {
        let (element, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        elements.push(element.to_vec());
        bytes = rest;
    }
    bytes.is_empty().then_some(elements)
}
