//! A job's metrics for the recorder of the `metrics` facade.
//!
//! Handles are registered once, where the job is started. What happens rarely (checkpoints, restarts) is recorded when it happens;
//! the counters of subtasks are read once a second, by the job's root, and passed on as what has been added since. So the subtasks know
//! nothing of it, and one that sleeps stays asleep.

use super::metrics::{JobMetrics, StateMetrics, SubtaskMetrics};
use super::status::JobStatus;
use crate::checkpoint::CompletedCheckpoint;
use crate::dataflow::{Layout, OperatorKind, PlannedChain};
use crate::metrics::{self as names, Metric, MetricKind};
use crate::types::{JobName, SubtaskIndex};
use ::metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Unit, with_recorder};
use std::collections::BTreeMap;
use std::time::Duration;

/// How often counters are passed on.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);

const METADATA: Metadata<'static> = Metadata::new("strandline", Level::INFO, Some("strandline"));

fn key(metric: &Metric, values: &[&str]) -> Key {
    let labels =
        metric.labels.iter().zip(values).map(|(label, value)| Label::new(*label, (*value).to_owned()));
    Key::from_parts(metric.name, labels.collect::<Vec<_>>())
}

fn counter(metric: &Metric, values: &[&str]) -> Counter {
    with_recorder(|recorder| recorder.register_counter(&key(metric, values), &METADATA))
}

fn gauge(metric: &Metric, values: &[&str]) -> Gauge {
    with_recorder(|recorder| recorder.register_gauge(&key(metric, values), &METADATA))
}

fn histogram(metric: &Metric, values: &[&str]) -> Histogram {
    with_recorder(|recorder| recorder.register_histogram(&key(metric, values), &METADATA))
}

/// Says what the metrics mean: at every start of a job, as a recorder may have come since the last one.
fn describe() {
    with_recorder(|recorder| {
        for metric in names::ALL {
            let (name, meaning) = (metric.name.into(), metric.meaning.into());
            let unit = match metric.unit {
                "seconds" => Some(Unit::Seconds),
                "milliseconds" => Some(Unit::Milliseconds),
                "bytes" => Some(Unit::Bytes),
                "id" | "0 or 1" => None,
                _ => Some(Unit::Count),
            };
            match metric.kind {
                MetricKind::Counter => recorder.describe_counter(name, unit, meaning),
                MetricKind::Gauge => recorder.describe_gauge(name, unit, meaning),
                MetricKind::Histogram => recorder.describe_histogram(name, unit, meaning),
            }
        }
    });
}

/// What is recorded when it happens.
#[derive(Debug)]
pub(super) struct JobSeries {
    restarts: Counter,
    started: Counter,
    completed: Counter,
    failed: Counter,
    in_progress: Gauge,
    duration: Histogram,
    size: Gauge,
    last_id: Gauge,
}

impl JobSeries {
    pub(super) fn register(job: &JobName) -> Self {
        describe();
        let job = &[job.as_str()];
        Self {
            restarts: counter(&names::RESTARTS, job),
            started: counter(&names::CHECKPOINTS_STARTED, job),
            completed: counter(&names::CHECKPOINTS_COMPLETED, job),
            failed: counter(&names::CHECKPOINTS_FAILED, job),
            in_progress: gauge(&names::CHECKPOINTS_IN_PROGRESS, job),
            duration: histogram(&names::CHECKPOINT_DURATION, job),
            size: gauge(&names::CHECKPOINT_SIZE, job),
            last_id: gauge(&names::CHECKPOINT_LAST_ID, job),
        }
    }

    #[allow(clippy::cast_precision_loss)] // exact up to 2^53
    pub(super) fn checkpoints_in_progress(&self, now: u64) {
        self.in_progress.set(now as f64);
    }

    pub(super) fn restarted(&self) {
        self.restarts.increment(1);
    }

    pub(super) fn checkpoint_started(&self) {
        self.started.increment(1);
    }

    #[allow(clippy::cast_precision_loss)] // exact up to 2^53
    pub(super) fn checkpoint_completed(&self, figures: Option<&CompletedCheckpoint>) {
        self.completed.increment(1);
        if let Some(CompletedCheckpoint { checkpoint, bytes, duration, .. }) = figures {
            if let Some(duration) = duration {
                self.duration.record(*duration);
            }
            self.size.set(*bytes as f64);
            self.last_id.set(checkpoint.0 as f64);
        }
    }

    pub(super) fn checkpoint_failed(&self) {
        self.failed.increment(1);
    }
}

/// What is passed on at intervals.
#[derive(Debug)]
pub(super) struct Publisher {
    uptime: Gauge,
    statuses: Vec<(JobStatus, Gauge)>,
    subtasks: Vec<SubtaskSeries>,
}

