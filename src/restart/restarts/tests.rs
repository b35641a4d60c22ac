//! The rules of §12 that need nothing but time.

use super::*;
use crate::error::{Error, ErrorKind};
use crate::restart::ExponentialDelay;
use crate::restart::RestartDecision::Never;
use crate::types::Random;
use proptest::prelude::*;
use std::time::Duration;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn after(millis: u64) -> RestartDecision {
    RestartDecision::After(ms(millis))
}

fn fail(restarts: &mut Restarts, at: u64, random: u64) -> RestartDecision {
    let error = Error::new(ErrorKind::Failed, "on purpose");
    restarts.on_failure(&Failure::new(&error, Monotonic(at), random))
}

/// One second, doubling, at most a minute; no jitter.
fn doubling() -> ExponentialDelay {
    RestartStrategy::exponential_delay().multiplier(2.0).jitter(0.0)
}

/// The waits of a job that fails as soon as it runs, `None` where it gives up.
fn waits(strategy: impl Into<RestartStrategy>, failures: usize, random: &mut Random) -> Vec<Option<u64>> {
    let (mut restarts, mut now) = (Restarts::new(strategy), Monotonic(0));
    let mut wait = || match fail(&mut restarts, now.0, random.next_u64()) {
        RestartDecision::After(delay) => {
            now = now.after(delay);
            restarts.on_restart(now);
            Some(u64::try_from(delay.as_millis()).unwrap())
        }
        Never => None,
    };
    (0..failures).map(|_| wait()).collect()
}

fn seeded() -> Random {
    Random::from_seed(12)
}

#[test]
fn s12_1_none_never_restarts() {
    assert_eq!(waits(RestartStrategy::none(), 2, &mut seeded()), [None, None]);
}

#[test]
fn s12_2_fixed_delay_restarts_n_times() {
    let fixed = |attempts| waits(RestartStrategy::fixed_delay(attempts, ms(7)), 4, &mut seeded());
    assert_eq!(fixed(2), [Some(7), Some(7), None, None]);
    assert_eq!(fixed(0), [None; 4]);
    assert_eq!(fixed(u32::MAX), [Some(7); 4]);
}

#[test]
fn s12_3_failure_rate_stops_when_the_oldest_of_one_too_many_is_not_older_than_the_interval() {
    let run = |max, times: &[u64]| {
        let mut restarts = Restarts::new(RestartStrategy::failure_rate(max, ms(1000), ms(3)));
        times.iter().map(|at| fail(&mut restarts, *at, 0)).collect::<Vec<_>>()
    };
    assert_eq!(run(2, &[0, 100, 200]), [after(3), after(3), Never]);
    assert_eq!(run(2, &[0, 100, 1000]), [after(3), after(3), Never], "exactly the interval is still in it");
    assert_eq!(run(2, &[0, 100, 1001]), [after(3), after(3), after(3)]);
    // Only the last ones count, however many there were.
    assert_eq!(run(2, &[0, 100, 1001, 1101, 2001]), [after(3), after(3), after(3), after(3), Never]);
    assert_eq!(run(1, &[0, 1001, 2002, 3003, 4003]), [after(3), after(3), after(3), after(3), Never]);
    assert_eq!(run(1, &[5, 5]), [after(3), Never]);
}

#[test]
fn s12_4_exponential_delay_is_the_power_rounded_down_and_capped() {
    let strategy = RestartStrategy::exponential_delay().jitter(0.0);
    let golden = [1000, 1500, 2250, 3375, 5062, 7593, 11390, 17085, 25628, 38443, 57665, 60000, 60000, 60000];
    assert_eq!(waits(strategy.clone(), 14, &mut seeded()), golden.map(Some));
    // The last digit of a power that repeated rounding would lose.
    let exact = strategy.initial_delay(ms(3)).multiplier(1.1).max_delay(ms(10));
    assert_eq!(waits(exact, 14, &mut seeded()), [3, 3, 3, 3, 4, 4, 5, 5, 6, 7, 7, 8, 9, 10].map(Some));
}

#[test]
fn s12_5_the_attempt_limit_is_the_number_of_restarts() {
    assert_eq!(waits(doubling().attempts(2), 3, &mut seeded()), [Some(1000), Some(2000), None]);
    assert_eq!(waits(doubling().attempts(1), 2, &mut seeded()), [Some(1000), None]);
}

#[test]
fn s12_6_a_failure_during_the_wait_is_the_same_attempt() {
    let mut restarts = Restarts::new(doubling().attempts(2));
    assert_eq!(fail(&mut restarts, 100, 0), after(1000));
    assert_eq!(fail(&mut restarts, 100, 0), after(1000));
    assert_eq!(fail(&mut restarts, 400, 0), after(700), "the rest of the wait");
    assert_eq!(fail(&mut restarts, 1100, 0), after(0), "at its very end it is still the same");
    assert_eq!(fail(&mut restarts, 1101, 0), after(2000), "strictly later it is a new one");
    assert_eq!(fail(&mut restarts, 3101, 0), after(0));
    assert_eq!(fail(&mut restarts, 3102, 0), Never, "and only new ones were counted");
}

