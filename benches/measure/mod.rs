//! What the benches share: clocks of this process, and medians.

// Each bench uses its part.
#![allow(dead_code)]

use std::time::{Duration, Instant};

/// Where the clocks of this process stood.
pub struct Clocks {
    wall: Instant,
    cpu: Duration,
}

/// What a run took.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    pub secs: f64,
    /// Of all threads together.
    pub cpu_secs: f64,
    /// The peak.
    pub rss_kb: u64,
}

impl Clocks {
    pub fn now() -> Self {
        Self { wall: Instant::now(), cpu: cpu() }
    }

    pub fn until_now(&self) -> Figures {
        Figures {
            secs: self.wall.elapsed().as_secs_f64(),
            cpu_secs: (cpu() - self.cpu).as_secs_f64(),
            rss_kb: peak_rss_kb(),
        }
    }
}

impl Figures {
    /// From a line of `name=value` with `secs`, `cpu_ns` and `n`.
    pub fn parse(line: &str) -> Self {
        let field = |name: &str| {
            let value = line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            value.and_then(|value| value.parse::<f64>().ok()).unwrap_or(f64::NAN)
        };
        Self {
            secs: field("secs"),
            cpu_secs: field("cpu_ns") * field("n") / 1e9,
            rss_kb: field("rss_kb") as u64,
        }
    }
}

/// CPU time of this process so far.
pub fn cpu() -> Duration {
    cpu_time::ProcessTime::now().as_duration()
}

/// A number that no other call gets.
pub fn nanos() -> u128 {
    std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos()
}

fn peak_rss_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// `1s` or `500ms`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let parsed = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(millis), _) => millis.parse().map(Duration::from_millis),
        (None, Some(secs)) => secs.parse().map(Duration::from_secs),
        (None, None) => return Err(format!("{text} is not a duration: write 1s or 500ms")),
    };
    parsed.map_err(|error| format!("{text} is not a duration: {error}"))
}

pub fn median(runs: &[Figures], of: impl Fn(&Figures) -> f64) -> f64 {
    let mut values: Vec<f64> = runs.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

/// The quotient of two medians.
pub fn ratio(a: &[Figures], b: &[Figures], of: impl Fn(&Figures) -> f64) -> f64 {
    median(a, &of) / median(b, &of)
}
