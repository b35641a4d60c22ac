//! Time, from one place.
//!
//! Both clocks follow tokio's, so under `tokio::time::pause` a whole job runs on virtual time.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point in event time or wall-clock time: milliseconds since 1970-01-01 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}

/// A point on the clock that never goes back: milliseconds since the job's clock began. Decisions use
/// this one, never wall time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Monotonic(pub u64);

impl Monotonic {
    /// This point, `by` later (whole milliseconds, saturating).
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long after `earlier` this point is; zero if it is not.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Monotonic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "+{} ms", self.0)
    }
}

/// The only source of time in the crate.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: tokio::time::Instant,
    wall_origin: Timestamp,
}

impl Clock {
    /// A clock that begins now.
    #[must_use]
    #[allow(clippy::disallowed_methods)] // the one place that reads the machine's clocks
    pub fn start() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::start_at(Timestamp(i64::try_from(wall.as_millis()).unwrap_or(i64::MAX)))
    }

    /// A clock that begins now and takes this for the wall time of it, whatever the machine says.
    #[must_use]
    #[allow(clippy::disallowed_methods)] // see `start`
    pub fn start_at(wall: Timestamp) -> Self {
        Self { origin: tokio::time::Instant::now(), wall_origin: wall }
    }

    /// Time since this clock began, at full resolution.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.origin.elapsed()
    }

    /// The current point in steady time.
    #[must_use]
    pub fn now(&self) -> Monotonic {
        Monotonic::default().after(self.elapsed())
    }

    /// The current wall-clock time, for people and file names; never for decisions.
    #[must_use]
    pub fn wall(&self) -> Timestamp {
        Timestamp(self.wall_origin.0.saturating_add(i64::try_from(self.now().0).unwrap_or(i64::MAX)))
    }

    /// Resolves `for_` later. Needs a tokio runtime with time.
    #[allow(clippy::disallowed_methods)] // see `start`
    pub fn sleep(&self, for_: Duration) -> impl Future<Output = ()> + Send + use<> {
        tokio::time::sleep(for_)
    }
}
