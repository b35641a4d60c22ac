//! The storage of a job in the hands of the process that owns it.

mod ownership;

use super::disk::DiskLock;
use super::job_folder::JobFolder;
use super::job_log::{Appended, JobLog};
use super::layout;
use super::log_view::{Claim, Cleared, Completed, Entry, Finished, LogFault, LogView, Taken};
use super::state_file::StateFileWriter;
use super::state_reader::StateReader;
use crate::checkpoint::CompletedCheckpoint;
use crate::checkpoint::metadata::{Manifest, Segment};
use crate::error::{Error, ErrorKind};
use crate::types::{Attempt, CheckpointId, Generation, SubtaskId};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A job that this process owns until the last clone is dropped, or until another process takes it over.
#[derive(Debug, Clone)]
pub struct OwnedJob {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    folder: JobFolder,
    log: JobLog,
    generation: Generation,
    claim: Claim,
    state: Mutex<State>,
    /// Held by whatever decides or deletes, so that these come one after the other.
    turn: tokio::sync::Mutex<()>,
    _lock: DiskLock,
}

#[derive(Debug)]
struct State {
    view: LogView,
    /// Numbers of the log's entries that this process wrote and that are still there.
    own: BTreeSet<u64>,
    /// Checkpoints of which it is not known whether they were completed.
    in_doubt: BTreeSet<CheckpointId>,
    /// Folders that are to be removed, once no completed checkpoint has files in them.
    garbage: BTreeSet<String>,
    /// The folders that checkpoints have files in, as far as their manifests were read or written here.
    folders: BTreeMap<CheckpointId, BTreeSet<String>>,
    /// Why this process must not write any more: another one owns the job, or its folder is gone.
    stopped: Option<Error>,
}

/// Why a decision is not in the log, or perhaps not.
#[derive(Debug)]
pub enum CompleteError {
    /// It is not. What the checkpoint wrote can be discarded.
    Failed(Error),
    /// Nobody knows. Nothing of the checkpoint must be deleted; the next decision or the next start settles it.
    Unknown(Error),
    /// Another process owns the job. This one must stop, and not be restarted.
    Fenced(Error),
}

impl CompleteError {
    /// It is not in the log, for this reason.
    fn of(error: Error) -> Self {
        if error.kind() == ErrorKind::Fenced { Self::Fenced(error) } else { Self::Failed(error) }
    }

    /// The error inside.
    #[must_use]
    pub fn into_error(self) -> Error {
        match self {
            Self::Failed(error) | Self::Unknown(error) | Self::Fenced(error) => error,
        }
    }
}

impl fmt::Display for CompleteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) | Self::Fenced(error) => error.fmt(f),
            Self::Unknown(error) => write!(f, "outcome unknown: {error}"),
        }
    }
}

impl std::error::Error for CompleteError {}

