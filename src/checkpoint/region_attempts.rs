//! Which attempt each failover region is in, and what that makes of the job.

use crate::types::{Attempt, RegionId, SubtaskId};
use std::collections::BTreeMap;

/// The attempts of a job's failover regions. To the [coordinator](super::Coordinator) of checkpoints, which need every subtask, an attempt of the
/// *job* is a time during which all regions run, each in an attempt of its own: it ends when one of them stops.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct RegionAttempts {
    regions: BTreeMap<RegionId, RegionAttempt>,
    of: BTreeMap<SubtaskId, RegionId>,
    job: Attempt,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct RegionAttempt {
    /// The one that runs, or will be next.
    attempt: Attempt,
    runs: bool,
}

impl RegionAttempts {
    /// Nothing runs yet. Takes every subtask with its region.
    pub(crate) fn new(subtasks: impl IntoIterator<Item = (SubtaskId, RegionId)>) -> Self {
        let of: BTreeMap<SubtaskId, RegionId> = subtasks.into_iter().collect();
        let regions = of.values().map(|region| (*region, RegionAttempt::default())).collect();
        Self { regions, of, job: Attempt(0) }
    }

    /// All subtasks of a region run. Returns whether an attempt of the job begins by this: [that](Self::job).
    pub(crate) fn began(&mut self, region: RegionId, attempt: Attempt) -> bool {
        self.regions.insert(region, RegionAttempt { attempt, runs: true });
        self.all_run()
    }

    /// An attempt of a region ends: nothing that comes from it counts any more. An attempt of the job ends with it, if there was one.
    pub(crate) fn stopped(&mut self, region: RegionId, attempt: Attempt) {
        self.regions.insert(region, RegionAttempt { attempt: attempt.next(), runs: false });
        self.job = self.job.next();
    }

    /// Whether every region runs.
    pub(crate) fn all_run(&self) -> bool {
        self.regions.values().all(|region| region.runs)
    }

    /// The attempt of the job, if one runs, else the next.
    pub(crate) fn job(&self) -> Attempt {
        self.job
    }

    /// Whether what a subtask says in an attempt of its region still counts.
    pub(crate) fn is_current(&self, subtask: SubtaskId, attempt: Attempt) -> bool {
        let region = self.of.get(&subtask).and_then(|region| self.regions.get(region));
        region.is_some_and(|region| region.attempt == attempt)
    }

    /// Whether a subtask belongs to a region.
    pub(crate) fn is_in(&self, subtask: SubtaskId, region: RegionId) -> bool {
        self.of.get(&subtask) == Some(&region)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ChainId, SubtaskIndex};

    const A: RegionId = RegionId(0);
    const B: RegionId = RegionId(1);

    fn subtask(chain: u32) -> SubtaskId {
        SubtaskId { chain: ChainId(chain), index: SubtaskIndex(0) }
    }

    fn two() -> RegionAttempts {
        RegionAttempts::new([(subtask(0), A), (subtask(1), B), (subtask(2), A)])
    }

    #[test]
    fn an_attempt_of_the_job_is_while_all_regions_run() {
        let mut attempts = two();
        assert!(!attempts.began(B, Attempt(0)));
        assert!(attempts.began(A, Attempt(0)));
        assert_eq!(attempts.job(), Attempt(0));
        attempts.stopped(B, Attempt(0));
        assert!(!attempts.all_run());
        assert!(attempts.began(B, Attempt(1)));
        assert_eq!(attempts.job(), Attempt(1));
        // Both at once, one of them twice.
        attempts.stopped(A, Attempt(0));
        attempts.stopped(B, Attempt(1));
        assert!(!attempts.began(B, Attempt(2)));
        attempts.stopped(B, Attempt(2));
        assert!(!attempts.began(A, Attempt(1)));
        assert!(attempts.began(B, Attempt(3)));
        assert!(attempts.job() > Attempt(1), "no attempt of the job has the number of an earlier one");
    }

    #[test]
    fn what_a_subtask_says_counts_in_the_attempt_of_its_own_region() {
        let mut attempts = two();
        attempts.began(A, Attempt(0));
        attempts.began(B, Attempt(0));
        attempts.stopped(B, Attempt(0));
        let current =
            |attempts: &RegionAttempts, chain, attempt| attempts.is_current(subtask(chain), Attempt(attempt));
        assert!(current(&attempts, 0, 0) && current(&attempts, 2, 0), "A runs on");
        assert!(!current(&attempts, 1, 0), "what still comes from the attempt that has ended");
        assert!(current(&attempts, 1, 1), "the next may say something before all of it runs");
        assert!(!current(&attempts, 7, 0), "there is no such subtask");
        assert!(attempts.is_in(subtask(2), A) && !attempts.is_in(subtask(2), B));
    }
}
