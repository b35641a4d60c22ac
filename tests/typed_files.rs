//! Jobs over rows of CSV and lines of JSON: killed behind any record, at any parallelism, they end with the output of a run without
//! failures, in files that can be read back.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{in_time, sorted, virtual_process};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use strandline::prelude::*;
use strandline::storage::{MemoryDisk, OnDisk, SharedDisk};
use tokio::sync::watch;

/// A source that gives no more than so many records in all, and says how many it has given.
#[derive(Clone)]
struct Counted<S> {
    source: S,
    limit: watch::Sender<u64>,
    given: watch::Sender<u64>,
}

impl<S> Counted<S> {
    fn new(source: S, limit: u64) -> Self {
        Self { source, limit: watch::Sender::new(limit), given: watch::Sender::new(0) }
    }

    /// Lets the source go up to this record, and waits until it is there.
    async fn go_to(&self, record: u64) {
        self.limit.send_replace(record);
        self.given.subscribe().wait_for(|given| *given == record).await.unwrap();
    }
}

impl<S: Source> Source for Counted<S> {
    type Record = S::Record;
    type Split = S::Split;
    type Reader = CountedReader<S>;

    async fn splits(&self, restored: Option<Vec<S::Split>>) -> Result<Vec<S::Split>> {
        self.source.splits(restored).await
    }

    fn assign(&self, splits: Vec<S::Split>, parallelism: u32) -> Vec<Vec<S::Split>> {
        self.source.assign(splits, parallelism)
    }

    fn reader(&self, splits: Vec<S::Split>, context: &SubtaskContext) -> Result<CountedReader<S>> {
        Ok(CountedReader { inner: self.source.reader(splits, context)?, counted: self.clone(), held: false })
    }
}

struct CountedReader<S: Source> {
    inner: S::Reader,
    counted: Counted<S>,
    /// The last `next` gave nothing because of the limit.
    held: bool,
}

impl<S: Source> SourceReader for CountedReader<S> {
    type Record = S::Record;
    type Split = S::Split;

    fn next(&mut self) -> Result<Option<S::Record>> {
        self.held = *self.counted.given.borrow() >= *self.counted.limit.borrow();
        if self.held {
            return Ok(None);
        }
        let record = self.inner.next()?;
        if record.is_some() {
            self.counted.given.send_modify(|given| *given += 1);
        }
        Ok(record)
    }

    async fn ready(&mut self) -> Result<bool> {
        if !self.held {
            return self.inner.ready().await;
        }
        let given = *self.counted.given.borrow();
        self.counted.limit.subscribe().wait_for(|limit| *limit > given).await?;
        Ok(true)
    }

    fn splits(&self) -> Vec<S::Split> {
        self.inner.splits()
    }
}

/// A reading of a gauge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Reading {
    place: String,
    #[serde(rename = "cm")]
    centimetres: Option<i64>,
    note: String,
}

/// What the jobs write: place, how many-th reading of it, sum of centimetres, note; of a bad row line and text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Level {
    place: String,
    n: u64,
    sum: i64,
    note: String,
}

const CSV: &[(&str, &str)] = &[
    (
        "in/a.csv",
        "\u{feff}# gauges\r\nplace,note,cm\r\nEbb,\"two\r\nlines, \"\"quoted\"\"\",-3\r\n\r\nFlow,,12\r\nEbb,x,high\r\n# more\r\n\
         \"Ebb\",,\r\nFlow,\"\n\n\n\",1\r\nFlow,a,b,c\r\nEbb,last,7",
    ),
    (
        "in/b.csv.gz",
        "cm,place,note,extra\n1,Slack,ü🌊,\n,Ebb,\"a\n\nb\",\n,Slack\n5,Slack,,\n-1,Ebb,\"#\",z\n\n",
    ),
    ("in/c.csv", "place,cm,note\n"),
];

const JSON: &[(&str, &str)] = &[
    (
        "in/a.jsonl",
        "{\"place\":\"Ebb\",\"cm\":-3,\"note\":\"two\\r\\nlines\"}\r\n\n{\"place\":\"Flow\",\"cm\":12,\"note\":\"\"}\n{\"place\":\"Ebb\"}\n\
         {\"place\":\"Ebb\",\"cm\":null,\"note\":\"\"}\nno JSON\n{\"cm\":1,\"note\":\"\",\"place\":\"Flow\",\"x\":[]}",
    ),
    (
        "in/b.jsonl.gz",
        "{\"place\":\"Slack\",\"cm\":1,\"note\":\"ü🌊\"}\n{\"place\":\"Ebb\",\"note\":\"\\n\"}\n[]\n",
    ),
];

