//! Tests: what nobody needs is removed sooner or later, and what was found is durable before anything is built on it.

use super::test_support::*;
use super::{Fault, FaultyDisk, Injection, Opened, Operation, SharedDisk};
use crate::error::ErrorKind;
use crate::types::CheckpointId;
use std::sync::Arc;

async fn folders(disk: &SharedDisk) -> Vec<String> {
    let mut names = names(&**disk).await;
    names.retain(|name| name.starts_with("chk-") && !name.contains('/'));
    names
}

#[tokio::test]
async fn a_leftover_that_cannot_be_removed_keeps_no_other_one() {
    let disk = memory();
    let job = open(&disk).await.unwrap();
    for id in 1..=3 {
        prepare(&job, id).await.unwrap();
    }
    drop(job);
    let stubborn = Injection::of(Fault::NoEffect).on([Operation::RemoveDir]).at_path("chk-2-g1");
    let faulty: SharedDisk = Arc::new(FaultyDisk::new(Arc::clone(&disk)).failing(stubborn));
    drop(open(&faulty).await.unwrap());
    assert_eq!(folders(&disk).await, ["chk-2-g1"]);
    drop(open(&disk).await.unwrap());
    assert_eq!(folders(&disk).await, [""; 0]);
}

#[tokio::test]
async fn what_the_end_of_a_job_could_not_delete_the_next_start_deletes() {
    for keep_last in [true, false] {
        let disk = memory();
        let job = open(&disk).await.unwrap();
        for id in 1..=3 {
            checkpoint(&job, id).await.unwrap();
        }
        prepare(&job, 4).await.unwrap();
        assert_eq!(storage(&disk).tidy_finished(true).await.unwrap_err().kind(), ErrorKind::Internal);
        assert_eq!(folders(&disk).await.len(), 4, "not finished, not touched");
        job.finish().await.unwrap();
        disk.publish(&at("lock-1-0000000000000007"), Vec::new()).await.unwrap();
        storage(&disk).tidy_finished(keep_last).await.unwrap();
        drop(job);
        let left = names(&*disk).await;
        let (locks, rest): (Vec<_>, Vec<_>) = left.iter().partition(|name| name.starts_with("lock-"));
        assert!(locks.len() == 1 && locks[0] != "lock-1-0000000000000007", "{locks:?}");
        let log = ["log", "log/00000000000000000001", "log/00000000000000000004", "log/00000000000000000005"];
        let last = ["chk-3-g1", "chk-3-g1/manifest", "chk-3-g1/state-a0-0.0"];
        let expected = if keep_last { [&last[..], &log].concat() } else { vec![log[0], log[1], log[3]] };
        assert_eq!(rest, expected);
        storage(&disk).tidy_finished(keep_last).await.unwrap();
        assert_eq!(names(&*disk).await, left, "nothing is left to do");
        let Opened::Finished { checkpoint } = storage(&disk).open(false).await.unwrap() else { panic!() };
        assert_eq!(checkpoint, Some(CheckpointId(3)));
    }
}

/// An entry that has its name but not yet for good: the process was killed in between.
#[tokio::test]
async fn an_entry_that_was_found_is_made_durable_before_anything_is_built_on_it() {
    let disk = memory();
    let machine = FaultyDisk::new(Arc::clone(&disk));
    let shared: SharedDisk = Arc::new(machine.clone());
    let job = open(&shared).await.unwrap();
    checkpoint(&job, 1).await.unwrap();
    machine.inject(Injection::of(Fault::TookEffect).on([Operation::Publish]).at_path("/log/").then_die());
    checkpoint(&job, 2).await.unwrap_err();
    drop(job);
    machine.restart();
    machine.inject(Injection::of(Fault::NoEffect).on([Operation::Publish]).then_die());
    open(&shared).await.unwrap_err();
    assert_eq!(storage(&disk).log_view().await.last_checkpoint(), Some(CheckpointId(2)));
    machine.lose_power(Fault::PowerLoss).await.unwrap();
    assert_eq!(restore(&open(&disk).await.unwrap()).await, Some(2));
}
