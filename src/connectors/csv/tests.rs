use super::*;
use crate::connectors::test_support::{Files, context};
use crate::connectors::text_files::tests::{disk, gzip, read_with_restart, refused, take, wait};
use proptest::prelude::*;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

type Fields = Vec<String>;
type Kept<T> = std::result::Result<T, BadRow>;

/// Rows as they are.
fn plain(path: &str) -> Csv<Kept<Fields>> {
    Csv::new([path]).without_header().keep_bad_rows()
}

fn kept<T: DeserializeOwned + 'static>(path: &str) -> Csv<Kept<T>> {
    Csv::new([path]).keep_bad_rows()
}

/// What a source gives for this text read in pieces of `chunk` bytes, with a restart after `before` records.
fn read_in_pieces<T: 'static>(
    source: Csv<T>,
    path: &str,
    text: &[u8],
    chunk: usize,
    before: usize,
) -> Result<Vec<T>, String> {
    let content = if path.ends_with(".gz") { &gzip(text) } else { text };
    let disk = Arc::new(disk(&[(path, content)]));
    let source = Csv { files: source.files.disk(disk).chunk(chunk.max(1) as u64), ..source };
    wait(read_with_restart(&source, before, 1)).map_err(|error| error.to_string())
}

/// What a source gives for this text: the same in pieces of any size, compressed or not, and after a restart behind any record.
fn read_as<T: Debug + 'static>(source: fn(&str) -> Csv<T>, text: &[u8]) -> Result<Vec<T>, String> {
    let run = |path, chunk, before| read_in_pieces(source(path), path, text, chunk, before);
    let shown = |given: &Result<Vec<T>, String>| {
        format!("{given:?}").replace("a.gz", "a").replace(" of the decompressed text", "")
    };
    let given = run("a", text.len(), 0);
    let (expected, records) = (shown(&given), given.as_ref().map_or(0, Vec::len));
    for chunk in 1..=text.len() {
        for path in ["a", "a.gz"] {
            assert_eq!(shown(&run(path, chunk, 0)), expected, "{path} in pieces of {chunk}");
            let before = chunk % (records + 1);
            assert_eq!(
                shown(&run(path, chunk, before)),
                expected,
                "{path} in pieces of {chunk}, again after {before}"
            );
        }
    }
    for before in 0..=records {
        for path in ["a", "a.gz"] {
            assert_eq!(shown(&run(path, text.len(), before)), expected, "{path} again after {before}");
        }
    }
    given
}

fn rows_of(source: fn(&str) -> Csv<Kept<Fields>>, text: &str) -> Vec<Fields> {
    let rows = read_as(source, text.as_bytes()).unwrap();
    rows.into_iter().map(|row| row.unwrap()).collect()
}

fn bad_row(line: u64, reason: &str, raw: &str) -> BadRow {
    BadRow { path: "a".into(), line, reason: reason.into(), raw: raw.into() }
}

#[test]
fn rows_of_every_shape_are_read_whatever_the_pieces() {
    let cases: &[(&str, &[&[&str]])] = &[
        ("", &[]),
        ("\n", &[]),
        ("\r\n\r\n\n", &[]),
        ("\u{feff}", &[]),
        ("\u{feff}\r\n", &[]),
        ("a,b\nc,d\n", &[&["a", "b"], &["c", "d"]]),
        ("a,b\nc,d", &[&["a", "b"], &["c", "d"]]),
        ("a,b\r\nc,d\r\n", &[&["a", "b"], &["c", "d"]]),
        ("a,b\rc,d\r", &[&["a", "b"], &["c", "d"]]),
        ("a\r\n\r\nb\n\n\nc\r\r\n", &[&["a"], &["b"], &["c"]]),
        ("\u{feff}\"a,b\",c\n", &[&["a,b", "c"]]),
        ("\u{feff}a\n\u{feff}b\n", &[&["a"], &["\u{feff}b"]]),
        ("a,\"b\r\nb\n\",c\r\nd", &[&["a", "b\r\nb\n", "c"], &["d"]]),
        ("\"a\"\"b\",\"\"\"\",\"\"\n", &[&["a\"b", "\"", ""]]),
        ("\"\"\n,\n,,", &[&[""], &["", ""], &["", "", ""]]),
        ("a\"b,\"c\"d, \"e\"\n", &[&["a\"b", "cd", " \"e\""]]),
        ("ü,🌊\n\"ü\n\",\u{2028}", &[&["ü", "🌊"], &["ü\n", "\u{2028}"]]),
        (" a , b \n\t\n", &[&[" a ", " b "], &["\t"]]),
        ("#a,b\n'c,d'\n", &[&["#a", "b"], &["'c", "d'"]]),
        ("\"a\"", &[&["a"]]),
        ("a\n\"\"", &[&["a"], &[""]]),
    ];
    for (text, expected) in cases {
        assert_eq!(rows_of(plain, text), *expected, "{text:?}");
    }
}

