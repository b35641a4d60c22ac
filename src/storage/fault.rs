//! A disk that fails on purpose: at a chosen operation it reports an error, loses what was not synced, or dies.

use super::disk::{Disk, DiskFile, DiskLock, SharedDisk, TEMP_PREFIX};
use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A disk in front of another one that counts operations and fails at one of them.
///
/// Counted is every operation that changes something or makes it durable, from 1; reading is not. To test every crash point,
/// run once without a fault and ask for [`operations`](Self::operations), then run once per operation and [`Fault`],
/// and look each time at what a new process finds on the inner disk. Clones share count and fault.
///
/// What was unsynced is known only of what went through this disk.
#[derive(Debug, Clone)]
pub struct FaultyDisk {
    inner: SharedDisk,
    state: Arc<Mutex<State>>,
}

/// How an operation fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// Nothing happened.
    NoEffect,
    /// It happened, but an error was reported.
    TookEffect,
    /// Half of it happened: half of a write; for `publish`, which is all or nothing, half a temporary file; of `remove_dir` half of
    /// the files. For what has no halves the same as `NoEffect`.
    Torn,
    /// Nothing of it happened, and with it went all that was not yet made durable: unsynced content and names are lost, removed
    /// and renamed files are back. (Folders that were removed stay away.)
    PowerLoss,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::NoEffect, Self::TookEffect, Self::Torn, Self::PowerLoss];
}

#[derive(Debug, Default)]
struct State {
    operations: u64,
    plan: Option<Plan>,
    dead: bool,
    unsynced: Unsynced,
}

#[derive(Debug, Clone, Copy)]
struct Plan {
    at: u64,
    fault: Fault,
    then_dead: bool,
}

/// What a loss of power would undo.
#[derive(Debug, Default)]
struct Unsynced {
    /// Bytes written and bytes synced of files.
    contents: BTreeMap<PathBuf, (u64, u64)>,
    /// Files created, whose folder was not synced since.
    created: BTreeSet<PathBuf>,
    /// Files removed, with their content, likewise.
    removed: BTreeMap<PathBuf, Vec<u8>>,
    /// Files renamed, target and source, likewise.
    renamed: BTreeMap<PathBuf, PathBuf>,
}

impl FaultyDisk {
    /// A disk that works, and counts.
    #[must_use]
    pub fn new(inner: SharedDisk) -> Self {
        Self { inner, state: Arc::default() }
    }

    /// Fails at the operation of this number and dies: everything after it fails too, reading included, as if the process were
    /// gone.
    #[must_use]
    pub fn die_at(self, operation: u64, fault: Fault) -> Self {
        self.plan(Plan { at: operation, fault, then_dead: true })
    }

    /// Fails at the operation of this number only.
    #[must_use]
    pub fn fail_once_at(self, operation: u64, fault: Fault) -> Self {
        self.plan(Plan { at: operation, fault, then_dead: false })
    }

    fn plan(self, plan: Plan) -> Self {
        self.state().plan = Some(plan);
        self
    }

    /// How many operations were asked for so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Whether it has died.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.state().dead
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an operation; says how it is to fail, if it is.
    fn count(&self) -> io::Result<Option<Fault>> {
        let mut state = self.state();
        state.alive()?;
        state.operations += 1;
        let operation = state.operations;
        let due = state.plan.filter(|plan| plan.at == operation);
        state.dead = due.is_some_and(|plan| plan.then_dead);
        Ok(due.map(|plan| plan.fault))
    }

    /// Does an operation, or what the fault leaves of it.
    async fn perform<T>(
        &self,
        whole: impl Future<Output = io::Result<T>> + Send,
        half: impl Future<Output = io::Result<()>> + Send,
    ) -> io::Result<T> {
        let Some(fault) = self.count()? else { return whole.await };
        let _ = match fault {
            Fault::NoEffect => Ok(()),
            Fault::TookEffect => whole.await.map(drop),
            Fault::Torn => half.await,
            Fault::PowerLoss => self.lose_unsynced().await,
        };
        Err(io::Error::other("this disk was told to fail"))
    }

