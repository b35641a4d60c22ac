//! What becomes of a record whose handler gives an error: the error policy of an operator.

use super::output::Mark;
use super::side::{OutputTag, SideOutput, Sides};
use super::{Core, Operator};
use crate::channel::Record;
use crate::error::{BoxError, Error, Result};
use crate::types::OperatorId;
use serde::{Deserialize, Serialize};
use std::any::{Any, TypeId};
use std::fmt;
use std::sync::Arc;

/// A record that a handler gave an error for, and the error: what [`Stream::dead_letters`](crate::Stream::dead_letters) makes a stream
/// of.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DeadLetter<T> {
    /// The record, as the handler was given it.
    pub record: T,
    /// What the handler said, with its causes.
    pub error: String,
}

/// The error policy of an operator, as it is written down. The default: every error fails the subtask.
#[derive(Clone, Default)]
pub struct ErrorPolicy {
    /// Whether records without dead letters are skipped.
    pub skip: bool,
    letters: Vec<Letters>,
}

/// Declares the side output of this name, and gives the [`Keep`] for it.
type Declare = fn(&str, &mut Sides) -> Result<Box<dyn Any>, Error>;

/// That records of one type become dead letters.
#[derive(Clone)]
struct Letters {
    record: TypeId,
    name: Arc<str>,
    declare: Declare,
}

/// The same at work: how to keep a record of type `T`, and where to.
struct Keep<T> {
    out: SideOutput<DeadLetter<T>>,
    copy: fn(&T) -> T,
    put: fn(&mut Sides, SideOutput<DeadLetter<T>>, DeadLetter<T>) -> bool,
}

impl<T> Clone for Keep<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Keep<T> {}

impl ErrorPolicy {
    /// Records of type `T` go to the side output `tag`. `false` if there is one for them already.
    pub fn add_letters<T: Record>(&mut self, tag: &OutputTag<DeadLetter<T>>) -> bool {
        let record = TypeId::of::<T>();
        if self.letters.iter().any(|letters| letters.record == record) {
            return false;
        }
        let declare: Declare = |name, sides| {
            let out = sides.declare(&OutputTag::<DeadLetter<T>>::new(name))?;
            let put = |sides: &mut Sides, to, letter| sides.put(to, |out| out.push(letter));
            Ok(Box::new(Keep::<T> { out, copy: T::clone, put }))
        };
        self.letters.push(Letters { record, name: tag.name().into(), declare });
        true
    }

    /// The policy at work in one subtask; `None` if every error fails it.
    ///
    /// # Errors
    /// When the operator has declared a side output of the same name.
    pub(crate) fn begin(
        &self,
        operator: &OperatorId,
        sides: &mut Sides,
    ) -> Result<Option<Box<Rescue>>, Error> {
        if !self.skip && self.letters.is_empty() {
            return Ok(None);
        }
        let letters = self.letters.iter().map(|letters| (letters.declare)(&letters.name, sides));
        let letters = letters.collect::<Result<_, _>>()?;
        Ok(Some(Box::new(Rescue {
            operator: operator.clone(),
            skip: self.skip,
            letters,
            sides: Vec::new(),
            warned: false,
        })))
    }
}

/// An [`ErrorPolicy`] at work in one subtask.
pub(crate) struct Rescue {
    operator: OperatorId,
    skip: bool,
    /// A [`Keep`] for each type of record that is kept.
    letters: Vec<Box<dyn Any>>,
    /// Where the side outputs stood before the call.
    sides: Vec<Option<Mark>>,
    /// Whether the first error has been logged.
    warned: bool,
}

impl Rescue {
    fn keep<T: 'static>(&self) -> Option<Keep<T>> {
        self.letters.iter().find_map(|keep| keep.downcast_ref().copied())
    }

    #[cold]
    fn log(&mut self, error: &BoxError) {
        let operator = &self.operator;
        if std::mem::replace(&mut self.warned, true) {
            tracing::debug!(%operator, %error, "a record was skipped");
        } else {
            tracing::warn!(%operator, %error, "a record was skipped: its handler gave an error. Further ones are logged as debug");
        }
    }
}

/// Calls a handler for one record. `RESCUE`: whether its operator has an error policy; one without pays nothing.
#[inline]
pub(super) fn handled<T, O, const RESCUE: bool>(
    operator: &mut O,
    record: T,
    core: &mut Core<O::Out, O::Key>,
    handle: impl FnOnce(&mut O, T, &mut Core<O::Out, O::Key>) -> Result,
) -> Result
where
    T: 'static,
    O: Operator,
{
    if RESCUE { rescued(operator, record, core, handle) } else { handle(operator, record, core) }
}

/// The same where errors have a policy. What the call emitted is taken back when it fails; a panic goes its way.
fn rescued<T, O>(
    operator: &mut O,
    record: T,
    core: &mut Core<O::Out, O::Key>,
    handle: impl FnOnce(&mut O, T, &mut Core<O::Out, O::Key>) -> Result,
) -> Result
where
    T: 'static,
    O: Operator,
{
    let keep = core.rescue.as_ref().and_then(|rescue| rescue.keep::<T>());
    let Some(mut rescue) = core.rescue.take_if(|rescue| keep.is_some() || rescue.skip) else {
        return handle(operator, record, core);
    };
    let kept = keep.map(|keep| (keep, (keep.copy)(&record)));
    let mark = core.out.mark();
    core.sides.mark(&mut rescue.sides);
    let result = handle(operator, record, core);
    let result = match result {
        Err(error) if Error::may_pass(&error) => {
            core.out.rewind(mark);
            core.sides.rewind(&rescue.sides);
            core.skipped();
            rescue.log(&error);
            if let Some((Keep { out, put, .. }, record)) = kept {
                let letter = DeadLetter { record, error: text_of(&error) };
                core.put_aside(|sides| put(sides, out, letter));
            }
            Ok(())
        }
        result => result,
    };
    core.rescue = Some(rescue);
    result
}

/// An error with its causes. Those of this crate say them themselves.
fn text_of(error: &BoxError) -> String {
    let mut text = error.to_string();
    let mut error: &(dyn std::error::Error + 'static) = &**error;
    while let (false, Some(cause)) = (error.is::<Error>(), error.source()) {
        text = format!("{text}: {cause}");
        error = cause;
    }
    text
}

impl fmt::Debug for ErrorPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters: Vec<&str> = self.letters.iter().map(|letters| &*letters.name).collect();
        f.debug_struct("ErrorPolicy").field("skip", &self.skip).field("letters", &letters).finish()
    }
}
