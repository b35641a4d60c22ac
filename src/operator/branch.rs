//! The stages at which a chain branches: one way on in the chain, another out of it.

use super::stage::blaming;
use super::{Control, Push};
use crate::channel::Flow;
use crate::error::Result;
use crate::types::OperatorId;
use std::marker::PhantomData;
use std::task::Context as TaskContext;

/// What a branching stage does with everything but records: both ways get it. The side is always the end of an edge.
macro_rules! both_ways {
    () => {
        fn resume(&mut self, task: &mut TaskContext<'_>) -> Result<Flow> {
            Ok(self.side.resume(task)?.and(self.down.resume(task)?))
        }

        fn finish(&mut self) -> Result<Flow> {
            Ok(self.side.finish()?.and(self.down.finish()?))
        }

        fn tend(&mut self, task: &mut TaskContext<'_>) -> Result<bool> {
            Ok(self.side.tend(task)? & self.down.tend(task)?)
        }

        fn control(&mut self, control: &mut Control<'_>) -> Result {
            self.side.control(control)?;
            self.down.control(control)
        }
    };
}

/// Each record goes one of two ways.
#[derive(Debug)]
pub struct SplitStage<F, A, B, S, D> {
    f: F,
    owner: Option<OperatorId>,
    side: S,
    down: D,
    to: PhantomData<fn() -> (A, B)>,
}

impl<F, A, B, S, D> SplitStage<F, A, B, S, D> {
    /// What `f` makes `Ok` goes to `down`, the rest to `side`; after the operator `owner` of its chain.
    pub fn new(f: F, owner: Option<OperatorId>, side: S, down: D) -> Self {
        Self { f, owner, side, down, to: PhantomData }
    }
}

impl<T, A, B, F, S, D> Push<T> for SplitStage<F, A, B, S, D>
where
    T: 'static,
    A: 'static,
    B: 'static,
    F: Fn(T) -> std::result::Result<A, B> + 'static,
    S: Push<B>,
    D: Push<A>,
{
    #[inline]
    fn push(&mut self, record: T) -> Result<Flow> {
        match blaming(&self.owner, || (self.f)(record)) {
            Ok(record) => self.down.push(record),
            Err(record) => self.side.push(record),
        }
    }

    both_ways!();
}

/// Each record goes both ways.
#[derive(Debug)]
pub struct TeeStage<S, D> {
    side: S,
    down: D,
}

impl<S, D> TeeStage<S, D> {
    /// To `side` and to `down`.
    pub fn new(side: S, down: D) -> Self {
        Self { side, down }
    }
}

impl<T: Clone + 'static, S: Push<T>, D: Push<T>> Push<T> for TeeStage<S, D> {
    #[inline]
    fn push(&mut self, record: T) -> Result<Flow> {
        let copy = record.clone();
        // On in the chain first: what fails there does not leave through the side.
        let flow = self.down.push(record)?;
        Ok(self.side.push(copy)?.and(flow))
    }

    both_ways!();
}
