//! Where a job's checkpoints are, and how a process becomes the one that may write them.

use super::job_folder::JobFolder;
use super::job_log::{Appended, JobLog};
use super::layout;
use super::log_view::{Claim, Completed, Entry, LOOKS, LogView};
use super::options::Storage;
use super::owned_job::OwnedJob;
use super::transfers::Transfers;
use crate::checkpoint::{Checkpointing, Compression};
use crate::error::{Error, ErrorKind};
use crate::types::{CheckpointId, Generation, JobName, Random};
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// How often opening starts over because another process was faster.
const TRIES: u32 = 100;

/// The storage of one job, not yet opened.
#[derive(Debug)]
pub struct JobStorage {
    folder: JobFolder,
    log: JobLog,
    random: Mutex<Random>,
}

/// What opening found.
#[derive(Debug)]
pub enum Opened {
    /// The job is done, by an earlier process. Nothing on disk was changed.
    Finished {
        /// Its last completed checkpoint.
        checkpoint: Option<CheckpointId>,
    },
    /// This process owns the job now.
    Owned(OwnedJob),
}

impl JobStorage {
    /// The folder of this job in the storage. Touches nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`] if the job's name cannot name a folder.
    pub fn new(storage: &dyn Storage, job: &JobName) -> Result<Self, Error> {
        layout::check_job_name(job)?;
        let folder = JobFolder {
            disk: storage.disk(),
            root: storage.root(),
            job: job.clone(),
            max_state_size: storage.max_state_size(),
            write_buffer_size: storage.write_buffer_size(),
            memory_threshold: storage.memory_threshold(),
            transfers: Transfers::new(Checkpointing::default().get_max_transfers()),
            compression: Compression::None,
        };
        let log = JobLog::new(storage.disk(), folder.log_dir());
        Ok(Self { folder, log, random: Mutex::new(Random::from_os()) })
    }

    /// Reads and writes state as these settings say.
    #[must_use]
    pub fn with_settings(self, settings: &Checkpointing) -> Self {
        let transfers = Transfers::new(settings.get_max_transfers());
        let compression = settings.get_compression();
        Self { folder: JobFolder { transfers, compression, ..self.folder }, ..self }
    }

    /// Takes what makes its claims unlike all others from here, for runs that repeat exactly. Two that open one job must not be given the
    /// same numbers: each would take the other's claim for its own.
    #[must_use]
    pub fn with_random(self, random: Random) -> Self {
        Self { random: Mutex::new(random), ..self }
    }

    /// Takes the job for this process: reads the log, checks that the newest checkpoint can be restored, and only then changes
    /// anything: takes a lock, claims the job, and sweeps away what earlier processes left unfinished.
    ///
    /// With `take_over` it does so even if a live process has the job; that one is fenced and fails at its next checkpoint.
    ///
    /// # Errors
    /// - [`ErrorKind::Busy`]: a live process has the job (never with `take_over`, unless others take it over
    ///   again and again).
    /// - [`ErrorKind::Corrupt`]: the log, the newest manifest or a file that it names cannot be used. Nothing was changed.
    /// - [`ErrorKind::Configuration`]: there is a file where a folder should be.
    /// - [`ErrorKind::Storage`]: everything else that goes wrong with the disk. Open again once it is repaired.
    pub async fn open(&self, take_over: bool) -> Result<Opened, Error> {
        self.try_open(take_over).await.map_err(|error| error.job(&self.folder.job))
    }

    /// Deletes what the end of a finished job should have deleted and could not: all checkpoints but, if `keep_last`, the newest. No
    /// process will write there any more, so none needs to own the job for it. Fine if nothing is left.
    ///
    /// # Errors
    /// As [`open`](Self::open). Call it again, or leave the rest to the next start. A job that is not finished is left alone:
    /// [`ErrorKind::Internal`].
    pub async fn tidy_finished(&self, keep_last: bool) -> Result<(), Error> {
        self.try_tidy_finished(keep_last).await.map_err(|error| error.job(&self.folder.job))
    }

