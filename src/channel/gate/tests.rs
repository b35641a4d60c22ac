//! Gates in front of real channels, on one thread: every operation on a ring or on an announcement is one step for both its ends, so
//! what threads can do to each other is some order of such steps.

mod interleaved;

use super::*;
use crate::channel::{Batch, Flow, Output, channel};
use crate::checkpoint::{BarrierKind, Extent};
use crate::types::Timestamp;

/// Channels of two ports in turn.
fn gate_of(n: u32, depth: usize, mode: CheckpointingMode) -> (Vec<Output>, InputGate) {
    let announcements = Arc::new(Announcements::default());
    let channels = (0..n).map(|i| {
        let (mut output, input) = channel(depth, Arc::default(), Arc::default());
        output.announce_in(&announcements);
        let origin = Origin { edge: EdgeId(7), from: SubtaskIndex(i) };
        (output, Inlet { port: Port(i % 2), origin, codec: RecordCodec::of::<u32>(), input })
    });
    let (outputs, inlets): (Vec<_>, Vec<_>) = channels.unzip();
    (outputs, InputGate::new(inlets, mode, announcements, Clock::start()))
}

fn gate(n: u32) -> (Vec<Output>, InputGate) {
    gate_of(n, 8, CheckpointingMode::ExactlyOnce)
}

fn batch(records: &[u32]) -> AnyBatch {
    Box::new(Batch { items: records.to_vec() })
}

fn send(output: &mut Output, record: u32) {
    assert_eq!(output.send(Element::Batch(batch(&[record]))), Flow::Ready);
}

fn barrier_of(id: u64, kind: BarrierKind) -> Barrier {
    Barrier { checkpoint: CheckpointId(id), triggered: Timestamp(5), kind, extent: Extent::Full }
}

fn barrier(output: &mut Output, id: u64) {
    assert_eq!(output.send(Element::Barrier(barrier_of(id, BarrierKind::Aligned))), Flow::Ready);
}

/// One that overtakes, announced.
fn unaligned(output: &mut Output, id: u64) {
    let barrier = barrier_of(id, BarrierKind::Unaligned);
    assert_eq!(output.send(Element::Barrier(barrier)), Flow::Ready);
    output.announce(barrier);
}

fn records(batch: &AnyBatch) -> &[u32] {
    &batch.downcast_ref::<Batch<u32>>().unwrap().items
}

/// An event as text: records, `|id` for a snapshot, `/id` for one that overtakes, `(id from:records)` for what was in flight, `xid` for
/// an abort, `.` for the end.
fn show(event: &GateEvent) -> String {
    match event {
        GateEvent::Batch(in_hand) => {
            records(&in_hand.batch).iter().map(|record| format!("{record} ")).collect()
        }
        GateEvent::Snapshot(barrier) => format!("|{} ", barrier.checkpoint),
        GateEvent::SnapshotUnaligned(barrier) => format!("/{} ", barrier.checkpoint),
        GateEvent::Captured(id, in_flight) => {
            let channel = |channel: &InFlight| {
                let all: Vec<u32> = channel.batches.iter().flat_map(records).copied().collect();
                format!(" {}:{all:?}", channel.origin.from)
            };
            format!("({id}{}) ", in_flight.iter().map(channel).collect::<String>())
        }
        GateEvent::Aborted(id, _) => format!("x{id} "),
        GateEvent::Ended => ".".into(),
        GateEvent::Empty => String::new(),
    }
}

/// Everything the gate gives.
fn drain(gate: &mut InputGate) -> String {
    let mut text = String::new();
    loop {
        let event = match gate.poll_urgent(None).unwrap() {
            Some(event) => event,
            None => gate.poll().unwrap(),
        };
        text.push_str(&show(&event));
        match event {
            GateEvent::Empty if !gate.has_event() => return text,
            GateEvent::Batch(in_hand) => {
                let channel = in_hand.channel.unwrap() as u32;
                assert_eq!((in_hand.port, in_hand.origin.from), (Port(channel % 2), SubtaskIndex(channel)));
                gate.give_back(in_hand);
            }
            _ => {}
        }
    }
}