/// How many records are in these files, and on which lines the bad ones begin.
const CSV_RECORDS: u64 = 12;
const CSV_BAD_LINES: [u64; 3] = [7, 14, 6];
const JSON_RECORDS: u64 = 9;
const JSON_BAD_LINES: [u64; 3] = [4, 6, 3];

fn new_disk(files: &[(&str, &str)]) -> SharedDisk {
    let disk: SharedDisk = Arc::new(MemoryDisk::new());
    virtual_process(async {
        disk.create_dir(Path::new("in")).await.unwrap();
        for (path, text) in files {
            let content = if path.ends_with(".gz") {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
                encoder.write_all(text.as_bytes()).unwrap();
                encoder.finish().unwrap()
            } else {
                text.as_bytes().to_vec()
            };
            disk.publish(Path::new(path), content).await.unwrap();
        }
    });
    disk
}

fn csv(disk: &SharedDisk) -> Csv<Kept> {
    Csv::in_folder("in").comment(b'#').keep_bad_rows().disk(Arc::clone(disk))
}

fn json(disk: &SharedDisk) -> JsonLines<Kept> {
    JsonLines::in_folder("in").split_size(20).keep_bad_rows().disk(Arc::clone(disk))
}

type Kept = Result<Reading, BadRow>;

/// Numbers the readings of each place; writes them as CSV, and the bad rows as JSON.
fn describe(env: &Environment, source: impl Source<Record = Kept>, disk: &SharedDisk) {
    env.source("rows", source)
        .map(|row| match row {
            Ok(reading) => reading,
            Err(BadRow { path, line, raw, .. }) => {
                Reading { place: format!("{path}:{line}"), centimetres: None, note: raw }
            }
        })
        .key_by(|reading| reading.place.clone())
        .map_with_state("level", |reading: Reading, before: Option<(u64, i64)>| {
            let (n, sum) = before.unwrap_or_default();
            let (n, sum) = (n + 1, sum + reading.centimetres.unwrap_or(0));
            (Level { place: reading.place, n, sum, note: reading.note }, Some((n, sum)))
        })
        .sink("levels", FileSink::csv("out").disk(Arc::clone(disk)));
}

fn environment(disk: &SharedDisk, parallelism: u32) -> Environment {
    let storage = OnDisk::new(Arc::clone(disk), "checkpoints");
    Environment::builder().parallelism(parallelism).seed(7).storage(storage).build().unwrap()
}

/// A process that is killed behind record `killed`, with a checkpoint behind record `kept`.
fn killed<S: Source<Record = Kept>>(disk: &SharedDisk, source: S, kept: u64, killed: u64, parallelism: u32) {
    virtual_process(in_time("a process to be killed", async {
        let env = environment(disk, parallelism);
        let source = Counted::new(source, 0);
        describe(&env, source.clone(), disk);
        let job = env.start_local("typed-files").await.unwrap();
        common::running(&job).await;
        source.go_to(kept).await;
        job.checkpoint().await.unwrap();
        source.go_to(killed).await;
    }));
}

/// A process that comes to the end; how many records it was given.
fn to_the_end<S: Source<Record = Kept>>(disk: &SharedDisk, source: S, parallelism: u32) -> u64 {
    virtual_process(in_time("a process that ends", async {
        let env = environment(disk, parallelism);
        let source = Counted::new(source, u64::MAX);
        describe(&env, source.clone(), disk);
        let job = env.start_local("typed-files").await.unwrap();
        assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
        *source.given.borrow()
    }))
}

/// All records of a source, read by a job.
fn records<T: Send + Clone + 'static>(source: impl Source<Record = T>) -> Vec<T> {
    virtual_process(in_time("a reader", async {
        let env = Environment::builder().parallelism(1).build().unwrap();
        let all = Collect::new();
        env.source("records", source).sink("all", all.clone());
        env.start_local("typed-files-read-back").await.unwrap().wait().await.unwrap();
        all.records()
    }))
}

/// What is in the files of the output.
fn output(disk: &SharedDisk) -> Vec<Level> {
    sorted(records(Csv::in_folder("out").disk(Arc::clone(disk))))
}

