//! Records as lines on standard output or another writer.

use crate::connectors::line::push_line;
use crate::error::{Error, ErrorKind, Result};
use crate::operator::{BoxFuture, Sink, SinkWriter, SubtaskContext};
use crate::storage::blocking;
use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes gathered before the subtask waits for them to be written.
const BUFFER: usize = 64 * 1024;

type Out = Box<dyn Write + Send>;

/// Writes each record as one line, by its [`Display`](fmt::Display).
///
/// **At least once**: a line is written as soon as input runs out or 64 KiB are there, and lines after the last checkpoint are
/// written again after a restart. Use a [`FileSink`](super::FileSink) where a repeated line would be wrong. At a checkpoint
/// everything before it is written and flushed. Lines of one subtask keep their order; those of parallel subtasks mix, by whole lines.
///
/// ```
/// # use strandline::prelude::*;
/// # fn main() -> Result {
/// # let env = Environment::builder().build()?;
/// env.source("numbers", Iter::new(0..10)).sink("print", Print::stdout());
/// env.source("letters", Iter::new('a'..'e')).sink("log", Print::to(|| Box::new(std::io::stderr())));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Print {
    open: Arc<dyn Fn() -> Out + Send + Sync>,
}

impl Print {
    /// To standard output.
    #[must_use]
    pub fn stdout() -> Self {
        Self::to(|| Box::new(io::stdout()))
    }

    /// To the writer that `open` makes. It is called for each subtask at every run, on the subtask's own thread, so it must not
    /// block; the writer is used on a thread for blocking work. It is given whole lines at a time and flushed after them.
    #[must_use]
    pub fn to(open: impl Fn() -> Box<dyn Write + Send> + Send + Sync + 'static) -> Self {
        Self { open: Arc::new(open) }
    }
}

impl fmt::Debug for Print {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Print").finish_non_exhaustive()
    }
}

impl<T: fmt::Display + 'static> Sink<T> for Print {
    type Commit = ();
    type Writer = PrintWriter;

    fn writer(&self, _: &SubtaskContext) -> Result<PrintWriter> {
        let lines = Lines { pending: Mutex::default(), out: Mutex::new(Some((self.open)())) };
        Ok(PrintWriter { buffer: Vec::new(), lines: Arc::new(lines) })
    }
}

/// Writes one subtask's lines of a [`Print`].
pub struct PrintWriter {
    buffer: Vec<u8>,
    lines: Arc<Lines>,
}

impl fmt::Debug for PrintWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrintWriter").field("buffered", &self.buffer.len()).finish_non_exhaustive()
    }
}

impl PrintWriter {
    /// Hands the buffer over now, and writes it when awaited.
    fn hand_over(&mut self) -> impl Future<Output = Result> + Send + use<> {
        lock(&self.lines.pending).append(&mut self.buffer);
        let lines = Arc::clone(&self.lines);
        async move {
            blocking(move || lines.write_pending())
                .await
                .map_err(|error| Error::new(ErrorKind::Storage, "cannot print").because(error).into())
        }
    }
}

impl<T: fmt::Display + 'static> SinkWriter<T> for PrintWriter {
    type Commit = ();

    fn write(&mut self, record: T) -> Result {
        push_line(&record, &mut self.buffer)
    }

    fn is_full(&self) -> bool {
        self.buffer.len() >= BUFFER
    }

    async fn flush(&mut self) -> Result {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.hand_over().await
    }

    fn prepare(&mut self) -> Result<BoxFuture<Result<Vec<()>>>> {
        let written = self.hand_over();
        Ok(Box::pin(async move {
            written.await?;
            Ok(Vec::new())
        }))
    }
}

/// A subtask's lines on their way out. Bytes are added to `pending` in the order of the records, and whoever gets to write writes
/// all of them; so a flush that overtakes the future of a `prepare` does not swap lines.
struct Lines {
    pending: Mutex<Vec<u8>>,
    /// `None` after an error: what is written after a gap would hide it.
    out: Mutex<Option<Out>>,
}

