//! Reads splits, one after the other.

use super::check_unchanged;
use super::lines::{Lines, NotUtf8};
use super::split::TextSplit;
use crate::error::{Error, ErrorKind, Result};
use crate::operator::SourceReader;
use crate::storage::{Disk, SharedDisk};
use flate2::write::MultiGzDecoder;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Bytes read at once.
const CHUNK: u64 = 256 * 1024;
/// Bytes read at once behind the end of a split, where only the rest of one line is wanted.
const TAIL: u64 = 4 * 1024;
/// Compressed bytes read at once: they are decompressed on the subtask's thread, which should take well under a millisecond.
const GZIP_CHUNK: u64 = 32 * 1024;

/// Reads splits of [`TextFiles`](super::TextFiles).
#[derive(Debug)]
pub struct TextReader {
    disk: SharedDisk,
    splits: Vec<TextSplit>,
    /// All splits before this one are finished.
    current: usize,
    /// The current one, while it is read.
    open: Option<OpenSplit>,
}

#[derive(Debug)]
struct OpenSplit {
    path: PathBuf,
    lines: Lines,
    /// Offset in the file of the next byte to read.
    next: u64,
    /// End of the split.
    end: u64,
    /// Length of the file.
    length: u64,
    gzip: Option<Gzip>,
}

#[derive(Debug)]
struct Gzip {
    decoder: MultiGzDecoder<Vec<u8>>,
    /// Decompressed bytes before the position, still to be dropped.
    skip: u64,
}

impl TextReader {
    pub(super) fn new(disk: SharedDisk, splits: Vec<TextSplit>) -> Self {
        Self { disk, splits, current: 0, open: None }
    }

    /// The first split with lines left, unless that is none.
    async fn open_next(&mut self) -> Result<Option<OpenSplit>> {
        while self.splits.get(self.current).is_some_and(TextSplit::is_finished) {
            self.current += 1;
        }
        let Some(split) = self.splits.get(self.current) else { return Ok(None) };
        let path = PathBuf::from(split.path());
        check_unchanged(&*self.disk, &path, &[split]).await?;
        Ok(Some(OpenSplit::new(split, path)))
    }
}

impl SourceReader for TextReader {
    type Record = String;
    type Split = TextSplit;

    fn next(&mut self) -> Result<Option<String>> {
        let Some(open) = &mut self.open else { return Ok(None) };
        let line = open.lines.next().map_err(|error| open.not_utf8(error))?;
        if line.is_some()
            && let Some(split) = self.splits.get_mut(self.current)
        {
            split.advance(open.lines.offset());
            if open.lines.exhausted() {
                split.finish();
                self.open = None;
            }
        }
        Ok(line)
    }

    async fn ready(&mut self) -> Result<bool> {
        loop {
            let Some(open) = &mut self.open else {
                self.open = self.open_next().await?;
                if self.open.is_none() {
                    return Ok(false);
                }
                continue;
            };
            if open.lines.has_line() {
                return Ok(true);
            }
            if open.lines.exhausted() {
                // No line begins in what is left of it, so this moves the position past no record.
                if let Some(split) = self.splits.get_mut(self.current) {
                    split.finish();
                }
                self.open = None;
            } else {
                open.read(&*self.disk).await?;
            }
        }
    }

    fn splits(&self) -> Vec<TextSplit> {
        self.splits.clone()
    }
}

impl OpenSplit {
    fn new(split: &TextSplit, path: PathBuf) -> Self {
        let (start, end) = (split.range().start, split.range().end);
        let (lines, next, gzip) = if split.is_gzip() {
            let gzip = Gzip { decoder: MultiGzDecoder::new(Vec::new()), skip: split.position() };
            // The split ends where the text ends, wherever that is.
            (Lines::from_line(split.position(), u64::MAX), 0, Some(gzip))
        } else if start > 0 && !split.has_begun() {
            // Only the byte before tells whether a line begins right at the start.
            (Lines::from_inside(start - 1, end), start - 1, None)
        } else {
            (Lines::from_line(split.position(), end), split.position(), None)
        };
        Self { path, lines, next, end, length: split.identity().length, gzip }
    }

    /// Reads a chunk on.
    async fn read(&mut self, disk: &dyn Disk) -> Result {
        let left = self.length.saturating_sub(self.next);
        let len = if self.gzip.is_some() {
            left.min(GZIP_CHUNK)
        } else if self.next < self.end {
            (self.end - self.next).min(CHUNK)
        } else {
            // Doubles while the line goes on.
            left.min((self.lines.unread() as u64).clamp(TAIL, CHUNK))
        };
        let bytes =
            disk.read_range(&self.path, self.next, len).await.map_err(|error| self.unreadable(error))?;
        if bytes.len() as u64 != len {
            return Err(self.unreadable(io::ErrorKind::UnexpectedEof.into()).into());
        }
        self.next += len;
        let at_end = self.next >= self.length;
        let text = match &mut self.gzip {
            None => bytes,
            Some(gzip) => gzip.decompress(&bytes, at_end).map_err(|error| damaged(&self.path, error))?,
        };
        self.lines.push(text);
        if at_end {
            self.lines.complete();
        }
        Ok(())
    }

    fn unreadable(&self, error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound => {
                let message = format!(
                    "an input file changed while it was read: expected {} bytes. Put the file back as it was, or start a \
                     new job",
                    self.length
                );
                Error::new(ErrorKind::Configuration, message).at(&self.path).because(error)
            }
            _ => Error::io("read an input file", &self.path, error),
        }
    }

    fn not_utf8(&self, NotUtf8 { offset }: NotUtf8) -> Error {
        let of = if self.gzip.is_some() { " of the decompressed text" } else { "" };
        let message =
            format!("an input file is not UTF-8 at byte {offset}{of}: convert it, and start a new job");
        Error::new(ErrorKind::Corrupt, message).at(&self.path)
    }
}

impl Gzip {
    /// The text in the next compressed bytes, from the position on.
    fn decompress(&mut self, bytes: &[u8], at_end: bool) -> io::Result<Vec<u8>> {
        self.decoder.write_all(bytes)?;
        if at_end {
            // Also checks length and checksum.
            self.decoder.try_finish()?;
        }
        let mut text = std::mem::take(self.decoder.get_mut());
        let skipped = text.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
        text.drain(..skipped);
        self.skip -= skipped as u64;
        if at_end && self.skip > 0 {
            return Err(io::Error::other(format!("the text ends {} bytes before the position", self.skip)));
        }
        Ok(text)
    }
}

fn damaged(path: &Path, error: io::Error) -> Error {
    let message =
        "a compressed input file is damaged or cut short: restore it, or start a new job without it";
    Error::new(ErrorKind::Corrupt, message).at(path).because(error)
}
