//! What a state holds, as text: stored with the state, and compared when it is restored.
//!
//! Shapes are in serde's terms: `(u64, u64)`, `{count: u64, sum: i64}`, `seq<str>`, `map<str, option<f64>>`,
//! `enum{Dot, Line(u64), Box{side: u32}}`, `[u8; 16]`. Names of types are left out, since renaming a type changes nothing in
//! the stored bytes; names and order of fields and variants are kept. `^1` is the type itself again, one named type up. `?` is a
//! part that could not be found out, because its `Deserialize` refuses made-up values; it matches anything.

use super::shape::shape_of;
use super::{Key, StateValue};
use crate::checkpoint::metadata::StateSchema;
use crate::error::{Error, ErrorKind};
use crate::types::OperatorId;
use serde::de::DeserializeOwned;

/// Schema of a keyed state of `kind`.
#[must_use]
pub fn keyed<K: Key, V: StateValue>(kind: &str) -> StateSchema {
    StateSchema { kind: kind.to_owned(), key: shape_of::<K>(), value: shape_of::<V>() }
}

/// Schema of an operator state of `kind`.
#[must_use]
pub fn list<T: DeserializeOwned>(kind: &str) -> StateSchema {
    StateSchema { kind: kind.to_owned(), key: String::new(), value: shape_of::<T>() }
}

/// Checks that what was stored can be read as what is declared.
///
/// # Errors
/// [`ErrorKind::Program`], naming operator, state and both shapes, if not.
pub fn check(
    operator: &OperatorId,
    name: &str,
    stored: &StateSchema,
    declared: &StateSchema,
) -> Result<(), Error> {
    if stored.kind == declared.kind
        && matches(&stored.key, &declared.key)
        && matches(&stored.value, &declared.value)
    {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Program,
        format!(
            "state `{name}` was stored as {}, but the program declares {}: declare it as it was, or choose a new name \
             for the new state (what is stored under the old name is then kept), or start without the checkpoint",
            describe(stored),
            describe(declared)
        ),
    )
    .operator(operator))
}

fn describe(schema: &StateSchema) -> String {
    let StateSchema { kind, key, value } = schema;
    if key.is_empty() {
        format!("{kind} of `{value}`")
    } else {
        format!("{kind} of `{value}` by key `{key}`")
    }
}

/// Whether two shapes are the same, `?` on either side standing for anything.
#[must_use]
pub fn matches(a: &str, b: &str) -> bool {
    let (mut a, mut b) = (a, b);
    loop {
        let (first, second) = (a.chars().next(), b.chars().next());
        if first == Some('?') || second == Some('?') {
            (a, b) = (skip(a), skip(b));
        } else if first != second {
            return false;
        } else if let Some(char) = first {
            a = a.get(char.len_utf8()..).unwrap_or_default();
            b = b.get(char.len_utf8()..).unwrap_or_default();
        } else {
            return true;
        }
    }
}

/// What follows the part that `text` begins with: all up to the next separator of the same level.
fn skip(text: &str) -> &str {
    let mut depth = 0_usize;
    for (at, char) in text.char_indices() {
        match char {
            '(' | '{' | '<' | '[' => depth += 1,
            ')' | '}' | '>' | ']' | ',' | ';' if depth == 0 => return text.get(at..).unwrap_or_default(),
            ')' | '}' | '>' | ']' => depth -= 1,
            _ => {}
        }
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_parts_match_anything_and_nothing_else_does() {
        for (a, b) in [
            ("u64", "u64"),
            ("?", "{a: (u64, str), b: seq<u8>}"),
            ("{a: ?, b: u64}", "{a: map<str, (u8, u8)>, b: u64}"),
            ("{a: map<?, u8>, b: u64}", "{a: map<str, ?>, b: ?}"),
            ("enum{Dot?, Line(u64)}", "enum{Dot{x: u8}, Line?}"),
            ("enum{Dot?}", "enum{Dot}"),
            ("[?; 8]", "[u8; 8]"),
        ] {
            assert!(matches(a, b) && matches(b, a), "{a} / {b}");
        }
        for (a, b) in [
            ("u64", "u32"),
            ("{a: ?, b: u64}", "{a: u8, b: u32}"),
            ("{a: ?}", "{b: u8}"),
            ("(?, u8)", "(u8, u8, u8)"),
            ("seq<?>", "option<u8>"),
            ("[?; 8]", "[u8; 9]"),
            ("u64", ""),
        ] {
            assert!(!matches(a, b) && !matches(b, a), "{a} / {b}");
        }
    }

    #[test]
    fn a_mismatch_names_everything_and_says_what_to_do() {
        let error = check(
            &"average".into(),
            "sum",
            &keyed::<u64, (u64, u64)>("value"),
            &keyed::<u64, Vec<String>>("list"),
        )
        .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Program);
        let text = error.to_string();
        for part in
            ["`average`", "`sum`", "value of `(u64, u64)` by key `u64`", "list of `seq<str>`", "new name"]
        {
            assert!(text.contains(part), "{part} is missing in: {text}");
        }
    }
}