#[test]
fn other_dialects_are_read_whatever_the_pieces() {
    let tabs = |path: &str| plain(path).delimiter(b'\t').quote(None);
    assert_eq!(rows_of(tabs, "a\t\"b\nc,\t'\n"), [["a", "\"b"], ["c,", "'"]]);
    let quotes = |path: &str| plain(path).delimiter(b';').quote(b'\'');
    assert_eq!(rows_of(quotes, "'a;''\n';\"b\r\n"), [["a;'\n", "\"b"]]);
    let trimmed = |path: &str| plain(path).trim();
    assert_eq!(rows_of(trimmed, " a ,\"\tb \"\n , \n \n"), [vec!["a", "b"], vec!["", ""], vec![""]]);
    let comments = |path: &str| plain(path).comment(b'#');
    assert_eq!(
        rows_of(comments, "#,\"x\n\n#\r\na#,\"#\n#\"\r#\n #b\n#end"),
        [vec!["a#", "#\n#"], vec![" #b"]]
    );
    assert_eq!(rows_of(comments, "\u{feff}#x\na"), [["a"]]);
    assert_eq!(rows_of(comments, "#x\ra\r#y\rb\r#"), [["a"], ["b"]]);
}

#[derive(Debug, PartialEq, Deserialize)]
struct Point {
    x: i64,
    y: Option<f64>,
}

#[test]
fn columns_are_matched_by_name_whatever_their_order() {
    for text in [
        "y,x\n1.5,1\n,2\n",
        "x,other,y\n1,,1.5\r\n2,z,\n",
        "\u{feff}\"y\",\"z\nz\",x\r\n\"1.5\",,1\r\n,,2",
        "\n\ny,x\n\n1.5,1\n\n,2\n\n",
    ] {
        let points = read_as(kept::<Point>, text.as_bytes()).unwrap();
        assert_eq!(points, [Ok(Point { x: 1, y: Some(1.5) }), Ok(Point { x: 2, y: None })], "{text:?}");
    }
    let commented = |path: &str| kept::<Point>(path).comment(b'%').trim();
    let points = read_as(commented, b"% made by hand\n x , y\n%\n 1 , 1.5 \n").unwrap();
    assert_eq!(points, [Ok(Point { x: 1, y: Some(1.5) })]);
}

