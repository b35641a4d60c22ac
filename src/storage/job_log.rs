//! The files of the job log. What the entries mean, and why nothing here may be done otherwise, says [`super::log_view`].

use super::disk::SharedDisk;
use super::layout;
use super::log_view::{Entry, LogView};
use crate::checkpoint::envelope::{self, Format};
use crate::error::{Error, ErrorKind};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// How often reading starts over because the owner removed an entry meanwhile.
const READS: u32 = 100;

/// The content of an entry's file.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// Its number again, so that a copied or renamed file is noticed.
    sequence: u64,
    entry: Entry,
}

/// The file format of an entry. A new kind of entry is a new version.
const FORMAT: Format = Format { kind: *b"JLOG", version: 1 };

/// The log of one job.
#[derive(Debug, Clone)]
pub(crate) struct JobLog {
    disk: SharedDisk,
    dir: PathBuf,
}

/// What became of an entry that was to be appended.
#[derive(Debug)]
pub(crate) enum Appended {
    /// It is in the log for good.
    Done,
    /// Another entry has that number.
    Taken(Entry),
    /// It is not in the log.
    Failed(Error),
    /// It may be in the log or not.
    Unknown(Error),
}

impl JobLog {
    /// The log in this folder, which need not exist.
    pub(crate) fn new(disk: SharedDisk, dir: PathBuf) -> Self {
        Self { disk, dir }
    }

    /// The folder.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The file of an entry.
    pub(crate) fn path(&self, sequence: u64) -> PathBuf {
        self.dir.join(layout::log_entry(sequence))
    }

    /// Reads the whole log. An absent one is empty.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if an entry is not readable or does not fit; [`ErrorKind::Configuration`] if there is a file where
    /// the folder should be; [`ErrorKind::Storage`].
    pub(crate) async fn read(&self) -> Result<LogView, Error> {
        for _ in 0..READS {
            if let Some(view) = self.try_read().await? {
                return Ok(view);
            }
        }
        let message = format!("the job log was changed by its owner during each of {READS} readings");
        Err(Error::new(ErrorKind::Busy, message).at(&self.dir))
    }

    /// `None` if an entry was removed between listing and reading it.
    async fn try_read(&self) -> Result<Option<LogView>, Error> {
        let mut entries = Vec::new();
        for sequence in self.sequences().await? {
            let Some(entry) = self.read_entry(sequence).await? else { return Ok(None) };
            entries.push((sequence, entry));
        }
        let view = LogView::fold(entries).map_err(|fault| {
            Error::new(ErrorKind::Corrupt, fault.to_string()).at(&self.path(fault.sequence))
        })?;
        Ok(Some(view))
    }

    /// Numbers of all entries, in order.
    ///
    /// # Errors
    /// As [`JobLog::read`].
    pub(crate) async fn sequences(&self) -> Result<Vec<u64>, Error> {
        let names = self
            .disk
            .list(&self.dir)
            .await
            .map_err(|error| layout::io_error("list the job log", &self.dir, error))?;
        Ok(names.iter().filter_map(|name| layout::parse_log_entry(name)).collect())
    }

    /// Reads one entry; `None` if it is not there.
    ///
    /// # Errors
    /// As [`JobLog::read`].
    pub(crate) async fn read_entry(&self, sequence: u64) -> Result<Option<Entry>, Error> {
        let path = self.path(sequence);
        let bytes = match self.disk.read(&path).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(layout::io_error("read the job log's entry", &path, error)),
        };
        let corrupt = |why: String| {
            let message = format!("an entry of the job log cannot be read: {why}");
            Error::new(ErrorKind::Corrupt, message).at(&path)
        };
        let record: Record = envelope::decode(FORMAT, &bytes).map_err(|error| corrupt(error.to_string()))?;
        if record.sequence != sequence {
            return Err(corrupt(format!("it was written as entry {}", record.sequence)));
        }
        Ok(Some(record.entry))
    }

    /// Appends an entry under this number, if that is free. Whenever the answer of the disk leaves a doubt, the entry is read
    /// back. To be repeated after [`Appended::Unknown`] with the same entry.
    pub(crate) async fn append(&self, sequence: u64, entry: &Entry) -> Appended {
        let path = self.path(sequence);
        let record = Record { sequence, entry: entry.clone() };
        let bytes = match envelope::encode(FORMAT, &record) {
            Ok(bytes) => bytes,
            Err(error) => {
                return Appended::Failed(Error::new(ErrorKind::Internal, error.to_string()).at(&path));
            }
        };
        let Err(error) = self.disk.publish(&path, bytes).await else { return Appended::Done };
        let is_taken = error.kind() == io::ErrorKind::AlreadyExists;
        let failure = |error| layout::io_error("write to the job log", &path, error);
        match self.read_back(sequence).await {
            Ok(Some(found)) if found == *entry => Appended::Done,
            Ok(Some(found)) => Appended::Taken(found),
            Ok(None) if !is_taken => Appended::Failed(failure(error)),
            Ok(None) => Appended::Unknown(failure(error)),
            Err(unreadable) => Appended::Unknown(unreadable),
        }
    }

    /// Reads what became of an entry whose writing failed; what is found is in the log for good.
    ///
    /// # Errors
    /// As [`JobLog::read`]: then it is still not known.
    pub(crate) async fn read_back(&self, sequence: u64) -> Result<Option<Entry>, Error> {
        let found = self.read_entry(sequence).await?;
        if found.is_some() {
            // There, but perhaps not yet for good: the error may have come between the two.
            self.sync().await?;
        }
        Ok(found)
    }

    /// Makes the entries that are there, and the absence of others, survive a crash.
    ///
    /// # Errors
    /// [`ErrorKind::Storage`].
    pub(crate) async fn sync(&self) -> Result<(), Error> {
        let synced = self.disk.sync_dir(&self.dir).await;
        synced.map_err(|error| layout::io_error("sync the job log", &self.dir, error))
    }

    /// Removes entries for good. The caller knows that it may.
    ///
    /// # Errors
    /// [`ErrorKind::Storage`]; then some may be gone.
    pub(crate) async fn remove(&self, sequences: &[u64]) -> Result<(), Error> {
        for sequence in sequences {
            let path = self.path(*sequence);
            let removed = self.disk.remove(&path).await;
            removed.map_err(|error| layout::io_error("remove the job log's entry", &path, error))?;
        }
        self.sync().await
    }
}

#[cfg(test)]
mod tests;