    async fn lose_unsynced(&self) -> io::Result<()> {
        let unsynced = std::mem::take(&mut self.state().unsynced);
        for (target, source) in &unsynced.renamed {
            self.inner.rename(target, source).await?;
        }
        for path in &unsynced.created {
            self.inner.remove(path).await?;
        }
        for (path, (_, synced)) in &unsynced.contents {
            let path = unsynced.renamed.get(path).unwrap_or(path);
            if self.inner.len(path).await?.is_some_and(|len| len > *synced) {
                let content = self.inner.read_range(path, 0, *synced).await?;
                self.inner.remove(path).await?;
                self.inner.publish(path, content).await?;
            }
        }
        for (path, content) in unsynced.removed {
            match self.inner.publish(&path, content).await {
                // Its folder was removed as well, or the name was taken again.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists) => {}
                result => result?,
            }
        }
        Ok(())
    }
}

impl State {
    fn alive(&self) -> io::Result<()> {
        if self.dead { Err(io::Error::other("this disk is dead")) } else { Ok(()) }
    }
}

fn nothing() -> std::future::Ready<io::Result<()>> {
    std::future::ready(Ok(()))
}

fn is_in(dir: &Path) -> impl Fn(&Path) -> bool {
    move |path| path.parent() == Some(dir)
}

#[async_trait]
impl Disk for FaultyDisk {
    async fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.state().alive()?;
        self.inner.read(path).await
    }

    async fn read_range(&self, path: &Path, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        self.state().alive()?;
        self.inner.read_range(path, offset, len).await
    }

    async fn modified(&self, path: &Path) -> io::Result<Option<i64>> {
        self.state().alive()?;
        self.inner.modified(path).await
    }

    async fn len(&self, path: &Path) -> io::Result<Option<u64>> {
        self.state().alive()?;
        self.inner.len(path).await
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.state().alive()?;
        self.inner.list(dir).await
    }

    async fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.perform(self.inner.create_dir(dir), nothing()).await
    }

    async fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let whole = async {
            let inner = self.inner.create(path).await?;
            let mut state = self.state();
            state.unsynced.created.insert(path.to_owned());
            state.unsynced.contents.insert(path.to_owned(), (0, 0));
            drop(state);
            Ok(Box::new(FaultyFile { inner, path: path.to_owned(), disk: self.clone() }) as Box<dyn DiskFile>)
        };
        self.perform(whole, nothing()).await
    }

    async fn publish(&self, path: &Path, content: Vec<u8>) -> io::Result<()> {
        let start = content.get(..content.len() / 2).unwrap_or_default().to_vec();
        let half = async {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            self.inner.publish(&path.with_file_name(format!("{TEMP_PREFIX}torn-{name}")), start).await
        };
        let whole = async {
            self.inner.publish(path, content).await?;
            self.state().unsynced.removed.remove(path);
            Ok(())
        };
        self.perform(whole, half).await
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let whole = async {
            self.inner.rename(from, to).await?;
            let unsynced = &mut self.state().unsynced;
            if let Some(content) = unsynced.contents.remove(from) {
                unsynced.contents.insert(to.to_owned(), content);
            }
            unsynced.renamed.insert(to.to_owned(), from.to_owned());
            Ok(())
        };
        self.perform(whole, nothing()).await
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let whole = async {
            self.inner.sync_dir(dir).await?;
            let (unsynced, is_here) = (&mut self.state().unsynced, is_in(dir));
            unsynced.created.retain(|path| !is_here(path));
            unsynced.removed.retain(|path, _| !is_here(path));
            unsynced.renamed.retain(|target, _| !is_here(target));
            Ok(())
        };
        self.perform(whole, nothing()).await
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        let whole = async {
            let content = self.inner.read(path).await;
            self.inner.remove(path).await?;
            let unsynced = &mut self.state().unsynced;
            unsynced.contents.remove(path);
            unsynced.renamed.remove(path);
            if let (false, Ok(content)) = (unsynced.created.remove(path), content) {
                unsynced.removed.insert(path.to_owned(), content);
            }
            Ok(())
        };
        self.perform(whole, nothing()).await
    }

    async fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        let half = async {
            let names = self.inner.list(dir).await?;
            for name in names.iter().take(names.len().div_ceil(2)) {
                self.inner.remove(&dir.join(name)).await?;
            }
            Ok(())
        };
        let whole = async {
            self.inner.remove_dir(dir).await?;
            let unsynced = &mut self.state().unsynced;
            unsynced.contents.retain(|path, _| !path.starts_with(dir));
            unsynced.created.retain(|path| !path.starts_with(dir));
            unsynced.removed.retain(|path, _| !path.starts_with(dir));
            unsynced.renamed.retain(|target, _| !target.starts_with(dir));
            Ok(())
        };
        self.perform(whole, half).await
    }

    async fn lock(&self, path: &Path, note: &str) -> io::Result<Option<DiskLock>> {
        self.perform(self.inner.lock(path, note), nothing()).await
    }
}

