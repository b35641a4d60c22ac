use super::*;
use crate::storage::test_support::*;
use crate::storage::{CompleteError, Disk, DiskFile, DiskLock, FileSystem, Memory, OnDisk, SharedDisk};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// The kind of an error that names what it is about.
fn kind<T: std::fmt::Debug>(result: Result<T, Error>) -> ErrorKind {
    let error = result.unwrap_err();
    assert!(error.path().is_some() && error.to_string().contains("job `job`"), "{error}");
    error.kind()
}

#[tokio::test]
async fn a_new_job_begins_with_checkpoint_1() {
    let disk = memory();
    let job = open(&disk).await.unwrap();
    assert_eq!((job.generation(), job.next_checkpoint()), (Generation(1), CheckpointId(1)));
    assert_eq!((retained(&job), restore(&job).await), (vec![], None));
}

#[tokio::test]
async fn a_new_process_goes_on_from_the_last_completed_checkpoint() {
    let disk = memory();
    let job = open(&disk).await.unwrap();
    for id in [1, 4] {
        checkpoint(&job, id).await.unwrap();
    }
    drop(job);
    let job = open(&disk).await.unwrap();
    assert_eq!((job.generation(), job.next_checkpoint()), (Generation(4), CheckpointId(5)));
    assert_eq!((retained(&job), restore(&job).await), (vec![1, 4], Some(4)));
}

#[tokio::test]
async fn a_second_live_process_is_refused_and_told_who_runs() {
    let disk = memory();
    let job = open(&disk).await.unwrap();
    checkpoint(&job, 1).await.unwrap();
    let before = files(&*disk, Path::new(ROOT)).await;
    let error = open(&disk).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.to_string().contains(&format!("(pid {})", std::process::id())), "{error}");
    assert_eq!(files(&*disk, Path::new(ROOT)).await, before);
    checkpoint(&job, 2).await.unwrap();
    drop(job);
    open(&disk).await.unwrap();
}

#[tokio::test]
async fn a_process_that_hangs_before_its_claim_blocks_nobody() {
    let disk = memory();
    drop(open(&disk).await.unwrap());
    let hanging = layout::lock(Generation(2), 1);
    let held = disk.lock(&at(&hanging), "pid 99").await.unwrap().unwrap();
    let job = open(&disk).await.unwrap();
    assert_eq!(job.generation(), Generation(2));
    assert!(names(&*disk).await.contains(&hanging), "held, so not swept");
    drop((held, job));
    open(&disk).await.unwrap();
    assert!(!names(&*disk).await.contains(&hanging));
}