    async fn try_tidy_finished(&self, keep_last: bool) -> Result<(), Error> {
        let view = self.read_log().await?;
        if view.finished().is_none() {
            return Err(Error::new(ErrorKind::Internal, "a job was to be tidied that is not finished"));
        }
        let kept = view.latest().filter(|_| keep_last);
        let old = view.completed().filter(|entry| Some(*entry) != kept);
        let old = old.filter_map(|entry| view.sequence_of(entry.checkpoint));
        let sequences: Vec<u64> = old.chain(view.removable()).collect();
        if !sequences.is_empty() {
            self.log.remove(&sequences).await?;
        }
        // The lock of the process that finished it stays: where nothing is left over, nothing is changed.
        let lock = view.owner().map(|(owner, claim)| layout::lock(owner, claim.nonce));
        let mut keep: BTreeSet<String> = kept.and_then(Completed::folder).into_iter().chain(lock).collect();
        if let Some(kept) = kept {
            keep.extend(self.folder.read_manifest(kept).await?.folders());
        }
        self.folder.remove_leftovers(Generation(view.last()), &keep).await
    }

    async fn try_open(&self, take_over: bool) -> Result<Opened, Error> {
        self.folder.check_no_file_in_the_way().await?;
        for _ in 0..TRIES {
            let view = self.read_log().await?;
            if let Some(finished) = view.finished() {
                return Ok(Opened::Finished { checkpoint: finished.checkpoint });
            }
            if let Err(error) = self.folder.check_latest(&view).await {
                if self.log.read().await? == view {
                    return Err(error);
                }
                continue; // it was replaced by a newer one meanwhile
            }
            if let Some(job) = self.claim(view, take_over).await? {
                job.sweep().await;
                return Ok(Opened::Owned(job));
            }
        }
        let message = format!("other processes claimed this job first, {TRIES} times: let only one start");
        Err(Error::new(ErrorKind::Busy, message).at(self.log.dir()))
    }

    /// Reads the log, and makes what it says survive a crash before anything is built on it: a process may have been killed when an
    /// entry had its name, but not yet for good.
    async fn read_log(&self) -> Result<LogView, Error> {
        let view = self.log.read().await?;
        if view.last() > 0 {
            self.log.sync().await?;
        }
        Ok(view)
    }

    /// Claims the job at the end of the log; `None` if that was not the end any more.
    async fn claim(&self, mut view: LogView, take_over: bool) -> Result<Option<OwnedJob>, Error> {
        let generation = Generation(view.next());
        if let Some((owner, claim)) = view.owner() {
            let lock = layout::lock(owner, claim.nonce);
            if !take_over && self.folder.is_locked(&lock).await? {
                return Err(self.folder.busy(&lock).await);
            }
        }
        self.folder.create().await?;
        let nonce = self.random.lock().unwrap_or_else(PoisonError::into_inner).next_u64();
        let name = layout::lock(generation, nonce);
        // Before the claim, so that whoever reads the claim also finds the lock.
        let Some(lock) = self.folder.lock(&name).await? else { return Err(self.folder.busy(&name).await) };
        let claim = Claim { process: std::process::id(), nonce };
        let claimed = self.append_claim(&mut view, generation, claim).await;
        if let Ok(true) = claimed {
            let (folder, log) = (self.folder.clone(), self.log.clone());
            return Ok(Some(OwnedJob::new(folder, log, generation, claim, view, lock)));
        }
        drop(lock);
        let _ = self.folder.remove_lock(&name).await; // if that fails the next sweep does it
        claimed.map(|_| None)
    }

    /// Appends the claim. Whether it counts.
    async fn append_claim(
        &self,
        view: &mut LogView,
        generation: Generation,
        claim: Claim,
    ) -> Result<bool, Error> {
        let claim = Entry::Claim(claim);
        match self.log.append(generation.0, &claim).await {
            Appended::Done => {}
            Appended::Taken(_) => return Ok(false),
            // If it is in the log after all, it stands for nobody and does no harm.
            Appended::Failed(error) | Appended::Unknown(error) => return Err(error),
        }
        // It counts only if it is the last entry (rule 3 of the log).
        for _ in 0..LOOKS {
            let sequences = self.log.sequences().await?;
            if sequences.last() != Some(&generation.0) {
                self.withdraw(generation).await?;
                return Ok(false);
            }
            view.forget_all_but(&sequences);
        }
        let pushed = view.push(generation.0, claim);
        pushed.map_err(|fault| Error::new(ErrorKind::Internal, fault.to_string()))?;
        Ok(true)
    }

    /// Removes a claim of ours if it is void. One that is not fences an older process and stays.
    async fn withdraw(&self, generation: Generation) -> Result<(), Error> {
        if self.log.read().await?.has_claim(generation) {
            return Ok(());
        }
        self.log.remove(&[generation.0]).await
    }
}

#[cfg(test)]
impl JobStorage {
    /// What the log says now.
    pub(super) async fn log_view(&self) -> LogView {
        self.log.read().await.unwrap()
    }
}

#[cfg(test)]
mod tests;
