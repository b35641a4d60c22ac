//! A disk as one process sees it: late, with faults, and gone with the process.

use super::run::JOB;
use super::world::{Place, Process, below};
use async_trait::async_trait;
use futures::executor::block_on;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use strandline::storage::{Disk, DiskFile, DiskLock, Fault, FaultyDisk, Injection, MemoryDisk};

/// The machine's disk, and what lies on it.
#[derive(Debug, Clone)]
pub struct Drive {
    pub faulty: FaultyDisk,
    pub memory: Arc<MemoryDisk>,
}

impl Drive {
    pub fn new() -> Self {
        let memory = Arc::new(MemoryDisk::new());
        Self { faulty: FaultyDisk::new(Arc::clone(&memory) as _), memory }
    }

    /// The checkpoints that are complete, as the job log says.
    pub fn logged(&self) -> BTreeSet<u64> {
        let log = Path::new("checkpoints").join(JOB).join("log");
        let entries = block_on(self.memory.list(&log)).unwrap_or_default();
        let entries = entries.iter().filter(|name| !name.starts_with('.'));
        entries.filter_map(|entry| completed(&block_on(self.memory.read(&log.join(entry))).ok()?)).collect()
    }
}

/// The number in the name of a checkpoint's folder, which no entry but that of its completion has.
fn completed(entry: &[u8]) -> Option<u64> {
    let text = String::from_utf8_lossy(entry);
    let (_, name) = text.split_once("chk-")?;
    name.split(|digit: char| !digit.is_ascii_digit()).next()?.parse().ok()
}

#[derive(Debug, Clone)]
pub struct SimDisk(pub Arc<Process>);

#[derive(Debug)]
struct SimFile {
    file: Box<dyn DiskFile>,
    name: String,
    disk: SimDisk,
}

/// The end of a path, which tells most.
fn name(path: &Path) -> String {
    let mut parts: Vec<_> = path.iter().rev().take(2).map(|part| part.to_string_lossy()).collect();
    parts.reverse();
    parts.join("/")
}

impl SimDisk {
    fn drive(&self) -> &Drive {
        &self.0.world().drive
    }

    async fn call<T>(
        &self,
        is_change: bool,
        what: String,
        call: impl Future<Output = io::Result<T>> + Send,
    ) -> io::Result<T> {
        let what = &*what;
        let call = async {
            if !self.0.disk_fails(what.starts_with("publish log/")) {
                return call.await;
            }
            let fault = self.0.world().chance(|random| {
                const READS: [Fault; 1] = [Fault::NoEffect];
                const CHANGES: [Fault; 5] =
                    [Fault::NoEffect, Fault::TookEffect, Fault::Twice, Fault::Torn, Fault::Full];
                let faults = if is_change { CHANGES.as_slice() } else { &READS };
                faults[below(random, faults.len() as u64) as usize]
            });
            self.0.world().happens(self.0.id, format_args!("{what} with {fault:?}"));
            self.drive().faulty.inject(Injection::of(fault).on_everything().at(1));
            let result = call.await;
            // Somebody makes room.
            self.drive().faulty.set_space(None);
            result
        };
        let result = self.0.call(Place::Disk, what, call).await;
        let result = result.unwrap_or_else(|fate| Err(io::Error::other(format!("{fate:?}"))));
        // On its way back it may be late, too.
        self.0.wait().await;
        self.0.live().await;
        result
    }
}

#[async_trait]
impl Disk for SimDisk {
    async fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.call(false, format!("read {}", name(path)), self.drive().faulty.read(path)).await
    }

    async fn read_range(&self, path: &Path, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        let what = format!("read {} at {offset}", name(path));
        self.call(false, what, self.drive().faulty.read_range(path, offset, len)).await
    }

    async fn len(&self, path: &Path) -> io::Result<Option<u64>> {
        self.call(false, format!("len {}", name(path)), self.drive().faulty.len(path)).await
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.call(false, format!("list {}", name(dir)), self.drive().faulty.list(dir)).await
    }

    async fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.call(true, format!("create_dir {}", name(dir)), self.drive().faulty.create_dir(dir)).await
    }

    async fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let name = name(path);
        let file = self.call(true, format!("create {name}"), self.drive().faulty.create(path)).await?;
        Ok(Box::new(SimFile { file, name, disk: self.clone() }))
    }

    async fn publish(&self, path: &Path, content: Vec<u8>) -> io::Result<()> {
        let is_log = path.parent().is_some_and(|parent| parent.ends_with("log"));
        let publish = async {
            let was_there = self.drive().memory.len(path).await?.is_some();
            let result = self.drive().faulty.publish(path, content).await;
            let is_there = self.drive().memory.len(path).await?.is_some();
            if is_log && is_there && !was_there {
                let entries = self.drive().memory.list(path.parent().unwrap_or(path)).await?;
                let entries = entries.iter().filter(|name| !name.starts_with('.'));
                let is_last = path.file_name().and_then(OsStr::to_str) == entries.max().map(String::as_str);
                self.0.world().wrote_to_log(self.0.id, is_last);
            }
            result
        };
        self.call(true, format!("publish {}", name(path)), publish).await
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let what = format!("rename {} to {}", name(from), name(to));
        self.call(true, what, self.drive().faulty.rename(from, to)).await
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.call(true, format!("sync_dir {}", name(dir)), self.drive().faulty.sync_dir(dir)).await
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        self.call(true, format!("remove {}", name(path)), self.drive().faulty.remove(path)).await
    }

    async fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.call(true, format!("remove_dir {}", name(dir)), self.drive().faulty.remove_dir(dir)).await
    }

    async fn lock(&self, path: &Path, note: &str) -> io::Result<Option<DiskLock>> {
        self.call(true, format!("lock {}", name(path)), self.drive().faulty.lock(path, note)).await
    }
}

#[async_trait]
impl DiskFile for SimFile {
    async fn write(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        let Self { file, name, disk } = self;
        disk.call(true, format!("write {} bytes to {name}", bytes.len()), file.write(bytes)).await
    }

    async fn sync(&mut self) -> io::Result<()> {
        let Self { file, name, disk } = self;
        disk.call(true, format!("sync {name}"), file.sync()).await
    }
}