#[tokio::test]
async fn who_is_taken_over_is_fenced_and_its_checkpoint_is_not_true() {
    let disk = memory();
    let old = open(&disk).await.unwrap();
    checkpoint(&old, 1).await.unwrap();
    let late = prepare(&old, 2).await.unwrap();
    let new = take_over(&disk).await.unwrap();
    assert_eq!(new.generation(), Generation(3));
    // The new one has swept the old one's folder away, or not: fenced either way.
    old.create_location(CheckpointId(2)).await.unwrap();
    match old.complete(&late).await.unwrap_err() {
        CompleteError::Fenced(error) => {
            assert_eq!(error.kind(), ErrorKind::Fenced);
            assert!(error.to_string().contains("generation 3 (pid "), "{error}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(kind_of(old.create_location(CheckpointId(3)).await), ErrorKind::Fenced);
    assert_eq!(kind_of(old.retire(CheckpointId(1)).await), ErrorKind::Fenced);
    assert!(matches!(old.finish().await, Err(CompleteError::Fenced(_))));
    checkpoint(&new, 2).await.unwrap();
    assert_eq!((retained(&new), restore(&new).await), (vec![1, 2], Some(2)));
    drop((old, new));
    let next = open(&disk).await.unwrap();
    assert_eq!((retained(&next), restore(&next).await), (vec![1, 2], Some(2)));
    assert!(!names(&*disk).await.contains(&"chk-2-g1".to_owned()), "the late folder is swept");
}

fn kind_of(result: Result<(), Error>) -> ErrorKind {
    result.unwrap_err().kind()
}

/// Lets another process go first, once, just before a claim is published.
#[derive(Debug)]
struct Race {
    inner: SharedDisk,
    rival: tokio::sync::Mutex<Option<Rival>>,
    winner: Mutex<Option<OwnedJob>>,
}

#[derive(Debug, Clone, Copy)]
enum Rival {
    /// Takes the job over.
    TakesOver,
    /// The owner completes two checkpoints and retires all but the last.
    GoesOn,
}

#[async_trait::async_trait]
impl Disk for Race {
    async fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.inner.read(path).await
    }
    async fn read_range(&self, path: &Path, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        self.inner.read_range(path, offset, len).await
    }
    async fn len(&self, path: &Path) -> io::Result<Option<u64>> {
        self.inner.len(path).await
    }
    async fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.inner.list(dir).await
    }
    async fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.create_dir(dir).await
    }
    async fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.inner.create(path).await
    }
    async fn publish(&self, path: &Path, content: Vec<u8>) -> io::Result<()> {
        let rival = self.rival.lock().await.take();
        let owner = self.winner.lock().unwrap().clone();
        match (rival, owner) {
            (Some(Rival::TakesOver), _) => {
                let job = take_over(&self.inner).await.unwrap();
                *self.winner.lock().unwrap() = Some(job);
            }
            (Some(Rival::GoesOn), Some(job)) => {
                for _ in 0..2 {
                    checkpoint(&job, job.next_checkpoint().0).await.unwrap();
                }
                for id in job.retained().into_iter().rev().skip(1) {
                    job.retire(id).await.unwrap();
                }
            }
            _ => {}
        }
        self.inner.publish(path, content).await
    }
    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to).await
    }
    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.sync_dir(dir).await
    }
    async fn remove(&self, path: &Path) -> io::Result<()> {
        self.inner.remove(path).await
    }
    async fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.remove_dir(dir).await
    }
    async fn lock(&self, path: &Path, note: &str) -> io::Result<Option<DiskLock>> {
        self.inner.lock(path, note).await
    }
}

fn race(inner: &SharedDisk, rival: Rival, owner: Option<OwnedJob>) -> Arc<Race> {
    let inner = Arc::clone(inner);
    Arc::new(Race { inner, rival: tokio::sync::Mutex::new(Some(rival)), winner: Mutex::new(owner) })
}

