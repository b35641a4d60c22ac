//! Recipes of chains that end in an operator, of which side outputs can be taken.

use super::pipe::Pipe;
use crate::error::{Error, Result};
use crate::operator::{
    BuildContext, Chain, Core, Handler, Inputs, Operator, OperatorHead, ProcessStage, Push, Setup, Sides,
    TakenSide, Unkeyed, in_operator,
};
use crate::types::OperatorId;
use std::marker::PhantomData;

/// The recipe of a chain that so far ends in an operator: what `process` returns, and what
/// [`side_output`](crate::Stream::side_output) asks for. In signatures: `Stream<T, impl OperatorPipe<Out = T>>`.
#[diagnostic::on_unimplemented(
    message = "a side output can only be taken of an operator",
    label = "this stream does not come straight out of an operator",
    note = "call `.side_output(&tag)` right after `.process(uid, factory)`, before any other stage"
)]
pub trait OperatorPipe: Pipe {
    /// The same with a side output taken.
    #[doc(hidden)]
    type WithSide: OperatorPipe<Out = Self::Out>;

    /// Takes a side output of the operator.
    #[doc(hidden)]
    fn with_side(self, side: TakenSide) -> Self::WithSide;

    /// The side outputs that have been taken.
    #[doc(hidden)]
    fn sides(&self) -> &[TakenSide];
}

/// An operator as it is written down: its uid, what makes it, and which of its side outputs go somewhere.
pub(super) struct OperatorRecipe<O, F> {
    id: OperatorId,
    factory: F,
    sides: Vec<TakenSide>,
    operator: PhantomData<fn() -> O>,
}

impl<O, F: Clone> Clone for OperatorRecipe<O, F> {
    fn clone(&self) -> Self {
        Self {
            id: self.id.clone(),
            factory: self.factory.clone(),
            sides: self.sides.clone(),
            operator: PhantomData,
        }
    }
}

impl<O, F> OperatorRecipe<O, F>
where
    O: Operator,
    F: Fn(&mut Setup<'_, O::Key>) -> Result<O> + Clone + Send + 'static,
{
    pub(super) fn new(id: OperatorId, factory: F) -> Self {
        Self { id, factory, sides: Vec::new(), operator: PhantomData }
    }

    /// Calls the factory. Returns the operator and everything it has beside itself.
    fn make(&self, context: &mut BuildContext) -> Result<(O, Core<O::Out>), Error> {
        let Self { id, factory, sides, .. } = self;
        let mut states = context.states_of(id);
        let mut sides = Sides::new(id, sides, context);
        let subtask = context.context_of(id);
        let operator = in_operator(id, "the factory failed", || {
            factory(&mut Setup::new(&subtask, &mut states, &mut sides))
        })?;
        sides.check().map_err(|error| error.operator(id))?;
        for state in states.undeclared() {
            tracing::warn!(
                operator = %id,
                subtask = %subtask.subtask,
                state,
                "the checkpoint holds a state that the operator does not declare: it is kept; was it renamed?"
            );
        }
        Ok((operator, Core::new(states, sides, context.counters_of(id))))
    }
}

/// Begins with an operator, which is fed by one or several edges.
pub(super) struct HeadPipe<L, O, F> {
    pub(super) inputs: L,
    pub(super) recipe: OperatorRecipe<O, F>,
}

impl<L: Clone, O, F: Clone> Clone for HeadPipe<L, O, F> {
    fn clone(&self) -> Self {
        Self { inputs: self.inputs.clone(), recipe: self.recipe.clone() }
    }
}

impl<L, O, F> Pipe for HeadPipe<L, O, F>
where
    O: Operator,
    L: Inputs<O>,
    F: Fn(&mut Setup<'_, O::Key>) -> Result<O> + Clone + Send + 'static,
{
    type Out = O::Out;

    fn owner(&self) -> Option<&OperatorId> {
        Some(&self.recipe.id)
    }

    fn build<D: Push<O::Out>>(self, down: D, context: &mut BuildContext) -> Result<Box<dyn Chain>, Error> {
        let (operator, core) = self.recipe.make(context)?;
        let finished = context.finished;
        Ok(Box::new(OperatorHead::new(self.recipe.id, operator, core, self.inputs, down, finished)))
    }
}

impl<L, O, F> OperatorPipe for HeadPipe<L, O, F>
where
    O: Operator,
    L: Inputs<O>,
    F: Fn(&mut Setup<'_, O::Key>) -> Result<O> + Clone + Send + 'static,
{
    type WithSide = Self;

    fn with_side(mut self, side: TakenSide) -> Self {
        self.recipe.sides.push(side);
        self
    }

    fn sides(&self) -> &[TakenSide] {
        &self.recipe.sides
    }
}

/// Puts an operator without keys into the chain. `SIDES`: whether a side output of it is taken.
pub(super) struct ProcessPipe<P, O, F, const SIDES: bool> {
    pub(super) up: P,
    pub(super) recipe: OperatorRecipe<O, F>,
}

impl<P: Clone, O, F: Clone, const SIDES: bool> Clone for ProcessPipe<P, O, F, SIDES> {
    fn clone(&self) -> Self {
        Self { up: self.up.clone(), recipe: self.recipe.clone() }
    }
}

impl<P, O, F, const SIDES: bool> Pipe for ProcessPipe<P, O, F, SIDES>
where
    P: Pipe,
    O: Operator<Key = Unkeyed> + Handler<P::Out>,
    F: Fn(&mut Setup<'_, Unkeyed>) -> Result<O> + Clone + Send + 'static,
{
    type Out = O::Out;

    fn owner(&self) -> Option<&OperatorId> {
        Some(&self.recipe.id)
    }

    fn build<D: Push<O::Out>>(self, down: D, context: &mut BuildContext) -> Result<Box<dyn Chain>, Error> {
        let (operator, core) = self.recipe.make(context)?;
        let finished = context.finished;
        let stage = ProcessStage::<O, D, SIDES>::new(self.recipe.id, operator, core, down, finished);
        self.up.build(stage, context)
    }
}

impl<P, O, F, const SIDES: bool> OperatorPipe for ProcessPipe<P, O, F, SIDES>
where
    P: Pipe,
    O: Operator<Key = Unkeyed> + Handler<P::Out>,
    F: Fn(&mut Setup<'_, Unkeyed>) -> Result<O> + Clone + Send + 'static,
{
    type WithSide = ProcessPipe<P, O, F, true>;

    fn with_side(mut self, side: TakenSide) -> Self::WithSide {
        self.recipe.sides.push(side);
        ProcessPipe { up: self.up, recipe: self.recipe }
    }

    fn sides(&self) -> &[TakenSide] {
        &self.recipe.sides
    }
}
