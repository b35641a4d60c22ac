//! Rows of CSV in bytes that come in pieces. Pure.

use crate::connectors::bad_row::{BadRow, excerpt};
use crate::connectors::text_files::decoder::{Decoder, Fault};
use crate::error::{Error, ErrorKind, Result};
use ::csv::{ByteRecord, DeserializeErrorKind};
use csv_core::ReadRecordResult;
use std::fmt;

/// How the text is written.
#[derive(Debug, Clone, Copy)]
pub(in crate::connectors) struct Dialect {
    pub(in crate::connectors) delimiter: u8,
    pub(super) quote: Option<u8>,
    pub(super) comment: Option<u8>,
    pub(in crate::connectors) header: bool,
    pub(super) trim: bool,
}

impl Default for Dialect {
    fn default() -> Self {
        Self { delimiter: b',', quote: Some(b'"'), comment: None, header: true, trim: false }
    }
}

impl Dialect {
    pub(in crate::connectors) fn check(&self) -> Result {
        let marks = [Some(self.delimiter), self.quote, self.comment];
        let marks: Vec<u8> = marks.into_iter().flatten().collect();
        let usable = |mark: &u8| mark.is_ascii() && !matches!(*mark, b'\n' | b'\r');
        let distinct = marks.iter().enumerate().all(|(i, mark)| !marks.iter().skip(i + 1).any(|m| m == mark));
        if distinct && marks.iter().all(usable) {
            return Ok(());
        }
        let message = format!(
            "delimiter, quote and comment of CSV must be different ASCII characters and no line ends, but are \"{}\"",
            marks.escape_ascii()
        );
        Err(Error::new(ErrorKind::Configuration, message).into())
    }

    fn parser(&self) -> csv_core::Reader {
        let mut parser = csv_core::ReaderBuilder::new();
        parser.delimiter(self.delimiter).quoting(self.quote.is_some());
        if let Some(quote) = self.quote {
            parser.quote(quote);
        }
        let mut parser = parser.build();
        // At its very first bytes it would take away a byte order mark, wherever in the text they are. This blank line is them.
        let _ = parser.read_record(b"\n", &mut [0], &mut [0]);
        parser
    }
}

/// What becomes of a row, good or bad.
pub(super) struct Rule<T> {
    pub(super) decode: for<'r> fn(&'r ByteRecord, Option<&'r ByteRecord>) -> ::csv::Result<T>,
    pub(super) bad: fn(BadRow) -> Result<T>,
}

impl<T> Clone for Rule<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Rule<T> {}

/// Finds rows of CSV and makes records of them.
pub struct CsvRows<T> {
    dialect: Dialect,
    rule: Rule<T>,
    parser: csv_core::Reader,
    at: At,
    /// The fields of the row, one after the other without quotes, and where each ends. Of both only the first so many count.
    text: Vec<u8>,
    ends: Vec<usize>,
    written: usize,
    fields: usize,
    header: Option<ByteRecord>,
    row: ByteRecord,
}

/// Where in the text the parser is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Start,
    InRow,
    InComment,
    /// Behind a blank line or a comment.
    EndOfNothing,
    EndOfRow,
    /// At the end of the text, and inside of quotes.
    Unclosed,
}

impl<T> fmt::Debug for CsvRows<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dialect, header, at, .. } = self;
        let mut shown = f.debug_struct("CsvRows");
        shown.field("dialect", dialect).field("header", header).field("at", at).finish_non_exhaustive()
    }
}

impl<T> CsvRows<T> {
    pub(super) fn new(dialect: Dialect, rule: Rule<T>) -> Self {
        Self {
            dialect,
            rule,
            parser: dialect.parser(),
            at: At::Start,
            text: vec![0; 256],
            ends: vec![0; 32],
            written: 0,
            fields: 0,
            header: None,
            row: ByteRecord::new(),
        }
    }

    fn scan_row(&mut self, bytes: &[u8]) -> (usize, bool) {
        let mut passed = 0;
        loop {
            let rest = bytes.get(passed..).unwrap_or_default();
            let text = self.text.get_mut(self.written..).unwrap_or_default();
            let ends = self.ends.get_mut(self.fields..).unwrap_or_default();
            let (result, read, written, ended) = self.parser.read_record(rest, text, ends);
            passed += read;
            self.written += written;
            self.fields += ended;
            match result {
                ReadRecordResult::OutputFull => self.text.resize(self.text.len() * 2, 0),
                ReadRecordResult::OutputEndsFull => self.ends.resize(self.ends.len() * 2, 0),
                ReadRecordResult::InputEmpty | ReadRecordResult::End => return (passed, false),
                ReadRecordResult::Record => {
                    self.at = At::EndOfRow;
                    return (passed, true);
                }
            }
        }
    }

