use super::*;
use crate::types::{ChainId, SubtaskIndex};

fn cp(id: u64) -> CheckpointId {
    CheckpointId(id)
}

fn subtask(chain: u32, index: u32) -> SubtaskId {
    SubtaskId { chain: ChainId(chain), index: SubtaskIndex(index) }
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn report(bytes: u64, sync: u64) -> SnapshotReport {
    SnapshotReport { bytes, sync_duration: ms(sync), ..SnapshotReport::default() }
}

/// A job of two subtasks that remembers three checkpoints.
struct Rig {
    tracker: StatisticsTracker,
    now: u64,
}

impl Rig {
    fn new() -> Self {
        Self { tracker: StatisticsTracker::new(3, 2), now: 1_000 }
    }

    fn triggered(&mut self, id: u64) {
        self.tracker.triggered(cp(id), Monotonic(self.now), Timestamp(id.cast_signed() * 1_000_000));
    }

    fn ack(&mut self, id: u64, from: u32, report: SnapshotReport) {
        self.tracker.acknowledged(cp(id), subtask(from, 0), &"chain".into(), report, Monotonic(self.now));
    }

    fn take(&mut self, id: u64) {
        self.triggered(id);
        self.ack(id, 0, report(10, 1));
        self.ack(id, 1, report(5, 2));
        self.tracker.completed(cp(id), Some(format!("chk-{id}").into()), Monotonic(self.now));
    }

    fn fail(&mut self, id: u64) {
        self.tracker.failed(Some(cp(id)), "why", Monotonic(self.now));
    }

    fn counts(&self) -> [u64; 5] {
        let CheckpointCounts { triggered, in_progress, completed, failed, restored } = self.tracker.counts;
        assert_eq!(triggered, in_progress + completed + failed);
        [triggered, in_progress, completed, failed, restored]
    }

    fn history(&self) -> Vec<u64> {
        self.tracker.statistics().history.iter().map(|record| record.checkpoint.0).collect()
    }
}

#[test]
fn checkpoints_are_counted_by_where_they_are() {
    let mut rig = Rig::new();
    assert_eq!(rig.counts(), [0, 0, 0, 0, 0]);
    rig.triggered(1);
    rig.triggered(2);
    assert_eq!(rig.counts(), [2, 2, 0, 0, 0]);
    rig.fail(1);
    rig.tracker.completed(cp(2), None, Monotonic(1_000));
    assert_eq!(rig.counts(), [2, 0, 1, 1, 0]);
    rig.fail(2);
    rig.tracker.completed(cp(1), None, Monotonic(1_000));
    assert_eq!(rig.counts(), [2, 0, 1, 1, 0], "what has ended stays as it is");
    rig.tracker.restored(cp(2), Timestamp(7));
    assert_eq!(rig.counts(), [2, 0, 1, 1, 1]);
    let restored = rig.tracker.statistics().latest_restored;
    assert_eq!(restored, Some(RestoredCheckpoint { checkpoint: cp(2), restored: Timestamp(7) }));
}

#[test]
fn s16_7_a_failure_before_it_has_a_number_counts_and_touches_nothing_else() {
    let mut rig = Rig::new();
    rig.triggered(1);
    rig.tracker.failed(None, "no room", Monotonic(1_000));
    assert_eq!(rig.counts(), [2, 1, 0, 1, 0]);
    let statistics = rig.tracker.statistics();
    assert_eq!((statistics.history.len(), statistics.latest_failed), (0, None));
}

#[test]
fn s16_7_a_report_after_the_end_is_added_as_long_as_it_is_remembered() {
    let mut rig = Rig::new();
    rig.triggered(1);
    rig.ack(1, 1, report(5, 0));
    rig.now = 1_400;
    rig.fail(1);
    rig.now = 1_900;
    rig.ack(1, 0, report(10, 0));
    let record = rig.tracker.statistics().history.remove(0);
    assert_eq!((record.bytes, record.duration), (15, ms(400)), "which does not make it longer");
    let of: Vec<_> =
        record.acknowledged.iter().map(|subtask| (subtask.id.chain.0, subtask.acknowledged_after)).collect();
    assert_eq!(of, [(0, ms(900)), (1, ms(0))], "in order of subtask");
    for id in 2..=4 {
        rig.take(id);
    }
    rig.ack(1, 0, report(99, 0));
    assert_eq!(rig.history(), [4, 3, 2]);
}

#[test]
fn a_subtask_is_counted_once_whatever_it_says() {
    let mut rig = Rig::new();
    rig.triggered(1);
    rig.ack(1, 0, report(10, 0));
    rig.ack(1, 0, report(99, 0));
    rig.ack(7, 0, report(99, 0));
    let pending = rig.tracker.in_progress();
    assert_eq!(pending.len(), 1);
    assert_eq!((pending[0].bytes, pending[0].acknowledged.len(), pending[0].subtasks), (10, 1, 2));
}

#[test]
fn the_last_ones_are_remembered_newest_first_and_the_latest_of_each_kind_for_ever() {
    let mut rig = Rig::new();
    rig.triggered(1);
    rig.fail(1);
    for id in 2..=9 {
        rig.take(id);
    }
    rig.triggered(10);
    assert_eq!(rig.history(), [9, 8, 7]);
    let statistics = rig.tracker.statistics();
    assert_eq!(statistics.latest_failed.unwrap().outcome, CheckpointOutcome::Failed("why".into()));
    let completed = statistics.latest_completed.unwrap();
    assert_eq!((completed.checkpoint, completed.path), (cp(9), Some("chk-9".into())));
    assert_eq!(completed.triggered, Timestamp(9_000_000));
    assert_eq!(rig.tracker.duration_of(cp(8)), Some(ms(0)));
    assert_eq!(rig.tracker.duration_of(cp(2)), None, "forgotten");
    let mut none = StatisticsTracker::new(0, 1);
    none.triggered(cp(1), Monotonic(0), Timestamp(0));
    none.completed(cp(1), None, Monotonic(5));
    assert_eq!((none.history.len(), none.duration_of(cp(1))), (0, Some(ms(5))));
}

/// Flink measures this on the wall clock; a clock that is set back would make it negative there.
#[test]
fn s16_9_the_duration_is_from_trigger_to_commit_on_the_clock_that_never_goes_back() {
    let mut rig = Rig::new();
    rig.triggered(1);
    rig.now = 1_250;
    rig.ack(1, 0, report(1, 0));
    assert_eq!(rig.tracker.in_progress()[0].duration, ms(250));
    rig.now = 1_300;
    rig.tracker.completed(cp(1), None, Monotonic(rig.now));
    assert_eq!(rig.tracker.statistics().history[0].duration, ms(300));
}

#[test]
fn the_summary_is_of_the_completed_ones_and_of_the_slowest_subtask_of_each() {
    let mut rig = Rig::new();
    for id in 1..=4 {
        rig.take(id);
    }
    rig.triggered(5);
    rig.ack(5, 0, report(1_000_000, 9_000));
    rig.fail(5);
    let CheckpointSummary { bytes, sync_seconds, duration_seconds, .. } = rig.tracker.statistics().summary;
    assert_eq!((bytes.count, bytes.min, bytes.max, bytes.p999), (4, 15.0, 15.0, 15.0));
    assert!(
        (sync_seconds.max - 0.002).abs() < 1e-12 && (sync_seconds.min - 0.002).abs() < 1e-12,
        "{sync_seconds:?}"
    );
    assert_eq!((duration_seconds.count, duration_seconds.max), (4, 0.0));
}

#[test]
fn statistics_are_plain_data_for_any_format() {
    let mut rig = Rig::new();
    rig.take(1);
    rig.triggered(2);
    let json = serde_json::to_value(rig.tracker.statistics()).unwrap();
    assert_eq!(json["counts"]["completed"], 1);
    assert_eq!(json["history"][0]["outcome"], "completed");
    assert_eq!(json["history"][0]["acknowledged"][1]["bytes"], 5);
    assert_eq!(json["history"][0]["acknowledged"][1]["sync_seconds"], 0.002);
    assert_eq!(json["in_progress"][0]["checkpoint"], 2);
    assert_eq!(json["summary"]["bytes"]["p99"], 15.0);
}
