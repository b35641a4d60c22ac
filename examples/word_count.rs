//! Counts words, exactly, whatever kills it.
//!
//! ```console
//! $ cargo run --release --example word_count -- --input book.txt --output counts --checkpoints checkpoints
//! ```
//!
//! For every occurrence of a word it writes a line `word<TAB>n` into a file of the output folder, `n` being how often the word has
//! come so far. Kill it at any moment, start it again with the same folders, at the same or another `--parallelism`: it goes on
//! from its last checkpoint, and in the end each word has the lines 1 to N, each once.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use strandline::checkpoint::duration_text;
use strandline::prelude::*;
use tokio::sync::broadcast::error::RecvError;

const USAGE: &str = "\
usage: word_count --input FILE... [--output DIR] [--checkpoints DIR]
                  [--interval TIME] [--mode MODE] [--aligned-timeout TIME] [--incremental]
                  [--parallelism N] [--rate LINES_PER_SECOND] [--verbose]

  --input FILE...     text files, plain or .gz; may be given several times
  --output DIR        where the lines `word<TAB>n` go; default: a new folder in the temporary folder
  --checkpoints DIR   where checkpoints are kept; default: a new folder in the temporary folder
  --interval TIME     time between checkpoints, such as 200ms, 5s or 1min; default 200ms
  --mode MODE         how checkpoints are taken: exactly-once (the default), unaligned (the same, and barriers overtake
                      the records before them) or at-least-once (after a kill some words count twice)
  --aligned-timeout TIME
                      barriers overtake only in checkpoints that are older than this
  --incremental       a checkpoint writes only the words that have come since the one before, and a part of the others in turn
  --parallelism N     subtasks of each operator; default: the number of cores. It may change between runs
  --rate LINES        at most so many lines per second, all sources together; default 0: no limit
  --verbose           a line for each checkpoint also on a terminal (without one it is always written)";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let settings = match Settings::parse(std::env::args_os().skip(1)) {
        Ok(Some(settings)) => settings,
        Ok(None) => {
            say(USAGE);
            return ExitCode::SUCCESS;
        }
        Err(fault) => {
            eprintln!("word_count: {fault}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(settings).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("word_count: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(settings: Settings) -> Result {
    let output = settings.output.map_or_else(|| temporary("output"), Ok)?;
    let checkpoints = settings.checkpoints.map_or_else(|| temporary("checkpoints"), Ok)?;

    let mut env = Environment::builder()
        .checkpointing(settings.checkpointing)
        .storage(FileSystem::at(&checkpoints))
        .restart(RestartStrategy::fixed_delay(3, Duration::from_millis(500)));
    if let Some(parallelism) = settings.parallelism {
        env = env.parallelism(parallelism);
    }
    let env = env.build()?;

    let lines = TextFiles::new(settings.inputs);
    match settings.rate {
        0 => count_words(&env, lines, &output),
        rate => count_words(&env, lines.throttled(rate), &output),
    }

    let job = env.start("word-count").await?;
    let mut events = job.events();
    if job.had_finished() {
        say(format!(
            "these folders hold a finished run: nothing to do; its output is in {}",
            output.display()
        ));
        return Ok(());
    }
    match job.resumed_from() {
        Some(checkpoint) => say(format!("resuming from checkpoint {checkpoint}")),
        None => say("starting from the beginning of the input"),
    }
    let verbose = settings.verbose || !std::io::stdout().is_terminal();
    loop {
        match events.recv().await {
            Ok(JobEvent::CheckpointCompleted(done)) if verbose => {
                say(format!(
                    "checkpoint {}: {} bytes in {:.1?}",
                    done.checkpoint,
                    done.bytes,
                    done.duration.unwrap_or_default()
                ));
            }
            Ok(JobEvent::CheckpointFailed { reason, .. }) => eprintln!("a checkpoint failed: {reason}"),
            Ok(JobEvent::Restarting { error, after }) => eprintln!("restarting in {after:.1?}: {error}"),
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => break,
        }
    }
    job.wait().await?;
    say(format!("all input is counted; the output is in {}", output.display()));
    Ok(())
}

/// The dataflow. The names are the operators' uids: checkpoints are matched by them.
fn count_words(env: &Environment, lines: impl Source<Record = String>, output: &Path) {
    env.source("lines", lines)
        .flat_map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .key_by(|word| word.clone())
        .map_with_state("count", |word, count: Option<u64>| {
            let count = count.unwrap_or(0) + 1;
            ((word, count), Some(count))
        })
        .sink(
            "counts",
            FileSink::at(output).suffix(".tsv").encode(|(word, count): &(String, u64), line| {
                let _ = writeln!(line, "{word}\t{count}"); // a Vec takes everything
            }),
        );
}

/// A new folder, which stays.
fn temporary(what: &str) -> Result<PathBuf> {
    let folder = tempfile::Builder::new().prefix(&format!("strandline-word-count-{what}-")).tempdir()?.keep();
    say(format!("{what}: {}", folder.display()));
    Ok(folder)
}

/// Prints a line. Whoever read our output may be gone: no reason to stop counting.
fn say(line: impl AsRef<str>) {
    let _ = writeln!(std::io::stdout(), "{}", line.as_ref());
}

struct Settings {
    inputs: Vec<PathBuf>,
    output: Option<PathBuf>,
    checkpoints: Option<PathBuf>,
    checkpointing: Checkpointing,
    parallelism: Option<u32>,
    rate: u64,
    verbose: bool,
}

impl Settings {
    /// `None` if only the usage is asked for.
    fn parse(args: impl Iterator<Item = OsString>) -> Result<Option<Self>, String> {
        let (mut interval, mut mode, mut aligned_timeout) = (Duration::from_millis(200), None, None);
        let mut incremental = false;
        let mut settings = Self {
            inputs: Vec::new(),
            output: None,
            checkpoints: None,
            checkpointing: Checkpointing::default(),
            parallelism: None,
            rate: 0,
            verbose: false,
        };
        let mut args = args.peekable();
        while let Some(arg) = args.next() {
            let option = arg.to_string_lossy().into_owned();
            let mut value = || {
                let value = args.next_if(|value| !is_option(value));
                value.ok_or_else(|| format!("{option} needs a value"))
            };
            match option.as_str() {
                "--input" => {
                    settings.inputs.push(value()?.into());
                    while let Ok(another) = value() {
                        settings.inputs.push(another.into());
                    }
                }
                "--output" => settings.output = Some(value()?.into()),
                "--checkpoints" => settings.checkpoints = Some(value()?.into()),
                "--interval" => interval = duration(&option, &value()?.to_string_lossy())?,
                "--mode" => mode = Some(value()?.to_string_lossy().into_owned()),
                "--aligned-timeout" => {
                    aligned_timeout = Some(duration(&option, &value()?.to_string_lossy())?);
                }
                "--incremental" => incremental = true,
                "--parallelism" => {
                    settings.parallelism = Some(number(&option, &value()?.to_string_lossy(), 1)?);
                }
                "--rate" => settings.rate = number(&option, &value()?.to_string_lossy(), 0)?,
                "--verbose" => settings.verbose = true,
                "--help" | "-h" => return Ok(None),
                other => return Err(format!("{other:?} is not an option")),
            }
        }
        if settings.inputs.is_empty() {
            return Err("give at least one --input".into());
        }
        let checkpointing = Checkpointing::every(interval).incremental(incremental);
        settings.checkpointing = match mode.as_deref() {
            None | Some("exactly-once") => checkpointing,
            Some("unaligned") => checkpointing.unaligned(),
            Some("at-least-once") => checkpointing.at_least_once(),
            Some(other) => {
                return Err(format!("--mode {other:?}: expected exactly-once, unaligned or at-least-once"));
            }
        };
        if let Some(timeout) = aligned_timeout {
            settings.checkpointing = settings.checkpointing.aligned_timeout(timeout);
        }
        Ok(Some(settings))
    }
}

fn is_option(arg: &OsString) -> bool {
    arg.to_string_lossy().starts_with("--")
}

fn number<N: std::str::FromStr + PartialOrd + std::fmt::Display>(
    option: &str,
    value: &str,
    least: N,
) -> Result<N, String> {
    match value.parse() {
        Ok(number) if number >= least => Ok(number),
        _ => Err(format!("{option} {value:?}: expected a whole number of at least {least}")),
    }
}

fn duration(option: &str, text: &str) -> Result<Duration, String> {
    duration_text::parse(text).map_err(|fault| format!("{option}: {fault}"))
}