impl Lines {
    fn write_pending(&self) -> io::Result<()> {
        // Held while writing: when it is free, whatever was pending before has been written.
        let mut slot = lock(&self.out);
        let Some(mut out) = slot.take() else {
            return Err(io::Error::other("an earlier write failed"));
        };
        let pending = std::mem::take(&mut *lock(&self.pending));
        out.write_all(&pending)?;
        out.flush()?;
        *slot = Some(out);
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panicking writer leaves is a consistent state: no writer.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connectors::test_support::context;

    /// Shows what was flushed; fails or panics after so many writes.
    #[derive(Clone, Default)]
    struct Paper {
        flushed: Arc<Mutex<String>>,
        written: String,
        writes_left: Option<usize>,
    }

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if let Some(left) = &mut self.writes_left {
                *left = left.checked_sub(1).ok_or_else(|| io::Error::other("out of paper"))?;
            }
            self.written.push_str(std::str::from_utf8(bytes).unwrap());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            self.flushed.lock().unwrap().push_str(&std::mem::take(&mut self.written));
            Ok(())
        }
    }

    fn writer(paper: &Paper) -> PrintWriter {
        let paper = paper.clone();
        let print = Print::to(move || Box::new(paper.clone()));
        Sink::<u32>::writer(&print, &context(0)).unwrap()
    }

    fn write(writer: &mut PrintWriter, record: u32) {
        SinkWriter::<u32>::write(writer, record).unwrap();
    }

    async fn flush(writer: &mut PrintWriter) -> Result {
        SinkWriter::<u32>::flush(writer).await
    }

    fn prepare(writer: &mut PrintWriter) -> BoxFuture<Result<Vec<()>>> {
        SinkWriter::<u32>::prepare(writer).unwrap()
    }

    #[tokio::test]
    async fn lines_appear_at_a_flush_and_at_a_checkpoint() {
        let paper = Paper::default();
        let mut writer = writer(&paper);
        write(&mut writer, 1);
        assert_eq!(*paper.flushed.lock().unwrap(), "");
        flush(&mut writer).await.unwrap();
        assert_eq!(*paper.flushed.lock().unwrap(), "1\n");
        write(&mut writer, 2);
        assert!(prepare(&mut writer).await.unwrap().is_empty());
        assert_eq!(*paper.flushed.lock().unwrap(), "1\n2\n");
    }

    #[tokio::test]
    async fn a_late_prepare_does_not_swap_lines() {
        let paper = Paper::default();
        let mut writer = writer(&paper);
        write(&mut writer, 1);
        let prepared = prepare(&mut writer);
        write(&mut writer, 2);
        flush(&mut writer).await.unwrap();
        prepared.await.unwrap();
        assert_eq!(*paper.flushed.lock().unwrap(), "1\n2\n");
    }

    #[tokio::test]
    async fn a_failed_write_fails_every_later_one() {
        let paper = Paper { writes_left: Some(0), ..Paper::default() };
        let mut writer = writer(&paper);
        write(&mut writer, 1);
        let prepared = prepare(&mut writer);
        write(&mut writer, 2);
        let error = flush(&mut writer).await.unwrap_err().to_string();
        assert!(error.contains("out of paper"), "{error}");
        assert!(prepared.await.is_err(), "lost a line and did not say so");
    }

    #[tokio::test]
    async fn a_full_buffer_asks_for_a_flush() {
        let mut writer = writer(&Paper::default());
        let full = |writer: &PrintWriter| SinkWriter::<u32>::is_full(writer);
        while !full(&writer) {
            write(&mut writer, 1_000_000);
        }
        assert!(writer.buffer.len() < BUFFER + 100);
        flush(&mut writer).await.unwrap();
        assert!(!full(&writer));
    }
}
