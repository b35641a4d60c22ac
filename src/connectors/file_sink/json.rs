//! Records as lines of JSON.

use super::{Encode, FileSink};
use crate::error::{Error, ErrorKind, Result};
use serde::Serialize;

/// Each record a line of JSON, by its [`Serialize`]: see [`FileSink::json_lines`].
#[derive(Debug, Clone, Copy, Default)]
pub struct JsonEncode;

impl FileSink {
    /// Files in `folder` on the local disk, each record a line of JSON, with the suffix `.jsonl`.
    /// [`JsonLines`](crate::connectors::JsonLines) reads them back. Cargo feature `json`, on by default.
    ///
    /// A float that is no number becomes `null`. A record that JSON cannot hold, such as a map whose keys are lists, fails the job.
    ///
    /// ```
    /// use serde::{Deserialize, Serialize};
    /// use strandline::prelude::*;
    ///
    /// #[derive(Debug, PartialEq, Serialize, Deserialize)]
    /// struct Word {
    ///     word: String,
    ///     n: u64,
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result {
    /// # let dir = tempfile::tempdir()?;
    /// # let out = dir.path().join("out");
    /// # let env = Environment::builder().parallelism(1).build()?;
    /// env.source("numbers", Iter::new(1..3_u64))
    ///     .map(|n| Word { word: "tide".repeat(n as usize), n })
    ///     .sink("words", FileSink::json_lines(&out));
    /// env.execute("json-sink-doc").await?;
    /// # let file = std::fs::read_dir(&out)?.next().ok_or("no file")??;
    /// # let text = std::fs::read_to_string(file.path())?;
    /// assert_eq!(text, "{\"word\":\"tide\",\"n\":1}\n{\"word\":\"tidetide\",\"n\":2}\n"); // of its one file
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn json_lines(folder: impl Into<std::path::PathBuf>) -> FileSink<JsonEncode> {
        Self::at(folder).suffix(".jsonl").encoder(JsonEncode)
    }
}

impl<T: Serialize> Encode<T> for JsonEncode {
    fn encode(&self, record: &T, out: &mut Vec<u8>) -> Result {
        serde_json::to_writer(&mut *out, record).map_err(|error| {
            Error::new(ErrorKind::Program, "a record cannot be written as JSON: change its type")
                .because(error)
        })?;
        out.push(b'\n');
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_record_is_one_line_whatever_is_in_it() {
        let mut out = Vec::new();
        JsonEncode.encode(&("a\nb\r\"\u{2028}", Some(1.5), f64::NAN, None::<u8>), &mut out).unwrap();
        JsonEncode.encode_first(&'x', &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "[\"a\\nb\\r\\\"\u{2028}\",1.5,null,null]\n\"x\"\n");
    }

    #[test]
    fn a_record_that_json_cannot_hold_is_an_error() {
        let error = JsonEncode.encode(&BTreeMap::from([((1, 2), 3)]), &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("key must be a string"), "{error}");
    }
}
