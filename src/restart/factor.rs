//! A factor in a setting.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::hash::{Hash, Hasher};

const ONE: u128 = 1_000_000;

/// A factor as the user wrote it. Arithmetic is in whole millionths, so that it is exact and the same everywhere.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Factor(pub(super) f64);

impl Factor {
    /// Whether it makes anything larger.
    pub(super) fn grows(self) -> bool {
        self.0.is_finite() && self.millionths() > ONE
    }

    /// Whether it is a share: 0 to 1.
    pub(super) fn is_share(self) -> bool {
        (0.0..=1.0).contains(&self.0)
    }

    /// `number` times this, rounded down; the largest number if that is too large.
    pub(super) fn times(self, number: u128) -> u128 {
        let (millions, rest) = (number / ONE, number % ONE);
        millions.saturating_mul(self.millionths()).saturating_add(rest * self.millionths() / ONE)
    }

    /// Saturates; 0 for what is no number.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn millionths(self) -> u128 {
        u128::from((self.0 * 1e6).round() as u64)
    }
}

/// By bits: settings are equal if they read equal.
impl PartialEq for Factor {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Eq for Factor {}

impl Hash for Factor {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.to_bits().hash(state);
    }
}

impl fmt::Display for Factor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn decimal_factors_are_exact_and_nothing_overflows() {
        assert_eq!(Factor(1.1).times(1_000), 1_100);
        assert_eq!(Factor(0.1).times(39), 3);
        assert_eq!(Factor(1.5).times(u128::MAX / 2), 255_211_775_190_703_847_597_530_955_573_826_158_590);
        assert_eq!(Factor(1.5).times(u128::MAX), u128::MAX);
        assert_eq!(Factor(f64::MAX).times(u128::MAX), u128::MAX);
        assert_eq!(Factor(f64::NAN).times(7), 0);
        assert_eq!(Factor(-1.0).times(7), 0);
    }

    #[test]
    fn what_grows_and_what_is_a_share() {
        for factor in [1.5, 1.000_001, 1e300] {
            assert!(Factor(factor).grows(), "{factor}");
        }
        for factor in [1.0, 1.000_000_1, 0.5, 0.0, -2.0, f64::NAN, f64::INFINITY] {
            assert!(!Factor(factor).grows(), "{factor}");
        }
        for (factor, share) in [(0.0, true), (1.0, true), (1.1, false), (-0.1, false), (f64::NAN, false)] {
            assert_eq!(Factor(factor).is_share(), share, "{factor}");
        }
    }

    proptest! {
        #[test]
        fn a_factor_times_a_number_is_its_millionths(thousandths in 0u32..10_000, number: u64) {
            let exact = u128::from(number) * u128::from(thousandths) / 1_000;
            prop_assert_eq!(Factor(f64::from(thousandths) / 1_000.0).times(u128::from(number)), exact);
        }
    }
}
