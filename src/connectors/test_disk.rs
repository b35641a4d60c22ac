//! A disk in memory that counts its operations, dies at any of them, and then shows what a crash leaves.

use crate::operator::{RecoveryContext, SubtaskContext};
use crate::storage::{Disk, DiskFile, DiskLock};
use crate::types::{Attempt, CheckpointId, Clock, Generation, SubtaskIndex};
use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// The first run's context for one of two subtasks of the operator `op`.
pub(super) fn context(subtask: u32) -> SubtaskContext {
    run_context(1, 0, subtask)
}

pub(super) fn run_context(generation: u64, attempt: u32, subtask: u32) -> SubtaskContext {
    SubtaskContext {
        job: "job".into(),
        operator: "op".into(),
        subtask: SubtaskIndex(subtask),
        parallelism: 2,
        generation: Generation(generation),
        attempt: Attempt(attempt),
        clock: Clock::start(),
    }
}

pub(super) fn recovery(generation: u64, attempt: u32) -> RecoveryContext {
    RecoveryContext {
        operator: "op".into(),
        generation: Generation(generation),
        attempt: Attempt(attempt),
        restored: Some(CheckpointId(1)),
        checkpointing: true,
    }
}

/// What happens to the operation at which the disk dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Death {
    /// It does nothing.
    Before,
    /// It does half: part of a write, a link without the unlink of a rename.
    Half,
    /// It does everything, but nobody hears of it.
    After,
}

/// What the crash leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Crash {
    /// The process: everything done so far.
    Kill,
    /// The machine: only what was synced.
    PowerLoss,
}

#[derive(Debug, Clone, Default)]
pub(super) struct TestDisk(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    names: BTreeMap<PathBuf, usize>,
    synced_names: BTreeMap<PathBuf, usize>,
    dirs: BTreeSet<PathBuf>,
    inodes: Vec<Inode>,
    operations: u64,
    dies_at: Option<(u64, Death)>,
    dead: bool,
    /// Files opened before a crash are closed.
    life: u64,
    take_turns: bool,
}

#[derive(Debug, Default, Clone)]
struct Inode {
    content: Vec<u8>,
    synced: usize,
    modified: i64,
}

enum Step {
    Go,
    Half,
    DieAfter,
}

impl TestDisk {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// Dies at the `operation`th operation from now, 0 for the next.
    pub(super) fn die_at(&self, operation: u64, death: Death) {
        let mut inner = self.inner();
        inner.dies_at = Some((inner.operations + operation, death));
    }

    pub(super) fn is_dead(&self) -> bool {
        self.inner().dead
    }

    pub(super) fn operations(&self) -> u64 {
        self.inner().operations
    }

    /// From now on whoever commits lets others have a turn before each step, also between the two halves of a rename.
    pub(super) fn take_turns(&self) {
        self.inner().take_turns = true;
    }

    async fn turn(&self) {
        if self.takes_turns() {
            tokio::task::yield_now().await;
        }
    }

    fn takes_turns(&self) -> bool {
        self.inner().take_turns
    }

    /// Comes up again.
    pub(super) fn restart(&self, crash: Crash) {
        let mut inner = self.inner();
        let inner = &mut *inner;
        inner.dead = false;
        inner.dies_at = None;
        inner.life += 1;
        if crash == Crash::PowerLoss {
            inner.names = inner.synced_names.clone();
            inner.inodes.iter_mut().for_each(|inode| inode.content.truncate(inode.synced));
        }
    }

    /// Puts a durable file there, replacing one.
    pub(super) fn put(&self, path: &str, content: &[u8], modified: i64) {
        let mut inner = self.inner();
        let path = PathBuf::from(path);
        inner.dirs.extend(path.ancestors().skip(1).map(Path::to_owned));
        inner.inodes.push(Inode { content: content.to_vec(), synced: content.len(), modified });
        let inode = inner.inodes.len() - 1;
        inner.names.insert(path.clone(), inode);
        inner.synced_names.insert(path, inode);
    }

    pub(super) fn delete(&self, path: &str) {
        self.inner().names.remove(Path::new(path));
        self.inner().synced_names.remove(Path::new(path));
    }

    /// Names and contents of the files in a folder.
    pub(super) fn files(&self, dir: &str) -> BTreeMap<String, String> {
        let inner = self.inner();
        let files = inner.names.iter().filter(|(path, _)| path.parent() == Some(Path::new(dir)));
        files
            .map(|(path, inode)| {
                let content = String::from_utf8(inner.inodes[*inode].content.clone()).unwrap();
                (path.file_name().unwrap().to_str().unwrap().to_owned(), content)
            })
            .collect()
    }
}

