//! Durable I/O: the [`Disk`] trait, and on it checkpoint storage and the job log.

mod blocks;
mod disk;
mod fault;
#[cfg(test)]
mod format_v1;
mod job_folder;
mod job_log;
#[cfg(test)]
mod job_log_model;
mod job_storage;
mod layout;
#[cfg(test)]
mod leftovers;
mod local;
mod log_view;
mod memory;
mod options;
mod owned_job;
mod state_file;
mod state_reader;
#[cfg(test)]
pub(crate) mod test_support;
mod transfers;

pub use disk::{Disk, DiskFile, DiskLock, SharedDisk, TEMP_PREFIX};
pub use fault::{Fault, FaultyDisk, Injection, Operation, Traced};
pub use job_storage::{JobStorage, Opened};
pub(crate) use layout::{check_job_name, io_error};
pub use local::LocalDisk;
pub(crate) use local::blocking;
pub use memory::MemoryDisk;
pub use options::{FileSystem, Memory, OnDisk, Storage};
pub use owned_job::{CompleteError, OwnedJob};
pub use state_file::StateFileWriter;
