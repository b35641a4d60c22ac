//! The keyed table against a plain `hashbrown` table with the same hash, in one run.
//!
//! `cargo bench --bench state [-- --keys N]`: 1 and 10 million keys, `u64` and text of 16 bytes, chosen uniformly and by Zipf's law.
//! Prints `RATIO name=… value=…`: time of the table by time of the plain one, so less is better.

#![allow(clippy::disallowed_methods)] // a bench has its own clock and threads

use hashbrown::HashTable;
use std::hint::black_box;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use strandline::state::{GroupEncoder, Key, Table};
use strandline::types::{MaxParallelism, stable_hash};

/// Updates in each measurement.
const OPS: usize = 4 << 20;
/// Updates that are measured together.
const BATCH: usize = 256;
/// Keys whose entries are brought near together, as the engine does.
const SLICE: usize = 64;

type Value = (u64, u64);

/// Numbers that look random, the same in every run (Steele et al., SplitMix64).
fn splitmix64(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn uniform(keys: u64) -> Vec<u64> {
    (0..OPS as u64).map(|i| splitmix64(i) % keys).collect()
}

/// Zipf with exponent 0.99, by the method of Gray et al. (1994); ranks are scattered over the keys.
fn zipf(keys: u64) -> Vec<u64> {
    const THETA: f64 = 0.99;
    let n = keys as f64;
    let zeta = |n: u64| (1..=n).map(|i| (i as f64).powf(-THETA)).sum::<f64>();
    let (zeta_2, zeta_n) = (zeta(2), zeta(keys));
    let alpha = 1.0 / (1.0 - THETA);
    let eta = (1.0 - (2.0 / n).powf(1.0 - THETA)) / (1.0 - zeta_2 / zeta_n);
    let rank = |u: f64| match u * zeta_n {
        uz if uz < 1.0 => 0,
        uz if uz < 1.0 + 0.5_f64.powf(THETA) => 1,
        _ => (n * (eta * u - eta + 1.0).powf(alpha)) as u64,
    };
    (0..OPS as u64).map(|i| splitmix64(rank(splitmix64(i) as f64 / u64::MAX as f64)) % keys).collect()
}

/// Time per operation, in nanoseconds, the least of three.
fn best(mut run: impl FnMut()) -> f64 {
    let once = |run: &mut dyn FnMut()| {
        let begin = cpu_time::ThreadTime::now();
        run();
        begin.elapsed().as_nanos() as f64 / OPS as f64
    };
    (0..3).map(|_| once(&mut run)).fold(f64::INFINITY, f64::min)
}

/// The longest time that a batch takes: by the clock, and of the thread's own, in which nothing else that runs on the machine counts.
#[derive(Default)]
struct Worst {
    clock: Duration,
    own: Duration,
}

impl Worst {
    /// Gives how long it took by the clock.
    fn time(&mut self, run: impl FnOnce()) -> Duration {
        let (begin, own) = (Instant::now(), cpu_time::ThreadTime::now());
        run();
        let took = begin.elapsed();
        self.own = self.own.max(own.elapsed());
        self.clock = self.clock.max(took);
        took
    }
}

impl std::fmt::Display for Worst {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PAUSE us={:.0} own_us={:.0}", self.clock.as_secs_f64() * 1e6, self.own.as_secs_f64() * 1e6)
    }
}

struct Bench<K> {
    table: Table<K, Value>,
    plain: HashTable<(K, Value)>,
}

fn place(hash: u64) -> u64 {
    hash ^ (hash << 25)
}

fn hash<K: Key>(key: &K) -> u64 {
    stable_hash(key).unwrap_or_default()
}

fn add(value: &mut Value) {
    value.0 += 1;
    value.1 ^= value.0;
}

impl<K: Key> Bench<K> {
    fn new(keys: u64, key: &impl Fn(u64) -> K) -> Self {
        let mut table = Table::new();
        let before = rss();
        let mut worst = Worst::default();
        for from in (0..keys).step_by(BATCH) {
            worst.time(|| {
                for i in from..keys.min(from + BATCH as u64) {
                    let key = key(i);
                    table.insert(&key, hash(&key), (0, 0));
                }
            });
        }
        println!("  build: {worst}");
        println!(
            "  RSS bytes_per_key={:.1} exact={:.1}",
            (rss() - before) / keys as f64,
            table.bytes() as f64 / keys as f64
        );
        let mut plain = HashTable::new();
        for i in 0..keys {
            let key = key(i);
            plain.insert_unique(place(hash(&key)), (key, (0, 0)), |(key, _)| place(hash(key)));
        }
        Self { table, plain }
    }

