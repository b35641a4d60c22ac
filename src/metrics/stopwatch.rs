//! Where the time of a subtask goes: busy, idle or back-pressured, without a gap and without an overlap.

use super::counters::{Counter, SubtaskCounters};
use crate::types::Clock;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What a subtask does at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u64)]
pub enum Activity {
    /// It does not run.
    #[default]
    Absent = 0,
    /// It works: it is being built, or in a turn.
    Busy = 1,
    /// It waits for input.
    Idle = 2,
    /// It waits for room: in a channel, or for a sink that flushes.
    BackPressured = 3,
    /// It has work, and waits for its turn on its thread.
    Waiting = 4,
    /// It waits for input while a sink of it prepares or commits.
    Committing = 5,
}

/// What a subtask was last seen to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pulse {
    /// What.
    pub activity: Activity,
    /// For how long.
    pub lasts: Duration,
}

/// The times of one subtask, in nanoseconds, over all attempts.
///
/// The three sums grow only when the activity changes. What has passed since then is the rest: the time since `origin`
/// less the sums. A reader adds it to the activity it saw first. So a sleeper's time is right although it writes nothing, and what
/// changes while somebody reads moves a figure by no more than the reading takes.
#[derive(Debug, Default)]
pub struct Time {
    busy: Counter,
    idle: Counter,
    back_pressured: Counter,
    /// The moment at which the attempt would have begun, had the sums been zero then.
    origin: AtomicU64,
    activity: AtomicU64,
}

/// A reading of [`Time`]. Busy is what works or waits for its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TimeSpent {
    pub busy: Duration,
    pub idle: Duration,
    pub back_pressured: Duration,
}

impl Time {
    /// The times up to `now`.
    pub fn read(&self, now: Duration) -> TimeSpent {
        let activity = self.activity();
        let (mut busy, mut idle, mut back_pressured) =
            (self.busy.get(), self.idle.get(), self.back_pressured.get());
        let accounted = self.origin.load(Ordering::Relaxed) + busy + idle + back_pressured;
        let rest = nanos(now).saturating_sub(accounted);
        match activity {
            Activity::Busy | Activity::Waiting => busy += rest,
            Activity::Idle | Activity::Committing => idle += rest,
            Activity::BackPressured => back_pressured += rest,
            Activity::Absent => {}
        }
        TimeSpent {
            busy: Duration::from_nanos(busy),
            idle: Duration::from_nanos(idle),
            back_pressured: Duration::from_nanos(back_pressured),
        }
    }

    /// What it does now, and since when: `now` less that.
    pub fn pulse(&self, now: Duration) -> Pulse {
        let activity = self.activity();
        let accounted = self.origin.load(Ordering::Relaxed).saturating_add(self.sum());
        Pulse { activity, lasts: Duration::from_nanos(nanos(now).saturating_sub(accounted)) }
    }

    fn activity(&self) -> Activity {
        match self.activity.load(Ordering::Acquire) {
            1 => Activity::Busy,
            2 => Activity::Idle,
            3 => Activity::BackPressured,
            4 => Activity::Waiting,
            5 => Activity::Committing,
            _ => Activity::Absent,
        }
    }

    fn sum(&self) -> u64 {
        self.busy.get() + self.idle.get() + self.back_pressured.get()
    }
}

/// Measures one attempt of a subtask. Dropped, it stops: by a panic too.
#[derive(Debug)]
pub struct Stopwatch {
    counters: Arc<SubtaskCounters>,
    clock: Clock,
    /// Up to here time is accounted for.
    mark: Duration,
    activity: Activity,
}

impl Stopwatch {
    /// Begins, busy.
    #[must_use]
    pub fn start(counters: Arc<SubtaskCounters>, clock: Clock) -> Self {
        counters.starts.add(1);
        let (time, mark) = (&counters.time, clock.elapsed());
        time.origin.store(nanos(mark).saturating_sub(time.sum()), Ordering::Relaxed);
        time.activity.store(Activity::Busy as u64, Ordering::Release);
        Self { counters, clock, mark, activity: Activity::Busy }
    }

    /// What it does.
    pub fn activity(&self) -> Activity {
        self.activity
    }

    /// From now on it does this. Returns now.
    pub fn turn_to(&mut self, activity: Activity) -> Duration {
        let now = self.clock.elapsed();
        let time = &self.counters.time;
        let sum = match self.activity {
            Activity::Busy | Activity::Waiting => Some(&time.busy),
            Activity::Idle | Activity::Committing => Some(&time.idle),
            Activity::BackPressured => Some(&time.back_pressured),
            Activity::Absent => None,
        };
        if let Some(sum) = sum {
            sum.add(nanos(now.saturating_sub(self.mark)));
        }
        time.activity.store(activity as u64, Ordering::Release);
        self.mark = now;
        self.activity = activity;
        now
    }
}

impl Drop for Stopwatch {
    fn drop(&mut self) {
        self.turn_to(Activity::Absent);
    }
}

/// Good for five hundred years.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn spent(busy: u64, idle: u64, back_pressured: u64) -> TimeSpent {
        TimeSpent { busy: secs(busy), idle: secs(idle), back_pressured: secs(back_pressured) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pulse_says_what_is_done_and_since_when() {
        let clock = Clock::start();
        let counters: Arc<SubtaskCounters> = Arc::default();
        let pulse = || counters.time.pulse(clock.elapsed());
        let mut watch = Stopwatch::start(Arc::clone(&counters), clock);
        let all = [Activity::Idle, Activity::Busy, Activity::Waiting, Activity::BackPressured];
        for activity in all.into_iter().chain([Activity::Committing]) {
            tokio::time::advance(secs(3)).await;
            watch.turn_to(activity);
            tokio::time::advance(secs(2)).await;
            assert_eq!(pulse(), Pulse { activity, lasts: secs(2) });
        }
        assert_eq!(
            counters.time.read(clock.elapsed()),
            spent(3 + 5 + 5, 5 + 2, 5),
            "who waits for its turn is busy"
        );
        drop(watch);
        assert_eq!(pulse().activity, Activity::Absent);
    }

    #[tokio::test(start_paused = true)]
    async fn time_is_accounted_for_without_a_gap_also_between_two_changes() {
        let clock = Clock::start();
        let counters: Arc<SubtaskCounters> = Arc::default();
        let read = || counters.time.read(clock.elapsed());
        tokio::time::advance(secs(5)).await;
        assert_eq!(read(), spent(0, 0, 0), "before it begins");
        let mut watch = Stopwatch::start(Arc::clone(&counters), clock);
        tokio::time::advance(secs(1)).await;
        assert_eq!(read(), spent(1, 0, 0));
        watch.turn_to(Activity::Idle);
        tokio::time::advance(secs(2)).await;
        assert_eq!(read(), spent(1, 2, 0), "a sleeper's time passes although it writes nothing");
        watch.turn_to(Activity::BackPressured);
        tokio::time::advance(secs(4)).await;
        assert_eq!(read(), spent(1, 2, 4));
        drop(watch);
        tokio::time::advance(secs(8)).await;
        assert_eq!(read(), spent(1, 2, 4), "between two attempts");
        let _watch = Stopwatch::start(Arc::clone(&counters), clock);
        tokio::time::advance(secs(16)).await;
        assert_eq!(read(), spent(17, 2, 4), "the next attempt goes on from there");
        assert_eq!(counters.starts.get(), 2);
    }
}
