//! Single values as bytes: postcard, and an error for what postcard would get wrong.
//!
//! Postcard writes fields one after the other, without names, so a reader must know what comes. A field that is left out on
//! writing (`#[serde(skip_serializing_if)]`) is not noticed on reading: what follows is read in its place. So every value is looked
//! over before it is written. For most types the compiler sees that there is nothing to find, and the look costs nothing.

use crate::error::{Error, ErrorKind};
use postcard::ser_flavors::Flavor;
use serde::de::DeserializeOwned;
use serde::{Serialize, ser};
use std::fmt;

/// The bytes of a value.
///
/// # Errors
/// [`ErrorKind::Program`] when values of this type cannot be stored so that they read the same again: says why, and what to
/// change. [`ErrorKind::Failed`] when the type's own `Serialize` fails.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    append(value, &mut bytes)?;
    Ok(bytes)
}

/// Appends the bytes of a value to what `to` holds. After an error, what was appended is of no use.
///
/// # Errors
/// As [`encode`].
#[inline]
pub fn append<T: Serialize + ?Sized>(value: &T, to: &mut Vec<u8>) -> Result<(), Error> {
    value.serialize(Look).map_err(refused)?;
    postcard::serialize_with_flavor(value, Append(to))
        .map_err(|error| Error::new(ErrorKind::Failed, "a value cannot be encoded").because(error))
}

#[cold]
fn refused(found: Unstorable) -> Error {
    match found {
        Unstorable::Type(why) => Error::new(ErrorKind::Program, why),
        Unstorable::Value(why) => Error::new(ErrorKind::Failed, why),
    }
}

/// Where postcard writes to. Most of what it writes are numbers of a few bytes: they are copied without a call.
struct Append<'b>(&'b mut Vec<u8>);

impl Flavor for Append<'_> {
    type Output = ();

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        if bytes.len() > 16 {
            self.0.extend_from_slice(bytes);
            return Ok(());
        }
        let mut rest = bytes;
        while let Some((eight, more)) = rest.split_first_chunk::<8>() {
            self.0.extend_from_slice(eight);
            rest = more;
        }
        for byte in rest {
            self.0.push(*byte);
        }
        Ok(())
    }

    #[inline]
    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Checks that a type can be read from what [`encode`] makes of it.
///
/// # Errors
/// When it decodes itself by looking at the data.
pub fn check<T: DeserializeOwned>() -> Result<(), Error> {
    if super::shape::looks_at_the_data::<T>() {
        return Err(Error::new(
            ErrorKind::Program,
            "it decodes itself by looking at the data, which the stored form (postcard) does not allow: avoid \
             #[serde(untagged)], #[serde(tag = ..)], #[serde(flatten)] and types like serde_json::Value in what is stored",
        ));
    }
    Ok(())
}

/// Why a value cannot be stored.
#[derive(Debug)]
enum Unstorable {
    /// No value of this type can, or not every one.
    Type(String),
    /// Its own `Serialize` says so, of this value.
    Value(String),
}

impl fmt::Display for Unstorable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Type(why) | Self::Value(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Unstorable {}

impl ser::Error for Unstorable {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Value(message.to_string())
    }
}

type Done = Result<(), Unstorable>;

/// Looks a value over, and writes nothing.
#[derive(Clone, Copy)]
struct Look;

macro_rules! fine {
    ($($method:ident($($type:ty)?)),* $(,)?) => {$(
        #[inline]
        fn $method(self $(, _: $type)?) -> Done {
            Ok(())
        }
    )*};
}

#[cold]
fn unknown_length() -> Unstorable {
    Unstorable::Type(
        "the length of a sequence or map is not known before it is written: #[serde(flatten)] does that; avoid it in what \
         is stored"
            .to_owned(),
    )
}

