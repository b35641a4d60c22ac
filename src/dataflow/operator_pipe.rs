//! Recipes of chains that end in an operator, of which side outputs can be taken.

use super::pipe::Pipe;
use crate::error::{Error, Result};
use crate::operator::{
    BuildContext, Chain, Core, ErrorPolicy, Fields, Handler, Inputs, Instance, Made, Operator, OperatorHead,
    ProcessStage, Push, Setup, Sides, TakenSide, Unkeyed, in_operator,
};
use crate::types::OperatorId;
use std::any::TypeId;

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

    /// The same with an error policy.
    #[doc(hidden)]
    type WithErrors: OperatorPipe<Out = Self::Out, Operator = Self::Operator>;

    /// Sets the error policy of the operator.
    #[doc(hidden)]
    fn with_errors(self, errors: ErrorPolicy) -> Self::WithErrors;

    /// The error policy as it is.
    #[doc(hidden)]
    fn errors(&self) -> &ErrorPolicy;

    /// Whether the operator takes records of this type.
    #[doc(hidden)]
    fn takes(&self, record: TypeId) -> bool;

    /// The side outputs that have been taken.
    #[doc(hidden)]
    fn sides(&self) -> &[TakenSide];
}

/// An operator as it is written down: its uid, what makes it, and which of its side outputs go somewhere.
pub(super) struct OperatorRecipe<O: Operator, F> {
    id: OperatorId,
    factory: F,
    sides: Vec<TakenSide>,
    fields: Option<Fields<O>>,
    errors: ErrorPolicy,
}

impl<O: Operator, F: Clone> Clone for OperatorRecipe<O, F> {
    fn clone(&self) -> Self {
        Self {
            id: self.id.clone(),
            factory: self.factory.clone(),
            sides: self.sides.clone(),
            fields: self.fields,
            errors: self.errors.clone(),
        }
    }
}

impl<O, F> OperatorRecipe<O, F>
where
    O: Operator,
    F: Fn(&mut Setup<'_, O::Key>) -> Result<O> + Clone + Send + 'static,
{
    pub(super) fn new(id: OperatorId, factory: F) -> Self {
        Self { id, factory, sides: Vec::new(), fields: None, errors: ErrorPolicy::default() }
    }

    /// Calls the factory, and restores what it declares.
    fn make(self, context: &mut BuildContext) -> Result<Made<O>, Error> {
        let Self { id, factory, sides, fields, errors } = &self;
        let mut states = context.states_of(id);
        let mut sides = Sides::new(id, sides, context);
        let subtask = context.context_of(id);
        let mut operator = in_operator(id, "the factory failed", || {
            factory(&mut Setup::new(&subtask, &mut states, &mut sides))
        })?;
        let rescue = errors.begin(id, &mut sides).map_err(|error| error.operator(id))?;
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
        let core = Core::new(states, sides, rescue, context.counters_of(id));
        Ok(Made { operator, core, fields: self.fields, id: self.id })
    }
}

/// Begins with an operator, which is fed by one or several edges. `RESCUE`: whether it has an error policy.
pub(super) struct HeadPipe<L, O: Operator, F, const RESCUE: bool> {
    pub(super) inputs: L,
    pub(super) recipe: OperatorRecipe<O, F>,
}

impl<L: Clone, O: Operator, F: Clone, const RESCUE: bool> Clone for HeadPipe<L, O, F, RESCUE> {
    fn clone(&self) -> Self {
        Self { inputs: self.inputs.clone(), recipe: self.recipe.clone() }
    }
}

impl<L, O, F, const RESCUE: bool> Pipe for HeadPipe<L, O, F, RESCUE>
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
        Ok(Box::new(OperatorHead::<_, _, _, RESCUE>::new(made, self.inputs, down, context.finished)))
    }
}

impl<L, O, F, const RESCUE: bool> OperatorPipe for HeadPipe<L, O, F, RESCUE>
where
    O: Operator,
    L: Inputs<O>,
    F: Fn(&mut Setup<'_, O::Key>) -> Result<O> + Clone + Send + 'static,
{
    type Operator = O;
    type WithSide = Self;
    type WithErrors = HeadPipe<L, O, F, true>;

    fn with_fields(mut self, fields: Fields<O>) -> Self {
        self.recipe.fields = Some(fields);
        self
    }

    fn with_side(mut self, side: TakenSide) -> Self {
        self.recipe.sides.push(side);
        self
    }

    fn with_errors(mut self, errors: ErrorPolicy) -> Self::WithErrors {
        self.recipe.errors = errors;
        HeadPipe { inputs: self.inputs, recipe: self.recipe }
    }

    fn errors(&self) -> &ErrorPolicy {
        &self.recipe.errors
    }

    fn takes(&self, record: TypeId) -> bool {
        L::takes(record)
    }

    fn sides(&self) -> &[TakenSide] {
        &self.recipe.sides
    }
}

/// Puts an operator without keys into the chain. `SIDES`: whether a side output of it is taken. `RESCUE`: whether it has an error policy.
pub(super) struct ProcessPipe<P, O: Operator, F, const SIDES: bool, const RESCUE: bool> {
    pub(super) up: P,
    pub(super) recipe: OperatorRecipe<O, F>,
}

impl<P: Clone, O: Operator, F: Clone, const SIDES: bool, const RESCUE: bool> Clone
    for ProcessPipe<P, O, F, SIDES, RESCUE>
{
    fn clone(&self) -> Self {
        Self { up: self.up.clone(), recipe: self.recipe.clone() }
    }
}

impl<P, O, F, const SIDES: bool, const RESCUE: bool> Pipe for ProcessPipe<P, O, F, SIDES, RESCUE>
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
        let stage = ProcessStage::<O, D, SIDES, RESCUE>::new(made, down, context.finished);
        self.up.build(stage, context)
    }
}

impl<P, O, F, const SIDES: bool, const RESCUE: bool> OperatorPipe for ProcessPipe<P, O, F, SIDES, RESCUE>
where
    P: Pipe,
    O: Operator<Key = Unkeyed> + Handler<P::Out>,
    F: Fn(&mut Setup<'_, Unkeyed>) -> Result<O> + Clone + Send + 'static,
{
    type Operator = O;
    type WithSide = ProcessPipe<P, O, F, true, RESCUE>;
    type WithErrors = ProcessPipe<P, O, F, SIDES, true>;

    fn with_fields(mut self, fields: Fields<O>) -> Self {
        self.recipe.fields = Some(fields);
        self
    }

    fn with_side(mut self, side: TakenSide) -> Self::WithSide {
        self.recipe.sides.push(side);
        ProcessPipe { up: self.up, recipe: self.recipe }
    }

    fn with_errors(mut self, errors: ErrorPolicy) -> Self::WithErrors {
        self.recipe.errors = errors;
        ProcessPipe { up: self.up, recipe: self.recipe }
    }

    fn errors(&self) -> &ErrorPolicy {
        &self.recipe.errors
    }

    fn takes(&self, record: TypeId) -> bool {
        record == TypeId::of::<P::Out>()
    }

    fn sides(&self) -> &[TakenSide] {
        &self.recipe.sides
    }
}
