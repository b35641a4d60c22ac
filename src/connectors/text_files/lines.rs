//! Lines in bytes that come in pieces. Pure.

use std::io::BufRead;

/// Gives the lines that begin in a range of a text, of which bytes are pushed piece by piece.
#[derive(Debug, Clone)]
pub(super) struct Lines {
    /// What was pushed and may still be needed.
    bytes: Vec<u8>,
    /// Offset in the text of the first of `bytes`.
    base: u64,
    /// The next line begins at this index of `bytes`.
    cursor: usize,
    /// No line ends between `cursor` and this index.
    scanned: usize,
    /// Where the next line ends, behind its line ending, once that is known.
    line_end: Option<usize>,
    /// Lines that begin here or later belong to others.
    limit: u64,
    /// The rest of a line that began earlier is still to be passed over.
    inside_line: bool,
    /// Nothing more will be pushed.
    complete: bool,
}

/// A line that is not UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotUtf8 {
    /// Offset in the text of the first byte that is not.
    pub(super) offset: u64,
}

impl Lines {
    /// Bytes will be pushed from offset `from` on, where a line begins; lines are given that begin before `limit`.
    pub(super) fn from_line(from: u64, limit: u64) -> Self {
        Self {
            bytes: Vec::new(),
            base: from,
            cursor: 0,
            scanned: 0,
            line_end: None,
            limit,
            inside_line: false,
            complete: false,
        }
    }

    /// As [`from_line`](Self::from_line), but the first line given begins after the first line ending.
    pub(super) fn from_inside(from: u64, limit: u64) -> Self {
        Self { inside_line: true, ..Self::from_line(from, limit) }
    }

    /// Takes the next bytes of the text.
    pub(super) fn push(&mut self, bytes: Vec<u8>) {
        let used = self.cursor.min(self.bytes.len());
        self.base += used as u64;
        if used == self.bytes.len() {
            self.bytes = bytes;
        } else {
            self.bytes.drain(..used);
            self.bytes.extend_from_slice(&bytes);
        }
        self.cursor = 0;
        self.scanned -= used;
        self.line_end = self.line_end.map(|end| end - used);
        if self.inside_line {
            self.pass_line();
        }
    }

    /// Says that the text is at its end.
    pub(super) fn complete(&mut self) {
        self.complete = true;
    }

    /// Offset in the text of the next line.
    pub(super) fn offset(&self) -> u64 {
        self.base + self.cursor as u64
    }

    /// How many bytes are at hand.
    pub(super) fn unread(&self) -> usize {
        self.bytes.len() - self.cursor
    }

    /// Whether there will be no further line.
    pub(super) fn exhausted(&self) -> bool {
        self.offset() >= self.limit || (self.complete && self.unread() == 0)
    }

    /// Whether [`next`](Self::next) has a line at hand, well-formed or not.
    pub(super) fn has_line(&mut self) -> bool {
        !self.exhausted() && self.find_end().is_some()
    }

    /// The next line without its ending, if it is at hand.
    pub(super) fn next(&mut self) -> Result<Option<String>, NotUtf8> {
        if self.exhausted() {
            return Ok(None);
        }
        let Some(end) = self.find_end() else { return Ok(None) };
        let line = self.bytes.get(self.cursor..end).unwrap_or_default();
        // As `str::lines` has it: a carriage return belongs to the line unless a line feed follows.
        let line = match line.strip_suffix(b"\n") {
            Some(line) => line.strip_suffix(b"\r").unwrap_or(line),
            None => line,
        };
        let text = std::str::from_utf8(line)
            .map_err(|error| NotUtf8 { offset: self.offset() + error.valid_up_to() as u64 })?
            .to_owned();
        self.cursor = end;
        self.scanned = end;
        self.line_end = None;
        Ok(Some(text))
    }

    /// Index behind the next line, its ending included. Looks at each byte once.
    fn find_end(&mut self) -> Option<usize> {
        if self.line_end.is_none() {
            let mut rest = self.bytes.get(self.scanned..).unwrap_or_default();
            // Reading from a slice cannot fail. This is the fastest search for a byte that the standard library offers.
            let passed = rest.skip_until(b'\n').unwrap_or_default();
            self.scanned += passed;
            let ended = passed > 0 && self.bytes.get(self.scanned - 1) == Some(&b'\n');
            if ended || (self.complete && self.unread() > 0) {
                self.line_end = Some(self.scanned);
            }
        }
        self.line_end
    }

    /// Passes over the rest of a line that began earlier, as far as it is at hand.
    fn pass_line(&mut self) {
        if let Some(end) = self.find_end() {
            self.inside_line = false;
            self.line_end = None;
            self.cursor = end;
        } else {
            self.cursor = self.bytes.len();
        }
        self.scanned = self.cursor;
    }
}
