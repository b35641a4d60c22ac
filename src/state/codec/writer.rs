//! Values as bytes, in postcard's form (its wire format is fixed since 1.0), and what that form cannot hold.
//!
//! The crate's own serializer makes a number byte by byte, and is called for each. Here the seven-bit groups of one of two to eight bytes are
//! spread over a word in three steps: no loop, of whose length the processor would guess wrongly.

use serde::{Serialize, ser};
use std::fmt;

/// A value that cannot be stored; in a register, as that all went well.
#[derive(Debug)]
pub(super) struct Unstorable(pub(super) Box<Why>);

/// Why a value cannot be stored.
#[derive(Debug)]
pub(super) enum Why {
    /// No value of this type can, or not every one.
    Type(String),
    /// Its own `Serialize` says so, of this value.
    Value(String),
}

impl fmt::Display for Unstorable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Why::Type(why) | Why::Value(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Unstorable {}

impl ser::Error for Unstorable {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(Box::new(Why::Value(message.to_string())))
    }
}

#[cold]
fn no_type(why: String) -> Unstorable {
    Unstorable(Box::new(Why::Type(why)))
}

type Done = Result<(), Unstorable>;

/// That a byte is not the last one, for eight of them.
const MORE: u64 = 0x8080_8080_8080_8080;

/// The eight lowest groups of a number, each in a byte.
#[inline]
fn spread(n: u64) -> u64 {
    let n = n & 0x0000_0000_0fff_ffff | (n & 0x00ff_ffff_f000_0000) << 4;
    let n = n & 0x0000_3fff_0000_3fff | (n & 0x0fff_c000_0fff_c000) << 2;
    n & 0x007f_007f_007f_007f | (n & 0x3f80_3f80_3f80_3f80) << 1
}

/// By the leading zeros of a number: how many bytes it has, and which of them are not the last.
static LENGTHS: [(usize, u64); 64] = {
    let mut lengths = [(0_usize, 0_u64); 64];
    let mut zeros = 0_usize;
    while zeros < 64 {
        let bytes = (64 - zeros).div_ceil(GROUP as usize);
        let more = if bytes > 8 { MORE } else { MORE & !(u64::MAX << (8 * (bytes - 1))) };
        lengths[zeros] = (bytes, more);
        zeros += 1;
    }
    lengths
};

/// Appends a value.
pub(super) struct Writer<'b>(pub(super) &'b mut Vec<u8>);

/// How many bits a byte of a number holds.
const GROUP: u32 = 7;

/// Room that a number needs while it is written.
const LONGEST: usize = 10;

/// What fits into a word when it is spread.
const SHORT: u32 = 8 * GROUP;

impl Writer<'_> {
    /// A number, in groups of seven bits, the lowest first; the highest bit of a byte says that more follow.
    #[inline(always)]
    #[allow(clippy::inline_always)] // a call takes as long: it saves and restores what loops over entries keep in registers
    #[allow(clippy::cast_possible_truncation)] // less than 128
    fn number(&mut self, n: u64) {
        if self.0.capacity() - self.0.len() < LONGEST {
            return self.number_without_room(n);
        }
        if n < 1 << GROUP {
            self.0.push(n as u8);
        } else if n < 1 << SHORT {
            let (bytes, more) = LENGTHS[n.leading_zeros() as usize & 63];
            let end = self.0.len() + bytes;
            self.0.extend_from_slice(&(spread(n) | more).to_le_bytes());
            self.0.truncate(end);
        } else {
            self.0.extend_from_slice(&(spread(n) | MORE).to_le_bytes());
            let rest = (n >> SHORT) as u8;
            if rest < 1 << GROUP {
                self.0.push(rest);
            } else {
                self.0.extend_from_slice(&[rest, 1]);
            }
        }
    }

    /// In a call of its own, after which nothing comes: what is called every time keeps all it needs in registers that need not be saved.
    #[cold]
    #[inline(never)]
    fn number_without_room(&mut self, n: u64) {
        self.0.reserve(LONGEST);
        self.long_number(n.into());
    }

    #[cold]
    #[allow(clippy::cast_possible_truncation)] // bits by bits
    fn long_number(&mut self, mut n: u128) {
        while n >= 1 << GROUP {
            self.0.push(n as u8 | 1 << GROUP);
            n >>= GROUP;
        }
        self.0.push(n as u8);
    }

    #[inline]
    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        let mut rest = bytes;
        // Short ones without a call.
        if bytes.len() <= 16 {
            while let Some((eight, more)) = rest.split_first_chunk::<8>() {
                self.0.extend_from_slice(eight);
                rest = more;
            }
            return rest.iter().for_each(|byte| self.0.push(*byte));
        }
        self.0.extend_from_slice(rest);
    }
}

macro_rules! numbers {
    ($($method:ident($type:ty)),*) => {$(
        #[inline(always)]
        #[allow(clippy::inline_always)] // as above
        fn $method(mut self, n: $type) -> Done {
            self.number(u64::from(n));
            Ok(())
        }
    )*};
}

