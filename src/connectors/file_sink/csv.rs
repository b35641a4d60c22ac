//! Records as rows of CSV.

use super::{Encode, FileSink};
use crate::connectors::csv::Dialect;
use crate::error::{Error, ErrorKind, Result};
use ::csv::{Writer, WriterBuilder};
use serde::Serialize;
use std::cell::Cell;
use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// Each record a row of CSV, by its [`Serialize`]: see [`FileSink::csv`].
pub struct CsvEncode {
    dialect: Dialect,
    /// Of the file that is being written: it knows how many fields its rows have. Each clone, and so each subtask, has its own.
    writer: Mutex<Option<Writer<Bytes>>>,
}

impl FileSink {
    /// Files in `folder` on the local disk, each record a row of CSV, with the suffix `.csv`. Every file begins with a header if records are
    /// structs. [`Csv`](crate::connectors::Csv) reads them back. Cargo feature `csv`, on by default.
    ///
    /// Fields of a record are numbers, strings, `bool`s, `char`s, `Option`s and unit variants of enums; `None` is an empty field. Fields with
    /// delimiters, quotes or line ends are quoted. A record with anything else in it, or with another number of fields than the
    /// one before (`skip_serializing_if`), fails the job. In a tuple there may be structs, whose fields then follow each other, if there is
    /// [no header](FileSink::without_header).
    ///
    /// ```
    /// use serde::{Deserialize, Serialize};
    /// use strandline::prelude::*;
    ///
    /// #[derive(Debug, PartialEq, Serialize, Deserialize)]
    /// struct Word {
    ///     word: String,
    ///     n: Option<u64>,
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result {
    /// # let dir = tempfile::tempdir()?;
    /// # let out = dir.path().join("out");
    /// # let env = Environment::builder().parallelism(1).build()?;
    /// env.source("words", Iter::new([("ebb, flow", Some(1)), ("tide", None)]))
    ///     .map(|(word, n)| Word { word: word.to_owned(), n })
    ///     .sink("files", FileSink::csv(&out));
    /// env.execute("csv-sink-doc").await?;
    /// # let file = std::fs::read_dir(&out)?.next().ok_or("no file")??;
    /// # let text = std::fs::read_to_string(file.path())?;
    /// assert_eq!(text, "word,n\n\"ebb, flow\",1\ntide,\n"); // of its one file
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn csv(folder: impl Into<PathBuf>) -> FileSink<CsvEncode> {
        let encoder = CsvEncode { dialect: Dialect::default(), writer: Mutex::default() };
        Self::at(folder).suffix(".csv").encoder(encoder)
    }
}

impl FileSink<CsvEncode> {
    /// What separates fields. Default: `,`.
    #[must_use]
    pub fn delimiter(mut self, delimiter: u8) -> Self {
        self.encoder.dialect.delimiter = delimiter;
        self
    }

    /// Writes no header.
    #[must_use]
    pub fn without_header(mut self) -> Self {
        self.encoder.dialect.header = false;
        self
    }
}

impl CsvEncode {
    fn writer(&self, first: bool) -> Result<Writer<Bytes>> {
        self.dialect.check()?;
        let header = first && self.dialect.header;
        let mut writer = WriterBuilder::new();
        writer.delimiter(self.dialect.delimiter).has_headers(header);
        Ok(writer.from_writer(Bytes::default()))
    }

    fn write(&self, record: &impl Serialize, out: &mut Vec<u8>, first: bool) -> Result {
        // A writer that something went wrong in is not put back.
        let mut kept = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut writer = match kept.take() {
            Some(writer) if !first => writer,
            _ => self.writer(first)?,
        };
        writer.serialize(record).map_err(|error| {
            let message = "a record is no row of CSV like those before it in its file: its fields must be plain values and as many \
                           each time. A struct inside of a tuple needs without_header()";
            Error::new(ErrorKind::Program, message).because(error)
        })?;
        writer.flush()?;
        let written = writer.get_ref().0.take();
        out.extend_from_slice(&written);
        writer.get_ref().0.set(cleared(written));
        *kept = Some(writer);
        Ok(())
    }
}

impl<T: Serialize> Encode<T> for CsvEncode {
    fn encode(&self, record: &T, out: &mut Vec<u8>) -> Result {
        self.write(record, out, false)
    }

    fn encode_first(&self, record: &T, out: &mut Vec<u8>) -> Result {
        self.write(record, out, true)
    }
}

impl Clone for CsvEncode {
    fn clone(&self) -> Self {
        Self { dialect: self.dialect, writer: Mutex::default() }
    }
}

impl fmt::Debug for CsvEncode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CsvEncode").field("dialect", &self.dialect).finish_non_exhaustive()
    }
}

