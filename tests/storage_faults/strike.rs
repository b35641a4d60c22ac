//! One operation of a life, struck in one way: what comes of it, and that nothing is lost by it.

use super::columns::Variant;
use super::scenario::{
    Found, Image, JOB, Life, MAX_INCREMENTS, OUTPUT_FOUND, Patience, Scenario, live, output_up_to,
    whole_output,
};
use super::steps::{Step, steps_of};
use std::error::Error as _;
use std::fmt;
use std::sync::Arc;
use strandline::prelude::*;
use strandline::storage::{Fault, FaultyDisk, SharedDisk, Traced};

/// A life that nothing strikes.
pub struct Healthy {
    pub scenario: Scenario,
    pub image: Image,
    pub trace: Vec<Traced>,
    pub steps: Vec<Step>,
    /// The operations up to this one belong to another scenario.
    pub begin: usize,
    end: JobStatus,
    restarts: usize,
}

impl Healthy {
    pub fn new(scenario: Scenario) -> Self {
        let image = Image::of(scenario);
        let inner = image.copy();
        let disk = FaultyDisk::new(Arc::clone(&inner)).traced();
        let life = live(&disk, scenario, Patience::None, false);
        let trace = disk.trace();
        let last_entry = match scenario {
            Scenario::Resumed | Scenario::Incremental | Scenario::FinishDelete => Some(Step::Finish),
            Scenario::CancelDelete => Some(Step::Clear),
            _ => None,
        };
        let is_whole = matches!(scenario, Scenario::Fresh | Scenario::Resumed | Scenario::Incremental);
        Self {
            scenario,
            image,
            steps: steps_of(&trace, last_entry),
            trace,
            begin: if is_whole { 0 } else { usize::try_from(life.mark).unwrap() },
            end: life.end.unwrap(),
            restarts: life.restarts,
        }
    }

    /// Numbers of the operations that this scenario is about.
    pub fn operations(&self) -> impl Iterator<Item = usize> {
        self.begin + 1..=self.trace.len()
    }
}

/// What becomes of the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    GoesOn,
    CheckpointFails,
    Restarts,
    StartFails,
    JobFails,
    Stuck,
    Dies,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::GoesOn => "goes on",
            Self::CheckpointFails => "checkpoint fails",
            Self::Restarts => "restarts",
            Self::StartFails => "start fails",
            Self::JobFails => "job fails",
            Self::Stuck => "stuck",
            Self::Dies => "next start",
        })
    }
}

/// A life that was struck.
pub struct Struck {
    pub step: Step,
    pub variant: Variant,
    pub outcome: Outcome,
    pub error: Option<Error>,
}

/// Strikes operation `nth`, and checks that a process after it ends with the output of a run without failures.
pub fn strike(healthy: &Healthy, nth: usize, variant: Variant, patience: Patience) -> Struck {
    let step = healthy.steps[nth - 1];
    let inner = healthy.image.copy();
    let disk = FaultyDisk::new(Arc::clone(&inner)).failing(variant.injection(&healthy.trace, nth));
    let life = live(&disk, healthy.scenario, patience, variant == Variant::FullForAWhile);
    assert!(disk.struck() > 0, "it was not struck");
    let outcome = outcome(&life, &disk, healthy);
    let error = life.end.as_ref().err().filter(|_| outcome != Outcome::Dies).cloned();
    if !variant.is_death() && nth % 2 == 1 {
        // Whatever it said was true must be true for good.
        disk.restart();
        futures::executor::block_on(disk.lose_power(Fault::PowerLoss)).unwrap();
    }
    recover(&inner, &[life], healthy);
    Struck { step, variant, outcome, error }
}

/// A process on a disk without faults, after these lives: all that they said was true is there, and the output is that of a run without
/// failures.
pub fn recover(disk: &SharedDisk, lives: &[Life], healthy: &Healthy) {
    let before = Found::on(disk);
    let next = live(&FaultyDisk::new(Arc::clone(disk)), Scenario::Recovery, Patience::None, false);
    let after = Found::on(disk);
    let acknowledged = lives.iter().flat_map(|life| life.completed.last()).max();
    let was_cleared = healthy.scenario == Scenario::CancelDelete
        && matches!(&next.end, Err(error) if error.kind() == ErrorKind::Configuration);
    if was_cleared {
        // It begins from nothing, and the sink refuses to write the same output again: all that the last checkpoint held.
        assert_eq!((next.resumed_from, after.checkpoints()), (None, 0), "{:?}", after.names);
        let found_before = if acknowledged.is_some() { None } else { Some(OUTPUT_FOUND) };
        let expected = found_before.into_iter().chain([9]).map(output_up_to);
        assert!(expected.into_iter().any(|lines| lines == after.lines), "{:?}", after.lines);
    } else {
        assert!(next.resumed_from.as_ref() >= acknowledged, "{:?}, not {acknowledged:?}", next.resumed_from);
        let finished = matches!(next.end, Ok(JobStatus::Finished));
        assert!(finished, "the next process: {:?}; it found {:?}", next.end, before.names);
        assert_eq!(after.lines, whole_output());
        // The last one, with what it needs.
        let folders = if healthy.scenario == Scenario::Incremental { MAX_INCREMENTS } else { 1 };
        assert!(after.checkpoints() <= folders as usize, "{:?}", after.names);
    }
    let most = 2 + 2 + lives.len() + 1;
    assert!(after.garbage(most).is_empty(), "left for ever: {:?} of {:?}", after.garbage(most), after.names);
}

