//! Single values as bytes: postcard, and an error for what postcard would get wrong.
//!
//! Postcard writes fields one after the other, without names, so a reader must know what comes. A field that is left out on
//! writing (`#[serde(skip_serializing_if)]`) is not noticed on reading: what follows is read in its place. So what writes is our own, and
//! refuses that; reading is left to the crate.

mod writer;

use crate::error::{Error, ErrorKind};
use serde::Serialize;
use serde::de::DeserializeOwned;
use writer::{Unstorable, Why, Writer};

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
    value.serialize(Writer(to)).map_err(refused)
}

#[cold]
fn refused(found: Unstorable) -> Error {
    match *found.0 {
        Why::Type(why) => Error::new(ErrorKind::Program, why),
        Why::Value(why) => Error::new(ErrorKind::Failed, why),
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

#[cfg(test)]
mod tests {
    #![allow(clippy::cast_possible_truncation)] // all that is cut off is tried, too

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

    fn same<T: Serialize>(value: T) {
        let expected = postcard::to_stdvec(&value).unwrap();
        assert_eq!(encode(&value).unwrap(), expected, "where there is no room yet");
        let mut bytes = Vec::with_capacity(4096);
        append(&value, &mut bytes).unwrap();
        assert_eq!(bytes, expected);
    }

    #[derive(Serialize)]
    enum Kind {
        Unit,
        One(u16),
        Two(i64, bool),
        Fields { a: char, b: Option<()> },
    }

    #[derive(Serialize)]
    struct Marker;

    #[derive(Serialize)]
    struct Pair(u8, f32);

    #[derive(Serialize)]
    struct Inner(Pair);

    #[test]
    fn every_shape_is_written_as_postcard_does() {
        same((1_u64, "text", vec![Some(1.5_f64), None], BTreeMap::from([(1_u8, 'x')])));
        same((Marker, (), Inner(Pair(200, -0.5)), [1_i8, -1, i8::MIN], (true, false)));
        same([Kind::Unit, Kind::One(300), Kind::Two(-1, true), Kind::Fields { a: 'ß', b: Some(()) }]);
        same(('\u{10ffff}', "", "é".repeat(100), std::net::Ipv4Addr::LOCALHOST));
        for len in 0..40 {
            same("x".repeat(len));
        }
        let mut bytes = vec![1, 2];
        append(&7_u8, &mut bytes).unwrap();
        assert_eq!(bytes, [1, 2, 7]);
    }

    #[test]
    fn every_length_of_a_number_is_written_as_postcard_does() {
        for bits in 0..128 {
            for number in [1_u128 << bits, (1 << bits) - 1, u128::MAX >> bits] {
                same((number, number as u64, number as u32, number as u16, number as u8));
                let signed = number as i128;
                same((signed, signed as i64, signed as i32, signed as i16, signed as i8));
                same((-(signed >> 1), -(signed as i64 >> 1), -(signed as i32 >> 1), -(signed as i16 >> 1)));
            }
        }
    }
}
