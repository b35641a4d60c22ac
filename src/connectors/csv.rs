//! Rows of CSV files.

mod decoder;
#[cfg(test)]
mod tests;

pub(super) use decoder::Dialect;

use super::bad_row::{BadRow, refuse};
use super::text_files::{TextFiles, TextReader, TextSplit};
use crate::error::{Error, ErrorKind, Result};
use crate::operator::{Source, SubtaskContext};
use crate::storage::SharedDisk;
use decoder::{CsvRows, Rule};
use serde::de::DeserializeOwned;
use std::fmt;
use std::path::{Path, PathBuf};

/// The rows of CSV files, each a record of type `T`, by its [`Deserialize`](serde::Deserialize). Cargo feature `csv`, on by default.
///
/// A struct's fields are matched with the names in the file's first row, whatever their order; columns that `T` has no field for are left
/// out. An empty field is `None` for an `Option`. Numbers, `bool`, `char`, strings and unit variants of enums are read from
/// their text; for anything else use `#[serde(deserialize_with = ..)]`. With `#[serde(flatten)]` the type of a value is guessed from its
/// text, so that a field `String` in the flattened part refuses `12`. `T` owns its data: for a struct with a `&str` the compiler says that its
/// `Deserialize` is not general enough.
///
/// ```
/// use serde::Deserialize;
/// use strandline::prelude::*;
///
/// #[derive(Debug, Clone, PartialEq, Deserialize)]
/// struct Flight {
///     carrier: String,
///     #[serde(rename = "dep_delay")]
///     delay: Option<i64>, // in minutes
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("flights.csv");
/// # std::fs::write(&path, "year,carrier,dep_delay\n2013,UA,2\n2013,\"B6\",\n")?;
/// let env = Environment::builder().build()?;
/// let delayed = Collect::new();
/// env.source("flights", Csv::<Flight>::new([path]))
///     .filter(|flight| flight.delay.is_some())
///     .sink("delayed", delayed.clone());
/// env.execute("csv-doc").await?;
/// assert_eq!(delayed.records(), [Flight { carrier: "UA".into(), delay: Some(2) }]);
/// # Ok(())
/// # }
/// ```
///
/// # Files
///
/// Everything said of [`TextFiles`] holds: `.gz` is decompressed, the files may not change while the job goes on, and a restart reads on behind
/// the last record that the checkpoint covers, at any parallelism. But a file is always read as a whole by one subtask, because quotes may hide
/// line ends; so give several files where reading is what takes the time. The settings of this source must stay as they are between a
/// checkpoint and a restart from it.
///
/// Rows end with `\n`, `\r\n` or `\r`, the last one perhaps with none. Blank lines are passed over, and so is a byte order mark. Quoted fields
/// may hold delimiters, line ends and doubled quotes.
///
/// # Bad rows
///
/// A row that is no `T` – a value that cannot be read, or not as many fields as the header has – is an error that names file, line, cause
/// and, where it is known, column, and fails the job: running it again would not help. With [`keep_bad_rows`](Self::keep_bad_rows)
/// such rows are records. Always an error are a header without a column that `T` needs, found at the first row, and a row that is
/// longer than [`max_row_size`](Self::max_row_size).
///
/// ```compile_fail
/// // `T` would have to borrow from the file, which is not in memory.
/// #[derive(serde::Deserialize)]
/// struct Flight<'a> {
///     carrier: &'a str,
/// }
/// let flights = strandline::connectors::Csv::<Flight<'static>>::new(["flights.csv"]);
/// ```
pub struct Csv<T> {
    files: TextFiles,
    dialect: Dialect,
    rule: Rule<T>,
}

