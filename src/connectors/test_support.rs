//! What the tests of sources and sinks share: contexts, and looks at a disk in memory.

use crate::operator::{RecoveryContext, SubtaskContext};
use crate::storage::{Disk, MemoryDisk};
use crate::types::{Attempt, CheckpointId, Clock, Generation, SubtaskIndex};
use futures::FutureExt;
use std::collections::BTreeMap;
use std::path::Path;

/// The first run's context for one of two subtasks of the operator `op`.
pub(super) fn context(subtask: u32) -> SubtaskContext {
    run_context(1, 0, subtask)
}

pub(super) fn run_context(generation: u64, attempt: u32, subtask: u32) -> SubtaskContext {
    SubtaskContext {
        job: "job".into(),
        operator: "op".into(),
        subtask: SubtaskIndex(subtask),
        parallelism: 2,
        generation: Generation(generation),
        attempt: Attempt(attempt),
        clock: Clock::start(),
    }
}

pub(super) fn recovery(generation: u64, attempt: u32) -> RecoveryContext {
    RecoveryContext {
        now: crate::types::Timestamp(0),
        operator: "op".into(),
        generation: Generation(generation),
        attempt: Attempt(attempt),
        restored: Some(CheckpointId(1)),
        checkpointing: true,
    }
}

/// Looks at a disk that never waits, and changes to it.
pub(super) trait Files {
    /// Puts a durable file there, replacing one.
    fn put(&self, path: &str, content: &[u8]);
    /// Removes one.
    fn delete(&self, path: &str);
    /// Names and contents of the files in a folder.
    fn files(&self, dir: &str) -> BTreeMap<String, String>;
}

impl Files for MemoryDisk {
    fn put(&self, path: &str, content: &[u8]) {
        let path = Path::new(path);
        let put = async {
            self.create_dir(path.parent().unwrap()).await.unwrap();
            self.remove(path).await.unwrap();
            self.publish(path, content.to_vec()).await.unwrap();
        };
        put.now_or_never().unwrap();
    }

    fn delete(&self, path: &str) {
        self.remove(Path::new(path)).now_or_never().unwrap().unwrap();
    }

    fn files(&self, dir: &str) -> BTreeMap<String, String> {
        let dir = Path::new(dir);
        let names = self.list(dir).now_or_never().unwrap().unwrap().into_iter();
        names
            .filter_map(|name| {
                let content = self.read(&dir.join(&name)).now_or_never().unwrap().ok()?;
                Some((name, String::from_utf8(content).unwrap()))
            })
            .collect()
    }
}