#[test]
fn records_behind_a_barrier_wait_for_the_barriers_of_the_others() {
    let (mut out, mut gate) = gate(2);
    send(&mut out[0], 1);
    barrier(&mut out[0], 1);
    send(&mut out[0], 2);
    send(&mut out[1], 3);
    assert_eq!(drain(&mut gate), "1 3 ");
    assert!(!gate.has_event(), "the blocked channel does not count");
    send(&mut out[1], 4);
    barrier(&mut out[1], 1);
    send(&mut out[1], 5);
    assert_eq!(drain(&mut gate), "4 |1 2 5 ");
}

#[test]
fn a_newer_barrier_gives_up_the_older_checkpoint() {
    let (mut out, mut gate) = gate(2);
    barrier(&mut out[0], 1);
    send(&mut out[0], 1);
    barrier(&mut out[1], 2);
    send(&mut out[1], 2);
    assert_eq!(drain(&mut gate), "x1 1 ");
    barrier(&mut out[0], 2);
    assert_eq!(drain(&mut gate), "|2 2 ");
}

#[test]
fn a_cancelled_barrier_unblocks() {
    let (mut out, mut gate) = gate(2);
    barrier(&mut out[0], 1);
    send(&mut out[0], 1);
    let _ = out[1].send(Element::CancelBarrier(CheckpointId(1)));
    assert_eq!(drain(&mut gate), "x1 1 ");
}

#[test]
fn the_end_is_said_once_and_barriers_go_on() {
    let (mut out, mut gate) = gate(2);
    let _ = out[0].send(Element::End { drained: false });
    assert_eq!(drain(&mut gate), "");
    let _ = out[1].send(Element::End { drained: false });
    assert_eq!(drain(&mut gate), ".");
    barrier(&mut out[0], 1);
    barrier(&mut out[1], 1);
    assert_eq!(drain(&mut gate), "|1 ");
}

#[test]
fn at_least_once_nothing_waits() {
    let (mut out, mut gate) = gate_of(2, 8, CheckpointingMode::AtLeastOnce);
    barrier(&mut out[0], 1);
    send(&mut out[0], 1);
    assert_eq!(drain(&mut gate), "1 ");
    send(&mut out[1], 2);
    barrier(&mut out[1], 1);
    send(&mut out[1], 3);
    assert_eq!(drain(&mut gate), "2 |1 3 ");
}

#[test]
fn an_announced_barrier_is_taken_before_the_records_in_front_of_it() {
    let (mut out, mut gate) = gate(2);
    for record in [1, 2] {
        send(&mut out[0], record);
        send(&mut out[1], record * 10);
    }
    unaligned(&mut out[0], 1);
    send(&mut out[0], 3);
    assert!(gate.has_event());
    let urgent = |gate: &mut InputGate| gate.poll_urgent(None).unwrap().map(|event| show(&event));
    assert_eq!(urgent(&mut gate).unwrap(), "/1 ");
    assert_eq!(urgent(&mut gate), None, "the other channel's barrier has not come");
    // Processed after the snapshot, and part of it.
    send(&mut out[1], 30);
    assert_eq!(drain(&mut gate), "1 10 2 20 30 3 ");
    send(&mut out[1], 40);
    unaligned(&mut out[1], 1);
    send(&mut out[1], 50);
    assert_eq!(drain(&mut gate), "(1 0:[1, 2] 1:[10, 20, 30, 40]) 40 50 ");
}

#[test]
fn what_comes_between_the_news_of_a_barrier_and_the_barrier_is_in_flight() {
    let (mut out, mut gate) = gate(2);
    send(&mut out[0], 1);
    gate.announce(barrier_of(1, BarrierKind::Unaligned));
    assert_eq!(drain(&mut gate), "/1 1 ", "before any barrier was sent");
    send(&mut out[0], 2);
    unaligned(&mut out[0], 1);
    send(&mut out[0], 3);
    send(&mut out[1], 4);
    assert_eq!(drain(&mut gate), "4 2 3 ", "it is taken no less");
    unaligned(&mut out[1], 1);
    assert_eq!(drain(&mut gate), "(1 0:[1, 2] 1:[4]) ");
    gate.announce(barrier_of(1, BarrierKind::Unaligned));
    assert_eq!(drain(&mut gate), "", "it is over");
}

