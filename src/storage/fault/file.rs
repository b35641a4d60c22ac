//! A file on the disk that fails.

use super::disk::FaultyDisk;
use super::injection::Operation;
use crate::storage::disk::DiskFile;
use async_trait::async_trait;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

#[derive(Debug)]
pub(super) struct FaultyFile {
    pub(super) inner: Box<dyn DiskFile>,
    pub(super) path: PathBuf,
    pub(super) disk: FaultyDisk,
    /// The process that opened it.
    pub(super) life: u64,
}

#[async_trait]
impl DiskFile for FaultyFile {
    async fn write(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        let Self { inner, path, disk, life } = self;
        let (path, disk) = (&*path, &*disk);
        disk.state().alive_since(*life)?;
        let asked = disk.asked(Operation::Write, path, bytes.len())?;
        // Whichever way is taken may use the file; only one does.
        let inner = &tokio::sync::Mutex::new(inner);
        let bytes = Mutex::new(Some(bytes));
        let write = |most: usize| {
            // Done again it writes the same to the same place: nothing more.
            let bytes = bytes.lock().unwrap_or_else(PoisonError::into_inner).take();
            async move {
                let Some(mut bytes) = bytes else { return Ok(()) };
                bytes.truncate(most);
                disk.state().unsynced.written(path, bytes.len());
                inner.lock().await.write(bytes).await
            }
        };
        disk.change(asked, || write(usize::MAX), &write).await
    }

    async fn sync(&mut self) -> io::Result<()> {
        let Self { inner, path, disk, life } = self;
        let (path, disk) = (&*path, &*disk);
        disk.state().alive_since(*life)?;
        let inner = &tokio::sync::Mutex::new(inner);
        let sync = |whole| async move {
            inner.lock().await.sync().await?;
            disk.state().unsynced.synced(path, whole);
            Ok(())
        };
        disk.change(disk.asked(Operation::Sync, path, 0)?, || sync(true), |_| sync(false)).await
    }
}
