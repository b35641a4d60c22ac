//! The stories that Flink's documentation tells of state, checkpoints and restarts, told by running them.
//!
//! ```console
//! $ cargo run --release --example seed_stories
//! ```
//!
//! Each prints its name, what it shows and what came out, and has checked that. Most run on virtual time: an hour of checkpoints is over
//! in a moment, and comes out the same every time.

mod checkpoints;
mod recovery;
mod restarts;
mod state;

use std::time::Duration;
use strandline::prelude::*;
use strandline::types::Clock;

/// Name, what it shows, and the story, which says what came out.
type Story = (&'static str, &'static str, fn() -> Result<String>);

const STORIES: &[Story] = &[
    ("CountWindowAverage", "a value per key: the average of every two", state::count_window_average),
    ("mapWithState", "the same in one closure, for the common case", state::map_with_state),
    ("list and reducing state", "several states, each of the current key", state::list_and_reducing_state),
    ("no checkpoints", "they are off by default", checkpoints::off_by_default),
    ("interval", "a checkpoint every 5 s", checkpoints::interval),
    ("on demand", "a checkpoint when the service asks for one", checkpoints::on_demand),
    (
        "min pause",
        "5 s from the end of one to the next, although every second is asked for",
        checkpoints::min_pause,
    ),
    ("concurrent checkpoints", "each takes 3 s, one is due every second", checkpoints::max_concurrent),
    ("timeout", "one that takes too long is given up, and the job runs on", checkpoints::timeout),
    (
        "tolerable failures",
        "two failed checkpoints are tolerated, the third restarts the job",
        checkpoints::tolerable_failures,
    ),
    (
        "retained on cancellation",
        "a cancelled job goes on where it was, unless told otherwise",
        checkpoints::retention,
    ),
    ("completion listener", "an operator hears which checkpoints are complete", checkpoints::listener),
    (
        "stateful source",
        "position and output move together, so a failure repeats nothing",
        recovery::stateful_source,
    ),
    (
        "records while the job is down",
        "lost without checkpoints, kept with them",
        recovery::records_while_down,
    ),
    ("restart strategies", "what follows failure after failure", restarts::strategies),
];

fn main() -> Result {
    for (name, shows, story) in STORIES {
        println!("{name}: {shows}");
        println!("  -> {}", story().map_err(|error| format!("{name}: {error}"))?);
    }
    println!("all {} stories are true", STORIES.len());
    Ok(())
}

/// Runs a story on one thread, whose clock jumps to the next timer whenever there is nothing to do. Its jobs are started by
/// `start_local`.
fn on_virtual_time<T>(story: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    runtime.block_on(tokio::task::LocalSet::new().run_until(story))
}

/// Runs a story in the world as it is.
fn in_real_time<T>(story: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(story)
}

/// What happens to a job, and how long after its start, in its first `time`. Then it is cancelled.
async fn watch(job: &JobHandle, time: Duration) -> Result<Vec<(Duration, JobEvent)>> {
    let (clock, mut events, mut seen) = (Clock::start(), job.events(), Vec::new());
    let listen = async {
        while let Ok(event) = events.recv().await {
            seen.push((clock.elapsed(), event));
        }
    };
    // It goes on for ever.
    let _ = tokio::time::timeout(time, listen).await;
    job.cancel().await?;
    Ok(seen)
}
