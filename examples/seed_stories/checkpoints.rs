//! When and how checkpoints are taken.

use crate::{in_real_time, on_virtual_time, recovery::Counter, watch};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use strandline::prelude::*;
use strandline::types::{CheckpointId, Clock};

const MINUTE: Duration = Duration::from_secs(60);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Takes so long to make durable what it was given, at every checkpoint.
#[derive(Clone)]
struct Slow(Duration);

struct SlowWriter {
    takes: Duration,
    clock: Clock,
}

impl Sink<u64> for Slow {
    type Commit = ();
    type Writer = SlowWriter;

    fn writer(&self, context: &SubtaskContext) -> Result<SlowWriter> {
        Ok(SlowWriter { takes: self.0, clock: context.clock })
    }
}

impl SinkWriter<u64> for SlowWriter {
    type Commit = ();

    fn write(&mut self, _: u64) -> Result {
        Ok(())
    }

    async fn flush(&mut self) -> Result {
        Ok(())
    }

    fn prepare(&mut self) -> Result<BoxFuture<Result<Vec<()>>>> {
        let durable = self.clock.sleep(self.takes);
        Ok(Box::pin(async move {
            durable.await;
            Ok(Vec::new())
        }))
    }
}

/// The first two minutes of a job that counts, on virtual time, and whose checkpoints take so long.
fn two_minutes(checkpointing: Checkpointing, takes: Duration) -> Result<Vec<(Duration, JobEvent)>> {
    on_virtual_time(async {
        let env = Environment::builder().parallelism(1).checkpointing(checkpointing).seed(1).build()?;
        env.source("numbers", Counter::endless().throttled(10)).sink("slow", Slow(takes));
        let job = env.start_local("counting").await?;
        watch(&job, 2 * MINUTE).await
    })
}

/// How many seconds after one another the job's checkpoints were complete: always the same. A timer may be a millisecond late.
fn distance(events: &[(Duration, JobEvent)]) -> Result<u64> {
    let completed = events.iter().filter(|(_, event)| matches!(event, JobEvent::CheckpointCompleted(_)));
    let times: Vec<Duration> = completed.map(|(at, _)| *at).collect();
    let mut distances = times.windows(2).map(|pair| (pair[1] - pair[0] + seconds(1) / 2).as_secs());
    match distances.next() {
        Some(first) if distances.all(|distance| distance == first) => Ok(first),
        _ => Err(format!("checkpoints at {times:?}").into()),
    }
}

pub fn off_by_default() -> Result<String> {
    on_virtual_time(async {
        let env = Environment::builder().parallelism(1).build()?;
        env.source("numbers", Counter::endless().throttled(10)).sink("slow", Slow(Duration::ZERO));
        let job = env.start_local("counting").await?;
        let Err(refused) = job.checkpoint().await else { return Err("a checkpoint was taken".into()) };
        assert_eq!(refused.kind(), ErrorKind::Configuration);
        let events = watch(&job, MINUTE).await?;
        assert!(matches!(events[..], [(_, JobEvent::Running { .. })]), "{events:?}");
        Ok(format!("none in a minute; asked for one, the job says: {refused}"))
    })
}

pub fn interval() -> Result<String> {
    let events = two_minutes(Checkpointing::every(seconds(5)), Duration::ZERO)?;
    assert_eq!(distance(&events)?, 5);
    Ok("one every 5 s".to_owned())
}

pub fn on_demand() -> Result<String> {
    on_virtual_time(async {
        // With storage and no interval, checkpoints are taken only on request and at the end.
        let env = Environment::builder().parallelism(1).storage(Memory::new()).build()?;
        env.source("numbers", Counter::endless().throttled(10)).sink("slow", Slow(Duration::ZERO));
        let job = env.start_local("counting").await?;
        let ids = [job.checkpoint().await?, job.checkpoint().await?];
        job.cancel().await?;
        assert_eq!(ids, [CheckpointId(1), CheckpointId(2)]);
        Ok(format!("checkpoints {} and {}", ids[0], ids[1]))
    })
}

pub fn min_pause() -> Result<String> {
    let events = two_minutes(Checkpointing::every(seconds(1)).min_pause(seconds(5)), seconds(3))?;
    assert_eq!(distance(&events)?, 3 + 5);
    Ok("each takes 3 s, and they are complete 8 s after one another".to_owned())
}

