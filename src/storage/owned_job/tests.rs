use super::*;
use crate::checkpoint::metadata::{IncrementFile, KeyedIncrements};
use crate::storage::test_support::*;
use crate::storage::{
    Disk, Fault, FaultyDisk, FileSystem, Injection, JobStorage, OnDisk, Opened, Operation, SharedDisk,
    Storage,
};
use crate::types::{ChainId, SubtaskIndex};
use std::path::Path;
use std::time::Duration;

#[tokio::test]
async fn on_a_real_disk_a_job_runs_dies_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let storage = FileSystem::at(dir.path().join("not/yet/there"));
    let open = async || JobStorage::new(&storage, &"job".into()).unwrap().open(false).await.unwrap();
    let Opened::Owned(job) = open().await else { panic!() };
    for id in 1..=3 {
        checkpoint(&job, id).await.unwrap();
    }
    job.retire(CheckpointId(1)).await.unwrap();
    let busy = JobStorage::new(&storage, &"job".into()).unwrap().open(false).await.unwrap_err();
    assert!(busy.to_string().contains("(pid "), "{busy}");
    drop(job);
    let Opened::Owned(job) = open().await else { panic!() };
    assert_eq!((retained(&job), restore(&job).await), (vec![2, 3], Some(3)));
    job.finish().await.unwrap();
    drop(job);
    assert!(matches!(open().await, Opened::Finished { checkpoint: Some(CheckpointId(3)) }));
    let mut names = storage.disk().list(&storage.root().join("job")).await.unwrap();
    names.retain(|name| !name.starts_with("lock-5-"));
    assert_eq!(names, ["chk-2-g1", "chk-3-g1", "log"]);
}