#[test]
fn an_announcement_of_what_aligns_for_a_while_overtakes_when_its_time_has_come() {
    let (mut out, mut gate) = gate(2);
    let until = |moment| BarrierKind::AlignedUntil(Monotonic(moment));
    gate.announce(barrier_of(1, until(u64::MAX)));
    assert_eq!(gate.overtaken_from(), Some(Monotonic(u64::MAX)), "it is known before it is heard");
    send(&mut out[0], 1);
    assert_eq!(drain(&mut gate), "1 ");
    let aligned = |id| Element::Barrier(barrier_of(id, until(u64::MAX)));
    assert_eq!(out[0].send(aligned(1)).and(out[1].send(aligned(1))), Flow::Ready);
    assert_eq!(drain(&mut gate), "|1 ");
    assert_eq!(gate.overtaken_from(), None);
    gate.announce(barrier_of(2, until(0)));
    send(&mut out[0], 2);
    assert_eq!(gate.overtaken_from(), Some(Monotonic(0)));
    assert_eq!(drain(&mut gate), "/2 2 ");
}

#[test]
fn the_rest_of_the_batch_in_hand_is_in_flight() {
    let (mut out, mut gate) = gate(1);
    let _ = out[0].send(Element::Batch(batch(&[1, 2, 3])));
    send(&mut out[0], 4);
    let GateEvent::Batch(mut in_hand) = gate.poll().unwrap() else { panic!("a batch") };
    in_hand.batch.downcast_mut::<Batch<u32>>().unwrap().items.remove(0);
    unaligned(&mut out[0], 1);
    let mut text = String::new();
    while let Some(event) = gate.poll_urgent(Some(&in_hand)).unwrap() {
        text.push_str(&show(&event));
    }
    assert_eq!(text, "/1 (1 0:[2, 3, 4]) ");
    assert_eq!(drain(&mut gate), "4 ");
}

#[test]
fn an_old_barrier_overtakes_when_its_time_has_come() {
    let (mut out, mut gate) = gate(2);
    let past = BarrierKind::AlignedUntil(Monotonic(0));
    let future = BarrierKind::AlignedUntil(Monotonic(u64::MAX));
    for (id, kind) in [(1, future), (2, past)] {
        send(&mut out[0], 1);
        let _ = out[0].send(Element::Barrier(barrier_of(id, kind)));
        out[0].announce(barrier_of(id, kind));
    }
    assert!(
        gate.poll_urgent(None).unwrap().is_some_and(|event| show(&event) == "/2 "),
        "2 is news, 1 is not"
    );
    assert_eq!(gate.deadline(), None);
    let _ = out[1].send(Element::Barrier(barrier_of(2, past)));
    assert_eq!(drain(&mut gate), "(2 0:[1, 1]) 1 1 ");
    let _ = out[1].send(Element::Barrier(barrier_of(3, future)));
    out[1].announce(barrier_of(3, future));
    assert_eq!(drain(&mut gate), "");
    assert_eq!(gate.deadline(), Some(Monotonic(u64::MAX)));
}

#[test]
fn restored_records_come_first_and_are_in_flight_until_they_are_taken() {
    let (mut out, mut gate) = gate(2);
    let codec = RecordCodec::of::<u32>();
    // Of a channel that is there, and of one whose producer is gone.
    for (from, records) in [(1, [1, 2]), (5, [3, 4])] {
        let origin = Origin { edge: EdgeId(7), from: SubtaskIndex(from) };
        let batches = records.map(|record| batch(&[record])).into();
        gate.restore(Port(from % 2), origin, codec, batches);
    }
    send(&mut out[0], 6);
    send(&mut out[1], 7);
    let _ = out[0].send(Element::End { drained: false });
    let _ = out[1].send(Element::End { drained: false });
    let GateEvent::Batch(first) = gate.poll().unwrap() else { panic!("a batch") };
    assert_eq!((records(&first.batch), first.channel), (&[1][..], None));
    unaligned(&mut out[1], 1);
    unaligned(&mut out[0], 1);
    let mut text = String::new();
    while let Some(event) = gate.poll_urgent(Some(&first)).unwrap() {
        text.push_str(&show(&event));
    }
    assert_eq!(text, "/1 (1 0:[6] 1:[1, 2, 7] 5:[3, 4]) ");
    let mut rest = String::new();
    loop {
        let event = gate.poll().unwrap();
        rest.push_str(&show(&event));
        if let GateEvent::Empty = event {
            break;
        }
    }
    assert_eq!(rest, "2 3 4 6 7 .");
}

