//! What subtasks share memory with. Named here, so that a model checker can put its own in their place: `tests/announcements_model.rs`.

pub(super) use futures::task::AtomicWaker;
pub(super) use std::sync::Mutex;
pub(super) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
