use super::*;
use serde::Deserialize;
use std::collections::{BTreeMap, HashSet};

#[derive(Deserialize)]
#[allow(dead_code)]
struct Stats {
    count: u64,
    sum: i64,
}

#[derive(Deserialize)]
#[allow(dead_code)]
enum Shape {
    Dot,
    Line(u64),
    Box { side: u32, color: Option<Color> },
    Pair(Stats, Stats),
}

#[derive(Deserialize)]
#[allow(dead_code)]
enum Color {
    Red,
    Other([u8; 8]),
}

#[derive(Deserialize)]
#[allow(dead_code)]
struct Meters(f64);

#[derive(Deserialize)]
#[allow(dead_code)]
struct Wrapper<T> {
    of: T,
}

#[derive(Deserialize)]
#[allow(dead_code)]
struct Chain {
    next: Option<Box<Chain>>,
    value: u64,
}

#[derive(Deserialize)]
#[allow(dead_code)]
enum Tree {
    Node(Box<Tree>, Box<Tree>, u8),
    Leaf(String),
    List(Vec<Tree>),
}

#[derive(Deserialize)]
#[serde(try_from = "u32")]
struct Even(#[allow(dead_code)] u32);

impl TryFrom<u32> for Even {
    type Error = String;
    fn try_from(n: u32) -> Result<Self, String> {
        if n.is_multiple_of(2) { Ok(Self(n)) } else { Err("odd".to_owned()) }
    }
}

/// Takes no made-up value.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Picky;

impl TryFrom<String> for Picky {
    type Error = &'static str;
    fn try_from(_: String) -> Result<Self, &'static str> {
        Err("no")
    }
}

#[derive(Deserialize)]
#[allow(dead_code)]
struct Stubborn {
    first: Color,
    picky: Picky,
    after: u64,
}

#[derive(Deserialize)]
#[allow(dead_code)]
enum Half {
    Good,
    Bad(Picky, u8),
}

#[derive(Deserialize)]
#[allow(dead_code)]
struct Halves {
    half: Wrapper<Half>,
    color: Color,
    color_too: Option<Color>,
}

#[test]
fn plain_types() {
    assert_eq!(shape_of::<u64>(), "u64");
    assert_eq!(shape_of::<()>(), "()");
    assert_eq!(shape_of::<(u64, u64)>(), "(u64, u64)");
    assert_eq!(shape_of::<Vec<String>>(), "seq<str>");
    assert_eq!(shape_of::<HashSet<char>>(), "seq<char>");
    assert_eq!(shape_of::<BTreeMap<String, Option<f64>>>(), "map<str, option<f64>>");
    assert_eq!(shape_of::<[u8; 16]>(), "[u8; 16]");
    assert_eq!(shape_of::<std::num::NonZeroU64>(), "u64");
    assert_eq!(shape_of::<std::time::Duration>(), "{secs: u64, nanos: u32}");
}

#[test]
fn structs_keep_field_names_and_lose_type_names() {
    assert_eq!(shape_of::<Stats>(), "{count: u64, sum: i64}");
    assert_eq!(shape_of::<Meters>(), "f64");
    assert_eq!(shape_of::<Wrapper<Wrapper<u64>>>(), "{of: {of: u64}}");
    assert_eq!(shape_of::<Even>(), "u32");
}

#[test]
fn enums_show_every_variant() {
    assert_eq!(
        shape_of::<Shape>(),
        "enum{Dot, Line(u64), Box{side: u32, color: option<enum{Red, Other([u8; 8])}>}, \
         Pair({count: u64, sum: i64}, {count: u64, sum: i64})}"
    );
    assert_eq!(shape_of::<Result<u8, (Color, Color)>>().matches("Other([u8; 8])").count(), 2);
}

#[test]
fn recursive_types_end() {
    assert_eq!(shape_of::<Chain>(), "{next: option<^1>, value: u64}");
    assert_eq!(shape_of::<Tree>(), "enum{Node(^1, ^1, u8), Leaf(str), List(seq<^1>)}");
}

#[test]
fn refused_values_leave_only_what_comes_after_them_unknown() {
    assert_eq!(shape_of::<Stubborn>(), "{first: enum{Red, Other([u8; 8])}, picky: str, after: ?}");
    assert_eq!(
        shape_of::<Halves>(),
        "{half: {of: enum{Good, Bad(str, ?)}}, color: enum{Red, Other([u8; 8])}, \
         color_too: option<enum{Red, Other([u8; 8])}>}"
    );
}

#[derive(Deserialize)]
#[serde(from = "String")]
struct Url(#[allow(dead_code)] String);

static MADE: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

impl From<String> for Url {
    fn from(text: String) -> Self {
        MADE.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        assert!(text.contains("://"), "a url");
        Self(text)
    }
}

#[derive(Deserialize)]
#[allow(dead_code)]
struct Visit {
    count: u64,
    of: Url,
    why: Option<Color>,
}

#[test]
fn a_type_that_panics_over_a_made_up_value_refuses_it() {
    assert_eq!(shape_of::<Url>(), "str");
    assert_eq!(shape_of::<Visit>(), "{count: u64, of: str, why: ?}");
    assert!(!looks_at_the_data::<Vec<Visit>>());
    assert!(MADE.load(std::sync::atomic::Ordering::Relaxed) < 10, "it is not asked again and again");
}
