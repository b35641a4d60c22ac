//! Where checkpoints go: what a job is given.

use super::disk::SharedDisk;
use super::local::LocalDisk;
use super::memory::MemoryDisk;
use super::state_file::BUFFER;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// Where the checkpoints of jobs are kept: a disk and a folder on it. Each job has a folder of its name in there.
pub trait Storage: fmt::Debug + Send + Sync + 'static {
    /// What reads and writes the files.
    fn disk(&self) -> SharedDisk;

    /// The folder that holds the folders of the jobs.
    fn root(&self) -> PathBuf;

    /// The most bytes that one state of one subtask may take in a checkpoint, `None` for no limit.
    fn max_state_size(&self) -> Option<u64> {
        None
    }

    /// What a subtask gives to a checkpoint, if it is no more bytes than this, goes into the manifest instead of a file. None unless it is set.
    fn memory_threshold(&self) -> u64 {
        0
    }

    /// How many bytes of a state file are collected before they are written. 1 MiB unless it is set.
    fn write_buffer_size(&self) -> usize {
        BUFFER
    }
}

/// Checkpoints in a folder of the local file system: they survive the process and, where the folder is on a lasting drive,
/// the machine. Start with this one. (Flink's `FileSystemCheckpointStorage`.)
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystem {
    root: PathBuf,
    memory_threshold: u64,
    write_buffer_size: usize,
}

impl FileSystem {
    /// In this folder, which is made when the first job starts. A relative path is relative to the working directory of
    /// the process at each access, so give an absolute one to a service that changes it.
    ///
    /// Two jobs may share the folder if their names differ. Two processes may not run one job in it at a time; on one
    /// machine the second is refused, on a network drive the file system's locks must work for that.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        let memory_threshold = Self::DEFAULT_MEMORY_THRESHOLD;
        Self { root: root.into(), memory_threshold, write_buffer_size: BUFFER }
    }

    /// The default of [`FileSystem::memory_threshold`]: 20 kB, as in Flink.
    pub const DEFAULT_MEMORY_THRESHOLD: u64 = 20 * 1024;

    /// What a subtask gives to a checkpoint, if it is no more bytes than this, goes into the manifest instead of a file of its own. Default
    /// 20 kB. More save the creation and the fsync of a file per subtask and checkpoint; all of it passes through the memory of the checkpoint
    /// coordinator, and a manifest grows by that much per subtask. Start with the default. Source: Flink's `state.storage.fs.memory-threshold`.
    #[must_use]
    pub fn memory_threshold(self, bytes: u64) -> Self {
        Self { memory_threshold: bytes, ..self }
    }

    /// How many bytes of a state file are collected before they are written. Default 1 MiB. Each subtask that is writing a snapshot holds that
    /// much memory; less than some 100 kB and every write costs a call that shows. Start with the default; with 8 MiB or more on a network drive that
    /// likes large writes. Source: Flink's `state.storage.fs.write-buffer-size`, where the default is 4 kB.
    #[must_use]
    pub fn write_buffer_size(self, bytes: usize) -> Self {
        Self { write_buffer_size: bytes, ..self }
    }
}

impl Storage for FileSystem {
    fn disk(&self) -> SharedDisk {
        Arc::new(LocalDisk::new())
    }

    fn root(&self) -> PathBuf {
        self.root.clone()
    }

    fn memory_threshold(&self) -> u64 {
        self.memory_threshold
    }

    fn write_buffer_size(&self) -> usize {
        self.write_buffer_size
    }
}

/// Checkpoints in the memory of the process: they survive a restart of the dataflow, and are lost with the process.
///
/// For tests, for trying things out, and for jobs whose input can be read again from its beginning. Clones share what is
/// kept, so a job started again with the same `Memory` goes on. (Flink's `JobManagerCheckpointStorage`.)
#[derive(Debug, Clone)]
pub struct Memory {
    disk: MemoryDisk,
    max_state_size: u64,
}

impl Memory {
    /// The default of [`Memory::max_state_size`]: 5 MiB, as in Flink.
    pub const DEFAULT_MAX_STATE_SIZE: u64 = 5 * 1024 * 1024;

    /// An empty one, with the default limit.
    #[must_use]
    pub fn new() -> Self {
        Self { disk: MemoryDisk::new(), max_state_size: Self::DEFAULT_MAX_STATE_SIZE }
    }

    /// The most bytes that one state of one subtask may take in a checkpoint; a checkpoint with more of it fails. Default
    /// 5 242 880. A higher limit allows larger states, and each retained checkpoint costs that much memory; beyond some
    /// 100 MB use [`FileSystem`].
    #[must_use]
    pub fn max_state_size(self, bytes: u64) -> Self {
        Self { max_state_size: bytes, ..self }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Storage for Memory {
    fn disk(&self) -> SharedDisk {
        Arc::new(self.disk.clone())
    }

    fn root(&self) -> PathBuf {
        PathBuf::from("memory")
    }

    fn max_state_size(&self) -> Option<u64> {
        Some(self.max_state_size)
    }
}

/// Checkpoints on a disk of your own: an object store, a disk that fails on purpose.
#[derive(Debug, Clone)]
pub struct OnDisk {
    disk: SharedDisk,
    root: PathBuf,
    max_state_size: Option<u64>,
    memory_threshold: u64,
    write_buffer_size: usize,
}

impl OnDisk {
    /// In the folder `root` of `disk`, without a limit of state size.
    pub fn new(disk: SharedDisk, root: impl Into<PathBuf>) -> Self {
        let (max_state_size, memory_threshold) = (None, 0);
        Self { disk, root: root.into(), max_state_size, memory_threshold, write_buffer_size: BUFFER }
    }

    /// See [`Memory::max_state_size`]. None by default.
    #[must_use]
    pub fn max_state_size(self, bytes: u64) -> Self {
        Self { max_state_size: Some(bytes), ..self }
    }

    /// See [`FileSystem::memory_threshold`]. 0 by default: all state is in files.
    #[must_use]
    pub fn memory_threshold(self, bytes: u64) -> Self {
        Self { memory_threshold: bytes, ..self }
    }

    /// See [`FileSystem::write_buffer_size`].
    #[must_use]
    pub fn write_buffer_size(self, bytes: usize) -> Self {
        Self { write_buffer_size: bytes, ..self }
    }
}

impl Storage for OnDisk {
    fn disk(&self) -> SharedDisk {
        Arc::clone(&self.disk)
    }

    fn root(&self) -> PathBuf {
        self.root.clone()
    }

    fn max_state_size(&self) -> Option<u64> {
        self.max_state_size
    }

    fn memory_threshold(&self) -> u64 {
        self.memory_threshold
    }

    fn write_buffer_size(&self) -> usize {
        self.write_buffer_size
    }
}
