//! Recipes of chains that end in an operator, of which side outputs can be taken.

use super::pipe::Pipe;
use crate::error::{Error, Result};
use crate::operator::{
    BuildContext, Chain, Core, Fields, Handler, Inputs, Instance, Made, Operator, OperatorHead, ProcessStage,
    Push, Setup, Sides, TakenSide, Unkeyed, in_operator,
};
use crate::types::OperatorId;

/// The recipe of a chain that so far ends in an operator: what `process` returns, and what
/// [`side_output`](crate::Stream::side_output) asks for. In signatures: `Stream<T, impl OperatorPipe<Out = T>>`.
#[diagnostic::on_unimplemented(
    message = "a side output can only be taken of an operator",
    label = "this stream does not come straight out of an operator",
    note = "call `.side_output(&tag)` right after `.process(uid, factory)`, before any other stage"
)]
pub trait OperatorPipe: Pipe {
    /// The operator.
    type Operator: Operator;

    /// The same with a side output taken.
    #[doc(hidden)]
    type WithSide: OperatorPipe<Out = Self::Out, Operator = Self::Operator>;

    /// The same with its fields stored in checkpoints.
    #[doc(hidden)]
    fn with_fields(self, fields: Fields<Self::Operator>) -> Self;

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
    fields: Option<Fields<O>>,
}

impl<O, F: Clone> Clone for OperatorRecipe<O, F> {
    fn clone(&self) -> Self {
        Self {
            id: self.id.clone(),
            factory: self.factory.clone(),
            sides: self.sides.clone(),
            fields: self.fields,
        }
    }
}

impl<O, F> OperatorRecipe<O, F>
where
    O: Operator,
    F: Fn(&mut Setup<'_, O::Key>) -> Result<O> + Clone + Send + 'static,
{
    pub(super) fn new(id: OperatorId, factory: F) -> Self {
        Self { id, factory, sides: Vec::new(), fields: None }
    }

    /// Calls the factory, and restores what it declares.
    fn make(self, context: &mut BuildContext) -> Result<Made<O>, Error> {
        let Self { id, factory, sides, fields } = &self;
        let mut states = context.states_of(id);
        let mut sides = Sides::new(id, sides, context);
        let subtask = context.context_of(id);
        let mut operator = in_operator(id, "the factory failed", || {
            factory(&mut Setup::new(&subtask, &mut states, &mut sides))
        })?;
        sides.check().map_err(|error| error.operator(id))?;
        if let Some(fields) = fields {
            let instance = Instance { subtask: subtask.subtask.0, parallelism: subtask.parallelism };
            let what = "the fields of an operator could not be restored";
            in_operator(id, what, || fields.restore(&mut operator, &mut states, instance))?;
        }
        states.leave_unions_to_the_first(subtask.subtask.0);
        for state in states.undeclared() {
            tracing::warn!(
                operator = %id,
                subtask = %subtask.subtask,
                state,
                "the checkpoint holds a state that the operator does not declare: it is kept; was it renamed?"
            );
        }
        let core = Core::new(states, sides, context.counters_of(id));
        Ok(Made { operator, core, fields: self.fields, id: self.id })
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
        let made = self.recipe.make(context)?;
        Ok(Box::new(OperatorHead::new(made, self.inputs, down, context.finished)))
    }
}

impl<L, O, F> OperatorPipe for HeadPipe<L, O, F>
where
    O: Operator,
    L: Inputs<O>,
    F: Fn(&mut Setup<'_, O::Key>) -> Result<O> + Clone + Send + 'static,
{
    type Operator = O;
    type WithSide = Self;

    fn with_fields(mut self, fields: Fields<O>) -> Self {
        self.recipe.fields = Some(fields);
        self
    }

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
        let made = self.recipe.make(context)?;
        let stage = ProcessStage::<O, D, SIDES>::new(made, down, context.finished);
        self.up.build(stage, context)
    }
}

impl<P, O, F, const SIDES: bool> OperatorPipe for ProcessPipe<P, O, F, SIDES>
where
    P: Pipe,
    O: Operator<Key = Unkeyed> + Handler<P::Out>,
    F: Fn(&mut Setup<'_, Unkeyed>) -> Result<O> + Clone + Send + 'static,
{
    type Operator = O;
    type WithSide = ProcessPipe<P, O, F, true>;

    fn with_fields(mut self, fields: Fields<O>) -> Self {
        self.recipe.fields = Some(fields);
        self
    }

    fn with_side(mut self, side: TakenSide) -> Self::WithSide {
        self.recipe.sides.push(side);
        ProcessPipe { up: self.up, recipe: self.recipe }
    }

    fn sides(&self) -> &[TakenSide] {
        &self.recipe.sides
    }
}
