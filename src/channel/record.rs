//! What crosses a channel, and how it is copied and stored while it is on its way.

use super::{AnyBatch, Batch, Hashed};
use crate::checkpoint::metadata::StateSchema;
use crate::error::{Error, ErrorKind};
use crate::state::{codec, schema};
use serde::de::DeserializeOwned;
use serde::{Serialize, Serializer};
use std::fmt;

/// A record that can go from one subtask to another: across `key_by`, `rebalance`, `broadcast`, `union`, `connect`, and out of the
/// side of `split`, `tee` and side outputs. Implemented for every type that has what it asks for.
///
/// `Send`, because the subtasks may run on different threads; `Clone` and serde, because a checkpoint whose barriers overtake
/// ([`Checkpointing::unaligned`](crate::Checkpointing::unaligned)) holds the records on their way. Without such checkpoints a record is
/// never cloned or encoded for this. Within a chain a record may be anything.
pub trait Record: Clone + Send + Serialize + DeserializeOwned + 'static {}

impl<T: Clone + Send + Serialize + DeserializeOwned + 'static> Record for T {}

/// Says of the hash of a key whether its records are wanted.
pub type Wanted<'a> = &'a dyn Fn(u64) -> bool;

/// What can be done with the batches of an edge by those who do not know the type of its records.
#[derive(Clone, Copy)]
pub struct RecordCodec {
    copy: fn(&AnyBatch) -> Option<AnyBatch>,
    encode: fn(&AnyBatch, &mut Vec<u8>) -> Result<(), Error>,
    decode: fn(&[u8], Wanted<'_>) -> Result<Vec<AnyBatch>, Error>,
    check: fn() -> Result<(), Error>,
    schema: fn() -> StateSchema,
}

impl RecordCodec {
    /// For batches of `T`.
    #[must_use]
    pub fn of<T: Record>() -> Self {
        Self {
            copy: copy::<T>,
            encode: |batch, to| {
                let items = &batch.downcast_ref::<Batch<T>>().ok_or_else(foreign)?.items;
                encode(items.len(), [], items, to)
            },
            decode: |bytes, _| {
                decode(bytes, false, |_, items: Vec<T>| {
                    (!items.is_empty()).then(|| Box::new(Batch { items }) as AnyBatch)
                })
            },
            check: codec::check::<T>,
            schema: || schema::list::<T>("in-flight"),
        }
    }

    /// For batches of `T` with the hashes of their keys.
    #[must_use]
    pub fn keyed<T: Record>() -> Self {
        Self {
            copy: copy::<Hashed<T>>,
            encode: |batch, to| {
                let items = &batch.downcast_ref::<Batch<Hashed<T>>>().ok_or_else(foreign)?.items;
                encode(items.len(), items.iter().map(|item| item.hash), &Records(items), to)
            },
            decode: |bytes, wanted| {
                decode(bytes, true, |hashes, records: Vec<T>| {
                    let items = hashes.zip(records).filter(|(hash, _)| wanted(*hash));
                    let items: Vec<_> = items.map(|(hash, record)| Hashed { hash, record }).collect();
                    (!items.is_empty()).then(|| Box::new(Batch { items }) as AnyBatch)
                })
            },
            ..Self::of::<T>()
        }
    }

    /// A copy of a batch.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] when it is a batch of another edge.
    pub fn copy(&self, batch: &AnyBatch) -> Result<AnyBatch, Error> {
        (self.copy)(batch).ok_or_else(foreign)
    }

    /// Appends a batch: the number of its records, as `u32` little-endian; whether it has hashes, as one byte, and then those, as `u64`
    /// little-endian; and the records as a list in postcard.
    ///
    /// # Errors
    /// As [`codec::encode`].
    pub fn encode(&self, batch: &AnyBatch, to: &mut Vec<u8>) -> Result<(), Error> {
        (self.encode)(batch, to)
    }

