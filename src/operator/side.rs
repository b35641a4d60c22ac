//! Side outputs: further ways out of an operator, each with a type of its own.

use super::edge::RouteStage;
use super::output::{Mark, Output};
use super::{BuildContext, Control, Push};
use crate::channel::{Flow, RoundRobin, Router};
use crate::error::{Error, ErrorKind, Result};
use crate::types::{EdgeId, OperatorId, stable_hash};
use std::any::{Any, type_name};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::Context as TaskContext;

/// Names a side output of an operator, and says what it carries.
///
/// The same tag, or another one of the same name and type, is used twice: in the operator's factory, where
/// [`Setup::side_output`](super::Setup::side_output) makes of it what the handler emits into, and on the stream after
/// `process`, where [`Stream::side_output`](crate::Stream::side_output) makes of it a stream.
pub struct OutputTag<U> {
    name: Arc<str>,
    carries: PhantomData<fn() -> U>,
}

impl<U: Send + 'static> OutputTag<U> {
    /// The side output `name` of records of type `U`. Names are unique per operator.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), carries: PhantomData }
    }
}

impl<U> OutputTag<U> {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl<U> Clone for OutputTag<U> {
    fn clone(&self) -> Self {
        Self { name: Arc::clone(&self.name), carries: PhantomData }
    }
}

impl<U> fmt::Debug for OutputTag<U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OutputTag({:?} of {})", &*self.name, type_name::<U>())
    }
}

/// What an operator emits into a side output with: a slot, like the handle of a state. Declared with
/// [`Setup::side_output`](super::Setup::side_output).
///
/// What it is given obeys the same rules as what [`Context::emit`](super::Context::emit) is given: it goes out after the call, is held back by a slow
/// consumer, and nothing of a call that fails leaves the subtask. Records of one side output stay in the order in which they were
/// emitted; there is no order between it and the main output. A side output that no stream was made of drops what it is given.
pub struct SideOutput<U> {
    owner: u32,
    index: usize,
    carries: PhantomData<fn(U)>,
}

impl<U> Clone for SideOutput<U> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<U> Copy for SideOutput<U> {}

impl<U> fmt::Debug for SideOutput<U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SideOutput({})", self.index)
    }
}

impl<U: Send + 'static> SideOutput<U> {
    /// Sends one record into this side output; see [`Context::emit`](super::Context::emit).
    #[inline]
    pub fn emit<C: SideAccess>(&self, ctx: &mut C, record: U) {
        ctx.emit_side(*self, |out| out.push(record));
    }

    /// Sends what an iterator gives, pulled only as there is room; see [`Context::emit_iter`](super::Context::emit_iter).
    pub fn emit_iter<C, I>(&self, ctx: &mut C, records: I)
    where
        C: SideAccess,
        I: IntoIterator<Item = U>,
        I::IntoIter: 'static,
    {
        ctx.emit_side(*self, |out| out.push_iter(records.into_iter()));
    }
}

/// Access to the side outputs of an operator; every context implements it.
pub trait SideAccess {
    /// Puts something into a side output, if anyone takes it.
    #[doc(hidden)]
    fn emit_side<U: Send + 'static>(&mut self, to: SideOutput<U>, put: impl FnOnce(&mut Output<U>));
}

/// That a stream was made of a side output: where its records go.
#[derive(Clone)]
pub struct TakenSide {
    name: Arc<str>,
    edge: EdgeId,
    make: fn(&OperatorId, EdgeId, &mut BuildContext) -> Box<dyn AnySide>,
}

impl TakenSide {
    /// The records of `tag` go to `edge`.
    pub fn new<U: Send + 'static>(tag: &OutputTag<U>, edge: EdgeId) -> Self {
        Self { name: Arc::clone(&tag.name), edge, make: Side::<U>::make }
    }

    /// The name of the side output.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// A side output with a stream behind it.
struct Side<U> {
    owner: OperatorId,
    out: Output<U>,
    route: RouteStage<Router<U, RoundRobin>>,
}

impl<U: Send + 'static> Side<U> {
    fn make(owner: &OperatorId, edge: EdgeId, context: &mut BuildContext) -> Box<dyn AnySide> {
        Box::new(Self {
            owner: owner.clone(),
            out: Output::default(),
            route: RouteStage::in_turn(edge, context),
        })
    }
}

