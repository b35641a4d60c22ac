//! The stable hash of a key: it defines key groups and the order of state files, so it can never change.
//!
//! The key is hashed through its serde form, which every key has and which `std::hash::Hash` cannot promise to keep. The
//! hasher folds 64x64->128-bit products (the construction of wyhash and foldhash), eight bytes at a time. Rules of version 1:
//!
//! - integers, `bool` and `char` count as their value widened to 64 bits (signed ones with their sign), so changing a key
//!   from `u32` to `u64` keeps every key in its place; a 128-bit integer counts as its low, then its high half;
//! - text and bytes count as their length, then their bytes, little-endian, eight at a time, the last ones padded with zero;
//! - sequences and maps count as their elements, then their length; tuples and structs as their fields, without names;
//! - an enum counts as its variant's index, then its content; `None` as 0, `Some` as 1 and its content;
//! - floats are refused: they are not `Eq`.

use serde::{Serialize, ser};
use std::fmt;

/// Version of the rules above. Written into every checkpoint.
pub const STABLE_HASH_VERSION: u16 = 1;

const SEED: u64 = 0x243f_6a88_85a3_08d3; // digits of pi
const FOLD: u64 = 0x9e37_79b9_7f4a_7c15; // golden ratio, odd
const FINISH: u64 = 0xd6e8_feb8_6659_fd93; // odd, dense

/// The name, in serde's terms, of a struct whose hash is not made but given: it is that of its field `place`, a `u64`.
const PLACED: &str = "$strandline::Placed";

/// The stable hash of `key`.
///
/// # Errors
/// When the key's `Serialize` fails, or when it holds a float.
#[inline]
pub fn stable_hash<K: Serialize + ?Sized>(key: &K) -> Result<u64, StableHashError> {
    let mut hasher = Hasher { state: SEED, placed: false };
    key.serialize(&mut hasher)?;
    Ok(if hasher.placed { hasher.state } else { fold(hasher.state, FINISH) })
}

/// Why a key cannot be hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StableHashError(String);

impl fmt::Display for StableHashError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the key cannot be hashed: {}", self.0)
    }
}

impl std::error::Error for StableHashError {}

impl ser::Error for StableHashError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

#[inline]
#[allow(clippy::cast_possible_truncation)] // both halves are used
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

struct Hasher {
    state: u64,
    /// The state is the hash.
    placed: bool,
}

impl Hasher {
    #[inline]
    fn word(&mut self, word: u64) {
        self.state = fold(self.state ^ word, FOLD).wrapping_add(SEED);
    }

    #[inline]
    fn bytes(&mut self, bytes: &[u8]) {
        self.word(bytes.len() as u64);
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            let mut word = [0; 8];
            word.copy_from_slice(chunk);
            self.word(u64::from_le_bytes(word));
        }
        let rest = chunks.remainder();
        if !rest.is_empty() {
            let mut word = [0; 8];
            word[..rest.len()].copy_from_slice(rest);
            self.word(u64::from_le_bytes(word));
        }
    }
}

type Done = Result<(), StableHashError>;

macro_rules! unsigned {
    ($($method:ident($type:ty)),*) => {$(
        #[inline]
        fn $method(self, v: $type) -> Done {
            self.word(u64::from(v));
            Ok(())
        }
    )*};
}

macro_rules! signed {
    ($($method:ident($type:ty)),*) => {$(
        #[inline]
        #[allow(clippy::cast_sign_loss)] // the sign is kept in the widened bits
        fn $method(self, v: $type) -> Done {
            self.word(i64::from(v) as u64);
            Ok(())
        }
    )*};
}

impl<'a> ser::Serializer for &'a mut Hasher {
    type Ok = ();
    type Error = StableHashError;
    type SerializeSeq = Counted<'a>;
    type SerializeTuple = Counted<'a>;
    type SerializeTupleStruct = Counted<'a>;
    type SerializeTupleVariant = Counted<'a>;
    type SerializeMap = Counted<'a>;
    type SerializeStruct = Counted<'a>;
    type SerializeStructVariant = Counted<'a>;

    unsigned!(
        serialize_bool(bool),
        serialize_u8(u8),
        serialize_u16(u16),
        serialize_u32(u32),
        serialize_char(char)
    );
    signed!(serialize_i8(i8), serialize_i16(i16), serialize_i32(i32), serialize_i64(i64));

    #[inline]
    fn serialize_u64(self, v: u64) -> Done {
        if self.placed {
            self.state = v;
        } else {
            self.word(v);
        }
        Ok(())
    }

