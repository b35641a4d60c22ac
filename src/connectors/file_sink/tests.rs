//! A job in miniature on a disk that dies: two subtasks, checkpoints kept apart from the disk.

use super::*;
use crate::connectors::test_support::{Files, context, recovery, run_context};
use crate::error::BoxError;
use crate::operator::{Sink, SinkWriter, SubtaskContext, TransactionWriter};
use crate::storage::{Fault, FaultyDisk, Injection, MemoryDisk, Operation};
use crate::types::{Clock, OperatorId};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

const RECORDS: u64 = 23;

/// A disk that dies, and what is on it.
#[derive(Clone)]
struct TestDisk {
    faulty: FaultyDisk,
    files: MemoryDisk,
}

impl TestDisk {
    fn new() -> Self {
        let files = MemoryDisk::new();
        Self { faulty: FaultyDisk::new(Arc::new(files.clone())).traced(), files }
    }

    /// Dies at the `nth` operation from now, reading included, from 1.
    fn die_at(&self, nth: u64, death: Fault) {
        self.faulty.inject(Injection::of(death).on_everything().at(nth).then_die());
    }

    /// A new process; if power was lost before, what that leaves.
    async fn restart(&self, lost: Option<Fault>) {
        self.faulty.restart();
        if let Some(way) = lost {
            self.faulty.lose_power(way).await.unwrap();
        }
    }
}

const DEATHS: [Fault; 3] = [Fault::NoEffect, Fault::Torn, Fault::TookEffect];

/// The process, or the machine with what was not synced, or with a part of it.
fn crashes(seed: u64) -> [Option<Fault>; 5] {
    let lost = [Fault::PowerLoss, Fault::ContentsLost, Fault::NamesLost, Fault::SomeLost(seed)];
    [None, Some(lost[0]), Some(lost[1]), Some(lost[2]), Some(lost[3])]
}

fn sink(disk: &TestDisk) -> FileSink {
    FileSink::at("out").disk(Arc::new(disk.faulty.clone())).buffer_size(6)
}

fn visible(disk: &TestDisk) -> BTreeMap<String, String> {
    disk.files.files("out").into_iter().filter(|(name, _)| !name.starts_with(['.', '_'])).collect()
}

fn hidden(disk: &TestDisk) -> usize {
    disk.files.files("out").len() - visible(disk).len()
}

/// The records in the visible files, by subtask and in the order of names.
fn output(disk: &TestDisk) -> BTreeMap<String, Vec<u64>> {
    let mut output = BTreeMap::<_, Vec<_>>::new();
    for (name, content) in visible(disk) {
        assert!(!content.is_empty(), "{name} is empty");
        let subtask = name.split('-').nth(4).unwrap().to_owned();
        output.entry(subtask).or_default().extend(content.lines().map(|line| line.parse::<u64>().unwrap()));
    }
    output
}

async fn write<E: Encode<u64>>(
    writer: &mut TransactionWriter<u64, FileSink<E>>,
    records: impl IntoIterator<Item = u64>,
) -> Result {
    for record in records {
        if SinkWriter::<u64>::is_full(writer) {
            SinkWriter::<u64>::flush(writer).await?;
        }
        writer.write(record)?;
    }
    SinkWriter::<u64>::flush(writer).await
}

async fn prepare<E: Encode<u64>>(
    writer: &mut TransactionWriter<u64, FileSink<E>>,
) -> Result<Vec<FileCommit>> {
    SinkWriter::<u64>::prepare(writer)?.await
}

fn writer(sink: &FileSink, context: &SubtaskContext) -> TransactionWriter<u64, FileSink> {
    Sink::<u64>::writer(sink, context).unwrap()
}

async fn recover(sink: &FileSink, restored: Vec<FileCommit>, run: (u64, u32)) -> Result {
    let context = recovery(run.0, run.1);
    Sink::<u64>::recover(sink, restored, &context).await?;
    Sink::<u64>::abort(sink, Vec::new(), &context).await
}