/// A [`Side`] whose type is not known: for what happens once per slice or control, never per record.
trait AnySide: Any {
    fn carries(&self) -> &'static str;
    fn take_count(&mut self) -> u64;
    fn mark(&self) -> Mark;
    fn rewind(&mut self, mark: Mark);
    fn drain(&mut self) -> Result<Flow>;
    fn resume(&mut self, task: &mut TaskContext<'_>) -> Result<Flow>;
    fn control(&mut self, control: &mut Control<'_>) -> Result;
}

impl<U: Send + 'static> AnySide for Side<U> {
    fn carries(&self) -> &'static str {
        type_name::<U>()
    }

    fn take_count(&mut self) -> u64 {
        self.out.take_count()
    }

    fn mark(&self) -> Mark {
        self.out.mark()
    }

    fn rewind(&mut self, mark: Mark) {
        self.out.rewind(mark);
    }

    fn drain(&mut self) -> Result<Flow> {
        self.out.drain(&self.owner, &mut self.route)
    }

    fn resume(&mut self, task: &mut TaskContext<'_>) -> Result<Flow> {
        self.out.resume(&self.owner, &mut self.route, task)
    }

    fn control(&mut self, control: &mut Control<'_>) -> Result {
        self.route.control(control)
    }
}

/// All side outputs of an operator in one subtask.
#[derive(Default)]
pub struct Sides {
    owner: u32,
    declared: Vec<Declared>,
    /// Of which streams were made, and which the factory has not declared yet.
    expected: Vec<(Arc<str>, Box<dyn AnySide>)>,
    /// Whether something was emitted since the last drain, or did not get through then.
    waiting: bool,
    /// Whether the operator has been asked to have it drained before the next record.
    asked: bool,
}

struct Declared {
    name: String,
    /// `None` if nobody takes it.
    side: Option<Box<dyn AnySide>>,
}

impl Sides {
    /// Those of `operator`, of which `taken` are expected to be declared.
    #[must_use]
    #[allow(clippy::cast_possible_truncation)] // half a hash is enough to tell operators apart
    pub fn new(operator: &OperatorId, taken: &[TakenSide], context: &mut BuildContext) -> Self {
        let expected =
            taken.iter().map(|taken| (Arc::clone(&taken.name), (taken.make)(operator, taken.edge, context)));
        Self {
            owner: stable_hash(operator).unwrap_or_default() as u32,
            expected: expected.collect(),
            ..Self::default()
        }
    }

