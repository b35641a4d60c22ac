//! The example of a service: it serves, counts, and stops by itself.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod example;

use example::{Run, binary};
use std::process::Command;

#[test]
fn the_service_counts_every_order_and_stops_gracefully() {
    let ended = Run::start(&mut Command::new(binary("embedded_service"))).wait().well();
    assert!(ended.says("serving on http://127.0.0.1:"), "{:#?}", ended.lines);
    assert!(ended.says("the job is Finished"), "{:#?}", ended.lines);
    // Each orders for once its name's length in cents, then twice, up to a hundred times.
    for (customer, spent) in [("ada", "151.50"), ("grace", "252.50"), ("kay", "151.50"), ("radia", "252.50")]
    {
        let line = ended.lines.iter().find(|line| line.trim_start().starts_with(customer));
        assert!(line.is_some_and(|line| line.contains("100 orders") && line.ends_with(spent)), "{line:?}");
    }
    assert_eq!(ended.errors, "");
}
