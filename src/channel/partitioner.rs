//! Which of the channels a record takes.

use super::Hashed;
use crate::error::{Error, ErrorKind, Result};
use crate::types::{KeyGroup, MaxParallelism, stable_hash};
use serde::Serialize;
use std::fmt;

/// Chooses a channel for each record.
pub trait Partitioner<T>: 'static {
    /// As what a record travels.
    type Item;

    /// The channel's index, and what goes into it.
    fn select(&mut self, record: T) -> Result<(usize, Self::Item)>;
}

/// Each record to the next channel. With one channel this is *forward*, with several *rebalance*.
#[derive(Debug)]
pub struct RoundRobin {
    channels: usize,
    next: usize,
}

impl RoundRobin {
    /// Begins with channel `first`, so that several producers do not march in step.
    #[must_use]
    pub fn new(channels: usize, first: usize) -> Self {
        Self { channels: channels.max(1), next: first % channels.max(1) }
    }
}

impl<T> Partitioner<T> for RoundRobin {
    type Item = T;

    #[inline]
    fn select(&mut self, record: T) -> Result<(usize, T)> {
        let channel = self.next;
        self.next = if channel + 1 == self.channels { 0 } else { channel + 1 };
        Ok((channel, record))
    }
}

/// Each record to the subtask that owns its key's group.
pub struct ByKey<F> {
    key: F,
    max_parallelism: MaxParallelism,
    /// Channel by key group.
    owners: Vec<usize>,
}

impl<F> ByKey<F> {
    /// For `channels` consuming subtasks, in order.
    #[must_use]
    pub fn new(key: F, max_parallelism: MaxParallelism, channels: usize) -> Self {
        let parallelism = u32::try_from(channels).unwrap_or(u32::MAX).max(1);
        let owners = (0..max_parallelism.get())
            .map(|group| KeyGroup(u16::try_from(group).unwrap_or(u16::MAX)))
            .map(|group| max_parallelism.owner_of(group, parallelism).0 as usize)
            .collect();
        Self { key, max_parallelism, owners }
    }
}

impl<F> fmt::Debug for ByKey<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ByKey")
    }
}

impl<T, K, F> Partitioner<T> for ByKey<F>
where
    K: Serialize,
    F: Fn(&T) -> K + 'static,
{
    type Item = Hashed<T>;

    #[inline]
    fn select(&mut self, record: T) -> Result<(usize, Hashed<T>)> {
        let hash = stable_hash(&(self.key)(&record)).map_err(|cause| {
            Error::new(ErrorKind::Program, "a key selected by key_by has no stable hash").because(cause)
        })?;
        let group = self.max_parallelism.group_of(hash);
        // A group is below max_parallelism, which is the length of `owners`.
        Ok((self.owners.get(usize::from(group.0)).copied().unwrap_or(0), Hashed { hash, record }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_robin_goes_round() {
        let mut partitioner = RoundRobin::new(3, 1);
        let taken: Vec<_> = (0..5).map(|_| partitioner.select(()).unwrap().0).collect();
        assert_eq!(taken, [1, 2, 0, 1, 2]);
    }

    #[test]
    fn a_key_goes_to_the_owner_of_its_group() {
        let max = MaxParallelism::new(128).unwrap();
        let mut partitioner = ByKey::new(|key: &u64| *key, max, 3);
        for key in 0..1000u64 {
            let (channel, Hashed { hash, record }) = partitioner.select(key).unwrap();
            assert_eq!((hash, record), (stable_hash(&key).unwrap(), key));
            assert_eq!(channel, max.owner_of(max.group_of(hash), 3).0 as usize);
        }
    }

    #[test]
    fn a_key_without_a_hash_is_an_error() {
        #[derive(Serialize)]
        struct Bad(f64);
        let mut partitioner = ByKey::new(|key: &f64| Bad(*key), MaxParallelism::new(8).unwrap(), 1);
        let error = partitioner.select(1.0).unwrap_err();
        assert!(error.to_string().contains("float"), "{error}");
    }
}