#[tokio::test]
async fn of_two_claims_of_one_number_the_first_holds_and_the_other_reads_on() {
    let disk = memory();
    drop(open(&disk).await.unwrap());
    // With `take_over` the loser claims the next number, and the winner is fenced.
    let racing = race(&disk, Rival::TakesOver, None);
    let shared = Arc::clone(&racing) as SharedDisk;
    let second = take_over(&shared).await.unwrap();
    let first = racing.winner.lock().unwrap().take().unwrap();
    assert_eq!((first.generation(), second.generation()), (Generation(2), Generation(3)));
    assert!(matches!(checkpoint(&first, 1).await, Err(CompleteError::Fenced(_))));
    checkpoint(&second, 1).await.unwrap();
    drop((first, second));
    // Without it the loser is refused, as the winner lives.
    let racing = race(&disk, Rival::TakesOver, None);
    let shared = Arc::clone(&racing) as SharedDisk;
    assert_eq!(kind(open(&shared).await), ErrorKind::Busy);
    let winner = racing.winner.lock().unwrap().take().unwrap();
    checkpoint(&winner, 2).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_start_at_once_one_runs_and_the_others_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let storage = FileSystem::at(dir.path());
    let starts =
        (0..8).map(|_| async { JobStorage::new(&storage, &"job".into()).unwrap().open(false).await });
    let (mut running, mut refused) = (0, 0);
    let opened = futures::future::join_all(starts).await; // all kept, so that the one goes on running
    for result in &opened {
        match result {
            Ok(Opened::Owned(_)) => running += 1,
            Err(error) if error.kind() == ErrorKind::Busy => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((running, refused), (1, 7));
}

#[tokio::test]
async fn a_claim_in_a_hole_that_retention_made_does_not_count() {
    let disk = memory();
    let owner = open(&disk).await.unwrap();
    checkpoint(&owner, 1).await.unwrap();
    // It read up to entry 2; entry 3 is written and removed before its claim of 3 comes.
    let shared: SharedDisk = race(&disk, Rival::GoesOn, Some(owner.clone()));
    let second = take_over(&shared).await.unwrap();
    assert_eq!((second.generation(), retained(&second)), (Generation(5), vec![3]));
    assert_eq!(restore(&second).await, Some(3));
    assert!(matches!(checkpoint(&owner, 4).await, Err(CompleteError::Fenced(_))));
    let log: Vec<String> = names(&*disk).await.into_iter().filter(|name| name.starts_with("log/")).collect();
    assert_eq!(log.len(), 3, "two claims and a checkpoint; the void claim is withdrawn: {log:?}");
}

#[tokio::test]
async fn entries_are_not_removed_while_the_log_holds_an_unknown_one() {
    let disk = memory();
    let owner = open(&disk).await.unwrap();
    for id in 1..=3 {
        checkpoint(&owner, id).await.unwrap();
    }
    owner.retire(CheckpointId(1)).await.unwrap();
    let void = Entry::Claim(Claim { process: 5, nonce: 5 });
    let log = storage(&disk).log;
    assert!(matches!(log.append(2, &void).await, Appended::Done));
    let error = owner.retire(CheckpointId(2)).await.unwrap_err();
    assert_eq!((error.kind(), error.path()), (ErrorKind::Busy, Some(&*log.path(2))));
    assert_eq!(retained(&owner), [2, 3]);
    log.remove(&[2]).await.unwrap();
    owner.retire(CheckpointId(2)).await.unwrap();
    assert_eq!(retained(&owner), [3]);
}

#[tokio::test]
async fn a_finished_job_is_opened_without_a_trace() {
    let disk = memory();
    let job = open(&disk).await.unwrap();
    checkpoint(&job, 3).await.unwrap();
    job.finish().await.unwrap();
    job.finish().await.unwrap();
    drop(job);
    let before = files(&*disk, Path::new(ROOT)).await;
    for take_over in [false, true] {
        match storage(&disk).open(take_over).await.unwrap() {
            Opened::Finished { checkpoint } => assert_eq!(checkpoint, Some(CheckpointId(3))),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(files(&*disk, Path::new(ROOT)).await, before);
}

#[tokio::test]
async fn a_finished_job_takes_no_more_checkpoints() {
    let disk = memory();
    let job = open(&disk).await.unwrap();
    job.finish().await.unwrap();
    match checkpoint(&job, 1).await.unwrap_err() {
        CompleteError::Failed(error) => assert_eq!(error.kind(), ErrorKind::Internal),
        other => panic!("{other:?}"),
    }
    drop(job);
    assert!(matches!(storage(&disk).open(false).await.unwrap(), Opened::Finished { checkpoint: None }));
}

#[tokio::test]
async fn what_is_unreadable_is_an_error_and_nothing_is_touched() {
    // Of each file of the newest checkpoint, and of the log.
    let targets = [
        "log/00000000000000000001",
        "log/00000000000000000003",
        "chk-2-g1/manifest",
        "chk-2-g1/state-a0-0.0",
    ];
    for target in targets {
        let path = at(target);
        for damage in ["cut", "empty", "foreign", "newer", "flipped", "gone"] {
            let disk = memory();
            let job = open(&disk).await.unwrap();
            for id in 1..=2 {
                checkpoint(&job, id).await.unwrap();
            }
            drop(job);
            disk.create_dir(&at("chk-7-g1")).await.unwrap(); // garbage that a sweep would take
            let mut content = disk.read(&path).await.unwrap();
            disk.remove(&path).await.unwrap();
            match damage {
                "cut" => content.truncate(content.len() - 1),
                "empty" => content.clear(),
                "foreign" => content = b"something else altogether".to_vec(),
                "newer" => content[12] = 2,
                _ => *content.last_mut().unwrap() ^= 1,
            }
            if damage != "gone" {
                disk.publish(&path, content).await.unwrap();
            }
            let before = files(&*disk, Path::new(ROOT)).await;
            let opened = storage(&disk).open(true).await;
            if target.starts_with("log") && damage == "gone" {
                continue; // the front may be missing, and another entry is the last now
            }
            if target.contains("state") && damage == "flipped" {
                continue; // only reading all of it shows that: see `read_segments`
            }
            let error = opened.unwrap_err();
            assert_eq!((error.kind(), error.path()), (ErrorKind::Corrupt, Some(&*path)), "{damage}: {error}");
            assert_eq!(files(&*disk, Path::new(ROOT)).await, before, "{damage} {target}");
        }
    }
}

#[tokio::test]
async fn a_checkpoint_of_another_job_is_refused() {
    let disk = memory();
    let job = open(&disk).await.unwrap();
    checkpoint(&job, 1).await.unwrap();
    drop(job);
    let all = files(&*disk, &at("")).await;
    for (path, content) in all {
        let copy = Path::new(ROOT).join("other").join(path.strip_prefix(at("")).unwrap());
        disk.create_dir(copy.parent().unwrap()).await.unwrap();
        if let Some(content) = content {
            disk.publish(&copy, content).await.unwrap();
        }
    }
    let other = JobStorage::new(&OnDisk::new(disk, ROOT), &"other".into()).unwrap();
    let error = other.open(false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("it belongs to job `job`, this is job `other`"), "{error}");
}

#[tokio::test]
async fn a_file_in_the_way_is_a_fault_in_the_configuration() {
    for file in [ROOT, "/root/job", "/root/job/log"] {
        let disk = memory();
        disk.create_dir(Path::new(file).parent().unwrap()).await.unwrap();
        disk.publish(Path::new(file), b"x".to_vec()).await.unwrap();
        let error = open(&disk).await.unwrap_err();
        assert_eq!((error.kind(), error.path()), (ErrorKind::Configuration, Some(Path::new(file))));
        assert_eq!(disk.read(Path::new(file)).await.unwrap(), b"x");
    }
    let disk = memory();
    disk.publish(Path::new("/file"), Vec::new()).await.unwrap();
    let below = JobStorage::new(&OnDisk::new(disk, "/file/below"), &"job".into()).unwrap();
    assert_eq!(kind(below.open(false).await), ErrorKind::Configuration);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "x").unwrap();
    let below = JobStorage::new(&FileSystem::at(dir.path().join("file/below")), &"job".into()).unwrap();
    assert_eq!(kind(below.open(false).await), ErrorKind::Configuration);
}

#[tokio::test]
async fn the_sweep_takes_leftovers_and_nothing_else() {
    let disk = memory();
    let job = open(&disk).await.unwrap();
    checkpoint(&job, 1).await.unwrap();
    prepare(&job, 2).await.unwrap();
    drop(job);
    for dir in ["chk-9-g1", "chk-3-g4", "chk-3-g3", "chk-1-g1.bak", "savepoint", "lost+found"] {
        disk.create_dir(&at(dir)).await.unwrap();
    }
    for file in [
        "log/.tmp-1-1",
        "log/README",
        "notes",
        ".tmp-mine",
        "lock",
        "lock-2-0000000000000001",
        "lock-4-0000000000000001",
    ] {
        disk.publish(&at(file), Vec::new()).await.unwrap();
    }
    let held = disk.lock(&at("lock-0-0000000000000000"), "an old process that lives").await.unwrap();
    let job = open(&disk).await.unwrap();
    assert_eq!(job.generation(), Generation(3));
    let mut left = names(&*disk).await;
    left.retain(|name| !name.starts_with("log/0") && !name.starts_with("lock-3-"));
    assert_eq!(
        left,
        [
            ".tmp-mine",
            "chk-1-g1",
            "chk-1-g1.bak",
            "chk-1-g1/manifest",
            "chk-1-g1/state-a0-0.0",
            "chk-3-g4",
            "lock",
            "lock-0-0000000000000000",
            "lock-4-0000000000000001",
            "log",
            "log/README",
            "lost+found",
            "notes",
            "savepoint"
        ]
    );
    drop(held);
}

#[tokio::test]
async fn a_job_in_memory_goes_on_with_the_same_memory() {
    let memory = Memory::new();
    let open = async || match JobStorage::new(&memory, &"job".into()).unwrap().open(false).await.unwrap() {
        Opened::Owned(job) => job,
        other => panic!("{other:?}"),
    };
    let job = open().await;
    checkpoint(&job, 1).await.unwrap();
    let mut file = job.state_file(
        CheckpointId(2),
        crate::types::Attempt(0),
        crate::types::SubtaskId { chain: crate::types::ChainId(0), index: crate::types::SubtaskIndex(0) },
    );
    let error = file.write_segment(&vec![0; 5_242_881]).await.unwrap_err();
    assert!(error.to_string().contains("takes 5242880 per state"), "{error}");
    drop(job);
    assert_eq!(restore(&open().await).await, Some(1));
}

#[test]
fn a_job_must_have_a_plain_name() {
    let error = JobStorage::new(&Memory::new(), &"a/b".into()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
}
