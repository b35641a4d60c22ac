//! §7: barriers that are only counted.

use super::*;

fn run(channels: usize, trace: &str) -> Trace {
    let trace = Trace::new(channels, CheckpointingMode::AtLeastOnce, BarrierKind::Aligned).run(trace);
    assert!((0..channels).all(|channel| !trace.alignment.is_blocked(channel)));
    trace
}

#[test]
fn s7_three_channels_interleaved() {
    run(
        3,
        "B1@0[]; B2@0[]; B1@1[]; B1@2[SNAPSHOT 1]; B2@1[]; B3@0[]; B2@2[SNAPSHOT 2]; B3@1[]; B3@2[SNAPSHOT 3]",
    );
}

#[test]
fn s7_newer_first() {
    run(2, "B1@0[]; B2@0[]; B2@1[SNAPSHOT 2]; B1@1[]");
}

#[test]
fn s7_missing() {
    run(3, "B1@0[]; B1@1[]; B2@0[]; B2@1[]; B2@2[SNAPSHOT 2]; B1@2[]");
}

#[test]
fn s7_cancel() {
    run(3, "B1@0[]; C1@1[ABORT 1 cancelled]; B1@2[]; B2@0[]; B2@1[]; B2@2[SNAPSHOT 2]");
}

#[test]
fn s7_cancel_newer() {
    run(2, "B1@0[]; B2@0[]; C3@1[ABORT 1 cancelled,ABORT 2 cancelled,ABORT 3 cancelled]; B3@0[]; B2@1[]");
}

#[test]
fn s7_cancel_older_leaves_the_newer_pending() {
    run(2, "B1@0[]; B2@0[]; C1@1[ABORT 1 cancelled]; C1@0[]; B2@1[SNAPSHOT 2]");
}

#[test]
fn s7_cancel_then_own_barrier() {
    run(2, "C1@0[ABORT 1 cancelled]; B1@1[]");
}

/// Unlike in Flink an older barrier is ignored here already, not only by its task.
#[test]
fn s7_one_channel() {
    run(1, "B1@0[SNAPSHOT 1]; C2@0[ABORT 2 cancelled]; B3@0[SNAPSHOT 3]; B2@0[]");
}

#[test]
fn s7_end_of_partition() {
    run(3, "B1@0[]; B1@1[]; B2@0[]; B2@1[]; B3@0[]; E@2[SNAPSHOT 2]; B3@1[SNAPSHOT 3]; B1@0[]");
}

#[test]
fn s7_at_most_50_are_pending() {
    let opened: Vec<String> = (1..=52).map(|id| format!("B{id}@0[]")).collect();
    run(2, &opened.join("; ")).run("B1@1[]; B2@1[]; B3@1[SNAPSHOT 3]; B52@1[SNAPSHOT 52]");
}

#[test]
fn s7_a_barrier_that_comes_twice_counts_once() {
    run(2, "B1@0[]; B1@0[]; B1@1[SNAPSHOT 1]; B1@1[]");
}
