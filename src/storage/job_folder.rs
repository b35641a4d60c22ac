//! The folder of one job on a disk, and reading from it what the job log says is there.

use super::disk::{DiskLock, SharedDisk, TEMP_PREFIX};
use super::log_view::{Completed, LogView};
use super::transfers::Transfers;
use super::{layout, state_file};
use crate::checkpoint::Compression;
use crate::checkpoint::metadata::Manifest;
use crate::error::{Error, ErrorKind};
use crate::types::{Generation, JobName};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

/// The folder of one job.
#[derive(Debug, Clone)]
pub(crate) struct JobFolder {
    pub(crate) disk: SharedDisk,
    pub(crate) root: PathBuf,
    pub(crate) job: JobName,
    pub(crate) max_state_size: Option<u64>,
    pub(crate) write_buffer_size: usize,
    pub(crate) memory_threshold: u64,
    pub(crate) transfers: Transfers,
    pub(crate) compression: Compression,
}

impl JobFolder {
    pub(crate) fn path(&self) -> PathBuf {
        self.root.join(self.job.as_str())
    }

    pub(crate) fn log_dir(&self) -> PathBuf {
        self.path().join(layout::LOG)
    }

    /// Refuses files where folders should be, as early as can be.
    pub(crate) async fn check_no_file_in_the_way(&self) -> Result<(), Error> {
        for path in [self.root.clone(), self.path(), self.log_dir()] {
            let len = self
                .disk
                .len(&path)
                .await
                .map_err(|error| layout::io_error("look for the folder", &path, error))?;
            if len.is_some() {
                return Err(layout::io_error(
                    "look for the folder",
                    &path,
                    io::ErrorKind::NotADirectory.into(),
                ));
            }
        }
        Ok(())
    }

    /// Makes the folders of the job and its log.
    pub(crate) async fn create(&self) -> Result<(), Error> {
        for path in [self.path(), self.log_dir()] {
            let created = self.disk.create_dir(&path).await;
            created.map_err(|error| layout::io_error("create the folder", &path, error))?;
        }
        Ok(())
    }

    /// Takes a lock; `None` if a live process holds it.
    pub(crate) async fn lock(&self, name: &str) -> Result<Option<DiskLock>, Error> {
        let path = self.path().join(name);
        let note = format!("pid {}", std::process::id());
        let locked = self.disk.lock(&path, &note).await;
        locked.map_err(|error| layout::io_error("lock the job", &path, error))
    }

    /// Whether a live process holds a lock.
    pub(crate) async fn is_locked(&self, name: &str) -> Result<bool, Error> {
        let path = self.path().join(name);
        let there =
            self.disk.len(&path).await.map_err(|error| layout::io_error("look for a lock", &path, error))?;
        // Taken before the claim is written and removed only when free: what is not there is not held.
        Ok(there.is_some() && self.lock(name).await?.is_none())
    }

    /// The error for a lock that another process holds.
    pub(crate) async fn busy(&self, name: &str) -> Error {
        let path = self.path().join(name);
        let holder = match self.disk.read(&path).await {
            Ok(note) if !note.is_empty() => String::from_utf8_lossy(&note).into_owned(),
            _ => "unknown process".to_owned(),
        };
        let message = format!(
            "a live process runs this job on this storage ({holder}): stop it first, or start with `take_over()`"
        );
        Error::new(ErrorKind::Busy, message).at(&path)
    }

    /// Removes a lock's file unless a live process holds it.
    pub(crate) async fn remove_lock(&self, name: &str) -> Result<(), Error> {
        let Some(_held) = self.lock(name).await? else { return Ok(()) };
        let path = self.path().join(name);
        let removed = self.disk.remove(&path).await;
        removed.map_err(|error| layout::io_error("remove", &path, error))
    }

