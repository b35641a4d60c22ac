//! What each restart strategy makes of an operator that fails on purpose.
//!
//! ```console
//! $ cargo run --release --example restart_strategies
//! ```
//!
//! A job adds up the numbers from 1 to 200; its operator fails at some of them, each time once. For every strategy a table
//! shows each attempt: from which checkpoint it began and how it ended. Under the first four strategies the job finishes, and every number
//! was added once, whatever was done again; the last one gives up, with an error that says where, why and which strategy.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use strandline::prelude::*;
use strandline::restart::{Failure, RestartDecision, RestartPolicy};
use strandline::{EnvironmentBuilder, JobHandle};

/// Adds numbers up; fails when it comes to the next of these.
struct Total {
    sum: ValueState<u64>,
    fails_at: &'static [u64],
    failures: Arc<AtomicUsize>,
}

impl Operator for Total {
    type Key = ();
    type Out = (u64, u64);
}

impl Handler<u64> for Total {
    fn handle(&mut self, number: u64, ctx: &mut Context<'_, Self>) -> Result {
        if self.fails_at.get(self.failures.load(Ordering::Relaxed)) == Some(&number) {
            self.failures.fetch_add(1, Ordering::Relaxed);
            return Err(format!("{number} is one too many").into());
        }
        let sum = self.sum.get(ctx).unwrap_or(0) + number;
        self.sum.set(ctx, sum);
        ctx.emit((number, sum));
        Ok(())
    }
}

/// A strategy of one's own: waits as long as the Fibonacci numbers say, in units of 50 ms.
struct Fibonacci(u32, u32);

impl RestartPolicy for Fibonacci {
    fn on_failure(&mut self, _: &Failure<'_>) -> RestartDecision {
        *self = Self(self.1, self.0.saturating_add(self.1));
        RestartDecision::After(self.0 * Duration::from_millis(50))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result {
    let ms = Duration::from_millis;

    let strategy = RestartStrategy::fixed_delay(3, ms(100));
    succeeds(&strategy.to_string(), builder().restart(strategy), &[50, 100, 150]).await?;

    // The job reads 400 numbers per second: these failures are 125 ms and more apart.
    let strategy = RestartStrategy::failure_rate(1, ms(100), ms(50));
    succeeds(&strategy.to_string(), builder().restart(strategy), &[50, 100, 150]).await?;

    let growing =
        RestartStrategy::exponential_delay().initial_delay(ms(50)).max_delay(ms(300)).multiplier(2.0);
    let strategy = RestartStrategy::from(growing.jitter(0.0));
    succeeds(&strategy.to_string(), builder().restart(strategy), &[100, 101, 102, 103, 104]).await?;

    let own = builder().restart_policy(|| Fibonacci(0, 1));
    succeeds("a strategy of one's own", own, &[100, 101, 102, 103, 104]).await?;

    let strategy = RestartStrategy::failure_rate(2, Duration::from_secs(60), ms(50));
    gives_up(&strategy.to_string(), builder().restart(strategy), &[50, 100, 150]).await
}

fn builder() -> EnvironmentBuilder {
    Environment::builder().parallelism(1).checkpointing(Checkpointing::every(Duration::from_millis(20)))
}

async fn start(
    env: EnvironmentBuilder,
    fails_at: &'static [u64],
) -> Result<(JobHandle, Collect<(u64, u64)>)> {
    let env = env.build()?;
    let (failures, sums) = (Arc::new(AtomicUsize::new(0)), Collect::new());
    env.source("numbers", Iter::new(1..=200_u64).throttled(400))
        .key_by(|_| ())
        .process("total", move |setup| {
            Ok(Total { sum: setup.value_state("sum")?, fails_at, failures: Arc::clone(&failures) })
        })
        .sink("sums", sums.clone());
    Ok((env.start("adding-up").await?, sums))
}

async fn succeeds(strategy: &str, env: EnvironmentBuilder, fails_at: &'static [u64]) -> Result {
    let (job, sums) = start(env, fails_at).await?;
    assert_eq!(print_attempts(strategy, &job).await?, JobStatus::Finished);
    let exact: Vec<_> = (1..=200).map(|n| (n, n * (n + 1) / 2)).collect();
    assert_eq!(sums.records(), exact);
    println!("  every number was added once, and the total is {}\n", exact[199].1);
    Ok(())
}

async fn gives_up(strategy: &str, env: EnvironmentBuilder, fails_at: &'static [u64]) -> Result {
    let (job, _) = start(env, fails_at).await?;
    match print_attempts(strategy, &job).await {
        Err(error) if error.to_string().contains(strategy) => println!("  the job's error: {error}"),
        end => return Err(format!("expected an error that names {strategy}, not {end:?}").into()),
    }
    Ok(())
}

/// Listens to the job until it has ended, and says how it did.
async fn print_attempts(strategy: &str, job: &JobHandle) -> Result<JobStatus, Error> {
    println!("{strategy}\n  attempt  begins from    restarts  because");
    let mut events = job.events();
    let (mut attempt, mut begins) = (0, String::new());
    while let Ok(event) = events.recv().await {
        match event {
            JobEvent::Running { attempt: number, from } => {
                attempt = number.0;
                begins = from.map_or("the start".to_owned(), |checkpoint| format!("checkpoint {checkpoint}"));
            }
            JobEvent::Restarting { error, after } => {
                println!("  {attempt:>7}  {begins:<13}  in {after:<5?}  {}", root_cause(&error));
            }
            _ => {}
        }
    }
    let end = job.wait().await;
    let because = end.as_ref().map_or_else(|error| root_cause(error), |_| "it has finished".to_owned());
    println!("  {attempt:>7}  {begins:<13}  never     {because}");
    end
}

fn root_cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), root_cause)
}
