//! Lines of files; and what all sources of text files share: listing, splits, positions, reading.

pub(super) mod decoder;
mod lines;
mod open_split;
mod reader;
pub(super) mod rows;
mod split;
#[cfg(test)]
pub(super) mod tests;

pub use reader::TextReader;
pub use split::TextSplit;

use crate::error::{Error, ErrorKind, Result};
use crate::operator::{Source, SubtaskContext};
use crate::storage::{Disk, LocalDisk, SharedDisk};
use lines::Lines;
use split::{Identity, cut, uncovered};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The lines of text files, as `String`s without their line endings (`\n` or `\r\n`), as [`str::lines`] gives them.
///
/// **Replayable**, so exactly-once holds, as long as the files stay as they were when the job first started. Files are cut into splits
/// of byte ranges then, and the splits are part of every checkpoint: a restart reads on at any parallelism and any split size. A
/// line belongs to the split that its first byte lies in. Splits are read in parallel, so only the lines of one split keep their order.
///
/// A file whose name ends with `.gz` is decompressed while it is read. It is one split, and a restart decompresses it from the start
/// up to the position.
///
/// An error that names the file, never a loss, is: a path that is no readable file; the same path twice; after a restart, a file with another
/// length or modification time, one that is gone, one that was added to or left out of `paths` (checked at the start and again
/// when a split is opened); a line that is not UTF-8; a damaged `.gz`. Paths must be UTF-8 themselves, and given the same way at each start.
///
/// Limits: a line must fit into memory, and up to 256 KiB are read ahead. Follow-up (`tail -f`) and patterns of names are not supported. For
/// rows of CSV there is [`Csv`](super::Csv), for lines of JSON [`JsonLines`](super::JsonLines).
///
/// ```
/// # use strandline::prelude::*;
/// # fn main() -> Result {
/// # let env = Environment::builder().build()?;
/// let lines = env.source("lines", TextFiles::new(["a.txt", "b.csv.gz"]));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct TextFiles {
    input: Input,
    split_size: u64,
    disk: SharedDisk,
    /// Bytes read at once.
    chunk: u64,
    /// A row that is longer is an error. In bytes.
    max_row: u64,
}

#[derive(Debug, Clone)]
enum Input {
    Files(Vec<PathBuf>),
    Folder(PathBuf),
}

impl TextFiles {
    /// The lines of these files on the local disk. An empty list is a source that ends at once.
    #[must_use]
    pub fn new(paths: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        Self::of(Input::Files(paths.into_iter().map(Into::into).collect()))
    }

