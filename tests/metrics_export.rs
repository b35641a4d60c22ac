//! What a job counts reaches the recorder of the `metrics` facade, under the names that the documentation lists.

#![cfg(feature = "metrics")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use common::{Count, Fuse, Gate, Numbers, in_time, running, virtual_process};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use strandline::metrics::{ALL, MetricKind};
use strandline::prelude::*;

/// A recorder for the tests of one thread.
fn recorder() -> (PrometheusRecorder, PrometheusHandle) {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    (recorder, handle)
}

/// Every series with its value.
fn series(prometheus: &PrometheusHandle) -> BTreeMap<String, f64> {
    let text = prometheus.render();
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

/// A job with a checkpoint after 40 numbers of each split, and a restart after the 25th number of one key.
async fn restarted(name: &str) -> strandline::JobHandle {
    let env = Environment::builder()
        .parallelism(2)
        .storage(Memory::new())
        .restart(RestartStrategy::fixed_delay(1, Duration::from_millis(2500)))
        .build()
        .unwrap();
    let (numbers, gate) = Numbers::gated(2, 100);
    let fuse = Fuse::after(0);
    env.source("numbers", numbers)
        .key_by(|(_, number)| number % 5)
        .process("count", |setup| Ok(Count { seen: setup.value_state("seen")? }))
        .try_map(
            move |(key, n)| {
                if (key, n) == (0, 25) && fuse.goes_off() { Err("injected".into()) } else { Ok((key, n)) }
            },
        )
        .sink("out", Collect::new());
    let job = env.start_local(name).await.unwrap();
    running(&job).await;
    gate.open_to(40);
    gate.reached(2, 40).await;
    job.checkpoint().await.unwrap();
    gate.open_to(u64::MAX);
    job.wait().await.unwrap();
    job
}

#[test]
fn names_types_labels_and_descriptions_are_those_of_the_list() {
    let (recorder, prometheus) = recorder();
    metrics::with_local_recorder(&recorder, || {
        virtual_process(in_time("a job", async { drop(restarted("listed").await) }));
    });
    let text = prometheus.render();
    let mut types = BTreeSet::new();
    let mut described = BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            types.insert(rest.to_owned());
        } else if let Some(rest) = line.strip_prefix("# HELP ") {
            described.insert(rest.to_owned());
        }
    }
    let kind = |kind| match kind {
        MetricKind::Counter => "counter",
        MetricKind::Gauge => "gauge",
        // Without buckets this exporter makes a summary of a histogram.
        _ => "summary",
    };
    let listed: BTreeSet<_> = ALL.iter().map(|one| format!("{} {}", one.name, kind(one.kind))).collect();
    assert_eq!(types, listed);
    let meanings: BTreeSet<_> = ALL.iter().map(|one| format!("{} {}", one.name, one.meaning)).collect();
    assert_eq!(described, meanings);

    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let series = series(&prometheus);
    for name in series.keys() {
        let (name, labels) = name.split_once('{').unwrap();
        let metric = ALL.iter().find(|metric| name.starts_with(metric.name)).unwrap();
        let labels: Vec<_> = labels.split(',').map(|label| label.split_once('=').unwrap().0).collect();
        let labels: Vec<_> = labels.into_iter().filter(|label| *label != "quantile").collect();
        assert_eq!(labels, metric.labels, "{name}");
        *seen.entry(metric.name).or_default() += 1;
    }
    assert_eq!(seen.len(), ALL.len(), "every metric has a series");
    // Two subtasks each: of two operators out of three, and of two chains.
    assert_eq!((seen["strandline_records_in_total"], seen["strandline_records_out_total"]), (4, 4));
    assert_eq!((seen["strandline_subtask_busy_milliseconds_total"], seen["strandline_job_status"]), (4, 7));
}