#[tokio::test]
async fn retiring_removes_entry_and_folder_but_never_the_newest() {
    let disk = memory();
    let job = open(&disk).await.unwrap();
    for id in 1..=3 {
        checkpoint(&job, id).await.unwrap();
    }
    job.retire(CheckpointId(1)).await.unwrap();
    job.retire(CheckpointId(1)).await.unwrap();
    assert_eq!(job.retire(CheckpointId(3)).await.unwrap_err().kind(), ErrorKind::Internal);
    assert_eq!((retained(&job), restore(&job).await), (vec![2, 3], Some(3)));
    let names = names(&*disk).await;
    assert!(!names.iter().any(|name| name.starts_with("chk-1-g1")), "{names:?}");
    assert!(!names.contains(&"log/00000000000000000002".to_owned()), "{names:?}");
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_is_retired_while_all_are_listed_is_left_out() {
    let disk = memory();
    let late = Injection::of(Fault::Slow(Duration::from_secs(1))).on([Operation::Read]);
    let slow: SharedDisk = Arc::new(FaultyDisk::new(Arc::clone(&disk)).failing(late));
    let job = open(&slow).await.unwrap();
    for id in 1..=3 {
        checkpoint(&job, id).await.unwrap();
    }
    let (listed, retired) = futures::join!(job.completed(), async {
        crate::types::Clock::start().sleep(Duration::from_millis(500)).await;
        job.retire(CheckpointId(1)).await
    });
    retired.unwrap();
    let listed: Vec<_> = listed.unwrap().iter().map(|completed| completed.checkpoint.0).collect();
    assert!(listed.ends_with(&[2, 3]), "{listed:?}");
    disk.remove(&at("chk-2-g1/manifest")).await.unwrap();
    assert!(job.completed().await.is_err(), "that one is missed");
}

#[tokio::test]
async fn discarding_takes_an_aborted_checkpoint_and_never_a_completed_one() {
    let disk = memory();
    let job = open(&disk).await.unwrap();
    checkpoint(&job, 1).await.unwrap();
    prepare(&job, 2).await.unwrap();
    job.discard(CheckpointId(2)).await.unwrap();
    job.discard(CheckpointId(2)).await.unwrap();
    assert_eq!(disk.list(&at("chk-2-g1")).await.unwrap(), [""; 0]);
    assert_eq!(job.discard(CheckpointId(1)).await.unwrap_err().kind(), ErrorKind::Internal);
    assert_eq!(restore(&job).await, Some(1));
}

#[tokio::test]
async fn state_is_written_in_pieces_of_the_size_that_the_storage_says() {
    for (size, writes) in [(None, 1), (Some(64 << 10), 16), (Some(1 << 19), 2)] {
        let faulty = FaultyDisk::new(memory()).traced();
        let storage = OnDisk::new(Arc::new(faulty.clone()), "/root");
        let storage = size.map_or(storage.clone(), |size| storage.write_buffer_size(size));
        let job = JobStorage::new(&storage, &"job".into()).unwrap();
        let Opened::Owned(job) = job.open(false).await.unwrap() else { panic!() };
        job.create_location(CheckpointId(1)).await.unwrap();
        let subtask = SubtaskId { chain: ChainId(0), index: SubtaskIndex(0) };
        let mut file = job.state_file(CheckpointId(1), Attempt(0), subtask);
        file.write_segment(&vec![7; (1 << 20) - 16]).await.unwrap();
        file.finish().await.unwrap();
        let written = faulty.trace().iter().filter(|traced| traced.operation == Operation::Write).count();
        assert_eq!(written, writes, "{size:?}");
    }
}

/// Completes a checkpoint that also needs the file of checkpoint 1.
async fn checkpoint_on_1(job: &OwnedJob, id: u64) {
    let mut manifest = prepare(job, id).await.unwrap();
    let subtask = &mut manifest.operators[0].subtasks[0];
    let at = subtask.lists[0].at.clone().unwrap();
    let index = Segment { file: "chk-1-g1/state-a0-0.0".into(), crc32c: crc32c::crc32c(&state_of(1)), ..at };
    let files = vec![IncrementFile { checkpoint: CheckpointId(1), bytes: 0, index }];
    subtask.increments = vec![KeyedIncrements { name: "counts".into(), files, ..KeyedIncrements::default() }];
    job.complete(&manifest).await.unwrap();
}

async fn folders(disk: &SharedDisk) -> Vec<String> {
    let mut names = disk.list(&at("")).await.unwrap();
    names.retain(|name| name.starts_with("chk-"));
    names
}

#[tokio::test]
async fn s15_7_a_folder_stays_until_no_completed_checkpoint_has_files_in_it() {
    let disk = memory();
    let job = open(&disk).await.unwrap();
    checkpoint(&job, 1).await.unwrap();
    checkpoint_on_1(&job, 2).await;
    checkpoint_on_1(&job, 3).await;
    job.retire(CheckpointId(1)).await.unwrap();
    assert_eq!(retained(&job), [2, 3]);
    prepare(&job, 4).await.unwrap();
    job.discard(CheckpointId(4)).await.unwrap();
    job.tidy(9).await.unwrap();
    assert_eq!(folders(&disk).await, ["chk-1-g1", "chk-2-g1", "chk-3-g1"]);
    // A new process finds out from the manifests.
    drop(job);
    let job = open(&disk).await.unwrap();
    assert_eq!(folders(&disk).await, ["chk-1-g1", "chk-2-g1", "chk-3-g1"]);
    job.retire(CheckpointId(2)).await.unwrap();
    assert_eq!(folders(&disk).await, ["chk-1-g1", "chk-3-g1"]);
    checkpoint(&job, 4).await.unwrap();
    assert_eq!(folders(&disk).await, ["chk-1-g1", "chk-3-g1", "chk-4-g5"]);
    job.retire(CheckpointId(3)).await.unwrap();
    assert_eq!(folders(&disk).await, ["chk-4-g5"]);
}

#[tokio::test]
async fn the_last_checkpoint_of_a_finished_job_keeps_what_it_needs() {
    let disk = memory();
    let job = open(&disk).await.unwrap();
    checkpoint(&job, 1).await.unwrap();
    checkpoint(&job, 2).await.unwrap();
    checkpoint_on_1(&job, 3).await;
    job.finish().await.unwrap();
    drop(job);
    storage(&disk).tidy_finished(true).await.unwrap();
    assert_eq!(folders(&disk).await, ["chk-1-g1", "chk-3-g1"]);
    storage(&disk).tidy_finished(false).await.unwrap();
    assert_eq!(folders(&disk).await, [""; 0]);
}

/// What cannot be read may need anything.
#[tokio::test]
async fn nothing_is_deleted_while_it_is_not_known_what_is_needed() {
    let disk = memory();
    let job = open(&disk).await.unwrap();
    checkpoint(&job, 1).await.unwrap();
    checkpoint_on_1(&job, 2).await;
    checkpoint(&job, 3).await.unwrap();
    job.retire(CheckpointId(1)).await.unwrap();
    drop(job);
    let manifest = disk.read(&at("chk-2-g1/manifest")).await.unwrap();
    disk.remove(&at("chk-2-g1/manifest")).await.unwrap();
    let job = open(&disk).await.unwrap();
    prepare(&job, 4).await.unwrap();
    assert_eq!(job.discard(CheckpointId(4)).await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(folders(&disk).await, ["chk-1-g1", "chk-2-g1", "chk-3-g1", "chk-4-g5"]);
    // It is readable again.
    disk.publish(&at("chk-2-g1/manifest"), manifest).await.unwrap();
    job.discard(CheckpointId(4)).await.unwrap();
    assert_eq!(folders(&disk).await, ["chk-1-g1", "chk-2-g1", "chk-3-g1"]);
    job.retire(CheckpointId(2)).await.unwrap();
    assert_eq!(folders(&disk).await, ["chk-3-g1"]);
}

#[tokio::test]
async fn a_manifest_that_does_not_belong_here_is_refused() {
    let disk = memory();
    let job = open(&disk).await.unwrap();
    checkpoint(&job, 2).await.unwrap();
    let good = prepare(&job, 3).await.unwrap();
    for bad in [
        Manifest { job: "other".into(), ..good.clone() },
        Manifest { generation: Generation(9), ..good.clone() },
        Manifest { checkpoint: CheckpointId(2), ..good.clone() },
        Manifest { checkpoint: CheckpointId(1), ..good.clone() },
    ] {
        match job.complete(&bad).await.unwrap_err() {
            CompleteError::Failed(error) => assert_eq!(error.kind(), ErrorKind::Internal),
            other => panic!("{other:?}"),
        }
    }
    job.complete(&good).await.unwrap();
    assert_eq!((retained(&job), restore(&job).await), (vec![2, 3], Some(3)));
}

#[tokio::test]
async fn after_deleting_all_checkpoints_the_job_begins_from_nothing() {
    let disk = memory();
    let job = open(&disk).await.unwrap();
    for id in 1..=2 {
        checkpoint(&job, id).await.unwrap();
    }
    prepare(&job, 3).await.unwrap();
    job.delete_all_checkpoints().await.unwrap();
    job.delete_all_checkpoints().await.unwrap();
    assert_eq!((retained(&job), restore(&job).await), (vec![], None));
    let left = ["log", "log/00000000000000000001", "log/00000000000000000004"];
    assert_eq!(names(&*disk).await[1..], left, "besides the lock");
    drop(job);
    let job = open(&disk).await.unwrap();
    assert_eq!((retained(&job), restore(&job).await), (vec![], None));
    assert_eq!(job.next_checkpoint(), CheckpointId(3), "numbers are not given twice");
    checkpoint(&job, 3).await.unwrap();
}

#[tokio::test]
async fn a_finished_job_stays_finished_when_its_checkpoints_are_deleted() {
    let disk = memory();
    let job = open(&disk).await.unwrap();
    checkpoint(&job, 1).await.unwrap();
    job.finish().await.unwrap();
    job.delete_all_checkpoints().await.unwrap();
    let left = ["log", "log/00000000000000000001", "log/00000000000000000003"];
    assert_eq!(names(&*disk).await[1..], left, "besides the lock");
    drop(job);
    let opened = storage(&disk).open(false).await.unwrap();
    assert!(matches!(opened, Opened::Finished { checkpoint: Some(CheckpointId(1)) }));
}

/// How far the script below has come.
#[derive(Debug, Default, Clone, Copy)]
struct Progress {
    /// Last checkpoint of which completing was begun.
    begun: u64,
    /// Last checkpoint that was acknowledged.
    acknowledged: u64,
    finish_begun: bool,
    finished: bool,
}

/// A whole life, on top of a completed checkpoint 1 of an earlier process: two checkpoints with a retention of one, one
/// aborted between them, and the end.
async fn life(disk: &SharedDisk, progress: &mut Progress) -> Result<(), Error> {
    let job = open(disk).await?;
    for id in [2, 4] {
        let manifest = prepare(&job, id).await?;
        progress.begun = id;
        job.complete(&manifest).await.map_err(CompleteError::into_error)?;
        progress.acknowledged = id;
        for old in job.retained().into_iter().rev().skip(1) {
            job.retire(old).await?;
        }
        prepare(&job, id + 1).await?;
        job.discard(CheckpointId(id + 1)).await?;
    }
    progress.finish_begun = true;
    job.finish().await.map_err(CompleteError::into_error)?;
    progress.finished = true;
    Ok(())
}

async fn with_checkpoint_1() -> SharedDisk {
    let disk = memory();
    let job = open(&disk).await.unwrap();
    checkpoint(&job, 1).await.unwrap();
    prepare(&job, 2).await.unwrap(); // and died
    disk
}

/// What a new process finds must be the old or the new truth, all of it readable; and after one more cycle nothing is left
/// that does not belong there.
async fn check_after(inner: &SharedDisk, progress: Progress, what: &str) {
    let job = match storage(inner).open(false).await.unwrap() {
        Opened::Finished { checkpoint } => {
            assert!(progress.finish_begun, "{what}");
            assert_eq!(checkpoint, Some(CheckpointId(4)), "{what}");
            return;
        }
        Opened::Owned(job) => job,
    };
    assert!(!progress.finished, "{what}: the end is forgotten");
    let restored = restore(&job).await.unwrap();
    let (acknowledged, begun) = (progress.acknowledged.max(1), progress.begun.max(1));
    assert!(restored == acknowledged || restored == begun, "{what}: restored {restored}, {progress:?}");
    let entries: Vec<Completed> = job.state().view.completed().cloned().collect();
    for entry in &entries {
        job.inner.folder.read_manifest(entry).await.unwrap();
    }
    check_clean_cycle(inner, &job, what).await;
}

/// Takes a checkpoint, retires all others, and looks at what is there.
async fn check_clean_cycle(inner: &SharedDisk, job: &OwnedJob, what: &str) {
    let (id, generation) = (job.next_checkpoint(), job.generation());
    checkpoint(job, id.0).await.unwrap();
    for old in job.retained().into_iter().rev().skip(1) {
        job.retire(old).await.unwrap();
    }
    let (in_log, names): (Vec<String>, Vec<String>) =
        names(&**inner).await.into_iter().partition(|name| name.starts_with("log/"));
    let dir = layout::checkpoint_dir(id, generation);
    assert_eq!(names[..3], [dir.clone(), format!("{dir}/manifest"), format!("{dir}/state-a0-0.0")], "{what}");
    assert!(names.len() == 5 && names[3].starts_with(&format!("lock-{generation}-")), "{what}: {names:?}");
    assert_eq!(names[4], "log", "{what}");
    let view = job.inner.log.read().await.unwrap();
    let claims = in_log.iter().map(|name| layout::parse_log_entry(&name["log/".len()..]).expect(name));
    let claims = claims.filter(|sequence| view.has_claim(Generation(*sequence))).count();
    assert_eq!(in_log.len(), claims + 1, "{what}: claims and the newest checkpoint");
}

#[tokio::test]
async fn no_crash_at_any_point_damages_the_truth_or_leaves_garbage() {
    let counting = FaultyDisk::new(with_checkpoint_1().await);
    let disk: SharedDisk = Arc::new(counting.clone());
    life(&disk, &mut Progress::default()).await.unwrap();
    let operations = counting.operations();
    assert!(operations > 30, "{operations}");
    for fault in Fault::ALL {
        for operation in 1..=operations {
            let inner = with_checkpoint_1().await;
            let faulty = FaultyDisk::new(Arc::clone(&inner)).die_at(operation, fault);
            let disk: SharedDisk = Arc::new(faulty.clone());
            let mut progress = Progress::default();
            let result = life(&disk, &mut progress).await;
            assert!(faulty.is_dead() && (result.is_err() || !progress.finished), "nothing was swallowed");
            check_after(&inner, progress, &format!("{fault:?} at {operation}")).await;
        }
    }
}

#[tokio::test]
async fn one_error_at_any_point_of_completing_is_never_taken_for_something_else() {
    for fault in [Fault::NoEffect, Fault::TookEffect, Fault::Torn] {
        for operation in 1.. {
            let inner = memory();
            let healthy = open(&inner).await.unwrap();
            checkpoint(&healthy, 1).await.unwrap();
            let manifest = prepare(&healthy, 2).await.unwrap();
            let faulty = FaultyDisk::new(Arc::clone(&inner)).fail_once_at(operation, fault);
            let job = on(healthy, Arc::new(faulty.clone()));
            let result = job.complete(&manifest).await;
            let is_true = storage(&inner).log_view().await.last_checkpoint() == Some(CheckpointId(2));
            let what = format!("{fault:?} at {operation}");
            match &result {
                Ok(_) => assert!(is_true, "{what}"),
                Err(CompleteError::Failed(error)) => {
                    assert!(!is_true && error.kind() == ErrorKind::Storage, "{what}: {error}");
                    // Tried again, or given up: both are fine.
                    if operation % 2 == 0 {
                        job.complete(&manifest).await.unwrap();
                    } else {
                        job.discard(CheckpointId(2)).await.unwrap();
                    }
                }
                Err(other) => panic!("{what}: {other}"),
            }
            if faulty.operations() < operation {
                break;
            }
            let id = job.next_checkpoint().0;
            checkpoint(&job, id).await.unwrap();
            drop(job);
            let job = open(&inner).await.unwrap();
            assert_eq!(restore(&job).await, Some(id), "{what}");
            check_clean_cycle(&inner, &job, &what).await;
        }
    }
}

/// The same job through another disk.
fn on(job: OwnedJob, disk: SharedDisk) -> OwnedJob {
    let inner = Arc::into_inner(job.inner).unwrap();
    let state = inner.state.into_inner().unwrap();
    let folder = JobFolder { disk: Arc::clone(&disk), ..inner.folder };
    let log = JobLog::new(disk, folder.log_dir());
    let job = OwnedJob::new(folder, log, inner.generation, inner.claim, LogView::default(), inner._lock);
    *job.state() = state;
    job
}

/// A disk whose next answer about the log is lost, with all after it until it is repaired.
#[derive(Debug)]
struct Outage {
    inner: SharedDisk,
    /// The write to the log that begins the outage: whether it takes effect.
    next: Mutex<Option<bool>>,
    is_out: Mutex<bool>,
}

impl Outage {
    fn new(inner: &SharedDisk) -> Arc<Self> {
        Arc::new(Self { inner: Arc::clone(inner), next: Mutex::new(None), is_out: Mutex::new(false) })
    }

    fn begin_with(&self, takes_effect: bool) {
        *self.next.lock().unwrap() = Some(takes_effect);
    }

    fn repair(&self) {
        *self.is_out.lock().unwrap() = false;
    }

    fn check(&self) -> io::Result<()> {
        if *self.is_out.lock().unwrap() { Err(io::Error::other("out")) } else { Ok(()) }
    }
}

#[async_trait::async_trait]
impl Disk for Outage {
    async fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.check()?;
        self.inner.read(path).await
    }
    async fn read_range(&self, path: &Path, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        self.check()?;
        self.inner.read_range(path, offset, len).await
    }
    async fn len(&self, path: &Path) -> io::Result<Option<u64>> {
        self.check()?;
        self.inner.len(path).await
    }
    async fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.check()?;
        self.inner.list(dir).await
    }
    async fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.check()?;
        self.inner.create_dir(dir).await
    }
    async fn create(&self, path: &Path) -> io::Result<Box<dyn crate::storage::DiskFile>> {
        self.check()?;
        self.inner.create(path).await
    }
    async fn publish(&self, path: &Path, content: Vec<u8>) -> io::Result<()> {
        self.check()?;
        let is_log = path.parent() == Some(&*at("log"));
        let takes_effect = if is_log { self.next.lock().unwrap().take() } else { None };
        if takes_effect != Some(false) {
            self.inner.publish(path, content).await?;
        }
        *self.is_out.lock().unwrap() = takes_effect.is_some();
        self.check()
    }
    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.check()?;
        self.inner.rename(from, to).await
    }
    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.check()?;
        self.inner.sync_dir(dir).await
    }
    async fn remove(&self, path: &Path) -> io::Result<()> {
        self.check()?;
        self.inner.remove(path).await
    }
    async fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.check()?;
        self.inner.remove_dir(dir).await
    }
    async fn lock(&self, path: &Path, note: &str) -> io::Result<Option<DiskLock>> {
        self.check()?;
        self.inner.lock(path, note).await
    }
}

