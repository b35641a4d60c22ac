//! The large files of a checkpoint: the state of one subtask, one segment after the other.
//!
//! A file is the [preamble](envelope::preamble) and then bytes; where the segments are and what their checksums are, says the manifest. In
//! version 2 each segment is compressed, in [blocks]; such a file has a name that says so.

use super::blocks::{self, BLOCK};
use super::disk::{DiskFile, SharedDisk};
use super::layout;
use super::transfers::Transfers;
use crate::checkpoint::Compression;
use crate::checkpoint::envelope::{self, Format, PREAMBLE};
use crate::checkpoint::metadata::{InlineFile, Segment};
use crate::error::{Error, ErrorKind};
use std::path::{Path, PathBuf};

/// The file format. The content of segments is described by the manifest, whose version covers it.
pub(crate) const FORMAT: Format = Format { kind: *b"STAT", version: 2 };

/// The version of a file.
fn format_of(compression: Compression) -> Format {
    let version = match compression {
        Compression::None => 1,
        Compression::Lz4 => 2,
    };
    Format { version, ..FORMAT }
}

/// How much is collected before it is written, unless the storage says otherwise: large enough that the cost of a call does not matter, small
/// enough that memory does not.
pub(crate) const BUFFER: usize = 1 << 20;

/// Writes a state file. It is made when there is something to write, so that a subtask without state makes none.
///
/// After an error, or when a call was given up halfway, every further call is an error: the file is useless and goes with its
/// folder.
#[derive(Debug)]
pub struct StateFileWriter {
    disk: SharedDisk,
    folder: PathBuf,
    name: String,
    max_state_size: Option<u64>,
    file: Option<Box<dyn DiskFile>>,
    buffer: Vec<u8>,
    buffer_size: usize,
    /// What is no larger may be kept without a file.
    memory_threshold: u64,
    /// Later checkpoints may need the file.
    is_shared: bool,
    compression: Compression,
    transfers: Transfers,
    /// Bytes of the file so far, those in the buffer included.
    len: u64,
    state: String,
    state_len: u64,
    broken: bool,
}

impl StateFileWriter {
    /// A file of this name (with `/` between the parts) in the job's folder.
    pub(super) fn new(disk: SharedDisk, folder: PathBuf, name: String, max_state_size: Option<u64>) -> Self {
        Self {
            transfers: Transfers::new(1),
            compression: Compression::of_file(&name),
            disk,
            folder,
            state: name.clone(),
            name,
            max_state_size,
            file: None,
            buffer: Vec::new(),
            buffer_size: BUFFER,
            memory_threshold: 0,
            is_shared: false,
            len: 0,
            state_len: 0,
            broken: false,
        }
    }

    /// Collects so many bytes, at least 1, before it writes them.
    pub(super) fn buffered(self, bytes: usize) -> Self {
        Self { buffer_size: bytes.max(1), ..self }
    }

    /// Writes when it is its turn.
    pub(super) fn in_turn(self, transfers: Transfers) -> Self {
        Self { transfers, ..self }
    }

    /// What is no larger than this needs no file.
    pub(super) fn in_memory_up_to(self, bytes: u64) -> Self {
        Self { memory_threshold: bytes, ..self }
    }

    /// Other checkpoints will need it too, so it is a file however small it is.
    pub fn share(&mut self) {
        self.is_shared = true;
    }

    /// The segments that follow belong to this state: its name for errors, and its size counts from here.
    pub fn begin_state(&mut self, name: impl Into<String>) {
        self.state = name.into();
        self.state_len = 0;
    }

    /// Appends a segment and says where it will be found, once [`finish`](Self::finish) has succeeded.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`] if the state grows larger than the storage allows, [`ErrorKind::Cancelled`],
    /// [`ErrorKind::Storage`].
    pub async fn write_segment(&mut self, bytes: &[u8]) -> Result<Segment, Error> {
        self.check_usable()?;
        self.broken = true;
        self.state_len = self.state_len.saturating_add(bytes.len() as u64);
        self.check_size()?;
        if self.len == 0 {
            self.append(&envelope::preamble(format_of(self.compression))).await?;
        }
        let offset = self.len;
        let mut crc32c = 0;
        match self.compression {
            Compression::None => {
                crc32c = crc32c::crc32c(bytes);
                self.append(bytes).await?;
            }
            Compression::Lz4 => {
                for block in bytes.chunks(BLOCK) {
                    let block = blocks::pack(block)?;
                    crc32c = crc32c::crc32c_append(crc32c, &block);
                    self.append(&block).await?;
                }
            }
        }
        self.broken = false;
        Ok(Segment { file: self.name.clone(), offset, len: self.len - offset, crc32c })
    }