    #[allow(clippy::cast_possible_truncation)] // low half, then high half
    fn serialize_u128(self, v: u128) -> Done {
        self.word(v as u64);
        self.word((v >> 64) as u64);
        Ok(())
    }

    #[allow(clippy::cast_sign_loss)]
    fn serialize_i128(self, v: i128) -> Done {
        self.serialize_u128(v as u128)
    }

    fn serialize_f32(self, _: f32) -> Done {
        Err(ser::Error::custom("it holds a float; floats have no equality to group by"))
    }

    fn serialize_f64(self, _: f64) -> Done {
        Err(ser::Error::custom("it holds a float; floats have no equality to group by"))
    }

    #[inline]
    fn serialize_str(self, v: &str) -> Done {
        self.bytes(v.as_bytes());
        Ok(())
    }

    #[inline]
    fn serialize_bytes(self, v: &[u8]) -> Done {
        self.bytes(v);
        Ok(())
    }

    fn serialize_none(self) -> Done {
        self.word(0);
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Done {
        self.word(1);
        value.serialize(self)
    }

    fn serialize_unit(self) -> Done {
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Done {
        Ok(())
    }

    fn serialize_unit_variant(self, _: &'static str, index: u32, _: &'static str) -> Done {
        self.word(u64::from(index));
        Ok(())
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Done {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        value: &T,
    ) -> Done {
        self.word(u64::from(index));
        value.serialize(self)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Counted<'a>, StableHashError> {
        Ok(Counted { hasher: self, len: Some(0) })
    }

    #[inline]
    fn serialize_tuple(self, _: usize) -> Result<Counted<'a>, StableHashError> {
        Ok(Counted { hasher: self, len: None })
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Counted<'a>, StableHashError> {
        Ok(Counted { hasher: self, len: None })
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Counted<'a>, StableHashError> {
        self.word(u64::from(index));
        Ok(Counted { hasher: self, len: None })
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Counted<'a>, StableHashError> {
        Ok(Counted { hasher: self, len: Some(0) })
    }

    #[inline]
    fn serialize_struct(self, name: &'static str, _: usize) -> Result<Counted<'a>, StableHashError> {
        self.placed |= name == PLACED;
        Ok(Counted { hasher: self, len: None })
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Counted<'a>, StableHashError> {
        self.word(u64::from(index));
        Ok(Counted { hasher: self, len: None })
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

/// Elements of a compound value; counts those of a value without a fixed length.
struct Counted<'a> {
    hasher: &'a mut Hasher,
    len: Option<u64>,
}

impl Counted<'_> {
    #[inline]
    fn element<T: Serialize + ?Sized>(&mut self, value: &T) -> Done {
        if let Some(len) = &mut self.len {
            *len += 1;
        }
        value.serialize(&mut *self.hasher)
    }

    #[inline]
    fn finish(self) -> Done {
        if let Some(len) = self.len {
            self.hasher.word(len);
        }
        Ok(())
    }
}

macro_rules! elements {
    ($($trait:ident :: $method:ident),*) => {$(
        impl ser::$trait for Counted<'_> {
            type Ok = ();
            type Error = StableHashError;

            #[inline]
            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Done {
                self.element(value)
            }

            #[inline]
            fn end(self) -> Done {
                self.finish()
            }
        }
    )*};
}

macro_rules! fields {
    ($($trait:ident),*) => {$(
        impl ser::$trait for Counted<'_> {
            type Ok = ();
            type Error = StableHashError;

            #[inline]
            fn serialize_field<T: Serialize + ?Sized>(&mut self, _: &'static str, value: &T) -> Done {
                self.element(value)
            }

            #[inline]
            fn end(self) -> Done {
                self.finish()
            }
        }
    )*};
}

elements!(
    SerializeSeq::serialize_element,
    SerializeTuple::serialize_element,
    SerializeTupleStruct::serialize_field,
    SerializeTupleVariant::serialize_field
);
fields!(SerializeStructVariant);

impl ser::SerializeStruct for Counted<'_> {
    type Ok = ();
    type Error = StableHashError;

    #[inline]
    fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Done {
        if self.hasher.placed && name != "place" {
            return Ok(());
        }
        self.element(value)
    }

    #[inline]
    fn end(self) -> Done {
        self.finish()
    }
}

