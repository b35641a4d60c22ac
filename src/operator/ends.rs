//! Sources and sinks without their types: what a region does with them once per start, before any subtask runs.

use super::{Claim, RecoveryContext, Replay, Sink, Source, StartContext};
use crate::error::{BoxError, Error, ErrorKind};
use crate::state::codec;
use crate::types::OperatorId;
use async_trait::async_trait;
use serde::de::DeserializeOwned;
use std::marker::PhantomData;

/// A source as the region sees it: it turns restored splits into the shares of its subtasks. Splits are encoded.
#[async_trait]
pub trait AnySource: Send + Sync + 'static {
    /// One list of splits per subtask.
    async fn assign(
        &self,
        restored: Option<Vec<Vec<u8>>>,
        parallelism: u32,
    ) -> Result<Vec<Vec<Vec<u8>>>, Error>;

    /// See [`Source::replay`].
    fn replay(&self) -> Replay;

    /// See [`Source::claim`].
    fn claim(&self, start: &StartContext) -> Result<Claim, Error>;
}

/// A sink as the region sees it.
#[async_trait]
pub trait AnySink: Send + Sync + 'static {
    /// See [`Sink::claim`].
    fn claim(&self, start: &StartContext) -> Result<Claim, Error>;

    /// See [`Sink::recover`] and [`Sink::abort`]. Commits are encoded.
    async fn recover(
        &self,
        restored: Vec<Vec<u8>>,
        open: Vec<Vec<u8>>,
        context: &RecoveryContext,
    ) -> Result<(), Error>;
}

/// A source with its uid.
#[derive(Debug)]
pub struct SourceEnd<S> {
    /// Its uid.
    pub id: OperatorId,
    /// The source.
    pub source: S,
}

/// A sink with its uid.
#[derive(Debug)]
pub struct SinkEnd<T, S> {
    id: OperatorId,
    sink: S,
    takes: PhantomData<fn(T)>,
}

impl<T, S> SinkEnd<T, S> {
    /// The sink `id`.
    pub fn new(id: OperatorId, sink: S) -> Self {
        Self { id, sink, takes: PhantomData }
    }
}

fn decode<T: DeserializeOwned>(encoded: &[Vec<u8>], what: &str, id: &OperatorId) -> Result<Vec<T>, Error> {
    encoded
        .iter()
        .map(|bytes| postcard::from_bytes(bytes))
        .collect::<Result<_, _>>()
        .map_err(|cause| {
            let message = format!(
                "the {what} in the checkpoint cannot be read: they were stored by another type of source or sink; \
                 go back to the program that stored them, or give this operator a new uid"
            );
            Error::new(ErrorKind::Program, message).operator(id).because(cause)
        })
}

fn storable<T: DeserializeOwned>(what: &str, id: &OperatorId) -> Result<(), Error> {
    codec::check::<T>().map_err(|why| {
        Error::new(ErrorKind::Program, format!("the type of its {what}s cannot be stored"))
            .operator(id)
            .because(why)
    })
}

fn failed(what: &str, id: &OperatorId, cause: BoxError) -> Error {
    Error::from_cause(ErrorKind::Failed, what, cause).operator(id)
}

#[async_trait]
impl<S: Source> AnySource for SourceEnd<S> {
    async fn assign(
        &self,
        restored: Option<Vec<Vec<u8>>>,
        parallelism: u32,
    ) -> Result<Vec<Vec<Vec<u8>>>, Error> {
        storable::<S::Split>("split", &self.id)?;
        let restored = match restored {
            Some(encoded) => Some(decode::<S::Split>(&encoded, "splits", &self.id)?),
            None => None,
        };
        let splits = self
            .source
            .splits(restored)
            .await
            .map_err(|cause| failed("the source cannot tell its splits", &self.id, cause))?;
        let given = splits.len();
        let mut shares = self.source.assign(splits, parallelism);
        if shares.iter().map(Vec::len).sum::<usize>() != given || shares.len() > parallelism as usize {
            let message =
                format!("Source::assign must hand out all {given} splits to {parallelism} subtasks");
            return Err(Error::new(ErrorKind::Program, message).operator(&self.id));
        }
        shares.resize_with(parallelism as usize, Vec::new);
        let encode = |share: &Vec<S::Split>| share.iter().map(codec::encode).collect::<Result<Vec<_>, _>>();
        shares.iter().map(encode).collect::<Result<_, _>>().map_err(|cause| {
            Error::new(ErrorKind::Program, "a split of the source cannot be encoded")
                .operator(&self.id)
                .because(cause)
        })
    }

    fn replay(&self) -> Replay {
        self.source.replay()
    }

    fn claim(&self, start: &StartContext) -> Result<Claim, Error> {
        self.source.claim(start).map_err(|cause| failed("the source cannot be used", &self.id, cause))
    }
}

#[async_trait]
impl<T: 'static, S: Sink<T>> AnySink for SinkEnd<T, S> {
    fn claim(&self, start: &StartContext) -> Result<Claim, Error> {
        self.sink.claim(start).map_err(|cause| failed("the sink cannot be used", &self.id, cause))
    }

    async fn recover(
        &self,
        restored: Vec<Vec<u8>>,
        open: Vec<Vec<u8>>,
        context: &RecoveryContext,
    ) -> Result<(), Error> {
        storable::<S::Commit>("commit", &self.id)?;
        let commits = decode::<S::Commit>(&restored, "commits", &self.id)?;
        let open = decode::<S::Commit>(&open, "open transactions", &self.id)?;
        let failed = |cause| failed("the sink cannot recover", &self.id, cause);
        self.sink.recover(commits, context).await.map_err(failed)?;
        self.sink.abort(open, context).await.map_err(failed)
    }
}
