//! What every disk promises, asked of each of them.

use super::*;
use crate::storage::{FaultyDisk, LocalDisk, MemoryDisk};
use io::ErrorKind;
use std::path::PathBuf;

/// A disk with an empty folder on it.
struct Place {
    disk: SharedDisk,
    dir: PathBuf,
    _temp: Option<tempfile::TempDir>,
}

impl Place {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    async fn content(&self, name: &str) -> String {
        String::from_utf8(self.disk.read(&self.path(name)).await.unwrap()).unwrap()
    }

    async fn put(&self, name: &str, content: &str) -> io::Result<()> {
        self.disk.publish(&self.path(name), content.into()).await
    }
}

async fn places() -> Vec<Place> {
    let temp = tempfile::tempdir().unwrap();
    let local = Place { disk: Arc::new(LocalDisk::new()), dir: temp.path().into(), _temp: Some(temp) };
    let memory = Place { disk: Arc::new(MemoryDisk::new()), dir: "/some/where".into(), _temp: None };
    let relative = Place { disk: Arc::new(MemoryDisk::new()), dir: "here".into(), _temp: None };
    let healthy = FaultyDisk::new(Arc::new(MemoryDisk::new()));
    let healthy = Place { disk: Arc::new(healthy), dir: "/x".into(), _temp: None };
    for place in [&memory, &relative, &healthy] {
        place.disk.create_dir(&place.dir).await.unwrap();
    }
    vec![local, memory, relative, healthy]
}

