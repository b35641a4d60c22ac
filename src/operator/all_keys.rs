//! All keys of a subtask, one after the other, where no record is at hand.

use super::{BroadcastContext, Context, Operator, OperatorContext};
use crate::error::Result;
use crate::state::{Key, KeyedState};
use crate::types::stable_hash;

/// What contexts without a key offer to reach those of all keys.
macro_rules! all_keys {
    ($($context:ident),+) => {
        $(
            impl<O: Operator<Key: Key>> $context<'_, O> {
                /// Calls `f` for every key of this subtask that has `state`, as if a record of that key were at hand: there all states of
                /// the operator can be used, this one too, and records be emitted (Flink's `applyToKeyedState`). The keys are those at
                /// the time of the call, in no particular order. It ends at the first error.
                ///
                /// The keys are copied first, and nothing else is done until it returns: with millions of them that takes long, and
                /// checkpoints wait. What `f` emits is held until then.
                ///
                /// ```
                /// use strandline::prelude::*;
                ///
                /// /// Counts, and says at the end how often each key has come.
                /// struct Totals {
                ///     count: ValueState<u64>,
                /// }
                ///
                /// impl Operator for Totals {
                ///     type Key = u64;
                ///     type Out = (u64, u64);
                ///
                ///     fn finish(&mut self, ctx: &mut OperatorContext<'_, Self>) -> Result {
                ///         let count = self.count;
                ///         ctx.for_each_key(&count, |ctx| {
                ///             let total = count.take(ctx).unwrap_or_default();
                ///             ctx.emit((*ctx.key(), total));
                ///             Ok(())
                ///         })
                ///     }
                /// }
                ///
                /// impl Handler<u64> for Totals {
                ///     fn handle(&mut self, _: u64, ctx: &mut Context<'_, Self>) -> Result {
                ///         self.count.update(ctx, |count| *count += 1);
                ///         Ok(())
                ///     }
                /// }
                ///
                /// # #[tokio::main(flavor = "current_thread")]
                /// # async fn main() -> Result {
                /// # let env = Environment::builder().parallelism(1).build()?;
                /// # let out = Collect::new();
                /// env.source("numbers", Iter::new([3, 5, 3]))
                ///     .key_by(|number| *number)
                ///     .process("totals", |setup| Ok(Totals { count: setup.value_state("count")? }))
                ///     .sink("out", out.clone());
                /// # env.execute("all-keys").await?;
                /// # let mut totals = out.records();
                /// # totals.sort();
                /// # assert_eq!(totals, [(3, 2), (5, 1)]);
                /// # Ok(())
                /// # }
                /// ```
                ///
                /// # Errors
                /// What `f` gives.
                pub fn for_each_key(
                    &mut self,
                    state: &impl KeyedState<O::Key>,
                    mut f: impl FnMut(&mut Context<'_, O>) -> Result,
                ) -> Result {
                    let keys: Vec<O::Key> = state.keys_in(&self.core.states).cloned().collect();
                    keys.iter().try_for_each(|key| {
                        let hash = stable_hash(key)?;
                        f(&mut Context { key, hash, core: self.core })
                    })
                }
            }
        )+
    };
}

all_keys!(OperatorContext, BroadcastContext);
