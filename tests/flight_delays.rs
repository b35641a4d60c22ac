//! `flight_delays` ends with the figures of a plain loop, whatever happens on its way.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::disallowed_methods)] // this is the world outside of a job

mod example;

use example::{Ended, Run, everything_in};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const MATCHES: &str = "matches a plain loop over the file";
const PANICS: &str = "** operator `delays` panics, on purpose";
/// So slow that it is stopped long before its panic and its end.
const SLOWLY: &[&str] = &["--rate", "500"];
const RECOVERED: &str = "** recovered: running again";

fn flight_delays(args: &[&str], dir: &Path) -> Run {
    Run::start(
        Command::new(example::binary("flight_delays"))
            .args(args)
            .arg("--dir")
            .arg(dir)
            .current_dir(checkout()),
    )
}

fn checkout() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

/// Flights, cancelled, minutes, more than 15 minutes late.
type Delays = (u64, u64, i64, u64);

fn add(delays: &mut Delays, delay: &str) {
    match delay {
        "NA" => delays.1 += 1,
        minutes => {
            let minutes: i64 = minutes.parse().unwrap();
            *delays = (delays.0 + 1, delays.1, delays.2 + minutes, delays.3 + u64::from(minutes > 15));
        }
    }
}

/// The lines that the table must have, in their order, from the bundled file and by nothing of the example's.
fn expected_table() -> Vec<String> {
    let packed = fs::File::open(checkout().join("examples/data/flights-2013-01.csv.gz")).unwrap();
    let mut rows = csv::Reader::from_reader(flate2::read::GzDecoder::new(packed));
    let (mut carriers, mut routes) = (BTreeMap::<String, Delays>::new(), BTreeMap::<String, Delays>::new());
    for row in rows.deserialize() {
        let row: BTreeMap<String, String> = row.unwrap();
        add(carriers.entry(row["carrier"].clone()).or_default(), &row["dep_delay"]);
        add(routes.entry(format!("{} - {}", row["origin"], row["dest"])).or_default(), &row["dep_delay"]);
    }
    let mut table = Vec::new();
    for (groups, most) in [(carriers, usize::MAX), (routes, 5)] {
        let mut groups: Vec<_> = groups.into_iter().collect();
        groups.sort_by_key(|(_, delays)| std::cmp::Reverse(delays.0));
        for (name, (flights, cancelled, minutes, late)) in groups.into_iter().take(most) {
            let (mean, share) = (minutes as f64 / flights as f64, 100.0 * late as f64 / flights as f64);
            table.push(format!("{name} {flights} {cancelled} {mean:.1} min {share:.1} %"));
        }
    }
    table
}

/// The lines of the table, without alignment and commas.
fn table(run: &Ended) -> Vec<String> {
    let lines = run.lines.iter().filter(|line| line.ends_with(" %"));
    lines.map(|line| line.replace(',', "").split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

fn assert_right(run: &Ended) {
    assert_eq!(table(run), expected_table(), "{:#?}", run.lines);
    assert!(run.says(MATCHES), "{:#?}", run.lines);
    assert_eq!(run.errors, "");
}

fn count(runs: &[&Ended], part: &str) -> usize {
    runs.iter().flat_map(|run| &run.lines).filter(|line| line.contains(part)).count()
}

#[test]
fn the_table_is_that_of_a_plain_loop_although_an_operator_panics_and_a_finished_run_shows_it_again() {
    let dir = tempfile::tempdir().unwrap();
    let checkout = || {
        let names = fs::read_dir(checkout()).unwrap().map(|entry| entry.unwrap().path());
        let kept = |path: &PathBuf| !path.ends_with("target") && !path.ends_with(".git");
        let mut names: Vec<_> = names.filter(kept).collect();
        names.sort();
        (names, everything_in(&checkout().join("examples")))
    };
    let before = checkout();
    let run = flight_delays(&["--rate", "0"], dir.path()).wait().well();
    assert_right(&run);
    assert_eq!((count(&[&run], PANICS), count(&[&run], RECOVERED)), (1, 1), "{:#?}", run.lines);

    let written = everything_in(dir.path());
    let again = flight_delays(&[], dir.path()).wait().well();
    assert!(again.says("this directory holds a finished run"), "{:#?}", again.lines);
    assert_right(&again);
    assert!(written == everything_in(dir.path()), "a start after the end changed something");
    assert!(before == checkout(), "it wrote into the checkout");
}

#[test]
fn killed_it_goes_on_from_its_last_checkpoint_and_panics_but_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = flight_delays(SLOWLY, dir.path());
    assert!(first.says("checkpoint "));
    let first = first.kill();
    assert!(first.killed());

    let mut second = flight_delays(&[], dir.path());
    assert!(second.says("resuming from checkpoint "));
    assert!(second.says(RECOVERED));
    assert!(second.says("checkpoint "));
    let second = second.kill();

    let third = flight_delays(&["--rate", "0"], dir.path()).wait().well();
    // A machine that slept may have let it end before it was killed.
    assert!(third.says("resuming from checkpoint ") || !second.killed(), "{:#?}", third.lines);
    assert_eq!(count(&[&first, &second, &third], PANICS), 1, "{:#?}", third.lines);
    assert_right(&third);
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_it_and_it_says_how_to_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = flight_delays(SLOWLY, dir.path());
    assert!(first.says("checkpoint "));
    first.interrupt();
    let first = first.wait().well();
    assert!(!first.says(MATCHES));
    assert!(first.says("all that is committed stays"), "{:#?}", first.lines);
    let command = first.lines.last().unwrap();
    assert!(command.contains(&format!("--dir '{}'", dir.path().display())), "{command}");

    let second = flight_delays(&["--rate", "0"], dir.path()).wait().well();
    assert!(second.says("resuming from checkpoint "), "{:#?}", second.lines);
    assert_right(&second);
}

#[test]
fn another_input_than_that_of_the_directory_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = flight_delays(SLOWLY, dir.path());
    assert!(first.says("checkpoint "));
    assert!(first.kill().killed());

    let other = dir.path().join("other.csv");
    fs::write(&other, "carrier,origin,dest,dep_delay\nUA,EWR,IAH,2\n").unwrap();
    let second = flight_delays(&["--input", other.to_str().unwrap()], dir.path()).wait();
    assert_eq!(second.status.code(), Some(1));
    assert!(second.errors.contains("other.csv"), "{}", second.errors);

    fs::write(&other, "carrier,origin,dest\nUA,EWR,IAH\n").unwrap();
    let third = flight_delays(&["--input", other.to_str().unwrap()], dir.path()).wait();
    assert_eq!(third.status.code(), Some(1));
    assert!(third.errors.contains("no column `dep_delay`"), "{}", third.errors);
}
