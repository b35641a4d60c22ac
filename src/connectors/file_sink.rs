//! Files in a folder, exactly once.

#[cfg(feature = "csv")]
mod csv;
mod encode;
#[cfg(feature = "json")]
mod json;
mod names;
#[cfg(test)]
mod tests;
mod transaction;

#[cfg(feature = "csv")]
pub use self::csv::CsvEncode;
pub use encode::{DisplayLines, Encode, EncodeWith};
#[cfg(feature = "json")]
pub use json::JsonEncode;
pub use transaction::FileTransaction;

use crate::error::{Error, ErrorKind, Result};
use crate::operator::{CommitRetries, RecoveryContext, TransactionContext, TwoPhaseCommit, two_phase_sink};
use crate::storage::{LocalDisk, SharedDisk, io_error};
use names::{Found, Names, Part};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// Writes records into files of a folder, **exactly once**: whatever crashes, what a reader sees in the folder – the names that
/// begin with neither `.` nor `_` – holds every record of the completed checkpoints once and nothing else.
///
/// Each subtask writes a file of its own under a hidden name and starts a new one at every checkpoint. The file is made
/// durable (fsync) as part of the checkpoint, and renamed to its visible name when the checkpoint has completed. So output
/// appears once per checkpoint: the interval is its latency, and a short one makes many small files. There are no empty files.
/// Without checkpointing the files appear at the end of the input, and the folder must hold no output of this sink yet.
///
/// Visible names are `part-<uid>-<generation>-<attempt>-<subtask>-<sequence><suffix>` with padded numbers: the order of names is the order
/// of commits of each subtask. Characters of the uid other than ASCII letters, digits, `-` and `_` are written as `%` and two hex digits;
/// names of more than 255 bytes are refused. Sinks with different uids may share a folder; two jobs must not.
///
/// What to leave alone: hidden files, and visible ones of the last checkpoint while the job may still be restarted. A file
/// that a checkpoint names and that has neither name any more is an error at the start, as its records would be lost.
/// The folder must support hard links or no-replace renames and be on one file system.
///
/// The default encoder writes each record as a line, by its `Display`; see also [`csv`](FileSink::csv) and
/// [`json_lines`](FileSink::json_lines). The design is that of Flink's `FileSink` with a roll at every
/// checkpoint.
///
/// ```
/// # use strandline::prelude::*;
/// # fn main() -> Result {
/// # let env = Environment::builder().build()?;
/// # let counts = env.source("counts", Iter::new([("a".to_owned(), 1_u64)]));
/// counts.sink("files", FileSink::at("out").suffix(".tsv").encode(|(word, n): &(String, u64), out| {
///     out.extend_from_slice(format!("{word}\t{n}\n").as_bytes());
/// }));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct FileSink<E = DisplayLines> {
    folder: Folder,
    suffix: String,
    buffer_size: usize,
    encoder: E,
}

/// Longest name of a file, in bytes, that common file systems take.
const LONGEST_NAME: usize = 255;

/// A folder on a disk.
#[derive(Debug, Clone)]
struct Folder {
    disk: SharedDisk,
    path: PathBuf,
}

impl FileSink {
    /// Files in `folder`, which is created if absent, on the local disk; each record a line, by its `Display`.
    #[must_use]
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: Folder { disk: LocalDisk::shared(), path: folder.into() },
            suffix: String::new(),
            buffer_size: 1024 * 1024,
            encoder: DisplayLines,
        }
    }
}

impl<E> FileSink<E> {
    /// Encodes records by a function that appends each to the buffer, with whatever separates it from the next.
    #[must_use]
    pub fn encode<T, F>(self, encode: F) -> FileSink<EncodeWith<T, F>>
    where
        F: Fn(&T, &mut Vec<u8>) + Clone + Send + Sync + 'static,
    {
        self.encoder(EncodeWith::new(encode))
    }

    /// Encodes records by an [`Encode`], for encoders that can fail.
    #[must_use]
    pub fn encoder<F>(self, encoder: F) -> FileSink<F> {
        FileSink { folder: self.folder, suffix: self.suffix, buffer_size: self.buffer_size, encoder }
    }

