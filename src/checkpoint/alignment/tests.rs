//! The traces of the reference, and random interleavings.

mod at_least_once;
mod random;
mod unaligned;

use super::*;
use crate::checkpoint::{BarrierKind, Extent};
use crate::types::Timestamp;

/// A machine that is run by a text.
struct Trace {
    alignment: Alignment,
    /// What `B` may do.
    kind: BarrierKind,
    now: Monotonic,
}

impl Trace {
    fn new(channels: usize, mode: CheckpointingMode, kind: BarrierKind) -> Self {
        Self { alignment: Alignment::new(channels, mode), kind, now: Monotonic(0) }
    }

    /// Runs events, each followed by what it must cause, like `B1@0[block0]; B1@1[block1,SNAPSHOT 1,resume0,resume1]`; without brackets
    /// nothing is checked. `B` is a barrier, `U` one that overtakes at once, `S` that of a savepoint, `C` a cancellation, `A` an
    /// announcement, `E` the end of a channel, `T101` the timer at that time.
    fn run(mut self, trace: &str) -> Self {
        for step in trace.split("; ").map(str::trim) {
            let (event, expected) =
                step.split_once('[').map_or((step, None), |(e, x)| (e, x.strip_suffix(']')));
            let actions = self.step(event);
            if let Some(expected) = expected {
                let actual: Vec<String> = actions.iter().map(show).collect();
                assert_eq!(actual.join(","), expected, "at {event} in {trace}");
            }
        }
        self
    }

    fn step(&mut self, event: &str) -> Vec<AlignmentAction> {
        let (kind, rest) = event.split_at(1);
        let (number, channel) = rest.split_once('@').unwrap_or((rest, "0"));
        let number: u64 = number.parse().unwrap_or(0);
        let channel: usize = channel.parse().unwrap();
        let checkpoint = CheckpointId(number);
        let barrier = |kind| Barrier { checkpoint, triggered: Timestamp(0), kind, extent: Extent::Full };
        let event = match kind {
            "B" => AlignmentEvent::Barrier { channel, barrier: barrier(self.kind) },
            "U" => AlignmentEvent::Barrier { channel, barrier: barrier(BarrierKind::Unaligned) },
            "S" => AlignmentEvent::Barrier { channel, barrier: barrier(BarrierKind::Aligned) },
            "A" => AlignmentEvent::Announced(barrier(self.kind)),
            "C" => AlignmentEvent::Cancel { channel, checkpoint },
            "E" => AlignmentEvent::End { channel },
            "T" => {
                self.now = Monotonic(number);
                AlignmentEvent::Timer
            }
            _ => panic!("{kind}"),
        };
        self.alignment.on(event, self.now)
    }
}

/// Exactly once, aligned.
fn run(channels: usize, trace: &str) {
    Trace::new(channels, CheckpointingMode::ExactlyOnce, BarrierKind::Aligned).run(trace);
}

fn show(action: &AlignmentAction) -> String {
    match action {
        AlignmentAction::Block(channel) => format!("block{channel}"),
        AlignmentAction::Resume(channel) => format!("resume{channel}"),
        AlignmentAction::Snapshot(barrier) => format!("SNAPSHOT {}", barrier.checkpoint),
        AlignmentAction::SnapshotUnaligned(barrier) => {
            assert_eq!(barrier.kind, BarrierKind::Unaligned, "downstream overtakes, too");
            format!("UNALIGNED {}", barrier.checkpoint)
        }
        AlignmentAction::Captured(id) => format!("captured {id}"),
        AlignmentAction::Abort(id, AbortReason::Subsumed) => format!("ABORT {id} subsumed"),
        AlignmentAction::Abort(id, AbortReason::Cancelled) => format!("ABORT {id} cancelled"),
    }
}

#[test]
fn s6_1_aligned() {
    run(3, "B1@0[block0]; B1@1[block1]; B1@2[block2,SNAPSHOT 1,resume0,resume1,resume2]");
}

#[test]
fn s6_1_newer_barrier() {
    run(
        3,
        "B1@0[block0]; B2@1[resume0,ABORT 1 subsumed,block1]; B1@2[resume2]; B2@0[block0]; \
         B2@2[block2,SNAPSHOT 2,resume0,resume1,resume2]",
    );
}

#[test]
fn s6_1_late_barrier() {
    run(2, "B2@0; B2@1[block1,SNAPSHOT 2,resume0,resume1]; B1@0[resume0]; B1@1[resume1]; B2@0[resume0]");
}

#[test]
fn s6_1_cancel_first() {
    run(2, "C1@0[ABORT 1 cancelled]; B1@1[resume1]; B2@0[block0]; B2@1[block1,SNAPSHOT 2,resume0,resume1]");
}

#[test]
fn s6_1_cancel_midway() {
    run(
        3,
        "B1@0[block0]; B1@1[block1]; C1@2[resume0,resume1,ABORT 1 cancelled]; B2@0[block0]; B2@1[block1]; \
         B2@2[block2,SNAPSHOT 2,resume0,resume1,resume2]",
    );
}

#[test]
fn s6_1_cancel_newer() {
    run(3, "B1@0[block0]; C2@1[resume0,ABORT 2 cancelled]; B1@1[resume1]; B1@2[resume2]; B2@0[resume0]");
}

#[test]
fn s6_1_cancel_of_what_is_over_does_nothing() {
    run(2, "B1@0; B1@1[block1,SNAPSHOT 1,resume0,resume1]; C1@0[]; C1@1[]");
    run(2, "C2@0[ABORT 2 cancelled]; C2@1[]; C1@0[]");
}

#[test]
fn s6_1_end_of_a_channel() {
    run(3, "B1@0[block0]; E@1[]; B1@2[block2,SNAPSHOT 1,resume0,resume2]");
    run(2, "B1@0[block0]; E@1[SNAPSHOT 1,resume0]");
}

#[test]
fn s6_1_end_of_a_channel_that_had_its_barrier() {
    // A blocked channel is not polled, so this order only arises when its end is known by other means.
    run(2, "B1@0[block0]; E@0[]; B1@1[block1,SNAPSHOT 1,resume1]");
    run(3, "B1@0[block0]; E@0[]; B1@1[block1]; B1@2[block2,SNAPSHOT 1,resume1,resume2]");
}

#[test]
fn s6_1_duplicate_barrier_counts_once() {
    run(3, "B1@0[block0]; B1@0[]; B1@1[block1]; B1@2[block2,SNAPSHOT 1,resume0,resume1,resume2]");
}

#[test]
fn s6_1_one_channel() {
    run(1, "B1@0[SNAPSHOT 1]; C2@0[ABORT 2 cancelled]; B3@0[SNAPSHOT 3]");
}

#[test]
fn s6_4_after_a_cancel_older_barriers_never_snapshot() {
    run(2, "C5@0[ABORT 5 cancelled]; B3@0[resume0]; B3@1[resume1]; B5@0[resume0]; B5@1[resume1]");
}

#[test]
fn s6_5_channels_that_ended_before_are_not_awaited() {
    run(3, "E@2[]; B1@0[block0]; B1@1[block1,SNAPSHOT 1,resume0,resume1]");
}

#[test]
fn s6_6_the_snapshot_comes_before_any_channel_is_resumed() {
    run(2, "B1@0; B1@1[block1,SNAPSHOT 1,resume0,resume1]");
}
