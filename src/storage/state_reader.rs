//! Reading parts of state files: several at once, and in one go what lies side by side.

use super::blocks;
use super::disk::SharedDisk;
use super::layout;
use super::transfers::Transfers;
use crate::checkpoint::Compression;
use crate::checkpoint::metadata::{Manifest, Segment};
use crate::error::{Error, ErrorKind};
use futures::{StreamExt, TryStreamExt, stream};
use std::io;
use std::path::Path;

/// How many bytes of segments that lie side by side are read in one go: enough that the cost of a call does not matter. What is longer is
/// read by itself, and not copied.
const RUN: u64 = 1 << 20;

/// Reads state of one job.
#[derive(Debug, Clone, Copy)]
pub(super) struct StateReader<'a> {
    pub(super) disk: &'a SharedDisk,
    /// The job's folder.
    pub(super) folder: &'a Path,
    pub(super) transfers: &'a Transfers,
}

impl StateReader<'_> {
    /// Reads segments that a manifest names, or has in itself, and checks them.
    ///
    /// # Errors
    /// Of the first segment that cannot be read: [`ErrorKind::Corrupt`] if its file is gone, too short or damaged, or if the manifest does
    /// not hold it; [`ErrorKind::Storage`].
    pub(super) async fn read(
        self,
        manifest: &Manifest,
        segments: &[&Segment],
    ) -> Result<Vec<Vec<u8>>, Error> {
        let read = self.read_all(&|file| manifest.inline_file(file), segments).await;
        read.map_err(|error| error.checkpoint(manifest.checkpoint))
    }

    /// See [`read`](Self::read); `inline` gives the files that the manifest has in itself.
    async fn read_all<'m>(
        self,
        inline: &(impl Fn(&str) -> Option<&'m [u8]> + Sync),
        segments: &[&Segment],
    ) -> Result<Vec<Vec<u8>>, Error> {
        let read = |run| async move {
            match inline(first_file(run)) {
                Some(content) => run.iter().map(|segment| self.within(content, segment)).collect(),
                None => self.read_run(run).await,
            }
        };
        // In order, so that of several errors it is always the same one.
        let runs = stream::iter(runs(segments).into_iter().map(read).collect::<Vec<_>>());
        runs.buffered(self.transfers.limit()).try_concat().await
    }

    fn within(self, content: &[u8], segment: &Segment) -> Result<Vec<u8>, Error> {
        let part = segment.within(content).map(<[u8]>::to_vec).ok_or_else(|| {
            let Segment { file, offset, len, .. } = segment;
            let what =
                format!("a manifest should hold {len} bytes at {offset} of `{file}`, and holds others");
            Error::new(ErrorKind::Corrupt, what).at(self.folder)
        })?;
        self.unpacked(segment, part)
    }

    /// Reads segments that lie side by side in a file.
    pub(super) async fn read_run(self, run: &[&Segment]) -> Result<Vec<Vec<u8>>, Error> {
        let bytes = match run {
            [] => return Ok(Vec::new()),
            [segment] => vec![self.read_bytes(segment, segment.len).await?],
            [first, ..] => {
                match self
                    .read_bytes(first, run.iter().fold(0, |sum, segment| segment.len.saturating_add(sum)))
                    .await
                {
                    Ok(bytes) => cut(&bytes, run),
                    // The file is too short for all of them, and there is an error that names the first for which it is.
                    Err(error) if error.kind() == ErrorKind::Corrupt => {
                        let mut all = Vec::with_capacity(run.len());
                        for segment in run {
                            let bytes = self.read_bytes(segment, segment.len).await?;
                            self.check(segment, &bytes)?;
                            all.push(bytes);
                        }
                        all
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        let checked = run.iter().zip(bytes).map(|(segment, bytes)| {
            self.check(segment, &bytes)?;
            self.unpacked(segment, bytes)
        });
        checked.collect()
    }

    /// Reads `len` bytes from where a segment begins.
    async fn read_bytes(self, segment: &Segment, len: u64) -> Result<Vec<u8>, Error> {
        let path = layout::resolve(self.folder, &segment.file)?;
        let _turn = self.transfers.turn().await;
        self.disk.read_range(&path, segment.offset, len).await.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => self.corrupt(segment, "it is missing"),
            io::ErrorKind::UnexpectedEof => self.corrupt(segment, "it is too short").because(error),
            _ => layout::io_error("read the state", &path, error),
        })
    }

    fn check(self, segment: &Segment, bytes: &[u8]) -> Result<(), Error> {
        let (expected, found) = (segment.crc32c, crc32c::crc32c(bytes));
        if found == expected {
            return Ok(());
        }
        let why = format!("they are damaged: checksum {found:08x}, expected {expected:08x}");
        Err(self.corrupt(segment, &why))
    }

    /// What a segment holds.
    fn unpacked(self, segment: &Segment, bytes: Vec<u8>) -> Result<Vec<u8>, Error> {
        match Compression::of_file(&segment.file) {
            Compression::None => Ok(bytes),
            Compression::Lz4 => blocks::unpack(&bytes).map_err(|error| match error.kind() {
                ErrorKind::Corrupt => self.corrupt(segment, &error.to_string()),
                _ => error.at(&self.folder.join(&segment.file)),
            }),
        }
    }

    fn corrupt(self, segment: &Segment, why: &str) -> Error {
        let Segment { file, offset, len, .. } = segment;
        let what = format!("{len} bytes at {offset} of a state file cannot be read: {why}");
        Error::new(ErrorKind::Corrupt, what).at(&self.folder.join(file))
    }
}

fn first_file<'s>(run: &[&'s Segment]) -> &'s str {
    run.first().map_or("", |segment| &segment.file)
}

/// Segments that follow each other in their file, up to a limit of bytes.
fn runs<'r, 's>(mut segments: &'r [&'s Segment]) -> Vec<&'r [&'s Segment]> {
    let mut runs = Vec::new();
    while let Some((first, rest)) = segments.split_first() {
        let (mut end, mut len) = (first.offset.saturating_add(first.len), 1);
        for segment in rest {
            let after = segment.offset.saturating_add(segment.len);
            if segment.file != first.file || segment.offset != end || after - first.offset > RUN {
                break;
            }
            (end, len) = (after, len + 1);
        }
        let (run, after) = segments.split_at(len);
        runs.push(run);
        segments = after;
    }
    runs
}

/// The bytes of each segment of a run.
fn cut(mut bytes: &[u8], run: &[&Segment]) -> Vec<Vec<u8>> {
    let parts = run.iter().map(|segment| {
        let len = usize::try_from(segment.len).unwrap_or(usize::MAX).min(bytes.len());
        let (part, rest) = bytes.split_at(len);
        bytes = rest;
        part.to_vec()
    });
    parts.collect()
}

#[cfg(test)]
mod tests;
