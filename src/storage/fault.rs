//! A disk that fails on purpose: at a chosen operation it reports an error, answers late or twice, is full, loses what was
//! not synced, or dies.

mod disk;
mod file;
mod injection;
mod unsynced;

pub use disk::{FaultyDisk, Traced};
pub use injection::{Fault, Injection, Operation};

#[cfg(test)]
mod tests;