async fn commit(sink: &FileSink, commits: Vec<FileCommit>) -> Result {
    Sink::<u64>::commit(sink, commits).await
}

/// The last completed checkpoint.
#[derive(Default)]
struct Checkpoint {
    position: u64,
    commits: Vec<FileCommit>,
}

/// Runs the job to its end, or to its death.
async fn run(disk: &TestDisk, run: (u64, u32), completed: &mut Checkpoint) -> Result {
    let sink = sink(disk);
    recover(&sink, completed.commits.clone(), run).await?;
    let mut writers = [0, 1].map(|subtask| writer(&sink, &run_context(run.0, run.1, subtask)));
    while completed.position < RECORDS {
        let next = (completed.position + 6).min(RECORDS);
        let mut prepared = Vec::new();
        for (subtask, writer) in writers.iter_mut().enumerate() {
            let records = (completed.position..next).filter(|record| record % 2 == subtask as u64);
            write(writer, records).await?;
            prepared.push(SinkWriter::<u64>::prepare(writer)?);
        }
        let commits: Vec<_> = futures::future::try_join_all(prepared).await?.concat();
        *completed = Checkpoint { position: next, commits: commits.clone() };
        commit(&sink, commits).await?;
    }
    Ok(())
}

fn assert_exact(disk: &TestDisk, records: u64, what: &dyn fmt::Debug) {
    for (subtask, output) in output(disk) {
        let parity = subtask.parse::<u64>().unwrap();
        let expected: Vec<_> = (0..records).filter(|record| record % 2 == parity).collect();
        assert_eq!(output, expected, "subtask {subtask}: {what:?}");
    }
}

/// What a reader may see when the job is dead: no more than was completed, each record once.
fn assert_no_surplus(disk: &TestDisk, completed: &Checkpoint, what: &dyn fmt::Debug) {
    let mut seen: Vec<_> = output(disk).into_values().flatten().collect();
    seen.sort_unstable();
    assert!(seen.iter().all(|record| *record < completed.position), "{seen:?}: {what:?}");
    assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "{seen:?}: {what:?}");
}

#[tokio::test]
async fn output_is_exact_after_a_crash_at_any_disk_operation() {
    let mut points = 0;
    'deaths: for death in DEATHS {
        for operation in 1.. {
            for crash in crashes(operation) {
                let disk = TestDisk::new();
                let mut completed = Checkpoint::default();
                disk.die_at(operation, death);
                let first = run(&disk, (1, 0), &mut completed).await;
                if !disk.faulty.is_dead() {
                    first.unwrap();
                    continue 'deaths;
                }
                disk.restart(crash).await;
                let point = (death, crash, operation);
                assert_no_surplus(&disk, &completed, &point);
                // A new process, or the same one with a new attempt.
                let next = if operation % 2 == 0 { (2, 0) } else { (1, 1) };
                run(&disk, next, &mut completed).await.unwrap_or_else(|error| panic!("{point:?}: {error}"));
                assert_exact(&disk, RECORDS, &point);
                assert_eq!(hidden(&disk), 0, "{point:?}");
                points += 1;
            }
        }
    }
    assert!(points > 750, "only {points} crash points");
}

