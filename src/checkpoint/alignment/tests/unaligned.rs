//! §6.7 to §6.12: barriers that overtake.
//!
//! Two things are different from the recorded traces, on purpose. Channels that were blocked before a checkpoint turned unaligned are
//! resumed at once: what follows their barriers is no part of the snapshot, whenever it is processed. And a barrier that is announced need
//! not be pulled to the front: the snapshot is taken at the announcement itself.

use super::*;

fn unaligned(channels: usize, trace: &str) -> Trace {
    Trace::new(channels, CheckpointingMode::ExactlyOnce, BarrierKind::Unaligned).run(trace)
}

/// Barriers may overtake from time 100 on.
fn timed(channels: usize, trace: &str) -> Trace {
    Trace::new(channels, CheckpointingMode::ExactlyOnce, BarrierKind::AlignedUntil(Monotonic(100))).run(trace)
}

#[test]
fn s6_7_pure_unaligned() {
    unaligned(3, "U1@0[UNALIGNED 1]; U1@1[]; U1@2[captured 1]");
}

#[test]
fn s6_7_announced_unaligned_snapshots_before_the_barrier_comes() {
    unaligned(2, "A1[UNALIGNED 1]; A1[]; U1@1[]; U1@0[captured 1]; U1@0[resume0]");
}

#[test]
fn s6_7_channels_capture_until_their_barrier_comes() {
    let captures =
        |trace: &Trace| (0..3).map(|channel| trace.alignment.captures(channel)).collect::<Vec<_>>();
    let trace = unaligned(3, "U1@1");
    assert_eq!(captures(&trace), [true, false, true]);
    let trace = trace.run("U1@0");
    assert_eq!(captures(&trace), [false, false, true]);
    let trace = trace.run("U1@2[captured 1]");
    assert_eq!(captures(&trace), [false, false, false]);
    assert_eq!(captures(&timed(3, "B1@0")), [false, false, false], "nothing while it aligns");
}

#[test]
fn s6_7_savepoint_never_overtakes_and_never_times_out() {
    let trace = timed(2, "S1@0[block0]; T1000[]");
    assert_eq!(trace.alignment.deadline(), None);
    trace.run("S1@1[block1,SNAPSHOT 1,resume0,resume1]");
}

#[test]
fn s6_7_timeout_while_waiting() {
    timed(3, "B1@0[block0]; T101[UNALIGNED 1,resume0]; B1@1[]; B1@2[captured 1]");
}

#[test]
fn s6_7_upstream_switched() {
    timed(3, "B1@0[block0]; U1@1[UNALIGNED 1,resume0]; B1@2[captured 1]");
}

#[test]
fn s6_7_announced_then_late() {
    timed(2, "A1[]; A1[]; T101[UNALIGNED 1]; U1@0[]; U1@1[captured 1]");
}

#[test]
fn s6_7_newer_unaligned() {
    timed(2, "B1@0[block0]; U2@1[resume0,ABORT 1 subsumed,UNALIGNED 2]; U2@0[captured 2]");
}

#[test]
fn s6_7_newer_unaligned_while_the_older_one_captures() {
    unaligned(2, "U1@0[UNALIGNED 1]; U2@0[ABORT 1 subsumed,UNALIGNED 2]; U2@1[captured 2]; U1@1[resume1]");
}

#[test]
fn s6_7_cancel() {
    unaligned(2, "U1@0[UNALIGNED 1]; C1@1[ABORT 1 cancelled]; U2@1[UNALIGNED 2]; U2@0[captured 2]");
}

#[test]
fn s6_7_end_of_partition() {
    unaligned(3, "U1@0[UNALIGNED 1]; E@1[]; U1@2[captured 1]");
    unaligned(2, "U1@0[UNALIGNED 1]; E@1[captured 1]");
    timed(3, "A1[]; E@1[]; B1@0[block0]; B1@2[block2,SNAPSHOT 1,resume0,resume2]");
}

#[test]
fn s6_7_late_barriers_of_older_ids_are_ignored() {
    unaligned(2, "U2@0[UNALIGNED 2]; U1@1[resume1]; A1[]; U2@1[captured 2]; U1@0[resume0]; A2[]; A1[]");
}

#[test]
fn s6_7_one_channel() {
    unaligned(1, "U1@0[UNALIGNED 1,captured 1]; A2[UNALIGNED 2]; U2@0[captured 2]");
    timed(1, "B1@0[SNAPSHOT 1]; A2; T100[UNALIGNED 2]; B2@0[captured 2]");
}

#[test]
fn s6_8_a_barrier_that_arrives_too_old_overtakes_at_once() {
    timed(2, "T100[]; B1@0[block0,UNALIGNED 1,resume0]; B1@1[captured 1]");
    timed(2, "T100[]; A1[UNALIGNED 1]; B1@0[]; B1@1[captured 1]");
}

#[test]
fn s6_8_timer_and_late_barrier_together_switch_once() {
    timed(3, "B1@0[block0]; T100[UNALIGNED 1,resume0]; T101[]; B1@1[]; T102[]; B1@2[captured 1]");
}

#[test]
fn s6_8_the_last_barrier_has_nothing_to_overtake_however_old_it_is() {
    timed(2, "B1@0[block0]; B1@1[block1,SNAPSHOT 1,resume0,resume1]; T100[]");
}

#[test]
fn s6_8_the_deadline_is_that_of_the_pending_checkpoint() {
    let deadline = |trace: &Trace| trace.alignment.deadline();
    let trace = timed(2, "B1@0");
    assert_eq!(deadline(&trace), Some(Monotonic(100)));
    assert_eq!(deadline(&trace.run("T100")), None, "it has switched");
    assert_eq!(deadline(&timed(2, "A1")), Some(Monotonic(100)));
    assert_eq!(deadline(&timed(2, "B1@0; B1@1")), None);
    assert_eq!(deadline(&timed(2, "B1@0; C1@1")), None);
}

#[test]
fn s6_9_the_next_checkpoint_starts_aligned_again() {
    timed(
        2,
        "B1@0; U1@1[UNALIGNED 1,resume0,captured 1]; B2@0[block0]; B2@1[block1,SNAPSHOT 2,resume0,resume1]",
    );
}

#[test]
fn s6_10_the_snapshot_is_taken_once_however_many_barriers_come() {
    unaligned(2, "A1[UNALIGNED 1]; U1@0[]; U1@0[]; U1@1[captured 1]; U1@0[resume0]; U1@1[resume1]");
}