    /// The lines of the files directly in this folder, in the order of their names, without those whose names begin with `.` or
    /// `_`: what a [`FileSink`](super::FileSink) has written, for one. They are listed when the job first starts; none at all is an error.
    #[must_use]
    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        Self::of(Input::Folder(folder.into()))
    }

    fn of(input: Input) -> Self {
        Self {
            input,
            split_size: 4 * 1024 * 1024,
            disk: LocalDisk::shared(),
            chunk: 256 * 1024,
            max_row: u64::MAX,
        }
    }

    /// How many bytes of a file make a split. Default and recommended: 4 MiB. Smaller ones balance better between subtasks, larger ones make
    /// smaller checkpoints. Takes effect at a start without a checkpoint only. 0 is an error at the start.
    #[must_use]
    pub fn split_size(mut self, bytes: u64) -> Self {
        self.split_size = bytes;
        self
    }

    /// Uses another disk than the local one.
    #[must_use]
    pub fn disk(mut self, disk: SharedDisk) -> Self {
        self.disk = disk;
        self
    }

    /// How many bytes a row may have.
    #[cfg(any(feature = "csv", feature = "json"))]
    pub(super) fn max_row_size(mut self, bytes: u64) -> Self {
        self.max_row = bytes;
        self
    }

    /// How many bytes are read at once.
    #[cfg(test)]
    pub(super) fn chunk(mut self, bytes: u64) -> Self {
        self.chunk = bytes;
        self
    }

    /// The paths as state keeps them, as text; none twice.
    async fn names(&self) -> Result<Vec<String>> {
        let listed;
        let paths = match &self.input {
            Input::Files(paths) => paths,
            Input::Folder(folder) => {
                listed = self.list(folder).await?;
                &listed
            }
        };
        let mut names = Vec::new();
        let mut seen = BTreeSet::new();
        for path in paths {
            let Some(name) = path.to_str() else {
                let error =
                    Error::new(ErrorKind::Configuration, "the path of an input file is not UTF-8: rename it");
                return Err(error.at(path).into());
            };
            if !seen.insert(name) {
                let error =
                    Error::new(ErrorKind::Configuration, "an input file is given twice: give it once");
                return Err(error.at(path).into());
            }
            names.push(name.to_owned());
        }
        Ok(names)
    }

    /// The visible files directly in a folder.
    async fn list(&self, folder: &Path) -> Result<Vec<PathBuf>> {
        let failed = |error| Error::io("list a folder of input files", folder, error);
        let mut files = Vec::new();
        for name in self.disk.list(folder).await.map_err(failed)? {
            let path = folder.join(&name);
            if !name.starts_with(['.', '_']) && self.disk.len(&path).await.map_err(failed)?.is_some() {
                files.push(path);
            }
        }
        if files.is_empty() {
            let message = "a folder of input files holds no file to read: it must exist, and have files directly in it whose \
                           names begin with neither `.` nor `_`";
            return Err(Error::new(ErrorKind::Configuration, message).at(folder).into());
        }
        Ok(files)
    }

    /// At a start without a checkpoint, in the order of the paths.
    async fn first_splits(&self) -> Result<Vec<TextSplit>> {
        if self.split_size == 0 {
            let message = "the split size of text files is 0 bytes: give at least 1, better 4 MiB";
            return Err(Error::new(ErrorKind::Configuration, message).into());
        }
        let mut splits = Vec::new();
        for name in self.names().await? {
            splits.extend(cut(&name, self.probe(&name).await?, self.split_size));
        }
        Ok(splits)
    }

    /// Which file it is now; an error if it cannot be read.
    async fn probe(&self, name: &str) -> Result<Identity> {
        let path = Path::new(name);
        let unreadable = |error| {
            let message = "cannot read an input file: it must exist and be a file, not a folder";
            Error::new(ErrorKind::Configuration, message).at(path).because(error)
        };
        let found = Identity::of(&*self.disk, path).await.map_err(unreadable)?;
        let identity = found.ok_or_else(|| unreadable(std::io::ErrorKind::NotFound.into()))?;
        // A folder has a length too, but cannot be read. A file that may not be read shows here, too.
        let first = self.disk.read_range(path, 0, identity.length.min(1)).await;
        first.map_err(unreadable)?;
        Ok(identity)
    }

    /// After a restart: every file is the one it was, and all of it is covered.
    async fn check_restored(&self, splits: &[TextSplit]) -> Result {
        let names = self.names().await?;
        let names: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        let mut files: BTreeMap<&str, Vec<&TextSplit>> = BTreeMap::new();
        for split in splits {
            files.entry(split.path()).or_default().push(split);
        }
        if let Some(new) = names.iter().find(|name| !files.contains_key(**name)) {
            let message = "an input file was not there when the job first started, and its files are fixed since: \
                           leave it out, or read it by a new job";
            return Err(Error::new(ErrorKind::Configuration, message).at(Path::new(new)).into());
        }
        for (name, splits) in files {
            let path = Path::new(name);
            if !names.contains(name) {
                let message = "the checkpoint reads an input file that is not among the paths given: give it again, \
                               spelled the same way, or start a new job";
                return Err(Error::new(ErrorKind::Configuration, message).at(path).into());
            }
            if let Some(at) = uncovered(&splits) {
                let message =
                    format!("the splits in the checkpoint do not cover an input file once: see byte {at}");
                return Err(Error::new(ErrorKind::Corrupt, message).at(path).into());
            }
            check_unchanged(&*self.disk, path, &splits).await?;
        }
        Ok(())
    }
}

/// An error unless the file is still the one that the splits were cut from.
async fn check_unchanged(disk: &dyn Disk, path: &Path, splits: &[&TextSplit]) -> Result {
    let found = Identity::of(disk, path).await;
    let found = found.map_err(|error| Error::io("look at an input file", path, error))?;
    for split in splits {
        if found != Some(split.identity()) {
            let found = found.map_or_else(|| "no file".to_owned(), |found| found.to_string());
            return Err(Error::new(
                ErrorKind::Configuration,
                format!(
                    "an input file changed since the job first started, so it cannot be read on: expected {}, found \
                     {found}. Put the file back as it was, or start a new job",
                    split.identity()
                ),
            )
            .at(path)
            .into());
        }
    }
    Ok(())
}

impl Source for TextFiles {
    type Record = String;
    type Split = TextSplit;
    type Reader = TextReader;

    async fn splits(&self, restored: Option<Vec<TextSplit>>) -> Result<Vec<TextSplit>> {
        match restored {
            // A checkpoint without any split is one from before this source, or its first file, was added.
            None => self.first_splits().await,
            Some(splits) if splits.is_empty() => self.first_splits().await,
            Some(splits) => {
                self.check_restored(&splits).await?;
                Ok(splits)
            }
        }
    }

    /// Deals out what is left to read first, so that the work is balanced, then what is finished.
    fn assign(&self, splits: Vec<TextSplit>, parallelism: u32) -> Vec<Vec<TextSplit>> {
        let (finished, unfinished): (Vec<_>, Vec<_>) = splits.into_iter().partition(TextSplit::is_finished);
        let mut shares: Vec<Vec<TextSplit>> = (0..parallelism).map(|_| Vec::new()).collect();
        let subtasks = shares.len().max(1);
        for (i, split) in unfinished.into_iter().chain(finished).enumerate() {
            if let Some(share) = shares.get_mut(i % subtasks) {
                share.push(split);
            }
        }
        shares
    }

    fn reader(&self, splits: Vec<TextSplit>, _: &SubtaskContext) -> Result<TextReader> {
        Ok(TextReader::new(self.clone(), Lines, splits))
    }
}