    /// Declares one.
    ///
    /// # Errors
    /// [`ErrorKind::Program`] when the name is empty or taken, or the stream made of it carries another type.
    pub(super) fn declare<U: Send + 'static>(&mut self, tag: &OutputTag<U>) -> Result<SideOutput<U>, Error> {
        let name = tag.name();
        if name.is_empty() {
            let what = "a side output has an empty name: its name is what a stream is made of it by";
            return Err(Error::new(ErrorKind::Program, what));
        }
        if self.declared.iter().any(|declared| declared.name == name) {
            let what = format!(
                "side output `{name}` is declared twice: give each of an operator its own name, and keep the \
                 `SideOutput` to emit into it from several places"
            );
            return Err(Error::new(ErrorKind::Program, what));
        }
        let expected = self.expected.iter().position(|(taken, _)| **taken == *name);
        let side = expected.map(|at| self.expected.swap_remove(at).1);
        if let Some(side) = &side
            && !(&**side as &dyn Any).is::<Side<U>>()
        {
            let what = format!(
                "side output `{name}` is declared to carry `{}`, but the stream made of it carries `{}`: use one tag for \
                 both",
                type_name::<U>(),
                side.carries()
            );
            return Err(Error::new(ErrorKind::Program, what));
        }
        self.declared.push(Declared { name: name.to_owned(), side });
        Ok(SideOutput { owner: self.owner, index: self.declared.len() - 1, carries: PhantomData })
    }

    /// To be called when the factory has declared all.
    ///
    /// # Errors
    /// [`ErrorKind::Program`] when a stream was made of one that it did not declare.
    pub fn check(&self) -> Result<(), Error> {
        let Some((name, _)) = self.expected.first() else { return Ok(()) };
        let declared: Vec<String> =
            self.declared.iter().map(|declared| format!("`{}`", declared.name)).collect();
        let declared = if declared.is_empty() { "none".to_owned() } else { declared.join(", ") };
        let what = format!(
            "a stream is made of side output `{name}`, which the operator does not declare (it declares {declared}): call \
             `setup.side_output(&tag)` in its factory, with a tag of that name"
        );
        Err(Error::new(ErrorKind::Program, what))
    }

    /// What waits for this side output. `None` if nobody takes it.
    #[inline]
    fn out<U: Send + 'static>(&mut self, of: SideOutput<U>) -> Option<&mut Output<U>> {
        let declared = self.declared.get_mut(of.index).filter(|_| of.owner == self.owner);
        debug_assert!(declared.is_some(), "a side output was used that was not declared by this operator");
        let side = declared?.side.as_mut()?;
        let side = (&mut **side as &mut dyn Any).downcast_mut::<Side<U>>();
        debug_assert!(side.is_some(), "a side output was used that was not declared by this operator");
        Some(&mut side?.out)
    }

    /// Puts something into a side output. `true`, once per drain: there is much, drain it before the next record.
    #[inline]
    pub(super) fn put<U: Send + 'static>(
        &mut self,
        to: SideOutput<U>,
        put: impl FnOnce(&mut Output<U>),
    ) -> bool {
        let Some(out) = self.out(to) else { return false };
        put(out);
        let much = out.wants_drain();
        self.waiting = true;
        much && !std::mem::replace(&mut self.asked, true)
    }

    /// Where each of them stands, to go back to.
    pub(super) fn mark(&self, marks: &mut Vec<Option<Mark>>) {
        marks.clear();
        marks.extend(self.declared.iter().map(|declared| declared.side.as_ref().map(|side| side.mark())));
    }

    /// Drops what went aside since the marks. Nothing may have been drained since then.
    pub(super) fn rewind(&mut self, marks: &[Option<Mark>]) {
        for (declared, mark) in self.declared.iter_mut().zip(marks) {
            if let (Some(side), Some(mark)) = (&mut declared.side, mark) {
                side.rewind(*mark);
            }
        }
        // The request to be drained may have gone with the rest: the next one asks again.
        self.asked = false;
    }

    /// How many records went aside since this was last asked.
    pub(super) fn take_count(&mut self) -> u64 {
        let sides = self.declared.iter_mut().filter_map(|declared| declared.side.as_mut());
        sides.map(|side| side.take_count()).sum()
    }

    /// Passes on what was emitted, as far as there is room.
    #[inline]
    pub(super) fn drain(&mut self) -> Result<Flow> {
        if self.waiting { self.drain_all() } else { Ok(Flow::Ready) }
    }

    fn drain_all(&mut self) -> Result<Flow> {
        self.through_all(AnySide::drain)
    }

    /// Goes on after `Full`; see [`Push::resume`].
    pub(super) fn resume(&mut self, task: &mut TaskContext<'_>) -> Result<Flow> {
        self.through_all(|side| side.resume(task))
    }

    fn through_all(&mut self, mut f: impl FnMut(&mut dyn AnySide) -> Result<Flow>) -> Result<Flow> {
        let mut flow = Flow::Ready;
        for side in self.declared.iter_mut().filter_map(|declared| declared.side.as_mut()) {
            flow = f(&mut **side)?.and(flow);
        }
        self.waiting = flow == Flow::Full;
        self.asked = false;
        Ok(flow)
    }

    /// Passes a control through all of them; see [`Push::control`].
    pub(super) fn control(&mut self, control: &mut Control<'_>) -> Result {
        self.declared
            .iter_mut()
            .filter_map(|declared| declared.side.as_mut())
            .try_for_each(|side| side.control(control))
    }
}

impl fmt::Debug for Sides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.declared.iter().map(|declared| &declared.name)).finish()
    }
}

impl fmt::Debug for TakenSide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TakenSide")
            .field("name", &self.name)
            .field("edge", &self.edge)
            .finish_non_exhaustive()
    }
}