    /// Makes batches of what [`encode`](Self::encode) made of several. Of those with hashes it keeps the records whose hash is `wanted`.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] for bytes that are something else.
    pub fn decode(&self, bytes: &[u8], wanted: Wanted<'_>) -> Result<Vec<AnyBatch>, Error> {
        (self.decode)(bytes, wanted)
    }

    /// Checks that records of this type can be read from what they are stored as.
    ///
    /// # Errors
    /// As [`codec::check`].
    pub fn check(&self) -> Result<(), Error> {
        (self.check)()
    }

    /// What the records are, in serde's terms.
    #[must_use]
    pub fn schema(&self) -> StateSchema {
        (self.schema)()
    }
}

fn foreign() -> Error {
    Error::new(ErrorKind::Internal, "a channel carried records of another type than its edge")
}

fn copy<I: Clone + Send + 'static>(batch: &AnyBatch) -> Option<AnyBatch> {
    let Batch { items } = batch.downcast_ref::<Batch<I>>()?;
    Some(Box::new(Batch { items: items.clone() }))
}

/// Items as the list of their records.
struct Records<'a, T>(&'a [Hashed<T>]);

impl<T: Serialize> Serialize for Records<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|item| &item.record))
    }
}

fn encode<H>(n: usize, hashes: H, records: &impl Serialize, to: &mut Vec<u8>) -> Result<(), Error>
where
    H: IntoIterator<Item = u64, IntoIter: ExactSizeIterator>,
{
    let hashes = hashes.into_iter();
    to.extend_from_slice(&u32::try_from(n).map_err(|_| foreign())?.to_le_bytes());
    to.push(u8::from(hashes.len() > 0));
    to.reserve(hashes.len() * 8);
    hashes.for_each(|hash| to.extend_from_slice(&hash.to_le_bytes()));
    codec::append(records, to)
}

/// Hashes as they are stored.
type Hashes<'a> = &'a mut dyn Iterator<Item = u64>;

