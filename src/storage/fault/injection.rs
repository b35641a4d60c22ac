//! What fails, when and how, as plain data.

use std::path::Path;
use std::time::Duration;

/// How an operation fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// An error is reported, and nothing happened.
    NoEffect,
    /// An error is reported, but it happened: the answer was lost. What was published is there, and does not survive a loss of
    /// power before its folder is synced.
    TookEffect,
    /// It happened, the answer was lost, and it was asked for again: the second answer is reported. So a `create` or a `publish` finds its
    /// name taken, and a `rename` finds nothing to rename. What may be repeated, and a write, which has its place in the file, is
    /// none the worse for it.
    Twice,
    /// An error is reported, and half of it happened: half of a write; of `publish`, which is all or nothing, half a temporary file; of
    /// `rename` the new name without the end of the old one; of `sync` and `sync_dir` half of what they make durable; of
    /// `remove_dir` half of the files. For what has no halves the same as `NoEffect`.
    Torn,
    /// It happens so much later. Needs a tokio runtime with time; on virtual time it costs none.
    Slow(Duration),
    /// As [`Slow`](Self::Slow), but a `rename` is a link at once and an unlink so much later, as on file systems that have no other:
    /// meanwhile the file has both names.
    InTwoSteps(Duration),
    /// From then on the disk is full: see [`FaultyDisk::set_space`](super::FaultyDisk::set_space). Of a write it takes one half.
    Full,
    /// Nothing of it happened, and with it went all that was not yet made durable: unsynced content and names are lost, removed
    /// and renamed files are back, folders that were removed too.
    PowerLoss,
    /// As [`PowerLoss`](Self::PowerLoss), but only content is lost, and names stay: files that are too short.
    ContentsLost,
    /// As [`PowerLoss`](Self::PowerLoss), but only names are lost.
    NamesLost,
    /// As [`PowerLoss`](Self::PowerLoss), but of all that may be lost a part is, out of order, chosen by this seed. Content may also end in
    /// the middle or in zeros, and a renamed file have both names.
    SomeLost(u64),
}

impl Fault {
    /// The ways in which a process can die at an operation, but for [`SomeLost`](Self::SomeLost), of which there are many.
    pub const ALL: [Self; 6] =
        [Self::NoEffect, Self::TookEffect, Self::Torn, Self::PowerLoss, Self::ContentsLost, Self::NamesLost];
}

/// An operation of a [`Disk`](crate::storage::Disk) or a [`DiskFile`](crate::storage::DiskFile).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[allow(missing_docs)] // the names of the methods
pub enum Operation {
    Read,
    ReadRange,
    Len,
    Modified,
    List,
    CreateDir,
    Create,
    Write,
    Sync,
    Publish,
    Rename,
    SyncDir,
    Remove,
    RemoveDir,
    Lock,
}

impl Operation {
    /// Whether it changes something or makes it durable; the others read.
    #[must_use]
    pub fn is_change(self) -> bool {
        !matches!(self, Self::Read | Self::ReadRange | Self::Len | Self::Modified | Self::List)
    }

    /// Whether a full disk refuses it. A sync is among them: network drives find out only then.
    #[must_use]
    pub fn needs_space(self) -> bool {
        matches!(self, Self::CreateDir | Self::Create | Self::Write | Self::Sync | Self::Publish | Self::Lock)
    }
}

/// A fault, and the operations that it strikes: by default every one that [is a change](Operation::is_change), each time.
///
/// ```
/// use strandline::storage::{Fault, Injection, Operation};
///
/// // The third file that is renamed in the folder `out`, and all after it.
/// let renames = Injection::of(Fault::NoEffect).on([Operation::Rename]).at_path("out/").from(3);
/// // The tenth operation, reading included; then the process is gone.
/// let death = Injection::of(Fault::Torn).on_everything().at(10).then_die();
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Injection {
    pub(super) fault: Fault,
    operations: Operations,
    path: String,
    first: u64,
    last: u64,
    pub(super) then_dies: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Operations {
    Changes,
    All,
    These(Vec<Operation>),
}

impl Injection {
    /// This fault, at every change.
    #[must_use]
    pub fn of(fault: Fault) -> Self {
        Self {
            fault,
            operations: Operations::Changes,
            path: String::new(),
            first: 1,
            last: u64::MAX,
            then_dies: false,
        }
    }

    /// Only at operations of these kinds.
    #[must_use]
    pub fn on(self, operations: impl Into<Vec<Operation>>) -> Self {
        Self { operations: Operations::These(operations.into()), ..self }
    }

    /// At operations of all kinds, reading included.
    #[must_use]
    pub fn on_everything(self) -> Self {
        Self { operations: Operations::All, ..self }
    }

    /// Only where the path, of a rename the old one, contains this text.
    #[must_use]
    pub fn at_path(self, part: impl Into<String>) -> Self {
        Self { path: part.into(), ..self }
    }

    /// Only at the `nth` of the operations meant, counted from 1 and from when the disk was told.
    #[must_use]
    pub fn at(self, nth: u64) -> Self {
        Self { first: nth, last: nth, ..self }
    }

    /// At the `nth` of the operations meant and at all after it.
    #[must_use]
    pub fn from(self, nth: u64) -> Self {
        Self { first: nth, last: u64::MAX, ..self }
    }

    /// Kills the process there: the operations after it fail too, all of them, and nothing of them happens.
    #[must_use]
    pub fn then_die(self) -> Self {
        Self { then_dies: true, ..self }
    }

    pub(super) fn means(&self, operation: Operation, path: &Path) -> bool {
        let kind = match &self.operations {
            Operations::Changes => operation.is_change(),
            Operations::All => true,
            Operations::These(operations) => operations.contains(&operation),
        };
        kind && path.to_string_lossy().contains(&self.path)
    }

    /// Whether it strikes the `nth` of the operations meant.
    pub(super) fn strikes(&self, nth: u64) -> bool {
        (self.first..=self.last).contains(&nth)
    }
}
