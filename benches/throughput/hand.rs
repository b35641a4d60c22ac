//! The limit: what one would write by hand for exactly this work, with two threads and no engine.

use crate::workload::{Checksum, THREADS, kept, keyed, splitmix64};
use crossbeam_channel::{Receiver, Select, Sender, bounded};
use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;
use std::thread;

const BATCH: usize = 1024;
const DEPTH: usize = 64;

type Record = (u64, u64);

pub fn w1(records: u64) -> Checksum {
    let run = |partition: u64| {
        let mut checksum = Checksum::default();
        let mut seq = partition;
        while seq < records {
            let mixed = splitmix64(splitmix64(seq));
            if kept(&mixed) {
                checksum.plain(mixed);
            }
            seq += THREADS;
        }
        checksum
    };
    both(run)
}

fn both(run: impl Fn(u64) -> Checksum + Sync) -> Checksum {
    thread::scope(|scope| {
        let other = scope.spawn(|| run(1));
        let mut all = run(0);
        all.merge(other.join().unwrap_or_default());
        all
    })
}

/// The running counts and sums of one thread's keys.
#[derive(Default)]
struct Sums {
    table: HashMap<u64, (u64, u64), FxBuildHasher>,
    checksum: Checksum,
    /// So that the sums are not optimised away.
    xor: u64,
}

impl Sums {
    fn take(&mut self, batch: &[Record]) {
        for &(key, value) in batch {
            let (count, sum) = self.table.entry(key).or_insert((0, 0));
            *count += 1;
            *sum += value;
            self.checksum.running(key, *count);
            self.xor ^= *sum;
        }
    }
}

/// Room for a batch: always whole, so that no index into it needs a check.
type Room = Box<[Record; BATCH]>;

fn room() -> Room {
    Box::new([(0, 0); BATCH])
}

/// One thread's end of the exchange: full batches go one way, empty ones come back.
struct Link {
    to: Sender<(Room, usize)>,
    from: Receiver<(Room, usize)>,
    give_back: Sender<Room>,
    returned: Receiver<Room>,
}

fn links() -> (Link, Link) {
    let (to_b, from_a) = bounded(DEPTH);
    let (to_a, from_b) = bounded(DEPTH);
    let (back_to_a, returned_a) = bounded(DEPTH + 2);
    let (back_to_b, returned_b) = bounded(DEPTH + 2);
    (
        Link { to: to_b, from: from_b, give_back: back_to_b, returned: returned_a },
        Link { to: to_a, from: from_a, give_back: back_to_a, returned: returned_b },
    )
}

impl Link {
    fn handle(&self, (room, used): (Room, usize), sums: &mut Sums) {
        sums.take(room.get(..used).unwrap_or_default());
        let _ = self.give_back.try_send(room);
    }

    /// Handles what has arrived.
    fn drain(&self, sums: &mut Sums) -> bool {
        let mut any = false;
        while let Ok(batch) = self.from.try_recv() {
            self.handle(batch, sums);
            any = true;
        }
        any
    }

    /// Sends a batch; while there is no room, handles what comes in.
    fn send(&self, mut batch: (Room, usize), sums: &mut Sums) {
        let mut open = true;
        loop {
            batch = match self.to.try_send(batch) {
                Ok(()) => return,
                Err(error) => error.into_inner(),
            };
            if open && self.drain(sums) {
                continue;
            }
            if !open {
                let _ = self.to.send(batch);
                return;
            }
            let mut select = Select::new();
            let sends = select.send(&self.to);
            select.recv(&self.from);
            let ready = select.select();
            if ready.index() == sends {
                let _ = ready.send(&self.to, batch);
                return;
            }
            match ready.recv(&self.from) {
                Ok(received) => self.handle(received, sums),
                Err(_) => open = false,
            }
        }
    }
}

/// Two buffers, filled without a branch on which.
struct Split {
    buffers: [Room; 2],
    used: [usize; 2],
}

impl Split {
    /// Whether that buffer is full now.
    #[inline(always)]
    fn push(&mut self, side: usize, record: Record) -> bool {
        let used = &mut self.used[side & 1];
        self.buffers[side & 1][*used & (BATCH - 1)] = record;
        *used += 1;
        *used == BATCH
    }
}

/// Which thread a key belongs to.
#[inline(always)]
fn owner(key: u64) -> u64 {
    key.wrapping_mul(0xD6E8_FEB8_6659_FD93) >> 63
}

pub fn w2(records: u64, keys: u64) -> Checksum {
    let run = |partition: u64, link: Link| {
        let mut sums = Sums::default();
        let mut split = Split { buffers: [room(), room()], used: [0, 0] };
        let mut seq = partition;
        while seq < records {
            let record = keyed(splitmix64(seq), keys);
            let side = (owner(record.0) ^ partition) as usize;
            if split.push(side, record) {
                split.used[side & 1] = 0;
                if side == 0 {
                    sums.take(&*split.buffers[0]);
                } else {
                    let empty = link.returned.try_recv().unwrap_or_else(|_| room());
                    let full = std::mem::replace(&mut split.buffers[1], empty);
                    link.send((full, BATCH), &mut sums);
                    link.drain(&mut sums);
                }
            }
            seq += THREADS;
        }
        let Split { buffers: [mine, theirs], used } = split;
        sums.take(mine.get(..used[0]).unwrap_or_default());
        link.send((theirs, used[1]), &mut sums);
        let Link { to, from, .. } = link;
        drop(to);
        for (room, used) in from {
            sums.take(room.get(..used).unwrap_or_default());
        }
        std::hint::black_box(sums.xor);
        sums.checksum
    };
    let (a, b) = links();
    thread::scope(|scope| {
        let run = &run;
        let other = scope.spawn(move || run(1, b));
        let mut all = run(0, a);
        all.merge(other.join().unwrap_or_default());
        all
    })
}
