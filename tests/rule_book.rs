//! The rule book in `docs/semantics.md`: every test that it names exists, and every rule of its sections has a line.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::collections::BTreeSet;
use std::path::Path;

const PAGE: &str = include_str!("../docs/semantics.md");

/// The part of the page that names tests.
fn rule_book() -> &'static str {
    PAGE.split_once("## The rule book").expect("the page has a rule book").1
}

/// Names of all functions in `.rs` files of a folder and below.
fn functions(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            functions(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let mut is_test = false;
            for line in text.lines().map(str::trim) {
                is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
                let declared = line.strip_prefix("async fn ").or_else(|| line.strip_prefix("fn "));
                if let Some((name, _)) = declared.and_then(|rest| rest.split_once('(')) {
                    if is_test {
                        found.insert(name.to_owned());
                    }
                    is_test = false;
                }
            }
        }
    }
}

#[test]
fn every_test_that_the_rule_book_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = BTreeSet::new();
    functions(&root.join("src"), &mut found);
    functions(&root.join("tests"), &mut found);
    let named: Vec<&str> =
        rule_book().split('`').skip(1).step_by(2).filter(|name| name.starts_with('s')).collect();
    let named: Vec<&str> = named.into_iter().filter(|name| name.as_bytes()[1].is_ascii_digit()).collect();
    assert!(named.len() > 80, "only {} tests are named", named.len());
    let missing: Vec<&&str> = named.iter().filter(|name| !found.contains(**name)).collect();
    assert!(missing.is_empty(), "these are not in the sources: {missing:#?}");
}

#[test]
fn every_rule_of_its_sections_has_a_line() {
    let numbers = |section: u32, last: u32| (1..=last).map(move |rule| format!("{section}.{rule}"));
    let rules = [(1, 9), (2, 11), (3, 13), (4, 8), (5, 8), (11, 7), (13, 8)]
        .map(|(section, last)| numbers(section, last));
    let lines: Vec<&str> = rule_book().lines().filter(|line| line.starts_with("| ")).collect();
    let begins_with = |line: &str, rule: &str| {
        let cell = line.trim_start_matches("| ").split(" | ").next().unwrap_or_default();
        cell.split([' ', ',', ';']).any(|word| {
            let number = word.trim_end_matches(|letter: char| letter.is_ascii_lowercase());
            number == rule
        })
    };
    for rule in rules.into_iter().flatten() {
        assert!(lines.iter().any(|line| begins_with(line, &rule)), "rule {rule} has no line");
    }
}
