//! Files of format version 1, kept in `tests/fixtures/format-v1` for ever: every later version must read them.

use super::job_log::{Appended, JobLog};
use super::layout;
use super::log_view::{Claim, Completed, Entry, LogView};
use super::state_file::StateFileWriter;
use super::test_support::{files, memory, read};
use super::{JobStorage, LocalDisk, OnDisk, Opened, SharedDisk};
use crate::checkpoint::metadata::*;
use crate::types::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/format-v1")
}

/// What the fixture holds: two processes, a checkpoint of each.
fn entries(crcs: [u32; 2]) -> Vec<(u64, Entry)> {
    let claim = |process, nonce| Entry::Claim(Claim { process, nonce });
    let completed = |generation: u64, checkpoint: u64, manifest_crc32c| {
        let (generation, checkpoint) = (Generation(generation), CheckpointId(checkpoint));
        let manifest = layout::manifest(checkpoint, generation);
        Entry::Completed(Completed { generation, checkpoint, manifest, manifest_crc32c })
    };
    vec![
        (1, claim(4711, 0x0123_4567_89ab_cdef)),
        (2, completed(1, 3, crcs[0])),
        (3, claim(4712, 0xfedc_ba98_7654_3210)),
        (4, completed(3, 5, crcs[1])),
    ]
}

/// Content of the segments of checkpoint `id`.
fn contents(id: u64) -> [Vec<u8>; 3] {
    let text = |what: &str| format!("{what} of checkpoint {id}").into_bytes();
    [text("key group 7"), text("key group 127"), text("splits")]
}

fn manifest(generation: u64, id: u64, [first, second, splits]: [Segment; 3]) -> Manifest {
    let schema = |kind: &str, key: &str, value: &str| StateSchema {
        kind: kind.into(),
        key: key.into(),
        value: value.into(),
    };
    let keyed = KeyedState {
        name: "sum".into(),
        schema: schema("value", "u64", "(u64, u64)"),
        groups: vec![
            GroupSegment { group: KeyGroup(7), entries: 2, at: first },
            GroupSegment { group: KeyGroup(127), entries: 1, at: second },
        ],
    };
    let list = |name: &str, kind: &str, elements, at| ListState {
        name: name.into(),
        schema: schema(kind, "", "Split"),
        distribution: Distribution::Split,
        elements,
        at,
    };
    let subtask = |index, finished, keyed, lists| SubtaskState {
        subtask: SubtaskIndex(index),
        finished,
        keyed,
        lists,
        increments: Vec::new(),
    };
    Manifest {
        job: "fixture".into(),
        checkpoint: CheckpointId(id),
        generation: Generation(generation),
        attempt: Attempt(2),
        triggered: Timestamp(1_700_000_000_123),
        max_parallelism: MaxParallelism::new(128).unwrap(),
        hash_version: 1,
        finished: false,
        operators: vec![
            OperatorState {
                operator: "average".into(),
                watermark: Some(Timestamp(-1)),
                subtasks: vec![
                    subtask(0, false, vec![keyed], Vec::new()),
                    subtask(1, true, Vec::new(), Vec::new()),
                ],
            },
            OperatorState {
                operator: "pairs".into(),
                watermark: None,
                subtasks: vec![subtask(
                    0,
                    false,
                    Vec::new(),
                    vec![
                        list("source", "source-splits", 1, Some(splits)),
                        list("commits", "sink-commits", 0, None),
                    ],
                )],
            },
        ],
        in_flight: Vec::new(),
        inline: Vec::new(),
    }
}

/// Writes the fixture.
async fn write(disk: &SharedDisk, root: &Path) {
    let folder = root.join("fixture");
    disk.create_dir(&folder.join(layout::LOG)).await.unwrap();
    let mut crcs = [0; 2];
    for (crc, (generation, id)) in crcs.iter_mut().zip([(1, 3), (3, 5)]) {
        let (checkpoint, of) = (CheckpointId(id), Generation(generation));
        disk.create_dir(&folder.join(layout::checkpoint_dir(checkpoint, of))).await.unwrap();
        let subtask = SubtaskId { chain: ChainId(1), index: SubtaskIndex(0) };
        let name = layout::state_file(checkpoint, of, Attempt(2), subtask);
        let mut file = StateFileWriter::new(Arc::clone(disk), folder.clone(), name, None);
        let mut segments = Vec::new();
        for content in contents(id) {
            segments.push(file.write_segment(&content).await.unwrap());
        }
        file.finish().await.unwrap();
        let bytes = manifest(generation, id, segments.try_into().unwrap()).encode().unwrap();
        *crc = crc32c::crc32c(&bytes);
        disk.publish(&folder.join(layout::manifest(checkpoint, of)), bytes).await.unwrap();
    }
    let log = JobLog::new(Arc::clone(disk), folder.join(layout::LOG));
    for (sequence, entry) in entries(crcs) {
        assert!(matches!(log.append(sequence, &entry).await, Appended::Done));
    }
}

#[tokio::test]
#[ignore = "writes the fixture: only while version 1 is not yet released"]
async fn generate() {
    let disk: SharedDisk = Arc::new(LocalDisk::new());
    disk.remove_dir(&root()).await.unwrap();
    write(&disk, &root()).await;
}

/// A copy of the fixture that can be opened.
async fn copy() -> SharedDisk {
    let disk = memory();
    for (path, content) in files(&LocalDisk::new(), &root()).await {
        match content {
            Some(content) => {
                disk.create_dir(path.parent().unwrap()).await.unwrap();
                disk.publish(&path, content).await.unwrap();
            }
            None => disk.create_dir(&path).await.unwrap(),
        }
    }
    disk
}

#[tokio::test]
async fn the_log_of_version_1_is_read() {
    let disk = copy().await;
    let mut crcs = [0; 2];
    for (crc, name) in crcs.iter_mut().zip(["chk-3-g1/manifest", "chk-5-g3/manifest"]) {
        *crc = crc32c::crc32c(&disk.read(&root().join("fixture").join(name)).await.unwrap());
    }
    let log = JobLog::new(disk, root().join("fixture/log"));
    assert_eq!(log.read().await.unwrap(), LogView::fold(entries(crcs)).unwrap());
}

#[tokio::test]
async fn a_job_of_version_1_is_opened_and_its_state_restored() {
    let storage = OnDisk::new(copy().await, root());
    let Opened::Owned(job) = JobStorage::new(&storage, &"fixture".into()).unwrap().open(false).await.unwrap()
    else {
        panic!("not finished");
    };
    assert_eq!((job.generation(), job.next_checkpoint()), (Generation(5), CheckpointId(6)));
    assert_eq!(job.retained(), [CheckpointId(3), CheckpointId(5)]);
    let found = job.latest_manifest().await.unwrap().unwrap();
    let segment = |offset, len, crc32c| Segment { file: "chk-5-g3/state-a2-1.0".into(), offset, len, crc32c };
    let segments = [segment(16, 27, 0xbd97_8c62), segment(43, 29, 0x6250_26a8), segment(72, 22, 0x010f_14da)];
    assert_eq!(found, manifest(3, 5, segments.clone()));
    for (segment, content) in segments.iter().zip(contents(5)) {
        assert_eq!(read(&job, &found, segment).await.unwrap(), content);
    }
}

#[tokio::test]
async fn what_is_written_today_is_version_1_to_the_byte() {
    let disk = memory();
    write(&disk, &root()).await;
    assert_eq!(files(&*disk, &root()).await, files(&LocalDisk::new(), &root()).await);
}
