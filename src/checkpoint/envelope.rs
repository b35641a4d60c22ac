//! The envelope round every small file: what it is, in which version, and whether it is whole.
//!
//! | bytes | what |
//! |---|---|
//! | 0..8 | `STRANDLN` |
//! | 8..12 | kind of file, four letters |
//! | 12..16 | format version of that kind, `u32` little-endian, from 1 |
//! | 16..24 | length of the payload, `u64` little-endian |
//! | 24..28 | CRC-32C of the payload, `u32` little-endian |
//! | 28.. | payload: postcard |
//!
//! The first 16 bytes, the *preamble*, also begin the large files that have no other envelope.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;

/// What all files begin with.
const MAGIC: [u8; 8] = *b"STRANDLN";

/// Length of magic, kind and version.
pub const PREAMBLE: usize = 16;

/// Length of everything before the payload.
pub const HEADER: usize = 28;

/// A kind of file and the newest version of it that this library writes and reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Format {
    /// Four letters.
    pub kind: [u8; 4],
    /// Newest version known.
    pub version: u32,
}

/// Why the bytes are not the file they should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FormatError {
    /// Fewer bytes than there should be; none at all if `found` is 0.
    Truncated {
        /// How many there are.
        found: u64,
        /// How many there should be, at least.
        expected: u64,
    },
    /// Not a file of this library.
    Foreign,
    /// A file of this library, but of another kind.
    WrongKind {
        /// The kind it should be.
        expected: [u8; 4],
        /// The kind it is.
        found: [u8; 4],
    },
    /// Written by a newer version of this library.
    Newer {
        /// The version it has.
        found: u32,
        /// The newest version that can be read.
        supported: u32,
    },
    /// The content is not what was written.
    Damaged {
        /// The checksum it should have.
        expected: u32,
        /// The checksum it has.
        found: u32,
    },
    /// The content is whole but makes no sense; says why.
    Malformed(String),
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |kind: &[u8; 4]| kind.escape_ascii().to_string();
        match self {
            Self::Truncated { found: 0, .. } => f.write_str("the file is empty"),
            Self::Truncated { found, expected } => {
                write!(f, "the file is cut short: {found} bytes, expected at least {expected}")
            }
            Self::Foreign => f.write_str("not a file of strandline: it does not begin with `STRANDLN`"),
            Self::WrongKind { expected, found } => {
                write!(f, "a file of kind `{}`, expected kind `{}`", text(found), text(expected))
            }
            Self::Newer { found, supported } => {
                write!(f, "written by a newer version: {found}, this one reads up to {supported}")
            }
            Self::Damaged { expected, found } => {
                write!(f, "the content is damaged: checksum {found:08x}, expected {expected:08x}")
            }
            Self::Malformed(why) => write!(f, "the content makes no sense: {why}"),
        }
    }
}

impl std::error::Error for FormatError {}

/// The first bytes of a file of this format.
#[must_use]
pub fn preamble(format: Format) -> [u8; PREAMBLE] {
    let mut bytes = [0; PREAMBLE];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&format.kind);
    bytes[12..].copy_from_slice(&format.version.to_le_bytes());
    bytes
}

/// Checks that `bytes` begin with the preamble of a file that can be read; gives its version and the rest.
///
/// # Errors
/// Every [`FormatError`] but `Damaged`.
pub fn check_preamble(format: Format, bytes: &[u8]) -> Result<(u32, &[u8]), FormatError> {
    let prefix = bytes.len().min(MAGIC.len());
    if bytes[..prefix] != MAGIC[..prefix] {
        return Err(FormatError::Foreign);
    }
    let Some((start, rest)) = bytes.split_first_chunk::<PREAMBLE>() else {
        return Err(FormatError::Truncated { found: bytes.len() as u64, expected: PREAMBLE as u64 });
    };
    let [.., k0, k1, k2, k3, v0, v1, v2, v3] = *start;
    let found = [k0, k1, k2, k3];
    if found != format.kind {
        return Err(FormatError::WrongKind { expected: format.kind, found });
    }
    match u32::from_le_bytes([v0, v1, v2, v3]) {
        0 => Err(FormatError::Malformed("there is no format version 0".into())),
        version if version > format.version => {
            Err(FormatError::Newer { found: version, supported: format.version })
        }
        version => Ok((version, rest)),
    }
}

