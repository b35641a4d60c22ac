//! What a run is like: all of it follows from a number.

use super::graph::Shape;
use super::world::{Trouble, below, once_in};
use std::time::Duration;
use strandline::prelude::*;
use strandline::types::Random;
use strandline::{CheckpointingMode, CommitRetries};

#[derive(Debug, Clone)]
pub struct Plan {
    pub shape: Shape,
    pub trouble: Trouble,
    pub checkpointing: Checkpointing,
    pub channel_depth: u32,
    /// State of this size goes into manifests.
    pub memory_threshold: u64,
    pub write_buffer: usize,
    pub retries: CommitRetries,
    /// How many records a sink takes before it must flush.
    pub sink_buffer: usize,
    /// Of each process, in turn.
    pub parallelism: Vec<u32>,
    /// How likely a process is to be killed: once in so many.
    pub deaths: u64,
    /// Whether one may be taken over by another while it lives.
    pub take_overs: bool,
}

fn pick<T: Clone>(random: &mut Random, from: &[T]) -> T {
    from[below(random, from.len() as u64) as usize].clone()
}

fn millis(random: &mut Random, from: u64, to: u64) -> Duration {
    Duration::from_millis(from + below(random, to - from + 1))
}

impl Plan {
    pub fn draw(random: &mut Random) -> Self {
        let changes = once_in(random, 2);
        // Slow sinks in front of fast sources hold barriers back, here longer than there, so that they are waited for.
        let pressed = once_in(random, 2);
        let first = if pressed { 2 + below(random, 2) as u32 } else { pick(random, &[1, 2, 2, 3]) };
        let parallelism = (0..4).map(|_| if changes { 1 + below(random, 4) as u32 } else { first }).collect();
        let pause = if pressed { 1 } else { pick(random, &[1, 5, 20, 50]) };
        let checkpointing = checkpointing(random, pause);
        let splits = 1 + below(random, 5);
        let overtakes = checkpointing.is_unaligned();
        let shape = Shape {
            splits,
            apart: if once_in(random, 2) { 1 + below(random, 3) } else { 0 },
            len: 1 + (if once_in(random, 8) { 0 } else { 60 } + below(random, 320)) / splits,
            keys: pick(random, &[1, 3, 10, 40]),
            second_keys: pick(random, &[1, 2, 7]),
            burst: if pressed { pick(random, &[3, 10]) } else { pick(random, &[1, 3, 10, 40]) },
            pause,
            // What was in flight and what a split gives at another parallelism come by different channels.
            in_order: checkpointing.get_mode() == CheckpointingMode::ExactlyOnce && !(changes && overtakes),
            rebalanced: once_in(random, 4),
            second_source: splits > 1 && once_in(random, 3),
            files: once_in(random, 3),
        };
        let trouble = Trouble {
            faults: 2 + below(random, 10) as u32,
            after: if once_in(random, 2) { 1 + below(random, 4) as u32 } else { 0 },
            code: pick(random, &[0, 300, 1_000]),
            broker: pick(random, &[0, 20, 100]),
            disk: pick(random, &[20, 100, 400]),
            log: pick(random, &[5, 20, 100]),
            delay: if pressed { pick(random, &[5, 20]) } else { pick(random, &[0, 1, 5, 20]) },
            stall: pick(random, &[0, 0, 300]),
        };
        Self {
            shape,
            trouble,
            checkpointing,
            channel_depth: if pressed { 1 } else { pick(random, &[1, 2, 8]) },
            memory_threshold: pick(random, &[0, 0, 60, 100_000]),
            write_buffer: pick(random, &[16, 1 << 20]),
            retries: CommitRetries { times: pick(random, &[0, 2]), delay: millis(random, 0, 20) },
            sink_buffer: if pressed { 1 } else { pick(random, &[1, 5, 50]) },
            parallelism,
            deaths: pick(random, &[0, 1, 2]),
            take_overs: once_in(random, 4),
        }
    }
}

/// The longer a source waits, the longer a run takes.
fn checkpointing(random: &mut Random, pause: u64) -> Checkpointing {
    let mut settings = Checkpointing::every(millis(random, 10 + pause, 50 + 2 * pause))
        .timeout(pick(random, &[2_000, 600_000].map(Duration::from_millis)))
        .tolerable_failures(pick(random, &[0, 1, u32::MAX]))
        .retain(pick(random, &[1, 1, 2, 4]));
    if once_in(random, 3) {
        settings = settings.min_pause(millis(random, 1, 30));
    }
    settings = match below(random, 8) {
        0 => settings.at_least_once(),
        1..3 => settings.unaligned(),
        3..5 => settings.aligned_timeout(millis(random, 1, 20)),
        _ => settings,
    };
    if once_in(random, 2) {
        settings = settings.incremental(true).max_increments(pick(random, &[2, 3, 256]));
    }
    if !settings.is_unaligned() && once_in(random, 4) {
        settings = settings.min_pause(Duration::ZERO).max_concurrent(2);
    }
    settings
}

/// What follows a failure of a process' dataflow.
pub fn restart(random: &mut Random) -> RestartStrategy {
    let delay = if once_in(random, 3) { Duration::ZERO } else { millis(random, 0, 200) };
    match below(random, 6) {
        0 => RestartStrategy::none(),
        1 => RestartStrategy::fixed_delay(1, delay),
        2 => RestartStrategy::failure_rate(2, Duration::from_secs(1), delay),
        3 => RestartStrategy::exponential_delay().into(),
        _ => RestartStrategy::fixed_delay(20, delay),
    }
}
