//! A batch of records.

use std::any::Any;
use std::fmt;

/// Records that travel together: as they are, or [with the hashes of their keys](Hashed) on a keyed edge.
#[derive(Debug)]
pub struct Batch<I> {
    /// The records.
    pub items: Vec<I>,
}

/// A record with the stable hash of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hashed<T> {
    /// The hash.
    pub hash: u64,
    /// The record.
    pub record: T,
}

/// A batch whose record type only its two ends know. Always a [`Batch`].
pub type AnyBatch = Box<dyn Records>;

/// What is known of a batch without the type of its records.
pub trait Records: Any + Send {
    /// How many it holds.
    fn len(&self) -> usize;
}

impl<T: Send + 'static> Records for Batch<T> {
    fn len(&self) -> usize {
        self.items.len()
    }
}

impl dyn Records {
    /// The batch as what it is.
    pub fn downcast_mut<B: Any>(&mut self) -> Option<&mut B> {
        (self as &mut dyn Any).downcast_mut()
    }

    /// The batch as what it is, to look at.
    pub fn downcast_ref<B: Any>(&self) -> Option<&B> {
        (self as &dyn Any).downcast_ref()
    }

    /// The batch as what it is, owned.
    ///
    /// # Errors
    /// The batch itself, if it is something else.
    pub fn downcast<B: Any>(self: Box<Self>) -> Result<Box<B>, Box<dyn Any>> {
        (self as Box<dyn Any>).downcast()
    }
}

impl fmt::Debug for dyn Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} records", self.len())
    }
}

/// How many records a batch of `T` holds at most: 1024, fewer when they are large, so that a batch stays below
/// about 128 KiB (what the records own beside themselves is not counted).
#[must_use]
pub const fn batch_capacity<T>() -> usize {
    let size = size_of::<T>();
    let fits = 131_072 / if size == 0 { 1 } else { size };
    if fits > 1024 {
        1024
    } else if fits < 16 {
        16
    } else {
        fits
    }
}

impl<I> Batch<I> {
    /// An empty batch with room for a full one.
    #[must_use]
    pub fn with_room() -> Self {
        Self { items: Vec::with_capacity(batch_capacity::<I>()) }
    }

    /// Whether it holds as many records as it has room for.
    #[inline]
    #[must_use]
    pub fn is_full(&self) -> bool {
        // What has no size always has room.
        let room = if size_of::<I>() == 0 { batch_capacity::<I>() } else { self.items.capacity() };
        self.items.len() == room
    }
}
