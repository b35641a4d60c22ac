//! Rows in bytes that come in pieces. Pure.

use super::decoder::{Decoder, Fault};

const BOM: &[u8] = b"\xef\xbb\xbf";

/// Gives the rows that begin in a range of a text, of which bytes are pushed piece by piece.
#[derive(Debug)]
pub(in crate::connectors) struct Rows<D> {
    decoder: D,
    /// What was pushed and may still be needed.
    bytes: Vec<u8>,
    /// Offset in the text of the first of `bytes`.
    base: u64,
    /// The next row begins at this index of `bytes`.
    cursor: usize,
    /// No row ends between `cursor` and this index.
    scanned: usize,
    /// Where the next row ends, behind its ending, once that is known.
    row_end: Option<usize>,
    /// Rows that begin here or later belong to others.
    limit: u64,
    /// The rest of a row that began earlier is still to be passed over.
    inside_row: bool,
    /// Nothing more will be pushed.
    complete: bool,
    /// Line feeds from the first byte pushed to index `counted` of `bytes`.
    line_feeds: u64,
    counted: usize,
}

impl<D: Decoder> Rows<D> {
    /// Bytes will be pushed from offset `from` on, where a row begins; rows are given that begin before `limit`.
    pub(in crate::connectors) fn from_row(decoder: D, from: u64, limit: u64) -> Self {
        Self {
            decoder,
            bytes: Vec::new(),
            base: from,
            cursor: 0,
            scanned: 0,
            row_end: None,
            limit,
            inside_row: false,
            complete: false,
            line_feeds: 0,
            counted: 0,
        }
    }

    /// As [`from_row`](Self::from_row), but the first row given begins after the first row ending.
    pub(super) fn from_inside(decoder: D, from: u64, limit: u64) -> Self {
        Self { inside_row: true, ..Self::from_row(decoder, from, limit) }
    }

    /// Takes the next bytes of the text.
    pub(in crate::connectors) fn push(&mut self, bytes: Vec<u8>) {
        self.line_feeds_before();
        let used = self.cursor.min(self.bytes.len());
        self.base += used as u64;
        if used == self.bytes.len() {
            self.bytes = bytes;
        } else {
            self.bytes.drain(..used);
            self.bytes.extend_from_slice(&bytes);
        }
        self.cursor = 0;
        self.counted = 0;
        self.scanned -= used;
        self.row_end = self.row_end.map(|end| end - used);
        if self.inside_row {
            self.pass_rest();
        }
    }

    /// Says that the text is at its end.
    pub(in crate::connectors) fn complete(&mut self) {
        self.complete = true;
    }

    /// Offset in the text of the next row, or of what stands before it.
    pub(in crate::connectors) fn offset(&self) -> u64 {
        self.base + self.cursor as u64
    }

    /// How many bytes are at hand.
    pub(super) fn unread(&self) -> usize {
        self.bytes.len() - self.cursor
    }

    /// Whether there will be no further row.
    pub(in crate::connectors) fn exhausted(&self) -> bool {
        self.offset() >= self.limit || (self.complete && self.unread() == 0)
    }

    /// Whether a row is at hand to make a record of. What stands before it is passed over.
    pub(in crate::connectors) fn has_row(&mut self) -> bool {
        while !self.exhausted() {
            let Some(end) = self.find_end() else { return false };
            if !self.decoder.passes_over(self.bytes.get(self.cursor..end).unwrap_or_default()) {
                return true;
            }
            self.advance();
        }
        false
    }

    /// The record of the next row, when [one is at hand](Self::has_row). The same again until [`advance`](Self::advance).
    pub(in crate::connectors) fn decode(&mut self) -> Result<D::Record, Fault> {
        self.decoder.decode(self.bytes.get(self.cursor..self.scanned).unwrap_or_default())
    }

    /// Goes on behind the next row.
    pub(in crate::connectors) fn advance(&mut self) {
        if let Some(end) = self.row_end.take() {
            self.cursor = end;
            self.scanned = end;
        }
    }

    /// The next row and its ending, as far as they are at hand.
    pub(super) fn row(&self) -> &[u8] {
        self.bytes.get(self.cursor..self.scanned).unwrap_or_default()
    }

    /// How many line feeds there are from the first byte pushed to the next row.
    pub(super) fn line_feeds_before(&mut self) -> u64 {
        self.line_feeds += line_feeds(self.bytes.get(self.counted..self.cursor).unwrap_or_default());
        self.counted = self.cursor;
        self.line_feeds
    }

    pub(super) fn decoder(&self) -> &D {
        &self.decoder
    }

    pub(super) fn into_decoder(self) -> D {
        self.decoder
    }

    /// Index behind the next row, its ending included. Looks at each byte once.
    fn find_end(&mut self) -> Option<usize> {
        if D::SKIPS_BOM && self.offset() == 0 && !self.pass_bom() {
            return None;
        }
        if self.row_end.is_none() {
            let rest = self.bytes.get(self.scanned..).unwrap_or_default();
            let (passed, ended) = self.decoder.scan(rest);
            self.scanned += passed;
            if ended {
                self.row_end = Some(self.scanned);
            } else if self.complete && self.unread() > 0 {
                self.decoder.close();
                self.row_end = Some(self.scanned);
            }
        }
        self.row_end
    }

    /// At the beginning of the text: passes over a byte order mark. Gives whether that is decided.
    fn pass_bom(&mut self) -> bool {
        if self.bytes.starts_with(BOM) {
            self.cursor = BOM.len();
            self.scanned = BOM.len();
        }
        self.complete || self.bytes.len() >= BOM.len() || !BOM.starts_with(&self.bytes)
    }

    /// Passes over the rest of a row that began earlier, as far as it is at hand.
    fn pass_rest(&mut self) {
        if let Some(end) = self.find_end() {
            self.inside_row = false;
            self.row_end = None;
            self.cursor = end;
        } else {
            self.cursor = self.bytes.len();
        }
        self.scanned = self.cursor;
    }
}

/// How many lines end in these bytes.
pub(super) fn line_feeds(bytes: &[u8]) -> u64 {
    // In pieces whose count fits into a byte, which the compiler turns into vector instructions.
    let count = |piece: &[u8]| u64::from(piece.iter().map(|byte| u8::from(*byte == b'\n')).sum::<u8>());
    bytes.chunks(255).map(count).sum()
}
