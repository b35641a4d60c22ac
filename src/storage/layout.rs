//! How files and folders of a job are named.
//!
//! ```text
//! <root>/<job>/lock-<generation>-<nonce>              locked while that process lives
//!              log/<sequence>                         the job log, 20 digits
//!              chk-<id>-g<generation>/manifest        what the checkpoint is
//!                                    /state-a<attempt>-<chain>.<subtask>   unless it is in the manifest; compressed
//!                                                       ones end with `.lz4`
//! ```
//!
//! Generation and attempt are in the names so that whoever comes too late writes where nobody reads.

use crate::error::{Error, ErrorKind};
use crate::types::{Attempt, CheckpointId, Generation, JobName, SubtaskId};
use std::io;
use std::path::{Component, Path, PathBuf};

/// Longest name of a job, in bytes: what common file systems take, and room for more.
const LONGEST_JOB_NAME: usize = 200;

/// Name of the folder of the job log.
pub(crate) const LOG: &str = "log";

/// Checks that a job's name is a plain folder name on every file system.
///
/// # Errors
/// [`ErrorKind::Configuration`] that says what is wrong with it.
pub(crate) fn check_job_name(job: &JobName) -> Result<(), Error> {
    let name = job.as_str();
    let fault = if name.is_empty() {
        "it is empty".to_owned()
    } else if name.len() > LONGEST_JOB_NAME {
        format!("it has {} bytes, more than {LONGEST_JOB_NAME}", name.len())
    } else if let Some(found) = name.chars().find(|c| c.is_control() || r#"/\:*?"<>|"#.contains(*c)) {
        format!("it contains {found:?}")
    } else if name.starts_with(['.', ' ']) || name.ends_with(['.', ' ']) {
        "it begins or ends with a dot or a space".to_owned()
    } else if parse_checkpoint_dir(name).is_some() || parse_lock(name).is_some() {
        // A job around this one would sweep its folder away.
        "it looks like a file that belongs to a job".to_owned()
    } else {
        return Ok(());
    };
    let message = format!(
        "{name:?} cannot name a job, because its threads and the folder of its checkpoints are named so: {fault}"
    );
    Err(Error::new(ErrorKind::Configuration, message))
}

/// The folder of a checkpoint.
pub(crate) fn checkpoint_dir(id: CheckpointId, generation: Generation) -> String {
    format!("chk-{id}-g{generation}")
}

/// What [`checkpoint_dir`] made a name of; `None` for any other name.
pub(crate) fn parse_checkpoint_dir(name: &str) -> Option<(CheckpointId, Generation)> {
    let (id, generation) = name.strip_prefix("chk-")?.split_once("-g")?;
    let (id, generation) = (CheckpointId(id.parse().ok()?), Generation(generation.parse().ok()?));
    (checkpoint_dir(id, generation) == name).then_some((id, generation))
}

/// The manifest of a checkpoint.
pub(crate) fn manifest(id: CheckpointId, generation: Generation) -> String {
    format!("{}/manifest", checkpoint_dir(id, generation))
}

/// The state that one subtask gives to a checkpoint.
pub(crate) fn state_file(
    id: CheckpointId,
    generation: Generation,
    attempt: Attempt,
    subtask: SubtaskId,
) -> String {
    format!("{}/state-a{attempt}-{subtask}", checkpoint_dir(id, generation))
}

/// The lock of the process that claims a generation, or tries to: its own, so that it can always take it before the claim.
pub(crate) fn lock(generation: Generation, nonce: u64) -> String {
    format!("lock-{generation}-{nonce:016x}")
}

/// What [`lock`] made a name of; `None` for any other name.
pub(crate) fn parse_lock(name: &str) -> Option<(Generation, u64)> {
    let (generation, nonce) = name.strip_prefix("lock-")?.split_once('-')?;
    let (generation, nonce) = (Generation(generation.parse().ok()?), u64::from_str_radix(nonce, 16).ok()?);
    (lock(generation, nonce) == name).then_some((generation, nonce))
}

/// An entry of the job log.
pub(crate) fn log_entry(sequence: u64) -> String {
    format!("{sequence:020}")
}

/// What [`log_entry`] made a name of; `None` for any other name.
pub(crate) fn parse_log_entry(name: &str) -> Option<u64> {
    let sequence = name.parse().ok()?;
    (log_entry(sequence) == name).then_some(sequence)
}

