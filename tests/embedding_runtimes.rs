//! A job is started from whatever its service runs on: any tokio runtime, a test, actix-web.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use actix_web::{App, HttpResponse, HttpServer, web};
use common::{in_time, sorted};
use std::sync::Mutex;
use strandline::JobHandle;
use strandline::prelude::*;

/// Squares what it is fed.
fn squares() -> (Environment, Ingest<u64>, Results<u64>) {
    let env = Environment::builder().parallelism(2).storage(Memory::new()).build().unwrap();
    let (ingest, source) = Ingest::bounded(4);
    let results =
        env.source("numbers", source.accept_loss()).rebalance().map(|n| n * n).into_stream("squares", 4);
    (env, ingest, results)
}

async fn use_it(job: JobHandle, ingest: Ingest<u64>, mut results: Results<u64>) {
    let fed = async {
        for n in 0..100 {
            ingest.send(n).await.unwrap();
        }
        ingest.close();
    };
    let read = async {
        let mut seen = Vec::new();
        while let Some(square) = results.next().await {
            seen.push(square);
        }
        seen
    };
    let ((), seen) = in_time("squares", futures::future::join(fed, read)).await;
    assert_eq!(sorted(seen), (0..100).map(|n| n * n).collect::<Vec<_>>());
    assert_eq!(in_time("the end", job.into_future()).await.unwrap(), JobStatus::Finished);
}

#[tokio::test]
async fn from_a_test_on_one_thread() {
    let (env, ingest, results) = squares();
    let job = env.start("from-one-thread").await.unwrap();
    use_it(job, ingest, results).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn from_a_test_on_many_threads() {
    let (env, ingest, results) = squares();
    let job = env.start("from-many-threads").await.unwrap();
    use_it(job, ingest, results).await;
}

#[tokio::test]
async fn from_tasks_that_end() {
    let (env, ingest, results) = squares();
    // One task starts it and ends, with the environment; others use it.
    let starting = tokio::spawn(async move { env.start("from-a-task").await.unwrap() });
    let job = starting.await.unwrap();
    tokio::spawn(use_it(job, ingest, results)).await.unwrap();
}

/// What needs no runtime of its own works without any: another executor, another thread.
#[test]
fn from_a_plain_thread_without_a_runtime() {
    let (env, ingest, results) = squares();
    let job = futures::executor::block_on(env.start("from-no-runtime")).unwrap();
    let (mut seen, mut results) = (Vec::new(), results);
    let fed = async {
        for n in 0..100 {
            ingest.send(n).await.unwrap();
        }
        ingest.close();
    };
    let read = async {
        while let Some(square) = results.next().await {
            seen.push(square);
        }
    };
    futures::executor::block_on(futures::future::join(fed, read));
    assert_eq!(seen.len(), 100);
    assert_eq!(futures::executor::block_on(job.wait()).unwrap(), JobStatus::Finished);
}

struct Service {
    ingest: Ingest<u64>,
    results: tokio::sync::Mutex<Results<u64>>,
    /// Jobs that were started by a handler, on a thread of the server.
    started: Mutex<Vec<JobHandle>>,
}

async fn square(service: web::Data<Service>, n: web::Path<u64>) -> HttpResponse {
    let mut results = service.results.lock().await;
    match service.ingest.send(*n).await {
        Ok(()) => HttpResponse::Ok().body(results.next().await.map_or_else(String::new, |n| n.to_string())),
        Err(error) => HttpResponse::ServiceUnavailable().body(error.to_string()),
    }
}

async fn count(service: web::Data<Service>, to: web::Path<u64>) -> HttpResponse {
    let env = Environment::builder().parallelism(1).build().unwrap();
    let mut results = env.source("numbers", Iter::new(0..*to)).into_stream("results", 4);
    let job = env.start(&format!("counts-to-{to}")).await.unwrap();
    service.started.lock().unwrap().push(job);
    let mut n = 0_u64;
    while results.next().await.is_some() {
        n += 1;
    }
    HttpResponse::Ok().body(n.to_string())
}

#[test]
fn from_inside_actix_web() {
    actix_web::rt::System::new().block_on(in_time("actix-web", async {
        let (env, ingest, results) = squares();
        let job = env.start("from-actix-web").await.unwrap();
        let service = web::Data::new(Service {
            ingest: ingest.clone(),
            results: tokio::sync::Mutex::new(results),
            started: Mutex::default(),
        });
        let shared = service.clone();
        let server = HttpServer::new(move || {
            App::new()
                .app_data(shared.clone())
                .route("/square/{n}", web::post().to(square))
                .route("/count/{to}", web::get().to(count))
        })
        .workers(2)
        .disable_signals()
        .bind(("127.0.0.1", 0))
        .unwrap();
        let address = format!("http://{}", server.addrs()[0]);
        let server = server.run();
        let stop = server.handle();
        let serving = actix_web::rt::spawn(server);

        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        for n in 0..20_u64 {
            let answer = client.post(format!("{address}/square/{n}")).send().await.unwrap();
            assert_eq!(answer.text().await.unwrap(), (n * n).to_string());
        }
        let counts = [3_u64, 4, 5, 6].map(|to| {
            let client = &client;
            let url = format!("{address}/count/{to}");
            async move { client.get(url).send().await.unwrap().text().await.unwrap() }
        });
        assert_eq!(futures::future::join_all(counts).await, ["3", "4", "5", "6"]);
        let started = std::mem::take(&mut *service.started.lock().unwrap());
        assert_eq!(started.len(), 4);
        for job in started {
            assert_eq!(job.await.unwrap(), JobStatus::Finished);
        }

        assert_eq!(job.cancel().await.unwrap(), JobStatus::Cancelled);
        let refused = client.post(format!("{address}/square/1")).send().await.unwrap();
        assert_eq!(refused.status(), 503);
        assert!(refused.text().await.unwrap().contains("has ended"));
        stop.stop(true).await;
        serving.await.unwrap().unwrap();
    }));
}
