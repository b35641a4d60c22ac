//! Parts of files, and how files are cut into them. Pure but for [`Identity::of`].

use crate::storage::Disk;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// What tells a file from one that took its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) length: u64,
    /// Nanoseconds since 1970, where the disk knows.
    modified: Option<i64>,
}

impl Identity {
    /// Of the file there now, if there is one.
    pub(super) async fn of(disk: &dyn Disk, path: &Path) -> io::Result<Option<Self>> {
        let Some(length) = disk.len(path).await? else { return Ok(None) };
        Ok(Some(Self { length, modified: disk.modified(path).await? }))
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.length)?;
        match self.modified {
            Some(modified) => write!(f, " last modified {modified} ns after 1970-01-01 UTC"),
            None => Ok(()),
        }
    }
}

/// A byte range of a text file, and the position in it to read on from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextSplit {
    path: Arc<str>,
    file: Identity,
    start: u64,
    end: u64,
    position: u64,
    finished: bool,
}

impl TextSplit {
    /// The file.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The bytes in which its lines begin; of a `.gz` file, all its compressed bytes.
    #[must_use]
    pub fn range(&self) -> std::ops::Range<u64> {
        self.start..self.end
    }

    /// Where the next line begins, in bytes of text: in a `.gz` file it counts decompressed bytes. At the start of a split the next
    /// line may begin later.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Whether all its lines have been read.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Whether the file is decompressed.
    pub(super) fn is_gzip(&self) -> bool {
        is_gzip(&self.path)
    }

    /// Whether any line has been read: if so, the position is the beginning of a line.
    pub(super) fn has_begun(&self) -> bool {
        self.position > self.start
    }

    pub(super) fn identity(&self) -> Identity {
        self.file
    }

    /// As it was before anything was read of it.
    pub(super) fn rewound(&self) -> Self {
        Self { position: self.start, finished: false, ..self.clone() }
    }

    /// Whether it is all of its file.
    #[cfg(feature = "csv")]
    pub(in crate::connectors) fn is_whole_file(&self) -> bool {
        self.start == 0 && self.end == self.file.length
    }

    pub(super) fn advance(&mut self, position: u64) {
        self.position = position;
    }

    pub(super) fn finish(&mut self) {
        self.finished = true;
        if !self.is_gzip() {
            self.position = self.position.max(self.end);
        }
    }
}

fn is_gzip(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz"))
}

/// Cuts a file into splits. An empty one is one split too, so that it is recognized after a restart.
pub(super) fn cut(name: &str, file: Identity, split_size: u64) -> Vec<TextSplit> {
    let path: Arc<str> = name.into();
    let size = if is_gzip(name) { u64::MAX } else { split_size.max(1) };
    let mut splits = Vec::new();
    let mut start = 0_u64;
    loop {
        let end = file.length.min(start.saturating_add(size));
        splits.push(TextSplit {
            path: Arc::clone(&path),
            file,
            start,
            end,
            position: start,
            finished: false,
        });
        if end == file.length {
            return splits;
        }
        start = end;
    }
}

/// The first byte at which the splits of one file leave a gap, overlap, or hold a position outside of the file.
pub(super) fn uncovered(splits: &[&TextSplit]) -> Option<u64> {
    let mut splits = splits.to_vec();
    splits.sort_by_key(|split| split.start);
    let mut covered = 0;
    for split in &splits {
        let outside = !split.is_gzip() && !(split.start..=split.file.length).contains(&split.position);
        if split.start != covered || split.end < split.start || outside {
            return Some(split.start);
        }
        covered = split.end;
    }
    splits.iter().any(|split| split.file.length != covered).then_some(covered)
}
