//! The disk that fails.

use super::file::FaultyFile;
use super::injection::{Fault, Injection, Operation};
use super::unsynced::Unsynced;
use crate::storage::disk::{Disk, DiskFile, DiskLock, SharedDisk, TEMP_PREFIX};
use crate::types::Clock;
use async_trait::async_trait;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A disk in front of another one that counts operations and fails at those it was told to.
///
/// Counted, from 1, is every operation that changes something or makes it durable; an [`Injection`] can count others. To test
/// every crash point, run once without a fault and ask for [`operations`](Self::operations), then run once per operation
/// and [`Fault`], and look each time at what a new process finds on the inner disk. Clones share all of it.
///
/// What was unsynced is known only of what went through this disk: let the next process use it too, after a
/// [`restart`](Self::restart), if power is to fail once more.
#[derive(Debug, Clone)]
pub struct FaultyDisk {
    inner: SharedDisk,
    state: Arc<Mutex<State>>,
}

/// An operation that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Traced {
    /// Which.
    pub operation: Operation,
    /// At which path; of a rename the old one.
    pub path: PathBuf,
}

#[derive(Debug, Default)]
pub(super) struct State {
    operations: u64,
    /// Each with how many of the operations that it means there were.
    injections: Vec<(Injection, u64)>,
    struck: u64,
    dead: bool,
    /// Which process this is: what an earlier one had open is closed.
    life: u64,
    /// Bytes left; `None` for no end of them.
    space: Option<u64>,
    pub(super) unsynced: Unsynced,
    trace: Option<Vec<Traced>>,
}

impl FaultyDisk {
    /// A disk that works, and counts.
    #[must_use]
    pub fn new(inner: SharedDisk) -> Self {
        Self { inner, state: Arc::default() }
    }

    /// Fails from now on as it is told, beside what it was told before; where two would strike, the first does.
    pub fn inject(&self, injection: Injection) {
        self.state().injections.push((injection, 0));
    }

    /// See [`inject`](Self::inject).
    #[must_use]
    pub fn failing(self, injection: Injection) -> Self {
        self.inject(injection);
        self
    }

    /// Fails at the change of this number and dies: everything after it fails too, reading included, as if the process were gone.
    #[must_use]
    pub fn die_at(self, operation: u64, fault: Fault) -> Self {
        self.failing(Injection::of(fault).at(operation).then_die())
    }

    /// Fails at the change of this number only.
    #[must_use]
    pub fn fail_once_at(self, operation: u64, fault: Fault) -> Self {
        self.failing(Injection::of(fault).at(operation))
    }

    /// Remembers every operation from now on, reading included, for [`trace`](Self::trace).
    #[must_use]
    pub fn traced(self) -> Self {
        self.state().trace = Some(Vec::new());
        self
    }

    /// So many bytes can be written from now on, `None` for no end of them. When they are used up, everything that
    /// [needs space](Operation::needs_space) is an [`io::ErrorKind::StorageFull`], and of a write as much is written as fits. Removing
    /// gives nothing back: what filled the disk is somebody else's.
    pub fn set_space(&self, bytes: Option<u64>) {
        self.state().space = bytes;
    }

    /// A new process on the same machine: alive, told nothing yet, and with space. What was not synced still is not. What the
    /// old one had open cannot be written any more.
    pub fn restart(&self) {
        let mut state = self.state();
        state.life += 1;
        state.dead = false;
        state.space = None;
        state.injections.clear();
    }

    /// The machine loses power now, in one of the ways of [`Fault`]: what was not made durable is gone.
    ///
    /// # Errors
    /// Those of the inner disk.
    pub async fn lose_power(&self, way: Fault) -> io::Result<()> {
        let unsynced = std::mem::take(&mut self.state().unsynced);
        unsynced.lose(way, &self.inner).await
    }

    /// How many changes were asked for so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// How many operations were struck by an injection.
    #[must_use]
    pub fn struck(&self) -> u64 {
        self.state().struck
    }

    /// All operations since [`traced`](Self::traced), in the order in which they began.
    #[must_use]
    pub fn trace(&self) -> Vec<Traced> {
        self.state().trace.clone().unwrap_or_default()
    }

