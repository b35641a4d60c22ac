//! A collection or a generator as a replayable source.

use crate::error::{Error, ErrorKind, Result};
use crate::operator::{Source, SourceReader, SubtaskContext};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// Items skipped at a restore before other tasks of the thread get a turn.
const SKIP_SLICE: u64 = 64 * 1024;

/// The items of anything that can be iterated over from the start again: a `Vec`, an array, a range, a generator.
///
/// **Replayable**, so exactly-once holds, if each iteration gives the same items in the same order. The position is the number of
/// items read; a restart iterates anew and skips that many. Skipping is instant for vectors and ranges, and costs what the
/// iteration costs for a [generator](Self::generate). If a restart finds fewer items than were read, it fails.
///
/// Read by one subtask whatever the job's parallelism. No record costs an allocation beyond its own; a collection is cloned
/// once per run of the job, so give large sequences as a range or a generator.
///
/// ```
/// # use strandline::prelude::*;
/// # fn main() -> Result {
/// # let env = Environment::builder().build()?;
/// let pairs = env.source("pairs", Iter::new([(1, 3), (1, 5), (1, 7)]));
/// let numbers = env.source("numbers", Iter::new(0..1_000_000_000_u64));
/// let squares = env.source("squares", Iter::generate(|| (0..1_000_u64).map(|n| n * n)));
/// # Ok(())
/// # }
/// ```
pub struct Iter<I> {
    items: Arc<I>,
}

impl<I> Iter<I>
where
    I: IntoIterator + Clone + Send + Sync + 'static,
{
    /// The items of a cloneable collection or range.
    #[must_use]
    pub fn new(items: I) -> Self {
        Self { items: Arc::new(items) }
    }
}

impl<F, J> Iter<Generate<F>>
where
    F: Fn() -> J + Clone + Send + Sync + 'static,
    J: Iterator,
{
    /// The items of the iterator that `start` makes, for sequences that are computed as they are read. It is called at each start
    /// and each restart and must give the same items every time.
    #[must_use]
    pub fn generate(start: F) -> Self {
        Self::new(Generate(start))
    }
}

// Not derived: neither a clone nor debug output asks anything of the items.
impl<I> Clone for Iter<I> {
    fn clone(&self) -> Self {
        Self { items: Arc::clone(&self.items) }
    }
}

impl<I> fmt::Debug for Iter<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iter").finish_non_exhaustive()
    }
}

/// What [`Iter::generate`] iterates over.
#[derive(Clone)]
pub struct Generate<F>(F);

impl<F> fmt::Debug for Generate<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Generate")
    }
}

impl<F: Fn() -> J, J: Iterator> IntoIterator for Generate<F> {
    type Item = J::Item;
    type IntoIter = J;

    fn into_iter(self) -> J {
        (self.0)()
    }
}

/// How many items of an [`Iter`] have been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IterPosition(pub u64);

impl<I> Source for Iter<I>
where
    I: IntoIterator + Clone + Send + Sync + 'static,
    I::Item: 'static,
    I::IntoIter: 'static,
{
    type Record = I::Item;
    type Split = IterPosition;
    type Reader = IterReader<I>;

    fn parallelism(&self) -> Option<u32> {
        Some(1)
    }

    async fn splits(&self, restored: Option<Vec<IterPosition>>) -> Result<Vec<IterPosition>> {
        match restored.as_deref() {
            // A checkpoint without the position is one from before this source was added.
            None | Some([]) => Ok(vec![IterPosition::default()]),
            Some([position]) => Ok(vec![*position]),
            Some(positions) => Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "an Iter source has one position, the checkpoint holds {}: {positions:?}",
                    positions.len()
                ),
            )
            .into()),
        }
    }

    fn reader(&self, splits: Vec<IterPosition>, _: &SubtaskContext) -> Result<IterReader<I>> {
        let state = match splits.first() {
            Some(position) => State::Closed { items: Arc::clone(&self.items), skip: position.0 },
            None => State::Done,
        };
        Ok(IterReader { splits, state })
    }
}

/// Reads an [`Iter`].
pub struct IterReader<I: IntoIterator> {
    /// One position, or none in a subtask that reads nothing.
    splits: Vec<IterPosition>,
    state: State<I>,
}

enum State<I: IntoIterator> {
    /// Not begun: the items are cloned, and skipped up to the position, in `ready`.
    Closed {
        items: Arc<I>,
        skip: u64,
    },
    Open(I::IntoIter),
    Done,
}

impl<I: IntoIterator> fmt::Debug for IterReader<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IterReader").field("splits", &self.splits).finish_non_exhaustive()
    }
}

