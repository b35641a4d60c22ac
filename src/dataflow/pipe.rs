//! Recipes: what a chain is built from, again for each subtask and each restart.
//!
//! A recipe is written from source to sink and built from sink to source, so that every stage knows the type of the one it
//! pushes into.

use crate::channel::{BroadcastRouter, ByKey, RoundRobin, Router};
use crate::error::{Error, ErrorKind};
use crate::operator::{
    BuildContext, Chain, EdgeHead, FilterMapStage, FilterStage, FlatMapStage, InspectStage, MapStage, Push,
    RouteStage, Sink, SinkStage, Source, SourceHead, SplitStage, TeeStage, TryMapStage, in_operator,
};
use crate::types::{EdgeId, OperatorId};
use serde::Serialize;
use std::marker::PhantomData;

/// The recipe of a chain so far. In signatures: `Stream<T, impl Pipe<Out = T>>`.
pub trait Pipe: Clone + Send + 'static {
    /// What comes out of its end.
    type Out: 'static;

    /// The operator that plain stages at its end belong to.
    #[doc(hidden)]
    fn owner(&self) -> Option<&OperatorId>;

    /// Builds the chain in front of `down`.
    #[doc(hidden)]
    fn build<D: Push<Self::Out>>(self, down: D, context: &mut BuildContext) -> Result<Box<dyn Chain>, Error>;

    /// Whether it has just begun with an edge.
    #[doc(hidden)]
    fn is_edge(&self) -> bool {
        false
    }
}

macro_rules! edge {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name<T>(PhantomData<fn() -> T>);

        impl<T> $name<T> {
            pub(super) fn new() -> Self {
                Self(PhantomData)
            }
        }

        impl<T> Clone for $name<T> {
            fn clone(&self) -> Self {
                Self::new()
            }
        }

        impl<T: 'static> Pipe for $name<T> {
            type Out = T;

            fn owner(&self) -> Option<&OperatorId> {
                None
            }

            fn build<D: Push<T>>(self, down: D, _: &mut BuildContext) -> Result<Box<dyn Chain>, Error> {
                Ok(Box::new(EdgeHead::new(down)))
            }

            fn is_edge(&self) -> bool {
                true
            }
        }
    };
}

edge! {
    /// The recipe of a chain that has just begun with an edge.
    Edge
}
edge! {
    /// The recipe of a chain that has just begun with an edge along which every subtask gets every record.
    Broadcast
}

/// Begins with a source.
#[derive(Clone)]
pub(super) struct SourcePipe<S> {
    pub(super) id: OperatorId,
    pub(super) source: S,
}

impl<S: Source> Pipe for SourcePipe<S> {
    type Out = S::Record;

    fn owner(&self) -> Option<&OperatorId> {
        Some(&self.id)
    }

    fn build<D: Push<S::Record>>(self, down: D, context: &mut BuildContext) -> Result<Box<dyn Chain>, Error> {
        let splits = std::mem::take(&mut context.splits)
            .iter()
            .map(|bytes| postcard::from_bytes(bytes))
            .collect::<Result<Vec<S::Split>, _>>()
            .map_err(|cause| {
                Error::new(
                    ErrorKind::Program,
                    "a split of the source does not decode from what it was encoded as",
                )
                .operator(&self.id)
                .because(cause)
            })?;
        let subtask = context.context_of(&self.id);
        let reader = in_operator(&self.id, "the source cannot make a reader", || {
            self.source.reader(splits, &subtask)
        })?;
        let counters = context.counters_of(&self.id);
        Ok(Box::new(SourceHead::new(self.id, self.source, reader, down, counters)))
    }
}

macro_rules! closure_pipe {
    ($name:ident) => {
        pub(super) struct $name<P, F, U> {
            pub(super) up: P,
            pub(super) f: F,
            pub(super) to: PhantomData<fn() -> U>,
        }

        impl<P: Clone, F: Clone, U> Clone for $name<P, F, U> {
            fn clone(&self) -> Self {
                Self { up: self.up.clone(), f: self.f.clone(), to: PhantomData }
            }
        }
    };
}

closure_pipe!(MapPipe);
closure_pipe!(TryMapPipe);
closure_pipe!(FilterPipe);
closure_pipe!(FilterMapPipe);
closure_pipe!(InspectPipe);
closure_pipe!(FlatMapPipe);