#[tokio::test]
async fn s3_10_an_unknown_outcome_deletes_nothing_and_the_next_decision_settles_it() {
    for takes_effect in [true, false] {
        let inner = memory();
        let outage = Outage::new(&inner);
        let disk = Arc::clone(&outage) as SharedDisk;
        let job = open(&disk).await.unwrap();
        checkpoint(&job, 1).await.unwrap();
        outage.begin_with(takes_effect);
        assert!(matches!(checkpoint(&job, 2).await, Err(CompleteError::Unknown(_))));
        outage.repair();
        job.discard(CheckpointId(2)).await.unwrap();
        assert_eq!(inner.list(&at("chk-2-g1")).await.unwrap(), ["manifest", "state-a0-0.0"], "kept");
        assert_eq!(retained(&job), [1], "not yet known");

        checkpoint(&job, 3).await.unwrap();
        let expected: &[u64] = if takes_effect { &[1, 2, 3] } else { &[1, 3] };
        assert_eq!(retained(&job), expected);
        check_clean_cycle(&inner, &job, "settled").await;
        drop(job);
        assert_eq!(restore(&open(&inner).await.unwrap()).await, Some(4));
    }
}

#[tokio::test]
async fn an_unknown_outcome_can_be_asked_again_and_is_settled_by_the_next_process() {
    for takes_effect in [true, false] {
        let inner = memory();
        let outage = Outage::new(&inner);
        let disk = Arc::clone(&outage) as SharedDisk;
        let job = open(&disk).await.unwrap();
        let manifest = prepare(&job, 1).await.unwrap();
        outage.begin_with(takes_effect);
        assert!(matches!(job.complete(&manifest).await, Err(CompleteError::Unknown(_))));
        assert!(matches!(job.complete(&manifest).await, Err(CompleteError::Failed(_)))); // still out
        outage.repair();
        job.complete(&manifest).await.unwrap();
        assert_eq!((retained(&job), restore(&job).await), (vec![1], Some(1)));

        outage.begin_with(takes_effect);
        assert!(matches!(checkpoint(&job, 2).await, Err(CompleteError::Unknown(_))));
        drop(job);
        let next = open(&inner).await.unwrap();
        assert_eq!(restore(&next).await, Some(if takes_effect { 2 } else { 1 }));
        check_clean_cycle(&inner, &next, "settled").await;
    }
}

