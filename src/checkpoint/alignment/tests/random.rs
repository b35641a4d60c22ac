//! Random interleavings of well-formed channels, against what a snapshot must hold.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What goes through a channel. Ids only grow in it.
#[derive(Debug, Clone)]
enum Item {
    Record(usize),
    Barrier(u64),
    Cancel(u64),
}

#[derive(Debug, Clone, Copy)]
enum How {
    Aligned,
    Unaligned,
    /// Some checkpoints turn unaligned on the way.
    Timed,
    AtLeastOnce,
}

#[derive(Debug, Clone)]
struct Story {
    how: How,
    channels: Vec<Vec<Item>>,
    /// What happens next, as far as it can: a channel is taken from, a barrier announced, time passes.
    schedule: Vec<(u8, u8)>,
}

fn story() -> impl Strategy<Value = Story> {
    let how = prop_oneof![Just(How::Aligned), Just(How::Unaligned), Just(How::Timed), Just(How::AtLeastOnce)];
    // Of each checkpoint: how many records come before it, and whether its barrier comes, is cancelled, or is left out.
    let part = (0..4_usize, 0..8_u8);
    let channel = (prop::collection::vec(part, 0..5), 0..4_usize);
    let channels = prop::collection::vec(channel, 1..5);
    let schedule = prop::collection::vec((any::<u8>(), any::<u8>()), 0..120);
    (how, channels, schedule).prop_map(|(how, channels, schedule)| Story {
        how,
        channels: channels.into_iter().map(|(parts, rest)| items(&parts, rest)).collect(),
        schedule,
    })
}

fn items(parts: &[(usize, u8)], rest: usize) -> Vec<Item> {
    let mut items = Vec::new();
    let mut record = 0..;
    for (id, (records, mark)) in (1..).zip(parts) {
        items.extend(record.by_ref().take(*records).map(Item::Record));
        match mark {
            0 => items.push(Item::Cancel(id)),
            1 => {} // an older barrier that a restart of the trigger left out
            _ => items.push(Item::Barrier(id)),
        }
    }
    items.extend(record.take(rest).map(Item::Record));
    items
}

/// A record is known by its channel and number.
type Records = BTreeSet<(usize, usize)>;

/// A gate without threads: takes items, captures what the machine asks for, keeps what was snapshot.
struct Gate {
    how: How,
    alignment: Alignment,
    queues: Vec<VecDeque<Item>>,
    ended: Vec<bool>,
    now: u64,
    processed: Records,
    snapshots: BTreeMap<u64, Records>,
    /// Unaligned snapshots that wait for channels.
    capturing: Option<u64>,
    aborted: BTreeSet<u64>,
}

impl Gate {
    fn new(story: &Story) -> Self {
        let mode = match story.how {
            How::AtLeastOnce => CheckpointingMode::AtLeastOnce,
            _ => CheckpointingMode::ExactlyOnce,
        };
        Self {
            how: story.how,
            alignment: Alignment::new(story.channels.len(), mode),
            queues: story.channels.iter().map(|items| items.iter().cloned().collect()).collect(),
            ended: vec![false; story.channels.len()],
            now: 0,
            processed: Records::new(),
            snapshots: BTreeMap::new(),
            capturing: None,
            aborted: BTreeSet::new(),
        }
    }

    /// Checkpoint k is created at time 10 k; some time out 5 later, some never do.
    fn barrier(&self, id: u64) -> Barrier {
        let kind = match self.how {
            How::Unaligned => BarrierKind::Unaligned,
            How::Timed if !id.is_multiple_of(3) => BarrierKind::AlignedUntil(Monotonic(10 * id + 5)),
            _ => BarrierKind::Aligned,
        };
        Barrier { checkpoint: CheckpointId(id), triggered: Timestamp(0), kind, extent: Extent::Full }
    }

    fn step(&mut self, (what, which): (u8, u8)) {
        let n = self.queues.len();
        match what % 8 {
            0 => {
                self.now += u64::from(which % 8);
                self.feed(AlignmentEvent::Timer);
            }
            1 => {
                // Announced is the next barrier of some channel: its producer has sent it, and nothing newer.
                let next = self.queues[usize::from(which) % n].iter().find_map(|item| match item {
                    Item::Barrier(id) => Some(*id),
                    _ => None,
                });
                if let Some(id) = next {
                    self.feed(AlignmentEvent::Announced(self.barrier(id)));
                }
            }
            _ => self.take(usize::from(which) % n),
        }
        self.capture();
    }

    fn take(&mut self, channel: usize) {
        if self.alignment.is_blocked(channel) || self.ended[channel] {
            return;
        }
        match self.queues[channel].pop_front() {
            Some(Item::Record(record)) => {
                self.processed.insert((channel, record));
            }
            Some(Item::Barrier(id)) => {
                self.feed(AlignmentEvent::Barrier { channel, barrier: self.barrier(id) });
            }
            Some(Item::Cancel(id)) => {
                self.feed(AlignmentEvent::Cancel { channel, checkpoint: CheckpointId(id) });
            }
            None => {
                self.ended[channel] = true;
                self.feed(AlignmentEvent::End { channel });
            }
        }
    }

