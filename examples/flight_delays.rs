//! Delays of the flights that left New York, kept while a panic, Ctrl-C or `kill -9` get in the way.
//!
//! ```console
//! $ cargo run --release --example flight_delays
//! ```
//!
//! It reads one row per flight, keeps running delays of each carrier and each route as keyed state, takes a checkpoint every 200 ms and
//! writes every new figure into files, exactly once. On the way one operator panics on purpose; the job goes on from its last
//! checkpoint. At the end the files are read back, shown as a table, and compared with what a plain loop over the input gives.
//!
//! Stop it by Ctrl-C or by `kill -9`, and start it again with the `--dir` it printed: it goes on where its last checkpoint was.

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressState, ProgressStyle};
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use strandline::checkpoint::duration_text;
use strandline::prelude::*;
use tokio::sync::broadcast::error::RecvError;

// ===== The dataflow: what to copy from here =====

/// What delays are kept of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Group {
    Carrier(String),
    /// From where to where.
    Route(String, String),
}

/// One flight, seen as one of a group.
#[derive(Clone, Serialize, Deserialize)]
struct Departure {
    group: Group,
    /// In minutes; `None` if the flight was cancelled.
    delay: Option<i64>,
}

/// The delays of a group so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Delays {
    flights: u64,
    cancelled: u64,
    /// Of all flights together. Early ones count as negative.
    minutes: i64,
    /// Flights more than 15 minutes late.
    late: u64,
}

impl Delays {
    fn add(&mut self, delay: Option<i64>) {
        match delay {
            Some(minutes) => {
                self.flights += 1;
                self.minutes += minutes;
                self.late += u64::from(minutes > 15);
            }
            None => self.cancelled += 1,
        }
    }

    /// Grows by one with each row.
    fn rows(&self) -> u64 {
        self.flights + self.cancelled
    }
}

/// Keeps the delays of each group, and emits them anew for each departure.
struct RunningDelays {
    delays: ValueState<Delays>,
    /// For the demonstration only.
    panic: Arc<PanicOnce>,
}

impl Operator for RunningDelays {
    type Key = Group;
    type Out = (Group, Delays);
}

impl Handler<Departure> for RunningDelays {
    fn handle(&mut self, departure: Departure, ctx: &mut Context<'_, Self>) -> Result {
        self.panic.strike();
        let delays = self.delays.update(ctx, |delays| {
            delays.add(departure.delay);
            *delays
        });
        ctx.emit((departure.group, delays));
        Ok(())
    }
}

/// A line of the results: carrier or origin, destination, figures.
type Figure = (String, Option<String>, Delays);

/// From flights to files of running figures. The names are the operators' uids: checkpoints are matched by them.
fn describe(env: &Environment, flights: impl Source<Record = Flight>, progress: &Progress, results: &Path) {
    let read = Arc::clone(&progress.read);
    let panic = Arc::clone(&progress.panic);
    env.source("flights", flights)
        .inspect(move |_| {
            read.fetch_add(1, Ordering::Relaxed);
        })
        .flat_map(Flight::departures)
        .key_by(|departure| departure.group.clone())
        .process("delays", move |setup| {
            Ok(RunningDelays { delays: setup.value_state("delays")?, panic: Arc::clone(&panic) })
        })
        .map(|(group, delays)| -> Figure {
            match group {
                Group::Carrier(carrier) => (carrier, None, delays),
                Group::Route(origin, dest) => (origin, Some(dest), delays),
            }
        })
        .sink("figures", FileSink::csv(results).without_header().delimiter(b'\t').suffix(".tsv"));
}

/// What the files of the results say last. They hold every new figure of each group, and a group's rows only grow, so the
/// line with the most rows is the last one, in whatever order the files are read.
fn read_results(results: &Path) -> Result<BTreeMap<Group, Delays>> {
    let mut last = BTreeMap::<Group, Delays>::new();
    for file in fs::read_dir(results)? {
        let file = file?;
        // Hidden files are not yet, and perhaps never will be, part of the results.
        if file.file_name().to_string_lossy().starts_with(['.', '_']) {
            continue;
        }
        let lines = csv::ReaderBuilder::new().delimiter(b'\t').has_headers(false).from_path(file.path())?;
        for line in lines.into_deserialize() {
            let (origin, dest, delays): Figure = line?;
            let group = match dest {
                None => Group::Carrier(origin),
                Some(dest) => Group::Route(origin, dest),
            };
            let kept = last.entry(group).or_default();
            if delays.rows() > kept.rows() {
                *kept = delays;
            }
        }
    }
    Ok(last)
}

