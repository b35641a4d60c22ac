//! A disk that lives in the memory of the process, with the same promises as a real one while the process lives.

use super::disk::{Disk, DiskFile, DiskLock};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Files and folders in memory. Clones share them. Runs on any executor and never waits.
///
/// It has a clock of its own for when files were [modified](Disk::modified): the n-th change of a content on this disk happened
/// n nanoseconds after 1970. So a changed file is told from what it was, and runs repeat exactly.
#[derive(Clone, Default)]
pub struct MemoryDisk {
    nodes: Arc<Mutex<BTreeMap<PathBuf, Node>>>,
    clock: Arc<AtomicI64>,
}

#[derive(Clone)]
enum Node {
    Dir,
    File(Arc<Content>),
}

/// What a name stands for. Whoever has it open keeps it, whatever becomes of the name.
#[derive(Debug, Default)]
struct Content {
    bytes: Mutex<Vec<u8>>,
    modified: AtomicI64,
    locked: AtomicBool,
}

/// Nothing that holds one of the locks can panic in a way that leaves half a change.
fn open<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemoryDisk {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn nodes(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Node>> {
        open(&self.nodes)
    }

    fn file(&self, path: &Path) -> io::Result<Arc<Content>> {
        find(&self.nodes(), path)
    }

    /// The time of one more change.
    fn tick(&self) -> i64 {
        self.clock.fetch_add(1, Ordering::SeqCst) + 1
    }
}

/// Gives a free name to a file.
fn insert(nodes: &mut BTreeMap<PathBuf, Node>, path: &Path, content: Arc<Content>) -> io::Result<()> {
    check_parent(nodes, path)?;
    if nodes.contains_key(path) {
        return Err(ErrorKind::AlreadyExists.into());
    }
    nodes.insert(path.to_owned(), Node::File(content));
    Ok(())
}

fn find(nodes: &BTreeMap<PathBuf, Node>, path: &Path) -> io::Result<Arc<Content>> {
    match nodes.get(path) {
        Some(Node::File(content)) => Ok(Arc::clone(content)),
        Some(Node::Dir) => Err(ErrorKind::IsADirectory.into()),
        None => Err(ErrorKind::NotFound.into()),
    }
}

/// Roots, and the empty path before a bare name, are always there.
fn is_root(path: &Path) -> bool {
    path.parent().is_none()
}

fn check_parent(nodes: &BTreeMap<PathBuf, Node>, path: &Path) -> io::Result<()> {
    match path.parent() {
        None => Err(ErrorKind::InvalidInput.into()),
        Some(parent) if is_root(parent) => Ok(()),
        Some(parent) => match nodes.get(parent) {
            Some(Node::Dir) => Ok(()),
            Some(Node::File(_)) => Err(ErrorKind::NotADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        },
    }
}

impl fmt::Debug for MemoryDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryDisk({} files and folders)", self.nodes().len())
    }
}

#[async_trait]
impl Disk for MemoryDisk {
    async fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        Ok(open(&self.file(path)?.bytes).clone())
    }

    async fn read_range(&self, path: &Path, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        let content = self.file(path)?;
        let bytes = open(&content.bytes);
        let start = usize::try_from(offset).ok();
        let end = offset.checked_add(len).and_then(|end| usize::try_from(end).ok());
        let part = start.zip(end).and_then(|(start, end)| bytes.get(start..end));
        part.map(<[u8]>::to_vec).ok_or_else(|| ErrorKind::UnexpectedEof.into())
    }

    async fn len(&self, path: &Path) -> io::Result<Option<u64>> {
        Ok(self.file(path).ok().map(|content| open(&content.bytes).len() as u64))
    }

    async fn modified(&self, path: &Path) -> io::Result<Option<i64>> {
        Ok(self.file(path).ok().map(|content| content.modified.load(Ordering::SeqCst)))
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let nodes = self.nodes();
        if let Some(Node::File(_)) = nodes.get(dir) {
            return Err(ErrorKind::NotADirectory.into());
        }
        let children = nodes.keys().filter(|path| path.parent() == Some(dir));
        let names = children.filter_map(|path| path.file_name());
        let mut names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
        names.sort_unstable();
        Ok(names)
    }

    async fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut nodes = self.nodes();
        let missing = || dir.ancestors().filter(|dir| !is_root(dir));
        if missing().any(|dir| matches!(nodes.get(dir), Some(Node::File(_)))) {
            return Err(ErrorKind::NotADirectory.into());
        }
        for dir in missing() {
            nodes.insert(dir.to_owned(), Node::Dir);
        }
        Ok(())
    }

    async fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let content = Arc::new(Content { modified: self.tick().into(), ..Content::default() });
        insert(&mut self.nodes(), path, Arc::clone(&content))?;
        Ok(Box::new(MemoryFile { content, disk: self.clone() }))
    }

    async fn publish(&self, path: &Path, content: Vec<u8>) -> io::Result<()> {
        let (bytes, modified) = (Mutex::new(content), self.tick().into());
        let content = Content { bytes, modified, ..Content::default() };
        insert(&mut self.nodes(), path, Arc::new(content))
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut nodes = self.nodes();
        let content = find(&nodes, from)?;
        insert(&mut nodes, to, content)?;
        nodes.remove(from);
        Ok(())
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        match self.nodes().get(dir) {
            Some(Node::Dir) => Ok(()),
            Some(Node::File(_)) => Err(ErrorKind::NotADirectory.into()),
            None if is_root(dir) => Ok(()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        let mut nodes = self.nodes();
        match nodes.get(path) {
            Some(Node::Dir) => return Err(ErrorKind::IsADirectory.into()),
            _ => nodes.remove(path),
        };
        Ok(())
    }

    async fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        let mut nodes = self.nodes();
        if let Some(Node::File(_)) = nodes.get(dir) {
            return Err(ErrorKind::NotADirectory.into());
        }
        nodes.retain(|path, _| !path.starts_with(dir));
        Ok(())
    }

    async fn lock(&self, path: &Path, note: &str) -> io::Result<Option<DiskLock>> {
        let mut nodes = self.nodes();
        match insert(&mut nodes, path, Arc::default()) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let content = find(&nodes, path)?;
        if content.locked.swap(true, Ordering::SeqCst) {
            return Ok(None);
        }
        note.as_bytes().clone_into(&mut open(&content.bytes));
        Ok(Some(DiskLock::new(Held(content))))
    }
}

/// A file being written.
#[derive(Debug)]
struct MemoryFile {
    content: Arc<Content>,
    disk: MemoryDisk,
}

#[async_trait]
impl DiskFile for MemoryFile {
    async fn write(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        open(&self.content.bytes).extend_from_slice(&bytes);
        self.content.modified.store(self.disk.tick(), Ordering::SeqCst);
        Ok(())
    }

    async fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A lock, until dropped.
struct Held(Arc<Content>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.locked.store(false, Ordering::SeqCst);
    }
}
