//! Finds the shape of a type by letting its `Deserialize` read made-up values and noting what it asks for.
//!
//! One run sees one variant of each enum, and a refused value ends it, so the type is run through again and again. What is
//! known is kept in a tree; each [`Node`] has *alternatives* (the variants of an enum, a list with or without an element,
//! several numbers) and a run takes the first one that still has something to tell. (The idea is that of `serde-reflection`.)

mod tree;

use self::tree::{Alternative, Content, Kind, Node, State};
use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, Visitor};
use std::any::type_name;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs over a type at most, and steps in all runs: bounds the work for a monstrous type, whose rest is then `?`.
const RUNS: usize = 1000;
const STEPS: usize = 50_000;
/// Nesting of a made-up value of a recursive type.
const DEPTH: usize = 64;

/// The shape of `T`; see [`schema`](super::schema) for how it is written.
pub(super) fn shape_of<T: DeserializeOwned>() -> String {
    let mut text = String::new();
    trace::<T>().0.write(&mut text);
    text
}

/// Whether `T` decodes itself by asking the data what it is.
pub(super) fn looks_at_the_data<T: DeserializeOwned>() -> bool {
    trace::<T>().1
}

fn trace<T: DeserializeOwned>() -> (Node, bool) {
    let mut root = Node::default();
    let mut tracer = Tracer { steps: STEPS, open_types: Vec::new(), made_up: 0, looks_at_the_data: false };
    for _ in 0..RUNS {
        tracer.open_types.clear();
        tracer.made_up = 0;
        // A refused value is no error here: the tree knows what was learnt on the way.
        let _ = tried(|| T::deserialize(Trace { node: &mut root, tracer: &mut tracer }));
        if !root.is_open() || tracer.steps == 0 {
            break;
        }
    }
    (root, tracer.looks_at_the_data)
}

/// Calls a type's own `Deserialize`: one that panics has refused the value, too.
fn tried<R>(read: impl FnOnce() -> Result<R, Refused>) -> Result<R, Refused> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or(Err(Refused))
}

/// A made-up value was refused.
#[derive(Debug)]
struct Refused;

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a made-up value was refused")
    }
}

impl std::error::Error for Refused {}

impl de::Error for Refused {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

/// What all places of one run share.
struct Tracer {
    steps: usize,
    /// Named types that are being read, outermost first.
    open_types: Vec<&'static str>,
    /// Above 0 inside a recursive type: only a value is wanted there, the simplest; its depth.
    made_up: usize,
    looks_at_the_data: bool,
}

impl Tracer {
    fn step(&mut self) -> Result<(), Refused> {
        self.steps = self.steps.saturating_sub(1);
        if self.steps == 0 || self.made_up > DEPTH { Err(Refused) } else { Ok(()) }
    }

    /// How many named types up `name` is being read already.
    fn levels_up(&self, name: &str) -> Option<usize> {
        self.open_types.iter().rev().position(|open| *open == name).map(|levels| levels + 1)
    }
}

/// Reads a made-up value at one place of the type.
struct Trace<'t> {
    node: &'t mut Node,
    tracer: &'t mut Tracer,
}