/// Flink has only the clock to tell; we know. Otherwise a job that fails as soon as it runs would restart for ever without a wait.
#[test]
fn s12_6_after_the_restart_a_failure_is_a_new_one_whatever_the_clock_says() {
    let mut restarts = Restarts::new(doubling());
    assert_eq!(fail(&mut restarts, 0, 0), after(1000));
    restarts.on_restart(Monotonic(1000));
    assert_eq!(fail(&mut restarts, 1000, 0), after(2000));
}

#[test]
fn s12_7_a_long_run_starts_the_counting_anew() {
    let threshold = |run: u64| {
        let mut restarts = Restarts::new(doubling().reset_threshold(ms(5000)).attempts(2));
        assert_eq!(fail(&mut restarts, 0, 0), after(1000));
        restarts.on_restart(Monotonic(1000));
        assert_eq!(fail(&mut restarts, 1000, 0), after(2000));
        restarts.on_restart(Monotonic(3000));
        let first = fail(&mut restarts, 3000 + run, 0);
        restarts.on_restart(Monotonic(3000 + run + 1000));
        (first, fail(&mut restarts, 3000 + run + 1000, 0))
    };
    assert_eq!(threshold(5000), (after(1000), after(2000)), "delay and attempts begin again");
    assert_eq!(threshold(4999).0, Never);
}

#[test]
fn s12_8_jitter_is_uniform_within_its_share_and_one_sided_at_the_bounds() {
    let strategy = doubling().jitter(0.1);
    let nth = |n: usize| {
        let mut random = seeded();
        (0..2000).map(|_| waits(strategy.clone(), n, &mut random)[n - 1].unwrap()).collect::<Vec<_>>()
    };
    let second = nth(2);
    let mean = second.iter().sum::<u64>() / 2000;
    assert_eq!((second.iter().min(), second.iter().max()), (Some(&1800), Some(&2200)));
    assert!((1990..=2010).contains(&mean), "{mean}");
    // Half of them would be below the initial delay, half above the longest.
    for (waits, bound) in [(nth(1), 1000), (nth(8), 60000)] {
        let at_bound = waits.iter().filter(|wait| **wait == bound).count();
        assert!((900..1100).contains(&at_bound), "{at_bound} of 2000 at {bound}");
        assert!(waits.iter().all(|wait| (1000..=1100).contains(wait) || (54000..=60000).contains(wait)));
    }
}

/// In Flink the power saturates, jitter on top of it overflows, and from about the 92nd failure on half of the waits are the
/// initial delay.
#[test]
fn s12_9_no_wait_falls_back_however_many_failures_there_were() {
    for strategy in [RestartStrategy::exponential_delay(), doubling().jitter(0.1)] {
        let waits = waits(strategy, 100_000, &mut seeded());
        assert!(waits[50..].iter().all(|wait| wait.is_some_and(|wait| (54_000..=60_000).contains(&wait))));
    }
    let longest = RestartStrategy::exponential_delay().max_delay(Duration::MAX).multiplier(1e300).jitter(1.0);
    let extreme = waits(longest, 100_000, &mut seeded());
    assert!(extreme.iter().all(Option::is_some));
}

fn settings() -> impl Strategy<Value = ExponentialDelay> {
    (1..100_000u64, 0..10_000_000u64, 1.000_001..1e6f64, 0.0..=1.0f64, 1..10_000_000u64).prop_map(
        |(initial, more, multiplier, jitter, reset)| {
            RestartStrategy::exponential_delay()
                .initial_delay(ms(initial))
                .max_delay(ms(initial + more))
                .multiplier(multiplier)
                .jitter(jitter)
                .reset_threshold(ms(reset))
        },
    )
}

proptest! {
    #[test]
    fn s12_8_every_wait_is_between_initial_and_longest(
        settings in settings(),
        failures in prop::collection::vec((0..20_000_000u64, any::<u64>()), 1..100),
    ) {
        let mut restarts = Restarts::new(settings.clone());
        let read = serde_json::to_value(&settings).unwrap();
        let bound = |name: &str| crate::checkpoint::duration_text::parse(read[name].as_str().unwrap()).unwrap();
        let mut now = Monotonic(0);
        for (ran, random) in failures {
            let RestartDecision::After(delay) = fail(&mut restarts, now.0, random) else {
                return Err(TestCaseError::fail("it gave up"));
            };
            prop_assert!(bound("initial_delay") <= delay && delay <= bound("max_delay"), "{delay:?}");
            now = now.after(delay);
            restarts.on_restart(now);
            now = now.after(ms(ran));
        }
    }

    /// What is not valid is told by `faults`; at work it may be useless, but nothing worse.
    #[test]
    fn nonsense_does_not_panic(
        [initial, max, reset] in [any::<u64>(), any::<u64>(), any::<u64>()],
        [multiplier, jitter] in [any::<f64>(), any::<f64>()],
        failures in prop::collection::vec(any::<(u64, u64, bool)>(), 1..50),
    ) {
        let strategy = RestartStrategy::exponential_delay()
            .initial_delay(ms(initial))
            .max_delay(ms(max))
            .reset_threshold(ms(reset))
            .multiplier(multiplier)
            .jitter(jitter);
        let mut restarts = Restarts::new(strategy);
        for (at, random, restarted) in failures {
            fail(&mut restarts, at, random);
            if restarted {
                restarts.on_restart(Monotonic(at));
            }
        }
    }
}