#[test]
fn a_run_without_failures_gives_every_record_once_and_bad_ones_their_lines() {
    let disk = new_disk(CSV);
    assert_eq!(to_the_end(&disk, csv(&disk), 2), CSV_RECORDS);
    let levels = output(&disk);
    let of = |place: &str| -> Vec<(u64, i64)> {
        levels.iter().filter(|level| level.place == place).map(|level| (level.n, level.sum)).collect()
    };
    assert_eq!(of("Flow"), [(1, 12), (2, 13)]);
    assert_eq!(of("Slack"), [(1, 1), (2, 6)]);
    assert_eq!(of("Ebb").len(), 5);
    let noted = levels.iter().find(|level| level.note.contains("two")).unwrap();
    assert_eq!(noted.note, "two\r\nlines, \"quoted\"");
    let bad: Vec<_> = levels.iter().filter(|level| level.place.contains(':')).collect();
    let [x, a, slack] = CSV_BAD_LINES;
    let expected = [
        (format!("in/a.csv:{a}"), "Flow,a,b,c"),
        (format!("in/a.csv:{x}"), "Ebb,x,high"),
        (format!("in/b.csv.gz:{slack}"), ",Slack"),
    ];
    assert_eq!(
        bad.iter().map(|level| (level.place.clone(), level.note.as_str())).collect::<Vec<_>>(),
        expected
    );

    let disk = new_disk(JSON);
    assert_eq!(to_the_end(&disk, json(&disk), 2), JSON_RECORDS);
    let levels = output(&disk);
    let bad = levels.iter().map(|level| &level.place).filter(|place| place.contains(':'));
    let [missing, no, list] = JSON_BAD_LINES;
    let expected =
        [format!("in/a.jsonl:{missing}"), format!("in/a.jsonl:{no}"), format!("in/b.jsonl.gz:{list}")];
    assert_eq!(bad.cloned().collect::<Vec<_>>(), expected);
}

fn every_kill<S: Source<Record = Kept>>(files: &[(&str, &str)], len: u64, source: impl Fn(&SharedDisk) -> S) {
    let whole = new_disk(files);
    to_the_end(&whole, source(&whole), 1);
    let expected = without_order(output(&whole));
    for kept in 0..=len {
        for lost in [0, 1, 3] {
            let disk = new_disk(files);
            killed(&disk, source(&disk), kept, (kept + lost).min(len), 1);
            // Nothing that the checkpoint covers is read again, and nothing else is left out.
            assert_eq!(to_the_end(&disk, source(&disk), 1), len - kept, "killed {lost} behind {kept}");
            assert_eq!(without_order(output(&disk)), expected, "killed {lost} behind {kept}");
        }
    }
}

/// Which of two subtasks reads which file, and so which reading of a place comes first, is not what is compared.
fn without_order(levels: Vec<Level>) -> Vec<Level> {
    let mut by_place = std::collections::BTreeMap::<String, Vec<Level>>::new();
    for level in levels {
        by_place.entry(level.place.clone()).or_default().push(level);
    }
    let mut all = Vec::new();
    for (place, mut levels) in by_place {
        levels.sort_by_key(|level| level.n);
        let numbers: Vec<u64> = levels.iter().map(|level| level.n).collect();
        assert_eq!(numbers, (1..=levels.len() as u64).collect::<Vec<_>>(), "{place}");
        let notes = sorted(levels.iter().map(|level| level.note.clone()).collect());
        let sum = levels.last().unwrap().sum;
        all.extend((1..).zip(notes).map(|(n, note)| Level { place: place.clone(), n, sum, note }));
    }
    all
}

#[test]
fn killed_behind_any_row_of_csv_the_output_is_that_of_a_run_without_failures() {
    every_kill(CSV, CSV_RECORDS, csv);
}

#[test]
fn killed_behind_any_line_of_json_the_output_is_that_of_a_run_without_failures() {
    every_kill(JSON, JSON_RECORDS, json);
}

fn every_rescale<S: Source<Record = Kept>>(
    files: &[(&str, &str)],
    len: u64,
    source: impl Fn(&SharedDisk) -> S,
) {
    let whole = new_disk(files);
    to_the_end(&whole, source(&whole), 1);
    let expected = without_order(output(&whole));
    for (before, after) in [(1, 3), (3, 1), (2, 4), (4, 2)] {
        for kept in 0..=len {
            let disk = new_disk(files);
            killed(&disk, source(&disk), kept, (kept + 1).min(len), before);
            assert_eq!(
                to_the_end(&disk, source(&disk), after),
                len - kept,
                "{before} to {after} behind {kept}"
            );
            assert_eq!(without_order(output(&disk)), expected, "{before} to {after} behind {kept}");
        }
    }
}