/// Puts a payload into an envelope.
#[must_use]
pub fn seal(format: Format, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend_from_slice(&preamble(format));
    bytes.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(payload).to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Takes the payload out of an envelope, with the version of its format.
///
/// # Errors
/// Any [`FormatError`].
pub fn unseal(format: Format, bytes: &[u8]) -> Result<(u32, &[u8]), FormatError> {
    let (version, rest) = check_preamble(format, bytes)?;
    let truncated = |expected| FormatError::Truncated { found: bytes.len() as u64, expected };
    let (len, rest) = rest.split_first_chunk::<8>().ok_or_else(|| truncated(HEADER as u64))?;
    let (checksum, payload) = rest.split_first_chunk::<4>().ok_or_else(|| truncated(HEADER as u64))?;
    let len = u64::from_le_bytes(*len);
    if (payload.len() as u64) < len {
        return Err(truncated(len.saturating_add(HEADER as u64)));
    }
    if payload.len() as u64 > len {
        return Err(FormatError::Malformed(format!("{} bytes follow its end", payload.len() as u64 - len)));
    }
    let (expected, found) = (u32::from_le_bytes(*checksum), crc32c::crc32c(payload));
    if expected == found { Ok((version, payload)) } else { Err(FormatError::Damaged { expected, found }) }
}

/// Encodes a value with postcard and seals it.
///
/// # Errors
/// [`FormatError::Malformed`] for what postcard cannot encode.
pub fn encode<T: Serialize>(format: Format, value: &T) -> Result<Vec<u8>, FormatError> {
    let payload = postcard::to_stdvec(value).map_err(|error| FormatError::Malformed(error.to_string()))?;
    Ok(seal(format, &payload))
}

/// Unseals and decodes a value. Never panics, whatever the bytes.
///
/// # Errors
/// Any [`FormatError`].
pub fn decode<T: DeserializeOwned>(format: Format, bytes: &[u8]) -> Result<T, FormatError> {
    let (_, payload) = unseal(format, bytes)?;
    parse(payload)
}

/// Decodes the whole of a payload.
///
/// # Errors
/// [`FormatError::Malformed`].
pub fn parse<T: DeserializeOwned>(payload: &[u8]) -> Result<T, FormatError> {
    let (value, rest) = parse_front(payload)?;
    check_end(rest)?;
    Ok(value)
}

/// Decodes the front of a payload, and gives the rest.
///
/// # Errors
/// [`FormatError::Malformed`].
pub fn parse_front<T: DeserializeOwned>(payload: &[u8]) -> Result<(T, &[u8]), FormatError> {
    postcard::take_from_bytes(payload).map_err(|error| FormatError::Malformed(error.to_string()))
}

/// Checks that nothing is left of a payload.
///
/// # Errors
/// [`FormatError::Malformed`].
pub fn check_end(rest: &[u8]) -> Result<(), FormatError> {
    if rest.is_empty() {
        Ok(())
    } else {
        Err(FormatError::Malformed(format!("{} bytes too many", rest.len())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FORMAT: Format = Format { kind: *b"TEST", version: 1 };

    #[test]
    fn what_was_sealed_comes_out_again() {
        let bytes = encode(FORMAT, &(7_u64, "text".to_string())).unwrap();
        assert_eq!(decode::<(u64, String)>(FORMAT, &bytes), Ok((7, "text".to_string())));
        assert_eq!(&bytes[..16], b"STRANDLNTEST\x01\0\0\0");
    }

    #[test]
    fn each_fault_has_its_own_error() {
        let good = encode(FORMAT, &7_u64).unwrap();
        let fault = |bytes: &[u8]| decode::<u64>(FORMAT, bytes).unwrap_err().to_string();
        assert_eq!(fault(b""), "the file is empty");
        assert_eq!(fault(&good[..20]), "the file is cut short: 20 bytes, expected at least 28");
        assert_eq!(fault(&good[..28]), "the file is cut short: 28 bytes, expected at least 29");
        assert_eq!(fault(b"PK\x03\x04"), "not a file of strandline: it does not begin with `STRANDLN`");
        let other = encode(Format { kind: *b"ELSE", version: 1 }, &7_u64).unwrap();
        assert_eq!(fault(&other), "a file of kind `ELSE`, expected kind `TEST`");
        let newer = encode(Format { version: 2, ..FORMAT }, &7_u64).unwrap();
        assert_eq!(fault(&newer), "written by a newer version: 2, this one reads up to 1");
        let mut damaged = good.clone();
        damaged[28] ^= 1;
        assert!(fault(&damaged).starts_with("the content is damaged: checksum "));
        let longer = [&good[..], b"x"].concat();
        assert_eq!(fault(&longer), "the content makes no sense: 1 bytes follow its end");
        let surplus = seal(FORMAT, &[7, 7]);
        assert_eq!(fault(&surplus), "the content makes no sense: 1 bytes too many");
        let zero = encode(Format { version: 0, ..FORMAT }, &7_u64).unwrap();
        assert_eq!(fault(&zero), "the content makes no sense: there is no format version 0");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            prop_assert!(decode::<Vec<String>>(FORMAT, &bytes).is_err());
            // Behind a right header the payload itself is put to the test.
            let _ = decode::<Vec<(String, Option<u64>)>>(FORMAT, &seal(FORMAT, &bytes));
        }
    }
}
