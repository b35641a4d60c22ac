//! Keyed state.

use crate::in_real_time;
use serde::{Deserialize, Serialize};
use strandline::prelude::*;

/// Emits the average of every two values of a key.
struct CountWindowAverage {
    sum: ValueState<(u64, u64)>,
}

impl Operator for CountWindowAverage {
    type Key = u64;
    type Out = (u64, u64);
}

impl Handler<(u64, u64)> for CountWindowAverage {
    fn handle(&mut self, (key, value): (u64, u64), ctx: &mut Context<'_, Self>) -> Result {
        let (count, sum) = self.sum.get(ctx).unwrap_or_default();
        match (count + 1, sum + value) {
            (2, sum) => {
                self.sum.clear(ctx);
                ctx.emit((key, sum / 2));
            }
            next => self.sum.set(ctx, next),
        }
        Ok(())
    }
}

pub fn count_window_average() -> Result<String> {
    in_real_time(async {
        let env = Environment::builder().parallelism(2).build()?;
        let averages = Collect::new();
        env.source("pairs", Iter::new([(1, 3), (1, 5), (1, 7), (1, 4), (1, 2)]))
            .key_by(|(key, _)| *key)
            .process("average", |setup| Ok(CountWindowAverage { sum: setup.value_state("sum")? }))
            .sink("averages", averages.clone());
        env.execute("averages").await?;
        let averages = averages.records();
        assert_eq!(averages, [(1, 4), (1, 5)]);
        Ok(format!("{averages:?}"))
    })
}

/// For each sale, what was sold of the thing before.
pub fn map_with_state() -> Result<String> {
    in_real_time(async {
        let env = Environment::builder().parallelism(1).build()?;
        let sold = Collect::new();
        env.source("sales", Iter::new([("tea", 2), ("salt", 1), ("tea", 3), ("tea", 1)]))
            .map(|(thing, pieces)| (thing.to_owned(), pieces))
            .key_by(|(thing, _)| thing.clone())
            .map_with_state("sold", |(thing, pieces), before: Option<u64>| {
                let before = before.unwrap_or(0);
                ((thing, before), Some(before + pieces))
            })
            .sink("before", sold.clone());
        env.execute("sold-before").await?;
        let sold = sold.records();
        assert_eq!(
            sold,
            [("tea", 0), ("salt", 0), ("tea", 2), ("tea", 5)].map(|(thing, n)| (thing.to_owned(), n))
        );
        Ok(format!("{sold:?}"))
    })
}

#[derive(Clone, Serialize, Deserialize)]
enum Bid {
    Of(String, u64),
    /// No more bids for this.
    Closed(String),
}

impl Bid {
    fn lot(&self) -> &str {
        match self {
            Self::Of(lot, _) | Self::Closed(lot) => lot,
        }
    }
}

/// Keeps the bids of each lot, and the highest; when the lot is closed, gives both and forgets them.
struct Auction {
    bids: ListState<u64>,
    highest: ReducingState<u64>,
}

impl Operator for Auction {
    type Key = String;
    type Out = (String, Vec<u64>, u64);
}

impl Handler<Bid> for Auction {
    fn handle(&mut self, bid: Bid, ctx: &mut Context<'_, Self>) -> Result {
        match bid {
            Bid::Of(_, amount) => {
                self.bids.add(ctx, amount);
                self.highest.add(ctx, amount);
            }
            Bid::Closed(_) => {
                let bids = self.bids.get(ctx);
                ctx.emit((ctx.key().clone(), bids, self.highest.get(ctx).unwrap_or(0)));
                self.bids.clear(ctx);
                self.highest.clear(ctx);
            }
        }
        Ok(())
    }
}

pub fn list_and_reducing_state() -> Result<String> {
    in_real_time(async {
        let env = Environment::builder().parallelism(1).build()?;
        let lots = Collect::new();
        let bids = || {
            let of = |lot: &str, amount| Bid::Of(lot.into(), amount);
            let closed = |lot: &str| Bid::Closed(lot.into());
            [of("vase", 5), of("desk", 40), of("vase", 9), closed("vase"), of("vase", 1), closed("vase")]
                .into_iter()
        };
        env.source("bids", Iter::generate(bids))
            .key_by(|bid| bid.lot().to_owned())
            .process("auction", |setup| {
                let highest =
                    setup.reducing_state("highest", |highest: &mut u64, bid| *highest = bid.max(*highest))?;
                Ok(Auction { bids: setup.list_state("bids")?, highest })
            })
            .sink("lots", lots.clone());
        env.execute("auction").await?;
        let lots = lots.records();
        assert_eq!(lots, [("vase".to_owned(), vec![5, 9], 9), ("vase".to_owned(), vec![1], 1)]);
        Ok(format!("{lots:?}"))
    })
}