    fn feed(&mut self, event: AlignmentEvent) {
        let mut resumed = false;
        for action in self.alignment.on(event, Monotonic(self.now)) {
            match action {
                AlignmentAction::Block(channel) => assert!(channel < self.queues.len()),
                AlignmentAction::Resume(_) => resumed = true,
                AlignmentAction::Snapshot(Barrier { checkpoint: CheckpointId(id), .. }) => {
                    assert!(!resumed, "snapshot of {id} after a resume");
                    self.snapshot(id);
                }
                AlignmentAction::SnapshotUnaligned(Barrier { checkpoint: CheckpointId(id), .. }) => {
                    assert!(!resumed, "snapshot of {id} after a resume");
                    self.snapshot(id);
                    assert_eq!(self.capturing.replace(id), None);
                }
                AlignmentAction::Captured(CheckpointId(id)) => assert_eq!(self.capturing.take(), Some(id)),
                AlignmentAction::Abort(CheckpointId(id), _) => {
                    resumed = false;
                    assert!(self.aborted.insert(id), "{id} is aborted twice");
                    if self.snapshots.contains_key(&id) {
                        assert_eq!(self.capturing, Some(id), "{id} is aborted after it was complete");
                    }
                    // A newer abort may stand for it.
                    if let Some(dropped) = self.capturing.take_if(|capturing| *capturing <= id) {
                        self.snapshots.remove(&dropped);
                    }
                }
            }
        }
    }

    fn snapshot(&mut self, id: u64) {
        assert!(!self.aborted.contains(&id), "{id} is taken after its abort");
        assert!(self.snapshots.insert(id, self.processed.clone()).is_none(), "{id} is taken twice");
    }

    /// Captures all that is there, as a gate does between two items: what was captured is not captured again.
    fn capture(&mut self) {
        for channel in 0..self.queues.len() {
            while let Some(id) = self.capturing.filter(|_| self.alignment.captures(channel)) {
                let Some(snapshot) = self.snapshots.get_mut(&id) else { panic!("{id} was not taken") };
                let mut found = None;
                for item in &self.queues[channel] {
                    match item {
                        Item::Record(record) => {
                            snapshot.insert((channel, *record));
                        }
                        Item::Barrier(seen) if *seen < id => {}
                        Item::Cancel(seen) if *seen < id => {}
                        item => {
                            found = Some(item.clone());
                            break;
                        }
                    }
                }
                match found {
                    Some(Item::Barrier(seen)) if seen == id => {
                        self.feed(AlignmentEvent::Barrier { channel, barrier: self.barrier(seen) });
                    }
                    // What is before it was captured for another checkpoint.
                    Some(Item::Barrier(seen)) => {
                        self.feed(AlignmentEvent::Announced(self.barrier(seen)));
                        if self.capturing == Some(id) {
                            break;
                        }
                        return self.capture();
                    }
                    Some(Item::Cancel(seen)) => {
                        self.feed(AlignmentEvent::Cancel { channel, checkpoint: CheckpointId(seen) });
                    }
                    _ => break, // the end of the channel comes when it is taken
                }
            }
        }
    }
}

/// The records before the barrier of a checkpoint in each channel; all of a channel that ends before it. And whether every channel
/// had it, or ended: one may go past it with a newer barrier, or none.
fn cut(channels: &[Vec<Item>], checkpoint: u64) -> (Records, bool) {
    let mut records = Records::new();
    let mut is_whole = true;
    for (channel, items) in channels.iter().enumerate() {
        for item in items {
            match item {
                Item::Record(record) => {
                    records.insert((channel, *record));
                }
                Item::Barrier(id) | Item::Cancel(id) if *id < checkpoint => {}
                Item::Barrier(id) if *id == checkpoint => break,
                Item::Barrier(_) | Item::Cancel(_) => {
                    is_whole = false;
                    break;
                }
            }
        }
    }
    (records, is_whole)
}

fn check(story: &Story) {
    let mut gate = Gate::new(story);
    for step in &story.schedule {
        gate.step(*step);
    }
    // What is left, in turn, until nothing moves.
    let longest: usize = story.channels.iter().map(|items| items.len() + 1).sum();
    for _ in 0..=longest {
        for channel in 0..story.channels.len() {
            gate.take(channel);
            gate.capture();
        }
    }
    let all: usize = story.channels.iter().flatten().filter(|item| matches!(item, Item::Record(_))).count();
    assert_eq!(gate.processed.len(), all, "something stays blocked");
    assert!((0..story.channels.len()).all(|channel| !gate.alignment.is_blocked(channel)));
    assert_eq!(gate.capturing, None, "a capture never ends");
    for (id, snapshot) in &gate.snapshots {
        let (cut, is_whole) = cut(&story.channels, *id);
        match story.how {
            How::AtLeastOnce => assert!(snapshot.is_superset(&cut), "{id} misses records"),
            _ => {
                assert!(is_whole, "{id} is taken without all its barriers");
                assert_eq!(*snapshot, cut, "{id}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_interleavings_keep_the_invariants(story in story()) {
        check(&story);
    }
}
