use super::*;
use crate::storage::log_view::{Claim, Completed};
use crate::storage::{Disk, Fault, FaultyDisk, MemoryDisk};
use crate::types::{CheckpointId, Generation};
use std::sync::Arc;

fn claim(nonce: u64) -> Entry {
    Entry::Claim(Claim { process: 7, nonce })
}

fn completed(checkpoint: u64) -> Entry {
    Entry::Completed(Completed {
        generation: Generation(1),
        checkpoint: CheckpointId(checkpoint),
        manifest: format!("chk-{checkpoint}-g1/manifest"),
        manifest_crc32c: 0x1234_5678,
    })
}

async fn disk() -> MemoryDisk {
    let disk = MemoryDisk::new();
    disk.create_dir(Path::new("/log")).await.unwrap();
    disk
}

fn log(disk: impl Disk) -> JobLog {
    JobLog::new(Arc::new(disk), "/log".into())
}

#[tokio::test]
async fn what_was_appended_is_read_again() {
    let disk = disk().await;
    let log = log(disk.clone());
    assert_eq!(log.read().await.unwrap(), LogView::default());
    for (sequence, entry) in [(1, claim(1)), (2, completed(1))] {
        assert!(matches!(log.append(sequence, &entry).await, Appended::Done));
    }
    let view = log.read().await.unwrap();
    assert_eq!(view, LogView::fold([(1, claim(1)), (2, completed(1))]).unwrap());
    let names = disk.list(Path::new("/log")).await.unwrap();
    assert_eq!(names, ["00000000000000000001", "00000000000000000002"]);
}

#[tokio::test]
async fn a_repeated_append_succeeds_and_a_different_one_finds_what_is_there() {
    let log = log(disk().await);
    assert!(matches!(log.append(1, &claim(1)).await, Appended::Done));
    assert!(matches!(log.append(1, &claim(1)).await, Appended::Done));
    match log.append(1, &claim(2)).await {
        Appended::Taken(found) => assert_eq!(found, claim(1)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_error_of_the_disk_is_settled_by_reading_back() {
    for fault in Fault::ALL {
        let inner = disk().await;
        let disk = FaultyDisk::new(Arc::new(inner.clone())).fail_once_at(1, fault);
        let appended = log(disk).append(1, &claim(1)).await;
        let is_there = log(inner).read().await.unwrap().owner().is_some();
        assert_eq!(is_there, fault == Fault::TookEffect);
        match appended {
            Appended::Done => assert!(is_there, "{fault:?}"),
            Appended::Failed(error) => assert!(!is_there && error.kind() == ErrorKind::Storage, "{fault:?}"),
            other => panic!("{fault:?}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn found_by_reading_back_it_is_made_durable_before_it_counts() {
    let disk = FaultyDisk::new(Arc::new(disk().await)).fail_once_at(1, Fault::TookEffect);
    assert!(matches!(log(disk.clone()).append(1, &claim(1)).await, Appended::Done));
    assert_eq!(disk.operations(), 2, "publish, and then sync of the folder");
}

#[tokio::test]
async fn what_cannot_be_read_back_is_unknown() {
    for fault in Fault::ALL {
        let inner = disk().await;
        let dead = FaultyDisk::new(Arc::new(inner.clone())).die_at(1, fault);
        assert!(matches!(log(dead).append(1, &claim(1)).await, Appended::Unknown(_)), "{fault:?}");
        // Tried again once the disk is back, it is known.
        assert!(matches!(log(inner).append(1, &claim(1)).await, Appended::Done), "{fault:?}");
    }
    // In the log, but not yet durable, and that cannot be changed: unknown as well.
    let inner = disk().await;
    inner.publish(&log(inner.clone()).path(1), Vec::new()).await.unwrap();
    assert!(matches!(log(inner).append(1, &claim(1)).await, Appended::Unknown(_)));
}

#[tokio::test]
async fn unreadable_entries_are_errors_that_name_the_file() {
    let path = log(disk().await).path(1);
    let good = envelope::encode(FORMAT, &Record { sequence: 1, entry: claim(1) }).unwrap();
    let moved = envelope::encode(FORMAT, &Record { sequence: 2, entry: claim(1) }).unwrap();
    let newer = envelope::seal(Format { version: 2, ..FORMAT }, b"x");
    let mut damaged = good.clone();
    *damaged.last_mut().unwrap() ^= 1;
    for (content, why) in [
        (Vec::new(), "the file is empty"),
        (good[..good.len() - 1].to_vec(), "the file is cut short"),
        (b"#!/bin/sh".to_vec(), "not a file of strandline"),
        (damaged, "the content is damaged"),
        (newer, "written by a newer version: 2, this one reads up to 1"),
        (moved, "it was written as entry 2"),
    ] {
        let disk = disk().await;
        disk.publish(&path, content).await.unwrap();
        let error = log(disk).read().await.unwrap_err();
        assert_eq!((error.kind(), error.path()), (ErrorKind::Corrupt, Some(&*path)));
        assert!(error.to_string().contains(why), "{error}");
    }
}

#[tokio::test]
async fn files_that_are_not_entries_are_left_alone() {
    let disk = disk().await;
    for name in [".tmp-12-0", "notes.txt", "1"] {
        disk.publish(&Path::new("/log").join(name), b"x".to_vec()).await.unwrap();
    }
    assert_eq!(log(disk).read().await.unwrap(), LogView::default());
}