impl Trace<'_> {
    /// Notes that this place is of `kind`, takes one of its `count` alternatives, and notes how that went.
    fn take<R>(
        self,
        kind: Kind,
        count: usize,
        read: impl FnOnce(usize, &mut Alternative, &mut Tracer) -> Result<R, Refused>,
    ) -> Result<R, Refused> {
        let Self { node, tracer } = self;
        tracer.step()?;
        if node.kind == Kind::Unknown {
            node.kind = kind;
            node.alternatives.resize_with(count, Alternative::default);
        }
        if node.kind != kind {
            return Err(Refused); // a type that asks for something else each time has no shape
        }
        let simplest = match kind {
            Kind::Option | Kind::Seq | Kind::Map => count - 1,
            _ => 0,
        };
        let chosen = if tracer.made_up > 0 { Some(simplest) } else { node.choose() };
        let chosen = chosen.ok_or(Refused)?;
        let alternative = node.alternatives.get_mut(chosen).ok_or(Refused)?;
        let (open_types, made_up) = (tracer.open_types.len(), tracer.made_up);
        let result = tried(|| read(chosen, alternative, tracer));
        // After a panic it is as it was before.
        tracer.open_types.truncate(open_types);
        tracer.made_up = made_up;
        // A value that worked once works again: its parts then take what worked for them.
        alternative.worked |= result.is_ok();
        alternative.state = match alternative.worked {
            _ if alternative.parts.iter().any(Node::is_open) => State::Open,
            true => State::Accepted,
            false => State::Refused,
        };
        result
    }

    /// The same for a type with a name, which may contain itself. `V` tells it from others of its name.
    fn take_named<'de, V: Visitor<'de>, R>(
        self,
        kind: Kind,
        count: usize,
        read: impl FnOnce(usize, &mut Alternative, &mut Tracer) -> Result<R, Refused>,
    ) -> Result<R, Refused> {
        let name = type_name::<V::Value>();
        if self.tracer.made_up > 0 {
            return self.take(kind, count, |chosen, alternative, tracer| {
                tracer.made_up += 1;
                let result = read(chosen, alternative, tracer);
                tracer.made_up -= 1;
                result
            });
        }
        if let Some(levels) = self.tracer.levels_up(name) {
            return self.take(Kind::Back(levels), count, |chosen, _, tracer| {
                tracer.made_up = 1;
                let result = read(chosen, &mut Alternative::default(), tracer);
                tracer.made_up = 0;
                result
            });
        }
        self.take(kind, count, |chosen, alternative, tracer| {
            tracer.open_types.push(name);
            let result = read(chosen, alternative, tracer);
            tracer.open_types.pop();
            result
        })
    }
}

macro_rules! leaves {
    ($($method:ident $visit:ident $name:literal [$($value:expr),+];)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
            let values = [$($value),+];
            self.take(Kind::Leaf($name), values.len(), |chosen, _, _| {
                visitor.$visit(*values.get(chosen).ok_or(Refused)?)
            })
        }
    )*};
}

