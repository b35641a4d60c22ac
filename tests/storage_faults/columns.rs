//! The kinds of faults, each in its variants.

use super::scenario::{CHECKPOINT_TIMEOUT, STOP_TIMEOUT};
use std::fmt;
use strandline::storage::{Fault, Injection, Operation, Traced};

/// A kind of fault: a column of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    ErrorOnce,
    ErrorAlways,
    Slow,
    Torn,
    Repeated,
    Full,
    Killed,
    PowerLost,
}

impl Kind {
    pub const ALL: [Self; 8] = [
        Self::ErrorOnce,
        Self::ErrorAlways,
        Self::Slow,
        Self::Torn,
        Self::Repeated,
        Self::Full,
        Self::Killed,
        Self::PowerLost,
    ];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ErrorOnce => "error once",
            Self::ErrorAlways => "error always",
            Self::Slow => "slow",
            Self::Torn => "torn",
            Self::Repeated => "repeated",
            Self::Full => "disk full",
            Self::Killed => "killed there",
            Self::PowerLost => "power lost there",
        })
    }
}

/// A fault in one of its variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Variant {
    Once,
    /// This operation at such a path, from then on.
    AlwaysHere,
    /// Everything from then on, reading too.
    AlwaysEverywhere,
    /// Beyond the timeout of a checkpoint.
    Slow,
    /// Beyond the timeout of a stop.
    VerySlow,
    Torn,
    AnswerLost,
    Twice,
    Full,
    /// Until the next checkpoint has failed.
    FullForAWhile,
    KilledBefore,
    KilledAmid,
    KilledAfter,
    PowerLoss,
    ContentsLost,
    NamesLost,
    SomeLost,
}

impl Variant {
    pub const ALL: [Self; 17] = [
        Self::Once,
        Self::AlwaysHere,
        Self::AlwaysEverywhere,
        Self::Slow,
        Self::VerySlow,
        Self::Torn,
        Self::AnswerLost,
        Self::Twice,
        Self::Full,
        Self::FullForAWhile,
        Self::KilledBefore,
        Self::KilledAmid,
        Self::KilledAfter,
        Self::PowerLoss,
        Self::ContentsLost,
        Self::NamesLost,
        Self::SomeLost,
    ];

    pub fn kind(self) -> Kind {
        match self {
            Self::Once => Kind::ErrorOnce,
            Self::AlwaysHere | Self::AlwaysEverywhere => Kind::ErrorAlways,
            Self::Slow | Self::VerySlow => Kind::Slow,
            Self::Torn => Kind::Torn,
            Self::AnswerLost | Self::Twice => Kind::Repeated,
            Self::Full | Self::FullForAWhile => Kind::Full,
            Self::KilledBefore | Self::KilledAmid | Self::KilledAfter => Kind::Killed,
            Self::PowerLoss | Self::ContentsLost | Self::NamesLost | Self::SomeLost => Kind::PowerLost,
        }
    }

    /// Whether the process is gone then.
    pub fn is_death(self) -> bool {
        matches!(self.kind(), Kind::Killed | Kind::PowerLost)
    }

    pub fn is_repeated(self) -> bool {
        self.kind() == Kind::Repeated
    }

    /// Whether it is over soon, so that the job can go on.
    pub fn passes(self) -> bool {
        matches!(
            self,
            Self::Once | Self::Slow | Self::Torn | Self::AnswerLost | Self::Twice | Self::FullForAWhile
        )
    }

    /// Whether it can strike this operation. What only reads has no half, is not lost, needs no space and may be repeated, and a process
    /// that is killed there has done the same as one that is killed before the next change.
    pub fn can_strike(self, operation: Operation) -> bool {
        match self {
            Self::Once | Self::AlwaysHere | Self::AlwaysEverywhere | Self::Slow | Self::VerySlow => true,
            Self::Full | Self::FullForAWhile => operation.needs_space(),
            // What has no halves and what may be repeated.
            Self::Torn | Self::KilledAmid => matches!(
                operation,
                Operation::Write
                    | Operation::Publish
                    | Operation::Rename
                    | Operation::Sync
                    | Operation::SyncDir
                    | Operation::RemoveDir
            ),
            Self::Twice => {
                matches!(operation, Operation::Create | Operation::Publish | Operation::Rename)
            }
            // After all else it is the same as before the next.
            Self::KilledAfter => matches!(operation, Operation::Publish | Operation::Rename),
            Self::AnswerLost
            | Self::KilledBefore
            | Self::PowerLoss
            | Self::ContentsLost
            | Self::NamesLost
            | Self::SomeLost => operation.is_change(),
        }
    }

    /// What to tell a disk so that it strikes operation `nth` of a life that went like `trace` before.
    pub fn injection(self, trace: &[Traced], nth: usize) -> Injection {
        if self == Self::AlwaysHere {
            let struck = &trace[nth - 1];
            let place = place(struck);
            let here =
                |t: &&Traced| t.operation == struck.operation && t.path.to_string_lossy().contains(place);
            let before = trace[..nth].iter().filter(here).count() as u64;
            return Injection::of(Fault::NoEffect).on([struck.operation]).at_path(place).from(before);
        }
        self.anywhere(nth as u64)
    }

    /// What to tell a disk so that it strikes its `nth` operation, whatever that is.
    pub fn anywhere(self, nth: u64) -> Injection {
        let fault = match self {
            Self::Once | Self::AlwaysHere | Self::AlwaysEverywhere | Self::KilledBefore => Fault::NoEffect,
            Self::Slow => Fault::Slow(CHECKPOINT_TIMEOUT * 3),
            Self::VerySlow => Fault::Slow(STOP_TIMEOUT * 10),
            Self::Torn | Self::KilledAmid => Fault::Torn,
            Self::AnswerLost | Self::KilledAfter => Fault::TookEffect,
            Self::Twice => Fault::Twice,
            Self::Full | Self::FullForAWhile => Fault::Full,
            Self::PowerLoss => Fault::PowerLoss,
            Self::ContentsLost => Fault::ContentsLost,
            Self::NamesLost => Fault::NamesLost,
            Self::SomeLost => Fault::SomeLost(nth),
        };
        let injection = Injection::of(fault).on_everything();
        match self {
            Self::AlwaysEverywhere | Self::AlwaysHere => injection.from(nth),
            _ if self.is_death() => injection.at(nth).then_die(),
            _ => injection.at(nth),
        }
    }
}

/// What paths of one sort have in common.
fn place(traced: &Traced) -> &'static str {
    let path = traced.path.to_string_lossy();
    let places = ["/lock-", "/log/", "/log", "/manifest", "/state-", "/chk-", "out/.", "out/", "out", ""];
    places.into_iter().find(|place| path.contains(place)).unwrap()
}
