//! The jobs that run in this process, by name.

use crate::error::{Error, ErrorKind};
use crate::types::JobName;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use std::sync::LazyLock;

static RUNNING: LazyLock<DashMap<JobName, ()>> = LazyLock::new(DashMap::new);

/// A name that is taken while this lives.
#[derive(Debug)]
pub(super) struct Registration(JobName);

/// Takes a name.
///
/// # Errors
/// When a job of that name runs in this process.
pub(super) fn register(name: &JobName) -> Result<Registration, Error> {
    match RUNNING.entry(name.clone()) {
        Entry::Occupied(_) => {
            let message =
                "a job of this name already runs in this process: wait for it, or take another name";
            Err(Error::new(ErrorKind::Busy, message).job(name))
        }
        Entry::Vacant(free) => {
            free.insert(());
            Ok(Registration(name.clone()))
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        RUNNING.remove(&self.0);
    }
}
