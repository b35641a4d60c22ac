//! What a source is: splits that can be read on from a position.

use super::{Claim, StartContext};
use crate::error::Result;
use crate::operator::SubtaskContext;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What a source can do about the records that it gave after the checkpoint from which a job goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Replay {
    /// It gives the same records again, from the position in its splits: exactly once. What a source should be.
    #[default]
    Exact,
    /// It gives them again as long as the process lives. When the process dies they are lost.
    InProcess,
    /// It cannot give them again: they are lost. Whoever set the source up has accepted that.
    LossAccepted,
    /// It cannot give them again, and nobody has accepted that: a fault at the start of a job that takes checkpoints.
    Impossible,
}

/// An origin of records that can be read again from a position.
///
/// A source is cut into *splits*: parts that are read independently, each carrying the position to read on from (a byte range of
/// a file and an offset, a partition and its offset). The splits are the source's state: a checkpoint holds them as they were
/// between two records, and a restart reads on from there, at any parallelism. So a split must be able to produce the same
/// records again from the same position; that is all exactly-once asks of a source. (The idea is Flink's FLIP-27.)
///
/// A clone of the source configures every run; it holds settings, not open files.
///
/// ```
/// use strandline::prelude::*;
/// use strandline::{SourceReader, SubtaskContext};
///
/// /// The numbers below `end`, in two splits: even and odd ones.
/// #[derive(Clone)]
/// struct Numbers {
///     end: u64,
/// }
///
/// struct NumbersReader {
///     /// The next number of each split.
///     next: Vec<u64>,
///     end: u64,
/// }
///
/// impl Source for Numbers {
///     type Record = u64;
///     type Split = u64; // its position is all there is to know of it
///     type Reader = NumbersReader;
///
///     async fn splits(&self, restored: Option<Vec<u64>>) -> Result<Vec<u64>> {
///         Ok(restored.unwrap_or_else(|| vec![0, 1]))
///     }
///
///     fn reader(&self, splits: Vec<u64>, _: &SubtaskContext) -> Result<NumbersReader> {
///         Ok(NumbersReader { next: splits, end: self.end })
///     }
/// }
///
/// impl SourceReader for NumbersReader {
///     type Record = u64;
///     type Split = u64;
///
///     fn next(&mut self) -> Result<Option<u64>> {
///         let Some(next) = self.next.iter_mut().find(|next| **next < self.end) else { return Ok(None) };
///         let number = *next;
///         *next += 2; // the position moves with the record
///         Ok(Some(number))
///     }
///
///     async fn ready(&mut self) -> Result<bool> {
///         Ok(self.next.iter().any(|next| *next < self.end)) // a real source waits for data here
///     }
///
///     fn splits(&self) -> Vec<u64> {
///         self.next.clone()
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result {
/// let env = Environment::builder().parallelism(2).build()?;
/// let all = Collect::new();
/// env.source("numbers", Numbers { end: 10 }).sink("all", all.clone());
/// env.execute("own-source").await?;
/// let mut numbers = all.records();
/// numbers.sort();
/// assert_eq!(numbers, (0..10).collect::<Vec<u64>>());
/// # Ok(())
/// # }
/// ```
pub trait Source: Clone + Send + Sync + 'static {
    /// What it produces.
    type Record: 'static;
    /// A part of the source with a position in it. Stored in every checkpoint, in postcard's form: see
    /// [`StateValue`](crate::StateValue) for what that rules out.
    type Split: Clone + Send + Serialize + DeserializeOwned + 'static;
    /// What reads splits.
    type Reader: SourceReader<Record = Self::Record, Split = Self::Split>;

    /// How many subtasks read it, no more and no fewer: for a source that cannot be read by any number. `None`, the default, for the
    /// job's parallelism, or what [`Stream::parallelism`](crate::Stream::parallelism) sets for the chain that begins with it.
    fn parallelism(&self) -> Option<u32> {
        None
    }

    /// The splits to read. Called once at each start of the job and once at each restart, before any reader is made.
    ///
    /// `restored` is `None` at a start without a checkpoint: find out what there is to read. Otherwise it holds the
    /// splits of the checkpoint, of all subtasks: check that they can still be read, and give them back, perhaps with new
    /// ones. An error here fails the start.
    fn splits(
        &self,
        restored: Option<Vec<Self::Split>>,
    ) -> impl Future<Output = Result<Vec<Self::Split>>> + Send;

    /// Which subtask reads which split: one list per subtask. The default deals them out in turn.
    fn assign(&self, splits: Vec<Self::Split>, parallelism: u32) -> Vec<Vec<Self::Split>> {
        let mut shares: Vec<Vec<Self::Split>> = (0..parallelism).map(|_| Vec::new()).collect();
        let subtasks = shares.len().max(1);
        for (i, split) in splits.into_iter().enumerate() {
            if let Some(share) = shares.get_mut(i % subtasks) {
                share.push(split);
            }
        }
        shares
    }

    /// A reader of these splits, made on the subtask's own thread. Do not block in it: open files in
    /// [`SourceReader::ready`].
    fn reader(&self, splits: Vec<Self::Split>, context: &SubtaskContext) -> Result<Self::Reader>;

    /// Whether it can give records again. A source that cannot says so here, and a job that takes checkpoints then does not start
    /// before its user has accepted the loss.
    fn replay(&self) -> Replay {
        Replay::Exact
    }

    /// A job that uses it starts: called once, before anything runs, and not at restarts. What is returned is dropped when the
    /// job has ended. An error fails the start. For sources that live in this process and can serve one job at a time.
    fn claim(&self, start: &StartContext) -> Result<Claim> {
        let _ = start;
        Ok(Claim::none())
    }

    /// A checkpoint that holds these splits of one subtask is complete: no restart reads from before them. Best effort: a call may be
    /// missing, and a later one stands for all before it. Called on the subtask's own thread; it must not block. An error fails
    /// the subtask.
    fn on_complete(&self, splits: &[Self::Split]) -> Result {
        let _ = splits;
        Ok(())
    }
}

/// Reads the splits of one subtask.
pub trait SourceReader: 'static {
    /// What it produces.
    type Record;
    /// What it reads.
    type Split;

    /// The next record, if one is at hand. Must not block: `None` means "await [`ready`](Self::ready)".
    fn next(&mut self) -> Result<Option<Self::Record>>;

    /// Waits until [`next`](Self::next) has something (`true`), or for ever nothing more (`false`). I/O belongs here. It is
    /// only called after `next` gave `None`, and only dropped unfinished when the subtask ends. It must not move the
    /// position: that is `next`'s to do.
    fn ready(&mut self) -> impl Future<Output = Result<bool>>;

    /// All splits of this reader, finished ones included, each at the position after the last record that `next` gave. Called
    /// between two records.
    fn splits(&self) -> Vec<Self::Split>;
}