/// `batch` makes one of as many hashes as records, or no hashes where they are not `keyed`, and the records; `None` if it would be empty.
fn decode<T: Record>(
    mut bytes: &[u8],
    keyed: bool,
    batch: impl Fn(Hashes<'_>, Vec<T>) -> Option<AnyBatch>,
) -> Result<Vec<AnyBatch>, Error> {
    let damaged = || Error::new(ErrorKind::Corrupt, "records that were in flight cannot be decoded");
    let mut batches: Vec<AnyBatch> = Vec::new();
    while !bytes.is_empty() {
        let (n, rest) = bytes.split_first_chunk::<4>().ok_or_else(damaged)?;
        let (hashed, rest) = rest.split_first().ok_or_else(damaged)?;
        let n = u32::from_le_bytes(*n) as usize;
        let (hashes, rest) =
            rest.split_at_checked(if *hashed == 0 { 0 } else { n * 8 }).ok_or_else(damaged)?;
        let (records, rest): (Vec<T>, _) =
            postcard::take_from_bytes(rest).map_err(|cause| damaged().because(cause))?;
        // Taken for records without keys, keyed ones would reach subtasks that do not own them; the other way round they would be lost.
        if records.len() != n || (*hashed != 0) != (keyed && n > 0) {
            return Err(damaged());
        }
        let (hashes, _) = hashes.as_chunks::<8>();
        batches.extend(batch(&mut hashes.iter().map(|hash| u64::from_le_bytes(*hash)), records));
        bytes = rest;
    }
    Ok(batches)
}

impl fmt::Debug for RecordCodec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecordCodec")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(records: &[&str]) -> AnyBatch {
        let items: Vec<String> = records.iter().map(|record| (*record).to_owned()).collect();
        let items: Vec<_> = (100..).zip(items).map(|(hash, record)| Hashed { hash, record }).collect();
        Box::new(Batch { items })
    }

    fn records(batch: AnyBatch) -> (Vec<String>, Vec<u64>) {
        let batch = batch.downcast::<Batch<Hashed<String>>>().unwrap();
        batch.items.into_iter().map(|Hashed { hash, record }| (record, hash)).unzip()
    }

    fn two_batches() -> Vec<u8> {
        let codec = RecordCodec::keyed::<String>();
        let mut bytes = Vec::new();
        codec.encode(&batch(&["a", "", "longer"]), &mut bytes).unwrap();
        codec.encode(&batch(&["next"]), &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn what_was_encoded_is_decoded_again_in_order() {
        let mut decoded =
            RecordCodec::keyed::<String>().decode(&two_batches(), &|_| true).unwrap().into_iter();
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert_eq!(records(decoded.next().unwrap()), (texts(&["a", "", "longer"]), vec![100, 101, 102]));
        assert_eq!(records(decoded.next().unwrap()), (texts(&["next"]), vec![100]));
        assert!(decoded.next().is_none());
    }

    /// It is part of format version 2.
    #[test]
    fn the_stored_form_does_not_change() {
        let mut bytes = Vec::new();
        RecordCodec::keyed::<String>().encode(&batch(&["a", "bc"]), &mut bytes).unwrap();
        let hashes = [100, 0, 0, 0, 0, 0, 0, 0, 101, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(bytes, [&[2, 0, 0, 0, 1][..], &hashes, &[2, 1, b'a', 2, b'b', b'c']].concat());
        let plain: AnyBatch = Box::new(Batch { items: vec![300_u32] });
        let mut bytes = Vec::new();
        RecordCodec::of::<u32>().encode(&plain, &mut bytes).unwrap();
        assert_eq!(bytes, [1, 0, 0, 0, 0, 1, 0xac, 0x02]);
    }

    #[test]
    fn only_wanted_hashes_are_decoded_and_records_without_hashes_always() {
        let codec = RecordCodec::keyed::<String>();
        let some = codec.decode(&two_batches(), &|hash| hash == 101).unwrap();
        assert_eq!(some.into_iter().map(records).collect::<Vec<_>>(), [(vec![String::new()], vec![101])]);
        let codec = RecordCodec::of::<u32>();
        let mut bytes = Vec::new();
        let plain: AnyBatch = Box::new(Batch { items: vec![1_u32, 2] });
        codec.encode(&plain, &mut bytes).unwrap();
        assert_eq!(codec.decode(&bytes, &|_| false).unwrap()[0].len(), 2);
    }

    #[test]
    fn bytes_that_are_cut_short_are_an_error() {
        let bytes = two_batches();
        let first = 4 + 1 + 3 * 8 + 1 + 2 + 1 + 7;
        for cut in (1..bytes.len()).filter(|cut| *cut != first) {
            let error = RecordCodec::keyed::<String>().decode(&bytes[..cut], &|_| true).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "cut at {cut}");
        }
    }

    #[test]
    fn a_batch_with_hashes_where_there_should_be_none_and_one_without_where_there_should_be_some_are_errors()
    {
        let plain: AnyBatch = Box::new(Batch { items: vec![String::from("a"), String::from("bc")] });
        let mut bytes = Vec::new();
        RecordCodec::of::<String>().encode(&plain, &mut bytes).unwrap();
        let error = RecordCodec::keyed::<String>().decode(&bytes, &|_| true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "read as nothing, its records would be lost");
        let error = RecordCodec::of::<String>().decode(&two_batches(), &|_| true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        // An empty one has nothing to lose.
        let mut bytes = Vec::new();
        RecordCodec::keyed::<String>().encode(&batch(&[]), &mut bytes).unwrap();
        assert!(RecordCodec::keyed::<String>().decode(&bytes, &|_| true).unwrap().is_empty());
    }

    #[test]
    fn a_copy_is_equal_and_a_batch_of_another_type_is_an_error() {
        let copy = RecordCodec::keyed::<String>().copy(&batch(&["a", "b"])).unwrap();
        assert_eq!(records(copy), (vec!["a".to_owned(), "b".to_owned()], vec![100, 101]));
        assert_eq!(RecordCodec::of::<u32>().copy(&batch(&["a"])).unwrap_err().kind(), ErrorKind::Internal);
    }
}
