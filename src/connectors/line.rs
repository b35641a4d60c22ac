//! A record as a line.

use crate::error::Result;
use std::fmt::{self, Display, Write};

/// Appends the record and `\n`, or nothing if its `Display` fails.
pub(super) fn push_line(record: &impl Display, out: &mut Vec<u8>) -> Result {
    let len = out.len();
    // Not by `io::Write`: that panics when a `Display` fails and the writer does not.
    let written = writeln!(Text(out), "{record}");
    if written.is_err() {
        out.truncate(len);
    }
    Ok(written?)
}

struct Text<'a>(&'a mut Vec<u8>);

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Half;

    impl Display for Half {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("half")?;
            Err(fmt::Error)
        }
    }

    #[test]
    fn a_record_that_cannot_be_shown_is_an_error_and_leaves_no_trace() {
        let mut out = Vec::new();
        push_line(&1, &mut out).unwrap();
        assert!(push_line(&Half, &mut out).is_err());
        push_line(&"ü", &mut out).unwrap();
        assert_eq!(out, "1\nü\n".as_bytes());
    }
}
