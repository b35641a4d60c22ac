//! When barriers came to a subtask: what its report to a checkpoint is made of.

use crate::channel::Barrier;
use crate::checkpoint::SnapshotReport;
use crate::types::{CheckpointId, Clock, Timestamp};
use std::time::Duration;

/// When the first barrier of the newest checkpoint was met.
#[derive(Debug, Default)]
pub(super) struct BarrierTimes {
    first: Option<(CheckpointId, Duration, Timestamp)>,
}

impl BarrierTimes {
    /// This is the newest barrier that the gate knows of. Looks at the clock only if it is new.
    pub(super) fn saw(&mut self, barrier: Option<Barrier>, clock: Clock) {
        let Some(Barrier { checkpoint, .. }) = barrier else { return };
        if self.first.is_none_or(|(known, ..)| known < checkpoint) {
            self.first = Some((checkpoint, clock.elapsed(), clock.wall()));
        }
    }

    /// The subtask begins its snapshot for this barrier: what is known of its way here.
    pub(super) fn report(&mut self, barrier: Barrier, clock: Clock) -> SnapshotReport {
        self.saw(Some(barrier), clock);
        let mut report = SnapshotReport::default();
        if let Some((_, met, wall)) = self.first.filter(|(checkpoint, ..)| *checkpoint == barrier.checkpoint)
        {
            let delay = wall.0.saturating_sub(barrier.triggered.0);
            report.start_delay = Duration::from_millis(u64::try_from(delay).unwrap_or(0));
            report.alignment = clock.elapsed().saturating_sub(met);
        }
        report
    }
}