#[test]
fn without_a_header_fields_are_matched_by_order() {
    let points = |path: &str| kept::<Point>(path).without_header();
    let rows = read_as(points, b"1,1.5,more\n2\n3,\nx,1\n").unwrap();
    assert_eq!(rows[0], Ok(Point { x: 1, y: Some(1.5) }));
    assert_eq!(rows[1], Err(bad_row(2, "invalid length 1, expected struct Point with 2 elements", "2")));
    assert_eq!(rows[2], Ok(Point { x: 3, y: None }));
    assert_eq!(rows[3], Err(bad_row(4, "column 1: invalid digit found in string: \"x\"", "x,1")));
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
enum Tide {
    Ebb,
    #[serde(rename = "high-water")]
    High,
}

#[test]
fn fields_are_read_by_their_type() {
    #[derive(Debug, PartialEq, Deserialize)]
    struct Row {
        date: String,
        float: f64,
        tide: Tide,
        yes: bool,
        letter: char,
        big: i128,
        none: Option<Tide>,
        #[serde(default)]
        absent: u8,
        absent_too: Option<u8>,
        #[serde(deserialize_with = "minutes", rename = "late")]
        minutes: Option<i64>,
    }
    fn minutes<'de, D: serde::Deserializer<'de>>(field: D) -> Result<Option<i64>, D::Error> {
        match String::deserialize(field)?.as_str() {
            "NA" => Ok(None),
            minutes => minutes.parse().map(Some).map_err(serde::de::Error::custom),
        }
    }
    let text = "date,float,tide,yes,letter,big,none,late\n\
                2013-01-31,-1e3,high-water,true,ü,-170141183460469231731687303715884105728,,NA\n\
                2013-01-32,1,Ebb,false,x,0,Ebb,late\n";
    let rows = read_as(kept::<Row>, text.as_bytes()).unwrap();
    let expected = Row {
        date: "2013-01-31".into(),
        float: -1000.0,
        tide: Tide::High,
        yes: true,
        letter: 'ü',
        big: i128::MIN,
        none: None,
        absent: 0,
        absent_too: None,
        minutes: None,
    };
    assert_eq!(rows[0], Ok(expected));
    let error = rows[1].as_ref().unwrap_err();
    assert_eq!((error.line, error.reason.as_str()), (3, "invalid digit found in string"));
}

#[test]
fn records_need_not_be_structs() {
    let maps = read_as(kept::<BTreeMap<String, u8>>, b"a,b\n1,2\n").unwrap();
    assert_eq!(maps, [Ok(BTreeMap::from([("a".into(), 1), ("b".into(), 2)]))]);
    let tuples = read_as(kept::<(u8, String)>, b"a,b\n1,2\n").unwrap();
    assert_eq!(tuples, [Ok((1, "2".into()))]);
}

/// With `flatten`, serde decides by the look of a value what it is.
#[test]
fn a_flattened_struct_works_and_says_where_a_guess_was_wrong() {
    #[derive(Debug, PartialEq, Deserialize)]
    struct Row {
        id: u8,
        #[serde(flatten)]
        rest: Rest,
    }
    #[derive(Debug, PartialEq, Deserialize)]
    struct Rest {
        name: String,
        n: f64,
    }
    let rows = read_as(kept::<Row>, b"id,name,n\n1,x,2\n2,12,3\n").unwrap();
    assert_eq!(rows[0], Ok(Row { id: 1, rest: Rest { name: "x".into(), n: 2.0 } }));
    let reason = &rows[1].as_ref().unwrap_err().reason;
    assert!(reason.contains("integer `12`") && reason.contains("expected a string"), "{reason}");
}

#[test]
fn a_bad_row_is_kept_with_the_line_it_begins_in() {
    let text = "# points\r\n\r\nx,\"y\",\"a\nb\"\r\n1,,\n\n# no point\n2,1.5,\"two\r\n\r\nlines\"\nthree,0,\"\n\"\n4,,\"x\ny\"\n\
                5,1.5.5,\n6,\n7,0,,\n8,,";
    let points = |path: &str| kept::<Point>(path).comment(b'#');
    let rows = read_as(points, text.as_bytes()).unwrap();
    let expected = [
        Ok(Point { x: 1, y: None }),
        Ok(Point { x: 2, y: Some(1.5) }),
        Err(bad_row(11, "column `x`: invalid digit found in string: \"three\"", "three,0,\"\n\"")),
        Ok(Point { x: 4, y: None }),
        Err(bad_row(15, "column `y`: invalid float literal: \"1.5.5\"", "5,1.5.5,")),
        Err(bad_row(16, "it has 2 fields, and the header has 3", "6,")),
        Err(bad_row(17, "it has 4 fields, and the header has 3", "7,0,,")),
        Ok(Point { x: 8, y: None }),
    ];
    assert_eq!(rows, expected);
}

#[test]
fn what_else_may_be_wrong_with_a_row_is_said() {
    let long = "x".repeat(300);
    let text = [b"x,y\n1,\xff\n\xfe,\r\n".as_slice(), long.as_bytes(), b",1\n1,\"2\n3,4\n"].concat();
    let rows: Vec<_> = read_as(kept::<Point>, &text).unwrap().into_iter().map(Result::unwrap_err).collect();
    assert_eq!((rows[0].line, rows[0].raw.as_str()), (2, "1,\u{fffd}"));
    assert!(rows[0].reason.starts_with("column `y`: "), "{}", rows[0].reason);
    assert_eq!((rows[1].line, rows[1].raw.as_str()), (3, "\u{fffd},"));
    assert_eq!((rows[2].line, rows[2].raw.len()), (4, 302));
    assert!(rows[2].reason.ends_with("x\"..") && rows[2].reason.len() < 270, "{}", rows[2].reason);
    assert_eq!(rows[3], bad_row(5, "a quote is never closed", "1,\"2\n3,4"));
    assert_eq!(rows.len(), 4);
    let names = read_as(kept::<(String, u8)>, b"x,y\n\xff,1\n").unwrap();
    let reason = &names[0].as_ref().unwrap_err().reason;
    assert!(reason.starts_with("column `x`: invalid utf-8"), "{reason}");
}

#[test]
fn a_bad_row_is_an_error_unless_it_is_kept() {
    let error = read_as(|path| Csv::<Point>::new([path]), b"x,y\n1,\"\n\"\n").unwrap_err();
    for part in [
        "unreadable data",
        "line 2 ",
        "column `y`",
        "invalid float literal",
        r#""1,\"\n\"""#,
        "keep_bad_rows()",
        "path a",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn a_header_that_does_not_fit_is_an_error_even_if_bad_rows_are_kept() {
    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Strict {
        #[serde(rename = "x")]
        _x: u8,
    }
    fn fault<T: Debug + DeserializeOwned + 'static>(text: &[u8]) -> String {
        read_as(kept::<T>, text).unwrap_err()
    }
    let cases: [(String, &[&str]); 6] = [
        (fault::<Point>(b"y,z\n1,2\n"), &["no column `x`", "\"y,z\""]),
        (fault::<Point>(b"x;y\n1;2\n"), &["no column `x`", "\"x;y\""]),
        (fault::<Point>(b"x,y,x\n1,2,3\n"), &["several columns `x`"]),
        (fault::<Strict>(b"x,y\n1,2\n"), &["a column `y`", "allows none"]),
        (fault::<Point>(b"x\xff,y\n1,2\n"), &["no column `x`", "\"x\u{fffd},y\""]),
        (fault::<Point>(b"\"x,y\n1,2\n"), &["never closed", "header"]),
    ];
    for (error, parts) in cases {
        assert!(error.contains("path a") && error.contains("configuration"), "{error}");
        assert!(parts.iter().all(|part| error.contains(part)), "{parts:?}: {error}");
    }
    // Such words may also be about one row.
    let rows = read_as(kept::<(Named, u8)>, b"x,y\n1,2\n").unwrap();
    assert_eq!(rows, [Err(bad_row(2, "missing field `x`", "1,2"))]);
}

/// Fails as serde's own code does for a column that is not there, although it is.
#[derive(Debug, PartialEq)]
struct Named;

impl<'de> Deserialize<'de> for Named {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::missing_field("x"))
    }
}

