//! The one object that decides about restarts of a job, whichever of its regions fails.

use crate::error::{Error, ErrorKind};
use crate::pool::panic_message;
use crate::restart::{Failure, RestartDecision, RestartPolicy};
use crate::types::{Clock, Random};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// A job's restart policy at work: all failures of the job count for it, one after the other.
pub(super) struct RestartBudget {
    policy: Box<dyn RestartPolicy>,
    clock: Clock,
    random: Random,
    failures: u64,
}

impl RestartBudget {
    pub(super) fn new(policy: Box<dyn RestartPolicy>, clock: Clock, random: Random) -> Self {
        Self { policy, clock, random, failures: 0 }
    }

    /// How long to wait before the restart, or the error that the job ends with. Errors that no restart can mend are final without the policy.
    pub(super) fn decide(&mut self, error: &Error) -> Result<Duration, Error> {
        self.failures += 1;
        if !error.is_recoverable() {
            return Err(error.clone());
        }
        let Self { policy, clock, random, failures } = self;
        let failure = Failure::new(error, clock.now(), random.next_u64());
        let decision = caught(|| match policy.on_failure(&failure) {
            RestartDecision::After(delay) => Ok(delay),
            RestartDecision::Never => {
                let strategy = policy.describe();
                Err(format!("after failure {failures} restart strategy {strategy} allows no restart"))
            }
        });
        decision
            .and_then(|decision| decision)
            .map_err(|why| Error::new(error.kind(), why).because(error.clone()))
    }

    /// The wait is over.
    pub(super) fn restarted(&mut self) -> Result<(), Error> {
        let Self { policy, clock, .. } = self;
        caught(|| policy.on_restart(clock.now())).map_err(|why| Error::new(ErrorKind::Failed, why))
    }
}

/// Runs code of a restart policy, which may be the user's.
fn caught<T>(code: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(code))
        .map_err(|panic| format!("the restart policy panicked: {}", panic_message(&*panic)))
}
