//! A file that is being written: one transaction of one subtask.

use super::names::{Names, Part};
use super::{Encode, FileCommit, FileSink, Folder};
use crate::error::{Error, ErrorKind, Result};
use crate::operator::{BoxFuture, OpenTransaction};
use crate::storage::{DiskFile, io_error};
use std::io;

/// One file of a [`FileSink`], until it is prepared.
#[derive(Debug)]
pub struct FileTransaction<E> {
    folder: Folder,
    buffer_size: usize,
    encoder: E,
    /// Encoded, not yet in the file.
    buffer: Vec<u8>,
    /// Whether it has a record.
    begun: bool,
    open: Open,
}

#[derive(Debug)]
enum Open {
    /// Nothing was written, but perhaps into the buffer.
    No(FileCommit),
    Yes(OpenFile),
    /// A write failed or was abandoned: the file has a gap and may never be prepared.
    Broken,
}

/// A file under its hidden name.
#[derive(Debug)]
struct OpenFile {
    file: Box<dyn DiskFile>,
    commit: FileCommit,
}

impl<E> FileTransaction<E> {
    pub(super) fn new(sink: &FileSink<E>, names: &Names, part: Part) -> Self
    where
        E: Clone,
    {
        let (pending, target) = (names.pending(part), names.visible(part, &sink.suffix));
        Self {
            folder: sink.folder.clone(),
            buffer_size: sink.buffer_size,
            encoder: sink.encoder.clone(),
            buffer: Vec::new(),
            begun: false,
            open: Open::No(FileCommit { pending, target, bytes: 0 }),
        }
    }
}

impl<T: 'static, E: Encode<T>> OpenTransaction<T> for FileTransaction<E> {
    type Transaction = FileCommit;

    fn write(&mut self, record: T) -> Result {
        let len = self.buffer.len();
        let encoded = if self.begun {
            self.encoder.encode(&record, &mut self.buffer)
        } else {
            self.encoder.encode_first(&record, &mut self.buffer)
        };
        match &encoded {
            Ok(()) => self.begun = true,
            Err(_) => self.buffer.truncate(len),
        }
        encoded
    }

    fn is_full(&self) -> bool {
        self.buffer.len() >= self.buffer_size.max(1)
    }

    /// Writes a full buffer. One that is not full waits: nobody sees the file before the next checkpoint, and a quiet stream should
    /// not pay a write for each record.
    async fn flush(&mut self) -> Result {
        if !OpenTransaction::<T>::is_full(self) {
            return Ok(());
        }
        let opened = match std::mem::replace(&mut self.open, Open::Broken) {
            Open::No(commit) => OpenFile::create(&self.folder, commit).await?,
            Open::Yes(file) => file,
            Open::Broken => return Err(broken()),
        };
        // A buffer of the same size takes its place, so that it does not grow step by step again.
        let empty = Vec::with_capacity(self.buffer.capacity());
        let bytes = std::mem::replace(&mut self.buffer, empty);
        self.open = Open::Yes(opened.write(&self.folder, bytes).await?);
        Ok(())
    }

    fn pre_commit(self) -> Result<BoxFuture<Result<Option<FileCommit>>>> {
        let Self { folder, buffer, open, .. } = self;
        Ok(Box::pin(async move {
            let opened = match open {
                Open::Yes(file) => file,
                // No record has left anything: there are no empty files.
                Open::No(_) if buffer.is_empty() => return Ok(None),
                Open::No(commit) => OpenFile::create(&folder, commit).await?,
                Open::Broken => return Err(broken()),
            };
            let written = opened.write(&folder, buffer).await?;
            written.sync(&folder).await.map(Some)
        }))
    }
}

impl OpenFile {
    async fn create(folder: &Folder, commit: FileCommit) -> Result<Self> {
        let path = folder.path.join(&commit.pending);
        let file = folder.disk.create(&path).await.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Error::new(
                ErrorKind::Configuration,
                "an output file of this very run is there already. Another job writes to the same folder with the same uid: give \
                 each job its own folder. Or the storage repeated a request whose answer it had lost: then start the job again",
            )
            .at(&path),
            _ => io_error("create an output file", &path, error),
        })?;
        Ok(Self { file, commit })
    }

    async fn write(mut self, folder: &Folder, bytes: Vec<u8>) -> Result<Self> {
        if !bytes.is_empty() {
            self.commit.bytes += bytes.len() as u64;
            let written = self.file.write(bytes).await;
            written.map_err(|error| {
                io_error("write an output file", &folder.path.join(&self.commit.pending), error)
            })?;
        }
        Ok(self)
    }

    /// Makes content and hidden name durable: from here on a checkpoint may name the file.
    async fn sync(mut self, folder: &Folder) -> Result<FileCommit> {
        let synced = self.file.sync().await;
        synced.map_err(|error| {
            io_error("sync an output file", &folder.path.join(&self.commit.pending), error)
        })?;
        folder.sync().await?;
        Ok(self.commit)
    }
}

fn broken() -> crate::error::BoxError {
    Error::new(ErrorKind::Storage, "an earlier write to an output file failed").into()
}
