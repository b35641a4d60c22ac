//! Where a stream is while no subtask reads it.

use super::feed::{BoxStream, Feed, Keep};
use crate::connectors::ingest::Link;
use crate::error::{Error, ErrorKind};
use crate::operator::StartContext;
use crate::types::{JobName, Random};
use futures::task::AtomicWaker;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as TaskContext, Wake};

/// Outlives the runs of a job. A run's reader takes the stream out and gives it back.
pub(super) struct Slot<T> {
    id: u64,
    state: Mutex<State<T>>,
    /// How many records a completed checkpoint covers.
    covered: AtomicU64,
    reader: Arc<Reader>,
    link: Option<Arc<Link>>,
}

/// The reader, if it waits. The stream's waker wakes it: that stays with the stream when the reader's threads are gone.
#[derive(Default)]
struct Reader(AtomicWaker);

impl Wake for Reader {
    fn wake(self: Arc<Self>) {
        self.0.wake();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.wake();
    }
}

struct State<T> {
    /// Who reads, or read last.
    job: Option<JobName>,
    in_use: bool,
    place: Place<T>,
}

enum Place<T> {
    Here(Feed<T>),
    /// A reader has it.
    Taken,
    /// The stream has panicked.
    Broken,
}

impl<T> Slot<T> {
    pub(super) fn new(stream: BoxStream<T>, link: Option<Arc<Link>>) -> Self {
        let reader = Arc::new(Reader::default());
        let feed = Feed::new(stream, Arc::clone(&reader).into());
        Self {
            // 0 stands for no stream.
            id: Random::from_os().next_u64().max(1),
            state: Mutex::new(State { job: None, in_use: false, place: Place::Here(feed) }),
            covered: AtomicU64::new(0),
            reader,
            link,
        }
    }

    /// Tells this stream from others, also from those of other processes.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Gives the stream to a job until the guard is dropped.
    pub(super) fn claim(
        slot: &Arc<Self>,
        start: &StartContext,
        keep: Option<Keep<T>>,
    ) -> Result<Reading<T>, Error> {
        let mut state = slot.lock();
        let State { job, in_use, place } = &mut *state;
        let last = job.as_ref().map_or_else(|| "another job".to_owned(), |job| format!("job `{job}`"));
        if *in_use {
            return Err(program(format!(
                "{last} reads this stream, and a stream of this process serves one job at a time: wait until that job has ended, \
                 or give this one a source of its own"
            )));
        }
        let feed = match place {
            Place::Here(feed) => feed,
            Place::Taken => {
                return Err(program(format!(
                    "a subtask of {last} that did not stop still holds the stream: restart the process"
                )));
            }
            Place::Broken => return Err(broken()),
        };
        let goes_on = job.as_ref() == Some(&start.job);
        // A job that resumes may have been cancelled between the end of the stream and its own.
        if feed.is_used_up() && start.restored.is_none() {
            return Err(program(format!(
                "{last} has read this stream to its end, and it cannot be read again: make a new environment with a new source"
            )));
        }
        feed.begin(keep, goes_on);
        *job = Some(start.job.clone());
        *in_use = true;
        if let Some(link) = &slot.link {
            link.begin();
        }
        Ok(Reading(Arc::clone(slot)))
    }

    /// Takes the stream out, for a reader.
    pub(super) fn take(&self) -> Result<Feed<T>, Error> {
        let mut state = self.lock();
        match std::mem::replace(&mut state.place, Place::Taken) {
            Place::Here(feed) => Ok(feed),
            Place::Taken => Err(Error::new(ErrorKind::Internal, "a stream was to be read by two subtasks")),
            Place::Broken => {
                state.place = Place::Broken;
                Err(broken())
            }
        }
    }

    pub(super) fn give_back(&self, feed: Feed<T>) {
        drop(self.reader.0.take());
        self.lock().place = if feed.is_broken() { Place::Broken } else { Place::Here(feed) };
    }

    /// A completed checkpoint covers so many records.
    pub(super) fn cover(&self, records: u64) {
        self.covered.fetch_max(records, Ordering::Release);
        self.reader.0.wake();
    }

    pub(super) fn covered(&self) -> u64 {
        self.covered.load(Ordering::Acquire)
    }

    /// Has `task` woken when the stream has something, or more is covered.
    pub(super) fn wait(&self, task: &TaskContext<'_>) {
        self.reader.0.register(task.waker());
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn program(message: String) -> Error {
    Error::new(ErrorKind::Program, message)
}

fn broken() -> Error {
    program(
        "the stream has panicked, and what is left of it cannot be read: mend it and make a new source"
            .into(),
    )
}

/// A job has the stream.
pub(super) struct Reading<T>(Arc<Slot<T>>);

impl<T> Drop for Reading<T> {
    fn drop(&mut self) {
        self.0.lock().in_use = false;
        if let Some(link) = &self.0.link {
            link.end();
        }
    }
}
