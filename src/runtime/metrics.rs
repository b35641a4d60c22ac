//! What a job reports of itself, as plain data.

use super::status::JobStatus;
use crate::checkpoint::CompletedCheckpoint;
use crate::checkpoint::duration_text::seconds;
use crate::types::{JobName, OperatorId, SubtaskIndex, Timestamp};
use serde::Serialize;
use std::time::Duration;

/// The figures of a job at one moment; from [`JobHandle::metrics`](crate::JobHandle::metrics).
///
/// They count from the start of the job in this process, over all its attempts: a restart sets nothing back, and what is processed
/// again counts again. (Flink counts each attempt from zero.) A job that is started anew, at another parallelism or after the
/// process died, counts from zero.
///
/// The figures of one subtask are taken one after the other while it goes on, so those of a running job may be a batch apart.
/// When the job has ended they are exact.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct JobMetrics {
    /// The job.
    pub job: JobName,
    /// Where it is in its life.
    pub status: JobStatus,
    /// Since it was started in this process; until it ended, if it has.
    #[serde(rename = "uptime_seconds", serialize_with = "seconds")]
    pub uptime: Duration,
    /// Attempts begun after the first.
    pub restarts: u64,
    /// Its checkpoints.
    pub checkpoints: CheckpointMetrics,
    /// Its chains, in the order of the program.
    pub chains: Vec<ChainMetrics>,
}

/// The checkpoints of a job. Always `started = completed + failed + in_progress`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct CheckpointMetrics {
    /// Those that were given a number.
    pub started: u64,
    /// Those that are committed.
    pub completed: u64,
    /// Those that were given up, for whatever reason: errors and timeouts, but also a restart, a cancel, or a newer one that
    /// completed first.
    pub failed: u64,
    /// The others. One whose commit has an unknown outcome stays here until the job log was read back.
    pub in_progress: u64,
    /// The last one that completed since this start; not the one that the job began from.
    pub last_completed: Option<CompletedCheckpoint>,
}

/// A chain: operators that run fused in one subtask.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ChainMetrics {
    /// The uids of its operators, joined by arrows; `chain n` for one of plain stages only.
    pub name: String,
    /// Its subtasks, in order.
    pub subtasks: Vec<SubtaskMetrics>,
}

/// One parallel instance of a chain.
///
/// `busy`, `idle` and `back_pressured` add up to the time for which it has run.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SubtaskMetrics {
    /// Which of the instances.
    pub subtask: SubtaskIndex,
    /// Records taken from its input channels. A batch counts as a whole when it is taken. 0 for a chain that begins with a source.
    pub records_in: u64,
    /// Records put into its output channels: once per channel if they are broadcast. 0 for a chain that ends at a sink.
    pub records_out: u64,
    /// Batches taken from its input channels.
    pub batches_in: u64,
    /// Batches put into its output channels.
    pub batches_out: u64,
    /// Time at work, being built included, or with work and waiting for its turn on its thread.
    #[serde(rename = "busy_seconds", serialize_with = "seconds")]
    pub busy: Duration,
    /// Time without input. Waiting for the barriers of other channels, and for the final checkpoint, counts here too.
    #[serde(rename = "idle_seconds", serialize_with = "seconds")]
    pub idle: Duration,
    /// Time without room in an output channel, or waiting for a sink to flush.
    #[serde(rename = "back_pressured_seconds", serialize_with = "seconds")]
    pub back_pressured: Duration,
    /// How often it was built again.
    pub restarts: u64,
    /// State it has written for checkpoints, whatever became of them. (Bytes that go through channels are not known: records travel as
    /// they are, not encoded.)
    pub checkpoint_bytes: u64,
    /// Its watermark: `None` where there is none. (There are no watermarks yet.)
    pub watermark: Option<Timestamp>,
    /// Its operators, in the order of the chain.
    pub operators: Vec<OperatorMetrics>,
}

/// What one instance of an operator has taken and given.
///
/// Taken counts with the record, given when the record leaves the operator. Of a batch in which a keyed operator fails all records count
/// as taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OperatorMetrics {
    /// Its uid.
    pub operator: OperatorId,
    /// Records it was given. 0 for a source.
    pub records_in: u64,
    /// Records it gave, those into side outputs that a stream was made of included. 0 for a sink.
    pub records_out: u64,
    /// Records for which it gave an error that its error policy let pass: those [skipped](crate::Stream::skip_errors) and those that became
    /// [dead letters](crate::Stream::dead_letters). One that comes again after a restart counts again.
    pub records_skipped: u64,
    /// Its keyed states, in the order in which it declares them. They are of the instance that runs, or ran last.
    pub states: Vec<StateMetrics>,
}

/// How large one keyed state is in one instance of an operator; brought up to date at the end of each of its turns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StateMetrics {
    /// Its name.
    pub state: String,
    /// How many keys have it.
    pub entries: u64,
    /// Memory that its table holds: entries, the room for more, and what leads to them. Without what keys and values own beside themselves,
    /// such as the text of a `String`.
    pub bytes: u64,
    /// Memory that holds what is encoded for checkpoints and not yet written. It is high where many keys change before a checkpoint has
    /// got to them, or storage is slow; at most what the state is large encoded, for each checkpoint that is under way.
    pub snapshot_bytes: u64,
}

impl StateMetrics {
    /// Both together.
    fn and(self, other: Self) -> Self {
        Self {
            state: self.state,
            entries: self.entries + other.entries,
            bytes: self.bytes + other.bytes,
            snapshot_bytes: self.snapshot_bytes + other.snapshot_bytes,
        }
    }
}

impl JobMetrics {
    /// The chain in which an operator runs.
    #[must_use]
    pub fn chain_of(&self, uid: &str) -> Option<&ChainMetrics> {
        let runs =
            |subtask: &SubtaskMetrics| subtask.operators.iter().any(|one| one.operator.as_str() == uid);
        self.chains.iter().find(|chain| chain.subtasks.first().is_some_and(runs))
    }

    /// What an operator has taken and given, all its instances together.
    #[must_use]
    pub fn operator(&self, uid: &str) -> Option<OperatorMetrics> {
        let subtasks = &self.chain_of(uid)?.subtasks;
        let instances = subtasks.iter().flat_map(|subtask| &subtask.operators);
        instances.filter(|one| one.operator.as_str() == uid).cloned().reduce(|sum, one| OperatorMetrics {
            records_in: sum.records_in + one.records_in,
            records_out: sum.records_out + one.records_out,
            records_skipped: sum.records_skipped + one.records_skipped,
            states: sum.states.into_iter().zip(one.states).map(|(sum, one)| sum.and(one)).collect(),
            operator: sum.operator,
        })
    }
}
