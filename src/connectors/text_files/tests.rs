use super::rows::Rows;
use super::*;
use crate::connectors::test_support::{Files, context};
use crate::operator::SourceReader;
use crate::storage::{FaultyDisk, MemoryDisk};
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use std::future::Future;
use std::io::Write;
use std::sync::Arc;

fn source(disk: &MemoryDisk, paths: &[&str]) -> TextFiles {
    TextFiles::new(paths).disk(Arc::new(disk.clone()))
}

pub(in crate::connectors) fn disk(files: &[(&str, &[u8])]) -> MemoryDisk {
    let disk = MemoryDisk::new();
    for (path, content) in files {
        disk.put(path, content);
    }
    disk
}

pub(in crate::connectors) fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

/// As many records as there are, at most.
pub(in crate::connectors) async fn take<R: SourceReader>(
    reader: &mut R,
    most: usize,
) -> Result<Vec<R::Record>> {
    let mut lines = Vec::new();
    while lines.len() < most {
        match reader.next()? {
            Some(line) => lines.push(line),
            None if reader.ready().await? => {}
            None => break,
        }
    }
    Ok(lines)
}

async fn read(source: &TextFiles) -> Result<Vec<String>> {
    let splits = source.splits(None).await?;
    take(&mut source.reader(splits, &context(0))?, usize::MAX).await
}

/// The records, of one run up to a snapshot and of a second one that is restored from it.
pub(in crate::connectors) async fn read_with_restart<S: Source<Split = TextSplit>>(
    source: &S,
    before: usize,
    parallelism: u32,
) -> Result<Vec<S::Record>> {
    let splits = source.splits(None).await?;
    let mut first = source.reader(splits, &context(0))?;
    let mut lines = take(&mut first, before).await?;
    let state = postcard::to_stdvec(&first.splits())?;
    let splits = source.splits(Some(postcard::from_bytes(&state)?)).await?;
    for (subtask, share) in source.assign(splits, parallelism).into_iter().enumerate() {
        let mut reader = source.reader(share, &context(subtask as u32))?;
        lines.extend(take(&mut reader, usize::MAX).await?);
        assert!(reader.splits().iter().all(TextSplit::is_finished));
        assert!(!reader.ready().await?);
    }
    Ok(lines)
}

pub(in crate::connectors) fn wait<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

pub(in crate::connectors) async fn refused<S: Source>(source: &S, restored: Option<Vec<S::Split>>) -> String {
    source.splits(restored).await.err().unwrap().to_string()
}

fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[a-c]{0,3}".prop_map(String::from),
        3 => Just("\n".to_owned()),
        2 => Just("\r\n".to_owned()),
        1 => Just("\r".to_owned()),
        1 => Just("ü🌊".to_owned()),
        1 => Just("long line ".repeat(4)),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_cut_and_any_snapshot_give_the_lines_of_the_text(
        text in text(),
        split_size in 1_u64..30,
        before in 0_usize..40,
    ) {
        let disk = disk(&[("a.txt", text.as_bytes())]);
        let source = source(&disk, &["a.txt"]).split_size(split_size);
        let lines = wait(read_with_restart(&source, before, 1)).unwrap();
        prop_assert_eq!(lines, text.lines().collect::<Vec<_>>());
    }

    #[test]
    fn any_parallelism_gives_each_line_once(
        texts in prop::collection::vec(text(), 1..4),
        split_size in 1_u64..30,
        before in 0_usize..60,
        parallelism in 1_u32..5,
    ) {
        let disk = MemoryDisk::new();
        let mut expected = Vec::new();
        let mut paths = Vec::new();
        for (i, text) in texts.iter().enumerate() {
            let compressed = i == 1;
            let path = if compressed { format!("{i}.GZ") } else { format!("{i}.txt") };
            let content = if compressed { gzip(text.as_bytes()) } else { text.clone().into_bytes() };
            disk.put(&path, &content);
            expected.extend(text.lines());
            paths.push(path);
        }
        let source = TextFiles::new(&paths).disk(Arc::new(disk)).split_size(split_size);
        let mut lines = wait(read_with_restart(&source, before, parallelism)).unwrap();
        lines.sort();
        expected.sort_unstable();
        prop_assert_eq!(lines, expected);
    }

    #[test]
    fn pieces_of_any_size_give_the_lines_of_the_text(text in text(), sizes in prop::collection::vec(1_usize..9, 1..9)) {
        let mut lines = Rows::from_row(Lines, 0, u64::MAX);
        let (mut given, mut pushed) = (Vec::new(), 0);
        for size in sizes.iter().cycle() {
            while lines.has_row() {
                given.push(lines.decode().unwrap());
                lines.advance();
            }
            let piece = text.as_bytes()[pushed..].iter().take(*size).copied().collect::<Vec<_>>();
            pushed += piece.len();
            lines.push(piece);
            if pushed == text.len() {
                break;
            }
        }
        lines.complete();
        while lines.has_row() {
            given.push(lines.decode().unwrap());
            lines.advance();
        }
        prop_assert!(lines.exhausted());
        prop_assert_eq!(given, text.lines().collect::<Vec<_>>());
    }
}

