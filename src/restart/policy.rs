//! What decides after a failure, and what it is told.

use super::{RestartStrategy, Restarts};
use crate::error::Error;
use crate::types::Monotonic;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Decides after each failure of a job whether it runs again, and when: a restart strategy of your own, given to
/// [`EnvironmentBuilder::restart_policy`](crate::EnvironmentBuilder::restart_policy).
///
/// A policy lives as long as one start of the job. It has no clock and no randomness but what it is told, so it can be tested
/// without a job. It is called between attempts, on the thread that supervises the job: it must not block. A panic in it is
/// final, as [`RestartDecision::Never`] is.
///
/// [`Restarts`], the strategies of [`RestartStrategy`] at work, is a policy too: to decide otherwise in some cases, ask it in all
/// others.
///
/// ```
/// use std::time::Duration;
/// use strandline::prelude::*;
/// use strandline::restart::{Failure, RestartDecision, RestartPolicy, Restarts};
/// use strandline::types::Monotonic;
///
/// /// A wrong password does not get better by trying again.
/// struct UnlessRefused(Restarts);
///
/// impl RestartPolicy for UnlessRefused {
///     fn on_failure(&mut self, failure: &Failure<'_>) -> RestartDecision {
///         if failure.error.to_string().contains("permission denied") {
///             return RestartDecision::Never;
///         }
///         self.0.on_failure(failure)
///     }
///
///     fn on_restart(&mut self, now: Monotonic) {
///         self.0.on_restart(now);
///     }
///
///     fn describe(&self) -> String {
///         format!("{}, but never when refused", self.0.describe())
///     }
/// }
///
/// # fn main() -> Result {
/// let backing_off = || UnlessRefused(Restarts::new(RestartStrategy::exponential_delay()));
/// let env = Environment::builder().restart_policy(backing_off).build()?;
///
/// // Tested as what it is: a function of what it is told.
/// let refused = Error::new(ErrorKind::Failed, "permission denied");
/// let failure = Failure::new(&refused, Monotonic(0), 0);
/// assert_eq!(backing_off().on_failure(&failure), RestartDecision::Never);
/// # Ok(())
/// # }
/// ```
pub trait RestartPolicy: Send + 'static {
    /// The job has failed. Called once for each failure, when nothing of the failed attempt runs any more; what failed as a
    /// consequence is not told. Nor are errors that no restart can mend: all kinds but [`Failed`](crate::ErrorKind::Failed) and
    /// [`Storage`](crate::ErrorKind::Storage) are final without it.
    fn on_failure(&mut self, failure: &Failure<'_>) -> RestartDecision;

    /// The wait is over and the next attempt begins. The default does nothing.
    fn on_restart(&mut self, now: Monotonic) {
        let _ = now;
    }

    /// How the job's last error calls this policy after a [`RestartDecision::Never`]: name and settings, in a few words. The default
    /// is the name of its type.
    fn describe(&self) -> String {
        std::any::type_name::<Self>().to_owned()
    }
}

/// A failure, as a [`RestartPolicy`] is told of it.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Failure<'a> {
    /// What went wrong, and where. The user code's own error is its [source](std::error::Error::source).
    pub error: &'a Error,
    /// When: a clock that never goes back and began when the job was started.
    pub now: Monotonic,
    /// A fresh random number, uniform over all of `u64`, for jitter.
    pub random: u64,
}

impl<'a> Failure<'a> {
    /// For tests of a policy.
    #[must_use]
    pub fn new(error: &'a Error, now: Monotonic, random: u64) -> Self {
        Self { error, now, random }
    }
}

/// What follows a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RestartDecision {
    /// Run again, this much later.
    After(Duration),
    /// Give up: the job ends with its error.
    Never,
}

/// What a job was told to do about failures.
#[derive(Clone)]
pub(crate) enum Restart {
    Strategy(RestartStrategy),
    Policy(Arc<dyn Fn() -> Box<dyn RestartPolicy> + Send + Sync>),
}

impl Restart {
    pub(crate) fn policy<P: RestartPolicy>(factory: impl Fn() -> P + Send + Sync + 'static) -> Self {
        Self::Policy(Arc::new(move || Box::new(factory())))
    }

    /// What decides during one start of the job.
    pub(crate) fn begin(&self) -> Box<dyn RestartPolicy> {
        match self {
            Self::Strategy(strategy) => Box::new(Restarts::new(strategy.clone())),
            Self::Policy(factory) => factory(),
        }
    }

    /// See [`RestartStrategy::faults`].
    pub(crate) fn faults(&self) -> Vec<String> {
        match self {
            Self::Strategy(strategy) => strategy.faults(),
            Self::Policy(_) => Vec::new(),
        }
    }
}

impl fmt::Debug for Restart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Strategy(strategy) => strategy.fmt(f),
            Self::Policy(_) => f.write_str("a policy of the user's"),
        }
    }
}
