//! A web service with a stream processor inside: orders come in over HTTP, and it always knows what each customer has spent.
//!
//! ```console
//! $ cargo run --release --example embedded_service              # drives itself with a few hundred requests, then stops
//! $ cargo run --release --example embedded_service -- --serve   # stays until Ctrl-C
//! ```
//!
//! A handler feeds the job through an [`Ingest`]: it waits when the job does not keep up, so the service is never flooded. The
//! job's results come back as a stream, and a task keeps the newest of each customer where another handler finds it. If an operator
//! panics, the job restarts from its last checkpoint and reads again what came since: no order is lost or counted twice. To
//! go on after the process has died too, give the environment `.storage(FileSystem::at(..))` and read orders from where they can be
//! read again.

#![allow(clippy::disallowed_methods)] // only the library must not spawn tasks

use axum::extract::{Json, Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use strandline::BoxError;
use strandline::prelude::*;
use tokio::net::TcpListener;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Order {
    customer: String,
    cents: u64,
}

/// What a customer has ordered so far: the job's result, and its state.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Total {
    customer: String,
    orders: u64,
    cents: u64,
}

/// What the handlers share.
#[derive(Clone)]
struct Service {
    orders: Ingest<Order>,
    totals: Totals,
}

type Totals = Arc<Mutex<BTreeMap<String, Total>>>;

#[tokio::main]
async fn main() -> Result {
    let stays = std::env::args().any(|arg| arg == "--serve");

    // The job.
    let env = Environment::builder()
        .parallelism(2)
        .checkpointing(Checkpointing::every(Duration::from_secs(1)))
        .restart(RestartStrategy::fixed_delay(10, Duration::from_millis(100)))
        .build()?;
    let (orders, source) = Ingest::bounded(1024);
    let mut results = env
        .source("orders", source.replay_in_process(100_000))
        .key_by(|order: &Order| order.customer.clone())
        .map_with_state("total", |order, total: Option<Total>| {
            let Total { orders, cents, .. } = total.unwrap_or_default();
            let total = Total { customer: order.customer, orders: orders + 1, cents: cents + order.cents };
            (total.clone(), Some(total))
        })
        .into_stream("totals", 1024);
    let job = env.start("order-totals").await?;

    // Its results, kept up to date. After a restart some come again: for a moment a total may be an older one.
    let totals = Totals::default();
    let newest = Arc::clone(&totals);
    let keeping = tokio::spawn(async move {
        while let Some(total) = results.next().await {
            lock(&newest).insert(total.customer.clone(), total);
        }
    });

    // The service.
    let app = axum::Router::new()
        .route("/orders", post(take_order))
        .route("/totals/{customer}", get(total_of))
        .with_state(Service { orders: orders.clone(), totals: Arc::clone(&totals) });
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let stop = CancellationToken::new();
    let server = axum::serve(listener, app).with_graceful_shutdown(stop.clone().cancelled_owned());
    let serving = tokio::spawn(server.into_future());
    println!("serving on {url}");
    if stays {
        println!(
            "  curl -H 'content-type: application/json' -d '{{\"customer\":\"ada\",\"cents\":250}}' {url}/orders"
        );
        println!("  curl {url}/totals/ada");
    }

    // Until someone says so, or nothing is left to do, or the job has failed for good.
    tokio::select! {
        _ = tokio::signal::ctrl_c() => println!("stopping"),
        driven = drive(&url), if !stays => driven?,
        end = &job => println!("the job has ended: {:?}", end?),
    }

    // The shutdown: answer the requests that are there, end the job's input, wait until everything has gone through.
    stop.cancel();
    serving.await??;
    orders.close();
    let end = job.await?;
    keeping.await?;
    println!("the job is {end:?}; what each customer has spent:");
    for Total { customer, orders, cents } in lock(&totals).values() {
        println!("  {customer:<8} {orders:>4} orders {:>7}.{:02}", cents / 100, cents % 100);
    }
    Ok(())
}

/// `202 Accepted`: the job has the order. It waits while the job does not keep up.
async fn take_order(
    State(service): State<Service>,
    Json(order): Json<Order>,
) -> Result<StatusCode, (StatusCode, String)> {
    let unavailable = |error: IngestError<_>| (StatusCode::SERVICE_UNAVAILABLE, error.to_string());
    service.orders.send(order).await.map_err(unavailable)?;
    Ok(StatusCode::ACCEPTED)
}

/// What a customer has spent, as of a moment ago.
async fn total_of(
    State(service): State<Service>,
    Path(customer): Path<String>,
) -> Result<Json<Total>, StatusCode> {
    lock(&service.totals).get(&customer).cloned().map(Json).ok_or(StatusCode::NOT_FOUND)
}

fn lock(totals: &Totals) -> std::sync::MutexGuard<'_, BTreeMap<String, Total>> {
    totals.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A few hundred requests from four customers at once, each of whom then asks for the total until it is complete.
async fn drive(url: &str) -> Result {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let customers = ["ada", "grace", "kay", "radia"].map(|customer| {
        let client = &client;
        async move {
            let mut spent = 0;
            for n in 1..=100 {
                let order = Order { customer: customer.into(), cents: n * customer.len() as u64 };
                spent += order.cents;
                client.post(format!("{url}/orders")).json(&order).send().await?.error_for_status()?;
            }
            loop {
                let answer = client.get(format!("{url}/totals/{customer}")).send().await?;
                // Not found, until the first of them has come through.
                if answer.status() == StatusCode::OK && answer.json::<Total>().await?.cents == spent {
                    return Ok::<_, BoxError>(());
                }
            }
        }
    });
    futures::future::try_join_all(customers).await?;
    println!("400 orders are in, and all of them are counted");
    Ok(())
}