/// Lines, files and characters around the sizes in which the reader reads.
#[tokio::test]
async fn lines_longer_than_chunk_and_split_come_whole() {
    let long = "ü".repeat(400_000);
    let text = format!("{long}\nshort\r\n\n{long}x\n{}\nlast", "y".repeat(256 * 1024 - 1));
    let expected: Vec<_> = text.lines().collect();
    for split_size in [1000, 4096, 256 * 1024, 300_001, 4 << 20] {
        let disk = disk(&[("a.txt", text.as_bytes()), ("b.txt.gz", &gzip(text.as_bytes()))]);
        let plain = source(&disk, &["a.txt"]).split_size(split_size);
        assert!(read_with_restart(&plain, 2, 1).await.unwrap() == expected, "split size {split_size}");
        let compressed = source(&disk, &["b.txt.gz"]).split_size(split_size);
        assert!(read_with_restart(&compressed, 2, 1).await.unwrap() == expected);
    }
}

#[tokio::test]
async fn little_is_read_twice() {
    let text = "a line of text\n".repeat(400_000);
    let disk = FaultyDisk::new(Arc::new(disk(&[("a.txt", text.as_bytes())]))).traced();
    let source = TextFiles::new(["a.txt"]).disk(Arc::new(disk.clone()));
    assert_eq!(read(&source).await.unwrap().len(), 400_000);
    // 6 MB in chunks of 256 KiB, and for each of two splits two looks at the file and one read beyond the end.
    let operations = disk.trace().len();
    assert!(operations < 24 + 3 + 2 * 4, "{operations} operations");
}

#[tokio::test]
async fn empty_files_have_no_lines_and_are_remembered() {
    let disk = disk(&[("a.txt", b""), ("b.txt", b"\n"), ("c.gz", &gzip(b""))]);
    let source = source(&disk, &["a.txt", "b.txt", "c.gz"]);
    assert_eq!(read_with_restart(&source, 0, 3).await.unwrap(), [""]);
    let splits = source.splits(None).await.unwrap();
    disk.put("a.txt", b"no longer empty");
    let error = refused(&source, Some(splits)).await;
    assert!(error.contains("a.txt") && error.contains("expected 0 bytes"), "{error}");
    assert!(read(&TextFiles::new(Vec::<PathBuf>::new())).await.unwrap().is_empty());
}

#[tokio::test]
async fn compressed_files_of_several_members_are_one_text() {
    let text = "one\ntwo\n".repeat(20_000);
    let (first, second) = text.split_at(99_999);
    let content = [gzip(first.as_bytes()), gzip(second.as_bytes())].concat();
    let disk = disk(&[("a.gz", &content)]);
    let source = source(&disk, &["a.gz"]).split_size(10);
    assert_eq!(source.splits(None).await.unwrap().len(), 1);
    for before in [0, 1, 25_001, 39_999, 40_000] {
        let lines = read_with_restart(&source, before, 1).await.unwrap();
        assert!(lines.iter().map(String::as_str).eq(text.lines()), "restart after {before}");
    }
}