/// What a CSV writer has written, to be taken out of it.
#[derive(Default)]
struct Bytes(Cell<Vec<u8>>);

impl Write for Bytes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.get_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn cleared(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.clear();
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connectors::test_support::{Files, context, recovery};
    use crate::operator::{Sink, SinkWriter};
    use std::collections::BTreeMap;
    use std::sync::Arc;

    #[derive(Serialize)]
    enum Tide {
        Ebb,
    }

    #[derive(Serialize)]
    struct Row {
        text: &'static str,
        #[serde(rename = "number")]
        n: Option<f64>,
        tide: Tide,
        #[serde(skip_serializing_if = "Option::is_none")]
        sometimes: Option<bool>,
    }

    const ROW: Row = Row { text: "a\"b\r\n", n: None, tide: Tide::Ebb, sometimes: Some(true) };

    fn encoder() -> CsvEncode {
        FileSink::csv("out").encoder
    }

    fn text(out: Vec<u8>) -> String {
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_file_begins_with_the_names_of_the_fields() {
        let (encoder, mut out) = (encoder(), Vec::new());
        encoder.encode_first(&ROW, &mut out).unwrap();
        encoder.encode(&Row { text: "", n: Some(1.5), ..ROW }, &mut out).unwrap();
        assert_eq!(text(out), "text,number,tide,sometimes\n\"a\"\"b\r\n\",,Ebb,true\n,1.5,Ebb,true\n");
    }

    #[test]
    fn tuples_and_no_header_are_rows_alone() {
        let sink = FileSink::csv("out").without_header().delimiter(b'\t');
        let mut out = Vec::new();
        sink.encoder.encode_first(&(1, (ROW, "x\ty")), &mut out).unwrap();
        assert_eq!(text(out), "1\t\"a\"\"b\r\n\"\t\tEbb\ttrue\t\"x\ty\"\n");
        let mut out = Vec::new();
        encoder().encode_first(&("a", 1), &mut out).unwrap();
        assert_eq!(text(out), "a,1\n");
    }

    #[test]
    fn a_row_with_another_number_of_fields_is_an_error() {
        let (encoder, mut out) = (encoder(), Vec::new());
        encoder.encode_first(&ROW, &mut out).unwrap();
        let error = encoder.encode(&Row { sometimes: None, ..ROW }, &mut out).unwrap_err().to_string();
        assert!(error.contains("4 fields") && error.contains("3 fields"), "{error}");
        assert!(error.contains("fault in the program") && error.contains("as many each time"), "{error}");
    }

    #[test]
    fn a_delimiter_that_would_spoil_the_file_is_an_error() {
        for delimiter in [b'"', b'\n'] {
            let sink = FileSink::csv("out").delimiter(delimiter);
            let error = sink.encoder.encode_first(&ROW, &mut Vec::new()).unwrap_err().to_string();
            assert!(error.contains("delimiter"), "{error}");
        }
    }

    #[test]
    fn a_record_that_is_no_row_is_an_error() {
        let error = encoder().encode_first(&BTreeMap::from([(1, 2)]), &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("map"), "{error}");
    }

    /// Each checkpoint begins a file.
    #[tokio::test]
    async fn every_file_of_every_subtask_has_its_header_once() {
        let disk = crate::storage::MemoryDisk::new();
        let sink = FileSink::csv("out").buffer_size(1).disk(Arc::new(disk.clone()));
        Sink::<Row>::recover(&sink, Vec::new(), &recovery(1, 0)).await.unwrap();
        for subtask in 0..2 {
            let mut writer = Sink::<Row>::writer(&sink, &context(subtask)).unwrap();
            for rows in [2, 0, 1, 3] {
                for _ in 0..rows {
                    writer.write(Row { text: "x", ..ROW }).unwrap();
                    SinkWriter::<Row>::flush(&mut writer).await.unwrap();
                }
                let prepared = SinkWriter::<Row>::prepare(&mut writer).unwrap().await.unwrap();
                Sink::<Row>::commit(&sink, prepared).await.unwrap();
            }
        }
        let files = disk.files("out");
        assert_eq!(files.len(), 6, "{files:?}");
        for ((name, content), rows) in files.iter().zip([2, 1, 3, 2, 1, 3]) {
            assert!(name.ends_with(".csv"), "{name}");
            let expected = format!("text,number,tide,sometimes\n{}", "x,,Ebb,true\n".repeat(rows));
            assert_eq!(*content, expected, "{name}");
        }
    }
}