    /// Whether it has died.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.state().dead
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something that reads: an error, in time or late.
    async fn read_with<T>(
        &self,
        operation: Operation,
        path: &Path,
        read: impl Future<Output = io::Result<T>> + Send,
    ) -> io::Result<T> {
        let due = self.state().begin(operation, path)?;
        match due {
            None | Some(Fault::Twice | Fault::Full) => read.await,
            Some(Fault::Slow(delay) | Fault::InTwoSteps(delay)) => {
                self.delay(delay).await?;
                read.await
            }
            Some(Fault::NoEffect | Fault::TookEffect | Fault::Torn) => Err(told_to_fail()),
            Some(way) => {
                let _ = self.lose_power(way).await;
                Err(told_to_fail())
            }
        }
    }

    /// Counts a change that is asked for.
    pub(super) fn asked<'a>(
        &self,
        operation: Operation,
        path: &'a Path,
        bytes: usize,
    ) -> io::Result<Asked<'a>> {
        let due = self.state().begin(operation, path)?;
        Ok(Asked { operation, path, bytes, due })
    }

    /// Does a change, or what the fault leaves of it: `part` is that much of it, in bytes.
    pub(super) async fn change<T, F, P>(
        &self,
        change: Asked<'_>,
        whole: impl Fn() -> F + Send + Sync,
        part: impl FnOnce(usize) -> P + Send,
    ) -> io::Result<T>
    where
        T: Send,
        F: Future<Output = io::Result<T>> + Send,
        P: Future<Output = io::Result<()>> + Send,
    {
        let due = change.due;
        if let Some(Fault::Slow(delay) | Fault::InTwoSteps(delay)) = due {
            self.delay(delay).await?;
        }
        let outgrown = self.state().take_space(&change);
        if let Some(fits) = outgrown {
            if change.operation == Operation::Write {
                let _ = part(fits).await;
            }
            return Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on this disk"));
        }
        let _ = match due {
            None | Some(Fault::Slow(_) | Fault::InTwoSteps(_) | Fault::Full) => return whole().await,
            Some(Fault::Twice) => {
                drop(whole().await?);
                return whole().await;
            }
            Some(Fault::NoEffect) => Ok(()),
            Some(Fault::TookEffect) => whole().await.map(drop),
            Some(Fault::Torn) => part(change.bytes / 2).await,
            Some(way) => self.lose_power(way).await,
        };
        if let (Operation::Publish, Some(Fault::TookEffect)) = (change.operation, due) {
            self.state().unsynced.published(change.path, false);
        }
        Err(told_to_fail())
    }

    async fn delay(&self, delay: std::time::Duration) -> io::Result<()> {
        let life = self.state().life;
        Clock::start().sleep(delay).await;
        self.state().alive_since(life)
    }

    async fn remove_file(&self, path: &Path) -> io::Result<()> {
        let content = self.inner.read(path).await;
        self.inner.remove(path).await?;
        if let Ok(content) = content {
            self.state().unsynced.removed(path, content);
        }
        Ok(())
    }

    /// Removes the first `most` names of a folder, with all that is in them.
    async fn clear_dir(&self, dir: &Path, most: usize) -> io::Result<()> {
        for name in self.inner.list(dir).await?.iter().take(most) {
            let path = dir.join(name);
            if self.inner.len(&path).await?.is_some() {
                self.remove_file(&path).await?;
            } else {
                Box::pin(self.clear_dir(&path, usize::MAX)).await?;
                self.inner.remove_dir(&path).await?;
                self.state().unsynced.folder_removed(&path);
            }
        }
        Ok(())
    }
}

/// A change that was asked for.
pub(super) struct Asked<'a> {
    operation: Operation,
    path: &'a Path,
    bytes: usize,
    /// How it is to fail, if it is.
    due: Option<Fault>,
}

impl State {
    fn alive(&self) -> io::Result<()> {
        if self.dead { Err(io::Error::other("this disk is dead")) } else { Ok(()) }
    }

    pub(super) fn alive_since(&self, life: u64) -> io::Result<()> {
        if self.life == life {
            self.alive()
        } else {
            Err(io::Error::other("opened by a process that is gone"))
        }
    }

    /// Counts an operation; says how it is to fail, if it is.
    fn begin(&mut self, operation: Operation, path: &Path) -> io::Result<Option<Fault>> {
        self.alive()?;
        if let Some(trace) = &mut self.trace {
            trace.push(Traced { operation, path: path.to_owned() });
        }
        self.operations += u64::from(operation.is_change());
        let mut due = None;
        for (injection, seen) in &mut self.injections {
            if injection.means(operation, path) {
                *seen += 1;
                if due.is_none() && injection.strikes(*seen) {
                    self.dead = injection.then_dies;
                    due = Some(injection.fault);
                }
            }
        }
        self.struck += u64::from(due.is_some());
        Ok(due)
    }

