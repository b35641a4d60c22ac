//! A run that never ends is named, and ends the process.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// How much of a processor's time a run may take: a thousand times what it needs.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs something that follows from a seed. If it does not come back the whole process ends: a thread cannot be made to.
pub fn watched<T>(seed: u64, run: impl FnOnce() -> T) -> T {
    let (runs, is_over): (Sender<()>, Receiver<()>) = channel();
    let used = Used::of_this_thread();
    std::thread::spawn(move || {
        while is_over.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
            if used.so_far() > LIMIT {
                eprintln!(
                    "STRANDLINE_SEED={seed} STRANDLINE_TRACE=1 repeats it: violated: runs for ever, something spins"
                );
                std::process::abort();
            }
        }
    });
    let result = run();
    drop(runs);
    result
}

/// How much time a thread has used since then: the processor's where the system tells, so that a test that was stopped for a while goes on.
struct Used {
    stat: Option<PathBuf>,
    ticks: u64,
    began: Instant,
}

impl Used {
    fn of_this_thread() -> Self {
        let thread = std::fs::read_link("/proc/thread-self").ok();
        let stat = thread.map(|thread| PathBuf::from("/proc").join(thread).join("stat"));
        let mut used = Self { stat, ticks: 0, began: Instant::now() };
        used.ticks = used.ticks().unwrap_or(0);
        used
    }

    /// In hundredths of a second.
    fn ticks(&self) -> Option<u64> {
        let stat = std::fs::read_to_string(self.stat.as_ref()?).ok()?;
        // Behind the name, in parentheses, which may hold anything: utime and stime are the 12th and the 13th.
        let fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11).take(2);
        fields.map(|ticks| ticks.parse::<u64>().ok()).sum()
    }

    fn so_far(&self) -> Duration {
        match self.ticks() {
            Some(ticks) => Duration::from_millis(10 * ticks.saturating_sub(self.ticks)),
            None => self.began.elapsed(),
        }
    }
}