    fn plain(&mut self, ops: &[(K, u64)]) {
        for (key, hash) in ops {
            if let Some((_, value)) = self.plain.find_mut(place(*hash), |(found, _)| found == key) {
                add(value);
            }
        }
    }

    fn single(&mut self, ops: &[(K, u64)]) {
        for (key, hash) in ops {
            self.table.update(key, *hash, Default::default, add);
        }
    }

    fn batched(&mut self, keys: &[K], hashes: &[u64]) {
        let slice = |at: usize| hashes.chunks(SLICE).nth(at).unwrap_or_default();
        self.table.touch(&[], slice(0));
        self.table.touch(slice(0), slice(1));
        for (at, keys) in keys.chunks(SLICE).enumerate() {
            self.table.touch(slice(at + 1), slice(at + 2));
            for (key, hash) in keys.iter().zip(slice(at)) {
                self.table.update(key, *hash, Default::default, add);
            }
        }
    }

    /// Updates while a snapshot is written by another thread, as fast as it can.
    fn pending(&mut self, keys: &[K], hashes: &[u64], name: &str, idle: f64) {
        let max = MaxParallelism::new(128).unwrap_or_else(|_| std::process::abort());
        let begin = Instant::now();
        let mut frozen = self.table.freeze(max);
        println!("  {name} FREEZE us={:.1}", begin.elapsed().as_secs_f64() * 1e6);
        let writer = std::thread::spawn(move || {
            let mut task = Context::from_waker(Waker::noop());
            let mut bytes = 0;
            loop {
                match frozen.poll_next_group(&mut task) {
                    Poll::Ready(Ok(Some(group))) => {
                        bytes += black_box(crc32c::crc32c(&group.bytes)) as usize & 1;
                        bytes += group.bytes.len();
                        frozen.give_back(group.bytes);
                    }
                    Poll::Ready(_) => return bytes,
                    Poll::Pending => std::thread::sleep(Duration::from_micros(50)),
                }
            }
        });
        let (mut worst, mut updates) = (Worst::default(), 0);
        let (mut updating, mut sweeping) = (Duration::ZERO, Duration::ZERO);
        let task = Context::from_waker(Waker::noop());
        'all: loop {
            for (keys, hashes) in keys.chunks(BATCH).zip(hashes.chunks(BATCH)) {
                updating += worst.time(|| self.batched(keys, hashes));
                updates += keys.len();
                if updates % 2048 == 0 {
                    let begin = Instant::now();
                    self.table.sweep(2048, &task);
                    sweeping += begin.elapsed();
                    if self.table.is_at_rest() {
                        break 'all;
                    }
                }
            }
        }
        let bytes = writer.join().unwrap_or_default();
        let per_op = updating.as_secs_f64() * 1e9 / updates as f64;
        println!("  {name} {worst}");
        println!(
            "  {name} pending: {updates} updates, {:.0} ms updating, {:.0} ms sweeping, {bytes} bytes",
            updating.as_secs_f64() * 1e3,
            sweeping.as_secs_f64() * 1e3
        );
        println!("RATIO name={name}/pending value={:.2}", per_op / idle);
    }
}

fn rss() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<f64>().ok()).unwrap_or_default() * 4096.0
}

fn run<K: Key>(kind: &str, count: u64, key: impl Fn(u64) -> K) {
    println!("{kind} {count}");
    let mut bench = Bench::new(count, &key);
    for (law, chosen) in [("uniform", uniform(count)), ("zipf", zipf(count))] {
        let ops: Vec<(K, u64)> =
            chosen.iter().map(|i| key(*i)).map(|key| (key.clone(), hash(&key))).collect();
        let (keys, hashes): (Vec<K>, Vec<u64>) = ops.iter().cloned().unzip();
        let name = format!("{kind}/{}m/{law}", count / 1_000_000);
        let plain = best(|| bench.plain(&ops));
        let single = best(|| bench.single(&ops));
        let batched = best(|| bench.batched(&keys, &hashes));
        println!("  {name}: plain {plain:.1} ns, single {single:.1} ns, batched {batched:.1} ns");
        println!("RATIO name={name}/single value={:.2}", single / plain);
        println!("RATIO name={name}/batched value={:.2}", batched / plain);
        bench.pending(&keys, &hashes, &name, batched);
        let after = best(|| bench.batched(&keys, &hashes));
        println!("RATIO name={name}/after value={:.2}", after / batched);
    }
}

fn main() {
    let mut args = std::env::args().skip_while(|arg| arg != "--keys").skip(1);
    let counts =
        args.next().and_then(|keys| keys.parse().ok()).map_or(vec![1_000_000, 10_000_000], |keys| vec![keys]);
    for count in counts {
        run("u64", count, splitmix64);
        run("text", count, |i| format!("{:016x}", splitmix64(i)));
    }
}
