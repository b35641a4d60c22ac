//! What a format brings along to be read from text files.

use crate::connectors::bad_row::BadRow;
use crate::error::Result;

/// Finds rows in a text and makes records of them. It knows nothing of files, pieces and positions: [`Rows`](super::rows::Rows) does.
pub trait Decoder: Sized + 'static {
    /// What a row becomes.
    type Record;

    /// Whether a byte order mark at the beginning of the text belongs to no row. Only for formats whose texts are never cut.
    const SKIPS_BOM: bool = false;

    /// One with the same settings, for another text.
    fn another(&self) -> Self;

    /// Whether it has to see the first rows of a text before it can read on anywhere in it.
    fn wants_beginning(&self) -> bool {
        false
    }

    /// Looks at the bytes that follow those it has seen: how many of them belong to the row, and whether it ends behind them.
    fn scan(&mut self, bytes: &[u8]) -> (usize, bool);

    /// The text ends, and a row has begun.
    fn close(&mut self) {}

    /// Whether the row that was just found, its ending included, is none that a record is made of.
    fn passes_over(&mut self, row: &[u8]) -> bool {
        let _ = row;
        false
    }

    /// The record of the row that was just found.
    fn decode(&mut self, row: &[u8]) -> Result<Self::Record, Fault>;

    /// What becomes of a row that cannot be decoded: a record too, or an error.
    fn bad(&self, row: BadRow) -> Result<Self::Record>;
}

/// Why a row cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It is the row's: others may be fine.
    Row(String),
    /// It is the file's: no row can be decoded.
    File(String),
}

/// Looks for the end of a line: a [`Decoder::scan`].
pub fn scan_line(bytes: &[u8]) -> (usize, bool) {
    use std::io::BufRead;
    let mut rest = bytes;
    // Reading from a slice cannot fail. This is the fastest search for a byte that the standard library offers.
    let passed = rest.skip_until(b'\n').unwrap_or_default();
    (passed, bytes.get(..passed).is_some_and(|line| line.ends_with(b"\n")))
}

/// The row without its ending.
pub fn without_ending(row: &[u8]) -> &[u8] {
    match row.strip_suffix(b"\n") {
        Some(row) => row.strip_suffix(b"\r").unwrap_or(row),
        None => row,
    }
}
