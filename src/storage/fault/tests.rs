use super::*;
use crate::storage::{Disk, MemoryDisk, SharedDisk};
use futures::executor::block_on;
use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

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

/// A disk with a file on it.
async fn with_old() -> SharedDisk {
    let disk: SharedDisk = Arc::new(MemoryDisk::new());
    disk.publish(Path::new("old"), b"x".to_vec()).await.unwrap();
    disk
}

async fn found(disk: &SharedDisk) -> String {
    let mut found = Vec::new();
    for name in disk.list(Path::new("")).await.unwrap() {
        let content = disk.read(Path::new(&name)).await.unwrap();
        found.push(format!("{name}={}", String::from_utf8(content).unwrap().replace('\0', "0")));
    }
    found.join(" ")
}

/// What is on the inner disk after the fault.
fn after(operation: u64, fault: Fault) -> String {
    block_on(async {
        let inner = with_old().await;
        let disk = FaultyDisk::new(Arc::clone(&inner)).die_at(operation, fault);
        script(&disk).await.unwrap_err();
        assert!(disk.is_dead() && disk.operations() == operation && disk.struck() == 1);
        disk.read(Path::new("old")).await.unwrap_err();
        found(&inner).await
    })
}

#[test]
fn it_fails_where_and_how_it_was_told() {
    assert_eq!(after(4, Fault::NoEffect), "a=1234 old=x");
    assert_eq!(after(4, Fault::TookEffect), "a=12345678 old=x");
    assert_eq!(after(4, Fault::Torn), "a=123456 old=x");
    assert_eq!(after(7, Fault::Torn), "a=12345678 b=12345678");
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
fn names_and_contents_are_lost_by_themselves() {
    assert_eq!(after(5, Fault::NamesLost), "old=x");
    assert_eq!(after(5, Fault::ContentsLost), "a=1234 old=x");
    assert_eq!(after(8, Fault::NamesLost), "a=12345678 old=x");
    assert_eq!(after(8, Fault::ContentsLost), "b=1234");
}

#[test]
fn parts_are_lost_in_any_order() {
    let all: BTreeSet<String> = (0..500).map(|seed| after(8, Fault::SomeLost(seed))).collect();
    for possible in ["a=1234 old=x", "b=12345678", "a=12345678 b=1234", "b=12340000 old=x", "b=123456"] {
        assert!(all.contains(possible), "{possible} in {all:?}");
    }
    let names = |state: &String| state.contains("a=1234") || state.contains("b=1234");
    assert!(all.iter().all(names), "what was synced is there: {all:?}");
    assert_eq!(after(8, Fault::SomeLost(7)), after(8, Fault::SomeLost(7)), "the same seed, the same loss");
}

#[test]
fn a_sync_that_is_torn_makes_half_durable() {
    block_on(async {
        let inner = with_old().await;
        let disk = FaultyDisk::new(Arc::clone(&inner))
            .failing(Injection::of(Fault::Torn).on([Operation::Sync]).at(1))
            .failing(Injection::of(Fault::Torn).on([Operation::SyncDir]).at(2));
        let mut file = disk.create(Path::new("a")).await.unwrap();
        disk.sync_dir(Path::new("")).await.unwrap();
        file.write(b"12345678".to_vec()).await.unwrap();
        file.sync().await.unwrap_err();
        disk.remove(Path::new("old")).await.unwrap();
        disk.rename(Path::new("a"), Path::new("b")).await.unwrap();
        disk.sync_dir(Path::new("")).await.unwrap_err();
        disk.lose_power(Fault::PowerLoss).await.unwrap();
        assert_eq!(found(&inner).await, "a=1234");
    });
}

#[test]
fn a_removed_folder_is_back_after_a_loss_of_power_until_the_one_above_is_synced() {
    for synced in [false, true] {
        block_on(async {
            let inner: SharedDisk = Arc::new(MemoryDisk::new());
            inner.create_dir(Path::new("x/y/z")).await.unwrap();
            for path in ["x/y/1", "x/y/z/2"] {
                inner.publish(Path::new(path), path.into()).await.unwrap();
            }
            let disk = FaultyDisk::new(Arc::clone(&inner));
            disk.remove_dir(Path::new("x/y")).await.unwrap();
            assert_eq!(inner.list(Path::new("x")).await.unwrap(), [""; 0]);
            if synced {
                disk.sync_dir(Path::new("x")).await.unwrap();
            }
            disk.lose_power(Fault::PowerLoss).await.unwrap();
            let content = inner.read(Path::new("x/y/z/2")).await;
            assert_eq!(content.ok(), (!synced).then(|| b"x/y/z/2".to_vec()));
        });
    }
}

#[test]
fn what_is_asked_for_twice_gives_the_second_answer() {
    let twice = |nth| {
        block_on(async move {
            let inner = with_old().await;
            let result = script(&FaultyDisk::new(Arc::clone(&inner)).fail_once_at(nth, Fault::Twice)).await;
            (result.err().map(|error| error.kind()), found(&inner).await)
        })
    };
    assert_eq!(twice(1), (Some(io::ErrorKind::AlreadyExists), "a= old=x".into()));
    for harmless in 2..=6 {
        assert_eq!(twice(harmless), (None, "b=12345678 c=content".into()), "{harmless}");
    }
    assert_eq!(twice(7), (Some(io::ErrorKind::NotFound), "b=12345678".into()));
    assert_eq!(twice(8), (Some(io::ErrorKind::AlreadyExists), "b=12345678 c=content".into()));
}

#[test]
fn an_injection_counts_what_it_means() {
    let broken = |injection: Injection| {
        block_on(async move {
            let disk = FaultyDisk::new(with_old().await).failing(injection);
            let mut broken = Vec::new();
            for name in ["a", "b", "c"] {
                let (path, content) = (Path::new(name), Vec::new());
                broken.extend(disk.publish(path, content).await.is_err().then(|| format!("publish {name}")));
                broken.extend(disk.read(path).await.is_err().then(|| format!("read {name}")));
            }
            broken.join(", ")
        })
    };
    let error = Injection::of(Fault::NoEffect);
    assert_eq!(broken(error.clone().at(2)), "publish b, read b");
    assert_eq!(broken(error.clone().on_everything().at(2)), "read a");
    assert_eq!(broken(error.clone().on([Operation::Read]).from(2)), "read b, read c");
    assert_eq!(broken(error.clone().on_everything().at_path("b").at(2)), "read b");
    assert_eq!(
        broken(error.clone().on_everything().at(2).then_die()),
        "read a, publish b, read b, publish c, read c"
    );
    assert_eq!(broken(Injection::of(Fault::TookEffect)), "publish a, publish b, publish c");
}

#[test]
fn a_full_disk_takes_what_fits_and_no_more_until_there_is_space() {
    block_on(async {
        let inner = with_old().await;
        let disk = FaultyDisk::new(Arc::clone(&inner));
        let mut file = disk.create(Path::new("a")).await.unwrap();
        disk.set_space(Some(6));
        file.write(b"1234".to_vec()).await.unwrap();
        let full = |result: io::Result<()>| result.unwrap_err().kind() == io::ErrorKind::StorageFull;
        assert!(full(file.write(b"5678".to_vec()).await));
        assert!(full(file.sync().await));
        assert!(full(disk.publish(Path::new("b"), Vec::new()).await));
        assert!(full(disk.create(Path::new("b")).await.map(drop)));
        disk.remove(Path::new("old")).await.unwrap();
        assert!(full(disk.create_dir(Path::new("b")).await), "it was somebody else's space");
        assert_eq!(found(&inner).await, "a=123456");
        disk.set_space(None);
        file.write(b"78".to_vec()).await.unwrap();
        assert_eq!(found(&inner).await, "a=12345678");
    });
    assert_eq!(after(4, Fault::Full), "a=123456 old=x", "half of a write");
}

#[test]
fn a_slow_disk_takes_its_time_and_then_does_it() {
    let clock =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    clock.block_on(async {
        let hour = Duration::from_secs(3600);
        let disk = FaultyDisk::new(with_old().await)
            .failing(Injection::of(Fault::Slow(hour)).on([Operation::Read, Operation::Publish]));
        let began = crate::types::Clock::start();
        disk.publish(Path::new("a"), b"1".to_vec()).await.unwrap();
        assert_eq!(began.elapsed(), hour);
        assert_eq!(disk.read(Path::new("a")).await.unwrap(), b"1");
        assert_eq!(began.elapsed(), 2 * hour);
        // Given up, it does not happen any more.
        let given_up = tokio::time::timeout(hour / 2, disk.publish(Path::new("b"), Vec::new())).await;
        assert!(given_up.is_err() && disk.len(Path::new("b")).await.unwrap().is_none());
    });
}

#[test]
fn a_rename_in_two_steps_has_both_names_between_them() {
    let clock =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    clock.block_on(async {
        let hour = Duration::from_secs(3600);
        let inner = with_old().await;
        let disk = FaultyDisk::new(Arc::clone(&inner)).failing(Injection::of(Fault::InTwoSteps(hour)));
        let rename = disk.rename(Path::new("old"), Path::new("new"));
        assert!(tokio::time::timeout(hour / 2, rename).await.is_err());
        assert_eq!(found(&inner).await, "new=x old=x");
        let again = disk.rename(Path::new("old"), Path::new("new")).await;
        assert_eq!(again.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        disk.rename(Path::new("old"), Path::new("newer")).await.unwrap();
        assert_eq!(found(&inner).await, "new=x newer=x");
    });
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

#[test]
fn after_a_restart_it_works_but_what_was_not_synced_still_is_not() {
    block_on(async {
        let inner = with_old().await;
        let disk = FaultyDisk::new(Arc::clone(&inner)).die_at(3, Fault::NoEffect);
        let mut file = disk.create(Path::new("a")).await.unwrap();
        disk.remove(Path::new("old")).await.unwrap();
        file.write(b"1".to_vec()).await.unwrap_err();
        disk.restart();
        file.write(b"1".to_vec()).await.unwrap_err();
        assert_eq!(disk.len(Path::new("a")).await.unwrap(), Some(0));
        disk.lose_power(Fault::PowerLoss).await.unwrap();
        assert_eq!(found(&inner).await, "old=x");
    });
}

#[test]
fn a_trace_has_every_operation() {
    block_on(async {
        let disk = FaultyDisk::new(with_old().await).traced();
        script(&disk).await.unwrap();
        disk.read(Path::new("c")).await.unwrap();
        let trace: Vec<String> =
            disk.trace().iter().map(|at| format!("{:?} {}", at.operation, at.path.display())).collect();
        let expected = [
            "Create a",
            "Write a",
            "Sync a",
            "Write a",
            "SyncDir ",
            "Remove old",
            "Rename a",
            "Publish c",
            "Read c",
        ];
        assert_eq!(trace, expected);
    });
}