impl<P: Pipe, U: 'static, F: Fn(P::Out) -> U + Clone + Send + 'static> Pipe for MapPipe<P, F, U> {
    type Out = U;

    fn owner(&self) -> Option<&OperatorId> {
        self.up.owner()
    }

    fn build<D: Push<U>>(self, down: D, context: &mut BuildContext) -> Result<Box<dyn Chain>, Error> {
        let owner = self.up.owner().cloned();
        self.up.build(MapStage::new(self.f, owner, down), context)
    }
}

impl<P, U, F> Pipe for TryMapPipe<P, F, U>
where
    P: Pipe,
    U: 'static,
    F: Fn(P::Out) -> crate::error::Result<U> + Clone + Send + 'static,
{
    type Out = U;

    fn owner(&self) -> Option<&OperatorId> {
        self.up.owner()
    }

    fn build<D: Push<U>>(self, down: D, context: &mut BuildContext) -> Result<Box<dyn Chain>, Error> {
        let owner = self.up.owner().cloned();
        self.up.build(TryMapStage::new(self.f, owner, down), context)
    }
}

impl<P: Pipe, F: Fn(&P::Out) -> bool + Clone + Send + 'static> Pipe for FilterPipe<P, F, P::Out> {
    type Out = P::Out;

    fn owner(&self) -> Option<&OperatorId> {
        self.up.owner()
    }

    fn build<D: Push<P::Out>>(self, down: D, context: &mut BuildContext) -> Result<Box<dyn Chain>, Error> {
        let owner = self.up.owner().cloned();
        self.up.build(FilterStage::new(self.f, owner, down), context)
    }
}

impl<P, U, F> Pipe for FilterMapPipe<P, F, U>
where
    P: Pipe,
    U: 'static,
    F: Fn(P::Out) -> Option<U> + Clone + Send + 'static,
{
    type Out = U;

    fn owner(&self) -> Option<&OperatorId> {
        self.up.owner()
    }

    fn build<D: Push<U>>(self, down: D, context: &mut BuildContext) -> Result<Box<dyn Chain>, Error> {
        let owner = self.up.owner().cloned();
        self.up.build(FilterMapStage::new(self.f, owner, down), context)
    }
}

impl<P: Pipe, F: Fn(&P::Out) + Clone + Send + 'static> Pipe for InspectPipe<P, F, P::Out> {
    type Out = P::Out;

    fn owner(&self) -> Option<&OperatorId> {
        self.up.owner()
    }

    fn build<D: Push<P::Out>>(self, down: D, context: &mut BuildContext) -> Result<Box<dyn Chain>, Error> {
        let owner = self.up.owner().cloned();
        self.up.build(InspectStage::new(self.f, owner, down), context)
    }
}

impl<P, I, F> Pipe for FlatMapPipe<P, F, I>
where
    P: Pipe,
    I: IntoIterator<Item: 'static> + 'static,
    F: Fn(P::Out) -> I + Clone + Send + 'static,
{
    type Out = I::Item;

    fn owner(&self) -> Option<&OperatorId> {
        self.up.owner()
    }

    fn build<D: Push<I::Item>>(self, down: D, context: &mut BuildContext) -> Result<Box<dyn Chain>, Error> {
        let owner = self.up.owner().cloned();
        self.up.build(FlatMapStage::<F, I, D>::new(self.f, owner, down), context)
    }
}

/// Sends some records out of the chain, along an edge.
pub(super) struct SplitPipe<P, F, A, B> {
    pub(super) up: P,
    pub(super) f: F,
    pub(super) edge: EdgeId,
    pub(super) to: PhantomData<fn() -> (A, B)>,
}

impl<P: Clone, F: Clone, A, B> Clone for SplitPipe<P, F, A, B> {
    fn clone(&self) -> Self {
        Self { up: self.up.clone(), f: self.f.clone(), edge: self.edge, to: PhantomData }
    }
}

impl<P, F, A, B> Pipe for SplitPipe<P, F, A, B>
where
    P: Pipe,
    A: 'static,
    B: Send + 'static,
    F: Fn(P::Out) -> std::result::Result<A, B> + Clone + Send + 'static,
{
    type Out = A;

    fn owner(&self) -> Option<&OperatorId> {
        self.up.owner()
    }

    fn build<D: Push<A>>(self, down: D, context: &mut BuildContext) -> Result<Box<dyn Chain>, Error> {
        let side = RouteStage::<Router<B, RoundRobin>>::in_turn(self.edge, context);
        let owner = self.up.owner().cloned();
        self.up.build(SplitStage::new(self.f, owner, side, down), context)
    }
}