impl Inner {
    fn step(&mut self) -> io::Result<Step> {
        if self.dead {
            return Err(io::Error::other("the disk is dead"));
        }
        let now = self.operations;
        self.operations += 1;
        match self.dies_at {
            Some((at, death)) if at == now => {
                self.dead = true;
                match death {
                    Death::Before => Err(io::Error::other("the disk died")),
                    Death::Half => Ok(Step::Half),
                    Death::After => Ok(Step::DieAfter),
                }
            }
            _ => Ok(Step::Go),
        }
    }

    fn inode(&self, path: &Path) -> Option<&Inode> {
        self.names.get(path).and_then(|inode| self.inodes.get(*inode))
    }
}

fn finish<T>(step: Step, value: T) -> io::Result<T> {
    match step {
        Step::Go => Ok(value),
        Step::Half | Step::DieAfter => Err(io::Error::other("the disk died")),
    }
}

#[async_trait]
impl Disk for TestDisk {
    async fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut inner = self.inner();
        let step = inner.step()?;
        let content = inner.inode(path).ok_or(io::ErrorKind::NotFound)?.content.clone();
        finish(step, content)
    }

    async fn read_range(&self, path: &Path, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        let mut inner = self.inner();
        let step = inner.step()?;
        if inner.dirs.contains(path) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let content = &inner.inode(path).ok_or(io::ErrorKind::NotFound)?.content;
        let range = offset as usize..(offset + len) as usize;
        let part = content.get(range).ok_or(io::ErrorKind::UnexpectedEof)?.to_vec();
        finish(step, part)
    }

    async fn len(&self, path: &Path) -> io::Result<Option<u64>> {
        self.turn().await;
        let mut inner = self.inner();
        let step = inner.step()?;
        // As on Unix, a folder has a length too.
        let dir = inner.dirs.contains(path).then_some(4096);
        let len = inner.inode(path).map(|inode| inode.content.len() as u64);
        finish(step, len.or(dir))
    }

    async fn modified(&self, path: &Path) -> io::Result<Option<i64>> {
        let mut inner = self.inner();
        let step = inner.step()?;
        let modified = inner.inode(path).map(|inode| inode.modified);
        finish(step, modified)
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut inner = self.inner();
        let step = inner.step()?;
        let children = inner.names.keys().filter(|path| path.parent() == Some(dir));
        let names = children.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
        finish(step, names)
    }

    async fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut inner = self.inner();
        let step = inner.step()?;
        if inner.inode(dir).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        inner.dirs.extend(dir.ancestors().map(Path::to_owned));
        finish(step, ())
    }

    async fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut inner = self.inner();
        let step = inner.step()?;
        if !inner.dirs.contains(path.parent().unwrap()) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if inner.inode(path).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        inner.inodes.push(Inode::default());
        let inode = inner.inodes.len() - 1;
        inner.names.insert(path.to_owned(), inode);
        let file = TestFile { disk: self.clone(), inode, life: inner.life };
        finish(step, Box::new(file))
    }

    async fn publish(&self, _: &Path, _: Vec<u8>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.turn().await;
        let step = {
            let mut inner = self.inner();
            let step = inner.step()?;
            let inode = *inner.names.get(from).ok_or(io::ErrorKind::NotFound)?;
            if inner.names.contains_key(to) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            inner.names.insert(to.to_owned(), inode);
            step
        };
        self.turn().await;
        if !matches!(step, Step::Half) {
            self.inner().names.remove(from);
        }
        finish(step, ())
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut inner = self.inner();
        let step = inner.step()?;
        if !inner.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if !matches!(step, Step::Half) {
            let inner = &mut *inner;
            inner.synced_names.retain(|path, _| path.parent() != Some(dir));
            let here = inner.names.iter().filter(|(path, _)| path.parent() == Some(dir));
            inner.synced_names.extend(here.map(|(path, inode)| (path.clone(), *inode)));
        }
        finish(step, ())
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        self.turn().await;
        let mut inner = self.inner();
        let step = inner.step()?;
        inner.names.remove(path);
        finish(step, ())
    }

    async fn remove_dir(&self, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    async fn lock(&self, _: &Path, _: &str) -> io::Result<Option<DiskLock>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[derive(Debug)]
struct TestFile {
    disk: TestDisk,
    inode: usize,
    life: u64,
}

#[async_trait]
impl DiskFile for TestFile {
    async fn write(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        let mut inner = self.disk.inner();
        assert_eq!(inner.life, self.life, "a file outlived its process");
        let step = inner.step()?;
        let len = if matches!(step, Step::Half) { bytes.len() / 2 } else { bytes.len() };
        inner.inodes[self.inode].content.extend_from_slice(&bytes[..len]);
        finish(step, ())
    }

    async fn sync(&mut self) -> io::Result<()> {
        let mut inner = self.disk.inner();
        assert_eq!(inner.life, self.life, "a file outlived its process");
        let step = inner.step()?;
        let inode = &mut inner.inodes[self.inode];
        let len = inode.content.len();
        inode.synced = if matches!(step, Step::Half) { len / 2 } else { len };
        finish(step, ())
    }
}
