//! The tables of `docs/storage-faults.md`.

use super::columns::{Kind, Variant};
use super::steps::Step;
use super::strike::Outcome;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// What came of which fault at which step, and how often.
#[derive(Debug, Default)]
pub struct Table(BTreeMap<(Step, Variant, Outcome), usize>);

impl Table {
    pub fn count(&mut self, step: Step, variant: Variant, outcome: Outcome) {
        *self.0.entry((step, variant, outcome)).or_default() += 1;
    }

    pub fn outcomes(&self, step: Step, kind: Kind) -> impl Iterator<Item = Outcome> {
        let here = self.0.keys().filter(move |(of, variant, _)| *of == step && variant.kind() == kind);
        here.map(|(_, _, outcome)| *outcome).collect::<BTreeSet<_>>().into_iter()
    }

    /// For the output of the test: by variant, with counts.
    pub fn with_counts(&self) -> String {
        let mut text = String::new();
        let mut cells: BTreeMap<(Step, Variant), Vec<String>> = BTreeMap::new();
        for ((step, variant, outcome), count) in &self.0 {
            cells.entry((*step, *variant)).or_default().push(format!("{outcome} {count}"));
        }
        for ((step, variant), outcomes) in cells {
            writeln!(text, "{:<42} {:<18} {}", step.to_string(), format!("{variant:?}"), outcomes.join(", "))
                .unwrap();
        }
        text
    }

    /// For readers: by kind, without counts.
    pub fn page(&self) -> String {
        let kinds: Vec<String> = Kind::ALL.iter().map(Kind::to_string).collect();
        let mut text = format!("| step | {} |\n|---|{}\n", kinds.join(" | "), "---|".repeat(kinds.len()));
        for step in Step::ALL {
            let cells = Kind::ALL.map(|kind| {
                let outcomes: Vec<String> =
                    self.outcomes(step, kind).map(|outcome| outcome.to_string()).collect();
                if outcomes.is_empty() { "–".to_owned() } else { outcomes.join(", ") }
            });
            writeln!(text, "| {step} | {} |", cells.join(" | ")).unwrap();
        }
        text
    }
}

/// What the first error says, by step.
pub fn messages(messages: &[(Step, String)]) -> String {
    let mut text = "| step | the error begins with |\n|---|---|\n".to_owned();
    for step in Step::ALL {
        let here = messages.iter().filter(|(of, _)| *of == step).map(|(_, message)| {
            let what = message.split_once(": ").map_or(message.as_str(), |(what, _)| what);
            format!("*{what}*")
        });
        let here: BTreeSet<String> = here.collect();
        if !here.is_empty() {
            writeln!(text, "| {step} | {} |", here.into_iter().collect::<Vec<_>>().join(", ")).unwrap();
        }
    }
    text
}

/// Compares a part of the page with what was found. With `STRANDLINE_BLESS=1` it is written.
#[allow(clippy::disallowed_methods)]
pub fn check(part: &str, found: &str) {
    static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/storage-faults.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (begin, end) = (format!("<!-- {part}: begin -->\n\n"), format!("\n<!-- {part}: end -->"));
    let (before, rest) = page.split_once(&begin).expect(part);
    let (there, after) = rest.split_once(&end).expect(part);
    if there == found {
        return;
    }
    if std::env::var_os("STRANDLINE_BLESS").is_some() {
        return std::fs::write(path, format!("{before}{begin}{found}{end}{after}")).unwrap();
    }
    let lines = there.lines().zip(found.lines()).filter(|(there, found)| there != found);
    let differ: Vec<String> = lines.map(|(there, found)| format!("- {there}\n+ {found}")).collect();
    panic!(
        "docs/storage-faults.md, part `{part}`, is not what happens now. If that is meant, run this test again with \
         STRANDLINE_BLESS=1\n{}",
        differ.join("\n")
    );
}