#[test]
fn counters_arrive_whole_and_go_on_when_the_job_is_started_again() {
    let (recorder, prometheus) = recorder();
    metrics::with_local_recorder(&recorder, || {
        virtual_process(in_time("two runs", async {
            let mut expected = [0; 5];
            for run in 1..=2_u32 {
                let job = restarted("twice").await;
                let metrics = job.metrics();
                let chains = metrics.chains.iter().flat_map(|chain| &chain.subtasks);
                let figures = [
                    metrics.operator("numbers").unwrap().records_out,
                    metrics.operator("out").unwrap().records_in,
                    metrics.checkpoints.completed,
                    metrics.checkpoints.started,
                    chains.map(|subtask| subtask.restarts).sum(),
                ];
                expected.iter_mut().zip(figures).for_each(|(sum, figure)| *sum += figure);
                let all = series(&prometheus);
                let total = |name: &str, label: &str| -> f64 {
                    let of = all.iter().filter(|(key, _)| key.starts_with(name) && key.contains(label));
                    of.map(|(_, value)| value).sum()
                };
                let exported = [
                    total("strandline_records_out_total", r#"operator="numbers""#),
                    total("strandline_records_in_total", r#"operator="out""#),
                    total("strandline_checkpoints_completed_total", "twice"),
                    total("strandline_checkpoints_started_total", "twice"),
                    total("strandline_subtask_restarts_total", "twice"),
                ];
                assert_eq!(exported.map(|value| value as u64), expected, "run {run}");
                assert_eq!(total("strandline_restarts_total", "twice"), f64::from(run));
                assert_eq!(
                    total("strandline_checkpoint_duration_seconds_count", "twice"),
                    f64::from(run) * 2.0
                );
                assert_eq!(total("strandline_checkpoints_in_progress", "twice"), 0.0);
                assert_eq!(all[r#"strandline_job_status{job="twice",status="finished"}"#], 1.0);
                assert_eq!(total("strandline_job_status", "twice"), 1.0, "in one status at a time");
                assert_eq!(
                    all[r#"strandline_job_uptime_seconds{job="twice"}"#], 2.5,
                    "the delay of the restart"
                );
                let last = metrics.checkpoints.last_completed.unwrap();
                assert_eq!(all[r#"strandline_checkpoint_size_bytes{job="twice"}"#], last.bytes as f64);
                assert_eq!(all[r#"strandline_checkpoint_last_id{job="twice"}"#], last.checkpoint.0 as f64);
            }
        }));
    });
}

#[test]
fn a_running_job_is_passed_on_every_second_sleepers_included() {
    let (recorder, prometheus) = recorder();
    metrics::with_local_recorder(&recorder, || {
        virtual_process(in_time("a running job", async {
            let env = Environment::builder().parallelism(1).build().unwrap();
            let (numbers, gate) = Numbers::gated(1, 100);
            env.source("numbers", numbers).sink("out", Collect::new());
            let job = env.start_local("running").await.unwrap();
            running(&job).await;
            gate.open_to(30);
            gate.reached(1, 30).await;
            tokio::time::sleep(Duration::from_millis(10_500)).await;
            let all = series(&prometheus);
            let subtask = r#"{job="running",chain="numbers -> out",subtask="0"}"#;
            assert_eq!(all[&format!("strandline_subtask_idle_milliseconds_total{subtask}")], 10_000.0);
            assert_eq!(all[r#"strandline_records_in_total{job="running",operator="out",subtask="0"}"#], 30.0);
            assert_eq!(all[r#"strandline_job_uptime_seconds{job="running"}"#], 10.0);
            assert_eq!(all[r#"strandline_job_status{job="running",status="running"}"#], 1.0);
            job.cancel().await.unwrap();
            let all = series(&prometheus);
            assert_eq!(all[&format!("strandline_subtask_idle_milliseconds_total{subtask}")], 10_500.0);
            assert_eq!(all[r#"strandline_job_status{job="running",status="cancelled"}"#], 1.0);
        }));
    });
}

/// On threads of its own: what counts is the recorder of the thread that starts the job.
#[test]
fn a_job_on_its_own_threads_records_where_it_was_started() {
    let (recorder, prometheus) = recorder();
    metrics::with_local_recorder(&recorder, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(in_time("a job", async {
            let env = Environment::builder().parallelism(2).storage(Memory::new()).build().unwrap();
            env.source("numbers", Numbers { splits: 2, len: 500, gate: Gate::open() })
                .rebalance()
                .sink("out", Collect::new());
            env.execute("recorded-on-threads").await.unwrap();
        }));
    });
    let all = series(&prometheus);
    let taken = |subtask: u32| {
        let labels = format!(r#"{{job="recorded-on-threads",operator="out",subtask="{subtask}"}}"#);
        all[&format!("strandline_records_in_total{labels}")]
    };
    assert_eq!(taken(0) + taken(1), 1000.0);
    assert_eq!(all[r#"strandline_checkpoints_completed_total{job="recorded-on-threads"}"#], 1.0);
}
