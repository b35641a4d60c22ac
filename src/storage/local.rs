//! The disk of this machine: `std::fs`, on the threads that tokio keeps for blocking work.

use super::disk::{Disk, DiskFile, DiskLock, SharedDisk, TEMP_PREFIX};
use crate::types::Random;
use async_trait::async_trait;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::UNIX_EPOCH;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// Files and folders of the local file system. Needs a tokio runtime around every call.
///
/// Durability is `fsync` of files and of folders, so it is as good as the file system's and the drive's. Locks are `flock`s:
/// good between processes of one machine; on network file systems only as good as those make them.
#[derive(Debug, Clone, Copy, Default)]
pub struct LocalDisk;

impl LocalDisk {
    /// The one there is.
    #[must_use]
    pub fn new() -> Self {
        Self
    }

    /// The one there is, shared.
    #[must_use]
    pub fn shared() -> SharedDisk {
        Arc::new(Self)
    }
}

/// Runs file work where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    // By handle, because the free function panics outside of a runtime.
    let runtime = tokio::runtime::Handle::try_current()
        .map_err(|error| io::Error::other(format!("the local disk needs a tokio runtime: {error}")))?;
    match runtime.spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => {
            Err(io::Error::other(format!("the runtime was shut down during a file operation: {error}")))
        }
    }
}

#[async_trait]
impl Disk for LocalDisk {
    async fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let path = path.to_owned();
        blocking(move || fs::read(path)).await
    }

    async fn read_range(&self, path: &Path, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        let path = path.to_owned();
        blocking(move || read_range(&path, offset, len)).await
    }

    async fn len(&self, path: &Path) -> io::Result<Option<u64>> {
        let path = path.to_owned();
        blocking(move || match fs::metadata(path) {
            Ok(found) => Ok(found.is_file().then_some(found.len())),
            Err(error) if is_absence(&error) => Ok(None),
            Err(error) => Err(error),
        })
        .await
    }

    async fn modified(&self, path: &Path) -> io::Result<Option<i64>> {
        let path = path.to_owned();
        blocking(move || match fs::metadata(path) {
            Ok(found) => {
                let since = found.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
                Ok(i64::try_from(since.as_nanos()).ok())
            }
            Err(error) if is_absence(&error) => Ok(None),
            Err(error) => Err(error),
        })
        .await
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let dir = dir.to_owned();
        blocking(move || {
            let entries = match fs::read_dir(dir) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
                entries => entries?,
            };
            let mut names = Vec::new();
            for entry in entries {
                names.push(entry?.file_name().to_string_lossy().into_owned());
            }
            names.sort_unstable();
            Ok(names)
        })
        .await
    }

    async fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let dir = dir.to_owned();
        blocking(move || create_dir(&dir)).await
    }

    async fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let path = path.to_owned();
        let file = blocking(move || File::create_new(path)).await?;
        Ok(Box::new(LocalFile { file: Some(file), unsynced: 0, syncing: None }))
    }

    async fn publish(&self, path: &Path, content: Vec<u8>) -> io::Result<()> {
        let path = path.to_owned();
        blocking(move || publish(&path, &content)).await
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (from.to_owned(), to.to_owned());
        blocking(move || rename(&from, &to)).await
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let dir = dir.to_owned();
        blocking(move || sync_dir(&dir)).await
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        blocking(move || fine_if_absent(fs::remove_file(path))).await
    }

    async fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        let dir = dir.to_owned();
        blocking(move || fine_if_absent(fs::remove_dir_all(dir))).await
    }

    async fn lock(&self, path: &Path, note: &str) -> io::Result<Option<DiskLock>> {
        let (path, note) = (path.to_owned(), note.to_owned());
        blocking(move || lock(&path, &note)).await
    }
}

/// After so many bytes the drive is set to work on them, while more are being made.
const AHEAD: usize = 8 << 20;

/// A file being written. The file is away while a call is at work, and stays away if that call failed or was given up: after it
/// nobody knows what was written.
#[derive(Debug)]
struct LocalFile {
    file: Option<File>,
    /// Bytes that nobody has told the drive of.
    unsynced: usize,
    /// A sync ahead of the last one. Its error counts: the system tells it once, to the one or to the other.
    syncing: Option<JoinHandle<io::Result<()>>>,
}

