//! What the modes of a checkpoint promise under back-pressure, and what is said where records in flight cannot be stored or find no way.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::disallowed_methods)] // it looks at the clock that jobs run by

mod common;

use common::slow::Slow;
use common::{Gate, Numbers, in_flight_in, on_request, sorted, virtual_process};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use strandline::EnvironmentBuilder;
use strandline::prelude::*;
use strandline::storage::{MemoryDisk, OnDisk, SharedDisk};

const RECORDS: u64 = 50;
/// Of a record, at the sink.
const EACH: Duration = Duration::from_millis(100);

fn environment(disk: &Arc<MemoryDisk>, checkpointing: Checkpointing) -> EnvironmentBuilder {
    Environment::builder()
        .parallelism(1)
        .checkpointing(checkpointing)
        .storage(OnDisk::new(Arc::clone(disk) as SharedDisk, "checkpoints"))
        .restart(RestartStrategy::none())
}

/// All records are in flight, or just about to be, when a checkpoint is asked for. Gives how long that takes, and what was written.
fn under_back_pressure(checkpointing: Checkpointing) -> (Duration, Vec<u64>) {
    virtual_process(async {
        let env = environment(&Arc::default(), checkpointing).build().unwrap();
        let (numbers, gate) = Numbers::gated(1, RECORDS);
        let out = Collect::new();
        env.source("numbers", numbers)
            .map(|(_, number)| number)
            .rebalance()
            .sink("out", Slow { sink: out.clone(), each: EACH });
        let job = env.start_local("back-pressure").await.unwrap();
        common::running(&job).await;
        // So that the source does not end, which would be the end of all checkpoints but the final one.
        gate.open_to(RECORDS - 1);
        gate.reached(1, RECORDS - 1).await;
        let began = tokio::time::Instant::now();
        job.checkpoint().await.unwrap();
        let took = began.elapsed();
        gate.open_to(RECORDS);
        job.wait().await.unwrap();
        (took, sorted(out.records()))
    })
}

#[test]
fn a_checkpoint_takes_as_long_as_its_mode_lets_it() {
    let all: Vec<u64> = (0..RECORDS).collect();
    let backlog = EACH * (RECORDS as u32 - 2);
    let (aligned, written) = under_back_pressure(on_request());
    assert_eq!(written, all);
    assert!(aligned > backlog, "{aligned:?}: behind all records");
    // One record at the sink may have to be finished.
    let (unaligned, written) = under_back_pressure(on_request().unaligned());
    assert_eq!(written, all);
    assert!(unaligned <= 2 * EACH, "{unaligned:?}: behind none");
    let timeout = 10 * EACH;
    let (timed, written) = under_back_pressure(on_request().aligned_timeout(timeout));
    assert_eq!(written, all);
    assert!(timed >= timeout && timed <= timeout + 2 * EACH, "{timed:?}: behind none after {timeout:?}");
}

/// So large that a channel is full of a few batches of a few.
#[derive(Clone, Serialize, Deserialize)]
struct Large(Vec<u64>, [[u64; 32]; 32]);

/// Many exchanges in a row, and every channel full: a checkpoint that overtakes is not longer for that, since all subtasks are told of it
/// at once, and what stalls in front of a full channel makes way.
#[test]
fn an_unaligned_checkpoint_waits_for_one_record_however_many_exchanges_are_full() {
    virtual_process(async {
        let env = environment(&Arc::default(), on_request().unaligned()).channel_depth(1).build().unwrap();
        let seen = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&seen);
        let mut stream = env
            .source("numbers", Iter::new(0_u64..))
            .map(|number| Large(vec![number], [[0; 32]; 32]))
            .rebalance();
        for _ in 0..6 {
            stream = stream.map(|large| large).rebalance();
        }
        stream
            .inspect(move |_| {
                count.fetch_add(1, Ordering::Relaxed);
            })
            .map(|large| large.0.len())
            .sink("out", Slow { sink: Collect::new(), each: EACH });
        let job = env.start_local("full").await.unwrap();
        common::running(&job).await;
        // Everything is full by then: whoever comes before the sink waits for it.
        tokio::time::sleep(500 * EACH).await;
        for _ in 0..3 {
            let (began, before) = (tokio::time::Instant::now(), seen.load(Ordering::Relaxed));
            job.checkpoint().await.unwrap();
            let (took, written) = (began.elapsed(), seen.load(Ordering::Relaxed) - before);
            assert!(took <= 2 * EACH && written <= 2, "{took:?}, {written} records");
            let record = job.checkpoint_stats().latest_completed.unwrap();
            assert!(record.in_flight_bytes > 6 * 16 * 1024, "{record:?}");
            tokio::time::sleep(500 * EACH).await;
        }
        job.cancel().await.unwrap();
    });
}

