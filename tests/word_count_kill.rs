//! `word_count` is killed at random moments, again and again, and its output is exactly that of a run without failures.
//!
//! Only *when* it is killed depends on time; what must hold afterwards does not. `STRANDLINE_KILLS` sets how many kills there are at
//! least (20), `STRANDLINE_SEED` repeats the inputs and choices of a run that failed. The long variant is
//! `cargo test --release --test word_count_kill -- --ignored --nocapture`, after `cargo build --release --example word_count`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::disallowed_methods)] // this is the world outside of a job: real threads, real time

mod example;

use example::random::{Random, seed, setting};
use example::{Run, everything_in};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use strandline::checkpoint::metadata::Manifest;

#[test]
fn committed_lines_are_exactly_1_to_n_of_every_word_whenever_it_is_killed() {
    stories(&ALIGNED, 1);
}

#[test]
fn they_are_so_too_where_barriers_overtake() {
    // When it is killed is left to chance, so what lies in flight then is, too.
    let some_in_flight = (0..5).any(|_| stories(&UNALIGNED, 2) > 0);
    assert!(some_in_flight, "no run began with records in flight");
}

#[test]
fn they_are_so_too_where_barriers_overtake_after_a_while() {
    stories(&ALIGNED_FOR_A_WHILE, 2);
}

#[test]
fn they_are_so_too_where_checkpoints_hold_only_what_has_changed() {
    stories(&INCREMENTAL, 1);
}

#[test]
fn at_least_once_no_line_is_missing() {
    stories(&AT_LEAST_ONCE, 2);
}

/// In all modes by turns, so that most of what can meet a kill does.
#[test]
#[ignore = "takes some minutes"]
fn they_are_so_after_a_thousand_kills() {
    let wanted = setting("STRANDLINE_KILLS").unwrap_or(1_000);
    let seed = seed();
    println!("STRANDLINE_SEED={seed} STRANDLINE_KILLS={wanted}");
    let (mut random, mut all) = (Random(seed), Lives::default());
    let modes = [&ALIGNED, &UNALIGNED, &INCREMENTAL, &ALIGNED_FOR_A_WHILE, &AT_LEAST_ONCE];
    for mode in modes.into_iter().cycle() {
        let left = wanted.saturating_sub(all.killed());
        if left == 0 {
            break;
        }
        all.add(&story(&mut random, left.min(25), mode));
    }
    println!("all together: {all:?}");
}

/// What processes a story had.
#[derive(Debug, Default)]
struct Lives {
    /// Of all that were started.
    processes: u64,
    /// Killed after a new checkpoint.
    kills: u64,
    /// Killed during the start, or soon after it.
    early: u64,
    /// Killed at full speed, up to the end.
    late: u64,
    /// How many records were in flight where they began.
    in_flight: u64,
    /// How many lines were compared.
    lines: u64,
}

impl Lives {
    fn killed(&self) -> u64 {
        self.kills + self.early + self.late
    }

    fn add(&mut self, other: &Self) {
        let Self { processes, kills, early, late, in_flight, lines } = other;
        self.processes += processes;
        self.kills += kills;
        self.early += early;
        self.late += late;
        self.in_flight += in_flight;
        self.lines += lines;
    }
}

/// How checkpoints are taken.
struct Mode {
    arguments: &'static [&'static str],
    /// Lines per second, of which each run has one.
    rates: [u64; 3],
    exact: bool,
}

const ALIGNED: Mode = Mode { arguments: &[], rates: [300, 1_000, 3_000], exact: true };
/// Faster, so that there are records in flight.
const UNALIGNED: Mode =
    Mode { arguments: &["--mode", "unaligned"], rates: [1_000, 10_000, 10_000], exact: true };
const ALIGNED_FOR_A_WHILE: Mode =
    Mode { arguments: &["--aligned-timeout", "1ms"], rates: [1_000, 10_000, 10_000], exact: true };
const INCREMENTAL: Mode = Mode { arguments: &["--incremental"], rates: [300, 1_000, 3_000], exact: true };
const AT_LEAST_ONCE: Mode =
    Mode { arguments: &["--mode", "at-least-once"], rates: [300, 1_000, 10_000], exact: false };

