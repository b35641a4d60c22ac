//! The stages of plain closures: map, filter, filter_map, flat_map, inspect.

use super::output::STRETCH;
use super::stage::{blaming, pass_on};
use super::{Control, Push};
use crate::channel::Flow;
use crate::error::Result;
use crate::types::OperatorId;
use std::marker::PhantomData;
use std::task::Context as TaskContext;

macro_rules! closure_stage {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name<F, U, D> {
            f: F,
            owner: Option<OperatorId>,
            down: D,
            to: PhantomData<fn() -> U>,
        }

        impl<F, U, D> $name<F, U, D> {
            /// In front of `down`, after the operator `owner` of its chain.
            pub fn new(f: F, owner: Option<OperatorId>, down: D) -> Self {
                Self { f, owner, down, to: PhantomData }
            }
        }
    };
}

closure_stage! {
    /// One record in, one out.
    MapStage
}
closure_stage! {
    /// One record in, one out, or an error.
    TryMapStage
}
closure_stage! {
    /// Lets some records through.
    FilterStage
}
closure_stage! {
    /// One record in, one or none out.
    FilterMapStage
}
closure_stage! {
    /// Looks at each record.
    InspectStage
}

impl<T: 'static, U: 'static, F: Fn(T) -> U + 'static, D: Push<U>> Push<T> for MapStage<F, U, D> {
    #[inline]
    fn push(&mut self, record: T) -> Result<Flow> {
        let record = blaming(&self.owner, || (self.f)(record));
        self.down.push(record)
    }

    #[inline]
    fn push_all<I: Iterator<Item = T>>(&mut self, records: &mut I) -> Result<Flow> {
        let Self { f, owner, down, .. } = self;
        down.push_all(&mut records.map(|record| blaming(owner, || f(record))))
    }

    pass_on!();
}

impl<T: 'static, U: 'static, F: Fn(T) -> Result<U> + 'static, D: Push<U>> Push<T> for TryMapStage<F, U, D> {
    #[inline]
    fn push(&mut self, record: T) -> Result<Flow> {
        let record = blaming(&self.owner, || (self.f)(record))?;
        self.down.push(record)
    }

    pass_on!();
}

impl<T: 'static, F: Fn(&T) -> bool + 'static, D: Push<T>> Push<T> for FilterStage<F, T, D> {
    #[inline]
    fn push(&mut self, record: T) -> Result<Flow> {
        let keep = blaming(&self.owner, || (self.f)(&record));
        if keep { self.down.push(record) } else { Ok(Flow::Ready) }
    }

    #[inline]
    fn push_all<I: Iterator<Item = T>>(&mut self, records: &mut I) -> Result<Flow> {
        let Self { f, owner, down, .. } = self;
        down.push_all(&mut records.filter(|record| blaming(owner, || f(record))))
    }

    pass_on!();
}

impl<T, U, F, D> Push<T> for FilterMapStage<F, U, D>
where
    T: 'static,
    U: 'static,
    F: Fn(T) -> Option<U> + 'static,
    D: Push<U>,
{
    #[inline]
    fn push(&mut self, record: T) -> Result<Flow> {
        match blaming(&self.owner, || (self.f)(record)) {
            Some(record) => self.down.push(record),
            None => Ok(Flow::Ready),
        }
    }

    #[inline]
    fn push_all<I: Iterator<Item = T>>(&mut self, records: &mut I) -> Result<Flow> {
        let Self { f, owner, down, .. } = self;
        down.push_all(&mut records.filter_map(|record| blaming(owner, || f(record))))
    }

    pass_on!();
}

impl<T: 'static, F: Fn(&T) + 'static, D: Push<T>> Push<T> for InspectStage<F, T, D> {
    #[inline]
    fn push(&mut self, record: T) -> Result<Flow> {
        blaming(&self.owner, || (self.f)(&record));
        self.down.push(record)
    }

    #[inline]
    fn push_all<I: Iterator<Item = T>>(&mut self, records: &mut I) -> Result<Flow> {
        let Self { f, owner, down, .. } = self;
        down.push_all(&mut records.inspect(|record| blaming(owner, || f(record))))
    }

    pass_on!();
}

/// One record in, as many out as its iterator gives, pulled as there is room, and never so many at a stretch that the other subtasks
/// of the thread, or a command to this one, have to wait for long.
#[derive(Debug)]
pub struct FlatMapStage<F, I: IntoIterator, D> {
    f: F,
    owner: Option<OperatorId>,
    rest: Option<I::IntoIter>,
    /// Whether it stopped for others to have their turn, not for want of room.
    paused: bool,
    down: D,
}

impl<F, I: IntoIterator, D: Push<I::Item>> FlatMapStage<F, I, D> {
    /// In front of `down`, after the operator `owner` of its chain.
    pub fn new(f: F, owner: Option<OperatorId>, down: D) -> Self {
        Self { f, owner, rest: None, paused: false, down }
    }

    #[inline]
    fn pull(&mut self, mut iter: I::IntoIter) -> Result<Flow> {
        let Self { owner, down, .. } = self;
        let mut left = STRETCH;
        let mut ended = false;
        let mut stretch = std::iter::from_fn(|| {
            left = left.checked_sub(1)?;
            let record = blaming(owner, || iter.next());
            ended = record.is_none();
            record
        });
        let flow = down.push_all(&mut stretch)?;
        if flow == Flow::Ready && ended {
            return Ok(Flow::Ready);
        }
        self.paused = flow == Flow::Ready;
        self.rest = Some(iter);
        Ok(Flow::Full)
    }
}

impl<T, I, F, D> Push<T> for FlatMapStage<F, I, D>
where
    T: 'static,
    I: IntoIterator + 'static,
    F: Fn(T) -> I + 'static,
    D: Push<I::Item>,
{
    #[inline]
    fn push(&mut self, record: T) -> Result<Flow> {
        let iter = blaming(&self.owner, || (self.f)(record).into_iter());
        self.pull(iter)
    }

    fn resume(&mut self, task: &mut TaskContext<'_>) -> Result<Flow> {
        self.paused = false;
        while self.down.resume(task)? == Flow::Ready {
            let Some(rest) = self.rest.take() else { return Ok(Flow::Ready) };
            if self.pull(rest)? == Flow::Ready {
                return Ok(Flow::Ready);
            }
            if self.paused {
                task.waker().wake_by_ref();
                break;
            }
        }
        Ok(Flow::Full)
    }

    fn finish(&mut self) -> Result<Flow> {
        self.down.finish()
    }

    fn tend(&mut self, task: &mut TaskContext<'_>) -> Result<bool> {
        self.down.tend(task)
    }

    fn control(&mut self, control: &mut Control<'_>) -> Result {
        self.down.control(control)
    }
}