fn kind<T: fmt::Debug>(result: io::Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[tokio::test]
async fn what_was_written_can_be_read_whole_and_in_part() {
    for place in places().await {
        let path = place.path("file");
        let mut file = place.disk.create(&path).await.unwrap();
        file.write(b"hello ".to_vec()).await.unwrap();
        file.write(b"world".to_vec()).await.unwrap();
        file.sync().await.unwrap();
        place.disk.sync_dir(&place.dir).await.unwrap();
        assert_eq!(place.content("file").await, "hello world");
        assert_eq!(place.disk.len(&path).await.unwrap(), Some(11));
        assert_eq!(place.disk.read_range(&path, 6, 3).await.unwrap(), b"wor");
        assert_eq!(place.disk.read_range(&path, 11, 0).await.unwrap(), b"");
        for (offset, len) in [(6, 6), (12, 1), (0, u64::MAX), (u64::MAX, u64::MAX)] {
            assert_eq!(kind(place.disk.read_range(&path, offset, len).await), ErrorKind::UnexpectedEof);
        }
    }
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    for place in places().await {
        let path = place.path("none");
        assert_eq!(kind(place.disk.read(&path).await), ErrorKind::NotFound);
        assert_eq!(kind(place.disk.read_range(&path, 0, 1).await), ErrorKind::NotFound);
        assert_eq!(place.disk.len(&path).await.unwrap(), None);
        assert_eq!(place.disk.list(&path).await.unwrap(), [""; 0]);
        place.disk.remove(&path).await.unwrap();
        place.disk.remove_dir(&path).await.unwrap();
        let below = place.path("none/file");
        assert_eq!(place.disk.len(&below).await.unwrap(), None);
        assert_eq!(kind(place.disk.create(&below).await), ErrorKind::NotFound);
        assert_eq!(kind(place.disk.publish(&below, Vec::new()).await), ErrorKind::NotFound);
        assert_eq!(kind(place.disk.sync_dir(&path).await), ErrorKind::NotFound);
    }
}

#[tokio::test]
async fn names_are_listed_in_order_files_and_folders_alike() {
    for place in places().await {
        place.put("b", "").await.unwrap();
        place.disk.create_dir(&place.path("a/deep")).await.unwrap();
        place.put("c", "").await.unwrap();
        place.put("a/deep/file", "").await.unwrap();
        assert_eq!(place.disk.list(&place.dir).await.unwrap(), ["a", "b", "c"]);
        assert_eq!(place.disk.list(&place.path("a")).await.unwrap(), ["deep"]);
        assert_eq!(place.disk.len(&place.path("a")).await.unwrap(), None, "a folder is no file");
    }
}

#[tokio::test]
async fn a_file_is_not_a_folder() {
    for place in places().await {
        place.put("file", "x").await.unwrap();
        let (path, below) = (place.path("file"), place.path("file/below"));
        assert_eq!(kind(place.disk.list(&path).await), ErrorKind::NotADirectory);
        assert_eq!(kind(place.disk.create_dir(&path).await), ErrorKind::NotADirectory);
        assert_eq!(kind(place.disk.create_dir(&below).await), ErrorKind::NotADirectory);
        assert_eq!(place.disk.len(&below).await.unwrap(), None);
        assert_eq!(place.content("file").await, "x");
    }
}

#[tokio::test]
async fn creating_and_publishing_take_free_names_only() {
    for place in places().await {
        place.put("file", "first").await.unwrap();
        assert_eq!(kind(place.put("file", "second").await), ErrorKind::AlreadyExists);
        assert_eq!(kind(place.disk.create(&place.path("file")).await), ErrorKind::AlreadyExists);
        assert_eq!(place.content("file").await, "first");
        assert_eq!(place.disk.list(&place.dir).await.unwrap(), ["file"]);
        place.disk.create_dir(&place.path("dir")).await.unwrap();
        place.disk.create_dir(&place.path("dir")).await.unwrap();
        assert_eq!(kind(place.put("dir", "x").await), ErrorKind::AlreadyExists);
    }
}

#[tokio::test]
async fn of_many_who_publish_one_name_one_wins() {
    for place in places().await {
        let tries = (0..8).map(|i| async move { (i, i.to_string()) });
        let tries = tries.map(|content| async {
            let (i, content) = content.await;
            place.put("file", &content).await.is_ok().then_some(i)
        });
        let winners: Vec<u32> = futures::future::join_all(tries).await.into_iter().flatten().collect();
        assert_eq!(winners.len(), 1);
        assert_eq!(place.content("file").await, winners[0].to_string());
        assert_eq!(place.disk.list(&place.dir).await.unwrap(), ["file"]);
    }
}

#[tokio::test]
async fn renaming_moves_and_replaces_nothing() {
    for place in places().await {
        place.put("a", "1").await.unwrap();
        place.put("b", "2").await.unwrap();
        let rename = async |from, to| place.disk.rename(&place.path(from), &place.path(to)).await;
        assert_eq!(kind(rename("a", "b").await), ErrorKind::AlreadyExists);
        assert_eq!(kind(rename("none", "b").await), ErrorKind::NotFound);
        assert_eq!(kind(rename("none", "c").await), ErrorKind::NotFound);
        place.disk.create_dir(&place.path("dir")).await.unwrap();
        rename("a", "dir/c").await.unwrap();
        assert_eq!(kind(rename("a", "dir/c").await), ErrorKind::NotFound, "done again");
        assert_eq!((place.content("dir/c").await, place.content("b").await), ("1".into(), "2".into()));
        assert_eq!(place.disk.list(&place.dir).await.unwrap(), ["b", "dir"]);
    }
}

#[tokio::test]
async fn removing_takes_what_was_meant() {
    for place in places().await {
        place.disk.create_dir(&place.path("dir/sub")).await.unwrap();
        place.put("dir/sub/file", "").await.unwrap();
        place.put("dir-2", "").await.unwrap();
        place.disk.remove(&place.path("dir")).await.unwrap_err();
        place.disk.remove_dir(&place.path("dir-2")).await.unwrap_err();
        assert_eq!(place.disk.list(&place.dir).await.unwrap(), ["dir", "dir-2"]);
        place.disk.remove_dir(&place.path("dir")).await.unwrap();
        place.disk.remove(&place.path("dir-2")).await.unwrap();
        assert_eq!(place.disk.list(&place.dir).await.unwrap(), [""; 0]);
        place.disk.create_dir(&place.path("dir")).await.unwrap();
        assert_eq!(place.disk.list(&place.path("dir")).await.unwrap(), [""; 0]);
    }
}

#[tokio::test]
async fn a_lock_has_one_holder_at_a_time_and_a_note() {
    for place in places().await {
        let path = place.path("lock");
        let lock = async |note: &str| place.disk.lock(&path, note).await.unwrap();
        let held = lock("a longer note").await.unwrap();
        assert_eq!(place.content("lock").await, "a longer note");
        assert!(lock("other").await.is_none());
        assert_eq!(place.content("lock").await, "a longer note", "the loser leaves no mark");
        assert!(place.disk.lock(&place.path("lock-2"), "").await.unwrap().is_some(), "another lock");
        drop(held);
        let held = lock("short").await.unwrap();
        assert_eq!(place.content("lock").await, "short");
        place.disk.remove(&path).await.unwrap();
        let new = lock("new").await.expect("the name is free, whoever holds what it once named");
        drop(held);
        assert!(lock("other").await.is_none(), "the old holder must not give away the new lock");
        drop(new);
    }
}

#[tokio::test]
async fn a_changed_file_is_told_from_what_it_was() {
    for place in places().await {
        let path = place.path("file");
        assert_eq!(place.disk.modified(&path).await.unwrap(), None);
        place.put("file", "a").await.unwrap();
        let first = place.disk.modified(&path).await.unwrap().unwrap();
        assert_eq!(place.disk.modified(&path).await.unwrap(), Some(first));
        // As fast as that the clock of a real disk may not have gone on.
        if place._temp.is_none() {
            place.disk.remove(&path).await.unwrap();
            let mut file = place.disk.create(&path).await.unwrap();
            let second = place.disk.modified(&path).await.unwrap().unwrap();
            file.write(b"b".to_vec()).await.unwrap();
            let third = place.disk.modified(&path).await.unwrap().unwrap();
            assert!(first < second && second < third, "{first} {second} {third}");
        }
    }
}

#[test]
fn the_memory_disk_needs_no_runtime() {
    let disk = MemoryDisk::new();
    futures::executor::block_on(async {
        disk.publish(Path::new("file"), b"x".to_vec()).await.unwrap();
        assert_eq!(disk.read(Path::new("file")).await.unwrap(), b"x");
        let _held = disk.lock(Path::new("/lock"), "").await.unwrap().unwrap();
    });
}