    /// The fields of the row, as the user wants them.
    fn load(&mut self) {
        self.row.clear();
        let mut start = 0;
        for end in self.ends.iter().take(self.fields) {
            self.row.push_field(self.text.get(start..*end).unwrap_or_default());
            start = *end;
        }
        if self.dialect.trim {
            self.row.trim();
        }
    }

    fn fault(&self, error: &::csv::Error) -> Fault {
        let ::csv::ErrorKind::Deserialize { err, .. } = error.kind() else {
            return Fault::Row(error.to_string());
        };
        if let (Some(header), DeserializeErrorKind::Message(message)) = (&self.header, err.kind())
            && let Some(why) = header_fault(header, message)
        {
            return Fault::File(format!("{why}. The header: {}", excerpt(&names(header))));
        }
        let Some(index) = err.field().and_then(|index| usize::try_from(index).ok()) else {
            return Fault::Row(err.kind().to_string());
        };
        let column = match self.header.as_ref().and_then(|header| header.get(index)) {
            Some(name) => format!("column `{}`", String::from_utf8_lossy(name)),
            None => format!("column {}", index + 1),
        };
        let value = String::from_utf8_lossy(self.row.get(index).unwrap_or_default());
        Fault::Row(format!("{column}: {}: {}", err.kind(), excerpt(&value)))
    }
}

impl<T: 'static> Decoder for CsvRows<T> {
    type Record = T;

    const SKIPS_BOM: bool = true;

    fn another(&self) -> Self {
        Self::new(self.dialect, self.rule)
    }

    fn wants_beginning(&self) -> bool {
        self.dialect.header && self.header.is_none()
    }

    fn scan(&mut self, bytes: &[u8]) -> (usize, bool) {
        let Some(first) = bytes.first() else { return (0, false) };
        if !matches!(self.at, At::InRow | At::InComment) {
            (self.written, self.fields) = (0, 0);
            self.at = if matches!(first, b'\n' | b'\r') {
                At::EndOfNothing
            } else if self.dialect.comment == Some(*first) {
                At::InComment
            } else {
                At::InRow
            };
        }
        match self.at {
            At::InRow => self.scan_row(bytes),
            At::InComment => match bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
                Some(end) => {
                    self.at = At::EndOfNothing;
                    (end + 1, true)
                }
                None => (bytes.len(), false),
            },
            _ => (1, true),
        }
    }

    fn close(&mut self) {
        if self.at == At::InComment {
            self.at = At::EndOfNothing;
        } else if self.at == At::InRow && !self.scan_row(b"\n").1 {
            // A line ending would not have ended the row.
            self.at = At::Unclosed;
        }
    }

    fn passes_over(&mut self, _: &[u8]) -> bool {
        match self.at {
            At::EndOfNothing => true,
            At::EndOfRow if self.wants_beginning() => {
                self.load();
                self.header = Some(self.row.clone());
                true
            }
            _ => false,
        }
    }

    fn decode(&mut self, _: &[u8]) -> Result<T, Fault> {
        if self.at == At::Unclosed {
            let open = "a quote is never closed";
            return Err(if self.wants_beginning() {
                Fault::File(format!("{open} in the header of an input file"))
            } else {
                Fault::Row(open.to_owned())
            });
        }
        self.load();
        if let Some(header) = &self.header
            && header.len() != self.row.len()
        {
            let (found, expected) = (count_fields(self.row.len()), header.len());
            return Err(Fault::Row(format!("it has {found}, and the header has {expected}")));
        }
        (self.rule.decode)(&self.row, self.header.as_ref()).map_err(|error| self.fault(&error))
    }

    fn bad(&self, row: BadRow) -> Result<T> {
        (self.rule.bad)(row)
    }
}

/// What is wrong with the header, if serde's message about a row is about names: then it holds for every row.
fn header_fault(header: &ByteRecord, message: &str) -> Option<String> {
    let mut parts = message.split('`');
    let (what, column) = (parts.next()?, parts.next()?);
    match (what, header.iter().filter(|name| *name == column.as_bytes()).count()) {
        ("missing field ", 0) => {
            Some(format!("an input file has no column `{column}`, and the record type needs one"))
        }
        ("duplicate field ", 2..) => Some(format!("an input file has several columns `{column}`")),
        ("unknown field ", 1..) => {
            Some(format!("an input file has a column `{column}`, and the record type allows none"))
        }
        _ => None,
    }
}

fn names(header: &ByteRecord) -> String {
    header.iter().map(String::from_utf8_lossy).collect::<Vec<_>>().join(",")
}

fn count_fields(fields: usize) -> String {
    if fields == 1 { "1 field".to_owned() } else { format!("{fields} fields") }
}
