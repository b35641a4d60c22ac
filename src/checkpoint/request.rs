//! Which request for a checkpoint runs next (Flink's `CheckpointRequestDecider`).

use crate::types::Monotonic;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Number of a request, chosen by whoever makes it; the answer carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// What is asked for. Neither kind is held back by the min pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RequestKind {
    /// A checkpoint like the periodic ones, now.
    Manual,
    /// A savepoint: before all checkpoints in the queue, owned by the user, never subsumed, never retained.
    Savepoint {
        /// Whether it may exceed the number of concurrent checkpoints.
        forced: bool,
    },
}

/// Who waits for the outcome of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Asker {
    /// A caller, to be answered.
    Caller(RequestId),
    /// The schedule. Nobody is answered; the next tick comes anyway.
    Schedule,
    /// The end of all input: asks again until it has its final checkpoint.
    End,
}

/// A request, as the decider sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Request {
    /// Who waits for it.
    pub(super) asker: Asker,
    /// A savepoint rather than a checkpoint.
    pub(super) savepoint: bool,
    /// May exceed the number of concurrent checkpoints.
    pub(super) forced: bool,
    /// Made by a schedule: the min pause holds, and it goes last.
    pub(super) periodic: bool,
}

impl Request {
    /// The request of a caller.
    #[must_use]
    pub(super) fn of(caller: RequestId, kind: RequestKind) -> Self {
        let (savepoint, forced) = match kind {
            RequestKind::Manual => (false, false),
            RequestKind::Savepoint { forced } => (true, forced),
        };
        Self { asker: Asker::Caller(caller), savepoint, forced, periodic: false }
    }

    /// A tick of the schedule.
    #[must_use]
    pub(super) fn tick() -> Self {
        Self { asker: Asker::Schedule, savepoint: false, forced: false, periodic: true }
    }

    /// The one at the end of all input.
    #[must_use]
    pub(super) fn end() -> Self {
        Self { asker: Asker::End, savepoint: false, forced: false, periodic: false }
    }
}

/// What is going on when a decision is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Load {
    /// A checkpoint is being prepared: its subtasks are not triggered yet.
    pub(super) triggering: bool,
    /// Number of checkpoints under way.
    pub(super) pending: usize,
    /// Number of aborted ones whose files are being deleted.
    pub(super) cleaning: usize,
    /// When the last one completed, savepoints included; 0 before the first.
    pub(super) last_completion: Monotonic,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Decision {
    /// Nothing; ask again when something has changed.
    Wait,
    /// Begin this one.
    Run(Request),
    /// This one is dropped: the min pause lasts until then, and the schedule's next tick is to be then.
    TooSoon(Request, Monotonic),
}

/// Place in the waiting set; the least runs first. In this order: savepoints, forced, not periodic, older, arrived earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Place {
    not_savepoint: bool,
    not_forced: bool,
    periodic: bool,
    since: Monotonic,
    arrival: u64,
}

/// The waiting requests and the rules that let them run.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Decider {
    max_concurrent: usize,
    min_pause: Duration,
    capacity: usize,
    waiting: BTreeMap<Place, Asker>,
}

impl Decider {
    /// Most requests that wait.
    pub(super) const CAPACITY: usize = 1000;

    /// Nothing waits.
    #[must_use]
    pub(super) fn new(max_concurrent: u32, min_pause: Duration, capacity: usize) -> Self {
        let max_concurrent = usize::try_from(max_concurrent.max(1)).unwrap_or(usize::MAX);
        Self { max_concurrent, min_pause, capacity, waiting: BTreeMap::new() }
    }

    /// Lets a request wait. Gives the one that is thrown out for lack of room, which may be this one.
    ///
    /// A tick is dropped silently while another tick waits. Flink keeps every tick, so that after one long checkpoint as many follow
    /// back to back as intervals have passed.
    #[must_use]
    pub(super) fn add(&mut self, request: Request, now: Monotonic) -> Option<Request> {
        let coalesce = |place: &Place| place.periodic && place.not_savepoint;
        if request.periodic && !request.savepoint && self.waiting.keys().any(coalesce) {
            return None;
        }
        let full = self.waiting.len() >= self.capacity;
        if full && self.waiting.last_key_value().is_none_or(|(worst, _)| !worst.periodic) {
            return Some(request);
        }
        let arrival = self.waiting.keys().map(|place| place.arrival + 1).max().unwrap_or(0);
        let place = Place {
            not_savepoint: !request.savepoint,
            not_forced: !request.forced,
            periodic: request.periodic,
            since: now,
            arrival,
        };
        self.waiting.insert(place, request.asker);
        if full { self.waiting.pop_last().map(from_entry) } else { None }
    }

    /// Decides. What runs or is dropped leaves the waiting set; call again until it says [`Decision::Wait`].
    #[must_use]
    pub(super) fn next(&mut self, load: Load, now: Monotonic) -> Decision {
        let Some((head, _)) = self.waiting.first_key_value() else { return Decision::Wait };
        let held_back = load.triggering
            || load.cleaning > self.max_concurrent
            || (load.pending >= self.max_concurrent && head.not_forced);
        if held_back {
            return Decision::Wait;
        }
        let too_soon = head.periodic && head.not_forced;
        let Some(request) = self.waiting.pop_first().map(from_entry) else { return Decision::Wait };
        let pause_ends = load.last_completion.after(self.min_pause);
        if too_soon && pause_ends > now {
            return Decision::TooSoon(request, pause_ends);
        }
        Decision::Run(request)
    }

    /// Takes out all that wait, in order: the coordinator stops, and they fail.
    #[must_use]
    pub(super) fn drain(&mut self) -> Vec<Request> {
        std::mem::take(&mut self.waiting).into_iter().map(from_entry).collect()
    }
}

fn from_entry((place, asker): (Place, Asker)) -> Request {
    Request { asker, savepoint: !place.not_savepoint, forced: !place.not_forced, periodic: place.periodic }
}

#[cfg(test)]
mod tests;