#[test]
fn a_file_without_rows_has_no_records_whatever_its_header() {
    for text in ["", "\n\r\n", "\u{feff}", "x,y", "x,y\n", "no,such\r\n\n\n", "\u{feff}no\n"] {
        assert_eq!(read_as(|path| Csv::<Point>::new([path]), text.as_bytes()), Ok(vec![]), "{text:?}");
    }
}

#[test]
fn a_row_that_is_too_long_is_an_error_with_its_place() {
    let source = |path: &str| kept::<Point>(path).max_row_size(6);
    assert_eq!(read_as(source, b"x,y\n12,34\n\n\n\n\n\n\n1,2").unwrap().len(), 2);
    for text in ["x,y\n1,2\n123,45\n6,7\n", "x,y\n1,2\n1,\"\n2\n3\n4\n5\n"] {
        let error = read_as(source, text.as_bytes()).unwrap_err();
        assert!(error.contains("begins at byte 8 ") && error.contains("more than 6 bytes"), "{error}");
        assert!(error.contains("path a"), "{error}");
    }
}

#[tokio::test]
async fn a_quote_that_is_never_closed_costs_no_more_memory_than_a_row_may() {
    let text = format!("x,y\n1,\"{}", "2,3\n".repeat(2_000_000));
    let test_disk = disk(&[("a", text.as_bytes())]);
    let faulty = crate::storage::FaultyDisk::new(Arc::new(test_disk)).traced();
    let source = kept::<Point>("a").max_row_size(1_000_000).disk(Arc::new(faulty.clone()));
    let mut reader = source.reader(source.splits(None).await.unwrap(), &context(0)).unwrap();
    let before = faulty.trace().len();
    assert!(take(&mut reader, 1).await.unwrap_err().to_string().contains("more than 1000000 bytes"));
    assert!(faulty.trace().len() - before < 10, "it read on");
}