    /// Reads the manifest that an entry of the log names, and checks that it is the one.
    pub(crate) async fn read_manifest(&self, entry: &Completed) -> Result<Manifest, Error> {
        let path = layout::resolve(&self.path(), &entry.manifest)?;
        let corrupt = |why: String| {
            let message = format!("the manifest of a completed checkpoint cannot be read: {why}");
            Error::new(ErrorKind::Corrupt, message).at(&path).checkpoint(entry.checkpoint)
        };
        let bytes = match self.disk.read(&path).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(corrupt("it is missing".into()));
            }
            Err(error) => {
                return Err(layout::io_error("read the manifest", &path, error).checkpoint(entry.checkpoint));
            }
        };
        let manifest = Manifest::decode(&bytes).map_err(|error| corrupt(error.to_string()))?;
        let (expected, found) = (entry.manifest_crc32c, crc32c::crc32c(&bytes));
        if found != expected {
            return Err(corrupt(format!(
                "it is not the one that was completed: checksum {found:08x}, expected {expected:08x}"
            )));
        }
        if manifest.job != self.job {
            return Err(corrupt(format!("it belongs to job `{}`, this is job `{}`", manifest.job, self.job)));
        }
        if manifest.checkpoint != entry.checkpoint {
            return Err(corrupt(format!("it is that of checkpoint {}", manifest.checkpoint)));
        }
        Ok(manifest)
    }

    /// Checks that the newest checkpoint can be restored as far as that shows without reading all of it: its manifest, and that
    /// each of its files is there, in a known version and long enough.
    pub(crate) async fn check_latest(&self, view: &LogView) -> Result<(), Error> {
        let Some(entry) = view.latest() else { return Ok(()) };
        let manifest = self.read_manifest(entry).await?;
        let mut lengths = BTreeMap::<&str, u64>::new();
        for segment in manifest.segments().filter(|segment| manifest.inline_file(&segment.file).is_none()) {
            let len = lengths.entry(&segment.file).or_default();
            *len = (*len).max(segment.offset.saturating_add(segment.len));
        }
        for (file, len) in lengths {
            let checked = state_file::check_file(&self.disk, &self.path(), file, len).await;
            checked.map_err(|error| error.checkpoint(entry.checkpoint))?;
        }
        Ok(())
    }

    /// Removes a folder in the job's folder.
    pub(crate) async fn remove_dir(&self, name: &str) -> Result<(), Error> {
        let path = self.path().join(name);
        let removed = self.disk.remove_dir(&path).await;
        removed.map_err(|error| layout::io_error("remove the folder", &path, error))
    }

    /// Removes what nobody needs of the generations up to this one, unless it is in `keep`: folders of checkpoints, locks of dead
    /// processes, temporary files of the log. Never what is newer or not known.
    ///
    /// # Errors
    /// The first of those that there were; all else is removed.
    pub(crate) async fn remove_leftovers(
        &self,
        upto: Generation,
        keep: &BTreeSet<String>,
    ) -> Result<(), Error> {
        let mut result = Ok(());
        for name in self.list(&self.path()).await? {
            let removed = match (layout::parse_checkpoint_dir(&name), layout::parse_lock(&name)) {
                _ if keep.contains(&name) => Ok(()),
                (Some((_, of)), _) if of <= upto => self.remove_dir(&name).await,
                (_, Some((of, _))) if of <= upto => self.remove_lock(&name).await, // not one that is held
                _ => Ok(()),
            };
            result = result.and(removed);
        }
        for name in self.list(&self.log_dir()).await? {
            if name.starts_with(TEMP_PREFIX) {
                let path = self.log_dir().join(name);
                let removed = self.disk.remove(&path).await;
                result = result.and(removed.map_err(|error| layout::io_error("remove", &path, error)));
            }
        }
        result
    }

    /// Names in a folder.
    async fn list(&self, dir: &Path) -> Result<Vec<String>, Error> {
        self.disk.list(dir).await.map_err(|error| layout::io_error("list the folder", dir, error))
    }
}