#[tokio::test]
async fn output_is_exact_after_a_second_crash_at_any_operation_of_the_recovery() {
    let mut points = 0;
    for death in DEATHS {
        // Somewhere in the second of the four checkpoints.
        for operation in 20..50 {
            for crash in [None, Some(Fault::PowerLoss), Some(Fault::SomeLost(operation))] {
                for second in 1.. {
                    let disk = TestDisk::new();
                    let mut completed = Checkpoint::default();
                    disk.die_at(operation, death);
                    run(&disk, (1, 0), &mut completed).await.unwrap_err();
                    disk.restart(crash).await;
                    disk.die_at(second, death);
                    let recovered = recover(&sink(&disk), completed.commits.clone(), (2, 0)).await;
                    if !disk.faulty.is_dead() {
                        recovered.unwrap();
                        break;
                    }
                    disk.restart(crash).await;
                    let point = (death, crash, operation, second);
                    assert_no_surplus(&disk, &completed, &point);
                    run(&disk, (3, 0), &mut completed)
                        .await
                        .unwrap_or_else(|error| panic!("{point:?}: {error}"));
                    assert_exact(&disk, RECORDS, &point);
                    assert_eq!(hidden(&disk), 0, "{point:?}");
                    points += 1;
                }
            }
        }
    }
    assert!(points > 500, "only {points} crash points");
}

#[tokio::test]
async fn nothing_shows_before_its_commit_and_no_file_is_empty() {
    let disk = TestDisk::new();
    let sink = sink(&disk).suffix(".tsv");
    recover(&sink, Vec::new(), (1, 0)).await.unwrap();
    let mut writer = writer(&sink, &context(0));
    assert!(prepare(&mut writer).await.unwrap().is_empty());
    write(&mut writer, [1, 2, 3, 4]).await.unwrap();
    let first = SinkWriter::<u64>::prepare(&mut writer).unwrap();
    // The next file begins before the last one is durable.
    write(&mut writer, [5, 6, 7]).await.unwrap();
    let first = first.await.unwrap();
    let second = prepare(&mut writer).await.unwrap();
    assert!(visible(&disk).is_empty());
    assert_eq!(first[0].bytes, 8);
    commit(&sink, [first, second].concat()).await.unwrap();
    let expected = [
        ("part-op-00000001-00000000-00000-0000000000.tsv", "1\n2\n3\n4\n"),
        ("part-op-00000001-00000000-00000-0000000001.tsv", "5\n6\n7\n"),
    ];
    assert!(
        disk.files.files("out").iter().map(|(name, content)| (name.as_str(), content.as_str())).eq(expected)
    );
}

#[tokio::test]
async fn a_buffer_that_is_not_full_costs_no_disk_operation() {
    let disk = TestDisk::new();
    let sink = sink(&disk).buffer_size(100);
    recover(&sink, Vec::new(), (1, 0)).await.unwrap();
    let mut writer = writer(&sink, &context(0));
    let before = disk.faulty.trace().len();
    write(&mut writer, [1, 2, 3]).await.unwrap();
    assert_eq!(disk.faulty.trace().len(), before);
    write(&mut writer, 0..50).await.unwrap();
    // Created, and written once.
    assert_eq!(disk.faulty.trace().len(), before + 2);
}

/// Two prepared files of subtask 0.
async fn two_prepared(disk: &TestDisk) -> Vec<FileCommit> {
    let sink = sink(disk);
    recover(&sink, Vec::new(), (1, 0)).await.unwrap();
    let mut writer = writer(&sink, &context(0));
    let mut commits = Vec::new();
    for records in [[10, 11], [12, 13]] {
        write(&mut writer, records).await.unwrap();
        commits.extend(prepare(&mut writer).await.unwrap());
    }
    commits
}

#[tokio::test]
async fn s10_3_commits_are_idempotent_whole_or_in_part() {
    let disk = TestDisk::new();
    let commits = two_prepared(&disk).await;
    commit(&sink(&disk), commits[..1].to_vec()).await.unwrap();
    for _ in 0..3 {
        commit(&sink(&disk), commits.clone()).await.unwrap();
        assert_eq!(output(&disk)["00000"], [10, 11, 12, 13]);
        assert_eq!(hidden(&disk), 0);
    }
}

