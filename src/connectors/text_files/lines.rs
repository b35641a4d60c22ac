//! Lines as they are.

use super::decoder::{Decoder, Fault, scan_line, without_ending};
use crate::connectors::bad_row::BadRow;
use crate::error::{Error, ErrorKind, Result};
use std::path::Path;

/// Each row a line, each line a record.
#[derive(Debug, Clone, Copy)]
pub struct Lines;

impl Decoder for Lines {
    type Record = String;

    fn another(&self) -> Self {
        *self
    }

    fn scan(&mut self, bytes: &[u8]) -> (usize, bool) {
        scan_line(bytes)
    }

    /// As `str::lines` has it: a carriage return belongs to the line unless a line feed follows.
    fn decode(&mut self, row: &[u8]) -> Result<String, Fault> {
        let line = std::str::from_utf8(without_ending(row));
        let line = line.map_err(|error| format!("is not UTF-8 at its byte {}", error.valid_up_to() + 1));
        Ok(line.map_err(Fault::Row)?.to_owned())
    }

    fn bad(&self, BadRow { path, line, reason, .. }: BadRow) -> Result<String> {
        let message = format!("line {line} of an input file {reason}: convert the file, and start a new job");
        Err(Error::new(ErrorKind::Corrupt, message).at(Path::new(&path)).into())
    }
}