impl LocalFile {
    async fn with(
        &mut self,
        work: impl FnOnce(&mut File) -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let mut file = self
            .file
            .take()
            .ok_or_else(|| io::Error::other("an earlier write to this file failed or was given up"))?;
        let (file, result) = blocking(move || {
            let result = work(&mut file);
            Ok((file, result))
        })
        .await?;
        // After an error nobody knows what is there, and the system tells of it once.
        if result.is_ok() {
            self.file = Some(file);
        }
        result
    }

    /// Sets the drive to work on what is there.
    fn sync_ahead(&mut self) {
        let Some(Ok(file)) = self.file.as_ref().map(File::try_clone) else { return };
        let Ok(runtime) = Handle::try_current() else { return };
        self.unsynced = 0;
        self.syncing = Some(runtime.spawn_blocking(move || file.sync_data()));
    }

    /// Waits for a sync ahead. Given up, it can be waited for again; after an error the file is of no use.
    async fn synced_ahead(&mut self) -> io::Result<()> {
        let Some(syncing) = &mut self.syncing else { return Ok(()) };
        let result = syncing.await.map_err(io::Error::other).and_then(|result| result);
        self.syncing = None;
        if result.is_err() {
            self.file = None;
        }
        result
    }
}

#[async_trait]
impl DiskFile for LocalFile {
    async fn write(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        self.unsynced += bytes.len();
        self.with(move |file| file.write_all(&bytes)).await?;
        if self.unsynced >= AHEAD && self.syncing.as_ref().is_none_or(JoinHandle::is_finished) {
            self.synced_ahead().await?;
            self.sync_ahead();
        }
        Ok(())
    }

    async fn sync(&mut self) -> io::Result<()> {
        self.synced_ahead().await?;
        self.with(|file| file.sync_all()).await
    }
}

fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn fine_if_absent(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn read_range(path: &Path, offset: u64, len: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    // Checked before any memory is asked for: a length read from a damaged file may be anything.
    let available = file.metadata()?.len().saturating_sub(offset);
    if available < len {
        return Err(io::Error::new(
            ErrorKind::UnexpectedEof,
            format!("{len} bytes at {offset} asked for, {available} there"),
        ));
    }
    let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The folder of a path; `.` for a bare name.
fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(unix)]
fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Elsewhere folders cannot be opened, and need no help.
#[cfg(not(unix))]
fn sync_dir(_: &Path) -> io::Result<()> {
    Ok(())
}

fn create_dir(dir: &Path) -> io::Result<()> {
    match fs::metadata(dir) {
        Ok(found) if found.is_dir() => {
            // It may be there only since a process that died before it could do this.
            return match sync_dir(parent(dir)) {
                Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
                result => result,
            };
        }
        Ok(_) => return Err(ErrorKind::NotADirectory.into()),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if parent(dir) != dir {
        create_dir(parent(dir))?;
    }
    match fs::create_dir(dir) {
        // Another was faster.
        Err(error) if error.kind() == ErrorKind::AlreadyExists && dir.is_dir() => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let why = format!("{} is a link to nowhere", dir.display());
            return Err(io::Error::new(ErrorKind::NotADirectory, why));
        }
        result => result?,
    }
    sync_dir(parent(dir))
}

fn publish(path: &Path, content: &[u8]) -> io::Result<()> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    // Not the process id: containers that share a folder may all be process 1.
    static PROCESS: LazyLock<u64> = LazyLock::new(|| Random::from_os().next_u64());
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let temp = parent(path).join(format!("{TEMP_PREFIX}{:016x}-{number}", *PROCESS));
    let result = write_whole(&temp, content).and_then(|()| move_to_free_name(&temp, path));
    if let Err(error) = result {
        let _ = fs::remove_file(&temp); // the error that counts is the first
        return Err(error);
    }
    sync_dir(parent(path))
}

fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::symlink_metadata(from)?; // `NotFound` for the source goes before `AlreadyExists` for the target
    move_to_free_name(from, to)
}

/// Renames in one step where the file system can, replacing nothing.
#[cfg(target_os = "linux")]
fn move_to_free_name(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use rustix::io::Errno;
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Network file systems and old kernels cannot.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => link_and_remove(from, to),
        result => Ok(result?),
    }
}

#[cfg(not(target_os = "linux"))]
fn move_to_free_name(from: &Path, to: &Path) -> io::Result<()> {
    link_and_remove(from, to)
}

/// In two steps: a crash between them leaves both names on one file. Done again, the second step is made up for.
fn link_and_remove(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && is_same_file(from, to) => {}
        result => result?,
    }
    fs::remove_file(from)
}

