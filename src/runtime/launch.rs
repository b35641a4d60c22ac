//! How an attempt of a region begins: its state is read, then its subtasks are wired up and started.

use super::engine::Placement;
use super::messages::{CheckpointMessage, SubtaskCommand, SubtaskReport};
use super::region::RegionSettings;
use super::restore::{Restored, restore};
use super::seed::{ChainContext, SubtaskSeed};
use super::subtask::SubtaskActor;
use super::tracing_scope::below;
use super::wiring::wire;
use crate::error::Error;
use crate::operator::{RecoveryContext, SubtaskContext};
use crate::pool::{Scope, Task};
use crate::types::{Attempt, OperatorId, SubtaskId};
use actix::{Actor, Recipient};
use std::collections::BTreeMap;
use std::sync::Arc;
use tracing::{Instrument, field};

impl RegionSettings {
    /// Begins to read, on the pool, what an attempt begins with.
    pub(super) fn restore(&self, attempt: Attempt, scope: &Scope) -> Task<Result<Restored, Error>> {
        let (layout, job) = (Arc::clone(&self.plan.layout), Arc::clone(&self.job_layout));
        let storage = self.storage.clone();
        let (max_parallelism, increments) = (self.max_parallelism, self.increments);
        let recovery = RecoveryContext {
            operator: OperatorId::from(""),
            restored: None,
            generation: self.generation,
            attempt,
            now: self.clock.wall(),
            checkpointing: storage.is_some(),
        };
        let parent = &self.span;
        let span = below(
            parent,
            || tracing::info_span!(parent: parent, "restore", attempt = attempt.0, checkpoint = field::Empty),
        );
        let restore = async move {
            restore(&layout, &job, storage.as_ref(), max_parallelism, increments, &recovery).await
        };
        scope.spawn(restore.instrument(span))
    }

    /// Starts the subtasks of an attempt, each where it belongs.
    pub(super) fn launch(
        &self,
        attempt: Attempt,
        mut restored: Restored,
        scope: &Scope,
        coordinator: &Recipient<CheckpointMessage>,
        supervisor: &Recipient<SubtaskReport>,
    ) -> BTreeMap<SubtaskId, Recipient<SubtaskCommand>> {
        let layout = &self.plan.layout;
        let mut ends = wire(layout, self.channel_depth);
        let mut live = BTreeMap::new();
        for (chain, factory) in layout.chains.iter().zip(&self.plan.factories) {
            let name = OperatorId::from(chain.name.as_str());
            for id in chain.subtasks() {
                let subtask = SubtaskContext {
                    job: self.job.clone(),
                    operator: name.clone(),
                    subtask: id.index,
                    parallelism: chain.parallelism,
                    generation: self.generation,
                    attempt,
                    clock: self.clock,
                };
                let context = ChainContext {
                    subtask,
                    max_parallelism: self.max_parallelism,
                    snapshot_memory: self.snapshot_memory,
                    name: name.clone(),
                };
                let seed = SubtaskSeed {
                    id,
                    attempt,
                    clock: self.clock,
                    ends: ends.remove(&id).unwrap_or_default(),
                    factory: factory.boxed(),
                    restored: restored.subtasks.remove(&id).unwrap_or_default(),
                    from: restored.from,
                    has_source: chain.has_source(),
                    mode: self.mode,
                    context,
                    storage: self.storage.clone(),
                    coordinator: coordinator.clone(),
                    scope: scope.clone(),
                    span: self.span.clone(),
                    counters: self.shared.meter().handles(id),
                };
                live.insert(id, self.start(seed, supervisor.clone()));
            }
        }
        live
    }

    fn start(&self, seed: SubtaskSeed, supervisor: Recipient<SubtaskReport>) -> Recipient<SubtaskCommand> {
        // Neighbours in a chain of exchanges land on different threads.
        let place = seed.id.index.0 as usize + seed.id.chain.0 as usize;
        let arbiter = match &self.placement {
            Placement::Arbiters(arbiters) => arbiters.get(place % arbiters.len().max(1)),
            Placement::Local => None,
        };
        let addr = match arbiter {
            Some(arbiter) => {
                SubtaskActor::start_in_arbiter(arbiter, move |_| SubtaskActor::new(seed, supervisor))
            }
            None => SubtaskActor::new(seed, supervisor).start(),
        };
        addr.recipient()
    }
}