    /// Makes the content survive a crash, and returns the length of the file; 0 if there is none as nothing was written. The
    /// *name* survives once the checkpoint is completed.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`], [`ErrorKind::Storage`].
    pub async fn finish(mut self) -> Result<u64, Error> {
        self.check_usable()?;
        if self.len == 0 {
            return Ok(0);
        }
        self.flush().await?;
        let path = self.path();
        let _turn = self.transfers.turn().await;
        match &mut self.file {
            Some(file) => {
                file.sync().await.map_err(|error| layout::io_error("sync the state", &path, error))?
            }
            None => return Err(self.unusable()),
        }
        Ok(self.len)
    }

    /// As [`finish`](Self::finish); but what is small enough is given back, to become part of the manifest, and no file is made.
    ///
    /// # Errors
    /// As [`finish`](Self::finish).
    pub async fn finish_or_inline(mut self) -> Result<Option<InlineFile>, Error> {
        self.check_usable()?;
        if self.len > 0 && self.is_small() && self.file.is_none() {
            let (file, content) = (std::mem::take(&mut self.name), std::mem::take(&mut self.buffer));
            return Ok(Some(InlineFile { file, content }));
        }
        self.finish().await.map(|_| None)
    }

    fn is_small(&self) -> bool {
        !self.is_shared && self.len <= self.memory_threshold
    }

    async fn append(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let room = self.buffer_size.max(usize::try_from(self.memory_threshold).unwrap_or(usize::MAX));
            let (now, later) = bytes.split_at(room.saturating_sub(self.buffer.len()).min(bytes.len()).max(1));
            self.buffer.extend_from_slice(now);
            self.len += now.len() as u64;
            bytes = later;
            if self.buffer.len() >= self.buffer_size && !self.is_small() {
                self.flush().await?;
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Error> {
        let path = self.path();
        let failed = |error| layout::io_error("write the state", &path, error);
        let _turn = self.transfers.turn().await;
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(self.disk.create(&path).await.map_err(failed)?),
        };
        if !self.buffer.is_empty() {
            file.write(std::mem::take(&mut self.buffer)).await.map_err(failed)?;
        }
        Ok(())
    }

    fn path(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    fn unusable(&self) -> Error {
        let message = "this state file is unusable, because an earlier write to it failed";
        Error::new(ErrorKind::Storage, message).at(&self.path())
    }

    fn check_usable(&self) -> Result<(), Error> {
        if self.broken { Err(self.unusable()) } else { Ok(()) }
    }

    fn check_size(&self) -> Result<(), Error> {
        match self.max_state_size {
            Some(limit) if self.state_len > limit => {
                let message = format!(
                    "state `{}` has {} bytes or more in one subtask, and this storage takes {limit} per state: \
                     keep checkpoints in a `FileSystem`, raise `max_state_size`, or run at a higher parallelism",
                    self.state, self.state_len
                );
                Err(Error::new(ErrorKind::Configuration, message).at(&self.path()))
            }
            _ => Ok(()),
        }
    }
}

/// Checks that a state file is one, in a version that can be read, and has at least `len` bytes. Reads only its start.
///
/// # Errors
/// As [`read_segment`].
pub(crate) async fn check_file(disk: &SharedDisk, folder: &Path, file: &str, len: u64) -> Result<(), Error> {
    let path = layout::resolve(folder, file)?;
    let corrupt =
        |why: String| Error::new(ErrorKind::Corrupt, format!("a state file cannot be read: {why}")).at(&path);
    let failed = |error| layout::io_error("read the state", &path, error);
    let Some(found) = disk.len(&path).await.map_err(failed)? else {
        return Err(corrupt("it is missing".into()));
    };
    let start = disk.read_range(&path, 0, found.min(PREAMBLE as u64)).await.map_err(failed)?;
    let (version, _) =
        envelope::check_preamble(FORMAT, &start).map_err(|error| corrupt(error.to_string()))?;
    let compression = Compression::of_file(file);
    let expected = format_of(compression).version;
    if version != expected {
        return Err(corrupt(format!("it has version {version}, and by its name it should have {expected}")));
    }
    if !compression.is_built_in() {
        return Err(blocks::not_built_in().at(&path));
    }
    if found < len {
        return Err(corrupt(format!("it has {found} bytes, expected {len}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
