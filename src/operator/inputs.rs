//! The inputs of an operator at the head of a chain, as a list of types: its length is known to the compiler, and so is the handler of
//! each.

use super::errors::handled;
use super::keyed::SLICE;
use super::parts::Parts;
use super::{BroadcastContext, Context};
use super::{BroadcastHandler, Core, Handler, KeyedInput, Operator, Push, Unkeyed};
use crate::channel::{AnyBatch, Batch, Flow};
use crate::error::{Error, ErrorKind, Result};
use crate::types::{OperatorId, Port};
use std::any::TypeId;
use std::fmt;
use std::marker::PhantomData;

/// How many inputs there are. The newest comes first in the list, and has the highest port.
pub trait PortList: Clone + Send + 'static {
    /// The number.
    #[doc(hidden)]
    const LEN: u32;
}

impl PortList for () {
    const LEN: u32 = 0;
}

impl<I: Clone + Send + 'static, L: PortList> PortList for (I, L) {
    const LEN: u32 = L::LEN + 1;
}

/// Inputs for each of which operator `O` has a handler: a [`Handler`] for records of a [`KeyedInput`] or [`PlainInput`], a
/// [`BroadcastHandler`] for those of a [`BroadcastInput`].
pub trait Inputs<O: Operator>: PortList {
    /// Whether any of them has records of this type.
    #[doc(hidden)]
    fn takes(record: TypeId) -> bool;

    /// Takes records out of a batch that came to `port`. On [`Flow::Full`] the rest stays in it. `RESCUE`: whether the operator has an error
    /// policy.
    #[doc(hidden)]
    fn take<D: Push<O::Out>, const RESCUE: bool>(
        &mut self,
        port: Port,
        batch: &mut AnyBatch,
        parts: &mut Parts<O, D>,
    ) -> Result<Flow>;
}

impl<O: Operator> Inputs<O> for () {
    fn takes(_: TypeId) -> bool {
        false
    }

    fn take<D: Push<O::Out>, const RESCUE: bool>(
        &mut self,
        port: Port,
        _: &mut AnyBatch,
        parts: &mut Parts<O, D>,
    ) -> Result<Flow> {
        let what = format!("records came to input {port}, which the operator does not have");
        Err(Error::new(ErrorKind::Internal, what).operator(&parts.id).into())
    }
}

impl<O, K, T, F, L> Inputs<O> for (KeyedInput<T, K, F>, L)
where
    O: Operator<Key = K> + Handler<T>,
    K: Send + 'static,
    T: 'static,
    F: Fn(&T) -> K + Clone + Send + 'static,
    L: Inputs<O>,
{
    fn takes(record: TypeId) -> bool {
        record == TypeId::of::<T>() || L::takes(record)
    }

    fn take<D: Push<O::Out>, const RESCUE: bool>(
        &mut self,
        port: Port,
        batch: &mut AnyBatch,
        parts: &mut Parts<O, D>,
    ) -> Result<Flow> {
        if port == Port(L::LEN) {
            self.0.take::<_, _, RESCUE>(typed(batch, &parts.id)?, parts)
        } else {
            self.1.take::<D, RESCUE>(port, batch, parts)
        }
    }
}

impl<O, T, L> Inputs<O> for (PlainInput<T>, L)
where
    O: Operator<Key = Unkeyed> + Handler<T>,
    T: 'static,
    L: Inputs<O>,
{
    fn takes(record: TypeId) -> bool {
        record == TypeId::of::<T>() || L::takes(record)
    }

    fn take<D: Push<O::Out>, const RESCUE: bool>(
        &mut self,
        port: Port,
        batch: &mut AnyBatch,
        parts: &mut Parts<O, D>,
    ) -> Result<Flow> {
        if port != Port(L::LEN) {
            return self.1.take::<D, RESCUE>(port, batch, parts);
        }
        take_each::<T, _, _, RESCUE>(batch, parts, |operator, record, core| {
            operator.handle(record, &mut Context { key: &Unkeyed, hash: 0, core })
        })
    }
}

impl<O, T, L> Inputs<O> for (BroadcastInput<T>, L)
where
    O: BroadcastHandler<T>,
    T: 'static,
    L: Inputs<O>,
{
    fn takes(record: TypeId) -> bool {
        record == TypeId::of::<T>() || L::takes(record)
    }

    fn take<D: Push<O::Out>, const RESCUE: bool>(
        &mut self,
        port: Port,
        batch: &mut AnyBatch,
        parts: &mut Parts<O, D>,
    ) -> Result<Flow> {
        if port != Port(L::LEN) {
            return self.1.take::<D, RESCUE>(port, batch, parts);
        }
        take_each::<T, _, _, RESCUE>(batch, parts, |operator, record, core| {
            operator.handle_broadcast(record, &mut BroadcastContext { core })
        })
    }
}

/// Handles the records of a batch without keys.
fn take_each<T, O, D, const RESCUE: bool>(
    batch: &mut AnyBatch,
    parts: &mut Parts<O, D>,
    handle: impl Fn(&mut O, T, &mut Core<O::Out, O::Key>) -> Result,
) -> Result<Flow>
where
    T: 'static,
    O: Operator,
    D: Push<O::Out>,
{
    let Batch { items } = typed::<T>(batch, &parts.id)?;
    let mut flow = Flow::Ready;
    let mut taken = 0;
    let mut rest = Vec::new();
    {
        let mut records = items.drain(..);
        while let Some(record) = records.next() {
            handled::<T, O, RESCUE>(&mut parts.operator, record, &mut parts.core, &handle)?;
            taken += 1;
            if (taken % SLICE == 0 || parts.core.out.wants_drain()) && parts.drain()? == Flow::Full {
                flow = Flow::Full;
                rest.extend(records);
                break;
            }
        }
    }
    if flow == Flow::Ready {
        flow = parts.drain()?;
    }
    // Room for the rest is there: it came out of this very buffer.
    items.append(&mut rest);
    Ok(flow)
}

fn typed<'b, I: 'static>(batch: &'b mut AnyBatch, id: &OperatorId) -> Result<&'b mut Batch<I>, Error> {
    batch.downcast_mut::<Batch<I>>().ok_or_else(|| {
        let what = "a channel carried records of another type than its consumer takes";
        Error::new(ErrorKind::Internal, what).operator(id)
    })
}

/// An input of records of type `T` without keys.
pub struct PlainInput<T>(PhantomData<fn() -> T>);

/// An input of records of type `T` of which every subtask gets every one.
pub struct BroadcastInput<T>(PhantomData<fn() -> T>);

macro_rules! marker {
    ($name:ident) => {
        impl<T> $name<T> {
            pub(crate) fn new() -> Self {
                Self(PhantomData)
            }
        }

        impl<T> Clone for $name<T> {
            fn clone(&self) -> Self {
                Self::new()
            }
        }

        impl<T> fmt::Debug for $name<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($name))
            }
        }
    };
}

marker!(PlainInput);
marker!(BroadcastInput);