pub fn max_concurrent() -> Result<String> {
    let [one, three] = [1, 3].map(|checkpoints| {
        let settings = Checkpointing::every(seconds(1)).max_concurrent(checkpoints);
        two_minutes(settings, seconds(3)).and_then(|events| distance(&events))
    });
    assert_eq!((one?, three?), (3, 1));
    Ok("one at a time: one every 3 s; three at a time: one every second".to_owned())
}

/// Why checkpoints failed.
fn reasons(events: &[(Duration, JobEvent)]) -> Vec<&str> {
    let reasons = events.iter().filter_map(|(_, event)| match event {
        JobEvent::CheckpointFailed { reason, .. } => Some(reason.as_str()),
        _ => None,
    });
    reasons.collect()
}

pub fn timeout() -> Result<String> {
    let settings = Checkpointing::every(seconds(10)).timeout(seconds(4)).tolerable_failures(u32::MAX);
    let events = two_minutes(settings, seconds(5))?;
    let reasons = reasons(&events);
    assert!(reasons.len() > 10 && reasons.iter().all(|reason| reason.contains("timed out")), "{events:?}");
    assert!(!events.iter().any(|(_, event)| matches!(event, JobEvent::Restarting { .. })), "{events:?}");
    Ok(format!("{} in two minutes: {}", reasons.len(), reasons[0]))
}

pub fn tolerable_failures() -> Result<String> {
    let settings = Checkpointing::every(seconds(10)).timeout(seconds(4)).tolerable_failures(2);
    let events = two_minutes(settings, seconds(5))?;
    let restart = events.iter().enumerate().find_map(|(i, (_, event))| match event {
        JobEvent::Restarting { error, .. } => Some((i, error)),
        _ => None,
    });
    let (before, error) = restart.ok_or_else(|| format!("no restart: {events:?}"))?;
    assert_eq!(reasons(&events[..before]).len(), 3, "{events:?}");
    Ok(error.to_string())
}

pub fn retention() -> Result<String> {
    in_real_time(async {
        let dir = tempfile::tempdir()?;
        let mut resumed = Vec::new();
        for retention in [Retention::Retain, Retention::Delete, Retention::Delete] {
            let env = Environment::builder()
                .parallelism(1)
                .checkpointing(Checkpointing::every(24 * 60 * MINUTE).on_cancellation(retention))
                .storage(FileSystem::at(dir.path()))
                .build()?;
            env.source("numbers", Counter::endless().throttled(1_000)).sink("slow", Slow(Duration::ZERO));
            let job = env.start("counting").await?;
            job.checkpoint().await?;
            job.cancel().await?;
            resumed.push(job.resumed_from());
        }
        // The first found nothing; the second what the first had left; the third nothing again.
        assert_eq!(resumed, [None, Some(CheckpointId(1)), None]);
        Ok("retained, the next start goes on from checkpoint 1; deleted, it begins anew".to_owned())
    })
}

/// Writes down of which checkpoints it hears.
struct Listener(Arc<Mutex<Vec<u64>>>);

impl Operator for Listener {
    type Key = Unkeyed;
    type Out = u64;

    fn on_complete(&mut self, checkpoint: CheckpointId) -> Result {
        self.0.lock().map_err(|_| "poisoned")?.push(checkpoint.0);
        Ok(())
    }
}

impl Handler<u64> for Listener {
    fn handle(&mut self, number: u64, ctx: &mut Context<'_, Self>) -> Result {
        ctx.emit(number);
        Ok(())
    }
}

pub fn listener() -> Result<String> {
    on_virtual_time(async {
        let env =
            Environment::builder().parallelism(1).checkpointing(Checkpointing::every(seconds(10))).build()?;
        let heard = Arc::new(Mutex::new(Vec::new()));
        let writes = Arc::clone(&heard);
        env.source("numbers", Counter::endless().throttled(10))
            .process("listener", move |_| Ok(Listener(Arc::clone(&writes))))
            .sink("slow", Slow(Duration::ZERO));
        let job = env.start_local("listening").await?;
        let completed = watch(&job, MINUTE).await?.into_iter().filter_map(|(_, event)| match event {
            JobEvent::CheckpointCompleted(done) => Some(done.checkpoint.0),
            _ => None,
        });
        let heard = heard.lock().map_err(|_| "poisoned")?.clone();
        assert_eq!(heard, completed.collect::<Vec<_>>());
        Ok(format!("of {heard:?}"))
    })
}
