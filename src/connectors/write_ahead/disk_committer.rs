//! Which batches were delivered, in files.

use super::{BatchId, CheckpointCommitter};
use crate::error::{Error, ErrorKind, Result};
use crate::operator::RecoveryContext;
use crate::storage::{LocalDisk, SharedDisk, io_error};
use crate::types::{CheckpointId, OperatorId, SubtaskIndex, stable_hash};
use std::io;
use std::path::PathBuf;

/// Remembers in a folder which batches were delivered: a small file per sink and subtask, `delivered-<uid hash>-<subtask>-<checkpoint>`, written
/// durably before older ones are removed. Sinks may share a folder; jobs must not.
///
/// A job that begins from no checkpoint is refused while the folder has files of that sink: they belong to checkpoints that are gone.
#[derive(Debug, Clone)]
pub struct DiskCommitter {
    disk: SharedDisk,
    folder: PathBuf,
}

impl DiskCommitter {
    /// In `folder` on the local disk, which is created if absent.
    #[must_use]
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self::on(LocalDisk::shared(), folder)
    }

    /// In `folder` on another disk.
    #[must_use]
    pub fn on(disk: SharedDisk, folder: impl Into<PathBuf>) -> Self {
        Self { disk, folder: folder.into() }
    }

    /// All marks of a sink: of which subtask, up to which checkpoint, in which file.
    async fn marks(&self, operator: &OperatorId) -> Result<Vec<(SubtaskIndex, CheckpointId, String)>> {
        let prefix = prefix(operator)?;
        let listed = self.disk.list(&self.folder).await;
        let listed =
            listed.map_err(|error| io_error("list the marks of delivered batches", &self.folder, error))?;
        let marks = listed.into_iter().filter_map(|name| {
            let (subtask, checkpoint) = name.strip_prefix(&prefix)?.split_once('-')?;
            Some((SubtaskIndex(subtask.parse().ok()?), CheckpointId(checkpoint.parse().ok()?), name))
        });
        Ok(marks.collect())
    }
}

fn prefix(operator: &OperatorId) -> Result<String> {
    let hash = stable_hash(operator)?;
    Ok(format!("delivered-{hash:016x}-"))
}

impl CheckpointCommitter for DiskCommitter {
    async fn open(&self, context: &RecoveryContext) -> Result {
        let created = self.disk.create_dir(&self.folder).await;
        created.map_err(|error| io_error("create the folder of marks", &self.folder, error))?;
        let marks = self.marks(&context.operator).await?;
        if let (None, Some((.., name))) = (context.restored, marks.first()) {
            let message = "batches of an earlier run are marked as delivered, but this one begins from no checkpoint and would take its \
                           first batches for them: give an empty folder, or the checkpoints that belong to this one";
            let error = Error::new(ErrorKind::Configuration, message).at(&self.folder.join(name));
            return Err(error.operator(&context.operator).into());
        }
        Ok(())
    }

    async fn is_committed(&self, batch: &BatchId) -> Result<bool> {
        let marks = self.marks(&batch.operator).await?;
        Ok(marks.iter().any(|(subtask, up_to, _)| *subtask == batch.subtask && batch.checkpoint <= *up_to))
    }

    async fn commit(&self, batch: &BatchId) -> Result {
        let older = self.marks(&batch.operator).await?;
        let name = format!("{}{}-{}", prefix(&batch.operator)?, batch.subtask, batch.checkpoint);
        let path = self.folder.join(&name);
        match self.disk.publish(&path, batch.to_string().into_bytes()).await {
            Ok(()) => {}
            // Of an earlier try whose answer was lost.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let synced = self.disk.sync_dir(&self.folder).await;
                synced.map_err(|error| io_error("sync the folder of marks", &self.folder, error))?;
            }
            Err(error) => return Err(io_error("mark a batch as delivered", &path, error).into()),
        }
        for (subtask, up_to, name) in older {
            if subtask == batch.subtask && up_to < batch.checkpoint {
                let path = self.folder.join(name);
                let removed = self.disk.remove(&path).await;
                removed.map_err(|error| io_error("remove an older mark", &path, error))?;
            }
        }
        Ok(())
    }
}
