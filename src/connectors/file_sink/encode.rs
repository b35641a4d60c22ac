//! How records become bytes.

use crate::connectors::line::push_line;
use crate::error::Result;
use std::fmt::{self, Display};
use std::marker::PhantomData;

/// Turns records into bytes of a file.
pub trait Encode<T>: Clone + Send + Sync + 'static {
    /// Appends a record to the buffer. An error fails the subtask; what was appended before it is taken back.
    fn encode(&self, record: &T, out: &mut Vec<u8>) -> Result;

    /// As [`encode`](Self::encode), for the first record of a file: for formats in which a file begins with something, such as a header.
    /// The default is `encode`.
    fn encode_first(&self, record: &T, out: &mut Vec<u8>) -> Result {
        self.encode(record, out)
    }
}

/// Each record a line, by its [`Display`] and with `\n` at its end.
#[derive(Debug, Clone, Copy, Default)]
pub struct DisplayLines;

impl<T: Display> Encode<T> for DisplayLines {
    fn encode(&self, record: &T, out: &mut Vec<u8>) -> Result {
        push_line(record, out)
    }
}

/// Encodes by a function.
pub struct EncodeWith<T, F> {
    encode: F,
    records: PhantomData<fn(&T)>,
}

impl<T, F> EncodeWith<T, F> {
    pub(super) fn new(encode: F) -> Self {
        Self { encode, records: PhantomData }
    }
}

// Not derived: a record need not be cloneable.
impl<T, F: Clone> Clone for EncodeWith<T, F> {
    fn clone(&self) -> Self {
        Self::new(self.encode.clone())
    }
}

impl<T, F> fmt::Debug for EncodeWith<T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EncodeWith")
    }
}

impl<T, F> Encode<T> for EncodeWith<T, F>
where
    T: 'static,
    F: Fn(&T, &mut Vec<u8>) + Clone + Send + Sync + 'static,
{
    fn encode(&self, record: &T, out: &mut Vec<u8>) -> Result {
        (self.encode)(record, out);
        Ok(())
    }
}
