//! Compressed segments: blocks one after the other, each compressed by itself, so that neither writing nor reading needs more memory than a
//! segment and a block.
//!
//! A block is the number of bytes that it holds and the number of bytes that follow, both as `u32` little-endian, and these: in LZ4's block
//! format, or as they are where that makes them no fewer. The checksum of a segment is over what is stored.

use crate::error::{Error, ErrorKind};

/// How many bytes a block holds at most: more compress hardly better, fewer worse.
pub(super) const BLOCK: usize = 256 << 10;

/// Bytes in front of each block.
#[cfg(feature = "lz4")]
const HEADER: usize = 8;

/// A block of at most [`BLOCK`] bytes, as it is stored.
#[cfg(feature = "lz4")]
pub(super) fn pack(block: &[u8]) -> Result<Vec<u8>, Error> {
    let packed = lz4_flex::block::compress(block);
    let content = if packed.len() < block.len() { &packed } else { block };
    let mut stored = Vec::with_capacity(HEADER + content.len());
    for len in [block.len(), content.len()] {
        let len = u32::try_from(len).map_err(|_| Error::new(ErrorKind::Internal, "a block is too large"))?;
        stored.extend_from_slice(&len.to_le_bytes());
    }
    stored.extend_from_slice(content);
    Ok(stored)
}

/// What the blocks of a segment hold; an error says what is wrong with them.
#[cfg(feature = "lz4")]
pub(super) fn unpack(mut stored: &[u8]) -> Result<Vec<u8>, Error> {
    let corrupt = |at: usize, why: String| {
        Error::new(ErrorKind::Corrupt, format!("the compressed block at byte {at} makes no sense: {why}"))
    };
    let (all, mut bytes) = (stored.len(), Vec::new());
    while !stored.is_empty() {
        let at = all - stored.len();
        let cut = || corrupt(at, "it is cut short".to_owned());
        let (len, rest) = stored.split_first_chunk::<4>().ok_or_else(cut)?;
        let (content, rest) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
        let (len, content) = (u32::from_le_bytes(*len) as usize, u32::from_le_bytes(*content) as usize);
        if len > BLOCK || content > len {
            return Err(corrupt(at, format!("it is said to hold {len} bytes in {content}")));
        }
        let (content, rest) = rest.split_at_checked(content).ok_or_else(cut)?;
        let start = bytes.len();
        if content.len() == len {
            bytes.extend_from_slice(content);
        } else {
            bytes.resize(start + len, 0);
            let into = bytes.get_mut(start..).unwrap_or_default();
            let found = lz4_flex::block::decompress_into(content, into);
            let found = found.map_err(|error| corrupt(at, error.to_string()))?;
            if found != len {
                return Err(corrupt(at, format!("it holds {found} bytes, expected {len}")));
            }
        }
        stored = rest;
    }
    Ok(bytes)
}

#[cfg(not(feature = "lz4"))]
pub(super) fn pack(_: &[u8]) -> Result<Vec<u8>, Error> {
    Err(not_built_in())
}

#[cfg(not(feature = "lz4"))]
pub(super) fn unpack(_: &[u8]) -> Result<Vec<u8>, Error> {
    Err(not_built_in())
}

/// What to do where the program cannot read or write such a file.
pub(super) fn not_built_in() -> Error {
    let what = "state is compressed with lz4, and this program was built without the cargo feature `lz4` of strandline: turn it on";
    Error::new(ErrorKind::Configuration, what)
}

#[cfg(test)]
#[cfg(feature = "lz4")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packed(bytes: &[u8]) -> Vec<u8> {
        bytes.chunks(BLOCK).flat_map(|block| pack(block).unwrap()).collect()
    }

    /// Bytes that nothing can be made of.
    fn noise(len: usize) -> Vec<u8> {
        let mut random = crate::types::Random::from_seed(7);
        (0..len).map(|_| (random.next_u64() >> 56) as u8).collect()
    }

    #[test]
    fn all_comes_back_and_what_cannot_be_made_smaller_grows_by_a_header_only() {
        for len in [0, 1, 2, 100, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5] {
            for bytes in [vec![7; len], noise(len)] {
                let packed = packed(&bytes);
                assert_eq!(unpack(&packed).unwrap(), bytes);
                assert!(packed.len() <= len + HEADER * len.div_ceil(BLOCK), "{len}: {}", packed.len());
            }
        }
        assert!(packed(&vec![7; 3 * BLOCK]).len() < 5_000);
    }

    #[test]
    fn what_is_wrong_with_a_block_is_said_with_its_place() {
        let good = packed(&[vec![1; BLOCK], vec![2; 1000]].concat());
        let first = 8 + u32::from_le_bytes(good[4..8].try_into().unwrap()) as usize;
        for len in first + 1..good.len() {
            let error = unpack(&good[..len]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.to_string().contains(&format!("at byte {first}")), "{len}: {error}");
        }
        for (at, what) in [(first + 2, "hold"), (first + 4, ""), (first + 8, "")] {
            let mut bad = good.clone();
            bad[at] ^= 0x55;
            let error = unpack(&bad).unwrap_err().to_string();
            assert!(error.contains(&format!("at byte {first}")) && error.contains(what), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_take_more_than_they_say(bytes: Vec<u8>) {
            if let Ok(unpacked) = unpack(&bytes) {
                prop_assert!(unpacked.len() <= bytes.len() * BLOCK);
            }
        }
    }
}