// ===== The input =====

/// What is needed of a row. Other columns, and their order, do not matter.
#[derive(Debug, Deserialize)]
struct Flight {
    carrier: String,
    origin: String,
    dest: String,
    #[serde(rename = "dep_delay", deserialize_with = "minutes")]
    delay: Option<i64>,
}

/// `NA` stands for a flight that was cancelled.
fn minutes<'de, D: Deserializer<'de>>(field: D) -> Result<Option<i64>, D::Error> {
    match <&str>::deserialize(field)? {
        "" | "NA" => Ok(None),
        minutes => match minutes.parse() {
            Ok(minutes) => Ok(Some(minutes)),
            Err(_) => Err(D::Error::custom(format!("{minutes:?} is not a number of minutes"))),
        },
    }
}

impl Flight {
    fn departures(self) -> [Departure; 2] {
        [
            Departure { group: Group::Carrier(self.carrier), delay: self.delay },
            Departure { group: Group::Route(self.origin, self.dest), delay: self.delay },
        ]
    }
}

fn open(input: &Path) -> Result<BufReader<Box<dyn Read>>> {
    let file = File::open(input).map_err(|error| format!("cannot read {}: {error}", input.display()))?;
    let packed = input.extension().is_some_and(|extension| extension == "gz");
    Ok(BufReader::new(if packed {
        Box::new(flate2::read::MultiGzDecoder::new(file))
    } else {
        Box::new(file)
    }))
}

/// The same figures without the library: one thread, one loop, one map.
fn plain_loop(input: &Path) -> Result<BTreeMap<Group, Delays>> {
    let mut figures = BTreeMap::<Group, Delays>::new();
    let mut rows = csv::Reader::from_reader(open(input)?);
    for column in ["carrier", "origin", "dest", "dep_delay"] {
        if !rows.headers()?.iter().any(|name| name == column) {
            return Err(format!("{}: its header names no column `{column}`", input.display()).into());
        }
    }
    for flight in rows.deserialize::<Flight>() {
        let flight = flight.map_err(|fault| format!("{}: {fault}", input.display()))?;
        for departure in flight.departures() {
            figures.entry(departure.group).or_default().add(departure.delay);
        }
    }
    Ok(figures)
}

/// How many rows the figures are made of.
fn rows(figures: &BTreeMap<Group, Delays>) -> u64 {
    let carriers = figures.iter().filter(|(group, _)| matches!(group, Group::Carrier(_)));
    carriers.map(|(_, delays)| delays.rows()).sum()
}

// ===== The demonstration =====

/// Panics once per working directory, whatever happens to the process.
struct PanicOnce {
    /// Departures to handle before.
    after: u64,
    handled: AtomicU64,
    marker: PathBuf,
}

impl PanicOnce {
    const MESSAGE: &str = "injected by the demonstration";

    #[allow(clippy::panic)] // the panic is the demonstration
    fn strike(&self) {
        // One of the subtasks comes here first; the file says so to those that come later, in this process or the next.
        if self.handled.fetch_add(1, Ordering::Relaxed) == self.after
            && File::create_new(&self.marker).is_ok()
        {
            std::panic::panic_any(Self::MESSAGE);
        }
    }

    /// Makes one calm line of the injected panic. Any other looks as it always does.
    fn announce_on(bar: &ProgressBar) {
        let (bar, default) = (bar.clone(), std::panic::take_hook());
        std::panic::set_hook(Box::new(move |info| {
            if info.payload().downcast_ref() == Some(&Self::MESSAGE) {
                say(
                    &bar,
                    "** operator `delays` panics, on purpose: what was done since the last checkpoint is lost",
                );
            } else {
                default(info);
            }
        }));
    }
}

