use super::*;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn read(json: &str) -> Result<RestartStrategy, String> {
    serde_json::from_str(json).map_err(|error| error.to_string())
}

#[test]
fn a_configuration_file_names_strategies_as_flink_does() {
    let exponential = RestartStrategy::exponential_delay();
    for (json, strategy) in [
        (r#""none""#, RestartStrategy::none()),
        (r#"{"strategy": "off"}"#, RestartStrategy::none()),
        (r#""disable""#, RestartStrategy::none()),
        (
            r#"{"strategy": "fixed-delay", "attempts": 3, "delay": "10s"}"#,
            RestartStrategy::fixed_delay(3, ms(10_000)),
        ),
        (
            r#"{"max_failures": 3, "interval": "5min", "delay": "250ms", "strategy": "failure-rate"}"#,
            RestartStrategy::failure_rate(3, ms(300_000), ms(250)),
        ),
        (
            r#"{"strategy": "exponential-delay", "initial_delay": "10ms", "max_delay": "2min", "multiplier": 2,
                "jitter": 0.25, "reset_threshold": "10 min", "attempts": 7}"#,
            exponential
                .clone()
                .initial_delay(ms(10))
                .max_delay(ms(120_000))
                .multiplier(2.0)
                .jitter(0.25)
                .reset_threshold(ms(600_000))
                .attempts(7)
                .into(),
        ),
        // The defaults are Flink's.
        (r#""fixed-delay""#, RestartStrategy::fixed_delay(1, ms(1000))),
        (r#""failure-rate""#, RestartStrategy::failure_rate(1, ms(60_000), ms(1000))),
        (
            r#""exponential-delay""#,
            exponential
                .initial_delay(ms(1000))
                .max_delay(ms(60_000))
                .multiplier(1.5)
                .jitter(0.1)
                .reset_threshold(ms(3_600_000))
                .into(),
        ),
    ] {
        assert_eq!(read(json).as_ref(), Ok(&strategy), "{json}");
        let written = serde_json::to_string(&strategy).unwrap();
        assert_eq!(read(&written), Ok(strategy), "{written}");
    }
}

#[test]
fn what_is_no_strategy_is_refused_with_what_would_be_one() {
    for (json, says) in [
        (r#""fixed""#, ["`fixed`", "`fixed-delay`"]),
        (r#"{"strategy": "exponential"}"#, ["`exponential`", "`exponential-delay`"]),
        (r#"{"attempts": 3}"#, ["missing field", "strategy"]),
        (r#"{"strategy": "fixed-delay", "attempt": 3}"#, ["`attempt`", "`attempts`"]),
        (r#"{"strategy": "fixed-delay", "jitter": 0.1}"#, ["`jitter`", "`delay`"]),
        (r#"{"strategy": "none", "attempts": 3}"#, ["`attempts`", "there are no fields"]),
        (r#"{"strategy": "failure-rate", "max-failures": 3}"#, ["`max-failures`", "`max_failures`"]),
        (r#"{"strategy": "fixed-delay", "delay": 10}"#, ["integer `10`", "a string"]),
        (r#"{"strategy": "fixed-delay", "delay": "10"}"#, ["`10` is no duration", "10min"]),
        (r#"{"strategy": "fixed-delay", "attempts": -1}"#, ["`-1`", "u32"]),
        (r#"{"strategy": "exponential-delay", "multiplier": "2"}"#, ["\"2\"", "f64"]),
        ("7", ["a restart strategy: none,", "by name or as a table"]),
    ] {
        let error = read(json).unwrap_err();
        assert!(says.iter().all(|part| error.contains(part)), "{json}: {error}");
    }
}

#[test]
fn s12_10_all_faults_are_listed_with_the_way_out() {
    let exponential = RestartStrategy::exponential_delay;
    let bad = exponential()
        .initial_delay(Duration::from_micros(999))
        .max_delay(Duration::ZERO)
        .multiplier(1.0)
        .jitter(1.5)
        .reset_threshold(Duration::ZERO)
        .attempts(0);
    let faults = RestartStrategy::from(bad).faults();
    assert_eq!(faults.len(), 6, "{faults:?}");
    for says in [
        "initial_delay is 999us: give at least 1ms",
        "reset_threshold is 0s: give at least 1ms",
        "max_delay is 0s: give at least the initial_delay, 999us",
        "multiplier is 1: give more than 1",
        "jitter is 1.5: give a share from 0 to 1",
        "attempts is 0: give at least 1, or leave it out",
    ] {
        let says = format!("restart strategy exponential-delay: {says}");
        assert!(faults.iter().any(|fault| fault.contains(&says)), "{says} in {faults:?}");
    }
    let faults = RestartStrategy::failure_rate(0, Duration::ZERO, Duration::ZERO).faults();
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(faults[0].contains("max_failures is 0: give at least 1"), "{faults:?}");
    assert!(faults[1].contains("interval is 0s: give at least 1ms"), "{faults:?}");
    for multiplier in [f64::NAN, f64::INFINITY, -2.0] {
        assert_eq!(
            RestartStrategy::from(exponential().multiplier(multiplier)).faults().len(),
            1,
            "{multiplier}"
        );
    }

    let least =
        exponential().initial_delay(ms(1)).max_delay(ms(1)).jitter(0.0).reset_threshold(ms(1)).attempts(1);
    for good in [
        RestartStrategy::none(),
        RestartStrategy::fixed_delay(0, Duration::ZERO),
        RestartStrategy::failure_rate(1, ms(1), Duration::ZERO),
        exponential().into(),
        least.multiplier(1.000_001).into(),
        exponential().jitter(1.0).max_delay(Duration::MAX).into(),
    ] {
        assert_eq!(good.faults(), Vec::<String>::new(), "{good}");
    }
}

#[test]
fn s12_11_the_default_is_exponential_delay_with_checkpoints_and_none_without() {
    assert_eq!(RestartStrategy::default_for(false), RestartStrategy::none());
    assert_eq!(RestartStrategy::default_for(true), RestartStrategy::exponential_delay().into());
}

#[test]
fn a_strategy_shows_its_name_and_all_its_settings() {
    for (strategy, shown) in [
        (RestartStrategy::none(), "none"),
        (RestartStrategy::fixed_delay(3, ms(1500)), "fixed-delay (attempts 3, delay 1500ms)"),
        (
            RestartStrategy::failure_rate(3, ms(300_000), ms(1000)),
            "failure-rate (max_failures 3, interval 5min, delay 1s)",
        ),
        (
            RestartStrategy::exponential_delay().attempts(9).into(),
            "exponential-delay (initial_delay 1s, max_delay 1min, multiplier 1.5, jitter 0.1, reset_threshold 1h, attempts 9)",
        ),
    ] {
        assert_eq!(strategy.to_string(), shown);
    }
}