/// Signed ones: the sign in the lowest bit, so that small numbers are short.
macro_rules! signed {
    ($($method:ident($type:ty)),*) => {$(
        #[inline(always)]
        #[allow(clippy::inline_always)] // as above
        #[allow(clippy::cast_sign_loss)] // it is kept
        fn $method(mut self, n: $type) -> Done {
            let n = i64::from(n);
            self.number((n << 1 ^ n >> 63) as u64);
            Ok(())
        }
    )*};
}

macro_rules! as_they_are {
    ($($method:ident($type:ty)),*) => {$(
        #[inline]
        fn $method(self, v: $type) -> Done {
            self.0.extend_from_slice(&v.to_le_bytes());
            Ok(())
        }
    )*};
}

#[cold]
fn unknown_length() -> Unstorable {
    no_type("the length of a sequence or map is not known before it is written: #[serde(flatten)] does that; avoid it in what \
         is stored"
            .to_owned(),
    )
}

impl ser::Serializer for Writer<'_> {
    type Ok = ();
    type Error = Unstorable;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    numbers!(serialize_u16(u16), serialize_u32(u32), serialize_u64(u64));
    signed!(serialize_i16(i16), serialize_i32(i32), serialize_i64(i64));
    as_they_are!(serialize_u8(u8), serialize_i8(i8), serialize_f32(f32), serialize_f64(f64));

    #[inline]
    fn serialize_bool(self, v: bool) -> Done {
        self.0.push(u8::from(v));
        Ok(())
    }

    fn serialize_u128(mut self, n: u128) -> Done {
        self.long_number(n);
        Ok(())
    }

    #[allow(clippy::cast_sign_loss)] // it is kept
    fn serialize_i128(mut self, n: i128) -> Done {
        self.long_number((n << 1 ^ n >> 127) as u128);
        Ok(())
    }

    fn serialize_char(self, v: char) -> Done {
        self.serialize_str(v.encode_utf8(&mut [0; 4]))
    }

    #[inline]
    fn serialize_str(mut self, v: &str) -> Done {
        self.bytes(v.as_bytes());
        Ok(())
    }

    #[inline]
    fn serialize_bytes(mut self, v: &[u8]) -> Done {
        self.bytes(v);
        Ok(())
    }

    #[inline]
    fn serialize_none(self) -> Done {
        self.serialize_bool(false)
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Done {
        self.0.push(1);
        value.serialize(self)
    }

    #[inline]
    fn serialize_unit(self) -> Done {
        Ok(())
    }

    #[inline]
    fn serialize_unit_struct(self, _: &'static str) -> Done {
        Ok(())
    }

    #[inline]
    fn serialize_unit_variant(self, _: &'static str, index: u32, _: &'static str) -> Done {
        self.serialize_u32(index)
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Done {
        value.serialize(self)
    }

    #[inline]
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        mut self,
        _: &'static str,
        index: u32,
        _: &'static str,
        value: &T,
    ) -> Done {
        self.number(index.into());
        value.serialize(self)
    }

    #[inline]
    fn serialize_seq(mut self, len: Option<usize>) -> Result<Self, Unstorable> {
        self.number(len.ok_or_else(unknown_length)? as u64);
        Ok(self)
    }

    #[inline]
    fn serialize_tuple(self, _: usize) -> Result<Self, Unstorable> {
        Ok(self)
    }

    #[inline]
    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, Unstorable> {
        Ok(self)
    }

    #[inline]
    fn serialize_tuple_variant(
        mut self,
        _: &'static str,
        index: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, Unstorable> {
        self.number(index.into());
        Ok(self)
    }

    #[inline]
    fn serialize_map(self, len: Option<usize>) -> Result<Self, Unstorable> {
        self.serialize_seq(len)
    }

    #[inline]
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, Unstorable> {
        Ok(self)
    }

    #[inline]
    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self, Unstorable> {
        self.serialize_tuple_variant(name, index, variant, len)
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

macro_rules! elements {
    ($($trait:ident::$method:ident),*) => {$(
        impl ser::$trait for Writer<'_> {
            type Ok = ();
            type Error = Unstorable;

            #[inline]
            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Done {
                value.serialize(Writer(self.0))
            }

            #[inline]
            fn end(self) -> Done {
                Ok(())
            }
        }
    )*};
}

macro_rules! fields {
    ($($trait:ident),*) => {$(
        impl ser::$trait for Writer<'_> {
            type Ok = ();
            type Error = Unstorable;

            #[inline]
            fn serialize_field<T: Serialize + ?Sized>(&mut self, _: &'static str, value: &T) -> Done {
                value.serialize(Writer(self.0))
            }

            #[cold]
            fn skip_field(&mut self, field: &'static str) -> Done {
                Err(no_type(format!(
                    "field `{field}` is left out, and a reader of the stored form (postcard) cannot know: remove \
                     #[serde(skip_serializing_if)] from it; a field that is never stored takes #[serde(skip)]"
                )))
            }

            #[inline]
            fn end(self) -> Done {
                Ok(())
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
fields!(SerializeStruct, SerializeStructVariant);

impl ser::SerializeMap for Writer<'_> {
    type Ok = ();
    type Error = Unstorable;

    #[inline]
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Done {
        key.serialize(Writer(self.0))
    }

    #[inline]
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Done {
        value.serialize(Writer(self.0))
    }

    #[inline]
    fn end(self) -> Done {
        Ok(())
    }
}
