//! Key groups: the unit in which keyed state is cut, stored and moved between subtasks.
//!
//! A key belongs to a group for ever, as long as `max_parallelism` stays; a subtask owns a contiguous range of
//! groups. Ranges and owners follow Flink's `KeyGroupRangeAssignment`.

use super::{KeyGroup, SubtaskIndex};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Number of key groups of a job, 1 to 32768: the highest parallelism it can ever be run at.
///
/// It is written into every checkpoint and cannot change afterwards. More groups mean finer rescaling and a little more
/// overhead per checkpoint; 128, the default up to parallelism 85, suits most jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MaxParallelism(u16);

/// Highest allowed [`MaxParallelism`].
const LIMIT: u32 = 32768;

impl MaxParallelism {
    /// Checks the bounds.
    ///
    /// # Errors
    /// Unless `1 <= groups <= 32768`.
    pub fn new(groups: u32) -> Result<Self, MaxParallelismError> {
        match u16::try_from(groups) {
            Ok(groups) if groups >= 1 && u32::from(groups) <= LIMIT => Ok(Self(groups)),
            _ => Err(MaxParallelismError(groups)),
        }
    }

    /// The number of groups.
    #[must_use]
    pub fn get(self) -> u32 {
        u32::from(self.0)
    }

    /// The group of a key, from its stable hash. Uses the *high* bits of the hash, so a group is a contiguous range
    /// of hashes whatever the number of groups; tables must place entries by other bits.
    #[inline]
    #[must_use]
    #[allow(clippy::cast_possible_truncation)] // hash * groups >> 64 < groups <= 32768
    pub fn group_of(self, hash: u64) -> KeyGroup {
        KeyGroup(((u128::from(hash) * u128::from(self.0)) >> 64) as u16)
    }

    /// A hash of the same group as `hash`: which one says `seed`, evenly.
    #[must_use]
    #[allow(clippy::cast_possible_truncation)] // less than the end of the group, which is at most 2^64
    pub fn within_group_of(self, hash: u64, seed: u64) -> u64 {
        let (groups, group) = (u128::from(self.0), u128::from(self.group_of(hash).0));
        let first = (group << 64).div_ceil(groups);
        let end = ((group + 1) << 64).div_ceil(groups);
        (first + ((u128::from(seed) * (end - first)) >> 64)) as u64
    }

    /// The groups that subtask `index` of `parallelism` owns: `[ceil(i*max/p), ceil((i+1)*max/p))`.
    #[must_use]
    #[allow(clippy::cast_possible_truncation)] // quotients are at most 32768
    pub fn range_of(self, index: SubtaskIndex, parallelism: u32) -> KeyGroupRange {
        let at =
            |i: u32| (u64::from(i) * u64::from(self.get())).div_ceil(u64::from(parallelism.max(1))) as u32;
        KeyGroupRange { start: at(index.0), end: at(index.0 + 1).min(self.get()) }
    }

    /// The subtask of `parallelism` that owns `group`: `floor(g*p/max)`.
    #[inline]
    #[must_use]
    #[allow(clippy::cast_possible_truncation)] // less than parallelism
    pub fn owner_of(self, group: KeyGroup, parallelism: u32) -> SubtaskIndex {
        SubtaskIndex((u64::from(group.0) * u64::from(parallelism) / u64::from(self.get())) as u32)
    }
}

/// A number of key groups that is out of bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxParallelismError(u32);

impl fmt::Display for MaxParallelismError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "max_parallelism is {}: give a number from 1 to {LIMIT}", self.0)
    }
}

impl std::error::Error for MaxParallelismError {}

impl fmt::Display for MaxParallelism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The max parallelism of a job that sets none: 1.5 times its parallelism rounded up to a power of two, between 128 and
/// 32768.
#[must_use]
pub fn default_max_parallelism(parallelism: u32) -> MaxParallelism {
    let wanted = parallelism.saturating_add(parallelism / 2).min(LIMIT).next_power_of_two().clamp(128, LIMIT);
    MaxParallelism(u16::try_from(wanted).unwrap_or(128))
}

/// A contiguous range of key groups, `start` included, `end` not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeyGroupRange {
    /// First group of the range.
    pub start: u32,
    /// First group after the range.
    pub end: u32,
}

impl KeyGroupRange {
    /// Whether `group` lies in the range.
    #[must_use]
    pub fn contains(&self, group: KeyGroup) -> bool {
        (self.start..self.end).contains(&u32::from(group.0))
    }
}

impl fmt::Display for KeyGroupRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(max: u32, parallelism: u32) -> Vec<(u32, u32)> {
        let max = MaxParallelism::new(max).unwrap();
        (0..parallelism)
            .map(|i| max.range_of(SubtaskIndex(i), parallelism))
            .map(|r| (r.start, r.end - 1))
            .collect()
    }

    #[test]
    fn s8_3_ranges_of_subtasks() {
        assert_eq!(ranges(10, 3), [(0, 3), (4, 6), (7, 9)]);
        assert_eq!(ranges(128, 3), [(0, 42), (43, 85), (86, 127)]);
        assert_eq!(ranges(128, 5), [(0, 25), (26, 51), (52, 76), (77, 102), (103, 127)]);
        assert_eq!(ranges(13, 4), [(0, 3), (4, 6), (7, 9), (10, 12)]);
        assert_eq!(ranges(7, 7), (0..7).map(|i| (i, i)).collect::<Vec<_>>());
    }

    #[test]
    fn s8_4_owner_agrees_with_the_ranges() {
        for max in [1, 2, 3, 7, 10, 13, 127, 128, 129, 1000, 32767, 32768] {
            for parallelism in [1, 2, 3, 5, 7, 64, 100, 127, 128, 999, 32768] {
                if parallelism > max {
                    continue;
                }
                let groups = MaxParallelism::new(max).unwrap();
                let mut covered = 0;
                for i in 0..parallelism {
                    let range = groups.range_of(SubtaskIndex(i), parallelism);
                    assert_eq!(range.start, covered, "max {max}, parallelism {parallelism}");
                    covered = range.end;
                    for group in range.start..range.end {
                        let group = KeyGroup(u16::try_from(group).unwrap());
                        assert_eq!(groups.owner_of(group, parallelism), SubtaskIndex(i));
                    }
                }
                assert_eq!(covered, max);
            }
        }
    }

    #[test]
    fn s8_5_default_max_parallelism() {
        let of = |p| default_max_parallelism(p).get();
        for p in 1..=85 {
            assert_eq!(of(p), 128);
        }
        assert_eq!(
            [of(86), of(170), of(171), of(1000), of(21845), of(u32::MAX)],
            [256, 256, 256, 2048, 32768, 32768]
        );
    }

    #[test]
    fn s8_6_bounds() {
        assert!(MaxParallelism::new(0).is_err());
        assert!(MaxParallelism::new(1).is_ok());
        assert!(MaxParallelism::new(32768).is_ok());
        assert!(MaxParallelism::new(32769).is_err());
    }

    #[test]
    fn a_group_is_a_contiguous_range_of_hashes() {
        let max = MaxParallelism::new(100).unwrap();
        let step = u64::MAX / 1000;
        let groups: Vec<_> = (0..1000).map(|i| max.group_of(i * step)).collect();
        assert!(groups.is_sorted());
        assert_eq!(max.group_of(0), KeyGroup(0));
        assert_eq!(max.group_of(u64::MAX), KeyGroup(99));
    }
}