#[tokio::test]
async fn a_repeated_commit_syncs_the_folder_again() {
    let disk = TestDisk::new();
    let commits = two_prepared(&disk).await;
    // Renamed, but not synced.
    disk.faulty.inject(Injection::of(Fault::NoEffect).on([Operation::SyncDir]).at(1).then_die());
    commit(&sink(&disk), commits.clone()).await.unwrap_err();
    disk.restart(None).await;
    assert_eq!(visible(&disk).len(), 2);
    commit(&sink(&disk), commits).await.unwrap();
    disk.restart(Some(Fault::PowerLoss)).await;
    assert_eq!(visible(&disk).len(), 2);
}

#[tokio::test]
async fn s10_1_recovery_commits_in_order_and_then_sweeps() {
    let disk = TestDisk::new();
    let commits = two_prepared(&disk).await;
    recover(&sink(&disk), commits[..1].to_vec(), (2, 0)).await.unwrap();
    assert_eq!(output(&disk)["00000"], [10, 11]);
    assert_eq!(hidden(&disk), 0);
}

fn text(result: Result) -> String {
    result.unwrap_err().to_string()
}

#[tokio::test]
async fn a_commit_that_cannot_be_made_is_an_error_that_names_it() {
    let disk = TestDisk::new();
    let commits = two_prepared(&disk).await;
    let pending = format!("out/{}", commits[0].pending);
    let target = format!("out/{}", commits[0].target);

    disk.files.delete(&pending);
    let gone = text(commit(&sink(&disk), commits.clone()).await);
    assert!(gone.contains(&commits[0].pending) && gone.contains(&commits[0].target), "{gone}");
    assert!(gone.contains("is gone"), "{gone}");
    assert!(visible(&disk).into_keys().eq([commits[1].target.clone()]), "the others are tried all the same");

    disk.files.put(&pending, b"10\n1");
    let short = text(commit(&sink(&disk), commits.clone()).await);
    assert!(short.contains("has 4 bytes, its checkpoint says 6"), "{short}");

    disk.files.put(&pending, b"10\n11\n");
    disk.files.put(&target, b"other");
    let occupied = text(commit(&sink(&disk), commits.clone()).await);
    assert!(occupied.contains(&target) && occupied.contains("5 bytes is there"), "{occupied}");
    assert_eq!(disk.files.files("out").len(), 3, "something was destroyed");

    disk.files.delete(&target);
    commit(&sink(&disk), commits).await.unwrap();
}

