//! The stories that the project was asked to make true.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use strandline::prelude::*;
use strandline::{SourceReader, SubtaskContext};
use tokio::sync::watch;

struct CountWindowAverage {
    sum: ValueState<(u64, u64)>,
}

impl Operator for CountWindowAverage {
    type Key = u64;
    type Out = (u64, u64);
}

impl Handler<(u64, u64)> for CountWindowAverage {
    fn handle(&mut self, (key, value): (u64, u64), ctx: &mut Context<'_, Self>) -> Result {
        let (count, sum) = self.sum.get(ctx).unwrap_or_default();
        match (count + 1, sum + value) {
            (2, sum) => {
                self.sum.clear(ctx);
                ctx.emit((key, sum / 2));
            }
            next => self.sum.set(ctx, next),
        }
        Ok(())
    }
}

#[tokio::test]
async fn count_window_average_emits_the_average_of_every_two_values() {
    for checkpointing in [None, Some(Checkpointing::every(Duration::from_millis(10)))] {
        let mut env = Environment::builder().parallelism(2);
        if let Some(checkpointing) = checkpointing {
            env = env.checkpointing(checkpointing);
        }
        let env = env.build().unwrap();
        let averages = Collect::new();
        env.source("pairs", Iter::new([(1, 3), (1, 5), (1, 7), (1, 4), (1, 2)]))
            .key_by(|(key, _)| *key)
            .process("average", |setup| Ok(CountWindowAverage { sum: setup.value_state("sum")? }))
            .sink("averages", averages.clone());
        assert_eq!(env.execute("seed-averages").await.unwrap(), JobStatus::Finished);
        assert_eq!(averages.records(), [(1, 4), (1, 5)]);
    }
}

/// What a topic is: records are appended whether or not anyone reads.
#[derive(Clone, Default)]
struct Topic(Arc<watch::Sender<Vec<u64>>>);

impl Topic {
    fn append(&self, record: u64) {
        self.0.send_modify(|records| records.push(record));
    }
}

/// Reads a topic, from the position of the checkpoint, or without one from the end, as Kafka's `latest` does. Ends at the record 0.
impl Source for Topic {
    type Record = u64;
    type Split = usize;
    type Reader = TopicReader;

    fn parallelism(&self) -> Option<u32> {
        Some(1)
    }

    async fn splits(&self, restored: Option<Vec<usize>>) -> Result<Vec<usize>> {
        Ok(restored.unwrap_or_else(|| vec![self.0.borrow().len()]))
    }

    fn reader(&self, splits: Vec<usize>, _: &SubtaskContext) -> Result<TopicReader> {
        Ok(TopicReader { records: self.0.subscribe(), splits })
    }
}

struct TopicReader {
    records: watch::Receiver<Vec<u64>>,
    splits: Vec<usize>,
}

impl SourceReader for TopicReader {
    type Record = u64;
    type Split = usize;

    fn next(&mut self) -> Result<Option<u64>> {
        let Some(position) = self.splits.first_mut() else { return Ok(None) };
        let record = self.records.borrow().get(*position).copied().filter(|record| *record != 0);
        *position += usize::from(record.is_some());
        Ok(record)
    }

    async fn ready(&mut self) -> Result<bool> {
        let Some(position) = self.splits.first().copied() else { return Ok(false) };
        let more = self.records.wait_for(|records| records.len() > position).await?;
        Ok(more.get(position) != Some(&0))
    }

    fn splits(&self) -> Vec<usize> {
        self.splits.clone()
    }
}

/// What comes out when the job fails at the record 3 and, before it runs again, 4 and 5 are appended; and what it says.
async fn records_appended_while_the_job_is_down(checkpoints: bool) -> (Vec<u64>, Option<u64>) {
    let topic = Topic::default();
    let (seen, mut last_seen) = watch::channel(0);
    let mut env = Environment::builder()
        .parallelism(1)
        .restart(RestartStrategy::fixed_delay(1, Duration::from_secs(5)));
    if checkpoints {
        env = env.storage(Memory::new());
    }
    let env = env.build().unwrap();
    let out = Collect::new();
    let fails = Arc::new(AtomicBool::new(true));
    env.source("topic", topic.clone())
        .try_map(move |record| {
            if record == 3 && fails.swap(false, Ordering::SeqCst) {
                return Err("the third record is one too many".into());
            }
            seen.send_replace(record);
            Ok(record)
        })
        .sink("out", out.clone());
    let job = env.start_local("seed-topic").await.unwrap();
    let mut events = job.events();
    let _ = job.status().wait_for(|status| *status == JobStatus::Running).await;
    topic.append(1);
    topic.append(2);
    last_seen.wait_for(|last| *last == 2).await.unwrap();
    if checkpoints {
        job.checkpoint().await.unwrap();
    }
    topic.append(3);
    job.status().wait_for(|status| *status == JobStatus::Restarting).await.unwrap();
    topic.append(4);
    topic.append(5);
    let from = loop {
        match events.recv().await.unwrap() {
            JobEvent::Running { attempt, from } if attempt.0 > 0 => break from.map(|id| id.0),
            _ => {}
        }
    };
    topic.append(6);
    topic.append(0);
    assert_eq!(job.wait().await.unwrap(), JobStatus::Finished);
    (out.records(), from)
}

#[tokio::test(start_paused = true)]
async fn with_checkpoints_off_what_comes_while_the_job_is_down_is_lost_and_said_to_be() {
    let local = tokio::task::LocalSet::new();
    let (records, from) = local.run_until(records_appended_while_the_job_is_down(false)).await;
    assert_eq!(records, [6]);
    assert_eq!(from, None, "an attempt above 0 from nothing: state and records are lost");
}

#[tokio::test(start_paused = true)]
async fn with_checkpoints_on_nothing_that_comes_while_the_job_is_down_is_lost() {
    let local = tokio::task::LocalSet::new();
    let (records, from) = local.run_until(records_appended_while_the_job_is_down(true)).await;
    assert_eq!(records, [1, 2, 3, 4, 5, 6]);
    assert_eq!(from, Some(1));
}