impl OwnedJob {
    pub(super) fn new(
        folder: JobFolder,
        log: JobLog,
        generation: Generation,
        claim: Claim,
        view: LogView,
        lock: DiskLock,
    ) -> Self {
        let state = State {
            view,
            own: BTreeSet::from([generation.0]),
            in_doubt: BTreeSet::new(),
            garbage: BTreeSet::new(),
            folders: BTreeMap::new(),
            stopped: None,
        };
        let turn = tokio::sync::Mutex::new(());
        let inner = Inner { folder, log, generation, claim, state: Mutex::new(state), turn, _lock: lock };
        Self { inner: Arc::new(inner) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which run of the process this is.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.inner.generation
    }

    /// The number that the first checkpoint of this process gets: one more than the last completed one, 1 if there was none.
    #[must_use]
    pub fn next_checkpoint(&self) -> CheckpointId {
        self.state().view.last_checkpoint().unwrap_or_default().next()
    }

    /// Completed checkpoints that are still there, oldest first.
    #[must_use]
    pub fn retained(&self) -> Vec<CheckpointId> {
        self.state().view.completed().map(|entry| entry.checkpoint).collect()
    }

    /// The manifest of the newest completed checkpoint: what to start from. Reads the log back first. It may be in doubt whether a
    /// newer one was completed, and to go on from an older one would throw away what that one needs; and a process that was
    /// taken over must not begin again.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`], [`ErrorKind::Storage`], [`ErrorKind::Fenced`].
    pub async fn latest_manifest(&self) -> Result<Option<Manifest>, Error> {
        self.read_back().await?;
        let latest = self.state().view.latest().cloned();
        let Some(entry) = latest else { return Ok(None) };
        match self.inner.folder.read_manifest(&entry).await {
            Ok(manifest) => Ok(Some(manifest)),
            Err(error) => Err(self.explain(self.named(error)).await),
        }
    }

    /// The folder of a checkpoint of this process.
    #[must_use]
    pub fn location(&self, id: CheckpointId) -> PathBuf {
        self.inner.folder.path().join(self.dir_of(id))
    }

    /// All completed checkpoints that are still there, oldest first, read from their manifests.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`], [`ErrorKind::Storage`].
    pub async fn completed(&self) -> Result<Vec<CompletedCheckpoint>, Error> {
        let entries: Vec<Completed> = self.state().view.completed().cloned().collect();
        let mut completed = Vec::with_capacity(entries.len());
        for entry in entries {
            let manifest = match self.inner.folder.read_manifest(&entry).await {
                Ok(manifest) => manifest,
                // Retired meanwhile: first out of the log, then out of the folder.
                Err(_) if self.state().view.sequence_of(entry.checkpoint).is_none() => continue,
                Err(error) => return Err(self.named(error)),
            };
            let bytes = manifest.encode().map_or(0, |bytes| bytes.len() as u64);
            let path = self.inner.folder.path().join(entry.folder().unwrap_or_default());
            completed.push(CompletedCheckpoint::of(&manifest, path, bytes));
        }
        Ok(completed)
    }

    /// Makes the folder of a checkpoint that begins.
    ///
    /// # Errors
    /// [`ErrorKind::Storage`], [`ErrorKind::Fenced`]; [`ErrorKind::Corrupt`] if the job's folder was removed meanwhile.
    pub async fn create_location(&self, id: CheckpointId) -> Result<(), Error> {
        self.check_not_stopped()?;
        self.check_claim().await.map_err(|error| error.checkpoint(id))?;
        let path = self.inner.folder.path().join(self.dir_of(id));
        let created = self.inner.folder.disk.create_dir(&path).await;
        created.map_err(|e| self.named(layout::io_error("create the folder", &path, e)).checkpoint(id))
    }

    /// What writes the state of one subtask into a checkpoint whose folder was made. One writer for each.
    #[must_use]
    pub fn state_file(&self, id: CheckpointId, attempt: Attempt, subtask: SubtaskId) -> StateFileWriter {
        let folder = &self.inner.folder;
        let name = layout::state_file(id, self.inner.generation, attempt, subtask);
        let name = name + folder.compression.extension();
        let file = StateFileWriter::new(Arc::clone(&folder.disk), folder.path(), name, folder.max_state_size);
        let file = file.buffered(folder.write_buffer_size).in_memory_up_to(folder.memory_threshold);
        file.in_turn(folder.transfers.clone())
    }

    /// Reads parts of state files that a manifest names, or has in itself, and checks them: several at once, up to
    /// [`max_transfers`](crate::Checkpointing::max_transfers), and what lies side by side in one go.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`], [`ErrorKind::Storage`]: of several, that of the part that is named first.
    pub async fn read_segments(
        &self,
        manifest: &Manifest,
        segments: &[&Segment],
    ) -> Result<Vec<Vec<u8>>, Error> {
        let folder = &self.inner.folder;
        let reader = StateReader { disk: &folder.disk, folder: &folder.path(), transfers: &folder.transfers };
        let read = reader.read(manifest, segments).await;
        read.map_err(|error| self.named(error))
    }

    /// How many reads or writes of state there may be at once.
    #[must_use]
    pub fn max_transfers(&self) -> usize {
        self.inner.folder.transfers.limit()
    }

    /// Completes a checkpoint whose state files are all finished: writes its manifest, makes all of it survive a crash, and
    /// then appends to the log that it is true. Returns the length of the manifest's file.
    ///
    /// May be called again with the same manifest after `Failed` and `Unknown`.
    ///
    /// # Errors
    /// See [`CompleteError`]. Earlier checkpoints are untouched whatever happens.
    pub async fn complete(&self, manifest: &Manifest) -> Result<u64, CompleteError> {
        let _turn = self.inner.turn.lock().await;
        self.check_not_stopped().map_err(CompleteError::of)?;
        let id = manifest.checkpoint;
        let (crc, len) = match self.write_manifest(manifest).await {
            Ok(written) => written,
            Err(error) => {
                let error = self.named(error).checkpoint(id);
                return Err(CompleteError::of(self.explain_in_turn(error).await));
            }
        };
        let entry = Completed {
            generation: self.inner.generation,
            checkpoint: id,
            manifest: layout::manifest(id, self.inner.generation),
            manifest_crc32c: crc,
        };
        {
            let mut state = self.state();
            state.folders.insert(id, manifest.folders());
            // If this future is given up, the entry may or may not be written.
            state.in_doubt.insert(id);
        }
        let appended = self.append(|_| Some(Entry::Completed(entry.clone()))).await;
        if let Err(CompleteError::Failed(_) | CompleteError::Fenced(_)) = appended {
            self.state().in_doubt.remove(&id);
        }
        appended.map(|()| len)
    }

    /// Writes the manifest, and makes it and the names of the state files beside it survive a crash.
    async fn write_manifest(&self, manifest: &Manifest) -> Result<(u32, u64), Error> {
        let folder = &self.inner.folder;
        let internal = |why: String| Error::new(ErrorKind::Internal, why);
        if manifest.job != folder.job || manifest.generation != self.inner.generation {
            let (job, generation) = (&manifest.job, manifest.generation);
            return Err(internal(format!("a manifest of job `{job}`, generation {generation} came here")));
        }
        let last = self.state().view.last_checkpoint();
        if last >= Some(manifest.checkpoint) {
            let last = last.unwrap_or_default();
            return Err(internal(format!("a checkpoint completed after checkpoint {last}")));
        }
        let bytes = manifest.encode().map_err(|error| internal(error.to_string()))?;
        let (crc, len) = (crc32c::crc32c(&bytes), bytes.len() as u64);
        let path = folder.path().join(layout::manifest(manifest.checkpoint, self.inner.generation));
        let failed = |error| layout::io_error("write the manifest", &path, error);
        if let Err(error) = folder.disk.publish(&path, bytes.clone()).await {
            match folder.disk.read(&path).await {
                Ok(found) if found == bytes => {}
                // Of an earlier attempt to complete it, which is not in the log.
                Ok(_) if error.kind() == io::ErrorKind::AlreadyExists => {
                    folder.disk.remove(&path).await.map_err(failed)?;
                    folder.disk.publish(&path, bytes).await.map_err(failed)?;
                }
                _ => return Err(failed(error)),
            }
        }
        let dir = folder.path().join(self.dir_of(manifest.checkpoint));
        folder.disk.sync_dir(&dir).await.map_err(|error| layout::io_error("sync the folder", &dir, error))?;
        Ok((crc, len))
    }

    /// Appends a decision, made from what the log says then; `None` if there is nothing left to decide. The caller has the turn.
    async fn append(&self, decide: impl Fn(&LogView) -> Option<Entry>) -> Result<(), CompleteError> {
        loop {
            let (sequence, entry) = {
                let state = self.state();
                let Some(entry) = decide(&state.view) else { return Ok(()) };
                state.view.check(state.view.next(), &entry).map_err(|fault| self.contradiction(&fault))?;
                (state.view.next(), entry)
            };
            self.check_claim().await.map_err(CompleteError::of)?;
            match self.inner.log.append(sequence, &entry).await {
                Appended::Done => {
                    self.record(sequence, entry)?;
                    self.settle();
                    return Ok(());
                }
                Appended::Taken(found) => self.taken(sequence, found)?,
                Appended::Failed(error) => return Err(CompleteError::Failed(self.named(error))),
                Appended::Unknown(error) => return Err(CompleteError::Unknown(self.named(error))),
            }
        }
    }

    /// Finds out what became of a decision of unknown outcome, and whether another process has claimed the job.
    async fn read_back(&self) -> Result<(), Error> {
        let _turn = self.inner.turn.lock().await;
        self.read_back_in_turn().await
    }

    /// See [`read_back`](Self::read_back). The caller has the turn.
    async fn read_back_in_turn(&self) -> Result<(), Error> {
        self.check_not_stopped()?;
        self.check_claim().await?;
        let sequence = self.state().view.next();
        match self.inner.log.read_back(sequence).await.map_err(|error| self.named(error))? {
            None => {}
            Some(found) => self.taken(sequence, found).map_err(CompleteError::into_error)?,
        }
        self.settle();
        Ok(())
    }

    /// An entry lies where this process wanted to write: its own, or somebody else's.
    fn taken(&self, sequence: u64, found: Entry) -> Result<(), CompleteError> {
        let generation = self.inner.generation;
        let taken = {
            let mut state = self.state();
            let taken = state.view.taken(sequence, found, generation);
            let taken = taken.map_err(|fault| self.contradiction(&fault))?;
            if taken == Taken::Ours {
                state.own.insert(sequence);
            }
            taken
        };
        let path = self.inner.log.path(sequence);
        let named = |kind, message| self.named(Error::new(kind, message).at(&path));
        match taken {
            Taken::Ours => Ok(()),
            Taken::Fenced(claim) => {
                let message = format!(
                    "generation {sequence} (pid {}) took this job over from generation {generation}: this process must stop",
                    claim.process
                );
                Err(CompleteError::Fenced(self.stop(named(ErrorKind::Fenced, message))))
            }
            Taken::Foreign(found) => {
                let message = format!("another process wrote to the job log without a claim: {found:?}");
                Err(CompleteError::Failed(named(ErrorKind::Corrupt, message)))
            }
        }
    }

    fn record(&self, sequence: u64, entry: Entry) -> Result<(), CompleteError> {
        let mut state = self.state();
        state.own.insert(sequence);
        state.view.push(sequence, entry).map_err(|fault| self.contradiction(&fault))
    }

    fn contradiction(&self, fault: &LogFault) -> CompleteError {
        CompleteError::Failed(self.named(Error::new(ErrorKind::Internal, fault.to_string())))
    }

    /// A decision is in the log, so what was in doubt before is not any more: completed, or garbage.
    fn settle(&self) {
        let mut state = self.state();
        for id in std::mem::take(&mut state.in_doubt) {
            if state.view.sequence_of(id).is_none() {
                state.garbage.insert(self.dir_of(id));
            }
        }
    }

    /// Deletes what an aborted checkpoint of this process wrote. If it is not known whether it was completed it is kept; the next
    /// decision settles that.
    ///
    /// # Errors
    /// [`ErrorKind::Storage`]: the rest is deleted by a later call of this or [`retire`](Self::retire), or by the next process.
    pub async fn discard(&self, id: CheckpointId) -> Result<(), Error> {
        let _turn = self.inner.turn.lock().await;
        self.check_not_stopped()?;
        {
            let mut state = self.state();
            if state.view.completed().any(|e| e.checkpoint == id && e.generation == self.inner.generation) {
                let error = Error::new(ErrorKind::Internal, "a completed checkpoint was to be discarded");
                return Err(self.named(error).checkpoint(id));
            }
            if state.in_doubt.contains(&id) {
                return Ok(());
            }
            state.garbage.insert(self.dir_of(id));
        }
        self.remove_garbage().await
    }

    /// Deletes a completed checkpoint that is no longer retained, never the newest: first its entry in the log, so that at no
    /// time the log names what is not there. Its folder stays for as long as another one has files in it. With it go older ones that could not be deleted in their time. Fine if it is gone
    /// already.
    ///
    /// # Errors
    /// [`ErrorKind::Storage`], [`ErrorKind::Fenced`]; [`ErrorKind::Busy`] if another process seems to take over. While it is
    /// still in [`retained`](Self::retained), call this again later.
    pub async fn retire(&self, id: CheckpointId) -> Result<(), Error> {
        let _turn = self.inner.turn.lock().await;
        self.check_not_stopped()?;
        // What they need of earlier processes is not garbage yet. Unread, it is left to the next process.
        let _ = self.needed_folders().await;
        let (sequences, folders): (Vec<u64>, Vec<String>) = {
            let state = self.state();
            if state.view.latest().is_some_and(|latest| latest.checkpoint == id) {
                let error = Error::new(ErrorKind::Internal, "the newest checkpoint was to be retired");
                return Err(self.named(error).checkpoint(id));
            }
            let old = || state.view.completed().filter(|entry| entry.checkpoint <= id);
            (
                old().filter_map(|entry| state.view.sequence_of(entry.checkpoint)).collect(),
                old()
                    .flat_map(|entry| {
                        let needed = state.folders.get(&entry.checkpoint).into_iter().flatten().cloned();
                        entry.folder().into_iter().chain(needed)
                    })
                    .collect(),
            )
        };
        if !sequences.is_empty() {
            self.remove_entries(&sequences).await.map_err(|error| error.checkpoint(id))?;
            self.state().garbage.extend(folders);
        }
        self.remove_garbage().await
    }

    /// Deletes what earlier deletions left: all but the newest `retain` completed checkpoints, and what belongs to none. For the end
    /// of a job, after which no process comes to sweep.
    ///
    /// # Errors
    /// As [`retire`](Self::retire).
    pub async fn tidy(&self, retain: usize) -> Result<(), Error> {
        let retained = self.retained();
        if let Some(newest) = retained.len().checked_sub(retain.max(1) + 1).and_then(|i| retained.get(i)) {
            self.retire(*newest).await?;
        }
        let _turn = self.inner.turn.lock().await;
        self.check_not_stopped()?;
        if self.state().in_doubt.is_empty() { self.remove_leftovers().await } else { Ok(()) }
    }

    /// Removes entries from the log, if the log holds none that this process does not know (rule 3 of the log).
    async fn remove_entries(&self, sequences: &[u64]) -> Result<(), Error> {
        let listed = self.inner.log.sequences().await.map_err(|error| self.named(error))?;
        let unknown = {
            let state = self.state();
            listed.into_iter().find(|s| *s > self.inner.generation.0 && !state.own.contains(s))
        };
        if let Some(unknown) = unknown {
            let message = "an entry of the job log is not from this process: another one may be taking over. \
                           Old checkpoints are kept meanwhile";
            let error = Error::new(ErrorKind::Busy, message).at(&self.inner.log.path(unknown));
            return Err(self.named(error));
        }
        self.inner.log.remove(sequences).await.map_err(|error| self.named(error))?;
        let mut state = self.state();
        for sequence in sequences {
            state.own.remove(sequence);
            state.view.forget(*sequence);
        }
        Ok(())
    }

    /// The folders that completed checkpoints need: their own, and those of earlier ones that hold files of theirs. The caller has the turn.
    async fn needed_folders(&self) -> Result<BTreeSet<String>, Error> {
        let entries: Vec<Completed> = self.state().view.completed().cloned().collect();
        let mut needed = BTreeSet::new();
        for entry in &entries {
            needed.extend(entry.folder());
            let known = self.state().folders.get(&entry.checkpoint).cloned();
            needed.extend(match known {
                Some(known) => known,
                None => {
                    let manifest = self.inner.folder.read_manifest(entry).await;
                    let folders = manifest.map_err(|error| self.named(error))?.folders();
                    self.state().folders.insert(entry.checkpoint, folders.clone());
                    folders
                }
            });
        }
        let completed = |id: &CheckpointId| entries.iter().any(|entry| entry.checkpoint == *id);
        let mut state = self.state();
        let State { folders, in_doubt, .. } = &mut *state;
        folders.retain(|id, _| completed(id) || in_doubt.contains(id));
        Ok(needed)
    }

    async fn remove_garbage(&self) -> Result<(), Error> {
        let mut garbage = self.state().garbage.clone();
        if garbage.is_empty() {
            return Ok(());
        }
        let needed = self.needed_folders().await?;
        garbage.retain(|name| !needed.contains(name));
        let mut result = Ok(());
        for name in garbage {
            match self.inner.folder.remove_dir(&name).await {
                Ok(()) => drop(self.state().garbage.remove(&name)),
                Err(error) => result = result.and(Err(self.named(error))),
            }
        }
        result
    }

    /// Appends to the log that the job is done: whoever starts it again finds it finished. Fine if it is already.
    ///
    /// # Errors
    /// See [`CompleteError`].
    pub async fn finish(&self) -> Result<(), CompleteError> {
        let _turn = self.inner.turn.lock().await;
        self.check_not_stopped().map_err(CompleteError::of)?;
        let generation = self.inner.generation;
        self.append(|view| {
            let checkpoint = view.latest().map(|entry| entry.checkpoint);
            view.finished().is_none().then_some(Entry::Finished(Finished { generation, checkpoint }))
        })
        .await
    }

    /// Deletes all checkpoints, completed or not, for a job that ends and whose checkpoints are not wanted. Unless the job
    /// [finished](Self::finish), the log says so first: whoever starts it again begins from nothing.
    ///
    /// # Errors
    /// See [`CompleteError`]; `Failed` may also mean that not all files could be deleted. Call it again, or leave the rest to
    /// the next process.
    pub async fn delete_all_checkpoints(&self) -> Result<(), CompleteError> {
        let _turn = self.inner.turn.lock().await;
        self.check_not_stopped().map_err(CompleteError::of)?;
        let may_be_empty = self.state().in_doubt.is_empty();
        let generation = self.inner.generation;
        self.append(|view| {
            let is_told = view.finished().is_some() || (may_be_empty && view.latest().is_none());
            let last = view.last_checkpoint().unwrap_or_default();
            (!is_told).then_some(Entry::Cleared(Cleared { generation, last }))
        })
        .await?;
        self.state().view.clear();
        self.remove_leftovers().await.map_err(CompleteError::Failed)
    }

    /// Sweeps at the start, as well as it can: what it does not get now the next one gets.
    pub(super) async fn sweep(&self) {
        let _turn = self.inner.turn.lock().await;
        if let Err(error) = self.remove_leftovers().await {
            tracing::warn!(%error, "leftovers of earlier runs could not be removed");
        }
    }

    /// Removes everything up to this generation that nobody needs: entries of the log that are true no more, and what they named.
    /// The caller has the turn.
    async fn remove_leftovers(&self) -> Result<(), Error> {
        let Inner { folder, generation, .. } = &*self.inner;
        let removable: Vec<u64> = self.state().view.removable().collect();
        if !removable.is_empty() {
            self.remove_entries(&removable).await?;
        }
        let keep = self.needed_folders().await?;
        folder.remove_leftovers(*generation, &keep).await.map_err(|error| self.named(error))
    }

    fn dir_of(&self, id: CheckpointId) -> String {
        layout::checkpoint_dir(id, self.inner.generation)
    }

    fn named(&self, error: Error) -> Error {
        error.job(&self.inner.folder.job)
    }
}

#[cfg(test)]
mod tests;
