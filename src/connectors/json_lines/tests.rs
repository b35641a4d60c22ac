use super::*;
use crate::connectors::test_support::context;
use crate::connectors::text_files::tests::{disk, gzip, read_with_restart, take, wait};
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

type Kept<T> = std::result::Result<T, BadRow>;

/// What is in a text read in pieces of `chunk` bytes, by splits, with a restart after `before` records.
fn read<T: 'static>(
    source: JsonLines<T>,
    (path, text): (&str, &[u8]),
    split_size: u64,
    chunk: u64,
    before: usize,
) -> Result<Vec<T>, String> {
    let content = if path.ends_with(".gz") { &gzip(text) } else { text };
    let files = source.files.disk(Arc::new(disk(&[(path, content)]))).chunk(chunk).split_size(split_size);
    wait(read_with_restart(&JsonLines { files, ..source }, before, 1)).map_err(|error| error.to_string())
}

/// The same, which must not depend on pieces, splits, compression and restarts.
fn read_as<T: fmt::Debug + 'static>(source: fn(&str) -> JsonLines<T>, text: &[u8]) -> Result<Vec<T>, String> {
    let len = text.len() as u64 + 1;
    let shown = |given: &Result<Vec<T>, String>| {
        format!("{given:?}").replace("a.gz", "a").replace(" of the decompressed text", "")
    };
    let given = read(source("a"), ("a", text), len, len, 0);
    let (expected, records) = (shown(&given), given.as_ref().map_or(0, Vec::len));
    for size in 1..=len {
        for path in ["a", "a.gz"] {
            let before = size as usize % (records + 1);
            for (split_size, chunk) in [(len, size), (size, len), (size, 1 + size % 5)] {
                let again = read(source(path), (path, text), split_size, chunk, before);
                assert_eq!(
                    shown(&again),
                    expected,
                    "{path}, splits of {split_size}, pieces of {chunk}, {before} before"
                );
            }
        }
    }
    given
}

fn kept<T: DeserializeOwned + 'static>(path: &str) -> JsonLines<Kept<T>> {
    JsonLines::new([path]).keep_bad_rows()
}

fn strict<T: DeserializeOwned + 'static>(path: &str) -> JsonLines<T> {
    JsonLines::new([path])
}

#[derive(Debug, PartialEq, Deserialize)]
struct Point {
    x: i64,
    #[serde(default)]
    y: Option<f64>,
}

#[test]
fn lines_of_every_shape_are_read_whatever_the_pieces_and_splits() {
    let cases: &[(&str, usize)] = &[
        ("", 0),
        ("\n\r\n \t\n", 0),
        ("\u{feff}", 0),
        ("\u{feff}{\"x\":1}\n", 1),
        ("{\"x\":1}\n{\"x\":1}\n", 2),
        ("{\"x\":1}\r\n\r\n  {\"x\" :\t1, \"other\": [\"\\n\", {}]} \r\n{\"x\":1}", 3),
        ("{\"x\":1}\n\u{feff}{\"x\":1}\n\n\n", 2),
    ];
    for (text, points) in cases {
        let expected: Vec<_> = (0..*points).map(|_| Point { x: 1, y: None }).collect();
        assert_eq!(read_as(strict::<Point>, text.as_bytes()), Ok(expected), "{text:?}");
    }
}

#[test]
fn records_may_be_of_any_type() {
    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(untagged)]
    enum Event {
        Named { name: String, at: Option<String> },
        Numbers(Vec<f64>),
    }
    #[derive(Debug, PartialEq, Deserialize)]
    struct Flat {
        id: u64,
        #[serde(flatten)]
        rest: BTreeMap<String, String>,
    }
    let events = read_as(strict::<Event>, "{\"name\":\"ü\\n\",\"at\":null}\n[1,2.5]".as_bytes()).unwrap();
    assert_eq!(events, [Event::Named { name: "ü\n".into(), at: None }, Event::Numbers(vec![1.0, 2.5])]);
    let flat = read_as(strict::<Flat>, b"{\"id\":1,\"a\":\"12\"}").unwrap();
    assert_eq!(flat, [Flat { id: 1, rest: BTreeMap::from([("a".into(), "12".into())]) }]);
}

#[test]
fn a_bad_line_is_kept_with_its_number_in_the_whole_file() {
    let text = b"\n{\"x\":1}\r\n\n{\"x\":\"one\"}\r\n{\"x\":2}\n{}\nnull}\n{\"x\":\n\xff\n{\"x\":3}\n[";
    let lines = read_as(kept::<Point>, text).unwrap();
    let told: Vec<_> = lines
        .iter()
        .map(|line| match line {
            Ok(point) => (0, point.x.to_string(), ""),
            Err(bad) => (bad.line, bad.reason.clone(), bad.raw.as_str()),
        })
        .collect();
    let expected = [
        (0, "1", ""),
        (4, "column 10: invalid type: string \"one\", expected i64", "{\"x\":\"one\"}"),
        (0, "2", ""),
        (6, "column 2: missing field `x`", "{}"),
        (7, "column 4: invalid type: null, expected struct Point", "null}"),
        (8, "column 5: EOF while parsing a value", "{\"x\":"),
        (9, "column 1: expected value", "\u{fffd}"),
        (0, "3", ""),
        (11, "column 1: EOF while parsing a list", "["),
    ];
    let told: Vec<_> = told.iter().map(|(line, reason, raw)| (*line, reason.as_str(), *raw)).collect();
    assert_eq!(told, expected);
}

