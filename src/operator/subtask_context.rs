//! What a source reader or a sink writer knows about the subtask it runs in.

use crate::types::{Attempt, Clock, Generation, JobName, OperatorId, SubtaskIndex};

/// Where a reader or writer runs.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SubtaskContext {
    /// The job.
    pub job: JobName,
    /// The uid of the source or sink.
    pub operator: OperatorId,
    /// Which of the parallel instances this is.
    pub subtask: SubtaskIndex,
    /// How many there are.
    pub parallelism: u32,
    /// Which run of the process this is. Put it into the names of files, with `attempt` and `subtask`.
    pub generation: Generation,
    /// Which run of the dataflow inside the process this is.
    pub attempt: Attempt,
    /// The only clock to use.
    pub clock: Clock,
}
