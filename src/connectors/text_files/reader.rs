//! Reads splits, one after the other.

use super::decoder::{Decoder, Fault};
use super::lines::Lines;
use super::open_split::{OpenSplit, unreadable};
use super::rows::line_feeds;
use super::split::TextSplit;
use super::{TextFiles, check_unchanged};
use crate::connectors::bad_row::BadRow;
use crate::error::{Error, ErrorKind, Result};
use crate::operator::SourceReader;
use std::path::{Path, PathBuf};

/// Reads splits of [`TextFiles`], or of a source of rows in text files.
#[derive(Debug)]
pub struct TextReader<D = Lines> {
    files: TextFiles,
    /// What the decoders of splits are made from.
    decoder: D,
    splits: Vec<TextSplit>,
    /// All splits before this one are finished.
    current: usize,
    /// The current one, while it is read.
    open: Option<OpenSplit<D>>,
    lines: LineCount,
}

impl<D: Decoder> TextReader<D> {
    pub(in crate::connectors) fn new(files: TextFiles, decoder: D, splits: Vec<TextSplit>) -> Self {
        Self { files, decoder, splits, current: 0, open: None, lines: LineCount::default() }
    }

    /// The first split with rows left, unless that is none.
    async fn open_next(&mut self) -> Result<Option<OpenSplit<D>>> {
        while self.splits.get(self.current).is_some_and(TextSplit::is_finished) {
            self.current += 1;
        }
        let Some(split) = self.splits.get(self.current) else { return Ok(None) };
        check_unchanged(&*self.files.disk, Path::new(split.path()), &[split]).await?;
        let mut decoder = self.decoder.another();
        if decoder.wants_beginning() && split.has_begun() {
            let mut beginning = OpenSplit::new(&split.rewound(), decoder, &self.files);
            beginning.read_row(&*self.files.disk).await?;
            decoder = beginning.rows.into_decoder();
        }
        Ok(Some(OpenSplit::new(split, decoder, &self.files)))
    }
}

impl<D: Decoder> SourceReader for TextReader<D> {
    type Record = D::Record;
    type Split = TextSplit;

    fn next(&mut self) -> Result<Option<D::Record>> {
        let Some(open) = &mut self.open else { return Ok(None) };
        let Some(split) = self.splits.get_mut(self.current) else { return Ok(None) };
        if !open.has_row()? {
            return Ok(None);
        }
        let record = match open.rows.decode() {
            Ok(record) => record,
            Err(Fault::File(why)) => {
                return Err(Error::new(ErrorKind::Configuration, why).at(&open.path).into());
            }
            Err(Fault::Row(reason)) => {
                let Some(line) = open.line(self.lines.before(&open.path, open.counts_from())) else {
                    self.lines.wanted = true;
                    return Ok(None);
                };
                let raw = open.rows.row();
                let raw = raw.strip_suffix(b"\n").unwrap_or(raw);
                let raw = raw.strip_suffix(b"\r").unwrap_or(raw);
                let raw = String::from_utf8_lossy(raw).into_owned();
                let row = BadRow { path: split.path().to_owned(), line, reason, raw };
                open.rows.decoder().bad(row)?
            }
        };
        open.rows.advance();
        split.advance(open.rows.offset());
        if open.rows.exhausted() {
            split.finish();
            self.open = None;
        }
        Ok(Some(record))
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
            if std::mem::take(&mut self.lines.wanted) {
                self.lines.count(&self.files, &open.path, open.counts_from()).await?;
            }
            if open.read_row(&*self.files.disk).await? {
                return Ok(true);
            }
            // No row begins in what is left of it, so this moves the position past no record.
            if let Some(split) = self.splits.get_mut(self.current) {
                split.finish();
            }
            self.open = None;
        }
    }

    fn splits(&self) -> Vec<TextSplit> {
        self.splits.clone()
    }
}

/// Where in an uncompressed file a line feed was last counted to. Lines are counted only where a bad row asks for its number, and
/// a file's splits come in order at a first start, so all that are asked for cost a subtask one more reading of the file at most.
#[derive(Debug, Default)]
struct LineCount {
    /// A number is waited for.
    wanted: bool,
    path: PathBuf,
    offset: u64,
    line_feeds: u64,
}

impl LineCount {
    /// How many line feeds are before this byte, if that is known.
    fn before(&self, path: &Path, offset: u64) -> Option<u64> {
        if offset == 0 {
            return Some(0);
        }
        (self.path == path && self.offset == offset).then_some(self.line_feeds)
    }

    /// Counts up to this byte, from where it stopped before if it can.
    async fn count(&mut self, files: &TextFiles, path: &Path, offset: u64) -> Result {
        if self.path != path || self.offset > offset {
            *self = Self { path: path.to_owned(), ..Self::default() };
        }
        while self.offset < offset {
            let len = (offset - self.offset).min(files.chunk);
            let bytes = files.disk.read_range(path, self.offset, len).await;
            let bytes = bytes.map_err(|error| unreadable(path, offset, error))?;
            self.line_feeds += line_feeds(&bytes);
            self.offset += len;
        }
        Ok(())
    }
}