#[tokio::test]
async fn damaged_compressed_files_are_named() {
    let whole = gzip("some text\n".repeat(1000).as_bytes());
    let mut flipped = whole.clone();
    let checksum = flipped.len() - 6;
    flipped[checksum] ^= 1;
    for content in
        [&whole[..whole.len() - 1], &whole[..5], b"", b"plain text", &flipped, &[&whole[..], b"x"].concat()]
    {
        let disk = disk(&[("a.gz", content)]);
        let error = read(&source(&disk, &["a.gz"])).await.unwrap_err().to_string();
        assert!(error.contains("path a.gz") && error.contains("damaged"), "{error}");
    }
}

#[tokio::test]
async fn text_that_is_not_utf8_is_named_with_its_line_and_byte() {
    let text = b"fine\n\nfine\n\xc3\xbc and \xff\nfine\n";
    let disk = disk(&[("a.txt", text), ("b.gz", &gzip(text))]);
    for split_size in [1, 3, 100] {
        let plain = source(&disk, &["a.txt"]).split_size(split_size).chunk(4);
        for before in 0..3 {
            let error = read_with_restart(&plain, before, 1).await.unwrap_err().to_string();
            let complete = error.contains("line 4 of an input file is not UTF-8 at its byte 8");
            assert!(complete && error.contains("path a.txt"), "{error}");
        }
    }
    for before in 0..3 {
        let error = read_with_restart(&source(&disk, &["b.gz"]), before, 1).await.unwrap_err().to_string();
        assert!(error.contains("line 4 ") && error.contains("path b.gz"), "{error}");
    }
}

#[tokio::test]
async fn a_folder_stands_for_the_visible_files_in_it() {
    let disk = disk(&[
        ("in/b", b"3\n"),
        ("in/a", b"1\n2\n"),
        ("in/.part", b"no\n"),
        ("in/_tmp", b"no\n"),
        ("x", b"no"),
    ]);
    let source = TextFiles::in_folder("in").disk(Arc::new(disk.clone()));
    assert_eq!(read_with_restart(&source, 1, 1).await.unwrap(), ["1", "2", "3"]);
    let splits = source.splits(None).await.unwrap();
    disk.put("in/c", b"4\n");
    let error = refused(&source, Some(splits)).await;
    assert!(error.contains("path in/c") && error.contains("leave it out"), "{error}");
    for empty in ["out", "no-such-folder"] {
        disk.put("out/.hidden", b"");
        let error = refused(&TextFiles::in_folder(empty).disk(Arc::new(disk.clone())), None).await;
        assert!(error.contains(&format!("path {empty}")) && error.contains("no file"), "{error}");
    }
}

#[tokio::test]
async fn what_is_no_readable_file_is_refused_at_the_start() {
    let disk = disk(&[("dir/a.txt", b"x")]);
    for path in ["dir", "dir/missing.txt"] {
        let error = refused(&source(&disk, &["dir/a.txt", path]), None).await;
        assert!(error.contains(path) && error.contains("not a folder"), "{error}");
    }
    let error = refused(&source(&disk, &["dir/a.txt", "dir/a.txt"]), None).await;
    assert!(error.contains("dir/a.txt") && error.contains("twice"), "{error}");
    let error = refused(&source(&disk, &["dir/a.txt"]).split_size(0), None).await;
    assert!(error.contains("split size"), "{error}");
}

#[tokio::test]
async fn a_changed_file_is_refused_at_a_restart_and_when_a_split_is_opened() {
    type Change = fn(&MemoryDisk);
    let changes: [(&str, Change); 4] = [
        ("found 3 bytes", |disk| disk.put("b", b"1\n2")),
        ("found 5 bytes", |disk| disk.put("b", b"1\n2\n3")),
        ("found 4 bytes last modified 3 ns", |disk| disk.put("b", b"9\n8\n")),
        ("found no file", |disk| disk.delete("b")),
    ];
    for (found, change) in changes {
        let disk = disk(&[("a", b"1\n"), ("b", b"1\n2\n")]);
        let source = source(&disk, &["a", "b"]);
        let splits = source.splits(None).await.unwrap();
        let mut reader = source.reader(splits.clone(), &context(0)).unwrap();
        assert_eq!(take(&mut reader, 1).await.unwrap(), ["1"]);
        change(&disk);
        let opened = take(&mut reader, 1).await.unwrap_err().to_string();
        let restarted = refused(&source, Some(splits)).await;
        for error in [opened, restarted] {
            let complete = ["path b", "expected 4 bytes last modified 2 ns", found, "start a new job"];
            assert!(complete.iter().all(|part| error.contains(part)), "{found}: {error}");
        }
    }
}

