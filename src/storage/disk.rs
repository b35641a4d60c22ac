//! The one small trait that all durable I/O goes through: checkpoint storage and file sinks alike.
//!
//! Few operations, each with a plain promise about what survives a crash, so that a test can stand in for the machine and
//! die, tear or forget at any of them.

use async_trait::async_trait;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// What the names of unfinished files begin with; [`Disk::publish`] may leave one in the folder if the process dies in it.
pub const TEMP_PREFIX: &str = ".tmp-";

/// A place for files that outlive the process.
///
/// Paths are relative to nothing: an implementation may give them any meaning, as long as a parent is a folder.
///
/// When a call has returned, nothing of it is still to happen, whatever it returned. That is not so when its future was
/// dropped: then it may yet take effect, or not.
#[async_trait]
pub trait Disk: fmt::Debug + Send + Sync + 'static {
    /// The whole content of a file. [`io::ErrorKind::NotFound`] if there is none.
    async fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// `len` bytes from `offset`. [`io::ErrorKind::UnexpectedEof`] if the file is shorter.
    async fn read_range(&self, path: &Path, offset: u64, len: u64) -> io::Result<Vec<u8>>;

    /// Length in bytes of a file, or `None` if there is none (a folder is none).
    async fn len(&self, path: &Path) -> io::Result<Option<u64>>;

    /// When a file was last modified, in nanoseconds since 1970-01-01 UTC, or `None` if there is no such file or no such time.
    /// The default knows no times; a source of files then tells a changed file by its length only.
    async fn modified(&self, path: &Path) -> io::Result<Option<i64>> {
        let _ = path;
        Ok(None)
    }

    /// Names of the files and folders directly in `dir`, in order, at least all that are there from begin to end of the call.
    /// Empty if there is no such folder, [`io::ErrorKind::NotADirectory`] if it is a file.
    async fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Creates a folder and its parents; survives a crash. Fine if it is there. [`io::ErrorKind::NotADirectory`] if it or a
    /// parent is a file.
    async fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// Opens a new file for writing. [`io::ErrorKind::AlreadyExists`] if there is one, `NotFound` without its folder.
    /// Neither name nor content need survive a crash before [`DiskFile::sync`] and [`Disk::sync_dir`].
    async fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Creates a file with this content, all of it or nothing, and only if the name is free
    /// ([`io::ErrorKind::AlreadyExists`] otherwise); survives a crash. Any other error leaves the outcome unknown: read back.
    async fn publish(&self, path: &Path, content: Vec<u8>) -> io::Result<()>;

    /// Gives a file another name in the same file system, replacing none: `AlreadyExists` if the target is there, `NotFound` if
    /// the source is not. Survives a crash after [`Disk::sync_dir`] of the target's folder.
    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Makes the names in a folder survive a crash.
    async fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Removes a file. Fine if there is none.
    async fn remove(&self, path: &Path) -> io::Result<()>;

    /// Removes a folder with all that is in it. Fine if there is none.
    async fn remove_dir(&self, dir: &Path) -> io::Result<()>;

    /// Takes an exclusive lock named by a file, which is created if absent and holds `note` while locked. `Ok(None)` if
    /// a live process (this one included) holds it. It ends when dropped, and with the process; the file stays.
    async fn lock(&self, path: &Path, note: &str) -> io::Result<Option<DiskLock>>;
}

/// A file being written.
#[async_trait]
pub trait DiskFile: fmt::Debug + Send + 'static {
    /// Appends.
    async fn write(&mut self, bytes: Vec<u8>) -> io::Result<()>;

    /// Makes everything written so far survive a crash.
    async fn sync(&mut self) -> io::Result<()>;
}

/// A lock that is held until dropped.
pub struct DiskLock {
    _held: Box<dyn std::any::Any + Send + Sync>,
}

impl DiskLock {
    /// Wraps what holds the lock while it lives.
    pub fn new(held: impl std::any::Any + Send + Sync) -> Self {
        Self { _held: Box::new(held) }
    }
}

impl fmt::Debug for DiskLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DiskLock")
    }
}

/// A shared disk.
pub type SharedDisk = Arc<dyn Disk>;

#[cfg(test)]
mod tests;
