//! Producers and a consumer step by step, in random order, through channels that are often full.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// What a producer sends next.
#[derive(Debug, Clone, Copy)]
enum Sent {
    Records(u8),
    Barrier,
    Cancel,
    /// Of this checkpoint nothing comes through this channel.
    Skip,
}

#[derive(Debug, Clone)]
struct Story {
    depth: usize,
    producers: Vec<Vec<Sent>>,
    /// Whose turn it is: a producer that sends, or moves on what stalls; or the consumer. And how.
    turns: Vec<(u8, u8)>,
}

fn story() -> impl Strategy<Value = Story> {
    let sent = prop_oneof![
        6 => (1..4_u8).prop_map(Sent::Records),
        3 => Just(Sent::Barrier),
        1 => Just(Sent::Cancel),
        1 => Just(Sent::Skip),
    ];
    let producers = prop::collection::vec(prop::collection::vec(sent, 0..12), 1..4);
    let turns = prop::collection::vec((any::<u8>(), any::<u8>()), 0..160);
    (1..4_usize, producers, turns).prop_map(|(depth, producers, turns)| Story { depth, producers, turns })
}

struct Producer {
    output: Output,
    to_send: VecDeque<Sent>,
    sent: Vec<u32>,
    /// How many records came before the barrier of each checkpoint.
    cuts: BTreeMap<u64, usize>,
    next_checkpoint: u64,
    next_record: u32,
    unannounced: Vec<Barrier>,
}

impl Producer {
    fn new(output: Output, to_send: &[Sent]) -> Self {
        Self {
            output,
            to_send: to_send.iter().copied().collect(),
            sent: Vec::new(),
            cuts: BTreeMap::new(),
            next_checkpoint: 1,
            next_record: 0,
            unannounced: Vec::new(),
        }
    }

    /// Sends what is next. A barrier is announced at once, with the next step, or not at all.
    fn step(&mut self, how: u8) {
        self.unannounced.drain(..).for_each(|barrier| self.output.announce(barrier));
        if self.output.resume() == Flow::Full {
            return;
        }
        match self.to_send.pop_front() {
            Some(Sent::Records(n)) => {
                let records: Vec<u32> = (self.next_record..).take(n.into()).collect();
                self.next_record += u32::from(n);
                self.sent.extend(&records);
                let _ = self.output.send(Element::Batch(batch(&records)));
            }
            Some(Sent::Barrier) => {
                let barrier = barrier_of(self.next_checkpoint, BarrierKind::Unaligned);
                self.cuts.insert(self.next_checkpoint, self.sent.len());
                self.next_checkpoint += 1;
                let _ = self.output.send(Element::Barrier(barrier));
                match how % 3 {
                    0 => self.output.announce(barrier),
                    1 => self.unannounced.push(barrier),
                    _ => {}
                }
            }
            Some(Sent::Cancel) => {
                let _ = self.output.send(Element::CancelBarrier(CheckpointId(self.next_checkpoint)));
                self.next_checkpoint += 1;
            }
            Some(Sent::Skip) => self.next_checkpoint += 1,
            None => {}
        }
    }
}

#[derive(Default)]
struct Consumer {
    in_hand: Option<InHand>,
    /// By producer, in order.
    processed: Vec<Vec<u32>>,
    /// What had been processed at the newest snapshot.
    snapshot: Option<(u64, Vec<Vec<u32>>)>,
    /// Snapshots with all that was in flight.
    complete: BTreeMap<u64, Vec<Vec<u32>>>,
}

impl Consumer {
    /// One step; `false` if there was nothing to do.
    fn step(&mut self, gate: &mut InputGate, all_at_once: bool) -> bool {
        if let Some(event) = gate.poll_urgent(self.in_hand.as_ref()).unwrap() {
            self.take(event);
            return true;
        }
        let Some(mut in_hand) = self.in_hand.take() else {
            let event = gate.poll().unwrap();
            let is_something = !matches!(event, GateEvent::Empty);
            self.take(event);
            return is_something;
        };
        let from = in_hand.origin.from.0 as usize;
        let batch = in_hand.batch.downcast_mut::<Batch<u32>>().unwrap();
        let n = if all_at_once { batch.items.len() } else { 1 };
        self.processed[from].extend(batch.items.drain(..n));
        if batch.items.is_empty() {
            gate.give_back(in_hand);
        } else {
            self.in_hand = Some(in_hand);
        }
        true
    }

    fn take(&mut self, event: GateEvent) {
        match event {
            GateEvent::Batch(in_hand) => self.in_hand = Some(in_hand),
            GateEvent::SnapshotUnaligned(barrier) => {
                self.snapshot = Some((barrier.checkpoint.0, self.processed.clone()));
            }
            GateEvent::Captured(id, in_flight) => {
                let Some((_, mut whole)) = self.snapshot.take_if(|(of, _)| *of == id.0) else {
                    panic!("records in flight of {id}, which was not taken last")
                };
                for channel in in_flight {
                    let from = channel.origin.from.0 as usize;
                    channel.batches.iter().for_each(|batch| whole[from].extend(records(batch)));
                }
                assert!(self.complete.insert(id.0, whole).is_none());
            }
            GateEvent::Aborted(id, _) => {
                self.snapshot.take_if(|(of, _)| *of <= id.0);
            }
            GateEvent::Snapshot(barrier) => panic!("{barrier:?} aligned"),
            GateEvent::Ended | GateEvent::Empty => {}
        }
    }
}

fn check(story: &Story) {
    let n = story.producers.len();
    let (outputs, mut gate) = gate_of(u32::try_from(n).unwrap(), story.depth, CheckpointingMode::ExactlyOnce);
    let mut producers: Vec<Producer> = outputs
        .into_iter()
        .zip(&story.producers)
        .map(|(output, to_send)| Producer::new(output, to_send))
        .collect();
    let mut consumer = Consumer { processed: vec![Vec::new(); n], ..Consumer::default() };
    for (who, how) in &story.turns {
        match producers.get_mut(usize::from(*who) % (n + 2)) {
            Some(producer) => producer.step(*how),
            None => {
                consumer.step(&mut gate, how % 2 == 0);
            }
        }
    }
    // The rest: everything is sent and taken.
    for _ in 0..200 {
        producers.iter_mut().for_each(|producer| producer.step(2));
        while consumer.step(&mut gate, true) {}
    }
    for (producer, processed) in producers.iter().zip(&consumer.processed) {
        assert_eq!(*processed, producer.sent, "something is lost, doubled or out of order");
    }
    for (id, whole) in &consumer.complete {
        for (producer, held) in producers.iter().zip(whole) {
            let cut = producer.cuts.get(id).unwrap_or_else(|| panic!("{id} lacks a barrier"));
            assert_eq!(*held, producer.sent[..*cut], "checkpoint {id}");
        }
    }
    // The newest checkpoint is given up for no other.
    let newest = producers.iter().map(|producer| producer.next_checkpoint - 1).max().unwrap_or(0);
    if newest > 0 && producers.iter().all(|producer| producer.cuts.contains_key(&newest)) {
        assert!(consumer.complete.contains_key(&newest), "{newest} is never complete");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_snapshot_holds_exactly_what_was_sent_before_its_barriers(story in story()) {
        check(&story);
    }
}