/// Stories with as many kills as are wanted, or a part of that. Gives how many records were in flight where runs began.
fn stories(mode: &Mode, part: u64) -> u64 {
    let wanted = (setting("STRANDLINE_KILLS").unwrap_or(20) / part).max(1);
    let seed = seed();
    println!("STRANDLINE_SEED={seed} STRANDLINE_KILLS={wanted} {:?}", mode.arguments);
    let (mut random, mut all) = (Random(seed), Lives::default());
    // One story is enough, unless the machine is so fast, or so many kills are wanted, that the input ends before.
    while all.kills < wanted {
        all.add(&story(&mut random, wanted - all.kills, mode));
    }
    all.in_flight
}

/// One job from its first start to its end, killed until there were `wanted` kills after a new checkpoint.
fn story(random: &mut Random, wanted: u64, mode: &Mode) -> Lives {
    let folder = tempfile::tempdir().unwrap();
    let inputs = inputs(random, folder.path());
    let expected = plain_loop(&inputs);
    let (output, checkpoints) = (folder.path().join("output"), folder.path().join("checkpoints"));
    let start = |random: &mut Random, limited: bool| {
        let mut command = Command::new(example::binary("word_count"));
        command
            .arg("--input")
            .args(&inputs)
            .arg("--output")
            .arg(&output)
            .arg("--checkpoints")
            .arg(&checkpoints);
        command.args(["--parallelism", &(1 + random.below(4)).to_string()]);
        command.args(["--interval", ["20ms", "50ms", "200ms"][random.index(3)]]);
        command.args(mode.arguments);
        if limited {
            command.args(["--rate", &mode.rates[random.index(3)].to_string()]);
        }
        Run::start(&mut command)
    };

    let mut lives = Lives { lines: expected.values().sum(), ..Lives::default() };
    let mut running = true;
    while running && lives.kills < wanted {
        lives.in_flight += in_flight_in(&checkpoints);
        lives.processes += 1;
        let mut run = start(random, true);
        if random.below(5) == 0 {
            // During the start, or what follows it.
            random.pause(60);
            running = run.kill().killed();
            lives.early += u64::from(running);
            continue;
        }
        if run.says("checkpoint ") {
            let at_once = random.below(3) == 0;
            random.pause(if at_once { 2 } else { 250 });
            running = run.kill().killed();
            lives.kills += u64::from(running);
        } else {
            run.wait().well();
            running = false;
        }
    }
    // The rest at full speed, killed a few times more, perhaps just when it ends.
    for _ in 0..4 {
        if !running {
            break;
        }
        lives.in_flight += in_flight_in(&checkpoints);
        lives.processes += 1;
        let run = start(random, false);
        random.pause(1_200);
        running = run.kill().killed();
        lives.late += u64::from(running);
    }
    if running {
        lives.processes += 1;
        start(random, false).wait().well();
    }
    println!("{:?}: {lives:?}", mode.arguments);

    assert_written(&output, &expected, mode.exact);
    let before = (everything_in(&output), everything_in(&checkpoints));
    let again = start(random, false).wait().well();
    assert!(again.says("finished run"), "{:#?}", again.lines);
    assert!(
        before == (everything_in(&output), everything_in(&checkpoints)),
        "a start after the end changed something"
    );
    lives
}

/// How many records were in flight in the checkpoint that the next run begins with.
fn in_flight_in(checkpoints: &Path) -> u64 {
    if !checkpoints.exists() {
        return 0;
    }
    let manifests = everything_in(checkpoints).into_iter().filter(|(path, ..)| path.ends_with("manifest"));
    let manifests = manifests.filter_map(|(_, _, content)| Manifest::decode(&content?).ok());
    let newest = manifests.max_by_key(|manifest| (manifest.checkpoint, manifest.generation));
    let edges = newest.into_iter().flat_map(|manifest| manifest.in_flight);
    edges.flat_map(|edge| edge.channels).map(|channel| channel.records).sum()
}