/// What the operators tell the progress bar, and how the panic reaches them.
struct Progress {
    /// Rows read since the last start or restart.
    read: Arc<AtomicU64>,
    panic: Arc<PanicOnce>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let settings = match Settings::parse(std::env::args().skip(1)) {
        Ok(Some(settings)) => settings,
        Ok(None) => {
            print(USAGE);
            return ExitCode::SUCCESS;
        }
        Err(fault) => {
            eprintln!("flight_delays: {fault}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&settings).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flight_delays: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(settings: &Settings) -> Result {
    let input = settings.input();
    let expected = plain_loop(&input)?;
    let total = rows(&expected);

    let dir = match &settings.dir {
        Some(dir) => dir.clone(),
        None => tempfile::Builder::new().prefix("strandline-flight-delays-").tempdir()?.keep(),
    };
    let results = dir.join("results");
    fs::create_dir_all(&results)?;
    print(format!(
        "{} rows of {}, in the working directory {}",
        HumanCount(total),
        input.display(),
        dir.display()
    ));

    // A resumed run panics as far into the input as a fresh one would have.
    let committed = rows(&read_results(&results)?);
    let progress = Progress {
        read: Arc::default(),
        panic: Arc::new(PanicOnce {
            after: (2 * total * 2 / 5).saturating_sub(2 * committed),
            handled: AtomicU64::new(0),
            marker: dir.join("panic-was-injected"),
        }),
    };

    let env = Environment::builder()
        .parallelism(2)
        .checkpointing(settings.checkpointing()?)
        .storage(FileSystem::at(dir.join("checkpoints")))
        .restart(RestartStrategy::fixed_delay(3, Duration::from_millis(500)))
        .build()?;
    let flights = Csv::<Flight>::new([&input]);
    match settings.rate.unwrap_or_else(|| (total / 5).max(1)) {
        0 => describe(&env, flights, &progress, &results),
        rate => describe(&env, flights.throttled(rate), &progress, &results),
    }

    let bar = progress_bar(total, committed)?;
    PanicOnce::announce_on(&bar);
    let job = env.start("flight-delays").await?;
    if job.had_finished() {
        print("this directory holds a finished run: nothing to do");
    } else {
        if let Some(checkpoint) = job.resumed_from() {
            print(format!(
                "resuming from checkpoint {checkpoint}, about {} rows into the input",
                HumanCount(committed)
            ));
        }
        if watch(&job, &bar, &progress, &results).await? == JobStatus::Cancelled {
            print(format!("stopped; all that is committed stays. Go on with\n  {}", settings.command(&dir)));
            return Ok(());
        }
    }
    let figures = read_results(&results)?;
    show(&figures);
    if settings.may_repeat() {
        return compare_rows(&figures, &expected);
    }
    compare(&figures, &expected, &input)
}

/// A progress bar over all rows, of which `committed` are done. Without a terminal it shows nothing.
fn progress_bar(total: u64, committed: u64) -> Result<ProgressBar> {
    let style =
        ProgressStyle::with_template("{wide_bar} {human_pos} of {human_len} records, {rate}, {elapsed}")?;
    let rate = |state: &ProgressState, out: &mut dyn fmt::Write| {
        let _ = write!(out, "{:.0} records/s", state.per_sec());
    };
    let bar = ProgressBar::new(total).with_style(style.with_key("rate", rate)).with_position(committed);
    bar.reset_eta(); // the rate, too: what an earlier run did does not count
    Ok(bar)
}

/// Shows what happens to the job until it ends; Ctrl-C ends it.
async fn watch(job: &JobHandle, bar: &ProgressBar, progress: &Progress, results: &Path) -> Result<JobStatus> {
    let mut events = job.events();
    let mut committed = bar.position();
    let mut ticks = tokio::time::interval(Duration::from_millis(50));
    let mut ctrl_c = pin!(tokio::signal::ctrl_c());
    let mut interrupted = false;
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            _ = ticks.tick() => {
                let read = committed + progress.read.load(Ordering::Relaxed);
                bar.set_position(read.min(bar.length().unwrap_or(read)));
                continue;
            }
            heard = &mut ctrl_c, if !interrupted => {
                heard?;
                interrupted = true;
                say(bar, "stopping");
                job.cancel().await?;
                continue;
            }
        };
        match event {
            Ok(JobEvent::CheckpointCompleted(done)) => say(
                bar,
                format!(
                    "checkpoint {:>3}   {:>10}   {:>8}",
                    done.checkpoint.to_string(),
                    HumanBytes(done.bytes).to_string(),
                    format!("{:.1?}", done.duration.unwrap_or_default())
                ),
            ),
            Ok(JobEvent::CheckpointFailed { reason, .. }) => {
                say(bar, format!("a checkpoint failed: {reason}"))
            }
            Ok(JobEvent::Restarting { error, after }) => {
                say(bar, format!("** restarting in {after:?}: {error}"));
                // What was read beyond the last checkpoint is read again.
                committed = rows(&read_results(results)?);
                progress.read.store(0, Ordering::Relaxed);
            }
            Ok(JobEvent::Running { attempt, from }) if attempt.0 > 0 => {
                committed = rows(&read_results(results)?);
                let from = from.map_or_else(|| "the beginning".to_owned(), |id| format!("checkpoint {id}"));
                say(bar, format!("** recovered: running again from {from}"));
                bar.set_position(committed);
                bar.reset_eta();
            }
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => break,
        }
    }
    bar.finish_and_clear();
    let status = job.wait().await?;
    print(format!("{} after {:.1?}", if interrupted { "stopped" } else { "finished" }, bar.elapsed()));
    Ok(status)
}

/// The table of carriers, and the busiest routes.
fn show(figures: &BTreeMap<Group, Delays>) {
    let mut carriers = Vec::new();
    let mut routes = Vec::new();
    for (group, delays) in figures {
        match group {
            Group::Carrier(carrier) => carriers.push((carrier.clone(), delays)),
            Group::Route(origin, dest) => routes.push((format!("{origin} - {dest}"), delays)),
        }
    }
    for (title, mut lines, most) in [("carrier", carriers, usize::MAX), ("busiest route", routes, 5)] {
        // Stable: those with as many flights stay in the order of their names.
        lines.sort_by_key(|(_, delays)| std::cmp::Reverse(delays.flights));
        print(format!("\n{title:<13}   flights   cancelled   mean delay   >15 min late"));
        for (name, delays) in lines.into_iter().take(most) {
            let per_flight = |sum: f64| sum / delays.flights.max(1) as f64;
            print(format!(
                "{name:<13} {:>9}   {:>9}   {:>6.1} min   {:>10.1} %",
                HumanCount(delays.flights).to_string(),
                HumanCount(delays.cancelled).to_string(),
                per_flight(delays.minutes as f64),
                per_flight(100.0 * delays.late as f64)
            ));
        }
    }
}

fn compare(figures: &BTreeMap<Group, Delays>, expected: &BTreeMap<Group, Delays>, input: &Path) -> Result {
    if figures == expected {
        print(format!("\nmatches a plain loop over the file: {}", input.display()));
        return Ok(());
    }
    let groups = figures.keys().chain(expected.keys());
    let wrong = groups.filter(|group| figures.get(group) != expected.get(group));
    Err(match wrong.min() {
        Some(group) => format!(
            "does NOT match a plain loop over {}: {group:?} is {:?}, should be {:?}. Was the working directory filled from \
             another file?",
            input.display(),
            figures.get(group),
            expected.get(group)
        ),
        None => "does NOT match a plain loop".to_owned(),
    }
    .into())
}

/// At least once: none is missing, some may be there twice.
fn compare_rows(figures: &BTreeMap<Group, Delays>, expected: &BTreeMap<Group, Delays>) -> Result {
    let rows_of = |figures: &BTreeMap<Group, Delays>, group| figures.get(group).map_or(0, Delays::rows);
    let lost = expected.keys().find(|group| rows_of(figures, group) < rows_of(expected, group));
    match lost {
        Some(group) => Err(format!("flights of {group:?} are missing").into()),
        None => {
            print(format!("\nno flight is missing; {} rows came again", rows(figures) - rows(expected)));
            Ok(())
        }
    }
}

/// Prints a line above the progress bar.
fn say(bar: &ProgressBar, line: impl AsRef<str>) {
    bar.suspend(|| print(line));
}

/// Prints a line. Whoever read our output may be gone: no reason to stop.
fn print(line: impl AsRef<str>) {
    let _ = writeln!(io::stdout(), "{}", line.as_ref());
}

// ===== The command line =====

const USAGE: &str = "\
usage: flight_delays [[--dir] DIR] [--input FILE] [--rate ROWS_PER_SECOND]
                     [--mode MODE] [--aligned-timeout TIME]

