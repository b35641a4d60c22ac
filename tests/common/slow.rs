//! A sink that takes its time, so that records pile up in front of it.

use std::time::Duration;
use strandline::prelude::*;
use strandline::{BoxFuture, Preparation, RecoveryContext, SinkWriter, SubtaskContext};

/// Another sink, which takes so long for each record. On virtual time it costs none.
#[derive(Debug, Clone)]
pub struct Slow<S> {
    pub sink: S,
    pub each: Duration,
}

pub struct SlowWriter<W> {
    writer: W,
    each: Duration,
    is_full: bool,
}

impl<T: 'static, S: Sink<T>> Sink<T> for Slow<S> {
    type Commit = S::Commit;
    type Writer = SlowWriter<S::Writer>;

    fn claim(&self, start: &strandline::StartContext) -> Result<strandline::Claim> {
        self.sink.claim(start)
    }

    fn recover(
        &self,
        restored: Vec<S::Commit>,
        context: &RecoveryContext,
    ) -> impl Future<Output = Result> + Send {
        self.sink.recover(restored, context)
    }

    fn abort(&self, open: Vec<S::Commit>, context: &RecoveryContext) -> impl Future<Output = Result> + Send {
        self.sink.abort(open, context)
    }

    fn discard(&self, open: Vec<S::Commit>) -> impl Future<Output = Result> + Send {
        self.sink.discard(open)
    }

    fn writer(&self, context: &SubtaskContext) -> Result<Self::Writer> {
        Ok(SlowWriter { writer: self.sink.writer(context)?, each: self.each, is_full: false })
    }

    fn retries(&self) -> strandline::CommitRetries {
        self.sink.retries()
    }

    fn commit(&self, commits: Vec<S::Commit>) -> impl Future<Output = Result> + Send {
        self.sink.commit(commits)
    }

    fn try_commit(&self, commits: Vec<S::Commit>) -> impl Future<Output = Result<Vec<S::Commit>>> + Send {
        self.sink.try_commit(commits)
    }
}

impl<T, W: SinkWriter<T>> SinkWriter<T> for SlowWriter<W> {
    type Commit = W::Commit;

    fn write(&mut self, record: T) -> Result {
        self.is_full = true;
        self.writer.write(record)
    }

    fn is_full(&self) -> bool {
        self.is_full
    }

    async fn flush(&mut self) -> Result {
        if std::mem::take(&mut self.is_full) {
            tokio::time::sleep(self.each).await;
        }
        self.writer.flush().await
    }

    fn prepare(&mut self) -> Result<BoxFuture<Result<Vec<W::Commit>>>> {
        self.writer.prepare()
    }

    fn prepare_for(&mut self, preparation: Preparation) -> Result<BoxFuture<Result<Vec<W::Commit>>>> {
        self.writer.prepare_for(preparation)
    }

    fn open(&self) -> Vec<W::Commit> {
        self.writer.open()
    }
}
