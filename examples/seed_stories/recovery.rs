//! What a failure loses, and what it does not.

use crate::on_virtual_time;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use strandline::prelude::*;
use strandline::types::Clock;
use tokio::sync::watch;

/// Counts from 0. Where it is is its position; there is no lock to take, as nothing else runs while it gives a number.
#[derive(Clone)]
pub struct Counter {
    end: u64,
}

impl Counter {
    pub fn to(end: u64) -> Self {
        Self { end }
    }

    pub fn endless() -> Self {
        Self::to(u64::MAX)
    }
}

pub struct CounterReader {
    next: u64,
    end: u64,
}

impl Source for Counter {
    type Record = u64;
    type Split = u64;
    type Reader = CounterReader;

    fn parallelism(&self) -> Option<u32> {
        Some(1)
    }

    async fn splits(&self, restored: Option<Vec<u64>>) -> Result<Vec<u64>> {
        Ok(restored.unwrap_or_else(|| vec![0]))
    }

    fn reader(&self, splits: Vec<u64>, _: &SubtaskContext) -> Result<CounterReader> {
        let [next] = splits[..] else { return Err("a counter has one position".into()) };
        Ok(CounterReader { next, end: self.end })
    }
}

impl SourceReader for CounterReader {
    type Record = u64;
    type Split = u64;

    fn next(&mut self) -> Result<Option<u64>> {
        if self.next == self.end {
            return Ok(None);
        }
        self.next += 1;
        Ok(Some(self.next - 1))
    }

    async fn ready(&mut self) -> Result<bool> {
        Ok(self.next < self.end)
    }

    fn splits(&self) -> Vec<u64> {
        vec![self.next]
    }
}

pub fn stateful_source() -> Result<String> {
    on_virtual_time(async {
        let env = Environment::builder()
            .parallelism(1)
            .checkpointing(Checkpointing::every(Duration::from_secs(10)))
            .restart(RestartStrategy::fixed_delay(1, Duration::from_secs(1)))
            .build()?;
        let (read, failed, out) =
            (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)), Collect::new());
        let reads = Arc::clone(&read);
        env.source("numbers", Counter::to(1_000).throttled(10))
            .inspect(move |_| {
                reads.fetch_add(1, Ordering::Relaxed);
            })
            .try_map(move |number| match number {
                777 if !failed.swap(true, Ordering::Relaxed) => Err("on purpose".into()),
                number => Ok(number),
            })
            .sink("out", out.clone());
        env.start_local("exactly-once").await?.wait().await?;
        assert_eq!(out.records(), (0..1_000).collect::<Vec<_>>());
        let again = read.load(Ordering::Relaxed) - 1_000;
        assert!(again > 0, "nothing was read again");
        Ok(format!("1000 numbers came out, each once; {again} were read again after a failure"))
    })
}

/// Grows, whether or not anyone reads it.
#[derive(Clone, Default)]
struct Topic(Arc<watch::Sender<Vec<u64>>>);

impl Topic {
    fn append(&self, records: impl IntoIterator<Item = u64>) {
        self.0.send_modify(|topic| topic.extend(records));
    }
}

/// Reads on from the position of the checkpoint; without one, what comes from now on. The record 0 is the last.
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
        let [next] = splits[..] else { return Err("a topic has one position".into()) };
        Ok(TopicReader { topic: self.0.subscribe(), next })
    }
}

struct TopicReader {
    topic: watch::Receiver<Vec<u64>>,
    next: usize,
}

impl SourceReader for TopicReader {
    type Record = u64;
    type Split = usize;

    fn next(&mut self) -> Result<Option<u64>> {
        let record = self.topic.borrow().get(self.next).copied().filter(|record| *record != 0);
        self.next += usize::from(record.is_some());
        Ok(record)
    }

    async fn ready(&mut self) -> Result<bool> {
        let next = self.next;
        let topic = self.topic.wait_for(|topic| topic.len() > next).await?;
        Ok(topic.get(next) != Some(&0))
    }

    fn splits(&self) -> Vec<usize> {
        vec![self.next]
    }
}

pub fn records_while_down() -> Result<String> {
    let [without, with] = [None, Some(Checkpointing::every(Duration::from_secs(1)))].map(what_comes_out);
    let (without, with) = (without?, with?);
    assert_eq!((&without[..], &with[..]), (&[7, 8][..], &[1, 2, 3, 4, 5, 6, 7, 8][..]));
    Ok(format!("without: {without:?}; with: {with:?}"))
}

/// 1 and 2 are read; at 3 the job fails; 4, 5 and 6 come while it is down, 7 and 8 when it runs again.
fn what_comes_out(checkpointing: Option<Checkpointing>) -> Result<Vec<u64>> {
    on_virtual_time(async {
        let mut env = Environment::builder()
            .parallelism(1)
            .restart(RestartStrategy::fixed_delay(1, Duration::from_secs(30)));
        if let Some(checkpointing) = checkpointing {
            env = env.checkpointing(checkpointing);
        }
        let (env, topic, out) = (env.build()?, Topic::default(), Collect::new());
        let failed = Arc::new(AtomicBool::new(false));
        env.source("topic", topic.clone())
            .try_map(move |record| match record {
                3 if !failed.swap(true, Ordering::Relaxed) => Err("on purpose".into()),
                record => Ok(record),
            })
            .sink("out", out.clone());
        let job = env.start_local("reading-a-topic").await?;
        job.status().wait_for(|status| *status == JobStatus::Running).await?;
        topic.append([1, 2]);
        Clock::start().sleep(Duration::from_secs(5)).await;
        topic.append([3]);
        job.status().wait_for(|status| *status == JobStatus::Restarting).await?;
        topic.append([4, 5, 6]);
        job.status().wait_for(|status| *status == JobStatus::Running).await?;
        topic.append([7, 8, 0]);
        job.wait().await?;
        Ok(out.records())
    })
}
