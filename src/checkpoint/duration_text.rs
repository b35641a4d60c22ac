//! Durations as people write them in a config file: `"200ms"`, `"5s"`, `"10min"`, `"1h"`.
//!
//! Use with `#[serde(with = "strandline::checkpoint::duration_text")]`. The text is a whole number and a unit: `ns`, `us`,
//! `ms`, `s`, `min` or `h`, with or without a space between. Fractions are refused (write `1500ms`, not `1.5s`), and so
//! is a number without a unit. What is written is read back exactly.

use serde::{Deserialize, Deserializer, Serializer};
use std::borrow::Cow;
use std::time::Duration;

/// Units and their nanoseconds, longest first.
const UNITS: [(&str, u128); 6] = [
    ("h", 3_600_000_000_000),
    ("min", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// The text of a duration, in the longest unit that needs no fraction.
#[must_use]
pub fn format(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    let (unit, size) = UNITS.into_iter().find(|(_, size)| nanos.is_multiple_of(*size)).unwrap_or(("ns", 1));
    format!("{}{unit}", nanos / size)
}

/// The duration a text means.
///
/// # Errors
/// A message that names the text and what would be accepted.
pub fn parse(text: &str) -> Result<Duration, String> {
    let fault = |what: &str| {
        format!(
            "`{text}` is no duration ({what}): write a whole number and a unit, such as 200ms, 5s, 10min or 1h"
        )
    };
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let unit = unit.trim_start();
    if number.is_empty() {
        return Err(fault("it does not begin with a number"));
    }
    let Some((_, size)) = UNITS.into_iter().find(|(name, _)| *name == unit) else {
        return Err(fault("the unit is not one of ns, us, ms, s, min, h"));
    };
    number
        .parse::<u128>()
        .ok()
        .and_then(|number| number.checked_mul(size))
        .and_then(|nanos| {
            let secs = u64::try_from(nanos / 1_000_000_000).ok()?;
            Some(Duration::new(secs, u32::try_from(nanos % 1_000_000_000).ok()?))
        })
        .ok_or_else(|| fault("it is too long"))
}

/// For serde: writes [`format()`]'s text.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*duration))
}

/// For serde: reads what [`parse()`] reads.
///
/// # Errors
/// The text is no duration, or those of the deserializer.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = Cow::<'de, str>::deserialize(deserializer)?;
    parse(&text).map_err(serde::de::Error::custom)
}

/// As a number of seconds, for figures.
pub(crate) fn seconds<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(duration.as_secs_f64())
}

/// As a number of seconds, if there is one.
pub(crate) fn optional_seconds<S: Serializer>(duration: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => to.serialize_some(&duration.as_secs_f64()),
        None => to.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_read_as_people_write_them() {
        for (text, millis) in [
            ("200ms", 200),
            ("5s", 5_000),
            ("10min", 600_000),
            ("1h", 3_600_000),
            (" 7 s ", 7_000),
            ("0s", 0),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(format(Duration::from_millis(1_500)), "1500ms");
        assert_eq!(format(Duration::from_secs(600)), "10min");
        assert_eq!(format(Duration::ZERO), "0s");
    }

    #[test]
    fn what_is_no_duration_is_refused_with_the_way_out() {
        for text in ["", "5", "s", "-5s", "1.5s", "5m", "5 sec", "999999999999999999999h", "٣s"] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(&format!("`{text}`")) && error.contains("10min"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn every_duration_comes_back(secs: u64, nanos in 0u32..1_000_000_000) {
            let duration = Duration::new(secs, nanos);
            prop_assert_eq!(parse(&format(duration)), Ok(duration));
        }
    }
}
