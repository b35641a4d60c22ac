//! What is written when a job ends, and what is deleted.

use super::restore;
use super::status::{JobOutcome, JobStatus};
use crate::checkpoint::{Checkpointing, JobEnd, deleted_at_end};
use crate::dataflow::Layout;
use crate::error::Error;
use crate::storage::{CompleteError, OwnedJob};
use crate::types::Clock;
use std::sync::Arc;

/// What is written when a job ends, and what is deleted.
pub(super) async fn last_words(
    storage: Option<OwnedJob>,
    outcome: JobOutcome,
    checkpointing: Checkpointing,
    layout: Arc<Layout>,
    clock: Clock,
) -> JobOutcome {
    let Some(storage) = storage else { return outcome };
    let end = match &outcome {
        Ok(JobStatus::Finished) => {
            if let Err(error) = storage.tidy(checkpointing.get_retain() as usize).await {
                tracing::warn!(%error, "leftovers of the finished job could not be removed");
            }
            storage.finish().await.map_err(CompleteError::into_error)?;
            JobEnd::Finished
        }
        Ok(_) => JobEnd::Cancelled,
        Err(_) => JobEnd::Failed,
    };
    match delete(&storage, end, &checkpointing, &layout, clock).await {
        Ok(()) => outcome,
        // The log says that it is: nothing makes that untrue, and the next start deletes the rest.
        Err(error) if end == JobEnd::Finished => {
            tracing::warn!(%error, "checkpoints of the finished job could not be removed");
            outcome
        }
        Err(error) => Err(error),
    }
}

/// Deletes the checkpoints that are not kept.
async fn delete(
    storage: &OwnedJob,
    end: JobEnd,
    checkpointing: &Checkpointing,
    layout: &Layout,
    clock: Clock,
) -> Result<(), Error> {
    let retained = storage.retained();
    let delete = deleted_at_end(checkpointing.get_on_cancellation(), end, &retained);
    if !delete.is_empty() && delete.len() == retained.len() {
        if end == JobEnd::Cancelled {
            // No later start will commit what the last checkpoint holds.
            restore::recover_sinks(layout, storage, clock.wall()).await?;
        }
        return storage.delete_all_checkpoints().await.map_err(CompleteError::into_error);
    }
    for checkpoint in delete {
        storage.retire(*checkpoint).await?;
    }
    Ok(())
}