#[derive(Debug)]
struct FaultyFile {
    inner: Box<dyn DiskFile>,
    path: PathBuf,
    disk: FaultyDisk,
}

impl FaultyFile {
    fn count_written(disk: &FaultyDisk, path: &Path, len: usize) {
        if let Some((written, _)) = disk.state().unsynced.contents.get_mut(path) {
            *written += len as u64;
        }
    }
}

#[async_trait]
impl DiskFile for FaultyFile {
    async fn write(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        let Self { inner, path, disk } = self;
        let inner = tokio::sync::Mutex::new(inner); // either future may use it, only one of them does
        let start = bytes.get(..bytes.len() / 2).unwrap_or_default().to_vec();
        let half = async {
            Self::count_written(disk, path, start.len());
            inner.lock().await.write(start).await
        };
        let whole = async {
            Self::count_written(disk, path, bytes.len());
            inner.lock().await.write(bytes).await
        };
        disk.perform(whole, half).await
    }

    async fn sync(&mut self) -> io::Result<()> {
        let Self { inner, path, disk } = self;
        let whole = async {
            inner.sync().await?;
            if let Some((written, synced)) = disk.state().unsynced.contents.get_mut(path) {
                *synced = *written;
            }
            Ok(())
        };
        disk.perform(whole, nothing()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryDisk;
    use futures::executor::block_on;

    /// Creates `a`, writes it in two halves with a sync between them, syncs the folder, removes `old`.
    async fn script(disk: &dyn Disk) -> io::Result<()> {
        let mut file = disk.create(Path::new("a")).await?; // 1
        file.write(b"1234".to_vec()).await?; // 2
        file.sync().await?; // 3
        file.write(b"5678".to_vec()).await?; // 4
        disk.sync_dir(Path::new("")).await?; // 5
        disk.remove(Path::new("old")).await?; // 6
        disk.rename(Path::new("a"), Path::new("b")).await?; // 7
        disk.publish(Path::new("c"), b"content".to_vec()).await // 8
    }

    /// What is on the inner disk after the fault.
    fn after(operation: u64, fault: Fault) -> String {
        let inner: SharedDisk = Arc::new(MemoryDisk::new());
        block_on(async {
            inner.publish(Path::new("old"), b"x".to_vec()).await.unwrap();
            let disk = FaultyDisk::new(Arc::clone(&inner)).die_at(operation, fault);
            script(&disk).await.unwrap_err();
            assert!(disk.is_dead() && disk.operations() == operation);
            disk.read(Path::new("old")).await.unwrap_err();
            let mut found = Vec::new();
            for name in inner.list(Path::new("")).await.unwrap() {
                let content = inner.read(Path::new(&name)).await.unwrap();
                found.push(format!("{name}={}", String::from_utf8(content).unwrap()));
            }
            found.join(" ")
        })
    }

    #[test]
    fn it_fails_where_and_how_it_was_told() {
        assert_eq!(after(4, Fault::NoEffect), "a=1234 old=x");
        assert_eq!(after(4, Fault::TookEffect), "a=12345678 old=x");
        assert_eq!(after(4, Fault::Torn), "a=123456 old=x");
        assert_eq!(after(8, Fault::NoEffect), "b=12345678");
        assert_eq!(after(8, Fault::TookEffect), "b=12345678 c=content");
        assert_eq!(after(8, Fault::Torn), ".tmp-torn-c=con b=12345678");
    }

    #[test]
    fn power_loss_undoes_what_was_not_synced() {
        assert_eq!(after(5, Fault::PowerLoss), "old=x", "the name");
        assert_eq!(after(6, Fault::PowerLoss), "a=1234 old=x", "the content");
        assert_eq!(after(7, Fault::PowerLoss), "a=1234 old=x", "the removal");
        assert_eq!(after(8, Fault::PowerLoss), "a=1234 old=x", "the rename");
    }

    #[test]
    fn it_can_fail_once_and_go_on() {
        block_on(async {
            let disk = FaultyDisk::new(Arc::new(MemoryDisk::new())).fail_once_at(1, Fault::NoEffect);
            disk.publish(Path::new("a"), Vec::new()).await.unwrap_err();
            disk.publish(Path::new("a"), Vec::new()).await.unwrap();
            assert_eq!(disk.operations(), 2);
        });
    }
}
