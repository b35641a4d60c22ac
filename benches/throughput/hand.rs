//! The limit: what one would write by hand for exactly this work, with two threads and no engine.

use crate::workload::{Checksum, THREADS, keyed, kept, splitmix64};
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

/// One thread's end of the exchange: full batches go one way, empty ones come back.
struct Link {
    to: Sender<Vec<Record>>,
    from: Receiver<Vec<Record>>,
    give_back: Sender<Vec<Record>>,
    returned: Receiver<Vec<Record>>,
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
    /// An empty batch.
    fn buffer(&self) -> Vec<Record> {
        self.returned.try_recv().unwrap_or_else(|_| Vec::with_capacity(BATCH))
    }

    fn handle(&self, mut batch: Vec<Record>, sums: &mut Sums) {
        sums.take(&batch);
        batch.clear();
        let _ = self.give_back.try_send(batch);
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
    fn send(&self, mut batch: Vec<Record>, sums: &mut Sums) {
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
    buffers: [Vec<Record>; 2],
    used: [usize; 2],
}

impl Split {
    fn new() -> Self {
        Self { buffers: [vec![(0, 0); BATCH], vec![(0, 0); BATCH]], used: [0, 0] }
    }

    /// Whether that buffer is full now.
    #[inline(always)]
    fn push(&mut self, side: usize, record: Record) -> bool {
        let used = &mut self.used[side & 1];
        if let Some(place) = self.buffers[side & 1].get_mut(*used) {
            *place = record;
        }
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
        let mut split = Split::new();
        let mut seq = partition;
        while seq < records {
            let record = keyed(splitmix64(seq), keys);
            let side = (owner(record.0) ^ partition) as usize;
            if split.push(side, record) {
                split.used[side] = 0;
                if side == 0 {
                    sums.take(&split.buffers[0]);
                } else {
                    let mut full = link.buffer();
                    full.resize(BATCH, (0, 0));
                    std::mem::swap(&mut full, &mut split.buffers[1]);
                    link.send(full, &mut sums);
                    link.drain(&mut sums);
                }
            }
            seq += THREADS;
        }
        sums.take(&split.buffers[0][..split.used[0]]);
        split.buffers[1].truncate(split.used[1]);
        link.send(std::mem::take(&mut split.buffers[1]), &mut sums);
        let Link { to, from, .. } = link;
        drop(to);
        for batch in from {
            sums.take(&batch);
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
