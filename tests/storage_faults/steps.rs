//! Which step of a job's life an operation belongs to.

use super::scenario::JOB;
use std::fmt;
use strandline::storage::{Operation, Traced};

/// What a job is doing to its storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    Look,
    ReadLog,
    CheckLatest,
    Lock,
    Folders,
    Claim,
    Sweep,
    RestoreLog,
    RestoreManifest,
    RestoreState,
    SinkRecover,
    CheckpointFolder,
    StateWrite,
    StateSync,
    SinkPrepare,
    Manifest,
    FolderSync,
    LogEntry,
    SinkCommit,
    Retention,
    Tidy,
    Finish,
    Delete,
    Clear,
    DeleteCleared,
}

impl Step {
    pub const ALL: [Self; 25] = [
        Self::Look,
        Self::ReadLog,
        Self::CheckLatest,
        Self::Lock,
        Self::Folders,
        Self::Claim,
        Self::Sweep,
        Self::RestoreLog,
        Self::RestoreManifest,
        Self::RestoreState,
        Self::SinkRecover,
        Self::CheckpointFolder,
        Self::StateWrite,
        Self::StateSync,
        Self::SinkPrepare,
        Self::Manifest,
        Self::FolderSync,
        Self::LogEntry,
        Self::SinkCommit,
        Self::Retention,
        Self::Tidy,
        Self::Finish,
        Self::Delete,
        Self::Clear,
        Self::DeleteCleared,
    ];

    /// Whether it belongs to a checkpoint that is under way.
    pub fn is_of_checkpoint(self) -> bool {
        matches!(
            self,
            Self::CheckpointFolder
                | Self::StateWrite
                | Self::StateSync
                | Self::Manifest
                | Self::FolderSync
                | Self::LogEntry
        )
    }

    /// Whether it removes what nobody needs, and nothing more.
    pub fn is_removal(self) -> bool {
        matches!(self, Self::Sweep | Self::Retention | Self::Tidy)
    }

    /// Whether it is done by `start`, which takes the job or fails.
    pub fn is_of_start(self) -> bool {
        self <= Self::Claim
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Look => "start: look for files in the way",
            Self::ReadLog => "start: read the job log",
            Self::CheckLatest => "start: check the newest checkpoint",
            Self::Lock => "start: lock",
            Self::Folders => "start: make the folders",
            Self::Claim => "start: claim the job",
            Self::Sweep => "start: sweep what dead processes left",
            Self::RestoreLog => "restore: read back the log's end",
            Self::RestoreManifest => "restore: read the manifest",
            Self::RestoreState => "restore: read states",
            Self::SinkRecover => "restore: sink recovers",
            Self::CheckpointFolder => "checkpoint: make its folder",
            Self::StateWrite => "checkpoint: write state files",
            Self::StateSync => "checkpoint: fsync state files",
            Self::SinkPrepare => "checkpoint: sink prepares",
            Self::Manifest => "checkpoint: write the manifest",
            Self::FolderSync => "checkpoint: fsync its folder",
            Self::LogEntry => "checkpoint: entry in the log",
            Self::SinkCommit => "after it: sink commits",
            Self::Retention => "after it: delete old checkpoints",
            Self::Tidy => "end: tidy",
            Self::Finish => "end: `Finished` in the log",
            Self::Delete => "end: delete checkpoints",
            Self::Clear => "cancel with delete: `Cleared` in the log",
            Self::DeleteCleared => "cancel with delete: delete checkpoints",
        })
    }
}

/// What the process is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Opening,
    Sweeping,
    Restoring,
    Running,
    Ending,
    Deleting,
}

/// What a look at the claim is for: the next operation that makes the place of a checkpoint, or writes or reads the log.
fn next_use(trace: &[Traced], at: usize) -> Option<usize> {
    let is_use = |t: &Traced| {
        let path = t.path.to_string_lossy();
        match t.operation {
            Operation::CreateDir => path.contains("/chk-"),
            Operation::Publish | Operation::Read => path.contains("/log/"),
            _ => false,
        }
    };
    (at + 1..trace.len()).find(|next| is_use(&trace[*next]))
}