/// Sends a copy of each record out of the chain, along an edge.
#[derive(Clone)]
pub(super) struct TeePipe<P> {
    pub(super) up: P,
    pub(super) edge: EdgeId,
}

impl<P: Pipe<Out: Clone + Send>> Pipe for TeePipe<P> {
    type Out = P::Out;

    fn owner(&self) -> Option<&OperatorId> {
        self.up.owner()
    }

    fn build<D: Push<P::Out>>(self, down: D, context: &mut BuildContext) -> Result<Box<dyn Chain>, Error> {
        let side = RouteStage::<Router<P::Out, RoundRobin>>::in_turn(self.edge, context);
        self.up.build(TeeStage::new(side, down), context)
    }
}

/// What a chain ends with.
pub(super) trait Tail<T>: Clone + Send + 'static {
    type Stage: Push<T>;

    fn make(self, context: &mut BuildContext) -> Result<Self::Stage, Error>;
}

/// Ends at an edge partitioned by key.
#[derive(Clone)]
pub(super) struct ByKeyTail<F> {
    pub(super) key: F,
    pub(super) edge: EdgeId,
}

impl<T, K, F> Tail<T> for ByKeyTail<F>
where
    T: Send + 'static,
    K: Serialize,
    F: Fn(&T) -> K + Clone + Send + 'static,
{
    type Stage = RouteStage<Router<T, ByKey<F>>>;

    fn make(self, context: &mut BuildContext) -> Result<Self::Stage, Error> {
        let outputs = context.take_outputs(self.edge);
        let partitioner = ByKey::new(self.key, context.max_parallelism, outputs.len());
        Ok(RouteStage(Router::new(outputs, partitioner)))
    }
}

/// Ends at an edge that forwards or rebalances.
#[derive(Clone)]
pub(super) struct RoundRobinTail(pub(super) EdgeId);

impl<T: Send + 'static> Tail<T> for RoundRobinTail {
    type Stage = RouteStage<Router<T, RoundRobin>>;

    fn make(self, context: &mut BuildContext) -> Result<Self::Stage, Error> {
        Ok(RouteStage::in_turn(self.0, context))
    }
}

/// Ends at an edge that copies every record to every subtask.
#[derive(Clone)]
pub(super) struct BroadcastTail(pub(super) EdgeId);

impl<T: Clone + Send + 'static> Tail<T> for BroadcastTail {
    type Stage = RouteStage<BroadcastRouter<T>>;

    fn make(self, context: &mut BuildContext) -> Result<Self::Stage, Error> {
        Ok(RouteStage(BroadcastRouter::new(context.take_outputs(self.0))))
    }
}

/// Ends at a sink.
#[derive(Clone)]
pub(super) struct SinkTail<S> {
    pub(super) id: OperatorId,
    pub(super) sink: S,
}

impl<T: 'static, S: Sink<T>> Tail<T> for SinkTail<S> {
    type Stage = SinkStage<T, S>;

    fn make(self, context: &mut BuildContext) -> Result<Self::Stage, Error> {
        let subtask = context.context_of(&self.id);
        let writer = in_operator(&self.id, "the sink cannot make a writer", || self.sink.writer(&subtask))?;
        let counters = context.counters_of(&self.id);
        Ok(SinkStage::new(self.id, self.sink, writer, (context.scope.clone(), subtask.clock), counters))
    }
}

/// The recipe of a whole chain, its types forgotten.
pub(crate) trait ChainFactory: Send {
    /// A copy for one subtask and attempt.
    fn boxed(&self) -> Box<dyn ChainFactory>;

    /// Builds the chain on the thread where it will run.
    fn build(self: Box<Self>, context: &mut BuildContext) -> Result<Box<dyn Chain>, Error>;
}

#[derive(Clone)]
pub(super) struct Recipe<P, L> {
    pub(super) pipe: P,
    pub(super) tail: L,
}

impl<P: Pipe, L: Tail<P::Out>> ChainFactory for Recipe<P, L> {
    fn boxed(&self) -> Box<dyn ChainFactory> {
        Box::new(self.clone())
    }

    fn build(self: Box<Self>, context: &mut BuildContext) -> Result<Box<dyn Chain>, Error> {
        let end = self.tail.make(context)?;
        self.pipe.build(end, context)
    }
}
