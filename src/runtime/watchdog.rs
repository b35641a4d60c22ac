//! Which subtasks are stuck: they neither go on, nor wait for others, nor have nothing to do.
//!
//! Nothing is asked of a subtask for this but what it counts anyway. One that is held back by those behind it is healthy, and so is one
//! that has no input; one that does not come back from its code is not, and one whose sink waits for another system is suspect.

use crate::metrics::{Activity, Pulse};
use crate::types::{OperatorId, SubtaskId, SubtaskIndex};
use std::collections::BTreeMap;
use std::time::Duration;

/// Looks at subtasks now and then, and says each time whose silence has become too long. Each silence is told again whenever it has doubled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Watchdog {
    limit: Duration,
    seen: BTreeMap<SubtaskId, Seen>,
}

/// One subtask, as it was last seen.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    /// What has gone in and out of it.
    progress: u64,
    /// Since when that is so much.
    since: Duration,
    /// How long it may be still, or in its code, until it is told (again).
    patience: Duration,
    /// Whether it was in its code.
    inside: bool,
}

/// What there is to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finding {
    /// It has been in its own code for so long: that blocks its thread.
    Blocks(SubtaskId, Duration),
    /// Nothing has gone in or out of it for so long: it may wait for the outside world, which only it knows.
    IsStill(SubtaskId, Duration),
}

impl Watchdog {
    /// Tells of what lasts at least `limit`.
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, seen: BTreeMap::new() }
    }

    /// How long may pass between two looks: what is told is at most so much late.
    pub(super) fn interval(&self) -> Duration {
        (self.limit / 4).max(Duration::from_millis(10))
    }

    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    /// Forgets all: another attempt begins.
    pub(super) fn reset(&mut self) {
        self.seen.clear();
    }

    /// Looks at those that run: what each does, and how much has gone in and out of it.
    pub(super) fn look(
        &mut self,
        now: Duration,
        subtasks: impl IntoIterator<Item = (SubtaskId, Pulse, u64)>,
    ) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (subtask, Pulse { activity, lasts }, progress) in subtasks {
            let (inside, patience) = (activity == Activity::Busy, self.limit);
            let fresh = Seen { progress, since: now, patience, inside };
            let seen = self.seen.entry(subtask).or_insert_with(|| fresh.clone());
            let (silence, finding) = match activity {
                Activity::Busy => {
                    if !seen.inside || lasts < self.limit {
                        *seen = fresh;
                    }
                    (lasts, Finding::Blocks(subtask, lasts))
                }
                Activity::BackPressured | Activity::Committing => {
                    if seen.inside || seen.progress != progress {
                        *seen = fresh;
                    }
                    let still = now.saturating_sub(seen.since);
                    (still, Finding::IsStill(subtask, still))
                }
                // Asked, who has nothing to do would have to wake up. Who waits for its thread goes on as soon as that is free: whoever
                // holds it is told of.
                Activity::Idle | Activity::Waiting | Activity::Absent => {
                    *seen = fresh;
                    continue;
                }
            };
            if silence >= seen.patience {
                seen.patience = silence * 2;
                findings.push(finding);
            }
        }
        findings
    }
}

/// Says that a subtask does not come back from its code. `chain`: the uids of its operators.
pub(super) fn warn_blocks(chain: &str, subtask: SubtaskIndex, lasts: Duration) {
    tracing::warn!(
        operator = chain,
        subtask = subtask.0,
        for_ms = millis(lasts),
        "a subtask does not come back from its code: every other subtask of its thread waits, and so does each checkpoint. Handlers must not \
         block: move what does into a source or sink, which can await it, or to a thread of its own"
    );
}