#[test]
fn csv_files_go_on_at_any_parallelism() {
    every_rescale(CSV, CSV_RECORDS, csv);
}

#[test]
fn json_lines_go_on_at_any_parallelism() {
    every_rescale(JSON, JSON_RECORDS, json);
}

/// Writes records as both formats, with checkpoints between them, and reads them back.
fn round_trip<T: Clone + Send + Sync + Serialize + DeserializeOwned + 'static>(
    records_in: Vec<T>,
) -> [Vec<T>; 2] {
    let disk: SharedDisk = Arc::new(MemoryDisk::new());
    virtual_process(in_time("a writer", async {
        let env = environment(&disk, 1);
        let (first, second) = (Iter::new(records_in.clone()), Iter::new(records_in.clone()));
        let (first, second) = (Counted::new(first, 0), Counted::new(second, 0));
        env.source("csv", first.clone()).sink("to-csv", FileSink::csv("csv").disk(Arc::clone(&disk)));
        env.source("json", second.clone())
            .sink("to-json", FileSink::json_lines("json").disk(Arc::clone(&disk)));
        let job = env.start_local("typed-files-round-trip").await.unwrap();
        common::running(&job).await;
        for record in 1..records_in.len() as u64 {
            first.go_to(record).await;
            second.go_to(record).await;
            job.checkpoint().await.unwrap();
        }
        first.limit.send_replace(u64::MAX);
        second.limit.send_replace(u64::MAX);
        assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
    }));
    let csv = records(Csv::<T>::in_folder("csv").disk(Arc::clone(&disk)));
    let json = records(JsonLines::<T>::in_folder("json").disk(Arc::clone(&disk)));
    [csv, json]
}

#[test]
fn what_a_job_writes_another_one_reads() {
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    enum Kind {
        Spring,
        Neap,
    }
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Row {
        text: String,
        #[serde(rename = "where")]
        place: Option<String>,
        n: i64,
        f: f64,
        yes: bool,
        kind: Kind,
        c: char,
    }
    let texts = ["", "a,b", "\"", "two\r\nlines", " spaced ", "\u{feff}", "#", "🌊", "\t;|", "\\n"];
    let row = |(n, text): (usize, &&str)| Row {
        text: (*text).to_owned(),
        place: (!text.is_empty()).then(|| format!("{text}!")),
        n: n as i64 - 5,
        f: 0.1 * n as f64,
        yes: n % 2 == 0,
        kind: if n % 3 == 0 { Kind::Spring } else { Kind::Neap },
        c: text.chars().next().unwrap_or('"'),
    };
    let rows: Vec<Row> = texts.iter().enumerate().map(row).collect();
    for read_back in round_trip(rows.clone()) {
        assert_eq!(read_back, rows);
    }
}

/// Running again would not mend it, so the job is not restarted.
#[test]
fn a_bad_row_fails_the_job_at_once_and_says_where_it_is() {
    let disk = new_disk(CSV);
    let strict = Csv::<Reading>::new(["in/a.csv"]).comment(b'#').disk(Arc::clone(&disk));
    let error = virtual_process(in_time("a job that fails", async {
        let restart = RestartStrategy::fixed_delay(1000, std::time::Duration::from_secs(3600));
        let env = Environment::builder().parallelism(1).restart(restart).build().unwrap();
        env.source("rows", strict).sink("out", Collect::new());
        env.start_local("typed-files-bad-row").await.unwrap().wait().await.unwrap_err()
    }));
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let text = error.to_string();
    for part in ["operator `rows`", "path in/a.csv", "line 7", "column `cm`", "\"high\"", "keep_bad_rows()"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_file_that_changed_is_refused_at_the_restart() {
    let disk = new_disk(CSV);
    killed(&disk, csv(&disk), 4, 5, 2);
    let error = virtual_process(in_time("a restart", async {
        disk.remove(Path::new("in/a.csv")).await.unwrap();
        disk.publish(Path::new("in/a.csv"), b"place,note,cm\n".to_vec()).await.unwrap();
        let env = environment(&disk, 2);
        describe(&env, csv(&disk), &disk);
        env.start_local("typed-files").await.unwrap().wait().await.unwrap_err()
    }));
    let text = error.to_string();
    assert!(text.contains("path in/a.csv") && text.contains("changed since the job first started"), "{text}");
}
