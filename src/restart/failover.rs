//! What is restarted together: a region after its own failure, all of them after one of the job as a whole.

use crate::types::RegionId;
use std::collections::BTreeMap;

/// Where each failover region of a job is, and which are to be restarted next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Failover {
    regions: BTreeMap<RegionId, Life>,
    /// Whether all regions are being stopped because of one failure.
    is_whole: bool,
}

/// Where a region is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Life {
    /// State is being restored, subtasks are being built.
    Starting,
    /// All of its subtasks run.
    Running,
    /// It has failed, or is to be restarted with the others: what runs of it is being stopped.
    Stopping,
    /// Nothing of it is left: its restart is to be decided, or waited for.
    Down,
    /// It will not run again.
    Over,
}

impl Failover {
    /// All are about to start.
    pub(crate) fn new(regions: impl IntoIterator<Item = RegionId>) -> Self {
        Self {
            regions: regions.into_iter().map(|region| (region, Life::Starting)).collect(),
            is_whole: false,
        }
    }

    /// All subtasks of a region run. Returns whether all do now, of the regions that are not over.
    pub(crate) fn running(&mut self, region: RegionId) -> bool {
        self.change(region, &[Life::Starting], Life::Running);
        self.regions.values().all(|life| matches!(life, Life::Running | Life::Over))
    }

    /// A region has failed and is being stopped.
    pub(crate) fn failing(&mut self, region: RegionId) {
        self.change(region, &[Life::Starting, Life::Running], Life::Stopping);
    }

    /// Something failed that is no region's own: all are to be restarted, from one checkpoint and for this one failure. Returns those that must
    /// be stopped; nothing if none runs, since all are being restarted anyway.
    pub(crate) fn whole_failed(&mut self) -> Vec<RegionId> {
        let runs = |life: &Life| matches!(life, Life::Starting | Life::Running);
        let running: Vec<RegionId> =
            self.regions.iter().filter(|(_, life)| runs(life)).map(|(region, _)| *region).collect();
        self.is_whole |= !running.is_empty();
        for region in &running {
            self.failing(*region);
        }
        running
    }

    /// Whether all regions are being stopped because of one failure.
    pub(crate) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Nothing is left of a region that was being stopped. Returns those whose restart is to be decided now, as one.
    pub(crate) fn down(&mut self, region: RegionId) -> Vec<RegionId> {
        self.change(region, &[Life::Stopping], Life::Down);
        if !self.is_whole {
            return vec![region];
        }
        self.settled()
    }

    /// Those whose restart is to be decided as one, if all are being stopped because of one failure and nobody is waited for any more.
    fn settled(&mut self) -> Vec<RegionId> {
        if !self.is_whole || self.regions.values().any(|life| *life == Life::Stopping) {
            return Vec::new();
        }
        self.is_whole = false;
        self.regions.iter().filter(|(_, life)| **life == Life::Down).map(|(region, _)| *region).collect()
    }

    /// The wait is over: a region starts again.
    pub(crate) fn restart(&mut self, region: RegionId) {
        self.change(region, &[Life::Down], Life::Starting);
    }

    /// A region will not run again: it has finished, perhaps when it was to be stopped, or was told to end. Returns those whose restart is to be
    /// decided now, as one.
    pub(crate) fn over(&mut self, region: RegionId) -> Vec<RegionId> {
        self.regions.insert(region, Life::Over);
        self.settled()
    }

    /// Whether no region will run again.
    pub(crate) fn is_over(&self) -> bool {
        self.regions.values().all(|life| *life == Life::Over)
    }

    /// Those that are not over.
    pub(crate) fn left(&self) -> impl Iterator<Item = RegionId> {
        self.regions.iter().filter(|(_, life)| **life != Life::Over).map(|(region, _)| *region)
    }

    fn change(&mut self, region: RegionId, from: &[Life], to: Life) {
        if let Some(life) = self.regions.get_mut(&region)
            && from.contains(life)
        {
            *life = to;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: RegionId = RegionId(0);
    const B: RegionId = RegionId(1);
    const C: RegionId = RegionId(2);

    fn running() -> Failover {
        let mut failover = Failover::new([A, B, C]);
        assert_eq!([A, B, C].map(|region| failover.running(region)), [false, false, true]);
        failover
    }

    #[test]
    fn s12_13_a_region_that_fails_is_restarted_alone_and_regions_that_fail_together_each_for_itself() {
        let mut failover = running();
        failover.failing(A);
        failover.failing(C);
        assert_eq!(failover.down(C), [C]);
        assert_eq!(failover.down(A), [A]);
        failover.restart(C);
        assert!(!failover.running(C), "A is still down");
        failover.restart(A);
        assert!(failover.running(A));
    }

    #[test]
    fn a_failure_of_the_whole_job_restarts_all_as_one_those_too_that_were_down() {
        let mut failover = running();
        failover.failing(A);
        assert_eq!(failover.down(A), [A]);
        failover.failing(B);
        assert_eq!(failover.whole_failed(), [C]);
        assert_eq!(failover.down(C), [], "B is being stopped");
        assert_eq!(failover.down(B), [A, B, C]);
        assert!(!failover.is_whole());
    }

    #[test]
    fn a_failure_of_the_whole_job_changes_nothing_where_all_is_being_restarted() {
        let mut failover = running();
        for region in [A, B, C] {
            failover.failing(region);
        }
        assert_eq!(failover.down(A), [A]);
        assert_eq!(failover.whole_failed(), []);
        assert_eq!(failover.down(B), [B]);
        // Nor does a second one.
        let mut failover = running();
        assert_eq!(failover.whole_failed(), [A, B, C]);
        assert_eq!(failover.whole_failed(), []);
        assert_eq!([A, B].map(|region| failover.down(region)), [[], []]);
        assert_eq!(failover.down(C), [A, B, C]);
    }

    #[test]
    fn what_is_over_stays_over_and_holds_nobody_back() {
        let mut failover = running();
        assert_eq!(failover.over(B), []);
        failover.failing(B);
        failover.restart(B);
        assert_eq!(failover.left().collect::<Vec<_>>(), [A, C]);
        assert_eq!(failover.whole_failed(), [A, C]);
        assert_eq!(failover.down(C), []);
        assert_eq!(failover.down(A), [A, C]);
        failover.restart(A);
        failover.restart(C);
        assert!(!failover.running(C) && failover.running(A));
        failover.over(A);
        assert!(!failover.is_over());
        failover.over(C);
        assert!(failover.is_over());
    }

    #[test]
    fn a_region_that_has_finished_instead_of_going_down_holds_nobody_back() {
        let mut failover = running();
        failover.failing(A);
        assert_eq!(failover.whole_failed(), [B, C]);
        assert_eq!(failover.down(A), []);
        assert_eq!(failover.over(B), []);
        assert_eq!(failover.over(C), [A]);
        assert!(!failover.is_whole() && !failover.is_over());
    }
}
