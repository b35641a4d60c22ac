//! Every metric that is exported: name, type, unit, labels, meaning.

/// How a metric behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution of single values.
    Histogram,
}

/// A metric as it is exported. Its name, type, unit and labels are part of the crate's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Metric {
    /// Its name, in the style of Prometheus.
    pub name: &'static str,
    /// How it behaves.
    pub kind: MetricKind,
    /// What is counted or measured.
    pub unit: &'static str,
    /// The labels of its series, in order.
    pub labels: &'static [&'static str],
    /// What it says.
    pub meaning: &'static str,
}

/// Series of an operator: its job, its uid, the index of the subtask.
const OF_OPERATOR: &[&str] = &["job", "operator", "subtask"];

/// Series of a keyed state: its job, the uid of its operator, its name, the index of the subtask.
const OF_STATE: &[&str] = &["job", "operator", "state", "subtask"];

/// Series of a subtask: its job, the name of its chain, its index.
const OF_SUBTASK: &[&str] = &["job", "chain", "subtask"];

const OF_JOB: &[&str] = &["job"];

macro_rules! metrics {
    ($($constant:ident = $name:literal, $kind:ident of $unit:literal by $labels:expr, $meaning:literal;)+) => {
        $(
            #[doc = concat!("`", $name, "`: ", $meaning, ".")]
            pub const $constant: Metric =
                Metric { name: $name, kind: MetricKind::$kind, unit: $unit, labels: $labels, meaning: $meaning };
        )+

        /// All of them.
        pub const ALL: &[Metric] = &[$($constant),+];
    };
}

metrics! {
    RECORDS_IN = "strandline_records_in_total", Counter of "records" by OF_OPERATOR,
        "records that an operator or sink was given";
    RECORDS_OUT = "strandline_records_out_total", Counter of "records" by OF_OPERATOR,
        "records that a source or operator gave";
    RECORDS_SKIPPED = "strandline_records_skipped_total", Counter of "records" by OF_OPERATOR,
        "records for which an operator gave an error that its error policy let pass";
    STATE_ENTRIES = "strandline_state_entries", Gauge of "keys" by OF_STATE,
        "keys that have this state";
    STATE_BYTES = "strandline_state_bytes", Gauge of "bytes" by OF_STATE,
        "memory that the table of a keyed state holds, without what keys and values own beside themselves";
    STATE_SNAPSHOT_BYTES = "strandline_state_snapshot_bytes", Gauge of "bytes" by OF_STATE,
        "memory that holds what is encoded of a keyed state for checkpoints and not yet written";
    SUBTASK_RECORDS_IN = "strandline_subtask_records_in_total", Counter of "records" by OF_SUBTASK,
        "records taken from input channels, by whole batches";
    SUBTASK_RECORDS_OUT = "strandline_subtask_records_out_total", Counter of "records" by OF_SUBTASK,
        "records put into output channels; a broadcast counts once per channel";
    SUBTASK_BATCHES_IN = "strandline_subtask_batches_in_total", Counter of "batches" by OF_SUBTASK,
        "batches taken from input channels";
    SUBTASK_BATCHES_OUT = "strandline_subtask_batches_out_total", Counter of "batches" by OF_SUBTASK,
        "batches put into output channels";
    SUBTASK_BUSY = "strandline_subtask_busy_milliseconds_total", Counter of "milliseconds" by OF_SUBTASK,
        "time at work, or with work and waiting for its turn on its thread";
    SUBTASK_IDLE = "strandline_subtask_idle_milliseconds_total", Counter of "milliseconds" by OF_SUBTASK,
        "time without input";
    SUBTASK_BACK_PRESSURED = "strandline_subtask_back_pressured_milliseconds_total",
        Counter of "milliseconds" by OF_SUBTASK, "time without room in an output channel, or waiting for a sink to flush";
    SUBTASK_RESTARTS = "strandline_subtask_restarts_total", Counter of "restarts" by OF_SUBTASK,
        "times it was built again";
    SUBTASK_CHECKPOINT_BYTES = "strandline_subtask_checkpoint_bytes_total", Counter of "bytes" by OF_SUBTASK,
        "state written for checkpoints, whatever became of them";
    JOB_UPTIME = "strandline_job_uptime_seconds", Gauge of "seconds" by OF_JOB,
        "time since the job was started in this process; it stops when the job ends";
    JOB_STATUS = "strandline_job_status", Gauge of "0 or 1" by &["job", "status"],
        "1 for the status that the job has, 0 for every other";
    RESTARTS = "strandline_restarts_total", Counter of "restarts" by OF_JOB,
        "restarts, of whichever failover region; one if all are restarted as one";
    CHECKPOINTS_STARTED = "strandline_checkpoints_started_total", Counter of "checkpoints" by OF_JOB,
        "checkpoints that were given a number";
    CHECKPOINTS_COMPLETED = "strandline_checkpoints_completed_total", Counter of "checkpoints" by OF_JOB,
        "checkpoints that are committed";
    CHECKPOINTS_FAILED = "strandline_checkpoints_failed_total", Counter of "checkpoints" by OF_JOB,
        "checkpoints that were started and given up, for whatever reason, the end of the job included";
    CHECKPOINTS_IN_PROGRESS = "strandline_checkpoints_in_progress", Gauge of "checkpoints" by OF_JOB,
        "checkpoints started, and neither completed nor failed";
    CHECKPOINT_DURATION = "strandline_checkpoint_duration_seconds", Histogram of "seconds" by OF_JOB,
        "from trigger to commit, of each completed checkpoint";
    CHECKPOINT_SIZE = "strandline_checkpoint_size_bytes", Gauge of "bytes" by OF_JOB,
        "bytes written for the last completed checkpoint: state and manifest";
    CHECKPOINT_LAST_ID = "strandline_checkpoint_last_id", Gauge of "id" by OF_JOB,
        "number of the last completed checkpoint of this run";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_follow_the_conventions_of_prometheus() {
        let names: BTreeSet<&str> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), ALL.len(), "each name once");
        for Metric { name, kind, .. } in ALL {
            assert!(name.starts_with("strandline_"), "{name}");
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == MetricKind::Counter, "{name}");
        }
    }

    /// The rows of the table in the page, as the metrics they stand for.
    #[test]
    fn the_page_lists_exactly_these_metrics() {
        let page = include_str!("../../docs/observability.md");
        let listed: Vec<&str> = page.lines().filter(|line| line.starts_with("| `strandline_")).collect();
        let row = |metric: &Metric| {
            let kind = match metric.kind {
                MetricKind::Counter => "counter",
                MetricKind::Gauge => "gauge",
                MetricKind::Histogram => "histogram",
            };
            let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            let Metric { name, unit, meaning, .. } = metric;
            format!("| `{name}` | {kind} | {unit} | {} | {meaning} |", labels.join(", "))
        };
        assert_eq!(listed, ALL.iter().map(row).collect::<Vec<_>>());
    }
}