/// Nothing but the lines 1 to n of every word, each once, and no file in progress; if not `exact`, lines may come again, and go on
/// after n.
fn assert_written(output: &Path, expected: &BTreeMap<String, u64>, exact: bool) {
    let mut found: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for file in fs::read_dir(output).unwrap() {
        let file = file.unwrap().path();
        let name = file.file_name().unwrap().to_str().unwrap();
        assert!(!name.starts_with(['.', '_']), "{name} was left");
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.ends_with('\n'), "{name} does not end with a line");
        // Not `lines()`: only `\n` may end a line, and a word is what is before the only tab.
        for line in text.strip_suffix('\n').unwrap().split('\n') {
            let (word, n) = line.split_once('\t').unwrap_or_else(|| panic!("{name}: {line:?}"));
            found.entry(word.to_owned()).or_default().push(n.parse().unwrap());
        }
    }
    for (word, n) in expected {
        let mut lines = found.remove(word).unwrap_or_default();
        lines.sort_unstable();
        if !exact {
            lines.dedup();
            lines.truncate(*n as usize);
        }
        if !lines.iter().copied().eq(1..=*n) {
            let wrong = lines.iter().zip(1..).find(|(found, expected)| **found != *expected);
            panic!(
                "{word:?}: {} lines instead of {n}, first wrong (found, expected): {wrong:?}",
                lines.len()
            );
        }
    }
    assert!(found.is_empty(), "words that are in no input: {:?}", found.keys().collect::<Vec<_>>());
}

fn plain_loop(inputs: &[PathBuf]) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for input in inputs {
        let mut text = fs::read(input).unwrap();
        if input.extension().is_some_and(|extension| extension == "gz") {
            let packed = std::mem::take(&mut text);
            std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(packed.as_slice()), &mut text)
                .unwrap();
        }
        for word in String::from_utf8(text).unwrap().split_whitespace() {
            *counts.entry(word.to_owned()).or_default() += 1;
        }
    }
    counts
}

/// Files of unequal length: several splits long, packed, without `\n` at the end, with `\r\n`, one line, empty.
fn inputs(random: &mut Random, folder: &Path) -> Vec<PathBuf> {
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let large = text(random, 60_000, "\n");
    let small = text(random, 2_000, "\r\n");
    let mut paths = vec![
        write("large.txt", &large),
        write("small.txt", &small),
        write("no-end.txt", text(random, 5_000, "\n").trim_end()),
        write("one line ä.txt", "\u{feff}one line"),
        write("empty.txt", ""),
    ];
    assert!(large.len() > 4 * 1024 * 1024, "not longer than a split");
    let packed = folder.join("packed.txt.gz");
    let mut file =
        flate2::write::GzEncoder::new(fs::File::create(&packed).unwrap(), flate2::Compression::fast());
    file.write_all(text(random, 8_000, "\n").as_bytes()).unwrap();
    file.finish().unwrap();
    paths.push(packed);
    paths
}

/// Words from short and common to long and rare, of all kinds of characters, between all kinds of white space.
fn text(random: &mut Random, lines: u64, line_end: &str) -> String {
    const STEMS: [&str; 12] = [
        "a",
        "the",
        "und",
        "straße",
        "naïve",
        "日本語",
        "слово",
        "🦀",
        "e\u{301}",
        "\u{200b}x",
        "\0",
        "Ω\u{7f}",
    ];
    const SPACES: [&str; 8] = [" ", " ", " ", " ", "  ", "\u{a0}", "\u{3000}", "\u{b}\u{85}"];
    let mut text = String::new();
    for _ in 0..lines {
        let words = match random.below(1_000) {
            0 => 5_000 + random.below(10_000),
            1..100 => 0,
            _ => random.below(16),
        };
        for _ in 0..words {
            text.push_str(STEMS[random.index(STEMS.len())]);
            // Few words come often, many come once.
            let kinds = 1 << (random.below(5) * 4);
            if let number @ 1.. = random.below(kinds) {
                text.push_str(&number.to_string());
            }
            text.push_str(SPACES[random.index(SPACES.len())]);
        }
        text.push_str(line_end);
    }
    text
}