/// The older process is alive, but another has taken the job over.
#[tokio::test]
async fn a_fenced_process_destroys_and_shows_nothing_of_the_newer_one() {
    let disk = TestDisk::new();
    let sink = sink(&disk);
    let committed = two_prepared(&disk).await;
    let mut old = writer(&sink, &run_context(1, 0, 1));
    write(&mut old, [1, 2, 3]).await.unwrap();

    // The newer one commits what the checkpoint holds, and sweeps the open file.
    recover(&sink, committed.clone(), (2, 0)).await.unwrap();
    let mut new = writer(&sink, &run_context(2, 0, 1));
    write(&mut new, [1, 2, 3]).await.unwrap();
    let new_commits = prepare(&mut new).await.unwrap();
    assert_eq!(visible(&disk).len(), 2);

    // The older one is late with the same commits, then restarts its dataflow and starts a new file.
    commit(&sink, committed.clone()).await.unwrap();
    recover(&sink, committed.clone(), (1, 1)).await.unwrap();
    let mut old = writer(&sink, &run_context(1, 1, 1));
    write(&mut old, [1, 2, 3]).await.unwrap();
    prepare(&mut old).await.unwrap();
    assert_eq!(visible(&disk).len(), 2);

    commit(&sink, new_commits.clone()).await.unwrap();
    assert_eq!(output(&disk)["00001"], [1, 2, 3]);
    // Now it can see that it was replaced.
    let refused = text(recover(&sink, committed, (1, 2)).await);
    assert!(refused.contains("took the job over"), "{refused}");
    recover(&sink, new_commits, (3, 0)).await.unwrap();
    assert_eq!((visible(&disk).len(), hidden(&disk)), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn two_processes_may_commit_the_same_at_the_same_time() {
    // Each takes its time for each step, and for the two of a rename; the second one begins some time later.
    let step = Duration::from_secs(2);
    for slow in [Fault::Slow(step), Fault::InTwoSteps(step)] {
        for head_start in 0..20 {
            let disk = TestDisk::new();
            let commits = two_prepared(&disk).await;
            let process = || {
                let slow = Injection::of(slow).on_everything();
                let disk = FaultyDisk::new(Arc::new(disk.files.clone())).failing(slow);
                FileSink::at("out").disk(Arc::new(disk))
            };
            let late = async {
                Clock::start().sleep(Duration::from_secs(head_start)).await;
                commit(&process(), commits.clone()).await
            };
            let early = process();
            let (first, second) = futures::future::join(commit(&early, commits.clone()), late).await;
            first.and(second).unwrap_or_else(|error| panic!("{slow:?}, head start {head_start}: {error}"));
            assert_eq!(output(&disk)["00000"], [10, 11, 12, 13]);
            assert_eq!(hidden(&disk), 0);
        }
    }
}

#[tokio::test]
async fn output_of_another_history_is_refused_before_anything_changes() {
    let disk = TestDisk::new();
    let commits = two_prepared(&disk).await;
    commit(&sink(&disk), commits[..1].to_vec()).await.unwrap();
    let before = disk.files.files("out");
    // The checkpoints were removed: generations begin at 1 again.
    let refused = text(recover(&sink(&disk), Vec::new(), (1, 0)).await);
    assert!(refused.contains("generation 1 attempt 0") && refused.contains("empty folder"), "{refused}");
    assert_eq!(disk.files.files("out"), before);
    // A visible file or a hidden one is enough.
    disk.files.delete(&format!("out/{}", commits[1].pending));
    let refused = text(recover(&sink(&disk), Vec::new(), (1, 0)).await);
    assert!(refused.contains(&commits[0].target), "{refused}");
    disk.files.delete(&format!("out/{}", commits[0].target));
    disk.files.put(&format!("out/{}", commits[1].pending), b"x");
    let refused = text(recover(&sink(&disk), Vec::new(), (1, 0)).await);
    assert!(refused.contains(&commits[1].pending), "{refused}");
}

#[tokio::test]
async fn without_checkpointing_the_folder_must_hold_no_output() {
    let disk = TestDisk::new();
    let sink = sink(&disk);
    let off = |attempt| RecoveryContext { checkpointing: false, ..recovery(0, attempt) };
    let start = |attempt| {
        let sink = &sink;
        async move {
            Sink::<u64>::recover(sink, Vec::new(), &off(attempt)).await?;
            Sink::<u64>::abort(sink, Vec::new(), &off(attempt)).await
        }
    };
    // A run that dies leaves a hidden file, which the next one removes.
    for _ in 0..2 {
        start(0).await.unwrap();
        assert_eq!(hidden(&disk), 0);
        let mut writer = writer(&sink, &run_context(0, 0, 0));
        write(&mut writer, [1, 2, 3]).await.unwrap();
        assert_eq!(hidden(&disk), 1);
    }
    start(1).await.unwrap();
    let mut writer = writer(&sink, &run_context(0, 1, 0));
    write(&mut writer, [1, 2, 3]).await.unwrap();
    let commits = prepare(&mut writer).await.unwrap();
    commit(&sink, commits).await.unwrap();
    let refused = text(start(0).await);
    assert!(
        refused.contains("without checkpointing") && refused.contains("enable checkpointing"),
        "{refused}"
    );
    assert_eq!(output(&disk)["00000"], [1, 2, 3]);
}

#[tokio::test]
async fn sinks_with_other_uids_and_other_files_in_the_folder_are_left_alone() {
    let disk = TestDisk::new();
    let sink = sink(&disk);
    disk.files.put("out/.hidden", b"x");
    disk.files.put("out/readme", b"x");
    let other: OperatorId = "op-00000001".into();
    let context = SubtaskContext { operator: other.clone(), ..context(0) };
    let mut writer = writer(&sink, &context);
    write(&mut writer, [1, 2, 3]).await.unwrap();
    let commits = prepare(&mut writer).await.unwrap();
    recover(&sink, Vec::new(), (2, 0)).await.unwrap();
    assert_eq!(disk.files.files("out").len(), 3);
    let recovery = RecoveryContext { operator: other, ..recovery(2, 0) };
    Sink::<u64>::recover(&sink, commits, &recovery).await.unwrap();
    assert_eq!((visible(&disk).len(), hidden(&disk)), (2, 1));
}

#[tokio::test]
async fn a_second_job_in_the_same_folder_is_refused() {
    let disk = TestDisk::new();
    let sink = sink(&disk);
    recover(&sink, Vec::new(), (1, 0)).await.unwrap();
    let (mut one, mut two) = (writer(&sink, &context(0)), writer(&sink, &context(0)));
    write(&mut one, [1, 2, 3]).await.unwrap();
    let refused = text(write(&mut two, [1, 2, 3]).await);
    assert!(refused.contains("own folder"), "{refused}");
}

#[tokio::test]
async fn a_failed_flush_spoils_the_file_for_good() {
    let disk = TestDisk::new();
    let sink = sink(&disk);
    recover(&sink, Vec::new(), (1, 0)).await.unwrap();
    let mut writer = writer(&sink, &context(0));
    disk.die_at(2, Fault::Torn);
    write(&mut writer, [1, 2, 3]).await.unwrap_err();
    disk.restart(None).await;
    assert!(writer.write(4_u64).is_err());
    assert!(SinkWriter::<u64>::prepare(&mut writer).is_err());
    assert!(SinkWriter::<u64>::prepare(&mut writer).is_err());
}

#[tokio::test]
async fn records_are_encoded_as_asked_and_a_failing_one_leaves_no_trace() {
    struct Odd(u64);
    impl fmt::Display for Odd {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{}", self.0)?;
            if self.0 % 2 == 1 { Ok(()) } else { Err(fmt::Error) }
        }
    }
    let disk = TestDisk::new();
    let sink = sink(&disk);
    recover(&sink, Vec::new(), (1, 0)).await.unwrap();
    let mut lines = Sink::<Odd>::writer(&sink, &context(0)).unwrap();
    lines.write(Odd(1)).unwrap();
    assert!(lines.write(Odd(2)).is_err());
    lines.write(Odd(3)).unwrap();
    let commits = SinkWriter::<Odd>::prepare(&mut lines).unwrap().await.unwrap();
    commit(&sink, commits).await.unwrap();

    let tabs = sink.encode(|(word, n): &(&str, u64), out| out.extend(format!("{word}\t{n};").bytes()));
    let mut writer = tabs.writer(&context(1)).unwrap();
    writer.write(("a", 1)).unwrap();
    writer.write(("b", 2)).unwrap();
    let commits = writer.prepare().unwrap().await.unwrap();
    Sink::commit(&tabs, commits).await.unwrap();
    assert!(visible(&disk).into_values().eq(["1\n3\n", "a\t1;b\t2;"]));
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_at_the_start() {
    let kind = |error: BoxError| error.downcast_ref::<Error>().map(Error::kind);
    let disk = TestDisk::new();
    for suffix in ["tsv", "./x", ".a\\b"] {
        let error = recover(&sink(&disk).suffix(suffix), Vec::new(), (1, 0)).await.unwrap_err();
        assert_eq!(kind(error), Some(ErrorKind::Configuration), "{suffix}");
    }
    disk.files.put("out", b"a file");
    let error = recover(&sink(&disk), Vec::new(), (1, 0)).await.unwrap_err();
    assert_eq!(kind(error), Some(ErrorKind::Configuration));
}
