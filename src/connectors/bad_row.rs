//! Rows that are no records.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A row of a file that is no record, as sources with `keep_bad_rows()` give it.
///
/// It is plain data, so it can go wherever a record can: into a file, into state, over a channel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BadRow {
    /// The file, as the source names it.
    pub path: String,
    /// The line that the row begins in, counted from 1. Lines end with `\n`; blank lines, comments, a header, and lines inside of quotes count.
    pub line: u64,
    /// What is wrong with it, and in which column where that is known.
    pub reason: String,
    /// The row as the file has it, without its ending; what is not UTF-8 replaced.
    pub raw: String,
}

impl fmt::Display for BadRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, line {}: {}", self.path, self.line, self.reason)
    }
}

impl std::error::Error for BadRow {}

/// What a source does with a bad row unless it is told to keep them.
#[cfg(any(feature = "csv", feature = "json"))]
pub(super) fn refuse<R>(row: BadRow) -> crate::error::Result<R> {
    use crate::error::{Error, ErrorKind};
    let message = format!(
        "line {} of an input file is no record: {}. The row: {}. Mend the file and start a new job, or take such rows as \
         records with keep_bad_rows()",
        row.line,
        row.reason,
        excerpt(&row.raw)
    );
    Err(Error::new(ErrorKind::Corrupt, message).at(std::path::Path::new(&row.path)).into())
}

/// The text in quotes, cut where it gets too long for a message.
#[cfg(any(feature = "csv", feature = "json"))]
pub(super) fn excerpt(text: &str) -> String {
    const MOST: usize = 200;
    match text.char_indices().nth(MOST).and_then(|(end, _)| text.get(..end)) {
        Some(beginning) => format!("{beginning:?}.."),
        None => format!("{text:?}"),
    }
}
