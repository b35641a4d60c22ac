//! The traces of the reference, and random interleavings.

use super::*;
use crate::types::Random;

/// Runs a trace: events like `B1@0`, `C1@2`, `E@1`, each followed by what it must cause, like
/// `[block0,SNAPSHOT 1,resume0]`; without brackets nothing is checked.
fn run(channels: usize, trace: &str) {
    let mut alignment = Alignment::new(channels);
    for step in trace.split("; ") {
        let (event, expected) = step.split_once('[').map_or((step, None), |(e, x)| (e, x.strip_suffix(']')));
        let (kind, channel) = event.split_once('@').unwrap();
        let channel: usize = channel.parse().unwrap();
        let checkpoint = CheckpointId(kind[1..].parse().unwrap_or(0));
        let actions = alignment.on(match &kind[..1] {
            "B" => AlignmentEvent::Barrier { channel, checkpoint },
            "C" => AlignmentEvent::Cancel { channel, checkpoint },
            _ => AlignmentEvent::End { channel },
        });
        if let Some(expected) = expected {
            let actual: Vec<String> = actions.iter().map(show).collect();
            assert_eq!(actual.join(","), expected, "at {event} in {trace}");
        }
    }
}

fn show(action: &AlignmentAction) -> String {
    match action {
        AlignmentAction::Block(channel) => format!("block{channel}"),
        AlignmentAction::Resume(channel) => format!("resume{channel}"),
        AlignmentAction::Snapshot(id) => format!("SNAPSHOT {id}"),
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

/// Random interleavings of well-formed channels: ids rise in each, some are cancelled, some channels end.
#[test]
fn random_interleavings_keep_the_invariants() {
    for seed in 0..3000 {
        interleave(seed);
    }
}

fn interleave(seed: u64) {
    let mut random = Random::from_seed(seed);
    let mut below = |n: u64| random.next_u64() % n;
    let channels = 1 + below(4) as usize;
    let checkpoints = 1 + below(4);
    let mut queues: Vec<Vec<AlignmentEvent>> = Vec::new();
    for channel in 0..channels {
        let mut queue = Vec::new();
        for id in 1..=checkpoints {
            let checkpoint = CheckpointId(id);
            match below(8) {
                0 => queue.push(AlignmentEvent::Cancel { channel, checkpoint }),
                1 => {} // an older barrier that a restart of the trigger left out
                _ => queue.push(AlignmentEvent::Barrier { channel, checkpoint }),
            }
        }
        if below(3) == 0 {
            let keep = below(queue.len() as u64 + 1) as usize;
            queue.truncate(keep);
        }
        queue.push(AlignmentEvent::End { channel });
        queue.reverse();
        queues.push(queue);
    }

    let mut alignment = Alignment::new(channels);
    let mut decided: Vec<CheckpointId> = Vec::new();
    loop {
        let ready: Vec<usize> =
            (0..channels).filter(|&c| !queues[c].is_empty() && !alignment.is_blocked(c)).collect();
        let Some(&channel) = ready.get(below(ready.len().max(1) as u64) as usize) else { break };
        let event = queues[channel].pop().unwrap();
        let actions = alignment.on(event);
        let mut resumed = false;
        for action in &actions {
            match action {
                AlignmentAction::Resume(_) => resumed = true,
                AlignmentAction::Snapshot(id) => {
                    assert!(!resumed, "seed {seed}: snapshot after a resume");
                    assert!(!decided.contains(id), "seed {seed}: {id} decided twice");
                    decided.push(*id);
                }
                AlignmentAction::Abort(id, _) => {
                    assert!(!decided.contains(id), "seed {seed}: {id} decided twice");
                    decided.push(*id);
                }
                AlignmentAction::Block(_) => {}
            }
        }
    }
    for (channel, queue) in queues.iter().enumerate() {
        assert!(queue.is_empty(), "seed {seed}: channel {channel} stays blocked");
        assert!(!alignment.is_blocked(channel), "seed {seed}: channel {channel} ends blocked");
    }
}