impl ser::SerializeMap for Counted<'_> {
    type Ok = ();
    type Error = StableHashError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Done {
        self.element(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Done {
        value.serialize(&mut *self.hasher)
    }

    fn end(self) -> Done {
        self.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::MaxParallelism;

    fn hash<K: Serialize>(key: K) -> u64 {
        stable_hash(&key).unwrap()
    }

    #[derive(Serialize)]
    enum Shape {
        Dot,
        Line(u64),
        Box { side: u32, name: &'static str },
    }

    /// These values are part of the on-disk format: if this test fails, the change is wrong, not the test.
    #[test]
    fn golden_vectors_of_version_1() {
        assert_eq!(STABLE_HASH_VERSION, 1);
        let actual = [
            ("0u64", hash(0u64)),
            ("1u64", hash(1u64)),
            ("u64::MAX", hash(u64::MAX)),
            ("-1i32", hash(-1i32)),
            ("\"\"", hash("")),
            ("\"a\"", hash("a")),
            ("\"flink\"", hash("flink")),
            ("\"12345678\"", hash("12345678")),
            ("\"日本\"", hash("日本")),
            ("(1u64, 2u64)", hash((1u64, 2u64))),
            ("[1u8, 2, 3] as seq", hash(vec![1u8, 2, 3])),
            ("None", hash(None::<u8>)),
            ("Some(0)", hash(Some(0u8))),
            ("Dot", hash(Shape::Dot)),
            ("Line(7)", hash(Shape::Line(7))),
            ("Box", hash(Shape::Box { side: 3, name: "x" })),
            ("u128", hash(1u128 << 64)),
        ];
        let expected = GOLDEN;
        for ((name, actual), expected) in actual.iter().zip(expected) {
            assert_eq!(*actual, expected, "{name}: {actual:#018x}");
        }
        assert_eq!(actual.len(), expected.len());
    }

    const GOLDEN: [u64; 17] = [
        0x76b8_53c0_a6e8_b3dc,
        0xaadc_a8f5_8161_78b6,
        0xddde_59c4_a3f8_18c1,
        0xddde_59c4_a3f8_18c1,
        0x76b8_53c0_a6e8_b3dc,
        0xb2de_ed52_cfea_ba86,
        0x4aa5_360e_4f51_acfd,
        0x97a8_68d7_0b2c_ef05,
        0x9097_d4ca_d7b1_3473,
        0x7c96_11a9_4bbb_b658,
        0x4438_5393_bf86_52d2,
        0x76b8_53c0_a6e8_b3dc,
        0x4d0c_098e_f32e_e17c,
        0x76b8_53c0_a6e8_b3dc,
        0x4358_82b2_e0df_5321,
        0x2007_edf0_2535_3d52,
        0x1c6b_0e5c_b97d_951a,
    ];

    #[test]
    fn integers_are_widened() {
        assert_eq!(hash(7u8), hash(7u64));
        assert_eq!(hash(7u32), hash(7i64));
        assert_eq!(hash(-7i8), hash(-7i64));
        assert_ne!(hash(-1i32), hash(u32::MAX));
    }

    #[test]
    fn what_differs_hashes_differently() {
        assert_ne!(hash(("ab", "c")), hash(("a", "bc")));
        assert_ne!(hash("a\0"), hash("a"));
        assert_ne!(hash((vec![1u8], vec![2u8, 3])), hash((vec![1u8, 2], vec![3u8])));
        assert_ne!(hash(Shape::Dot), hash(Shape::Line(0)));
    }

    #[test]
    fn floats_are_refused() {
        assert!(stable_hash(&(1u64, 1.5f64)).unwrap_err().to_string().contains("float"));
    }

    #[test]
    fn sequential_keys_spread_evenly_over_groups() {
        let max = MaxParallelism::new(128).unwrap();
        let n = 128 * 1000u32;
        let mut counts = [0u32; 128];
        for key in 0..n {
            counts[usize::from(max.group_of(hash(key)).0)] += 1;
        }
        // Chi-squared with 127 degrees of freedom stays below 190 with probability 0.9997.
        let chi: f64 = counts.iter().map(|&c| (f64::from(c) - 1000.0).powi(2) / 1000.0).sum();
        assert!(chi < 190.0, "chi-squared {chi}");
    }

    #[test]
    fn every_input_bit_flips_half_of_the_output() {
        let mut flipped = 0;
        for key in 0..1000u64 {
            for bit in 0..64 {
                flipped += (hash(key) ^ hash(key ^ (1 << bit))).count_ones();
            }
        }
        let mean = f64::from(flipped) / 64_000.0;
        assert!((31.5..32.5).contains(&mean), "mean {mean} of 64 bits");
    }
}