impl<'de> de::Deserializer<'de> for Trace<'_> {
    type Error = Refused;

    leaves! {
        deserialize_bool visit_bool "bool" [false, true];
        deserialize_i8 visit_i8 "i8" [0, 1];
        deserialize_i16 visit_i16 "i16" [0, 1];
        deserialize_i32 visit_i32 "i32" [0, 1];
        deserialize_i64 visit_i64 "i64" [0, 1];
        deserialize_i128 visit_i128 "i128" [0, 1];
        deserialize_u8 visit_u8 "u8" [0, 1];
        deserialize_u16 visit_u16 "u16" [0, 1];
        deserialize_u32 visit_u32 "u32" [0, 1];
        deserialize_u64 visit_u64 "u64" [0, 1];
        deserialize_u128 visit_u128 "u128" [0, 1];
        deserialize_f32 visit_f32 "f32" [0.0, 1.0];
        deserialize_f64 visit_f64 "f64" [0.0, 1.0];
        deserialize_char visit_char "char" ['a', '0'];
        deserialize_str visit_str "str" ["", "a", "0", "1970-01-01T00:00:00Z", "127.0.0.1"];
        deserialize_string visit_str "str" ["", "a", "0", "1970-01-01T00:00:00Z", "127.0.0.1"];
        deserialize_bytes visit_bytes "bytes" [b"".as_slice(), &[0; 16], &[0; 8], &[0; 4], &[0; 32]];
        deserialize_byte_buf visit_bytes "bytes" [b"".as_slice(), &[0; 16], &[0; 8], &[0; 4], &[0; 32]];
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.take(Kind::Option, 2, |chosen, alternative, tracer| match chosen {
            0 => visitor.visit_some(Trace { node: alternative.part(0)?, tracer }),
            _ => visitor.visit_none(),
        })
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.take(Kind::Leaf("()"), 1, |_, _, _| visitor.visit_unit())
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.take_named::<V, _>(Kind::Newtype, 1, |_, alternative, tracer| {
            visitor.visit_newtype_struct(Trace { node: alternative.part(0)?, tracer })
        })
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.take(Kind::Seq, 2, |chosen, alternative, tracer| {
            visitor.visit_seq(Parts { alternative, tracer, next: 0, end: 1 - chosen })
        })
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Refused> {
        self.take(Kind::Tuple, 1, |_, alternative, tracer| {
            visitor.visit_seq(Parts::all(alternative, tracer, len)?)
        })
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.take_named::<V, _>(Kind::Tuple, 1, |_, alternative, tracer| {
            visitor.visit_seq(Parts::all(alternative, tracer, len)?)
        })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.take(Kind::Map, 2, |chosen, alternative, tracer| {
            visitor.visit_map(Parts { alternative, tracer, next: 0, end: 2 * (1 - chosen) })
        })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.take_named::<V, _>(Kind::Struct(fields), 1, |_, alternative, tracer| {
            visitor.visit_seq(Parts::all(alternative, tracer, fields.len())?)
        })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.take_named::<V, _>(Kind::Enum(variants), variants.len(), |chosen, alternative, tracer| {
            visitor.visit_enum(Variant { index: chosen, alternative, tracer })
        })
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Refused> {
        Err(Refused)
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Refused> {
        self.tracer.looks_at_the_data = true;
        Err(Refused)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Refused> {
        Err(Refused)
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

/// Hands out the parts of an alternative.
struct Parts<'t> {
    alternative: &'t mut Alternative,
    tracer: &'t mut Tracer,
    next: usize,
    end: usize,
}

impl<'t> Parts<'t> {
    /// All `len` parts of a compound value; those that are never reached stay unknown.
    fn all(alternative: &'t mut Alternative, tracer: &'t mut Tracer, len: usize) -> Result<Self, Refused> {
        tracer.steps = tracer.steps.saturating_sub(len);
        tracer.step()?;
        if let Some(last) = len.checked_sub(1) {
            alternative.part(last)?;
        }
        Ok(Self { alternative, tracer, next: 0, end: len })
    }

    fn part<'de, T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Refused> {
        let node = self.alternative.part(self.next)?;
        self.next += 1;
        seed.deserialize(Trace { node, tracer: self.tracer })
    }
}

impl<'de> de::SeqAccess<'de> for Parts<'_> {
    type Error = Refused;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Refused> {
        if self.next < self.end { self.part(seed).map(Some) } else { Ok(None) }
    }
}

impl<'de> de::MapAccess<'de> for Parts<'_> {
    type Error = Refused;

    fn next_key_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Refused> {
        de::SeqAccess::next_element_seed(self, seed)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Refused> {
        self.part(seed)
    }
}

/// One variant of an enum.
struct Variant<'t> {
    index: usize,
    alternative: &'t mut Alternative,
    tracer: &'t mut Tracer,
}

impl<'de> de::EnumAccess<'de> for Variant<'_> {
    type Error = Refused;
    type Variant = Self;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self), Refused> {
        let index = u32::try_from(self.index).map_err(|_| Refused)?;
        Ok((seed.deserialize(index.into_deserializer())?, self))
    }
}

impl<'de> de::VariantAccess<'de> for Variant<'_> {
    type Error = Refused;

    fn unit_variant(self) -> Result<(), Refused> {
        self.alternative.content = Content::Unit;
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Refused> {
        self.alternative.content = Content::Tuple;
        seed.deserialize(Trace { node: self.alternative.part(0)?, tracer: self.tracer })
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Refused> {
        self.alternative.content = Content::Tuple;
        visitor.visit_seq(Parts::all(self.alternative, self.tracer, len)?)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.alternative.content = Content::Struct(fields);
        visitor.visit_seq(Parts::all(self.alternative, self.tracer, fields.len())?)
    }
}

#[cfg(test)]
mod tests;
