//! Registering what stable Rust cannot find out: that an operator's fields go into checkpoints.

use super::{OperatorPipe, Stream};
use crate::operator::{Checkpointed, CheckpointedAsync, Fields};

impl<T: 'static, P: OperatorPipe<Out = T>> Stream<T, P> {
    /// Stores the fields of the operator just before with every checkpoint, and gives them back to it before
    /// [`open`](crate::Operator::open): see [`Checkpointed`].
    pub fn checkpointed(self) -> Self
    where
        P::Operator: Checkpointed,
    {
        self.with_fields(Fields::sync())
    }

    /// The same for an operator that writes its fields down on the job's pool: see [`CheckpointedAsync`].
    pub fn checkpointed_async(self) -> Self
    where
        P::Operator: CheckpointedAsync,
    {
        self.with_fields(Fields::asynchronous())
    }

    fn with_fields(mut self, fields: Fields<P::Operator>) -> Self {
        self.pipe = self.pipe.with_fields(fields);
        self
    }
}