/// It cannot be known, on reading, whether the field is there.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Number(u64),
    Text(String),
}

#[tokio::test]
async fn records_that_cannot_be_stored_are_an_error_at_the_start_only_where_they_would_have_to_be() {
    let start = async |name: &str, checkpointing| {
        let env = Environment::builder().parallelism(1).checkpointing(checkpointing).build().unwrap();
        env.source("records", Iter::new([1, 2]))
            .map(|n| if n == 1 { Untagged::Number(n) } else { Untagged::Text("2".into()) })
            .rebalance()
            .sink("out", Collect::new());
        env.execute(name).await
    };
    let error = start("untagged-unaligned", on_request().unaligned()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Program);
    let text = error.to_string();
    assert!(text.contains("the stream after `records`") && text.contains("untagged"), "{text}");
    assert_eq!(start("untagged-aligned", on_request()).await.unwrap(), JobStatus::Finished);
}

/// Leaves records in flight behind: those of the numbers that the sink had not written.
fn leave_some_in_flight(disk: &Arc<MemoryDisk>) {
    virtual_process(async {
        let env = environment(disk, on_request().unaligned()).build().unwrap();
        let (numbers, gate) = Numbers::gated(1, RECORDS);
        env.source("numbers", numbers)
            .map(|(_, number)| number)
            .rebalance()
            .sink("out", Slow { sink: Collect::new(), each: EACH });
        let job = env.start_local("changed").await.unwrap();
        common::running(&job).await;
        gate.open_to(RECORDS - 1);
        gate.reached(1, RECORDS - 1).await;
        job.checkpoint().await.unwrap();
        job.cancel().await.unwrap();
        assert!(in_flight_in(&**disk).await > 0);
    });
}

/// The last number is all that the source has left.
fn goes_on<T: strandline::Record>(
    disk: &Arc<MemoryDisk>,
    set: impl Fn(EnvironmentBuilder) -> EnvironmentBuilder,
    exchange: bool,
    map: fn(u64) -> T,
) -> Result<Vec<T>, Error> {
    virtual_process(async {
        let env = set(environment(disk, on_request())).build()?;
        let out = Collect::new();
        let numbers = Numbers { splits: 1, len: RECORDS, gate: Gate::open() };
        let numbers = env.source("numbers", numbers).map(move |(_, number)| map(number));
        if exchange {
            numbers.rebalance().sink("out", out.clone());
        } else {
            numbers.sink("out", out.clone());
        }
        env.start_local("changed").await?.wait().await?;
        Ok(out.records())
    })
}

#[test]
fn records_in_flight_whose_exchange_is_gone_or_of_another_type_are_an_error_that_says_what_to_do() {
    let disk = Arc::default();
    leave_some_in_flight(&disk);
    let gone = goes_on(&disk, |env| env, false, |number| number).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::Program);
    let text = gone.to_string();
    assert!(
        text.contains("the stream after `numbers`") && text.contains("allow_non_restored_state"),
        "{text}"
    );
    let other = goes_on(&disk, |env| env, true, |number| number.to_string()).unwrap_err();
    assert_eq!(other.kind(), ErrorKind::Program);
    let text = other.to_string();
    assert!(
        text.contains("the stream after `numbers`") && text.contains("u64") && text.contains("str"),
        "{text}"
    );
    // Dropped by its own word only.
    let dropped =
        goes_on(&disk, EnvironmentBuilder::allow_non_restored_state, false, |number| number).unwrap();
    assert_eq!(dropped, [RECORDS - 1]);
}

#[test]
fn records_in_flight_are_restored_by_a_job_whose_checkpoints_align() {
    for set in [|env| env, |env: EnvironmentBuilder| env.parallelism(3)] {
        let disk = Arc::default();
        leave_some_in_flight(&disk);
        let restored = sorted(goes_on(&disk, set, true, |number| number).unwrap());
        assert!(restored.len() as u64 > RECORDS / 2, "{restored:?}");
        assert!(restored.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{restored:?}");
        assert_eq!(restored.last(), Some(&(RECORDS - 1)));
    }
}
