//! What a loss of power would undo.

use super::injection::Fault;
use crate::storage::SharedDisk;
use crate::types::Random;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Everything that was done and is not durable yet.
#[derive(Debug, Default, Clone)]
pub(super) struct Unsynced {
    /// Files that were written.
    contents: BTreeMap<PathBuf, Content>,
    /// What became of names, oldest first.
    names: Vec<Change>,
}

/// Bytes written, and those of them that are durable.
#[derive(Debug, Clone, Copy, Default)]
struct Content {
    written: u64,
    synced: u64,
}

#[derive(Debug, Clone)]
enum Change {
    Created(PathBuf),
    Renamed { from: PathBuf, to: PathBuf },
    Removed { path: PathBuf, content: Vec<u8>, synced: usize },
    FolderRemoved(PathBuf),
}

impl Change {
    /// The name whose folder makes it durable.
    fn path(&self) -> &Path {
        match self {
            Self::Created(path)
            | Self::Renamed { to: path, .. }
            | Self::Removed { path, .. }
            | Self::FolderRemoved(path) => path,
        }
    }
}

impl Unsynced {
    pub(super) fn created(&mut self, path: &Path) {
        self.contents.insert(path.to_owned(), Content::default());
        self.names.push(Change::Created(path.to_owned()));
    }

    pub(super) fn written(&mut self, path: &Path, bytes: usize) {
        if let Some(content) = self.contents.get_mut(path) {
            content.written += bytes as u64;
        }
    }

    /// The content is durable, or half of what was not.
    pub(super) fn synced(&mut self, path: &Path, whole: bool) {
        if let Some(content) = self.contents.get_mut(path) {
            let gained = content.written - content.synced;
            content.synced += if whole { gained } else { gained / 2 };
        }
    }

    /// The whole file is durable, and if `named` its name, too.
    pub(super) fn published(&mut self, path: &Path, named: bool) {
        self.names.retain(|change| change.path() != path);
        self.contents.remove(path);
        if !named {
            self.names.push(Change::Created(path.to_owned()));
        }
    }

    pub(super) fn renamed(&mut self, from: &Path, to: &Path) {
        self.move_content(from, to);
        self.names.push(Change::Renamed { from: from.to_owned(), to: to.to_owned() });
    }

    pub(super) fn removed(&mut self, path: &Path, content: Vec<u8>) {
        let lost = self.contents.remove(path).map_or(0, |content| content.written - content.synced);
        let synced = content.len().saturating_sub(usize::try_from(lost).unwrap_or(usize::MAX));
        self.names.push(Change::Removed { path: path.to_owned(), content, synced });
    }

    pub(super) fn folder_removed(&mut self, dir: &Path) {
        self.names.push(Change::FolderRemoved(dir.to_owned()));
    }

    /// The names in a folder are durable, or the older half of them.
    pub(super) fn dir_synced(&mut self, dir: &Path, whole: bool) {
        let is_here = |change: &Change| change.path().parent() == Some(dir);
        let here = self.names.iter().filter(|change| is_here(change)).count();
        let mut left = if whole { here } else { here / 2 };
        for change in std::mem::take(&mut self.names) {
            if left == 0 || !is_here(&change) {
                self.names.push(change);
                continue;
            }
            left -= 1;
            if let Change::FolderRemoved(gone) = change {
                // What was in it cannot come back without it.
                self.names.retain(|change| !change.path().starts_with(&gone));
            }
        }
    }

    fn move_content(&mut self, from: &Path, to: &Path) {
        if let Some(content) = self.contents.remove(from) {
            self.contents.insert(to.to_owned(), content);
        }
    }

    /// Undoes on `disk` what is lost: the newest first, so that each finds what it left.
    pub(super) async fn lose(mut self, fault: Fault, disk: &SharedDisk) -> io::Result<()> {
        let mut random = match fault {
            Fault::SomeLost(seed) => Some(Random::from_seed(seed)),
            _ => None,
        };
        let mut chance = |of: u64| random.as_mut().map(|random| random.next_u64() % of);
        let (names, contents) = (fault != Fault::ContentsLost, fault != Fault::NamesLost);
        for change in std::mem::take(&mut self.names).into_iter().rev() {
            // 0 or no choice: lost.
            let fate = chance(3).unwrap_or(0);
            if names && fate != 1 {
                self.undo(change, fate == 2, contents, disk).await?;
            }
        }
        for (path, content) in self.contents {
            let fate = chance(4).unwrap_or(0);
            let Some(found) = disk.len(&path).await? else { continue };
            if !contents || fate == 1 || found <= content.synced {
                continue;
            }
            let middle = content.synced + (found - content.synced) / 2;
            let kept = if fate == 2 { middle } else { content.synced };
            let mut bytes = disk.read_range(&path, 0, kept).await?;
            if fate == 3 {
                bytes.resize(usize::try_from(found).map_err(io::Error::other)?, 0);
            }
            disk.remove(&path).await?;
            disk.publish(&path, bytes).await?;
        }
        Ok(())
    }

    async fn undo(
        &mut self,
        change: Change,
        half: bool,
        contents: bool,
        disk: &SharedDisk,
    ) -> io::Result<()> {
        let undone = match change {
            Change::Created(path) => disk.remove(&path).await,
            Change::Renamed { from, to } if half => match disk.read(&to).await {
                Ok(content) => {
                    let state = self.contents.get(&to).copied();
                    self.contents.extend(state.map(|state| (from.clone(), state)));
                    disk.publish(&from, content).await
                }
                Err(error) => Err(error),
            },
            Change::Renamed { from, to } => {
                let renamed = disk.rename(&to, &from).await;
                if renamed.is_ok() {
                    self.move_content(&to, &from);
                }
                renamed
            }
            Change::Removed { path, mut content, synced } => {
                if contents {
                    content.truncate(synced);
                }
                disk.publish(&path, content).await
            }
            Change::FolderRemoved(dir) => disk.create_dir(&dir).await,
        };
        match undone {
            // What it concerns is gone for good, or its name was taken again.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists) => {
                Ok(())
            }
            result => result,
        }
    }
}