/// The path of a file that is named relative to the job's folder.
///
/// # Errors
/// [`ErrorKind::Corrupt`] if the name leads out of the folder.
pub(crate) fn resolve(folder: &Path, file: &str) -> Result<PathBuf, Error> {
    let is_plain = |part| matches!(part, Component::Normal(_));
    if file.is_empty() || !Path::new(file).components().all(is_plain) {
        let message =
            format!("a checkpoint refers to the file {file:?}, which is not inside the job's folder");
        return Err(Error::new(ErrorKind::Corrupt, message).at(folder));
    }
    Ok(folder.join(file))
}

/// An I/O error at `path`, with what to do about it.
pub(crate) fn io_error(what: &str, path: &Path, error: io::Error) -> Error {
    use io::ErrorKind as Io;
    let (kind, advice) = match error.kind() {
        Io::NotADirectory => (
            ErrorKind::Configuration,
            "there is a file where a folder is needed: move it away, or choose another folder",
        ),
        Io::InvalidFilename => {
            (ErrorKind::Configuration, "the file system does not take such a name: choose a shorter one")
        }
        Io::StorageFull | Io::QuotaExceeded => (ErrorKind::Storage, "make room on the disk"),
        Io::PermissionDenied | Io::ReadOnlyFilesystem => {
            (ErrorKind::Storage, "give this process the right to it, or choose another folder")
        }
        Io::NotFound => (ErrorKind::Storage, "its folder is gone: what removed it while the job runs?"),
        _ => (ErrorKind::Storage, "check the drive and the network"),
    };
    Error::new(kind, format!("cannot {what}: {advice}")).at(path).because(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ChainId, SubtaskIndex};

    #[test]
    fn names_are_read_as_they_were_written_and_others_are_not_ours() {
        let (id, generation) = (CheckpointId(12), Generation(3));
        assert_eq!(parse_checkpoint_dir("chk-12-g3"), Some((id, generation)));
        assert_eq!(checkpoint_dir(id, generation), "chk-12-g3");
        assert_eq!(lock(generation, 0xab), "lock-3-00000000000000ab");
        assert_eq!(parse_lock(&lock(generation, u64::MAX)), Some((generation, u64::MAX)));
        assert_eq!(log_entry(7), "00000000000000000007");
        assert_eq!(parse_log_entry("00000000000000000007"), Some(7));
        assert_eq!(parse_log_entry(&log_entry(u64::MAX)), Some(u64::MAX));
        for other in ["chk-12", "chk-12-g3.old", "chk-012-g3", "chk--g3", "chk-+1-g3", "check-1-g3"] {
            assert_eq!(parse_checkpoint_dir(other), None, "{other}");
        }
        for other in ["7", "0000000000000000000x", "00000000000000000007.bak", "99999999999999999999"] {
            assert_eq!(parse_log_entry(other), None, "{other}");
        }
        for other in ["lock", "lock-3", "lock-3-ab", "lock-03-00000000000000ab", "lock-3-00000000000000AB"] {
            assert_eq!(parse_lock(other), None, "{other}");
        }
    }

    #[test]
    fn the_name_of_a_state_file_carries_generation_attempt_and_subtask() {
        let subtask = SubtaskId { chain: ChainId(2), index: SubtaskIndex(1) };
        assert_eq!(
            state_file(CheckpointId(12), Generation(3), Attempt(4), subtask),
            "chk-12-g3/state-a4-2.1"
        );
    }

    #[test]
    fn a_job_name_must_be_a_plain_folder_name() {
        for good in ["averages", "my job", "a.b", "ein-Überblick", "-", "log", "chk-3", "lock-3"] {
            check_job_name(&good.into()).unwrap();
        }
        let long = "x".repeat(201);
        let ours = [checkpoint_dir(CheckpointId(3), Generation(1)), lock(Generation(3), 7)];
        for bad in
            ["", ".", "..", ".hidden", "a/b", "a\\b", "C:", "a\nb", "end.", " a", &long, &ours[0], &ours[1]]
        {
            let error = check_job_name(&bad.into()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Configuration, "{bad}");
        }
    }

    #[test]
    fn a_file_outside_of_the_folder_is_refused() {
        let folder = Path::new("/root/job");
        assert_eq!(resolve(folder, "chk-1-g1/x").unwrap(), Path::new("/root/job/chk-1-g1/x"));
        for bad in ["", "..", "../other/x", "/etc/passwd", "a/../../b"] {
            assert_eq!(resolve(folder, bad).unwrap_err().kind(), ErrorKind::Corrupt, "{bad}");
        }
    }
}