    /// Ends visible names with this, such as `.tsv`; it must begin with a dot. Default: none. It may change between runs.
    #[must_use]
    pub fn suffix(mut self, suffix: impl Into<String>) -> Self {
        self.suffix = suffix.into();
        self
    }

    /// How many bytes each subtask gathers before it writes them to its file. Default and recommended: 1 MiB. More costs memory and
    /// leaves more to write at a checkpoint, less costs more and smaller writes.
    #[must_use]
    pub fn buffer_size(mut self, bytes: usize) -> Self {
        self.buffer_size = bytes;
        self
    }

    /// Uses another disk than the local one.
    #[must_use]
    pub fn disk(mut self, disk: SharedDisk) -> Self {
        self.folder.disk = disk;
        self
    }

    fn check(&self, names: &Names) -> Result {
        let suffix = &self.suffix;
        let longest = names.longest(suffix);
        let message = if !suffix.is_empty()
            && (!suffix.starts_with('.') || suffix.contains(['/', '\\', '\0']))
        {
            format!("the suffix {suffix:?} of a file sink must begin with `.` and hold no `/` or `\\`")
        } else if longest > LONGEST_NAME {
            format!(
                "the names of a file sink's files would have {longest} bytes, and file systems take {LONGEST_NAME}: give the \
                 sink a shorter uid or suffix"
            )
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::Configuration, message).at(&self.folder.path).into())
    }
}

/// A file made durable under its hidden name, to be renamed to its visible one. The names are relative to the folder, so the folder
/// may be moved between runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileCommit {
    /// The hidden name.
    pub pending: String,
    /// The visible name.
    pub target: String,
    /// Length of the file.
    pub bytes: u64,
}

impl<T: 'static, E: Encode<T>> TwoPhaseCommit<T> for FileSink<E> {
    type Transaction = FileCommit;
    type Open = FileTransaction<E>;

    async fn begin_recovery(&self, context: &RecoveryContext) -> Result {
        let names = Names::of(&context.operator);
        self.check(&names)?;
        self.folder.create().await?;
        // Refuse before anything is changed.
        for file in self.folder.find(&names).await? {
            self.folder.refuse_foreign(&file, context)?;
        }
        Ok(())
    }

    /// Files that were open are found by their names: no checkpoint need hold them.
    async fn end_recovery(&self, context: &RecoveryContext) -> Result {
        let found = self.folder.find(&Names::of(&context.operator)).await?;
        self.folder.sweep(found, context).await
    }

    fn begin(&self, context: &TransactionContext) -> Result<FileTransaction<E>> {
        let names = Names::of(&context.subtask.operator);
        self.check(&names)?;
        let part = Part {
            generation: context.subtask.generation.0,
            attempt: context.subtask.attempt.0,
            subtask: context.subtask.subtask.0,
            sequence: context.sequence,
        };
        Ok(FileTransaction::new(self, &names, part))
    }

    /// A disk that does not rename a file seldom mends by itself in seconds; a restart also finds out what is there.
    fn retries(&self) -> CommitRetries {
        CommitRetries::NONE
    }

    async fn commit(&self, commit: FileCommit) -> Result {
        self.folder.publish(&commit).await
    }

    /// Also when all had been renamed before: the sync may be what was missing.
    async fn sync(&self) -> Result {
        self.folder.sync().await
    }
}

