//! A split while it is read.

use super::TextFiles;
use super::decoder::Decoder;
use super::rows::{Rows, line_feeds};
use super::split::TextSplit;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::Disk;
use flate2::write::MultiGzDecoder;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Bytes read at once behind the end of a split, where only the rest of one row is wanted.
const TAIL: u64 = 4 * 1024;
/// Compressed bytes read at once: they are decompressed on the subtask's thread, which should take well under a millisecond.
const GZIP_CHUNK: u64 = 32 * 1024;

/// A split, and how far its file has been read.
#[derive(Debug)]
pub(super) struct OpenSplit<D> {
    pub(super) path: PathBuf,
    pub(super) rows: Rows<D>,
    /// Where in the text the first byte was pushed to `rows`.
    from: u64,
    /// Offset in the file of the next byte to read.
    next: u64,
    /// End of the split.
    end: u64,
    /// Length of the file.
    length: u64,
    /// Bytes read at once.
    chunk: u64,
    max_row: u64,
    gzip: Option<Gzip>,
}

#[derive(Debug)]
struct Gzip {
    decoder: MultiGzDecoder<Vec<u8>>,
    /// Decompressed bytes before the position, still to be dropped.
    skip: u64,
    /// Line feeds in those that were.
    line_feeds: u64,
}

impl<D: Decoder> OpenSplit<D> {
    pub(super) fn new(split: &TextSplit, decoder: D, files: &TextFiles) -> Self {
        let (start, end, position) = (split.range().start, split.range().end, split.position());
        let (rows, from, next) = if split.is_gzip() {
            // The split ends where the text ends, wherever that is.
            (Rows::from_row(decoder, position, u64::MAX), position, 0)
        } else if start > 0 && !split.has_begun() {
            // Only the byte before tells whether a row begins right at the start.
            (Rows::from_inside(decoder, start - 1, end), start - 1, start - 1)
        } else {
            (Rows::from_row(decoder, position, end), position, position)
        };
        let gzip = split.is_gzip().then(|| Gzip {
            decoder: MultiGzDecoder::new(Vec::new()),
            skip: position,
            line_feeds: 0,
        });
        Self {
            path: split.path().into(),
            rows,
            from,
            next,
            end,
            length: split.identity().length,
            chunk: files.chunk,
            max_row: files.max_row,
            gzip,
        }
    }

    /// Reads on until a row is at hand, or until there is none.
    pub(super) async fn read_row(&mut self, disk: &dyn Disk) -> Result<bool> {
        loop {
            if self.has_row()? {
                return Ok(true);
            }
            if self.rows.exhausted() {
                return Ok(false);
            }
            self.read(disk).await?;
        }
    }

    /// Whether a row is at hand. What is at hand of one that goes on may already be too long.
    pub(super) fn has_row(&mut self) -> Result<bool> {
        let at_hand = self.rows.has_row();
        if self.rows.row().len() as u64 > self.max_row { Err(self.too_long()) } else { Ok(at_hand) }
    }

    /// Reads a chunk on.
    async fn read(&mut self, disk: &dyn Disk) -> Result {
        let left = self.length.saturating_sub(self.next);
        let len = if self.gzip.is_some() {
            left.min(GZIP_CHUNK.min(self.chunk))
        } else if self.next < self.end {
            (self.end - self.next).min(self.chunk)
        } else {
            // Doubles while the row goes on.
            left.min((self.rows.unread() as u64).clamp(TAIL.min(self.chunk), self.chunk))
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
        self.rows.push(text);
        if at_end {
            self.rows.complete();
        }
        Ok(())
    }

    /// The number of the line that the next row begins in, counted from 1 in the whole file, if `before` line feeds come before
    /// [`from`](Self::counts_from); of a compressed file that is known.
    pub(super) fn line(&mut self, before: Option<u64>) -> Option<u64> {
        let before = self.gzip.as_ref().map(|gzip| gzip.line_feeds).or(before)?;
        Some(before + self.rows.line_feeds_before() + 1)
    }

    /// Where in the file this split's own count of lines begins.
    pub(super) fn counts_from(&self) -> u64 {
        self.from
    }

    fn unreadable(&self, error: io::Error) -> Error {
        unreadable(&self.path, self.length, error)
    }

    fn too_long(&self) -> crate::error::BoxError {
        let message = format!(
            "a row of an input file begins at byte {}{} and goes on for more than {} bytes. Is a quote never closed, or a line \
             ending missing? If not, raise the limit with max_row_size(..)",
            self.rows.offset(),
            if self.gzip.is_some() { " of the decompressed text" } else { "" },
            self.max_row
        );
        Error::new(ErrorKind::Corrupt, message).at(&self.path).into()
    }
}

pub(super) fn unreadable(path: &Path, length: u64, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound => {
            let message = format!(
                "an input file changed while it was read: expected {length} bytes. Put the file back as it was, or start a \
                 new job"
            );
            Error::new(ErrorKind::Configuration, message).at(path).because(error)
        }
        _ => Error::io("read an input file", path, error),
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
        self.line_feeds += line_feeds(text.get(..skipped).unwrap_or_default());
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
