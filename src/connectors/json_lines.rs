//! Lines of JSON.

#[cfg(test)]
mod tests;

use super::bad_row::{BadRow, refuse};
use super::text_files::decoder::{Decoder, Fault, scan_line};
use super::text_files::{TextFiles, TextReader, TextSplit};
use crate::error::Result;
use crate::operator::{Source, SubtaskContext};
use crate::storage::SharedDisk;
use serde::de::DeserializeOwned;
use std::fmt;
use std::path::PathBuf;

/// The lines of files in which each line is a JSON value, each a record of type `T`, by its [`Deserialize`](serde::Deserialize). Cargo
/// feature `json`, on by default.
///
/// ```
/// use serde::Deserialize;
/// use strandline::prelude::*;
///
/// #[derive(Debug, Clone, PartialEq, Deserialize)]
/// #[serde(tag = "kind", rename_all = "lowercase")]
/// enum Event {
///     Click { page: String },
///     Leave,
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("events.jsonl");
/// # std::fs::write(&path, "{\"kind\": \"click\", \"page\": \"/\"}\n{\"kind\": \"leave\"}\n")?;
/// let env = Environment::builder().build()?;
/// let events = Collect::new();
/// env.source("events", JsonLines::<Event>::new([path])).sink("all", events.clone());
/// env.execute("json-lines-doc").await?;
/// assert_eq!(events.records(), [Event::Click { page: "/".into() }, Event::Leave]);
/// # Ok(())
/// # }
/// ```
///
/// Everything said of [`TextFiles`] holds: `.gz` is decompressed, the files may not change while the job goes on, a restart reads on behind the last
/// record that the checkpoint covers, and large files are read in parallel, by splits. Blank lines and a byte order mark are
/// passed over. `T` owns its data: for a struct with a `&str` the compiler says that its `Deserialize` is not general enough.
///
/// A line that is no `T` is an error that names file, line, column and cause, and fails the job: running it again would not help. With
/// [`keep_bad_rows`](Self::keep_bad_rows) such lines are records. The number of a bad line is counted from the beginning of the file: where a
/// file is read by splits, or read on after a restart, each subtask that meets one may read the file once more for it.
pub struct JsonLines<T> {
    files: TextFiles,
    rule: Rule<T>,
}

impl<T: 'static> JsonLines<T> {
    /// The lines of these files on the local disk; a single file is `JsonLines::new([path])`. An empty list is a source that ends at once.
    #[must_use]
    pub fn new(paths: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self
    where
        T: DeserializeOwned,
    {
        Self::of(TextFiles::new(paths))
    }

    /// The lines of the visible files directly in this folder, as [`TextFiles::in_folder`] finds them.
    #[must_use]
    pub fn in_folder(folder: impl Into<PathBuf>) -> Self
    where
        T: DeserializeOwned,
    {
        Self::of(TextFiles::in_folder(folder))
    }

    fn of(files: TextFiles) -> Self
    where
        T: DeserializeOwned,
    {
        let rule = Rule { decode: |line| serde_json::from_slice(line), bad: refuse };
        Self { files: files.max_row_size(64 * 1024 * 1024), rule }
    }

    /// Takes lines that are no `T` as records, instead of failing at the first one: see [`BadRow`], and
    /// [`Csv::keep_bad_rows`](super::Csv::keep_bad_rows) for an example.
    #[must_use]
    pub fn keep_bad_rows(self) -> JsonLines<Result<T, BadRow>>
    where
        T: DeserializeOwned,
    {
        let rule = Rule { decode: |line| serde_json::from_slice(line).map(Ok), bad: |row| Ok(Err(row)) };
        JsonLines { files: self.files, rule }
    }
}

impl<T> JsonLines<T> {
    /// How many bytes of a file make a split: see [`TextFiles::split_size`].
    #[must_use]
    pub fn split_size(mut self, bytes: u64) -> Self {
        self.files = self.files.split_size(bytes);
        self
    }

    /// How many bytes a line may have. A longer one is an error. Default: 64 MiB. Up to 256 KiB of text may be read beyond it.
    #[must_use]
    pub fn max_row_size(mut self, bytes: u64) -> Self {
        self.files = self.files.max_row_size(bytes);
        self
    }

    /// Uses another disk than the local one.
    #[must_use]
    pub fn disk(mut self, disk: SharedDisk) -> Self {
        self.files = self.files.disk(disk);
        self
    }
}

impl<T: 'static> Source for JsonLines<T> {
    type Record = T;
    type Split = TextSplit;
    type Reader = TextReader<JsonRows<T>>;

    async fn splits(&self, restored: Option<Vec<TextSplit>>) -> Result<Vec<TextSplit>> {
        self.files.splits(restored).await
    }

    fn assign(&self, splits: Vec<TextSplit>, parallelism: u32) -> Vec<Vec<TextSplit>> {
        self.files.assign(splits, parallelism)
    }

    fn reader(&self, splits: Vec<TextSplit>, _: &SubtaskContext) -> Result<Self::Reader> {
        Ok(TextReader::new(self.files.clone(), JsonRows(self.rule), splits))
    }
}

// Not derived: a record need not be cloneable, nor have a `Debug`.
impl<T> Clone for JsonLines<T> {
    fn clone(&self) -> Self {
        Self { files: self.files.clone(), rule: self.rule }
    }
}

impl<T> fmt::Debug for JsonLines<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonLines").field("files", &self.files).finish_non_exhaustive()
    }
}

/// What becomes of a line, good or bad.
struct Rule<T> {
    decode: fn(&[u8]) -> serde_json::Result<T>,
    bad: fn(BadRow) -> Result<T>,
}

impl<T> Clone for Rule<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Rule<T> {}

/// Makes records of lines of JSON.
pub struct JsonRows<T>(Rule<T>);

impl<T> fmt::Debug for JsonRows<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JsonRows")
    }
}

impl<T: 'static> Decoder for JsonRows<T> {
    type Record = T;

    fn another(&self) -> Self {
        Self(self.0)
    }

    /// No JSON value holds a line feed as it is: in strings it is escaped.
    fn scan(&mut self, bytes: &[u8]) -> (usize, bool) {
        scan_line(bytes)
    }

    fn passes_over(&mut self, row: &[u8]) -> bool {
        json_in(row).is_empty()
    }

    fn decode(&mut self, row: &[u8]) -> Result<T, Fault> {
        (self.0.decode)(json_in(row)).map_err(|error| {
            let text = error.to_string();
            // Its line is always the first.
            Fault::Row(match text.strip_suffix(&format!(" at line 1 column {}", error.column())) {
                Some(cause) => format!("column {}: {cause}", error.column()),
                None => text,
            })
        })
    }

    fn bad(&self, row: BadRow) -> Result<T> {
        (self.0.bad)(row)
    }
}

/// The line without white space behind it, and without a byte order mark: where files were put together it may begin any line.
fn json_in(row: &[u8]) -> &[u8] {
    row.strip_prefix(b"\xef\xbb\xbf").unwrap_or(row).trim_ascii_end()
}