#[test]
fn a_bad_line_is_an_error_unless_it_is_kept() {
    let error = read_as(strict::<Point>, b"{\"x\":1}\n\n{\"x\":1.5}\n").unwrap_err();
    for part in
        ["unreadable data", "line 3 ", "column 8", "expected i64", "1.5}", "keep_bad_rows()", "path a"]
    {
        assert!(error.contains(part), "{part}: {error}");
    }
}

/// Deeper than any stack: an error, not a crash.
#[test]
fn a_value_that_nests_too_deep_is_a_bad_line() {
    let text = "[".repeat(100_000);
    let lines = read(kept::<Value>("a"), ("a", text.as_bytes()), 1 << 20, 1 << 20, 0).unwrap();
    assert!(lines[0].as_ref().unwrap_err().reason.contains("recursion limit"), "{lines:?}");
}

#[test]
fn a_line_that_is_too_long_is_an_error_with_its_place() {
    let source = |path: &str| kept::<Point>(path).max_row_size(12);
    assert_eq!(read_as(source, b"{\"x\": 1234}\n{\"x\":2}").unwrap().len(), 2);
    let error =
        read_as(|path| strict::<Point>(path).max_row_size(12), b"{\"x\":1}\n{\"x\": 12345}\n{\"x\":2}\n");
    let error = error.unwrap_err();
    assert!(error.contains("begins at byte 8") && error.contains("more than 12 bytes"), "{error}");
}

/// Lines of one file do not count in another, in whatever order their splits are read.
#[tokio::test]
async fn bad_lines_of_several_files_are_numbered_in_each() {
    let files: &[(&str, &[u8])] = &[("a", b"1\n?\n3\n?\n"), ("b", b"\n?\n?\n4\n5\n?\n")];
    let source = JsonLines::<u8>::new(["a", "b"]).split_size(3).keep_bad_rows().disk(Arc::new(disk(files)));
    let mut splits = source.splits(None).await.unwrap();
    for reversed in [false, true] {
        if reversed {
            splits.reverse();
        }
        let mut reader = source.reader(splits.clone(), &context(0)).unwrap();
        let lines = take(&mut reader, usize::MAX).await.unwrap();
        let mut bad: Vec<_> =
            lines.into_iter().filter_map(Result::err).map(|row| (row.path, row.line)).collect();
        bad.sort();
        let expected = [("a", 2), ("a", 4), ("b", 2), ("b", 3), ("b", 6)];
        assert_eq!(bad, expected.map(|(path, line)| (path.to_owned(), line)), "reversed: {reversed}");
    }
}

/// Numbers of lines that each begin a new split are all counted in one pass over the file.
#[tokio::test]
async fn numbers_of_bad_lines_cost_one_more_reading_of_the_file() {
    const LINES: u64 = 2000;
    let text = "no JSON\n".repeat(LINES as usize);
    let test_disk = disk(&[("a", text.as_bytes())]);
    let faulty = crate::storage::FaultyDisk::new(Arc::new(test_disk)).traced();
    let mut source = kept::<Value>("a").split_size(80).disk(Arc::new(faulty.clone()));
    source.files = source.files.chunk(80);
    let mut reader = source.reader(source.splits(None).await.unwrap(), &context(0)).unwrap();
    let before = faulty.trace().len();
    let lines = take(&mut reader, usize::MAX).await.unwrap();
    let numbers: Vec<_> = lines.into_iter().map(|line| line.unwrap_err().line).collect();
    assert_eq!(numbers, (1..=LINES).collect::<Vec<_>>());
    // Of each of 200 splits: two looks at the file, its text, the rest of its last line, and what the count lacks.
    let operations = faulty.trace().len() - before;
    assert!(operations <= 200 * 5, "{operations} operations");
}

proptest! {
    #[test]
    fn any_values_are_read_back_at_any_parallelism(
        values in prop::collection::vec((any::<i64>(), "(?s).{0,6}", any::<Option<bool>>()), 0..12),
        bad in prop::collection::btree_set(0_usize..12, 0..3),
        split_size in 1_u64..60,
        chunk in 1_u64..60,
        before in 0_usize..12,
        parallelism in 1_u32..4,
    ) {
        let (mut text, mut expected) = (Vec::new(), Vec::new());
        for (i, value) in values.iter().enumerate() {
            let line = if bad.contains(&i) { b"?".to_vec() } else { serde_json::to_vec(value).unwrap() };
            text.extend([line.as_slice(), b"\n"].concat());
            expected.push(if bad.contains(&i) { Err(i as u64 + 1) } else { Ok(value.clone()) });
        }
        let source = kept::<(i64, String, Option<bool>)>("a");
        let files = source.files.disk(Arc::new(disk(&[("a", &text)]))).chunk(chunk).split_size(split_size);
        let given = wait(read_with_restart(&JsonLines { files, ..source }, before, parallelism)).unwrap();
        let mut given: Vec<_> = given.into_iter().map(|line| line.map_err(|bad| bad.line)).collect();
        given.sort();
        expected.sort();
        prop_assert_eq!(given, expected);
    }
}
