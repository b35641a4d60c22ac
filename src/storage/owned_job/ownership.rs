//! Whether a process still owns its job: what it looks at before it writes, and when something is missing.

use super::super::log_view::Entry;
use super::{Inner, OwnedJob};
use crate::error::{Error, ErrorKind};

impl OwnedJob {
    /// The error, or what is behind it: that another process has taken this job over and deleted what is missed, or that the
    /// job's folder is gone.
    pub async fn explain(&self, error: Error) -> Error {
        let _turn = self.inner.turn.lock().await;
        self.explain_in_turn(error).await
    }

    /// See [`explain`](Self::explain). The caller has the turn.
    pub(super) async fn explain_in_turn(&self, error: Error) -> Error {
        // If this fails for another reason, nothing more is known.
        let _ = self.read_back_in_turn().await;
        match self.check_not_stopped() {
            Err(stopped) if stopped.message() != error.message() => stopped.because(error),
            _ => error,
        }
    }

    /// Looks whether the log is still the one that this process claimed. Nobody removes a claim, so if it is gone the folder was
    /// removed, and perhaps replaced by a new one, in which this process must not write: its numbers mean something else there.
    pub(super) async fn check_claim(&self) -> Result<(), Error> {
        let Inner { log, generation, claim, .. } = &*self.inner;
        let found = log.read_entry(generation.0).await.map_err(|error| self.named(error))?;
        let (kind, message) = match found {
            Some(Entry::Claim(found)) if found == *claim => return Ok(()),
            None => (
                ErrorKind::Corrupt,
                "the claim of this process is gone from the job log: the job's folder was removed while the job runs. Put it back, \
                 or start a new job with empty folders",
            ),
            Some(_) => (
                ErrorKind::Fenced,
                "the job's folder was removed while the job runs, and another process has begun in a new one: this process must \
                 stop",
            ),
        };
        Err(self.stop(self.named(Error::new(kind, message).at(&log.path(generation.0)))))
    }

    /// From now on this process writes and deletes nothing any more.
    pub(super) fn stop(&self, error: Error) -> Error {
        self.state().stopped.get_or_insert_with(|| error.clone());
        error
    }

    /// Whether this process may still write, as far as it knows.
    pub(super) fn check_not_stopped(&self) -> Result<(), Error> {
        self.state().stopped.clone().map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use crate::error::ErrorKind;
    use crate::storage::CompleteError;
    use crate::storage::test_support::*;
    use crate::types::CheckpointId;
    use std::path::Path;

    /// The folder is gone, or a new job was begun in its place.
    #[tokio::test]
    async fn without_its_claim_a_process_writes_and_deletes_nothing_any_more() {
        for replaced in [false, true] {
            let disk = memory();
            let job = open(&disk).await.unwrap();
            for id in 1..=2 {
                checkpoint(&job, id).await.unwrap();
            }
            let manifest = prepare(&job, 3).await.unwrap();
            disk.remove_dir(Path::new(ROOT)).await.unwrap();
            if replaced {
                let new = open(&disk).await.unwrap();
                checkpoint(&new, 1).await.unwrap();
                prepare(&new, 3).await.unwrap();
            }
            let before = files(&*disk, Path::new("/")).await;
            let expected = if replaced { ErrorKind::Fenced } else { ErrorKind::Corrupt };
            let error = job.complete(&manifest).await.unwrap_err();
            assert_eq!(matches!(error, CompleteError::Fenced(_)), replaced, "{error}");
            for error in [
                error.into_error(),
                job.create_location(CheckpointId(4)).await.unwrap_err(),
                job.latest_manifest().await.unwrap_err(),
                job.discard(CheckpointId(3)).await.unwrap_err(),
                job.retire(CheckpointId(1)).await.unwrap_err(),
                job.tidy(1).await.unwrap_err(),
                job.finish().await.unwrap_err().into_error(),
                job.delete_all_checkpoints().await.unwrap_err().into_error(),
            ] {
                assert_eq!((error.kind(), error.path().is_some()), (expected, true), "{error}");
                assert!(error.to_string().contains("was removed while the job runs"), "{error}");
            }
            let mut after = files(&*disk, Path::new("/")).await;
            // Of the checkpoint that had begun before: in a folder that the new job has, too.
            after.retain(|path, _| !path.ends_with("chk-3-g1/manifest"));
            assert_eq!(after, before);
        }
    }

    #[tokio::test]
    async fn what_a_newer_process_deleted_is_no_damage() {
        let disk = memory();
        let old = open(&disk).await.unwrap();
        checkpoint(&old, 1).await.unwrap();
        let manifest = prepare(&old, 2).await.unwrap();
        let latest = old.latest_manifest().await.unwrap().unwrap();
        let segment = latest.segments().next().unwrap().clone();
        let new = take_over(&disk).await.unwrap();
        checkpoint(&new, 2).await.unwrap();
        new.retire(CheckpointId(1)).await.unwrap();

        let error = read(&old, &latest, &segment).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        let error = old.explain(error).await;
        assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
        assert!(error.to_string().contains("it is missing"), "{error}");
        let again = old.explain(error.clone()).await;
        assert_eq!(again.to_string(), error.to_string());
        assert!(matches!(old.complete(&manifest).await, Err(CompleteError::Fenced(_))));
    }

    /// Its folder was swept by a newer one: that is what is behind the failure to write into it.
    #[tokio::test]
    async fn a_checkpoint_whose_folder_was_swept_is_fenced() {
        let disk = memory();
        let old = open(&disk).await.unwrap();
        let manifest = prepare(&old, 1).await.unwrap();
        let _new = take_over(&disk).await.unwrap();
        let error = old.complete(&manifest).await.unwrap_err();
        assert!(matches!(error, CompleteError::Fenced(_)), "{error}");
    }
}