#[test]
fn a_cancelled_capture_is_dropped_and_the_next_begins_afresh() {
    let (mut out, mut gate) = gate(2);
    send(&mut out[0], 1);
    unaligned(&mut out[0], 1);
    send(&mut out[1], 2);
    assert_eq!(show(&gate.poll_urgent(None).unwrap().unwrap()), "/1 ");
    let _ = out[1].send(Element::CancelBarrier(CheckpointId(1)));
    assert_eq!(show(&gate.poll_urgent(None).unwrap().unwrap()), "x1 ");
    unaligned(&mut out[1], 2);
    send(&mut out[0], 3);
    unaligned(&mut out[0], 2);
    assert_eq!(drain(&mut gate), "/2 (2 0:[1, 3] 1:[2]) 1 2 3 ");
}

#[test]
fn what_nobody_wants_any_more_is_not_kept() {
    let (mut out, mut gate) = gate(2);
    send(&mut out[0], 1);
    unaligned(&mut out[0], 1);
    assert_eq!(show(&gate.poll_urgent(None).unwrap().unwrap()), "/1 ");
    gate.forget(CheckpointId(1));
    send(&mut out[1], 2);
    unaligned(&mut out[1], 1);
    assert_eq!(drain(&mut gate), "1 2 ");
}

#[test]
fn each_announcement_is_heard_once_and_older_ones_never() {
    let (announcements, mut listener) = (Announcements::default(), Listener::default());
    let timed = barrier_of(3, BarrierKind::AlignedUntil(Monotonic(5)));
    let at_once = barrier_of(3, BarrierKind::Unaligned);
    assert_eq!(listener.hear(&announcements), None);
    announcements.announce(timed);
    announcements.announce(timed);
    assert_eq!(listener.hear(&announcements), Some(timed));
    assert_eq!(listener.hear(&announcements), None);
    announcements.announce(at_once);
    announcements.announce(timed);
    announcements.announce(barrier_of(2, BarrierKind::Unaligned));
    assert!(listener.has_news(&announcements));
    assert_eq!(listener.hear(&announcements), Some(at_once));
    assert!(!listener.has_news(&announcements));
}

/// A producer on another thread may send between the look at a channel and the taking from it.
#[test]
fn what_was_not_looked_at_is_not_taken_from_a_channel_that_is_captured() {
    let (mut out, mut gate) = gate(2);
    unaligned(&mut out[0], 1);
    assert_eq!(show(&gate.poll_urgent(None).unwrap().unwrap()), "/1 ");
    send(&mut out[1], 1);
    assert!(gate.is_ahead_of_capture(1));
    assert!(!gate.is_ahead_of_capture(0), "its barrier was seen");
    assert!(gate.poll_urgent(None).unwrap().is_none());
    assert!(!gate.is_ahead_of_capture(1), "looked at");
}

#[test]
fn what_is_in_flight_to_one_checkpoint_is_not_given_to_another() {
    let (mut out, mut gate) = gate(3);
    let first = barrier_of(1, BarrierKind::Unaligned);
    let _ = out[0].send(Element::Barrier(first));
    // The first never comes here.
    let _ = out[1].send(Element::Barrier(barrier_of(2, BarrierKind::Unaligned)));
    send(&mut out[2], 7);
    out[0].announce(first);
    assert_eq!(show(&gate.poll_urgent(None).unwrap().unwrap()), "/1 ");
    assert!(gate.take_known(CheckpointId(1)).is_empty(), "it was given up, and the next has begun");
    let rest: Vec<String> =
        std::iter::from_fn(|| gate.poll_urgent(None).unwrap().map(|event| show(&event))).collect();
    assert_eq!(rest, ["x1 ", "/2 "]);
    let known = gate.take_known(CheckpointId(2));
    assert_eq!(known.len(), 1, "{known:?}");
}

#[test]
fn an_input_was_drained_if_any_of_its_channels_was() {
    for drained in [[false, false], [false, true], [true, false], [true, true]] {
        let (mut out, mut gate) = gate(2);
        for (out, drained) in out.iter_mut().zip(drained) {
            let _ = out.send(Element::End { drained });
        }
        assert_eq!(drain(&mut gate), ".");
        assert_eq!(gate.was_drained(), drained.contains(&true));
    }
}