#[tokio::test]
async fn marks_that_cannot_be_told_apart_are_refused_at_the_start() {
    for source in [
        plain("a").delimiter(b'\n'),
        plain("a").delimiter(b'"'),
        plain("a").quote(b'\r'),
        plain("a").comment(b','),
        plain("a").delimiter(0xff),
    ] {
        let error = refused(&source, None).await;
        assert!(error.contains("different ASCII characters"), "{error}");
    }
    assert!(plain("a").quote(None).delimiter(b'"').dialect.check().is_ok());
}

#[tokio::test]
async fn a_checkpoint_of_parts_of_a_file_is_refused() {
    let disk: SharedDisk = Arc::new(disk(&[("a", b"1\n2\n3\n")]));
    let lines = TextFiles::new(["a"]).split_size(2).disk(Arc::clone(&disk));
    let splits = lines.splits(None).await.unwrap();
    let error = refused(&plain("a").disk(disk), Some(splits)).await;
    assert!(error.contains("path a") && error.contains("another uid"), "{error}");
}

/// Of which a part could begin inside of quotes.
#[tokio::test]
async fn a_file_is_never_cut() {
    let row = format!("1,,\"{}\"\n", "\n2,3,4".repeat(1000));
    let text = format!("x,y,z\n{}", row.repeat(1500));
    let source = Csv::<Point>::new(["a"]).disk(Arc::new(disk(&[("a", text.as_bytes())])));
    assert_eq!(source.splits(None).await.unwrap().len(), 1, "{} bytes", text.len());
    for before in [0, 1, 1499] {
        let points = read_with_restart(&source, before, 3).await.unwrap();
        assert_eq!(points.len(), 1500, "restarted after {before}");
    }
}

#[tokio::test]
async fn a_changed_file_is_refused() {
    let disk = disk(&[("a", b"x,y\n1,2\n3,4\n")]);
    let source = kept::<Point>("a").disk(Arc::new(disk.clone()));
    let mut reader = source.reader(source.splits(None).await.unwrap(), &context(0)).unwrap();
    take(&mut reader, 1).await.unwrap();
    let splits = crate::operator::SourceReader::splits(&reader);
    disk.put("a", b"x,y\n1,2\n");
    let error = refused(&source, Some(splits)).await;
    assert!(error.contains("path a") && error.contains("expected 12 bytes"), "{error}");
}