#[cfg(unix)]
fn is_same_file(a: &Path, b: &Path) -> bool {
    match (fs::symlink_metadata(a), fs::symlink_metadata(b)) {
        (Ok(a), Ok(b)) => same_inode(&a, &b),
        _ => false,
    }
}

#[cfg(not(unix))]
fn is_same_file(_: &Path, _: &Path) -> bool {
    false
}

#[cfg(unix)]
fn same_inode(a: &fs::Metadata, b: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

fn lock(path: &PathBuf, note: &str) -> io::Result<Option<DiskLock>> {
    loop {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match fs4::FileExt::try_lock(&file) {
            Ok(()) => {}
            Err(fs4::TryLockError::WouldBlock) => return Ok(None),
            Err(fs4::TryLockError::Error(error)) => return Err(error),
        }
        if !still_named(&file, path)? {
            continue; // removed by its last holder between our opening and locking it
        }
        file.set_len(0)?;
        file.write_all(note.as_bytes())?;
        return Ok(Some(DiskLock::new(file)));
    }
}

#[cfg(unix)]
fn still_named(file: &File, path: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(found) => Ok(same_inode(&found, &file.metadata()?)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Elsewhere an open file cannot be removed.
#[cfg(not(unix))]
fn still_named(_: &File, _: &Path) -> io::Result<bool> {
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_of_a_runtime_it_is_an_error_not_a_panic() {
        let error = futures::executor::block_on(LocalDisk.list(Path::new("."))).unwrap_err();
        assert!(error.to_string().contains("needs a tokio runtime"), "{error}");
    }

    #[test]
    fn after_the_runtime_went_down_it_is_an_error_not_a_panic() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let handle = runtime.handle().clone();
        runtime.shutdown_background();
        let _inside = handle.enter();
        let error = futures::executor::block_on(LocalDisk.list(Path::new("."))).unwrap_err();
        assert!(error.to_string().contains("shut down during a file operation"), "{error}");
    }

    #[test]
    fn moving_by_link_replaces_nothing_and_makes_up_for_a_crash() {
        let dir = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| dir.path().join(name));
        fs::write(&from, "x").unwrap();
        fs::write(&to, "y").unwrap();
        assert_eq!(link_and_remove(&from, &to).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&to).unwrap(), b"y");

        fs::remove_file(&to).unwrap();
        fs::hard_link(&from, &to).unwrap(); // the first step only
        link_and_remove(&from, &to).unwrap();
        assert_eq!((fs::read(&to).unwrap(), from.exists()), (b"x".to_vec(), false));
    }

    #[tokio::test]
    async fn a_large_file_is_whole_though_it_was_synced_in_between() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("large");
        let file = File::create_new(&path).unwrap();
        let mut file = LocalFile { file: Some(file), unsynced: 0, syncing: None };
        let (mut expected, mut piece) = (Vec::new(), vec![0_u8; 3 << 20]);
        for number in 0..10 {
            piece.fill(number);
            expected.extend_from_slice(&piece);
            file.write(piece.clone()).await.unwrap();
            assert_eq!(file.syncing.is_some(), number >= 2, "from {AHEAD} bytes on");
        }
        assert!(file.unsynced < expected.len());
        file.sync().await.unwrap();
        assert!(LocalDisk.read(&path).await.unwrap() == expected);
    }

    #[tokio::test]
    async fn the_error_of_a_sync_ahead_is_not_lost() {
        let dir = tempfile::tempdir().unwrap();
        for writes in [true, false] {
            let file = File::create_new(dir.path().join(writes.to_string())).unwrap();
            let failing = Handle::current().spawn_blocking(|| Err(io::Error::other("the drive is broken")));
            while !failing.is_finished() {
                tokio::task::yield_now().await;
            }
            let mut file = LocalFile { file: Some(file), unsynced: 0, syncing: Some(failing) };
            let told = if writes { file.write(vec![0; AHEAD]).await } else { file.sync().await };
            assert_eq!(told.unwrap_err().to_string(), "the drive is broken");
            assert!(file.sync().await.is_err(), "nor forgotten");
        }
    }

    #[tokio::test]
    async fn a_failed_publish_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("name");
        LocalDisk.publish(&path, b"1".to_vec()).await.unwrap();
        assert_eq!(
            LocalDisk.publish(&path, b"2".to_vec()).await.unwrap_err().kind(),
            ErrorKind::AlreadyExists
        );
        assert_eq!(LocalDisk.list(dir.path()).await.unwrap(), ["name"]);
    }
}