/// Says that an operator waits for the outside world.
pub(super) fn warn_waits(operator: &OperatorId, subtask: SubtaskIndex, what: &str, lasts: Duration) {
    tracing::warn!(
        %operator,
        subtask = subtask.0,
        what,
        for_ms = millis(lasts),
        "an operator waits for the outside world, and nothing goes on until that answers: see what is the matter with the system that it \
         talks to, and give its calls a timeout, so that the job fails and restarts instead"
    );
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ChainId;

    const ONE: SubtaskId = SubtaskId { chain: ChainId(0), index: SubtaskIndex(0) };

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    /// Looks every 5 s, for so many seconds, with a limit of 30 s. What one subtask does is a function of the time.
    fn told(upto: u64, pulse: impl Fn(u64) -> (Activity, u64, u64)) -> Vec<Finding> {
        let mut watchdog = Watchdog::new(secs(30));
        let look = |now| {
            let (activity, lasts, progress) = pulse(now);
            watchdog.look(secs(now), [(ONE, Pulse { activity, lasts: secs(lasts) }, progress)])
        };
        (0..=upto).step_by(5).flat_map(look).collect()
    }

    fn blocks(lasts: u64) -> Finding {
        Finding::Blocks(ONE, secs(lasts))
    }

    fn is_still(lasts: u64) -> Finding {
        Finding::IsStill(ONE, secs(lasts))
    }

    #[test]
    fn who_stays_in_its_code_is_told_of_at_the_limit_and_whenever_that_has_doubled() {
        let findings = told(300, |now| (Activity::Busy, now, 7));
        assert_eq!(findings, [30, 60, 120, 240].map(blocks));
    }

    #[test]
    fn short_turns_are_nothing_however_many_there_are() {
        assert_eq!(told(300, |now| (Activity::Busy, now % 25, now)), []);
        assert_eq!(told(300, |now| (Activity::Busy, now % 25, 7)), [], "a state that only grows, say");
    }

    #[test]
    fn each_time_in_its_code_is_a_new_one() {
        // 40 s of each minute.
        let findings = told(130, |now| match now % 60 {
            at @ 0..40 => (Activity::Busy, at, now / 60),
            _ => (Activity::Idle, 0, now / 60),
        });
        assert_eq!(findings, [blocks(30), blocks(30)]);
    }

    #[test]
    fn who_came_out_between_two_looks_and_went_in_again_is_told_of_anew() {
        let findings = told(70, |now| (Activity::Busy, now.checked_sub(33).unwrap_or(now), 7));
        assert_eq!(findings, [blocks(30), blocks(32)]);
    }

    #[test]
    fn who_has_come_out_of_its_code_is_still_from_then_on_at_the_earliest() {
        let held_back = |now| if now <= 40 { Activity::Busy } else { Activity::BackPressured };
        assert_eq!(told(100, |now| (held_back(now), now, 7)), [blocks(30), is_still(30)], "seen at 45");
    }

    #[test]
    fn what_is_told_is_at_most_a_quarter_of_the_limit_late() {
        assert_eq!(Watchdog::new(secs(30)).interval(), Duration::from_millis(7_500));
        assert_eq!(
            Watchdog::new(Duration::from_millis(1)).interval(),
            Duration::from_millis(10),
            "no load of its own"
        );
    }

    #[test]
    fn who_is_still_is_asked_at_the_limit_and_whenever_that_has_doubled_though_it_wakes_up_now_and_then() {
        for activity in [Activity::Committing, Activity::BackPressured] {
            let findings = told(300, |now| (activity, now % 10, 7));
            assert_eq!(findings, [30, 60, 120, 240].map(is_still));
        }
    }

    #[test]
    fn who_goes_on_however_slowly_is_not_asked() {
        assert_eq!(told(300, |now| (Activity::BackPressured, 5, now / 25)), []);
        assert_eq!(told(300, |now| (Activity::Committing, 5, now / 25)), []);
        assert_eq!(told(60, |now| (Activity::Committing, now, now / 40)), [is_still(30)]);
    }

    #[test]
    fn who_has_nothing_to_do_waits_for_its_thread_or_does_not_run_is_healthy() {
        assert_eq!(told(300, |now| (Activity::Idle, now, 7)), []);
        assert_eq!(told(300, |now| (Activity::Waiting, now, 7)), []);
        assert_eq!(told(300, |now| (Activity::Absent, now, 7)), []);
    }

    #[test]
    fn subtasks_are_told_apart_and_another_attempt_begins_anew() {
        let other = SubtaskId { chain: ChainId(1), index: SubtaskIndex(3) };
        let mut watchdog = Watchdog::new(secs(30));
        let pulse = |activity, lasts| Pulse { activity, lasts: secs(lasts) };
        let look = |watchdog: &mut Watchdog, now| {
            let one = (ONE, pulse(Activity::Busy, now), 0);
            watchdog.look(secs(now), [one, (other, pulse(Activity::Idle, 1), now)])
        };
        assert_eq!(look(&mut watchdog, 29), []);
        assert_eq!(look(&mut watchdog, 31), [blocks(31)]);
        watchdog.reset();
        assert_eq!(look(&mut watchdog, 32), [blocks(32)], "it is another one");
    }
}