impl ser::Serializer for Look {
    type Ok = ();
    type Error = Unstorable;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    fine!(
        serialize_bool(bool),
        serialize_i8(i8),
        serialize_i16(i16),
        serialize_i32(i32),
        serialize_i64(i64),
        serialize_i128(i128),
        serialize_u8(u8),
        serialize_u16(u16),
        serialize_u32(u32),
        serialize_u64(u64),
        serialize_u128(u128),
        serialize_f32(f32),
        serialize_f64(f64),
        serialize_char(char),
        serialize_str(&str),
        serialize_bytes(&[u8]),
        serialize_none(),
        serialize_unit(),
        serialize_unit_struct(&'static str),
    );

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Done {
        value.serialize(self)
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, _: &'static str) -> Done {
        Ok(())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Done {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> Done {
        value.serialize(self)
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<Self, Unstorable> {
        len.map(|_| self).ok_or_else(unknown_length)
    }

    fn serialize_tuple(self, _: usize) -> Result<Self, Unstorable> {
        Ok(self)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, Unstorable> {
        Ok(self)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, Unstorable> {
        Ok(self)
    }

    fn serialize_map(self, len: Option<usize>) -> Result<Self, Unstorable> {
        len.map(|_| self).ok_or_else(unknown_length)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, Unstorable> {
        Ok(self)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, Unstorable> {
        Ok(self)
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

macro_rules! elements {
    ($($trait:ident::$method:ident),*) => {$(
        impl ser::$trait for Look {
            type Ok = ();
            type Error = Unstorable;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Done {
                value.serialize(*self)
            }

            fn end(self) -> Done {
                Ok(())
            }
        }
    )*};
}

macro_rules! fields {
    ($($trait:ident),*) => {$(
        impl ser::$trait for Look {
            type Ok = ();
            type Error = Unstorable;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, _: &'static str, value: &T) -> Done {
                value.serialize(*self)
            }

            #[cold]
            fn skip_field(&mut self, field: &'static str) -> Done {
                Err(Unstorable::Type(format!(
                    "field `{field}` is left out, and a reader of the stored form (postcard) cannot know: remove \
                     #[serde(skip_serializing_if)] from it; a field that is never stored takes #[serde(skip)]"
                )))
            }

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

impl ser::SerializeMap for Look {
    type Ok = ();
    type Error = Unstorable;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Done {
        key.serialize(*self)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Done {
        value.serialize(*self)
    }

    fn end(self) -> Done {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::collections::BTreeMap;

    #[derive(Serialize, Deserialize)]
    struct Sparse {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        a: Option<u8>,
        b: u8,
    }

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Untagged {
        A(u8),
    }

    #[derive(Serialize, Deserialize)]
    #[serde(tag = "t")]
    enum Tagged {
        A { n: u8 },
    }

    #[derive(Serialize, Deserialize)]
    struct Flat {
        #[serde(flatten)]
        rest: BTreeMap<String, u8>,
    }

    #[derive(Serialize, Deserialize)]
    struct Skipped {
        #[serde(skip)]
        never: u8,
        b: u8,
    }

    #[test]
    fn a_field_that_is_left_out_is_refused_when_it_is() {
        assert!(encode(&Sparse { a: Some(1), b: 2 }).is_ok());
        let refused = encode(&vec![Some(Sparse { a: None, b: 2 })]).unwrap_err().to_string();
        assert!(refused.contains("`a`") && refused.contains("skip_serializing_if"), "{refused}");
        let skipped = Skipped { never: 1, b: 2 };
        assert_eq!((skipped.never, encode(&skipped).unwrap()), (1, vec![2]));
    }

    #[test]
    fn a_type_that_looks_at_the_data_is_refused_before_anything_is_stored() {
        for refused in [check::<Untagged>(), check::<Tagged>(), check::<Vec<Option<Untagged>>>()] {
            assert!(refused.unwrap_err().to_string().contains("untagged"));
        }
        assert!(check::<(u64, Vec<String>, Sparse, Skipped)>().is_ok());
    }

    #[test]
    fn a_flattened_map_is_refused() {
        let refused = encode(&Flat { rest: BTreeMap::new() }).unwrap_err().to_string();
        assert!(refused.contains("flatten"), "{refused}");
    }

    #[test]
    fn what_is_fine_is_written_as_postcard_does() {
        let value = (1_u64, "text", vec![Some(1.5_f64)], BTreeMap::from([(1_u8, 'x')]));
        assert_eq!(encode(&value).unwrap(), postcard::to_stdvec(&value).unwrap());
        let mut bytes = vec![1, 2];
        append(&7_u8, &mut bytes).unwrap();
        assert_eq!(bytes, [1, 2, 7]);
        for len in 0..40 {
            let text = "x".repeat(len);
            assert_eq!(encode(&text).unwrap(), postcard::to_stdvec(&text).unwrap());
            let number = u64::MAX.checked_shr(len as u32 * 2).unwrap_or(0);
            assert_eq!(encode(&number).unwrap(), postcard::to_stdvec(&number).unwrap());
        }
    }
}
