//! Restart strategies.

use crate::{on_virtual_time, recovery::Counter};
use std::fmt::Write;
use std::time::Duration;
use strandline::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

pub fn strategies() -> Result<String> {
    let mut told = String::new();
    for (strategy, seconds) in [
        (RestartStrategy::none(), &[][..]),
        (RestartStrategy::fixed_delay(3, 10 * SECOND), &[10.0, 10.0, 10.0]),
        // Its third failure comes 20 s after its first.
        (RestartStrategy::failure_rate(2, 60 * SECOND, 10 * SECOND), &[10.0, 10.0]),
        (
            RestartStrategy::exponential_delay().max_delay(4 * SECOND).jitter(0.0).attempts(6).into(),
            &[1.0, 1.5, 2.25, 3.375, 4.0, 4.0],
        ),
    ] {
        let name = strategy.to_string();
        let (waits, error) = waits(strategy)?;
        assert_eq!(waits, seconds, "{name}");
        assert!(error.to_string().contains(&name), "{error}");
        write!(
            told,
            "\n     {name}: {}",
            if waits.is_empty() { "no restart".into() } else { format!("after {waits:?} s") }
        )?;
    }
    Ok(told.trim_start().to_owned())
}

/// How long a job that always fails waits before each restart, in seconds, and the error it ends with.
fn waits(strategy: RestartStrategy) -> Result<(Vec<f64>, Error)> {
    on_virtual_time(async {
        let env = Environment::builder()
            .parallelism(1)
            .checkpointing(Checkpointing::default())
            .restart(strategy)
            .build()?;
        env.source("numbers", Counter::endless())
            .try_map(|_| Err::<u64, _>("always".into()))
            .sink("nothing", Collect::new());
        let job = env.start_local("failing").await?;
        let (mut events, mut waits) = (job.events(), Vec::new());
        while let Ok(event) = events.recv().await {
            if let JobEvent::Restarting { after, .. } = event {
                waits.push(after.as_secs_f64());
            }
        }
        match job.wait().await {
            Err(error) => Ok((waits, error)),
            Ok(status) => Err(format!("it always fails, but was {status:?}").into()),
        }
    })
}