#[tokio::test]
async fn a_completion_that_was_given_up_is_in_doubt_until_settled() {
    use futures::FutureExt;
    let disk = memory();
    let job = open(&disk).await.unwrap();
    let manifest = prepare(&job, 1).await.unwrap();
    // As if dropped just before the answer to the write came.
    job.state().in_doubt.insert(CheckpointId(1));
    job.discard(CheckpointId(1)).await.unwrap();
    assert_eq!(disk.list(&at("chk-1-g1")).await.unwrap(), ["state-a0-0.0"]);
    assert!(job.complete(&manifest).now_or_never().unwrap().is_ok());
    assert!(job.state().in_doubt.is_empty());
    assert_eq!(restore(&job).await, Some(1));
}

#[tokio::test]
async fn an_unknown_outcome_can_be_resolved_before_a_restart() {
    for takes_effect in [true, false] {
        let inner = memory();
        let outage = Outage::new(&inner);
        let disk = Arc::clone(&outage) as SharedDisk;
        let job = open(&disk).await.unwrap();
        checkpoint(&job, 1).await.unwrap();
        outage.begin_with(takes_effect);
        assert!(matches!(checkpoint(&job, 2).await, Err(CompleteError::Unknown(_))));
        let unknown = job.latest_manifest().await.unwrap_err();
        assert_eq!(unknown.kind(), ErrorKind::Storage, "{unknown}");
        outage.repair();
        let latest = job.latest_manifest().await.unwrap().unwrap();
        let expected: &[u64] = if takes_effect { &[1, 2] } else { &[1] };
        assert_eq!(retained(&job), expected);
        assert_eq!(restore(&job).await, expected.last().copied());
        assert_eq!(Some(latest.checkpoint.0), expected.last().copied());
        checkpoint(&job, 3).await.unwrap();
        assert_eq!(restore(&job).await, Some(3));
    }
}