impl Publisher {
    pub(super) fn register(job: &JobName, layout: &Layout) -> Self {
        let job = job.as_str();
        let subtasks = layout.subtasks().map(|(chain, id)| SubtaskSeries::register(job, chain, id.index));
        let status = |status: JobStatus| (status, gauge(&names::JOB_STATUS, &[job, status.as_str()]));
        Self {
            uptime: gauge(&names::JOB_UPTIME, &[job]),
            statuses: JobStatus::ALL.into_iter().map(status).collect(),
            subtasks: subtasks.collect(),
        }
    }

    pub(super) fn publish(&mut self, now: &JobMetrics) {
        self.uptime.set(now.uptime.as_secs_f64());
        for (status, gauge) in &self.statuses {
            gauge.set(if *status == now.status { 1.0 } else { 0.0 });
        }
        let subtasks = now.chains.iter().flat_map(|chain| &chain.subtasks);
        for (series, subtask) in self.subtasks.iter_mut().zip(subtasks) {
            series.publish(subtask);
        }
    }
}

/// A counter of the recorder, and how much of ours it has been told. It is told of increments, so it goes on growing when a job of
/// the same name is started again.
#[derive(Debug)]
struct Series {
    counter: Counter,
    told: u64,
}

impl Series {
    fn publish(&mut self, now: u64) {
        self.counter.increment(now.saturating_sub(self.told));
        self.told = self.told.max(now);
    }
}

#[derive(Debug)]
struct SubtaskSeries {
    own: [Series; 9],
    /// Records in and out of each operator, and those that it skipped.
    operators: Vec<[Option<Series>; 3]>,
    /// What labels them.
    job: String,
    index: String,
    /// By uid and name of the state. They are declared when a subtask is built, so each is registered when it is first seen.
    states: BTreeMap<(String, String), [Gauge; 3]>,
}

impl SubtaskSeries {
    fn register(job: &str, chain: &PlannedChain, index: SubtaskIndex) -> Self {
        let index = index.to_string();
        let series =
            |metric: &Metric, of: &str| Series { counter: counter(metric, &[job, of, &index]), told: 0 };
        let operators = chain.operators.iter().map(|operator| {
            let uid = operator.id.as_str();
            let taken = || series(&names::RECORDS_IN, uid);
            let given = || series(&names::RECORDS_OUT, uid);
            let skipped = || series(&names::RECORDS_SKIPPED, uid);
            match operator.kind {
                OperatorKind::Source(_) => [None, Some(given()), None],
                OperatorKind::Operator => [Some(taken()), Some(given()), Some(skipped())],
                OperatorKind::Sink(_) => [Some(taken()), None, None],
            }
        });
        Self {
            own: [
                &names::SUBTASK_RECORDS_IN,
                &names::SUBTASK_RECORDS_OUT,
                &names::SUBTASK_BATCHES_IN,
                &names::SUBTASK_BATCHES_OUT,
                &names::SUBTASK_BUSY,
                &names::SUBTASK_IDLE,
                &names::SUBTASK_BACK_PRESSURED,
                &names::SUBTASK_RESTARTS,
                &names::SUBTASK_CHECKPOINT_BYTES,
            ]
            .map(|metric| series(metric, &chain.name)),
            operators: operators.collect(),
            job: job.to_owned(),
            index: index.clone(),
            states: BTreeMap::new(),
        }
    }

    #[allow(clippy::cast_precision_loss)] // exact up to 2^53
    fn publish_state(&mut self, operator: &str, now: &StateMetrics) {
        let Self { job, index, states, .. } = self;
        let gauges = states.entry((operator.to_owned(), now.state.clone())).or_insert_with(|| {
            [&names::STATE_ENTRIES, &names::STATE_BYTES, &names::STATE_SNAPSHOT_BYTES]
                .map(|metric| gauge(metric, &[job, operator, &now.state, index]))
        });
        for (gauge, figure) in gauges.iter().zip([now.entries, now.bytes, now.snapshot_bytes]) {
            gauge.set(figure as f64);
        }
    }

    fn publish(&mut self, now: &SubtaskMetrics) {
        let figures = [
            now.records_in,
            now.records_out,
            now.batches_in,
            now.batches_out,
            millis(now.busy),
            millis(now.idle),
            millis(now.back_pressured),
            now.restarts,
            now.checkpoint_bytes,
        ];
        for (series, figure) in self.own.iter_mut().zip(figures) {
            series.publish(figure);
        }
        for (series, operator) in self.operators.iter_mut().zip(&now.operators) {
            let figures = [operator.records_in, operator.records_out, operator.records_skipped];
            for (series, figure) in series.iter_mut().zip(figures) {
                if let Some(series) = series {
                    series.publish(figure);
                }
            }
        }
        for operator in &now.operators {
            for state in &operator.states {
                self.publish_state(operator.operator.as_str(), state);
            }
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