  --dir DIR      where checkpoints and results are kept; one that was used before is gone on with.
                 Default: a new folder in the temporary folder
  --input FILE   a .csv or .csv.gz with the columns carrier, origin, dest and dep_delay, such as the
                 flights.csv of nycflights13. Default: January 2013, bundled
  --rate ROWS    at most so many rows per second, 0 for no limit. Default: what makes the file last 5 s
  --mode MODE    how checkpoints are taken: exactly-once (the default), unaligned (the same, and barriers
                 overtake the records before them) or at-least-once (after a failure some flights count twice)
  --aligned-timeout TIME
                 barriers overtake only in checkpoints that are older than this, such as 50ms";

#[derive(Debug, Default)]
struct Settings {
    dir: Option<PathBuf>,
    input: Option<PathBuf>,
    rate: Option<u64>,
    mode: Option<String>,
    aligned_timeout: Option<String>,
}

impl Settings {
    /// `None` if only the usage is asked for.
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut settings = Self::default();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--dir" => settings.dir = Some(value()?.into()),
                "--input" => settings.input = Some(value()?.into()),
                "--rate" => {
                    let rate = value()?;
                    let parsed = rate.parse();
                    settings.rate =
                        Some(parsed.map_err(|_| format!("--rate {rate:?}: expected a whole number"))?);
                }
                "--mode" => settings.mode = Some(value()?),
                "--aligned-timeout" => settings.aligned_timeout = Some(value()?),
                "--help" | "-h" => return Ok(None),
                option if option.starts_with('-') => return Err(format!("{option:?} is not an option")),
                dir if settings.dir.is_none() => settings.dir = Some(dir.into()),
                second => return Err(format!("{second:?}: the working directory is already given")),
            }
        }
        settings.checkpointing()?;
        Ok(Some(settings))
    }

    fn checkpointing(&self) -> Result<Checkpointing, String> {
        let mut checkpointing = Checkpointing::every(Duration::from_millis(200));
        checkpointing = match self.mode.as_deref() {
            None | Some("exactly-once") => checkpointing,
            Some("unaligned") => checkpointing.unaligned(),
            Some("at-least-once") => checkpointing.at_least_once(),
            Some(other) => {
                return Err(format!("--mode {other:?}: expected exactly-once, unaligned or at-least-once"));
            }
        };
        if let Some(timeout) = &self.aligned_timeout {
            let timeout =
                duration_text::parse(timeout).map_err(|fault| format!("--aligned-timeout: {fault}"))?;
            checkpointing = checkpointing.aligned_timeout(timeout);
        }
        Ok(checkpointing)
    }

    fn may_repeat(&self) -> bool {
        self.mode.as_deref() == Some("at-least-once")
    }

    fn input(&self) -> PathBuf {
        let bundled = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/flights-2013-01.csv.gz");
        self.input.clone().unwrap_or_else(|| bundled.into())
    }

    /// What to type to go on.
    fn command(&self, dir: &Path) -> String {
        let mut command = format!("cargo run --release --example flight_delays -- --dir '{}'", dir.display());
        if let Some(input) = &self.input {
            command += &format!(" --input '{}'", input.display());
        }
        if let Some(rate) = self.rate {
            command += &format!(" --rate {rate}");
        }
        if let Some(mode) = &self.mode {
            command += &format!(" --mode {mode}");
        }
        if let Some(timeout) = &self.aligned_timeout {
            command += &format!(" --aligned-timeout {timeout}");
        }
        command
    }
}