fn outcome(life: &Life, disk: &FaultyDisk, healthy: &Healthy) -> Outcome {
    match &life.end {
        _ if disk.is_dead() => Outcome::Dies,
        Err(error) if error.kind() == ErrorKind::Stuck => Outcome::Stuck,
        Err(_) if !life.started => Outcome::StartFails,
        Err(_) => Outcome::JobFails,
        Ok(end) => {
            assert_eq!(*end, healthy.end);
            if life.restarts > healthy.restarts {
                Outcome::Restarts
            } else if life.failed.is_empty() {
                Outcome::GoesOn
            } else {
                Outcome::CheckpointFails
            }
        }
    }
}

/// What may come of it. Everything else is a fault of ours.
pub fn is_allowed(struck: &Struck) -> bool {
    use Outcome::*;
    let Struck { step, variant, outcome, .. } = struck;
    if variant.is_death() {
        return *outcome == Dies;
    }
    match variant {
        // A slow storage costs checkpoints; a job that ends meanwhile does not wait for ever.
        Variant::Slow => return matches!(outcome, GoesOn | CheckpointFails),
        Variant::VerySlow => return matches!(outcome, GoesOn | CheckpointFails | Stuck),
        // Nothing goes any more, but what only deletes fails nobody by itself.
        Variant::AlwaysEverywhere if step.is_removal() => return matches!(outcome, StartFails | JobFails),
        // The sweep reads manifests, and then the start does.
        Variant::AlwaysHere if *step == Step::Sweep => {
            return matches!(outcome, GoesOn | StartFails | JobFails);
        }
        Variant::AlwaysHere | Variant::Full | Variant::FullForAWhile if step.is_removal() => {
            return matches!(outcome, GoesOn | JobFails);
        }
        _ => {}
    }
    match step {
        step if step.is_of_start() => *outcome == StartFails || (*outcome == GoesOn && variant.is_repeated()),
        Step::RestoreLog | Step::RestoreManifest => matches!(outcome, StartFails | JobFails),
        Step::RestoreState => *outcome == JobFails,
        Step::SinkRecover | Step::SinkCommit => {
            *outcome == JobFails || (*outcome == GoesOn && variant.is_repeated())
        }
        step if step.is_removal() => *outcome == GoesOn,
        // On a full disk the sink cannot prepare either, and that fails the job.
        step if step.is_of_checkpoint() && variant.passes() && *variant != Variant::FullForAWhile => {
            matches!(outcome, GoesOn | CheckpointFails)
        }
        step if step.is_of_checkpoint() => matches!(outcome, CheckpointFails | JobFails),
        Step::SinkPrepare => *outcome == JobFails,
        // What is committed is committed: a finished job is finished, whatever it could not delete.
        Step::Delete => *outcome == GoesOn,
        Step::Finish | Step::Clear | Step::DeleteCleared => matches!(outcome, GoesOn | JobFails),
        _ => false,
    }
}

/// Checks that an error says what, where and what to do.
pub fn check_error(struck: &Struck, error: &Error) {
    let Struck { step, variant, outcome, .. } = struck;
    let text = error.to_string();
    let says = |part: &str| assert!(text.contains(part), "`{part}` is not in: {text}");
    says(&format!("job `{JOB}`"));
    if *outcome == Outcome::Stuck {
        says("Nothing completed is lost");
        return says("start the job again");
    }
    let expected = match (step, variant) {
        // It looks as if another job wrote to the folder.
        (Step::SinkPrepare, Variant::Twice) => ErrorKind::Configuration,
        _ => ErrorKind::Storage,
    };
    assert_eq!(error.kind(), expected, "{text}");
    assert!(error.path().is_some(), "no path: {text}");
    let advice = match variant {
        Variant::Full | Variant::FullForAWhile => "make room on the disk",
        Variant::Twice => "start the job again",
        _ => "check the drive and the network",
    };
    says(advice);
    if !matches!(variant, Variant::Once | Variant::AnswerLost | Variant::Torn | Variant::Twice) {
        return; // it may be another step that found no way
    }
    if step.is_of_checkpoint() || matches!(step, Step::SinkPrepare | Step::RestoreState) {
        says("checkpoint ");
    }
    if matches!(step, Step::SinkPrepare | Step::SinkRecover | Step::SinkCommit | Step::RestoreState) {
        says("operator `");
    }
    if matches!(step, Step::SinkPrepare | Step::SinkCommit | Step::StateWrite | Step::StateSync) {
        says("subtask ");
    }
}

/// What failed first.
pub fn root_message(error: &Error) -> String {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<Error>());
    cause.map_or_else(|| error.message().to_owned(), root_message)
}