/// Several files, of which each has its own order of columns and each subtask reads some.
#[tokio::test]
async fn any_parallelism_gives_each_row_of_each_file_once() {
    let disk = disk(&[
        ("in/1.csv", b"x,y\n1,\n2,\n3,\n"),
        ("in/2.csv.gz", &gzip(b"y,x\n,4\n,5\n")),
        ("in/3.csv", b"x\n"),
        ("in/4.csv", b"z,y,x\n\"\n\",,6\nz,,7"),
    ]);
    for before in 0..=7 {
        for parallelism in 1..=4 {
            let source = Csv::<Point>::in_folder("in").disk(Arc::new(disk.clone()));
            let points = read_with_restart(&source, before, parallelism).await.unwrap();
            let mut xs: Vec<_> = points.into_iter().map(|point| point.x).collect();
            xs.sort_unstable();
            assert_eq!(xs, [1, 2, 3, 4, 5, 6, 7], "restarted after {before} at {parallelism}");
        }
    }
}

fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        5 => "[a-c]{1,3}".prop_map(String::from),
        4 => Just(",".to_owned()),
        3 => Just("\"".to_owned()),
        2 => Just("\n".to_owned()),
        1 => Just("\r\n".to_owned()),
        1 => Just("\r".to_owned()),
        1 => Just("\u{feff}".to_owned()),
        1 => Just("ü🌊 ".to_owned()),
    ];
    prop::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat())
}

fn by_the_csv_crate(text: &str) -> Vec<Fields> {
    let mut reader =
        ::csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
    reader.records().map(|row| row.unwrap().iter().map(str::to_owned).collect()).collect()
}

proptest! {
    #[test]
    fn any_text_has_the_rows_that_the_csv_crate_finds(text in text(), chunk in 1_usize..20, before in 0_usize..9) {
        let mut expected = by_the_csv_crate(&text);
        let mut rows = read_in_pieces(plain("a"), "a", text.as_bytes(), chunk, before).unwrap();
        let packed = read_in_pieces(plain("a.gz"), "a.gz", text.as_bytes(), chunk, before).unwrap();
        prop_assert_eq!(format!("{packed:?}").replace("a.gz", "a"), format!("{rows:?}"));
        // The csv crate takes the rest of the text for the field.
        if let Some(Err(row)) = rows.pop_if(|row| row.is_err()) {
            prop_assert_eq!(row.reason, "a quote is never closed");
            expected.pop();
        }
        prop_assert_eq!(rows.into_iter().map(Result::unwrap).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_the_csv_crate_writes_is_read_back(
        rows in prop::collection::vec((any::<i64>(), any::<Option<bool>>(), "(?s).{0,8}", "[\"\r\n, a]{0,6}"), 0..6),
        always in any::<bool>(),
        crlf in any::<bool>(),
        chunk in 1_usize..50,
        before in 0_usize..6,
    ) {
        #[derive(Debug, Clone, PartialEq, Deserialize, serde::Serialize)]
        struct Row {
            number: i64,
            flag: Option<bool>,
            text: String,
            marks: String,
        }
        let rows: Vec<Row> =
            rows.into_iter().map(|(number, flag, text, marks)| Row { number, flag, text, marks }).collect();
        let mut writer = ::csv::WriterBuilder::new()
            .quote_style(if always { ::csv::QuoteStyle::Always } else { ::csv::QuoteStyle::Necessary })
            .terminator(if crlf { ::csv::Terminator::CRLF } else { ::csv::Terminator::Any(b'\n') })
            .from_writer(Vec::new());
        for row in &rows {
            writer.serialize(row).unwrap();
        }
        let text = writer.into_inner().unwrap();
        for path in ["a", "a.gz"] {
            prop_assert_eq!(&read_in_pieces(Csv::<Row>::new([path]), path, &text, chunk, before).unwrap(), &rows);
        }
    }
}