/// The step of each operation of a life without faults. `ends_with`: what its last entry in the log is, if not a checkpoint.
///
/// # Panics
/// At an operation that no rule knows.
pub fn steps_of(trace: &[Traced], ends_with: Option<Step>) -> Vec<Step> {
    let entries =
        |t: &Traced| t.operation == Operation::Publish && t.path.to_string_lossy().contains("/log/");
    let last_entry = trace.iter().rposition(entries);
    let last_commit =
        trace.iter().rposition(|t| t.operation == Operation::SyncDir && t.path.ends_with("out"));
    let mut phase = Phase::Opening;
    let mut claim = None;
    let (mut prepared, mut syncs) = (0, 0);
    let mut steps = Vec::new();
    for (at, traced) in trace.iter().enumerate() {
        let path = traced.path.to_string_lossy().into_owned();
        let in_log = path.contains("/log/");
        let log = path.ends_with("/log");
        let (state, manifest, lock) =
            (path.contains("/state-"), path.ends_with("/manifest"), path.contains("/lock-"));
        let (sink, hidden) = (path.starts_with("out"), path.contains("out/."));
        let folder = path.contains("/chk-") && !state && !manifest;
        let is_job = path == "checkpoints" || path.ends_with(JOB);
        let step = match traced.operation {
            Operation::Publish if in_log && phase == Phase::Opening => {
                (claim, phase) = (Some(at), Phase::Sweeping);
                Step::Claim
            }
            Operation::List if log && claim.is_some_and(|claim| at <= claim + 2) => Step::Claim,
            Operation::SyncDir if log && phase == Phase::Opening => Step::ReadLog,
            _ if phase == Phase::Opening => match traced.operation {
                Operation::Len if is_job || log => Step::Look,
                Operation::List | Operation::Read if log || in_log => Step::ReadLog,
                Operation::Read if manifest => Step::CheckLatest,
                Operation::Len | Operation::ReadRange if state => Step::CheckLatest,
                Operation::Len | Operation::Lock if lock => Step::Lock,
                Operation::CreateDir if is_job || log => Step::Folders,
                _ => panic!("{traced:?} while opening"),
            },
            // Before it makes or decides anything a process looks whether its claim is still there.
            Operation::Read if claim.is_some_and(|claim| trace[claim].path == traced.path) => {
                match next_use(trace, at) {
                    Some(next) if trace[next].operation == Operation::CreateDir => Step::CheckpointFolder,
                    Some(next) if trace[next].operation == Operation::Publish => {
                        ends_with.filter(|_| Some(next) == last_entry).unwrap_or(Step::LogEntry)
                    }
                    _ => Step::RestoreLog,
                }
            }
            Operation::Read if in_log => {
                phase = Phase::Restoring;
                Step::RestoreLog
            }
            _ if phase == Phase::Sweeping => Step::Sweep,
            Operation::Read if manifest => Step::RestoreManifest,
            Operation::ReadRange if state => Step::RestoreState,
            Operation::CreateDir if folder => {
                phase = Phase::Running;
                Step::CheckpointFolder
            }
            _ if sink && phase == Phase::Restoring => Step::SinkRecover,
            Operation::Create | Operation::Write if state => Step::StateWrite,
            Operation::Sync if state => Step::StateSync,
            Operation::Create | Operation::Write if hidden => Step::SinkPrepare,
            Operation::Sync if hidden => {
                prepared += 1;
                Step::SinkPrepare
            }
            Operation::SyncDir if sink && syncs < prepared => {
                syncs += 1;
                Step::SinkPrepare
            }
            _ if sink => Step::SinkCommit,
            Operation::Publish if manifest => Step::Manifest,
            Operation::SyncDir if folder => Step::FolderSync,
            Operation::Publish if in_log && Some(at) == last_entry && ends_with.is_some() => {
                phase = Phase::Deleting;
                ends_with.unwrap()
            }
            Operation::Publish if in_log => Step::LogEntry,
            _ if phase == Phase::Deleting && ends_with == Some(Step::Clear) => Step::DeleteCleared,
            _ if phase == Phase::Deleting => Step::Delete,
            Operation::List if is_job && Some(at) > last_commit => {
                phase = Phase::Ending;
                Step::Tidy
            }
            _ if phase == Phase::Ending => Step::Tidy,
            Operation::List if log => Step::Retention,
            Operation::Remove if in_log => Step::Retention,
            Operation::SyncDir if log => Step::Retention,
            Operation::RemoveDir if folder => Step::Retention,
            _ => panic!("{traced:?} while running"),
        };
        steps.push(step);
    }
    steps
}