#[tokio::test]
async fn a_file_cut_short_while_it_is_read_is_named() {
    let disk = disk(&[("a", "0123456789\n".repeat(60_000).as_bytes())]);
    let source = source(&disk, &["a"]);
    let mut reader = source.reader(source.splits(None).await.unwrap(), &context(0)).unwrap();
    take(&mut reader, 1).await.unwrap();
    disk.put("a", b"0123456789\n");
    let error = take(&mut reader, usize::MAX).await.unwrap_err().to_string();
    assert!(error.contains("path a") && error.contains("changed while it was read"), "{error}");
}

#[tokio::test]
async fn other_files_than_at_the_first_start_are_refused() {
    let disk = disk(&[("a", b"1\n"), ("b", b"1\n")]);
    let (both, one) = (source(&disk, &["a", "b"]), source(&disk, &["a"]));
    let added = refused(&both, Some(one.splits(None).await.unwrap())).await;
    assert!(added.contains("path b") && added.contains("leave it out"), "{added}");
    let removed = refused(&one, Some(both.splits(None).await.unwrap())).await;
    assert!(removed.contains("path b") && removed.contains("give it again"), "{removed}");
}

#[tokio::test]
async fn a_checkpoint_that_lost_a_split_is_refused() {
    let disk = disk(&[("a", b"0123456789")]);
    let source = source(&disk, &["a"]).split_size(3);
    let splits = source.splits(None).await.unwrap();
    assert_eq!(splits.len(), 4);
    for lost in 0..4 {
        let mut rest = splits.clone();
        rest.remove(lost);
        let error = refused(&source, Some(rest)).await;
        assert!(
            error.contains(&format!("byte {}", [3, 6, 9, 9][lost])) || error.contains("cover"),
            "{error}"
        );
    }
    let twice = [splits.clone(), splits[1..2].to_vec()].concat();
    assert!(refused(&source, Some(twice)).await.contains("byte 3"));
}

#[tokio::test]
async fn work_is_dealt_before_what_is_done() {
    let disk = disk(&[("a", b"1\n2\n3\n4\n5\n6\n7\n8\n")]);
    let source = source(&disk, &["a"]).split_size(2);
    let mut reader = source.reader(source.splits(None).await.unwrap(), &context(0)).unwrap();
    // Every second one is finished, as after a run of two subtasks of which one was faster.
    take(&mut reader, 4).await.unwrap();
    let (done, open) = reader.splits().into_iter().partition::<Vec<_>, _>(TextSplit::is_finished);
    let mixed: Vec<_> = done.into_iter().zip(open).flat_map(|(done, open)| [done, open]).collect();
    assert_eq!(mixed.len(), 8);
    let shares = source.assign(mixed, 2);
    for share in &shares {
        assert_eq!(share.iter().filter(|split| !split.is_finished()).count(), 2);
        assert_eq!(share.len(), 4);
    }
    assert!(source.assign(Vec::new(), 3).iter().all(Vec::is_empty));
}

#[tokio::test]
async fn state_names_file_range_and_position() {
    let disk = disk(&[("a", b"first\nsecond\n")]);
    let source = source(&disk, &["a"]).split_size(7);
    let mut reader = source.reader(source.splits(None).await.unwrap(), &context(0)).unwrap();
    take(&mut reader, 1).await.unwrap();
    let splits = reader.splits();
    let state =
        |i: usize| (splits[i].path(), splits[i].range(), splits[i].position(), splits[i].is_finished());
    assert_eq!(state(0), ("a", 0..7, 6, false));
    assert_eq!(state(1), ("a", 7..13, 7, false));
    // `second` begins at 6, so the second split has no line.
    assert_eq!(take(&mut reader, 9).await.unwrap(), ["second"]);
    assert!(reader.splits().iter().all(|split| split.is_finished() && split.position() == 13));
}