impl<T: 'static> Csv<T> {
    /// The rows of these files on the local disk; a single file is `Csv::new([path])`. An empty list is a source that ends at once.
    #[must_use]
    pub fn new(paths: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self
    where
        T: DeserializeOwned,
    {
        Self::of(TextFiles::new(paths))
    }

    /// The rows of the visible files directly in this folder, as [`TextFiles::in_folder`] finds them. Each has a header of its own.
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
        Self {
            files: files.split_size(u64::MAX).max_row_size(64 * 1024 * 1024),
            dialect: Dialect::default(),
            rule: Rule { decode: |row, header| row.deserialize(header), bad: refuse },
        }
    }

    /// Takes rows that are no `T` as records, instead of failing at the first one.
    ///
    /// ```
    /// use strandline::prelude::*;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("points.csv");
    /// # std::fs::write(&path, "x,y\n1,2\n3,four\n5,6\n")?;
    /// # let env = Environment::builder().build()?;
    /// # let points = Collect::new();
    /// env.source("points", Csv::<(i64, i64)>::new([path]).keep_bad_rows())
    ///     .inspect(|row| {
    ///         if let Err(bad) = row {
    ///             eprintln!("{bad}"); // points.csv, line 3: column `y`: invalid digit found in string: "four"
    ///         }
    ///     })
    ///     .flat_map(|row| row.ok())
    ///     .sink("good", points.clone());
    /// # env.execute("bad-rows-doc").await?;
    /// # assert_eq!(points.records(), [(1, 2), (5, 6)]);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn keep_bad_rows(self) -> Csv<Result<T, BadRow>>
    where
        T: DeserializeOwned,
    {
        let rule = Rule { decode: |row, header| row.deserialize(header).map(Ok), bad: |row| Ok(Err(row)) };
        Csv { files: self.files, dialect: self.dialect, rule }
    }
}

impl<T> Csv<T> {
    /// What separates fields. Default: `,`.
    #[must_use]
    pub fn delimiter(mut self, delimiter: u8) -> Self {
        self.dialect.delimiter = delimiter;
        self
    }

    /// What fields are quoted with, or `None` where quotes mean nothing. Default: `"`.
    #[must_use]
    pub fn quote(mut self, quote: impl Into<Option<u8>>) -> Self {
        self.dialect.quote = quote.into();
        self
    }

    /// Passes over lines that begin with this, such as `#`. Default: there are no comments.
    #[must_use]
    pub fn comment(mut self, comment: u8) -> Self {
        self.dialect.comment = Some(comment);
        self
    }

    /// Says that the first row is a record like the others. Fields are then matched by their order, and a row may have more fields than `T`.
    #[must_use]
    pub fn without_header(mut self) -> Self {
        self.dialect.header = false;
        self
    }

    /// Removes white space around fields, in quotes too, and around the names in the header. A quote means something only right behind the
    /// delimiter, with or without this.
    #[must_use]
    pub fn trim(mut self) -> Self {
        self.dialect.trim = true;
        self
    }

    /// How many bytes a row may have: what a quote that is never closed costs in memory. A longer one is an error. Default: 64 MiB.
    /// Up to 256 KiB of text may be read beyond it.
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

impl<T: 'static> Source for Csv<T> {
    type Record = T;
    type Split = TextSplit;
    type Reader = TextReader<CsvRows<T>>;

    async fn splits(&self, restored: Option<Vec<TextSplit>>) -> Result<Vec<TextSplit>> {
        self.dialect.check()?;
        let splits = self.files.splits(restored).await?;
        match splits.iter().find(|split| !split.is_whole_file()) {
            None => Ok(splits),
            Some(part) => {
                let message = "the checkpoint is of a source that reads this file in parts, but CSV is read as a whole: give \
                               this source another uid, or start a new job";
                Err(Error::new(ErrorKind::Configuration, message).at(Path::new(part.path())).into())
            }
        }
    }

    fn assign(&self, splits: Vec<TextSplit>, parallelism: u32) -> Vec<Vec<TextSplit>> {
        self.files.assign(splits, parallelism)
    }

    fn reader(&self, splits: Vec<TextSplit>, _: &SubtaskContext) -> Result<Self::Reader> {
        Ok(TextReader::new(self.files.clone(), CsvRows::new(self.dialect, self.rule), splits))
    }
}

// Not derived: a record need not be cloneable, nor have a `Debug`.
impl<T> Clone for Csv<T> {
    fn clone(&self) -> Self {
        Self { files: self.files.clone(), dialect: self.dialect, rule: self.rule }
    }
}

impl<T> fmt::Debug for Csv<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { files, dialect, .. } = self;
        f.debug_struct("Csv").field("files", files).field("dialect", dialect).finish_non_exhaustive()
    }
}