    /// Uses up space; if there is not enough, how much there was. Of the change with which it ends, one half fits.
    fn take_space(&mut self, change: &Asked<'_>) -> Option<usize> {
        if change.due == Some(Fault::Full) {
            self.space = Some(change.bytes as u64 / 2);
        }
        let space = self.space?;
        if !change.operation.needs_space() {
            return None;
        }
        let left = space.checked_sub(change.bytes as u64);
        self.space = Some(left.unwrap_or(0));
        match left {
            Some(_) if space > 0 => None,
            _ => Some(usize::try_from(space).unwrap_or(usize::MAX)),
        }
    }
}

fn told_to_fail() -> io::Error {
    io::Error::other("this disk was told to fail")
}

async fn nothing(_: usize) -> io::Result<()> {
    Ok(())
}

#[async_trait]
impl Disk for FaultyDisk {
    async fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.read_with(Operation::Read, path, self.inner.read(path)).await
    }

    async fn read_range(&self, path: &Path, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        self.read_with(Operation::ReadRange, path, self.inner.read_range(path, offset, len)).await
    }

    async fn modified(&self, path: &Path) -> io::Result<Option<i64>> {
        self.read_with(Operation::Modified, path, self.inner.modified(path)).await
    }

    async fn len(&self, path: &Path) -> io::Result<Option<u64>> {
        self.read_with(Operation::Len, path, self.inner.len(path)).await
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.read_with(Operation::List, dir, self.inner.list(dir)).await
    }

    async fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.change(self.asked(Operation::CreateDir, dir, 0)?, || self.inner.create_dir(dir), nothing).await
    }

    async fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let whole = || async {
            let inner = self.inner.create(path).await?;
            let mut state = self.state();
            state.unsynced.created(path);
            let (disk, life) = (self.clone(), state.life);
            drop(state);
            Ok(Box::new(FaultyFile { inner, path: path.to_owned(), disk, life }) as Box<dyn DiskFile>)
        };
        self.change(self.asked(Operation::Create, path, 0)?, whole, nothing).await
    }

    async fn publish(&self, path: &Path, content: Vec<u8>) -> io::Result<()> {
        let (asked, content) = (self.asked(Operation::Publish, path, content.len())?, &content);
        let whole = || async {
            self.inner.publish(path, content.clone()).await?;
            self.state().unsynced.published(path, true);
            Ok(())
        };
        let part = |bytes: usize| async move {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let start = content.get(..bytes).unwrap_or_default().to_vec();
            self.inner.publish(&path.with_file_name(format!("{TEMP_PREFIX}torn-{name}")), start).await
        };
        self.change(asked, whole, part).await
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let whole = || async {
            self.inner.rename(from, to).await?;
            self.state().unsynced.renamed(from, to);
            Ok(())
        };
        let part = |_| async {
            let content = self.inner.read(from).await?;
            self.inner.publish(to, content).await?;
            self.state().unsynced.published(to, false);
            Ok(())
        };
        let asked = self.asked(Operation::Rename, from, 0)?;
        if let Some(Fault::InTwoSteps(delay)) = asked.due {
            part(0).await?;
            self.delay(delay).await?;
            // An unlink fails where there is nothing any more.
            self.inner.read_range(from, 0, 0).await?;
            return self.remove_file(from).await;
        }
        self.change(asked, whole, part).await
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let synced = |whole| async move {
            self.inner.sync_dir(dir).await?;
            self.state().unsynced.dir_synced(dir, whole);
            Ok(())
        };
        self.change(self.asked(Operation::SyncDir, dir, 0)?, || synced(true), |_| synced(false)).await
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        self.change(self.asked(Operation::Remove, path, 0)?, || self.remove_file(path), nothing).await
    }

    async fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        let whole = || async {
            if self.inner.len(dir).await?.is_none() && !self.inner.list(dir).await?.is_empty() {
                self.clear_dir(dir, usize::MAX).await?;
                self.state().unsynced.folder_removed(dir);
            }
            self.inner.remove_dir(dir).await
        };
        let part = |_| async {
            let names = self.inner.list(dir).await?.len();
            self.clear_dir(dir, names.div_ceil(2)).await
        };
        self.change(self.asked(Operation::RemoveDir, dir, 0)?, whole, part).await
    }

    async fn lock(&self, path: &Path, note: &str) -> io::Result<Option<DiskLock>> {
        let asked = self.asked(Operation::Lock, path, note.len())?;
        self.change(asked, || self.inner.lock(path, note), nothing).await
    }
}
