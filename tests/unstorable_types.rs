//! Types that the stored form cannot carry faithfully are refused, when declared or when first stored; never stored wrongly.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::in_time;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use strandline::prelude::*;

fn environment() -> Environment {
    Environment::builder()
        .parallelism(1)
        .checkpointing(Checkpointing::every(Duration::from_secs(100_000_000)))
        .restart(RestartStrategy::fixed_delay(1000, Duration::ZERO))
        .build()
        .unwrap()
}

/// Keeps every record as the value of one key.
fn job_keeping<V>(env: &Environment, values: Vec<V>)
where
    V: Clone + Send + Sync + Serialize + serde::de::DeserializeOwned + 'static,
{
    env.source("values", Iter::new(values))
        .key_by(|_| 0_u8)
        .map_with_state("keep", |value: V, _: Option<V>| ((), Some(value)))
        .sink("out", Collect::new());
}

async fn fault_of(env: Environment, name: &str) -> String {
    let error = in_time(name, env.execute(name)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Program, "{error}");
    error.to_string()
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    A(u8),
}

#[derive(Clone, Serialize, Deserialize)]
struct Sparse {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    a: Option<u8>,
    b: u8,
}

#[tokio::test]
async fn a_type_that_looks_at_the_data_is_refused_when_declared() {
    let env = environment();
    job_keeping(&env, vec![Untagged::A(1)]);
    let error = fault_of(env, "unstorable-untagged").await;
    assert!(error.contains("`state`") && error.contains("`keep`") && error.contains("untagged"), "{error}");
}

#[tokio::test]
async fn a_field_that_is_left_out_is_refused_when_first_stored_and_not_retried() {
    let env = environment();
    job_keeping(&env, vec![Sparse { a: None, b: 1 }]);
    let error = fault_of(env, "unstorable-sparse").await;
    assert!(error.contains("`a`") && error.contains("skip_serializing_if"), "{error}");
    assert!(error.contains("`keep`"), "{error}");
}