impl<I> SourceReader for IterReader<I>
where
    I: IntoIterator + Clone + 'static,
    I::IntoIter: 'static,
{
    type Record = I::Item;
    type Split = IterPosition;

    #[inline]
    fn next(&mut self) -> Result<Option<I::Item>> {
        let (State::Open(items), Some(position)) = (&mut self.state, self.splits.first_mut()) else {
            return Ok(None);
        };
        if let Some(item) = items.next() {
            position.0 += 1;
            return Ok(Some(item));
        }
        // Some iterators begin again after their end: never ask twice.
        self.state = State::Done;
        Ok(None)
    }

    async fn ready(&mut self) -> Result<bool> {
        if let State::Closed { items, skip } = &self.state {
            let mut opened = I::clone(items).into_iter();
            skip_items(&mut opened, *skip).await?;
            self.state = State::Open(opened);
        }
        Ok(matches!(self.state, State::Open(_)))
    }

    fn splits(&self) -> Vec<IterPosition> {
        self.splits.clone()
    }
}

async fn skip_items(items: &mut impl Iterator, count: u64) -> Result {
    let mut left = count;
    // `nth` is one step for vectors and ranges, so they need no slices; the slices keep generators from holding the thread.
    while left > 0 {
        let step = left.min(SKIP_SLICE);
        let last = usize::try_from(step - 1).unwrap_or(usize::MAX);
        if items.nth(last).is_none() {
            return Err(Error::new(
                ErrorKind::Configuration,
                format!(
                    "the items of an Iter source ended before number {count}, which was read before the restart: \
                     it must give the same items every time. Restore them, or start a new job"
                ),
            )
            .into());
        }
        left -= step;
        tokio::task::yield_now().await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connectors::test_support::context;
    use std::sync::atomic::{AtomicU32, Ordering};

    async fn read_all<I>(reader: &mut IterReader<I>) -> Vec<I::Item>
    where
        I: IntoIterator + Clone + 'static,
        I::IntoIter: 'static,
    {
        let mut items = Vec::new();
        loop {
            while let Some(item) = reader.next().unwrap() {
                items.push(item);
            }
            if !reader.ready().await.unwrap() {
                return items;
            }
        }
    }

    #[tokio::test]
    async fn reads_on_from_any_position() {
        let source = Iter::new(vec!["a", "b", "c", "d"]);
        assert_eq!(source.parallelism(), Some(1));
        for taken in 0..=4 {
            let splits = source.splits(None).await.unwrap();
            let mut reader = source.reader(splits, &context(0)).unwrap();
            assert!(reader.next().unwrap().is_none());
            assert!(reader.ready().await.unwrap());
            for _ in 0..taken {
                reader.next().unwrap().unwrap();
            }
            let state = postcard::to_stdvec(&reader.splits()).unwrap();
            let restored: Vec<IterPosition> = postcard::from_bytes(&state).unwrap();
            assert_eq!(restored, [IterPosition(taken)]);
            let splits = source.splits(Some(restored)).await.unwrap();
            let mut again = source.reader(splits, &context(0)).unwrap();
            assert_eq!(read_all(&mut again).await, &["a", "b", "c", "d"][taken as usize..]);
            assert_eq!(again.splits(), [IterPosition(4)]);
        }
    }

    #[tokio::test]
    async fn a_generator_begins_again_at_each_run_and_skips() {
        let starts = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&starts);
        let source = Iter::generate(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            (0..200_000_u64).filter(|n| n % 2 == 0)
        });
        let mut reader = source.reader(vec![IterPosition(99_998)], &context(0)).unwrap();
        assert_eq!(read_all(&mut reader).await, [199_996, 199_998]);
        assert_eq!(starts.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_shorter_replay_is_an_error_and_not_a_loss() {
        let source = Iter::new([1, 2]);
        let mut reader = source.reader(vec![IterPosition(3)], &context(0)).unwrap();
        let error = reader.ready().await.unwrap_err().to_string();
        assert!(error.contains("ended before number 3"), "{error}");
        let error = source.splits(Some(vec![IterPosition(0); 2])).await.unwrap_err().to_string();
        assert!(error.contains("one position"), "{error}");
    }

    #[tokio::test]
    async fn an_iterator_that_begins_again_is_not_asked_after_its_end() {
        let source = Iter::generate(|| {
            let mut n = 0;
            std::iter::from_fn(move || {
                n += 1;
                (n % 3 != 0).then_some(n)
            })
        });
        let mut reader = source.reader(vec![IterPosition(0)], &context(0)).unwrap();
        assert_eq!(read_all(&mut reader).await, [1, 2]);
        assert!(reader.next().unwrap().is_none());
        assert!(!reader.ready().await.unwrap());
    }

    #[tokio::test]
    async fn a_subtask_without_a_split_ends_at_once() {
        let mut reader = Iter::new([1]).reader(vec![], &context(1)).unwrap();
        assert!(!reader.ready().await.unwrap());
        assert!(reader.splits().is_empty());
    }
}