two_phase_sink!([T: 'static, E: Encode<T>] FileSink<E>, |this| this, FileSink<E>);

impl Folder {
    async fn create(&self) -> Result {
        self.disk.create_dir(&self.path).await.map_err(|error| {
            match error.kind() {
                io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
                    Error::new(ErrorKind::Configuration, "the folder of a file sink is a file")
                        .at(&self.path)
                        .because(error)
                }
                _ => io_error("create the folder of a file sink", &self.path, error),
            }
            .into()
        })
    }

    /// The files of one sink.
    async fn find(&self, names: &Names) -> Result<Vec<Found>> {
        let listed = self.disk.list(&self.path).await;
        let listed = listed.map_err(|error| io_error("list the folder of a file sink", &self.path, error))?;
        Ok(listed.into_iter().filter_map(|name| names.parse(name)).collect())
    }

    /// Refuses a file that no earlier run of this very job can have left: with it the output would not be exact.
    fn refuse_foreign(&self, file: &Found, context: &RecoveryContext) -> Result {
        let run = (file.part.generation, file.part.attempt);
        let own = (context.generation.0, context.attempt.0);
        let message = if !context.checkpointing {
            if !file.visible {
                return Ok(());
            }
            "the folder of a file sink already holds output, and without checkpointing it cannot be continued: \
             give an empty folder, or enable checkpointing"
                .to_owned()
        } else if file.visible && run < own && context.restored.is_none() {
            "the folder of a file sink holds output of an earlier run, but this one begins from no checkpoint and would write \
             it all again: give an empty folder, or the checkpoints that belong to this one"
                .to_owned()
        } else if run == own || (file.visible && run > own) {
            format!(
                "the folder of a file sink holds a file of generation {} attempt {}, but this run is generation {} \
                 attempt {}: another job wrote it, or this one's checkpoints were removed, or another process took the \
                 job over. Give an empty folder, or the checkpoints that belong to this one",
                run.0, run.1, own.0, own.1
            )
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::Configuration, message).at(&self.path.join(&file.name)).into())
    }

    /// Removes what earlier runs prepared and no completed checkpoint holds: those are visible by now. A newer process may already run,
    /// and its files are none of ours.
    async fn sweep(&self, found: Vec<Found>, context: &RecoveryContext) -> Result {
        let own = (context.generation.0, context.attempt.0);
        let mut removed = false;
        for file in found {
            let run = (file.part.generation, file.part.attempt);
            // Without checkpointing every run is generation 0.
            let older = run < own || (!context.checkpointing && run.0 == own.0);
            if !file.visible && older {
                let path = self.path.join(&file.name);
                let gone = self.disk.remove(&path).await;
                gone.map_err(|error| io_error("remove an unfinished file", &path, error))?;
                removed = true;
            }
        }
        if removed { self.sync().await } else { Ok(()) }
    }

    /// Gives one file its visible name. Another process, or this one before a crash, may have done so, or may be doing it now.
    async fn publish(&self, commit: &FileCommit) -> Result {
        let pending = self.path.join(&commit.pending);
        let target = self.path.join(&commit.target);
        if let Some(len) = self.len(&pending).await?
            && len != commit.bytes
        {
            let message = format!("a prepared file has {len} bytes, its checkpoint says {}", commit.bytes);
            return Err(Error::new(ErrorKind::Corrupt, message).at(&pending).into());
        }
        match self.disk.rename(&pending, &target).await {
            Ok(()) => return Ok(()),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists) => {}
            Err(error) => return Err(io_error("make a file visible", &pending, error).into()),
        }
        match (self.len(&pending).await?, self.len(&target).await?) {
            (None, Some(_)) => Ok(()),
            // A crash between the two halves of a rename: one file with two names.
            (Some(_), Some(len)) if len == commit.bytes => {
                let gone = self.disk.remove(&pending).await;
                gone.map_err(|error| io_error("remove a second name", &pending, error).into())
            }
            (Some(_), Some(len)) => Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "cannot make the file visible as {}: a file of {len} bytes is there, expected none or {} bytes. \
                     Move that one away",
                    target.display(),
                    commit.bytes
                ),
            )
            .at(&pending)
            .into()),
            (pending_len, None) => Err(Error::new(
                if pending_len.is_some() { ErrorKind::Storage } else { ErrorKind::Corrupt },
                format!(
                    "a file of {} bytes that a completed checkpoint holds is gone: neither {} nor {} is there. Put it \
                     back, or start a new job",
                    commit.bytes, commit.pending, commit.target
                ),
            )
            .at(&self.path)
            .into()),
        }
    }

    async fn len(&self, path: &Path) -> Result<Option<u64>> {
        let len = self.disk.len(path).await;
        len.map_err(|error| io_error("look at an output file", path, error).into())
    }

    async fn sync(&self) -> Result {
        let synced = self.disk.sync_dir(&self.path).await;
        synced.map_err(|error| io_error("sync the folder of a file sink", &self.path, error).into())
    }
}
