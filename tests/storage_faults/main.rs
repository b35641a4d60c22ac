//! No fault of the storage loses what was safe: every operation of a small, complete job, struck in every way.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod columns;
#[path = "../common/mod.rs"]
mod common;
mod page;
mod scenario;
mod steps;
mod strike;

use columns::{Kind, Variant};
use page::Table;
use scenario::{Found, Patience, Scenario, live, overtake, whole_output};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use steps::Step;
use strandline::prelude::*;
use strandline::storage::{Fault, FaultyDisk, Injection, Operation};
use strandline::types::Random;
use strike::{Healthy, Outcome, Struck, check_error, is_allowed, recover, root_message, strike};

/// One strike to be made.
struct Plan<'a> {
    healthy: &'a Healthy,
    nth: usize,
    variant: Variant,
    patience: Patience,
}

impl Plan<'_> {
    fn name(&self) -> String {
        let (step, traced) = (self.healthy.steps[self.nth - 1], &self.healthy.trace[self.nth - 1]);
        let Plan { healthy, nth, variant, patience } = self;
        let (operation, path) = (traced.operation, traced.path.display());
        let scenario = healthy.scenario;
        format!("{scenario:?}, patience {patience:?}: {variant:?} at {nth}, {operation:?} {path} ({step:?})")
    }
}

