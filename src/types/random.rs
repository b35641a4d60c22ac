//! Randomness, from one place and from a seed.

use std::hash::{BuildHasher, Hasher};

/// A small seeded generator (SplitMix64; Steele, Lea, Flood 2014) for jitter and first delays. Not for secrets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Random(u64);

impl Random {
    /// The same seed gives the same numbers.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        Self(seed)
    }

    /// A generator seeded by the operating system.
    #[must_use]
    #[allow(clippy::disallowed_methods)] // the one place that asks for real randomness
    pub fn from_os() -> Self {
        Self(std::collections::hash_map::RandomState::new().build_hasher().finish())
    }

    /// The next number, uniform over all of `u64`.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
