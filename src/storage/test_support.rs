//! What the tests of the job's storage share.

use super::{
    CompleteError, Disk, DiskFile, DiskLock, JobStorage, MemoryDisk, OnDisk, Opened, OwnedJob, SharedDisk,
};
use crate::checkpoint::metadata::{
    Distribution, ListState, Manifest, OperatorState, Segment, StateSchema, SubtaskState,
};
use crate::error::Error;
use crate::types::{Attempt, ChainId, CheckpointId, MaxParallelism, SubtaskId, SubtaskIndex, Timestamp};
use async_trait::async_trait;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Where the tests keep jobs.
pub(crate) const ROOT: &str = "/root";

/// An empty disk.
pub(crate) fn memory() -> SharedDisk {
    Arc::new(MemoryDisk::new())
}

pub(crate) fn storage(disk: &SharedDisk) -> JobStorage {
    JobStorage::new(&OnDisk::new(Arc::clone(disk), ROOT), &"job".into()).unwrap()
}

pub(crate) fn at(path: &str) -> PathBuf {
    Path::new(ROOT).join("job").join(path)
}

pub(crate) async fn open(disk: &SharedDisk) -> Result<OwnedJob, Error> {
    owned(storage(disk).open(false).await?)
}

pub(crate) async fn take_over(disk: &SharedDisk) -> Result<OwnedJob, Error> {
    owned(storage(disk).open(true).await?)
}

fn owned(opened: Opened) -> Result<OwnedJob, Error> {
    match opened {
        Opened::Owned(job) => Ok(job),
        Opened::Finished { .. } => panic!("the job is finished"),
    }
}

/// The state that checkpoint `id` holds.
pub(crate) fn state_of(id: u64) -> Vec<u8> {
    format!("the state of checkpoint {id}").into_bytes()
}

/// Everything up to completing: folder, state file, and the manifest to complete it with.
pub(crate) async fn prepare(job: &OwnedJob, id: u64) -> Result<Manifest, Error> {
    let id = CheckpointId(id);
    job.create_location(id).await?;
    let subtask = SubtaskId { chain: ChainId(0), index: SubtaskIndex(0) };
    let mut file = job.state_file(id, Attempt(0), subtask);
    let segment = file.write_segment(&state_of(id.0)).await?;
    file.finish().await?;
    let list = ListState {
        name: "sum".into(),
        schema: StateSchema { kind: "split-list".into(), key: String::new(), value: "bytes".into() },
        distribution: Distribution::Split,
        elements: 1,
        at: Some(segment),
    };
    let state = SubtaskState {
        subtask: SubtaskIndex(0),
        finished: false,
        keyed: Vec::new(),
        lists: vec![list],
        increments: Vec::new(),
    };
    Ok(Manifest {
        job: "job".into(),
        checkpoint: id,
        generation: job.generation(),
        attempt: Attempt(0),
        triggered: Timestamp(0),
        max_parallelism: MaxParallelism::new(128)?,
        hash_version: 1,
        finished: false,
        operators: vec![OperatorState { operator: "op".into(), watermark: None, subtasks: vec![state] }],
        in_flight: Vec::new(),
        inline: Vec::new(),
    })
}

pub(crate) async fn checkpoint(job: &OwnedJob, id: u64) -> Result<(), CompleteError> {
    let manifest = prepare(job, id).await.map_err(CompleteError::Failed)?;
    job.complete(&manifest).await.map(drop)
}

pub(crate) fn retained(job: &OwnedJob) -> Vec<u64> {
    job.retained().into_iter().map(|id| id.0).collect()
}

/// Reads one segment.
pub(crate) async fn read(job: &OwnedJob, manifest: &Manifest, segment: &Segment) -> Result<Vec<u8>, Error> {
    job.read_segments(manifest, &[segment]).await.map(|read| read.concat())
}

/// Reads the newest checkpoint back and checks every byte; its id.
pub(crate) async fn restore(job: &OwnedJob) -> Option<u64> {
    let manifest = job.latest_manifest().await.unwrap()?;
    for segment in manifest.segments() {
        assert_eq!(read(job, &manifest, segment).await.unwrap(), state_of(manifest.checkpoint.0));
    }
    assert_eq!(job.retained().last(), Some(&manifest.checkpoint));
    Some(manifest.checkpoint.0)
}

/// A disk whose reads take time, and that counts them.
#[derive(Debug, Clone)]
pub(crate) struct SlowReads {
    disk: SharedDisk,
    counts: Arc<Mutex<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    now: usize,
    most: usize,
    /// How long the next ones take.
    delays: VecDeque<Duration>,
}

impl SlowReads {
    pub(crate) fn new(disk: SharedDisk) -> Self {
        Self { disk, counts: Arc::default() }
    }

    pub(crate) fn reset(&self) {
        *self.counts.lock().unwrap() = Counts::default();
    }

    /// How many there were, and how many at once.
    pub(crate) fn reads(&self) -> (usize, usize) {
        let counts = self.counts.lock().unwrap();
        (counts.all, counts.most)
    }

    pub(crate) fn take(&self, delays: impl Into<VecDeque<Duration>>) {
        self.counts.lock().unwrap().delays = delays.into();
    }
}

#[async_trait]
impl Disk for SlowReads {
    async fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.disk.read(path).await
    }

    async fn read_range(&self, path: &Path, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        let delay = {
            let mut counts = self.counts.lock().unwrap();
            counts.all += 1;
            counts.now += 1;
            counts.most = counts.most.max(counts.now);
            counts.delays.pop_front().unwrap_or(Duration::from_secs(1))
        };
        crate::types::Clock::start().sleep(delay).await;
        self.counts.lock().unwrap().now -= 1;
        self.disk.read_range(path, offset, len).await
    }

    async fn len(&self, path: &Path) -> io::Result<Option<u64>> {
        self.disk.len(path).await
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir).await
    }

    async fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir(dir).await
    }

    async fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.disk.create(path).await
    }

    async fn publish(&self, path: &Path, content: Vec<u8>) -> io::Result<()> {
        self.disk.publish(path, content).await
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to).await
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir).await
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path).await
    }

    async fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.remove_dir(dir).await
    }

    async fn lock(&self, path: &Path, note: &str) -> io::Result<Option<DiskLock>> {
        self.disk.lock(path, note).await
    }
}

/// All files below `dir` with their content, folders with none.
pub(crate) async fn files(disk: &dyn Disk, dir: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for name in disk.list(&dir).await.unwrap() {
            let path = dir.join(name);
            let content = disk.read(&path).await.ok();
            if content.is_none() {
                dirs.push(path.clone());
            }
            found.insert(path, content);
        }
    }
    found
}

/// Names of all files and folders of the job, with `/` between the parts.
pub(crate) async fn names(disk: &dyn Disk) -> Vec<String> {
    let found = files(disk, &at("")).await;
    let relative = found.into_keys().map(|path| path.strip_prefix(at("")).unwrap().to_owned());
    let mut names: Vec<String> = relative.map(|path| path.to_str().unwrap().to_owned()).collect();
    names.sort_unstable();
    names
}