fn told(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// Carries out all plans, on as many threads as there are cores, and fails with all that went wrong.
fn carry_out(plans: &[Plan<'_>], check: impl Fn(&Plan<'_>, &Struck) + Sync) -> Vec<Struck> {
    let (next, done, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let work = || {
        while let Some(plan) = plans.get(next.fetch_add(1, Ordering::Relaxed)) {
            let struck = catch_unwind(AssertUnwindSafe(|| {
                let struck = strike(plan.healthy, plan.nth, plan.variant, plan.patience);
                check(plan, &struck);
                struck
            }));
            match struck {
                Ok(struck) => done.lock().unwrap().push(struck),
                Err(panic) => {
                    wrong.lock().unwrap().push(format!("{}: {}", plan.name(), told(&*panic)));
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let wrong = wrong.into_inner().unwrap();
    let shown: Vec<&str> = wrong.iter().take(20).map(String::as_str).collect();
    assert!(wrong.is_empty(), "{} of {} went wrong:\n{}", wrong.len(), plans.len(), shown.join("\n"));
    done.into_inner().unwrap()
}

fn all_healthy() -> Vec<Healthy> {
    Scenario::ALL.into_iter().map(Healthy::new).collect()
}

/// Every operation that each of these can strike.
fn plans<'a>(healthy: &'a [Healthy], variants: &[Variant], patience: Patience) -> Vec<Plan<'a>> {
    let mut plans = Vec::new();
    for healthy in healthy {
        for nth in healthy.operations() {
            let strikes = |variant: &&Variant| variant.can_strike(healthy.trace[nth - 1].operation);
            let variants = variants.iter().filter(strikes);
            plans.extend(variants.map(|variant| Plan { healthy, nth, variant: *variant, patience }));
        }
    }
    plans
}

/// Why a kind of fault cannot strike a step.
fn cannot_be(kind: Kind, operations: &BTreeSet<Operation>) -> Option<&'static str> {
    let some = |of: fn(Operation) -> bool| operations.iter().any(|operation| of(*operation));
    match kind {
        Kind::ErrorOnce | Kind::ErrorAlways | Kind::Slow => None,
        _ if !some(Operation::is_change) => Some("it only reads"),
        Kind::Full if !some(Operation::needs_space) => Some("it needs no space"),
        Kind::Torn if !some(|operation| Variant::Torn.can_strike(operation)) => Some("it has no halves"),
        _ => None,
    }
}

#[test]
fn every_operation_struck_in_every_way_loses_nothing() {
    let healthy = all_healthy();
    let plans = plans(&healthy, &Variant::ALL, Patience::Checkpoints);
    let struck = carry_out(&plans, |_, struck| {
        assert!(is_allowed(struck), "{:?}: {:?}", struck.outcome, struck.error);
        if let Some(error) = &struck.error {
            check_error(struck, error);
        }
    });
    let mut table = Table::default();
    for struck in &struck {
        table.count(struck.step, struck.variant, struck.outcome);
    }
    println!("{} operations struck\n{}", struck.len(), table.with_counts());
    for step in Step::ALL {
        let steps = healthy.iter().flat_map(|h| h.steps.iter().zip(&h.trace));
        let of_step = steps.filter(|(of, _)| **of == step).map(|(_, traced)| traced.operation);
        let operations: BTreeSet<Operation> = of_step.collect();
        for kind in Kind::ALL {
            let reason = cannot_be(kind, &operations);
            let was_struck = table.outcomes(step, kind).next().is_some();
            assert_eq!(was_struck, reason.is_none(), "{step} x {kind}: {reason:?}");
        }
    }
    page::check("outcomes", &table.page());
}

#[test]
fn every_operation_struck_where_checkpoints_need_files_of_others_loses_nothing() {
    let healthy = [Healthy::new(Scenario::Incremental)];
    let files = |traced: &strandline::storage::Traced| traced.path.to_string_lossy().contains("/state-a");
    let read =
        healthy[0].trace.iter().filter(|traced| traced.operation == Operation::ReadRange && files(traced));
    let folders: BTreeSet<_> = read.map(|traced| traced.path.parent().map(ToOwned::to_owned)).collect();
    assert!(folders.len() > 1, "it is restored from several checkpoints: {folders:?}");
    let plans = plans(&healthy, &Variant::ALL, Patience::Checkpoints);
    carry_out(&plans, |_, struck| {
        assert!(is_allowed(struck), "{:?}: {:?}", struck.outcome, struck.error);
        if let Some(error) = &struck.error {
            check_error(struck, error);
        }
    });
}

#[test]
fn one_error_fails_a_job_without_patience_and_says_what_to_do() {
    let healthy = all_healthy();
    let plans = plans(&healthy, &[Variant::Once], Patience::None);
    let struck = carry_out(&plans, |_, struck| {
        let fails = matches!(struck.outcome, Outcome::StartFails | Outcome::JobFails);
        assert_eq!(fails, struck.error.is_some());
        assert!(fails || struck.step.is_removal() || struck.step == Step::Delete, "{:?}", struck.outcome);
        if let Some(error) = &struck.error {
            check_error(struck, error);
        }
    });
    let mut messages: Vec<(Step, String)> = struck
        .iter()
        .filter_map(|struck| Some((struck.step, root_message(struck.error.as_ref()?))))
        .collect();
    messages.sort();
    messages.dedup();
    page::check("messages", &page::messages(&messages));
}

#[test]
fn a_fault_that_passes_is_survived_by_a_restart() {
    // A job that is cancelled is not restarted.
    let healthy = [Scenario::Fresh, Scenario::Resumed, Scenario::Restarted].map(Healthy::new);
    let variants = [Variant::Once, Variant::Torn, Variant::AnswerLost, Variant::FullForAWhile];
    let plans = plans(&healthy, &variants, Patience::Restarts);
    let struck = carry_out(&plans, |_, struck| {
        let Struck { step, variant, outcome, .. } = struck;
        // Whoever starts it is told, and tries again.
        let in_start = *outcome == Outcome::StartFails;
        let at_end = *step >= Step::Finish || (*step == Step::Tidy && *variant == Variant::FullForAWhile);
        assert!(struck.error.is_none() || in_start || at_end, "{outcome:?}: {:?}", struck.error);
    });
    let restarts = struck.iter().filter(|struck| struck.outcome == Outcome::Restarts).count();
    println!("{restarts} restarts after {} faults", struck.len());
    assert!(restarts > 100);
}

/// How many, and from which seed on: for longer runs.
fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |number| number.parse().expect(name))
}

/// Processes on one machine, each struck in its way, at times with a loss of power between them.
#[test]
fn faults_of_one_process_after_another_lose_nothing() {
    let healthy = all_healthy();
    let seed = from_environment("STRANDLINE_SEED", 1);
    let count = from_environment("STRANDLINE_DOUBLE_FAULTS", 250);
    let wrong: Vec<String> = (seed..seed + count)
        .filter_map(|seed| {
            let story = Mutex::new(String::new());
            let end = catch_unwind(AssertUnwindSafe(|| faults_of_seed(&healthy, seed, &story)));
            let why = told(&*end.err()?);
            Some(format!("STRANDLINE_SEED={seed}: {}: {why}", story.into_inner().unwrap()))
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {count} went wrong:\n{}", wrong.len(), wrong.join("\n"));
}

fn faults_of_seed(healthy: &[Healthy], seed: u64, story: &Mutex<String>) {
    let mut random = Random::from_seed(seed);
    let mut below = |limit: u64| random.next_u64() % limit;
    let healthy = &healthy[below(healthy.len() as u64) as usize];
    let inner = healthy.image.copy();
    let disk = FaultyDisk::new(Arc::clone(&inner));
    let mut lives = Vec::new();
    for _ in 0..2 + below(2) {
        let scenario = if lives.is_empty() { healthy.scenario } else { Scenario::Resumed };
        for _ in 0..1 + below(2) {
            let variant = Variant::ALL[below(Variant::ALL.len() as u64) as usize];
            let nth = 1 + below(healthy.trace.len() as u64);
            story.lock().unwrap().push_str(&format!("{scenario:?}, {variant:?} at {nth}; "));
            disk.inject(variant.anywhere(nth));
        }
        let patience = [Patience::None, Patience::Checkpoints, Patience::Restarts][below(3) as usize];
        lives.push(live(&disk, scenario, patience, below(2) == 0));
        disk.restart();
        let way = match below(4) {
            0 => Fault::PowerLoss,
            1 => Fault::SomeLost(below(1000)),
            _ => continue,
        };
        story.lock().unwrap().push_str(&format!("{way:?}; "));
        futures::executor::block_on(disk.lose_power(way)).unwrap();
    }
    recover(&inner, &lives, healthy);
}

/// A process is killed when an entry of the log has its name but not yet for good. The next one finds it; then the power fails.
#[test]
fn what_a_process_finds_survives_a_loss_of_power_before_anything_is_built_on_it() {
    let healthy = Healthy::new(Scenario::Resumed);
    let mut stories = 0;
    for nth in healthy.operations().filter(|nth| healthy.trace[nth - 1].operation == Operation::Publish) {
        for second in (1..healthy.trace.len() as u64).step_by(4) {
            let inner = healthy.image.copy();
            let disk = FaultyDisk::new(Arc::clone(&inner));
            let life = |variant: Variant, nth| {
                disk.restart();
                disk.inject(variant.anywhere(nth));
                live(&disk, Scenario::Resumed, Patience::None, false)
            };
            let lives = [life(Variant::KilledAfter, nth as u64), life(Variant::PowerLoss, second)];
            recover(&inner, &lives, &healthy);
            stories += 1;
        }
    }
    println!("{stories} processes killed, and the power lost in the next one");
}

/// The failure of a job that tolerates no failed checkpoint: one timed out.
fn assert_timed_out(error: &Error, what: &str) {
    let text = error.to_string();
    assert!(
        error.kind() == ErrorKind::Failed
            && text.contains("`tolerable_failures`")
            && text.contains("it timed out"),
        "{what}: {error}"
    );
}

/// What is still being written of a checkpoint that timed out is broken off, so nothing waits for it: the checkpoint has failed, and how many
/// of those are tolerated decides about the job.
#[test]
fn a_state_file_that_takes_too_long_costs_its_checkpoint_and_nothing_else() {
    let healthy = Healthy::new(Scenario::Resumed);
    let is_upload = |nth: &usize| matches!(healthy.steps[nth - 1], Step::StateWrite | Step::StateSync);
    let uploads: Vec<usize> = healthy.operations().filter(is_upload).collect();
    assert!(uploads.len() > 4, "{uploads:?}");
    for nth in uploads {
        for patience in [Patience::None, Patience::Checkpoints, Patience::Restarts] {
            let what = format!("{} ({nth}), {patience:?}", healthy.steps[nth - 1]);
            let inner = healthy.image.copy();
            let slow = Injection::of(Fault::Slow(Duration::from_secs(1200))).on_everything().at(nth as u64);
            let life =
                live(&FaultyDisk::new(Arc::clone(&inner)).failing(slow), Scenario::Resumed, patience, false);
            let timed_out = life.failed.iter().filter(|reason| reason.contains("it timed out")).count();
            assert_eq!(timed_out, 1, "{what}: {:?}", life.failed);
            assert_eq!(life.restarts, usize::from(patience == Patience::Restarts), "{what}");
            match (patience, &life.end) {
                (Patience::None, Err(error)) => assert_timed_out(error, &what),
                (Patience::Checkpoints | Patience::Restarts, Ok(JobStatus::Finished)) => {}
                (_, end) => panic!("{what}: {end:?}"),
            }
            recover(&inner, &[life], &healthy);
        }
    }
}

/// The storage takes so long for an operation that another process takes the job over meanwhile; then it happens.
#[test]
fn what_happens_late_harms_nobody_who_has_taken_the_job_over() {
    let delay = Duration::from_secs(1200);
    let healthy = Healthy::new(Scenario::Resumed);
    for nth in healthy.operations() {
        let step = healthy.steps[nth - 1];
        let inner = healthy.image.copy();
        let [first, second] =
            overtake(&inner, Injection::of(Fault::Slow(delay)).on_everything().at(nth as u64), delay);
        let error = first.expect_err(&format!("it was overtaken at {step} ({nth})"));
        if matches!(step, Step::StateWrite | Step::StateSync) {
            // It fails before it can find out.
            assert_timed_out(&error, &format!("{step} ({nth})"));
        } else {
            let kinds = [ErrorKind::Busy, ErrorKind::Fenced, ErrorKind::Stuck];
            assert!(kinds.contains(&error.kind()), "{step} ({nth}): {error}");
        }
        assert_eq!(second.unwrap(), JobStatus::Finished, "{step} ({nth})");
        let found = Found::on(&inner);
        assert_eq!(found.lines, whole_output(), "{step} ({nth})");
        // The lock of a process that lives, and what it hides too late for anyone to see.
        let hides = step == Step::SinkPrepare;
        let is_known = |name: &&str| name.contains("/lock-") || (hides && name.starts_with("out/."));
        let left = found.garbage(9);
        assert!(left.len() <= 1 && left.iter().all(is_known), "{step} ({nth}): {left:?}");
    }
}
